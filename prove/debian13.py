"""`make run` and `make test` set themselves up and pass on a fresh Debian 13, in a chroot.

It needs root, debootstrap and git, and takes an hour or two. The base system is made once and kept
in the directory that PROVE_DIRECTORY names; the machine is a copy of it, kept if something failed.
What is proved is the commit that is checked out. Packages come from where this machine's own apt,
pip and npm are told to get them.
"""

from __future__ import annotations

import ast
import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from prove.report import Report

LIMIT = 4 * 3600
RELEASE = "trixie"
# What README asks for: Python and make. Certificates are no part of the smallest system.
PACKAGES = ("ca-certificates", "make", "python3", "python3-venv")
CHECKOUT = "/srv/kernelagent"

_ROOT = Path(__file__).resolve().parent.parent
_DEFAULT = Path(tempfile.gettempdir()) / "kernelagent-prove"
_CERTIFICATES = Path("/usr/local/share/ca-certificates")
# As after a login: a session of its own, as the group of the first process cannot be named (-1 are
# all). The mounts and all processes end with the first process of the namespaces.
_ENTER = """
mount --bind "$1" "$1" && cd "$1" &&
mount -t proc proc proc &&
mount --bind /sys sys &&
mount --bind /dev dev &&
mount --bind /dev/pts dev/pts &&
mount -t tmpfs -o mode=1777 tmpfs dev/shm || exit 125
chroot . /usr/bin/setsid /usr/bin/env --chdir="$2" sh -c "$3" </dev/null
exit $?
"""
_NAMESPACES = ("unshare", "--mount", "--pid", "--fork", "--kill-child")
# How this machine reaches the registries.
_CARRIED = re.compile(
    r"(https?|no|all)_proxy|(ssl_cert|requests_ca|curl_ca|node_extra_ca)\w+"
    r"|pip_(index_url|cert|proxy|trusted_host|default_timeout)"
    r"|npm_config_(registry|cafile|proxy|https_proxy)",
    re.IGNORECASE,
)
_PIP_OPTIONS = {"index-url", "cert", "proxy", "trusted-host", "timeout"}
_NPM_OPTIONS = ("registry", "cafile", "proxy", "https-proxy")
_APT_OPTIONS = re.compile(r"Acquire::(https?::|Check-|Retries |ForceIPv)")

_COUNTS = re.compile(r"=+ (.+) in [0-9.]+s.*=+$")
_COUNT = re.compile(r"(\d+) (passed|failed|skipped|errors?|xfailed|xpassed)\b")


def prove(report: Report) -> None:
    if problem := _problem():
        report.check(False, problem)
        return
    directory = Path(os.environ.get("PROVE_DIRECTORY") or _DEFAULT)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if directory.stat().st_uid != 0:
        report.check(False, f"{directory} must belong to root: name another, PROVE_DIRECTORY=...")
        return
    base, machine = directory / RELEASE, directory / "machine"
    if not base.exists():
        _make_base(report, base)
    report.say("copying the machine")
    _remove(machine)
    subprocess.run(["cp", "--archive", "--reflink=auto", base, machine], check=True)
    environment = _configure(machine)
    commit = _check_out(machine)
    report.say(f"commit {commit} in {machine}{CHECKOUT}")

    for command in ("make run ONCE=1", "make test"):
        begun = time.monotonic()
        lines: list[str] = []
        with _running(machine, command, environment) as process:
            assert process.stdout is not None
            for line in process.stdout:
                print(line, end="", flush=True)
                lines.append(line.rstrip())
        report.check(process.returncode == 0, f"`{command}` succeeds")
        report.figure(f"wall time of `{command}`", (time.monotonic() - begun) / 60, "min")
        if command == "make test":
            _tell(report, lines)
    if report.failures:
        report.say(f"the machine is kept: {machine}")
    else:
        _remove(machine)


def _problem() -> str:
    """Return what is missing here and how to get it; empty if nothing is."""
    if os.getuid() != 0:
        return "making a machine needs root: run it as root"
    for program in ("debootstrap", "git", "unshare"):
        if shutil.which(program) is None:
            return f"{program} is not installed: apt-get install {program}"
    if subprocess.run([*_NAMESPACES, "true"], check=False).returncode != 0:
        return "this system permits no mounts: run it outside of containers"
    return ""


def _make_base(report: Report, base: Path) -> None:
    mirror = _mirror()
    report.say(f"making {base} from {mirror}")
    unfinished = base.with_suffix(".unfinished")
    _remove(unfinished)
    options = ["--variant=minbase", f"--include={','.join(PACKAGES)}"]
    command = ["debootstrap", *options, RELEASE, str(unfinished), mirror]
    log = base.with_suffix(".log")
    with log.open("w") as output:
        made = subprocess.run(command, stdout=output, stderr=output, check=False)
    if made.returncode != 0:
        raise SystemExit(f"debootstrap failed: {log}")
    unfinished.rename(base)


def _mirror() -> str:
    """Return the address from which this machine's apt gets Debian."""
    told = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(ORIGIN) $(LABEL) $(COMPONENT) $(REPO_URI)"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    for line in told.splitlines():
        origin, label, component, address = line.split(" ", 3)
        if (origin, label, component) == ("Debian", "Debian", "main"):
            return address
    raise SystemExit("apt here knows no mirror of Debian: run `apt-get update`, on Debian")


def _configure(machine: Path) -> dict[str, str]:
    """Let the machine reach the registries as this one does; return the variables for it."""
    for path in ("etc/resolv.conf", "etc/hosts"):
        shutil.copyfile(f"/{path}", machine / path)
    told = subprocess.run(["apt-config", "dump"], check=True, capture_output=True, text=True).stdout
    options = [line for line in told.splitlines(keepends=True) if _APT_OPTIONS.match(line)]
    (machine / "etc/apt/apt.conf.d/99host").write_text("".join(options))
    if _CERTIFICATES.is_dir():
        own = machine / _CERTIFICATES.relative_to("/")
        shutil.copytree(_CERTIFICATES, own, dirs_exist_ok=True)
        subprocess.run(["chroot", machine, "update-ca-certificates"], check=True)
    environment = {**_pip_options(), **_npm_options()}
    environment |= {name: value for name, value in os.environ.items() if _CARRIED.fullmatch(name)}
    for value in environment.values():
        file, copy = Path(value), machine / value.lstrip("/")
        if file.is_absolute() and file.is_file() and not copy.exists():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)
    return {
        **environment,
        "HOME": "/root",
        "LANG": "C.UTF-8",
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "TERM": "xterm",
    }


def _pip_options() -> dict[str, str]:
    """Return what is configured in files; local indexes and constraints are this machine's own."""
    told = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], check=True, capture_output=True, text=True
    ).stdout
    options = {}
    for line in told.splitlines():
        name, _, value = line.partition("=")
        section, _, option = name.rpartition(".")
        if section in ("global", "install") and option in _PIP_OPTIONS:
            name = "default-timeout" if option == "timeout" else option
            options[f"PIP_{name.replace('-', '_').upper()}"] = str(ast.literal_eval(value))
    return options


def _npm_options() -> dict[str, str]:
    npm = shutil.which("npm")
    options = {}
    for name in _NPM_OPTIONS if npm else ():
        command = [str(npm), "config", "get", name]
        told = subprocess.run(command, check=True, capture_output=True, text=True, cwd="/").stdout
        if told.strip() not in ("", "null", "undefined"):
            options[f"npm_config_{name.replace('-', '_')}"] = told.strip()
    return options


def _check_out(machine: Path) -> str:
    """Unpack the commit that is checked out here; return its name."""
    git = ["git", "-C", str(_ROOT)]
    name = subprocess.run(
        [*git, "rev-parse", "--short", "HEAD"], check=True, capture_output=True, text=True
    ).stdout.strip()
    checkout = machine / CHECKOUT.lstrip("/")
    checkout.mkdir(parents=True)
    archive = subprocess.run([*git, "archive", "HEAD"], check=True, capture_output=True).stdout
    subprocess.run(["tar", "--extract", f"--directory={checkout}"], input=archive, check=True)
    return name


@contextlib.contextmanager
def _running(
    machine: Path, command: str, environment: dict[str, str]
) -> Iterator[subprocess.Popen[str]]:
    """Run a command on the machine; in any case nothing of it is left, and no mount."""
    process = subprocess.Popen(
        [*_NAMESPACES, "sh", "-c", _ENTER, "sh", str(machine), CHECKOUT, command],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        # Ctrl-C is ours.
        start_new_session=True,
    )
    try:
        yield process
        process.wait()
    finally:
        process.kill()
        process.wait()


def _tell(report: Report, lines: list[str]) -> None:
    """Report the counts of both parts of the suite, what was skipped and what failed."""
    counts: Counter[str] = Counter()
    for line in lines:
        if summary := _COUNTS.fullmatch(line):
            for number, word in _COUNT.findall(summary[1]):
                counts["errors" if word == "error" else word] += int(number)
    for word in ("passed", "failed", "skipped"):
        report.figure(word, counts[word])
    for line in lines:
        if line.startswith("SKIPPED "):
            report.say(line)
        elif line.startswith(("FAILED ", "ERROR ")):
            report.check(False, line)
    report.check(counts["passed"] > 0, "tests were run")


def _remove(directory: Path) -> None:
    if directory.exists():
        subprocess.run(["rm", "--recursive", "--force", "--one-file-system", directory], check=True)

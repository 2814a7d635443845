"""Each layer by itself, in a process that enters only it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kernelagent.isolation import landlock, seccomp
from kernelagent.isolation.spawner import Orders, _within_reach
from tests.jobs.jobs import get, post
from tests.servers import WITHOUT_KERNELS, serving

ROOT = Path(__file__).parent.parent.parent

START = """
import ctypes, errno, fcntl, json, os, resource, socket, sys, termios
sys.path.append(sys.argv[1])
from kernelagent.isolation import calls, cover, landlock, privileges, seccomp, secrets
arguments = json.loads(sys.argv[2])
privileges_first = privileges.forbid_new_privileges
def attempt(act):
    try:
        act()
    except OSError as error:
        return errno.errorcode[error.errno]
    return "done"
def write(path):
    with open(path, "w") as file:
        file.write("x")
def read(path):
    with open(path, "rb") as file:
        return file.read()
"""


def run(code: str, *arguments: Any, **options: Any) -> Any:
    """What `code` prints as JSON, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", START + code, str(ROOT), json.dumps(arguments)],
        capture_output=True,
        text=True,
        check=False,
        **options,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def landlock_version() -> int:
    try:
        return landlock.version()
    except OSError:
        return 0


needs_landlock = pytest.mark.skipif(landlock_version() < 3, reason="no Landlock here")


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state directory with a key, beside a workspace with a file."""
    (tmp_path / "above" / "state").mkdir(parents=True)
    (tmp_path / "above" / "state" / "key").write_text("secret")
    (tmp_path / "above" / "workspace").mkdir()
    (tmp_path / "above" / "workspace" / "file").write_text("public")
    return tmp_path / "above" / "state"


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives files to others")
@pytest.mark.parametrize(
    ("owner", "mode", "reached"),
    [
        ((0, 0), 0o440, False),
        ((0, 0), 0o004, True),
        ((0, 61184), 0o440, True),
        ((0, 61184), 0o400, False),
        ((61184, 0), 0o400, True),
        ((61184, 0), 0o000, True),
    ],
)
def test_groups_and_owners_count_as_to_what_another_user_reaches(
    state: Path, owner: tuple[int, int], mode: int, *, reached: bool
) -> None:
    key = state / "key"
    os.chown(key, *owner)
    key.chmod(mode)
    orders = Orders([str(state)], (61184, 61184), "", [str(key)], [])
    assert _within_reach(orders, (61184, 61184)) is reached


@needs_landlock
def test_landlock_hides_files_where_nothing_else_does(state: Path) -> None:
    told = run(
        """
state, above = arguments
work = above + "/workspace"
privileges_first()
landlock.enclose([state], landlock.version())
print(json.dumps({
    "read key": attempt(lambda: read(state + "/key")),
    "overwrite key": attempt(lambda: write(state + "/key")),
    "plant": attempt(lambda: write(state + "/planted")),
    "remove key": attempt(lambda: os.unlink(state + "/key")),
    "link key": attempt(lambda: os.link(state + "/key", work + "/link")),
    "move state": attempt(lambda: os.rename(state, work + "/moved")),
    "move what is above": attempt(lambda: os.rename(above, above + "-moved")),
    "make beside": attempt(lambda: write(above + "/new")),
    "read file": attempt(lambda: read(work + "/file")),
    "write file": attempt(lambda: write(work + "/new")),
    "move file": attempt(lambda: os.rename(work + "/new", work + "/newer")),
    "make folder": attempt(lambda: os.makedirs(work + "/a/b")),
    "move folder": attempt(lambda: os.rename(work + "/a/b", work + "/b")),
    "run": attempt(lambda: os.spawnv(os.P_WAIT, "/bin/true", ["true"])),
    "read device": attempt(lambda: read("/dev/null")),
    "list": sorted(os.listdir(above)),
}))
""",
        str(state),
        str(state.parent),
    )
    assert {name for name, what in told.items() if what == "done"} == {
        "read file",
        "write file",
        "move file",
        "make folder",
        "move folder",
        "run",
        "read device",
    }
    assert told["list"] == ["state", "workspace"]
    assert (state / "key").read_text() == "secret"


@needs_landlock
@pytest.mark.parametrize("abi", [2, 5, landlock_version()])
def test_every_version_of_landlock_shields_those_outside(state: Path, abi: int) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        name = f"\0kernelagent-test-{os.getpid()}-{abi}"
        listener.bind(name)
        listener.listen()
        told = run(
            """
abi, name, state = arguments
privileges_first()
# Who may measure the system may read such files of every process.
privileges.keep_capabilities(privileges.KEPT)
landlock.enclose([], abi)
def connect():
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(name)
print(json.dumps({
    "environ": attempt(lambda: read(f"/proc/{os.getppid()}/environ")),
    "memory": attempt(lambda: os.close(os.open(f"/proc/{os.getppid()}/mem", os.O_RDWR))),
    "signal": attempt(lambda: os.kill(os.getppid(), 0)),
    "signal itself": attempt(lambda: os.kill(os.getpid(), 0)),
    "connect": attempt(connect),
    "move": attempt(lambda: os.rename(state + "/key", state + "/../workspace/key")),
}))
""",
            abi,
            name,
            str(state),
        )
    scoped = abi >= landlock.WITH_SCOPES
    assert told.pop("signal") == ("EPERM" if scoped else "done")
    assert told.pop("connect") == ("EPERM" if scoped else "done")
    assert told == {
        "environ": "EACCES",
        "memory": "EACCES",
        "signal itself": "done",
        "move": "done",
    }


@needs_landlock
def test_landlock_stops_signals_even_if_it_cannot_hide_files(state: Path) -> None:
    layer, signalled, plain = run(
        """
from kernelagent.isolation import spawner
privileges_first()
(state,) = arguments
def refuse(path, original=os.listdir):
    if path == os.path.dirname(state):
        raise PermissionError(errno.EACCES, "Permission denied", path)
    return original(path)
os.listdir = refuse
layer = spawner._enter_landlock([state], os.getuid())
print(json.dumps([
    layer, attempt(lambda: os.kill(os.getppid(), 0)), attempt(lambda: read(state + "/key")),
]))
""",
        str(state),
    )
    assert layer[1] == "missing"
    assert f"{state.parent} cannot be listed" in layer[2]
    assert plain == "done"
    if landlock_version() >= landlock.WITH_SCOPES:
        assert "signals and traces end at its border" in layer[2]
        assert signalled == "EPERM"


def test_the_first_version_of_landlock_is_not_used_where_it_would_forbid_too_much() -> None:
    with pytest.raises(OSError, match="version 1 would forbid too much"):
        landlock.enclose([], 1)


def test_seccomp_refuses_what_reaches_others() -> None:
    told = run(
        """
privileges_first()
ptrace, x32 = (101, 0x40000000 + 39) if calls.MACHINE == "x86_64" else (117, 117)
before = attempt(lambda: fcntl.ioctl(0, termios.TIOCSTI, b"x"))
seccomp.install()
limit = resource.getrlimit(resource.RLIMIT_CORE)
print(json.dumps({
    "before": before,
    "push": attempt(lambda: fcntl.ioctl(0, termios.TIOCSTI, b"x")),
    "ask for its size": attempt(lambda: fcntl.ioctl(0, termios.TIOCGWINSZ, b"x" * 8)),
    "limit another": attempt(lambda: resource.prlimit(os.getppid(), resource.RLIMIT_CORE, limit)),
    "see its limit": attempt(lambda: resource.prlimit(os.getppid(), resource.RLIMIT_CORE)),
    "limit itself": attempt(lambda: resource.setrlimit(resource.RLIMIT_CORE, limit)),
    "listen to all": attempt(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close()),
    "listen": attempt(lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM).close()),
    "trace": attempt(lambda: calls.syscall("ptrace", ptrace, 16, 1, 0, 0)),
    "mount": attempt(lambda: calls.mount("none", "/", "tmpfs", 0)),
    "fork": attempt(lambda: os.waitpid(os.spawnv(os.P_NOWAIT, "/bin/true", ["true"]), 0)),
    "ways of 32 bits": attempt(lambda: calls.syscall("x32", x32)),
}))
""",
        stdin=subprocess.DEVNULL,
    )
    assert told.pop("before") == "ENOTTY"
    assert told.pop("ask for its size") == "ENOTTY"
    allowed = {"see its limit", "limit itself", "fork", "listen"}
    assert told == {name: "done" if name in allowed else "EPERM" for name in told}


def test_every_refused_call_is_refused() -> None:
    told = run(
        """
privileges_first()
seccomp.install()
column = 0 if calls.MACHINE == "x86_64" else 1
print(json.dumps({
    # Arguments that make no sense: without the filter each of them would be something else.
    name: attempt(lambda: calls.syscall(name, pair[column], -1, -1, -1, -1, -1))
    for name, pair in seccomp.REFUSED.items() if pair[column] is not None
}))
"""
    )
    assert len(told) >= len(seccomp.REFUSED) - 3
    assert set(told.values()) == {"EPERM"}


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_filter_is_whole_on_every_machine(machine: str) -> None:
    code = seccomp.program(machine)
    assert len(code) % 8 == 0
    assert 40 < len(code) // 8 < 255


def test_there_is_no_filter_for_an_unknown_machine() -> None:
    with pytest.raises(OSError, match="no filter for vax"):
        seccomp.program("vax")


@pytest.mark.skipif(os.getuid() != 0, reason="only root has any")
def test_capabilities_of_the_system_are_dropped_for_good() -> None:
    told = run(
        """
before = privileges.capabilities()
privileges.keep_capabilities(privileges.KEPT)
wanted = sum(1 << number for number in privileges.KEPT) & before
import subprocess
status = subprocess.run(["cat", "/proc/self/status"], capture_output=True, text=True).stdout
bounds = [int(line.split()[1], 16) for line in status.splitlines()
          if line.startswith(("CapPrm", "CapEff", "CapBnd"))]
print(json.dumps([bounds, wanted, privileges.has(21), privileges.has(0)]))
"""
    )
    bounds, wanted, is_admin, may_chown = told
    assert bounds == [wanted] * 3
    assert not is_admin
    assert may_chown


@pytest.mark.skipif(os.getuid() != 0, reason="a package manager wants root")
def test_a_package_manager_still_works(tmp_path: Path) -> None:
    """As far as it can be tried without a network: a package is built, unpacked, removed."""
    if not Path("/usr/bin/dpkg-deb").exists():
        pytest.skip("there is no dpkg here")
    (tmp_path / "p" / "DEBIAN").mkdir(parents=True)
    (tmp_path / "p" / "DEBIAN" / "control").write_text(
        "Package: kernelagent-test\nVersion: 1\nArchitecture: all\nMaintainer: nobody\n"
        "Description: nothing\n"
    )
    (tmp_path / "p" / "opt").mkdir()
    (tmp_path / "state").mkdir()
    (tmp_path / "p" / "opt" / "kernelagent-test").write_text("x")
    told = run(
        """
import subprocess
folder, state = arguments
cover.apply([state], 0, is_root=True)
privileges_first()
privileges.keep_capabilities(privileges.KEPT)
landlock.enclose([], landlock.version())
seccomp.install()
root = folder + "/root"
os.makedirs(root + "/var/lib/dpkg/updates")
for name in ("status", "available"):
    write(root + "/var/lib/dpkg/" + name)
    os.truncate(root + "/var/lib/dpkg/" + name, 0)
def told(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    return [done.returncode, done.stderr]
print(json.dumps([
    told("dpkg-deb", "--build", folder + "/p", folder + "/p.deb"),
    told("dpkg", "--force-bad-path", "--root=" + root, "--install", folder + "/p.deb"),
    os.path.exists(root + "/opt/kernelagent-test"),
    told("apt-get", "--version"),
    told("chown", "1234:1234", folder + "/p.deb"),
]))
""",
        str(tmp_path),
        str(tmp_path / "state"),
    )
    assert [step if isinstance(step, bool) else step[0] for step in told] == [0, 0, True, 0, 0], (
        told
    )


@pytest.mark.skipif(os.getuid() != 0, reason="others have no rights there")
def test_proc_shows_no_process_outside_and_nothing_that_was_covered(state: Path) -> None:
    told = run(
        """
state, = arguments
try:
    calls.unshare(calls.CLONE_NEWNS)
    calls.mount("none", "/", None, calls.MS_REC | calls.MS_SLAVE)
    calls.mount("/dev/null", "/proc/version", None, calls.MS_BIND)
    cover.apply([state], 0, is_root=True)
except OSError:
    print("null")
    sys.exit()
privileges_first()
privileges.keep_capabilities(privileges.KEPT)
landlock.enclose([], landlock.version())
print(json.dumps({
    "parent": os.path.exists(f"/proc/{os.getppid()}"),
    "itself": os.path.exists(f"/proc/{os.getpid()}"),
    "covered": read("/proc/version").decode(),
    "settings": attempt(lambda: os.close(os.open("/proc/sys/kernel/core_pattern", os.O_WRONLY))),
}))
""",
        str(state),
    )
    if told is None:
        pytest.skip("nothing can be covered here")
    assert told == {"parent": False, "itself": True, "covered": "", "settings": "EROFS"}


def test_a_secret_is_forgotten_wherever_it_was() -> None:
    told = run(
        """
secrets.forget({"MY_SECRET"})
shown = read("/proc/self/environ")
print(json.dumps([
    b"hush" in shown, b"OTHER=kept" in shown, os.environ.get("My_Secret"), os.environ["OTHER"],
]))
""",
        env={"A": "1", "My_Secret": "hush-hush", "OTHER": "kept", "MY_SECRET": "hush", "Z": "2"},
    )
    assert told == [False, True, None, "kept"]


def test_memory_can_be_hidden() -> None:
    told = run(
        """
before = privileges.memory_is_hidden()
privileges.hide_memory()
print(json.dumps([before, privileges.memory_is_hidden()]))
"""
    )
    assert told == [False, True]


_ALONE = ("unshare", "--user", "--map-root-user")


def has_user_namespaces() -> bool:
    return subprocess.run([*_ALONE, "true"], check=False, capture_output=True).returncode == 0


async def test_a_container_that_has_one_user_only(tmp_path: Path) -> None:
    """Root there, and no other id can be given anything."""
    if not has_user_namespaces():
        pytest.skip("no user namespaces here")
    with serving(tmp_path, python=(*_ALONE, sys.executable), **WITHOUT_KERNELS) as running:
        facts = await get(running, "/info")
        user = next(layer for layer in facts["isolation"]["layers"] if layer["name"] == "user")
        assert user["state"] == "missing"
        assert user["detail"]
        answer = await post(running, "/commands/run", command="echo fine > file; cat file")
        assert answer["stdout"] == "fine\n"

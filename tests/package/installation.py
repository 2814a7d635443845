"""A wheel of the sources, and environments into which it is installed alone."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import re
import signal
import subprocess
import sys
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.waiting import PATIENCE

ROOT = Path(__file__).resolve().parent.parent.parent


@dataclass(frozen=True)
class Installation:
    """An environment that has nothing but what the wheel asked for."""

    folder: Path
    home: Path

    @property
    def environment(self) -> dict[str, str]:
        """Variables that lead to nothing of ours."""
        return {"PATH": os.defpath, "HOME": str(self.home), "LANG": "C.UTF-8"}

    @property
    def packages(self) -> Path:
        """Where its packages are."""
        (found,) = self.folder.glob("lib/python*/site-packages")
        return found

    def run(self, *command: str) -> str:
        """What a command of the environment prints, run far from the sources."""
        name, *arguments = command
        return subprocess.run(
            [str(self.folder / "bin" / name), *arguments],
            cwd=self.home,
            env=self.environment,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            timeout=2 * PATIENCE,
        ).stdout

    @contextlib.contextmanager
    def serving(self, directory: Path) -> Iterator[tuple[str, str]]:
        """URL and token of the installed service, as it prints them at its first start."""
        command = [str(self.folder / "bin" / "kernelagent"), "serve", "--port", "0"]
        folders = ["--workspace", str(directory / "workspace")]
        folders += ["--state-dir", str(directory / "state")]
        with subprocess.Popen(
            [*command, *folders],
            cwd=self.home,
            env=self.environment,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                assert process.stdout is not None
                url = re.search(r"http://\S+", process.stdout.readline())
                token = re.search(r"token: (\S+)", process.stdout.readline())
                assert url
                assert token
                yield url[0], token[1]
                process.send_signal(signal.SIGTERM)
                assert process.wait(PATIENCE) == 0
            finally:
                process.kill()


def build_wheel(folder: Path) -> Path:
    """The wheel, built into `folder`."""
    build = ["-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run([sys.executable, *build], check=True, stdout=subprocess.DEVNULL)
    (built,) = folder.glob("*.whl")
    return built


def install(wheel: Path, root: Path, *options: str) -> Installation:
    """A fresh environment below `root` into which pip has installed the wheel."""
    installation = Installation(root / "environment", root / "home")
    venv.create(installation.folder, with_pip=False)
    installation.home.mkdir()
    pip = [sys.executable, "-m", "pip", "--python", str(installation.folder / "bin" / "python")]
    quiet = ["--quiet", "--no-compile", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", *quiet, *options, str(wheel)], check=True)
    return installation


def install_with_packages_of_ours(wheel: Path, root: Path) -> Installation:
    """The same without a download: what the wheel asks for is linked from this environment."""
    installation = install(wheel, root, "--no-index", "--no-deps")
    (made,) = importlib.metadata.distributions(
        name="kernelagent", path=[str(installation.packages)]
    )
    for name in _needed(made.requires or []):
        for file in importlib.metadata.distribution(name).files or ():
            # Programs name the interpreter of this environment.
            if file.parts[-2:-1] == ("bin",):
                continue
            link = Path(os.path.normpath(installation.packages / file))
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(file.locate())
    return installation


def _needed(requirements: list[str]) -> set[str]:
    """The names of all packages that these requirements come to."""
    wanted = [Requirement(text) for text in requirements]
    seen: set[tuple[str, str]] = set()
    while wanted:
        requirement = wanted.pop()
        name = canonicalize_name(requirement.name)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        for extra in ("", *requirement.extras):
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            for text in importlib.metadata.requires(name) or ():
                needed = Requirement(text)
                if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                    needed.marker = None
                    wanted.append(needed)
    return {name for name, _ in seen}

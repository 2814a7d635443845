"""Private directories that do not outlive their process for long."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path


def make_private_directory(name: str) -> Path:
    """A directory in the system's temporary one, for this process alone.

    Those of the same name that processes have left behind which were killed are removed.
    """
    parent = Path(tempfile.gettempdir())
    for left in parent.glob(f"{name}-*-*"):
        pid = left.name.removeprefix(f"{name}-").partition("-")[0]
        with contextlib.suppress(OSError):
            if pid.isdigit() and not Path(f"/proc/{pid}").exists() and _is_ours(left):
                shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{name}-{os.getpid()}-", dir=parent))


def _is_ours(path: Path) -> bool:
    return path.lstat().st_uid == os.geteuid() and not path.is_symlink()

"""Folders and files of ours in places where the code that runs can put what it likes."""

from __future__ import annotations

import contextlib
import os


def make_beneath(folder: int, name: str) -> int:
    """A descriptor of the directory `name` in `folder`, made if missing; a link is refused.

    It belongs to whom `folder` belongs to.
    """
    made = False
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, 0o755, dir_fd=folder)
        made = True
    descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
    if made:
        give_to_owner_of(folder, descriptor)
    return descriptor


def give_to_owner_of(folder: int, descriptor: int) -> None:
    """Let a file that we have made belong to whom `folder` belongs to, where we may."""
    owner = os.fstat(folder)
    if os.geteuid() == 0 and owner.st_uid != 0:
        os.fchown(descriptor, owner.st_uid, owner.st_gid)

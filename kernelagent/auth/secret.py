"""The shared secret of HS256, which is made once if none is configured."""

from __future__ import annotations

import os
import secrets
import stat
import tempfile
from pathlib import Path

import jwt

from kernelagent.errors import ConfigurationError

SECRET_FILE = "jwt-secret"  # noqa: S105 - a file's name
MIN_SECRET_BYTES = 32


def check_secret(secret: bytes, source: str) -> None:
    if len(secret) < MIN_SECRET_BYTES:
        raise ConfigurationError(f"{source} must have at least {MIN_SECRET_BYTES} bytes")
    try:
        jwt.encode({}, secret, algorithm="HS256")
    except jwt.InvalidKeyError:
        raise ConfigurationError(
            f"{source} holds a public or private key, which is no shared secret"
        ) from None


def load_or_make_secret(directory: Path) -> bytes:
    """The secret kept in `directory`; the first to ask makes it, however many start at once."""
    path = directory / SECRET_FILE
    try:
        # mkdir's mode holds for the last directory only, which is the one that matters.
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if directory.stat().st_mode & 0o022:
            raise ConfigurationError(
                f"{directory} is writable by others, who could plant a key: chmod 700 {directory}"
            )
        secret = _read_secret(path)
        if secret is None:
            _make_secret(path)
            secret = _read_secret(path)
    except OSError as error:
        raise ConfigurationError(
            f"{path} cannot be used: {error.strerror or error}. Make it readable to this user, "
            "set KERNELAGENT_STATE_DIR, or set KERNELAGENT_JWT_SECRET."
        ) from error
    if secret is None:
        raise ConfigurationError(f"{path} was removed while the service started; start it again")
    return secret


def _read_secret(path: Path) -> bytes | None:
    try:
        # O_NONBLOCK: a pipe put there must not hang the start.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
            raise ConfigurationError(f"{path} is no file of this user; remove it")
        if status.st_mode & 0o077:
            raise ConfigurationError(
                f"{path} is open to others: chmod 600 {path}, or remove it to get a new key "
                "(older tokens then end)"
            )
        secret = file.read(4096).strip()
    if len(secret) < MIN_SECRET_BYTES:
        raise ConfigurationError(
            f"{path} must have at least {MIN_SECRET_BYTES} bytes; remove it to get a new key"
        )
    check_secret(secret, str(path))
    return secret


def _make_secret(path: Path) -> None:
    # A link appears whole or not at all, and only one process can make it.
    descriptor, temporary = tempfile.mkstemp(prefix=f".{SECRET_FILE}-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_urlsafe(48).encode() + b"\n")
            file.flush()
            os.fsync(descriptor)
        try:
            os.link(temporary, path)
        except FileExistsError:
            return
    finally:
        Path(temporary).unlink()
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)

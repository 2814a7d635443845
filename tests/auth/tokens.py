"""Tokens made by hand, and what verifies them."""

from __future__ import annotations

import time
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from kernelagent.auth.tokens import Authenticator
from kernelagent.settings import load_settings

SECRET = "0123456789abcdef0123456789abcdef"


class Clock:
    """A wall clock that tests move."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


def by_secret(clock: Clock | None = None, **settings: Any) -> Authenticator:
    """What verifies and issues tokens by the shared secret."""
    return Authenticator.from_settings(
        load_settings(jwt_secret=SECRET, **settings), clock=clock or time.time
    )


def public_pem(key: Any) -> str:
    """The public half of a key."""
    pem: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return pem.decode()


def private_pem(key: Ed25519PrivateKey) -> str:
    """The private half of a key."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def claims(**changes: Any) -> dict[str, Any]:
    """Claims of a good token, changed; `...` leaves one out."""
    given = {"sub": "someone", "sandbox_id": "local", "exp": int(time.time()) + 3600, **changes}
    return {name: value for name, value in given.items() if value is not ...}


def signed(headers: dict[str, Any] | None = None, **changes: Any) -> str:
    """A token with these claims, signed by the shared secret."""
    return jwt.encode(claims(**changes), SECRET, algorithm="HS256", headers=headers)

"""Who may do what: tokens are verified and issued here, and routes declare what they need.

A token is a JWT. With a public key in the settings only EdDSA is accepted and the service can
issue nothing; else HS256 with a shared secret, which is made once if none is configured.
"""

from __future__ import annotations

import math
import os
import secrets
import stat
import tempfile
import time
import uuid
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from starlette.requests import HTTPConnection

from kernelagent.errors import (
    AccessDenied,
    AuthenticationRequired,
    ConfigurationError,
    TokenExpired,
    TokenInvalid,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from starlette.types import Scope

    from kernelagent.settings import Settings

EXECUTE = "execute"
SESSIONS = "sessions"
FILES = "files"
COMMANDS = "commands"
ENV = "env"
TERMINAL = "terminal"
DESKTOP = "desktop"
METRICS = "metrics"
ADMIN = "admin"
EVERYTHING = "*"
SCOPES = frozenset(
    {EXECUTE, SESSIONS, FILES, COMMANDS, ENV, TERMINAL, DESKTOP, METRICS, ADMIN, EVERYTHING}
)

# Between the names of scopes of which one is enough.
ALTERNATIVE = " or "

SECRET_FILE = "jwt-secret"  # noqa: S105 - a file's name
MIN_SECRET_BYTES = 32

LEEWAY = 5.0  # seconds by which the clocks of issuer and service may differ
CACHE_SIZE = 4096
MAX_TOKEN_LENGTH = 8192

_YEAR_10000 = 253402300800


@dataclass(frozen=True, slots=True)
class Principal:
    """Who makes a request, as their token says."""

    subject: str
    sandbox_id: str
    scopes: frozenset[str]
    expires_at: float

    def allows(self, scope: str) -> bool:
        """Whether the token opens the routes of `scope`."""
        return scope in self.scopes or EVERYTHING in self.scopes


class Authenticator:
    """Verifies tokens by one key and one algorithm, and issues them if it holds the secret."""

    def __init__(
        self,
        *,
        sandbox_id: str,
        secret: bytes | None = None,
        public_key: Ed25519PublicKey | None = None,
        token_ttl: float = 86400.0,
        open_to_all: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._sandbox_id = sandbox_id
        self._secret = secret
        self._key = secret if public_key is None else public_key
        self._algorithm = "HS256" if public_key is None else "EdDSA"
        self._token_ttl = token_ttl
        self._clock = clock
        self._verified: OrderedDict[str, Principal] = OrderedDict()
        self._anyone: Principal | None = None
        if open_to_all:
            self._anyone = Principal("anonymous", sandbox_id, frozenset({EVERYTHING}), math.inf)
        elif self._key is None:
            raise ConfigurationError("tokens cannot be verified without a key")

    @classmethod
    def from_settings(
        cls, settings: Settings, *, clock: Callable[[], float] = time.time
    ) -> Authenticator:
        """The authenticator that `settings` ask for; may make the secret in the state directory."""
        secret = settings.jwt_secret.get_secret_value().encode() if settings.jwt_secret else None
        public_key = None
        if settings.jwt_public_key is not None:
            public_key = _load_public_key(settings.jwt_public_key)
        elif secret is not None:
            _check_secret(secret, "KERNELAGENT_JWT_SECRET")
        elif not settings.no_auth:
            secret = load_or_make_secret(settings.state_dir)
        return cls(
            sandbox_id=settings.sandbox_id,
            secret=secret if public_key is None else None,
            public_key=public_key,
            token_ttl=settings.token_ttl,
            open_to_all=settings.no_auth,
            clock=clock,
        )

    @property
    def is_open(self) -> bool:
        """Whether requests need no token."""
        return self._anyone is not None

    def verify(self, token: str | None) -> Principal:
        """Who holds `token`; raises the 401 or 403 that it deserves."""
        if self._anyone is not None:
            return self._anyone
        if not token:
            raise AuthenticationRequired(
                "a token is required: send it as Authorization: Bearer <token>"
            )
        principal = self._verified.get(token)
        if principal is None:
            principal = self._decode(token)
            self._verified[token] = principal
            if len(self._verified) > CACHE_SIZE:
                self._verified.popitem(last=False)
        elif self._clock() < principal.expires_at + LEEWAY:
            self._verified.move_to_end(token)
        else:
            del self._verified[token]
            raise _expired()
        return principal

    def _decode(self, token: str) -> Principal:
        if len(token) > MAX_TOKEN_LENGTH:
            raise TokenInvalid("the token is not valid: it is too long")
        try:
            decoded = jwt.decode_complete(
                token,
                self._key or b"",
                algorithms=[self._algorithm],
                # The times are checked below, against our clock.
                options={
                    "require": ["exp"],
                    "verify_exp": False,
                    "verify_nbf": False,
                    "verify_iat": False,
                },
            )
        except (jwt.PyJWTError, ValueError) as error:
            raise TokenInvalid(f"the token is not valid: {self._reason(error)}") from None
        # No critical extension is known here, and pyjwt accepts one of its own.
        if "crit" in decoded["header"]:
            raise TokenInvalid("the token is not valid: its crit header is not supported")
        return self._check(decoded["payload"])

    def _reason(self, error: Exception) -> str:
        if isinstance(error, jwt.MissingRequiredClaimError):
            return f"it lacks the claim {error.claim}"
        if isinstance(error, jwt.InvalidAlgorithmError):
            return f"only {self._algorithm} is accepted"
        if isinstance(error, jwt.InvalidSignatureError):
            return "its signature does not match"
        return "it is malformed"

    def _check(self, claims: dict[str, Any]) -> Principal:
        expires_at = _moment(claims, "exp")
        not_before = _moment(claims, "nbf") if "nbf" in claims else 0.0
        subject = claims.get("sub", "")
        sandbox_id = claims.get("sandbox_id", subject)
        scopes = _scopes(claims)
        if not isinstance(subject, str) or not isinstance(sandbox_id, str) or not sandbox_id:
            raise TokenInvalid("the token is not valid: it names no sandbox")
        # Before the times: a new token for the other sandbox would be refused as well, so this
        # must not look like something that a refresh repairs.
        if sandbox_id != self._sandbox_id:
            raise AccessDenied("the token was issued for another sandbox")
        now = self._clock()
        if now >= expires_at + LEEWAY:
            raise _expired()
        if now < not_before - LEEWAY:
            raise TokenInvalid("the token is not valid yet")
        return Principal(subject, sandbox_id, scopes, expires_at)

    def issue(
        self,
        *,
        subject: str = "cli",
        scopes: Iterable[str] = (EVERYTHING,),
        ttl: float | None = None,
    ) -> tuple[str, datetime]:
        """A new token and when it expires; no two are equal."""
        if self._secret is None:
            raise ConfigurationError(
                "authentication is off: there is no secret to sign a token with"
                if self.is_open
                else "tokens are issued by the holder of the private key"
            )
        wanted = set(scopes.split() if isinstance(scopes, str) else scopes)
        if not wanted or not wanted <= SCOPES:
            raise ConfigurationError(
                f"the scopes of a token are some of: {', '.join(sorted(SCOPES))}"
            )
        life = self._token_ttl if ttl is None else ttl
        if not 0 < life < math.inf:
            raise ConfigurationError("the life of a token is a positive number of seconds")
        now = self._clock()
        expires_at = math.ceil(now + life)
        claims = {
            "sub": subject,
            "sandbox_id": self._sandbox_id,
            "scope": " ".join(sorted(wanted)),
            "iat": int(now),
            "exp": expires_at,
            "jti": uuid.uuid4().hex,
        }
        token = jwt.encode(claims, self._secret, algorithm="HS256")
        return token, datetime.fromtimestamp(expires_at, UTC)


def _expired() -> TokenExpired:
    return TokenExpired("token expired: ask for a new one")


def _moment(claims: dict[str, Any], name: str) -> float:
    value = claims[name]
    # The upper bound also catches milliseconds, which would make a token eternal.
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not 0 <= value < _YEAR_10000
    ):
        raise TokenInvalid(f"the token is not valid: {name} is not a time in seconds")
    return float(value)


def _scopes(claims: dict[str, Any]) -> frozenset[str]:
    if "scope" not in claims:
        return frozenset({EVERYTHING})
    value = claims["scope"]
    if isinstance(value, str):
        return frozenset(value.split())
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return frozenset(value)
    raise TokenInvalid("the token is not valid: scope is neither a string nor a list of strings")


def _load_public_key(pem: str) -> Ed25519PublicKey:
    try:
        key = load_pem_public_key(pem.encode())
    except ValueError:
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigurationError(
            "KERNELAGENT_JWT_PUBLIC_KEY is not the PEM of an Ed25519 public key"
        )
    return key


def _check_secret(secret: bytes, source: str) -> None:
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
    _check_secret(secret, str(path))
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


def token_from_headers(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """The token in an ASGI scope's headers.

    X-Kernelagent-Token is for use behind proxies that keep Authorization for themselves.
    """
    spare = None
    for name, value in headers:
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            return value[7:].strip().decode("latin-1") or None
        if name == b"x-kernelagent-token" and spare is None:
            spare = value.strip().decode("latin-1") or None
    return spare


def token_from_scope(scope: Scope) -> str | None:
    """The token of a request; a WebSocket may carry it in its query, as browsers must."""
    token = token_from_headers(scope["headers"])
    if token is None and scope["type"] == "websocket":
        query = scope.get("query_string", b"").decode("latin-1")
        token = next((value for name, value in parse_qsl(query) if name == "token"), None)
    return token


def authorize(connection: HTTPConnection, *scopes: str) -> Principal:
    """Who makes the request, if their token opens one of `scopes`; raises what answers it."""
    authenticator: Authenticator = connection.app.state.authenticator
    if authenticator.is_open:
        _refuse_foreign_page(connection.scope["headers"])
    principal = authenticator.verify(token_from_scope(connection.scope))
    connection.scope.setdefault("state", {})["subject"] = principal.subject
    if not any(map(principal.allows, scopes)):
        wanted = ALTERNATIVE.join(scopes)
        raise AccessDenied(
            f"the token lacks the scope {wanted}", details={"required_scope": wanted}
        )
    return principal


def _refuse_foreign_page(headers: Iterable[tuple[bytes, bytes]]) -> None:
    # Any web page can make the user's browser send requests to loopback; it cannot hide its origin.
    for name, value in headers:
        if name == b"origin" and not _is_loopback(value.decode("latin-1")):
            raise AccessDenied("without authentication, web pages of other hosts are refused")


def _is_loopback(origin: str) -> bool:
    try:
        host = urlsplit(origin).hostname or ""
    except ValueError:
        return False
    return host in ("localhost", "::1") or host.endswith(".localhost") or _is_127(host)


def _is_127(host: str) -> bool:
    parts = host.split(".")
    return len(parts) == 4 and parts[0] == "127" and all(part.isdigit() for part in parts)


def require(*scopes: str) -> Any:
    """A dependency for `Depends` that lets only tokens with one of `scopes` in.

    It returns the Principal; its attribute `scope` says what the route declared.
    """
    for scope in scopes:
        if scope not in SCOPES:
            raise ValueError(f"unknown scope: {scope}")

    # FastAPI reads the annotation at run time: its class must be a real import.
    async def required(connection: HTTPConnection) -> Principal:
        return authorize(connection, *scopes)

    required.scope = ALTERNATIVE.join(scopes)  # type: ignore[attr-defined]
    return required


def public() -> Any:
    """A dependency for `Depends` that declares a route open to everyone; its `scope` is None."""

    async def opened() -> None: ...

    opened.scope = None  # type: ignore[attr-defined]
    return opened


PUBLIC = public()

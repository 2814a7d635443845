"""Who may do what: tokens are verified and issued here, and routes declare what they need.

A token is a JWT. With a public key in the settings only EdDSA is accepted and the service can
issue nothing; else HS256 with a shared secret, which is made once if none is configured.
"""

from __future__ import annotations

import math
import time
import uuid
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from kernelagent.auth.secret import check_secret, load_or_make_secret
from kernelagent.errors import (
    AccessDenied,
    AuthenticationRequired,
    ConfigurationError,
    TokenExpired,
    TokenInvalid,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

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
            check_secret(secret, "KERNELAGENT_JWT_SECRET")
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

"""Tokens: what is accepted, what is refused and with which code, and where the key comes from."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import subprocess
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from fastapi import Depends, FastAPI
from fastapi.routing import APIRoute
from pydantic import SecretStr
from starlette.requests import Request
from starlette.responses import Response

from kernelagent import auth
from kernelagent.auth import PUBLIC, Authenticator, Principal, authorize, public, require
from kernelagent.errors import (
    AccessDenied,
    ApiError,
    AuthenticationRequired,
    ConfigurationError,
    TokenExpired,
    TokenInvalid,
)
from kernelagent.responses import install_error_handlers
from kernelagent.settings import load_settings

if TYPE_CHECKING:
    from pathlib import Path

    from kernelagent.settings import Settings

SECRET = "0123456789abcdef0123456789abcdef"


class Clock:
    """A wall clock that tests move."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


def by_secret(clock: Clock | None = None, **settings: Any) -> Authenticator:
    return Authenticator.from_settings(
        load_settings(jwt_secret=SECRET, **settings), clock=clock or time.time
    )


def by_public_key(key: Ed25519PrivateKey) -> Authenticator:
    return Authenticator.from_settings(load_settings(jwt_public_key=public_pem(key)))


def unchecked(**changes: Any) -> Settings:
    return load_settings().model_copy(update=changes)


def public_pem(key: Any) -> str:
    pem: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return pem.decode()


def private_pem(key: Ed25519PrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def claims(**changes: Any) -> dict[str, Any]:
    given = {"sub": "someone", "sandbox_id": "local", "exp": int(time.time()) + 3600, **changes}
    return {name: value for name, value in given.items() if value is not ...}


def signed(headers: dict[str, Any] | None = None, **changes: Any) -> str:
    return jwt.encode(claims(**changes), SECRET, algorithm="HS256", headers=headers)


def signed_by_hand(header: dict[str, Any], payload: dict[str, Any], key: bytes) -> str:
    """A token that libraries refuse to make."""
    head, body = (
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=")
        for part in (header, payload)
    )
    mac = hmac.digest(key, head + b"." + body, hashlib.sha256)
    return b".".join([head, body, base64.urlsafe_b64encode(mac).rstrip(b"=")]).decode()


def test_an_issued_token_is_verified() -> None:
    clock = Clock()
    authenticator = by_secret(clock, token_ttl=100.0)
    token, expires_at = authenticator.issue(subject="me", scopes=["files", "env"])
    principal = authenticator.verify(token)
    assert principal == Principal(
        "me", "local", frozenset({"files", "env"}), expires_at.timestamp()
    )
    assert expires_at.tzinfo is UTC
    assert 100 <= expires_at.timestamp() - clock.now <= 101


def test_issued_tokens_differ_and_say_who_when_and_what() -> None:
    authenticator = by_secret(sandbox_id="box-1")
    first, second = authenticator.issue()[0], authenticator.issue()[0]
    assert first != second
    payload = jwt.decode(first, SECRET, algorithms=["HS256"])
    assert payload.keys() == {"sub", "sandbox_id", "scope", "iat", "exp", "jti"}
    assert (payload["sub"], payload["sandbox_id"], payload["scope"]) == ("cli", "box-1", "*")
    assert payload["exp"] - payload["iat"] >= 7 * 86400


def test_a_short_life_may_be_asked_for() -> None:
    clock = Clock()
    authenticator = by_secret(clock)
    token, _ = authenticator.issue(ttl=10.0)
    clock.now += 20
    with pytest.raises(TokenExpired):
        authenticator.verify(token)


@pytest.mark.parametrize("scopes", [(), ("everything",), ("files", "root")])
def test_only_known_scopes_are_issued(scopes: tuple[str, ...]) -> None:
    with pytest.raises(ConfigurationError, match="some of"):
        by_secret().issue(scopes=scopes)


@pytest.mark.parametrize("ttl", [0.0, -1.0, float("inf"), float("nan")])
def test_a_token_without_a_finite_life_is_not_issued(ttl: float) -> None:
    with pytest.raises(ConfigurationError, match="positive"):
        by_secret().issue(ttl=ttl)


def test_scopes_may_be_issued_from_one_string() -> None:
    authenticator = by_secret()
    token, _ = authenticator.issue(scopes="files env")
    assert authenticator.verify(token).scopes == {"files", "env"}


@pytest.mark.parametrize("token", [None, ""])
def test_no_token(token: str | None) -> None:
    with pytest.raises(AuthenticationRequired):
        by_secret().verify(token)


@pytest.mark.parametrize(
    "token",
    [
        "x",
        "a.b.c",
        "eyJ.eyJ.x",
        "\x00\xff",
        "ü" * 50,
        "." * 5000,
        "x" * 10_000,
        signed()[:-3] + "abc",
        signed(exp=...),
        signed(exp=None),
        signed(exp="tomorrow"),
        signed(exp=True),
        signed(exp=[1]),
        signed(exp=-1),
        signed(exp=int(time.time()) * 1000),
        signed(exp=10**400),
        signed(exp=float("inf")),
        signed(exp=float("nan")),
        signed(nbf=time.time() + 3600),
        signed(nbf="later"),
        signed(sub=..., sandbox_id=...),
        signed(sandbox_id=7),
        signed(sandbox_id=""),
        signed(sandbox_id=None),
        signed(sub=["local"], sandbox_id=...),
        signed(scope=None),
        signed(scope=["files", 3]),
        signed(scope={"files": True}),
        signed(aud="elsewhere"),
        jwt.encode(claims(), "another secret, just as long as it must be", algorithm="HS256"),
        jwt.encode(claims(), SECRET * 2, algorithm="HS512"),
        jwt.encode(claims(), "", algorithm="none"),
    ],
)
def test_a_token_that_is_wrong(token: str) -> None:
    authenticator = by_secret()
    with pytest.raises(TokenInvalid) as caught:
        authenticator.verify(token)
    assert caught.value.code == "TOKEN_INVALID"
    # Published clients take this phrase for another error.
    assert "token expired" not in caught.value.message
    assert len(token) < 20 or token not in caught.value.message


@pytest.mark.parametrize("alg", ["none", "None", "NONE", "", None])
def test_alg_none_in_any_spelling(alg: str | None) -> None:
    token = signed_by_hand({"alg": alg, "typ": "JWT"}, claims(), SECRET.encode())
    for form in (token, token.rsplit(".", 1)[0] + "."):
        with pytest.raises(TokenInvalid):
            by_secret().verify(form)


@pytest.mark.parametrize(
    "extra", [{"crit": ["b64"], "b64": True}, {"crit": ["exp"]}, {"crit": []}, {"b64": False}]
)
def test_critical_headers_are_refused(extra: dict[str, Any]) -> None:
    token = signed_by_hand({"alg": "HS256", **extra}, claims(), SECRET.encode())
    with pytest.raises(TokenInvalid):
        by_secret().verify(token)


def test_an_expired_token_has_its_own_code_and_words() -> None:
    with pytest.raises(TokenExpired) as caught:
        by_secret().verify(signed(exp=int(time.time()) - 10))
    assert caught.value.code == "TOKEN_EXPIRED"
    assert "token expired" in caught.value.message


def test_clocks_may_differ_a_little() -> None:
    token = signed(exp=int(time.time()) - 2, nbf=int(time.time()) + 3)
    assert by_secret().verify(token).subject == "someone"


@pytest.mark.parametrize(
    "changes",
    [
        {"sandbox_id": "other"},
        {"sandbox_id": ..., "sub": "other"},
        {"sandbox_id": "other", "exp": 1},
    ],
)
def test_a_token_of_another_sandbox_is_403(changes: dict[str, Any]) -> None:
    with pytest.raises(AccessDenied) as caught:
        by_secret().verify(signed(**changes))
    assert caught.value.status == 403
    assert "not found" not in caught.value.message


def test_the_subject_names_the_sandbox_if_no_claim_does() -> None:
    assert by_secret().verify(signed(sandbox_id=..., sub="local")).sandbox_id == "local"


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        (..., {"*"}),
        ("files", {"files"}),
        ("files  env", {"files", "env"}),
        (["files", "env"], {"files", "env"}),
        ("", set()),
        ([], set()),
    ],
)
def test_the_scope_claim(scope: Any, expected: set[str]) -> None:
    assert by_secret().verify(signed(scope=scope)).scopes == expected


def test_everything_includes_each_scope() -> None:
    authenticator = by_secret()
    everything = authenticator.verify(signed(scope="*"))
    files = authenticator.verify(signed(scope="files"))
    assert all(everything.allows(scope) for scope in auth.SCOPES)
    assert [scope for scope in auth.SCOPES if files.allows(scope)] == ["files"]


def test_eddsa_by_public_key() -> None:
    key = Ed25519PrivateKey.generate()
    authenticator = by_public_key(key)
    token = jwt.encode(claims(), private_pem(key), algorithm="EdDSA")
    assert authenticator.verify(token).subject == "someone"
    other = jwt.encode(claims(), private_pem(Ed25519PrivateKey.generate()), algorithm="EdDSA")
    with pytest.raises(TokenInvalid, match="signature"):
        authenticator.verify(other)


def test_a_holder_of_the_public_key_issues_nothing() -> None:
    with pytest.raises(ConfigurationError, match="holder of the private key"):
        by_public_key(Ed25519PrivateKey.generate()).issue()


def test_the_public_key_is_no_shared_secret() -> None:
    key = Ed25519PrivateKey.generate()
    authenticator = by_public_key(key)
    pem = public_pem(key)
    raw = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    for secret in (pem.encode(), pem.strip().encode(), raw):
        forged = signed_by_hand({"alg": "HS256", "typ": "JWT"}, claims(), secret)
        with pytest.raises(TokenInvalid, match="only EdDSA"):
            authenticator.verify(forged)


def test_a_shared_secret_accepts_no_eddsa() -> None:
    key = Ed25519PrivateKey.generate()
    token = jwt.encode(
        claims(), private_pem(key), algorithm="EdDSA", headers={"jwk": {"kty": "OKP"}}
    )
    with pytest.raises(TokenInvalid, match="only HS256"):
        by_secret().verify(token)


@pytest.mark.parametrize("pem", ["", "no key", public_pem(generate_private_key(SECP256R1()))])
def test_a_public_key_of_another_kind_is_refused_at_the_start(pem: str) -> None:
    with pytest.raises(ConfigurationError, match="Ed25519"):
        Authenticator.from_settings(unchecked(jwt_public_key=pem))


def test_a_short_secret_is_refused_at_the_start() -> None:
    with pytest.raises(ConfigurationError, match="32 bytes"):
        Authenticator.from_settings(unchecked(jwt_secret=SecretStr("short")))


def test_a_public_key_as_shared_secret_is_refused_at_the_start() -> None:
    pem = public_pem(Ed25519PrivateKey.generate())
    with pytest.raises(ConfigurationError, match="no shared secret"):
        Authenticator.from_settings(load_settings(jwt_secret=pem))


def test_a_verified_token_is_not_decoded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    authenticator = by_secret()
    token = signed()
    first = authenticator.verify(token)
    monkeypatch.setattr(jwt, "decode_complete", None)
    assert authenticator.verify(token) is first


def test_a_remembered_token_expires_too() -> None:
    clock = Clock()
    authenticator = by_secret(clock)
    token, expires_at = authenticator.issue(ttl=60)
    authenticator.verify(token)
    clock.now = expires_at.timestamp() + 4.9
    authenticator.verify(token)
    clock.now = expires_at.timestamp() + 5
    for _ in range(2):
        with pytest.raises(TokenExpired):
            authenticator.verify(token)
    assert not authenticator._verified


def test_a_refused_token_is_not_remembered() -> None:
    clock = Clock()
    authenticator = by_secret(clock)
    token = signed(nbf=clock.now + 30)
    with pytest.raises(TokenInvalid):
        authenticator.verify(token)
    clock.now += 30
    authenticator.verify(token)


def test_the_memory_of_tokens_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "CACHE_SIZE", 3)
    authenticator = by_secret()
    tokens = [signed(jti=str(number)) for number in range(4)]
    for token in (*tokens[:3], tokens[0], tokens[3]):
        authenticator.verify(token)
    assert list(authenticator._verified) == [tokens[2], tokens[0], tokens[3]]


def test_the_secret_is_made_once_and_private(tmp_path: Path) -> None:
    state = tmp_path / "a" / "state"
    first = Authenticator.from_settings(load_settings(state_dir=state))
    assert state.stat().st_mode & 0o777 == 0o700
    assert (state / "jwt-secret").stat().st_mode & 0o777 == 0o600
    assert len((state / "jwt-secret").read_bytes()) > 32
    assert [file.name for file in state.iterdir()] == ["jwt-secret"]
    second = Authenticator.from_settings(load_settings(state_dir=state))
    assert second.verify(first.issue()[0]).subject == "cli"


def test_processes_that_start_at_once_agree_on_the_secret(tmp_path: Path) -> None:
    state, go = tmp_path / "state", tmp_path / "go"
    program = (
        "import sys, time, pathlib\n"
        "from kernelagent.auth import load_or_make_secret\n"
        "print('ready', flush=True)\n"
        "while not pathlib.Path(sys.argv[2]).exists(): time.sleep(0.0005)\n"
        "print(load_or_make_secret(pathlib.Path(sys.argv[1])).decode())\n"
    )
    command = [sys.executable, "-c", program, str(state), str(go)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    go.touch()
    answers = {process.communicate(timeout=30)[0] for process in processes}
    assert answers == {(state / "jwt-secret").read_text()}
    assert [file.name for file in state.iterdir()] == ["jwt-secret"]


def test_the_loser_of_a_race_takes_the_other_secret(tmp_path: Path) -> None:
    (tmp_path / "jwt-secret").write_text(SECRET)
    (tmp_path / "jwt-secret").chmod(0o600)
    auth._make_secret(tmp_path / "jwt-secret")
    assert auth.load_or_make_secret(tmp_path) == SECRET.encode()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_secret_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    (tmp_path / "jwt-secret").write_text(SECRET)
    (tmp_path / "jwt-secret").chmod(mode)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        Authenticator.from_settings(load_settings(state_dir=tmp_path))


def test_a_state_directory_that_others_can_write_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(ConfigurationError, match="chmod 700"):
        Authenticator.from_settings(load_settings(state_dir=tmp_path))


@pytest.mark.parametrize("content", [b"", b"short", b" " * 100, b"x" * 31])
def test_a_short_kept_secret_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "jwt-secret").write_bytes(content)
    (tmp_path / "jwt-secret").chmod(0o600)
    with pytest.raises(ConfigurationError, match="at least 32 bytes"):
        Authenticator.from_settings(load_settings(state_dir=tmp_path))


def test_a_planted_link_is_refused(tmp_path: Path) -> None:
    target = tmp_path / "known"
    target.write_text(SECRET)
    target.chmod(0o600)
    (tmp_path / "jwt-secret").symlink_to(target)
    with pytest.raises(ConfigurationError, match="cannot be used"):
        Authenticator.from_settings(load_settings(state_dir=tmp_path))


def test_something_else_in_the_place_of_the_secret_is_refused(tmp_path: Path) -> None:
    (tmp_path / "jwt-secret").mkdir(mode=0o700)
    with pytest.raises(ConfigurationError):
        Authenticator.from_settings(load_settings(state_dir=tmp_path))


def test_a_state_directory_that_cannot_be_made_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="KERNELAGENT_STATE_DIR"):
        Authenticator.from_settings(load_settings(state_dir=tmp_path / "file" / "state"))


def test_keys_may_come_from_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secret").write_text(SECRET + "\n")
    monkeypatch.setenv("KERNELAGENT_JWT_SECRET_FILE", str(tmp_path / "secret"))
    assert Authenticator.from_settings(load_settings()).verify(signed()).subject == "someone"

    monkeypatch.delenv("KERNELAGENT_JWT_SECRET_FILE")
    key = Ed25519PrivateKey.generate()
    (tmp_path / "public.pem").write_text(public_pem(key))
    monkeypatch.setenv("KERNELAGENT_JWT_PUBLIC_KEY_FILE", str(tmp_path / "public.pem"))
    token = jwt.encode(claims(), private_pem(key), algorithm="EdDSA")
    assert Authenticator.from_settings(load_settings()).verify(token).subject == "someone"


def test_no_auth_verifies_nothing_and_makes_no_secret(tmp_path: Path) -> None:
    settings = load_settings(no_auth=True, state_dir=tmp_path / "state")
    authenticator = Authenticator.from_settings(settings)
    for token in (None, "", "nonsense", signed(exp=1)):
        assert authenticator.verify(token).scopes == {"*"}
    assert authenticator.is_open
    assert not (tmp_path / "state").exists()
    with pytest.raises(ConfigurationError, match="authentication is off"):
        authenticator.issue()


def test_an_authenticator_without_a_key_is_not_made() -> None:
    with pytest.raises(ConfigurationError):
        Authenticator(sandbox_id="local")


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([], None),
        ([(b"authorization", b"Bearer abc")], "abc"),
        ([(b"authorization", b"bEARER   abc ")], "abc"),
        ([(b"authorization", b"Bearer ")], None),
        ([(b"authorization", b"Basic abc")], None),
        ([(b"authorization", b"abc")], None),
        ([(b"x-kernelagent-token", b"abc")], "abc"),
        ([(b"x-kernelagent-token", b"abc"), (b"authorization", b"Bearer def")], "def"),
        ([(b"authorization", b"Basic abc"), (b"x-kernelagent-token", b"def")], "def"),
        ([(b"x-api-key", b"abc")], None),
    ],
)
def test_the_headers_that_carry_a_token(
    headers: list[tuple[bytes, bytes]], expected: str | None
) -> None:
    assert auth.token_from_headers(headers) == expected


def test_a_query_token_is_for_websockets_only() -> None:
    scope: dict[str, Any] = {"headers": [], "query_string": b"a=1&token=abc%2E&token=x"}
    assert auth.token_from_scope({**scope, "type": "websocket"}) == "abc."
    assert auth.token_from_scope({**scope, "type": "http"}) is None
    scope["headers"] = [(b"authorization", b"Bearer def")]
    assert auth.token_from_scope({**scope, "type": "websocket"}) == "def"


def example_app(authenticator: Authenticator) -> FastAPI:
    app = FastAPI()
    app.state.authenticator = authenticator
    install_error_handlers(app)

    @app.get("/files")
    async def files(principal: Annotated[Principal, Depends(require("files"))]) -> str:
        return principal.subject

    @app.get("/health", dependencies=[Depends(PUBLIC)])
    async def health() -> str:
        return "healthy"

    async def raw(request: Request) -> Response:
        return Response(authorize(request, "execute").subject)

    app.add_route("/raw", raw, ["GET"])
    return app


def client_of(app: FastAPI, token: str | None = None, **headers: str) -> httpx.AsyncClient:
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://agent", headers=headers
    )


async def test_routes_let_the_right_tokens_in() -> None:
    app = example_app(by_secret())
    async with client_of(app, signed()) as client:
        assert (await client.get("/files")).json() == "someone"
        assert (await client.get("/raw")).text == "someone"
    async with client_of(app, **{"X-Kernelagent-Token": signed()}) as client:
        assert (await client.get("/files")).json() == "someone"
    async with client_of(app) as client:
        assert (await client.get("/health")).status_code == 200


@pytest.mark.parametrize("path", ["/files", "/raw"])
@pytest.mark.parametrize(
    ("token", "status", "code"),
    [
        (None, 401, "AUTHENTICATION_REQUIRED"),
        ("nonsense", 401, "TOKEN_INVALID"),
        (signed(exp=1), 401, "TOKEN_EXPIRED"),
        (signed(sandbox_id="other"), 403, "ACCESS_DENIED"),
        (signed(scope="env"), 403, "ACCESS_DENIED"),
    ],
)
async def test_routes_keep_the_others_out(
    path: str, token: str | None, status: int, code: str
) -> None:
    async with client_of(example_app(by_secret()), token) as client:
        response = await client.get(path)
    body = response.json()
    assert (response.status_code, body["code"]) == (status, code)
    assert response.headers.get("www-authenticate") == ("Bearer" if status == 401 else None)
    assert "not found" not in body["message"]


async def test_a_query_token_opens_no_http_route() -> None:
    async with client_of(example_app(by_secret())) as client:
        assert (await client.get("/files", params={"token": signed()})).status_code == 401


async def test_a_missing_scope_is_named() -> None:
    async with client_of(example_app(by_secret()), signed(scope="env")) as client:
        body = (await client.get("/files")).json()
    assert body["details"] == {"required_scope": "files"}


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        (None, 200),
        ("http://localhost:3000", 200),
        ("http://127.0.0.1", 200),
        ("http://[::1]:8888", 200),
        ("https://evil.example", 403),
        ("http://127.0.0.1.evil.example", 403),
        ("http://localhost.evil.example", 403),
        ("null", 403),
        ("http://[", 403),
    ],
)
async def test_without_authentication_foreign_web_pages_stay_out(
    origin: str | None, status: int
) -> None:
    app = example_app(Authenticator.from_settings(load_settings(no_auth=True)))
    async with client_of(app, **({} if origin is None else {"Origin": origin})) as client:
        assert (await client.get("/files")).status_code == status


async def test_with_authentication_the_origin_does_not_matter() -> None:
    async with client_of(
        example_app(by_secret()), signed(), Origin="https://notebook.example"
    ) as client:
        assert (await client.get("/files")).status_code == 200


def test_routes_show_what_they_declared() -> None:
    app = example_app(by_secret())
    declared = {
        route.path: [dependency.call.scope for dependency in route.dependant.dependencies]  # type: ignore[union-attr]
        for route in app.routes
        if isinstance(route, APIRoute)
    }
    assert declared == {"/files": ["files"], "/health": [None]}
    assert public().scope is None


def test_an_unknown_scope_cannot_be_declared() -> None:
    with pytest.raises(ValueError, match="unknown scope"):
        require("flies")


def test_a_remembered_token_costs_almost_nothing() -> None:
    authenticator = by_secret()
    token = signed()
    authenticator.verify(token)
    started = time.perf_counter()
    for _ in range(10_000):
        authenticator.verify(token)
    assert (time.perf_counter() - started) / 10_000 < 20e-6


def test_the_time_of_expiry_is_exact() -> None:
    clock = Clock()
    _, expires_at = by_secret(clock).issue(ttl=0.5)
    assert datetime.fromtimestamp(clock.now, UTC) < expires_at


def test_every_refusal_is_a_client_error() -> None:
    kinds: list[type[ApiError]] = [AuthenticationRequired, TokenInvalid, TokenExpired, AccessDenied]
    assert [kind.status for kind in kinds] == [401, 401, 401, 403]

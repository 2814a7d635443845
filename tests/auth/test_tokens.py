"""Tokens: what is issued, what is accepted, what is refused and with which code."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from datetime import UTC, datetime
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from kernelagent.auth.tokens import SCOPES, Authenticator, Principal
from kernelagent.errors import (
    AccessDenied,
    AuthenticationRequired,
    ConfigurationError,
    TokenExpired,
    TokenInvalid,
)
from kernelagent.settings import load_settings
from tests.auth.tokens import SECRET, Clock, by_secret, claims, private_pem, public_pem, signed


def by_public_key(key: Ed25519PrivateKey) -> Authenticator:
    return Authenticator.from_settings(load_settings(jwt_public_key=public_pem(key)))


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
    assert all(everything.allows(scope) for scope in SCOPES)
    assert [scope for scope in SCOPES if files.allows(scope)] == ["files"]


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
    monkeypatch.setattr("kernelagent.auth.tokens.CACHE_SIZE", 3)
    authenticator = by_secret()
    tokens = [signed(jti=str(number)) for number in range(4)]
    for token in (*tokens[:3], tokens[0], tokens[3]):
        authenticator.verify(token)
    assert list(authenticator._verified) == [tokens[2], tokens[0], tokens[3]]


def test_a_remembered_token_costs_almost_nothing() -> None:
    authenticator = by_secret()
    token = signed()
    authenticator.verify(token)
    # The best of many: what a busy machine does meanwhile is not the subject.
    best = 1.0
    for _ in range(20):
        started = time.perf_counter()
        for _ in range(500):
            authenticator.verify(token)
        best = min(best, (time.perf_counter() - started) / 500)
    assert best < 20e-6


def test_the_time_of_expiry_is_exact() -> None:
    clock = Clock()
    _, expires_at = by_secret(clock).issue(ttl=0.5)
    assert datetime.fromtimestamp(clock.now, UTC) < expires_at

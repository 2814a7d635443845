"""Where a webhook goes: its URL, taken apart once, so that nothing reads it in another way."""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import quote

import httpcore

from kernelagent.errors import WebhookRefused

LONGEST_URL = 2048

_PORTS = {"http": 80, "https": 443}
_URL = re.compile(r"(https?)://([^/?#]*)([^?#]*)(\?[^#]*)?(?:#.*)?", re.IGNORECASE)
_AUTHORITY = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::([0-9]{0,5}))?")
_UNPRINTABLE = re.compile(r"[\x00-\x20\x7f-\xa0\u2028\u2029]")
_ASCII = "".join(map(chr, range(0x21, 0x7F)))


@dataclass(frozen=True, slots=True)
class Target:
    """One URL: `host` is in lower case and without brackets, `path` has the query."""

    scheme: str
    host: str
    port: int
    path: str

    @classmethod
    def parse(cls, url: str) -> Target:
        """Raises WebhookRefused, with a sentence that does not quote the URL."""
        if len(url) > LONGEST_URL:
            raise WebhookRefused(f"callback_url is longer than {LONGEST_URL} characters")
        if _UNPRINTABLE.search(url):
            raise WebhookRefused(
                "callback_url has spaces or control characters: percent-encode them"
            )
        if not _is_encodable(url):
            raise WebhookRefused("callback_url cannot be written in UTF-8")
        parts = _URL.fullmatch(url)
        if parts is None:
            raise WebhookRefused("callback_url must begin with http:// or https://")
        scheme, authority, path, query = parts.groups(default="")
        host, port = _read_authority(authority)
        scheme = scheme.lower()
        return cls(scheme, host, port or _PORTS[scheme], quote((path or "/") + query, safe=_ASCII))

    @property
    def authority(self) -> str:
        """What the Host header says."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def origin(self) -> str:
        """Scheme, host and port, alike for all spellings; has nothing secret in it."""
        host = f"[{self.host}]" if ":" in self.host else self.name
        return f"{self.scheme}://{host}:{self.port}"

    @property
    def name(self) -> str:
        """The host as certificates and lists call it, without a dot at its end."""
        return self.host.removesuffix(".")

    @property
    def literal(self) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
        """The address, if the host is one in any spelling that systems take: 127.1, 0x7f000001."""
        return read_literal(self.name)

    @property
    def url(self) -> httpcore.URL:
        """The URL as the HTTP library takes it."""
        return httpcore.URL(
            scheme=self.scheme.encode(),
            host=self.host.encode(),
            port=self.port,
            target=self.path.encode(),
        )


def read_origin(url: str) -> str:
    """The origin of a URL that was accepted; empty if it cannot be used (any more)."""
    # All due webhooks are looked through for what may be sent: parsing each would be slow.
    return _parse_origin("/".join(url.split("/", 3)[:3]))


@lru_cache(1024)
def _parse_origin(url: str) -> str:
    try:
        return Target.parse(url).origin
    except WebhookRefused:
        return ""


def read_literal(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address that `host` spells without a look-up, or None."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        pass
    try:
        return ipaddress.IPv4Address(socket.inet_aton(host))
    except OSError:
        return None


def _read_authority(authority: str) -> tuple[str, int | None]:
    if "@" in authority:
        raise WebhookRefused(
            "callback_url must not hold a user or password: send an Authorization header with "
            "callback_headers"
        )
    if not authority.isascii():
        raise WebhookRefused("callback_url: write the host in its ASCII form (xn--...)")
    parts = _AUTHORITY.fullmatch(authority)
    if parts is None:
        raise WebhookRefused("callback_url has no host, or one that is no name and no address")
    bracketed, name, port = parts.groups(default="")
    if bracketed:
        try:
            ipaddress.IPv6Address(bracketed)
        except ValueError:
            raise WebhookRefused("callback_url: what is in brackets is no IPv6 address") from None
    elif not is_hostname(name):
        raise WebhookRefused("callback_url has a host that is no name and no address")
    if port and not 1 <= int(port) <= 65535:
        raise WebhookRefused("callback_url: a port is a number from 1 to 65535")
    return (bracketed or name).lower(), int(port) if port else None


def is_hostname(name: str) -> bool:
    """Whether `name` has the form of a host's name."""
    labels = name.removesuffix(".").split(".")
    return len(name) <= 254 and all(
        0 < len(label) <= 63 and re.fullmatch(r"[A-Za-z0-9_-]+", label) for label in labels
    )


def _is_encodable(url: str) -> bool:
    try:
        url.encode()
    except UnicodeEncodeError:
        return False
    return True

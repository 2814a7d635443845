"""No webhook gets into a private network, however its address is spelled."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from pathlib import Path

import pytest

from kernelagent.database import Database
from kernelagent.errors import ConfigurationError, WebhookRefused
from kernelagent.settings import load_settings
from kernelagent.webhooks.addresses import Guard, is_public
from kernelagent.webhooks.outbox import Outbox
from kernelagent.webhooks.target import Target

PUBLIC = """
1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.1
168.63.129.15 169.253.255.255 169.255.0.0 172.15.255.255 172.32.0.0 192.0.1.0 192.167.255.255
192.169.0.0 198.17.255.255 198.20.0.0 223.255.255.255
2001:4860:4860::8888 2606:4700:4700::1111 2a00:1450::1 2400:cb00::1 2001:200::1 3ffe::1
::ffff:8.8.8.8 64:ff9b::8.8.8.8 2002:808:808::1
""".split()

NOT_PUBLIC = """
0.0.0.0 0.1.2.3 10.0.0.1 10.255.255.255 100.64.0.0 100.100.100.200 100.127.255.255 127.0.0.1
127.255.255.255 168.63.129.16 169.254.0.1 169.254.169.254 172.16.0.0 172.31.255.255 192.0.0.1
192.0.0.9 192.0.0.192 192.0.2.1 192.88.99.1 192.168.0.1 192.168.255.255 198.18.0.1 198.19.255.255
198.51.100.1 203.0.113.1 224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255
:: ::1 ::2 fc00::1 fd00:ec2::254 fdff::1 fe80::1 fe80::1%1 2606:4700:4700::1111%1 febf::1 fec0::1
feff::1 ff00::1 ff02::1 ff0e::1 100::1 100:0:0:1::1 2001:db8::1 2001:1::1 2001:2::1 2001:10::1
2001:20::1 3fff::1 3fff:fff::1 4000::1 5f00::1 1fff::1 8000::1
::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:169.254.169.254 ::ffff:0.0.0.0 ::ffff:0:127.0.0.1
::127.0.0.1 ::10.0.0.1 ::8.8.8.8 64:ff9b::127.0.0.1 64:ff9b::10.0.0.1 64:ff9b::169.254.169.254
64:ff9b:1::1 64:ff9b:1:ffff::8.8.8.8 64:ff9b:0:1::8.8.8.8 2002:7f00:1:: 2002:a00:1::1
2002:a9fe:a9fe::1 2002:c0a8:101::1 2001:0:7f00:1::1 2001:0:808:808:0:0:80ff:fffe
2001:0:a00:1:0:0:f7f7:f7f7
""".split()


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


def check(url: str, headers: Mapping[str, str] | None = None, allow: str = "") -> None:
    settings = load_settings(webhook_allow=allow)
    Outbox(Database(Path("unused")), settings).check(url, headers or {})


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com",
        "https://example.com/",
        "HTTPS://EXAMPLE.com:8443/a?b=c#d",
        "HTTP://EXAMPLE.com",
        "http://example.com:",
        "http://example.com.",
        "http://xn--bcher-kva.example/ü?ü",
        "http://under_score.example?query",
        "http://8.8.8.8:1",
        "http://[2606:4700:4700::1111]:65535/",
        # Looked up at delivery only.
        "http://localhost/",
        "http://internal",
        "http://example.com/" + "x" * (2048 - 19),
        "http://example.com/a@b?c@d",
        'http://example.com/{"a"}|\\',
    ],
)
def test_good_urls_are_taken(url: str) -> None:
    check(url)


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("", "http://"),
        ("example.com", "http://"),
        ("ftp://example.com/", "http://"),
        ("file:///etc/passwd", "http://"),
        ("gopher://127.0.0.1/", "http://"),
        ("http:/example.com", "http://"),
        ("//example.com", "http://"),
        ("http://", "no host"),
        ("http:///path", "no host"),
        ("http://:80/", "no host"),
        ("http://?a", "no host"),
        ("http://user@example.com/", "user or password"),
        ("http://user:pass@example.com/", "user or password"),
        ("http://@example.com/", "user or password"),
        ("http://example.com\\@10.0.0.1/", "user or password"),
        ("http://example.com\\.evil.example/", "no name"),
        ("http://example.com:0/", "port"),
        ("http://example.com:65536/", "port"),
        ("http://example.com:1a/", "no name"),
        ("http://example.com:80:80/", "no name"),
        ("http://example.com:-1/", "no name"),
        ("http://example..com/", "no name"),
        ("http://.example.com/", "no name"),
        ("http://./", "no name"),
        (f"http://{'a' * 64}.com/", "no name"),
        (f"http://{'a.' * 130}com/", "no name"),
        ("http://a%62.example/", "no name"),
        ("http://[fe80::1%25eth0]/", "no name"),
        ("http://[fe80::1%eth0]/", "no name"),
        ("http://[::1]x/", "no name"),
        ("http://[::1/", "no name"),
        ("http://[v1.a]/", "no name"),
        ("http://[1.2.3.4]/", "brackets"),
        ("http://[:::1]/", "brackets"),
        ("http://①②⑦.0.0.1/", "ASCII"),
        ("http://bücher.example/", "ASCII"),
        ("http://example.com/a b", "spaces"),
        (" http://example.com/", "spaces"),
        ("http://example.com/\n", "spaces"),
        ("http://exa\tmple.com/", "spaces"),
        ("http://example.com/\r\nHost: x", "spaces"),
        ("http://example.com/\x00", "spaces"),
        ("http://example.com/\x85", "spaces"),
        ("http://example.com/\ud800", "UTF-8"),
        ("http://example.com/#\ud800", "UTF-8"),
        ("http://example.com/" + "x" * (2049 - 19), "2048"),
    ],
)
def test_bad_urls_are_refused(url: str, sentence: str) -> None:
    with pytest.raises(WebhookRefused, match=sentence) as refused:
        check(url)
    assert "pass@" not in refused.value.message
    assert "callback_url" in refused.value.message


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "10.0.0.1", "169.254.169.254", "[::1]", "[::]", "[fe80::1]", "[fd00::1]"),
        "0.0.0.0",  # noqa: S104 - nothing listens
        *("[::ffff:127.0.0.1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "[::ffff:7f00:1]"),
        *("127.1", "0", "2130706433", "0x7f000001", "0x7f.1", "017700000001", "0177.0.0.1"),
        *("127.0.0.1.", "10.1", "0xA9.0xFE.0xA9.0xFE", "2852039166"),
    ],
)
def test_private_addresses_are_refused_at_once_however_they_are_spelled(host: str) -> None:
    with pytest.raises(WebhookRefused, match="KERNELAGENT_WEBHOOK_ALLOW"):
        check(f"http://{host}:8080/x")
    check(f"http://{host}:8080/x", allow="0.0.0.0/0,::/0")


@pytest.mark.parametrize(
    "headers",
    [
        {"X-A": "b", "authorization": "Basic Zm9v", "Content-Type": "a/b", "User-Agent": "me"},
        {"X-Latin": "é\xff", "X-Tab": "a\tb", "X-Empty": "", "!#$%&'*+-.^_`|~": "x"},
        {f"X-{number}": "" for number in range(32)},
        {"X": "x" * (16 * 1024 - 1)},
        {"Tea": "x", "Hosts": "x", "X-HOP": "x"},
    ],
)
def test_good_headers_are_taken(headers: dict[str, str]) -> None:
    check("http://example.com", headers)


@pytest.mark.parametrize(
    ("headers", "sentence"),
    [
        *[
            ({name: "secret-value"}, "is set by this service")
            for name in (
                *("Host", "content-length", "Transfer-Encoding", "CONNECTION", "Expect", "TE"),
                *("Trailer", "Upgrade", "Keep-Alive", "Proxy-Authorization", "proxy-x"),
                *("X-HOPX-Signature", "x-hopx-anything", "Idempotency-Key"),
            )
        ],
        ({"": "secret-value"}, "no name"),
        ({"X A": "secret-value"}, "no name"),
        ({"X:A": "secret-value"}, "no name"),
        ({"X-A\n": "secret-value"}, "no name"),
        ({"Xé": "secret-value"}, "no name"),
        ({"X-A": "secret-value\r\nX-B: c"}, "line breaks"),
        ({"X-A": "secret-value\n"}, "line breaks"),
        ({"X-A": "secret-value\r"}, "line breaks"),
        ({"X-A": "secret-value\x00"}, "line breaks"),
        ({"X-A": "secret-value\x0b"}, "line breaks"),
        ({"X-A": "secret-value\x7f"}, "line breaks"),
        ({"X-A": "secret-value€"}, "Latin-1"),
        ({"X-A": "secret-value", "x-a": "c"}, "twice"),
        ({f"X-{number}": "" for number in range(33)}, "32"),
        ({"X": "x" * (16 * 1024)}, "16384"),
    ],
)
def test_bad_headers_are_refused(headers: dict[str, str], sentence: str) -> None:
    with pytest.raises(WebhookRefused, match=sentence) as refused:
        check("http://example.com", headers)
    assert "callback_headers" in refused.value.message
    assert "secret-value" not in refused.value.message


@pytest.mark.parametrize(
    "entry",
    [
        *("10.0.0.1/8", "10.0.0.0/33", "::1/129", "256.1.1.1", "127.1", "0x7f000001", "1", "a b"),
        *("http://a", "host:80", "[::1]", "fe80::1%eth0", "fe80::%1/64", "*.internal", "a..b"),
        *("bücher", "-/", "/8", "host.1"),
    ],
)
def test_a_bad_entry_of_the_allow_list_stops_the_start(entry: str) -> None:
    with pytest.raises(ConfigurationError, match="KERNELAGENT_WEBHOOK_ALLOW") as refused:
        check("http://example.com", allow=f"127.0.0.1,{entry}")
    assert repr(entry) in str(refused.value)


def permits(allow: str, host: str, address: str) -> bool:
    guard = Guard(allow.split(","))
    target = Target.parse(f"http://{host}/")
    try:
        guard.check_addresses(target, [ipaddress.ip_address(address)])
    except WebhookRefused:
        return False
    return True


def test_the_allow_list_opens_what_it_names_and_nothing_else() -> None:
    assert permits("10.1.0.0/16", "a.example", "10.1.2.3")
    assert not permits("10.1.0.0/16", "a.example", "10.2.0.1")
    assert permits("10.1.0.0/16", "a.example", "::ffff:10.1.2.3")
    assert not permits("10.1.0.0/16", "a.example", "::ffff:10.2.0.1")
    assert permits("192.168.0.7", "a.example", "192.168.0.7")
    assert not permits("192.168.0.7", "a.example", "192.168.0.8")
    assert permits("fd00::/8", "a.example", "fd00::1")
    assert not permits("fd00::/8", "a.example", "fc00::1")
    assert not permits("fe80::/10", "a.example", "fe80::1%1")
    assert permits("Hooks.Internal.", "hooks.internal", "10.0.0.1")
    assert permits("hooks.internal", "HOOKS.internal.", "10.0.0.1")
    assert not permits("hooks.internal", "x.hooks.internal", "10.0.0.1")
    assert not permits("hooks.internal", "internal", "10.0.0.1")
    assert permits("hooks.internal", "elsewhere.example", "8.8.8.8")

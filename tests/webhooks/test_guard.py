"""No webhook gets into a private network, however its address is spelled or looked up."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from kernelagent.database import Database
from kernelagent.errors import ConfigurationError, WebhookRefused
from kernelagent.settings import load_settings
from kernelagent.webhooks.addresses import Guard, is_public
from kernelagent.webhooks.outbox import Outbox
from kernelagent.webhooks.target import Target
from tests.webhooks.receivers import Receiver, hang, opened, until

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


class Names:
    """What a system's look-up would answer, and how often it was asked."""

    def __init__(self, *answers: list[str], pause: float = 0) -> None:
        self._answers = list(answers)
        self._pause = pause
        self.asked: list[str] = []

    def __call__(self, host: str, port: int, **_: Any) -> list[tuple[Any, ...]]:
        self.asked.append(host)
        time.sleep(self._pause)
        addresses = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if not addresses:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [self._entry(address, port) for address in addresses]

    def _entry(self, address: str, port: int) -> tuple[Any, ...]:
        if ":" in address:
            plain, _, zone = address.partition("%")
            place: tuple[Any, ...] = (plain, port, 0, int(zone or 0))
            return (socket.AF_INET6, socket.SOCK_STREAM, 6, "", place)
        return (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))


async def test_the_address_that_was_checked_is_the_one_that_is_reached(tmp_path: Path) -> None:
    names = Names(["127.0.0.1"], ["127.0.0.2"])
    async with (
        opened(tmp_path, allow=("127.0.0.1",), getaddrinfo=names) as office,
        Receiver().listening() as receiver,
        Receiver().listening(receiver.port, host="127.0.0.2") as other,
    ):
        delivery = await office.ended(await office.post(f"http://Hook.Example:{receiver.port}/a"))
    assert delivery.state == "delivered"
    assert names.asked == ["hook.example"]
    assert receiver.calls[0].headers["host"] == f"hook.example:{receiver.port}"
    assert other.connections == 0


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        ["::1"],
        ["8.8.8.8", "127.0.0.1"],
        ["127.0.0.1", "8.8.8.8"],
        [*(f"8.8.8.{number}" for number in range(10)), "10.0.0.1"],
        ["2606:4700:4700::1111", "fe80::1%2"],
        ["::ffff:127.0.0.1"],
        ["fe80::1%3"],
    ],
)
async def test_a_name_with_any_private_address_is_refused_for_good(
    tmp_path: Path, addresses: list[str]
) -> None:
    names = Names(addresses)
    async with (
        opened(tmp_path, allow=("192.168.0.0/16", "other.example"), getaddrinfo=names) as office,
        Receiver().listening() as receiver,
    ):
        delivery = await office.ended(await office.post(f"http://hook.example:{receiver.port}/"))
    assert (delivery.state, delivery.attempts, delivery.last_status) == ("failed", 1, None)
    assert "KERNELAGENT_WEBHOOK_ALLOW" in delivery.last_error
    assert "hook.example" in delivery.last_error
    assert not [address for address in addresses if address in delivery.last_error]
    assert (len(names.asked), receiver.connections) == (1, 0)


async def test_a_zone_of_a_look_up_is_not_overlooked(tmp_path: Path) -> None:
    async with opened(
        tmp_path, allow=("fe80::/10",), getaddrinfo=Names(["fe80::1%3"]), retry_time=0
    ) as office:
        delivery = await office.ended(await office.post("http://hook.example/"))
    assert "not public" in delivery.last_error


async def test_a_name_that_is_allowed_may_be_private(tmp_path: Path) -> None:
    names = Names(["127.0.0.1"])
    async with (
        opened(tmp_path, allow=("hook.internal",), getaddrinfo=names) as office,
        Receiver().listening() as receiver,
    ):
        webhook = await office.post(f"http://HOOK.internal.:{receiver.port}/")
        assert (await office.ended(webhook)).state == "delivered"


async def test_an_address_that_is_allowed_no_longer_is_refused_at_delivery(tmp_path: Path) -> None:
    async with Receiver(hang).listening() as receiver:
        async with opened(tmp_path) as office:
            webhook = await office.post(receiver.url)
            await until(lambda: len(receiver.calls) == 1)
        async with opened(tmp_path, allow=()) as office:
            delivery = await office.ended(webhook)
    assert delivery.state == "failed"
    assert "127.0.0.1 is not a public address" in delivery.last_error
    assert len(receiver.calls) == 1


async def test_the_systems_look_up_is_used(tmp_path: Path) -> None:
    async with (
        opened(tmp_path, allow=("localhost",)) as office,
        Receiver().listening() as receiver,
    ):
        webhook = await office.post(f"http://localhost:{receiver.port}/")
        assert (await office.ended(webhook)).state == "delivered"
    async with (
        opened(tmp_path / "closed", allow=()) as office,
        Receiver().listening() as receiver,
    ):
        delivery = await office.ended(await office.post(f"http://localhost:{receiver.port}/"))
        assert delivery.state == "failed"
        assert receiver.connections == 0


async def test_the_next_address_is_tried(tmp_path: Path) -> None:
    names = Names(["127.0.0.3", "127.0.0.1"])
    async with (
        opened(tmp_path, getaddrinfo=names) as office,
        Receiver().listening() as receiver,
    ):
        delivery = await office.ended(await office.post(f"http://hook.example:{receiver.port}/"))
    assert (delivery.state, delivery.attempts) == ("delivered", 1)


async def test_a_name_that_is_not_known_yet_is_tried_again(tmp_path: Path) -> None:
    names = Names([], [], ["127.0.0.1"])
    async with (
        opened(tmp_path, getaddrinfo=names) as office,
        Receiver().listening() as receiver,
    ):
        delivery = await office.ended(await office.post(f"http://hook.example:{receiver.port}/"))
    assert (delivery.state, delivery.attempts, len(names.asked)) == ("delivered", 3, 3)


async def test_a_name_that_is_not_known_is_told(tmp_path: Path) -> None:
    async with opened(tmp_path, getaddrinfo=Names([]), retry_time=0) as office:
        delivery = await office.ended(await office.post("http://hook.example/?secret"))
    assert delivery.last_error == "hook.example could not be looked up: Name or service not known"


async def test_a_look_up_that_hangs_is_part_of_the_attempt(tmp_path: Path) -> None:
    names = Names(["127.0.0.1"], pause=1.0)
    async with opened(tmp_path, getaddrinfo=names, timeout=0.2, retry_time=0) as office:
        begun = time.monotonic()
        delivery = await office.ended(await office.post("http://hook.example/"))
        assert time.monotonic() - begun < 0.8
        assert delivery.last_error == "no answer within 0.2 seconds"
    # It can end later without harm, and nothing waits for it.
    hanging = [thread for thread in threading.enumerate() if thread.name == "webhook-resolver"]
    assert all(thread.daemon for thread in hanging)
    await until(lambda: not any(thread.is_alive() for thread in hanging))


class Authority:
    """A certificate for one name, signed by itself, and the contexts for both sides."""

    def __init__(self, folder: Path, name: str) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = datetime.datetime.now(datetime.UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
            .sign(key, hashes.SHA256())
        )
        self.path = folder / f"{name}.pem"
        self.path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        self.names: list[str | None] = []

    def server(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.path)
        note: Callable[..., None] = lambda _socket, name, _context: self.names.append(name)  # noqa: E731
        context.sni_callback = note
        return context

    def client(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.path))


async def test_tls_is_for_the_name_although_the_address_is_reached(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "hook.example")
    names = Names(["127.0.0.1"])
    async with (
        opened(tmp_path / "state", getaddrinfo=names, tls=authority.client()) as office,
        Receiver().listening(tls=authority.server()) as receiver,
    ):
        url = f"https://hook.example:{receiver.port}/"
        delivery = await office.ended(await office.post(url))
        assert delivery.state == "delivered", delivery
        # A dot at the end belongs to the look-up, not to the certificate.
        dotted = await office.post(f"https://hook.example.:{receiver.port}/")
        assert (await office.ended(dotted)).state == "delivered"
    assert authority.names == ["hook.example", "hook.example"]
    assert receiver.calls[0].headers["host"] == f"hook.example:{receiver.port}"
    assert names.asked == ["hook.example", "hook.example."]


async def test_a_certificate_for_another_name_or_of_nobody_is_not_accepted(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "other.example")
    for tls in (authority.client(), ssl.create_default_context()):
        async with (
            opened(
                tmp_path / str(id(tls)), getaddrinfo=Names(["127.0.0.1"]), tls=tls, retry_time=0
            ) as office,
            Receiver().listening(tls=authority.server()) as receiver,
        ):
            url = f"https://hook.example:{receiver.port}/"
            delivery = await office.ended(await office.post(url))
        assert (delivery.state, len(receiver.calls)) == ("failed", 0)
        assert "the certificate is not accepted" in delivery.last_error


async def test_a_handshake_that_hangs_is_ended(tmp_path: Path) -> None:
    silent = Receiver()

    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        silent.connections += 1
        try:
            # Until the other side closes: that it does is the point.
            while await reader.read(65536):
                pass
        finally:
            silent.connections -= 1
            writer.close()

    server = await asyncio.start_server(swallow, "127.0.0.1", 0)
    async with server, opened(tmp_path, timeout=0.3, retry_time=0) as office:
        port = server.sockets[0].getsockname()[1]
        webhook = await office.post(f"https://127.0.0.1:{port}/")
        await until(lambda: silent.connections == 1)
        delivery = await office.ended(webhook)
        assert delivery.last_error == "no answer within 0.3 seconds"
        await until(lambda: silent.connections == 0)


async def test_a_server_without_tls_is_told(tmp_path: Path) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65536)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    async with server, opened(tmp_path, retry_time=0) as office:
        port = server.sockets[0].getsockname()[1]
        delivery = await office.ended(await office.post(f"https://127.0.0.1:{port}/?secret-query"))
    assert delivery.state == "failed"
    assert delivery.last_error.startswith("no secure connection: ")
    assert "secret-query" not in delivery.last_error

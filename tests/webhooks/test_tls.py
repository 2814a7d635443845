"""Which certificates are accepted, and what is told of those that are not."""

from __future__ import annotations

import asyncio
import datetime
import ssl
from collections.abc import Callable
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.waiting import until
from tests.webhooks.names import Names
from tests.webhooks.receivers import Receiver, opened


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
    async with server, opened(tmp_path, timeout=1, retry_time=0) as office:
        port = server.sockets[0].getsockname()[1]
        webhook = await office.post(f"https://127.0.0.1:{port}/")
        await until(lambda: silent.connections == 1)
        delivery = await office.ended(webhook)
        assert delivery.last_error == "no answer within 1 seconds"
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

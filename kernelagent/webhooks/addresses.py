"""Which addresses webhooks may reach: public ones, and those that the settings allow."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

from kernelagent.errors import ConfigurationError, WebhookRefused
from kernelagent.settings import ENV_PREFIX
from kernelagent.webhooks.target import Target, is_hostname, read_literal

ALLOW = f"{ENV_PREFIX}WEBHOOK_ALLOW"

Address = IPv4Address | IPv6Address

# Written down instead of asking `is_global`, whose answer depends on the version of Python.
_SPECIAL_IPV4 = tuple(
    map(
        IPv4Network,
        (
            "0.0.0.0/8",  # this network
            "10.0.0.0/8",
            "100.64.0.0/10",  # shared by carriers
            "127.0.0.0/8",
            "168.63.129.16/32",  # public by its number, but the host of a virtual machine in Azure
            "169.254.0.0/16",  # link-local: metadata of clouds
            "172.16.0.0/12",
            "192.0.0.0/24",  # protocols
            "192.0.2.0/24",  # documentation
            "192.88.99.0/24",  # relays of 6to4
            "192.168.0.0/16",
            "198.18.0.0/15",  # benchmarks
            "198.51.100.0/24",  # documentation
            "203.0.113.0/24",  # documentation
            "224.0.0.0/4",  # multicast
            "240.0.0.0/4",  # reserved, broadcast
        ),
    )
)
# All that is public lies in here; outside are loopback, mapped and compatible IPv4, local NAT64
# (64:ff9b:1::/48), ULA, link-local, site-local, multicast and what is reserved.
_UNICAST_IPV6 = IPv6Network("2000::/3")
_SPECIAL_IPV6 = tuple(
    map(
        IPv6Network,
        (
            "2001::/23",  # protocols
            "2001:db8::/32",  # documentation
            "3fff::/20",  # documentation
        ),
    )
)
_NAT64 = IPv6Network("64:ff9b::/96")


def is_public(address: Address) -> bool:
    """Whether the whole internet can reach `address`, and it is no way around to one inside."""
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _SPECIAL_IPV4)
    if address.scope_id is not None:
        return False
    inner = _inner(address)
    if inner:
        return all(map(is_public, inner))
    return address in _UNICAST_IPV6 and not any(address in network for network in _SPECIAL_IPV6)


def _inner(address: IPv6Address) -> tuple[IPv4Address, ...]:
    """The IPv4 addresses to which a packet for `address` is carried on."""
    if address.ipv4_mapped is not None:
        return (address.ipv4_mapped,)
    if address.sixtofour is not None:
        return (address.sixtofour,)
    if address.teredo is not None:
        return address.teredo
    if address in _NAT64:
        return (IPv4Address(address.packed[-4:]),)
    return ()


class Guard:
    """Keeps webhooks out of private networks. `allow` names hosts and networks that are open.

    Raises ConfigurationError for an entry that is neither.
    """

    def __init__(self, allow: Iterable[str]) -> None:
        self._names: set[str] = set()
        self._networks: list[IPv4Network | IPv6Network] = []
        for entry in allow:
            self._read(entry)

    def check_url(self, target: Target) -> None:
        """Look at a host that is an address; raises WebhookRefused."""
        literal = target.literal
        if literal is not None and not self._permits(target, literal):
            raise WebhookRefused(
                f"callback_url: {literal} is not a public address. Use a public one, or let the "
                f"operator of this service allow it with {ALLOW}"
            )

    def check_addresses(self, target: Target, addresses: Iterable[Address]) -> None:
        """Look at all addresses that the host has; raises WebhookRefused."""
        # Which one it was is not told: it would map the private network to whoever asks.
        if not all(self._permits(target, address) for address in addresses):
            raise WebhookRefused(
                f"{target.name} has an address that is not public; the operator of this service "
                f"can allow it with {ALLOW}"
            )

    def _permits(self, target: Target, address: Address) -> bool:
        return target.name in self._names or self._reaches(address)

    def _reaches(self, address: Address) -> bool:
        if isinstance(address, IPv6Address) and address.scope_id is not None:
            return False
        if any(address in network for network in self._networks) or is_public(address):
            return True
        inner = _inner(address) if isinstance(address, IPv6Address) else ()
        return bool(inner) and all(map(self._reaches, inner))

    def _read(self, entry: str) -> None:
        try:
            if "%" in entry:
                raise ValueError("a zone is of no use here")
            self._networks.append(ip_network(entry))
        except ValueError as error:
            # A number with a slash or what a system takes for an address was meant as one.
            if not is_hostname(entry) or read_literal(entry) is not None or _ends_in_number(entry):
                raise ConfigurationError(
                    f"{ALLOW}: {entry!r} is neither a host's name nor an address or network such "
                    f"as 10.1.0.0/16 ({error})"
                ) from None
            self._names.add(entry.lower().removesuffix("."))


def _ends_in_number(name: str) -> bool:
    return name.removesuffix(".").rpartition(".")[2].isdigit()

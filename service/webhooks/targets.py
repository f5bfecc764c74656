"""Where webhooks may point: public addresses only, each looked at before it is connected to.

A caller chooses the URL and this service connects to it from inside the operator's network. So the host is resolved here,
every address that it has must be public, and the connection goes to exactly those addresses (`service.webhooks.posting`): a name
that means something else a moment later changes nothing.
"""

from __future__ import annotations

import queue
import re
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from urllib.parse import SplitResult, urlsplit

from service.schemas.webhooks import LONGEST_URL

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Resolver = Callable[[str, int], Sequence[str]]

RESOLVE_SECONDS = 5.0
PORTS = {"https": 443, "http": 80}
VISIBLE = re.compile(r"[\x21-\x7e]+")
LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
NAME = re.compile(rf"{LABEL}(?:\.{LABEL})*", re.IGNORECASE)
NUMBER = re.compile(r"\d+|0x[0-9a-f]*", re.IGNORECASE)
# Python's own tables call some of the special ranges outside these global.
UNICAST = IPv6Network("2000::/3")
NAT64 = IPv6Network("64:ff9b::/96")
SPECIAL = (IPv4Network("192.0.0.0/24"), IPv4Network("192.88.99.0/24"), IPv6Network("3fff::/20"))

NO_ADDRESS = "The host has no address that messages may be sent to: it must resolve, and to public addresses only."
NO_HOST = "The host is neither a plain name (`xn--` where it is not ASCII, no dot at its end) nor a plain IP address."


class RefusedTarget(ValueError):
    """A URL that no message may be sent to; the text says why, and nothing of what the host resolves to."""


@dataclass(frozen=True)
class Target:
    """Where a message goes: the host that TLS verifies, and the addresses that were checked, in the order to try."""

    scheme: str
    host: str
    port: int
    authority: str
    path: str
    addresses: tuple[str, ...]


def system_resolver(host: str, port: int) -> list[str]:
    """The addresses that the operating system gives for a host. Raises OSError or UnicodeError where it gives none."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(each[4][0]) for each in found))


class Targets:
    """Checks URLs. ``networks`` are private networks that may be targets all the same, over plain HTTP too."""

    def __init__(self, networks: Sequence[Network] = (), resolve: Resolver = system_resolver) -> None:
        self._networks = tuple(networks)
        self._resolve = resolve

    def check(self, url: str) -> Target:
        """Resolves the host, for 5 seconds at most. Raises RefusedTarget unless every address of it is allowed."""
        parts = _split(url)
        host, port = parts.hostname or "", _port(parts)
        addresses = self._addresses(host, port)
        inside = [any(address in network for network in self._networks) for address in addresses]
        if not addresses or not all(
            allowed or _is_public(each) for each, allowed in zip(addresses, inside, strict=True)
        ):
            raise RefusedTarget(NO_ADDRESS)
        if parts.scheme == "http" and not all(inside):
            raise RefusedTarget("The URL must begin with https://.")
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return Target(parts.scheme, host, port, parts.netloc, path, tuple(str(each) for each in addresses))

    def _addresses(self, host: str, port: int) -> list[Address]:
        literal = _literal(host)
        if literal is not None:
            return [literal]
        answers: queue.SimpleQueue[Sequence[str]] = queue.SimpleQueue()

        def resolve() -> None:
            try:
                answers.put(self._resolve(host, port))
            except (OSError, UnicodeError):
                answers.put([])

        # The operating system's resolver has no time limit of its own.
        threading.Thread(target=resolve, name="resolver", daemon=True).start()
        try:
            return [ip_address(each) for each in answers.get(timeout=RESOLVE_SECONDS)]
        except (queue.Empty, ValueError):  # ValueError: an address with a zone
            return []


def _split(url: str) -> SplitResult:
    if len(url) > LONGEST_URL or not VISIBLE.fullmatch(url) or "\\" in url:
        raise RefusedTarget(
            f"The URL must have {LONGEST_URL} characters at most, all of them ASCII, without blanks and backslashes."
        )
    try:
        parts = urlsplit(url)
    except ValueError:
        raise RefusedTarget(NO_HOST) from None
    if parts.scheme not in PORTS:
        raise RefusedTarget("The URL must begin with https://.")
    if "@" in parts.netloc:
        raise RefusedTarget("The URL must not hold a user name or password: messages are signed instead.")
    if "#" in url:
        raise RefusedTarget("The URL must not have a fragment.")
    _check_host(parts)
    return parts


def _check_host(parts: SplitResult) -> None:
    host = parts.hostname or ""
    if parts.netloc.startswith("["):
        if not isinstance(_literal(host), IPv6Address) or "%" in host:
            raise RefusedTarget(NO_HOST)
        return
    if len(host) > 253 or not NAME.fullmatch(host):
        raise RefusedTarget(NO_HOST)
    # 127.1, 0x7f.1 and 2130706433 are addresses to the operating system, whatever they look like to a reader.
    if NUMBER.fullmatch(host.rsplit(".", 1)[-1]) and _literal(host) is None:
        raise RefusedTarget(NO_HOST)


def _port(parts: SplitResult) -> int:
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0:
        raise RefusedTarget("The port must be a number from 1 to 65535.")
    return port or PORTS[parts.scheme]


def _literal(host: str) -> Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


def _is_public(address: Address) -> bool:
    if any(address in network for network in SPECIAL):
        return False
    if isinstance(address, IPv4Address):
        return address.is_global and not address.is_multicast and not address.is_reserved
    if address in NAT64:
        return _is_public(IPv4Address(int(address) & 0xFFFFFFFF))
    if address.sixtofour is not None and not _is_public(address.sixtofour):
        return False
    return address in UNICAST and address.is_global

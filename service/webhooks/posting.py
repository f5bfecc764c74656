"""One message posted to one checked address: no redirects, no proxies, and an end in time whatever the receiver does."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache
from pathlib import Path
from typing import Any

import httpcore
import httpx

from service.webhooks.targets import Target

CONNECT_SECONDS = 5.0
TOTAL_SECONDS = 10.0


class UnusableAuthority(RuntimeError):
    """The file of a further CA is missing or holds none."""


class Unanswered(Exception):
    """No answer came; the text says why in a few words of this service's own."""


@dataclass(frozen=True)
class Reply:
    """What a receiver answered. Its body is never read."""

    status_code: int
    retry_after: float | None  # seconds


@cache
def tls_context(further_ca: Path | None) -> ssl.SSLContext:
    """Verifies host names by the usual CAs and ``further_ca``; no environment variable changes that. Read once a process.

    Raises UnusableAuthority where the file holds no certificate.
    """
    context = httpx.create_ssl_context(trust_env=False)
    if further_ca is not None:
        try:
            context.load_verify_locations(cafile=further_ca)
        except OSError as error:  # ssl.SSLError is one
            raise UnusableAuthority(f"AMUN_WEBHOOK_CA: no certificate can be read from {further_ca}") from error
    return context


class Exchange:
    """One POST. ``cut`` ends it from another thread."""

    def __init__(self, context: ssl.SSLContext, seconds: float = TOTAL_SECONDS) -> None:
        self._context = context
        self._deadline = time.monotonic() + seconds
        self._lock = threading.Lock()
        self._handle: socket.socket | None = None
        self._is_cut = False

    def post(self, target: Target, headers: dict[str, str], body: bytes) -> Reply:
        """Raises Unanswered."""
        url = httpcore.URL(
            scheme=target.scheme.encode(), host=target.host.encode(), port=target.port, target=target.path.encode()
        )
        waits = {"connect": CONNECT_SECONDS, "read": TOTAL_SECONDS, "write": TOTAL_SECONDS}
        try:
            with (
                httpcore.ConnectionPool(ssl_context=self._context, network_backend=_Pinned(self, target)) as pool,
                pool.stream(
                    "POST",
                    url,
                    headers=[("Host", target.authority), *headers.items()],
                    content=body,
                    extensions={"timeout": waits},
                ) as answer,
            ):
                return Reply(answer.status, _retry_after(answer.headers))
        except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError) as error:
            raise Unanswered(_why(error)) from error
        finally:
            self._release()

    def cut(self) -> None:
        """The connection, and any later one of this exchange, ends at once."""
        with self._lock:
            self._is_cut = True
            if self._handle is not None:
                _shut(self._handle)

    def left(self, seconds: float | None) -> float:
        """Seconds to wait: those asked for, or until the deadline. Raises httpcore.ReadTimeout past it."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise httpcore.ReadTimeout
        return min(left, seconds) if seconds is not None else left

    def hold(self, connection: socket.socket) -> None:
        # A second descriptor of the connection: TLS takes the first one's place while this one can still shut it.
        with self._lock:
            self._handle = connection.dup()
            if self._is_cut:
                _shut(self._handle)

    def _release(self) -> None:
        with self._lock:
            if self._handle is not None:
                self._handle.close()
                self._handle = None


class _NoTLS(httpcore.ConnectError):
    """The address answered, and what it presented was not what TLS asks for."""


class _Pinned(httpcore.NetworkBackend):
    """Connects to the addresses that were checked, whatever the host's name means by now."""

    def __init__(self, exchange: Exchange, target: Target) -> None:
        self._exchange = exchange
        self._target = target

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        until = time.monotonic() + self._exchange.left(timeout)
        failure: Exception = httpcore.ConnectTimeout()
        for address in self._target.addresses:
            wait = until - time.monotonic()
            if wait <= 0:
                break
            try:
                stream = httpcore.SyncBackend().connect_tcp(address, port, timeout=wait)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
                continue
            self._exchange.hold(stream.get_extra_info("socket"))
            return _Timed(stream, self._exchange)
        raise failure


class _Timed(httpcore.NetworkStream):
    """A connection on which every wait ends at the exchange's deadline: one byte now and then does not prolong it."""

    def __init__(self, stream: httpcore.NetworkStream, exchange: Exchange) -> None:
        self._stream = stream
        self._exchange = exchange

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._exchange.left(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._exchange.left(timeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        try:
            stream = self._stream.start_tls(ssl_context, server_hostname, self._exchange.left(timeout))
        except httpcore.ConnectError as error:
            unknown = isinstance(error.__cause__, ssl.SSLCertVerificationError)
            raise _NoTLS("the TLS certificate is not valid for this host" if unknown else "TLS failed") from error
        return _Timed(stream, self._exchange)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _shut(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:  # the other side was faster
        pass


def _why(error: Exception) -> str:
    if isinstance(error, _NoTLS):
        return str(error)
    if isinstance(error, httpcore.ConnectTimeout):
        return "no connection in time"
    if isinstance(error, httpcore.TimeoutException):
        return "no answer in time"
    if isinstance(error, httpcore.ConnectError):
        return "no connection"
    if isinstance(error, httpcore.NetworkError):
        return "the connection was lost"
    return "the answer is not HTTP"


def _retry_after(headers: Iterable[tuple[bytes, bytes]]) -> float | None:
    """Seconds that the header Retry-After asks to wait, given as a number or as a date; None where it makes no sense."""
    value = next((text.decode("latin-1").strip() for name, text in headers if name.lower() == b"retry-after"), None)
    if value is None:
        return None
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        at = parsedate_to_datetime(value)
    except (ValueError, TypeError, OverflowError):  # whatever a receiver thinks of
        return None
    return max(0.0, ((at if at.tzinfo else at.replace(tzinfo=UTC)) - datetime.now(UTC)).total_seconds())

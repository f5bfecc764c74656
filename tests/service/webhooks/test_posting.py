"""One message to one receiver: to the address that was checked, under the name that TLS verifies, and in time."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from email.utils import format_datetime
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from models.base import now
from service.webhooks import posting
from service.webhooks.posting import Exchange, Reply, Unanswered, UnusableAuthority, tls_context
from service.webhooks.targets import Targets
from tests.service.webhooks.receiver import Authority, Receiver, make_authority, receiver

LOOPBACK = [ip_network("127.0.0.0/8")]
HOST = "hooks.example"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return make_authority(tmp_path)


@pytest.fixture
def secure(authority: Authority) -> Iterator[Receiver]:
    """A receiver on loopback whose certificate names hooks.example."""
    with receiver(authority.server(HOST)) as server:
        yield server


@pytest.fixture
def plain() -> Iterator[Receiver]:
    with receiver() as server:
        yield server


def post(url: str, ca: Path | None = None, *, seconds: float = 10, resolves_to: str = "127.0.0.1") -> Reply:
    targets = Targets(LOOPBACK, resolve=lambda host, port: [resolves_to])
    exchange = Exchange(tls_context(ca), seconds)
    return exchange.post(targets.check(url), {"Content-Type": "application/json"}, b'{"a":1}')


def test_a_message_is_posted_over_tls_to_the_checked_address_under_the_hosts_name(
    secure: Receiver, authority: Authority
) -> None:
    assert post(f"https://{HOST}:{secure.port}/in?x=1", authority.file) == Reply(204, None)
    (received,) = secure.received
    assert (received.path, received.body) == ("/in?x=1", b'{"a":1}')
    assert received.headers["host"] == f"{HOST}:{secure.port}"
    assert received.headers["content-type"] == "application/json"


def test_a_certificate_of_another_name_is_refused(secure: Receiver, authority: Authority) -> None:
    for host in ("other.example", "127.0.0.1"):
        with pytest.raises(Unanswered, match="not valid for this host"):
            post(f"https://{host}:{secure.port}/", authority.file)
    assert secure.received == []


def test_a_certificate_of_an_unknown_authority_is_refused(
    secure: Receiver, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))  # the setting alone says whom to trust
    with pytest.raises(Unanswered, match="not valid for this host"):
        post(f"https://{HOST}:{secure.port}/")
    assert secure.received == []


def test_a_server_that_speaks_no_tls_or_no_http_is_no_receiver(plain: Receiver) -> None:
    with pytest.raises(Unanswered, match="TLS failed"):
        post(f"https://{HOST}:{plain.port}/")
    plain.raw = lambda handler: handler.wfile.write(b"SSH-2.0-OpenSSH_9.2\r\n")
    with pytest.raises(Unanswered, match="not HTTP"):
        post(f"http://{HOST}:{plain.port}/")


def test_a_name_that_means_another_address_a_moment_later_changes_nothing(plain: Receiver) -> None:
    answers = iter(["127.0.0.1", "127.0.0.2"])
    asked = []

    def changing(host: str, port: int) -> list[str]:
        asked.append(host)
        return [next(answers)]

    target = Targets([ip_network("127.0.0.1/32")], resolve=changing).check(f"http://{HOST}:{plain.port}/")
    with socket.create_server(("127.0.0.2", plain.port)) as inner:
        inner.settimeout(0.3)
        Exchange(tls_context(None)).post(target, {}, b"{}")
        with pytest.raises(TimeoutError):
            inner.accept()
    assert len(plain.received) == len(asked) == 1


def test_a_second_address_is_tried_where_the_first_does_not_answer(plain: Receiver) -> None:
    targets = Targets(LOOPBACK, resolve=lambda host, port: ["127.0.0.9", "127.0.0.1"])
    target = targets.check(f"http://{HOST}:{plain.port}/")
    assert Exchange(tls_context(None)).post(target, {}, b"{}").status_code == 204


def test_a_redirect_is_not_followed(plain: Receiver) -> None:
    with receiver() as inner:
        plain.answer = lambda _: (307, {"Location": f"http://127.0.0.1:{inner.port}/secret"})
        assert post(f"http://{HOST}:{plain.port}/").status_code == 307
        assert inner.received == []
    assert len(plain.received) == 1


def test_proxies_of_the_environment_are_not_used(
    secure: Receiver, plain: Receiver, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    with receiver() as proxy:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        post(f"https://{HOST}:{secure.port}/", authority.file)
        post(f"http://{HOST}:{plain.port}/")
        assert proxy.received == []
    assert len(secure.received) == len(plain.received) == 1


def test_nobody_listening_is_told(plain: Receiver) -> None:
    with pytest.raises(Unanswered, match="no connection"):
        post(f"http://{HOST}:{plain.port}/", resolves_to="127.0.0.9")


def drip(handler: Any) -> None:
    """An answer of which a byte comes every 50 ms, for ever."""
    try:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
        while not handler.server.released.is_set():
            handler.wfile.write(b"x")
            time.sleep(0.05)
    except OSError:
        pass


def test_an_answer_that_drips_ends_at_the_deadline(plain: Receiver) -> None:
    plain.raw = drip
    begun = time.monotonic()
    with pytest.raises(Unanswered, match="no answer in time"):
        post(f"http://{HOST}:{plain.port}/", seconds=0.5)
    assert time.monotonic() - begun < 3


def test_a_handshake_that_never_comes_ends_at_the_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        begun = time.monotonic()
        with pytest.raises(Unanswered, match="in time"):
            post(f"https://{HOST}:{port}/", seconds=0.5)
        assert time.monotonic() - begun < 3


def test_an_endless_body_is_not_read(plain: Receiver) -> None:
    def endless(handler: Any) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n")
        drip(handler)

    plain.raw = endless
    begun = time.monotonic()
    assert post(f"http://{HOST}:{plain.port}/").status_code == 200
    assert time.monotonic() - begun < 3


@pytest.mark.parametrize("tls", [False, True])
def test_an_exchange_is_cut_from_another_thread(
    tls: bool, secure: Receiver, plain: Receiver, authority: Authority
) -> None:
    server = secure if tls else plain
    server.answer = server.hang
    exchange = Exchange(tls_context(authority.file))
    target = Targets(LOOPBACK, resolve=lambda host, port: ["127.0.0.1"]).check(
        f"http{'s' if tls else ''}://{HOST}:{server.port}/"
    )
    threading.Timer(0.3, exchange.cut).start()
    begun = time.monotonic()
    with pytest.raises(Unanswered):
        exchange.post(target, {}, b"{}")
    assert time.monotonic() - begun < 3


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("120", 120.0),
        ("0", 0.0),
        ("9" * 30, 999_999_999.0),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("", None),
        ("Mon, 01 Jan 2024 00:00:00 GMT", 0.0),
        ("Mon, 01 Jan 2024 00:00:00 +999999999999999999", None),
        ("\u00b2", None),
    ],
)
def test_what_a_receiver_asks_to_wait_is_read_or_ignored(header: str, seconds: float | None) -> None:
    assert posting._retry_after([(b"Retry-After", header.encode("latin-1"))]) == seconds


def test_a_date_to_wait_for_is_seconds_from_now(plain: Receiver) -> None:
    at = format_datetime(now() + timedelta(minutes=10), usegmt=True)
    plain.answer = lambda _: (503, {"Retry-After": at})
    reply = post(f"http://{HOST}:{plain.port}/")
    assert reply.status_code == 503
    assert reply.retry_after == pytest.approx(600, abs=5)


@pytest.mark.parametrize("content", [None, b"", b"-----BEGIN CERTIFICATE-----\nnonsense\n"])
def test_a_file_without_a_certificate_is_told_by_its_name(content: bytes | None, tmp_path: Path) -> None:
    file = tmp_path / "further.pem"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UnusableAuthority, match=r"AMUN_WEBHOOK_CA.*further\.pem"):
        tls_context(file)

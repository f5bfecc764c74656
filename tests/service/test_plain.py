"""Clients that load no certificates are for plain HTTP: they believe no server that asks for TLS."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from service.plain import NO_AUTHORITY
from tests.service.cli.conftest import at
from tests.service.webhooks.receiver import Authority, Receiver, make_authority, receiver

LIST = ("jobs", "list", "--json")
OPERATOR = {"Authorization": "Bearer amun_0123456789ab_" + "A" * 43}


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return make_authority(tmp_path)


@pytest.fixture
def secure(authority: Authority) -> Iterator[Receiver]:
    with receiver(authority.server("localhost")) as server:
        yield server


def test_no_server_is_believed_over_tls_by_a_client_for_plain_http(secure: Receiver, authority: Authority) -> None:
    url = f"https://localhost:{secure.port}/"
    known = ssl.create_default_context(cafile=str(authority.file))
    assert httpx.post(url, content=b"", verify=known, trust_env=False).status_code == 204
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.post(url, content=b"", verify=NO_AUTHORITY, trust_env=False)


def test_the_command_line_sends_its_key_to_no_server_of_an_unknown_authority(secure: Receiver) -> None:
    done = at(f"https://127.0.0.1:{secure.port}")(OPERATOR, *LIST)
    assert done.status == 4
    assert "certificate verify failed" in done.err
    assert "SSL_CERT_FILE" in done.err
    assert secure.received == []


def test_the_command_line_believes_the_authority_of_its_environment(
    secure: Receiver, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    done = at(f"https://localhost:{secure.port}")(OPERATOR, *LIST)
    assert "501 Unsupported method ('GET')" in done.err  # it takes nothing but POSTs: the connection stood

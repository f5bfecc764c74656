"""Where a webhook may point."""

from __future__ import annotations

import threading
from ipaddress import ip_network

import pytest

from models.settings import Settings
from service.webhooks import targets
from service.webhooks.targets import RefusedTarget, Targets, system_resolver

PUBLIC = "93.184.215.14"


def resolves_to(*addresses: str) -> Targets:
    return Targets(resolve=lambda host, port: addresses)


@pytest.mark.parametrize(
    ("url", "host", "port", "path"),
    [
        ("https://example.com", "example.com", 443, "/"),
        ("https://EXAMPLE.com:8443/hooks/amun?team=a&x=%2F", "example.com", 8443, "/hooks/amun?team=a&x=%2F"),
        ("https://xn--bcher-kva.example/", "xn--bcher-kva.example", 443, "/"),
    ],
)
def test_a_public_https_address_is_a_target(url: str, host: str, port: int, path: str) -> None:
    found = resolves_to(PUBLIC, "2606:2800:220:1::1").check(url)
    assert (found.host, found.port, found.path) == (host, port, path)
    assert found.addresses == (PUBLIC, "2606:2800:220:1::1")


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/",
        "ftp://example.com/",
        "//example.com/",
        "example.com",
        "https://",
        "https:///path",
        "https://user:pass@example.com/",
        "https://user@example.com/",
        "https://@example.com/",
        "https://example.com/#part",
        "https://example.com/#",
        "https://example.com:0/",
        "https://example.com:65536/",
        "https://example.com:x/",
        "https://example.com./",
        "https://.example.com/",
        "https://exam ple.com/",
        "https://example.com/a\tb",
        "https://example.com\n/",
        "https://example.com\\@169.254.169.254/",
        "https://exämple.com/",
        "https://example%2ecom/",
        "https://-example.com/",
        "https://exa_mple.com/",
        "https://[fe80::1%25eth0]/",
        "https://[example.com]/",
        "https://[v1.a]/",
        "https://[::1",
        "https://example.com/" + "a" * 2000,
        "https://" + "a." * 130 + "com/",
        # Forms of 127.0.0.1 and of public addresses that only an operating system reads as such.
        "https://2130706433/",
        "https://0x7f000001/",
        "https://0x7f.0.0.1/",
        "https://0177.0.0.1/",
        "https://127.1/",
        "https://127.0.0.01/",
        "https://1572395022/",
        "https://example.0x/",
        "https://256.256.256.256/",
    ],
)
def test_a_url_of_another_form_is_refused_whatever_it_resolves_to(url: str) -> None:
    with pytest.raises(RefusedTarget):
        resolves_to(PUBLIC).check(url)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.255.255.254",
        "0.0.0.0",  # noqa: S104 - refused as a target
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "192.0.0.8",
        "192.0.2.1",
        "192.88.99.1",
        "198.18.0.1",
        "198.51.100.1",
        "203.0.113.1",
        "224.0.0.1",
        "239.255.255.250",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::7f00:1",
        "::ffff:127.0.0.1",
        "::ffff:8.8.8.8",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::1",
        "100::1",
        "2001:0:4136:e378:8000:63bf:3fff:fdd2",
        "2001:db8::1",
        "2002:7f00:1::1",
        "2002:a00:1::1",
        "3fff::1",
        "5f00::1",
        "fc00::1",
        "fd12:3456::1",
        "fe80::1",
        "fec0::1",
        "ff02::1",
        "ff0e::1",
    ],
)
def test_an_address_that_is_not_public_is_refused_as_a_literal_and_among_others(address: str) -> None:
    literal = f"[{address}]" if ":" in address else address
    for refused, url in [
        (resolves_to(PUBLIC), f"https://{literal}/"),
        (resolves_to(address), "https://example.com/"),
        (resolves_to(PUBLIC, address), "https://example.com/"),
    ]:
        with pytest.raises(RefusedTarget, match="public addresses only"):
            refused.check(url)


@pytest.mark.parametrize("address", [PUBLIC, "2606:2800:220:1::1", "64:ff9b::808:808"])
def test_a_public_address_may_be_written_as_it_is(address: str) -> None:
    literal = f"[{address}]" if ":" in address else address
    assert resolves_to("127.0.0.1").check(f"https://{literal}/").addresses == (address,)


@pytest.mark.parametrize("url", ["https://localhost/", "https://localhost:8000/", "https://127.0.0.1/"])
def test_this_host_is_refused_by_the_systems_own_resolver(url: str) -> None:
    with pytest.raises(RefusedTarget, match="public addresses only"):
        Targets(resolve=system_resolver).check(url)


def test_a_host_that_does_not_resolve_gets_the_answer_of_one_that_is_inside() -> None:
    def nowhere(host: str, port: int) -> list[str]:
        raise OSError("no such name")

    texts = set()
    for refused in (Targets(resolve=nowhere), resolves_to(), resolves_to("10.0.0.1"), resolves_to("fe80::1%eth0")):
        with pytest.raises(RefusedTarget) as error:
            refused.check("https://intranet.example/")
        texts.add(str(error.value))
    assert len(texts) == 1


def test_a_resolver_that_hangs_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "RESOLVE_SECONDS", 0.1)
    over = threading.Event()

    def hang(host: str, port: int) -> list[str]:
        over.wait(30)
        return [PUBLIC]

    with pytest.raises(RefusedTarget):
        Targets(resolve=hang).check("https://example.com/")
    over.set()


def test_a_network_that_the_operator_allows_may_be_a_target_over_plain_http_too() -> None:
    inside = Targets([ip_network("10.1.0.0/16")], resolve=lambda host, port: ["10.1.2.3"])
    assert inside.check("http://receiver.internal/").addresses == ("10.1.2.3",)
    assert inside.check("https://receiver.internal/").port == 443
    for mixed in (["10.1.2.3", PUBLIC], [PUBLIC]):
        with pytest.raises(RefusedTarget, match="https"):
            Targets([ip_network("10.1.0.0/16")], resolve=lambda host, port, found=mixed: found).check("http://a.b/")
    with pytest.raises(RefusedTarget, match="public"):
        inside.check("https://10.2.0.1/")


def test_the_setting_lists_networks_and_a_wrong_one_is_told_at_once() -> None:
    found = Settings(webhook_networks="10.0.0.0/8, fd00::/8").allowed_networks
    assert found == (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))
    assert Settings().allowed_networks == ()
    with pytest.raises(ValueError, match="webhook_networks"):
        Settings(webhook_networks="10.0.0.1/8")

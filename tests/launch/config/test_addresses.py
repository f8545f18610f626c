"""Which URL an app has, and which addresses it can share."""

from __future__ import annotations

import pytest

from caddisfly.launch import config
from caddisfly.launch.config.addresses import needs_own_address, public_url


@pytest.mark.parametrize(
    ("ports", "url", "own"),
    [
        ("{ port = 443, handlers = ['tls', 'http'] }, { port = 80, handlers = ['http'] }", "https://h/", False),
        ("{ port = 80, handlers = ['http'] }, { port = 8443, handlers = ['http', 'tls'] }", "http://h/", True),
        (
            "{ port = 9443, handlers = ['http', 'tls'] }, { port = 8443, handlers = ['http', 'tls'] }",
            "https://h:8443/",
            True,
        ),
        ("{ port = 8080, handlers = ['http'] }", "http://h:8080/", True),
        ("{ port = 443, handlers = ['tls'] }", "", True),
        ("{ port = 5432 }", "", True),
        ("{ start_port = 80, end_port = 80, handlers = ['http'] }", "http://h/", True),
    ],
)
def test_the_ports_say_how_an_app_is_reached(ports: str, url: str, own: bool) -> None:
    app = config.text(f"services = [{{ internal_port = 80, ports = [{ports}] }}]")
    assert (public_url(app, "h"), needs_own_address(app)) == (url, own)


def test_http_service_is_https_and_shares() -> None:
    app = config.text("http_service = {}")
    assert (public_url(app, "h"), needs_own_address(app)) == ("https://h/", False)


def test_udp_needs_an_address_of_its_own() -> None:
    assert needs_own_address(config.text("services = [{ protocol = 'udp', ports = [{ port = 53 }] }]"))


def test_nothing_has_no_url() -> None:
    assert public_url(config.text(""), "h") == ""

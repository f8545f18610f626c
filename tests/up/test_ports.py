"""A port that is taken is told before anything starts."""

from __future__ import annotations

import os
import socket

import pytest

from caddisfly.model.errors import FailedPrecondition
from caddisfly.up import ports
from tests.conftest import free_port


def need(port: int, host: str = "127.0.0.1") -> ports.Need:
    return ports.Need(host=host, port=port, part="the edge", setting="[edge] http_listen")


def test_a_free_port_is_fine() -> None:
    ports.check([need(free_port())])


def test_a_taken_port_names_its_holder_and_the_setting() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(FailedPrecondition) as caught:
            ports.check([need(free_port()), need(port)])
    assert f"port {port} on 127.0.0.1 is not free" in caught.value.what
    assert f"(pid {os.getpid()})" in caught.value.why
    assert "[edge] http_listen" in caught.value.next


def test_an_address_of_another_computer_is_told() -> None:
    with pytest.raises(FailedPrecondition) as caught:
        ports.check([need(free_port(), host="192.0.2.1")])
    assert "no address of this computer" in caught.value.why


def test_a_listener_that_shares_its_port_still_counts() -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(FailedPrecondition):
            ports.check([need(other.getsockname()[1])])

"""The suite asks nothing of the network; where a test tried, it would fail."""

from __future__ import annotations

import socket

import pytest


def test_a_test_that_asks_the_network_fails() -> None:
    """By an address that is reserved for documentation, so that nothing is asked where the guard is missing."""
    with socket.socket() as one:
        one.settimeout(0.1)
        with pytest.raises(AssertionError, match=r"asks the network for 192\.0\.2\.1"):
            one.connect(("192.0.2.1", 80))


def test_this_machine_is_no_network() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname(), timeout=5).close()

"""Tests of the limits on connections, without a network."""

from types import SimpleNamespace

import pytest
from uvicorn import Config
from uvicorn.server import ServerState

from video_module.web import connections
from video_module.web.connections import Connection


@pytest.fixture(autouse=True)
def _few(monkeypatch):
    monkeypatch.setattr(connections, "_MAX_EACH", 3)
    monkeypatch.setattr(connections, "_MAX_ALL", 5)
    monkeypatch.setattr(connections, "_open", type(connections._open)())


class Transport:
    """The server's end of a connection from an address."""

    is_aborted = False

    def __init__(self, address: str) -> None:
        self._address = address

    def get_extra_info(self, name: str):
        return (self._address, 1) if name in ("peername", "sockname") else None

    def abort(self) -> None:
        self.is_aborted = True

    def close(self) -> None:
        pass


def connect(address: str) -> Connection | None:
    """Open a connection from an address; None if it was refused."""
    timer = SimpleNamespace(cancel=lambda: None)
    loop = SimpleNamespace(call_later=lambda *_: timer)
    config = Config(lambda scope, receive, send: None, lifespan="off", log_config=None)
    connection = Connection(config, ServerState(), {}, _loop=loop)
    connection.connection_made(transport := Transport(address))
    return None if transport.is_aborted else connection


@pytest.mark.parametrize("addresses", [["192.168.7.9"] * 4, [f"2001:db8:1:2::{number}" for number in range(1, 5)]])
def test_one_visitor_cannot_take_all_connections(addresses):
    """A visitor with IPv6 has a whole /64 network of addresses."""
    *first, last = [connect(address) for address in addresses]
    assert all(first) and last is None
    assert connect("203.0.113.7") and connect("2001:db8:1:3::1")
    assert connect("203.0.113.8") is None  # as many as there may be in all


def test_a_closed_connection_makes_room():
    *_, last = [connect("2001:db8:1:2::1") for _ in range(3)]
    last.connection_lost(None)
    assert connect("2001:db8:1:2::2") and connect("2001:db8:1:2::3") is None


def test_a_proxy_on_this_machine_may_have_more():
    assert all(connect("::1") for _ in range(5))

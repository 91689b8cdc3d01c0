"""Real TCP connections through a cable into a second network namespace, cut by the kernel."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import IPv4Network, ip_network

import pytest

from amiwatch.firewall import sessions
from amiwatch.firewall.scope import EVERYTHING, Scope
from amiwatch.testing.netns import Wire

pytestmark = pytest.mark.kernel

ATTACKER, PHONE = {4: "198.51.100.7", 6: "2001:db8:bad::7"}, {4: "203.0.113.9", 6: "2001:db8:cafe::9"}
NETWORKS = {4: ip_network("198.51.100.7/32"), 6: ip_network("2001:db8:bad::/64")}


@pytest.fixture(params=[4, 6])
def family(request: pytest.FixtureRequest) -> int:
    return request.param


@contextmanager
def listening(address: str, port: int) -> Iterator[socket.socket]:
    kind = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(kind, socket.SOCK_STREAM) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.settimeout(5)
        server.bind((address, port))
        server.listen()
        yield server


class Session:
    """Both ends of a connection."""

    def __init__(self, wire: Wire, server: socket.socket, far: str) -> None:
        family = 6 if ":" in far else 4
        self.far = wire.far_socket(far, socket.SOCK_STREAM)
        self.far.settimeout(5)
        self.far.connect((wire.here[family], server.getsockname()[1]))
        self.near, _ = server.accept()
        self.near.settimeout(5)

    def is_alive(self) -> bool:
        self.near.sendall(b"ping")
        return self.far.recv(4) == b"ping"

    def is_cut(self) -> bool:
        """Tell whether our program was told that it ended, and the peer got a reset."""
        with pytest.raises(ConnectionAbortedError):
            self.near.recv(4)
        with pytest.raises(ConnectionResetError):
            self.far.recv(4)
        return True

    def close(self) -> None:
        self.near.close()
        self.far.close()


@pytest.fixture
def open_session(wire: Wire):
    with ExitStack() as stack:

        def make(far: str, *, port: int = 5061, at: str | None = None) -> Session:
            near = at or wire.here[6 if ":" in far else 4]
            session = Session(wire, stack.enter_context(listening(near, port)), far)
            stack.callback(session.close)
            return session

        yield make


def test_the_sessions_of_a_source_are_cut_and_no_others(open_session, family: int) -> None:
    attacker, phone = open_session(ATTACKER[family], port=5061), open_session(PHONE[family], port=8089)
    assert sessions.cut([NETWORKS[family]], Scope()) == 1
    assert attacker.is_cut()
    assert phone.is_alive()
    assert sessions.cut([NETWORKS[family]], Scope()) == 0


def test_a_session_to_another_port_of_ours_stays(open_session, family: int) -> None:
    shell = open_session(ATTACKER[family], port=2222)
    assert sessions.cut([NETWORKS[family]], Scope()) == 0
    assert shell.is_alive()
    assert sessions.cut([NETWORKS[family]], EVERYTHING) == 1
    assert shell.is_cut()


def test_a_spared_port_is_left_alone_whatever_the_scope(open_session, family: int) -> None:
    shell, sip = open_session(ATTACKER[family], port=2222), open_session(ATTACKER[family], port=5060)
    assert sessions.cut([NETWORKS[family]], EVERYTHING, lambda: {2222}) == 1
    assert sip.is_cut()
    assert shell.is_alive()


def test_ipv4_at_a_socket_for_both_families_is_cut(open_session) -> None:
    attacker = open_session(ATTACKER[4], at="::")
    assert sessions.cut([NETWORKS[4]], Scope()) == 1
    assert attacker.is_cut()


def test_what_we_opened_ourselves_stays(wire: Wire) -> None:
    with wire.far_socket(ATTACKER[4], socket.SOCK_STREAM, port=5060) as far:
        far.listen()
        with socket.create_connection((ATTACKER[4], 5060), timeout=5, source_address=(wire.here[4], 0)) as near:
            assert sessions.cut([NETWORKS[4]], Scope()) == 0
            near.sendall(b"a call to our carrier")


def test_udp_sockets_and_those_that_listen_stay(wire: Wire, family: int) -> None:
    with wire.receiver(5060, family) as udp, listening(wire.here[family], 5060) as tcp:
        wire.send_from(ATTACKER[family], 5060, b"before")
        assert udp.recv(10) == b"before"
        assert sessions.cut([NETWORKS[family]], EVERYTHING) == 0
        wire.send_from(ATTACKER[family], 5060, b"after")
        assert udp.recv(10) == b"after"
        Session(wire, tcp, PHONE[family]).close()


@pytest.mark.parametrize("place", [0, 1, 57, 99, 100, 249])
def test_one_of_many_networks_is_found_wherever_it_stands(open_session, family: int, place: int) -> None:
    attacker = open_session(ATTACKER[family])
    many = [IPv4Network((0xCB007100 + number, 32)) for number in range(250)]
    many[place] = NETWORKS[family]
    assert sessions.cut(many, Scope()) == 1
    assert attacker.is_cut()


def test_a_network_by_hand_holds_all_its_sources(open_session) -> None:
    first, second = open_session("198.51.100.7", port=5060), open_session("198.51.100.99", port=8088)
    assert sessions.cut([ip_network("198.51.100.0/24")], Scope()) == 2
    assert first.is_cut()
    assert second.is_cut()

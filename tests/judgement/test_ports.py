"""Asterisk's ports, learned from its events."""

import pytest

from amiwatch.judgement.ports import ENOUGH, MAX_CANDIDATES, LocalPort, LocalPorts
from amiwatch.testing.builders import Case, attempt_events

MOVED = "IPV4/UDP/192.0.2.10/38000"


def learned(case, *, times=1, local=MOVED, **details):
    ports = LocalPorts()
    for _ in range(times):
        for event in attempt_events(case, LocalAddress=local, **details):
            ports.see(event, "office")
    return ports.drain()


def test_a_login_over_udp_teaches_the_port_at_once():
    assert learned(Case.RIGHT_PASSWORD) == {LocalPort("udp", 38000): "office"}


def test_what_one_forged_packet_can_cause_teaches_nothing():
    assert learned(Case.UNMATCHED) == {}
    assert learned(Case.UNMATCHED, times=ENOUGH - 1) == {}
    assert learned(Case.UNMATCHED, times=ENOUGH) == {LocalPort("udp", 38000): "office"}


@pytest.mark.parametrize("transport", ["TCP", "TLS", "WS", "WSS"])
def test_whoever_shook_hands_teaches_the_port_at_once(transport):
    local = f"IPV4/{transport}/192.0.2.10/8443"
    assert learned(Case.UNMATCHED, local=local, transport=transport) == {LocalPort("tcp", 8443): "office"}


def test_our_own_login_teaches_the_port_of_the_manager_interface():
    local = "IPV4/TCP/127.0.0.1/5138"
    assert learned(Case.AMI_RIGHT_SECRET, local=local) == {LocalPort("tcp", 5138): "office"}


def test_an_event_behind_a_broken_block_teaches_nothing():
    ports = LocalPorts()
    for event in attempt_events(Case.RIGHT_PASSWORD, LocalAddress=MOVED) * 10:
        ports.see(event._replace(tainted=True), "office")
    assert ports.drain() == {}


def test_a_nonsense_local_address_teaches_nothing():
    assert learned(Case.UNMATCHED, times=10, local="IPV6/UDP/(null)/(null)") == {}


def test_it_is_told_once():
    ports = LocalPorts()
    for event in attempt_events(Case.RIGHT_PASSWORD, LocalAddress=MOVED) * 3:
        ports.see(event, "office")
    assert len(ports.drain()) == 1
    assert ports.drain() == {}


def test_memory_is_bounded_and_what_had_no_room_is_counted():
    ports = LocalPorts()
    for number in range(MAX_CANDIDATES + 5):
        for event in attempt_events(Case.UNMATCHED, LocalAddress=f"IPV4/UDP/192.0.2.10/{20000 + number}"):
            ports.see(event, "office")
    assert ports.overlooked == 5
    assert ports.drain() == {}

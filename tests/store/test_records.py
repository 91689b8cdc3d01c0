from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amiwatch.judgement.values import Evidence, IPNetwork
from amiwatch.store.records import (
    MAX_EVIDENCE,
    address_text,
    bounded,
    counted_network,
    covering_keys,
    evidence_from,
    evidence_json,
    key_network,
    key_range,
    network_key,
)

addresses = st.ip_addresses()
networks = st.builds(
    lambda address, prefix: ip_network((address, prefix % (address.max_prefixlen + 1)), strict=False),
    addresses,
    st.integers(0, 128),
)


@given(networks)
def test_a_key_gives_its_network_back(network: IPNetwork) -> None:
    assert key_network(network_key(network)) == network


@given(networks, networks)
def test_keys_tell_what_lies_inside_a_network(outer: IPNetwork, inner: IPNetwork) -> None:
    first, last = key_range(outer)
    is_inside = outer.version == inner.version and inner.subnet_of(outer)  # type: ignore[arg-type]
    assert (first <= network_key(inner) <= last) == is_inside
    assert (network_key(outer) in covering_keys(inner)) == is_inside


@pytest.mark.parametrize(
    ("network", "text"), [("192.0.2.7/32", "192.0.2.7"), ("192.0.2.0/24", "192.0.2.0/24"), ("2001:db8::/64",) * 2]
)
def test_a_single_address_is_written_without_its_prefix(network: str, text: str) -> None:
    assert address_text(ip_network(network)) == text


def test_an_ipv6_address_is_counted_as_its_64() -> None:
    assert counted_network(ip_network("2001:db8::7/128")) == ip_network("2001:db8::/64")
    assert counted_network(ip_network("2001:db8::/48")) == ip_network("2001:db8::/48")
    assert counted_network(ip_network("192.0.2.7/32")) == ip_network("192.0.2.7/32")


def test_the_key_of_an_address_is_that_of_its_network() -> None:
    assert network_key(ip_address("192.0.2.7")) == network_key(ip_network("192.0.2.7/32"))


def test_too_much_evidence_keeps_its_begin_and_its_end() -> None:
    events = [Evidence(float(n), "ChallengeSent", "PJSIP", "100", "s", "UDP", "192.0.2.7", 5060) for n in range(100)]
    kept = evidence_from(evidence_json(events))
    assert len(kept) == MAX_EVIDENCE
    assert (kept[0], kept[-1]) == (events[0], events[-1])


@given(st.text(st.characters(), max_size=300))
def test_any_text_becomes_one_that_sqlite_can_hold(text: str) -> None:
    assert len(bounded(text).encode()) <= 4 * 128


def test_a_lone_surrogate_becomes_a_question_mark() -> None:
    assert bounded("a\udcffb") == "a?b"

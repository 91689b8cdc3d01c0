"""Real entries of connection tracking, made by real packets, and deleted."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from ipaddress import ip_network

import pytest

from amiwatch.firewall import connections
from amiwatch.testing.netns import Wire
from tests.firewall.conftest import SBIN, talk

pytestmark = pytest.mark.kernel

TABLE = "inet elsewhere"


def nft(script: str) -> None:
    subprocess.run(["nft", "-f", "-"], input=script, text=True, check=True, env={**os.environ, "PATH": SBIN})


@pytest.fixture
def guarded(wire: Wire) -> Iterator[Wire]:
    """Let an administrator's firewall accept what is established, before it drops a set of his."""
    nft(f"""
        add table {TABLE}
        add set {TABLE} mine {{ type ipv4_addr; }}
        add set {TABLE} mine6 {{ type ipv6_addr; }}
        add chain {TABLE} input {{ type filter hook input priority 0; }}
        add rule {TABLE} input ct state established accept
        add rule {TABLE} input ip saddr @mine drop
        add rule {TABLE} input ip6 saddr @mine6 drop
    """)
    yield wire
    nft(f"delete table {TABLE}")


@pytest.mark.parametrize(
    ("attacker", "phone", "network", "mine"),
    [
        ("198.51.100.7", "203.0.113.9", "198.51.100.7/32", "mine"),
        ("198.51.100.7", "203.0.113.9", "198.51.100.0/24", "mine"),
        ("2001:db8:bad::7", "2001:db8:cafe::9", "2001:db8:bad::/64", "mine6"),
    ],
)
def test_what_was_established_is_new_again_and_dropped(
    guarded: Wire, attacker: str, phone: str, network: str, mine: str
) -> None:
    family = 6 if ":" in attacker else 4
    connections.forget([ip_network(network)])  # what earlier tests left here
    assert talk(guarded, attacker, family)
    assert talk(guarded, phone, family)
    nft(f"add element {TABLE} {mine} {{ {attacker}, {phone} }}")
    assert talk(guarded, attacker, family), "established is accepted, whoever is banned"
    assert connections.are_tracked()

    assert connections.forget([ip_network(network)]) == 1

    assert not talk(guarded, attacker, family)
    assert talk(guarded, phone, family), "the others keep their entries"
    assert connections.forget([ip_network(network)]) == 0

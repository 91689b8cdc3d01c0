import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Network, IPv6Network, ip_address
from itertools import count
from typing import NamedTuple, TypeVar

import pytest

from amiwatch.firewall import libnftables
from amiwatch.firewall.base import Entry, Firewall
from amiwatch.firewall.ipset import IpsetFirewall
from amiwatch.firewall.nftables import NftablesFirewall
from amiwatch.firewall.nftables_rule import NftablesRule
from amiwatch.firewall.rule import DropRule, Rule
from amiwatch.judgement.values import IPNetwork, source_network
from amiwatch.testing.netns import Wire

SBIN = f"{os.environ['PATH']}:/usr/sbin:/sbin"
"""Where programs are; ordinary users have no sbin in their PATH."""

_numbers = count()


def run(*command: str, text: str | None = None) -> str:
    """Do what an administrator does at a prompt, ``text`` being typed in; returns what was printed."""
    environ = {**os.environ, "PATH": SBIN}
    return subprocess.run(command, input=text, check=True, capture_output=True, text=True, env=environ).stdout


Real = TypeVar("Real", IpsetFirewall, NftablesFirewall)


def many(number: int) -> list[IPNetwork]:
    """Networks of both families and of several widths."""
    fours = [IPv4Network((0x0A000000 + 256 * i, 32 if i % 3 else 24)) for i in range(number // 2)]
    sixes = [IPv6Network(((0x20010DB8 << 96) + (i << 64), 64 if i % 5 else 128)) for i in range(number - number // 2)]
    return [*fours, *sixes]


async def networks(firewall: Firewall) -> set[IPNetwork]:
    return {entry.network for entry in await firewall.entries()}


@pytest.fixture
def iptables_present():
    if not shutil.which("iptables", path=SBIN):
        pytest.skip("iptables is not installed")


@asynccontextmanager
async def fresh_ipset(maxelem: int = 1000) -> AsyncIterator[IpsetFirewall]:
    """Open sets that no other test has seen, and leave none behind."""
    async with _fresh(IpsetFirewall(prefix=f"test{next(_numbers)}-", maxelem=maxelem)) as firewall:
        yield firewall


@asynccontextmanager
async def fresh_nftables(maxelem: int = 1000) -> AsyncIterator[NftablesFirewall]:
    """Open a table that no other test has seen, and leave none behind."""
    if why := libnftables.missing():
        pytest.skip(why)
    async with _fresh(NftablesFirewall(prefix=f"test{next(_numbers)}-", maxelem=maxelem)) as firewall:
        yield firewall


@asynccontextmanager
async def _fresh(firewall: Real) -> AsyncIterator[Real]:
    await firewall.open()
    try:
        yield firewall
    finally:
        try:
            await firewall.remove_sets()
        finally:
            await firewall.close()


@pytest.fixture
async def ipset() -> AsyncIterator[IpsetFirewall]:
    async with fresh_ipset() as firewall:
        yield firewall


@pytest.fixture
async def nftables() -> AsyncIterator[NftablesFirewall]:
    async with fresh_nftables() as firewall:
        yield firewall


def settled(wire: Wire, *families: int) -> None:
    """Wait until all packets that were sent are handled: one of a phone, sent behind them to an open port, arrives."""
    for family in families:
        with wire.receiver(5062, family) as phone:
            wire.send_from({4: "203.0.113.99", 6: "2001:db8:cafe::99"}[family], 5062, b"behind")
            assert phone.recv(10) == b"behind"


def talk(wire: Wire, far: str, family: int) -> bool:
    """Send a packet and answer it, so that a connection is established; tell whether it arrived."""
    with wire.receiver(5060, family, timeout=0.5) as pbx:
        wire.send_from(far, 5060, b"REGISTER")
        try:
            _, sender = pbx.recvfrom(100)
        except TimeoutError:
            return False
        pbx.sendto(b"401", sender)
        return True


VARIANTS = {
    "default": {4: "iptables", 6: "ip6tables"},
    "legacy": {4: "iptables-legacy", 6: "ip6tables-legacy"},
}
STRANGER = {4: "198.51.100.7", 6: "2001:db8:bad::7"}
PHONE = {4: "203.0.113.20", 6: "2001:db8:cafe::20"}


class Guard(NamedTuple):
    """Sets, and what drops who is in them."""

    firewall: IpsetFirewall | NftablesFirewall
    rule: Rule


@pytest.fixture(params=["iptables", "legacy", "nftables"])
async def guard(request: pytest.FixtureRequest, iptables_present: None) -> AsyncIterator[Guard]:
    """Every way to drop; nothing is placed yet."""
    programs = VARIANTS["legacy" if request.param == "legacy" else "default"]
    if missing := [program for program in programs.values() if not shutil.which(program, path=SBIN)]:
        pytest.skip(f"not installed: {', '.join(missing)}")
    async with (fresh_nftables if request.param == "nftables" else fresh_ipset)() as firewall:
        is_table = request.param == "nftables"
        rule: Rule = NftablesRule(firewall.prefix) if is_table else DropRule(firewall.prefix, programs)
        yield Guard(firewall, rule)
        await rule.remove()


def ban(address: str) -> Entry:
    return Entry(source_network(ip_address(address)), 600)


class Pbx:
    """A UDP port of ours, and a way to see which packets reach it."""

    def __init__(self, wire: Wire, family: int, port: int = 5060) -> None:
        self.wire, self.family, self.port = wire, family, port
        self.socket = wire.receiver(port, family)

    def arrived(self, *senders: str) -> list[str]:
        """Send one packet from each, then one from a phone; return who was seen before the phone."""
        for number, sender in enumerate((*senders, PHONE[self.family])):
            self.wire.send_from(sender, self.port, b"REGISTER %d" % number)
        seen: list[str] = []
        while True:
            _, (address, *_) = self.socket.recvfrom(2048)
            if address == PHONE[self.family]:
                return seen
            seen.append(address)


@pytest.fixture(params=[4, 6])
def pbx(request: pytest.FixtureRequest, wire: Wire) -> Iterator[Pbx]:
    endpoint = Pbx(wire, request.param)
    yield endpoint
    endpoint.socket.close()

import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Network, IPv6Network
from itertools import count
from typing import TypeVar

import pytest

from amiwatch.firewall import libnftables
from amiwatch.firewall.base import Firewall
from amiwatch.firewall.ipset import IpsetFirewall
from amiwatch.firewall.nftables import NftablesFirewall
from amiwatch.judgement.values import IPNetwork
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

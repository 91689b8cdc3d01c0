"""
What dropping costs: ``python -m bench.drop``, in a network namespace of its own, joined to a second one by a cable.

One core sends packets from an AF_PACKET ring (no system call per packet) and, as the cable has no interrupt, drops
them itself. All variants end in a drop at the same hook, behind ours; what nothing at all is done about are packets to
somebody else's Ethernet address. Of each burst the fastest counts: a busy machine makes bursts longer, never shorter.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv4Network
from typing import NamedTuple

from pyroute2 import IPRoute
from rich.console import Console
from rich.table import Table

from amiwatch.errors import AmiwatchError
from amiwatch.firewall import leftovers, libnftables
from amiwatch.firewall.base import Entry
from amiwatch.firewall.protection import Protection
from amiwatch.firewall.table import make_firewall, make_rule
from amiwatch.judgement.values import IPNetwork
from amiwatch.testing import netns
from bench.firewall import SBIN

ROUNDS = 60
SIZES = (0, 1_000, 1_000_000)
MANY_RULES = 1_000
NAME = "bench"
BANNED, STRANGERS = int(IPv4Address("10.0.0.0")), int(IPv4Address("100.64.0.0"))
PORT = 5060
NOBODY = bytes.fromhex("02ffffffffff")

SOURCES = 16_384
"""Frames in the ring, each from another address: a small set stays in the caches, a large one does not."""

BURST = 512
"""Packets sent at once: a third of a millisecond, in which a busy machine often leaves us alone."""

STEP, LONG_STEP, BLOCK, HEADER = 128, 512, 1 << 16, 32
"""Octets of one frame with its header, of a long one, of one block of frames, and of the header (``tpacket2_hdr``,
aligned)."""

PAYLOAD = b"REGISTER sip"

_SOL_PACKET, _VERSION, _TX_RING, _BYPASS = 263, 10, 13, 20
_TPACKET_V2, _SEND_REQUEST = 1, 1


class Flood:
    """A ring of packets at the far end of a cable, ready to be sent again and again."""

    def __init__(
        self, wire: netns.Wire, target: bytes, address: Callable[[int], int], payload: bytes = PAYLOAD
    ) -> None:
        self._socket = wire.far.run(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0))
        self._socket.setsockopt(_SOL_PACKET, _VERSION, _TPACKET_V2)
        self._socket.setsockopt(_SOL_PACKET, _BYPASS, 1)
        step = STEP if payload == PAYLOAD else LONG_STEP
        ring = struct.pack("4I", BLOCK, SOURCES * step // BLOCK, step, SOURCES)
        self._socket.setsockopt(_SOL_PACKET, _TX_RING, ring)
        self._socket.bind(("wire1", 0x0800))
        self._ring = mmap.mmap(self._socket.fileno(), SOURCES * step)
        for number in range(SOURCES):
            packet = target + NOBODY + b"\x08\0" + datagram(address(number), payload)
            place = number * step
            struct.pack_into("=III", self._ring, place, 0, len(packet), len(packet))
            self._ring[place + HEADER : place + HEADER + len(packet)] = packet
        self._status = memoryview(self._ring).cast("I")[:: step // 4]
        self._ready = memoryview(struct.pack("=I", _SEND_REQUEST) * BURST).cast("I")

    def nanoseconds(self) -> float:
        """Return what a packet costs: of each burst the fastest of ROUNDS, of these the mean."""
        best = [min(times) for times in zip(*(list(self._round()) for _ in range(ROUNDS)), strict=True)]
        return sum(best) / SOURCES

    def _round(self) -> Iterator[int]:
        for begin in range(0, SOURCES, BURST):
            self._status[begin : begin + BURST] = self._ready
            before = time.perf_counter_ns()
            self._socket.send(b"")
            yield time.perf_counter_ns() - before

    def close(self) -> None:
        self._status.release()
        self._ring.close()
        self._socket.close()


def datagram(source: int, payload: bytes) -> bytes:
    """Write a UDP packet to our port, without a UDP checksum."""
    udp = struct.pack(">4H", PORT, PORT, 8 + len(payload), 0) + payload
    ip = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0x4000, 64, socket.IPPROTO_UDP, 0)
    ip += source.to_bytes(4, "big") + IPv4Address("192.0.2.1").packed
    total = sum(struct.unpack(">10H", ip))
    total = (total & 0xFFFF) + (total >> 16)
    return ip[:10] + struct.pack(">H", ~(total + (total >> 16)) & 0xFFFF) + ip[12:] + udp


class Row(NamedTuple):
    what: str
    nanoseconds: float


class Bench:
    """Measures, and checks by the counter of the last rule that packets went the way that the row says."""

    def __init__(self, wire: netns.Wire) -> None:
        self._wire = wire
        with IPRoute() as routes:
            self._here = target_of(routes)
        drop_the_rest("prerouting", -299)

    def measured(self, address: Callable[[int], int], *, is_caught: bool, target: bytes = b"") -> float:
        flood = Flood(self._wire, target or self._here, address)
        before = self._arrived()
        nanoseconds = flood.nanoseconds()
        flood.close()
        expected = 0 if is_caught else ROUNDS * SOURCES
        if self._arrived() - before != expected:
            raise SystemExit(f"{self._arrived() - before} packets came through, expected were {expected}")
        return nanoseconds

    @staticmethod
    def _arrived() -> int:
        shown = run("nft", "list", "chain", "inet", "last", "end")
        return int(shown.partition("packets ")[2].split()[0])


def banned(number: int) -> Callable[[int], int]:
    """Spread the sources of a ring over so many bans."""
    return lambda place: BANNED + place * max(1, number // SOURCES) % number


def strangers(place: int) -> int:
    return STRANGERS + place


def run(*command: str, text: str = "") -> str:
    environ = {"PATH": SBIN, "XTABLES_LOCKFILE": os.devnull}
    return subprocess.run(command, input=text, text=True, capture_output=True, check=True, env=environ).stdout


def rows(bench: Bench) -> Iterator[Row]:
    yield Row("sent, and thrown away on arrival", bench.measured(strangers, is_caught=True, target=NOBODY))
    yield Row("dropped by one rule without a set", bench.measured(strangers, is_caught=False))
    with rules(MANY_RULES):
        yield Row(f"{MANY_RULES:,} iptables rules: banned", bench.measured(banned(MANY_RULES), is_caught=True))
        yield Row(f"{MANY_RULES:,} iptables rules: not banned", bench.measured(strangers, is_caught=False))
    for kind in ("ipset", "nftables"):
        for size in SIZES:
            with placed(kind, Protection(), bans=size):
                if size:
                    yield Row(f"{kind}, {size:,} bans: banned", bench.measured(banned(size), is_caught=True))
                yield Row(f"{kind}, {size:,} bans: not banned", bench.measured(strangers, is_caught=False))


@contextmanager
def rules(number: int) -> Iterator[None]:
    """Ban as people do by hand: one rule for each address."""
    lines = [f"-A PREROUTING -s {IPv4Address(BANNED + place)} -j DROP" for place in range(number)]
    run("iptables-restore", text="\n".join(["*raw", *lines, "COMMIT", ""]))
    yield
    run("iptables", "-t", "raw", "-F", "PREROUTING")


@contextmanager
def placed(kind: str, protection: Protection, *, bans: int = 0, exempt: Sequence[IPNetwork] = ()) -> Iterator[None]:
    """Have a firewall of ours drop so many bans, and what else ``protection`` says."""
    firewall, rule = make_firewall(kind, prefix=NAME), make_rule(kind, NAME)
    if rule is None:
        raise SystemExit(f"{kind} has no rule")

    async def build() -> None:
        await firewall.open()
        await firewall.add([Entry(IPv4Network(BANNED + place), 3600) for place in range(bans)])
        if protection.has_limits:
            await rule.exempt(exempt)
        await rule.install(protection)
        await firewall.close()
        if not (await rule.show()).covers(protection):
            raise SystemExit(f"{kind}: the rule is not what was asked for")

    asyncio.run(build())
    yield
    asyncio.run(leftovers.remove(kind, NAME))


def target_of(routes: IPRoute) -> bytes:
    """Return the Ethernet address of our end of the cable."""
    link = routes.link("get", index=routes.link_lookup(ifname="wire0")[0])[0]
    return bytes.fromhex(link.get_attr("IFLA_ADDRESS").replace(":", ""))


def drop_the_rest(hook: str, priority: int) -> None:
    """Let what passes our hooks end in a drop right behind them."""
    libnftables.run(
        "add table inet last\n"
        f"add chain inet last end {{ type filter hook {hook} priority {priority}; }}\n"
        f"add rule inet last end udp dport {PORT} counter drop"
    )


def show(title: str, found: Iterable[Row]) -> None:
    """Print what each row costs."""
    table = Table("a packet", "ns", "packets/s of one core", title=f"{title}, {SOURCES:,} sources", box=None)
    for row in found:
        table.add_row(row.what, f"{row.nanoseconds:.0f}", f"{1e9 / row.nanoseconds:,.0f}")
    Console(width=100).print(table)


def report() -> None:
    with netns.Wire() as wire:
        show("dropping", rows(Bench(wire)))


def main(report: Callable[[], None]) -> int:
    """Report from a network namespace of its own; return the exit code."""
    os.environ.setdefault("XTABLES_LOCKFILE", os.devnull)
    try:
        netns.enter()
        report()
    except (netns.NamespaceRefused, AmiwatchError) as exc:
        print(f"Skipped: {exc}", file=sys.stderr)
        return 69
    return 0


if __name__ == "__main__":
    sys.exit(main(report))

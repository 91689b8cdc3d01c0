"""
What limits cost a packet: ``python -m bench.limits``, in a network namespace of its own, as ``bench.drop`` does it.

All that our hooks let pass ends in a drop right behind them (input, priority -149), before any socket.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Network, IPv6Network

from pyroute2 import IPRoute
from rich.console import Console
from rich.table import Table

from amiwatch.config.texts import SIGNATURES
from amiwatch.errors import AmiwatchError
from amiwatch.firewall import libnftables
from amiwatch.firewall.protection import Protection, Tier
from amiwatch.firewall.table import make_firewall, make_rule
from amiwatch.testing import netns
from bench.drop import NAME, PAYLOAD, PORT, STRANGERS, Flood, Row, strangers

TIERS = Tier.parse("3/60s,5/180s,10/300s,20/600s,100/3600s")
REQUEST = "\r\n".join(
    [
        "REGISTER sip:pbx.example.com SIP/2.0",
        "Via: SIP/2.0/UDP 192.0.2.7:5060;branch=z9hG4bK7f3a",
        "Max-Forwards: 70",
        "From: <sip:1001@pbx.example.com>;tag=8f2",
        "To: <sip:1001@pbx.example.com>",
        "Call-ID: 843817637684230@998sdasdh09",
        "CSeq: 1826 REGISTER",
        "User-Agent: Yealink SIP-T46S 66.86.0.15",
        "Contact: <sip:1001@192.0.2.7>\r\n\r\n",
    ]
).encode()
"""A request of usual size: what is searched for names."""

EVERYBODY = IPv4Network((STRANGERS, 10))
NEIGHBOURS = IPv4Network("192.0.2.0/24")
SOMEBODY = IPv6Network("2001:db8::/32")


def rows(wire: netns.Wire, target: bytes) -> Iterator[Row]:
    def measured(payload: bytes = PAYLOAD) -> float:
        flood = Flood(wire, target, strangers, payload)
        try:
            return flood.nanoseconds()
        finally:
            flood.close()

    for kind in ("ipset", "nftables"):
        with placed(kind, Protection()):
            yield Row(f"{kind}, bans only", measured())
        with placed(kind, Protection(tiers=TIERS)):
            yield Row(f"{kind}, five tiers: a stranger beyond the first", measured())
        with placed(kind, Protection(tiers=TIERS), exempt=EVERYBODY):
            yield Row(f"{kind}, five tiers: exempt", measured())
    with placed("ipset", Protection()):
        yield Row("ipset, bans only, whole request", measured(REQUEST))
    with placed("ipset", Protection(signatures=SIGNATURES)):
        yield Row(f"ipset, {len(SIGNATURES)} signatures: a stranger without one", measured(REQUEST))
    with placed("ipset", Protection(signatures=SIGNATURES), exempt=EVERYBODY):
        yield Row(f"ipset, {len(SIGNATURES)} signatures: exempt", measured(REQUEST))


@contextmanager
def placed(kind: str, protection: Protection, exempt: IPv4Network = NEIGHBOURS) -> Iterator[None]:
    firewall, rule = make_firewall(kind, prefix=NAME), make_rule(kind, NAME)
    if rule is None:
        raise SystemExit(f"{kind} has no rule")

    async def build() -> None:
        await firewall.open()
        if protection.has_limits:
            # Somebody of each family, or no limit is placed.
            await rule.exempt([exempt, SOMEBODY])
        await rule.install(protection)
        await firewall.close()
        if not (await rule.show()).covers(protection):
            raise SystemExit(f"{kind}: the limits are not there")

    async def clear() -> None:
        await rule.remove()
        await firewall.remove_sets()
        await firewall.close()

    asyncio.run(build())
    yield
    asyncio.run(clear())


def report() -> None:
    table = Table("a packet", "ns", "packets/s of one core", title="limits, 16,384 sources", box=None)
    with netns.Wire() as wire, IPRoute() as routes:
        link = routes.link("get", index=routes.link_lookup(ifname="wire0")[0])[0]
        libnftables.run(
            "add table inet last\n"
            "add chain inet last end { type filter hook input priority -149; }\n"
            f"add rule inet last end udp dport {PORT} counter drop"
        )
        for row in rows(wire, bytes.fromhex(link.get_attr("IFLA_ADDRESS").replace(":", ""))):
            table.add_row(row.what, f"{row.nanoseconds:.0f}", f"{1e9 / row.nanoseconds:,.0f}")
    Console(width=100).print(table)


def main() -> int:
    os.environ.setdefault("XTABLES_LOCKFILE", os.devnull)
    try:
        netns.enter()
        report()
    except (netns.NamespaceRefused, AmiwatchError) as exc:
        print(f"Skipped: {exc}", file=sys.stderr)
        return 69
    return 0


if __name__ == "__main__":
    sys.exit(main())

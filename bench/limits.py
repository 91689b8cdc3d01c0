"""
What limits cost a packet: ``python -m bench.limits``, in a network namespace of its own, as ``bench.drop`` does it.

All that our hooks let pass ends in a drop right behind them (input, priority -149), before any socket.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Network

from pyroute2 import IPRoute

from amiwatch.config.texts import SIGNATURES
from amiwatch.firewall.protection import Protection, Tier
from amiwatch.testing import netns
from bench.drop import PAYLOAD, STRANGERS, Flood, Row, drop_the_rest, main, placed, show, strangers, target_of

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

SOMEBODY = IPv6Network("2001:db8::/32")
NEIGHBOURS = [IPv4Network("192.0.2.0/24"), SOMEBODY]
EVERYBODY = [IPv4Network((STRANGERS, 10)), SOMEBODY]
"""Who is exempt: somebody of each family, or no limit is placed."""


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
        with placed(kind, Protection(tiers=TIERS), exempt=NEIGHBOURS):
            yield Row(f"{kind}, five tiers: a stranger beyond the first", measured())
        with placed(kind, Protection(tiers=TIERS), exempt=EVERYBODY):
            yield Row(f"{kind}, five tiers: exempt", measured())
    with placed("ipset", Protection()):
        yield Row("ipset, bans only, whole request", measured(REQUEST))
    with placed("ipset", Protection(signatures=SIGNATURES), exempt=NEIGHBOURS):
        yield Row(f"ipset, {len(SIGNATURES)} signatures: a stranger without one", measured(REQUEST))
    with placed("ipset", Protection(signatures=SIGNATURES), exempt=EVERYBODY):
        yield Row(f"ipset, {len(SIGNATURES)} signatures: exempt", measured(REQUEST))


def report() -> None:
    with netns.Wire() as wire, IPRoute() as routes:
        drop_the_rest("input", -149)
        show("limits", rows(wire, target_of(routes)))


if __name__ == "__main__":
    sys.exit(main(report))

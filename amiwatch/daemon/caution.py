"""
Whether a ban by hand would cut off somebody who should not be.

Rule 1: what every packet of this machine needs (loopback, its own addresses) is never banned, whoever insists.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from amiwatch.daemon.host import OWN
from amiwatch.judgement.networks import NetworkTable
from amiwatch.judgement.safe import ALWAYS
from amiwatch.judgement.values import IPNetwork

WIDEST = {4: 16, 6: 32}
"""Shortest prefix of a ban by hand that nobody has to insist on: more is a slip of the finger."""


class Objection(NamedTuple):
    """Why a network is not banned, in a sentence."""

    text: str
    is_final: bool
    """Nobody can insist."""


def objection(network: IPNetwork, allowed: NetworkTable[str], found: Mapping[IPNetwork, str]) -> Objection | None:
    """Say what speaks against a ban by hand, with the ``safe_networks`` of now; None if nothing does."""
    own = {other: why for other, why in found.items() if why == OWN}
    if safe := _first(network, ALWAYS) or _first(network, own):
        return Objection(_never(network, *safe), is_final=True)
    if network.prefixlen < WIDEST[network.version]:
        return Objection(f"{network} is wider than a /{WIDEST[network.version]}: not banned", is_final=False)
    if safe := allowed.overlapping(network) or _first(network, found):
        return Objection(_never(network, *safe), is_final=False)
    return None


def _first(network: IPNetwork, networks: Mapping[IPNetwork, str]) -> tuple[IPNetwork, str] | None:
    matching = (pair for pair in networks.items() if pair[0].version == network.version)
    return next((pair for pair in matching if pair[0].overlaps(network)), None)


def _never(network: IPNetwork, safe: IPNetwork, why: str) -> str:
    return f"{network} is never banned: {'it' if safe == network else safe} is {why}"

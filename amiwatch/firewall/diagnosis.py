"""
Why a ban drops nothing: what is there now, asked of the kernel step by step, and the remedy.

Rule 1: nothing is changed, and what may not be looked at is left out.

Rule 2: the first thing that is wrong is told; each is one row of ``CAUSES``.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from amiwatch.errors import FirewallError, FirewallPermission
from amiwatch.firewall.base import Firewall
from amiwatch.firewall.protection import Protection
from amiwatch.firewall.rule import FamilyRule, Rule
from amiwatch.judgement.values import IPNetwork

SOCKETS = Path("/proc/net")
"""Sockets of the network namespace that we are in, for everybody to read (proc(5))."""

_LISTEN, _UNCONNECTED = "0A", "07"
"""States in which a TCP or UDP socket waits for anybody, as /proc/net writes them (net/tcp_states.h)."""


class Cause(NamedTuple):
    """What is wrong, and what to do about it."""

    kind: str
    """A row of ``CAUSES``."""
    text: str
    remedy: str


CAUSES = {
    "dry_run": (
        "AMIWATCH_FIREWALL is none, a dry run: nothing is ever dropped",
        "Set AMIWATCH_FIREWALL=auto, and restart the daemon",
    ),
    "refused": ("the kernel does not do as it is told: {}", "Mend that; amiwatch check, as root, shows more"),
    "no_set": (
        "the kernel has no set {}: something destroys it",
        "Find what flushes the firewall (a cron job, another firewall's reload), and keep it off our sets",
    ),
    "not_in_set": (
        "the kernel's set does not hold it: something takes entries out",
        "Find what flushes the sets (a cron job, another firewall's reload), and keep it off ours",
    ),
    "no_rule": ("no rule looks into our set {}", "Run amiwatch firewall install as root"),
    "other_port": (
        "it comes to {} port {}, which is not among the ports that are closed",
        "Add the port to AMIWATCH_PORTS, as in voip,{}/{}",
    ),
    "late_rule": (
        "our rule is number {} in {}, and a rule before it may accept",
        "Run amiwatch firewall install as root, which puts it first",
    ),
    "wrong_rule": (
        "our rule in {} does not drop what the settings say",
        "Run amiwatch firewall install as root",
    ),
    "elsewhere": (
        "nobody listens at {} port {} in this network namespace, so Asterisk runs in another one: a container, a "
        "virtual machine, another host",
        "Run amiwatch where Asterisk's packets come in: in its network namespace (docker run --network container:…), "
        "or on the host that forwards them",
    ),
    "other_host": (
        "its packets do not come by our rule with this address, and its Asterisk is at {}, which is no address of this "
        "host: a container, a virtual machine, another host",
        "Run amiwatch where Asterisk's packets come in: in its network namespace (docker run --network container:…), "
        "or on the host that forwards them",
    ),
    "own_rule": (
        "the rule is left to you (AMIWATCH_DROP_RULE=manual); it looks into our set, but does not drop this: it stands "
        "behind an accept, or is for other ports or interfaces",
        "Place it first in raw PREROUTING, or set AMIWATCH_DROP_RULE=managed",
    ),
    "other_way": (
        "the kernel drops packets of it, and others reach Asterisk by another way: a second network, a tunnel, a "
        "network card that forwards by itself",
        "Look where Asterisk gets them from: tcpdump -ni any host {}",
    ),
    "other_address": (
        "no packet that carries this address comes by our rule: a proxy or address translation puts it in on its way "
        "to Asterisk",
        "Stop the source where its own address is still to be seen (the proxy, the router), and allow the proxy here",
    ),
}
"""Each thing that can be wrong, in words, and its remedy."""


@dataclass(frozen=True, slots=True)
class Suspect:
    """A banned source that still arrives, and where."""

    network: IPNetwork
    protocol: str
    """``udp`` or ``tcp``."""
    port: int
    """Asterisk's own; 0 where it is not known."""
    host: str = ""
    """Where that Asterisk is, if it is not on this host."""


async def diagnose(
    suspect: Suspect,
    firewall: Firewall,
    rule: Rule | None,
    protection: Protection,
    *,
    dropped_before: int | None = None,
) -> Cause:
    """
    Find out why the packets of a banned source are not dropped.

    ``rule`` is None where it is the administrator's. ``dropped_before`` is what the counter of the ban said some events
    ago; None where nobody looked.
    """
    try:
        fault = await fault_here(suspect, firewall, rule, protection)
        return fault or await _way_fault(suspect, firewall, rule, dropped_before)
    except FirewallError as error:
        return cause("refused", str(error).rstrip("."))


async def fault_here(suspect: Suspect, firewall: Firewall, rule: Rule | None, protection: Protection) -> Cause | None:
    """Tell what is wrong with our sets and rule; None if nothing is. Raises FirewallError."""
    if firewall.name == "none":
        return cause("dry_run")
    return await _set_fault(suspect, firewall) or await _rule_fault(suspect, firewall, rule, protection)


async def _set_fault(suspect: Suspect, firewall: Firewall) -> Cause | None:
    family = suspect.network.version
    if not any(state.family == family for state in await firewall.states()):
        return cause("no_set", f"for IPv{family}")
    return None if await firewall.has(suspect.network) else cause("not_in_set")


async def _rule_fault(suspect: Suspect, firewall: Firewall, rule: Rule | None, protection: Protection) -> Cause | None:
    family, where = suspect.network.version, (suspect.protocol, suspect.port)
    (state,) = [state for state in await firewall.states() if state.family == family]
    if not state.references:
        return cause("no_rule", state.name)
    if rule is not None and suspect.port and not protection.scope.has(*where):
        return Cause("other_port", *_filled("other_port", where, where[::-1]))
    with suppress(FirewallPermission):  # then the sets alone tell, and do
        placed = [one for one in (await rule.show()).families if one.family == family] if rule else []
        return next((fault for one in placed if (fault := _placed_fault(one, protection))), None)
    return None


def _placed_fault(one: FamilyRule, protection: Protection) -> Cause | None:
    if not one.is_present:
        return cause("no_rule", one.set_name)
    if one.position != 1:
        return cause("late_rule", str(one.position), one.place)
    return None if one.closes(protection.scope) else cause("wrong_rule", one.place)


async def _way_fault(suspect: Suspect, firewall: Firewall, rule: Rule | None, dropped_before: int | None) -> Cause:
    entry = await firewall.entry(suspect.network)
    if entry is not None and dropped_before is not None and entry.packets > dropped_before:
        return Cause("other_way", *_filled("other_way", (), (suspect.network,)))
    if suspect.host:
        return cause("other_host", suspect.host)
    where = (suspect.protocol, suspect.port)
    if suspect.port and not await asyncio.to_thread(_is_open, *where):
        return cause("elsewhere", *where)
    return cause("own_rule" if rule is None else "other_address")


def _is_open(protocol: str, port: int) -> bool:
    """Tell whether anybody listens at a port in this network namespace; True where that can't be seen."""
    wanted = _LISTEN if protocol == "tcp" else _UNCONNECTED
    try:
        lines = [line.split() for name in (protocol, f"{protocol}6") for line in _table(name)]
    except OSError:
        return True
    return any(words[3] == wanted and int(words[1].rpartition(":")[2], 16) == port for words in lines)


def _table(name: str) -> list[str]:
    try:
        return (SOCKETS / name).read_text(encoding="ascii").splitlines()[1:]
    except FileNotFoundError:
        return []  # a kernel without IPv6


def cause(kind: str, *details: object) -> Cause:
    """Put details into the words of a row."""
    return Cause(kind, *_filled(kind, details, ()))


def _filled(kind: str, details: tuple[object, ...], remedy_details: tuple[object, ...]) -> tuple[str, str]:
    text, remedy = CAUSES[kind]
    return text.format(*details), remedy.format(*remedy_details)

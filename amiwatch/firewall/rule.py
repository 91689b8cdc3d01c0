"""
The rule that drops what our sets hold: a chain of ours, jumped to from ``raw PREROUTING``, and again behind DNAT.

Raw PREROUTING comes before connection tracking, address translation, Docker, ufw and everybody's "accept established":
a packet dropped there is dropped. It sees the port that was dialled, though: where a container is published as
15060 → 5060, that is not the port that Asterisk reports. So the same rules stand in the mangle table, where FORWARD and
INPUT see the translated port, before everybody's filter. The rules stand in own chains, so that others' chains get one
line each, a change of ports touches no line of anybody else, and taking it out leaves nothing. iptables and ip6tables
do it, for pyroute2 can't make rules with a set match.
"""

from __future__ import annotations

import logging
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from amiwatch.errors import FirewallError, FirewallPermission
from amiwatch.firewall import iptables
from amiwatch.firewall.iptables import PROGRAMS, after
from amiwatch.firewall.names import chain_name, checked_prefix, set_name
from amiwatch.firewall.protection import Protection
from amiwatch.firewall.scope import Scope

log = logging.getLogger(__name__)

REMARK = ("-m", "comment", "--comment", "amiwatch")

HOOKS: Mapping[str, tuple[str, ...]] = {"raw": ("PREROUTING",), "mangle": ("FORWARD", "INPUT")}
"""Tables that get a chain of ours, and the chains that jump to it. A packet goes through one of the latter two at most,
behind its translation."""


@dataclass(frozen=True, slots=True)
class Drop:
    """One rule in our chain."""

    protocol: str
    """``udp``, ``tcp``; empty for all."""
    ports: str
    """As iptables writes them: ``4569,5060:5061``; empty for all."""
    set_name: str
    packets: int = 0
    octets: int = 0


@dataclass(frozen=True, slots=True)
class Hook:
    """A place behind DNAT at which the same is to be dropped."""

    place: str
    position: int | None
    """Place of our line, from 1; None where it is missing."""
    is_same: bool
    """It drops what the first place drops."""


@dataclass(frozen=True, slots=True)
class FamilyRule:
    """The rule of one family, as the kernel has it."""

    family: int
    """4 or 6."""
    set_name: str
    """The set that ought to be matched."""
    position: int | None
    """Place of our line in ``place``, from 1; None where it is missing. Lines above it may accept first."""
    drops: tuple[Drop, ...]
    """Packets are those dropped anywhere."""
    place: str = "raw PREROUTING"
    behind: tuple[Hook, ...] = ()
    """Where the packets go by that address translation gave another port."""

    @property
    def is_present(self) -> bool:
        """Tell whether anything is dropped: the jump is there, and a rule that matches our set."""
        return self.position is not None and any(drop.set_name == self.set_name for drop in self.drops)

    @property
    def packets(self) -> int:
        """Count the packets of banned sources dropped since the rule was placed or changed."""
        return sum(drop.packets for drop in self.drops)

    @property
    def octets(self) -> int:
        """Count the octets of banned sources dropped since the rule was placed or changed."""
        return sum(drop.octets for drop in self.drops)

    @property
    def is_everywhere(self) -> bool:
        """Tell whether what was translated is dropped, too."""
        return all(hook.position is not None and hook.is_same for hook in self.behind)

    @property
    def is_first(self) -> bool:
        """Tell whether no line of anybody stands above ours, anywhere."""
        return set(self.positions.values()) == {1}

    @property
    def positions(self) -> dict[str, int | None]:
        """Return the place of our line, by where it stands."""
        return {self.place: self.position, **{hook.place: hook.position for hook in self.behind}}

    def covers(self, protection: Protection) -> bool:
        """Tell whether exactly this is dropped, no less and no more."""
        return self.is_present and self.is_everywhere and _has(self.drops, protection.scope, self.set_name)


@dataclass(frozen=True, slots=True)
class RuleState:
    """The rule of each family that this machine speaks."""

    families: tuple[FamilyRule, ...]

    @property
    def is_present(self) -> bool:
        """Tell whether every family drops something."""
        return all(rule.is_present for rule in self.families)

    @property
    def packets(self) -> int:
        """Count the packets dropped in all families."""
        return sum(rule.packets for rule in self.families)

    def covers(self, protection: Protection) -> bool:
        """Tell whether every family drops exactly this."""
        return all(rule.covers(protection) for rule in self.families)


class Rule(Protocol):
    """What drops the packets of banned addresses. Methods raise ``FirewallError``; each may be repeated."""

    prefix: str

    async def install(self, protection: Protection) -> None:
        """Drop this, no less and no more. What is right already is left alone, with its counters."""

    async def remove(self) -> None:
        """Take the rule out; the sets can be destroyed afterwards."""

    async def show(self) -> RuleState:
        """Read what is there now; a rule that is missing is no error."""


class DropRule:
    """
    The drop rule of one prefix, in iptables and ip6tables. Needs root, or CAP_NET_ADMIN and CAP_NET_RAW.

    Every method raises ``FirewallError`` (``FirewallPermission`` without the rights) and may be repeated. IPv6 is left
    out where the kernel has none. ``programs`` gives another iptables, for example ``iptables-legacy``, by family.
    """

    def __init__(self, prefix: str = "amiwatch", programs: Mapping[int, str] = PROGRAMS) -> None:
        self.prefix = checked_prefix(prefix)
        self.chain = chain_name(prefix)
        self._programs = programs

    async def install(self, protection: Protection) -> None:
        """
        Drop this, before anybody else's rule. What is right already is left alone, with its counters.

        The sets must exist: open the firewall first.
        """
        for family in self._families():
            found = await self._read(family)
            # A chain that is right is left as it is, for placing it anew would begin its counters anew.
            wrong = {name: chain for name, chain in found.items() if not chain.covers(protection, self._set(family))}
            if wrong:
                await self._place(family, wrong, protection)
                log.info("drop rule placed program=%s chain=%s", self._programs[family], self.chain)

    async def remove(self) -> None:
        """Take the rule out; the sets can be destroyed afterwards."""
        for family in self._families():
            lines = {name: self._removal(chain) for name, chain in (await self._read(family)).items()}
            if any(lines.values()):
                await iptables.restore(self._programs[family], lines)
                log.info("drop rule removed program=%s chain=%s", self._programs[family], self.chain)

    async def show(self) -> RuleState:
        """Read what is there now; a rule that is missing is no error."""
        return RuleState(
            tuple([_state(family, self._set(family), await self._read(family)) for family in self._families()])
        )

    def _families(self) -> Iterator[int]:
        yield 4
        if Path("/proc/net/if_inet6").exists():
            yield 6

    def _set(self, family: int) -> str:
        return set_name(self.prefix, family)

    async def _read(self, family: int) -> dict[str, _Chain]:
        """Return our chain of each table."""
        program = self._programs[family]
        return {name: _chain(await iptables.table(program, name), name, self.chain) for name in HOOKS}

    async def _place(self, family: int, wrong: Mapping[str, _Chain], protection: Protection) -> None:
        def lines(remark: Sequence[str]) -> dict[str, list[str]]:
            return {
                name: [*self._rules(family, protection, remark), *self._jumps(chain, remark)]
                for name, chain in wrong.items()
            }

        try:
            await iptables.restore(self._programs[family], lines(REMARK))
        except FirewallPermission:
            raise
        except FirewallError:
            # A kernel without xt_comment. Where that was not it, the second try says what it was.
            await iptables.restore(self._programs[family], lines(()))

    def _rules(self, family: int, protection: Protection, remark: Sequence[str]) -> Iterator[str]:
        yield f":{self.chain} - [0:0]"
        for protocol, ports in protection.scope.matches():
            match = ["-p", protocol, "-m", "multiport", "--dports", ports] if protocol else []
            # The set comes last: its counters then count what is dropped, and nothing else.
            match += ["-m", "set", "--match-set", self._set(family), "src", *remark]
            yield shlex.join(["-A", self.chain, *match, "-j", "DROP"])

    def _jumps(self, chain: _Chain, remark: Sequence[str]) -> Iterator[str]:
        for hook, jumps in chain.jumps.items():
            if not chain.is_first(hook):
                yield from map(_deletion, jumps.values())
                yield shlex.join(["-I", hook, "1", *remark, "-j", self.chain])

    def _removal(self, chain: _Chain) -> list[str]:
        lines = [_deletion(jump) for jumps in chain.jumps.values() for jump in jumps.values()]
        return [*lines, f"-F {self.chain}", f"-X {self.chain}"] if chain.exists else lines


@dataclass(frozen=True, slots=True)
class _Chain:
    """Our chain in one table, and who jumps to it."""

    table: str
    exists: bool
    drops: tuple[Drop, ...]
    jumps: Mapping[str, Mapping[int, list[str]]]
    """For each hook the lines that jump to us, by their place in it."""

    def is_first(self, hook: str) -> bool:
        """Tell whether the hook's first line jumps to us, and no other."""
        return list(self.jumps[hook]) == [1]

    def position(self, hook: str) -> int | None:
        """Return the place of our first line in a hook."""
        return min(self.jumps[hook], default=None)

    def covers(self, protection: Protection, set_name: str) -> bool:
        """Tell whether exactly this is dropped, before anybody else's rules."""
        return all(map(self.is_first, self.jumps)) and _has(self.drops, protection.scope, set_name)


def _chain(lines: Sequence[list[str]], table: str, name: str) -> _Chain:
    hooks = {hook: [line for line in lines if line[:2] == ["-A", hook]] for hook in HOOKS[table]}
    return _Chain(
        table,
        exists=any(line[:2] == ["-N", name] for line in lines),
        drops=tuple([_drop(line) for line in lines if line[:2] == ["-A", name] and after(line, "-j") == "DROP"]),
        jumps={
            hook: {place: line for place, line in enumerate(found, start=1) if after(line, "-j") == name}
            for hook, found in hooks.items()
        },
    )


def _state(family: int, set_name: str, chains: Mapping[str, _Chain]) -> FamilyRule:
    first, *others = chains.values()
    behind = [
        Hook(f"{chain.table} {hook}", chain.position(hook), _bare(chain.drops) == _bare(first.drops))
        for chain in others
        for hook in chain.jumps
    ]
    drops = first.drops
    for chain in others:
        if _bare(chain.drops) == _bare(drops):
            drops = tuple([_sum(*pair) for pair in zip(drops, chain.drops, strict=True)])
    return FamilyRule(family, set_name, first.position("PREROUTING"), drops, behind=tuple(behind))


def _has(drops: Sequence[Drop], scope: Scope, set_name: str) -> bool:
    return _bare(drops) == [(protocol, ports, set_name) for protocol, ports in scope.matches()]


def _bare(drops: Sequence[Drop]) -> list[tuple[str, str, str]]:
    return [(drop.protocol, drop.ports, drop.set_name) for drop in drops]


def _sum(one: Drop, other: Drop) -> Drop:
    return replace(one, packets=one.packets + other.packets, octets=one.octets + other.octets)


def _deletion(line: Sequence[str]) -> str:
    return iptables.without_counters(line).replace("-A", "-D", 1)


def _drop(line: Sequence[str]) -> Drop:
    packets, octets = iptables.counters(line)
    return Drop(after(line, "-p"), after(line, "--dports"), after(line, "--match-set"), packets, octets)

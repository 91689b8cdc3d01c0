"""
The rule that drops what our sets hold: a chain of ours, jumped to from ``raw PREROUTING``, and again behind DNAT.

Raw PREROUTING comes before connection tracking, address translation, Docker, ufw and everybody's "accept established":
a packet dropped there is dropped. It sees the port that was dialled, though: where a container is published as
15060 → 5060, that is not the port that Asterisk reports. So the same rules stand in the mangle table, where FORWARD and
INPUT see the translated port, before everybody's filter. The rules stand in own chains, so that others' chains get one
line each, a change of ports touches no line of anybody else, and taking it out leaves nothing. iptables and ip6tables
do it, for pyroute2 can't make rules with a set match.

Limits (tiers and signatures) stand in a second chain of the mangle table: there a packet passes once, has the port that
Asterisk sees, and the kernel knows whether it begins a connection.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from amiwatch.errors import FirewallError, FirewallPermission, LimitsRefused
from amiwatch.firewall import iptables
from amiwatch.firewall.iptables import PROGRAMS, after, counters
from amiwatch.firewall.names import chain_name, checked_prefix, set_name, strangers_name
from amiwatch.firewall.protection import FIRST_OCTETS, Limit, Protection, Tier, exempt_name, windows
from amiwatch.firewall.scope import Scope
from amiwatch.judgement.values import IPNetwork

log = logging.getLogger(__name__)

REMARK = ("-m", "comment", "--comment", "amiwatch")

HOOKS: Mapping[str, tuple[str, ...]] = {"raw": ("PREROUTING",), "mangle": ("FORWARD", "INPUT")}
"""Tables that get a chain of ours, and the chains that jump to it. A packet goes through one of the latter two at most,
behind its translation."""


NOBODY: tuple[frozenset[IPNetwork], dict[str, int]] = (frozenset(), {})
"""Who is exempt from limits, and how many entries that makes in each set: nobody, or unknown."""


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
    limits: tuple[Limit, ...] = ()
    """What tiers and signatures have dropped."""
    exempt: int = 0
    """How many networks no limit concerns; 0 also where there are no limits."""
    reads_names: bool = True
    """The backend can look for signatures in packets."""

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
        """Tell whether exactly this is dropped, no less and no more; signatures, as far as the backend can."""
        return self.closes(protection.scope) and self.limits_are(protection)

    def closes(self, scope: Scope) -> bool:
        """Tell whether exactly these ports are closed to the banned, everywhere."""
        wanted = [(protocol, ports, self.set_name) for protocol, ports in scope.matches()]
        return self.is_present and self.is_everywhere and bare(self.drops) == wanted

    def limits_are(self, protection: Protection) -> bool:
        """Tell whether just these limits are there; signatures, as far as the backend can."""
        found = {limit.name for limit in self.limits}
        return found == {
            *(tier.name for tier in protection.tiers),
            *(protection.signatures if self.reads_names else ()),
        }


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
    reads_names: bool
    """It can look for signatures in packets."""

    async def install(self, protection: Protection) -> None:
        """
        Drop this, no less and no more. What is right already is left alone, with its counters.

        Limits are placed only once somebody was exempt from them: no rule cuts off phones of whom nobody told it yet.
        Raises ``LimitsRefused`` where only they can't be placed.
        """

    async def exempt(self, networks: Collection[IPNetwork]) -> None:
        """Exempt these from limits, and nobody else. Where they are already, nothing is done."""

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

    reads_names = True

    def __init__(self, prefix: str = "amiwatch", programs: Mapping[int, str] = PROGRAMS) -> None:
        self.prefix = checked_prefix(prefix)
        self.chain = chain_name(prefix)
        self.strangers = strangers_name(prefix)
        self._programs = programs
        # It knows pyroute2, which takes a tenth of a second to import.
        from amiwatch.firewall.ipset_limits import IpsetLimits

        self._limits = IpsetLimits(prefix)
        self._exempted = NOBODY
        """Who was exempted last, and how many entries that made: if somebody empties a set, it is filled anew."""
        self._is_tidy = False
        """No sets of limits are there that nobody needs."""

    async def install(self, protection: Protection) -> None:
        """
        Drop this, before anybody else's rule. What is right already is left alone, with its counters.

        The sets must exist: open the firewall first.
        """
        try:
            await self._install(await self._prepared(protection))
        except FirewallPermission:
            raise
        except FirewallError as error:
            if not protection.has_limits:
                raise
            # A kernel without what limits need (xt_string, connection tracking): bans must not wait for it.
            await self._install(protection.bare())
            raise LimitsRefused(error) from error

    async def _install(self, protection: Protection) -> None:
        for family in spoken():
            chains = await self._read(family)
            wrong = [table for table in chains if not table.holds(self._wanted(family, protection, table.name))]
            if wrong:
                await self._place(family, wrong, protection)
                self._is_tidy = False
                log.info("drop rule placed program=%s chain=%s", self._programs[family], self.chain)
        if not self._is_tidy:
            await self._limits.remove(keep=self._sets(protection))
            self._is_tidy = True

    async def exempt(self, networks: Collection[IPNetwork]) -> None:
        """Exempt these from limits, and nobody else. Where they are already, nothing is done."""
        wanted, (before, counts) = frozenset(networks), self._exempted
        self._exempted = NOBODY  # should what follows fail
        if not before or counts != await self._limits.exempt_counts():
            await self._limits.exempt(wanted)
        elif wanted is not before:
            await self._limits.change(more=wanted - before, fewer=before - wanted)
        self._exempted = (wanted, await self._limits.exempt_counts())

    async def remove(self) -> None:
        """Take the rule out; the sets can be destroyed afterwards. Those of the limits are."""
        for family in spoken():
            lines = {table.name: self._removal(table) for table in await self._read(family)}
            if any(lines.values()):
                await iptables.restore(self._programs[family], lines)
                log.info("drop rule removed program=%s chain=%s", self._programs[family], self.chain)
        await self._limits.remove()

    async def show(self) -> RuleState:
        """Read what is there now; a rule that is missing is no error."""
        tables = {family: await self._read(family) for family in spoken()}
        has_limits = any(table.chains.get(self.strangers) for found in tables.values() for table in found)
        counts = await self._limits.counts() if has_limits else {}
        return RuleState(tuple([self._state(family, found, counts) for family, found in tables.items()]))

    async def _prepared(self, protection: Protection) -> Protection:
        """Make the sets that limits need; without limits where nobody is exempt yet."""
        if not protection.has_limits:
            return protection
        counts = await self._limits.counts()
        if not self._sets(protection) <= counts.keys():
            await self._limits.make(protection.tiers)
            counts = await self._limits.counts()
        return protection if all(counts[exempt_name(self.prefix, family)] for family in PROGRAMS) else protection.bare()

    def _sets(self, protection: Protection) -> set[str]:
        if not protection.has_limits:
            return set()
        names = {exempt_name(self.prefix, family) for family in PROGRAMS}
        return names.union(*(windows(self.prefix, family, protection.tiers).values() for family in PROGRAMS))

    async def _read(self, family: int) -> list[_Table]:
        program, ours = self._programs[family], (self.chain, self.strangers)
        return [_table(name, await iptables.table(program, name), ours) for name in HOOKS]

    async def _place(self, family: int, wrong: Sequence[_Table], protection: Protection) -> None:
        def lines(remark: Sequence[str]) -> dict[str, list[str]]:
            return {table.name: list(self._lines(family, table, protection, remark)) for table in wrong}

        try:
            await iptables.restore(self._programs[family], lines(REMARK))
        except FirewallPermission:
            raise
        except FirewallError:
            # A kernel without xt_comment. Where that was not it, the second try says what it was.
            await iptables.restore(self._programs[family], lines(()))

    def _lines(self, family: int, table: _Table, protection: Protection, remark: Sequence[str]) -> Iterator[str]:
        wanted = self._wanted(family, protection, table.name)
        # A chain that is right is left as it is, with its counters.
        wrong = {chain: rules for chain, rules in wanted.items() if not table.has(chain, rules)}
        yield from (f":{chain} - [0:0]" for chain in wrong)
        for chain, rules in wrong.items():
            for rule in rules:
                at = rule.index("-j")
                yield iptables.joined(["-A", chain, *rule[:at], *remark, *rule[at:]])
        for chain in table.chains.keys() - wanted.keys():
            yield from (f"-F {chain}", f"-X {chain}")
        for hook, jumps in table.jumps.items():
            if not table.is_first(hook):
                yield from map(_deletion, jumps.values())
                yield iptables.joined(["-I", hook, "1", *remark, "-j", self.chain])

    def _wanted(self, family: int, protection: Protection, table: str) -> dict[str, list[list[str]]]:
        """Return the rules of each chain of ours, as words."""
        rules = [
            # The set comes last: its counters then count what is dropped, and nothing else.
            [*_ports(*match), "-m", "set", "--match-set", set_name(self.prefix, family), "src", "-j", "DROP"]
            for match in protection.scope.matches()
        ]
        if table == "raw" or not protection.has_limits:
            return {self.chain: rules}
        stranger = ["-m", "set", "!", "--match-set", exempt_name(self.prefix, family), "src", "-j", self.strangers]
        rules += [[*_ports(*match), *stranger] for match in protection.limited.matches()]
        return {self.chain: rules, self.strangers: list(self._limit_rules(family, protection))}

    def _limit_rules(self, family: int, protection: Protection) -> Iterator[list[str]]:
        for name in protection.signatures:
            yield ["-m", "string", "--string", name, "--algo", "bm", "--to", str(FIRST_OCTETS), "-j", "DROP"]
        # A packet in the middle of a TCP connection that the kernel has forgotten counts as new to it, not to us.
        yield ["-p", "tcp", "-m", "tcp", "!", "--tcp-flags", "FIN,SYN,RST,ACK", "SYN", "-j", "RETURN"]
        yield ["-m", "conntrack", "!", "--ctstate", "NEW", "-j", "RETURN"]
        for tier, window in windows(self.prefix, family, protection.tiers).items():
            beyond = ["--packets-gt", str(tier.connections)]
            yield ["-m", "set", "--match-set", window, "src", *beyond, "-j", "DROP"]
            # A source that is there already stays as it is, so its window begins with its first connection.
            yield ["-j", "SET", "--add-set", window, "src"]

    def _removal(self, table: _Table) -> list[str]:
        lines = [_deletion(jump) for jumps in table.jumps.values() for jump in jumps.values()]
        lines += [f"-F {chain}" for chain in table.chains]
        return lines + [f"-X {chain}" for chain in table.chains]

    def _state(self, family: int, tables: Sequence[_Table], counts: Mapping[str, int]) -> FamilyRule:
        name = set_name(self.prefix, family)
        first, *others = [_drops(table.chains.get(self.chain, ())) for table in tables]
        drops = first
        for other in others:
            if bare(other) == bare(first):
                drops = tuple([_sum(*pair) for pair in zip(drops, other, strict=True)])
        behind = [
            Hook(f"{table.name} {hook}", table.position(hook), bare(other) == bare(first))
            for table, other in zip(tables[1:], others, strict=True)
            for hook in table.jumps
        ]
        # Limits that nobody jumps to limit nothing.
        limits = [
            limit
            for table in tables
            if any(after(rule, "-j") == self.strangers for rule in table.chains.get(self.chain, ()))
            for limit in _limits(table.chains.get(self.strangers, ()), counts)
        ]
        exempt = counts.get(exempt_name(self.prefix, family), 0)
        position = tables[0].position("PREROUTING")
        return FamilyRule(family, name, position, drops, behind=tuple(behind), limits=tuple(limits), exempt=exempt)


@dataclass(frozen=True, slots=True)
class _Table:
    """What is ours in one table of iptables."""

    name: str
    chains: Mapping[str, list[list[str]]]
    """The rules of each chain of ours, as they are shown."""
    jumps: Mapping[str, Mapping[int, list[str]]]
    """For each hook the lines that jump to us, by their place in it."""

    def is_first(self, hook: str) -> bool:
        """Tell whether the hook's first line jumps to us, and no other."""
        return list(self.jumps[hook]) == [1]

    def position(self, hook: str) -> int | None:
        """Return the place of our first line in a hook."""
        return min(self.jumps[hook], default=None)

    def holds(self, wanted: Mapping[str, list[list[str]]]) -> bool:
        """Tell whether just this is in our chains, and nobody else's rules come first."""
        return (
            all(map(self.is_first, self.jumps))
            and self.chains.keys() == wanted.keys()
            and all(self.has(chain, rules) for chain, rules in wanted.items())
        )

    def has(self, chain: str, wanted: list[list[str]]) -> bool:
        """Tell whether a chain of ours has just these rules."""
        shown = [iptables.essence(rule[2:]) for rule in self.chains.get(chain, ())]
        return chain in self.chains and shown == list(map(iptables.essence, wanted))


def spoken() -> tuple[int, ...]:
    """Tell which families this machine speaks."""
    return (4, 6) if Path("/proc/net/if_inet6").exists() else (4,)


def _table(name: str, lines: Sequence[list[str]], ours: Sequence[str]) -> _Table:
    hooks = {hook: [line for line in lines if line[:2] == ["-A", hook]] for hook in HOOKS[name]}
    return _Table(
        name,
        chains={
            chain: [line for line in lines if line[:2] == ["-A", chain]]
            for chain in ours
            if any(line[:2] == ["-N", chain] for line in lines)
        },
        jumps={
            hook: {place: line for place, line in enumerate(found, start=1) if after(line, "-j") == ours[0]}
            for hook, found in hooks.items()
        },
    )


def _ports(protocol: str, ports: str) -> list[str]:
    return ["-p", protocol, "-m", "multiport", "--dports", ports] if protocol else []


def bare(drops: Sequence[Drop]) -> list[tuple[str, str, str]]:
    """Leave the counters out."""
    return [(drop.protocol, drop.ports, drop.set_name) for drop in drops]


def _sum(one: Drop, other: Drop) -> Drop:
    return replace(one, packets=one.packets + other.packets, octets=one.octets + other.octets)


def _deletion(line: Sequence[str]) -> str:
    return iptables.without_counters(line).replace("-A", "-D", 1)


def _drops(lines: Sequence[list[str]]) -> tuple[Drop, ...]:
    return tuple(
        [
            Drop(after(line, "-p"), after(line, "--dports"), after(line, "--match-set"), *counters(line))
            for line in lines
            if after(line, "-j") == "DROP"
        ]
    )


def _limits(lines: Sequence[list[str]], counts: Mapping[str, int]) -> Iterator[Limit]:
    for line in lines:
        packets, octets = counters(line)
        window = after(line, "--match-set")
        if name := after(line, "--string"):
            yield Limit(name, "signature", packets, octets)
        elif window:
            tier = Tier(int(after(line, "--packets-gt")), int(window.rpartition("-")[2].rstrip("s")))
            yield Limit(tier.name, "tier", packets, octets, counts.get(window, 0))

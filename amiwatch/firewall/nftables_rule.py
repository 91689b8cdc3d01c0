"""
The rule in our nftables table: what comes to a closed port jumps to the chains that drop banned sources.

It stands at prerouting before connection tracking, address translation and everybody's ``raw`` rules, and again at
forward and input, behind address translation: where a container is published as 15060 → 5060, only there a packet has
the port that Asterisk reports. That others accept a packet elsewhere means nothing: in nftables the last word has
whoever drops. Closed ports are in sets, so that a change of ports touches no rule.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterator

from amiwatch.errors import FirewallError, FirewallPermission, LimitsRefused
from amiwatch.firewall import libnftables
from amiwatch.firewall import nftables_limits as limits
from amiwatch.firewall import nftables_wire as wire
from amiwatch.firewall.names import checked_prefix
from amiwatch.firewall.nftables_socket import NftablesSocket
from amiwatch.firewall.nftables_table import DROP_CHAINS, WIDTHS, Table, Width, read
from amiwatch.firewall.protection import Protection, exempt_name, is_ours, nets_name
from amiwatch.firewall.rule import NOBODY, Drop, FamilyRule, Hook, RuleState
from amiwatch.firewall.scope import Ports, Scope
from amiwatch.judgement.values import IPNetwork

log = logging.getLogger(__name__)

CHAIN = "prerouting"

PRIORITY = -310
"""Before ``raw`` (-300) and connection tracking (-200), behind the joining of fragments (-400), for only the first has
ports (linux/netfilter_ipv4.h)."""

BEHIND = ("forward", "input")
"""Hooks, and our chains there. A packet goes through one of them at most, and its port was translated before."""

BEHIND_PRIORITY = -150
"""``mangle``: before everybody's filter (0)."""

CHAINS = (CHAIN, *BEHIND)

PORT_SETS = {"udp": "udp_ports", "tcp": "tcp_ports"}

PORTS_END = 65_536


class NftablesRule:
    """The rule of one prefix. Needs CAP_NET_ADMIN. See ``Rule`` for the methods."""

    reads_names = False

    def __init__(self, prefix: str = "amiwatch") -> None:
        self.prefix = checked_prefix(prefix)
        self._exempted = NOBODY
        """Who was exempted last, and how many elements that made: if somebody empties a set, it is filled anew."""

    async def install(self, protection: Protection) -> None:
        try:
            await asyncio.to_thread(self._install, protection)
        except FirewallPermission:
            raise
        except FirewallError as error:
            if not protection.has_limits:
                raise
            # A kernel without what limits need (connection tracking, nft_limit): bans must not wait for it.
            await asyncio.to_thread(self._install, protection.bare())
            raise LimitsRefused(error) from error

    async def exempt(self, networks: Collection[IPNetwork]) -> None:
        await asyncio.to_thread(self._exempt, frozenset(networks))

    async def remove(self) -> None:
        await asyncio.to_thread(self._remove)

    async def show(self) -> RuleState:
        return (await asyncio.to_thread(self._read))[1]

    def _install(self, protection: Protection) -> None:
        table, state, ports = self._read()
        if not all(width in table.sets for width in WIDTHS):
            raise FirewallError(f"The table 'inet {self.prefix}' has no sets yet, so no rule can use them.")
        if protection.has_limits and not all(rule.exempt for rule in state.families):
            protection = protection.bare()
        # Tiers that look at other ports than the banned find closed are told by no rule, only by the sets of ports.
        is_right = not protection.tiers or ports.matches() == protection.limited.matches()
        if is_right and state.covers(protection):
            return
        lines = [*self._lines(protection)]
        leftovers = list(limits.leftovers(self.prefix, table, protection))
        # Limits that are right are left as they are, with their counters.
        if leftovers or not all(rule.limits_are(protection) for rule in state.families):
            lines += limits.script(self.prefix, protection)
        lines += limits.jumps(self.prefix, protection, PORT_SETS, BEHIND)
        libnftables.run("\n".join([*lines, *leftovers]))
        log.info("drop rule placed table=%s chain=%s", self.prefix, CHAIN)

    def _exempt(self, networks: frozenset[IPNetwork]) -> None:
        before, counts = self._exempted
        if counts != self._exempt_counts():
            before = frozenset()  # somebody changed the sets: what is in them must be listed
        if networks is not before or not before:
            self._exempted = NOBODY  # should what follows fail
            limits.exempt(self.prefix, networks, before=before)
            self._exempted = (networks, self._exempt_counts())

    def _exempt_counts(self) -> dict[str, int]:
        with NftablesSocket(self.prefix) as socket:
            return limits.exempt_counts(self.prefix, socket, read(socket, self.prefix))

    def _lines(self, protection: Protection) -> Iterator[str]:
        ours, scope = f"inet {self.prefix}", protection.scope
        for chain in CHAINS:
            priority = PRIORITY if chain == CHAIN else BEHIND_PRIORITY
            yield f"add chain {ours} {chain} {{ type filter hook {chain} priority {priority}; policy accept; }}"
            yield f"flush chain {ours} {chain}"
        for protocol, name in PORT_SETS.items():
            yield f"add set {ours} {name} {{ type inet_service; flags interval; }}"
            yield f"flush set {ours} {name}"
            closed = protection.limited if protection.tiers else scope
            ranges = [ports.replace(":", "-") for each, ports in closed.matches() if each == protocol]
            if ranges:
                yield f"add element {ours} {name} {{ {','.join(ranges)} }}"
                for chain in CHAINS if scope.ports else ():
                    yield f"add rule {ours} {chain} {protocol} dport @{name} jump {DROP_CHAINS[protocol]}"
        if not scope.ports:
            for chain in CHAINS:
                yield f"add rule {ours} {chain} jump {DROP_CHAINS['']}"

    def _remove(self) -> None:
        with NftablesSocket(self.prefix) as socket:
            found = {wire.set_header(body).name for body in socket.listed(wire.LIST_SETS)}
        names = {name for name in found if name in PORT_SETS.values() or is_ours(self.prefix, name)}
        if not names:
            return
        ours = f"inet {self.prefix}"
        # Made once more if somebody deleted them and left the sets: what is not there can't be deleted.
        lines = [
            f"{verb} chain {ours} {chain}" for verb in ("add", "flush", "delete") for chain in (*CHAINS, limits.CHAIN)
        ]
        libnftables.run("\n".join(lines + [f"delete set {ours} {name}" for name in sorted(names)]))
        log.info("drop rule removed table=%s chain=%s", self.prefix, CHAIN)

    def _read(self) -> tuple[Table, RuleState, Scope]:
        with NftablesSocket(self.prefix) as socket:
            table = read(socket, self.prefix)
            ports = {protocol: _ports(socket, protocol) for protocol in PORT_SETS}
            counts = limits.counts(self.prefix, socket, table)
        families = [self._family(table, width, ports, counts) for width in WIDTHS]
        return table, RuleState(tuple(families)), Scope(tuple(each for found in ports.values() for each in found))

    def _family(
        self, table: Table, width: Width, ports: dict[str, tuple[Ports, ...]], counts: dict[str, int]
    ) -> FamilyRule:
        targets = {chain: {jump.target for jump in table.jumps() if jump.chain == chain} for chain in CHAINS}
        jumps = targets[CHAIN]
        return FamilyRule(
            width.family,
            set_name=width.name(self.prefix),
            position=1 if jumps else None,
            drops=tuple(
                drop
                for protocol, chain in DROP_CHAINS.items()
                if chain in jumps
                for drop in _drops(table, width, chain, Scope(ports.get(protocol, ())))
            ),
            place=f"the table inet {self.prefix}",
            behind=tuple(
                [Hook(f"its chain {chain}", 1 if targets[chain] else None, targets[chain] == jumps) for chain in BEHIND]
            ),
            limits=tuple(limits.found(self.prefix, table, width.family, counts) if self._is_limited(table) else ()),
            exempt=sum(counts.get(name(self.prefix, width.family), 0) for name in (exempt_name, nets_name)),
            reads_names=self.reads_names,
        )

    @staticmethod
    def _is_limited(table: Table) -> bool:
        """Tell whether both hooks lead to the limits, for both protocols."""
        jumps = [rule.chain for rule in table.rules if rule.target == limits.CHAIN]
        return all(jumps.count(chain) >= len(PORT_SETS) for chain in BEHIND)


def _drops(table: Table, width: Width, chain: str, scope: Scope) -> Iterator[Drop]:
    """Say what a chain drops of a family, as a rule of iptables would be shown."""
    sets = {header.name for each, header in table.sets.items() if each.family == width.family}
    lookups = [rule for rule in table.lookups() if rule.chain == chain and sets & set(rule.set_names)]
    found = {name for rule in lookups for name in rule.set_names}
    if width not in table.sets or not sets <= found:
        return
    packets, octets = sum(rule.packets for rule in lookups), sum(rule.octets for rule in lookups)
    for protocol, ports in scope.matches():
        yield Drop(protocol, ports, table.sets[width].name, packets, octets)
        # One chain counts for all its ports; more than one line has only who closes more than some fifteen.
        packets = octets = 0


def _ports(socket: NftablesSocket, protocol: str) -> tuple[Ports, ...]:
    """Read the ranges of a port set: numbers where one begins, and numbers one past where one ends."""
    pieces = socket.listed(wire.LIST_ELEMENTS, PORT_SETS[protocol])
    numbers = [bound for body in pieces for bound in wire.bounds(body)]
    found: list[Ports] = []
    begin: int | None = None
    for number, is_end in sorted(numbers, key=lambda each: (each[0], not each[1])):
        if is_end:
            if begin is not None:
                found.append(Ports(protocol, begin, number - 1))
            begin = None
        else:
            begin = number
    if begin is not None:
        found.append(Ports(protocol, begin, PORTS_END - 1))
    return tuple(found)

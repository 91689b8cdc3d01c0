"""
The rule in our nftables table: what comes to a closed port jumps to the chains that drop banned sources.

The chain stands at prerouting before connection tracking, address translation and everybody's ``raw`` rules. That
others accept a packet elsewhere means nothing: in nftables the last word has whoever drops. Closed ports are in sets,
so that a change of ports touches no rule.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator

from amiwatch.errors import FirewallError
from amiwatch.firewall import libnftables
from amiwatch.firewall import nftables_wire as wire
from amiwatch.firewall.names import checked_prefix
from amiwatch.firewall.nftables_socket import NftablesSocket
from amiwatch.firewall.nftables_table import DROP_CHAINS, WIDTHS, Table, Width, read
from amiwatch.firewall.rule import Drop, FamilyRule, RuleState
from amiwatch.firewall.scope import Ports, Scope

log = logging.getLogger(__name__)

CHAIN = "prerouting"

PRIORITY = -310
"""Before ``raw`` (-300) and connection tracking (-200), behind the joining of fragments (-400), for only the first has
ports (linux/netfilter_ipv4.h)."""

PORT_SETS = {"udp": "udp_ports", "tcp": "tcp_ports"}

PORTS_END = 65_536


class NftablesRule:
    """The rule of one prefix. Needs CAP_NET_ADMIN. See ``Rule`` for the methods."""

    def __init__(self, prefix: str = "amiwatch") -> None:
        self.prefix = checked_prefix(prefix)

    async def install(self, scope: Scope) -> None:
        await asyncio.to_thread(self._install, scope)

    async def remove(self) -> None:
        await asyncio.to_thread(self._remove)

    async def show(self) -> RuleState:
        return (await asyncio.to_thread(self._read))[1]

    def _install(self, scope: Scope) -> None:
        table, state = self._read()
        if not all(width in table.sets for width in WIDTHS):
            raise FirewallError(f"The table 'inet {self.prefix}' has no sets yet, so no rule can use them.")
        if state.covers(scope):
            return
        libnftables.run("\n".join(self._lines(scope)))
        log.info("drop rule placed table=%s chain=%s", self.prefix, CHAIN)

    def _lines(self, scope: Scope) -> Iterator[str]:
        ours = f"inet {self.prefix}"
        yield f"add chain {ours} {CHAIN} {{ type filter hook prerouting priority {PRIORITY}; policy accept; }}"
        yield f"flush chain {ours} {CHAIN}"
        for protocol, name in PORT_SETS.items():
            yield f"add set {ours} {name} {{ type inet_service; flags interval; }}"
            yield f"flush set {ours} {name}"
            ranges = [ports.replace(":", "-") for each, ports in scope.matches() if each == protocol]
            if ranges:
                yield f"add element {ours} {name} {{ {','.join(ranges)} }}"
                yield f"add rule {ours} {CHAIN} {protocol} dport @{name} jump {DROP_CHAINS[protocol]}"
        if not scope.ports:
            yield f"add rule {ours} {CHAIN} jump {DROP_CHAINS['']}"

    def _remove(self) -> None:
        with NftablesSocket(self.prefix) as socket:
            names = {wire.set_header(body).name for body in socket.listed(wire.LIST_SETS)} & {*PORT_SETS.values()}
        if not names:
            return
        ours = f"inet {self.prefix}"
        # Made once more if somebody deleted it and left the sets: what is not there can't be deleted.
        lines = [f"add chain {ours} {CHAIN}", f"flush chain {ours} {CHAIN}", f"delete chain {ours} {CHAIN}"]
        libnftables.run("\n".join(lines + [f"delete set {ours} {name}" for name in sorted(names)]))
        log.info("drop rule removed table=%s chain=%s", self.prefix, CHAIN)

    def _read(self) -> tuple[Table, RuleState]:
        with NftablesSocket(self.prefix) as socket:
            table = read(socket, self.prefix)
            ports = {protocol: _ports(socket, protocol) for protocol in PORT_SETS}
        return table, RuleState(tuple([self._family(table, width, ports) for width in WIDTHS]))

    def _family(self, table: Table, width: Width, ports: dict[str, tuple[Ports, ...]]) -> FamilyRule:
        jumps = {jump.target for jump in table.jumps() if jump.chain == CHAIN}
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
        )


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

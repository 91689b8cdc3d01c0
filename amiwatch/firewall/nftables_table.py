"""
Our own nftables table: what is in it, and the script that makes what is missing.

::

    table inet <prefix>
      set <prefix>4, <prefix>6            banned IPv4 addresses, banned IPv6 /64 networks
      set <prefix>4-24, <prefix>6-48, …   banned networks of other widths, one set for each width
      chain drop_udp, drop_tcp, drop_any  look the source up in each set, and drop
      chain prerouting                    the rule (nftables_rule.py): what goes to a closed port jumps to these chains
      set udp_ports, tcp_ports            the closed ports

A network is found by masking the source in the rule, so that all sets of networks are plain hash sets: a set of
intervals refuses networks that overlap, and takes 50 ms for one more beside 10,000. A width costs one lookup per
packet to a closed port.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import NamedTuple

from amiwatch.firewall import nftables_wire as wire
from amiwatch.firewall.names import set_name
from amiwatch.firewall.nftables_socket import NftablesSocket
from amiwatch.judgement.values import IPNetwork

PLAIN = {4: 32, 6: 64}
"""The width that a family's bans have when nobody chose another."""

DROP_CHAINS = {"udp": "drop_udp", "tcp": "drop_tcp", "": "drop_any"}
"""The chain for each protocol; the last for all."""

MAX_NETWORKS = 65_536
"""Entries of a set for another width: such networks are banned by hand."""

_TYPES = {4: "ipv4_addr", 6: "ipv6_addr"}
_FIELDS = {4: "ip saddr", 6: "ip6 saddr"}
_KEY_LENGTHS = {4: 4, 6: 16}


class Width(NamedTuple):
    """What a set holds: networks of one family and one prefix length."""

    family: int
    prefix: int

    @classmethod
    def of(cls, network: IPNetwork) -> Width:
        """Return where a network belongs."""
        return cls(network.version, network.prefixlen)

    def name(self, prefix: str) -> str:
        """Name its set."""
        plain = set_name(prefix, self.family)
        return plain if self.prefix == PLAIN[self.family] else f"{plain}-{self.prefix}"

    def first(self) -> IPNetwork:
        """Return the lowest network of this width."""
        return IPv4Network((0, self.prefix)) if self.family == 4 else IPv6Network((0, self.prefix))

    def size(self, maxelem: int) -> int:
        """Return how many entries its set takes."""
        return maxelem if self.prefix == PLAIN[self.family] else min(maxelem, MAX_NETWORKS)


WIDTHS = tuple(Width(family, prefix) for family, prefix in PLAIN.items())
"""Those whose sets are always there."""


@dataclass(frozen=True, slots=True)
class Table:
    """What is there now."""

    sets: dict[Width, wire.SetHeader]
    others: dict[str, wire.SetHeader]
    """Sets without bans, such as those of the closed ports."""
    rules: tuple[wire.RuleHeader, ...]

    def is_looked_up(self, header: wire.SetHeader) -> bool:
        """Tell whether each of our chains that drop looks into a set."""
        return all(self._looks(chain, header) for chain in DROP_CHAINS.values())

    def _looks(self, chain: str, header: wire.SetHeader) -> bool:
        return any(rule.chain == chain and header.name in rule.set_names for rule in self.lookups())

    def lookups(self) -> Iterator[wire.RuleHeader]:
        """Return the rules that look a source up and drop."""
        return (rule for rule in self.rules if rule.chain in DROP_CHAINS.values() and rule.target == wire.DROP)

    def jumps(self) -> Iterator[wire.RuleHeader]:
        """Return the rules that lead into the chains that drop, whoever made them."""
        return (rule for rule in self.rules if rule.target in DROP_CHAINS.values())


def read(socket: NftablesSocket, prefix: str) -> Table:
    """Ask the kernel for sets and rules; both are empty where the table is missing."""
    pattern = re.compile(rf"{re.escape(prefix)}([46])(?:-(\d{{1,3}}))?")
    sets, others = {}, {}
    for header in map(wire.set_header, socket.listed(wire.LIST_SETS)):
        if found := pattern.fullmatch(header.name):
            family = int(found[1])
            sets[Width(family, int(found[2] or PLAIN[family]))] = header
        else:
            others[header.name] = header
    return Table(dict(sorted(sets.items())), others, tuple(map(wire.rule_header, socket.listed(wire.LIST_RULES))))


def misfit(header: wire.SetHeader, width: Width) -> str:
    """Say what is wrong with a set of our name; empty if nothing is."""
    if header.key_length != _KEY_LENGTHS[width.family]:
        return f"it holds no IPv{width.family} addresses"
    if not header.has_timeout or not header.has_counters:
        return "it has no timeouts, or no counters"
    return ""


def script_for_missing(table: Table, prefix: str, maxelem: int, widths: Iterable[Width]) -> str:
    """Write what makes the missing sets of these widths, and the missing rules that look into them; empty if none."""
    lines = []
    for width in widths:
        header = table.sets.get(width)
        if header is None:
            lines.append(_set_line(prefix, width, maxelem))
        if header is None or not table.is_looked_up(header):
            lines += _lookup_lines(prefix, width)
    if not lines:
        return ""
    chains = [f"add chain inet {prefix} {chain}" for chain in DROP_CHAINS.values()]
    return "\n".join([f"add table inet {prefix}", *chains, *lines])


def script_for_rebuild(prefix: str, maxelem: int, widths: Sequence[Width]) -> str:
    """Write what replaces all sets by empty ones with our options; the rules never miss one."""
    lines = [f"flush chain inet {prefix} {chain}" for chain in DROP_CHAINS.values()]
    lines += [f"delete set inet {prefix} {width.name(prefix)}" for width in widths]
    for width in widths:
        lines += [_set_line(prefix, width, maxelem), *_lookup_lines(prefix, width)]
    return "\n".join(lines)


def _set_line(prefix: str, width: Width, maxelem: int) -> str:
    options = f"type {_TYPES[width.family]}; size {width.size(maxelem)}; flags timeout; counter;"
    return f"add set inet {prefix} {width.name(prefix)} {{ {options} }}"


def _lookup_lines(prefix: str, width: Width) -> list[str]:
    field = _FIELDS[width.family]
    if width.prefix < width.first().max_prefixlen:
        field += f" & {width.first().netmask}"
    drop = f"{field} @{width.name(prefix)} counter drop"
    return [f"add rule inet {prefix} {chain} {drop}" for chain in DROP_CHAINS.values()]

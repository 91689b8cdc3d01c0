"""
Limits in our nftables table: who is exempt, and a window of counted sources for each tier.

::

    set <prefix>4-safe, <prefix>6-safe      addresses and IPv6 /64 that no limit concerns
    set <prefix>4-nets, <prefix>6-nets      networks of other widths that no limit concerns
    set <prefix>4-60s, <prefix>6-60s, …     the sources of new connections, each for 60 seconds
    chain strangers                         counts new connections, and drops those beyond a tier

An element of a window lives so long as the window, counted from the first connection, and carries a limit that never
refills: so many connections pass, the rest of the window drops. A window that is full counts no further sources, and
drops nothing of theirs.

nftables can compare octets at a place, and search for nothing: signatures need iptables.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from ipaddress import collapse_addresses

from amiwatch.firewall import libnftables
from amiwatch.firewall import nftables_wire as wire
from amiwatch.firewall.base import Entry, parts
from amiwatch.firewall.nftables_socket import NftablesSocket, refusal
from amiwatch.firewall.nftables_table import PLAIN, Table
from amiwatch.firewall.protection import (
    MAX_EXEMPT,
    WINDOW_SOURCES,
    Limit,
    Protection,
    Tier,
    exempt_name,
    is_ours,
    nets_name,
    windows,
)
from amiwatch.judgement.values import IPNetwork

CHAIN = "strangers"

NETS_AT_ONCE = 1_000
"""Networks in one transaction: netlink's usual buffer takes no 10,000."""

_KEYS = {4: ("ip saddr", "ipv4_addr"), 6: ("ip6 saddr", "ipv6_addr")}
_SOURCES = {4: "ip saddr", 6: "ip6 saddr & ffff:ffff:ffff:ffff::"}


def script(prefix: str, protection: Protection) -> Iterator[str]:
    """Write what makes sets and chain; the chain is empty where nothing is limited."""
    ours = f"inet {prefix}"
    yield f"add chain {ours} {CHAIN}"
    yield f"flush chain {ours} {CHAIN}"
    if not protection.tiers:
        return
    yield from _exempt_sets(prefix)
    # A packet in the middle of a TCP connection that the kernel has forgotten counts as new to it, not to us.
    yield f"add rule {ours} {CHAIN} tcp flags & (fin | syn | rst | ack) != syn return"
    yield f"add rule {ours} {CHAIN} ct state != new return"
    for family, (field, _) in _KEYS.items():
        yield f"add rule {ours} {CHAIN} {_SOURCES[family]} @{exempt_name(prefix, family)} return"
        yield f"add rule {ours} {CHAIN} {field} @{nets_name(prefix, family)} return"
    for tier in protection.tiers:
        for family, (_, kind) in _KEYS.items():
            [window] = windows(prefix, family, [tier]).values()
            options = f"type {kind}; size {WINDOW_SOURCES}; flags dynamic,timeout; timeout {tier.seconds}s;"
            yield f"add set {ours} {window} {{ {options} }}"
            # One in a week: within a window that is never.
            over = f"limit rate over 1/week burst {tier.connections} packets"
            yield f"add rule {ours} {CHAIN} add @{window} {{ {_SOURCES[family]} {over} }} counter drop"


def jumps(prefix: str, protection: Protection, ports: Mapping[str, str], chains: Iterable[str]) -> Iterator[str]:
    """Write what leads to the chain; ``ports`` are the sets of ports by protocol."""
    for chain in chains if protection.tiers else ():
        for protocol, name in ports.items():
            yield f"add rule inet {prefix} {chain} {protocol} dport @{name} jump {CHAIN}"


def leftovers(prefix: str, table: Table, protection: Protection) -> Iterator[str]:
    """Write what deletes the sets that nobody needs; the chain must not use them any more."""
    wanted: set[str] = set()
    if protection.tiers:
        for family in _KEYS:
            wanted |= {exempt_name(prefix, family), nets_name(prefix, family)}
            wanted |= set(windows(prefix, family, protection.tiers).values())
    for name in table.others:
        if is_ours(prefix, name) and name not in wanted:
            yield f"delete set inet {prefix} {name}"


def found(prefix: str, table: Table, family: int, counts: dict[str, int]) -> list[Limit]:
    """Read what the tiers of a family have dropped; nothing where the chain would count those who are exempt."""
    rules = [rule for rule in table.rules if rule.chain == CHAIN]
    asked = {name for rule in rules for name in rule.set_names}
    if not {exempt_name(prefix, family), nets_name(prefix, family)} <= asked:
        return []
    limits = []
    for rule in rules:
        window = rule.set_names[0] if rule.set_names and rule.burst and rule.target == wire.DROP else ""
        if window.startswith(f"{prefix}{family}-"):
            tier = Tier(rule.burst, int(window.rpartition("-")[2].rstrip("s")))
            limits.append(Limit(tier.name, "tier", rule.packets, rule.octets, counts.get(window, 0)))
    return limits


def exempt_counts(prefix: str, socket: NftablesSocket, table: Table) -> dict[str, int]:
    """Count who is exempt, by the set's name."""
    names = {name(prefix, family) for name in (exempt_name, nets_name) for family in _KEYS}
    return _counts(socket, [header for name, header in table.others.items() if name in names])


def counts(prefix: str, socket: NftablesSocket, table: Table) -> dict[str, int]:
    """Count the elements of our sets; a kernel that does not tell is asked for all of them."""
    return _counts(socket, [header for name, header in table.others.items() if is_ours(prefix, name)])


def _counts(socket: NftablesSocket, headers: Iterable[wire.SetHeader]) -> dict[str, int]:
    return {header.name: _count(socket, header) for header in headers}


def _count(socket: NftablesSocket, header: wire.SetHeader) -> int:
    if header.count is not None and not header.name.endswith("-nets"):
        return header.count
    # A set of intervals has an element for the end of each, too.
    bounds = (bound for body in socket.listed(wire.LIST_ELEMENTS, header.name) for bound in wire.bounds(body))
    return sum(not is_end for _, is_end in bounds)


def exempt(prefix: str, networks: frozenset[IPNetwork], *, before: frozenset[IPNetwork]) -> None:
    """Exempt these, and nobody else; ``before`` is what the sets hold, empty if unknown. Raises FirewallError."""
    if not before:
        libnftables.run("\n".join([f"add table inet {prefix}", *_exempt_sets(prefix)]))
    more, fewer = networks - before, before - networks
    with NftablesSocket(prefix) as socket:
        for family in PLAIN:
            present = set() if before else _listed(socket, prefix, family)
            wanted = _alike(more, family)
            _change(socket, wire.ADD, exempt_name(prefix, family), wanted - present)
            gone = _alike(fewer, family) if before else present - wanted
            _change(socket, wire.DELETE, exempt_name(prefix, family), gone)
    for family, plain in PLAIN.items():
        if not before or any(each.version == family and each.prefixlen != plain for each in more | fewer):
            _fill_nets(
                prefix, family, [each for each in networks if each.version == family and each.prefixlen != plain]
            )


def _exempt_sets(prefix: str) -> Iterator[str]:
    for family, (_, kind) in _KEYS.items():
        yield f"add set inet {prefix} {exempt_name(prefix, family)} {{ type {kind}; size {MAX_EXEMPT}; }}"
        yield f"add set inet {prefix} {nets_name(prefix, family)} {{ type {kind}; flags interval; }}"


def _alike(networks: Iterable[IPNetwork], family: int) -> set[IPNetwork]:
    return {each for each in networks if each.version == family and each.prefixlen == PLAIN[family]}


def _listed(socket: NftablesSocket, prefix: str, family: int) -> set[IPNetwork]:
    pieces = socket.listed(wire.LIST_ELEMENTS, exempt_name(prefix, family))
    return {entry.network for body in pieces for entry in wire.entries(body, family, PLAIN[family])}


def _change(socket: NftablesSocket, command: int, name: str, networks: Iterable[IPNetwork]) -> None:
    for few in parts([Entry(network, None) for network in networks], wire.LONGEST):
        for code in socket.change([wire.Change(command, name, few)]).values():
            raise refusal(code, f"change the set {name!r}")


def _fill_nets(prefix: str, family: int, wanted: Sequence[IPNetwork]) -> None:
    """Put networks in; overlapping ones are joined, for a set of intervals takes none."""
    name = f"inet {prefix} {nets_name(prefix, family)}"
    lines = [f"flush set {name}"]
    for few in parts(collapse_addresses(wanted), NETS_AT_ONCE):  # type: ignore[type-var]
        lines.append(f"add element {name} {{ {', '.join(map(str, few))} }}")
        libnftables.run("\n".join(lines))
        lines = []
    if lines:
        libnftables.run("\n".join(lines))

"""
The kernel's nftables as our firewall, in a table of our own that nobody else's rules know of.

Only this table is read or changed. Bans go to the kernel as netlink messages of ours, all else through libnftables.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import NamedTuple, TypeVar

from amiwatch.errors import FirewallError
from amiwatch.firewall import libnftables
from amiwatch.firewall import nftables_wire as wire
from amiwatch.firewall.base import DEFAULT_CAPACITY, Entry, SetState, collector_paused, parts
from amiwatch.firewall.names import checked_prefix, set_name
from amiwatch.firewall.nftables_socket import NftablesSocket, refusal
from amiwatch.firewall.nftables_table import (
    PLAIN,
    WIDTHS,
    Table,
    Width,
    misfit,
    read,
    script_for_missing,
    script_for_rebuild,
)
from amiwatch.judgement.values import IPNetwork

log = logging.getLogger(__name__)

PART = 3 * wire.LONGEST
"""Entries in one transaction: 180 KB with counters, and a message must stay below 212 KB (net.core.wmem_default)."""

FEW = 20
"""Up to so many entries are looked up before they are changed (20 microseconds each), so that the kernel refuses none:
a transaction that fails costs 12 ms, for the kernel waits for all processors before it forgets it."""

SINGLY = 200
"""Entries that are sent one by one, in one transaction, once the kernel refused one of many: it names each that it
refuses, and as many refusals fit the receive buffer that an ordinary user may have (about 400 KB)."""

ROUNDS = 8
"""Tries to add what the kernel refuses: once because it knows some, once for no room, the others for races."""

AHEAD = 8
"""Pieces of a list that a thread fetches while the ones before are read (32 KiB each)."""

USUAL_TURN, SHORT_TURN = sys.getswitchinterval(), 0.0001
"""How long a thread of Python waits before it takes the interpreter from another, in seconds. With the usual 5 ms the
thread that fetches idles at each piece that we read: 100,000 entries take 0.52 s to list, and 0.45 with short turns."""

T = TypeVar("T")


class NftablesFirewall:
    """
    Sets ``<prefix>4`` and ``<prefix>6`` in the table ``inet <prefix>``. See ``Firewall`` for the methods.

    What vanished (a flushed ruleset, a deleted table) is made anew by ``open`` and by the next ``add``; the others take
    a missing set for an empty one. Networks of other widths than one IPv4 address and an IPv6 /64 have sets of their
    own, which count as part of their family. Counters outlast a new timeout.
    """

    name = "nftables"

    def __init__(self, prefix: str = "amiwatch", maxelem: int = DEFAULT_CAPACITY) -> None:
        self.prefix = checked_prefix(prefix)
        self.maxelem = maxelem
        self._socket: NftablesSocket | None = None
        self._lock = threading.Lock()
        """Held by whoever uses the socket or looks at the widths."""
        self._widths: set[Width] = set()
        """Widths whose sets were there when we last looked."""
        self._may_hurry = True
        """Nothing was refused since ``add`` last succeeded: a refusal would hold up the event loop."""

    async def open(self) -> None:
        await self._in_thread(lambda: self._ensure(()))

    async def close(self) -> None:
        with self._lock:
            if self._socket is not None:
                self._socket.close()
            self._socket = None

    async def add(self, entries: Sequence[Entry]) -> list[Entry]:
        rejected: list[Entry] = []
        for part in parts(entries, PART):
            for entry in part:
                _refuse_everything(entry.network)
            rejected += await self._in_thread(partial(self._put, part))
        return rejected

    def add_now(self, entry: Entry) -> bool:
        width = Width.of(entry.network)
        if width not in WIDTHS or not self._lock.acquire(blocking=False):
            return False
        try:
            if self._socket is None or not self._socket.is_open or width not in self._widths:
                return False
            if not self._may_hurry or self._known(entry.network) is not None:
                return False
            self._may_hurry = not self._socket.change([self._change(wire.ADD, width, [entry])])
            return self._may_hurry
        except FirewallError:
            return False
        finally:
            self._lock.release()

    async def remove(self, networks: Iterable[IPNetwork]) -> None:
        for part in parts((Entry(network, None) for network in networks if network.prefixlen), PART):
            await self._in_thread(partial(self._take, part))

    async def clear(self) -> None:
        await self._in_thread(self._flush)

    async def walk(self, take: Callable[[Sequence[Entry]], object]) -> None:
        run = asyncio.get_running_loop().run_in_executor
        with NftablesSocket(self.prefix) as socket, _short_turns():
            pieces = _pieces(socket, read(socket, self.prefix))
            # For each piece the kernel walks over all that it told before: 1 ms at 100,000 entries, 30 ms at a million.
            fetch = partial(run, None, lambda: list(islice(pieces, AHEAD)))
            fetching = fetch()
            try:
                while some := await asyncio.shield(fetching):
                    fetching = fetch()
                    for piece in some:
                        take(piece.entries())
                        await asyncio.sleep(0)  # others have their turn
            finally:
                # Also when cancelled: a socket is not closed while a thread waits at it.
                await asyncio.wait([fetching])

    async def entries(self) -> list[Entry]:
        found: list[Entry] = []
        with collector_paused():
            await self.walk(found.extend)
        return found

    async def has(self, network: IPNetwork) -> bool:
        return await self.entry(network) is not None

    async def entry(self, network: IPNetwork) -> Entry | None:
        if not network.prefixlen:
            return None
        with NftablesSocket(self.prefix) as socket:
            return self._found(socket, network)

    async def states(self) -> list[SetState]:
        with NftablesSocket(self.prefix) as socket:
            table = read(socket, self.prefix)
            if all(header.count is not None for header in table.sets.values()):
                return self._states(socket, table)
            return await asyncio.to_thread(self._states, socket, table)

    async def refuse_foreign(self) -> None:
        """Raise FirewallError where somebody else made a set of our name; nothing is changed."""
        await self._in_thread(self._table)

    async def remove_sets(self) -> None:
        """
        Delete our table with all that is in it; no table is no error.

        For ``amiwatch firewall remove`` only. A table in which a set of our name is somebody else's is a FirewallError,
        and stays; so does one without any set of ours.
        """
        await self._in_thread(self._delete)

    # Within the lock, mostly in a thread.

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.to_thread(self._locked, work)

    def _locked(self, work: Callable[[], T]) -> T:
        with self._lock:
            return work()

    def _opened(self) -> NftablesSocket:
        if self._socket is None or not self._socket.is_open:
            self._socket = NftablesSocket(self.prefix)
        return self._socket

    def _change(self, command: int, width: Width, entries: Sequence[Entry]) -> wire.Change:
        return wire.Change(command, width.name(self.prefix), entries)

    def _ensure(self, widths: Iterable[Width]) -> None:
        """Make what is missing of the table; one with other options is made anew, or an error if it is not ours."""
        table = self._table()
        if any(header.capacity != width.size(self.maxelem) for width, header in table.sets.items()):
            self._rebuild(table)
            table = self._table()
        wanted = sorted({*WIDTHS, *table.sets, *widths})
        if script := script_for_missing(table, self.prefix, self.maxelem, wanted):
            libnftables.run(script)
            for width in wanted:
                if width not in table.sets:
                    log.info("set created name=%s maxelem=%d", width.name(self.prefix), width.size(self.maxelem))
        self._widths = set(wanted)

    def _table(self) -> Table:
        """Read what is there; FirewallError if it is not ours."""
        table = read(self._opened(), self.prefix)
        for width, header in table.sets.items():
            if wrong := misfit(header, width):
                raise FirewallError(
                    f"The set {header.name!r} in the table 'inet {self.prefix}' is not ours to use ({wrong}): delete "
                    f"the table with 'nft delete table inet {self.prefix}', or give amiwatch another set name."
                )
        return table

    def _rebuild(self, table: Table) -> None:
        """Give the sets our options, and put their entries back, which are not dropped for a moment."""
        kept = [entry for piece in _pieces(self._opened(), table) for entry in piece.entries()]
        for family in PLAIN:
            number = sum(entry.network.version == family for entry in kept)
            if number > self.maxelem:
                raise FirewallError(
                    f"The set {set_name(self.prefix, family)!r} holds {number} entries and can't be cut to "
                    f"{self.maxelem}: unban some first, or allow more entries."
                )
        libnftables.run(script_for_rebuild(self.prefix, self.maxelem, list(table.sets)))
        self._widths = set(table.sets)
        for part in parts(kept, PART):
            self._put(part)
        log.warning("sets rebuilt table=%s maxelem=%d entries=%d", self.prefix, self.maxelem, len(kept))

    def _put(self, part: Sequence[Entry]) -> list[Entry]:
        """Add, all at once where nothing stands against it; return those for which there is no room."""
        groups = _grouped(part)
        if not groups.keys() <= self._widths:
            self._ensure(groups)
        is_plain = len(part) > FEW and groups.keys() <= set(WIDTHS)
        if is_plain and not self._opened().change(self._changes(wire.ADD, groups)):
            self._may_hurry = True
            return []
        newest = {entry.network: entry for entry in part}
        rejected = self._crowded_out([network for network in newest if Width.of(network) not in WIDTHS])
        for few in parts([entry for entry in newest.values() if entry.network not in rejected], SINGLY):
            rejected |= self._put_singly(few)
        self._may_hurry = not rejected
        return [entry for entry in part if entry.network in rejected]

    def _crowded_out(self, special: Sequence[IPNetwork]) -> set[IPNetwork]:
        """Return the networks of special widths whose family is full; the kernel itself counts only set by set."""
        if not special:
            return set()
        table = read(self._opened(), self.prefix)
        room = {state.family: state.capacity - state.count for state in self._states(self._opened(), table)}
        crowded: set[IPNetwork] = set()
        for network in special:
            if room.get(network.version, 1) > 0:
                room[network.version] = room.get(network.version, self.maxelem) - 1
            elif self._known(network) is None:
                crowded.add(network)
        return crowded

    def _put_singly(self, part: Sequence[Entry]) -> set[IPNetwork]:
        """
        Add one by one, in one transaction, and let the kernel tell what is in the way of each.

        What is there already is deleted and added with its counters: kernels before 6.12 keep the old
        timeout otherwise.
        """
        pending = {entry.network: entry for entry in part}
        known = {network: found for network in pending if (found := self._known(network))}
        rejected: set[IPNetwork] = set()
        for _ in range(ROUNDS):
            changes = list(self._replacements(pending.values(), known))
            refused = self._opened().change(changes) if changes else {}
            if not refused:
                return rejected
            if self._misses_a_set(changes, refused):
                self._ensure({Width.of(network) for network in pending})
                continue
            for place, code in refused.items():
                network = changes[place].entries[0].network
                found = self._known(network)
                if found is not None:
                    known[network] = found
                elif known.pop(network, None) is None and code == errno.ENFILE:
                    rejected.add(network)
                    pending.pop(network, None)
                elif code not in (errno.EEXIST, errno.ENFILE, errno.ENOENT):
                    raise refusal(code, f"add {network} to the set {changes[place].set_name!r}")
        raise self._restless()

    @staticmethod
    def _misses_a_set(changes: Sequence[wire.Change], refused: dict[int, int]) -> bool:
        return any(code == errno.ENOENT and changes[place].command == wire.ADD for place, code in refused.items())

    def _replacements(self, entries: Iterable[Entry], known: dict[IPNetwork, Entry]) -> Iterator[wire.Change]:
        for entry in entries:
            width, old = Width.of(entry.network), known.get(entry.network)
            if old is None:
                yield self._change(wire.ADD, width, [entry])
            else:
                yield self._change(wire.DELETE, width, [entry])
                counted = entry if entry.is_new else entry._replace(packets=old.packets, octets=old.octets)
                yield self._change(wire.ADD, width, [counted])

    def _take(self, part: Sequence[Entry]) -> None:
        if len(part) > FEW and not self._opened().change(self._changes(wire.DELETE, _grouped(part))):
            return
        entries = list({entry.network: entry for entry in part}.values())
        for _ in range(ROUNDS):  # some may end between the look and the change
            entries = [entry for entry in entries if self._known(entry.network) is not None]
            if not entries or not self._opened().change(self._changes(wire.DELETE, _grouped(entries))):
                return
        raise self._restless()

    def _changes(self, command: int, groups: Mapping[Width, Sequence[Entry]]) -> list[wire.Change]:
        return [
            self._change(command, width, few) for width, group in groups.items() for few in parts(group, wire.LONGEST)
        ]

    def _restless(self) -> FirewallError:
        return FirewallError(f"The table 'inet {self.prefix}' changes all the time: something else works on it.")

    def _known(self, network: IPNetwork) -> Entry | None:
        return self._found(self._opened(), network)

    def _found(self, socket: NftablesSocket, network: IPNetwork) -> Entry | None:
        width = Width.of(network)
        found = socket.get(
            width.name(self.prefix), network, lambda body: wire.entries(body, width.family, width.prefix)
        )
        return found[0] if found else None

    def _flush(self) -> None:
        if sets := self._table().sets:
            libnftables.run("\n".join(f"flush set inet {self.prefix} {header.name}" for header in sets.values()))

    def _delete(self) -> None:
        self._widths = set()
        if self._table().sets:
            libnftables.run(f"delete table inet {self.prefix}")

    # With a socket of its own: a long list holds nobody up.

    def _states(self, socket: NftablesSocket, table: Table) -> list[SetState]:
        return [state for width in WIDTHS for state in self._state(socket, table, width)]

    def _state(self, socket: NftablesSocket, table: Table, plain: Width) -> Iterator[SetState]:
        """Describe a family; nothing where a set of it is missing, or the rules that look into it: open makes both."""
        sets = [header for width, header in table.sets.items() if width.family == plain.family]
        if plain not in table.sets or not all(map(table.is_looked_up, sets)):
            return
        yield SetState(
            name=plain.name(self.prefix),
            family=plain.family,
            count=sum(_count(socket, header) for header in sets),
            capacity=table.sets[plain].capacity,
            references=sum(all(_count(socket, ports) for ports in _ports(table, jump)) for jump in table.jumps()),
        )


class _Piece(NamedTuple):
    """A part of a list, as the kernel told it."""

    width: Width
    body: memoryview

    def entries(self) -> Sequence[Entry]:
        return wire.entries(self.body, self.width.family, self.width.prefix)


@contextmanager
def _short_turns() -> Iterator[None]:
    sys.setswitchinterval(SHORT_TURN)
    try:
        yield
    finally:
        sys.setswitchinterval(USUAL_TURN)


def _pieces(socket: NftablesSocket, table: Table) -> Iterator[_Piece]:
    """List all sets, in the pieces in which the kernel tells them."""
    for width, header in table.sets.items():
        for body in socket.listed(wire.LIST_ELEMENTS, header.name):
            yield _Piece(width, body)


def _ports(table: Table, rule: wire.RuleHeader) -> Iterator[wire.SetHeader]:
    """Return the sets of closed ports that a rule asks: one that somebody emptied leads nowhere."""
    return (table.others[name] for name in rule.set_names if name in table.others)


def _count(socket: NftablesSocket, header: wire.SetHeader) -> int:
    if header.count is not None:
        return header.count
    return sum(map(wire.count, socket.listed(wire.LIST_ELEMENTS, header.name)))


def _grouped(entries: Iterable[Entry]) -> dict[Width, list[Entry]]:
    groups: dict[tuple[int, int], list[Entry]] = {}
    for entry in entries:
        network = entry.network
        groups.setdefault((network.version, network.prefixlen), []).append(entry)
    return {Width(*width): group for width, group in groups.items()}


def _refuse_everything(network: IPNetwork) -> None:
    if not network.prefixlen:
        raise FirewallError(f"{network} is every address there is: it can't be banned.")

"""
What a firewall can do for amiwatch, whatever kernel interface stands behind it.

Every implementation passes the contract tests in ``tests/firewall/test_contract.py``.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar

from amiwatch.judgement.values import IPNetwork

T = TypeVar("T")

MAX_TIMEOUT = 2_147_483
"""Longest timeout of a kernel set entry, in seconds (ip_set.h: UINT_MAX >> 1 milliseconds)."""

DEFAULT_CAPACITY = 1_000_000
"""Entries that a set takes: the kernel's own default of 65,536 ends bans unnoticed, a million cost 40 MB once full."""


class Entry(NamedTuple):
    """
    One network in (or for) a kernel set. ``seconds`` left to live; None has no end.

    A named tuple and not a dataclass: a listing makes 100,000 of them, and a frozen dataclass takes twice as long.
    """

    network: IPNetwork
    seconds: int | None
    packets: int = 0
    """Packets dropped since it was added; 0 where the backend does not count."""
    octets: int = 0
    is_new: bool = False
    """It counts from 0. Else what is there already goes on counting; and ipset keeps what ran out for minutes, so that
    an entry added after that would count on, too."""


@dataclass(frozen=True, slots=True)
class SetState:
    """One of our sets, as the kernel has it now."""

    name: str
    family: int
    """4 or 6."""
    count: int
    capacity: int
    """``maxelem``: adding more than this fails."""
    references: int
    """How many rules use the set; 0 means that nothing is dropped."""


class Firewall(Protocol):
    """
    The sets of one amiwatch. One task uses it; no call blocks the event loop for longer than a netlink exchange.

    Methods raise ``FirewallError`` (``FirewallPermission`` where rights are missing); each may be repeated.
    """

    name: str
    """``ipset``, ``nftables``, ``none`` (dry run)."""

    async def open(self) -> None:
        """Connect and create our missing sets. A set of ours with other options is an error that says what to do."""

    async def close(self) -> None:
        """Let go of the connection. Sets and entries stay: kernel timeouts run on."""

    async def add(self, entries: Sequence[Entry]) -> list[Entry]:
        """
        Add networks, or give known ones a new timeout; return those for which the set had no room.

        ``seconds`` above ``MAX_TIMEOUT`` are cut to it (reconcile re-arms); None is an entry without an end.
        """

    def add_now(self, entry: Entry) -> bool:
        """
        Add one network within this call, where the kernel answers at once. Never raises.

        False tells nothing about the kernel: call ``add``, which says what is wrong.
        """

    async def remove(self, networks: Iterable[IPNetwork]) -> None:
        """Take networks out; one that is not there is no error."""

    async def clear(self) -> None:
        """Take everything out with one call of the kernel; sets and rules stay. A missing set is no error."""

    async def walk(self, take: Callable[[Sequence[Entry]], object]) -> None:
        """
        Hand out all entries, some hundred at a time, as the kernel lists them.

        Who keeps none of them spares the collector a million objects, over which it holds the event loop for a second.
        """

    async def entries(self) -> list[Entry]:
        """List all entries of our sets with the time left and, where counted, the packets dropped."""

    async def has(self, network: IPNetwork) -> bool:
        """Ask the kernel whether exactly this network is in its set."""

    async def entry(self, network: IPNetwork) -> Entry | None:
        """Read the entry of exactly this network, with what it counted; None if it is not in its set."""

    async def states(self) -> list[SetState]:
        """Read the headers of our sets (cheap). A set that is missing is missing from the list."""


def parts(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Cut into lists, each when it is its turn: a million entries are never walked in one go."""
    remaining = iter(items)
    while part := list(itertools.islice(remaining, size)):
        yield part


@contextlib.contextmanager
def collector_paused() -> Iterator[None]:
    """
    Keep the cycle collector from walking what is listed again and again.

    It finds nothing in it, and takes a third of the time of listing 100,000 entries.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()

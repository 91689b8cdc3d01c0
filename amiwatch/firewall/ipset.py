"""
The kernel's ipset as our firewall: one hash:net set for IPv4, one for IPv6.

Only sets named after our prefix are read or changed. Whether packets are dropped is decided by the rule (``rule.py``).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence

from amiwatch.errors import FirewallError
from amiwatch.firewall import ipset_wire as wire
from amiwatch.firewall.base import DEFAULT_CAPACITY, Entry, SetState, collector_paused, parts
from amiwatch.firewall.ipset_socket import IpsetSocket, refusal
from amiwatch.firewall.names import checked_prefix, set_name, spare_name
from amiwatch.judgement.values import IPNetwork

log = logging.getLogger(__name__)

BATCH = 800
"""Entries in one netlink message: 61 KB for IPv6, and a list of entries must stay below 64 KiB. Also what is sent
between two turns of the event loop."""

HOST_PREFIX = {4: 32, 6: 128}


class IpsetFirewall:
    """
    Sets ``<prefix>4`` and ``<prefix>6`` (hash:net, timeout, counters, ``maxelem``). See ``Firewall`` for the methods.

    A set that vanished is made anew by the next ``add``; the others take a missing set for an empty one. ``packets``
    of an entry begin at 0 when the entry is new, and when a set had to be rebuilt with other options.
    """

    name = "ipset"

    def __init__(self, prefix: str = "amiwatch", maxelem: int = DEFAULT_CAPACITY) -> None:
        self.prefix = checked_prefix(prefix)
        self.maxelem = maxelem
        self._socket = IpsetSocket()

    async def open(self) -> None:
        for family in wire.FAMILIES:
            await self._ensure(family)

    async def close(self) -> None:
        self._socket.close()

    async def add(self, entries: Sequence[Entry]) -> list[Entry]:
        rejected = []
        for part in parts(entries, BATCH):
            for entry in part:
                _refuse_everything(entry.network)
            for family, group in _by_family(part):
                rejected += await self._fill(family, group, name=self._set(family))
        return rejected

    def add_now(self, entry: Entry) -> bool:
        if not self._socket.is_open or not entry.network.prefixlen:
            return False
        family = entry.network.version
        message = wire.change(wire.ADD, self._set(family), family, [entry], protocol=self._socket.protocol)
        answer = self._socket.ask_now(message)
        return answer is not None and not answer.code

    async def remove(self, networks: Iterable[IPNetwork]) -> None:
        for part in parts((Entry(network, None) for network in networks if network.prefixlen), BATCH):
            for family, group in _by_family(part):
                answer = await self._change(wire.DELETE, family, group)
                if answer.code not in (0, wire.MISSING):
                    raise refusal(answer.code, f"take entries out of the set {self._set(family)!r}")

    async def clear(self) -> None:
        ours = [self._set(family) for family in wire.FAMILIES if await self._is_ours(family)]
        if ours:
            await self._socket.flush(*ours)

    async def walk(self, take: Callable[[Sequence[Entry]], object]) -> None:
        for family in wire.FAMILIES:
            await self._list(self._set(family), lambda answer: take(answer.entries))

    async def entries(self) -> list[Entry]:
        found: list[Entry] = []
        with collector_paused():
            await self.walk(found.extend)
        return found

    async def has(self, network: IPNetwork) -> bool:
        if not await self._covers(network):
            return False
        family = network.version
        if network.prefixlen < HOST_PREFIX[family]:
            return True
        # Asked for a single address, the kernel says yes to any network around it (ip_set_hash_gen.h, mtype_test).
        for prefix in range(1, network.prefixlen):
            if await self._covers(network.supernet(new_prefix=prefix)):
                return any(entry.network == network for entry in await self._entries(self._set(family)))
        return True

    async def entry(self, network: IPNetwork) -> Entry | None:
        # The kernel's ipset has no question for one entry that brings its counters.
        if not await self._covers(network):
            return None
        return next((one for one in await self._entries(self._set(network.version)) if one.network == network), None)

    async def states(self) -> list[SetState]:
        found = []
        for family in wire.FAMILIES:
            name = self._set(family)
            options = await self._options(name)
            if options is not None:
                found.append(SetState(name, family, options.count, options.maxelem, options.references))
        return found

    async def refuse_foreign(self) -> None:
        """Raise FirewallError where somebody else made a set of our name; nothing is changed."""
        for family in wire.FAMILIES:
            options = await self._options(self._set(family))
            if options is not None:
                _refuse_foreign(self._set(family), family, options)

    async def remove_sets(self) -> None:
        """
        Destroy our sets with all their entries; sets that are missing are no error.

        For ``amiwatch firewall remove`` only, after the rule is gone: the kernel refuses while a rule uses them. A set
        of our name that somebody else made is a FirewallError, and stays.
        """
        for family in wire.FAMILIES:
            for name in (spare_name(self.prefix, family), self._set(family)):
                options = await self._options(name)
                if options is not None:
                    _refuse_foreign(name, family, options)
                    await self._socket.destroy(name)

    def _set(self, family: int) -> str:
        return set_name(self.prefix, family)

    async def _is_ours(self, family: int) -> bool:
        """Tell whether the set of a family is there, and no other one of the same name."""
        options = await self._options(self._set(family))
        return options is not None and not _is_foreign(family, options)

    async def _ensure(self, family: int) -> None:
        name = self._set(family)
        options = await self._options(name)
        if options is None:
            await self._socket.create(name, family, maxelem=self.maxelem)
            log.info("set created name=%s maxelem=%d", name, self.maxelem)
            options = await self._options(name)
        if options is None:
            raise FirewallError(f"The set {name!r} vanishes as soon as it is made: something else destroys it.")
        _refuse_foreign(name, family, options)
        if options.maxelem != self.maxelem or not options.has_counters:
            await self._rebuild(family, options)

    async def _rebuild(self, family: int, old: wire.SetOptions) -> None:
        """Give a set our options and keep its entries: fill a spare set, swap the two, destroy the old one."""
        name, spare = self._set(family), spare_name(self.prefix, family)
        if old.count > self.maxelem:
            raise FirewallError(
                f"The set {name!r} holds {old.count} entries and can't be cut to {self.maxelem}: "
                "unban some first, or allow more entries."
            )
        if (left := await self._options(spare)) is not None:  # by a crash in the lines below
            _refuse_foreign(spare, family, left)
            await self._socket.destroy(spare)
        await self._socket.create(spare, family, maxelem=self.maxelem)
        rejected = await self._fill(family, await self._entries(name), name=spare)
        if rejected:
            await self._socket.destroy(spare)
            raise FirewallError(f"The set {name!r} grew while it was rebuilt: stop what adds to it and try again.")
        await self._socket.swap(spare, name)
        await self._socket.destroy(spare)
        log.warning("set rebuilt name=%s old_maxelem=%d maxelem=%d", name, old.maxelem, self.maxelem)

    async def _fill(self, family: int, entries: Sequence[Entry], *, name: str) -> list[Entry]:
        """
        Add in order and step over what the set has no room for; known entries get their time even in a full set.

        The kernel stops at the first entry that it refuses and names it.
        """
        rejected: list[Entry] = []
        done, size, may_create = 0, BATCH, name == self._set(family)
        while done < len(entries):
            part = entries[done : done + size]
            answer = await self._change(wire.ADD, family, part, name=name)
            if not answer.code:
                done, size = done + len(part), min(size * 2, BATCH)
            elif answer.code == wire.FULL:
                rejected.append(part[answer.line])
                # A full set mostly stays full: short messages, or each refusal would carry a thousand entries back.
                done, size = done + answer.line + 1, 1
            elif answer.code == wire.MISSING and may_create:
                await self._ensure(family)
                may_create = False
            else:
                raise refusal(answer.code, f"add {part[answer.line].network} to the set {name!r}")
            if done % 64 == 0:
                await asyncio.sleep(0)
        return rejected

    async def _change(
        self, command: int, family: int, entries: Sequence[Entry], *, name: str | None = None
    ) -> wire.Answer:
        await self._socket.open()
        message = wire.change(command, name or self._set(family), family, entries, protocol=self._socket.protocol)
        return await self._socket.ask(message)

    async def _covers(self, network: IPNetwork) -> bool:
        if not network.prefixlen:
            return False
        await self._socket.open()
        name = self._set(network.version)
        answer = await self._socket.ask(wire.question(name, network.version, network, protocol=self._socket.protocol))
        if answer.code in (wire.ABSENT, wire.MISSING):
            return False
        if answer.code:
            raise refusal(answer.code, f"look for {network} in the set {name!r}")
        return True

    async def _options(self, name: str) -> wire.SetOptions | None:
        """Read the header of a set; None if there is none."""
        found: list[wire.SetOptions] = []
        await self._list(name, lambda answer: found.extend(filter(None, [answer.options])), header_only=True)
        return found[0] if found else None

    async def _entries(self, name: str) -> list[Entry]:
        found: list[Entry] = []
        with collector_paused():
            await self._list(name, lambda answer: found.extend(answer.entries))
        return found

    async def _list(self, name: str, take: Callable[[wire.Answer], object], *, header_only: bool = False) -> None:
        """Hand out what the kernel lists, piece by piece; nothing for a set that is missing."""
        await self._socket.open()
        message = wire.listing(name, protocol=self._socket.protocol, header_only=header_only)
        code = await self._socket.listen(message, take)
        if code not in (0, wire.MISSING):
            raise refusal(code, f"list the set {name!r}")


def _by_family(entries: Sequence[Entry]) -> Iterator[tuple[int, list[Entry]]]:
    for family in wire.FAMILIES:
        group = [entry for entry in entries if entry.network.version == family]
        if group:
            yield family, group


def _refuse_everything(network: IPNetwork) -> None:
    if not network.prefixlen:
        raise FirewallError(f"{network} is every address there is: it can't be banned.")


def _refuse_foreign(name: str, family: int, options: wire.SetOptions) -> None:
    """Keep our hands off a set of our name that somebody else made for something else."""
    if _is_foreign(family, options):
        raise FirewallError(
            f"The set {name!r} exists but is not ours to use ({_described(options)}; wanted: hash:net for "
            f"IPv{family} with timeout): destroy it with 'ipset destroy {name}', or give amiwatch another set name."
        )


def _is_foreign(family: int, options: wire.SetOptions) -> bool:
    return options.kind != "hash:net" or options.family != family or not options.has_timeout


def _described(options: wire.SetOptions) -> str:
    timeout = "with timeout" if options.has_timeout else "without timeout"
    return f"{options.kind} for IPv{options.family} {timeout}" if options.family else f"{options.kind} {timeout}"

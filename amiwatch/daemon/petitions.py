"""
Requests of people: rows of ``requests`` that wait, carried out in order, their outcome written into the same row.

Rule 1: what a person asked for gets an answer in one sentence, done or refused.

Rule 2: a refusal changes nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, NamedTuple

from amiwatch.config.texts import network_or_name
from amiwatch.errors import ConfigurationError, StoreError
from amiwatch.judgement.networks import source_key
from amiwatch.judgement.reasons import duration
from amiwatch.judgement.values import IPV6_PREFIX, Ban, IPNetwork
from amiwatch.store.records import AllowEntry, Request
from amiwatch.store.writer import Store

if TYPE_CHECKING:
    from amiwatch.daemon.watch import Daemon

log = logging.getLogger(__name__)

FOR_EVER = 0
"""The seconds of a request for a ban without an end."""

LONGEST = 100 * 365 * 86400
"""Longest duration in seconds that a request may name; longer is for ever, or a slip of the finger."""

WIDEST = {4: 16, 6: 32}
"""Shortest prefix that a ban by hand may have: more is a slip of the finger."""


IN_ONE_GO = 500
"""Requests carried out before their outcomes are waited for: the store remembers twice as many that it must write."""


class Answer(NamedTuple):
    """What became of a request."""

    text: str
    is_done: bool = True


def target_network(text: str) -> IPNetwork:
    """
    Read an address or a network as a person writes it; a single IPv6 address stands for its /64.

    Raises ValueError with a sentence.
    """
    try:
        network = ip_network(text.strip(), strict=False)
    except ValueError:
        raise ValueError(f"{text!r} is no address and no network: write 198.51.100.7 or 198.51.100.0/24") from None
    if network.version == 6 and network.prefixlen >= IPV6_PREFIX:
        return ip_network((network.network_address, IPV6_PREFIX), strict=False)
    _refuse_host_bits(text, network)
    return network


def allow_target(text: str) -> IPNetwork | str:
    """Read whom to allow: an address, a network or a DNS name. Raises ValueError with a sentence."""
    found = network_or_name(text.strip())
    if not isinstance(found, str):
        _refuse_host_bits(text, found)
    return found


def _refuse_host_bits(text: str, network: IPNetwork) -> None:
    """Raise ValueError for ``198.51.100.1/24``: whoever wrote that may have meant the address, or the network."""
    address, slash, _ = text.strip().partition("/")
    if slash and ip_address(address) != network.network_address:
        raise ValueError(f"{text!r} can mean two things: write {address} or {network}")


class Clerk:
    """Carries requests out, for the daemon."""

    def __init__(self, daemon: Daemon, store: Store) -> None:
        self._daemon = daemon
        self._store = store
        self._version = -1
        self._verbs: dict[str, Callable[[Request], Awaitable[Answer]]] = {
            "ban": self._ban,
            "unban": self._unban,
            "unban-all": self._unban_all,
            "allow": self._allow,
            "disallow": self._disallow,
            "forget": self._forget,
            "reload": self._reload,
        }

    async def look(self) -> None:
        """Carry out what waits, if another process wrote anything since the last look."""
        try:
            version = await self._store.data_version()
            if version == self._version:
                return
            requests = await self._store.pending_requests()
        except StoreError as error:
            log.debug("requests not read reason=%s", error)
            return
        self._version = version
        for number, request in enumerate(requests, start=1):
            await self._carry_out(request)
            if number % IN_ONE_GO == 0:
                with suppress(StoreError):  # said by the store
                    await self._store.flush()

    async def _carry_out(self, request: Request) -> None:
        verb = self._verbs.get(request.verb)
        try:
            answer = await verb(request) if verb else Answer(f"{request.verb!r} is nothing I can do", is_done=False)
        except (ValueError, StoreError, ConfigurationError) as error:
            answer = Answer(str(error), is_done=False)
        except Exception:  # a row of one person must not keep all others from being answered
            log.exception("request failed by a fault of amiwatch id=%d verb=%r", request.id, request.verb)
            answer = Answer("failed by a fault of amiwatch: see its log", is_done=False)
        log.info(
            "request verb=%s target=%r by=%r outcome=%r",
            request.verb if verb else repr(request.verb),
            request.target,
            request.asked_by,
            answer.text,
        )
        self._store.finish_request(request.id, answer.text, answer.is_done)

    async def _ban(self, request: Request) -> Answer:
        daemon, network = self._daemon, target_network(request.target)
        if network.prefixlen < WIDEST[network.version]:
            return Answer(f"{network} is wider than a /{WIDEST[network.version]}: not banned", is_done=False)
        if (safe := daemon.judge.allowed.overlapping(network)) is not None:
            held = "it" if safe[0] == network else safe[0]
            return Answer(f"{network} is never banned: {held} is {safe[1]}", is_done=False)
        _refuse_negative(request)
        seconds = daemon.judge.policy.ladder[0] if request.seconds is None else request.seconds or None
        now = daemon.now()
        ban = Ban(
            network=network,
            address=network.network_address if network.num_addresses > 1 else ip_address(network.network_address),
            at=now,
            seconds=seconds,
            level=0,
            rule="manual",
            reason=request.comment or f"banned by {request.asked_by}",
        )
        await daemon.ban_by_hand(ban, by=request.asked_by)
        time = "for ever" if seconds is None else f"for {duration(seconds)}"
        if not daemon.is_enforcing:
            return Answer(f"{network} recorded {time}, but nothing is blocked in observe mode")
        if network not in daemon.judge.ledger:
            return Answer(f"{network} not banned: the set is full, raise AMIWATCH_SET_SIZE", is_done=False)
        return Answer(f"{network} banned {time}{self._trouble()}")

    def _trouble(self) -> str:
        if not self._daemon.has_firewall_trouble:
            return ""
        return "; but the kernel refuses changes now, and it is tried again: see the log"

    async def _unban(self, request: Request) -> Answer:
        network = target_network(request.target)
        found = self._daemon.lift(network, by=request.asked_by, reason=request.comment or "unbanned")
        if not found:
            around = self._daemon.judge.ledger.covering(network.network_address, self._daemon.now())
            if around is not None:
                return Answer(f"{network} lies in the banned {around}: unban that", is_done=False)
            return Answer(f"{network} was not banned", is_done=False)
        self._pardon(network)
        await self._daemon.settle()
        return Answer(f"{network} unbanned{self._trouble()}")

    def _pardon(self, network: IPNetwork) -> None:
        self._daemon.judge.ladder.forget(source_key(network.network_address))
        self._store.put_pardon(network)

    async def _unban_all(self, request: Request) -> Answer:
        networks = [network for network, _ in self._daemon.judge.ledger.wanted(self._daemon.now())]
        for number, network in enumerate(networks):
            self._daemon.lift(network, by=request.asked_by, reason=request.comment or "unbanned with all")
            self._pardon(network)
            await self._daemon.memory.breathe(number)
        await self._daemon.settle()
        return Answer(f"{_counted(len(networks), 'ban')} lifted{self._trouble()}")

    async def _allow(self, request: Request) -> Answer:
        _refuse_negative(request)
        now = self._daemon.now.utc(self._daemon.now())
        target = str(allow_target(request.target))
        until = now + request.seconds if request.seconds else None
        self._store.put_allow(AllowEntry(target, request.comment, now, until, request.asked_by))
        await self._store.flush()
        before = len(self._daemon.judge.ledger)
        await self._daemon.allowlist.refresh()
        await self._daemon.settle()
        lifted = before - len(self._daemon.judge.ledger)
        ended = f"; {_counted(lifted, 'ban')} lifted" if lifted else ""
        return Answer(f"{target} is never banned from now on{ended}")

    async def _disallow(self, request: Request) -> Answer:
        try:
            target = str(network_or_name(request.target.strip()))
        except ValueError:
            target = request.target  # what somebody wrote into the table must go the same way
        known = {entry.target for entry in await self._store.allowlist(self._daemon.now.utc(self._daemon.now()))}
        if target not in known:
            return Answer(
                f"{target} is not on the allowlist of the database (see 'amiwatch allow --list')", is_done=False
            )
        self._store.put_disallow(target)
        await self._store.flush()
        await self._daemon.allowlist.refresh()
        return Answer(f"{target} is judged like everybody else from now on")

    async def _forget(self, request: Request) -> Answer:
        if request.target:
            network = target_network(request.target)
            counts = await self._store.forget_network(network)
            self._daemon.judge.ladder.forget(source_key(network.network_address))
            kept = counts.pop("kept", 0)
            text = f"{_counted(sum(counts.values()), 'row')} about {network} deleted"
            return Answer(text + ("; its ban lasts and was kept: unban it first" if kept else ""))
        _refuse_negative(request)
        age = self._daemon.settings.keep if request.seconds is None else request.seconds
        counts = await self._store.forget(self._daemon.now.utc(self._daemon.now()) - age)
        return Answer(f"{_counted(sum(counts.values()), 'row')} older than {duration(age)} deleted")

    async def _reload(self, request: Request) -> Answer:
        await self._daemon.reload_now()
        return Answer("settings read again")


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _refuse_negative(request: Request) -> None:
    if request.seconds is not None and not 0 <= request.seconds <= LONGEST:
        raise ValueError(f"{request.seconds} s is no duration that I can keep")

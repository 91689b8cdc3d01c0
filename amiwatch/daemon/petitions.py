"""
Requests of people: rows of ``requests`` that wait, carried out in order, their outcome written into the same row.

Rule 1: what a person asked for gets an answer in one sentence, done or refused.

Rule 2: a refusal changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from ipaddress import ip_address, ip_network
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

from amiwatch.config.texts import network_or_name
from amiwatch.daemon.caution import objection
from amiwatch.daemon.host import safe_networks
from amiwatch.daemon.listening import ssh_connections
from amiwatch.errors import ConfigurationError, FirewallError, StoreError
from amiwatch.firewall.base import parts
from amiwatch.judgement.networks import source_key
from amiwatch.judgement.reasons import duration
from amiwatch.judgement.values import FORCED, IPV6_PREFIX, MANUAL, Ban, IPNetwork, source_network
from amiwatch.store.records import FOR_EVER, AllowEntry, Panic, Request, Trial
from amiwatch.store.writer import Store

if TYPE_CHECKING:
    from amiwatch.daemon.watch import Daemon

log = logging.getLogger(__name__)

LONGEST = 100 * 365 * 86400
"""Longest duration in seconds that a request may name; longer is for ever, or a slip of the finger."""

LONGEST_TRIAL = 86400
"""Longest time in seconds to confirm a ban: who has not lost his connection by then has not lost it."""

FILLING = frozenset({"ban", "confirm", "resume", "tiers"})
"""Verbs that put something into the kernel."""

IN_ONE_GO = 500
"""Requests carried out before their outcomes are waited for: the store remembers twice as many that it must write."""

TOGETHER = 50
"""Bans that go to the kernel together: some 5 ms of the event loop."""


FORCE_IT = " (--force bans it all the same)"


class Answer(NamedTuple):
    """What became of a request."""

    text: str
    is_done: bool = True


def target_network(text: str) -> IPNetwork:
    """
    Read an address or a network as a person writes it; a single IPv6 address stands for its /64.

    Raises ValueError with a sentence.
    """
    with suppress(ValueError):  # an IPv4 address as an IPv6 socket shows it
        if (mapped := getattr(ip_address(text.strip()), "ipv4_mapped", None)) is not None:
            return ip_network(mapped)
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
        self._is_behind = False
        """The disk has not taken the last outcomes."""
        self._safe: dict[IPNetwork, str] = {}
        """What must never be banned here, as it was when what is carried out now was read."""
        self._verbs: dict[str, Callable[[Request], Awaitable[Answer]]] = {
            "ban": self._ban,
            "confirm": self._confirm,
            "unban": self._unban,
            "unban-all": self._unban_all,
            "allow": self._allow,
            "disallow": self._disallow,
            "forget": self._forget,
            "panic": self._panic,
            "resume": self._resume,
            "reload": self._reload,
            "tiers": self._tiers,
        }

    async def look(self) -> None:
        """Carry out what waits, if another process wrote anything since the last look."""
        try:
            version = await self._store.data_version()
            if version == self._version or (self._is_behind and not self._store.is_working):
                return
            while requests := await self._store.pending_requests(IN_ONE_GO):
                await self._carry_out_all(requests)
                if len(requests) < IN_ONE_GO:
                    break
                self._is_behind = True
                await self._store.flush()
                self._is_behind = False
        except StoreError as error:
            log.debug("requests not read reason=%s", error)
            return
        self._version = version

    async def _carry_out_all(self, requests: Sequence[Request]) -> None:
        """Carry out in order; bans behind each other go to the kernel together."""
        if any(request.verb == "ban" for request in requests):
            self._safe = await asyncio.to_thread(ssh_connections) | await safe_networks()
        for is_ban, alike in groupby(requests, key=lambda request: request.verb == "ban" and request.confirm is None):
            for few in parts(alike, TOGETHER if is_ban else 1):
                await asyncio.gather(*map(self._carry_out, few))

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
        against = objection(network, daemon.judge.allowed, self._safe)
        if against is not None and (against.is_final or not request.is_forced):
            return Answer(against.text + ("" if against.is_final else FORCE_IT), is_done=False)
        _refuse_negative(request)
        wanted = daemon.judge.policy.ladder[0] if request.seconds is None else request.seconds
        seconds = None if wanted == FOR_EVER else wanted
        rule = MANUAL if against is None else FORCED
        if rule == FORCED:
            daemon.hold.forced.add(network)
        if request.confirm is not None and (seconds is None or request.confirm < seconds):
            return await self._try_out(request, network, seconds, rule)
        daemon.hold.settle(network)
        return await self._put(network, seconds, rule, request)

    async def _put(self, network: IPNetwork, seconds: int | None, rule: str, request: Request) -> Answer:
        daemon = self._daemon
        await daemon.ban_by_hand(self._by_hand(network, seconds, rule, request), by=request.asked_by)
        time = _time(seconds)
        if not daemon.is_enforcing:
            return Answer(f"{network} recorded {time}, but nothing is blocked in observe mode")
        if network not in daemon.judge.ledger:
            return Answer(f"{network} not banned: the set is full, raise AMIWATCH_SET_SIZE", is_done=False)
        return Answer(f"{network} banned {time}{self._trouble()}")

    def _by_hand(self, network: IPNetwork, seconds: int | None, rule: str, request: Request) -> Ban:
        return Ban(
            network=network,
            address=network.network_address,
            at=self._daemon.now(),
            seconds=seconds,
            level=0,
            rule=rule,
            reason=request.comment or f"banned by {request.asked_by}",
        )

    async def _try_out(self, request: Request, network: IPNetwork, seconds: int | None, rule: str) -> Answer:
        """Ban for the time in which it must be confirmed; one that is banned already keeps its longer time."""
        confirm = request.confirm or 0
        if not 0 < confirm <= LONGEST_TRIAL:
            raise ValueError(f"{confirm} s is no time to confirm in: 1 s to {duration(LONGEST_TRIAL)}")
        daemon, now = self._daemon, self._daemon.now()
        ban = self._by_hand(network, seconds, rule, request)
        utc = daemon.now.utc(now)
        until = None if seconds is None else utc + seconds
        before = daemon.judge.ledger.until(network)
        if before is None or before < now + confirm:
            text = f"on trial for {duration(confirm)}: {ban.reason}"
            answer = await self._put(network, confirm, rule, replace(request, comment=text))
            if not answer.is_done:
                return answer
        daemon.hold.try_out(Trial(network, utc, utc + confirm, until, rule, ban.reason, request.asked_by))
        return Answer(
            f"{network} banned {_time(seconds)} if it is confirmed within {duration(confirm)} "
            f"('amiwatch confirm'), else it ends then{self._trouble()}"
        )

    async def _confirm(self, request: Request) -> Answer:
        wanted = target_network(request.target) if request.target else None
        trials = self._daemon.hold.confirm(wanted)
        if not trials:
            which = "no ban" if wanted is None else f"no ban of {wanted}"
            return Answer(f"{which} waits to be confirmed: it was already, or its time is over", is_done=False)
        answers = []
        for trial, left in trials:
            asked = replace(request, comment=trial.reason, asked_by=trial.asked_by)
            answers.append(await self._put(trial.network, left, trial.rule, asked))
        return Answer("; ".join(answer.text for answer in answers), all(answer.is_done for answer in answers))

    async def _panic(self, request: Request) -> Answer:
        _refuse_negative(request)
        daemon = self._daemon
        now = daemon.now.utc(daemon.now())
        until = now + request.seconds if request.seconds else None
        count = _counted(len(daemon.judge.ledger), "ban")
        try:
            await daemon.hold.begin(Panic(now, until, request.asked_by, request.comment))
        except FirewallError as error:
            return Answer(f"the kernel refuses to be emptied, it is tried again and again: {error}", is_done=False)
        how_long = f"for {duration(request.seconds)}, or until" if request.seconds else "until"
        return Answer(f"nothing is dropped {how_long} 'amiwatch resume'; {count} held")

    async def _resume(self, request: Request) -> Answer:
        if not await self._daemon.hold.end():
            return Answer("there was no panic: it enforces", is_done=False)
        if not self._daemon.is_enforcing:
            return Answer("the panic is over, but nothing is blocked in observe mode")
        return Answer(f"{_counted(len(self._daemon.judge.ledger), 'ban')} in force again{self._trouble()}")

    def _trouble(self) -> str:
        if held := self._daemon.hold.words():
            return f"; but {held}"
        if not self._daemon.has_firewall_trouble:
            return ""
        return "; but the kernel refuses changes now, and it is tried again: see the log"

    async def _unban(self, request: Request) -> Answer:
        network = target_network(request.target)
        touching = self._daemon.judge.ledger.touching(network)
        found = [each for each in touching if each.prefixlen >= network.prefixlen]
        wider = sorted(set(touching) - set(found), key=lambda each: each.prefixlen, reverse=True)
        around = " and ".join(map(str, wider))
        await self._lift_all(found or [network], by=request.asked_by, reason=request.comment or "unbanned")
        if not found:
            more = "" if source_network(network.network_address) == network else ", nor anything inside it"
            why = f"lies in the banned {around}: unban that" if around else f"was not banned{more}"
            return Answer(f"{network} {why}", is_done=False)
        inside = [each for each in found if each != network]
        text = f"{network} unbanned" if network in found else f"{network} itself was not banned"
        if inside:
            text += f"; {_counted(len(inside), 'ban')} inside it lifted"
        still = f"; but it lies in the banned {around}: unban that, too" if around else ""
        return Answer(text + still + self._trouble())

    async def _lift_all(self, networks: Collection[IPNetwork], *, by: str, reason: str) -> None:
        """Lift these bans, and forget the offenders' places on the ladder; back when the kernel did it."""
        for number, network in enumerate(networks):
            if self._daemon.lift(network, by=by, reason=reason):
                self._pardon(network)
            await self._daemon.memory.breathe(number)
        await self._daemon.settle()

    def _pardon(self, network: IPNetwork) -> None:
        self._daemon.judge.ladder.forget(source_key(network.network_address))
        self._store.put_pardon(network)

    async def _unban_all(self, request: Request) -> Answer:
        networks = [network for network, _ in self._daemon.judge.ledger.wanted(self._daemon.now())]
        await self._lift_all(networks, by=request.asked_by, reason=request.comment or "unbanned with all")
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
        self._allow_forced(target, by=request.asked_by)
        await self._daemon.settle()
        lifted = before - len(self._daemon.judge.ledger)
        ended = f"; {_counted(lifted, 'ban')} lifted" if lifted else ""
        if self._daemon.allowlist.resolved.get(target) == []:
            is_open = target in self._daemon.allowlist.unanswered
            why = "no name server has answered for it yet" if is_open else "the name has no address now"
            ended = f"; but {why}, so it protects nobody until it has one{ended}"
        how_long = f"for {duration(request.seconds)} " if request.seconds else ""
        return Answer(f"{target} is never banned {how_long}from now on{ended}")

    def _allow_forced(self, target: str, *, by: str) -> None:
        """Lift the bans that were forced against the allowlist before: the last word counts."""
        network = network_or_name(target)
        if isinstance(network, str):
            return
        for banned in [each for each in self._daemon.hold.forced if each.version == network.version]:
            if banned.overlaps(network):
                self._daemon.lift(banned, by=by, reason=f"{network} is never banned any more")

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

    async def _tiers(self, request: Request) -> Answer:
        if request.target not in ("on", "off"):
            raise ValueError(f"{request.target!r} is neither: say on or off")
        daemon, is_on = self._daemon, request.target == "on"
        await daemon.guard.switch_tiers(self._store, is_on=is_on, by=request.asked_by)
        await daemon.protect_now()
        if not is_on:
            return Answer(f"rate tiers are off{self._trouble()}")
        tiers = ", ".join(tier.name for tier in daemon.guard.protection().tiers)
        return Answer(
            f"rate tiers are on for sources without trust: {tiers} new connections{self._but()}{self._trouble()}"
        )

    def _but(self) -> str:
        """Say why nothing is limited now, if so."""
        if not self._daemon.is_enforcing:
            return "; but in observe mode nothing is dropped"
        if not self._daemon.places_rule:
            return "; but no rule is ours to place here, so nothing is limited"
        if self._daemon.limits_refused:
            return f"; but they are not in force: {self._daemon.limits_refused}"
        if self._daemon.judge.counters.chan_sip:
            return "; the phones of chan_sip earn no trust, so allow their networks"
        return ""

    async def _reload(self, request: Request) -> Answer:
        await self._daemon.reload_now()
        return Answer("settings read again")


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _time(seconds: int | None) -> str:
    return "for ever" if seconds is None else f"for {duration(seconds)}"


def _refuse_negative(request: Request) -> None:
    if request.seconds is not None and not 0 <= request.seconds <= LONGEST:
        raise ValueError(f"{request.seconds} s is no duration that I can keep")

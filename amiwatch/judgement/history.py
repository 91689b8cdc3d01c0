"""
Judging again what was before, by other rules.

Rule 1: there is one door. Attempts that were counted once become the events that make ``Judge.see`` count them again.

Rule 2: a ban has consequences: what its source sent while it would have lasted is not judged, and logins are missed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import count
from typing import NamedTuple

from amiwatch.judgement.judge import Judge
from amiwatch.judgement.networks import source_key
from amiwatch.judgement.trust import Trust
from amiwatch.judgement.values import (
    UNKNOWN,
    Alert,
    Ban,
    IPAddress,
    IPNetwork,
    Lift,
    SecurityEvent,
    Verdict,
    source_network,
)

SWEEP_PAUSE = 2.0
"""Seconds between two looks at challenges that nobody answers, as the daemon has it by default."""

MAX_LOGINS = 200_000
"""Sources whose logins are remembered to tell whom a ban would have hit (60 MB)."""

MAX_PHONES = 256
"""Accounts remembered of one source: the phones of a large office behind one address."""


class PastAttempt(NamedTuple):
    """One attempt as it was counted."""

    at: float
    source: IPAddress
    account: str
    service: str
    transport: str
    outcome: str
    """As the judge calls it; ``failed`` for an attempt at chan_sip that was not judged."""
    is_answered: bool = False
    """Whether a password followed, where the account does not exist."""


_KINDS = {
    "success": "SuccessfulAuth",
    "unknown": "InvalidAccountID",
    "guess": "ChallengeResponseFailed",
    "refused": "FailedACL",
    "unanswered": "ChallengeSent",
    "ami": "InvalidPassword",
    "failed": "InvalidPassword",
}
"""Outcome → the event that makes the judge count it."""

_ANSWER = "ChallengeResponseFailed"


def events_of(attempts: Iterable[PastAttempt]) -> Iterator[SecurityEvent]:
    """Yield the events that make a judge count these attempts once each; unknown outcomes are left out."""
    for number, attempt in zip(count(1), attempts):
        kind = _KINDS.get(attempt.outcome)
        if kind is None:
            continue
        if attempt.service == "SIP" and kind in ("InvalidAccountID", _ANSWER):
            kind = "InvalidPassword"
        elif kind == "InvalidAccountID" and attempt.account == UNKNOWN:
            kind = _ANSWER  # its name came too late or never
        if kind == "ChallengeSent" and attempt.service == "PJSIP":
            attempt = attempt._replace(account=UNKNOWN)  # it counted, whatever it was asked as
        event = SecurityEvent(
            kind=kind,
            at=attempt.at,
            service=attempt.service,
            account=attempt.account,
            session=f"{number}",  # attempts that were told apart once stay apart
            transport=attempt.transport,
            source=attempt.source,
            port=0,
            local_port=0,
            used_password=kind == "SuccessfulAuth" and attempt.service == "PJSIP",
            guess=number,
        )
        yield event
        if attempt.is_answered and kind == "InvalidAccountID":
            yield event._replace(kind=_ANSWER, account=UNKNOWN)


class Logins:
    """Who logged in from where: whom a ban of that source would have hit."""

    def __init__(self) -> None:
        self._accounts: dict[IPNetwork, set[str]] = {}
        self._intruders: set[IPNetwork] = set()

    def note(self, event: SecurityEvent) -> None:
        """Remember a login with a password."""
        if Trust.is_earned_by(event):
            source = source_network(event.source)
            if source in self._accounts or len(self._accounts) < MAX_LOGINS:
                accounts = self._accounts.setdefault(source, set())
                if len(accounts) < MAX_PHONES:
                    accounts.add(event.account)

    def distrust(self, source: IPAddress) -> None:
        """Take no login from there for a good phone: a password was found there."""
        self._intruders.add(source_network(source))

    def from_within(self, network: IPNetwork) -> list[str]:
        """List the accounts that logged in from there, in order."""
        if network == source_network(network.network_address):
            found = {network} & self._accounts.keys()
        else:
            found = {one for one in self._accounts if one.version == network.version and one.overlaps(network)}
        return sorted({account for one in found - self._intruders for account in self._accounts[one]})


@dataclass(slots=True)
class Rerun:
    """One judge at work on the past, and what would have come of it."""

    judge: Judge
    since: float = 0.0
    """What is decided before only warms up."""
    first: dict[IPNetwork, Ban] = field(default_factory=dict)
    """The first ban of each network, without its evidence."""
    last: dict[IPNetwork, Ban] = field(default_factory=dict)
    """The newest one."""
    bans: int = 0
    alerts: Counter[str] = field(default_factory=Counter)
    """How many of each kind."""
    missed: Counter[IPNetwork] = field(default_factory=Counter)
    """Logins with a password that each ban would have kept out."""
    _swept: float = 0.0
    _heard: float = 0.0

    def see(self, event: SecurityEvent, now: float) -> Iterator[Verdict]:
        """Judge one event; yield what follows from it and from the silence before it. Exhaust it."""
        yield from self.wait(now)
        ledger = self.judge.ledger
        if event.kind == "SuccessfulAuth" and ledger.is_banned(source_key(event.source), event.source, now):
            banned = ledger.covering(event.source, now)
            if banned is not None and now >= self.since and Trust.is_earned_by(event):
                self.missed[banned] += 1
        self._heard = now
        if said := self.judge.see(event, now):
            ledger.expire(now)
            yield from self._noted(said)

    def wait(self, until: float) -> Iterator[Verdict]:
        """Let time go by without an event: challenges may stay unanswered. Exhaust it."""
        if until < self._swept + SWEEP_PAUSE:
            return
        # Nothing happens between the last moment at which a challenge can be overdue and the next event.
        due = min(until, self._heard + self.judge.policy.answer_time + SWEEP_PAUSE)
        self._swept = until
        yield from self._noted(self.judge.sweep(due))

    def _noted(self, verdicts: Iterable[Verdict]) -> Iterator[Verdict]:
        for verdict in verdicts:
            if verdict.at < self.since:
                continue
            if isinstance(verdict, Alert):
                self.alerts[verdict.kind] += 1
            elif isinstance(verdict, Lift):
                self._take_back(verdict.network)
            else:
                bare = replace(verdict, evidence=())
                self.bans += 1
                self.first.setdefault(verdict.network, bare)
                self.last[verdict.network] = bare
            yield verdict

    def _take_back(self, network: IPNetwork) -> None:
        """Count a ban that was lifted for none; an earlier one of the same network stays."""
        if network not in self.first:
            return
        self.bans -= 1
        if self.first[network] is self.last[network]:
            del self.first[network], self.last[network]

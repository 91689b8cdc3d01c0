"""
Security events to verdicts.

Rule 1: this file does no I/O and reads no clock. ``now`` is an argument: seconds since the epoch, never backwards.

Rule 2: numbers stand in ``rules.py``; here they are only looked up. The allowlist and the safe networks win over all.

Rule 3: an attempt is a source and a SessionID with its outcome, however many events it raised.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

from amiwatch.judgement.ladder import Ladder
from amiwatch.judgement.ledger import Ledger
from amiwatch.judgement.networks import NetworkTable, source_key
from amiwatch.judgement.reasons import ban_reason, phone_reason, quiet_reason, window
from amiwatch.judgement.rules import HOUR, MINUTE, Measure, Policy, Rule, Unless, longest
from amiwatch.judgement.safe import ALWAYS
from amiwatch.judgement.sources import Source, SourceTable
from amiwatch.judgement.tally import Tally
from amiwatch.judgement.trouble import is_calm_caller, is_steady_phone
from amiwatch.judgement.trust import Trust
from amiwatch.judgement.values import Alert, Ban, IPAddress, IPNetwork, SecurityEvent, Verdict, source_network

UNKNOWN = "<unknown>"
"""What PJSIP writes instead of an account that it does not know."""

ALERT_PAUSE = HOUR
"""The same alert about the same source comes at most this often, in seconds."""

MAX_ALERTS = 10_000
"""Alerts remembered to keep that pause."""

FOUND_AFTER = 5
"""Passwords tried on an account before its success is called a guess: people need up to four."""

Outcome = Literal["unknown", "guess", "refused", "unanswered", "succeeded", "ami"]


@dataclass(slots=True)
class Counters:
    """What the judge saw since it began."""

    events: int = 0
    attempts: int = 0
    tainted: int = 0
    repeats: int = 0
    """Events of sources that were banned already."""
    chan_sip: int = 0
    held_back: int = 0
    """Bans on unproven evidence that the ceiling held back."""


class Judge:
    """Watches sources and says who is an offender."""

    def __init__(self, policy: Policy, *, ledger: Ledger | None = None, random: Random | None = None) -> None:
        # Jitter need not be unguessable: knowing it would tell an attacker only when to come again.
        random = random or Random()  # noqa: S311
        self.ledger = ledger or Ledger()
        self.trust = Trust(trust_time=policy.trust_time, max_sources=policy.max_trusted)
        self.ladder = Ladder(policy, random)
        self.sources = SourceTable(policy.max_sources)
        self.counters = Counters()
        self.tally = Tally()
        self.allowed: NetworkTable[str] = NetworkTable()
        """Networks that are never banned, each with the words that say why."""
        self.allow({})
        self._alerted: OrderedDict[tuple[str, int], float] = OrderedDict()
        self._ceiling_minute = 0
        self._ceiling_used = 0
        self._readers = self._reading()
        self.adopt(policy)

    def adopt(self, policy: Policy) -> None:
        """Judge by these rules from now on; nothing that is remembered gets lost."""
        self.policy = policy
        self.trust.trust_time = policy.trust_time
        self.ladder.policy = policy
        self.sources.limit = policy.max_sources
        self._longest = longest(policy.rules)
        self._tripwires = frozenset(name.casefold() for name in policy.tripwires)
        # A rule that is met by fewer attempts comes first, so that the reason names the sharpest.
        self._rules = {
            measure: tuple(sorted((r for r in policy.rules if r.measure is measure), key=lambda r: r.find_time))
            for measure in Measure
        }

    def allow(self, networks: Mapping[IPNetwork, str]) -> None:
        """Never ban these networks (each with the words that say why) and the always safe ones; replaces earlier."""
        table: NetworkTable[str] = NetworkTable()
        for network, why in {**networks, **ALWAYS}.items():
            table.put(network, why)
        self.allowed = table

    def see(self, event: SecurityEvent, now: float) -> Sequence[Verdict]:
        """Take one event; return what follows from it, mostly nothing."""
        counters = self.counters
        counters.events += 1
        if event.tainted:
            counters.tainted += 1
            return ()
        key = source_key(event.source)
        if self.ledger.is_banned(key, event.source, now):
            counters.repeats += 1
            return ()
        read = self._readers.get((event.service, event.kind))
        if read is None:
            return ()
        if event.service == "SIP" and not self.policy.ban_chan_sip:
            counters.chan_sip += 1
            if event.kind != "ChallengeSent":
                self._note(key, event, "succeeded" if event.kind == "SuccessfulAuth" else "failed", now)
            return ()
        return read(key, event, now)

    def _reading(self) -> dict[tuple[str, str], Callable[[int, SecurityEvent, float], Sequence[Verdict]]]:
        """
        Service and kind → what it means.

        What is missing says nothing about its source: RequestNotSupported is an authenticated phone with a full or
        stale AOR; SessionLimit, RequestNotAllowed and RequestBadFormat are managers that are logged in.
        """
        return {
            ("PJSIP", "SuccessfulAuth"): self._succeeded,
            ("PJSIP", "ChallengeSent"): self._challenged,
            ("PJSIP", "InvalidAccountID"): self._no_account,
            ("PJSIP", "ChallengeResponseFailed"): self._wrong_answer,
            ("PJSIP", "FailedACL"): self._refused,
            ("AMI", "SuccessfulAuth"): self._succeeded,
            ("AMI", "InvalidAccountID"): self._manager,
            ("AMI", "InvalidPassword"): self._manager,
            ("AMI", "ChallengeResponseFailed"): self._manager,
            ("AMI", "FailedACL"): self._manager,
            ("SIP", "SuccessfulAuth"): self._succeeded,
            ("SIP", "ChallengeSent"): self._challenged,
            ("SIP", "InvalidAccountID"): self._sip_wrong,
            ("SIP", "InvalidPassword"): self._sip_wrong,
            ("SIP", "ChallengeResponseFailed"): self._sip_wrong,
            ("SIP", "FailedACL"): self._refused,
        }

    # What one event means. Each takes the key of its source.

    def _note(self, key: int, event: SecurityEvent, outcome: str, now: float) -> None:
        """Count an attempt for whoever keeps the sums."""
        self.counters.attempts += 1
        self.tally.add(key, event.source, event.account, event.service, event.transport, outcome, now)

    def _succeeded(self, key: int, event: SecurityEvent, now: float) -> Sequence[Verdict]:
        self._note(key, event, "succeeded", now)
        source = self.sources.get(key)
        if source is not None:
            source.dialogues.pop(hash(event.session), None)
            source.unanswered.pop(hash(event.session), None)
            if (alert := self._password_found(key, source, event, now)) is not None:
                return (alert,) if self._is_news(alert, key) else ()
        if Trust.is_earned_by(event):
            self.trust.grant(key, event.account, now)
        return ()

    def _challenged(self, key: int, event: SecurityEvent, now: float) -> Sequence[Verdict]:
        """Note a challenge for ``<unknown>``: honest if a success follows, the trace of a scanner if none ever does."""
        if event.account != UNKNOWN and event.service == "PJSIP":
            return ()  # normal: the first request carries no credentials
        source = self._source(key, event, now)
        dialogue = source.dialogue(event.session)
        if not dialogue.is_counted and not dialogue.asked_at:
            dialogue.asked_at = now
            source.unanswered[hash(event.session)] = now
            source.keep(event)
        return self._overdue(key, source, event, now)

    def _no_account(self, key: int, event: SecurityEvent, now: float) -> Sequence[Verdict]:
        source = self._source(key, event, now)
        dialogue = source.dialogue(event.session)
        source.unanswered.pop(hash(event.session), None)
        if not dialogue.is_new_request(event.account):
            return self._overdue(key, source, event, now)
        return self._attempt(key, source, event, now, account=event.account, dialogue_is="unknown")

    def _wrong_answer(self, key: int, event: SecurityEvent, now: float) -> Sequence[Verdict]:
        if self.trust.covers(key, event.account, now):
            return ()  # its own account: an old password in the second phone, a finger that slipped
        source = self._source(key, event, now)
        dialogue = source.dialogue(event.session)
        source.unanswered.pop(hash(event.session), None)
        was_counted = dialogue.is_counted and not dialogue.guesses
        if not dialogue.is_new_guess(event.guess):
            return ()
        source.has_password = True
        if event.account != UNKNOWN:
            source.note_guess(event.account)
            return self._attempt(key, source, event, now, account=None, dialogue_is="guess")
        if was_counted:
            return ()  # the twin of an InvalidAccountID or FailedACL
        return self._attempt(key, source, event, now, account=None, dialogue_is="unknown")

    def _refused(self, key: int, event: SecurityEvent, now: float) -> Sequence[Verdict]:
        if event.detail.startswith("registrar_"):
            return ()  # an authenticated phone whose AOR is full, stale or unknown
        source = self._source(key, event, now)
        dialogue = source.dialogue(event.session)
        if dialogue.is_counted:
            return ()
        return self._attempt(key, source, event, now, account=None, dialogue_is="refused")

    def _manager(self, key: int, event: SecurityEvent, now: float) -> Sequence[Verdict]:
        """Count a failed login to the manager: one event an attempt, and the SessionID is a pointer used again."""
        source = self._source(key, event, now)
        source.has_password = True
        return self._attempt(key, source, event, now, account=None, dialogue_is="ami")

    def _sip_wrong(self, key: int, event: SecurityEvent, now: float) -> Sequence[Verdict]:
        """Count a wrong answer to chan_sip, which does not tell unknown accounts from known ones."""
        source = self._source(key, event, now)
        source.has_password = True
        source.unanswered.pop(hash(event.session), None)
        if not source.dialogue(event.session).is_new_guess(event.guess or 1):
            return ()
        return self._attempt(key, source, event, now, account=event.account, dialogue_is="unknown")

    # Counting.

    def _source(self, key: int, event: SecurityEvent, now: float) -> Source:
        source = self.sources.get(key)
        if source is None:
            source = Source(event.source, now)
            self.sources.add(key, source)
            self.sources.expire(now - self._longest, at_most=2)
        if not event.is_proven:
            source.has_unproven = True
        return source

    def _attempt(
        self,
        key: int,
        source: Source,
        event: SecurityEvent,
        now: float,
        *,
        account: str | None,
        dialogue_is: Outcome,
    ) -> Sequence[Verdict]:
        """Count one more attempt, and judge the source by everything that this changed."""
        self._note(key, event, dialogue_is, now)
        source.total += 1
        source.keep(event)
        if dialogue_is != "ami":
            source.dialogue(event.session).is_counted = True
        if source.total > 1:
            self.sources.touch(key, source)
        changed = [_MEASURES[dialogue_is]] if dialogue_is in _MEASURES else []
        if account is not None:
            source.note_account(account, now)
            changed.append(Measure.ACCOUNTS)
        if self._tripwires and (account if account is not None else event.account).casefold() in self._tripwires:
            changed.append(Measure.TRIPWIRE)
        for measure in (Measure.ATTEMPTS, *changed):
            if measure is not Measure.ACCOUNTS:
                source.count(measure, now)
        return self._judge(key, source, event, now, (*reversed(changed), Measure.ATTEMPTS))

    def _overdue(self, key: int, source: Source, event: SecurityEvent, now: float) -> Sequence[Verdict]:
        """Count the challenges that were left unanswered for too long."""
        due = now - self.policy.answer_time
        counted = 0
        while source.unanswered:
            session, since = next(iter(source.unanswered.items()))
            if since > due and len(source.unanswered) < 256:
                break
            del source.unanswered[session]
            counted += 1
            source.total += 1
            self._note(key, event._replace(account=UNKNOWN), "unanswered", now)
            if (dialogue := source.dialogues.get(session)) is not None:
                dialogue.is_counted = True
            source.count(Measure.UNANSWERED, now)
            if event.service == "SIP":
                source.note_account(event.account, now)
        if not counted or self.trust.has(key, now):
            return ()
        if source.total > 1:
            self.sources.touch(key, source)
        return self._judge(key, source, event, now, (Measure.UNANSWERED, Measure.ACCOUNTS))

    # Judging.

    def _judge(
        self, key: int, source: Source, event: SecurityEvent, now: float, measures: Sequence[Measure]
    ) -> Sequence[Verdict]:
        is_trusted = self.trust.has(key, now)
        excused: Alert | None = None
        for measure in measures:
            for rule in self._rules[measure]:
                if not self._is_met(rule, source, now, is_trusted):
                    continue
                excuse = self._excuse(rule, source, event, now)
                if excuse is None:
                    return self._offender(key, source, rule, event, now, is_trusted)
                excused = excuse
        if excused is not None and self._is_news(excused, key):
            return (excused,)
        return ()

    def _is_met(self, rule: Rule, source: Source, now: float, is_trusted: bool) -> bool:
        limit = rule.limit
        if is_trusted:
            # An office earns patience for its own people, not for an enumeration from its address.
            if rule.measure not in _NOT_COVERED:
                return False
            limit *= self.policy.trust_factor if rule.measure is Measure.ACCOUNTS else 1
        reached = source.newest(rule.measure, limit)
        return reached is not None and reached >= now - rule.find_time

    def _excuse(self, rule: Rule, source: Source, event: SecurityEvent, now: float) -> Alert | None:
        """Return the alert that takes the place of a ban where the trouble may be honest."""
        begin = now - rule.find_time
        if Unless.CARRIER in rule.unless and not source.has_password and is_calm_caller(source, rule.measure, begin):
            return Alert(now, "unknown_carrier", event.source, event.account, quiet_reason(source, rule, now))
        if Unless.PHONE in rule.unless and is_steady_phone(source):
            return Alert(now, "broken_phone", event.source, event.account, phone_reason(source, event))
        return None

    def _offender(
        self, key: int, source: Source, rule: Rule, event: SecurityEvent, now: float, is_trusted: bool
    ) -> Sequence[Verdict]:
        spared = self._spared(key, source, rule, event, now, is_trusted)
        if spared is not None:
            return (spared,) if self._is_news(spared, key) else ()
        level, seconds = self.ladder.climb(key, now)
        network = source_network(event.source)
        is_proven = event.is_proven
        ban = Ban(
            network=network,
            address=event.source,
            at=now,
            seconds=seconds,
            level=level,
            rule=rule.name,
            reason=ban_reason(source, rule, now, level=level, is_trusted=is_trusted, is_proven=is_proven),
            service=event.service,
            is_proven=is_proven,
            evidence=source.proof(),
        )
        self.ledger.put(network, now + seconds)
        self.sources.remove(key)
        return (ban,)

    def _spared(
        self, key: int, source: Source, rule: Rule, event: SecurityEvent, now: float, is_trusted: bool
    ) -> Alert | None:
        """Return the alert that takes the place of a ban because of who the source is."""
        what = window(source, rule, now)
        if (allowed := self.allowed.overlapping(source_network(event.source))) is not None:
            reason = f"{what}, but {allowed[0]} is never banned: {allowed[1]}"
            return Alert(now, "allowed_offender", event.source, event.account, reason)
        if is_trusted and not event.is_proven:
            reason = f"{what}, but phones of ours log in from there and over UDP a stranger can forge its address"
            return Alert(now, "trusted_offender", event.source, event.account, reason)
        if not event.is_proven and not self._is_below_ceiling(now):
            self.counters.held_back += 1
            limit = self.policy.unproven_bans
            reason = f"more than {limit} new bans a minute on evidence that forged UDP packets could make: held back"
            return Alert(now, "ban_ceiling", None, "", reason)
        return None

    def _is_below_ceiling(self, now: float) -> bool:
        """Take one of this minute's bans on unproven evidence, if one is left."""
        minute = int(now // MINUTE)
        if minute != self._ceiling_minute:
            self._ceiling_minute, self._ceiling_used = minute, 0
        self._ceiling_used += 1
        return self._ceiling_used <= self.policy.unproven_bans

    def _password_found(self, key: int, source: Source, event: SecurityEvent, now: float) -> Alert | None:
        """Return an alarm where a source succeeds after many guesses: it has found a password, it earned no trust."""
        tried = source.guessed.get(event.account, 0)
        if max(tried, len(source.guessed)) < FOUND_AFTER or event.service == "AMI" or is_steady_phone(source):
            return None
        if self.trust.covers(key, event.account, now):
            return None
        reason = (
            f"{event.account!r} logged in after {tried} wrong passwords for it and tries on {len(source.guessed)} "
            f"accounts from the same source. Change its password, and look at its calls"
        )
        return Alert(now, "password_found", event.source, event.account, reason)

    def _is_news(self, alert: Alert, key: int) -> bool:
        """Tell whether this was not said lately, and remember that it is said now."""
        name = (alert.kind, key if alert.address is not None else 0)
        last = self._alerted.get(name)
        if last is not None and last > alert.at - ALERT_PAUSE:
            return False
        self._alerted[name] = alert.at
        self._alerted.move_to_end(name)
        if len(self._alerted) > MAX_ALERTS:
            self._alerted.popitem(last=False)
        return True

    def why_never(self, address: IPAddress) -> str | None:
        """Return the words that say why this address is never banned, or None if it can be."""
        found = self.allowed.overlapping(source_network(address))
        return found[1] if found else None


_MEASURES: dict[Outcome, Measure] = {"guess": Measure.GUESSES, "ami": Measure.AMI}

_NOT_COVERED = frozenset({Measure.ACCOUNTS, Measure.AMI, Measure.TRIPWIRE})
"""What trust does not excuse: enumerations, guessing at the manager, tripwires."""

"""
Security events to verdicts.

Rule 1: this file does no I/O and reads no clock. ``now`` is an argument: seconds since the epoch, never backwards.

Rule 2: numbers stand in ``rules.py``; here they are only looked up. The allowlist and the safe networks win over all.

Rule 3: an attempt is a source and a SessionID with its outcome, however many events it raised.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from random import Random
from typing import Literal

from amiwatch.judgement.campaigns import GIVEN_UP, Campaigns
from amiwatch.judgement.counters import Counters
from amiwatch.judgement.crowds import KNOWN, QUIET, Breaker, Failure
from amiwatch.judgement.ledger import Ledger
from amiwatch.judgement.networks import WIDE, NetworkTable, source_key, wide_key
from amiwatch.judgement.reasons import (
    aor_reason,
    attacked_reason,
    mass_reason,
)
from amiwatch.judgement.rules import (
    ACCOUNTS,
    AMI,
    ATTEMPTS,
    GUESSES,
    ONE_ACCOUNT,
    TRIPWIRE,
    UNANSWERED,
    Measure,
    Policy,
    longest,
)
from amiwatch.judgement.safe import ALWAYS
from amiwatch.judgement.sources import MAX_DIALOGUES, Dialogue, Source, SourceTable, cut
from amiwatch.judgement.successes import Successes
from amiwatch.judgement.tally import Tally
from amiwatch.judgement.trouble import (
    BURST_SIZE,
    ROUND_TRIP,
    SILENT,
    has_silent_session,
    is_back_after_burst,
    is_in_haste,
    is_name_of_scanner,
    silent_sessions,
)
from amiwatch.judgement.trust import Trust
from amiwatch.judgement.values import (
    IPV6_PREFIX,
    TEXT_LIMIT,
    UNKNOWN,
    IPAddress,
    IPNetwork,
    SecurityEvent,
    Verdict,
)
from amiwatch.judgement.verdicts import Verdicts

REPEATS = 256
"""Events of banned sources that are kept, to see whether they still arrive: a sample is enough."""

CHAN_SIP = 2**80
"""Added to the key of a source that chan_sip reports: its sender may name any address, so what it does is counted apart
and says nothing about who really has that address."""

UNFOLLOWED = 10
"""First requests for accounts that exist, none of them followed by an answer, after which their challenges count like
those for ``<unknown>``: phones answer within a round trip or two, all of an office that begin together in seconds."""

MAX_UNFOLLOWED = 20_000
"""Sources for which that is counted (2 MB): honest ones are in it between a challenge and its answer."""

BROKEN_TIME = 5.0
"""How long after a broken message the genuine one of the same request comes at most, in seconds: milliseconds."""

MAX_BROKEN = 256
"""Broken messages that wait for it."""

NAMED_TIME = 5.0
"""For how long PJSIP names a stranger after his first request, and before only from his fifth on, in seconds
(``pjsip_distributor.c``: ``unidentified_request_period``): the four before the first name are his as well."""

SWEEP = 2_000
"""Sources looked at in one sweep: some 10 ms."""

_TOO_MANY_CONTACTS = "registrar_attempt_exceeds_maximum_configured_contacts"

Outcome = Literal["unknown", "guess", "refused", "unanswered", "success", "ami"]


class Judge:
    """Watches sources and says who is an offender."""

    def __init__(self, policy: Policy, *, ledger: Ledger | None = None, random: Random | None = None) -> None:
        # Jitter need not be unguessable: knowing it would tell an attacker only when to come again.
        random = random or Random()  # noqa: S311
        self.ledger = ledger or Ledger()
        self.trust = Trust(trust_time=policy.trust_time, max_sources=policy.max_trusted)
        self.sources = SourceTable(policy.max_sources)
        self.counters = Counters()
        self.repeats: deque[tuple[SecurityEvent, float, str]] = deque(maxlen=REPEATS)
        """The newest events of banned sources, when they came and from which PBX: do their bans drop anything?"""
        self.tally = Tally()
        self.allowed: NetworkTable[str] = NetworkTable()
        """Networks that are never banned, each with the words that say why."""
        self._asked: OrderedDict[int, None] = OrderedDict()
        """Sources with challenges that may stay unanswered: nothing else may ever come from them."""
        self._breaker = Breaker(policy)
        self._unfollowed: dict[int, int] = {}
        """Source → first requests for accounts that exist since it last answered a challenge."""
        self._broken: OrderedDict[str, float] = OrderedDict()
        """SessionIDs of requests that broke a message → when."""
        self._campaigns = Campaigns(policy)
        self._verdicts = Verdicts(
            policy,
            ledger=self.ledger,
            trust=self.trust,
            sources=self.sources,
            breaker=self._breaker,
            counters=self.counters,
            random=random,
        )
        self._successes = Successes(
            policy,
            trust=self.trust,
            campaigns=self._campaigns,
            breaker=self._breaker,
            alarms=self._verdicts.alarms,
        )
        self.ladder = self._verdicts.ladder
        self.alarms = self._verdicts.alarms
        self.neighbours = self._verdicts.neighbours
        self.allow({})
        self._readers = self._reading()
        self.adopt(policy)

    def adopt(self, policy: Policy) -> None:
        """Judge by these rules from now on; nothing that is remembered gets lost."""
        self.policy = policy
        self.trust.trust_time = policy.trust_time
        self.trust.max_sources = policy.max_trusted
        self._verdicts.adopt(policy)
        self._breaker.adopt(policy)
        self._campaigns.adopt(policy)
        self._successes.policy = policy
        self.sources.limit = policy.max_sources
        self._longest = longest(policy.rules)
        self._soonest = min(SILENT, policy.answer_time)
        self._is_wide = policy.ipv6_prefix < IPV6_PREFIX
        self._counts_each = any(rule.measure is ONE_ACCOUNT and rule.limit for rule in policy.rules)
        self._tripwires = frozenset(name.casefold() for name in policy.tripwires)

    def allow(self, networks: Mapping[IPNetwork, str]) -> None:
        """Never ban these networks (each with the words that say why) and the always safe ones; replaces earlier."""
        networks = {**networks, **ALWAYS}
        self.allowed = NetworkTable()
        for network, why in networks.items():
            self.allowed.put(network, why)
        self._verdicts.spare(networks)

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
            self.repeats.append((cut(event), now, self.tally.pbx))
            return self._logs_in_though_banned(key, event, now) if event.kind == "SuccessfulAuth" else ()
        read = self._readers.get((event.service, event.kind))
        if read is None:
            return ()
        if event.service == "SIP" and not self.policy.ban_chan_sip:
            counters.chan_sip += 1
            key += CHAN_SIP
        elif self._is_wide and key < 0:
            key = self._with_neighbours(key, event, now)
        if self._broken and event.account == UNKNOWN and self._has_broken(event.session, now):
            # Its InvalidAccountID was refused: this is no challenge that names nobody, as carriers have.
            named = event._replace(kind="InvalidAccountID", account=f"(line ends, call {event.session[:32]})")
            return self._no_account(key, named, now) or read(key, event, now)
        return read(key, event, now)

    def refuse(self, session: str, now: float) -> None:
        """
        Note that a request with this SessionID broke a message by line ends in its account; empty is none.

        Nothing is done to anybody because of it. The genuine event of the same request, which follows, counts like one
        whose account doesn't exist.
        """
        if not session:
            return
        self._broken[session[:TEXT_LIMIT]] = now
        self._broken.move_to_end(session[:TEXT_LIMIT])
        if len(self._broken) > MAX_BROKEN:
            self._broken.popitem(last=False)

    def _has_broken(self, session: str, now: float) -> bool:
        return self._broken.pop(session[:TEXT_LIMIT], 0.0) >= now - BROKEN_TIME

    def _reading(self) -> dict[tuple[str, str], Callable[[int, SecurityEvent, float], Sequence[Verdict]]]:
        """
        Service and kind → what it means.

        What is missing says nothing about its source: SessionLimit, RequestNotAllowed and RequestBadFormat are
        managers that are logged in.
        """
        return {
            ("PJSIP", "SuccessfulAuth"): self._succeeded,
            ("PJSIP", "ChallengeSent"): self._challenged,
            ("PJSIP", "InvalidAccountID"): self._no_account,
            ("PJSIP", "ChallengeResponseFailed"): self._wrong_answer,
            ("PJSIP", "FailedACL"): self._refused,
            ("PJSIP", "RequestNotSupported"): self._unregistered,
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

    def _with_neighbours(self, key: int, event: SecurityEvent, now: float) -> int:
        """Return the key under which an IPv6 source is counted: its own if it is trusted, else its network's."""
        wide = wide_key(key, self.policy.ipv6_prefix)
        if event.kind == "SuccessfulAuth" and (network := self.sources.get(wide)) is not None:
            network.unanswered.pop(hash(event.session), None)  # asked before it was trusted
        return key if self.trust.has(key, now) else wide

    # What one event means. Each takes the key of its source.

    def _note(self, key: int, event: SecurityEvent, outcome: str, now: float) -> None:
        """Count an attempt for whoever keeps the sums."""
        self.counters.attempts += 1
        self.tally.add(_own_key(key, event), event.source, event.account, event.service, event.transport, outcome, now)

    def _succeeded(self, key: int, event: SecurityEvent, now: float) -> Sequence[Verdict]:
        self._note(key, event, "success", now)
        self._unfollowed.pop(key, None)
        source = self.sources.get(key)
        said: Sequence[Verdict] = ()
        if source is not None:
            dialogue = source.dialogues.pop(hash(event.session), None)
            source.unanswered.pop(hash(event.session), None)
            if dialogue is not None and dialogue.is_counted and Trust.is_earned_by(event):
                source.take_back_dialogue(dialogue, event.account)
        if source is not None or self._campaigns.has_attacked:
            said, is_welcome = self._successes.judge(key, _own_key(key, event), source, event, now)
            if not is_welcome:
                return said
        if Trust.is_earned_by(event):
            self.trust.grant(_own_key(key, event), event.account, now)
        return said

    def _logs_in_though_banned(self, key: int, event: SecurityEvent, now: float) -> Sequence[Verdict]:
        counted = wide_key(key, self.policy.ipv6_prefix) if self._is_wide and key < 0 else key
        source = self.sources.get(counted)
        return () if source is None else self._successes.judge_banned(counted, key, source, event, now)

    def _challenged(self, key: int, event: SecurityEvent, now: float) -> Sequence[Verdict]:
        """Note a challenge for ``<unknown>``: honest if a success follows, the trace of a scanner if none ever does."""
        if event.account != UNKNOWN and event.service == "PJSIP" and not self._is_unfollowed(key, now):
            return ()  # normal: the first request carries no credentials
        source = self._source(key, event, now)
        dialogue = source.dialogue(event.session)
        total = source.total
        if not dialogue.is_companion() and dialogue.is_new_challenge(now):
            session = hash(event.session)
            if session in source.unanswered:
                self._leave_unanswered(key, source, session, event, now)
            source.unanswered[session] = now
            self._asked[key] = None
            if len(self._asked) > self.policy.max_sources:
                self._asked.popitem(last=False)
            dialogue.is_proven = event.is_proven
            dialogue.asked_as = event.account[:TEXT_LIMIT]
            dialogue.port = event.port
            source.keep(event)
            self.sources.weigh(key, source)
            if total == BURST_SIZE and is_back_after_burst(source, now):
                self._leave_unanswered(key, source, session, event, now)
        return self._overdue(key, source, event, now, total)

    def _is_unfollowed(self, key: int, now: float) -> bool:
        """Count first requests that name an account; tell whether they are too many without an answer to any."""
        number = self._unfollowed.get(key, 0) + 1
        if number <= UNFOLLOWED:
            self._unfollowed[key] = number
            if len(self._unfollowed) > MAX_UNFOLLOWED:
                self._unfollowed.clear()  # they begin anew
            return False
        return not self.trust.has(key, now)

    def _no_account(self, key: int, event: SecurityEvent, now: float) -> Sequence[Verdict]:
        source = self._source(key, event, now)
        dialogue = source.dialogue(event.session)
        is_late = self._is_named_late(source, dialogue, event)
        if not dialogue.is_new_request(event.account, now):
            return self._overdue(key, source, event, now, source.total)
        if source.unanswered:
            self._count_unnamed(key, source, event, now)
        if self.trust.covers(key, event.account, now):
            # Its phone logged in with it lately: the account was deleted, or all of them were lost.
            self._note_guess(source, event, passwords=0)
            if is_late:
                return ()
            return self._attempt(key, source, event, now, account=None, dialogue_is="unknown")
        if is_late:
            for part in source.parts(is_proven=event.is_proven):
                part.note(ACCOUNTS, now, event.account)
            return self._verdicts.judge(key, source, event, now, (ACCOUNTS,))
        return self._attempt(key, source, event, now, account=event.account, dialogue_is="unknown")

    def _count_unnamed(self, key: int, source: Source, event: SecurityEvent, now: float) -> None:
        """
        Count the open challenges of a stranger who is named now as attempts on accounts that don't exist.

        Only those that went to the same port: of phones that begin together behind one address each has its own. The
        lines of a gateway share one, so where a line may have the name, an answer must have had the time to come; who
        asks again waits for a challenge that got lost.
        """
        since = now - NAMED_TIME
        before = [
            (session, dialogue, at)
            for session, at in source.unanswered.items()
            if at > since and (dialogue := source.dialogues.get(session)) is not None
            if dialogue.asked_as == UNKNOWN and dialogue.port == event.port and not dialogue.asked_again
        ]
        if not before or (before[0][2] > now - ROUND_TRIP and not is_name_of_scanner(event.account)):
            return
        for session, dialogue, at in before:
            self._leave_unanswered(key, source, session, event, now)
            for part in source.parts(is_proven=dialogue.is_proven):
                part.note(ATTEMPTS, at)
                part.nameless += 1

    def _wrong_answer(self, key: int, event: SecurityEvent, now: float) -> Sequence[Verdict]:
        source = self._source(key, event, now)
        dialogue = source.dialogue(event.session)
        source.unanswered.pop(hash(event.session), None)
        self._unfollowed.pop(key, None)
        is_companion = event.account == UNKNOWN and dialogue.is_companion()
        is_first = dialogue.is_counted and not dialogue.guesses
        if is_companion and event.guess in dialogue.guesses:
            return ()  # a repetition, which its InvalidAccountID has counted already
        if not dialogue.is_new_guess(event.guess):
            return ()
        self._note_password(source, event)
        if event.account != UNKNOWN:
            self._note_guess(source, event)
            said = self._attempt(key, source, event, now, account=None, dialogue_is="guess")
            return (*said, *self._guessed_at(key, event, now))
        if is_first:  # the answer that belongs to a counted request
            account = dialogue.account or UNKNOWN
            self.tally.answer(
                _own_key(key, event), event.source, account, event.service, event.transport, "unknown", dialogue.began
            )
            return ()
        dialogue.is_owed = not is_companion
        for part in source.parts(is_proven=event.is_proven):
            part.note_unnamed(event.port)
        return self._attempt(key, source, event, now, account=None, dialogue_is="unknown")

    def _refused(self, key: int, event: SecurityEvent, now: float) -> Sequence[Verdict]:
        if event.detail.startswith("registrar_"):
            return self._unregistered(key, event, now)
        source = self._source(key, event, now)
        dialogue = source.dialogue(event.session)
        is_late = self._is_named_late(source, dialogue, event)
        if not dialogue.is_new_request(event.account, now) or is_late:
            return ()
        self._note_guess(source, event, passwords=0)
        return self._attempt(key, source, event, now, account=None, dialogue_is="refused")

    def _unregistered(self, key: int, event: SecurityEvent, now: float) -> Sequence[Verdict]:
        """Report a phone whose AOR is full, stale or unknown: it has authenticated, so it is no offence."""
        is_full = event.detail == _TOO_MANY_CONTACTS
        kind = "aor_full" if is_full else "aor_missing"
        return self.alarms.tell(
            kind, hash((key, event.account)), event, now, lambda: aor_reason(event, is_full=is_full)
        )

    @staticmethod
    def _is_named_late(source: Source, dialogue: Dialogue, event: SecurityEvent) -> bool:
        """Match an event that names its account with its companion; tell whether that came first and was counted."""
        if dialogue.is_owed:
            dialogue.is_owed = False
            return True
        if source.unanswered.pop(hash(event.session), None) is None:
            dialogue.expect_companion()
        return False

    def _manager(self, key: int, event: SecurityEvent, now: float) -> Sequence[Verdict]:
        """Count a failed login to the manager: one event an attempt, and the SessionID is a pointer used again."""
        source = self._source(key, event, now)
        self._note_password(source, event)
        return self._attempt(key, source, event, now, account=None, dialogue_is="ami")

    def _sip_wrong(self, key: int, event: SecurityEvent, now: float) -> Sequence[Verdict]:
        """Count a wrong answer to chan_sip, which does not tell unknown accounts from known ones."""
        source = self._source(key, event, now)
        self._note_password(source, event)
        source.unanswered.pop(hash(event.session), None)
        if not source.dialogue(event.session).is_new_guess(event.guess or 1):
            return ()
        return self._attempt(key, source, event, now, account=event.account, dialogue_is="unknown")

    def _guessed_at(self, key: int, event: SecurityEvent, now: float) -> Sequence[Verdict]:
        """Watch an account that exists for guesses from many addresses."""
        account = event.account[:TEXT_LIMIT]
        if self.trust.has(key, now):
            return ()
        if not self._campaigns.guess(account, key, now, is_proven=event.is_proven):
            return ()
        by, within = self.policy.attacked_by, self.policy.attacked_time
        return self.alarms.tell_of_account(
            "account_attacked", account, event, now, lambda: attacked_reason(account, by, within)
        )

    # Counting.

    @staticmethod
    def _note_password(source: Source, event: SecurityEvent) -> None:
        for part in source.parts(is_proven=event.is_proven):
            part.has_password = True

    @staticmethod
    def _note_guess(source: Source, event: SecurityEvent, passwords: int = 1) -> None:
        for part in source.parts(is_proven=event.is_proven):
            part.note_guess(event.account, passwords)

    def _source(self, key: int, event: SecurityEvent, now: float) -> Source:
        source = self.sources.get(key)
        if source is None:
            source = Source(event.source, now)
            self.sources.add(key, source)
            self.sources.expire(now - self._longest, at_most=2)
        source.last_at = now
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
        source.keep(event)
        said: Sequence[Verdict] = ()
        is_hurried = False
        if dialogue_is != "ami":
            dialogue = source.dialogue(event.session)
            dialogue.is_counted = True
            is_hurried = dialogue.is_hurried
            if key < CHAN_SIP:
                said = self._failed(key, source, event, now)
            source.failed_at = now
        changed = [_MEASURES[dialogue_is]] if dialogue_is in _MEASURES else []
        if account is not None:
            changed.append(ACCOUNTS)
        tried = event.account if account is None else account
        if self._counts_each and dialogue_is != "ami" and tried != UNKNOWN:
            changed.append(ONE_ACCOUNT)
        if self._tripwires and dialogue_is != "ami" and tried.casefold() in self._tripwires:
            changed.append(TRIPWIRE)
        for part in source.parts(is_proven=event.is_proven):
            part.total += 1
            part.is_hurried |= is_hurried
            if account is None or account in part.accounts:
                part.note_again(tried, now, part.accounts.get(tried))
            for measure in (ATTEMPTS, *changed):
                part.note(measure, now, tried)
        if source.total > 1:
            self.sources.touch(key, source)
        self.sources.weigh(key, source)
        judged = self._verdicts.judge(key, source, event, now, (*reversed(changed), ATTEMPTS))
        return (*said, *judged) if said else judged

    def _failed(self, key: int, source: Source, event: SecurityEvent, now: float) -> Sequence[Verdict]:
        """Tell the breaker that a source fails."""
        breaker = self._breaker
        is_open, is_new = now < breaker.until, source.failed_at < now - QUIET
        if is_open or now > breaker.until + QUIET:
            source.is_of_a_crowd = is_open and not breaker.is_storm
        if not is_open and not is_new:
            return ()
        if is_open and breaker.is_storm and not event.is_proven and not self.trust.has(key, now):
            breaker.go_on(key, now)
            return ()  # one more stranger without proof says nothing new
        failure = self._failure(key, source, event, now)
        if is_open:
            breaker.go_on(key, now, failure)
        if not is_new or (is_open and breaker.is_storm and not failure.is_believed):
            return ()
        said = self._began_to_fail(failure, event, now)
        if not is_open and now < breaker.until and breaker.is_storm:
            for _ in range(1 + len(source.kept(ATTEMPTS))):
                breaker.go_on(key, now)  # who opens it is one of the storm
        return said

    def _failure(self, key: int, source: Source, event: SecurityEvent, now: float) -> Failure:
        # Who forges packets knows accounts, and addresses of phones, but hardly which is whose.
        is_trusted = self.trust.has(key, now)
        is_known = is_trusted and (event.is_proven or self.trust.covers(key, event.account, now))
        is_of_a_phone = bool(source.guessed) and not is_trusted
        return Failure(
            now,
            event.account[:TEXT_LIMIT],
            is_believed=event.is_proven or is_known or is_of_a_phone,
            is_known=is_known,
            is_forgeable=not event.is_proven and not is_known,
        )

    def _began_to_fail(self, failure: Failure, event: SecurityEvent, now: float) -> Sequence[Verdict]:
        """Note that a source which was quiet fails: many at once are a mass failure, or a storm."""
        breaker = self._breaker
        if not breaker.begin(failure, known=self.trust.number(now, at_most=max(2 * KNOWN, self.policy.mass_failure))):
            return ()
        kind = "unproven_storm" if breaker.is_storm else "mass_failure"
        lifts = self._verdicts.lift_hasty(now)
        said = self.alarms.tell(
            kind, None, event, now, lambda: mass_reason(breaker.begun(now), len(lifts), is_storm=breaker.is_storm)
        )
        return (*said, *lifts)

    def _overdue(self, key: int, source: Source, event: SecurityEvent, now: float, total: int) -> Sequence[Verdict]:
        """Count the challenges that were left unanswered for too long; judge if there are now more than ``total``."""
        oldest = next(iter(source.unanswered.values()), now)
        if oldest > now - self._soonest and source.total == total and len(source.unanswered) < MAX_DIALOGUES:
            return ()  # nearly always: phones answer, or will
        said = self._fell_silent(key, source, event, now)
        due = now - self.policy.answer_time
        if is_in_haste(source):
            for session in silent_sessions(source, now):
                self._leave_unanswered(key, source, session, event, now)
        while source.unanswered:
            session, since = next(iter(source.unanswered.items()))
            if since > due and len(source.unanswered) < MAX_DIALOGUES:
                break
            self._leave_unanswered(key, source, session, event, now)
        if source.total == total or self.trust.has(key, now):
            return said
        if source.total > 1:
            self.sources.touch(key, source)
        return (*said, *self._verdicts.judge(key, source, event, now, (UNANSWERED, ACCOUNTS)))

    def _fell_silent(self, key: int, source: Source, event: SecurityEvent, now: float) -> Sequence[Verdict]:
        """Tell the breaker that a source answers no challenge: forged packets would look like that."""
        if event.is_proven or key >= CHAN_SIP or max(source.failed_at, source.silent_at) >= now - QUIET:
            return ()
        if not has_silent_session(source, now) or self.trust.has(key, now):
            return ()
        source.silent_at = now
        failure = Failure(now, UNKNOWN, is_believed=False, is_known=False, is_forgeable=True)
        return self._began_to_fail(failure, event, now)

    def _leave_unanswered(self, key: int, source: Source, session: int, event: SecurityEvent, now: float) -> None:
        """Count one challenge that nobody answered, at the time when it was sent."""
        since = source.unanswered.pop(session)
        dialogue = source.dialogues.get(session) or Dialogue()
        dialogue.is_counted = True
        for part in source.parts(is_proven=dialogue.is_proven):
            part.is_hurried |= dialogue.is_hurried
            part.total += 1
            part.note(UNANSWERED, since)
        if now < self._breaker.until and not dialogue.is_proven:
            self._breaker.go_on(key, now)  # what a storm's sources usually send
        account = dialogue.asked_as
        self._note(key, event._replace(account=account), "unanswered", since)
        if event.service == "SIP":
            source.note(ACCOUNTS, now, account)

    def sweep(self, now: float) -> list[Verdict]:
        """
        Judge sources whose challenges stayed unanswered and from which nothing came since, and those of campaigns.

        To be called every few seconds; looks at ``SWEEP`` sources at most.
        """
        said: list[Verdict] = []
        for key in list(islice(self._asked, SWEEP)):
            source = self.sources.get(key)
            if source is not None and source.unanswered and source.evidence:
                said += self._overdue(key, source, source.evidence[-1], now, source.total)
                if source.unanswered:
                    self._asked.move_to_end(key)
                    continue
            del self._asked[key]
        return said + self._sweep_campaigns(now)

    def _sweep_campaigns(self, now: float) -> list[Verdict]:
        """Judge the sources that guessed at an account together with many others, and gave up."""
        said: list[Verdict] = []
        if now < self._breaker.until:
            return said  # those may be phones
        for key, account in self._campaigns.due(now, SWEEP):
            source = self.sources.get(key)
            if source is not None and source.last_at > now - GIVEN_UP:
                self._campaigns.wait(key, account, source.last_at)
            elif source is not None:
                said += self._verdicts.judge_campaigner(key, source, account, now)
        return said

    def why_never(self, address: IPAddress) -> str | None:
        """Return the words that say why this address is never banned, or None if it can be."""
        return self._verdicts.why_never(address)


def _own_key(key: int, event: SecurityEvent) -> int:
    """Return the key of the source alone, though it may be counted with its neighbours."""
    return key if key >= WIDE else source_key(event.source)


_MEASURES: dict[Outcome, Measure] = {"guess": GUESSES, "ami": AMI}

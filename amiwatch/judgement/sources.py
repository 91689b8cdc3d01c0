"""
What is remembered of each source: its dialogues, its attempts, its accounts.

Rule 1: windows are exact. Only the newest ``HISTORY`` attempts are kept, which is more than any limit, so "at least N
in this window" is one look at the Nth newest.

Rule 2: memory is bounded whatever arrives: the sources, what each of them holds, and the sum over all. UDP sources can
be invented; one seen once is the first to be forgotten.
"""

from __future__ import annotations

from bisect import insort
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from itertools import islice
from math import inf

from amiwatch.judgement.rules import ACCOUNTS, ATTEMPTS, ONE_ACCOUNT, Measure
from amiwatch.judgement.values import TEXT_LIMIT, UNKNOWN, Evidence, IPAddress, SecurityEvent

HISTORY = 96
"""Attempts and accounts kept for one source: more than the largest limit times the trust factor."""

MEASURES = len(Measure)

MAX_DIALOGUES = 256
"""Dialogues kept for one source: the phones of an office that start together behind one address."""

MAX_AGAIN, AGAIN_KEPT = 4, 24
"""Accounts of one source, and attempts on each, whose pace is kept: more accounts than a site has broken phones."""

MAX_EVIDENCE = 8
"""Events kept for one source, the first half of them and the newest."""

REPEATS = 12
"""A request is sent 11 times at most (RFC 3261 17.1.2.2, timers E and F) and then once with an answer: what is repeated
more often is another attempt."""

REPEAT_TIME = 32.0
"""How long a request is repeated, in seconds (RFC 3261 17.1.2.2, timer F: 64 times 0.5 s): later is another attempt."""

BURST_TIME = 8.0
"""Seconds within which a repetition is part of a burst; monitors that keep their Call-ID are slower."""

BURSTS = 3
"""Challenges of one dialogue that were repeated soon, above those that were not, before that is no lost packet."""

GUESSES_KEPT = 4
"""Passwords remembered of one dialogue to know a retransmission, which comes soon."""

PAIRS_OPEN = 2
"""Events of one dialogue that may wait for their companion: under load two repetitions were seen to interleave."""

SECOND_CHANCES = 16
"""Sources with proven evidence that are passed over to give up one that a forger may have invented."""

MAX_BYTES = 256 * 2**20
"""What all sources may hold together, in bytes by ``Source.size``: a source that the ceiling of bans spares, or that
is never banned, grows to 60 kB, and a forger can invent any number of those."""


class Dialogue:
    """
    One SIP dialogue as far as it went: what was already counted of it.

    An unknown account raises two events for each request: one that names it (InvalidAccountID, FailedACL) and a
    companion for ``<unknown>`` (ChallengeSent, ChallengeResponseFailed); mostly in this order, a few ms apart.
    """

    __slots__ = (
        "account",
        "asked_again",
        "asked_as",
        "asked_at",
        "began",
        "bursts",
        "guesses",
        "is_burst",
        "is_counted",
        "is_hurried",
        "is_owed",
        "is_proven",
        "named",
        "port",
        "repeats",
    )

    def __init__(self) -> None:
        self.account: str | None = None
        self.began = 0.0
        """When the request for ``account`` was first seen."""
        self.asked_as = UNKNOWN
        """For which account the last challenge was."""
        self.asked_at = 0.0
        """When a challenge for ``<unknown>`` went out that was not answered yet; 0 if there is none."""
        self.asked_again = 0
        """How often that challenge was repeated."""
        self.bursts = 0
        """How many more challenges were repeated soon than were not."""
        self.guesses: tuple[int, ...] = ()
        self.is_burst = False
        """Whether the open challenge was repeated soon."""
        self.is_counted = False
        self.is_hurried = False
        """Whether something came more often than retransmissions explain."""
        self.is_proven = False
        """Whether the open challenge went to a proven address."""
        self.named = 0
        """Events that named an account and whose companion is still to come."""
        self.port = 0
        """Where the open challenge went to."""
        self.is_owed = False
        """Whether a companion came first and was counted, so that the event with the name counts no more."""
        self.repeats = 0
        """How often the request, or its answer, was repeated."""

    def is_new_guess(self, guess: int) -> bool:
        """Tell whether this password was not tried in this dialogue lately, and remember it."""
        if guess in self.guesses:
            return self._is_too_often()
        self.guesses = (*self.guesses[1 - GUESSES_KEPT :], guess)
        self.asked_at, self.repeats = 0.0, 0
        return True

    def is_new_request(self, account: str, now: float) -> bool:
        """Tell whether an unauthenticated request is an attempt of its own, and not a repetition."""
        account = account[:TEXT_LIMIT]
        if self.account == account and now <= self.began + REPEAT_TIME:
            return self._is_too_often()
        self.account, self.began, self.repeats = account, now, 0
        self.guesses = ()  # the first password that follows belongs to this request
        return True

    def is_new_challenge(self, now: float) -> bool:
        """Tell whether a challenge for ``<unknown>`` is one of its own, and not a repetition."""
        if self.asked_at and now <= self.asked_at + REPEAT_TIME:
            self.asked_again += 1
            self.is_burst |= now <= self.asked_at + BURST_TIME
            return self.is_hurried or self._is_end_of_patience(self.asked_again)
        # A monitor may keep its Call-ID, and repeat a request whose answer was lost: now and then, not mostly.
        if self.asked_at:
            self.bursts = max(0, self.bursts + (1 if self.is_burst else -1))
            self.is_hurried |= self.bursts >= BURSTS
        self.asked_at, self.asked_again, self.is_burst = now, 0, False
        return True

    def expect_companion(self) -> None:
        self.named = min(self.named + 1, PAIRS_OPEN)

    def is_companion(self) -> bool:
        """Tell whether an event for ``<unknown>`` belongs to one that named its account before."""
        if not self.named:
            return False
        self.named -= 1
        return True

    def _is_too_often(self) -> bool:
        self.repeats += 1
        return self._is_end_of_patience(self.repeats)

    def _is_end_of_patience(self, repeats: int) -> bool:
        if repeats % REPEATS:
            return False
        self.is_hurried = True
        return True


def cut(event: SecurityEvent) -> SecurityEvent:
    """Return an event as it is kept: with texts of ``TEXT_LIMIT`` at most."""
    if len(event.session) <= TEXT_LIMIT and len(event.account) <= TEXT_LIMIT:
        return event
    return event._replace(session=event.session[:TEXT_LIMIT], account=event.account[:TEXT_LIMIT])


class Windows:
    """Times of attempts by measure, and accounts with the time of their last try: the newest ``HISTORY`` of each."""

    __slots__ = ("accounts", "each", "times")

    def __init__(self) -> None:
        self.times: list[list[float] | None] = [None] * MEASURES
        self.accounts: dict[str, float] = {}
        """Accounts that don't exist → when tried last, in that order."""
        self.each: dict[str, list[float]] | None = None
        """Accounts → when each was tried, the last one last; kept where a rule asks."""

    def count(self, measure: Measure, at: float) -> None:
        """Note one more of this measure."""
        times = self.times[measure]
        if times is None:
            times = self.times[measure] = []
        if times and at < times[-1]:
            insort(times, at)  # found out later
        else:
            times.append(at)
        if len(times) > 2 * HISTORY:
            del times[:HISTORY]

    def note_account(self, account: str, at: float) -> None:
        """Note that this account, which doesn't exist, was tried."""
        self.accounts.pop(account, None)
        self.accounts[account] = at
        if len(self.accounts) > HISTORY:
            del self.accounts[next(iter(self.accounts))]

    def count_each(self, account: str, at: float) -> None:
        """Note that this account was tried."""
        each = self.each = self.each or {}
        times = each[account] = each.pop(account, [])
        times.append(at)
        if len(times) > HISTORY:
            del times[0]
        if len(each) > HISTORY:
            del each[next(iter(each))]

    def number(self, measure: Measure) -> int:
        """Return how many of this measure are kept."""
        if measure is ACCOUNTS:
            return len(self.accounts)
        times = self.times[measure] if measure is not ONE_ACCOUNT else self.kept(measure)
        return len(times) if times else 0

    def newest(self, measure: Measure, limit: int) -> float | None:
        """Return when the ``limit``-th newest of this measure was; None if there were fewer."""
        if measure is ACCOUNTS:
            if len(self.accounts) < limit:
                return None  # the usual answer, and the iterators cost ten times as much
            return next(islice(reversed(self.accounts.values()), limit - 1, None))
        times = self.times[measure] if measure is not ONE_ACCOUNT else self.kept(measure)
        return times[-limit] if times and len(times) >= limit else None

    def take_back(self, account: str | None, at: float) -> None:
        """Forget an attempt made then on this account, None if it was not told, which was no offence."""
        if account is not None:
            self.accounts.pop(account, None)
        times = self.times[ATTEMPTS]
        if times and at in times:
            times.remove(at)

    def since(self, measure: Measure, begin: float) -> list[float]:
        """Return the times of this measure from ``begin`` on."""
        times = self.accounts.values() if measure is ACCOUNTS else self.kept(measure)
        return [at for at in times if at >= begin]

    def kept(self, measure: Measure) -> Sequence[float]:
        """Return the times that are kept of this measure; of one account, those of the account tried last."""
        if measure is ONE_ACCOUNT:
            return next(reversed(self.each.values())) if self.each else ()
        return self.times[measure] or ()


class Attempts(Windows):
    """What a source tried: all of it, or the part that is proven."""

    __slots__ = ("again", "guessed", "has_password", "is_hurried", "nameless", "port", "row", "total", "unnamed")

    def __init__(self) -> None:
        super().__init__()
        self.has_password = False
        """Whether it ever tried a password."""
        self.is_hurried = False
        """Whether it ever sent more in one dialogue than retransmissions explain: neither phone nor monitor does."""
        self.total = 0
        """Attempts since it is watched."""
        self.unnamed = 0
        """Those of them that tried a password and whose account Asterisk did not tell."""
        self.port = 0
        """From where the last of these came."""
        self.row = 0
        """How many of the newest of them came from there."""
        self.nameless = 0
        """Those that tried none, and count because a name came right after them."""
        self.guessed: dict[str, int] = {}
        """Existing accounts → passwords tried on each; 0 for one that an ACL refused."""
        self.again: dict[str, list[float]] = {}
        """The first ``MAX_AGAIN`` accounts that were tried again → when, the newest ``AGAIN_KEPT`` times."""

    def note(self, measure: Measure, at: float, account: str = "") -> None:
        """Note one more of this measure; ``account`` is the one that it is about, if it is about accounts."""
        if measure is ACCOUNTS:
            self.note_account(account[:TEXT_LIMIT], at)
        elif measure is ONE_ACCOUNT:
            self.count_each(account[:TEXT_LIMIT], at)
        else:
            self.count(measure, at)

    def note_unnamed(self, port: int) -> None:
        """Note that a password was tried from this port on an account that Asterisk did not tell."""
        self.unnamed += 1
        self.row = self.row + 1 if port and port == self.port else 1
        self.port = port

    def note_guess(self, account: str, passwords: int = 1) -> None:
        """Note that so many passwords were tried on this account, which exists."""
        account = account[:TEXT_LIMIT]
        self.guessed[account] = self.guessed.get(account, 0) + passwords
        if len(self.guessed) > HISTORY:
            del self.guessed[next(iter(self.guessed))]

    def guesses(self, account: str) -> tuple[int, int]:
        """Return how many passwords were tried on this account, and on how many accounts any was."""
        return self.guessed.get(account[:TEXT_LIMIT], 0), sum(count > 0 for count in self.guessed.values())

    def note_again(self, account: str, at: float, before: float | None) -> None:
        """Note that an account was tried again, after ``before`` if that is known: the pace tells a phone."""
        account = account[:TEXT_LIMIT]
        times = self.again.get(account)
        if times is None:
            if len(self.again) >= MAX_AGAIN:
                return
            times = self.again[account] = [] if before is None else [before]
        times.append(at)
        if len(times) > AGAIN_KEPT:
            del times[0]


class Source(Attempts):
    """All that is known of one source."""

    __slots__ = (
        "address",
        "dialogues",
        "evidence",
        "failed_at",
        "first_at",
        "is_of_a_crowd",
        "last_at",
        "names",
        "proven",
        "silent_at",
        "spared_until",
        "unanswered",
        "weight",
    )

    def __init__(self, address: IPAddress, now: float) -> None:
        super().__init__()
        self.address = address
        self.first_at = self.last_at = now
        """When it was heard of first, and last."""
        self.failed_at = -inf
        """When it failed last."""
        self.silent_at = -inf
        """When it was told to the breaker that it answers no challenge."""
        self.proven: Attempts | None = None
        """The part of its attempts that no forged packet could have made."""
        self.spared_until = 0.0
        """Until when further unproven evidence changes nothing: a flood that is not banned must cost little."""
        self.is_of_a_crowd = False
        """Whether it failed last during a mass failure, or soon after: its success then is nothing new."""
        self.names: dict[str, str] | None = None
        """Accounts that logged in → under which name Asterisk first took them for strangers (``auth_username``)."""
        self.dialogues: dict[int, Dialogue] = {}
        self.unanswered: dict[int, float] = {}
        """Dialogues with an open challenge for ``<unknown>`` → since when."""
        self.evidence: list[SecurityEvent] = []
        self.weight = 0
        """``size`` as the table has it."""

    def afresh(self, now: float) -> Source:
        """Return a source that remembers of this one only at which accounts it guessed."""
        source = Source(self.address, now)
        source.guessed = self.guessed
        source.has_password = self.has_password
        if self.proven is not None:
            source.proven = Attempts()
            source.proven.guessed = self.proven.guessed
        return source

    def forgive(self, account: str) -> int:
        """Forget the passwords that were tried on this account; return how many there were."""
        parts = self.parts(is_proven=self.proven is not None)
        return max(part.guessed.pop(account[:TEXT_LIMIT], 0) for part in parts)

    def dialogue(self, session: str) -> Dialogue:
        """Return the dialogue of this SessionID, a new one if it is not known."""
        key = hash(session)
        found = self.dialogues.get(key)
        if found is None:
            if len(self.dialogues) >= MAX_DIALOGUES:
                del self.dialogues[next(iter(self.dialogues))]
            found = self.dialogues[key] = Dialogue()
        return found

    def take_back_dialogue(self, dialogue: Dialogue, account: str) -> None:
        """
        Forget what was counted of the dialogue in which ``account`` logs in: an attempt on an unknown account.

        Each account has one name under which it was taken for a stranger: who owns one erases no enumeration with it.
        """
        name, at = dialogue.account, dialogue.began
        if name is None:
            at = dialogue.asked_at
        elif not self._has_name(account[:TEXT_LIMIT], name):
            return
        for part in self.parts(is_proven=self.proven is not None):
            part.take_back(name, at)

    def _has_name(self, account: str, name: str) -> bool:
        names = self.names = self.names or {}
        if len(names) < HISTORY:
            names.setdefault(account, name)
        return names.get(account) == name

    def parts(self, *, is_proven: bool) -> tuple[Attempts, ...]:
        """Return what grows with an attempt: the whole, and the proven part if it is proven."""
        if not is_proven:
            return (self,)
        if self.proven is None:
            self.proven = Attempts()
        return (self, self.proven)

    def keep(self, event: SecurityEvent) -> None:
        """Keep an event as evidence: the first ones and the newest ones."""
        event = cut(event)
        if len(self.evidence) >= MAX_EVIDENCE:
            del self.evidence[MAX_EVIDENCE // 2]
        self.evidence.append(event)

    def proof(self) -> tuple[Evidence, ...]:
        """Return the kept events in the form in which a ban carries them."""
        return tuple(map(Evidence.of, self.evidence))

    def size(self) -> int:
        """Estimate the bytes that it holds, a little too high (measured with ``python -m bench.judgement``)."""
        texts = _texts(self) + (0 if self.proven is None else 2 + _texts(self.proven))
        texts += 2 * len(self.names) if self.names else 0
        return 1000 + 250 * len(self.dialogues) + 160 * texts + 700 * len(self.evidence) + 100 * len(self.unanswered)


def _texts(part: Attempts) -> int:
    number = len(part.accounts) + len(part.guessed) + 3 * len(part.again)
    if part.each:
        number += 2 * len(part.each) + sum(map(len, part.each.values())) // 2
    return number


class SourceTable:
    """
    The watched sources, at most ``limit`` of them and ``MAX_BYTES`` in all.

    Two generations: *newcomers* made one attempt, *suspects* more. When there are too many, the newcomer longest quiet
    goes first, so a flood of invented sources pushes out its own kind and not the scanner who comes again; and where a
    forger comes again too, sources with proven evidence outlast his.
    """

    def __init__(self, limit: int, max_bytes: int = MAX_BYTES) -> None:
        self.limit = limit
        self.max_bytes = max_bytes
        self.bytes = 0
        """What all sources hold, by ``Source.size``."""
        self.forgotten = 0
        """Sources given up because there were too many."""
        # Ordered dictionaries: finding the first key of a plain one takes longer with each key deleted before it.
        self._newcomers: OrderedDict[int, Source] = OrderedDict()
        self._suspects: OrderedDict[int, Source] = OrderedDict()

    def __len__(self) -> int:
        return len(self._newcomers) + len(self._suspects)

    def __iter__(self) -> Iterator[Source]:
        yield from self._newcomers.values()
        yield from self._suspects.values()

    def get(self, key: int) -> Source | None:
        return self._suspects.get(key) or self._newcomers.get(key)

    def add(self, key: int, source: Source) -> None:
        self._newcomers[key] = source
        while len(self) > self.limit:
            self._give_up()

    def weigh(self, key: int, source: Source) -> None:
        """Take notice that a source grew; it may be the one that has to go."""
        if self.get(key) is not source:
            return  # given up already
        size = source.size()
        self.bytes += size - source.weight
        source.weight = size
        while self.bytes > self.max_bytes:
            self._give_up()

    def touch(self, key: int, source: Source) -> None:
        """Move a source that made another attempt to the fresh end of the suspects."""
        if self._newcomers.pop(key, None) is not None or key in self._suspects:
            self._suspects[key] = source
            self._suspects.move_to_end(key)

    def remove(self, key: int) -> None:
        source = self._newcomers.pop(key, None) or self._suspects.pop(key, None)
        if source is not None:
            self.bytes -= source.weight

    def expire(self, before: float, at_most: int) -> None:
        """Forget sources whose last attempt is older than every window, a few at a time."""
        for crowd in (self._newcomers, self._suspects):
            for _ in range(min(at_most, len(crowd))):
                key, source = next(iter(crowd.items()))
                if source.last_at >= before:
                    break
                self.remove(key)

    def _give_up(self) -> None:
        # Suspects may fill nine tenths; with fewer newcomers than that, the suspect longest quiet goes.
        is_crowded = len(self._newcomers) * 10 >= min(self.limit, len(self))
        crowd = self._newcomers if is_crowded else self._suspects
        key, source = crowd.popitem(last=False)
        chances = SECOND_CHANCES
        while source.proven is not None and chances:
            crowd[key] = source
            key, source = crowd.popitem(last=False)
            chances -= 1
        self.bytes -= source.weight
        self.forgotten += 1

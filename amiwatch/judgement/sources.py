"""
What is remembered of each source: its dialogues, its attempts, its accounts.

Rule 1: windows are exact. Only the newest ``HISTORY`` attempts are kept, which is more than any limit, so "at least N
in this window" is one look at the Nth newest.

Rule 2: memory is bounded whatever arrives. UDP sources can be invented; one seen once is the first to be forgotten.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from amiwatch.judgement.rules import Measure
from amiwatch.judgement.values import Evidence, IPAddress, SecurityEvent

HISTORY = 96
"""Attempts and accounts kept for one source: more than the largest limit times the trust factor."""

MAX_DIALOGUES = 256
"""Dialogues kept for one source: the phones of an office that start together behind one address."""

MAX_EVIDENCE = 8
"""Events kept for one source, the first half of them and the newest."""

REPEATS = 11
"""How often one request is sent at most (RFC 3261 17.1.2.2, timers E and F): more is another attempt."""

GUESSES_KEPT = 4
"""Passwords remembered of one dialogue to know a retransmission, which comes soon."""


class Dialogue:
    """One SIP dialogue (or one AMI session) as far as it went: what was already counted of it."""

    __slots__ = ("account", "asked_at", "guesses", "is_counted", "repeats")

    def __init__(self) -> None:
        self.account: str | None = None
        self.asked_at = 0.0
        """When a challenge for ``<unknown>`` went out that was not answered yet; 0 if there is none."""
        self.guesses: tuple[int, ...] = ()
        self.is_counted = False
        self.repeats = 0

    def is_new_guess(self, guess: int) -> bool:
        """Tell whether this password was not tried in this dialogue lately, and remember it."""
        if guess in self.guesses:
            return False
        self.guesses = (*self.guesses[1 - GUESSES_KEPT :], guess)
        return True

    def is_new_request(self, account: str) -> bool:
        """Tell whether an unauthenticated request is an attempt of its own, and not a repetition."""
        if self.account == account:
            self.repeats += 1
            return self.repeats % REPEATS == 0
        self.account = account
        return True


class Source:
    """All that is known of one source."""

    __slots__ = (
        "accounts",
        "address",
        "dialogues",
        "evidence",
        "first_at",
        "guessed",
        "has_password",
        "has_unproven",
        "times",
        "total",
        "unanswered",
    )

    def __init__(self, address: IPAddress, now: float) -> None:
        self.address = address
        self.first_at = now
        self.has_password = False
        """Whether it ever tried a password."""
        self.has_unproven = False
        """Whether any of its attempts could have been made by a forged packet."""
        self.total = 0
        """Attempts since it is watched."""
        self.times: list[list[float] | None] = [None] * len(Measure)
        self.accounts: dict[str, float] = {}
        """Accounts that don't exist → when tried last, in that order."""
        self.guessed: dict[str, int] = {}
        """Existing accounts → passwords tried on each."""
        self.dialogues: dict[int, Dialogue] = {}
        self.unanswered: dict[int, float] = {}
        """Dialogues with an open challenge for ``<unknown>`` → since when."""
        self.evidence: list[SecurityEvent] = []

    def dialogue(self, session: str) -> Dialogue:
        """Return the dialogue of this SessionID, a new one if it is not known."""
        key = hash(session)
        found = self.dialogues.get(key)
        if found is None:
            if len(self.dialogues) >= MAX_DIALOGUES:
                del self.dialogues[next(iter(self.dialogues))]
            found = self.dialogues[key] = Dialogue()
        return found

    def count(self, measure: Measure, now: float) -> None:
        """Note one more of this measure."""
        times = self.times[measure]
        if times is None:
            times = self.times[measure] = []
        times.append(now)
        if len(times) > 2 * HISTORY:
            del times[:HISTORY]

    def note_account(self, account: str, now: float) -> None:
        """Note that this account, which doesn't exist, was tried."""
        self.accounts.pop(account, None)
        self.accounts[account] = now
        if len(self.accounts) > HISTORY:
            del self.accounts[next(iter(self.accounts))]

    def note_guess(self, account: str) -> None:
        """Note that another password was tried on this account, which exists."""
        self.guessed[account] = self.guessed.get(account, 0) + 1
        if len(self.guessed) > HISTORY:
            del self.guessed[next(iter(self.guessed))]

    def newest(self, measure: Measure, limit: int) -> float | None:
        """Return when the ``limit``-th newest of this measure was; None if there were fewer."""
        if measure is Measure.ACCOUNTS:
            if len(self.accounts) < limit:
                return None
            times = list(self.accounts.values())
        else:
            times = self.times[measure] or []
            if len(times) < limit:
                return None
        return times[-limit]

    def since(self, measure: Measure, begin: float) -> list[float]:
        """Return the times of this measure from ``begin`` on."""
        times = list(self.accounts.values()) if measure is Measure.ACCOUNTS else self.times[measure] or []
        return [at for at in times if at >= begin]

    def keep(self, event: SecurityEvent) -> None:
        """Keep an event as evidence: the first ones and the newest ones."""
        if len(self.evidence) >= MAX_EVIDENCE:
            del self.evidence[MAX_EVIDENCE // 2]
        self.evidence.append(event)

    def proof(self) -> tuple[Evidence, ...]:
        """Return the kept events in the form in which a ban carries them."""
        return tuple(map(Evidence.of, self.evidence))


class SourceTable:
    """
    The watched sources, at most ``limit`` of them.

    Two generations: *newcomers* made one attempt, *suspects* more. When there are too many, the newcomer longest quiet
    goes first, so a flood of invented sources pushes out its own kind and not the scanner who comes again.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
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
        if len(self) > self.limit:
            # Suspects may fill nine tenths; with fewer newcomers than that, the suspect longest quiet goes.
            crowd = self._newcomers if len(self._newcomers) * 10 >= self.limit else self._suspects
            crowd.popitem(last=False)
            self.forgotten += 1

    def touch(self, key: int, source: Source) -> None:
        """Move a source that made another attempt to the fresh end of the suspects."""
        self._newcomers.pop(key, None)
        self._suspects[key] = source
        self._suspects.move_to_end(key)

    def remove(self, key: int) -> None:
        self._newcomers.pop(key, None)
        self._suspects.pop(key, None)

    def expire(self, before: float, at_most: int) -> None:
        """Forget sources whose last attempt is older than every window, a few at a time."""
        for crowd in (self._newcomers, self._suspects):
            for _ in range(min(at_most, len(crowd))):
                key = next(iter(crowd))
                times = crowd[key].times[Measure.ATTEMPTS]
                if (times[-1] if times else crowd[key].first_at) >= before:
                    break
                del crowd[key]

"""
The same past judged in several ways, and what differs.

Rule 1: what is in force comes first; every other way is an alternative to it.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_network
from random import Random
from typing import TYPE_CHECKING, Any

from amiwatch.ami.wire import Tampered
from amiwatch.cli.recorded import Heard
from amiwatch.config.settings import DELIMITER, PREFIX
from amiwatch.errors import UsageError
from amiwatch.judgement.history import SWEEP_PAUSE, Logins, Rerun
from amiwatch.judgement.judge import Judge
from amiwatch.judgement.safe import PRIVATE
from amiwatch.judgement.values import Alert, Ban, IPNetwork, Verdict
from amiwatch.store.records import BanRecord

if TYPE_CHECKING:
    from amiwatch.cli.call import Call
    from amiwatch.config import Settings

IN_FORCE = "in force"
"""What the settings as they are now are called."""

MAX_ALTERNATIVES = 8
"""Alternatives in one call: each takes as long as the first, and the columns still fit."""


MOMENT = 1.0
"""Seconds by which two bans must differ to be called sooner and later: the history keeps hundredths."""


@dataclass(frozen=True, slots=True)
class Alternative:
    """Settings to judge by, and what they are called."""

    name: str
    settings: Settings

    def judge(self, allowed: Mapping[IPNetwork, str]) -> Judge:
        """Make a judge of these settings, whose jitter is the same each time; it never bans what is ``allowed``."""
        judge = Judge(self.settings.judgement_policy(), random=Random(0))  # noqa: S311
        judge.allow(allowed)
        return judge

    def listed(self) -> dict[IPNetwork, str]:
        """Return the networks that these settings never ban, without any look-up."""
        private = PRIVATE if self.settings.allow_private else {}
        return {**private, **dict.fromkeys(self.settings.allowlist.networks, "AMIWATCH_ALLOWLIST")}


def read_alternatives(call: Call, policies: Sequence[str], changes: Sequence[str]) -> list[Alternative]:
    """
    Return what is in force, and an alternative for each policy and each set of changes.

    Raises UsageError, and ConfigurationError with every mistake of the settings.
    """
    if len(policies) + len(changes) > MAX_ALTERNATIVES:
        raise UsageError(f"more than {MAX_ALTERNATIVES} alternatives at once: leave some out.")
    return [
        Alternative(IN_FORCE, call.settings()),
        *(Alternative(name, call.read_settings({"policy": name})) for name in dict.fromkeys(policies)),
        *(Alternative(text, call.read_settings(_overrides(text))) for text in dict.fromkeys(changes)),
    ]


def doubts(alternatives: Sequence[Alternative]) -> Iterator[str]:
    """List what is no mistake in the changed settings, but perhaps not meant: each once, and not what is in force."""
    known = set(alternatives[0].settings.warnings)
    for one in alternatives[1:]:
        for doubt in one.settings.warnings:
            if doubt not in known:
                known.add(doubt)
                yield doubt


def _overrides(text: str) -> dict[str, Any]:
    """Read ``policy=closed rules.guess.limit=5``: names as in TOML or as variables. Raises UsageError."""
    root: dict[str, Any] = {}
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UsageError(f"--with {text!r} can't be read ({error}): close the quotes.") from None
    for word in words or [text]:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise UsageError(f"--with {word!r} changes no setting: write for example rules.guess.limit=5.")
        *above, last = name.lower().removeprefix(PREFIX.lower()).replace(DELIMITER, ".").split(".")
        place = root
        for part in above:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise UsageError(f"--with {word!r} contradicts what stands before it.")
        place[last] = value
    return root


def judged(
    events: Iterable[tuple[float, Heard]], reruns: Sequence[Rerun], logins: Logins
) -> Iterator[tuple[int, Verdict]]:
    """Let every judge see every event; yield the verdicts, each with the number of its judge."""
    now = 0.0
    for at, event in events:
        now = max(now, at)
        if isinstance(event, Tampered):
            for rerun in reruns:
                rerun.judge.refuse(event.session, now)
            continue
        logins.note(event)
        for number, rerun in enumerate(reruns):
            for verdict in rerun.see(event, now):
                _look_for_intruder(verdict, logins)
                yield number, verdict
    for number, rerun in enumerate(reruns):
        # What nobody answered until the end was not answered.
        for verdict in rerun.wait(now + rerun.judge.policy.answer_time + SWEEP_PAUSE):
            yield number, verdict


def _look_for_intruder(verdict: Verdict, logins: Logins) -> None:
    if isinstance(verdict, Alert) and verdict.kind == "password_found" and verdict.address is not None:
        logins.distrust(verdict.address)


@dataclass(frozen=True, slots=True)
class Hit:
    """A source that would have been banned: when first, why, and whom that would have hit."""

    at: float
    rule: str
    reason: str
    phones: Sequence[str]
    """Accounts that logged in from there, with a password that nobody had to guess."""
    missed: int
    """Logins that would have been kept out."""


@dataclass(frozen=True, slots=True)
class Effect:
    """What one way of judging comes to."""

    name: str
    policy: str
    """Empty for what was decided at that time: the settings of then are not known."""
    hits: Mapping[IPNetwork, Hit]
    bans: int
    alerts: Mapping[str, int]

    @classmethod
    def of(cls, alternative: Alternative, rerun: Rerun, logins: Logins) -> Effect:
        """Sum up what a judge said."""
        hits = {
            network: _hit(ban, logins.from_within(network), rerun.missed[network])
            for network, ban in rerun.first.items()
        }
        return cls(alternative.name, alternative.settings.policy, hits, rerun.bans, dict(rerun.alerts))

    @classmethod
    def recorded(cls, bans: Iterable[BanRecord], logins: Logins) -> Effect:
        """Sum up what was decided at that time."""
        hits: dict[IPNetwork, Hit] = {}
        count = 0
        for count, ban in enumerate(bans, start=1):  # noqa: B007 - counted for the caller
            network = ip_network(ban.network)
            hits.setdefault(network, Hit(ban.at, ban.rule, ban.reason, logins.from_within(network), 0))
        return cls("recorded then", "", hits, count, {})

    @property
    def is_recorded(self) -> bool:
        """Tell whether this is what was decided at that time."""
        return not self.policy

    @property
    def good(self) -> int:
        """How many of the sources had good phones."""
        return sum(bool(hit.phones) for hit in self.hits.values())

    @property
    def missed(self) -> int:
        return sum(hit.missed for hit in self.hits.values())


def _hit(ban: Ban, phones: Sequence[str], missed: int) -> Hit:
    return Hit(ban.at, ban.rule, ban.reason, phones, missed)


@dataclass(frozen=True, slots=True)
class Difference:
    """How one effect differs from another."""

    more: list[IPNetwork]
    """Sources that only this one bans."""
    fewer: list[IPNetwork]
    """Sources that only the other one bans."""
    sooner: int
    """How many of those that both ban this one bans sooner."""
    later: int

    @classmethod
    def between(cls, this: Effect, other: Effect) -> Difference:
        """Compare two effects; whoever has good phones comes first, then in the order of time."""

        def listed(mine: Effect, others: Effect) -> list[IPNetwork]:
            only = mine.hits.keys() - others.hits.keys()
            return sorted(only, key=lambda one: (not mine.hits[one].phones, mine.hits[one].at, str(one)))

        both = [(this.hits[one].at, other.hits[one].at) for one in this.hits.keys() & other.hits.keys()]
        return cls(
            more=listed(this, other),
            fewer=listed(other, this),
            sooner=sum(mine <= theirs - MOMENT for mine, theirs in both),
            later=sum(mine >= theirs + MOMENT for mine, theirs in both),
        )

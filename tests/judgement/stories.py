"""Who does what, when, and what the judge says to it."""

from collections.abc import Iterable, Sequence
from itertools import count
from random import Random
from typing import Any

from amiwatch.judgement.judge import Judge
from amiwatch.judgement.rules import Policy
from amiwatch.judgement.values import Alert, Ban, SecurityEvent, Verdict
from amiwatch.testing.builders import Case, attempt_events, security_event

NOON = 1_795_345_200.0
ATTACKER = "203.0.113.66"
PHONE = "192.0.2.101"

_sessions = count(1)


class Story:
    """A judge and a clock that runs with the events."""

    def __init__(self, **policy: Any) -> None:
        self.judge = Judge(Policy(**policy), random=Random(7))
        self.now = NOON
        self.verdicts: list[Verdict] = []

    def wait(self, seconds: float) -> None:
        self.now += seconds

    def see(self, *events: SecurityEvent) -> list[Verdict]:
        """Let these events arrive now; return what follows from them."""
        said = [verdict for event in events for verdict in self.judge.see(event, self.now)]
        self.verdicts += said
        return said

    def attempt(self, case: Case, *, account: str = "1001", source: str = ATTACKER, **details: Any) -> list[Verdict]:
        return self.see(*attempt_events(case, account=account, source=source, **details))

    def tries(
        self, case: Case, accounts: Iterable[str], *, every: float, source: str = ATTACKER, **details: Any
    ) -> list[Verdict]:
        """Let one source try these accounts, one every so many seconds; the clock ends at the last of them."""
        said: list[Verdict] = []
        for number, account in enumerate(accounts):
            self.wait(every if number else 0)
            said += self.attempt(case, account=account, source=source, **details)
        return said

    @property
    def bans(self) -> list[Ban]:
        return bans(self.verdicts)

    @property
    def alerts(self) -> list[Alert]:
        return [verdict for verdict in self.verdicts if isinstance(verdict, Alert)]

    def kinds(self) -> list[str]:
        return [alert.kind for alert in self.alerts]

    def banned(self) -> set[str]:
        return {str(ban.network) for ban in self.bans}


def bans(verdicts: Sequence[Verdict]) -> list[Ban]:
    return [verdict for verdict in verdicts if isinstance(verdict, Ban)]


def logs_in(story: Story, source: str, account: str = "1001", **details: Any) -> None:
    story.attempt(Case.RIGHT_PASSWORD, source=source, account=account, **details)


def one(kind: str, **details: Any) -> SecurityEvent:
    return security_event(kind, **details)


def new_session() -> str:
    return f"call-{next(_sessions)}"

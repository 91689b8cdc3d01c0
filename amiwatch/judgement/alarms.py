"""
Which alerts are news.

Rule 1: the same alert about the same source comes once in the policy's ``alert_time``; memory is bounded.

Rule 2: neither a forger nor a thousand phones with one trouble may flood people: alerts about addresses have a ceiling,
and unproven evidence has one of its own.

Rule 3: every alert ends with its advice.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from math import inf

from amiwatch.judgement.alerts import ALERTS
from amiwatch.judgement.counters import Counters
from amiwatch.judgement.found import PROBATION
from amiwatch.judgement.reasons import alerts_reason
from amiwatch.judgement.rules import MINUTE, Policy
from amiwatch.judgement.values import TEXT_LIMIT, Alert, IPAddress, SecurityEvent, Verdict

MAX_ALERTS = 10_000
"""Alerts remembered to keep that pause."""

_NEVER_HELD_BACK = frozenset({"password_found"})
"""Alerts that each must be heard, and that no forged packet can raise."""

FOUND_PAUSE = PROBATION
"""They come once in so many seconds at most: who uses what he found logs in every few minutes."""


class Alarms:
    """Remembers what was said lately."""

    def __init__(self, policy: Policy, counters: Counters) -> None:
        self.policy = policy
        self._counters = counters
        self._said: OrderedDict[tuple[str, int | str | None], float] = OrderedDict()
        self._ceilings = {True: Ceiling(), False: Ceiling()}

    def __len__(self) -> int:
        return len(self._said)

    def tell(
        self, kind: str, key: int | None, event: SecurityEvent, now: float, reason: Callable[[], str]
    ) -> Sequence[Verdict]:
        """Raise an alert if it is news for this key; None is about nobody. A flood must not pay for words unsaid."""
        if not self._is_news((kind, key), now):
            return ()
        has_ceiling, most = key is not None and kind not in _NEVER_HELD_BACK, self.policy.alerts_a_minute
        if has_ceiling and not self._ceilings[event.is_proven].take(now, most):
            self._counters.alerts_held_back += 1
            return self.tell("alert_ceiling", None, event, now, lambda: alerts_reason(most))
        self._remember((kind, key), now)
        if key is None:
            return _alert(now, kind, None, "", reason())
        return _alert(now, kind, event.source, event.account[:TEXT_LIMIT], reason())

    def tell_of_account(self, kind: str, account: str, now: float, reason: Callable[[], str]) -> Sequence[Verdict]:
        """Raise an alert about an account, whoever tried it, if it is news."""
        if not self._is_news((kind, account), now):
            return ()
        self._remember((kind, account), now)
        return _alert(now, kind, None, account, reason())

    def _is_news(self, name: tuple[str, int | str | None], now: float) -> bool:
        pause = self.policy.alert_time
        if name[0] in _NEVER_HELD_BACK:
            pause = max(pause, FOUND_PAUSE)
        return self._said.get(name, -inf) <= now - pause

    def _remember(self, name: tuple[str, int | str | None], now: float) -> None:
        self._said[name] = now
        self._said.move_to_end(name)
        if len(self._said) > MAX_ALERTS:
            self._said.popitem(last=False)


def _alert(now: float, kind: str, address: IPAddress | None, account: str, reason: str) -> tuple[Alert]:
    return (Alert(now, kind, address, account, f"{reason}. {ALERTS[kind]}"),)


class Ceiling:
    """So many a minute and no more."""

    def __init__(self) -> None:
        self._minute = 0
        self._used = 0

    def take(self, now: float, limit: int) -> bool:
        """Take one of this minute's, if one is left."""
        minute = int(now // MINUTE)
        if minute != self._minute:
            self._minute, self._used = minute, 0
        self._used += 1
        return self._used <= limit

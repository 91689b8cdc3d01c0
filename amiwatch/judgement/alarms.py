"""
Which alerts are news.

Rule 1: the same alert about the same source comes once in ``ALERT_PAUSE``; memory is bounded.

Rule 2: a forger must not flood people: alerts on unproven evidence have a ceiling.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from math import inf

from amiwatch.judgement.counters import Counters
from amiwatch.judgement.reasons import alerts_reason
from amiwatch.judgement.rules import HOUR, MINUTE
from amiwatch.judgement.values import TEXT_LIMIT, Alert, SecurityEvent, Verdict

ALERT_PAUSE = HOUR
"""The same alert about the same source comes at most this often, in seconds."""

MAX_ALERTS = 10_000
"""Alerts remembered to keep that pause."""

ALERTS_A_MINUTE = 60
"""New alerts a minute on evidence that forged UDP packets could make: each invented address could raise one."""

_NOT_FORGED = frozenset({"password_found"})
"""Alerts that a forged packet can't raise, so that no ceiling holds them back."""


class Alarms:
    """Remembers what was said lately."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._said: OrderedDict[tuple[str, int | str | None], float] = OrderedDict()
        self._ceiling = Ceiling()

    def __len__(self) -> int:
        return len(self._said)

    def tell(
        self, kind: str, key: int | None, event: SecurityEvent, now: float, reason: Callable[[], str]
    ) -> Sequence[Verdict]:
        """Raise an alert if it is news; without a key it is about nobody. A flood must not pay for words unsaid."""
        if not self._is_news((kind, key), now):
            return ()
        may_be_forged = key is not None and kind not in _NOT_FORGED and not event.is_proven
        if may_be_forged and not self._ceiling.take(now, ALERTS_A_MINUTE):
            self._counters.alerts_held_back += 1
            return self.tell("alert_ceiling", None, event, now, lambda: alerts_reason(ALERTS_A_MINUTE))
        self._remember((kind, key), now)
        if key is None:
            return (Alert(now, kind, None, "", reason()),)
        return (Alert(now, kind, event.source, event.account[:TEXT_LIMIT], reason()),)

    def tell_of_account(self, kind: str, account: str, now: float, reason: Callable[[], str]) -> Sequence[Verdict]:
        """Raise an alert about an account, whoever tried it, if it is news."""
        if not self._is_news((kind, account), now):
            return ()
        self._remember((kind, account), now)
        return (Alert(now, kind, None, account, reason()),)

    def _is_news(self, name: tuple[str, int | str | None], now: float) -> bool:
        return self._said.get(name, -inf) <= now - ALERT_PAUSE

    def _remember(self, name: tuple[str, int | str | None], now: float) -> None:
        self._said[name] = now
        self._said.move_to_end(name)
        if len(self._said) > MAX_ALERTS:
            self._said.popitem(last=False)


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

"""
Which alerts are news.

Rule 1: the same alert about the same source comes once in the policy's ``alert_time``; memory is bounded.

Rule 2: neither a forger nor a thousand phones with one trouble may flood people, nor drown what others need to hear:
each kind has a ceiling of its own, and so has what nobody can forge, what is said of trusted sources, and all else.

Rule 3: every alert ends with its advice.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Callable, Sequence
from math import inf

from amiwatch.judgement.alerts import ALERTS
from amiwatch.judgement.counters import Counters
from amiwatch.judgement.found import PROBATION
from amiwatch.judgement.networks import source_key
from amiwatch.judgement.reasons import alerts_reason
from amiwatch.judgement.rules import MINUTE, Policy
from amiwatch.judgement.trust import Trust
from amiwatch.judgement.values import TEXT_LIMIT, Alert, IPAddress, SecurityEvent, Verdict

MAX_ALERTS = 10_000
"""Alerts remembered to keep that pause."""

MAX_CEILINGS = 10_000
"""Ceilings kept (2 MB): some dozens, and one for each account whose password was found. Then all begin anew."""

FOUND = "password_found"
"""Each must be heard, and no forged packet can raise it: it has a ceiling for each account, which who has one password
can reach for this account only. It comes once a ``PROBATION``: who uses what he found logs in every few minutes."""

_OF_LOGINS = frozenset({"mistyped_password", "aor_full", "aor_missing"})
"""Alerts that only a login raises, which over PJSIP nobody can forge, UDP or not."""

SURE = "on evidence that nobody can forge"
TRUSTED = "about trusted addresses, over UDP"
FORGEABLE = "on evidence that forged UDP packets could make"


class Alarms:
    """Remembers what was said lately."""

    def __init__(self, policy: Policy, counters: Counters, trust: Trust) -> None:
        self.policy = policy
        self._counters = counters
        self._trust = trust
        self._said: OrderedDict[tuple[str, int | str | None], float] = OrderedDict()
        self._ceilings: defaultdict[tuple[str, str], Ceiling] = defaultdict(Ceiling)
        """Kind, and what it rests on → how many were said this minute; of ``FOUND`` by accounts, which exist."""

    def __len__(self) -> int:
        return len(self._said)

    def tell(
        self, kind: str, key: int | None, event: SecurityEvent, now: float, reason: Callable[[], str]
    ) -> Sequence[Verdict]:
        """Raise an alert if it is news for this key; None is about nobody. A flood must not pay for words unsaid."""
        if not self._is_news((kind, key), now):
            return ()
        if key is not None and (held := self._hold_back(kind, self._standing(kind, event, now), now)) is not None:
            return held
        self._remember((kind, key), now)
        if key is None:
            return _alert(now, kind, None, "", reason())
        return _alert(now, kind, event.source, event.account[:TEXT_LIMIT], reason())

    def tell_of_account(
        self, kind: str, account: str, event: SecurityEvent, now: float, reason: Callable[[], str]
    ) -> Sequence[Verdict]:
        """Raise an alert about an account, whoever tried it, if it is news."""
        if not self._is_news((kind, account), now):
            return ()
        if (held := self._hold_back(kind, self._standing(kind, event, now), now)) is not None:
            return held
        self._remember((kind, account), now)
        return _alert(now, kind, None, account, reason())

    def _standing(self, kind: str, event: SecurityEvent, now: float) -> str:
        """Say what an alert rests on: a forger knows few addresses of phones, and has all others."""
        if kind == FOUND:
            return f"for the account {event.account[:40]!r}"
        if event.is_proven or (kind in _OF_LOGINS and event.service != "SIP"):
            return SURE
        return TRUSTED if self._trust.has(source_key(event.source), now) else FORGEABLE

    def _hold_back(self, kind: str, standing: str, now: float) -> Sequence[Verdict] | None:
        """Return what takes the place of one alert too many of its kind, often nothing; None if it is not."""
        most = self.policy.alerts_a_minute
        if len(self._ceilings) > MAX_CEILINGS:
            self._ceilings.clear()
        if self._ceilings[kind, standing].take(now, most):
            return None
        self._counters.alerts_held_back += 1
        name = ("alert_ceiling", f"{kind} {standing}")
        if not self._is_news(name, now):
            return ()
        self._remember(name, now)
        return _alert(now, "alert_ceiling", None, "", alerts_reason(kind, most, standing))

    def _is_news(self, name: tuple[str, int | str | None], now: float) -> bool:
        pause = self.policy.alert_time
        if name[0] == FOUND:
            pause = max(pause, PROBATION)
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

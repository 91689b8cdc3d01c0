"""
What only many sources together show: everybody failing at once, and one account attacked from everywhere.

Rule 1: nobody is banned because of what is here; it holds bans back, and it says so.

Rule 2: memory is bounded whatever arrives.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from itertools import islice

from amiwatch.judgement.rules import DAY, MINUTE

CROWD = 10
"""Sources that begin to fail within a minute, nearly each with an account of its own, before it is a mass failure. The
busiest honeypot network reported saw 366 attackers a day on 39 sensors: one in four minutes."""

OWN_ACCOUNTS = 8
"""Different accounts that such a crowd tries at least. Attackers share their lists; phones do not."""

BELIEVED = 3
"""How many of such a crowd must be more than a forged packet: proven, trusted, or with an account that exists."""

STORM = 30
"""Sources that begin to fail within a minute, on evidence that forged UDP packets could make, whatever the accounts."""

QUIET = 10 * MINUTE
"""How long a source must not have failed before it counts as one that begins to, in seconds: phones with an old
password, which fail all the time, are no mass."""

LOOK_PAUSE = 0.05
"""Seconds between two looks at who began to fail: a flood of newcomers must cost little."""

LINGER = 3 * MINUTE
"""How long the breaker stays open after the last minute in which it had a reason, in seconds."""

MAX_FAILING = 10_000
"""Sources told apart within one minute: beyond that, it is a mass in any case."""

CAMPAIGN = 20
"""Addresses without trust that guess at one account within ``CAMPAIGN_TIME`` before the account is called attacked: a
telephone with an old password that roams has fewer."""

CAMPAIGN_TIME = DAY

MAX_ACCOUNTS = 5_000
"""Accounts watched for campaigns (15 MB at most): those that exist, so there can't be many more."""


class Breaker:
    """Notices when many sources that were quiet fail together, and for how long."""

    def __init__(self) -> None:
        self.until = 0.0
        """While this lies ahead, the breaker is open."""
        self.is_storm = False
        """Whether forged packets alone could have opened it."""
        self._onsets: deque[tuple[float, str, bool]] = deque(maxlen=STORM)
        """Who began to fail: when, with which account, and whether a forged packet could have said so."""
        self._look_at = 0.0
        self._minute = 0.0
        self._failing: set[int] = set()
        self._peak = 0

    def begin(self, account: str, now: float, *, could_be_forged: bool) -> bool:
        """Note that a source that was quiet fails; tell whether this opens the breaker."""
        onsets = self._onsets
        onsets.append((now, account, could_be_forged))
        if now < self._look_at or len(onsets) < CROWD:
            return False
        self._look_at = now + LOOK_PAUSE
        newest = [each for each in islice(reversed(onsets), CROWD) if each[0] >= now - MINUTE]
        forged = sum(is_forgeable for _, _, is_forgeable in newest)
        is_mass = len(newest) == CROWD and len({account for _, account, _ in newest}) >= OWN_ACCOUNTS
        is_mass = is_mass and len(newest) - forged >= BELIEVED
        is_storm = len(onsets) == STORM and onsets[0][0] >= now - MINUTE and forged == len(newest)
        if not is_mass and not is_storm:
            return False
        is_new = now >= self.until
        self.is_storm = is_storm if is_new else self.is_storm and is_storm
        if is_new:
            self._minute, self._peak = now, 0
            self._failing.clear()
        self.until = max(self.until, now + LINGER)
        return is_new

    def go_on(self, key: int, now: float) -> None:
        """Note that a source fails while the breaker is open; it stays open while half of them do."""
        failing = self._failing
        if len(failing) < MAX_FAILING:
            failing.add(key)
        if now < self._minute + MINUTE:
            return
        self._peak = max(self._peak, len(failing))
        if len(failing) >= max(CROWD, self._peak / 2):
            self.until = now + LINGER
        self._minute = now
        failing.clear()


class Campaigns:
    """From how many addresses each account is guessed at."""

    def __init__(self) -> None:
        self._accounts: OrderedDict[str, OrderedDict[int, float]] = OrderedDict()
        """Account → sources and when they guessed last, the newest ``CAMPAIGN``; accounts as they were guessed last."""

    def __len__(self) -> int:
        return len(self._accounts)

    def guess(self, account: str, key: int, now: float) -> bool:
        """Note a guess by a source without trust; tell whether the account is now under attack."""
        sources = self._accounts.get(account)
        if sources is None:
            sources = self._accounts[account] = OrderedDict()
            if len(self._accounts) > MAX_ACCOUNTS:
                self._accounts.popitem(last=False)
        else:
            self._accounts.move_to_end(account)
        sources[key] = now
        sources.move_to_end(key)
        if len(sources) > CAMPAIGN:
            sources.popitem(last=False)
        return len(sources) == CAMPAIGN and next(iter(sources.values())) > now - CAMPAIGN_TIME

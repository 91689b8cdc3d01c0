"""
Campaigns: one account that exists, guessed at from many addresses, one try each.

Rule 1: the account is reported, whatever the evidence. Addresses are given out to be banned only if they came fast and
each is proven; who judges them makes sure that nothing speaks for them.

Rule 2: memory is bounded whatever arrives.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from amiwatch.judgement.rules import DAY, HOUR, MINUTE, Measure, Rule

CAMPAIGN = 20
"""Addresses without trust that guess at one account within ``CAMPAIGN_TIME`` before the account is called attacked: a
telephone with an old password that roams has fewer."""

CAMPAIGN_TIME = DAY

RUSH_TIME = HOUR
"""As many within this time, in seconds, are no telephone that roams: theirs are the addresses that may be banned."""

GIVEN_UP = 10 * MINUTE
"""How long an address must be silent after its guess, in seconds: phones with an old password try again sooner."""

FEW = 3
"""Guesses that an address of a campaign makes at most; whoever makes more meets the other rules."""

MAX_ACCOUNTS = 5_000
"""Accounts watched for campaigns (30 MB at most): those that exist, so there can't be many more."""

MAX_SUSPECTS = 10_000
"""Addresses of campaigns that wait for ``GIVEN_UP`` (2 MB)."""

RULE = Rule("campaign", Measure.GUESSES, 1, 0, RUSH_TIME)
"""What is said of a ban; it is no row of the table, for no count of the source itself decides."""


class Campaigns:
    """From how many addresses each account is guessed at."""

    def __init__(self) -> None:
        self._accounts: OrderedDict[str, OrderedDict[int, float]] = OrderedDict()
        """Account → sources and when they guessed last, the newest ``CAMPAIGN``; accounts as they were guessed last."""
        self._proven: OrderedDict[str, OrderedDict[int, float]] = OrderedDict()
        """The same of proven guesses alone: forged ones must neither make an address a suspect nor push one out."""
        self._suspects: OrderedDict[int, tuple[str, float]] = OrderedDict()
        """Sources that came fast → account and time, in that order."""

    def __len__(self) -> int:
        return len(self._accounts)

    def guess(self, account: str, key: int, now: float, *, is_proven: bool) -> bool:
        """Note a guess by a source without trust; tell whether the account is now under attack."""
        if is_proven:
            proven = _note(self._proven, account, key, now)
            if len(proven) == CAMPAIGN and next(iter(proven.values())) > now - RUSH_TIME:
                self._suspect(account, proven)
        sources = _note(self._accounts, account, key, now)
        return len(sources) == CAMPAIGN and next(iter(sources.values())) > now - CAMPAIGN_TIME

    def _suspect(self, account: str, sources: OrderedDict[int, float]) -> None:
        """Suspect the newest sources of an account, those that are suspected already aside."""
        for key, at in sources.items():
            if key not in self._suspects:
                self._suspects[key] = account, at
        while len(self._suspects) > MAX_SUSPECTS:
            self._suspects.popitem(last=False)

    def due(self, now: float, at_most: int) -> Iterator[tuple[int, str]]:
        """Give out, and forget, sources and accounts whose guess is ``GIVEN_UP`` seconds old."""
        for _ in range(min(at_most, len(self._suspects))):
            key, (account, at) = next(iter(self._suspects.items()))
            if at > now - GIVEN_UP:
                return
            del self._suspects[key]
            yield key, account

    def wait(self, key: int, account: str, at: float) -> None:
        """Suspect a source again, which guessed again at this time."""
        self._suspects[key] = account, at


def _note(
    accounts: OrderedDict[str, OrderedDict[int, float]], account: str, key: int, now: float
) -> OrderedDict[int, float]:
    """Note a guess; return the newest ``CAMPAIGN`` sources that guessed at this account, and when."""
    sources = accounts.get(account)
    if sources is None:
        sources = accounts[account] = OrderedDict()
        if len(accounts) > MAX_ACCOUNTS:
            accounts.popitem(last=False)
    else:
        accounts.move_to_end(account)
    sources[key] = now
    sources.move_to_end(key)
    if len(sources) > CAMPAIGN:
        sources.popitem(last=False)
    return sources

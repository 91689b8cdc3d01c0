"""
Campaigns: one account that exists, guessed at from many addresses, one try each.

Rule 1: the account is reported, whatever the evidence. Addresses are given out to be banned only if they came fast and
each is proven; who judges them makes sure that nothing speaks for them.

Rule 2: memory is bounded whatever arrives.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from amiwatch.judgement.rules import MINUTE, Policy

GIVEN_UP = 10 * MINUTE
"""How long an address must be silent after its guess, in seconds: phones with an old password try again sooner."""

FEW = 3
"""Guesses that an address of a campaign makes at most; whoever makes more meets the other rules."""

MAX_ADDRESSES = 100_000
"""Addresses kept of all accounts together (30 MB at most): of 5,000 accounts that exist, twenty each."""

MAX_SUSPECTS = 10_000
"""Addresses of campaigns that wait for ``GIVEN_UP`` (2 MB)."""


class Campaigns:
    """From how many addresses each account is guessed at."""

    def __init__(self, policy: Policy) -> None:
        self.adopt(policy)
        self._accounts: OrderedDict[str, OrderedDict[int, float]] = OrderedDict()
        """Account → sources and when they guessed last, as many as it takes; accounts as they were guessed last."""
        self._proven: OrderedDict[str, OrderedDict[int, float]] = OrderedDict()
        """The same of proven guesses alone: forged ones must neither make an address a suspect nor push one out."""
        self._suspects: OrderedDict[int, tuple[str, float]] = OrderedDict()
        """Sources that came fast → account and time, in that order."""
        self.has_attacked = False
        """Whether any account was ever attacked: most systems never see that."""

    def __len__(self) -> int:
        return len(self._accounts)

    def adopt(self, policy: Policy) -> None:
        """Go by these numbers from now on."""
        self.policy, self.rule = policy, policy.campaign

    def guess(self, account: str, key: int, now: float, *, is_proven: bool) -> bool:
        """Note a guess by a source without trust; tell whether the account is now under attack."""
        if is_proven and _is_campaign(self._proven, account, key, now, self.rule.limit, self.rule.find_time):
            self._suspect(account, self._proven[account])
        policy = self.policy
        is_attacked = _is_campaign(self._accounts, account, key, now, policy.attacked_by, policy.attacked_time)
        self.has_attacked |= is_attacked
        return is_attacked

    def is_attacked(self, account: str, now: float) -> bool:
        """Tell whether enough addresses have guessed at this account lately."""
        limit, sources = self.policy.attacked_by, self._accounts.get(account)
        if not limit or sources is None or len(sources) < limit:
            return False
        return next(iter(sources.values())) > now - self.policy.attacked_time

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


def _is_campaign(
    accounts: OrderedDict[str, OrderedDict[int, float]], account: str, key: int, now: float, limit: int, time: float
) -> bool:
    """Note a guess; tell whether ``limit`` sources have now guessed at this account within ``time``; 0 is never."""
    if not limit:
        return False
    sources = accounts.get(account)
    if sources is None:
        sources = accounts[account] = OrderedDict()
    else:
        accounts.move_to_end(account)
    while len(accounts) > MAX_ADDRESSES // limit:  # the limit may have been raised since
        accounts.popitem(last=False)
    sources[key] = now
    sources.move_to_end(key)
    while len(sources) > limit:
        sources.popitem(last=False)
    return len(sources) == limit and next(iter(sources.values())) > now - time

"""
Trust: what a successful login earns its source.

Rule 1: only PJSIP's SuccessfulAuth with a password earns it, and never a loopback address: the nonce is bound to the
source, so this is the one thing that a forged packet can't bring about (Asterisk facts).

Rule 2: it belongs to the source (IPv6: its /64), it expires, and its memory is bounded.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from ipaddress import IPv4Address
from itertools import islice
from math import inf

from amiwatch.judgement.values import IPV6_PREFIX, IPAddress, SecurityEvent

SAVE_PAUSE = 3600
"""A phone registers every few minutes; its trust is worth a write once in each such time of the clock, in seconds."""

MAX_ACCOUNTS = 256
"""Trusted accounts kept for one source: the phones of a large office behind one address."""

MAX_PLACES = 256
"""Trusted sources kept for one account, here and in the store (``0008_places.sql``): a telephone that roams has some
dozens in a week, and who owns an IPv6 /48 has 65,536, with which he must not push out everybody else."""


class Trust:
    """Which sources have logged in lately, and as whom. Sources are ``source_key`` numbers."""

    def __init__(self, *, trust_time: float, max_sources: int) -> None:
        self.trust_time = trust_time
        self.max_sources = max_sources
        self._sources: OrderedDict[int, dict[str, float]] = OrderedDict()
        """Source → account → time of its last login; both in the order of their last login."""
        self._places: OrderedDict[str, dict[int, None]] = OrderedDict()
        """Account → the sources that began to log in with it, its home last; some may have no trust any more."""
        self._unsaved: dict[tuple[int, str], float] = {}

    def __len__(self) -> int:
        return len(self._sources)

    @staticmethod
    def is_earned_by(event: SecurityEvent) -> bool:
        """Tell whether this event is one that can earn trust."""
        return (
            event.kind == "SuccessfulAuth"
            and event.service == "PJSIP"
            and event.used_password
            and not event.tainted
            and not _is_loopback(event.source)
        )

    def grant(self, key: int, account: str, at: float) -> bool:
        """Remember a login; tell whether the source had none with this account lately."""
        accounts = self._sources.get(key)
        if accounts is None:
            accounts = self._sources[key] = {}
        else:
            self._sources.move_to_end(key)
        before = accounts.get(account)
        if before is not None and account != next(reversed(accounts)):
            del accounts[account]  # to stand last; a phone alone, as most are, does so already
        accounts[account] = at
        is_due = before is None or before // SAVE_PAUSE != at // SAVE_PAUSE
        if is_due and len(self._unsaved) < self.max_sources:
            self._unsaved[key, account] = at
        if len(accounts) > MAX_ACCOUNTS:
            del accounts[next(iter(accounts))]
        if len(self._sources) > self.max_sources:
            self._sources.popitem(last=False)
        is_new = before is None or before <= at - self.trust_time
        if is_new:
            self._settle(account, key, at)
        return is_new

    def _settle(self, account: str, key: int, at: float) -> None:
        """Let an account live at this source, unless another logged in with it later."""
        places = self._places.setdefault(account, {})
        self._places.move_to_end(account)
        home = next(reversed(places), key)
        places.pop(key, None)
        places[key] = None
        if self._heard_as(home, account) > at:
            places[home] = places.pop(home, None)
        if len(places) > MAX_PLACES:
            self._leave(account, places)
        if len(self._places) > self.max_sources:
            self._places.popitem(last=False)

    def _leave(self, account: str, places: dict[int, None]) -> None:
        """Take the trust that an account earned from the quarter of its places that was silent for longest."""
        silent = sorted(places, key=lambda key: self._heard_as(key, account))[: MAX_PLACES // 4]
        for key in silent:
            del places[key]
            self._unsaved.pop((key, account), None)
            accounts = self._sources.get(key, {})
            accounts.pop(account, None)
            if not accounts:
                self._sources.pop(key, None)

    def _heard_as(self, key: int, account: str) -> float:
        return self._sources.get(key, {}).get(account, -inf)

    def home(self, account: str, now: float) -> int | None:
        """Return the source that was the last to begin to log in with this account; None if it has no trust."""
        key = next(reversed(self._places.get(account, {})), None)
        return key if key is not None and self.covers(key, account, now) else None

    def heard(self, key: int) -> float:
        """Return when the source logged in last, as anybody; minus infinity if that is not known."""
        return next(reversed(self._sources.get(key, {"": -inf}).values()))

    def unsaved(self) -> list[tuple[int, str, float]]:
        """Return source, account and time of the first login in each ``SAVE_PAUSE``, once: what to store."""
        unsaved, self._unsaved = self._unsaved, {}
        return [(key, account, at) for (key, account), at in unsaved.items()]

    def has(self, key: int, now: float) -> bool:
        """Tell whether the source logged in lately, as anybody."""
        accounts = self._sources.get(key)
        if accounts is None:
            return False
        if next(reversed(accounts.values())) > now - self.trust_time:
            return True
        del self._sources[key]
        return False

    def is_near(self, key: int, prefix: int, now: float) -> bool:
        """Tell whether anybody logged in lately from the IPv6 network of this width around a source."""
        first = ~key >> (IPV6_PREFIX - prefix)
        near = [each for each in self._sources if each < 0 and ~each >> (IPV6_PREFIX - prefix) == first]
        return any(self.has(each, now) for each in near)

    def sources(self, now: float) -> frozenset[int]:
        """Return those who logged in lately, as anybody."""
        since = now - self.trust_time
        return frozenset([key for key, accounts in self._sources.items() if next(reversed(accounts.values())) > since])

    def number(self, now: float, *, at_most: int) -> int:
        """Return how many sources logged in lately, as anybody; more than ``at_most`` are not counted."""
        since = now - self.trust_time
        newest = islice(reversed(self._sources.values()), at_most)
        return sum(next(reversed(accounts.values())) > since for accounts in newest)

    def covers(self, key: int, account: str, now: float) -> bool:
        """Tell whether the source logged in lately with just this account."""
        accounts = self._sources.get(key)
        return accounts is not None and accounts.get(account, -inf) > now - self.trust_time

    def accounts(self, key: int, now: float) -> list[str]:
        """List the accounts with which the source logged in lately, the last one first."""
        since = now - self.trust_time
        return [name for name, at in reversed(self._sources.get(key, {}).items()) if at > since]

    def is_shared(self, key: int, now: float, limit: int) -> bool:
        """Tell whether so many accounts logged in lately from one source; 0 for never."""
        return limit > 0 and len(self.accounts(key, now)) >= limit

    def items(self) -> Iterator[tuple[int, str, float]]:
        """List source, account and time of the last login of all that is remembered."""
        for key, accounts in self._sources.items():
            for account, at in accounts.items():
                yield key, account, at


def _is_loopback(address: IPAddress) -> bool:
    """Ask what ``is_loopback`` does; for IPv4 that looks a network up, which takes as long as all the rest."""
    return int(address) >> 24 == 127 if type(address) is IPv4Address else address.is_loopback

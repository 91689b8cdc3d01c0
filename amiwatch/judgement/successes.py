"""
Successes to verdicts: who guessed before he logs in has found a password, or mistyped, or was corrected.

Rule 1: nobody is banned because of what is here. A login earns trust unless it looks found.

Rule 2: nothing is said of what fails in a mass failure, of a trusted site's broken phone, nor of what others try behind
a shared address.
"""

from __future__ import annotations

from collections.abc import Sequence

from amiwatch.judgement.alarms import Alarms
from amiwatch.judgement.campaigns import Campaigns
from amiwatch.judgement.crowds import Breaker
from amiwatch.judgement.found import Finds, Found
from amiwatch.judgement.reasons import found_reason, mistyped_reason
from amiwatch.judgement.rules import Policy
from amiwatch.judgement.sources import Source
from amiwatch.judgement.trouble import is_broken_site, is_pace_of_phone, is_steady_phone
from amiwatch.judgement.trust import Trust
from amiwatch.judgement.values import TEXT_LIMIT, SecurityEvent, Verdict

MISTYPED = 2
"""Wrong passwords before a success that are told: one happens every day."""


class Successes:
    """
    Says what a login means after what its source, or many, did before.

    ``key`` is under what a source is counted; ``own`` is its own, which trust belongs to.
    """

    def __init__(self, policy: Policy, *, trust: Trust, campaigns: Campaigns, breaker: Breaker, alarms: Alarms) -> None:
        self.policy = policy
        self._trust = trust
        self._campaigns = campaigns
        self._breaker = breaker
        self._alarms = alarms
        self._finds = Finds()

    def judge(
        self, key: int, own: int, source: Source | None, event: SecurityEvent, now: float
    ) -> tuple[Sequence[Verdict], bool]:
        """Return what follows from a login, and whether it may earn trust; forget the guesses that it makes good."""
        found = None if source is None else self._found(key, source, event, now)
        if found is None and self._campaigns.has_attacked:
            found = self._found_by_many(own, source, event, now)
        if found is not None and not self._finds.is_over(key, event.account, found, now):
            if found.addresses and source is not None:
                source.forgive(event.account)  # no ban of the campaign for who logs in
            return self._alarm(key, event, found, now), False
        if source is None:
            return (), True
        tried = source.forgive(event.account)
        if found is not None or not self._has_mistyped(key, source, tried, now):
            return (), True
        why = mistyped_reason(event.account, tried)
        return self._alarms.tell("mistyped_password", key, event, now, lambda: why), True

    def judge_banned(self, key: int, own: int, source: Source, event: SecurityEvent, now: float) -> Sequence[Verdict]:
        """Alarm who guessed, is banned and logs in all the same: nothing drops him, in observe mode nothing should."""
        tried, accounts = source.guesses(event.account)
        if not accounts or not Trust.is_earned_by(event) or self._trust.covers(own, event.account, now):
            return ()
        is_proven = source.proven is not None and any(source.proven.guesses(event.account))
        return self._alarm(key, event, Found(tried, accounts, is_phone=False, is_proven=is_proven), now)

    def _found(self, key: int, source: Source, event: SecurityEvent, now: float) -> Found | None:
        """Return what was guessed before, if a source succeeds after many guesses: it has found a password."""
        tried, accounts = guesses = source.guesses(event.account)
        is_trusted, enough = self._trust.has(key, now), self.policy.found_after
        if is_trusted:
            accounts //= self.policy.trust_factor  # in a call centre several people mistype at the same time
        if max(tried, accounts) < enough or event.service == "AMI" or self._trust.covers(key, event.account, now):
            return None
        if source.is_of_a_crowd and is_pace_of_phone(source, tried, now):
            return None  # it works again after a mass failure
        if tried < enough and self._trust.is_shared(key, now, self.policy.shared_accounts):
            return None  # the other accounts may be anybody's
        is_phone = is_steady_phone(source) or is_broken_site(source)
        if is_trusted and is_phone:
            return None  # somebody corrected it
        is_proven = source.proven is not None and max(source.proven.guesses(event.account)) >= enough
        return Found(*guesses, is_phone=is_phone, is_proven=is_proven)

    def _found_by_many(self, own: int, source: Source | None, event: SecurityEvent, now: float) -> Found | None:
        """Return what was guessed here, if a stranger logs in with an account at which many addresses guess."""
        account = event.account[:TEXT_LIMIT]
        if not Trust.is_earned_by(event) or not self._campaigns.is_attacked(account, now) or self._trust.has(own, now):
            return None
        tried, accounts = (0, 0) if source is None else source.guesses(account)
        return Found(tried, accounts, is_phone=False, is_proven=False, addresses=self.policy.attacked_by)

    def _has_mistyped(self, key: int, source: Source, tried: int, now: float) -> bool:
        """Tell whether a success after some guesses is worth a word: nobody knows the source, and it is alone."""
        if tried < MISTYPED or source.is_of_a_crowd or now < self._breaker.until:
            return False
        return not (self._trust.has(key, now) or is_steady_phone(source))

    def _alarm(self, key: int, event: SecurityEvent, found: Found, now: float) -> Sequence[Verdict]:
        # A phone that roams while its account is attacked is one alarm, not one at each address.
        each = hash((None if found.addresses else key, event.account))
        return self._alarms.tell("password_found", each, event, now, lambda: found_reason(event, found))

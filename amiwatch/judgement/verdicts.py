"""
Counts to verdicts: which rule a source has met, what excuses it, and what follows.

Rule 1: numbers stand in ``rules.py``; here they are only looked up. The allowlist and the safe networks win over all.

Rule 2: this file counts nothing of a source; ``judge.py`` does, and asks here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import ceil, inf
from random import Random

from amiwatch.judgement.alarms import Alarms, Ceiling
from amiwatch.judgement.campaigns import FEW
from amiwatch.judgement.counters import Counters
from amiwatch.judgement.crowds import Breaker
from amiwatch.judgement.hasty import Hasty, HastyBans
from amiwatch.judgement.ladder import Ladder
from amiwatch.judgement.ledger import Ledger
from amiwatch.judgement.neighbours import Neighbours
from amiwatch.judgement.networks import WIDE, NetworkTable, key_network, source_key
from amiwatch.judgement.reasons import (
    allowed_reason,
    ban_reason,
    ceiling_reason,
    chan_sip_reason,
    kept_out_reason,
    lift_reason,
    moved_reason,
    phone_reason,
    quiet_reason,
    share_reason,
    shared_reason,
    site_reason,
    trusted_reason,
)
from amiwatch.judgement.rules import (
    ACCOUNTS,
    AMI,
    ATTEMPTS,
    GUESSES,
    MINUTE,
    ONE_ACCOUNT,
    TRIPWIRE,
    UNANSWERED,
    Measure,
    Policy,
    Rule,
    Unless,
)
from amiwatch.judgement.sources import Attempts, Source, SourceTable, Windows
from amiwatch.judgement.trouble import (
    BROKEN_PHONES,
    PHONES_UNKNOWN,
    is_awaited,
    is_beyond_phones,
    is_broken_site,
    is_calm_caller,
    is_crowd_of_phones,
    is_hopper,
    is_kept_out,
    is_like_its_storm,
    is_no_carrier,
    is_of_several,
    is_pace_of_site,
    is_steady_phone,
    is_too_early,
    is_unnamed_enumeration,
)
from amiwatch.judgement.trust import Trust
from amiwatch.judgement.values import Ban, IPAddress, IPNetwork, Lift, SecurityEvent, Verdict, source_network

_CARRIER, _PHONE, _RETRIES, _CROWD = Unless  # a look-up in an enum costs more than what is asked

CROWD_PAUSE = 0.1
"""How long a source that a storm excuses is not looked at again, in seconds: a flood must cost little, and a scanner at
150 requests a second sends 15 meanwhile."""

MOVED_ACCOUNTS, MOVED_SHARE = 2, 0.75
"""Accounts that must fail at a new address, and their share of all that fail there, to call it a site that moved."""

BAD_NEIGHBOURS = 0.5
"""Share of the limits of enumerations that is left for a source in a bad neighbourhood."""

NO_CARRIER = 0.5
"""Share of the limits for unanswered challenges that is left for who can be no carrier."""


class Verdicts:
    """Says what follows from what is counted of a source."""

    def __init__(
        self,
        policy: Policy,
        *,
        ledger: Ledger,
        trust: Trust,
        sources: SourceTable,
        breaker: Breaker,
        counters: Counters,
        random: Random,
    ) -> None:
        self.ladder = Ladder(policy, random)
        self.alarms = Alarms(policy, counters, trust)
        self._counters = counters
        self._ledger = ledger
        self._trust = trust
        self._sources = sources
        self._breaker = breaker
        self._ceiling = Ceiling()
        self._hasty = HastyBans()
        self.neighbours = Neighbours(policy.bad_neighbours)
        self.adopt(policy)
        self.spare({})

    def adopt(self, policy: Policy) -> None:
        """Judge by these rules from now on."""
        self.policy = policy
        self.ladder.policy = self.alarms.policy = policy
        self.neighbours.adopt(policy.bad_neighbours)
        # A rule that is met by fewer attempts comes first, so that the reason names the sharpest.
        rules = sorted((rule for rule in policy.rules if rule.limit), key=lambda rule: rule.find_time)
        self._rules = [
            tuple((rule, replace(rule, limit=rule.unproven_limit)) for rule in rules if rule.measure is measure)
            for measure in Measure
        ]
        """Measure → its rows: as they hold for proven evidence, and for any."""
        self._least = tuple(min((rule.limit for rule, _ in rows), default=inf) for rows in self._rules)
        """Measure → below how many no row can be met, but half as many in a bad neighbourhood: nearly always."""

    def spare(self, networks: Mapping[IPNetwork, str]) -> None:
        """Never ban these networks, each with the words that say why; replaces earlier ones."""
        self._spared: NetworkTable[tuple[IPNetwork, str]] = NetworkTable()
        # A ban is by /64: one allowed address in it spares its neighbours.
        arounds = [(source_network(network.network_address), network, why) for network, why in networks.items()]
        wider = [each for each in arounds if each[0].prefixlen < each[1].prefixlen]
        # The narrowest first, so that who is asked about is told of himself.
        spared = [*wider, *((network, network, why) for network, why in networks.items())]
        for around, network, why in sorted(spared, key=lambda each: -each[0].prefixlen):
            self._spared.put(around, (network, why))

    def why_never(self, address: IPAddress) -> str | None:
        """Return the words that say why this address is never banned, or None if it can be."""
        found = self._spared.covering(address)
        return found[1][1] if found else None

    def judge(
        self, key: int, source: Source, event: SecurityEvent, now: float, measures: Sequence[Measure]
    ) -> Sequence[Verdict]:
        if now < source.spared_until and not event.is_proven:
            return ()
        is_trusted = self._trust.has(key, now)
        is_bad = not is_trusted and self.neighbours.are_bad(key, now, is_proven=event.is_proven)
        is_surely_bad = is_bad and (event.is_proven or self.neighbours.are_bad(key, now, is_proven=True))
        excused: Sequence[Verdict] = ()
        for measure in measures:
            number = source.number(measure)
            is_strange = measure is UNANSWERED and not is_trusted and is_no_carrier(source)
            least = self._least[measure] * BAD_NEIGHBOURS if is_bad else self._least[measure]
            if number < least and not is_strange:
                continue
            # An office earns patience for its own people, not for an enumeration from its address.
            factor = self._factor(source, measure, is_trusted) if is_bad or is_trusted else 1
            sure = factor if is_surely_bad or is_trusted else 1
            if is_strange:
                factor = sure = NO_CARRIER
            for rule, any_rule in self._rules[measure]:
                if number < rule.limit * factor or not _is_met(rule, source, factor, now):
                    continue
                is_proven = source.proven is not None and _is_met(rule, source.proven, sure, now)
                if not is_proven:
                    if not _is_met(any_rule, source, factor, now):
                        continue
                    rule = any_rule
                # What a stranger may have forged takes no excuse from what is proven.
                part = source.proven if is_proven and source.proven is not None else source
                if now < self._breaker.until and self._is_of_a_crowd(source, part, rule, now, is_proven, is_trusted):
                    continue
                rule = _scaled(rule, sure if is_proven else factor)
                excuse = self._excuse(key, source, part, rule, event, now)
                if excuse is None and is_trusted:
                    excuse = self._spare_trusted(key, source, rule, event, now, is_proven)
                if excuse is None:
                    return self._offender(key, source, rule, event, now, is_trusted=is_trusted, is_proven=is_proven)
                excused = excused or excuse
        return excused

    def _factor(self, source: Source, measure: Measure, is_trusted: bool) -> float:
        """Return by how much more unknown accounts a trusted source may try, or less one in a bad neighbourhood."""
        if measure is ACCOUNTS:
            return self.policy.trust_factor if is_trusted else BAD_NEIGHBOURS
        # On FreePBX, which does not name them, attempts alone tell of accounts that don't exist.
        is_unnamed = not is_trusted and measure is ATTEMPTS and is_unnamed_enumeration(source)
        return BAD_NEIGHBOURS if is_unnamed else 1

    def _is_of_a_crowd(
        self, source: Source, part: Attempts, rule: Rule, now: float, is_proven: bool, is_trusted: bool
    ) -> bool:
        """Tell whether a source fails as many others do just now, and is no worse than phones that fail."""
        # Whoever bans at the first attempt wants no patience.
        if _CROWD not in rule.unless or rule.limit == 1:
            return False
        if part.is_hurried or (self._breaker.is_storm and is_proven):
            return False
        if rule.measure is ACCOUNTS and is_trusted and is_proven:
            return False  # its own accounts were not counted
        # A forger may send one and the same name for all.
        unnamed = PHONES_UNKNOWN if self._breaker.is_storm else part.unnamed + part.nameless
        if not is_crowd_of_phones(part, unnamed):
            return False
        if not (self._breaker.is_storm or is_trusted or self._breaker.spares_stranger(source.first_at)):
            return False
        if self._breaker.is_storm and not is_like_its_storm(part, self._breaker.usual):
            return False
        if self._breaker.is_storm:
            source.spared_until = now + CROWD_PAUSE
        else:
            source.is_of_a_crowd = True  # a storm, which a forger makes, excuses no success after guesses
        return True

    def _excuse(
        self, key: int, source: Source, part: Attempts, rule: Rule, event: SecurityEvent, now: float
    ) -> Sequence[Verdict] | None:
        """Return what takes the place of a ban where the trouble may be honest; None if it may not."""
        begin = now - rule.find_time
        if part.is_hurried:
            return None
        if _CARRIER in rule.unless and rule.measure is not UNANSWERED and is_awaited(source, now):
            return ()
        may_be_carrier = _CARRIER in rule.unless and not is_hopper(source)
        if may_be_carrier and is_too_early(part, rule.measure):
            return ()
        if _RETRIES in rule.unless and (part.guessed or is_of_several(part, rule.limit) or is_crowd_of_phones(part)):
            return ()
        if may_be_carrier and not part.has_password and is_calm_caller(part, rule.measure, begin):
            if _RETRIES in rule.unless:
                return ()  # the next one may have another name
            if is_kept_out(source, part):
                return self.alarms.tell("phone_kept_out", key, event, now, lambda: kept_out_reason(source, rule, now))
            return self.alarms.tell("unknown_carrier", key, event, now, lambda: quiet_reason(source, rule, now))
        if part.unnamed and self._is_shared(key, now):
            return None  # nobody says that these attempts are one account's
        if _PHONE in rule.unless and is_steady_phone(part, rule.measure):
            return self.alarms.tell("broken_phone", key, event, now, lambda: phone_reason(source, event))
        if _PHONE in rule.unless and is_broken_site(part):
            return self.alarms.tell("broken_site", key, event, now, lambda: site_reason(source))
        if _CROWD in rule.unless and rule.measure in _OF_KNOWN_ACCOUNTS:
            return self._excuse_moved(key, source, part, event, now)
        return None

    def _excuse_moved(
        self, key: int, source: Source, part: Attempts, event: SecurityEvent, now: float
    ) -> Sequence[Verdict] | None:
        """Return what takes the place of a ban if this is a site that moved here: None if it is not."""
        home = self._moved_from(key, part, now)
        if home is None or not is_pace_of_site(part):
            return None
        silence = now - self._trust.heard(home)
        return self.alarms.tell("site_moved", key, event, now, lambda: moved_reason(source, key_network(home), silence))

    def _moved_from(self, key: int, part: Attempts, now: float) -> int | None:
        """Return the source at which nearly all accounts that fail here logged in until it fell silent."""
        homes = Counter(self._trust.home(account, now) for account in part.guessed)
        home, moved = homes.most_common(1)[0] if homes else (None, 0)
        if home is None or home == key or moved < max(MOVED_ACCOUNTS, MOVED_SHARE * len(part.guessed)):
            return None
        return home if self._trust.heard(home) <= now - self.policy.moved_time else None

    def _is_shared(self, key: int, now: float) -> bool:
        return self._trust.is_shared(key, now, self.policy.shared_accounts)

    def _spare_trusted(
        self, key: int, source: Source, rule: Rule, event: SecurityEvent, now: float, is_proven: bool
    ) -> Sequence[Verdict] | None:
        """Return what takes the place of a ban for a source whose phones log in; None if that does not excuse it."""
        if self._is_shared(key, now):
            count = len(self._trust.accounts(key, now))
            return self.alarms.tell("shared_address", key, event, now, lambda: shared_reason(source, rule, now, count))
        if is_proven and (rule.measure in _NOT_COVERED or self._enumerates(key, source, rule, now)):
            return None
        if not is_proven:
            source.spared_until = _next_minute(now)
        factor = self.policy.trust_factor
        return self.alarms.tell(
            "trusted_offender", key, event, now, lambda: trusted_reason(source, rule, now, is_proven, factor)
        )

    def _enumerates(self, key: int, source: Source, rule: Rule, now: float) -> bool:
        """Tell whether a trusted source tries more that nobody names (FreePBX) than its own phones explain."""
        # Each of them is mostly another account, and of those half as many are enough for a stranger.
        if source.proven is None or not _is_met(rule, source.proven, self.policy.trust_factor / 2, now):
            return False
        phones = max(BROKEN_PHONES, len(self._trust.accounts(key, now)))
        return rule.measure is ATTEMPTS and is_beyond_phones(source.proven, phones)

    def _offender(
        self,
        key: int,
        source: Source,
        rule: Rule,
        event: SecurityEvent,
        now: float,
        *,
        is_trusted: bool,
        is_proven: bool,
    ) -> Sequence[Verdict]:
        source.spared_until = _next_minute(now)
        if key < WIDE and self._trust.has(source_key(event.source), now):
            return ()  # it logged in since, and is judged alone from now on
        if event.service == "SIP" and not self.policy.ban_chan_sip:
            return self.alarms.tell("chan_sip_offender", key, event, now, lambda: chan_sip_reason(source, rule, now))
        if (spared := self._spared.covering(event.source)) is not None:
            return self.alarms.tell(
                "allowed_offender", key, event, now, lambda: allowed_reason(source, rule, now, spared[1])
            )
        if not is_proven and (why_held := self._holds_back(now)):
            self._counters.held_back += 1
            return self.alarms.tell("ban_ceiling", None, event, now, lambda: why_held)
        network = source_network(event.source) if key >= WIDE else self._wide_network(event.source, now)
        level, seconds = self.ladder.climb(source_key(network.network_address), now, is_proven=is_proven)
        ban = Ban(
            network=network,
            address=event.source,
            at=now,
            seconds=seconds,
            level=level,
            rule=rule.name,
            reason=self._ban_reason(key, source, rule, now, level=level, is_trusted=is_trusted, is_proven=is_proven),
            service=event.service,
            is_proven=is_proven,
            evidence=source.proof(),
        )
        self._ledger.put(network, now + seconds, is_proven=is_proven)
        self._sources.remove(key)
        if source.guessed:  # who comes back after the ban and succeeds has found a password
            fresh = source.afresh(now)
            self._sources.add(key, fresh)
            self._sources.touch(key, fresh)
        self._hasty.note(Hasty(ban, key, source, rule, is_trusted))
        if event.service != "SIP":
            self.neighbours.note(key, now + seconds, is_proven=is_proven)
        return (ban,)

    def _wide_network(self, source: IPAddress, now: float) -> IPNetwork:
        """Return the IPv6 network to ban around a source: only its own /64 where others are trusted or never banned."""
        own, prefix = source_network(source), self.policy.ipv6_prefix
        wide = own.supernet(new_prefix=prefix)
        has_others = self._spared.overlapping(wide) or self._trust.is_near(source_key(source), prefix, now)
        return own if has_others else wide

    def judge_campaigner(self, key: int, source: Source, account: str, now: float) -> Sequence[Verdict]:
        """Ban a source that took part in a campaign, if all its guesses are proven and nothing speaks for it."""
        proven = () if source.proven is None else source.proven.kept(GUESSES)
        is_one_of_many = source.guessed.keys() == {account} and 0 < source.total == len(proven) <= FEW
        if not is_one_of_many or self._trust.has(key, now):
            return ()
        rule = self.policy.campaign
        return self._offender(key, source, rule, source.evidence[-1], now, is_trusted=False, is_proven=True)

    def _ban_reason(
        self, key: int, source: Source, rule: Rule, now: float, *, level: int, is_trusted: bool, is_proven: bool
    ) -> str:
        reason = ban_reason(source, rule, now, level=level, is_trusted=is_trusted, is_proven=is_proven)
        is_half = rule.measure is ACCOUNTS or (rule.measure is ATTEMPTS and is_unnamed_enumeration(source))
        if not is_half or is_trusted or not self.neighbours.are_bad(key, now, is_proven=is_proven):
            return reason
        return f"{reason}; {self.neighbours.count(key, now)} of its neighbours are banned, so half is enough"

    def _holds_back(self, now: float) -> str:
        """Say why one more ban on unproven evidence has to wait; empty if it need not."""
        if len(self._ledger.unproven) >= self.policy.unproven_entries:
            return share_reason(self.policy.unproven_entries)
        return "" if self._ceiling.take(now, self.policy.unproven_bans) else ceiling_reason(self.policy.unproven_bans)

    def lift_hasty(self, now: float) -> list[Lift]:
        """Lift the bans of the last minute whose sources belong to the crowd that fails now; they stay suspects."""
        bans = self._hasty.take(now)
        if self._breaker.is_storm:
            self._breaker.learn([len(hasty.source.kept(ATTEMPTS)) for hasty in bans if not hasty.ban.is_proven])
        return [self._lift(hasty, now) for hasty in bans if self._was_hasty(hasty, now)]

    def _was_hasty(self, hasty: Hasty, now: float) -> bool:
        ban = hasty.ban
        if self._ledger.until(ban.network) != ban.at + (ban.seconds or 0):
            return False  # somebody changed it meanwhile
        part = hasty.source.proven if ban.is_proven and hasty.source.proven is not None else hasty.source
        return self._is_of_a_crowd(hasty.source, part, hasty.rule, now, ban.is_proven, hasty.is_trusted)

    def _lift(self, hasty: Hasty, now: float) -> Lift:
        ban, key, source = hasty.ban, hasty.key, hasty.source
        self._ledger.drop(ban.network)
        level, offender = ban.level - 1, source_key(ban.network.network_address)
        if level:
            self.ladder.remember(offender, level, now)
        else:
            self.ladder.forget(offender)
        source.weight = 0
        self._sources.remove(key)
        self._sources.add(key, source)
        self._sources.touch(key, source)
        self._sources.weigh(key, source)
        self.neighbours.forget(key)
        return Lift(ban.network, ban.address, now, level, lift_reason(ban))


def _next_minute(now: float) -> float:
    return (now // MINUTE + 1) * MINUTE


def _scaled(rule: Rule, factor: float) -> Rule:
    return rule if factor == 1 else replace(rule, limit=_limit(rule, factor))


def _limit(rule: Rule, factor: float) -> int:
    return ceil(rule.limit * factor)


def _is_met(rule: Rule, windows: Windows, factor: float, now: float) -> bool:
    limit = rule.limit if factor == 1 else _limit(rule, factor)
    reached = windows.newest(rule.measure, limit) if limit else None
    return reached is not None and reached >= now - rule.find_time


_OF_KNOWN_ACCOUNTS = frozenset({ATTEMPTS, GUESSES, ONE_ACCOUNT})

_NOT_COVERED = frozenset({ACCOUNTS, AMI, TRIPWIRE})
"""What trust does not excuse: enumerations, guessing at the manager, tripwires."""

"""One source's attempts judged again by every policy: what would have happened otherwise, and what was missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from amiwatch.cli.alternatives import Alternative
from amiwatch.errors import ConfigurationError
from amiwatch.judgement.history import SWEEP_PAUSE, PastAttempt, Rerun, events_of
from amiwatch.judgement.networks import source_key
from amiwatch.judgement.reasons import duration, rule_words
from amiwatch.judgement.rules import POLICIES, Measure, Rule, Unless
from amiwatch.judgement.sources import Source
from amiwatch.judgement.values import Ban, IPNetwork
from amiwatch.store.records import StoredTrust

if TYPE_CHECKING:
    from amiwatch.cli.call import Call


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one policy says of the attempts."""

    policy: str
    is_in_force: bool
    ban: Ban | None
    """The first one."""
    tries: int
    """Failed attempts until then, or all of them."""
    bans: int
    sources: int
    """How many sources are banned."""
    alerts: Sequence[str]
    """Kinds, in the order in which they first came."""
    nearest: str
    """How far the source came towards the limit that it is nearest to, where it was not banned."""


def by_every_policy(
    call: Call, attempts: Sequence[PastAttempt], trust: Sequence[StoredTrust], allowed: Mapping[IPNetwork, str]
) -> tuple[list[Verdict], dict[str, str]]:
    """
    Judge these attempts by each policy, with the settings' own numbers; what is in force comes first.

    Returned beside are the policies that these numbers do not fit, each with the first mistake.
    """
    in_force = call.settings().policy
    verdicts, unfit = [], {}
    for name in sorted(POLICIES, key=lambda name: name != in_force):
        try:
            alternative = Alternative(name, call.read_settings({"policy": name}))
        except ConfigurationError as error:
            unfit[name] = error.mistakes[0]  # numbers that fit the policy in force need not fit this one
            continue
        verdicts.append(_judged(alternative, attempts, trust, allowed, is_in_force=name == in_force))
    return verdicts, unfit


def _judged(
    alternative: Alternative,
    attempts: Sequence[PastAttempt],
    trust: Sequence[StoredTrust],
    allowed: Mapping[IPNetwork, str],
    *,
    is_in_force: bool,
) -> Verdict:
    rerun = Rerun(alternative.judge(allowed))
    for one in trust:
        if attempts and one.since < attempts[0].at:
            rerun.judge.trust.grant(source_key(one.network.network_address), one.account, one.last_at)
    now = 0.0
    for event in events_of(attempts):
        now = max(now, event.at)
        for _ in rerun.see(event, now):
            pass
    for _ in rerun.wait(now + rerun.judge.policy.answer_time + SWEEP_PAUSE):
        pass
    first = min(rerun.first.values(), key=lambda ban: ban.at, default=None)
    until = first.at if first else now
    tries = sum(one.outcome != "success" and one.at <= until for one in attempts)
    return Verdict(
        policy=alternative.name,
        is_in_force=is_in_force,
        ban=first,
        tries=tries,
        bans=rerun.bans,
        sources=len(rerun.first),
        alerts=list(rerun.alerts),
        nearest=_nearest(rerun, now) if first is None else "",
    )


def _nearest(rerun: Rerun, now: float) -> str:
    """Say which rule the only source is nearest to, and how far from it; empty where that says nothing."""
    sources = list(rerun.judge.sources)
    if len(sources) != 1:
        return ""
    is_trusted = rerun.judge.trust.has(source_key(sources[0].address), now)
    factor = rerun.judge.policy.trust_factor if is_trusted else 1
    found = [
        _distance(sources[0], rule, factor if rule.measure is Measure.ACCOUNTS else 1, now)
        for rule in rerun.judge.policy.rules
    ]
    share, words = max(found, default=(0.0, ""))
    return words if share else ""


def _distance(source: Source, rule: Rule, factor: int, now: float) -> tuple[float, str]:
    """Return how much of a rule's limit a source has reached, and that in words."""
    windows = source if source.proven is None else source.proven
    limit = (rule.unproven_limit if source.proven is None else rule.limit) * factor
    count = len(windows.since(rule.measure, now - rule.find_time))
    is_never = Unless.RETRIES in rule.unless and (source.guessed or source.unnamed)
    if not limit or not count or is_never:
        return 0.0, ""
    what = f"{rule_words(rule.measure, limit)} within {duration(rule.find_time)} (rule {rule.name!r})"
    if count >= limit:
        return count / limit, f"it reached {limit} {what}, but was excused"
    return count / limit, f"it came to {count} of {limit} {what}"

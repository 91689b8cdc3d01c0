"""
How it ended: what was to happen and did not, and the words at the end.

Rule 1: nothing is said that was not counted.
"""

from __future__ import annotations

from collections.abc import Iterator

from amiwatch.demo.cast import Fate
from amiwatch.demo.show import Score, Show
from amiwatch.judgement.reasons import duration

NOTHING_DROPPED = "nothing was really dropped"


def faults(show: Show) -> list[str]:
    """Return what did not happen as it should have, a sentence each; empty is success."""
    found = [f"{network} was banned, and nobody in the demo has that address." for network in show.strangers]
    for score in show.scores:
        found += _banned_faults(score, show.is_real) if score.actor.fate is Fate.BANNED else _honest_faults(score)
    return found


def _banned_faults(score: Score, is_real: bool) -> Iterator[str]:
    name = score.actor.name
    if score.ban is None:
        yield f"The {name} was not banned."
        return
    if score.ban["seconds"] is None:
        yield f"The ban of the {name} did not reach the kernel."
    after = score.sent - score.sent_before
    if not after:
        yield f"The {name} sent nothing after its ban, so nothing shows that it is dropped."
    if is_real and score.arrived > score.sent_before:
        yield f"{score.arrived - score.sent_before} packets of the {name} arrived after its ban."
    if is_real and (lost := score.sent - score.arrived) != (score.dropped or 0):
        yield f"Of the {name}'s packets {lost} did not arrive, but the kernel counts {score.dropped or 0} dropped."
    if not is_real and score.arrived != score.sent:
        yield f"{score.sent - score.arrived} packets of the {name} got lost."


def _honest_faults(score: Score) -> Iterator[str]:
    name = score.actor.name
    if score.ban is not None:
        yield f"The {name} is honest and was banned: {score.ban['reason']}."
    if score.arrived != score.sent:
        yield f"{score.sent - score.arrived} packets of the {name} got lost."
    if score.answered != score.requests or not score.requests:
        yield f"The {name} got {score.answered} answers to {score.requests} requests."
    if score.actor.fate is Fate.REPORTED and score.alert is None:
        yield f"The {name} was not reported."


def opening(show: Show, why: str) -> str:
    """Return the first line."""
    if not show.is_real:
        return f"amiwatch demo, a dry run: {NOTHING_DROPPED.replace('was', 'is')}, for {why}"
    return "amiwatch demo: real packets, real daemon, real kernel, in a network of its own"


def closing(show: Show, commands: list[str]) -> Iterator[str]:
    """Yield the lines of the end but for the last."""
    yield "What was banned, and why:" if show.is_real else "What would have been banned, and why:"
    for score in show.scores:
        if score.ban is not None:
            yield from _ban_lines(score, show.is_real)
    reported = [score for score in show.scores if score.alert is not None]
    if reported:
        yield "What was reported and not banned:"
    for score in reported:
        assert score.alert is not None
        yield f"  {score.actor.name}, {score.actor.source}: {score.alert['kind']}: {score.alert['reason']}"
    served = [score for score in show.scores if score.actor.fate is not Fate.BANNED]
    sent, arrived = sum(score.sent for score in served), sum(score.arrived for score in served)
    yield f"Who is honest was served: {arrived} of {sent} packets of {len(served)} sources arrived."
    yield "To try next:"
    yield from (f"  {command}" for command in commands)


def _ban_lines(score: Score, is_real: bool) -> Iterator[str]:
    assert score.ban is not None
    network = score.ban["network"].removesuffix("/32")
    lasts = "for ever" if score.ban["lasts"] is None else f"for {duration(score.ban['lasts'])}"
    yield f"  {score.actor.name}, {network}, {lasts} by the rule {score.ban['rule']}"
    yield f"    why: {score.ban['reason']}"
    after = score.sent - score.sent_before
    if not is_real:
        yield f"    would have been dropped from then on: {after} packets"
    elif score.ban["seconds"] is not None:
        yield (
            f"    {score.ban['seconds'] * 1000:.2f} ms from the event to the kernel; {after} packets sent after that, "
            f"{max(0, score.arrived - score.sent_before)} arrived; the kernel dropped {score.dropped or 0}"
        )


def last_line(show: Show, found: list[str]) -> str:
    """Return the last line."""
    if found:
        return "The demo failed: " + " ".join(found)
    if not show.is_real:
        return f"All attackers were recognised and nobody else. It was a dry run: {NOTHING_DROPPED}."
    return "Every attacker was banned and heard no more; nobody else lost a packet."

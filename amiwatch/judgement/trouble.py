"""
Honest trouble that looks like an attack.

Rule 1: each question here is about one source, and errs on the side of honesty.
"""

from __future__ import annotations

import re
from itertools import pairwise
from statistics import median

from amiwatch.judgement.rules import Measure
from amiwatch.judgement.sources import Source

CALM_PACE = 1.0
"""Attempts a second that a carrier or a monitor stays under; scanners send 20 to 150."""

MONITOR_PAUSE = 4.0
"""Shortest pause, in seconds, of a monitor that never answers a challenge. Challenges for ``<unknown>`` without an
account are raised only below 5 requests in 5 s, so a scanner that hides among them sends up to one in 1.25 s."""

CALLER_DIGITS = 7
"""Fewest digits of a caller's number; the extensions that scanners try are shorter."""

PHONE_PAUSE = 15.0
"""Shortest pause, in seconds, of a phone that tries again by itself; guessers that hurry are faster."""

RETRY_PAUSE = 2.0
"""Pause, in seconds, below which a second try belongs to the first: many phones answer a second challenge at once."""

RETRIES = 2
"""Tries that a phone makes at once at most."""

STEADY_SHARE = 0.75
"""Share of the pauses that must lie within a factor of two of their median: RFC 5626 4.5 jitters by that much."""

STEADY_SAMPLES = 4
"""Pauses needed to call a pace steady."""

PACE_SAMPLES = 20
"""Newest attempts that tell the pace."""

_CALLER = re.compile(rf"\+?\d{{{CALLER_DIGITS},}}")


def is_calm_caller(source: Source, measure: Measure, begin: float) -> bool:
    """Tell whether this may be a carrier or a monitor: one account or callers' numbers, at a calm pace."""
    if measure is Measure.UNANSWERED:
        # Challenges for <unknown> tell no account: only a clock's regularity speaks for a monitor.
        return is_steady(source.times[Measure.UNANSWERED] or [], pause=MONITOR_PAUSE)
    times = (source.times[Measure.ATTEMPTS] or [])[-PACE_SAMPLES:]
    if len(times) < 2 or (len(times) - 1) / max(times[-1] - times[0], 0.001) > CALM_PACE:
        return False
    names = [*(name for name, at in source.accounts.items() if at >= begin), *source.guessed]
    return len(names) < 2 or all(map(_CALLER.fullmatch, names))


def is_steady_phone(source: Source) -> bool:
    """Tell whether this may be one phone with an old password or a deleted account."""
    if len(source.accounts.keys() | source.guessed.keys()) > 1:
        return False
    times = (source.times[Measure.ATTEMPTS] or [])[-PACE_SAMPLES:]
    begins = times[:1] + [later for earlier, later in pairwise(times) if later - earlier > RETRY_PAUSE]
    return len(times) <= RETRIES * len(begins) and is_steady(begins, pause=PHONE_PAUSE)


def is_steady(times: list[float], *, pause: float) -> bool:
    """Tell whether the newest of these times come at a steady pace, with at least ``pause`` seconds between."""
    pauses = [later - earlier for earlier, later in pairwise(times[-PACE_SAMPLES:])]
    if len(pauses) < STEADY_SAMPLES:
        return False
    middle = median(pauses)
    steady = sum(middle / 2 <= each <= middle * 2 for each in pauses)
    return middle >= pause and steady >= STEADY_SHARE * len(pauses)

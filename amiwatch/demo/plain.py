"""The demo in plain lines, for pipes and for terminals that can do no more."""

from __future__ import annotations

from amiwatch.demo.cast import Fate
from amiwatch.demo.show import Show

PAUSE = 4.0
"""Seconds between two summaries."""

WORDS = {"ban": "BANNED", "would": "WOULD BAN", "alert": "REPORTED", "act": "begins"}


class PlainView:
    """One line for each thing that happens, and how the counts stand now and then."""

    def __init__(self, show: Show) -> None:
        self._show = show
        self._next = PAUSE

    def happened(self, at: float, what: str, text: str) -> None:
        _line(at, f"{WORDS[what]:<9} {text}")

    def refresh(self) -> None:
        if self._show.elapsed < self._next:
            return
        self._next += PAUSE
        attackers = [score for score in self._show.scores if score.actor.fate is Fate.BANNED and score.sent]
        honest = [score for score in self._show.scores if score.actor.fate is not Fate.BANNED]
        counts = [f"{score.actor.name} {score.sent} sent, {score.arrived} arrived" for score in attackers]
        sent, arrived = sum(score.sent for score in honest), sum(score.arrived for score in honest)
        _line(self._show.elapsed, "; ".join([f"counts    honest {sent} sent, {arrived} arrived", *counts]))


def _line(at: float, text: str) -> None:
    print(f"{at:5.1f} s  {text}", flush=True)  # noqa: T201 - this is what it is for

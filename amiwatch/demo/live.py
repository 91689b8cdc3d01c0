"""The demo on a terminal: a row for each source, and below it what happens."""

from __future__ import annotations

import textwrap
import time
from collections import deque
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from amiwatch.demo.cast import Fate
from amiwatch.demo.ending import opening
from amiwatch.demo.show import Score, Show

LEGEND = "arrived: at the PBX, behind the firewall; silent: since the last arrival"

MIN_WIDTH, MIN_HEIGHT = 80, 24
"""Terminal cells below which plain lines are easier to read."""

GRAPH_WIDTH = 110
"""Terminal cells from which on there is room for the arrivals of each second."""

BARS = " ▁▂▃▄▅▆▇█"
SPACIOUS = 18
"""Lines for what happens from which on each thing may take one line more."""

MOMENTS = 100
"""Things that happened and are kept to be shown."""

STYLES = {
    "ban": ("BANNED", "bold red"),
    "would": ("WOULD BAN", "bold red"),
    "alert": ("REPORTED", "bold yellow"),
    "act": ("begins", "dim"),
}

QUIET_TIME = 3.0
"""Seconds without an arrival from which on the silence is worth a colour."""


class LiveView:
    """The whole terminal, painted anew some times a second; ``with`` takes it and gives it back."""

    def __init__(self, show: Show, console: Console, why: str) -> None:
        self._show = show
        self._console = console
        self._title = opening(show, why)
        self._moments: deque[tuple[float, str, str]] = deque(maxlen=MOMENTS)
        self._live = Live(console=console, screen=True, auto_refresh=False, vertical_overflow="crop")

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def happened(self, at: float, what: str, text: str) -> None:
        self._moments.append((at, what, text))

    def refresh(self) -> None:
        self._live.update(self.picture(*self._console.size), refresh=True)

    def picture(self, width: int, height: int) -> RenderableType:
        """Return what a terminal of this size shows now."""
        head = Text(self._title, style="bold", no_wrap=True, overflow="ellipsis")
        foot = Text(LEGEND, style="dim", no_wrap=True)
        rows = len(self._show.scores)
        room = max(0, height - rows - 6)
        lines = [line for moment in self._moments for line in _moment(moment, width, lines=1 + room // SPACIOUS)]
        lines = [*lines, *[Text()] * (room - len(lines))][-room:] if room else []
        return Group(head, self._progress(width), Text(), self._table(width), Text(), *lines, foot)

    def _progress(self, width: int) -> Text:
        elapsed, seconds = min(self._show.elapsed, self._show.seconds), self._show.seconds
        if self._show.is_over:
            elapsed = seconds
        words = f" {elapsed:4.1f} of {seconds:.0f} s"
        cells = width - len(words)
        full = int(cells * elapsed / seconds)
        return Text.assemble(("━" * full, "cyan"), ("━" * (cells - full), "bright_black"), (words, "cyan"))

    def _table(self, width: int) -> Table:
        has_graph = width >= GRAPH_WIDTH
        table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, width=width, header_style="dim")
        table.add_column("who", width=13, no_wrap=True)
        table.add_column("address", width=17, no_wrap=True)
        for name, cells in (("sent", 5), ("arrived", 7), ("answers", 7), ("silent", 6)):
            table.add_column(name, justify="right", no_wrap=True, width=cells)
        table.add_column("state", no_wrap=True, overflow="ellipsis", width=18 if has_graph else None)
        if has_graph:
            table.add_column("arrivals by second, · dropped", no_wrap=True)
        now = time.monotonic()
        for score in self._show.scores:
            table.add_row(*self._row(score, now), *([_graph(score)] if has_graph else []))
        return table

    def _row(self, score: Score, now: float) -> tuple[Text, ...]:
        actor = score.actor
        is_attacker = actor.fate is Fate.BANNED
        is_quiet = score.heard_at is not None and now - score.heard_at > QUIET_TIME and not self._show.is_over
        ago = "" if score.heard_at is None else f"{now - score.heard_at:.1f} s"
        return (
            Text(actor.name, style="red" if is_attacker else "green"),
            Text(actor.source),
            Text(str(score.sent), style="bold"),
            Text(str(score.arrived), style="bold red" if score.ban is not None else "bold green"),
            Text(f"{score.answered}/{score.requests}" if score.requests else ""),
            Text(ago, style="red" if is_quiet else "dim"),
            self._state(score),
        )

    def _state(self, score: Score) -> Text:
        if score.ban is not None:
            word = "BANNED" if self._show.is_real else "WOULD BAN"
            return Text(f"{word} {score.ban['rule']}", style="bold red")
        if score.alert is not None:
            return Text("reported", style="bold yellow")
        return Text("heard" if score.arrived else "", style="green" if score.actor.fate is not Fate.BANNED else "")


def _moment(moment: tuple[float, str, str], width: int, *, lines: int) -> list[Text]:
    """Return what happened in so many lines at most."""
    at, what, text = moment
    word, style = STYLES[what]
    begin = Text.assemble((f"{at:4.1f} s ", "dim"), (f"{word:<9} ", style))
    cells = width - begin.cell_len
    parts = textwrap.wrap(text, cells, max_lines=lines, placeholder=" …", break_on_hyphens=False)
    return [begin.append(parts[0]), *(Text(" " * (width - cells) + part) for part in parts[1:])]


def _graph(score: Score) -> Text:
    """Draw how many packets arrived in each second; a dot where all that were sent were dropped."""
    top = max(8, *score.arrivals.values(), 0)
    bars = [
        BARS[-(-score.arrivals[second] * (len(BARS) - 1) // top)]
        for second in range(1 + max(score.arrivals, default=-1))
    ]
    drawn = "".join("·" if bar == " " and score.losses[second] else bar for second, bar in enumerate(bars))
    return Text(drawn, style="red" if score.actor.fate is Fate.BANNED else "green")

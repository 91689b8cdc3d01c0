"""How far a long replay is: said on a terminal only, and gone at the end."""

import io
import sys
from collections.abc import Callable

import pytest

from amiwatch.cli import progress
from amiwatch.cli.progress import STRIDE, Progress

NOON = 1_795_345_200.0


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def stand_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[io.StringIO], io.StringIO]:
    """Stand at a terminal or a pipe, and have no patience. To be called in the test: pytest itself takes stderr."""
    monkeypatch.setattr(progress, "PATIENCE", 0.0)
    monkeypatch.setattr(progress, "PAUSE", 0.0)

    def at(stream: io.StringIO) -> io.StringIO:
        monkeypatch.setattr(sys, "stderr", stream)
        return stream

    return at


EVENTS = [(NOON + number, number) for number in range(4 * STRIDE)]


def test_a_terminal_is_told_how_far_it_is_and_left_clean(stand_at):
    terminal = stand_at(Terminal())
    watched = Progress(lambda at: (at - NOON) / len(EVENTS)).watch(iter(EVENTS))
    assert list(watched) == EVENTS
    said = terminal.getvalue().split("\r\x1b[K")
    assert said[0] == said[-1] == ""
    assert [words.split(", ", 1)[1] for words in said[1:-1]] == [
        "25%, 256 events", "50%, 512 events", "75%, 768 events", "100%, 1,024 events",
    ]  # fmt: skip
    assert said[1].startswith("judging 2026-11-22 ")


def test_what_has_no_size_is_told_without_a_share_and_the_line_goes_for_others(stand_at):
    terminal = stand_at(Terminal())
    line = Progress(lambda _: None)
    for number, _ in enumerate(line.watch(EVENTS), start=1):
        if number == STRIDE + 1:
            assert terminal.getvalue().endswith(", 256 events")
            line.clear()
            line.clear()
            assert terminal.getvalue().endswith(", 256 events\r\x1b[K")


def test_the_line_goes_when_somebody_stops_the_replay(stand_at):
    terminal = stand_at(Terminal())
    events = Progress(lambda _: 0.5).watch(EVENTS)
    for _ in range(STRIDE + 1):
        next(events)
    events.close()
    assert terminal.getvalue().endswith("\r\x1b[K")


def test_a_pipe_is_told_nothing(stand_at):
    pipe = stand_at(io.StringIO())
    assert list(Progress(lambda _: 0.5).watch(EVENTS)) == EVENTS
    assert pipe.getvalue() == ""

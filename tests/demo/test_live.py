"""What the live view and the picture show, without a performance."""

import re
import socket
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
from rich.console import Console

from amiwatch.demo.cast import Fate
from amiwatch.demo.ending import faults
from amiwatch.demo.live import MIN_HEIGHT, MIN_WIDTH, LiveView
from amiwatch.demo.picture import draw
from amiwatch.demo.show import Score, Show
from amiwatch.testing.sip import UserAgent

README_PICTURE = Path(__file__).parents[2] / "docs" / "images" / "demo.svg"
LONG = "an attacker of 198.51.100.20 " * 20


def view(tmp_path: Path, width: int = MIN_WIDTH, height: int = MIN_HEIGHT) -> LiveView:
    console = Console(width=width, height=height, record=True, quiet=True, force_terminal=True)
    return LiveView(Show(tmp_path / "demo.db", wire=None, is_real=True), console, "")


@pytest.mark.parametrize(("width", "height"), [(80, 24), (81, 25), (110, 30), (120, 40), (300, 90)])
@pytest.mark.parametrize("moments", [0, 1, 200])
def test_it_fills_the_terminal_and_no_more(tmp_path: Path, width: int, height: int, moments: int) -> None:
    it = view(tmp_path, width, height)
    for number in range(moments):
        it.happened(float(number), "ban", LONG)
    console = Console(width=width, height=height, force_terminal=True)
    lines = console.render_lines(it.picture(width, height), pad=False)
    assert len(lines) == height
    assert all(sum(segment.cell_length for segment in line) <= width for line in lines)


def test_the_picture_loads_nothing_from_anywhere(tmp_path: Path) -> None:
    draw(view(tmp_path), tmp_path / "new.svg")
    for path in (tmp_path / "new.svg", README_PICTURE):
        svg = path.read_text()
        ElementTree.fromstring(svg)
        assert set(re.findall(r"\w+://[^\"' )<]+", svg)) == {"http://www.w3.org/2000/svg"}
        assert "url(" not in svg.replace("url(#", "")


@pytest.fixture
def success(tmp_path: Path) -> Iterator[Show]:
    """Return a show with the counts of one in which everything happened."""
    show = Show(tmp_path / "demo.db", wire=None, is_real=True)
    for score in show.scores:
        agent = UserAgent(socket.socket(socket.AF_INET, socket.SOCK_DGRAM), ("127.0.0.1", 5060))
        agent.sent = agent.requests = agent.answered = score.arrived = 50
        score.agents = [agent]
        if score.actor.fate is Fate.BANNED:
            score.ban = {"network": score.actor.source, "rule": "scan", "reason": "", "seconds": 0.001, "lasts": 60}
            score.sent_before, score.arrived, score.dropped = 10, 10, 40
        elif score.actor.fate is Fate.REPORTED:
            score.alert = {"kind": "unknown_carrier", "reason": ""}
    yield show
    for score in show.scores:
        for agent in score.agents:
            agent.endpoint.close()


def one(show: Show, name: str) -> Score:
    return next(score for score in show.scores if score.actor.name == name)


def test_a_show_in_which_everything_happened_has_no_fault(success: Show) -> None:
    assert faults(success) == []


@pytest.mark.parametrize(
    ("name", "change", "sentence"),
    [
        ("scanner", {"ban": None}, "The scanner was not banned."),
        ("scanner", {"arrived": 12, "dropped": 38}, "2 packets of the scanner arrived after its ban."),
        ("scanner", {"dropped": 39}, "40 did not arrive, but the kernel counts 39 dropped."),
        ("scanner", {"dropped": None}, "the kernel counts 0 dropped."),
        ("scanner", {"sent_before": 50}, "sent nothing after its ban"),
        ("office", {"alert": None}, "The office was not reported."),
        ("phone 101", {"arrived": 49}, "1 packets of the phone 101 got lost."),
        ("phone 101", {"ban": {"reason": "four accounts"}}, "is honest and was banned: four accounts."),
    ],
)
def test_whatever_did_not_happen_is_said(success: Show, name: str, change: dict[str, object], sentence: str) -> None:
    for field, value in change.items():
        setattr(one(success, name), field, value)
    (found,) = faults(success)
    assert sentence in found


def test_a_request_without_answer_and_a_stranger_in_the_set_are_said(success: Show) -> None:
    one(success, "carrier").agents[0].answered = 49
    success.strangers.append("203.0.113.99/32")
    assert faults(success) == [
        "203.0.113.99/32 was banned, and nobody in the demo has that address.",
        "The carrier got 49 answers to 50 requests.",
    ]


def test_a_show_in_which_nothing_happened_has_failed(tmp_path: Path) -> None:
    found = faults(Show(tmp_path / "demo.db", wire=None, is_real=True))
    assert "The scanner was not banned." in found
    assert "The office was not reported." in found
    assert "The phone 101 got 0 answers to 0 requests." in found

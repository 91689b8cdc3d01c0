"""What the live view and the picture show, without a performance."""

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from rich.console import Console

from amiwatch.demo.ending import faults
from amiwatch.demo.live import MIN_HEIGHT, MIN_WIDTH, LiveView
from amiwatch.demo.picture import draw
from amiwatch.demo.show import Show

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


def test_a_show_in_which_nothing_happened_has_failed(tmp_path: Path) -> None:
    found = faults(Show(tmp_path / "demo.db", wire=None, is_real=True))
    assert "The scanner was not banned." in found
    assert "The office was not reported." in found
    assert "The phone 101 got 0 answers to 0 requests." in found

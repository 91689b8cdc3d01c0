"""The end of the live view as a picture for the README: ``python -m amiwatch.demo.picture docs/images/demo.svg``."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

from rich.console import Console

from amiwatch.demo.live import LiveView

WIDTH, HEIGHT = 118, 28
"""Terminal cells of the picture: with room for the graphs and for all that happens."""

_FONT_FACES = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)
_COMMENTS = re.compile(r"<!--.*?-->\s*", re.DOTALL)


def draw(view: LiveView, path: Path) -> None:
    """Write what the view shows now as an SVG that loads nothing from anywhere. Raises OSError."""
    console = Console(record=True, file=io.StringIO(), force_terminal=True, width=WIDTH, color_system="truecolor")
    console.print(view.picture(WIDTH, HEIGHT))
    svg = console.export_svg(title="amiwatch demo", unique_id="demo")
    # Rich names a font of the web; whoever looks has one of his own.
    svg = _COMMENTS.sub("", _FONT_FACES.sub("", svg)).replace("Fira Code", "ui-monospace, Menlo, Consolas")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    from amiwatch.demo import main

    sys.exit(main(plain=False, picture=Path(sys.argv[1])))

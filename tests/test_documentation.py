"""The pages that people act on say what the code does."""

import re
from collections.abc import Iterator
from pathlib import Path

from amiwatch.errors import AmiwatchError

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"

ALWAYS = {0, 2, 130}
"""Done, a wrong command line, and Ctrl-C: no error of ours stands behind them."""


def errors(root: type[AmiwatchError] = AmiwatchError) -> Iterator[type[AmiwatchError]]:
    yield root
    for below in root.__subclasses__():
        yield from errors(below)


def test_every_exit_code_is_explained_and_no_other():
    page = (DOCS / "exit-codes.md").read_text()
    explained = {int(code) for code in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)}
    assert explained == ALWAYS | {error.exit_code for error in errors()}


def test_the_steps_of_the_docs_name_files_that_exist():
    named = re.findall(r"\b(?:docker|docs|tests)/[\w./-]+\w", "".join(page.read_text() for page in DOCS.glob("*.md")))
    assert len(named) > 5
    untracked = {"docker/ami_secret"}
    assert [name for name in set(named) - untracked if not (ROOT / name).exists()] == []


def test_the_links_of_the_readme_lead_somewhere():
    links = re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / "README.md").read_text())
    assert len(links) > 10
    assert [link for link in links if not (ROOT / link).exists()] == []

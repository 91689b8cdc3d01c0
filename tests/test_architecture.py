"""
The table *package -> may import* of the architecture, held against every module of amiwatch.

Whoever adds a package adds a row here, and says there what it may know.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "amiwatch"

EDGES = {"ami", "firewall", "store", "notify"}
BELOW_DAEMON = {"errors", "judgement", "config"} | EDGES

MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "judgement": {"errors"},
    "ami": {"judgement", "errors"},
    "firewall": {"judgement", "errors"},
    "store": {"judgement", "errors"},
    "notify": {"judgement", "errors"},
    "config": {"judgement", "errors"},
    "daemon": BELOW_DAEMON,
    # The test kit ships with the package, so it must not drag the daemon in.
    "testing": {"judgement", "errors", "ami.wire", "firewall.base", "firewall.dryrun"},
    "cli": BELOW_DAEMON | {"daemon", "testing", "demo"},
    "demo": BELOW_DAEMON | {"daemon", "testing", "cli"},
    "__main__": {"cli"},
}
"""What of ours each part may import, beside itself and the bare package. ``a.b`` allows that one module."""

LIBRARIES: dict[str, set[str]] = {
    "ami": {"panoramisk"},
    "firewall": {"pyroute2"},
    "store": {"aiosqlite"},
    "config": {"pydantic", "pydantic_core", "pydantic_settings", "dotenv"},  # dotenv comes with pydantic-settings
    "daemon.host": {"pyroute2"},  # an edge of its own: asks the kernel for this machine's addresses
    "cli": {"typer", "click", "rich", "pydantic"},
    "demo": {"rich", "typer"},
    "testing.netns": {"pyroute2"},  # makes the links inside a private network namespace
    "testing.plugin": {"pytest", "pytest_asyncio"},
}
"""Who may know which third-party library; nobody else may. A quirk of a library stays in its edge."""

IMPURE = {
    "asyncio", "concurrent", "http", "io", "logging", "multiprocessing", "os", "pathlib", "select", "selectors",
    "shutil", "signal", "socket", "sqlite3", "ssl", "subprocess", "sys", "tempfile", "threading", "time", "urllib",
}  # fmt: skip
"""Standard modules that do I/O, read a clock or know the process."""

IMPURE_CALLS = {"now", "utcnow", "today", "open", "print", "input"}
"""``datetime.now()`` and friends, and the built-in ways to the outside, however they are reached."""

PURE = {"judgement": IMPURE, "ami.wire": IMPURE - {"os"}}
"""What is pure, and what it may not import. The wire draws the key of its digests from ``os.urandom``, once."""

MODULES = sorted(ROOT.rglob("*.py"))


def named(path: Path) -> str:
    """Return the module's name inside amiwatch: ``judgement.values``; empty for the package itself."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(tree: ast.AST, package: str) -> Iterator[str]:
    """Yield every absolute name that is imported anywhere in the module, ``from`` imports down to what they name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            yield from (f"{base}.{alias.name}" for alias in node.names)


def is_within(name: str, allowed: set[str]) -> bool:
    return any(name == one or name.startswith(one + ".") for one in allowed)


def rows(table: dict[str, set[str]], module: str) -> set[str]:
    """Join what the table says of a module and of the packages around it."""
    return set().union(*(row for part, row in table.items() if is_within(module, {part})))


def faults(module: str, source: str, *, is_package: bool = False) -> list[str]:
    """Return what a module does that the tables forbid, one sentence each."""
    part = module.split(".")[0]
    if part not in MAY_IMPORT and module:
        return [f"{part} is not in the table: add a row that says what it may import"]
    full = f"amiwatch.{module}".rstrip(".")
    tree = ast.parse(source)
    found = []
    for name in imported(tree, full if is_package else full.rpartition(".")[0]):
        top, _, ours = name.partition(".")
        if top == "amiwatch":
            is_bare = ours.split(".")[0] not in MAY_IMPORT  # amiwatch itself: __version__
            if module and not is_bare and not is_within(ours, MAY_IMPORT[part] | {part}):
                found.append(f"{module} must not import {name}")
        elif top not in sys.stdlib_module_names:
            if top not in rows(LIBRARIES, module):
                found.append(f"{module} must not import the library {top}")
        elif top in rows(PURE, module):
            found.append(f"{module} is pure and must not import {top}")
    if rows(PURE, module):
        found += [f"{module} is pure and must not call {name}()" for name in called(tree) if name in IMPURE_CALLS]
    return found


def called(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
            yield node.func.id if isinstance(node.func, ast.Name) else node.func.attr


@pytest.mark.parametrize("path", MODULES, ids=[named(path) or "amiwatch" for path in MODULES])
def test_a_module_imports_only_what_its_part_may(path: Path):
    assert faults(named(path), path.read_text(), is_package=path.name == "__init__.py") == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("judgement.rules", "import asyncio"),
        ("judgement.rules", "import os.path"),
        ("judgement.rules", "def f():\n    from time import monotonic"),
        ("judgement.rules", "from datetime import datetime\ndatetime.now()"),
        ("judgement.rules", "open('x')"),
        ("judgement.rules", "import rich"),
        ("judgement.rules", "from amiwatch.store import reader"),
        ("judgement.rules", "from ..store import reader"),
        ("ami.wire", "import socket"),
        ("ami.client", "import amiwatch.firewall.ipset"),
        ("ami.client", "from amiwatch import firewall"),
        ("ami.client", "import pyroute2"),
        ("firewall.ipset", "from amiwatch.ami import wire"),
        ("store.writer", "from amiwatch.config import Settings"),
        ("errors", "from amiwatch.judgement.values import Ban"),
        ("daemon", "from amiwatch.cli.main import main"),
        ("daemon", "from amiwatch.testing import clock"),
        ("testing.builders", "from amiwatch.firewall.ipset import Ipset"),
        ("testing.builders", "from amiwatch.ami import client"),
        ("testing.builders", "import pytest"),
        ("helpers", ""),
    ],
)
def test_what_the_architecture_forbids_is_noticed(module: str, source: str):
    assert len(faults(module, source)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("judgement.rules", "from .values import Ban\nfrom amiwatch.errors import AmiwatchError\nimport math"),
        ("ami.client", "import asyncio, panoramisk\nfrom amiwatch.ami.wire import Wire"),
        ("daemon", "from amiwatch import __version__\nfrom amiwatch.firewall import base"),
        ("testing.simulator", "from amiwatch.ami import wire\nfrom amiwatch.firewall.base import Entry"),
        ("testing.plugin", "import pytest\nfrom amiwatch.testing.clock import Clock"),
    ],
)
def test_what_the_architecture_allows_passes(module: str, source: str):
    assert faults(module, source) == []


def test_a_name_that_a_relative_import_reaches_is_resolved_from_its_package():
    assert list(imported(ast.parse("from . import values\nfrom ..errors import X"), "amiwatch.judgement")) == [
        "amiwatch.judgement.values",
        "amiwatch.errors.X",
    ]

"""
``amiwatch demo``: the whole thing at work, with real packets in a private network namespace.

The host's firewall is never touched. Where the kernel allows no namespace, or has no ipset, the same show runs with the
dry-run firewall and says so in its first and its last line.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import signal
import sys
import tempfile
import textwrap
from contextlib import suppress
from pathlib import Path

from rich.console import Console

from amiwatch.demo.ending import closing, faults, last_line, opening
from amiwatch.demo.live import MIN_HEIGHT, MIN_WIDTH, LiveView
from amiwatch.demo.picture import draw
from amiwatch.demo.plain import PlainView
from amiwatch.demo.show import DemoFailed, Show, View
from amiwatch.errors import FirewallError, StoreError
from amiwatch.firewall.ipset import IpsetFirewall
from amiwatch.firewall.iptables import PROGRAMS
from amiwatch.firewall.protection import Protection
from amiwatch.firewall.rule import DropRule
from amiwatch.store.reader import Reader
from amiwatch.testing import netns

REFRESH = 0.125
"""Seconds between two pictures: quick enough for the eye, slow enough for a small machine."""

INTERRUPTED = 130
"""Exit code after Ctrl-C (128 + SIGINT)."""

DATABASE = "demo.db"


def main(plain: bool, *, picture: Path | None = None) -> int:
    """
    Run the demo and return its exit code: 0 only if everything happened as it should.

    Call it before any thread is started. ``picture`` is where an SVG of the end goes.
    """
    # An ordinary user's PATH has no sbin on Debian.
    os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
    wire, why = _private_wire()
    try:
        why = why or _missing_programs() or asyncio.run(_kernel_refusal())
        show = Show(_database(), wire=wire, is_real=not why)
        return asyncio.run(_run(show, why, plain, picture))
    except DemoFailed as error:
        print(f"The demo failed: {error}")  # noqa: T201
        return error.exit_code
    except KeyboardInterrupt:
        print("The demo was interrupted; nothing is left of it but its database.", file=sys.stderr)  # noqa: T201
        return INTERRUPTED
    finally:
        if wire is not None:
            wire.close()


async def _run(show: Show, why: str, plain: bool, picture: Path | None) -> int:
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, _interrupt)
    console = Console(highlight=False)
    if plain or not _can_paint(console):
        print(opening(show, why), flush=True)  # noqa: T201
        await _perform(show, PlainView(show))
    else:
        with LiveView(show, console, why) as view:
            await _perform(show, view)
        console.print(view.picture(console.width, len(show.scores) + 6))
        if picture is not None:
            draw(view, picture)
    found = faults(show)
    for line in [*closing(show, _commands(show.database)), last_line(show, found)]:
        print(_wrapped(line, console) if console.is_terminal else line)  # noqa: T201
    return 1 if found else 0


def _can_paint(console: Console) -> bool:
    is_able = console.is_terminal and not console.is_dumb_terminal and console.encoding.startswith("utf")
    return is_able and console.width >= MIN_WIDTH and console.height >= MIN_HEIGHT


def _wrapped(line: str, console: Console) -> str:
    """Break a sentence for the eye; a command stays in one piece, to be copied."""
    if line.startswith("  AMIWATCH_"):
        return line
    indent = " " * (len(line) - len(line.lstrip()) + 2)
    return textwrap.fill(line, console.width, subsequent_indent=indent, break_on_hyphens=False)


async def _perform(show: Show, view: View) -> None:
    painter = asyncio.create_task(_paint(show, view), name="painter")
    try:
        await show.run(view)
    finally:
        painter.cancel()
        await asyncio.gather(painter, return_exceptions=True)


async def _paint(show: Show, view: View) -> None:
    while True:
        show.look_for_arrivals()
        view.refresh()
        await asyncio.sleep(REFRESH)


def _interrupt() -> None:
    signal.raise_signal(signal.SIGINT)


# Where it takes place.


def _private_wire() -> tuple[netns.Wire | None, str]:
    """Move into a namespace of our own, with a cable to the world; None and why where the kernel refuses."""
    try:
        netns.enter()
    except netns.NamespaceRefused as exc:
        return None, str(exc)
    try:
        return netns.Wire(), ""
    except Exception as exc:  # noqa: BLE001 - pyroute2's and the kernel's, whatever stands in the way of a veth pair
        return None, f"no virtual cable can be laid in a network namespace here ({exc})"


def _missing_programs() -> str:
    missing = [
        name for program in PROGRAMS.values() for name in (program, f"{program}-restore") if not shutil.which(name)
    ]
    return (
        f"{', '.join(missing)} missing: install iptables (on Debian or Ubuntu: sudo apt-get install iptables ipset)"
        if missing
        else ""
    )


async def _kernel_refusal() -> str:
    """Return why the kernel can't ban here; empty if it can. Leaves nothing behind."""
    firewall, rule = IpsetFirewall(), DropRule()
    try:
        await firewall.open()
        await rule.install(Protection())
        await rule.remove()
        await firewall.remove_sets()
    except FirewallError as error:
        return f"the kernel can't ban here: {error}"
    finally:
        await firewall.close()
    return ""


# What is left for the user.


def _database() -> Path:
    """Return where the demo's database goes: here, instead of the last one's, or into a folder of its own."""
    path = Path(DATABASE)
    if not os.access(".", os.W_OK) or path.is_symlink() or (path.exists() and not _is_ours(path)):
        return Path(tempfile.mkdtemp(prefix="amiwatch-")) / DATABASE
    for name in (DATABASE, f"{DATABASE}-wal", f"{DATABASE}-shm"):
        Path(name).unlink(missing_ok=True)
    return path


def _is_ours(path: Path) -> bool:
    with suppress(StoreError), Reader(path):
        return True
    return False


def _commands(database: Path) -> list[str]:
    program = _program()
    return [
        f"AMIWATCH_DATABASE={shlex.quote(str(database))} {program} {rest}"
        for rest in ("bans", "why 198.51.100.20", "events")
    ]


def _program() -> str:
    """Return how the user can call amiwatch again."""
    started = Path(sys.argv[0])
    if started.name != "amiwatch":
        return f"{shlex.quote(_near(Path(sys.executable)))} -m amiwatch"
    return "amiwatch" if shutil.which("amiwatch") == str(started) else shlex.quote(_near(started))


def _near(path: Path) -> str:
    """Write a path as short as it can be typed."""
    with suppress(ValueError):
        return str(path.absolute().relative_to(Path.cwd()))
    return str(path)

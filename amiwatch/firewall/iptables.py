"""A conversation with iptables and ip6tables: tables as lists of words, and programs that never hang."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import subprocess
from collections.abc import Iterable, Mapping, Sequence

from amiwatch.errors import FirewallError, FirewallPermission

PROGRAMS: Mapping[int, str] = {4: "iptables", 6: "ip6tables"}

LOCK_WAIT = 5
"""Seconds that iptables waits for another iptables to finish (``-w``)."""

PROGRAM_TIMEOUT = 15.0
"""Seconds until a hanging iptables is killed: the wait for the lock, and time for a table of ten thousand rules."""

_WITHOUT_MEANING = {"-c": 2, "-m": 1, "--comment": 1}
"""Options that say nothing of what a rule does, and how many words follow them."""

_NO_RIGHTS = ("must be root", "Permission denied", "Operation not permitted", "Can't open socket to ipset")


async def table(program: str, name: str) -> list[list[str]]:
    """Read a table, line by line, as ``-S`` shows it with its counters. Raises FirewallError."""
    shown = await run([program, "-w", str(LOCK_WAIT), "-t", name, "-v", "-S"])
    return [words(line) for line in shown.splitlines()]


async def restore(program: str, tables: Mapping[str, Sequence[str]]) -> None:
    """Carry out lines; those of one table take effect together, or none of them. Raises FirewallError."""
    parts = ["\n".join([f"*{name}", *lines, "COMMIT", ""]) for name, lines in tables.items() if lines]
    if parts:
        # With --noflush, naming a chain empties this chain and no other.
        await run([f"{program}-restore", "-w", str(LOCK_WAIT), "--noflush"], "".join(parts))


def words(line: str) -> list[str]:
    """Split a line as a shell would."""
    try:
        return shlex.split(line)
    except ValueError:
        # Somebody's remark with quotes that don't match: not ours, and all we need is that it has a place.
        return line.split()[:2]


def joined(line: Iterable[str]) -> str:
    """Write words as iptables-restore reads them: it knows double quotes only, and a quoted ``!`` is no word to it."""
    return " ".join(
        word if re.fullmatch(r"[^\s\"'\\]+", word) else '"' + re.sub(r"([\"\\])", r"\\\1", word) + '"' for word in line
    )


def after(line: Sequence[str], option: str) -> str:
    """Return the word after an option; empty where there is none."""
    return line[line.index(option) + 1] if option in line[:-1] else ""


def without_counters(line: Sequence[str]) -> str:
    """Write a line as it can be given to iptables again."""
    words = list(line)
    if "-c" in words:
        at = words.index("-c")
        del words[at : at + 3]
    return joined(words)


def counters(line: Sequence[str]) -> tuple[int, int]:
    """Return the packets and octets that a rule has counted."""
    counted = line.index("-c") if "-c" in line else None
    return (int(line[counted + 1]), int(line[counted + 2])) if counted else (0, 0)


def essence(rule: Sequence[str]) -> list[str]:
    """Leave out what does not tell one rule from another: counters, remarks, names of modules."""
    remaining, kept = iter(rule), []
    for word in remaining:
        if word in _WITHOUT_MEANING:
            for _ in range(_WITHOUT_MEANING[word]):
                next(remaining, None)
        else:
            kept.append(word)
    return kept


async def run(command: Sequence[str], text: str = "") -> str:
    """Run a program and return what it printed. Not to be cancelled half-way: it ends by itself."""
    # Ordinary users have no sbin in their PATH, and people's languages would translate the messages.
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    kept = {name: value for name, value in os.environ.items() if name == "XTABLES_LOCKFILE"}
    try:
        done = await asyncio.to_thread(
            subprocess.run,
            command,
            input=text,
            capture_output=True,
            text=True,
            errors="replace",  # somebody's remark may be in any encoding
            timeout=PROGRAM_TIMEOUT,
            env={**kept, "PATH": path, "LC_ALL": "C"},
            check=False,
        )
    except FileNotFoundError as exc:
        raise FirewallError(f"There is no program {command[0]!r}: install the package iptables.") from exc
    except subprocess.TimeoutExpired as exc:
        raise FirewallError(f"{command[0]!r} did not end within {PROGRAM_TIMEOUT:g} s.") from exc
    except OSError as exc:
        raise FirewallError(f"{command[0]!r} can't be run: {exc.strerror}.") from exc
    if done.returncode:
        raise _failure(command[0], done.stderr.strip())
    return done.stdout


def _failure(program: str, said: str) -> FirewallError:
    first = said.partition("\n")[0]
    if any(phrase in said for phrase in _NO_RIGHTS):
        return FirewallPermission(f"{program!r} needs root, or CAP_NET_ADMIN and CAP_NET_RAW ({first}).")
    if "Set " in said and "doesn't exist" in said:
        return FirewallError(f"The kernel sets do not exist yet, so no rule can use them ({first}).")
    return FirewallError(f"{program!r} refused: {first}")

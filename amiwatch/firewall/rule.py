"""
The rule that drops what our sets hold: a chain of ours, jumped to from ``raw PREROUTING``.

Raw PREROUTING comes before connection tracking, address translation, Docker, ufw and everybody's "accept established":
a packet dropped there is dropped. The drop rules stand in an own chain, so that PREROUTING gets one line, a
change of ports touches no line of anybody else, and taking it out leaves nothing. iptables and ip6tables do it, for
pyroute2 can't make rules with a set match.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from amiwatch.errors import FirewallError, FirewallPermission
from amiwatch.firewall.names import chain_name, checked_prefix, set_name
from amiwatch.firewall.scope import Scope

log = logging.getLogger(__name__)

PROGRAMS: Mapping[int, str] = {4: "iptables", 6: "ip6tables"}

LOCK_WAIT = 5
"""Seconds that iptables waits for another iptables to finish (``-w``)."""

PROGRAM_TIMEOUT = 15.0
"""Seconds until a hanging iptables is killed: the wait for the lock, and time for a table of ten thousand rules."""

_NO_RIGHTS = ("must be root", "Permission denied", "Operation not permitted", "Can't open socket to ipset")

REMARK = ("-m", "comment", "--comment", "amiwatch")


@dataclass(frozen=True, slots=True)
class Drop:
    """One rule in our chain."""

    protocol: str
    """``udp``, ``tcp``; empty for all."""
    ports: str
    """As iptables writes them: ``4569,5060:5061``; empty for all."""
    set_name: str
    packets: int = 0
    octets: int = 0


@dataclass(frozen=True, slots=True)
class FamilyRule:
    """The rule of one family, as iptables or ip6tables shows it."""

    family: int
    """4 or 6."""
    set_name: str
    """The set that ought to be matched."""
    position: int | None
    """Place of our line in ``place``, from 1; None where it is missing. Lines above it may accept first."""
    drops: tuple[Drop, ...]
    place: str = "raw PREROUTING"

    @property
    def is_present(self) -> bool:
        """Tell whether anything is dropped: the jump is there, and a rule that matches our set."""
        return self.position is not None and any(drop.set_name == self.set_name for drop in self.drops)

    @property
    def packets(self) -> int:
        """Count the packets dropped since the rule was placed or changed."""
        return sum(drop.packets for drop in self.drops)

    @property
    def octets(self) -> int:
        """Count the octets dropped since the rule was placed or changed."""
        return sum(drop.octets for drop in self.drops)

    def covers(self, scope: Scope) -> bool:
        """Tell whether exactly this is dropped, no less and no more."""
        wanted = [(protocol, ports, self.set_name) for protocol, ports in scope.matches()]
        return self.is_present and [(drop.protocol, drop.ports, drop.set_name) for drop in self.drops] == wanted


@dataclass(frozen=True, slots=True)
class RuleState:
    """The rule of each family that this machine speaks."""

    families: tuple[FamilyRule, ...]

    @property
    def is_present(self) -> bool:
        """Tell whether every family drops something."""
        return all(rule.is_present for rule in self.families)

    @property
    def packets(self) -> int:
        """Count the packets dropped in all families."""
        return sum(rule.packets for rule in self.families)

    def covers(self, scope: Scope) -> bool:
        """Tell whether every family drops exactly this."""
        return all(rule.covers(scope) for rule in self.families)


class Rule(Protocol):
    """What drops the packets of banned addresses. Methods raise ``FirewallError``; each may be repeated."""

    prefix: str

    async def install(self, scope: Scope) -> None:
        """Drop this, no less and no more. What is right already is left alone, with its counters."""

    async def remove(self) -> None:
        """Take the rule out; the sets can be destroyed afterwards."""

    async def show(self) -> RuleState:
        """Read what is there now; a rule that is missing is no error."""


class DropRule:
    """
    The drop rule of one prefix, in iptables and ip6tables. Needs root, or CAP_NET_ADMIN and CAP_NET_RAW.

    Every method raises ``FirewallError`` (``FirewallPermission`` without the rights) and may be repeated. IPv6 is left
    out where the kernel has none. ``programs`` gives another iptables, for example ``iptables-legacy``, by family.
    """

    def __init__(self, prefix: str = "amiwatch", programs: Mapping[int, str] = PROGRAMS) -> None:
        self.prefix = checked_prefix(prefix)
        self.chain = chain_name(prefix)
        self._programs = programs

    async def install(self, scope: Scope) -> None:
        """
        Drop this, before anybody else's rule. What is right already is left alone, with its counters.

        The sets must exist: open the firewall first.
        """
        for family in self._families():
            rule, jumps = await self._read(family)
            if rule.position != 1 or len(jumps) != 1 or not rule.covers(scope):
                await self._place(rule, jumps, scope)
                log.info("drop rule placed program=%s chain=%s", self._programs[family], self.chain)

    async def remove(self) -> None:
        """Take the rule out; the sets can be destroyed afterwards."""
        for family in self._families():
            table = await self._table(family)
            lines = [_without_counters(line).replace("-A", "-D", 1) for line in table if self._is_jump(line)]
            if any(line[:2] == ["-N", self.chain] for line in table):
                lines += [f"-F {self.chain}", f"-X {self.chain}"]
            if lines:
                await self._restore(family, lines)
                log.info("drop rule removed program=%s chain=%s", self._programs[family], self.chain)

    async def show(self) -> RuleState:
        """Read what is there now; a rule that is missing is no error."""
        return RuleState(tuple([(await self._read(family))[0] for family in self._families()]))

    def _families(self) -> Iterator[int]:
        yield 4
        if Path("/proc/net/if_inet6").exists():
            yield 6

    async def _read(self, family: int) -> tuple[FamilyRule, list[list[str]]]:
        """Return the rule and the lines of PREROUTING that jump to it."""
        table = await self._table(family)
        prerouting = [line for line in table if line[:2] == ["-A", "PREROUTING"]]
        places = [place for place, line in enumerate(prerouting, start=1) if self._is_jump(line)]
        rule = FamilyRule(
            family,
            set_name(self.prefix, family),
            position=places[0] if places else None,
            drops=tuple(
                _drop(line) for line in table if line[:2] == ["-A", self.chain] and _after(line, "-j") == "DROP"
            ),
        )
        return rule, [prerouting[place - 1] for place in places]

    async def _place(self, rule: FamilyRule, jumps: Sequence[list[str]], scope: Scope) -> None:
        try:
            await self._restore(rule.family, self._lines(rule, jumps, scope, REMARK))
        except FirewallPermission:
            raise
        except FirewallError:
            # A kernel without xt_comment. Where that was not it, the second try says what it was.
            await self._restore(rule.family, self._lines(rule, jumps, scope, ()))

    def _lines(self, rule: FamilyRule, jumps: Sequence[list[str]], scope: Scope, remark: Sequence[str]) -> list[str]:
        # With --noflush, naming a chain empties this chain and no other; all lines take effect together.
        lines = [f":{self.chain} - [0:0]"]
        for protocol, ports in scope.matches():
            match = ["-p", protocol, "-m", "multiport", "--dports", ports] if protocol else []
            # The set comes last: its counters then count what is dropped, and nothing else.
            match += ["-m", "set", "--match-set", rule.set_name, "src", *remark]
            lines.append(shlex.join(["-A", self.chain, *match, "-j", "DROP"]))
        if rule.position != 1 or len(jumps) != 1:
            lines += [_without_counters(jump).replace("-A", "-D", 1) for jump in jumps]
            lines.append(shlex.join(["-I", "PREROUTING", "1", *remark, "-j", self.chain]))
        return lines

    def _is_jump(self, line: Sequence[str]) -> bool:
        return line[:2] == ["-A", "PREROUTING"] and _after(line, "-j") == self.chain

    async def _table(self, family: int) -> list[list[str]]:
        shown = await _run([self._programs[family], "-w", str(LOCK_WAIT), "-t", "raw", "-v", "-S"])
        return [_words(line) for line in shown.splitlines()]

    async def _restore(self, family: int, lines: Sequence[str]) -> None:
        program = [f"{self._programs[family]}-restore", "-w", str(LOCK_WAIT), "--noflush"]
        await _run(program, "\n".join(["*raw", *lines, "COMMIT", ""]))


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError:
        # Somebody's remark with quotes that don't match: not ours, and all we need is that it has a place.
        return line.split()[:2]


def _after(line: Sequence[str], option: str) -> str:
    """Return the word after an option; empty where there is none."""
    return line[line.index(option) + 1] if option in line[:-1] else ""


def _without_counters(line: Sequence[str]) -> str:
    words = list(line)
    if "-c" in words:
        at = words.index("-c")
        del words[at : at + 3]
    return shlex.join(words)


def _drop(line: Sequence[str]) -> Drop:
    counted = line.index("-c") if "-c" in line else None
    return Drop(
        protocol=_after(line, "-p"),
        ports=_after(line, "--dports"),
        set_name=_after(line, "--match-set"),
        packets=int(line[counted + 1]) if counted else 0,
        octets=int(line[counted + 2]) if counted else 0,
    )


async def _run(command: Sequence[str], text: str = "") -> str:
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

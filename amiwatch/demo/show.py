"""
The show: a PBX, its daemon, honest people and attackers on a wire, and what was counted of each.

Rule 1: everything is counted where it happens: sent at the sender's socket, arrived at the PBX's socket (behind the
kernel's firewall), dropped in the kernel's set.

Rule 2: nothing here prints. ``View`` is told.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any, Protocol

import amiwatch
from amiwatch.demo.cast import CAST, PHONES, Actor
from amiwatch.errors import AmiwatchError, FirewallError
from amiwatch.firewall.ipset import IpsetFirewall
from amiwatch.testing.asterisk import FakeAsterisk, User
from amiwatch.testing.netns import Wire
from amiwatch.testing.sip import Address, FakeSip, UserAgent

SECONDS = 27.0
"""How long packets are sent."""

START_TIME = 60.0
"""Seconds that the daemon may take to start on a busy machine."""

STOP_TIME = 5.0
"""Seconds that the daemon may take to end before it is killed."""

SETTLE_TIME = 0.3
"""Seconds for the last packets to arrive, or not."""

COUNT_TIME = 0.5
"""Seconds between two looks at the kernel's counters."""

START = "import sys; sys.path.append(sys.argv[1]); from amiwatch.demo.watcher import start; start()"
"""How the daemon's process begins: as ``-m amiwatch.demo.watcher``, but without modules of the folder we are in."""

SECRET = "demo"  # noqa: S105 - of a manager interface that nobody else can reach
SIP_PORT = 5060


class DemoFailed(AmiwatchError):
    """The show could not go on. Its text says why."""

    exit_code = 1


class View(Protocol):
    """Who shows it. Plain functions that return at once."""

    def happened(self, at: float, what: str, text: str) -> None:
        """
        Show something that happened ``at`` seconds after the beginning.

        ``what`` is ban (in a dry run would), alert or act.
        """

    def refresh(self) -> None:
        """Show how the counts stand; called some times a second."""


@dataclass(slots=True)
class Score:
    """What was counted of one actor."""

    actor: Actor
    agents: list[UserAgent] = field(default_factory=list)
    arrived: int = 0
    dropped: int | None = None
    """Packets that the kernel dropped; None while nothing of it is in a set."""
    heard_at: float | None = None
    """When its last packet arrived (``time.monotonic``)."""
    ban: dict[str, Any] | None = None
    alert: dict[str, Any] | None = None
    arrivals: Counter[int] = field(default_factory=Counter)
    """Packets that arrived, by second."""
    losses: Counter[int] = field(default_factory=Counter)
    """Packets that were sent and did not arrive, by second, since the kernel drops some."""
    sent_before: int = 0
    """What it had sent when its ban was told."""

    @property
    def sent(self) -> int:
        return sum(agent.sent for agent in self.agents)

    @property
    def requests(self) -> int:
        return sum(agent.requests for agent in self.agents)

    @property
    def answered(self) -> int:
        return sum(agent.answered for agent in self.agents)


class Show:
    """
    One performance. ``wire`` is the way from the world to the PBX; None is loopback, where nobody can be dropped.

    ``is_real`` tells whether the kernel drops.
    """

    def __init__(self, database: Path, *, wire: Wire | None, is_real: bool, seconds: float = SECONDS) -> None:
        self.database = database
        self.wire = wire
        self.is_real = is_real
        self.seconds = seconds
        self.scores = [Score(actor) for actor in CAST]
        self.strangers: list[str] = []
        """Networks that were banned and are nobody's."""
        self.began = time.monotonic()
        self.view: View | None = None
        self.is_over = False
        self._pbx: FakeSip | None = None
        self._firewall = IpsetFirewall()

    @property
    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self.began

    async def run(self, view: View) -> None:
        """Perform. Raises DemoFailed."""
        self.view = view
        async with AsyncExitStack() as stack:
            ami = await stack.enter_async_context(FakeAsterisk({"amiwatch": User(SECRET)}))
            trunks = {address for actor in CAST if actor.is_trunk for address in actor.addresses}
            self._pbx = await stack.enter_async_context(FakeSip(ami, PHONES, trunks=trunks))
            servers = await self._listen(self._pbx)
            for score in self.scores:
                score.agents = [
                    await stack.enter_async_context(UserAgent(self._endpoint(address), servers[_family(address)]))
                    for address in score.actor.addresses
                ]
            self._introduce(self._pbx)
            stack.push_async_callback(self._firewall.close)
            await self._perform(ami)

    async def _listen(self, pbx: FakeSip) -> dict[int, Address]:
        if self.wire is None:
            address = await pbx.listen("127.0.0.1")
            return {4: address, 6: address}
        return {family: await pbx.listen(host, SIP_PORT) for family, host in self.wire.here.items()}

    def _endpoint(self, address: str) -> socket.socket:
        if self.wire is not None:
            return self.wire.far_socket(address)
        endpoint = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        endpoint.bind(("127.0.0.1", 0))
        return endpoint

    def _introduce(self, pbx: FakeSip) -> None:
        """On loopback, say who is who: the sockets' own addresses tell nothing."""
        if self.wire is None:
            for score in self.scores:
                for agent, address in zip(score.agents, score.actor.addresses, strict=True):
                    pbx.aliases[agent.address] = address

    async def _perform(self, ami: FakeAsterisk) -> None:
        async with self._daemon(ami) as daemon:
            self.began = time.monotonic()
            tasks = [asyncio.create_task(self._enter(score), name=score.actor.name) for score in self.scores]
            tasks += [asyncio.create_task(self._count()), asyncio.create_task(self._hear(daemon))]
            try:
                done, _ = await asyncio.wait(tasks, timeout=self.seconds, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
            finally:
                for task in tasks[: len(self.scores)]:
                    task.cancel()
                await asyncio.sleep(SETTLE_TIME)
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
            await self._look()
            self.is_over = True

    async def _enter(self, score: Score) -> None:
        await asyncio.sleep(score.actor.enters)
        if score.actor.remark:
            self._say("act", f"{score.actor.name} {score.actor.source} {score.actor.remark}")
        await score.actor.act(score.agents)

    # The daemon.

    @asynccontextmanager
    async def _daemon(self, ami: FakeAsterisk) -> AsyncIterator[asyncio.subprocess.Process]:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-c", START, str(Path(amiwatch.__file__).parents[1]),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            env=self._environment(ami),
        )  # fmt: skip
        try:
            await _until_hearing(process)
            yield process
        finally:
            await _end(process)

    def _environment(self, ami: FakeAsterisk) -> dict[str, str]:
        """Return the settings as anybody would give them, and nothing of the user's own."""
        strange = ("AMIWATCH_", "CREDENTIALS_DIRECTORY", "STATE_DIRECTORY", "NOTIFY_SOCKET", "WATCHDOG_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(strange)}
        return kept | {
            "AMIWATCH_AMI__HOST": ami.host,
            "AMIWATCH_AMI__PORT": str(ami.port),
            "AMIWATCH_AMI__SECRET": SECRET,
            "AMIWATCH_DATABASE": str(self.database),
            "AMIWATCH_FIREWALL": "ipset" if self.is_real else "none",
        }

    async def _hear(self, process: asyncio.subprocess.Process) -> None:
        while told := await _line(process):
            if told["what"] == "ban":
                self._banned(told)
            elif told["what"] == "alert":
                self._alerted(told)
        raise DemoFailed(f"The daemon ended early: {await _complaint(process)}")

    def _banned(self, told: dict[str, Any]) -> None:
        score = self._score(told["network"])
        took = "not in the kernel" if told["seconds"] is None else f"{told['seconds'] * 1000:.2f} ms"
        if score is None:
            self.strangers.append(told["network"])
        elif score.ban is None:
            score.ban, score.sent_before = told, score.sent
        who = f"{score.actor.name if score else 'somebody'} {told['network'].removesuffix('/32')}"
        if self.is_real:
            self._say("ban", f"{who} in {took}, {told['rule']}: {told['reason']}")
        else:
            self._say("would", f"{who}, {told['rule']}: {told['reason']}")

    def _alerted(self, told: dict[str, Any]) -> None:
        score = self._score(told["address"])
        if score is not None:
            score.alert = told
        self._say("alert", f"{score.actor.name if score else ''} {told['address']}, {told['kind']}: {told['reason']}")

    def _score(self, network: str) -> Score | None:
        wanted = ip_network(network)
        for score in self.scores:
            own = ip_network(score.actor.source)
            if own.version == wanted.version and own.overlaps(wanted):
                return score
        return None

    def _say(self, what: str, text: str) -> None:
        if self.view is not None:
            self.view.happened(self.elapsed, what, text)

    # Counting.

    async def _count(self) -> None:
        while True:
            await self._look()
            await asyncio.sleep(COUNT_TIME)

    def look_for_arrivals(self) -> None:
        """Take over what the PBX's sockets have counted."""
        if self._pbx is None:
            return
        second = max(0, min(int(self.elapsed), int(self.seconds) - 1))
        for score in self.scores:
            arrived = sum(self._pbx.arrived[address] for address in score.actor.addresses)
            score.arrivals[second] += arrived - score.arrived
            if score.dropped:
                before = sum(lost for at, lost in score.losses.items() if at < second)
                score.losses[second] = score.sent - arrived - before
            score.arrived = arrived
            heard = [self._pbx.heard_at[a] for a in score.actor.addresses if a in self._pbx.heard_at]
            score.heard_at = max(heard, default=None)

    async def _look(self) -> None:
        self.look_for_arrivals()
        if not self.is_real:
            return
        try:
            entries = await self._firewall.entries()
        except FirewallError as error:
            raise DemoFailed(f"The kernel's counters can't be read: {error}") from error
        for entry in entries:
            score = self._score(str(entry.network))
            if score is not None:
                score.dropped = entry.packets


def _family(address: str) -> int:
    return ip_address(address).version


async def _until_hearing(process: asyncio.subprocess.Process) -> None:
    try:
        async with asyncio.timeout(START_TIME):
            while (told := await _line(process)).get("state") != "hearing":
                if not told:
                    raise DemoFailed(f"The daemon did not start: {await _complaint(process)}")
    except TimeoutError:
        raise DemoFailed(f"The daemon did not hear its Asterisk within {START_TIME:.0f} s.") from None


async def _line(process: asyncio.subprocess.Process) -> dict[str, Any]:
    """Return what the daemon tells next; empty at its end."""
    assert process.stdout is not None
    line = await process.stdout.readline()
    told: dict[str, Any] = json.loads(line) if line else {}
    return told


async def _complaint(process: asyncio.subprocess.Process) -> str:
    assert process.stderr is not None
    text = (await process.stderr.read()).decode(errors="replace").strip()
    return text or f"it said nothing (exit code {await process.wait()})"


async def _end(process: asyncio.subprocess.Process) -> None:
    """Tell the daemon to stop, by closing its input; kill it if it doesn't."""
    assert process.stdin is not None
    process.stdin.close()
    try:
        async with asyncio.timeout(STOP_TIME):
            await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
    except ValueError:
        await process.wait()

"""
One Asterisk, listened to for as long as the process lives: connect, log in, test, watch, and begin again.

Rule: whatever happens to a connection becomes a ``LinkState`` with a sentence. Nothing here gives up.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import ip_address
from typing import Never, Protocol

from amiwatch.ami.connection import Connection, Link, connect
from amiwatch.ami.wire import Item
from amiwatch.errors import AmiError, AmiLoginRefused, AmiPeerUnknown
from amiwatch.judgement.values import SecurityEvent

__all__ = ["AmiClient", "Link", "LinkState", "ProbeResult", "Sink", "asterisk_major", "backoff", "probe"]

log = logging.getLogger(__name__)

Draw = Callable[[float, float], float]
"""``random.uniform``, or what a test puts in its place."""

DEAF = (
    "logged in, but Asterisk did not report our own login: add 'read = security' to the user's section in manager.conf "
    "(and let no eventfilter of it hide SuccessfulAuth), then 'manager reload'"
)


class LinkState(StrEnum):
    """How a link is."""

    CONNECTING = "connecting"
    """Never up so far, and not failed either."""
    CONNECTED = "connected"
    """Logged in; the self-test is under way."""
    HEARING = "hearing"
    """Security events arrive."""
    DEAF = "deaf"
    """Logged in, but our own login's event did not come."""
    LOST = "lost"
    """Unreachable or cut; tried again with back-off."""
    REFUSED = "refused"
    """The login was refused, or what answers is no Asterisk; tried again slowly."""


class Sink(Protocol):
    """Who is told. Plain functions that return at once: they are called inside the read callback."""

    def receive(self, pbx: str, items: Sequence[Item]) -> None:
        """Take security events and tampered blocks, in order of arrival."""

    def link_changed(self, pbx: str, state: LinkState, detail: str) -> None:
        """Learn of a change. ``detail`` is a sentence for a person; empty where all is well."""


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What one visit found out."""

    banner: str
    """As the peer wrote it: to be printed with care."""
    asterisk: int | None
    """Asterisk's major version; None where the banner names none that we know."""
    actions: frozenset[str]
    """All actions that this user may call."""
    excess: tuple[str, ...]
    """Those of them that need a write class. amiwatch needs none."""
    is_hearing: bool
    """Our own SuccessfulAuth came back."""
    seconds: float
    """From the first packet to the last."""


class AmiClient:
    """Keeps one link. Cancel ``run`` to stop; nothing of it is left then."""

    def __init__(self, link: Link, sink: Sink, *, draw: Draw = random.uniform) -> None:
        self.link = link
        self.state = LinkState.CONNECTING
        self.detail = ""
        """What is wrong, and what to do."""
        self.logins = 0
        """Successful ones; each but the first ends a gap."""
        self.sink_faults = 0
        """How often the sink raised. The first is logged."""
        self._sink = sink
        self._draw = draw
        self._connection: Connection | None = None
        self._test: _SelfTest | None = None
        self._failures = 0
        self._skipped = 0

    @property
    def banner(self) -> str:
        """Asterisk's greeting at the latest connection; empty before."""
        return self._connection.wire.banner if self._connection else ""

    @property
    def asterisk(self) -> int | None:
        """Asterisk's major version by its banner; None if unknown."""
        return asterisk_major(self.banner)

    @property
    def last_byte_at(self) -> float | None:
        """When we last heard of Asterisk, in seconds since the epoch: where a gap begins."""
        return self._connection.last_byte_at if self._connection else None

    @property
    def skipped(self) -> int:
        """Bytes thrown away so far, in messages that were longer than any can be."""
        return self._skipped + (self._connection.wire.skipped if self._connection else 0)

    async def run(self) -> Never:
        """Connect and listen, again and again."""
        delays = self._delays()
        while True:
            began = time.monotonic()
            fault = await self._live()
            if self.state in _UP and time.monotonic() - began >= self.link.steady_after:
                delays = self._delays()
            is_refused = isinstance(fault, AmiLoginRefused | AmiPeerUnknown)
            state = LinkState.REFUSED if is_refused else LinkState.LOST
            delay = next(delays[state])
            self._lose(state, str(fault), delay)
            await asyncio.sleep(delay)

    def _delays(self) -> dict[LinkState, Iterator[float]]:
        link = self.link
        return {
            LinkState.LOST: backoff(link.retry_first, link.retry_longest, self._draw),
            LinkState.REFUSED: backoff(link.refused_first, link.refused_longest, self._draw),
        }

    async def _live(self) -> AmiError:
        """Live through one connection, and return what ended it."""
        test = self._test = _SelfTest(self.link.username)
        try:
            async with connect(self.link, self._receive) as connection:
                self._skipped = self.skipped
                self._connection = test.connection = connection
                await connection.login()
                self.logins += 1
                self._failures = 0
                self._change(LinkState.CONNECTED)
                await self._listen(connection, test)
        except AmiError as exc:
            return exc

    async def _listen(self, connection: Connection, test: _SelfTest) -> Never:
        heard = {test.passed, connection.gone}
        await asyncio.wait(heard, timeout=self.link.self_test_timeout, return_when=asyncio.FIRST_COMPLETED)
        if not test.passed.done() and not connection.gone.done():
            self._change(LinkState.DEAF, DEAF)
            log.warning("AMI link is deaf pbx=%s: %s", self.link.name, DEAF)
            test.takes_any = True
        test.passed.add_done_callback(self._hear)
        await connection.watch()

    def _hear(self, _: asyncio.Future[None]) -> None:
        log.info("AMI link hears pbx=%s banner=%r logins=%d", self.link.name, self.banner, self.logins)
        self._change(LinkState.HEARING)

    def _lose(self, state: LinkState, detail: str, delay: float) -> None:
        self._failures += 1
        is_loud = self._failures == 1 or state is LinkState.REFUSED
        level = logging.WARNING if is_loud else logging.DEBUG
        log.log(level, "AMI link %s pbx=%s retry_in=%.1f: %s", state, self.link.name, delay, detail)
        self._change(state, detail)

    def _change(self, state: LinkState, detail: str = "") -> None:
        if (state, detail) == (self.state, self.detail):
            return
        self.state, self.detail = state, detail
        self._tell(self._sink.link_changed, state, detail)

    def _receive(self, items: list[Item]) -> None:
        if self._test is not None:
            self._test.look(items)
        self._tell(self._sink.receive, items)

    def _tell(self, tell: Callable[..., None], *what: object) -> None:
        try:
            tell(self.link.name, *what)
        except Exception:  # whatever the sink does, the link must live and be read
            self.sink_faults += 1
            if self.sink_faults == 1:
                log.exception("AMI sink failed pbx=%s", self.link.name)


async def probe(link: Link) -> ProbeResult:
    """Visit an Asterisk once, for ``amiwatch check``. Raises an AmiError with a sentence."""
    began = time.monotonic()
    test = _SelfTest(link.username)
    async with connect(link, test.look) as connection:
        test.connection = connection
        await connection.login()
        commands = (await connection.ask("ListCommands")).headers
        heard = {test.passed, connection.gone}
        await asyncio.wait(heard, timeout=link.self_test_timeout, return_when=asyncio.FIRST_COMPLETED)
        await connection.ask("Logoff")
    rights = {name: text for name, text in commands.items() if "(Priv: " in text}
    return ProbeResult(
        banner=connection.wire.banner,
        asterisk=asterisk_major(connection.wire.banner),
        actions=frozenset(rights),
        excess=tuple(sorted(name for name, text in rights.items() if "(Priv: <none>)" not in text)),
        is_hearing=test.passed.done(),
        seconds=time.monotonic() - began,
    )


def backoff(first: float, longest: float, draw: Draw = random.uniform) -> Iterator[float]:
    """Yield delays in seconds for ever, doubling from ``first`` to ``longest``, a third of each left to chance."""
    ceiling = first * 1.5
    while True:
        ceiling = min(ceiling, longest)
        yield draw(ceiling / 1.5, ceiling)
        ceiling *= 2


def asterisk_major(banner: str) -> int | None:
    """Return Asterisk's major version (13 greets with 2, and each since with one more); None if unknown."""
    found = re.match(r"Asterisk Call Manager/(\d{1,3})\.", banner)
    return int(found[1]) + 11 if found and int(found[1]) >= 2 else None


_UP = frozenset({LinkState.CONNECTED, LinkState.HEARING, LinkState.DEAF})


class _SelfTest:
    """Waits for our own login to come back as a security event, the proof that others will."""

    def __init__(self, username: str) -> None:
        self.passed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.connection: Connection | None = None
        self.takes_any = False
        """Any security event proves it; our own was not seen in time (an eventfilter may hide it)."""
        self._username = username

    def look(self, items: Sequence[Item]) -> None:
        if not self.passed.done() and any(isinstance(item, SecurityEvent) and self._proves(item) for item in items):
            self.passed.set_result(None)

    def _proves(self, event: SecurityEvent) -> bool:
        if event.tainted or self.connection is None:
            return False
        if self.takes_any:
            return True
        if (event.kind, event.service, event.account) != ("SuccessfulAuth", "AMI", self._username):
            return False
        host, port = self.connection.local()
        if event.source != ip_address(host.partition("%")[0]):
            return True  # a translator stands between us, so addresses say nothing
        return event.port == port

"""
``FakeAsterisk``: a manager interface on a real socket that checks logins, plays scripts and misbehaves on demand.

What it says and when follows Asterisk's ``main/manager.c`` and recordings of 16.28 and 22.10; where a test would have
to wait for that (a refused login takes a second), the time is a setting.

Rule: a test is told of things by awaitables (``wait_for_login``, ``wait_for_action``) and never has to sleep.
"""

from __future__ import annotations

import asyncio
import errno
import ssl
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from amiwatch.judgement.values import IPNetwork, SecurityEvent
from amiwatch.testing import recordings
from amiwatch.testing.builders import bytes_of
from amiwatch.testing.session import CHUNK, Session

BANNER = b"Asterisk Call Manager/11.0.0\r\n"
"""The greeting of Asterisk 22."""

HISTORY_LIMIT = 10_000
"""Actions that are remembered for tests to look at."""

LINE_LIMIT = 64 * 1024
"""Longest line that a client may send, in bytes. Asterisk's own limit is 1,024; we need not be so strict."""

PATIENCE = 10.0
"""Seconds that a test waits for something before it fails."""

PORT_PATIENCE = 2.0
"""Seconds that a port may stay busy: a program that is just being started holds what was closed until its exec."""


@dataclass(frozen=True, slots=True)
class User:
    """One section of manager.conf."""

    secret: str = field(repr=False)
    read: frozenset[str] = frozenset({"security"})
    write: frozenset[str] = frozenset()
    permit: tuple[IPNetwork, ...] = ()
    """Who may log in; empty is everybody."""


DEFAULT_USERS = {"amiwatch": User("secret")}


class FakeAsterisk:
    """
    A manager server; ``async with`` starts and stops it. All attributes may be changed while it runs.

    ``port`` is 0 until it has started for the first time, and stays the same through ``stop``, ``start``, ``restart``.
    """

    def __init__(
        self,
        users: dict[str, User] | None = None,
        *,
        host: str = "127.0.0.1",
        tls: ssl.SSLContext | None = None,
        banner: bytes = BANNER,
        refusal_delay: float = 0.0,
        write_timeout: float = 0.1,
        send_buffer: int | None = None,
    ) -> None:
        self.host = host
        self.port = 0
        self.tls = tls
        self.users = dict(DEFAULT_USERS if users is None else users)
        self.banner = banner
        """What a client is greeted with; ``b""`` greets nobody."""
        self.refusal_delay = refusal_delay
        """Seconds before a refused login is answered and closed; a real Asterisk takes one."""
        self.write_timeout = write_timeout
        """Seconds (manager.conf: ``writetimeout``) after which a client that doesn't read is dropped in mid-message."""
        self.send_buffer = send_buffer
        """Bytes of the socket's send buffer, for new connections; None is the system's."""
        self.auth_limit = 50
        """Connections that are not logged in (manager.conf: ``authlimit``); one more is closed without a greeting."""
        self.allow_multiple_login = True
        self.is_shutting_down = False
        """Answer every action as an Asterisk that is going down."""
        self.answer_delay = 0.0
        """Seconds before each answer."""
        self.ignored: set[str] = set()
        """Actions, by name, that are never answered."""
        self.hides_logins = False
        """Raise no event for a login that succeeded, as behind an ``eventfilter``."""
        self.split: int | None = None
        """Write in pieces of so many bytes; None writes as it comes."""
        self.actions: deque[dict[str, str]] = deque(maxlen=HISTORY_LIMIT)
        """What clients asked for, without secrets, oldest first."""
        self.counts: Counter[str] = Counter()
        """How often: ``connected``, ``login``, ``refused``, ``dropped`` (write timeout), ``closed``, each action."""
        self._sessions: set[Session] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._waiters: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []
        self._thawed = asyncio.Event()
        self._thawed.set()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    # Life and death

    async def start(self) -> None:
        """Listen, on the port of last time if there was one; OSError if that stays busy."""
        give_up = time.monotonic() + PORT_PATIENCE
        while self._server is None:
            try:
                self._server = await asyncio.start_server(
                    self._serve, self.host, self.port, ssl=self.tls, limit=LINE_LIMIT, start_serving=True
                )
            except OSError as error:
                if error.errno != errno.EADDRINUSE or time.monotonic() > give_up:
                    raise
                await asyncio.sleep(0.005)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Die: connections see a bare end of stream, new ones are refused."""
        if self._server is not None:
            self._server.close()
            self._server = None
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def restart(self, down: float = 0.0) -> None:
        """Die, refuse connections for ``down`` seconds, and come back on the same port."""
        await self.stop()
        await asyncio.sleep(down)
        await self.start()

    def freeze(self) -> None:
        """Fall silent: connections stay open and are accepted, nothing is read, answered or sent."""
        self._thawed.clear()

    def thaw(self) -> None:
        """Go on where it was frozen."""
        self._thawed.set()

    def reset(self) -> None:
        """Cut all connections with a TCP reset."""
        for session in list(self._sessions):
            session.reset()

    def hang_up(self) -> None:
        """Close all connections with a bare end of stream, and go on listening."""
        for session in list(self._sessions):
            session.abort()

    # What it says

    async def emit(self, *events: bytes | SecurityEvent) -> int:
        """
        Send events (or any bytes) to all clients that may read them, and return to how many.

        Returns when the last byte is in the kernel's buffers, or the client was dropped for not reading. Waits while
        frozen.
        """
        data = b"".join(event if isinstance(event, bytes) else bytes_of(event) for event in events)
        return await self._tell(data)

    async def play(self, recording: Path | str, *, pace: float | None = None, chunk: int = CHUNK) -> int:
        """
        Send a recording (``.ami`` or ``.ami.gz``) from behind its login on, and return how many bytes.

        ``pace`` None is as fast as it is read; 1 is as it was recorded (``.times`` lies beside it), 10 ten times as
        fast. ``chunk`` is how many bytes are written at once, at least. Answers to clients come between messages only.
        """
        path = Path(recording)
        data = await asyncio.to_thread(recordings.load, path)
        if pace is None:
            schedule = recordings.pieces(data, chunk)
        else:
            schedule = recordings.timed(data, await asyncio.to_thread(recordings.times, path), pace)
        began = time.monotonic()
        for at, piece in schedule:
            await asyncio.sleep(max(0.0, began + at - time.monotonic()))
            await self._tell(piece)
        return len(data)

    # What a test may wait for

    async def wait_for_login(self, count: int = 1, *, timeout: float = PATIENCE) -> None:
        """Return when so many logins have succeeded since the beginning; raises TimeoutError."""
        await self.wait_until(lambda: self.counts["login"] >= count, timeout=timeout)

    async def wait_for_action(self, name: str, count: int = 1, *, timeout: float = PATIENCE) -> dict[str, str]:
        """Return the latest action of this name, once there were so many since the beginning; raises TimeoutError."""
        await self.wait_until(lambda: self.counts[name] >= count, timeout=timeout)
        return next(action for action in reversed(self.actions) if action["Action"] == name)

    async def wait_for_close(self, count: int = 1, *, timeout: float = PATIENCE) -> None:
        """Return when so many connections have ended since the beginning; raises TimeoutError."""
        await self.wait_until(lambda: self.counts["closed"] >= count, timeout=timeout)

    async def wait_until(self, is_true: Callable[[], bool], *, timeout: float = PATIENCE) -> None:
        """Return when ``is_true()``, looked at whenever something happens here; raises TimeoutError."""
        if is_true():
            return
        waiter = (is_true, asyncio.get_running_loop().create_future())
        self._waiters.append(waiter)
        try:
            async with asyncio.timeout(timeout):
                await waiter[1]
        finally:
            self._waiters.remove(waiter)

    @property
    def connections(self) -> int:
        """Tell how many clients are connected."""
        return len(self._sessions)

    # For sessions

    def note(self, what: str) -> None:
        """Count, and wake whoever waits for it."""
        self.counts[what] += 1
        for is_true, future in self._waiters:
            if not future.done() and is_true():
                future.set_result(None)

    def has_room(self) -> bool:
        """Tell whether one more may try to log in."""
        return sum(session.user is None for session in self._sessions) < self.auth_limit

    def is_in_use(self, name: str) -> bool:
        """Tell whether somebody is logged in as this user."""
        return any(session.user == name for session in self._sessions)

    async def pause(self) -> None:
        """Wait while frozen."""
        await self._thawed.wait()

    async def report(
        self, kind: str, session: Session, account: str, *, but: Session | None = None, **headers: str
    ) -> None:
        """Raise a security event about a manager session of ours, for all who listen ``but`` one."""
        await self._tell(session.event(kind, account, **headers), but)

    async def _tell(self, data: bytes, but: Session | None = None) -> int:
        listeners = [session for session in self._sessions if session.is_listening and session is not but]
        await asyncio.gather(*(session.write(data) for session in listeners))
        return len(listeners)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        session = Session(self, reader, writer)
        has_room = self.has_room()
        self._sessions.add(session)
        self.note("connected")
        try:
            if has_room:
                await session.run()
        except asyncio.CancelledError:
            session.abort()  # not raised again: it ends here, and 3.11's streams would log it as an error
        except (OSError, ValueError, EOFError):
            session.abort()  # the client went away, or sent a line without an end
        finally:
            await session.close()
            self._sessions.discard(session)
            self._tasks.discard(task)
            self.note("closed")

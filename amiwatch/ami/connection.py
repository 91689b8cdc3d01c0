"""
One connection to one Asterisk's manager interface, from the first packet to the last.

Rule 1: panoramisk makes the connection usable and keeps actions until they are answered; bytes go to ``Wire``, and what
it finds goes out inside the read callback. Nobody is awaited there: Asterisk drops a client that doesn't read for
``writetimeout`` (100 ms by default), and what it would have said is lost.

Rule 2: what makes panoramisk 1.4 unfit for hostile input and dead peers is not used: its parser, its reconnecting, its
pings that nobody waits for, its futures that never resolve.

Rule 3: nothing that came from outside gets into an action, but the challenge of a login, hashed.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import secrets
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Never

from panoramisk import Manager
from panoramisk.actions import Action
from panoramisk.ami_protocol import AMIProtocol

from amiwatch.ami.wire import BANNER, Item, Response, Tampered, Wire
from amiwatch.errors import AmiError, AmiLoginRefused, AmiPeerUnknown, AmiUnreachable, ConfigurationError
from amiwatch.judgement.values import SecurityEvent

KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 15_000}
"""The kernel's own watch over the peer, in seconds, seconds, probes, milliseconds. Without it unacknowledged bytes are
sent again for 15 minutes (939 s were measured)."""

GREETING_SAMPLE = 60
"""Bytes of a wrong greeting that its error shows."""

FAREWELL = 1.0
"""Seconds that a cut connection may take to say that it is gone; it needs one turn of the loop."""


@dataclass(frozen=True, slots=True)
class Link:
    """How to reach one Asterisk. Times are in seconds. Raises ConfigurationError for what can't be sent safely."""

    name: str
    """What people call this PBX."""
    host: str
    username: str
    secret: str = field(repr=False)
    port: int = 5038
    tls: bool = False
    ca_file: Path | None = None
    """Certificates to trust (PEM); None are the system's."""
    server_name: str | None = None
    """The name that the certificate must have; None is ``host``."""
    verify: bool = True
    """False trusts whoever answers."""
    md5: bool = True
    """Prove the secret by a challenge; False sends it as it is."""
    connect_timeout: float = 10.0
    """For the connection with TLS, for the greeting, and for each answer."""
    self_test_timeout: float = 5.0
    """For our own SuccessfulAuth to come back (596 of 596 did in the lab, at once)."""
    ping_interval: float = 10.0
    ping_timeout: float = 10.0
    """Interval and timeout together are how long a dead peer goes unnoticed."""
    retry_first: float = 1.0
    retry_longest: float = 60.0
    refused_first: float = 60.0
    """Each refused login is itself a security event about our address."""
    refused_longest: float = 300.0
    steady_after: float = 60.0
    """A link that was up for so long is retried from the shortest delay again."""

    def __post_init__(self) -> None:
        mistakes = [
            f"the {name} of the PBX {self.name!r} holds a line break or bytes that are no text"
            for name in ("username", "secret")
            if not _is_sendable(getattr(self, name))
        ]
        if mistakes:
            raise ConfigurationError(mistakes)


class Connection(AMIProtocol):  # type: ignore[misc]  # panoramisk has no types
    """
    panoramisk's protocol with our reading.

    ``deliver`` gets security events and tampered blocks, in order, as soon as they are read; it must not raise.
    """

    def __init__(self, link: Link, deliver: Callable[[list[Item]], None]) -> None:
        loop = asyncio.get_running_loop()
        self.wire = Wire()
        self.last_byte_at = time.time()
        self.gone: asyncio.Future[None] = loop.create_future()
        """Done when the connection has ended; ``fault`` tells why."""
        self.fault: AmiError | None = None
        self._link = link
        self._deliver = deliver
        self._greeted: asyncio.Future[None] = loop.create_future()
        self._opening = b""  # never longer than BANNER
        self._reads = 0
        self._pong: asyncio.Future[Response] | None = None
        self._manager = Manager(loop=loop, encoding="utf-8")

    # What asyncio calls

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        _keep_alive(transport.get_extra_info("socket"))
        made = asyncio.get_running_loop().create_future()
        made.set_result((transport, self))
        self._manager.connection_made(made)
        self._manager.pinger.cancel()

    def data_received(self, data: bytes) -> None:
        self.last_byte_at = time.time()
        self._reads += 1
        if not self._greeted.done() and not self._is_greeting(data):
            return
        items = self.wire.feed(data)
        if not _FOR_THE_SINK.issuperset(map(type, items)):
            items = self._take_answers(items)
        if items:
            self._deliver(items)
        if self.wire.is_tainted:
            self.ping()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.gone.done():
            return
        self.fault = self.fault or _loss(exc, is_greeted=self._opening == BANNER)
        if items := self.wire.close():
            self._deliver(items)
        for action in self.responses.values():
            action.future.cancel()
        self.responses.clear()
        self.gone.set_result(None)
        self._manager.close()

    # What we do

    async def login(self) -> None:
        """Log in and ask for security events. Raises AmiLoginRefused, AmiPeerUnknown, AmiUnreachable."""
        await self._wait(self._greeted, "greeting")
        user = {"Username": self._link.username, "Events": "security"}
        if self._link.md5:
            challenge = await self.ask("Challenge", AuthType="MD5")
            self._expect_success(challenge)
            key = _md5_key(challenge.headers.get("Challenge", ""), self._link.secret)
            answer = await self.ask("Login", AuthType="MD5", Key=key, **user)
        else:
            answer = await self.ask("Login", Secret=self._link.secret, **user)
        self._expect_success(answer)
        await self.ask("Events", EventMask="security")

    async def ask(self, name: str, **headers: str) -> Response:
        """Call an action and return its answer, whatever it says. Raises AmiUnreachable if there is none."""
        future = self._send(name, headers)
        await self._wait(future, f"answer to {name}")
        return future.result()

    def ping(self) -> asyncio.Future[Response]:
        """
        Send a Ping, unless one is on its way, and return what its answer will set.

        Its random ActionID is a boundary that nobody can forge: where the answer passes, a taint ends.
        """
        if self._pong is None or self._pong.done():
            action_id = secrets.token_hex(16)
            self.wire.expect_boundary(action_id)
            self._pong = self._send("Ping", {}, action_id)
        return self._pong

    async def watch(self) -> Never:
        """Send a Ping each interval until the connection is lost or the peer is dead; raises AmiUnreachable."""
        while not self.gone.done():
            await asyncio.wait({self.gone}, timeout=self._link.ping_interval)
            await self._expect_life()
        raise self._reason()

    async def end(self) -> None:
        """Cut the connection, and return when nothing of it is left. May be repeated."""
        self._cut()
        await asyncio.wait({self.gone}, timeout=FAREWELL)

    def local(self) -> tuple[str, int]:
        """Return our own address and port."""
        host, port, *_ = self.transport.get_extra_info("sockname")
        return host, port

    async def _expect_life(self) -> None:
        """Ping, and end the connection if neither an answer nor any other byte comes in time."""
        while not self.gone.done():
            reads = self._reads
            pong = self.ping()
            await self._either(pong, self._link.ping_timeout)
            if pong.done():
                return
            self._forget(pong)
            if self._reads == reads:
                self._fail(AmiUnreachable(f"not a byte and no answer to Ping in {self._link.ping_timeout:g} s"))
                await self.end()

    def _send(self, name: str, headers: dict[str, str], action_id: str = "") -> asyncio.Future[Response]:
        if self.gone.done():
            raise self._reason()
        if not all(map(_is_sendable, headers.values())):
            raise ValueError(f"a header of {name} would break out of its line")
        action = Action({"Action": name, "ActionID": action_id or secrets.token_hex(16), **headers})
        future: asyncio.Future[Response] = self._manager.send_action(action)
        return future

    async def _wait(self, future: asyncio.Future[Any], what: str) -> None:
        """Wait for ``future``; raise AmiUnreachable if the connection or our patience ends first."""
        patience = self._link.connect_timeout
        await self._either(future, patience)
        if future.done() and not future.cancelled():
            return
        self._forget(future)
        if self.gone.done() or self.fault:
            raise self._reason()
        hint = "" if self._opening or self._link.tls else ": is this the port for TLS?"
        raise AmiUnreachable(f"no {what} within {patience:g} s{hint}")

    async def _either(self, future: asyncio.Future[Any], seconds: float) -> None:
        """Wait for ``future`` or the end of the connection, but not for ever."""
        ends: set[asyncio.Future[Any]] = {future, self.gone}
        await asyncio.wait(ends, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)

    def _forget(self, future: asyncio.Future[Any]) -> None:
        """Give up on an answer; should it still come, nobody looks at it."""
        future.cancel()
        for action_id in [key for key, action in self.responses.items() if action.future is future]:
            del self.responses[action_id]

    def _take_answers(self, items: list[Item]) -> list[Item]:
        """Hand answers to who waits for them, and return what is for the sink."""
        for item in items:
            if isinstance(item, Response):
                action = self.responses.pop(item.headers.get("ActionID", ""), None)
                if action is not None and not action.future.done():
                    action.future.set_result(item)
        return [item for item in items if type(item) in _FOR_THE_SINK]

    def _is_greeting(self, data: bytes) -> bool:
        """Tell whether this begins like Asterisk, as far as one can see; hang up if not."""
        what = (self._opening + data)[:GREETING_SAMPLE]
        self._opening = what[: len(BANNER)]
        if not BANNER.startswith(self._opening):
            self._fail(AmiPeerUnknown(f"what answers is no Asterisk manager, it says {what!r}: check host and port"))
            return False
        if self._opening == BANNER:
            self._greeted.set_result(None)
        return True

    def _expect_success(self, answer: Response) -> None:
        if answer.headers.get("Response") == "Success":
            return
        message = answer.headers.get("Message", "")[:GREETING_SAMPLE]
        if "shutting down" in message.lower():
            raise AmiUnreachable("Asterisk is shutting down")
        advice = _ADVICE.get(message.lower(), "look into Asterisk's log, and at the user's section in manager.conf")
        raise AmiLoginRefused(f"Asterisk refused the login of {self._link.username!r} ({message!r}): {advice}")

    def _fail(self, fault: AmiError) -> None:
        """End because of this."""
        self.fault = self.fault or fault
        self._cut()

    def _cut(self) -> None:
        # Debian 12's Python 3.11.2 raises AttributeError for the abort of a TLS transport that is gone already.
        if not self.gone.done():
            self.transport.abort()

    def _reason(self) -> AmiError:
        return self.fault or AmiUnreachable("the connection was lost")


@asynccontextmanager
async def connect(link: Link, deliver: Callable[[list[Item]], None]) -> AsyncIterator[Connection]:
    """Connect, and cut the connection at the end. Raises AmiUnreachable."""
    try:
        async with asyncio.timeout(link.connect_timeout):
            _, connection = await asyncio.get_running_loop().create_connection(
                lambda: Connection(link, deliver),
                link.host,
                link.port,
                ssl=_tls_context(link) if link.tls else None,
                server_hostname=(link.server_name or link.host) if link.tls else None,
            )
    except (OSError, UnicodeError) as exc:
        raise AmiUnreachable(f"no connection to {link.host} port {link.port}: {_cause(exc, link)}") from exc
    try:
        yield connection
    finally:
        await connection.end()


_FOR_THE_SINK = frozenset({SecurityEvent, Tampered})

_ADVICE = {
    "authentication failed": "compare user name and secret with manager.conf, and see whether its permit, deny and acl "
    "lines let this host in",
    "login already in use": "manager.conf says allowmultiplelogin=no and somebody is logged in as this user: give "
    "amiwatch one of its own",
    "permission denied": "the user may not log in this way; see its section in manager.conf",
    "must specify authtype": "this Asterisk has no MD5 login: switch it off for this PBX",
}
"""What to do about Asterisk's refusals (main/manager.c), by its own words in small letters."""


def _keep_alive(sock: socket.socket) -> None:
    """Let the kernel watch the peer. Where it can't, our Pings do."""
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in KEEPALIVE.items():
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _loss(exc: Exception | None, *, is_greeted: bool) -> AmiUnreachable:
    if not is_greeted:
        return AmiUnreachable(
            "closed without a greeting: too many logins are under way (authlimit in manager.conf), Asterisk is "
            "starting, or this is the port for TLS"
        )
    return AmiUnreachable(f"the connection broke: {exc}" if exc else "Asterisk closed the connection")


def _cause(exc: Exception, link: Link) -> str:
    """Say what went wrong, and what to do where one can know it."""
    if isinstance(exc, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({exc.verify_message}): set the CA file or the server name"
    if isinstance(exc, ssl.SSLError):
        return f"no TLS there ({exc.reason or exc}): is this the port without TLS?"
    if isinstance(exc, TimeoutError):
        return f"nothing came back within {link.connect_timeout:g} s"
    number = exc.errno if isinstance(exc, OSError) else None
    if (
        number is not None and number in errno.errorcode
    ):  # asyncio's own words are "Connect call failed", whatever the kernel said
        return os.strerror(number)
    return (exc.strerror if isinstance(exc, OSError) else None) or str(exc)


def _tls_context(link: Link) -> ssl.SSLContext:
    """Make the context anew each time, so that a renewed CA file counts from the next connection on."""
    try:
        context = ssl.create_default_context(cafile=link.ca_file)
    except OSError as exc:  # an SSLError is one
        raise AmiUnreachable(f"the CA file {str(link.ca_file)!r} holds no usable certificate: {exc}") from exc
    if not link.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _md5_key(challenge: str, secret: str) -> str:
    return hashlib.md5((challenge + secret).encode(), usedforsecurity=False).hexdigest()


def _is_sendable(text: str) -> bool:
    """Tell whether a value stays in its line and is text (a surrogate stands for a byte that is none)."""
    return not any(char in "\r\n\0" or "\ud800" <= char <= "\udfff" for char in text)

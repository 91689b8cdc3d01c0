"""One connection to ``FakeAsterisk``: what ``main/manager.c`` does with it, and what it may do wrong."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import secrets
import socket
import struct
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING

from amiwatch.testing.builders import event_bytes

if TYPE_CHECKING:
    from amiwatch.testing.asterisk import FakeAsterisk

CHUNK = 64 * 1024
"""Bytes written at once, at most."""

MAX_HEADERS = 128
"""Headers of one action that are read (manager.h: AST_MAX_MANHEADERS)."""


class Session:
    """One connection: manager.c's ``mansession``."""

    def __init__(self, pbx: FakeAsterisk, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.user: str | None = None
        self.is_listening = False
        self._pbx = pbx
        self._reader = reader
        self._writer = writer
        self._challenge = ""
        self._is_over = False
        self._writing = asyncio.Lock()
        self._local = writer.get_extra_info("sockname")
        self._remote = writer.get_extra_info("peername")
        writer.transport.set_write_buffer_limits(high=0)
        if pbx.send_buffer is not None:
            self._socket().setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, pbx.send_buffer)

    async def run(self) -> None:
        """Greet, then answer until somebody hangs up."""
        await self.write(self._pbx.banner)
        while not self._is_over and (action := await self._read()) is not None:
            self._pbx.actions.append({k: v for k, v in action.items() if k not in {"Secret", "Key"}})
            self._pbx.note(action.get("Action", ""))
            await self._pbx.pause()
            await asyncio.sleep(self._pbx.answer_delay)
            if action.get("Action") not in self._pbx.ignored:
                await self._act(action)

    async def write(self, data: bytes) -> None:
        """Write whole messages; a client that doesn't read is dropped in the middle of one, as Asterisk does."""
        async with self._writing:
            for piece in _cut(data, self._pbx.split or CHUNK):
                await self._pbx.pause()
                if self._writer.is_closing():
                    return
                self._writer.write(piece)
                if self._pbx.split:
                    await asyncio.sleep(0)  # gives a client in the same loop a turn to read it
                await self._drain()

    def event(self, kind: str, account: str, **headers: str) -> bytes:
        """Return the bytes of a security event about this session."""
        transport = "TLS" if self._pbx.tls else "TCP"
        local = ip_address(self._local[0].partition("%")[0])
        return event_bytes(
            kind,
            service="AMI",
            account=account,
            source=self._remote[0].partition("%")[0],
            port=self._remote[1],
            transport=transport,
            session=f"0x7f{id(self) & 0xFFFFFFFFFF:010x}",
            at=time.time(),
            LocalAddress=f"IPV{local.version}/{transport}/{local}/{self._local[1]}",
            **headers,
        )

    def abort(self) -> None:
        """End without waiting for what is unsent."""
        # Debian 12's Python 3.11.2 raises it for a TLS transport that was closed and is gone already.
        with contextlib.suppress(AttributeError):
            self._writer.transport.abort()

    def reset(self) -> None:
        """End with a TCP reset."""
        self._socket().setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.abort()

    async def close(self) -> None:
        """End when everything is sent."""
        self._writer.close()
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(self._pbx.write_timeout):
                await self._writer.wait_closed()
        self.abort()

    def _socket(self) -> socket.socket:
        found: socket.socket = self._writer.get_extra_info("socket")
        return found

    async def _drain(self) -> None:
        if not self._writer.transport.get_write_buffer_size():
            return
        try:
            async with asyncio.timeout(self._pbx.write_timeout):
                await self._writer.drain()
        except TimeoutError:
            self._pbx.note("dropped")
            self.abort()
        except OSError:
            self.abort()

    async def _read(self) -> dict[str, str] | None:
        """Read one action, its headers with the names that it gave them; None at the end of the stream."""
        action: dict[str, str] = {}
        while line := await self._reader.readline():
            await self._pbx.pause()
            text = line.decode("utf-8", "replace").rstrip("\r\n")
            if not text and action:
                return action
            name, _, value = text.partition(":")
            if name and len(action) < MAX_HEADERS:
                action[name] = value.strip()
        return None

    async def _act(self, action: dict[str, str]) -> None:
        name = action.get("Action", "")
        known = _ACTIONS.get(name.lower())
        if not name:
            await self._error(action, "Missing action in request")
        elif self._pbx.is_shutting_down:
            await self._error(action, "Asterisk is shutting down")
        elif self.user is None and name.lower() not in {"login", "logoff", "challenge"}:
            await self._error(action, "Permission denied")
        elif known is None:
            await self._pbx.report("RequestBadFormat", self, "", RequestType=f"Action: {name}")
            hint = "Use Action: ListCommands to show available commands."
            await self._error(action, f"Invalid/unknown command: {name}. {hint}")
        elif not self._may(known):
            await self._pbx.report("RequestNotAllowed", self, "", RequestType=f"Action: {name}")
            await self._error(action, "Permission denied")
        else:
            await known.do(self, action)

    def _may(self, known: Action) -> bool:
        user = self._pbx.users.get(self.user or "")
        return not known.classes or (user is not None and bool(known.classes & user.write))

    async def _answer(self, action: dict[str, str], response: str, *lines: str, then: bytes = b"") -> None:
        identity = [f"ActionID: {action['ActionID']}"] if "ActionID" in action else []
        text = "\r\n".join([f"Response: {response}", *identity, *lines, "", ""])
        await self.write(text.encode() + then)

    async def _error(self, action: dict[str, str], message: str) -> None:
        await self._answer(action, "Error", f"Message: {message}")

    async def do_login(self, action: dict[str, str]) -> None:
        name = action.get("Username", "")
        if not self._pbx.allow_multiple_login and self._pbx.is_in_use(name):
            await self._pbx.report("SessionLimit", self, "")
            await self._refuse(action, "Login Already In Use")
        elif (fault := self._fault(action)) is not None:
            await self._pbx.report(fault, self, "" if fault == "ChallengeResponseFailed" else name)
            await self._refuse(action, "Authentication failed")
        else:
            await self._admit(action, name)

    def _fault(self, action: dict[str, str]) -> str | None:
        """Return the security event that a login deserves, or None if it is right."""
        user = self._pbx.users.get(action.get("Username", ""))
        if user is None:
            return "InvalidAccountID"
        address = ip_address(self._remote[0].partition("%")[0])
        if user.permit and not any(address in network for network in user.permit):
            return "FailedACL"
        if action.get("AuthType", "").lower() == "md5":
            is_right = bool(self._challenge) and action.get("Key") == _key(self._challenge, user.secret)
            return None if is_right else "ChallengeResponseFailed"
        return None if action.get("Secret") == user.secret else "InvalidPassword"

    async def _refuse(self, action: dict[str, str], message: str) -> None:
        self._is_over = True
        await asyncio.sleep(self._pbx.refusal_delay)
        await self._error(action, message)
        self._pbx.note("refused")

    async def _admit(self, action: dict[str, str], name: str) -> None:
        self.user = name
        is_listening = self._hears(action.get("Events", "on"))
        is_reported = not self._pbx.hides_logins
        own = self.event("SuccessfulAuth", name) if is_listening and is_reported else b""
        await self._answer(action, "Success", "Message: Authentication accepted", then=own)
        self.is_listening = is_listening  # not before: nothing may come between answer and event
        if is_reported:
            await self._pbx.report("SuccessfulAuth", self, name, but=self)
        self._pbx.note("login")

    def _hears(self, mask: str) -> bool:
        """Tell whether this user gets security events under an event mask."""
        wanted = {part.strip().lower() for part in mask.split(",")}
        may_read = self.user is not None and "security" in self._pbx.users[self.user].read
        return may_read and bool(wanted & {"on", "all", "security"})

    async def do_challenge(self, action: dict[str, str]) -> None:
        if action.get("AuthType", "").lower() != "md5":
            await self._error(action, "Must specify AuthType")
            return
        self._challenge = self._challenge or str(secrets.randbelow(10**9))
        await self._answer(action, "Success", f"Challenge: {self._challenge}")

    async def do_logoff(self, action: dict[str, str]) -> None:
        self._is_over = True
        await self._answer(action, "Goodbye", "Message: Thanks for all the fish.")

    async def do_ping(self, action: dict[str, str]) -> None:
        await self._answer(action, "Success", "Ping: Pong", f"Timestamp: {time.time():.6f}")

    async def do_events(self, action: dict[str, str]) -> None:
        self.is_listening = self._hears(action.get("EventMask", ""))
        await self._answer(action, "Success", "Events: On" if self.is_listening else "Events: Off")

    async def do_list_commands(self, action: dict[str, str]) -> None:
        allowed = filter(self._may, _ACTIONS.values())
        lines = [f"{known.name}: {known.synopsis}  (Priv: {known.rights})" for known in allowed]
        await self._answer(action, "Success", *lines)

    async def do_nothing(self, action: dict[str, str]) -> None:
        await self._answer(action, "Error", "Message: FakeAsterisk has no calls and no configuration")


@dataclass(frozen=True, slots=True)
class Action:
    """One action: what ListCommands says of it, who may call it, and what it does."""

    name: str
    synopsis: str
    do: Callable[[Session, dict[str, str]], Awaitable[None]]
    classes: frozenset[str] = frozenset()

    @property
    def rights(self) -> str:
        return ",".join([*sorted(self.classes), "all"]) if self.classes else "<none>"


def _table(*actions: Action) -> dict[str, Action]:
    return {action.name.lower(): action for action in actions}


_ACTIONS = _table(
    Action("Challenge", "Generate Challenge for MD5 Auth.", Session.do_challenge),
    Action("Events", "Control Event Flow.", Session.do_events),
    Action("ListCommands", "List available manager commands.", Session.do_list_commands),
    Action("Login", "Login Manager.", Session.do_login),
    Action("Logoff", "Logoff Manager.", Session.do_logoff),
    Action("Ping", "Keepalive command.", Session.do_ping),
    Action("Command", "Execute Asterisk CLI Command.", Session.do_nothing, frozenset({"command"})),
    Action("GetConfig", "Retrieve configuration.", Session.do_nothing, frozenset({"system", "config"})),
    Action("Originate", "Originate a call.", Session.do_nothing, frozenset({"originate"})),
    Action("Reload", "Send a reload event.", Session.do_nothing, frozenset({"system", "config"})),
)


def _key(challenge: str, secret: str) -> str:
    return hashlib.md5((challenge + secret).encode(), usedforsecurity=False).hexdigest()


def _cut(data: bytes, size: int) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))

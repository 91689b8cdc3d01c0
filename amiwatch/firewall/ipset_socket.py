"""
A conversation with the kernel's ipset: pyroute2's socket, our bytes, every wait bounded.

pyroute2 opens the socket, learns the protocol version and carries the rare commands (create, swap, destroy). What is
sent per ban goes through the same socket as ready bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
from collections.abc import Callable, Iterator
from socket import MSG_DONTWAIT

from pyroute2 import AsyncIPSet
from pyroute2.netlink.exceptions import NetlinkError

from amiwatch.errors import FirewallError, FirewallPermission
from amiwatch.firewall import ipset_wire as wire

NETLINK_TIMEOUT = 5.0
"""Longest wait for one answer of the kernel, in seconds: it takes microseconds, and 30 ms to walk a million entries."""

SHORT_MESSAGE = 4096
"""Requests up to this many octets (about a hundred entries) are sent from the event loop: the kernel works them off
inside ``send``, in less than a millisecond. Longer ones are sent from a thread, for a growing set rehashes inside
``send`` too (90 ms at half a million entries)."""

DATAGRAM = 1 << 18
"""Room for one datagram, in octets. The kernel lists in pieces of at most 32 KiB; a refusal repeats our request."""

_WHAT_TO_DO = {
    errno.EPERM: "it needs CAP_NET_ADMIN: run as root, or give the service AmbientCapabilities=CAP_NET_ADMIN",
    errno.EINVAL: "the kernel knows no ipset: 'modprobe ip_set_hash_net' (on EL 10 install kernel-modules-extra first)",
    4098: "the kernel knows no hash:net sets: 'modprobe ip_set_hash_net'",
    4099: "there are too many sets: 'ipset list -n' shows them",
    4100: "a rule still uses it: remove the rule first, 'amiwatch firewall remove'",
    wire.MISSING: "there is no such set",
}


def refusal(code: int, what: str) -> FirewallError:
    """Say in one sentence what the kernel refused, and what to do about it."""
    why = _WHAT_TO_DO.get(code, f"code {code}" + (f" ({errno.errorcode[code]})" if code in errno.errorcode else ""))
    kind = FirewallPermission if code in (errno.EPERM, errno.EACCES) else FirewallError
    return kind(f"The kernel refused to {what}: {why}.")


class IpsetSocket:
    """
    Opens itself when first used, and again after a failure: a netlink socket is useless after an overflow or time-out.

    Methods raise ``FirewallError``. A cancelled call closes the socket, for its answer would arrive at the next one.
    """

    def __init__(self) -> None:
        self._netlink: AsyncIPSet | None = None
        # The kernel runs one listing per socket at a time and refuses a second (EBUSY).
        self._listing = asyncio.Lock()
        # pyroute2 numbers its own requests below 65,536.
        self._sequences = itertools.cycle(range(0x10000, 0x7FFFFFFF))

    async def open(self) -> None:
        if self._netlink is not None:
            return
        with self._translated("open a netlink socket"):
            netlink = AsyncIPSet()
            try:
                async with asyncio.timeout(NETLINK_TIMEOUT):
                    await netlink.__aenter__()
            except BaseException:
                netlink.close()
                raise
            # Another task may have opened one while we waited.
            if self._netlink is None:
                self._netlink = netlink
            else:
                netlink.close()

    def close(self) -> None:
        """Let go of the socket; safe to repeat."""
        netlink, self._netlink = self._netlink, None
        if netlink is not None:
            netlink.close()

    @property
    def protocol(self) -> int:
        """The kernel's ipset protocol, 6 or 7; known once open."""
        assert self._netlink is not None
        return int(self._netlink._proto_version)  # noqa: SLF001 - pyroute2 asked the kernel for it and keeps it here

    async def create(self, name: str, family: int, *, maxelem: int) -> None:
        """Create one of our sets; one of that name is left as it is, so read its options back."""
        await self.open()
        assert self._netlink is not None
        # Entries come with their own time-out; 0, for ever, is only what somebody gets who adds one without.
        request = self._netlink.create(
            name, "hash:net", family=wire.FAMILIES[family], timeout=0, counters=True, maxelem=maxelem
        )
        await self._command(request, f"create the set {name!r}", but=errno.EEXIST)

    async def headers(self) -> dict[str, int]:
        """Return the names of all sets, whosever they are, with their numbers of entries."""
        await self.open()
        found: dict[str, int] = {}

        def take(answer: wire.Answer) -> None:
            if answer.options is not None:
                found[answer.options.name] = answer.options.count

        if code := await self.listen(wire.listing("", protocol=self.protocol, header_only=True), take):
            raise refusal(code, "list its sets")
        return found

    async def swap(self, one: str, other: str) -> None:
        """Exchange what two sets hold; rules keep to the names."""
        await self.open()
        assert self._netlink is not None
        await self._command(self._netlink.swap(one, other), f"swap the sets {one!r} and {other!r}")

    async def destroy(self, name: str) -> None:
        """Destroy a set; one that is missing is no error."""
        await self.open()
        assert self._netlink is not None
        await self._command(self._netlink.destroy(name), f"destroy the set {name!r}", but=wire.MISSING)

    async def flush(self, *names: str) -> None:
        """Empty sets, all with one call of the kernel; one that is missing is no error."""
        await self.open()
        messages = [wire.flush(name, protocol=self.protocol) for name in names]
        with self._translated("empty the sets"), self._expecting(messages[0]) as (netlink, tag):
            for message in messages:
                wire.stamp(message, tag)
            async with asyncio.timeout(NETLINK_TIMEOUT):
                # A million entries take 0.1 s, within the call: from a thread.
                await asyncio.to_thread(netlink.socket.send, b"".join(messages))
                for name in names:
                    code = next(wire.answers(bytes(await netlink.msg_queue.get(tag)))).code
                    if code not in (0, wire.MISSING):
                        raise refusal(code, f"empty the set {name!r}")

    async def ask(self, message: bytearray) -> wire.Answer:
        """Send one request and return the kernel's answer to it, be it a refusal."""
        with self._translated("answer"):
            return next(wire.answers(await self._ask(message)))

    @property
    def is_open(self) -> bool:
        """Tell whether a request can be sent without opening anything first."""
        return self._netlink is not None

    def ask_now(self, message: bytearray) -> wire.Answer | None:
        """Send one short request; None where the kernel did not answer within the call, or the socket broke."""
        try:
            with self._expecting(message) as (netlink, tag):
                netlink.socket.send(message)
                datagram = _received(netlink, tag)
        except OSError:
            self.close()
            return None
        return None if datagram is None else next(wire.answers(datagram))

    async def listen(self, message: bytearray, take: Callable[[wire.Answer], object]) -> int:
        """Send one request and hand out its many answers as they come. Returns the code of a refusal, or 0."""
        async with self._listing:
            await self.open()
            return await self._listen(message, take)

    async def _listen(self, message: bytearray, take: Callable[[wire.Answer], object]) -> int:
        with self._translated("list"), self._expecting(message) as (netlink, tag):
            # Even a header makes the kernel walk the whole set: from a thread, so that the loop never waits for it.
            async with asyncio.timeout(NETLINK_TIMEOUT):
                await asyncio.to_thread(netlink.socket.send, message)
            while True:
                async with asyncio.timeout(NETLINK_TIMEOUT):
                    datagram = await netlink.msg_queue.get(tag)
                for answer in wire.answers(datagram):
                    if answer.is_last:
                        return answer.code
                    take(answer)
                # What came meanwhile would be taken in one go: 140 ms, of a million entries.
                await asyncio.sleep(0)

    async def _ask(self, message: bytearray) -> bytes:
        with self._expecting(message) as (netlink, tag):
            if len(message) <= SHORT_MESSAGE:
                netlink.socket.send(message)
                datagram = _received(netlink, tag)
                if datagram is not None:
                    return datagram
            else:
                async with asyncio.timeout(NETLINK_TIMEOUT):
                    await asyncio.to_thread(netlink.socket.send, message)
            async with asyncio.timeout(NETLINK_TIMEOUT):
                return bytes(await netlink.msg_queue.get(tag))

    @contextlib.contextmanager
    def _expecting(self, message: bytearray) -> Iterator[tuple[AsyncIPSet, int]]:
        """Number a request and keep a queue for its answers."""
        assert self._netlink is not None
        netlink, tag = self._netlink, next(self._sequences)
        wire.stamp(message, tag)
        netlink.msg_queue.ensure_tag(tag)
        try:
            yield netlink, tag
        finally:
            netlink.msg_queue.free_tag(tag)

    async def _command(self, request: object, what: str, *, but: int = 0) -> None:
        with self._translated(what, but=but):
            async with asyncio.timeout(NETLINK_TIMEOUT):
                await request  # type: ignore[misc]

    @contextlib.contextmanager
    def _translated(self, what: str, *, but: int = 0) -> Iterator[None]:
        try:
            yield
        except NetlinkError as exc:
            if exc.code == but:
                return
            raise refusal(exc.code, what) from exc
        except TimeoutError as exc:
            self.close()
            raise FirewallError(f"The kernel did not {what} within {NETLINK_TIMEOUT:g} s.") from exc
        except OSError as exc:
            self.close()
            raise refusal(exc.errno or 0, what) from exc
        except BaseException:
            self.close()
            raise


def _received(netlink: AsyncIPSet, tag: int) -> bytes | None:
    """
    Take the answer that the kernel put into the socket while we sent.

    Waiting for the event loop to notice it would cost a turn of the loop, with whatever else that turn has to do.
    """
    while True:
        try:
            datagram = bytes(netlink.socket.recv(DATAGRAM, MSG_DONTWAIT))
        except BlockingIOError:
            return None
        if wire.sequence_of(datagram) == tag:
            return datagram
        netlink.enqueue(datagram, None)

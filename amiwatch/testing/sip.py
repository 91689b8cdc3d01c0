"""
SIP for tests: ``FakeSip``, a registrar on UDP that asks for passwords, and ``UserAgent``, whoever sends it requests.

``FakeSip`` checks digest credentials (MD5) for real and raises, through a ``FakeAsterisk``, the security events that
PJSIP raises for each request (default identifier order; Asterisk facts, "What one attempt raises")::

    async with FakeAsterisk() as ami, FakeSip(ami, {"101": "secret"}) as pbx:
        server = await pbx.listen("127.0.0.1")
        async with UserAgent(socket_bound_somewhere, server) as phone:
            assert await phone.request("REGISTER", "101", password="secret") == 200

Not a SIP stack: no transactions, no retransmissions, no dialogues, no audio.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import secrets
import socket
import time
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from types import TracebackType
from typing import NamedTuple, Self
from urllib.parse import unquote_to_bytes
from urllib.request import parse_http_list, parse_keqv_list

from amiwatch.testing.asterisk import FakeAsterisk
from amiwatch.testing.builders import UNKNOWN, event_bytes

REALM = "asterisk"

NONCE_LIFETIME = 32
"""Seconds for which a nonce is good (pjsip.conf: ``nonce_lifetime`` of the auth object)."""

ACCOUNT_LIMIT = 36
"""Octets of the From user in InvalidAccountID (Asterisk facts)."""

_USER = re.compile(r"sips?:([^@;>]*)@")
_COMPACT = {"f": "from", "i": "call-id", "t": "to", "v": "via", "m": "contact", "l": "content-length"}
_METHODS = frozenset({"REGISTER", "INVITE", "OPTIONS", "ACK", "BYE", "CANCEL", "SUBSCRIBE", "MESSAGE"})
_REASONS = {200: "OK", 401: "Unauthorized"}

Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Message:
    """A request or a response, as far as anybody here looks at it."""

    start: list[str]
    """The words of the first line."""
    headers: dict[str, str]
    """Lower-case name to value; of several the first."""
    is_utf8: bool = True

    @classmethod
    def parse(cls, data: bytes) -> Message | None:
        """Read a datagram; None if it is no SIP."""
        head = data.decode("utf-8", "surrogateescape").partition("\r\n\r\n")[0]
        first, *lines = head.split("\r\n")
        start = first.split(" ", 2)
        if len(start) < 3 or "SIP/2.0" not in (start[0], start[2]):
            return None
        headers: dict[str, str] = {}
        for line in lines:
            name, _, value = line.partition(":")
            name = name.strip().lower()
            headers.setdefault(_COMPACT.get(name, name), value.strip())
        return cls(start, headers, is_utf8=head.isascii() or _is_utf8(data))

    @property
    def user(self) -> str:
        """Return the user of From as InvalidAccountID shows it: percent-decoded, cut."""
        found = _USER.search(self.headers.get("from", ""))
        return unquote_to_bytes(found[1] if found else "")[:ACCOUNT_LIMIT].decode("utf-8", "replace")

    @property
    def credentials(self) -> dict[str, str] | None:
        """Return the fields of a digest answer; None if there is none."""
        scheme, _, fields = self.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "digest":
            return None
        return parse_keqv_list([field for field in parse_http_list(fields) if "=" in field])


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


class Digest(NamedTuple):
    """What goes into a digest answer beside the password (RFC 2617 3.2.2)."""

    username: str
    realm: str
    method: str
    uri: str
    nonce: str
    nc: str = ""
    cnonce: str = ""
    qop: str = ""

    def response(self, password: str) -> str:
        """Return the ``response`` field for a password."""
        first = _md5(self.username, self.realm, password)
        second = _md5(self.method, self.uri)
        middle = (self.nonce, self.nc, self.cnonce, self.qop) if self.qop else (self.nonce,)
        return _md5(first, *middle, second)


def _md5(*parts: str) -> str:
    return hashlib.md5(":".join(parts).encode("utf-8", "surrogateescape"), usedforsecurity=False).hexdigest()


class _Answer(NamedTuple):
    status: int
    events: tuple[tuple[str, str], ...] = ()
    """Kind and account of the security events that it raises."""
    is_stale: bool = False


class FakeSip:
    """
    A registrar that knows some accounts (name to password) and tells a ``FakeAsterisk`` what it saw.

    ``trunks`` are addresses identified as such: they are served without a password, and never raise an event.
    """

    def __init__(self, ami: FakeAsterisk, accounts: Mapping[str, str], *, trunks: Collection[str] = ()) -> None:
        self.accounts = dict(accounts)
        self.trunks = set(trunks)
        self.aliases: dict[Address, str] = {}
        """Who a sender's address and port are said to be, where packets can't come from their own addresses."""
        self.arrived: Counter[str] = Counter()
        """Datagrams that came through, by source."""
        self.answered: Counter[str] = Counter()
        """Responses sent, by source."""
        self.heard_at: dict[str, float] = {}
        """When the last datagram of a source came (``time.monotonic``)."""
        self._ami = ami
        self._key = secrets.token_hex(8)
        self._events: asyncio.Queue[bytes] = asyncio.Queue()
        self._transports: list[asyncio.DatagramTransport] = []
        self._teller: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._teller = asyncio.create_task(self._tell(), name="sip events")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for transport in self._transports:
            transport.close()
        if self._teller is not None:
            self._teller.cancel()
            await asyncio.gather(self._teller, return_exceptions=True)

    async def listen(self, host: str, port: int = 0) -> Address:
        """Listen on one more address, and return it with its port. Raises OSError."""
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(lambda: _Ear(self), local_addr=(host, port))
        self._transports.append(transport)
        name: Address = transport.get_extra_info("sockname")[:2]
        return name

    def take(self, data: bytes, sender: Address, transport: asyncio.DatagramTransport) -> None:
        """Answer one datagram and raise its events."""
        source = self.aliases.get(sender, sender[0].partition("%")[0])
        self.arrived[source] += 1
        self.heard_at[source] = time.monotonic()
        request = Message.parse(data)
        if request is None or request.start[0] not in _METHODS - {"ACK"}:
            return  # malformed: Asterisk neither answers nor raises an event; an ACK is never answered
        answer = self._answer(request, source)
        if request.is_utf8:  # else Asterisk, which writes AMI through JSON, raises no event at all (Asterisk facts)
            local: Address = transport.get_extra_info("sockname")[:2]
            for kind, account in answer.events:
                self._events.put_nowait(_event(kind, account, request, source, sender[1], local))
        transport.sendto(self._response(request, answer, source), sender)
        self.answered[source] += 1

    async def _tell(self) -> None:
        while True:
            events = [await self._events.get()]
            while not self._events.empty():
                events.append(self._events.get_nowait())
            await self._ami.emit(*events)

    def _answer(self, request: Message, source: str) -> _Answer:
        if source in self.trunks:
            return _Answer(200)
        account, given = request.user, request.credentials
        password = self.accounts.get(account)
        if password is None:
            companion = "ChallengeSent" if given is None else "ChallengeResponseFailed"
            return _Answer(401, (("InvalidAccountID", account), (companion, UNKNOWN)))
        if given is None:
            return _Answer(401, (("ChallengeSent", account),))
        nonce = given.get("nonce", "")
        asked = Digest(
            given.get("username", ""), REALM, request.start[0], given.get("uri", ""), nonce,
            given.get("nc", ""), given.get("cnonce", ""), given.get("qop", ""),
        )  # fmt: skip
        if asked.username != account or asked.response(password) != given.get("response"):
            return _Answer(401, (("ChallengeResponseFailed", account),))
        if not self._is_fresh(nonce, source):
            return _Answer(401, (("ChallengeSent", account),), is_stale=True)
        return _Answer(200, (("SuccessfulAuth", account),))

    def _nonce(self, source: str, at: int) -> str:
        """Bind a nonce to its source, as PJSIP does."""
        return f"{at}/{_md5(str(at), source, self._key)}"

    def _is_fresh(self, nonce: str, source: str) -> bool:
        at = nonce.partition("/")[0]
        is_ours = at.isdecimal() and len(at) < 12 and nonce == self._nonce(source, int(at))
        return is_ours and time.time() - int(at) <= NONCE_LIFETIME

    def _response(self, request: Message, answer: _Answer, source: str) -> bytes:
        copied = {name: request.headers.get(name, "") for name in ("via", "from", "to", "call-id", "cseq")}
        copied["to"] += f";tag={secrets.token_hex(4)}"
        lines = [f"{name.title()}: {value}" for name, value in copied.items()]
        if answer.status == 401:
            nonce = self._nonce(source, int(time.time()))
            stale = ", stale=true" if answer.is_stale else ""
            lines.append(f'WWW-Authenticate: Digest realm="{REALM}", nonce="{nonce}", algorithm=MD5, qop="auth"{stale}')
        start = f"SIP/2.0 {answer.status} {_REASONS[answer.status]}"
        text = "\r\n".join([start, *lines, "Content-Length: 0", "", ""])
        return text.encode("utf-8", "surrogateescape")


def _event(kind: str, account: str, request: Message, source: str, port: int, local: Address) -> bytes:
    family = ip_address(source).version
    extra = {"LocalAddress": f"IPV{family}/UDP/{local[0]}/{local[1]}"}
    if kind == "ChallengeResponseFailed":
        given = request.credentials or {}
        extra |= {"Challenge": given.get("nonce", ""), "Response": given.get("response", "")}
    return event_bytes(
        kind,
        account=account,
        source=source,
        port=port,
        service="PJSIP",
        session=request.headers.get("call-id", ""),
        at=time.time(),
        **extra,
    )


class _Ear(asyncio.DatagramProtocol):
    def __init__(self, pbx: FakeSip) -> None:
        self._pbx = pbx

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._pbx.take(data, addr[:2], self._transport)


class UserAgent(asyncio.DatagramProtocol):
    """
    Somebody with a UDP socket: a phone, a trunk or an attacker, by what it is told to send. ``async with`` opens it.

    The socket is closed at the end. One is enough for many accounts: an office behind one address.
    """

    def __init__(self, endpoint: socket.socket, server: Address) -> None:
        self.server = server
        self.sent = 0
        """Datagrams sent."""
        self.requests = 0
        """Those of them that deserve an answer: all but ACK."""
        self.answered = 0
        """Responses that came back."""
        endpoint.setblocking(False)
        self.endpoint = endpoint
        self.address: Address = endpoint.getsockname()[:2]
        self._transport: asyncio.DatagramTransport | None = None
        self._waiting: dict[tuple[str, str], asyncio.Future[Message]] = {}

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(lambda: self, sock=self.endpoint)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._transport is not None:
            self._transport.close()

    async def request(
        self, method: str, account: str, *, password: str | None = None, timeout: float = 1.0
    ) -> int | None:
        """
        Send a request and, where it is challenged and there is a password, the same with credentials.

        Returns the status of the last response, None if there was none within ``timeout`` seconds.
        """
        call = new_call_id(self.address[0])
        answer = await self.exchange(method, account, call, 1, "", timeout)
        if answer is not None and answer.start[1] == "401" and password is not None:
            credentials = self.credentials(answer, method, account, password)
            answer = await self.exchange(method, account, call, 2, credentials, timeout)
        return None if answer is None else int(answer.start[1])

    def send(self, method: str, account: str) -> None:
        """Send a request without credentials, and never mind the answer: what a scanner does."""
        self.put(self._text(method, account, new_call_id(self.address[0]), 1, ""))

    async def exchange(
        self, method: str, account: str, call: str, number: int, credentials: str, timeout: float
    ) -> Message | None:
        """
        Send one request of a dialogue and return its answer, None if there is none within ``timeout`` seconds.

        ``call`` is the Call-ID, ``number`` the CSeq, ``credentials`` a header line with its end, or empty.
        """
        key = (call, f"{number} {method}")
        future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._waiting[key] = future
        self.put(self._text(method, account, call, number, credentials))
        try:
            async with asyncio.timeout(timeout):
                answer = await future
        except TimeoutError:
            return None
        finally:
            del self._waiting[key]
        if method == "INVITE":
            self.put(self._text("ACK", account, call, number, ""))
        return answer

    def _uri(self) -> str:
        host, port = self.server
        return f"sip:[{host}]:{port}" if ":" in host else f"sip:{host}:{port}"

    def credentials(self, challenge: Message, method: str, account: str, password: str) -> str:
        """Return the header line that answers a challenge."""
        fields = challenge.headers.get("www-authenticate", "").partition(" ")[2]
        asked = parse_keqv_list(parse_http_list(fields))
        digest = Digest(
            account, asked["realm"], method, self._uri(), asked["nonce"], "00000001", secrets.token_hex(4), "auth"
        )
        return (
            f'Authorization: Digest username="{account}", realm="{digest.realm}", nonce="{digest.nonce}", '
            f'uri="{digest.uri}", response="{digest.response(password)}", algorithm=MD5, '
            f'qop=auth, nc={digest.nc}, cnonce="{digest.cnonce}"\r\n'
        )

    def _text(self, method: str, account: str, call: str, number: int, credentials: str) -> bytes:
        host, port = self.address
        here = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        return (
            f"{method} {self._uri()} SIP/2.0\r\n"
            f"Via: SIP/2.0/UDP {here};branch=z9hG4bK{secrets.token_hex(8)};rport\r\n"
            f"Max-Forwards: 70\r\n"
            f"From: <sip:{account}@{self._uri()[4:]}>;tag={secrets.token_hex(4)}\r\n"
            f"To: <sip:{account}@{self._uri()[4:]}>\r\n"
            f"Call-ID: {call}\r\n"
            f"CSeq: {number} {method}\r\n"
            f"Contact: <sip:{account}@{here}>\r\n"
            f"{credentials}"
            f"Content-Length: 0\r\n\r\n"
        ).encode()

    def put(self, data: bytes) -> None:
        """Send any bytes to the server, SIP or not."""
        assert self._transport is not None, "use it with `async with`"
        self._transport.sendto(data, self.server)
        self.sent += 1
        self.requests += not data.startswith(b"ACK ")

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        answer = Message.parse(data)
        if answer is None:
            return
        self.answered += 1
        future = self._waiting.get((answer.headers.get("call-id", ""), answer.headers.get("cseq", "")))
        if future is not None and not future.done():
            future.set_result(answer)


def new_call_id(host: str) -> str:
    """Make a Call-ID that nobody had before."""
    return f"{secrets.token_hex(12)}@{host}"

"""The registrar and the user agents, on loopback, against what a real Asterisk was seen to do."""

import socket
from collections.abc import AsyncIterator

import pytest

from amiwatch.ami.wire import Wire
from amiwatch.judgement.values import SecurityEvent
from amiwatch.testing.asterisk import FakeAsterisk
from amiwatch.testing.builders import UNKNOWN
from amiwatch.testing.sip import Digest, FakeSip, Message, UserAgent

ACCOUNTS = {"101": "s3cret"}
STRANGER = "198.51.100.7"


class Heard(FakeAsterisk):
    """A manager that keeps the bytes it would send, for there is no client."""

    def __init__(self) -> None:
        super().__init__()
        self.data = b""

    async def emit(self, *events: bytes | SecurityEvent) -> int:
        self.data += b"".join(event for event in events if isinstance(event, bytes))
        self.note("event")
        return await super().emit(*events)

    async def events(self, count: int) -> list[SecurityEvent]:
        await self.wait_until(lambda: self.data.count(b"Event: ") >= count)
        found = Wire(has_pings=False).feed(self.data)
        assert all(isinstance(item, SecurityEvent) for item in found)
        return [item for item in found if isinstance(item, SecurityEvent)]


@pytest.fixture
async def ami() -> AsyncIterator[Heard]:
    async with Heard() as server:
        yield server


@pytest.fixture
async def pbx(ami: Heard) -> AsyncIterator[FakeSip]:
    async with FakeSip(ami, ACCOUNTS) as registrar:
        yield registrar


@pytest.fixture
async def agent(pbx: FakeSip) -> AsyncIterator[UserAgent]:
    server = await pbx.listen("127.0.0.1")
    async with UserAgent(loopback(), server) as one:
        pbx.aliases[one.address] = STRANGER
        yield one


def loopback() -> socket.socket:
    endpoint = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    endpoint.bind(("127.0.0.1", 0))
    return endpoint


def told(events: list[SecurityEvent]) -> list[tuple[str, str]]:
    return [(event.kind, event.account) for event in events]


async def test_a_phone_with_the_right_password_is_let_in(ami: Heard, agent: UserAgent) -> None:
    assert await agent.request("REGISTER", "101", password="s3cret") == 200
    events = await ami.events(2)
    assert told(events) == [("ChallengeSent", "101"), ("SuccessfulAuth", "101")]
    assert {str(event.source) for event in events} == {STRANGER}
    assert len({event.session for event in events}) == 1
    assert events[1].used_password


async def test_a_wrong_password_is_refused_and_each_is_a_guess_of_its_own(ami: Heard, agent: UserAgent) -> None:
    assert await agent.request("REGISTER", "101", password="wrong") == 401
    assert await agent.request("REGISTER", "101", password="also wrong") == 401
    events = await ami.events(4)
    assert told(events) == [("ChallengeSent", "101"), ("ChallengeResponseFailed", "101")] * 2
    assert len({event.guess for event in events if event.kind == "ChallengeResponseFailed"}) == 2


async def test_an_unknown_account_raises_two_events_for_each_request(ami: Heard, agent: UserAgent) -> None:
    assert await agent.request("INVITE", "1000", password="any") == 401
    assert told(await ami.events(4)) == [
        ("InvalidAccountID", "1000"),
        ("ChallengeSent", UNKNOWN),
        ("InvalidAccountID", "1000"),
        ("ChallengeResponseFailed", UNKNOWN),
    ]


async def test_a_trunk_is_served_without_password_and_without_event(ami: Heard, pbx: FakeSip, agent: UserAgent) -> None:
    pbx.trunks.add(STRANGER)
    assert await agent.request("INVITE", "+4930123456") == 200
    pbx.trunks.clear()
    assert await agent.request("OPTIONS", "101") == 401
    assert told(await ami.events(1)) == [("ChallengeSent", "101")]


async def test_a_nonce_belongs_to_its_source(ami: Heard, pbx: FakeSip, agent: UserAgent) -> None:
    """Somebody else's nonce, with the right password: as a stale one, challenged again and no event that accuses."""
    async with UserAgent(loopback(), agent.server) as other:
        pbx.aliases[other.address] = "203.0.113.9"
        theirs = await other.exchange("REGISTER", "101", "one@there", 1, "", 1.0)
        assert theirs is not None
        credentials = other.credentials(theirs, "REGISTER", "101", "s3cret")
        assert (await other.exchange("REGISTER", "101", "one@there", 2, credentials, 1.0)).start[1] == "200"
        stolen = await agent.exchange("REGISTER", "101", "two@here", 2, credentials, 1.0)
    assert stolen is not None
    assert "stale=true" in stolen.headers["www-authenticate"]
    assert told(await ami.events(3))[-1] == ("ChallengeSent", "101")


async def test_what_asterisk_does_not_answer_is_counted_and_not_answered(pbx: FakeSip, agent: UserAgent) -> None:
    for data in (b"\x00\xff", b"HELO there SMTP/1.0\r\n\r\n", b"ACK sip:101@192.0.2.1 SIP/2.0\r\nFrom: x\r\n\r\n"):
        agent.put(data)
    assert await agent.request("OPTIONS", "101") == 401
    assert (pbx.arrived[STRANGER], pbx.answered[STRANGER]) == (4, 1)
    assert (agent.sent, agent.answered) == (4, 1)


async def test_a_call_id_that_is_not_utf8_hides_its_request_as_in_asterisk(ami: Heard, agent: UserAgent) -> None:
    agent.put(
        b"REGISTER sip:192.0.2.1 SIP/2.0\r\nFrom: <sip:1000@192.0.2.1>\r\nCall-ID: \xff\r\nCSeq: 1 REGISTER\r\n\r\n"
    )
    assert await agent.request("OPTIONS", "101") == 401
    assert told(await ami.events(1)) == [("ChallengeSent", "101")]


async def test_line_ends_in_an_account_reach_the_manager_as_in_asterisk(ami: Heard, agent: UserAgent) -> None:
    """The injection of the Asterisk facts: percent-decoded, 36 bytes, before the real RemoteAddress."""
    agent.send("REGISTER", "x%0d%0aRemoteAddress%3a%20IPV4/UDP/8.8.8.8/1")
    await ami.wait_until(lambda: b"ChallengeSent" in ami.data)
    assert b"AccountID: x\r\nRemoteAddress: IPV4/UDP/8.8.8.8/1\r\n" in ami.data
    assert not any(getattr(item, "kind", "") == "InvalidAccountID" for item in Wire(has_pings=False).feed(ami.data))


async def test_ipv6_is_answered_like_ipv4(ami: Heard, pbx: FakeSip) -> None:
    endpoint = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    try:
        endpoint.bind(("::1", 0))
    except OSError as exc:
        endpoint.close()
        pytest.skip(f"no IPv6 here: {exc}")
    async with UserAgent(endpoint, await pbx.listen("::1")) as phone:
        assert await phone.request("REGISTER", "101", password="s3cret") == 200
    assert {str(event.source) for event in await ami.events(2)} == {"::1"}


async def test_nobody_waits_for_an_answer_for_ever(ami: Heard) -> None:
    with loopback() as deaf:
        async with UserAgent(loopback(), deaf.getsockname()[:2]) as phone:
            assert await phone.request("REGISTER", "101", password="s3cret", timeout=0.05) is None


def test_the_digest_is_that_of_the_standard() -> None:
    """The example of RFC 2617 3.5."""
    digest = Digest(
        "Mufasa",
        "testrealm@host.com",
        "GET",
        "/dir/index.html",
        "dcd98b7102dd2f0e8b11d0f600bfb0c093",
        "00000001",
        "0a4f113b",
        "auth",
    )
    assert digest.response("Circle Of Life") == "6629fae49393a05397450978507c4ef1"


def test_compact_headers_are_understood() -> None:
    message = Message.parse(b"OPTIONS sip:x SIP/2.0\r\nf: <sip:1%3001@h>\r\ni: abc\r\n\r\n")
    assert message is not None
    assert (message.user, message.headers["call-id"]) == ("1001", "abc")

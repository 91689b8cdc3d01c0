"""The fake is held to what a real Asterisk was recorded to say."""

import asyncio
import gzip
import hashlib
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_network
from pathlib import Path

import pytest

from amiwatch.ami.wire import Item, Wire
from amiwatch.judgement.values import SecurityEvent
from amiwatch.testing import recordings
from amiwatch.testing.asterisk import FakeAsterisk, User
from amiwatch.testing.builders import Case, attempt_bytes, event_bytes, security_event
from tests.corpus import FLOOD, FOLDER, recording

LOGIN = {"Action": "Login", "ActionID": "1", "Username": "amiwatch", "Secret": "secret"}
PATIENCE = 10.0


class Caller:
    """A client that writes what it is told and reads blocks."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def say(self, headers: dict[str, str]) -> None:
        lines = [f"{name}: {value}" for name, value in headers.items()]
        self.writer.write("\r\n".join([*lines, "", ""]).encode())

    async def line(self) -> bytes:
        return await asyncio.wait_for(self.reader.readline(), PATIENCE)

    async def block(self) -> str:
        return (await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), PATIENCE)).decode()

    async def rest(self) -> bytes:
        return await asyncio.wait_for(self.reader.read(-1), PATIENCE)

    async def ask(self, **headers: str) -> str:
        self.say(headers)
        return await self.block()


@asynccontextmanager
async def calling(pbx: FakeAsterisk) -> AsyncIterator[Caller]:
    reader, writer = await asyncio.open_connection(pbx.host, pbx.port, limit=2**24)
    try:
        yield Caller(reader, writer)
    finally:
        writer.transport.abort()


@asynccontextmanager
async def logged_in(pbx: FakeAsterisk, user: str = "amiwatch") -> AsyncIterator[Caller]:
    """A caller that has read the greeting, the answer and, if it may, its own event."""
    async with calling(pbx) as caller:
        await caller.line()
        assert "accepted" in await caller.ask(**(LOGIN | {"Username": user}))
        if "security" in pbx.users[user].read:
            assert "SuccessfulAuth" in await caller.block()
        yield caller


@pytest.fixture
async def pbx() -> AsyncIterator[FakeAsterisk]:
    async with FakeAsterisk() as pbx:
        yield pbx


def events_in(data: bytes) -> list[SecurityEvent]:
    items: list[Item] = Wire(has_pings=False).feed(data)
    return [item for item in items if isinstance(item, SecurityEvent)]


# As recorded


async def test_a_login_is_answered_byte_for_byte_as_recorded(pbx: FakeAsterisk) -> None:
    recorded = recording("ast22-pjsip-register-valid").split(b"\r\n\r\n")
    async with calling(pbx) as caller:
        greeting = await caller.line()
        answer = await caller.ask(**LOGIN)
        assert greeting + answer.encode() == recorded[0] + b"\r\n\r\n"
        (event,) = events_in((await caller.block()).encode())
    (real,) = events_in(recorded[1] + b"\r\n\r\n")
    same = real._replace(at=event.at, session=event.session, port=event.port, local_port=event.local_port)
    assert event == same


async def test_a_wrong_secret_is_refused_byte_for_byte_as_recorded(pbx: FakeAsterisk) -> None:
    async with calling(pbx) as caller:
        caller.say(LOGIN | {"Secret": "wrong"})
        assert await caller.rest() == recording("ast22-misc-login-wrong-secret")
    assert pbx.counts["refused"] == 1


async def test_a_goodbye_is_said_byte_for_byte_as_recorded(pbx: FakeAsterisk) -> None:
    recorded = recording("ast22-misc-login-no-security-class")
    pbx.users["amiwatch"] = User("secret", read=frozenset())
    async with calling(pbx) as caller:
        caller.say(LOGIN)
        caller.say({"Action": "Logoff", "ActionID": "99"})
        assert await caller.rest() == recorded


async def test_a_refused_login_takes_its_time() -> None:
    async with FakeAsterisk(refusal_delay=0.05) as pbx, calling(pbx) as caller:
        began = asyncio.get_running_loop().time()
        await caller.line()
        await caller.ask(**(LOGIN | {"Secret": "wrong"}))
        assert asyncio.get_running_loop().time() - began >= 0.05


# Logins


async def test_an_md5_login_needs_the_key_of_its_own_challenge(pbx: FakeAsterisk) -> None:
    async with calling(pbx) as caller:
        await caller.line()
        answer = await caller.ask(Action="Challenge", AuthType="MD5")
        challenge = answer.split("Challenge: ")[1].strip()
        key = hashlib.md5(f"{challenge}secret".encode()).hexdigest()
        login = {"Action": "Login", "Username": "amiwatch", "AuthType": "MD5", "Key": key}
        assert "Authentication accepted" in await caller.ask(**login)
    for key in (login["Key"], hashlib.md5(b"secret").hexdigest()):  # another's challenge, and none
        async with calling(pbx) as caller:
            await caller.line()
            assert "Authentication failed" in await caller.ask(**(login | {"Key": key}))


async def test_a_challenge_needs_a_type(pbx: FakeAsterisk) -> None:
    async with calling(pbx) as caller:
        await caller.line()
        assert "Message: Must specify AuthType" in await caller.ask(Action="Challenge")


@pytest.mark.parametrize(
    ("login", "kind", "account"),
    [
        ({"Secret": "wrong"}, "InvalidPassword", "amiwatch"),
        ({"Username": "root"}, "InvalidAccountID", "root"),
        ({"AuthType": "MD5", "Key": "0" * 32}, "ChallengeResponseFailed", ""),
        ({"Username": "elsewhere"}, "FailedACL", "elsewhere"),
        ({}, "SuccessfulAuth", "amiwatch"),
    ],
)
async def test_each_login_is_reported_to_who_may_read_it(
    pbx: FakeAsterisk, login: dict[str, str], kind: str, account: str
) -> None:
    pbx.users["elsewhere"] = User("secret", permit=(ip_network("192.0.2.0/24"),))
    async with logged_in(pbx) as listener, calling(pbx) as caller:
        caller.say(LOGIN | login)
        (event,) = events_in((await listener.block()).encode())
        assert (event.kind, event.service, event.account) == (kind, "AMI", account)
        assert event.port == caller.writer.get_extra_info("sockname")[1]


async def test_a_user_may_be_logged_in_once_only(pbx: FakeAsterisk) -> None:
    pbx.allow_multiple_login = False
    async with logged_in(pbx) as first, calling(pbx) as second:
        await second.line()
        assert "Message: Login Already In Use" in await second.ask(**LOGIN)
        assert "Event: SessionLimit" in await first.block()


async def test_one_login_too_many_is_closed_without_a_greeting(pbx: FakeAsterisk) -> None:
    pbx.auth_limit = 1
    async with calling(pbx) as first, calling(pbx) as second:
        assert await first.line()
        assert await second.rest() == b""
        assert "accepted" in await first.ask(**LOGIN)
        async with calling(pbx) as third:
            assert await third.line() == b"Asterisk Call Manager/11.0.0\r\n"


async def test_who_may_not_read_security_hears_nothing(pbx: FakeAsterisk) -> None:
    pbx.users["deaf"] = User("secret", read=frozenset({"call"}))
    async with logged_in(pbx, "deaf") as caller:
        assert await pbx.emit(attempt_bytes(Case.NO_CREDENTIALS)) == 0
        assert "Ping: Pong" in await caller.ask(Action="Ping")


async def test_an_event_mask_stops_and_starts_events(pbx: FakeAsterisk) -> None:
    async with logged_in(pbx) as caller:
        assert "Events: Off" in await caller.ask(Action="Events", EventMask="off")
        assert await pbx.emit(attempt_bytes(Case.NO_CREDENTIALS)) == 0
        assert "Events: On" in await caller.ask(Action="Events", EventMask="security")
        assert await pbx.emit(attempt_bytes(Case.NO_CREDENTIALS)) == 1


# Actions


async def test_actions_are_answered_as_in_manager_c(pbx: FakeAsterisk) -> None:
    async with calling(pbx) as caller:
        await caller.line()
        assert await caller.ask(Action="Ping") == "Response: Error\r\nMessage: Permission denied\r\n\r\n"
        assert "Message: Missing action in request" in await caller.ask(ActionID="7")
        await caller.ask(**LOGIN)
        await caller.block()
        assert (await caller.ask(Action="Ping", ActionID="8")).startswith(
            "Response: Success\r\nActionID: 8\r\nPing: Pong\r\nTimestamp: "
        )


async def test_an_unknown_action_is_an_error_and_an_event(pbx: FakeAsterisk) -> None:
    async with logged_in(pbx) as caller:
        (event,) = events_in((await caller.ask(Action="Nonsense")).encode())
        assert (event.kind, event.detail) == ("RequestBadFormat", "Action: Nonsense")
        assert "Message: Invalid/unknown command: Nonsense. Use Action: ListCommands" in await caller.block()


async def test_an_action_without_the_right_is_an_error_and_an_event(pbx: FakeAsterisk) -> None:
    async with logged_in(pbx) as caller:
        (event,) = events_in((await caller.ask(Action="Originate")).encode())
        assert (event.kind, event.detail) == ("RequestNotAllowed", "Action: Originate")
        assert "Message: Permission denied" in await caller.block()


async def test_the_list_of_commands_shows_what_the_user_may(pbx: FakeAsterisk) -> None:
    pbx.users["caller"] = User("secret", write=frozenset({"originate"}))
    async with logged_in(pbx) as plain, logged_in(pbx, "caller") as caller:
        await plain.block()  # the other's login
        assert "Originate" not in await plain.ask(Action="ListCommands")
        assert "Originate: Originate a call.  (Priv: originate,all)\r\n" in await caller.ask(Action="ListCommands")


async def test_what_clients_said_can_be_looked_at_without_secrets(pbx: FakeAsterisk) -> None:
    async with logged_in(pbx):
        action = await pbx.wait_for_action("Login")
    assert action == {"Action": "Login", "ActionID": "1", "Username": "amiwatch"}
    assert "secret" not in repr(pbx.users)


# Playing


async def test_events_and_bytes_reach_all_who_listen(pbx: FakeAsterisk) -> None:
    async with logged_in(pbx) as one, logged_in(pbx) as two:
        await one.block()  # two's login
        assert await pbx.emit(security_event("ChallengeSent", account="1002"), event_bytes("InvalidAccountID")) == 2
        for caller in (one, two):
            assert "AccountID: 1002\r\n" in await caller.block()
            assert "Event: InvalidAccountID\r\n" in await caller.block()


@pytest.mark.parametrize("split", [None, 1000, 7])
async def test_a_recording_arrives_as_it_is(pbx: FakeAsterisk, split: int | None) -> None:
    pbx.split = split
    data = recordings.load(FOLDER / "ast22-pjsip-enum50-register.ami")
    assert data.startswith(b"Event: SuccessfulAuth\r\n")
    async with logged_in(pbx) as caller:
        playing = asyncio.create_task(pbx.play(FOLDER / "ast22-pjsip-enum50-register.ami", chunk=3000))
        assert await asyncio.wait_for(caller.reader.readexactly(len(data)), PATIENCE) == data
        assert await playing == len(data)


async def test_a_compressed_recording_plays_too(pbx: FakeAsterisk, tmp_path: Path) -> None:
    path = tmp_path / "short.ami.gz"
    path.write_bytes(gzip.compress(b"Asterisk Call Manager/11.0.0\r\n" + attempt_bytes(Case.RIGHT_PASSWORD)))
    async with logged_in(pbx) as caller:
        await pbx.play(path)
        assert "ChallengeSent" in await caller.block()
        assert "SuccessfulAuth" in await caller.block()


async def test_answers_come_between_the_messages_of_a_recording(pbx: FakeAsterisk) -> None:
    pbx.split = 50
    async with logged_in(pbx) as caller:
        for _ in range(20):
            caller.say({"Action": "Ping"})
        await pbx.play(FOLDER / "ast22-pjsip-enum50-register.ami", chunk=300)
        await pbx.wait_for_action("Ping", 20)
        caller.say({"Action": "Logoff"})
        items = Wire().feed(b"Asterisk Call Manager/11.0.0\r\n" + await caller.rest())
    assert [item for item in items if type(item).__name__ == "Tampered"] == []
    assert len([item for item in items if isinstance(item, SecurityEvent)]) == 96


def test_messages_keep_the_times_at_which_they_were_read() -> None:
    path = FOLDER / "ast22-pjsip-mixed-60s.ami"
    data = recordings.load(path)
    timed = list(recordings.timed(data, recordings.times(path), 1.0))
    assert b"".join(piece for _, piece in timed) == data
    moments = [at for at, _ in timed]
    assert moments == sorted(moments)
    assert moments[0] == 0.0
    assert 50.0 < moments[-1] < 70.0
    assert all(piece.endswith(b"\r\n\r\n") for _, piece in timed)
    faster = list(recordings.timed(data, recordings.times(path), 10.0))
    assert faster[-1][0] == pytest.approx(moments[-1] / 10)


async def test_a_recording_plays_at_its_own_pace(pbx: FakeAsterisk, tmp_path: Path) -> None:
    first, second = attempt_bytes(Case.NO_CREDENTIALS), attempt_bytes(Case.NO_CREDENTIALS)
    (tmp_path / "two.ami").write_bytes(first + second)
    times = [{"t": 5.0, "recv": len(first)}, {"t": 7.0, "sent": 9}, {"t": 9.0, "recv": len(second)}]
    (tmp_path / "two.times").write_text("".join(json.dumps(line) + "\n" for line in times))
    async with logged_in(pbx) as caller:
        began = asyncio.get_running_loop().time()
        await pbx.play(tmp_path / "two.ami", pace=50)
        assert asyncio.get_running_loop().time() - began >= 4.0 / 50
        assert await caller.reader.readexactly(len(first + second)) == first + second


# Misbehaving


async def test_a_client_that_does_not_read_is_dropped_in_mid_message() -> None:
    async with FakeAsterisk(write_timeout=0.05, send_buffer=4096) as pbx:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, (pbx.host, pbx.port))
        await asyncio.get_running_loop().sock_sendall(
            sock, b"Action: Login\r\nUsername: amiwatch\r\nSecret: secret\r\n\r\n"
        )
        await pbx.wait_for_login()
        await pbx.play(FLOOD)
        assert pbx.counts["dropped"] == 1
        await pbx.wait_for_close()
        data = bytearray()
        while chunk := await asyncio.get_running_loop().sock_recv(sock, 65536):
            data += chunk
        sock.close()
    assert len(data) < 1_000_000
    assert not data.endswith(b"\r\n\r\n")


async def test_a_client_that_reads_is_not_dropped() -> None:
    data = recordings.load(FLOOD)
    async with FakeAsterisk(write_timeout=5.0) as pbx, logged_in(pbx) as caller:
        playing = asyncio.create_task(pbx.play(FLOOD))
        assert await caller.reader.readexactly(len(data)) == data
        await playing
        assert pbx.counts["dropped"] == 0


async def test_frozen_it_accepts_and_says_nothing_until_it_thaws(pbx: FakeAsterisk) -> None:
    async with logged_in(pbx) as old:
        pbx.freeze()
        old.say({"Action": "Ping"})
        async with calling(pbx) as new:
            await pbx.wait_until(lambda: pbx.connections == 2)
            emitting = asyncio.create_task(pbx.emit(attempt_bytes(Case.NO_CREDENTIALS)))
            done, _ = await asyncio.wait({emitting}, timeout=0.02)
            assert not done
            assert old.reader._buffer == b""  # type: ignore[attr-defined]
            assert new.reader._buffer == b""  # type: ignore[attr-defined]
            pbx.thaw()
            assert await new.line() == b"Asterisk Call Manager/11.0.0\r\n"
            blocks = {(await old.block()).split("\r\n")[0] for _ in range(2)}
            assert blocks == {"Response: Success", "Event: ChallengeSent"}
            await emitting


async def test_stopped_it_ends_bare_refuses_and_comes_back_on_its_port(pbx: FakeAsterisk) -> None:
    port = pbx.port
    async with logged_in(pbx) as caller:
        await pbx.stop()
        assert await caller.rest() == b""
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(pbx.host, port)
    await pbx.start()
    assert pbx.port == port
    async with logged_in(pbx):
        await pbx.restart()
    async with logged_in(pbx):
        assert (pbx.port, pbx.counts["login"]) == (port, 3)


async def test_a_port_that_is_held_for_a_moment_longer_is_waited_for(pbx: FakeAsterisk) -> None:
    port = pbx.port
    await pbx.stop()
    # What a program started by another thread does to our sockets between its fork and its exec:
    with socket.create_server((pbx.host, port)) as held:
        starting = asyncio.create_task(pbx.start())
        await asyncio.sleep(0)
        assert not starting.done()
        held.close()
        await starting
    async with logged_in(pbx):
        assert pbx.port == port


async def test_a_reset_is_one(pbx: FakeAsterisk) -> None:
    async with logged_in(pbx) as caller:
        pbx.reset()
        with pytest.raises(ConnectionResetError):
            await caller.rest()


async def test_a_hang_up_is_a_bare_end(pbx: FakeAsterisk) -> None:
    async with logged_in(pbx) as caller:
        pbx.hang_up()
        assert await caller.rest() == b""


async def test_what_is_ignored_is_never_answered(pbx: FakeAsterisk) -> None:
    pbx.ignored.add("Ping")
    async with logged_in(pbx) as caller:
        caller.say({"Action": "Ping"})
        assert "Events: On" in await caller.ask(Action="Events", EventMask="all")


async def test_answers_may_be_slow(pbx: FakeAsterisk) -> None:
    async with logged_in(pbx) as caller:
        pbx.answer_delay = 0.05
        began = asyncio.get_running_loop().time()
        await caller.ask(Action="Ping")
        assert asyncio.get_running_loop().time() - began >= 0.05


async def test_waiting_for_what_never_comes_fails(pbx: FakeAsterisk) -> None:
    with pytest.raises(TimeoutError):
        await pbx.wait_for_login(timeout=0.01)


async def test_a_line_without_end_ends_the_connection(pbx: FakeAsterisk) -> None:
    async with calling(pbx) as caller:
        await caller.line()
        caller.writer.write(b"x" * 200_000)
        await pbx.wait_for_close()


async def test_an_asterisk_that_goes_down_says_so(pbx: FakeAsterisk) -> None:
    pbx.is_shutting_down = True
    async with calling(pbx) as caller:
        await caller.line()
        assert "Message: Asterisk is shutting down" in await caller.ask(**LOGIN)

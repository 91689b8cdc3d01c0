import asyncio
import itertools
import logging
import re
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from amiwatch.ami.client import AmiClient, Link, LinkState, asterisk_major, backoff, probe
from amiwatch.ami.connection import _keep_alive, connect
from amiwatch.ami.wire import Item, Tampered
from amiwatch.errors import AmiLoginRefused, AmiPeerUnknown, AmiUnreachable, ConfigurationError
from amiwatch.judgement.values import SecurityEvent
from amiwatch.testing.asterisk import FakeAsterisk, User
from amiwatch.testing.builders import Case, attempt_bytes, attempt_events, event_bytes
from amiwatch.testing.certificates import Certificate, make_certificate
from amiwatch.testing.recordings import load
from tests.corpus import FLOOD

CONNECTING, CONNECTED, HEARING, DEAF, LOST, REFUSED = LinkState

PATIENCE = 10.0
"""Seconds until a test fails instead of waiting for ever."""

FORGED = event_bytes("RequestNotAllowed", service="AMI", RequestType="Action: x\r\nRemoteAddress: IPV4/TCP/8.8.8.8/1")
"""A block with a header more than it may have, raised by AMI, where text has any length: only a Ping ends its taint."""


class Ear:
    """A sink that remembers, and tells when something is so."""

    def __init__(self) -> None:
        self.items: list[Item] = []
        self.changes: list[tuple[LinkState, str]] = []
        self.pbxs: set[str] = set()
        self._waiting: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []

    def receive(self, pbx: str, items: Sequence[Item]) -> None:
        self.pbxs.add(pbx)
        self.items.extend(items)
        self._wake()

    def link_changed(self, pbx: str, state: LinkState, detail: str) -> None:
        self.pbxs.add(pbx)
        self.changes.append((state, detail))
        self._wake()

    @property
    def states(self) -> list[LinkState]:
        return [state for state, _ in self.changes]

    @property
    def sip(self) -> list[SecurityEvent]:
        return [item for item in self.items if isinstance(item, SecurityEvent) and item.service != "AMI"]

    async def until(self, is_so: Callable[[], bool]) -> None:
        if not is_so():
            waiting = (is_so, asyncio.get_running_loop().create_future())
            self._waiting.append(waiting)
            async with asyncio.timeout(PATIENCE):
                await waiting[1]

    async def state(self, state: LinkState, count: int = 1) -> str:
        """Wait until this state was reached so often, and return its detail."""
        await self.until(lambda: self.states.count(state) >= count)
        return [detail for reached, detail in self.changes if reached is state][count - 1]

    def _wake(self) -> None:
        for is_so, future in self._waiting:
            if not future.done() and is_so():
                future.set_result(None)


def link_to(pbx: FakeAsterisk, **settings: Any) -> Link:
    """A link whose delays are as short as a test likes them."""
    short = {"connect_timeout": 5.0, "self_test_timeout": 2.0, "retry_first": 0.01, "retry_longest": 0.02}
    short |= {"refused_first": 0.01, "refused_longest": 0.02}
    return Link(
        **{"name": "pbx", "host": pbx.host, "port": pbx.port, "username": "amiwatch", "secret": "secret"}
        | short
        | settings
    )


@asynccontextmanager
async def listening(link: Link, **details: Any) -> AsyncIterator[tuple[AmiClient, Ear]]:
    ear = Ear()
    client = AmiClient(link, ear, **details)
    task = asyncio.create_task(client.run())
    try:
        yield client, ear
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    assert task.cancelled()


@pytest.fixture
async def pbx() -> AsyncIterator[FakeAsterisk]:
    async with FakeAsterisk() as pbx:
        yield pbx


@pytest.fixture
async def tls_pbx(certificate: Certificate) -> AsyncIterator[FakeAsterisk]:
    async with FakeAsterisk(tls=certificate.server_context()) as pbx:
        yield pbx


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("tls"), "pbx.example", "127.0.0.1", "::1")


# Logging in


async def test_a_link_logs_in_by_challenge_tests_itself_and_hears(pbx: FakeAsterisk) -> None:
    async with listening(link_to(pbx)) as (client, ear):
        await ear.state(HEARING)
        assert ear.states == [CONNECTED, HEARING]
        assert (client.state, client.detail, client.logins) == (HEARING, "", 1)
        assert (client.banner, client.asterisk) == ("Asterisk Call Manager/11.0.0", 22)
        login = await pbx.wait_for_action("Login")
        assert (login["AuthType"], login["Events"], pbx.counts["Challenge"]) == ("MD5", "security", 1)


async def test_a_link_may_send_the_secret_as_it_is(pbx: FakeAsterisk) -> None:
    async with listening(link_to(pbx, md5=False)) as (_, ear):
        await ear.state(HEARING)
        assert "AuthType" not in await pbx.wait_for_action("Login")
        assert pbx.counts["Challenge"] == 0


async def test_action_ids_are_random_and_never_used_twice(pbx: FakeAsterisk) -> None:
    async with listening(link_to(pbx, ping_interval=0.01)):
        await pbx.wait_for_action("Ping", 3)
    ids = [action["ActionID"] for action in pbx.actions]
    assert len(set(ids)) == len(ids)
    assert all(len(action_id) == 32 for action_id in ids)


@pytest.mark.parametrize("split", [1, 2, 7, 64])
async def test_a_link_hears_the_same_however_the_bytes_are_split(pbx: FakeAsterisk, split: int) -> None:
    pbx.split = split
    data = attempt_bytes(Case.WRONG_PASSWORD, account="1002") + attempt_bytes(Case.RIGHT_PASSWORD)
    async with listening(link_to(pbx)) as (client, ear):
        await ear.state(HEARING)
        await pbx.emit(data)
        await ear.until(lambda: len(ear.sip) == 4)
        assert [event.kind for event in ear.sip] == [
            "ChallengeSent",
            "ChallengeResponseFailed",
            "ChallengeSent",
            "SuccessfulAuth",
        ]
        assert client.asterisk == 22


async def test_several_links_live_beside_each_other(pbx: FakeAsterisk) -> None:
    async with (
        FakeAsterisk() as other,
        listening(link_to(pbx, name="one")) as (_, one),
        listening(link_to(other, name="two")) as (_, two),
    ):
        await one.state(HEARING)
        await two.state(HEARING)
        await other.emit(*attempt_events(Case.NO_CREDENTIALS))
        await two.until(lambda: len(two.sip) == 1)
    assert (one.pbxs, two.pbxs, one.sip) == ({"one"}, {"two"}, [])


async def test_ipv6_is_as_good_as_ipv4() -> None:
    async with FakeAsterisk(host="::1") as pbx, listening(link_to(pbx)) as (_, ear):
        await ear.state(HEARING)


# Refused


@pytest.mark.parametrize("md5", [True, False])
async def test_a_wrong_secret_is_said_with_what_to_do(pbx: FakeAsterisk, md5: bool) -> None:
    async with listening(link_to(pbx, secret="wrong", md5=md5)) as (client, ear):
        detail = await ear.state(REFUSED)
        assert "'Authentication failed'" in detail
        assert "manager.conf" in detail
        assert "wrong" not in detail.replace("what is wrong", "")
        assert client.logins == 0


async def test_a_login_in_use_is_told_from_a_wrong_secret(pbx: FakeAsterisk) -> None:
    pbx.allow_multiple_login = False
    async with listening(link_to(pbx)) as (_, first):
        await first.state(HEARING)
        async with listening(link_to(pbx)) as (_, second):
            assert "allowmultiplelogin=no" in await second.state(REFUSED)


async def test_a_host_that_is_not_permitted_is_refused(pbx: FakeAsterisk) -> None:
    pbx.users["amiwatch"] = User("secret", permit=(ip_network("192.0.2.0/24"),))
    async with listening(link_to(pbx)) as (_, ear):
        assert "permit" in await ear.state(REFUSED)


async def test_refusals_are_loud_each_time_and_retried_slowly(
    pbx: FakeAsterisk, caplog: pytest.LogCaptureFixture
) -> None:
    drawn = []

    def draw(low: float, high: float) -> float:
        drawn.append((low, high))
        return 0.0

    link = link_to(pbx, secret="wrong", refused_first=60.0, refused_longest=300.0)
    async with listening(link, draw=draw):
        await pbx.wait_until(lambda: pbx.counts["refused"] >= 4 and len(drawn) >= 4)
    assert drawn[:4] == [(60.0, 90.0), (120.0, 180.0), (200.0, 300.0), (200.0, 300.0)]
    assert len([record for record in caplog.records if record.levelno == logging.WARNING]) >= 4
    assert "wrong" not in caplog.text


async def test_a_corrected_secret_is_taken_at_the_next_try(pbx: FakeAsterisk) -> None:
    pbx.users["amiwatch"] = User("other")
    async with listening(link_to(pbx)) as (client, ear):
        await ear.state(REFUSED)
        pbx.users["amiwatch"] = User("secret")
        await ear.state(HEARING)
        assert ear.states == [REFUSED, CONNECTED, HEARING]
        assert client.detail == ""


# Deaf


async def test_a_user_without_the_class_is_deaf_and_told_what_to_do(
    pbx: FakeAsterisk, caplog: pytest.LogCaptureFixture
) -> None:
    pbx.users["amiwatch"] = User("secret", read=frozenset({"call"}))
    async with listening(link_to(pbx, self_test_timeout=0.05)) as (client, ear):
        assert "read = security" in await ear.state(DEAF)
        assert client.state is DEAF
        assert pbx.connections == 1  # it stays connected
    assert "read = security" in caplog.text


async def test_a_deaf_link_that_gets_an_event_hears(pbx: FakeAsterisk) -> None:
    pbx.hides_logins = True
    async with listening(link_to(pbx, self_test_timeout=0.05)) as (_, ear):
        await ear.state(DEAF)
        await pbx.emit(*attempt_events(Case.NO_CREDENTIALS))
        await ear.state(HEARING)


async def test_somebody_elses_login_is_not_our_self_test(pbx: FakeAsterisk) -> None:
    pbx.hides_logins = True
    async with listening(link_to(pbx, self_test_timeout=0.5)) as (_, ear):
        await pbx.wait_for_login()
        await pbx.emit(event_bytes("SuccessfulAuth", service="AMI", account="somebody", source="127.0.0.1"))
        await pbx.emit(event_bytes("SuccessfulAuth", service="AMI", account="amiwatch", source="127.0.0.1", port=1))
        await ear.until(lambda: len(ear.items) == 2)
        await ear.state(DEAF)


async def test_our_login_through_an_address_translator_counts(pbx: FakeAsterisk) -> None:
    pbx.hides_logins = True
    async with listening(link_to(pbx)) as (_, ear):
        await pbx.wait_for_login()
        await pbx.emit(event_bytes("SuccessfulAuth", service="AMI", account="amiwatch", source="192.0.2.77", port=1))
        await ear.state(HEARING)


# Lost


async def test_a_frozen_peer_is_lost_in_interval_and_timeout(pbx: FakeAsterisk) -> None:
    async with listening(link_to(pbx, ping_interval=0.05, ping_timeout=0.05)) as (client, ear):
        await ear.state(HEARING)
        pbx.freeze()
        assert "not a byte and no answer to Ping" in await ear.state(LOST)
        pbx.thaw()
        await ear.state(HEARING, 2)
        assert client.logins == 2


@pytest.mark.kernel
async def test_a_peer_whose_packets_vanish_is_lost_and_found(pbx: FakeAsterisk) -> None:
    rule = ["INPUT", "-p", "tcp", "--sport", str(pbx.port), "-j", "DROP"]
    link = link_to(pbx, ping_interval=0.05, ping_timeout=0.1, connect_timeout=0.2)
    async with listening(link) as (client, ear):
        await ear.state(HEARING)
        subprocess.run(["iptables", "-w", "-I", *rule], check=True)
        try:
            assert "not a byte and no answer to Ping" in await ear.state(LOST)
            await ear.until(lambda: "nothing came back" in client.detail)
        finally:
            subprocess.run(["iptables", "-w", "-D", *rule], check=True)
        await ear.state(HEARING, 2)


def test_the_defaults_notice_a_dead_peer_within_30_seconds() -> None:
    link = Link("pbx", "192.0.2.10", "amiwatch", "secret")
    assert link.self_test_timeout + link.ping_interval + link.ping_timeout <= 30


async def test_bytes_without_an_answer_are_life(pbx: FakeAsterisk) -> None:
    pbx.ignored.add("Ping")
    async with listening(link_to(pbx, ping_interval=0.01, ping_timeout=0.5)) as (client, ear):
        await ear.state(HEARING)
        for count in range(1, 6):
            await pbx.wait_for_action("Ping", count)
            await pbx.emit(*attempt_events(Case.NO_CREDENTIALS))
        assert ear.states == [CONNECTED, HEARING]
        assert client._connection is not None
        assert len(client._connection.responses) <= 1  # what is not answered is forgotten


async def test_a_restart_is_a_gap_and_the_link_comes_back(pbx: FakeAsterisk, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "amiwatch")
    async with listening(link_to(pbx)) as (client, ear):
        await ear.state(HEARING)
        await pbx.stop()
        assert await ear.state(LOST) == "Asterisk closed the connection"
        await ear.until(lambda: "no connection" in client.detail)
        await pbx.start()
        await ear.state(HEARING, 2)
        assert client.logins == 2
        losses = [record for record in caplog.records if "lost" in record.getMessage()]
        assert len(losses) == 1  # the first is loud, its repeats are quiet
        assert caplog.text.count("AMI link hears") == 2  # and the recovery is said
        pbx.hang_up()
        await ear.state(HEARING, 3)
        assert caplog.text.count("AMI link lost") == 2  # the next loss is a first one again


async def test_a_reset_is_a_loss(pbx: FakeAsterisk) -> None:
    async with listening(link_to(pbx)) as (_, ear):
        await ear.state(HEARING)
        pbx.reset()
        assert "reset" in await ear.state(LOST)
        await ear.state(HEARING, 2)


async def test_a_message_cut_off_by_the_end_is_tampered(pbx: FakeAsterisk) -> None:
    async with listening(link_to(pbx)) as (_, ear):
        await ear.state(HEARING)
        await pbx.emit(attempt_bytes(Case.NO_CREDENTIALS)[:-30])
        pbx.hang_up()
        await ear.state(LOST)
        assert [type(item) for item in ear.items[1:]] == [Tampered]


async def test_an_asterisk_that_goes_down_is_lost_and_not_refused(pbx: FakeAsterisk) -> None:
    pbx.is_shutting_down = True
    async with listening(link_to(pbx)) as (_, ear):
        assert await ear.state(LOST) == "Asterisk is shutting down"


async def test_nobody_there_is_lost(pbx: FakeAsterisk) -> None:
    await pbx.stop()
    async with listening(link_to(pbx)) as (client, ear):
        assert f"no connection to 127.0.0.1 port {pbx.port}: Connection refused" in await ear.state(LOST)
        assert (client.banner, client.asterisk, client.last_byte_at) == ("", None, None)


async def test_a_name_that_is_none_is_lost(pbx: FakeAsterisk) -> None:
    async with listening(link_to(pbx, host="no.such.name.invalid")) as (_, ear):
        assert "no connection to no.such.name.invalid" in await ear.state(LOST)


async def test_a_peer_that_says_nothing_is_lost(pbx: FakeAsterisk) -> None:
    pbx.freeze()
    async with listening(link_to(pbx, connect_timeout=0.05)) as (_, ear):
        assert "no greeting within 0.05 s: is this the port for TLS?" in await ear.state(LOST)


async def test_a_login_that_is_never_answered_is_lost(pbx: FakeAsterisk) -> None:
    pbx.ignored.add("Login")
    async with listening(link_to(pbx, connect_timeout=0.05)) as (_, ear):
        assert "no answer to Login within 0.05 s" in await ear.state(LOST)


async def test_too_many_logins_under_way_is_a_loss_that_says_so(pbx: FakeAsterisk) -> None:
    pbx.auth_limit = 0
    async with listening(link_to(pbx)) as (_, ear):
        assert "authlimit" in await ear.state(LOST)


@pytest.mark.parametrize("split", [None, 1])
async def test_what_is_no_asterisk_is_refused(pbx: FakeAsterisk, split: int | None) -> None:
    pbx.banner, pbx.split = b"HTTP/1.1 400 Bad Request\r\n\r\n", split
    async with listening(link_to(pbx)) as (_, ear):
        detail = await ear.state(REFUSED)
        assert re.search(r"no Asterisk manager, it says b'H[^']*': check host and port", detail)
        assert split or r"'HTTP/1.1 400 Bad Request\r\n\r\n'" in detail
        assert pbx.counts["Login"] == 0
        assert ear.items == []


async def test_delays_begin_anew_after_a_steady_time(pbx: FakeAsterisk) -> None:
    drawn = []

    def draw(low: float, high: float) -> float:
        drawn.append(low)
        return 0.0

    async with listening(link_to(pbx, retry_first=1.0, retry_longest=60.0, steady_after=0.0), draw=draw) as (_, ear):
        for count in (1, 2, 3):
            await ear.state(HEARING, count)
            pbx.hang_up()
        await ear.state(LOST, 3)
    assert drawn == [1.0, 1.0, 1.0]


async def test_delays_grow_while_the_link_is_not_steady(pbx: FakeAsterisk) -> None:
    drawn = []

    def draw(low: float, high: float) -> float:
        drawn.append(low)
        return 0.0

    async with listening(link_to(pbx, retry_first=1.0, retry_longest=60.0), draw=draw) as (_, ear):
        for count in (1, 2, 3):
            await ear.state(HEARING, count)
            pbx.hang_up()
        await ear.state(LOST, 3)
    assert drawn == [1.0, 2.0, 4.0]


def test_backoff_doubles_to_a_limit() -> None:
    assert list(itertools.islice(backoff(1.0, 60.0, max), 8)) == [1.5, 3.0, 6.0, 12.0, 24.0, 48.0, 60.0, 60.0]
    assert list(itertools.islice(backoff(1.0, 60.0, min), 8)) == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 40.0, 40.0]
    delays = list(itertools.islice(backoff(60.0, 300.0), 100))
    assert all(60.0 <= delay <= 300.0 for delay in delays)
    assert len(set(delays)) > 90


async def test_a_gap_begins_with_the_last_byte(pbx: FakeAsterisk) -> None:
    async with listening(link_to(pbx, ping_interval=60.0)) as (client, ear):
        await ear.state(HEARING)
        before = time.time()
        await pbx.emit(*attempt_events(Case.NO_CREDENTIALS))
        await ear.until(lambda: bool(ear.sip))
        heard = client.last_byte_at
        assert heard is not None
        assert before <= heard <= time.time()
        pbx.hang_up()
        await ear.state(LOST)
        assert client.last_byte_at == heard


# TLS


async def test_tls_with_an_own_ca(tls_pbx: FakeAsterisk, certificate: Certificate) -> None:
    async with listening(link_to(tls_pbx, tls=True, ca_file=certificate.file)) as (_, ear):
        await ear.state(HEARING)
        await tls_pbx.emit(*attempt_events(Case.NO_CREDENTIALS))
        await ear.until(lambda: len(ear.sip) == 1)
        assert [item.transport for item in ear.items if isinstance(item, SecurityEvent)] == ["TLS", "UDP"]


async def test_tls_over_ipv6_to_a_name(certificate: Certificate) -> None:
    async with FakeAsterisk(host="::1", tls=certificate.server_context()) as pbx:
        link = link_to(pbx, tls=True, ca_file=certificate.file, server_name="pbx.example")
        async with listening(link) as (_, ear):
            await ear.state(HEARING)


async def test_a_certificate_of_a_stranger_is_not_trusted(
    tls_pbx: FakeAsterisk, certificate: Certificate, tmp_path: Path
) -> None:
    other = make_certificate(tmp_path, "127.0.0.1")
    for ca_file in (other.file, None):
        async with listening(link_to(tls_pbx, tls=True, ca_file=ca_file)) as (_, ear):
            assert "certificate is not trusted" in await ear.state(LOST)
    assert tls_pbx.counts["Login"] == 0


async def test_a_certificate_for_another_name_is_not_trusted(tls_pbx: FakeAsterisk, certificate: Certificate) -> None:
    link = link_to(tls_pbx, tls=True, ca_file=certificate.file, server_name="other.example")
    async with listening(link) as (_, ear):
        assert "other.example" in await ear.state(LOST)


async def test_verification_can_be_switched_off(tls_pbx: FakeAsterisk) -> None:
    async with listening(link_to(tls_pbx, tls=True, verify=False)) as (_, ear):
        await ear.state(HEARING)


async def test_a_missing_ca_file_is_named(pbx: FakeAsterisk, tmp_path: Path) -> None:
    async with listening(link_to(pbx, tls=True, ca_file=tmp_path / "none.pem")) as (_, ear):
        assert "none.pem" in await ear.state(LOST)


async def test_tls_to_a_plain_port_says_so(pbx: FakeAsterisk) -> None:
    async with listening(link_to(pbx, tls=True, verify=False)) as (_, ear):
        assert "is this the port without TLS?" in await ear.state(LOST)


async def test_a_tls_handshake_that_never_ends_is_lost_and_leaves_nothing(pbx: FakeAsterisk) -> None:
    pbx.freeze()
    async with listening(link_to(pbx, tls=True, verify=False, connect_timeout=0.05, retry_first=60.0)) as (_, ear):
        assert "nothing came back within 0.05 s" in await ear.state(LOST)
        pbx.thaw()
        await pbx.wait_for_close()


async def test_plain_to_a_tls_port_says_so(tls_pbx: FakeAsterisk) -> None:
    async with listening(link_to(tls_pbx, connect_timeout=0.1)) as (_, ear):
        assert "is this the port for TLS?" in await ear.state(LOST)


async def test_tls_is_cut_like_any_other(tls_pbx: FakeAsterisk, certificate: Certificate) -> None:
    async with listening(link_to(tls_pbx, tls=True, ca_file=certificate.file)) as (_, ear):
        await ear.state(HEARING)
        tls_pbx.reset()
        await ear.state(HEARING, 2)
        tls_pbx.hang_up()
        await ear.state(HEARING, 3)


# Tampering


async def test_a_taint_ends_with_the_answer_to_our_ping(pbx: FakeAsterisk) -> None:
    async with listening(link_to(pbx, ping_interval=60.0)) as (client, ear):
        await ear.state(HEARING)
        await pbx.emit(FORGED + attempt_bytes(Case.NO_CREDENTIALS, account="tainted"))
        await pbx.wait_for_action("Ping")
        await ear.until(lambda: len(ear.sip) == 1)
        assert ear.sip[0].tainted
        await asyncio.wait_for(client._connection.ping(), PATIENCE)  # type: ignore[union-attr]
        await pbx.emit(attempt_bytes(Case.NO_CREDENTIALS, account="clean"))
        await ear.until(lambda: len(ear.sip) == 2)
        assert [(event.account, event.tainted) for event in ear.sip] == [("tainted", True), ("clean", False)]
        assert pbx.counts["Ping"] == 1


async def test_a_taint_ends_at_the_very_place_of_the_answer(pbx: FakeAsterisk) -> None:
    pbx.ignored.add("Ping")
    async with listening(link_to(pbx, ping_interval=60.0)) as (_, ear):
        await ear.state(HEARING)
        await pbx.emit(FORGED)
        action_id = (await pbx.wait_for_action("Ping"))["ActionID"]
        wrong = b"Response: Success\r\nActionID: " + b"0" * 32 + b"\r\nPing: Pong\r\n\r\n"
        right = f"Response: Success\r\nActionID: {action_id}\r\nPing: Pong\r\n\r\n".encode()
        before, after = (attempt_bytes(Case.NO_CREDENTIALS, account=name) for name in ("before", "after"))
        await pbx.emit(wrong + before + right + after)  # one read
        await ear.until(lambda: len(ear.sip) == 2)
        assert [(event.account, event.tainted) for event in ear.sip] == [("before", True), ("after", False)]


async def test_one_ping_at_a_time_answers_a_flood_of_forgeries(pbx: FakeAsterisk) -> None:
    pbx.ignored.add("Ping")
    async with listening(link_to(pbx, ping_interval=60.0)) as (_, ear):
        await ear.state(HEARING)
        for _ in range(20):
            await pbx.emit(FORGED)
        await ear.until(lambda: sum(isinstance(item, Tampered) for item in ear.items) >= 20)
        await pbx.wait_for_action("Ping")
        assert pbx.counts["Ping"] == 1


async def test_a_ping_that_is_never_answered_is_sent_again(pbx: FakeAsterisk) -> None:
    pbx.ignored.add("Ping")
    async with listening(link_to(pbx, ping_interval=0.01, ping_timeout=0.5)) as (_, ear):
        await ear.state(HEARING)
        await pbx.emit(FORGED)
        await pbx.wait_for_action("Ping")
        pbx.ignored.clear()
        await pbx.emit(FORGED)
        await pbx.wait_for_action("Ping", 3)
        assert ear.states == [CONNECTED, HEARING]


# Safety of our own process


async def test_nothing_is_left_after_a_cancelled_run(pbx: FakeAsterisk) -> None:
    loop = asyncio.get_running_loop()
    before = asyncio.all_tasks()
    async with listening(link_to(pbx)) as (_, ear):
        await ear.state(HEARING)
    await pbx.wait_for_close()
    assert (pbx.connections, asyncio.all_tasks() - before) == (0, set())
    assert [timer for timer in loop._scheduled if not timer.cancelled()] == []  # type: ignore[attr-defined]


async def test_nothing_is_left_after_a_run_cancelled_while_it_waits(pbx: FakeAsterisk) -> None:
    before = asyncio.all_tasks()
    await pbx.stop()
    async with listening(link_to(pbx, retry_first=60.0, retry_longest=60.0)) as (_, ear):
        await ear.state(LOST)
    await pbx.start()
    assert asyncio.all_tasks() - before == set()
    assert pbx.counts["connected"] == 0


async def test_nothing_is_left_after_a_run_cancelled_during_the_login(pbx: FakeAsterisk) -> None:
    pbx.ignored.add("Login")
    async with listening(link_to(pbx)):
        await pbx.wait_for_action("Login")
    await pbx.wait_for_close()
    assert pbx.connections == 0


async def test_a_sink_that_raises_costs_no_event_and_no_link(
    pbx: FakeAsterisk, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Ear):
        def receive(self, pbx: str, items: Sequence[Item]) -> None:
            super().receive(pbx, items)
            raise RuntimeError("the sink is broken")

        def link_changed(self, pbx: str, state: LinkState, detail: str) -> None:
            super().link_changed(pbx, state, detail)
            raise RuntimeError("the sink is broken")

    ear = Broken()
    client = AmiClient(link_to(pbx), ear)
    task = asyncio.create_task(client.run())
    await ear.state(HEARING)
    await pbx.emit(*attempt_events(Case.NO_CREDENTIALS))
    await ear.until(lambda: len(ear.sip) == 1)
    await pbx.emit(*attempt_events(Case.NO_CREDENTIALS))
    await ear.until(lambda: len(ear.sip) == 2)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert (pbx.counts["connected"], client.sink_faults) == (1, 5)
    assert caplog.text.count("AMI sink failed") == 1


@pytest.mark.parametrize("text", ["a\r\nAction: Originate", "a\nb", "a\rb", "a\0b", "a\udcff"])
def test_what_would_break_out_of_its_line_is_a_mistake(text: str) -> None:
    for field in ("username", "secret"):
        with pytest.raises(ConfigurationError, match=f"the {field} of the PBX 'pbx'") as caught:
            Link(**{"name": "pbx", "host": "192.0.2.10", "username": "u", "secret": "s"} | {field: text})  # type: ignore[arg-type]
        assert "Originate" not in str(caught.value)


async def test_the_kernel_watches_the_peer_too(pbx: FakeAsterisk) -> None:
    async with connect(link_to(pbx), lambda items: None) as connection:
        sock = connection.transport.get_extra_info("socket")
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 15_000


def test_a_socket_that_can_not_be_watched_is_used_all_the_same() -> None:
    one, two = socket.socketpair()  # knows nothing of TCP
    with one, two:
        _keep_alive(one)


async def test_panoramisks_own_pings_never_start(pbx: FakeAsterisk) -> None:
    async with connect(link_to(pbx), lambda items: None) as connection:
        await connection.login()
        assert connection._manager.pinger.cancelled()


async def test_no_action_takes_a_line_break(pbx: FakeAsterisk) -> None:
    async with connect(link_to(pbx), lambda items: None) as connection:
        await connection.login()
        with pytest.raises(ValueError, match="break out of its line"):
            await connection.ask("Ping", Whatever="x\r\nAction: Originate")


async def test_an_action_on_a_dead_connection_raises_at_once(pbx: FakeAsterisk) -> None:
    async with connect(link_to(pbx), lambda items: None) as connection:
        await connection.login()
        await connection.end()
        with pytest.raises(AmiUnreachable):
            await connection.ask("Ping")
        await connection.end()


async def test_an_action_in_flight_ends_with_its_connection(pbx: FakeAsterisk) -> None:
    pbx.ignored.add("Ping")
    async with connect(link_to(pbx), lambda items: None) as connection:
        await connection.login()
        asking = asyncio.create_task(connection.ask("Ping"))
        pong = connection.ping()
        await pbx.wait_for_action("Ping", 2)
        pbx.hang_up()
        with pytest.raises(AmiUnreachable, match="closed the connection"):
            await asking
        assert pong.cancelled()


def test_a_link_shows_no_secret() -> None:
    assert "hunter2" not in repr(Link("pbx", "192.0.2.10", "amiwatch", "hunter2"))


@pytest.mark.parametrize(
    ("banner", "major"),
    [("2.10.6", 13), ("5.0.5", 16), ("7.0.3", 18), ("9.0.0", 20), ("10.0.0", 21), ("11.0.0", 22), ("12.0.0", 23)],
)
def test_the_banner_tells_asterisks_version(banner: str, major: int) -> None:
    assert asterisk_major(f"Asterisk Call Manager/{banner}") == major


@pytest.mark.parametrize("banner", ["", "Asterisk Call Manager/", "Asterisk Call Manager/1.1", "HTTP/1.1 200 OK"])
def test_another_banner_tells_none(banner: str) -> None:
    assert asterisk_major(banner) is None


# One visit


async def test_a_probe_finds_a_user_as_it_should_be(pbx: FakeAsterisk) -> None:
    found = await probe(link_to(pbx))
    assert (found.banner, found.asterisk, found.is_hearing, found.excess) == (
        "Asterisk Call Manager/11.0.0",
        22,
        True,
        (),
    )
    assert found.actions == {"Challenge", "Events", "ListCommands", "Login", "Logoff", "Ping"}
    assert found.seconds > 0
    await pbx.wait_for_action("Logoff")
    await pbx.wait_for_close()


async def test_a_probe_names_rights_that_nobody_needs(pbx: FakeAsterisk) -> None:
    pbx.users["amiwatch"] = User("secret", write=frozenset({"system", "originate"}))
    assert (await probe(link_to(pbx))).excess == ("GetConfig", "Originate", "Reload")


async def test_a_probe_tells_deaf(pbx: FakeAsterisk) -> None:
    pbx.users["amiwatch"] = User("secret", read=frozenset())
    assert not (await probe(link_to(pbx, self_test_timeout=0.05))).is_hearing


async def test_a_probe_raises_what_a_person_can_read(pbx: FakeAsterisk) -> None:
    with pytest.raises(AmiLoginRefused, match="permit, deny and acl"):
        await probe(link_to(pbx, secret="wrong"))
    pbx.banner = b"SSH-2.0-OpenSSH_9.2\r\n"
    with pytest.raises(AmiPeerUnknown, match="it says b'SSH"):
        await probe(link_to(pbx))
    await pbx.stop()
    with pytest.raises(AmiUnreachable, match="no connection to"):
        await probe(link_to(pbx))


# Floods


async def test_a_flood_is_read_whole_with_asterisks_own_write_timeout() -> None:
    async with FakeAsterisk(write_timeout=0.1) as pbx, listening(link_to(pbx)) as (client, ear):
        await ear.state(HEARING)
        await pbx.play(FLOOD)
        data = await asyncio.to_thread(load, FLOOD)
        expected = data.count(b"Event: ")
        await ear.until(lambda: len(ear.items) == 1 + expected)
        assert expected > 50_000
        assert (pbx.counts["dropped"], client.logins, client.skipped) == (0, 1, 0)
        assert all(isinstance(item, SecurityEvent) and not item.tainted for item in ear.items)


async def test_a_message_longer_than_any_is_skipped_and_counted(pbx: FakeAsterisk) -> None:
    async with listening(link_to(pbx)) as (client, ear):
        await ear.state(HEARING)
        await pbx.emit(event_bytes("ChallengeSent", session="x" * 2_000_000))
        await pbx.wait_for_action("Ping")
        await asyncio.wait_for(client._connection.ping(), PATIENCE)  # type: ignore[union-attr]
        await pbx.emit(attempt_bytes(Case.NO_CREDENTIALS))
        await ear.until(lambda: len(ear.sip) == 1)
        assert not ear.sip[0].tainted
        skipped = client.skipped
        assert skipped > 1_900_000
        pbx.hang_up()
        await ear.state(HEARING, 2)
        assert client.skipped == skipped

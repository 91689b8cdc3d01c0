"""From a recorded or built attack to a packet that no longer arrives, and back."""

import asyncio
import ipaddress
import socket
import subprocess
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest

from amiwatch.firewall import libnftables
from amiwatch.firewall.base import Entry
from amiwatch.firewall.ipset import IpsetFirewall
from amiwatch.firewall.rule import DropRule
from amiwatch.firewall.table import make_firewall, make_rule
from amiwatch.store import requests
from amiwatch.store.reader import Reader
from amiwatch.testing.asterisk import FakeAsterisk
from amiwatch.testing.builders import Case, attempt_bytes
from amiwatch.testing.netns import Wire
from tests.corpus import FOLDER
from tests.daemon.conftest import PATIENCE, Start

pytestmark = pytest.mark.kernel

PHONE, PHONE6 = "192.0.2.101", "2001:db8:cafe::101"
ATTACKER, ATTACKER6 = "198.51.100.20", "2001:db8:bad::20"


async def clear(kind: str) -> None:
    """Leave nothing of ours in the namespace that all tests share."""
    rule, firewall = make_rule(kind), make_firewall(kind)
    assert rule is not None
    await rule.remove()
    await firewall.remove_sets()
    await firewall.close()


@pytest.fixture(autouse=True)
async def clean_kernel() -> None:
    await clear("ipset")


@pytest.fixture(params=["ipset", "nftables"])
async def either(request: pytest.FixtureRequest, watched: Start) -> AsyncIterator[Start]:
    """Start a daemon with each backend; for what must be so whichever it is."""
    if request.param == "nftables" and (why := libnftables.missing()):
        pytest.skip(why)
    await clear(request.param)
    # In capitals it is the setting; ``firewall`` would be a firewall of our own instead.
    yield partial(watched, FIREWALL=request.param)
    await clear(request.param)


def arrives(wire: Wire, address: str, *, port: int = 5060) -> bool:
    """Send a packet from there, and behind it one from a phone that nobody bans: what came before it has arrived."""
    family = 6 if ":" in address else 4
    marker = PHONE6 if family == 6 else PHONE
    with wire.receiver(port, family) as sip:
        wire.send_from(address, port, b"OPTIONS from the one in question")
        wire.send_from(marker, port, b"OPTIONS from the phone")
        _, (sender, *_) = sip.recvfrom(100)
        return ipaddress.ip_address(sender) == ipaddress.ip_address(address)


async def outcome(path: Path, number: int) -> requests.Outcome:
    found = await asyncio.to_thread(requests.wait_outcome, path, number, PATIENCE)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("attacker", "network"), [(ATTACKER, f"{ATTACKER}/32"), (ATTACKER6, "2001:db8:bad::/64")], ids=["IPv4", "IPv6"]
)
async def test_an_attacker_stops_arriving_and_arrives_again_after_unban(
    either: Start, wire: Wire, attacker: str, network: str, tmp_path: Path
) -> None:
    async with either() as it:
        assert arrives(wire, attacker)
        await it.attack(attacker)
        await it.watcher.until_banned(network)
        assert not arrives(wire, attacker)
        database = tmp_path / "amiwatch.db"
        asked = await asyncio.to_thread(requests.ask, database, "unban", attacker, by="a test")
        assert (await outcome(database, asked)).is_done
        assert arrives(wire, attacker)
        await it.daemon.flush()
        with Reader(database) as reader:
            (ban,) = reader.history(ipaddress.ip_network(network))
            assert (ban.network, ban.ended_by) == (network, "a test")
            assert reader.evidence(ban.id)


async def test_the_recorded_minute_ends_with_attackers_dropped_and_phones_heard(either: Start, wire: Wire) -> None:
    async with either() as it:
        await it.pbx.play(FOLDER / "ast22-pjsip-mixed-60s.ami")
        await it.watcher.until_banned("198.51.100.20/32", "198.51.100.21/32", "198.51.100.23/32", "2001:db8:bad::/64")
        for attacker in ("198.51.100.20", "198.51.100.21", "198.51.100.23", "2001:db8:bad::20"):
            assert not arrives(wire, attacker)
        for phone in ("192.0.2.102", "192.0.2.103"):
            assert arrives(wire, phone)


async def test_other_ports_of_the_host_stay_open_to_a_banned_address(either: Start, wire: Wire) -> None:
    async with either() as it:
        await it.attack(ATTACKER)
        await it.watcher.until_banned(f"{ATTACKER}/32")
        assert not arrives(wire, ATTACKER)
        assert arrives(wire, ATTACKER, port=2222)


async def test_bans_outlive_the_daemon(either: Start, wire: Wire) -> None:
    async with either() as it:
        await it.attack(ATTACKER)
        await it.watcher.until_banned(f"{ATTACKER}/32")
    assert not arrives(wire, ATTACKER)
    async with either() as it:
        assert len(it.daemon.judge.ledger) == 1
        assert not arrives(wire, ATTACKER)


@pytest.mark.parametrize("harm", ["flush", "destroy", "rule"])
async def test_what_somebody_flushed_or_destroyed_comes_back(watched: Start, wire: Wire, harm: str) -> None:
    async with watched() as it:
        await it.attack(ATTACKER)
        await it.watcher.until_banned(f"{ATTACKER}/32")
        if harm == "flush":
            other = IpsetFirewall()
            await other.remove([ban.network for ban, _ in it.watcher.bans])
            await other.close()
        else:
            await DropRule().remove()
        if harm == "destroy":
            other = IpsetFirewall()
            await other.remove_sets()
            await other.close()
        assert arrives(wire, ATTACKER)
        async with asyncio.timeout(PATIENCE):
            while arrives(wire, ATTACKER):  # noqa: ASYNC110 - the kernel tells nobody of a flush (library facts B4)
                await asyncio.sleep(0.2)


async def test_observe_mode_blocks_nothing_and_records_everything(watched: Start, wire: Wire, tmp_path: Path) -> None:
    async with watched(mode="observe") as it:
        await it.attack(ATTACKER)
        await it.watcher.until_banned(f"{ATTACKER}/32")
        assert arrives(wire, ATTACKER)
        await it.daemon.flush()
    with Reader(tmp_path / "amiwatch.db") as reader:
        (ban,) = reader.bans()
        assert (ban.address, ban.is_enforced) == (ATTACKER, 0)


async def test_allowing_an_address_lifts_its_ban_at_once(watched: Start, wire: Wire, tmp_path: Path) -> None:
    async with watched() as it:
        await it.attack(ATTACKER)
        await it.watcher.until_banned(f"{ATTACKER}/32")
        asked = await asyncio.to_thread(requests.ask, tmp_path / "amiwatch.db", "allow", "198.51.100.0/24", by="a test")
        assert "1 ban lifted" in (await outcome(tmp_path / "amiwatch.db", asked)).text
        assert arrives(wire, ATTACKER)
        await it.attack(ATTACKER)
        await it.watcher.until(lambda: any(alert.kind == "allowed_offender" for alert in it.watcher.alerts))
        assert arrives(wire, ATTACKER)


async def test_the_own_address_and_the_loopback_can_not_be_banned(watched: Start, wire: Wire, tmp_path: Path) -> None:
    async with watched() as it:
        for target in (wire.here[4], wire.here[6], "127.0.0.1", "192.0.0.0/8"):
            asked = await asyncio.to_thread(requests.ask, tmp_path / "amiwatch.db", "ban", target, by="a test")
            assert not (await outcome(tmp_path / "amiwatch.db", asked)).is_done
        assert not it.daemon.judge.ledger


async def test_an_unknown_entry_of_our_set_is_adopted(watched: Start, wire: Wire, tmp_path: Path) -> None:
    async with watched() as it:
        other = IpsetFirewall()
        await other.add([Entry(ipaddress.ip_network("203.0.113.9/32"), 600)])
        await other.close()
        async with asyncio.timeout(PATIENCE):
            while not it.daemon.judge.ledger:  # noqa: ASYNC110 - see above
                await asyncio.sleep(0.1)
        await it.daemon.flush()
    with Reader(tmp_path / "amiwatch.db") as reader:
        (ban,) = reader.bans()
        assert (ban.address, ban.origin) == ("203.0.113.9", "recovered")


async def test_a_full_set_gives_up_the_ban_that_ends_soonest(either: Start, wire: Wire, tmp_path: Path) -> None:
    async with either(set_size="3") as it:
        for target, seconds in (("203.0.113.1", 500), ("203.0.113.2", 100), ("203.0.113.3", 900)):
            asked = await asyncio.to_thread(
                requests.ask, tmp_path / "amiwatch.db", "ban", target, seconds=seconds, by="a test"
            )
            assert (await outcome(tmp_path / "amiwatch.db", asked)).is_done
        await it.attack(ATTACKER)
        await it.watcher.until_banned(f"{ATTACKER}/32")
        assert not arrives(wire, ATTACKER)
        assert arrives(wire, "203.0.113.2")
        assert not arrives(wire, "203.0.113.1")


async def test_logins_count_for_no_attacker(watched: Start, tmp_path: Path) -> None:
    async with watched() as it:
        await it.pbx.emit(*(attempt_bytes(Case.RIGHT_PASSWORD, source=PHONE, session=f"{n}") for n in range(5)))
        await it.attack(ATTACKER)
        await it.watcher.until_banned(f"{ATTACKER}/32")
        await it.daemon.flush()
    with Reader(tmp_path / "amiwatch.db") as reader:
        assert [each.address for each in reader.top_offenders(since=0, limit=9, now=0)] == [ATTACKER]


async def test_two_links_feed_one_judge(watched: Start, wire: Wire) -> None:
    """A scanner that spreads over two PBXs is one scanner."""
    async with FakeAsterisk() as second:
        settings = {
            "pbx__berlin__host": second.host,
            "pbx__berlin__port": str(second.port),
            "pbx__berlin__secret": "secret",
        }
        async with watched(**settings) as it:
            await second.wait_for_login()
            for number in range(6):
                data = attempt_bytes(Case.UNKNOWN_ACCOUNT, account=f"{number}", source=ATTACKER, session=f"{number}")
                await (second if number % 2 else it.pbx).emit(data)
            await it.watcher.until_banned(f"{ATTACKER}/32")


def test_packets_can_be_sent_at_all(wire: Wire) -> None:
    with wire.receiver(5060) as sip:
        wire.send_from(ATTACKER, 5060, b"x")
        assert sip.recv(10) == b"x"
    assert socket.has_ipv6


@pytest.mark.parametrize("harm", ["jump", "front"])
async def test_a_rule_that_no_packet_gets_to_is_placed_again(watched: Start, wire: Wire, harm: str) -> None:
    """The set is still used by our chain, so its count of references says that all is well."""
    async with watched() as it:
        await it.attack(ATTACKER)
        await it.watcher.until_banned(f"{ATTACKER}/32")
        places = (("raw", "PREROUTING"), ("mangle", "INPUT"))
        accept = ["-p", "udp", "-j", "ACCEPT"]
        for table, hook in places:
            change = ["-F", hook] if harm == "jump" else ["-I", hook, *accept]
            for program in ("iptables", "ip6tables"):
                subprocess.run([program, "-w", "-t", table, *change], check=True)
        try:
            assert arrives(wire, ATTACKER)
            async with asyncio.timeout(PATIENCE):
                while arrives(wire, ATTACKER):  # noqa: ASYNC110 - see above
                    await asyncio.sleep(0.2)
        finally:
            if harm == "front":
                for table, hook in places:
                    for program in ("iptables", "ip6tables"):
                        subprocess.run([program, "-w", "-t", table, "-D", hook, *accept], check=True)


async def test_other_ports_are_dropped_from_the_next_start_on(watched: Start, wire: Wire) -> None:
    async with watched() as it:
        await it.attack(ATTACKER)
        await it.watcher.until_banned(f"{ATTACKER}/32")
        assert arrives(wire, ATTACKER, port=2222)
    async with watched(ports="all") as it:
        assert not arrives(wire, ATTACKER, port=2222)


async def test_what_happened_is_in_the_database_within_seconds(watched: Start, wire: Wire, tmp_path: Path) -> None:
    async with watched() as it:
        await it.attack(ATTACKER, count=2)
        async with asyncio.timeout(PATIENCE):
            while True:  # the daemon tells nobody that it saved
                with Reader(tmp_path / "amiwatch.db") as reader:
                    if reader.count("attempts"):
                        break
                await asyncio.sleep(0.1)

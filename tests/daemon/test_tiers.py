"""Rate tiers and signatures through the daemon: switched on by a request, shown with packets."""

import asyncio
import time
from collections.abc import Callable
from functools import partial
from ipaddress import ip_network
from pathlib import Path

import pytest

from amiwatch.daemon.enforcer import Enforcer
from amiwatch.errors import FirewallPermission
from amiwatch.firewall.ipset import IpsetFirewall
from amiwatch.firewall.protection import Protection, Tier
from amiwatch.firewall.rule import DropRule, RuleState
from amiwatch.judgement.ledger import Ledger
from amiwatch.store import requests
from amiwatch.testing.builders import Case, attempt_bytes
from amiwatch.testing.netns import Wire
from tests.daemon.conftest import PATIENCE, PREFIX, Start, Watched
from tests.firewall.conftest import run

pytestmark = pytest.mark.kernel

STRANGER, PHONE, CARRIER, LAST = "198.51.100.7", "203.0.113.20", "203.0.113.130", "203.0.113.131"


@pytest.fixture
def guarded(guarded: Start) -> Start:
    """Start a daemon whose allowlist has the carrier."""
    return partial(guarded, allowlist=f"{CARRIER}/31")


class Caller:
    """Somebody at the far end of the cable who begins a connection with each packet."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def gets_through(self, sender: str, count: int, payload: bytes = b"REGISTER") -> int:
        """Send so many packets, each from another port; return how many arrived."""
        with self._wire.receiver(5060) as pbx:
            for _ in range(count):
                with self._wire.far_socket(sender) as caller:
                    caller.sendto(payload, (self._wire.here[4], 5060))
            self._wire.send_from(LAST, 5060, b"the last")
            return sum(1 for _ in iter(lambda: pbx.recv(2048), b"the last"))


@pytest.fixture
def caller(wire: Wire) -> Caller:
    return Caller(wire)


@pytest.fixture
def ask(tmp_path: Path) -> Callable[..., asyncio.Future[str]]:
    """Ask the daemon, and return what it answered."""

    async def ask(verb: str, target: str = "") -> str:
        path = tmp_path / "amiwatch.db"
        number = await asyncio.to_thread(requests.ask, path, verb, target, by="a test")
        outcome = await asyncio.to_thread(requests.wait_outcome, path, number, PATIENCE)
        assert outcome is not None
        assert outcome.is_done, outcome.text
        return outcome.text

    return ask


async def login(it: Watched, phone: str) -> None:
    await it.pbx.emit(attempt_bytes(Case.RIGHT_PASSWORD, source=phone))


async def until(is_so: Callable[[], bool], seconds: float = PATIENCE) -> None:
    async with asyncio.timeout(seconds):
        while not is_so():  # noqa: ASYNC110 - the daemon looks; nobody tells it
            await asyncio.sleep(0.1)


async def test_one_command_limits_strangers_and_nobody_else_until_it_is_taken_back(guarded, caller, ask) -> None:
    async with guarded() as it:
        assert caller.gets_through(STRANGER, 9) == 9
        await login(it, PHONE)

        assert "3 in 60 s, 5 in 180 s" in await ask("tiers", "on")

        assert caller.gets_through(STRANGER, 9) == 3
        assert caller.gets_through(PHONE, 30) == 30
        assert caller.gets_through(CARRIER, 30) == 30
        await until(lambda: it.daemon.limited == 6, seconds=20)
    assert caller.gets_through(STRANGER, 9) == 0  # the daemon's end ends nothing
    assert caller.gets_through(PHONE, 9) == 9
    async with guarded():
        assert caller.gets_through(STRANGER, 9) == 0
        assert caller.gets_through(PHONE, 9) == 9
        assert await ask("tiers", "off") == "rate tiers are off"
        assert caller.gets_through(STRANGER, 9) == 9
    async with guarded():
        assert caller.gets_through(STRANGER, 9) == 9


async def test_who_logs_in_while_he_is_limited_is_exempt_within_seconds(guarded, caller, ask) -> None:
    async with guarded() as it:
        await ask("tiers", "on")
        assert caller.gets_through(PHONE, 9) == 3
        await login(it, PHONE)
        await until(lambda: caller.gets_through(PHONE, 1) == 1)
        assert caller.gets_through(PHONE, 9) == 9
        await ask("allow", STRANGER)
        await until(lambda: caller.gets_through(STRANGER, 4) == 4)


async def test_exempt_sources_that_somebody_flushed_come_back(guarded, caller, ask) -> None:
    async with guarded() as it:
        await ask("tiers", "on")
        name = f"{PREFIX}4-safe"
        if it.daemon.firewall.name == "ipset":
            run("ipset", "flush", name)
        else:
            name = f"{PREFIX}4-nets"
            run("nft", "flush", "set", "inet", PREFIX, name)
        assert caller.gets_through(CARRIER, 1) + caller.gets_through(CARRIER, 1) <= 2
        shown = (
            ["ipset", "list", name]
            if it.daemon.firewall.name == "ipset"
            else ["nft", "list", "set", "inet", PREFIX, name]
        )
        await until(lambda: "203.0.113.130" in run(*shown))
        assert caller.gets_through(CARRIER, 30) == 30


async def test_a_limit_that_somebody_deleted_comes_back(guarded, caller, ask) -> None:
    async with guarded() as it:
        await ask("tiers", "on")
        if it.daemon.firewall.name == "ipset":
            run("iptables", "-t", "mangle", "-F", f"{PREFIX.upper()}-new")
        else:
            run("nft", "flush", "chain", "inet", PREFIX, "strangers")
        await until(lambda: caller.gets_through(STRANGER, 9) == 0)


async def test_a_panic_lifts_the_limits_too(guarded, caller, ask) -> None:
    async with guarded():
        await ask("tiers", "on")
        assert caller.gets_through(STRANGER, 9) == 3
        await ask("panic")
        assert caller.gets_through(STRANGER, 9) == 9
        await ask("resume")
        await until(lambda: caller.gets_through(STRANGER, 9) < 9)


class Unprivileged(DropRule):
    """The rule in the hands of a daemon with CAP_NET_ADMIN alone: iptables does nothing for it."""

    async def install(self, protection: Protection) -> None:
        raise FirewallPermission("'iptables' needs root, or CAP_NET_ADMIN and CAP_NET_RAW.")

    async def show(self) -> RuleState:
        raise FirewallPermission("'iptables' needs root, or CAP_NET_ADMIN and CAP_NET_RAW.")


async def test_limits_that_the_daemon_may_not_take_away_concern_nobody_in_a_panic(caller) -> None:
    firewall, rule, protection = IpsetFirewall(PREFIX), DropRule(PREFIX), Protection(tiers=Tier.parse("3/60s"))
    safe = [ip_network(f"{LAST}/32"), ip_network("2001:db8:cafe::/64")]
    await firewall.open()
    try:
        await rule.exempt(safe)
        await rule.install(protection)
        enforcer = Enforcer(
            firewall,
            Ledger(),
            now=time.time,
            done=lambda done: None,
            adopted=lambda network, seconds: asyncio.sleep(0, result=False),
            evicted=lambda network: None,
            rule=Unprivileged(PREFIX),
            protection=protection,
            exempt=lambda: safe,
        )
        await enforcer.begin()
        assert caller.gets_through(STRANGER, 9) == 3
        await enforcer.hold()
        assert caller.gets_through(STRANGER, 9) == 9
        await enforcer.resume()
        assert caller.gets_through(STRANGER, 9) == 0
    finally:
        await rule.remove()
        await firewall.remove_sets()
        await firewall.close()


async def test_other_numbers_take_effect_with_the_next_start(guarded, caller, ask) -> None:
    async with guarded(tiers="5/1m"):
        assert "5 in 60 s new connections" in await ask("tiers", "on")
        assert caller.gets_through(STRANGER, 9) == 5


async def test_scanners_are_dropped_by_their_name_where_the_firewall_can_read_it(guarded, caller, ask) -> None:
    async with guarded(signatures="suggested,my own tool") as it:
        can = it.daemon.firewall.name == "ipset"
        packet = b"OPTIONS sip:100@192.0.2.1 SIP/2.0\r\nUser-Agent: %s\r\n\r\n"
        await until(lambda: caller.gets_through(STRANGER, 1, packet % b"friendly-scanner") == (0 if can else 1))
        assert caller.gets_through(STRANGER, 3, packet % b"Yealink SIP-T46S 66.86.0.15") == 3
        assert caller.gets_through(CARRIER, 3, packet % b"friendly-scanner") == 3
        assert caller.gets_through(STRANGER, 3, packet % b"my own tool/1.0") == (0 if can else 3)


async def test_a_word_that_is_neither_changes_nothing(guarded, caller, tmp_path) -> None:
    async with guarded():
        path = tmp_path / "amiwatch.db"
        number = await asyncio.to_thread(requests.ask, path, "tiers", "maybe", by="a test")
        outcome = await asyncio.to_thread(requests.wait_outcome, path, number, PATIENCE)
        assert outcome is not None
        assert not outcome.is_done
        assert caller.gets_through(STRANGER, 9) == 9


async def test_who_has_chan_sip_is_told_that_its_phones_earn_no_trust(guarded, ask) -> None:
    async with guarded() as it:
        assert "chan_sip" not in await ask("tiers", "on")
        await it.pbx.emit(attempt_bytes(Case.SIP_RIGHT_PASSWORD, source=PHONE))
        await until(lambda: it.daemon.judge.counters.chan_sip > 0)
        assert "chan_sip earn no trust" in await ask("tiers", "on")


async def test_names_of_scanners_are_read_again_with_the_settings(guarded, caller, ask) -> None:
    async with guarded() as it:
        if it.daemon.firewall.name != "ipset":
            pytest.skip("nftables can't search packets")
        named = it.daemon.settings.model_copy(update={"signatures": frozenset({"friendly-scanner"})})
        it.daemon._read_settings = lambda: named
        await ask("reload")
        await until(lambda: caller.gets_through(STRANGER, 1, b"User-Agent: friendly-scanner") == 0)


async def test_tiers_that_the_kernel_refuses_are_said_and_bans_are_dropped_all_the_same(guarded, caller, ask) -> None:
    async with guarded() as it:
        if it.daemon.firewall.name == "ipset":
            run("ipset", "create", f"{PREFIX}4-safe", "bitmap:port", "range", "1-2")  # somebody else's, under our name
        else:
            run("nft", f"add set inet {PREFIX} {PREFIX}4-safe {{ type ether_addr; }}")
        try:
            assert "; but they are not in force: " in await ask("tiers", "on")
            await it.attack(STRANGER)
            await it.watcher.until_banned(f"{STRANGER}/32")
            assert caller.gets_through(STRANGER, 3) == 0
            assert not it.daemon.has_firewall_trouble
        finally:
            if it.daemon.firewall.name == "ipset":
                run("ipset", "destroy", f"{PREFIX}4-safe")

"""Who is never banned: a scanner attacks in the name of each of them, and one more in his own."""

import asyncio
import struct
from ipaddress import ip_address
from pathlib import Path

import pytest
from pyroute2 import IPRoute

from amiwatch.daemon import host
from amiwatch.testing.firewall import FakeFirewall
from amiwatch.testing.netns import Wire
from tests.daemon.conftest import Start
from tests.nameserver import NameServer

pytestmark = pytest.mark.kernel

ATTACKER, ATTACKER6 = "198.51.100.20", "2001:db8:bad::20"
GATEWAY, GATEWAY6 = "203.0.113.254", "2001:db8:f00d::1"
ONLINK = 4
"""RTNH_F_ONLINK (rtnetlink(7)): a gateway need not lie in a network of ours."""

NEVER = {
    "127.0.0.9": "loopback",
    "::1": "loopback",
    "0.0.0.0": "unspecified",
    "224.0.0.5": "multicast",
    "ff02::1": "multicast",
    GATEWAY: "a gateway of this machine",
    GATEWAY6: "a gateway of this machine",
    "203.0.113.53": "a name server of this machine",
    "203.0.113.22": "somebody logged in from there",
    "203.0.113.23": "somebody logged in from there",
    "203.0.113.77": "the PBX '203.0.113.77'",
    "192.0.2.200": "AMIWATCH_ALLOWLIST",
    "192.0.2.130": "AMIWATCH_ALLOWLIST",
    "203.0.113.99": "the name 'office.example'",
    "10.1.2.3": "a private network",
}
"""Address → the words that the alert has for it; ``wire.here`` joins them."""

SESSION = struct.pack(
    "<hxxi32s4s32s256shhiii16s20x",
    7,
    1,
    b"pts/0",
    b"",
    b"alice",
    b"far",
    0,
    0,
    1,
    0,
    0,
    ip_address("203.0.113.22").packed,
)
"""A record of utmp(5)."""


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give this machine a name server and two administrators who are logged in."""
    for name, file in (("RESOLVERS", "resolv.conf"), ("SESSIONS", "utmp"), ("LOGIND", "sessions")):
        monkeypatch.setattr(host, name, tmp_path / file)
    (tmp_path / "resolv.conf").write_text("nameserver 203.0.113.53\n")
    (tmp_path / "utmp").write_bytes(SESSION)
    (tmp_path / "sessions").mkdir()
    (tmp_path / "sessions" / "4").write_text("REMOTE=1\nREMOTE_HOST=203.0.113.23\n")


def lead_out() -> None:
    """Give this machine its gateways."""
    with IPRoute() as routes:
        index = routes.link_lookup(ifname="wire0")[0]
        routes.route("replace", dst="default", gateway=GATEWAY, oif=index, flags=ONLINK)
        routes.route("replace", dst="default", gateway=GATEWAY6, oif=index, flags=ONLINK, family=10)


@pytest.mark.usefixtures("machine")
async def test_a_scanner_in_the_name_of_each_of_them_bans_nobody(watched: Start) -> None:
    settings = {
        "ALLOWLIST": "192.0.2.200, 192.0.2.128/28, office.example",
        "ALLOW_PRIVATE": "true",
        "PBX__OTHER__HOST": "203.0.113.77",
        "PBX__OTHER__SECRET": "secret",
    }
    with Wire() as wire, NameServer({"office.example": "203.0.113.99"}):
        await asyncio.to_thread(lead_out)
        never = NEVER | dict.fromkeys(wire.here.values(), "an address of this machine")
        async with watched(firewall=FakeFirewall(), **settings) as it:
            for address in (*never, ATTACKER, ATTACKER6):
                await it.attack(address, transport="TLS")
            await it.watcher.until_banned(f"{ATTACKER}/32", "2001:db8:bad::/64")
            assert {str(ban.network) for ban, _ in it.watcher.bans} == {f"{ATTACKER}/32", "2001:db8:bad::/64"}
            told = {str(alert.address): alert for alert in it.watcher.alerts}
            assert {alert.kind for alert in told.values()} == {"allowed_offender"}
            assert told.keys() == never.keys()
            for address, words in never.items():
                assert words in told[address].reason

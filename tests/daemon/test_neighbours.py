"""What the judge knows of bad neighbourhoods outlives a restart."""

from ipaddress import ip_address, ip_network

from amiwatch.judgement.networks import source_key
from amiwatch.testing.firewall import FakeFirewall
from tests.daemon.conftest import Start

HOSTS = [f"203.0.113.{number}" for number in (7, 8, 9)]
OTHER = source_key(ip_address("203.0.113.200"))


async def test_a_bad_neighbourhood_is_one_after_a_restart_too(watched: Start) -> None:
    async with watched(FakeFirewall()) as it:
        for host in HOSTS:
            assert not it.daemon.judge.neighbours.are_bad(OTHER, it.daemon.now(), is_proven=False)
            await it.attack(host)
            await it.watcher.until_banned(f"{host}/32")
        assert it.daemon.judge.neighbours.are_bad(OTHER, it.daemon.now(), is_proven=False)
        await it.daemon.settle()
        await it.daemon.flush()
    async with watched(FakeFirewall()) as it:
        assert ip_network(f"{HOSTS[0]}/32") in it.daemon.judge.ledger
        assert it.daemon.judge.neighbours.are_bad(OTHER, it.daemon.now(), is_proven=False)


async def test_an_unban_by_hand_makes_a_better_neighbourhood(watched: Start) -> None:
    async with watched(FakeFirewall()) as it:
        for host in HOSTS:
            await it.attack(host)
            await it.watcher.until_banned(f"{host}/32")
        it.daemon.lift(ip_network(f"{HOSTS[0]}/32"), by="a test", reason="it was none")
        assert not it.daemon.judge.neighbours.are_bad(OTHER, it.daemon.now(), is_proven=False)

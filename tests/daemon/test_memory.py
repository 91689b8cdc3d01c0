"""What the daemon takes over from its predecessor."""

from amiwatch.judgement.networks import source_key
from amiwatch.testing.firewall import FakeFirewall
from tests.daemon.conftest import Start


async def test_a_daemon_that_begins_again_knows_which_bans_rest_on_what_could_be_forged(watched: Start) -> None:
    firewall = FakeFirewall()
    async with watched(firewall) as it:
        await it.attack("203.0.113.1", transport="UDP")
        await it.attack("203.0.113.2", transport="TLS")
        await it.watcher.until_banned("203.0.113.1/32", "203.0.113.2/32")
        udp = next(ban for ban, _ in it.watcher.bans if not ban.is_proven)
        assert it.daemon.judge.ledger.unproven == {source_key(udp.address)}
    async with watched(firewall) as it:
        assert len(it.daemon.judge.ledger) == 2
        assert it.daemon.judge.ledger.unproven == {source_key(udp.address)}

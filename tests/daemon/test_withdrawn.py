"""A ban that the judge takes back: out of the kernel, told, and kept in the database with who ended it and why."""

import ipaddress
from pathlib import Path

from amiwatch.store.reader import Reader
from amiwatch.testing.builders import Case, attempt_bytes
from amiwatch.testing.firewall import FakeFirewall
from tests.daemon.conftest import Start, Watched

OFFICE = "192.0.2.7"
NETWORK = ipaddress.ip_network(f"{OFFICE}/32")
LOST = Case.UNKNOWN_ACCOUNT_ANSWERED


async def office_fails(it: Watched, first: int = 2001) -> None:
    for account in range(first, first + 5):
        await it.pbx.emit(attempt_bytes(LOST, account=str(account), source=OFFICE, transport="TCP"))


def others_fail() -> bytes:
    return b"".join(
        attempt_bytes(LOST, account=str(1001 + host), source=f"198.51.100.{host}", transport="TCP")
        for host in range(1, 13)
    )


async def test_the_ban_of_an_office_is_lifted_when_everybody_fails(watched: Start, tmp_path: Path) -> None:
    firewall = FakeFirewall()
    async with watched(firewall) as it:
        await office_fails(it)
        await it.watcher.until_banned(str(NETWORK))
        await it.daemon.settle()
        assert [entry.network for entry in await firewall.entries()] == [NETWORK]
        await it.pbx.emit(others_fail())
        await it.watcher.until(lambda: it.watcher.lifts == [NETWORK])
        await it.daemon.settle()
        assert not await firewall.entries()
        await it.daemon.flush()
        with Reader(tmp_path / "amiwatch.db") as reader:
            (ban,) = reader.history(NETWORK)
            assert ban.ended_by == "amiwatch"
            assert "many others fail" in (ban.ended_why or "")
            assert [each.level for each in reader.stored_offenders(0)] == [0]
    async with watched(FakeFirewall()) as it:
        assert NETWORK not in it.daemon.judge.ledger


async def test_a_ban_that_is_lifted_while_it_is_on_its_way_stays_lifted(watched: Start, tmp_path: Path) -> None:
    """All of it in one piece: the ban may not have reached the kernel when it is taken back."""
    firewall = FakeFirewall()
    async with watched(firewall) as it:
        office = b"".join(
            attempt_bytes(LOST, account=str(account), source=OFFICE, transport="TCP") for account in range(2001, 2006)
        )
        await it.pbx.emit(office + others_fail())
        await it.watcher.until(lambda: it.watcher.lifts == [NETWORK])
        await it.daemon.settle()
        assert not await firewall.entries()
        await it.daemon.flush()
        with Reader(tmp_path / "amiwatch.db") as reader:
            assert all(ban.ended_at is not None for ban in reader.history(NETWORK))

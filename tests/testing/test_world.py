"""Simulated worlds are what they say they are."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from ipaddress import ip_address
from itertools import islice, pairwise
from pathlib import Path
from random import Random

import pytest

from amiwatch.ami.wire import Tampered, Wire
from amiwatch.judgement.networks import source_key
from amiwatch.judgement.values import SecurityEvent
from amiwatch.testing import honest, hostile
from amiwatch.testing.actors import DAY, HOUR, Actor, Dialogue, Place, Role, Sender
from amiwatch.testing.asterisk import FakeAsterisk
from amiwatch.testing.builders import Case
from amiwatch.testing.world import World
from amiwatch.testing.worlds import SMALL, mixed_week, small
from tests.corpus import recording

SOME = 3_000
"""Events looked at of each world."""


@pytest.mark.parametrize("name", SMALL)
def test_the_bytes_of_a_world_are_read_as_its_values_and_time_never_runs_back(name: str) -> None:
    wire, tampered, last = Wire(has_pings=False), 0, 0.0
    for happening in islice(small(name, 4).happenings(), SOME):
        items = wire.feed(happening.to_bytes())
        tampered += happening.is_tampered
        if happening.is_tampered:
            assert not any(isinstance(item, SecurityEvent) and not item.tainted for item in items)
        else:
            assert items == [happening.event]
        assert happening.event.at >= last
        last = happening.event.at
    assert bool(wire.tampered) is bool(tampered)


def test_forged_lines_never_come_through_the_parser() -> None:
    world = small("forgers", 4)
    wire = Wire(has_pings=False)
    forged = [happening for happening in world.happenings() if happening.is_tampered]
    assert len(forged) > 20
    items = [item for happening in forged for item in wire.feed(happening.to_bytes())]
    assert {type(item) for item in items} == {Tampered}


@pytest.mark.parametrize("name", ["sites", "forgers", "storm"])
def test_a_seed_makes_the_same_world_again_to_the_byte_and_another_one_does_not(name: str) -> None:
    one, again, other = (b"".join(islice(small(name, seed).chunks(), SOME)) for seed in (5, 5, 7))
    assert one == again
    assert one != other


def test_freepbx_names_strangers_from_the_fifth_on_for_five_seconds_as_it_was_recorded() -> None:
    """The recording holds a scan: four without a name, then 25 with, before it reaches accounts that exist."""
    items = Wire(has_pings=False).feed(recording("ast22-pjsip-authuser-enum50-register"))
    recorded = [(item.kind, item.service) for item in items if isinstance(item, SecurityEvent)][1:55]

    def scans(random: Random) -> Iterator[Dialogue]:
        send = Sender(random, ip_address("198.51.100.11"))
        for at in (*(number / 100 for number in range(50)), *(6 + number for number in range(20)), 60, 61, 62, 63, 64):
            yield send(at, Case.UNKNOWN_ACCOUNT, "900", is_attempt=True)

    actor = Actor("scanner", Role.ATTACKER, (ip_address("198.51.100.11"),), scans)
    happenings = list(World("FreePBX", [actor], seed=1, is_freepbx=True).happenings())
    simulated = [(each.event.kind, each.event.service) for each in happenings]
    assert simulated[:54] == recorded
    later = [each.event.kind for each in happenings[4 + 2 * 46 :]]
    assert later == ["ChallengeSent"] * 24 + ["InvalidAccountID", "ChallengeSent"]
    assert sum(each.is_attempt for each in happenings) == 75


def test_an_identified_request_makes_freepbx_forget_a_stranger() -> None:
    def lives(random: Random) -> Iterator[Dialogue]:
        send = Sender(random, ip_address("198.51.100.11"))
        for number in range(12):
            case = Case.RIGHT_PASSWORD if number % 4 == 3 else Case.UNKNOWN_ACCOUNT
            yield send(number / 10, case, "900")

    actor = Actor("both", Role.HONEST, (ip_address("198.51.100.11"),), lives)
    kinds = {each.event.kind for each in World("FreePBX", [actor], seed=1, is_freepbx=True).happenings()}
    assert "InvalidAccountID" not in kinds


def test_labels_tell_who_sent_and_whose_address_it_is() -> None:
    world = small("forgers", 6)
    senders: Counter[Role] = Counter()
    for happening in world.happenings():
        owner = world.owner(happening.event.source)
        senders[happening.actor.role] += 1
        if happening.actor.role is Role.FORGER:
            assert owner is not None
            assert owner.role is Role.HONEST  # he bears the address of a victim
            assert not happening.is_attempt  # which is no attempt of the victim's
        else:
            assert owner is happening.actor
        assert not (happening.is_attempt and happening.actor.role is Role.HONEST)
    assert set(senders) == {Role.HONEST, Role.ATTACKER, Role.FORGER}


@pytest.mark.parametrize("seed", [8, 9])
def test_attempts_are_counted_whether_they_arrive_or_not(seed: int) -> None:
    place = Place(seed, HOUR)
    world = World("one scanner", [hostile.scanner(place)], seed=seed)
    (key,) = (source_key(source) for source in world.actors[0].sources)
    begun = sum(happening.is_attempt for happening in world.happenings())
    assert begun == world.tried[key] >= 200
    arrived = sum(1 for _ in world.happenings(lambda source, at: True))
    assert (arrived, world.tried[key]) == (0, begun)


def test_nothing_arrives_of_a_source_while_it_is_banned() -> None:
    world = World("one scanner", [hostile.scanner(Place(1, HOUR))], seed=1)
    begin = next(world.happenings()).event.at
    heard = [each.event.at for each in world.happenings(lambda source, at: begin + 1 <= at < begin + 2)]
    assert all(at < begin + 1 or at >= begin + 2 for at in heard)
    assert any(at < begin + 1 for at in heard)
    assert any(at >= begin + 2 for at in heard)


def test_addresses_and_extensions_are_given_out_once() -> None:
    place = Place(3, DAY)
    actors = [*(honest.good_phone(place) for _ in range(1_000)), *hostile.probers(place, 500)]
    addresses = [str(source) for actor in actors for source in actor.sources]
    assert len(set(addresses)) == len(addresses) == 1_500
    assert all(
        address.startswith(("192.0.2.", "198.51.100.", "203.0.113.", "198.18.", "198.19.")) for address in addresses
    )
    assert len(set(place.extensions)) == 1_000


def test_a_mixed_week_is_a_week_and_streams() -> None:
    for seed in (2, 3):
        world = mixed_week(seed)
        times = [event.at for event in islice(world.events(), 5_000)]
        assert all(before <= after for before, after in pairwise(times))
        assert {actor.role for actor in world.actors} == set(Role)


def test_a_world_is_written_as_a_recording_that_replay_and_the_fake_asterisk_take(tmp_path: Path) -> None:
    world = World("a cracker", [hostile.cracker(Place(2, HOUR), has_one_call_id=True)], seed=2)
    path = tmp_path / "cracker.ami"
    count = world.record(path)
    items = Wire(has_pings=False).feed(path.read_bytes())
    assert items == list(world.events())
    assert len(items) == count


async def test_the_fake_asterisk_sends_a_world() -> None:
    chunks = list(islice(small("crackers", 1).chunks(), 50))
    async with FakeAsterisk() as pbx:
        reader, writer = await asyncio.open_connection(pbx.host, pbx.port)
        writer.write(b"Action: Login\r\nUsername: amiwatch\r\nSecret: secret\r\n\r\n")
        await pbx.wait_for_login()
        for chunk in chunks:
            assert await pbx.emit(chunk) == 1
        pbx.hang_up()
        assert (await reader.read()).endswith(b"".join(chunks))
        writer.close()
        await writer.wait_closed()

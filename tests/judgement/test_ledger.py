from ipaddress import ip_address, ip_network
from math import inf

from hypothesis import given
from hypothesis import strategies as st

from amiwatch.judgement.ledger import Ledger
from amiwatch.judgement.networks import source_key
from amiwatch.judgement.values import IPAddress, IPNetwork
from tests.judgement.test_networks import ADDRESSES, NETWORKS

ENDS = st.one_of(st.none(), st.integers(1, 30))
STEPS = st.lists(st.tuples(st.sampled_from(["put", "drop", "expire"]), NETWORKS, ENDS), max_size=30)


@given(STEPS, ADDRESSES, st.integers(1, 4))
def test_it_agrees_with_a_plain_dictionary(
    steps: list[tuple[str, IPNetwork, int | None]], address: IPAddress, part: int
) -> None:
    ledger, model, now = Ledger(part), dict[IPNetwork, float](), 0
    for verb, network, end in steps:
        if verb == "put":
            ledger.put(network, end)
            model[network] = inf if end is None else end
        elif verb == "drop":
            assert ledger.drop(network) == (model.pop(network, None) is not None)
        else:
            now = max(now, end or 0)
            ended = {each for each, until in model.items() if until <= now}
            assert set(ledger.expire(now)) == ended
            model = {each: until for each, until in model.items() if each not in ended}
        _agree(ledger, model, address, now)


def _agree(ledger: Ledger, model: dict[IPNetwork, float], address: IPAddress, now: float) -> None:
    assert len(ledger) == len(model)
    left = {each: None if until == inf else until - now for each, until in model.items() if until > now}
    assert dict(ledger.wanted(now)) == left
    around = {each for each, until in model.items() if address in each and until > now}
    assert ledger.is_banned(source_key(address), address, now) == bool(around)
    found = ledger.covering(address, now)
    assert found in around if around else found is None
    for version in (4, 6):
        finite = [until for each, until in model.items() if each.version == version and until < inf]
        soonest = ledger.soonest(version)
        assert soonest is None if not finite else soonest is not None and model[soonest] == min(finite)
    assert all(ledger.until(each) == until and each in ledger for each, until in model.items())


@given(st.dictionaries(NETWORKS, ENDS, max_size=8), NETWORKS)
def test_it_lists_what_a_network_touches(bans: dict[IPNetwork, int | None], other: IPNetwork) -> None:
    ledger = Ledger()
    for network, end in bans.items():
        ledger.put(network, end)
    touched = {each for each in bans if each.version == other.version and each.overlaps(other)}
    assert set(ledger.touching(other)) == touched


def test_a_narrow_ban_that_ended_does_not_hide_a_wider_one() -> None:
    ledger = Ledger()
    ledger.put(ip_network("192.0.2.0/25"), 10)
    ledger.put(ip_network("192.0.2.0/24"), 100)
    address = ip_address("192.0.2.7")
    assert ledger.is_banned(source_key(address), address, 50)
    assert ledger.covering(address, 50) == ip_network("192.0.2.0/24")


def test_a_prolonged_ban_ends_once_and_late() -> None:
    ledger, network = Ledger(), ip_network("192.0.2.1/32")
    ledger.put(network, 10)
    ledger.put(network, 20)
    assert ledger.expire(15) == []
    assert ledger.expire(20) == [network]
    assert ledger.expire(30) == []


def test_a_ban_for_ever_never_ends_and_is_never_given_up() -> None:
    ledger, network = Ledger(), ip_network("2001:db8::/64")
    ledger.put(network, None)
    assert ledger.expire(1e12) == []
    assert ledger.soonest(6) is None
    assert list(ledger.wanted(1e12)) == [(network, None)]

import pickle
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amiwatch.judgement.networks import WIDE, NetworkTable, key_network, network4, network6, source_key, wide_key
from amiwatch.judgement.values import IPAddress, IPNetwork, source_network

# Few bits, so that networks meet, nest and miss each other.
ADDRESSES = st.one_of(
    st.integers(0, 255).map(lambda bits: IPv4Address(0xC0000200 | bits)),
    st.integers(0, 255).map(lambda bits: IPv6Address((0x20010DB8 << 96) | (bits >> 4) << 64 | bits & 15)),
)


def _network(address: IPAddress, narrow: int) -> IPNetwork:
    base = 24 if address.version == 4 else 56
    return ip_network((address, min(base + narrow, address.max_prefixlen)), strict=False)


NETWORKS = st.builds(_network, ADDRESSES, st.integers(0, 72))


@given(st.dictionaries(NETWORKS, st.integers()), ADDRESSES)
def test_it_finds_what_a_linear_search_finds(networks: dict[IPNetwork, int], address: IPAddress) -> None:
    table: NetworkTable[int] = NetworkTable()
    for network, value in networks.items():
        table.put(network, value)
    around = {(network, value) for network, value in networks.items() if address in network}
    assert set(table.all_covering(address)) == around
    found = table.covering(address)
    assert found in around if around else found is None
    assert set(table) == set(networks.items())
    assert (len(table), bool(table)) == (len(networks), bool(networks))


@given(st.dictionaries(NETWORKS, st.integers(), max_size=8), NETWORKS)
def test_overlaps_are_those_of_a_linear_search(networks: dict[IPNetwork, int], other: IPNetwork) -> None:
    table: NetworkTable[int] = NetworkTable()
    for network, value in networks.items():
        table.put(network, value)
    shared = [network for network in networks if network.version == other.version and network.overlaps(other)]
    found = table.overlapping(other)
    assert found is None if not shared else found is not None and found[0] in shared


@given(st.lists(st.tuples(st.booleans(), NETWORKS, st.integers())))
def test_it_is_a_dictionary_of_networks(steps: list[tuple[bool, IPNetwork, int]]) -> None:
    table: NetworkTable[int] = NetworkTable()
    model: dict[IPNetwork, int] = {}
    for is_put, network, value in steps:
        if is_put:
            table.put(network, value)
            model[network] = value
        else:
            assert table.pop(network) == model.pop(network, None)
        assert table.get(network) == model.get(network)
    assert dict(table) == model


@given(st.ip_addresses())
def test_a_source_is_its_address_or_its_64(address: IPAddress) -> None:
    assert key_network(source_key(address)) == source_network(address)
    assert address in source_network(address)


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("2001:db8::1", "2001:db8::ffff:0:0:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("192.0.2.1", "192.0.2.2", False),
        ("0.0.0.0", "::", False),
        ("255.255.255.255", "::ffff:0", False),
    ],
)
def test_two_addresses_are_one_source_only_in_the_same_64(one: str, other: str, is_same: bool) -> None:
    assert (source_key(ip_address(one)) == source_key(ip_address(other))) is is_same


def test_everything_is_a_network_too() -> None:
    table: NetworkTable[str] = NetworkTable()
    table.put(IPv4Network("0.0.0.0/0"), "all of IPv4")
    assert table.covering(IPv4Address("198.51.100.1")) == (IPv4Network("0.0.0.0/0"), "all of IPv4")
    assert table.covering(IPv6Address("2001:db8::1")) is None
    table.put(IPv6Network("::/0"), "all of IPv6")
    assert table.covering(IPv6Address("2001:db8::1")) is not None


@given(st.integers(0, 2**64 - 1), st.integers(48, 63))
def test_the_key_of_a_wide_network_is_one_for_all_of_it_and_that_of_no_source(bits: int, prefix: int) -> None:
    shift = 64 - prefix
    first = bits >> shift << shift
    key = wide_key(~bits, prefix)
    assert key < WIDE <= ~bits
    assert key == wide_key(~first, prefix) == wide_key(~(first + 2**shift - 1), prefix)
    assert (first + 2**shift) >= 2**64 or key != wide_key(~(first + 2**shift), prefix)


@given(st.integers(0, 2**32 - 1), st.integers(0, 32))
def test_an_ipv4_network_that_was_made_quickly_is_like_any_other(number: int, prefix: int) -> None:
    assert_alike(network4(number, prefix), IPv4Network((number, prefix), strict=False))


@given(st.integers(0, 2**128 - 1), st.integers(0, 128))
def test_an_ipv6_network_that_was_made_quickly_is_like_any_other(number: int, prefix: int) -> None:
    assert_alike(network6(number, prefix), IPv6Network((number, prefix), strict=False))


def assert_alike(ours: IPNetwork, theirs: IPNetwork) -> None:
    # A Python that keeps something else in a network must not go unnoticed.
    assert vars(ours).keys() == vars(theirs).keys() - {"hosts"}
    assert (ours, hash(ours), str(ours), repr(ours)) == (theirs, hash(theirs), str(theirs), repr(theirs))
    assert (ours.prefixlen, ours.network_address, ours.netmask) == (
        theirs.prefixlen, theirs.network_address, theirs.netmask,
    )  # fmt: skip
    assert ours.broadcast_address == theirs.broadcast_address
    assert ours.num_addresses == theirs.num_addresses
    assert ours.overlaps(theirs)
    assert ours.supernet() == theirs.supernet()
    assert pickle.loads(pickle.dumps(ours)) == theirs


@pytest.mark.parametrize("number", [-1, 2**32])
def test_a_number_beyond_all_addresses_makes_no_network(number: int) -> None:
    with pytest.raises(ValueError, match="permitted"):
        network4(number)

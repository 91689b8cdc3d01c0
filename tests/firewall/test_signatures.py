"""Names of scanners in packets: dropped and counted by iptables, and honestly not by nftables."""

import pytest

from amiwatch.config.texts import SIGNATURES, signatures, tier_list
from amiwatch.errors import ConfigurationError
from amiwatch.firewall.protection import FIRST_OCTETS, Protection, Tier
from amiwatch.firewall.rule import DropRule
from tests.firewall.test_limits import LAST, PHONE, STRANGER, dropped, pbx, placed  # noqa: F401 - a fixture

HEADERS = {4: 28, 6: 48}
"""Octets of the headers of IP and UDP."""

NAMES = Protection(signatures=("friendly-scanner", "iWar", "my own tool", "sip-scan", "(x) v1.0+"))
NAME = b"friendly-scanner"
OPTIONS = b"OPTIONS sip:100@192.0.2.1 SIP/2.0\r\nUser-Agent: %s\r\n\r\n"


@pytest.fixture
def reading(guard):
    if not guard.rule.reads_names:
        pytest.skip("nftables can't search packets")
    return guard


@pytest.mark.kernel
async def test_a_scanner_that_says_its_name_is_dropped_and_counted_by_name(reading, pbx):  # noqa: F811
    stranger = STRANGER[pbx.family]
    await placed(reading, NAMES)
    for name, count in ((b"friendly-scanner", 3), (b"my own tool/2", 2), (b"(x) v1.0+", 1)):
        assert pbx.hears(stranger, count, OPTIONS % name) == 0
    assert pbx.hears(stranger, 5, OPTIONS % b"Yealink SIP-T46S 66.86.0.15") == 5
    assert pbx.hears(stranger, 2, OPTIONS % b"friendly scanner") == 2
    assert await dropped(reading, pbx.family) == {"friendly-scanner": 3, "my own tool": 2, "(x) v1.0+": 1}


@pytest.mark.kernel
async def test_who_is_exempt_may_carry_any_name(reading, pbx):  # noqa: F811
    await placed(reading, NAMES)
    assert pbx.hears(PHONE[pbx.family], 3, OPTIONS % b"friendly-scanner") == 3
    assert await dropped(reading, pbx.family) == {}


@pytest.mark.kernel
async def test_only_the_begin_of_a_packet_is_read(reading, pbx):  # noqa: F811
    await placed(reading, NAMES)
    far = b"x" * (FIRST_OCTETS - HEADERS[pbx.family] - len(NAME) + 1)
    assert pbx.hears(STRANGER[pbx.family], 1, far + NAME) == 1
    near = b"x" * (FIRST_OCTETS - HEADERS[pbx.family] - len(NAME))
    assert pbx.hears(STRANGER[pbx.family], 1, near + NAME) == 0


@pytest.mark.kernel
async def test_names_and_tiers_together_count_each_packet_once(reading, pbx):  # noqa: F811
    await placed(reading, Protection(signatures=("sipvicious",), tiers=Tier.parse("2/60s")))
    assert pbx.hears(STRANGER[pbx.family], 4, OPTIONS % b"sipvicious") == 0
    assert pbx.hears(STRANGER[pbx.family], 4) == 2
    assert await dropped(reading, pbx.family) == {"sipvicious": 4, "2 in 60 s": 2}


@pytest.mark.kernel
async def test_nftables_says_that_it_can_not(guard, pbx):  # noqa: F811
    if guard.rule.reads_names:
        pytest.skip("iptables can")
    await placed(guard, NAMES)
    assert pbx.hears(STRANGER[pbx.family], 2, OPTIONS % b"friendly-scanner") == 2
    assert not any(family.reads_names or family.limits for family in (await guard.rule.show()).families)


@pytest.mark.kernel
async def test_the_suggested_names_are_what_the_kernel_takes(reading):
    await placed(reading, Protection(signatures=tuple(sorted(SIGNATURES))))
    before = await reading.rule.show()
    await reading.rule.install(Protection(signatures=tuple(sorted(SIGNATURES))))
    assert await reading.rule.show() == before
    assert isinstance(reading.rule, DropRule)


def test_suggested_stands_for_the_known_names_beside_others():
    assert signatures("") == frozenset()
    assert signatures("suggested, my own tool") == {*SIGNATURES, "my own tool"}
    assert {"friendly-scanner", "sip-scan", "iWar", "sipsak"} <= set(SIGNATURES)


@pytest.mark.parametrize(
    "text",
    ["abc", "x" * 65, "a\x1bbcd", "a\nbcd", 'say "hi"', "back\\slash", "--comment", "naïve", "a|b|c|d", "pipe\x00d"],
)
def test_a_name_that_could_disturb_a_command_or_a_terminal_is_a_mistake(text):
    with pytest.raises(ValueError, match="no name of a scanner"):
        signatures([text])


def test_too_many_names_are_a_mistake():
    with pytest.raises(ValueError, match="32 at most"):
        signatures([f"scanner-{number}" for number in range(33)])


@pytest.mark.parametrize("text", ["3/60s,5/3m,10/5m,20/10m,100/1h", "100/3600s,3/60s", "1/2h", "7/90"])
def test_what_the_settings_take_for_tiers_the_firewall_reads(text):
    assert [tier.seconds for tier in Tier.parse(tier_list(text))] == sorted(
        tier.seconds for tier in Tier.parse(tier_list(text))
    )


@pytest.mark.parametrize("text", ["", "3", "0/60s", "3/0s", "3/3h", "3/60s,4/1m", "x/60s", "20000/60s", "3/60s," * 9])
def test_tiers_that_the_settings_refuse_the_firewall_would_too(text):
    with pytest.raises(ValueError, match=r"."):
        tier_list(text)
    if text:
        with pytest.raises(ConfigurationError):
            Tier.parse(text)

"""IPv6 counted and banned by more than a /64, where a setting says so."""

from ipaddress import ip_network
from itertools import count

import pytest

from amiwatch.judgement.networks import source_key
from amiwatch.judgement.rules import MINUTE
from amiwatch.testing.builders import Case, security_event
from tests.judgement.stories import Story, logs_in, new_session

HOPS = [f"2001:db8:5:{number:x}::1" for number in range(1, 60)]
OFFICE = "2001:db8:5:ff::9"


def hop(story: Story, hops: list[str], **details: str) -> None:
    """Try one account from each of these addresses."""
    names = count()
    for address in hops:
        story.wait(2)
        story.attempt(Case.UNKNOWN_ACCOUNT, account=f"u{next(names)}", source=address, **details)


@pytest.mark.parametrize(("prefix", "banned"), [(64, set()), (48, {"2001:db8:5::/48"}), (56, {"2001:db8:5::/56"})])
def test_who_hops_between_networks_is_counted_and_banned_by_the_wide_one(prefix: int, banned: set[str]) -> None:
    story = Story(ipv6_prefix=prefix)
    hop(story, HOPS)
    assert story.banned() == banned


def test_a_hopper_takes_as_many_attempts_as_one_address_and_is_dropped_everywhere_then() -> None:
    story = Story(ipv6_prefix=48)
    hop(story, HOPS)
    assert story.judge.counters.attempts == 5
    assert story.judge.counters.repeats == 2 * (len(HOPS) - 5) + 1
    story.attempt(Case.UNKNOWN_ACCOUNT, source="2001:db8:6::1")
    assert story.judge.counters.attempts == 6


def test_each_attempt_stays_with_its_own_address_in_the_sums() -> None:
    story = Story(ipv6_prefix=48)
    hop(story, HOPS[:4])
    assert [str(each.source) for each in story.judge.tally.drain()] == HOPS[:4]


@pytest.mark.parametrize("protection", ["trust", "an allowed address", "an allowed network"])
def test_a_wide_ban_never_covers_who_is_trusted_or_allowed(protection: str) -> None:
    story = Story(ipv6_prefix=48)
    if protection == "trust":
        logs_in(story, OFFICE)
    else:
        allowed = ip_network(OFFICE if protection == "an allowed address" else "2001:db8:5:f0::/60")
        story.judge.allow({allowed: "an office"})
    hop(story, HOPS[:20], transport="TLS")
    assert story.banned() == {f"{HOPS[number].removesuffix('::1')}::/64" for number in (3, 7, 11, 15, 19)}
    assert story.judge.ledger.covering(next(iter(ip_network(f"{OFFICE}/128"))), story.now) is None


def test_trust_that_expired_protects_no_network() -> None:
    story = Story(ipv6_prefix=48, trust_time=60)
    logs_in(story, OFFICE)
    story.wait(2 * MINUTE)
    hop(story, HOPS)
    assert story.banned() == {"2001:db8:5::/48"}


def test_a_trusted_network_is_counted_alone() -> None:
    story = Story(ipv6_prefix=48)
    logs_in(story, OFFICE)
    assert story.judge.trust.accounts(source_key(next(iter(ip_network(OFFICE)))), story.now) == ["1001"]
    hop(story, HOPS[:3])
    story.tries(Case.UNKNOWN_ACCOUNT, ["a", "b", "c"], every=1, source=OFFICE)
    assert not story.bans


def test_200_phones_that_begin_at_once_in_a_new_network_are_no_neighbours_of_a_scanner() -> None:
    """FreePBX asks each as <unknown>; the first to succeed earns the trust of all, whose challenges are open still."""
    story = Story(ipv6_prefix=48)
    sessions = [new_session() for _ in range(200)]
    for session in sessions:
        story.see(security_event("ChallengeSent", account="<unknown>", session=session, source=OFFICE))
    story.wait(1)
    for number, session in enumerate(sessions):
        story.see(security_event("SuccessfulAuth", account=f"{number}", session=session, source=OFFICE))
    assert not story.judge.sweep(story.now + MINUTE)
    hop(story, HOPS[:1])
    assert not story.verdicts


def test_the_ladder_remembers_a_wide_network() -> None:
    story = Story(ipv6_prefix=48)
    for level in (1, 2):
        hop(story, HOPS[:5], transport="TLS")
        ban = story.bans[-1]
        assert (str(ban.network), ban.level) == ("2001:db8:5::/48", level)
        story.wait((ban.seconds or 0) + 1)
    assert story.judge.ladder.level(source_key(ban.network.network_address), story.now) == 2


def test_ipv4_is_counted_by_address_whatever_the_width() -> None:
    story = Story(ipv6_prefix=48)
    hop(story, [f"203.0.113.{number}" for number in range(50)])
    assert not story.bans

"""One account guessed at from many addresses: reported always, and banned where the evidence allows."""

from ipaddress import ip_network

import pytest

from amiwatch.judgement.campaigns import FEW, GIVEN_UP, MAX_ADDRESSES, MAX_SUSPECTS, Campaigns
from amiwatch.judgement.rules import HOUR, MINUTE, Policy
from amiwatch.testing.builders import Case
from tests.judgement.stories import Story, bans, logs_in

HOSTS = 60
CAMPAIGN = Policy().attacked_by


def host(number: int) -> str:
    return f"198.51.{100 + number // 250}.{number % 250 + 1}"


def campaign(story: Story, *, hosts: int = HOSTS, every: float = 10, transport: str = "TLS", tries: int = 1) -> None:
    for number in range(hosts):
        story.wait(every)
        story.tries(Case.WRONG_PASSWORD, ["1001"] * tries, every=1, source=host(number), transport=transport)


def sweep(story: Story, seconds: float = GIVEN_UP + 1) -> None:
    """Let nothing come for so long, and let the judge look."""
    story.wait(seconds)
    story.verdicts += story.judge.sweep(story.now)


def test_an_account_guessed_from_many_addresses_is_one_alert_about_the_account() -> None:
    story = Story()
    for number in range(50):
        story.wait(60)
        story.attempt(Case.WRONG_PASSWORD, source=f"198.51.100.{number}", account="1001")
    (alert,) = story.alerts
    assert (alert.kind, alert.address, alert.account) == ("account_attacked", None, "1001")
    assert f"{CAMPAIGN} addresses" in alert.reason
    assert not story.bans


def test_trusted_addresses_and_quiet_days_make_no_campaign() -> None:
    story = Story()
    for number in range(50):
        logs_in(story, f"192.0.2.{number + 20}", "1002")
        story.attempt(Case.WRONG_PASSWORD, source=f"192.0.2.{number + 20}", account="1001")
        story.wait(MINUTE)
    for number in range(50):
        story.wait(2 * HOUR)
        story.attempt(Case.WRONG_PASSWORD, source=f"198.51.100.{number}", account="1001")
    assert "account_attacked" not in story.kinds()


def test_accounts_watched_are_bounded() -> None:
    campaigns, most = Campaigns(Policy()), MAX_ADDRESSES // CAMPAIGN
    for number in range(most + 100):
        for key in range(2):
            campaigns.guess(str(number), key, 0, is_proven=True)
    assert len(campaigns) == most
    for key in range(1000):
        campaigns.guess("last", key, 0, is_proven=True)
    assert len(campaigns._accounts["last"]) == len(campaigns._proven["last"]) == CAMPAIGN


def test_a_limit_that_is_raised_does_not_raise_the_memory() -> None:
    campaigns = Campaigns(Policy())
    for number in range(MAX_ADDRESSES // CAMPAIGN):
        campaigns.guess(str(number), 1, 0, is_proven=True)
    campaigns.adopt(Policy(attacked_by=96))
    for number in reversed(range(MAX_ADDRESSES // CAMPAIGN)):
        for key in range(96):
            campaigns.guess(str(number), key, 0, is_proven=False)
    assert sum(map(len, campaigns._accounts.values())) <= MAX_ADDRESSES
    campaigns.adopt(Policy(attacked_by=2))
    campaigns.guess("0", 1, 0, is_proven=False)
    assert len(campaigns._accounts["0"]) == 2


@pytest.mark.parametrize("tries", [1, FEW])
@pytest.mark.parametrize("transport", ["TCP", "TLS", "WS", "WSS"])
def test_the_addresses_of_a_proven_campaign_are_banned_together(transport: str, tries: int) -> None:
    story = Story()
    campaign(story, transport=transport, tries=tries)
    assert story.kinds() == ["account_attacked"]
    assert not story.bans
    sweep(story)
    assert story.banned() == {f"{host(number)}/32" for number in range(HOSTS)}
    assert {(ban.rule, ban.level, ban.is_proven) for ban in story.bans} == {("campaign", 1, True)}
    said = "one of 20 addresses or more that guessed at one account within 1 h: '1001'; "
    assert story.bans[0].reason.startswith(said)
    assert story.bans[0].evidence


def test_five_thousand_addresses_are_banned_within_minutes() -> None:
    story = Story()
    for number in range(5_000):
        story.wait(0.5)
        story.attempt(
            Case.WRONG_PASSWORD,
            source=f"198.{18 + number // 62500}.{number // 250}.{number % 250 + 1}",
            transport="TCP",
        )
        if number == CAMPAIGN - 1:
            assert story.kinds() == ["account_attacked"]
        if number % 20 == 0:
            story.verdicts += story.judge.sweep(story.now)
    for _ in range(4):
        sweep(story, GIVEN_UP / 2)
    assert len(story.banned()) == 5_000


def test_over_udp_nobody_is_banned_for_a_campaign() -> None:
    """One forged packet each would be enough."""
    story = Story()
    campaign(story, transport="UDP")
    sweep(story)
    assert story.kinds() == ["account_attacked"]
    assert not story.bans


def test_a_campaign_of_forged_packets_does_not_ban_who_mistypes_over_tls() -> None:
    story = Story()
    campaign(story, transport="UDP")
    story.attempt(Case.WRONG_PASSWORD, source="192.0.2.9", transport="TLS")
    campaign(story, transport="UDP")
    sweep(story)
    assert story.kinds() == ["account_attacked"]
    assert not story.bans


def test_forged_packets_do_not_hide_the_addresses_of_a_proven_campaign() -> None:
    story = Story()
    for number in range(CAMPAIGN):
        story.attempt(Case.WRONG_PASSWORD, source=host(number), transport="TLS")
        for each in range(10):
            story.wait(1)
            story.attempt(Case.WRONG_PASSWORD, source=f"203.0.113.{(number * 10 + each) % 250 + 1}")
    sweep(story)
    assert story.banned() >= {f"{host(number)}/32" for number in range(CAMPAIGN)}


def test_a_slow_campaign_is_reported_only() -> None:
    """A telephone with an old password that roams looks like one."""
    story = Story()
    campaign(story, hosts=CAMPAIGN + 4, every=4 * MINUTE)
    sweep(story)
    assert story.kinds() == ["account_attacked"]
    assert not story.bans


@pytest.mark.parametrize(
    "what", ["trust", "allowlist", "later success", "other account", "one packet over UDP", "more"]
)
def test_something_that_speaks_for_an_address_spares_it(what: str) -> None:
    story, own = Story(), host(HOSTS - 1)
    if what == "trust":
        logs_in(story, own, "1009", transport="TLS")
    elif what == "allowlist":
        story.judge.allow({ip_network(f"{own}/32"): "a friend"})
    elif what == "other account":
        story.attempt(Case.WRONG_PASSWORD, source=own, account="1002", transport="TLS")
    elif what == "one packet over UDP":
        story.attempt(Case.WRONG_PASSWORD, source=own)
    campaign(story)
    if what == "later success":
        logs_in(story, own, transport="TLS")
    elif what == "more":
        story.tries(Case.WRONG_PASSWORD, ["1001"] * FEW, every=30, source=own, transport="TLS")
    sweep(story)
    assert len(story.bans) == HOSTS - 1
    assert f"{own}/32" not in story.banned()


def test_a_phone_that_goes_on_is_not_of_the_campaign() -> None:
    story, phone = Story(), "192.0.2.99"
    said = []
    story.attempt(Case.WRONG_PASSWORD, source=phone, transport="TLS")
    campaign(story)
    for _ in range(40):
        story.wait(MINUTE)
        story.attempt(Case.WRONG_PASSWORD, source=phone, transport="TLS")
        said += story.judge.sweep(story.now)
    assert len(bans(said)) == HOSTS
    assert f"{phone}/32" not in {str(ban.network) for ban in bans(said)}
    assert "broken_phone" in story.kinds()


def test_nobody_is_banned_for_a_campaign_while_everybody_fails() -> None:
    story = Story()
    campaign(story)
    for turn in range(20):
        for number in range(12):
            story.wait(4)
            story.attempt(
                Case.WRONG_PASSWORD, source=f"203.0.113.{number + 1}", account=str(2001 + number), transport="TLS"
            )
        said = story.judge.sweep(story.now)
        assert not bans(said), turn
    story.wait(HOUR)
    assert len(bans(story.judge.sweep(story.now))) == HOSTS


def test_addresses_that_wait_are_bounded() -> None:
    campaigns = Campaigns(Policy())
    for number in range(MAX_SUSPECTS + 500):
        campaigns.guess("1001", number, number / 10, is_proven=True)
    assert len(campaigns._suspects) == MAX_SUSPECTS
    assert len(list(campaigns.due(1e9, 100))) == 100

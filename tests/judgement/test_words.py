"""The words of verdicts are true of what came."""

import pytest

from amiwatch.judgement.rules import HOUR
from amiwatch.testing.builders import Case
from tests.judgement.stories import PHONE, Story, logs_in


@pytest.mark.parametrize("every", [30, 60])
def test_a_phone_that_its_acl_refuses_is_no_carrier_and_is_told_to_be_permitted(every: int) -> None:
    story = Story()
    story.tries(Case.ENDPOINT_ACL, ["1007"] * (HOUR // every), every=every, source=PHONE)
    assert (story.kinds(), story.bans) == (["phone_kept_out"], [])
    assert "all for '1007', which exists, but its ACL refuses this address." in story.alerts[0].reason
    assert story.alerts[0].reason.endswith("(firewall, NAT).")


def test_a_phone_that_hears_no_answer_is_no_carrier() -> None:
    story = Story()
    story.tries(Case.NO_CREDENTIALS, ["1007"] * 200, every=30, source=PHONE)
    assert (set(story.kinds()), story.bans) == ({"phone_kept_out"}, [])
    assert "no challenge is ever answered, so the answers of the PBX may not reach the phone." in story.alerts[0].reason


def test_a_trusted_source_that_tries_unknown_accounts_is_not_said_to_try_accounts_that_exist() -> None:
    story = Story()
    logs_in(story, PHONE, "1001", transport="TLS")
    story.tries(Case.UNKNOWN_ACCOUNT, [str(n) for n in range(7000, 7015)], every=0.1, source=PHONE, transport="TLS")
    (alert,) = story.alerts
    assert (alert.kind, story.bans) == ("trusted_offender", [])
    assert "so only 4 times as many unknown accounts as from strangers ban it." in alert.reason
    assert "accounts that exist" not in alert.reason
    story.tries(Case.UNKNOWN_ACCOUNT, ["7099", "7100"], every=0.1, source=PHONE, transport="TLS")
    assert story.bans  # so the advice must not say that nobody is
    assert "nobody is banned" not in alert.reason


def test_a_trusted_source_that_fails_with_accounts_that_exist_is_told_so() -> None:
    story = Story()
    logs_in(story, PHONE, "1001", transport="TLS")
    accounts = [str(1002 + number % 5) for number in range(12)]
    story.tries(Case.WRONG_PASSWORD, accounts, every=2, source=PHONE, transport="TLS")
    assert "so it is not banned for failing with accounts that exist." in story.alerts[0].reason


@pytest.mark.parametrize(
    ("case", "words"), [(Case.FULL_AOR, "its aor has as many contacts as it may"), (Case.STALE_NONCE, "")]
)
def test_a_full_aor_is_told_in_plain_words(case: Case, words: str) -> None:
    story = Story()
    story.attempt(case, source=PHONE)
    assert [words in alert.reason for alert in story.alerts] == ([True] if words else [])

"""Alerts: each with its advice, each once, and never a flood."""

import re
from pathlib import Path

import pytest

from amiwatch.judgement import alarms
from amiwatch.judgement.alerts import ALERTS
from amiwatch.judgement.rules import Policy
from amiwatch.testing.builders import Case
from tests.judgement.stories import PHONE, Story, one

PACKAGE = Path(alarms.__file__).parent
ALERTS_A_MINUTE = Policy().alerts_a_minute


def test_every_kind_that_is_raised_has_its_advice() -> None:
    others = "\n".join(path.read_text() for path in PACKAGE.glob("*.py") if path.name != "alerts.py")
    raised = set(re.findall(r'tell(?:_of_account)?\(\s*"(\w+)"', others))
    assert raised <= ALERTS.keys()


def test_every_kind_with_an_advice_is_raised_somewhere() -> None:
    sources = (path.read_text() for path in PACKAGE.parent.rglob("*.py") if path.name != "alerts.py")
    others = "\n".join(sources)
    assert {kind for kind in ALERTS if f'"{kind}"' not in others} == set()


@pytest.mark.parametrize("kind", ALERTS)
def test_an_advice_is_one_sentence(kind: str) -> None:
    assert re.fullmatch(r"[A-Z][^.]*(\.[a-z][^.]*)*\.", ALERTS[kind])


def test_an_alert_ends_with_its_advice() -> None:
    story = Story()
    story.tries(Case.WRONG_PASSWORD, ["1001"] * 12, every=30)
    (alert,) = story.alerts
    assert alert.reason.endswith(f". {ALERTS['broken_phone']}")


@pytest.mark.parametrize(
    ("event", "kind"),
    [
        (one("FailedACL", ACLName="registrar_attempt_exceeds_maximum_configured_contacts", source=PHONE), "aor_full"),
        (one("RequestNotSupported", RequestType="registrar_requested_aor_not_found", source=PHONE), "aor_missing"),
        (
            one("RequestNotSupported", RequestType="registrar_attempt_without_registration_permitted", source=PHONE),
            "aor_missing",
        ),
    ],
)
def test_a_phone_that_may_log_in_but_not_register_is_reported_once(event: object, kind: str) -> None:
    story = Story()
    for _ in range(50):
        story.see(event)  # type: ignore[arg-type]
        story.wait(30)
    (alert,) = story.alerts
    assert (alert.kind, str(alert.address), alert.account) == (kind, PHONE, "1001")
    assert not story.bans


def test_two_phones_of_one_office_that_may_not_register_are_two_alerts() -> None:
    story = Story()
    for account in ("1001", "1002", "1001", "1002"):
        story.attempt(Case.FULL_AOR, source=PHONE, account=account)
    assert [alert.account for alert in story.alerts] == ["1001", "1002"]


def test_each_password_that_one_source_finds_is_an_alarm() -> None:
    """Whoever has an account of his own could otherwise raise the first alarm himself, to hide the second."""
    story = Story()
    for account in ("1001", "1002"):
        story.tries(Case.WRONG_PASSWORD, [account] * 6, every=3)
        for _ in range(2):
            story.attempt(Case.RIGHT_PASSWORD, account=account)
        story.wait(900)
    assert [alert.account for alert in story.alerts if alert.kind == "password_found"] == ["1001", "1002"]


def test_a_thousand_phones_with_one_trouble_are_no_flood_and_leave_room_for_others() -> None:
    story = Story()
    for number in range(1000):
        story.attempt(Case.FULL_AOR, source=f"198.51.{number // 250}.{number % 250 + 1}", transport="TLS")
    assert story.kinds() == ["aor_full"] * ALERTS_A_MINUTE + ["alert_ceiling"]
    assert story.judge.counters.alerts_held_back == 1000 - ALERTS_A_MINUTE
    assert (
        f"{ALERTS_A_MINUTE} new alerts aor_full a minute on evidence that nobody can forge" in story.alerts[-1].reason
    )
    story.see(one("RequestNotSupported", RequestType="registrar_requested_aor_not_found", source=PHONE))
    assert story.kinds()[-1] == "aor_missing"  # each kind has its own


def monitors(story: Story, *sources: str) -> None:
    """Forge calm requests with one name in the names of these addresses, all within the same minutes."""
    for source in sources:
        for turn in range(12):
            event = one("InvalidAccountID", account="monitor", source=source)
            story.verdicts += story.judge.see(event, story.now + turn * 20)


STRANGERS = [f"198.51.100.{number + 1}" for number in range(4 * ALERTS_A_MINUTE)]


def test_forged_addresses_drown_no_alert_that_rests_on_a_login_or_on_proof() -> None:
    story = Story()
    monitors(story, *STRANGERS)
    assert story.kinds().count("alert_ceiling") == 1
    assert "unknown_carrier a minute on evidence that forged UDP packets could make" in story.alerts[-1].reason
    story.wait(12 * 20)
    before = len(story.alerts)
    story.tries(Case.WRONG_PASSWORD, ["1001"] * 3, every=5, source=PHONE)
    story.attempt(Case.RIGHT_PASSWORD, source=PHONE)
    story.attempt(Case.FULL_AOR, source=PHONE, account="1002")
    assert story.kinds()[before:] == ["mistyped_password", "aor_full"]


def test_strangers_drown_no_alert_about_a_trusted_address() -> None:
    story = Story()
    story.attempt(Case.RIGHT_PASSWORD, source=PHONE)
    monitors(story, *STRANGERS, PHONE)
    told = [str(alert.address) for alert in story.alerts if alert.kind == "unknown_carrier"]
    assert told == [*STRANGERS[:ALERTS_A_MINUTE], PHONE]


def test_accounts_that_are_attacked_are_no_flood_either() -> None:
    story = Story()
    for account in range(3 * ALERTS_A_MINUTE):
        for host in range(Policy().attacked_by):
            story.attempt(Case.WRONG_PASSWORD, source=f"198.51.{account}.{host + 1}", account=str(account))
    kinds = story.kinds()
    assert kinds.count("account_attacked") <= 2 * ALERTS_A_MINUTE
    assert "alert_ceiling" in kinds


def test_who_has_one_password_drowns_no_other_that_is_found() -> None:
    story = Story()
    for number in range(3 * ALERTS_A_MINUTE):
        source = f"2001:db8:0:{number:x}::1"
        story.tries(Case.WRONG_PASSWORD, ["1001"] * 5, every=0.01, source=source)
        story.attempt(Case.RIGHT_PASSWORD, source=source, account="1001")
    story.tries(Case.WRONG_PASSWORD, ["1002"] * 6, every=0.1)
    story.attempt(Case.RIGHT_PASSWORD, account="1002")
    told = [alert.account for alert in story.alerts if alert.kind == "password_found"]
    assert told == ["1001"] * ALERTS_A_MINUTE + ["1002"]
    assert story.kinds().count("alert_ceiling") == 1


@pytest.mark.parametrize("transport", ["UDP", "TCP"])
def test_a_flood_of_many_kinds_is_bounded(transport: str) -> None:
    story = Story()
    story.attempt(Case.RIGHT_PASSWORD, source=PHONE)
    for number in range(2_000):
        source = f"198.51.{number // 250}.{number % 250 + 1}"
        for case in (Case.FULL_AOR, Case.SIP_NO_ANSWER, Case.WRONG_PASSWORD, Case.UNKNOWN_ACCOUNT):
            story.attempt(case, source=source, account=str(number % 50), transport=transport)
    assert len(story.alerts) <= 3 * len(ALERTS) * ALERTS_A_MINUTE


def test_the_ceilings_of_accounts_are_bounded() -> None:
    story = Story()
    for number in range(alarms.MAX_CEILINGS + 10):
        event = one("SuccessfulAuth", account=str(number))
        story.judge.alarms.tell("password_found", number, event, story.now, lambda: "found")
    assert len(story.judge.alarms._ceilings) <= alarms.MAX_CEILINGS + 1

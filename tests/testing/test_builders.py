import re
from datetime import datetime

import pytest

from amiwatch.ami.wire import TEMPLATES, Item, Wire
from amiwatch.judgement.values import SecurityEvent
from amiwatch.testing.builders import Case, attempt_bytes, attempt_events, bytes_of, event_bytes, security_event, stamp
from tests.corpus import FOLDER, LABELS, recording

BLOCK = re.compile(rb"Event: (\w+)\r\nPrivilege: security,all\r\n(.*?)\r\n\r\n", re.DOTALL)


def kinds(case: Case) -> list[tuple[str, str]]:
    return [(event.kind, event.account) for event in attempt_events(case, account="1001")]


@pytest.mark.parametrize("name", [name for name, label in LABELS.items() if not label["tampered"]])
def test_a_recorded_event_is_rebuilt_byte_for_byte(name: str) -> None:
    if not (FOLDER / f"{name}.ami").exists():
        pytest.skip("recorded in another form")
    rebuilt = 0
    for block in BLOCK.finditer(recording(name)):
        headers = dict(line.split(": ", 1) for line in block[2].decode().split("\r\n"))
        if "Timestamp" in headers:
            continue  # timestampevents=yes: another beginning
        at = datetime.fromisoformat(headers["EventTV"])
        service = headers.pop("Service")
        usual = {"EventTV", "Severity", "EventVersion"}
        given = {header: value for header, value in headers.items() if header not in usual}
        built = event_bytes(block[1].decode(), service=service, EventTV=headers["EventTV"], **given)
        assert built == block[0]
        assert stamp(at.timestamp()) == headers["EventTV"] or "-tz2-" in name
        rebuilt += 1
    assert rebuilt == LABELS[name]["genuine"] or "tsevents" in name


@pytest.mark.parametrize("kind", TEMPLATES)
def test_every_kind_can_be_built_for_every_service_that_raises_it(kind: str) -> None:
    for service in (*TEMPLATES[kind].raised_by, "TEST"):
        event = security_event(kind, service=service, account="1002", source="2001:db8:bad::7", port=4711)
        assert (event.kind, event.service, str(event.source), event.port) == (kind, service, "2001:db8:bad::7", 4711)
        assert event.account == "1002"


@pytest.mark.parametrize("kind", TEMPLATES)
def test_an_event_becomes_bytes_and_the_same_event_again(kind: str) -> None:
    event = security_event(kind, account="a: b\u00e9", session="", at=1_795_345_251.044)
    (again,) = Wire(has_pings=False).feed(bytes_of(event))
    assert isinstance(again, SecurityEvent)
    assert again._replace(guess=0) == event._replace(guess=0)


def test_a_transport_that_asterisk_did_not_name_stays_unnamed() -> None:
    event = security_event("ChallengeSent", RemoteAddress="IPV4/198.51.100.7/5060")
    assert event.transport == ""
    (again,) = Wire(has_pings=False).feed(bytes_of(event))
    assert again == event


def test_cases_raise_what_a_real_asterisk_raised() -> None:
    stranger = [("InvalidAccountID", "1001"), ("ChallengeSent", "<unknown>")]
    assert kinds(Case.UNKNOWN_ACCOUNT) == stranger
    assert kinds(Case.UNKNOWN_ACCOUNT_ANSWERED) == [
        *stranger,
        ("InvalidAccountID", "1001"),
        ("ChallengeResponseFailed", "<unknown>"),
    ]
    assert kinds(Case.WRONG_PASSWORD) == [("ChallengeSent", "1001"), ("ChallengeResponseFailed", "1001")]
    assert kinds(Case.RIGHT_PASSWORD) == [("ChallengeSent", "1001"), ("SuccessfulAuth", "1001")]
    assert kinds(Case.STALE_NONCE) == [("ChallengeSent", "1001")]
    assert kinds(Case.AMI_WRONG_SECRET) == [("InvalidPassword", "1001")]
    assert kinds(Case.SIP_WRONG_PASSWORD) == [("ChallengeSent", "1001"), ("InvalidPassword", "1001")]


@pytest.mark.parametrize(
    ("case", "name", "account"),
    [
        (Case.NO_CREDENTIALS, "ast22-pjsip-register-noanswer", "1001"),
        (Case.UNKNOWN_ACCOUNT_ANSWERED, "ast22-pjsip-register-unknown-account", "7777"),
        (Case.WRONG_PASSWORD, "ast22-pjsip-register-wrong-password", "1001"),
        (Case.RIGHT_PASSWORD, "ast22-pjsip-register-valid", "1001"),
        (Case.WRONG_PASSWORD, "ast16-pjsip-register-wrong-password", "1001"),
        (Case.SIP_WRONG_PASSWORD, "ast16-sip-register-wrong-password", "1001"),
    ],
)
def test_a_case_is_what_was_recorded(case: Case, name: str, account: str) -> None:
    items: list[Item] = Wire(has_pings=False).feed(recording(name))
    recorded = [item for item in items if isinstance(item, SecurityEvent) and item.service != "AMI"]
    session = recorded[0].session
    expected = [(event.kind, event.service, event.account) for event in recorded if event.session == session]
    built = attempt_events(case, account=account)
    assert [(event.kind, event.service, event.account) for event in built] == expected
    assert [event.used_password for event in built] == [event.used_password for event in recorded][: len(built)]


@pytest.mark.parametrize("case", Case)
def test_an_attempt_has_one_session_of_its_own(case: Case) -> None:
    one, two = attempt_events(case), attempt_events(case)
    assert len({event.session for event in one}) == 1
    assert one[0].session != two[0].session
    assert {event.session for event in attempt_events(case, session="mine")} == {"mine"}


def test_two_wrong_passwords_are_two_guesses_unless_told() -> None:
    guesses = [attempt_events(Case.WRONG_PASSWORD)[-1].guess for _ in range(2)]
    assert 0 not in guesses
    assert guesses[0] != guesses[1]
    same = [security_event("ChallengeResponseFailed", Response="0" * 32).guess for _ in range(2)]
    assert same[0] == same[1] != 0


def test_what_asterisk_has_not_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="no security event 'Nonsense'"):
        event_bytes("Nonsense")
    with pytest.raises(ValueError, match="ChallengeSent has no header ACLName"):
        event_bytes("ChallengeSent", ACLName="x")


def test_a_forged_header_can_be_written_and_is_no_event() -> None:
    forged = event_bytes("InvalidAccountID", account="x\r\nRemoteAddress: IPV4/UDP/8.8.8.8/1")
    assert b"\r\nRemoteAddress: IPV4/UDP/8.8.8.8/1\r\nSessionID: " in forged
    with pytest.raises(ValueError, match="no genuine security events"):
        security_event("InvalidAccountID", account="x\r\nRemoteAddress: IPV4/UDP/8.8.8.8/1")


def test_an_attempt_is_one_piece_of_bytes() -> None:
    data = attempt_bytes(Case.FULL_AOR, source="192.0.2.101")
    assert data.count(b"\r\n\r\n") == 3
    assert data.count(b"RemoteAddress: IPV4/UDP/192.0.2.101/5060\r\n") == 3
    assert b"ACLName: registrar_attempt_exceeds_maximum_configured_contacts" in data

"""Who writes line ends into an account is known by the genuine event of the same request, and by nothing else."""

import pytest

from amiwatch.ami.wire import Tampered, Wire
from amiwatch.judgement.judge import BROKEN_TIME, Judge
from amiwatch.judgement.rules import Policy
from amiwatch.judgement.values import Ban, SecurityEvent
from amiwatch.testing.builders import Case
from tests.corpus import recording
from tests.judgement.stories import ATTACKER, PHONE, Story, logs_in, new_session, one


def injects(story: Story, *, source: str = ATTACKER, transport: str = "TLS") -> None:
    """Send one request whose InvalidAccountID was refused: only its companion is left."""
    session = new_session()
    story.judge.refuse(session, story.now)
    story.attempt(Case.UNMATCHED, source=source, transport=transport, session=session)
    story.wait(3)


@pytest.mark.parametrize(("transport", "most"), [("TLS", 4), ("UDP", 5)])
def test_an_injector_is_banned_like_a_scanner(transport: str, most: int) -> None:
    story = Story()
    for _ in range(most):
        assert not story.bans
        injects(story, transport=transport)
    (ban,) = story.bans
    assert str(ban.address) == ATTACKER
    assert "line ends" in ban.reason


def test_the_genuine_events_of_a_recorded_attack_ban_its_sender_and_nobody_whom_it_names() -> None:
    judge, said = Judge(Policy()), []
    for item in Wire(has_pings=False).feed(recording("ast22-pjsip-hostile-usernames")):
        if isinstance(item, Tampered):
            judge.refuse(item.session, 1e9)
        elif isinstance(item, SecurityEvent):
            said += judge.see(item, 1e9)
    assert {str(each.address) for each in said if isinstance(each, Ban)} == {"198.51.100.7"}


def test_a_broken_message_alone_does_nothing_to_anybody() -> None:
    story = Story()
    for _ in range(100):
        story.judge.refuse(new_session(), story.now)
        story.judge.refuse("", story.now)
        story.attempt(Case.RIGHT_PASSWORD, source=PHONE)
        story.attempt(Case.UNMATCHED, source=PHONE, session="of-nobody")
    assert not story.verdicts


def test_the_genuine_event_counts_once_and_not_after_a_while() -> None:
    story = Story()
    for _ in range(10):
        session = new_session()
        story.judge.refuse(session, story.now)
        story.wait(BROKEN_TIME + 1)
        story.attempt(Case.UNMATCHED, transport="TLS", session=session)
        story.wait(300)
    assert not story.bans


def test_an_office_in_whose_name_somebody_injects_over_udp_is_not_banned() -> None:
    story = Story()
    logs_in(story, PHONE)
    for _ in range(50):
        injects(story, source=PHONE, transport="UDP")
    assert not story.bans


@pytest.mark.parametrize("transport", ["TLS", "UDP"])
@pytest.mark.parametrize("is_trusted", [True, False])
def test_a_phone_whose_call_id_an_injector_knows_is_not_banned(is_trusted: bool, transport: str) -> None:
    """On FreePBX it is asked as <unknown> first, which counts as an account where a message broke with its Call-ID."""
    story = Story()
    if is_trusted:
        logs_in(story, PHONE, transport=transport)
    for _ in range(500):
        story.judge.refuse("its-call-id", story.now)
        details = {"source": PHONE, "session": "its-call-id", "transport": transport}
        story.attempt(Case.UNMATCHED, **details)
        story.wait(0.1)
        story.see(one("SuccessfulAuth", account="1001", UsingPassword="1", **details))
        story.wait(60)
    assert not story.verdicts

"""Recordings of a real Asterisk, through the wire and the judge: exactly the attackers are banned."""

import gzip
import json
from collections import Counter
from collections.abc import Iterable
from ipaddress import ip_address
from random import Random

import pytest

from amiwatch.ami.wire import Wire
from amiwatch.judgement.judge import Judge
from amiwatch.judgement.rules import OFFICE, POLICIES, Policy
from amiwatch.judgement.values import Ban, SecurityEvent, Verdict
from tests.corpus import FLOOD, FOLDER, LABELS, recording

BANNED: dict[str, set[str]] = {
    "ast22-pjsip-authuser-enum50-register": {"198.51.100.11"},
    "ast22-pjsip-crack50": {"198.51.100.11"},
    "ast22-pjsip-enum50-register": {"198.51.100.11"},
    "ast22-pjsip-hostile-callid-auth": {"198.51.100.7"},
    "ast22-pjsip-hostile-usernames": {"198.51.100.7"},
    "ast22-pjsip-malformed": {"198.51.100.9"},
    "ast22-pjsip-mixed-60s": {"198.51.100.20", "198.51.100.21", "198.51.100.23", "2001:db8:bad::/64"},
    "ast22-pjsip-svcrack-unknown": {"192.0.2.66"},
}
"""Whom the office's rules ban; in all other recordings nobody."""

VICTIMS = {"8.8.8.8", "8.8.4.4", "9.9.9.9", "203.0.113.5"}
PHONES = {"192.0.2.101", "192.0.2.102", "192.0.2.103"}
TRUNKS = {"198.51.100.50", "198.51.100.51", "198.51.100.52"}


def judge_all(data: bytes, **policy: object) -> tuple[Judge, list[Verdict]]:
    judge = Judge(Policy(**policy), random=Random(1))  # type: ignore[arg-type]
    wire, now, said = Wire(has_pings=False), 0.0, []
    for item in [*wire.feed(data), *wire.close()]:
        if isinstance(item, SecurityEvent):
            now = max(now, item.at)
            said += judge.see(item, now)
    return judge, said


def banned(verdicts: Iterable[Verdict]) -> set[str]:
    return {str(each.network).removesuffix("/32") for each in verdicts if isinstance(each, Ban)}


@pytest.mark.parametrize("name", sorted(LABELS))
def test_a_recording_bans_its_attackers_and_nobody_else(name: str) -> None:
    _, said = judge_all(recording(name))
    assert banned(said) == BANNED.get(name, set())


@pytest.mark.parametrize("policy", sorted(POLICIES))
@pytest.mark.parametrize("name", sorted(LABELS))
def test_no_victim_of_a_forgery_and_no_trunk_is_ever_banned(name: str, policy: str) -> None:
    _, said = judge_all(recording(name), name=policy, rules=POLICIES[policy])
    forged = VICTIMS if "hostile" in name or "http" in name else set()
    assert not banned(said) & (forged | TRUNKS)


@pytest.mark.parametrize("name", sorted(LABELS))
def test_no_phone_is_banned_by_the_rules_of_an_office(name: str) -> None:
    _, said = judge_all(recording(name), rules=OFFICE)
    assert not banned(said) & PHONES


def test_the_mixed_minute_is_judged_by_its_truth() -> None:
    truth = json.loads((FOLDER / "ast22-pjsip-mixed-60s.truth.json").read_text())
    judge, said = judge_all(recording("ast22-pjsip-mixed-60s"))
    for address, roles in truth.items():
        is_banned = judge.ledger.covering(ip_address(address), max(each.at for each in said)) is not None
        tried = sum(
            sum(answers.values()) for role, answers in roles.items() if "phone" not in role and "OPTIONS" not in role
        )
        assert is_banned == (tried >= 20), address
    assert [(each.kind, str(each.address)) for each in said if not isinstance(each, Ban)] == [
        ("unknown_carrier", "198.51.100.24")
    ]


def test_retransmissions_are_one_attempt_each() -> None:
    """Four requests of five copies each: 7778 without and with an answer, 1001 likewise; and our own login."""
    judge, _ = judge_all(recording("ast22-pjsip-retransmit"))
    assert judge.counters.attempts == 3
    assert judge.counters.events == 31


def test_each_guess_of_a_cracker_that_keeps_its_call_id_is_counted() -> None:
    data = recording("ast22-pjsip-svcrack-unknown")
    judge, _ = judge_all(data, rules=())
    guesses = {item.guess for item in Wire(has_pings=False).feed(data) if isinstance(item, SecurityEvent)} - {0}
    repeats = 1 + (len(guesses) * 1) // 12  # its InvalidAccountID is the same again and again
    assert len(guesses) <= judge.counters.attempts - 1 <= len(guesses) + repeats


def test_a_recorded_flood_bans_its_twenty_attackers_within_a_handful_of_attempts() -> None:
    judge, said = judge_all(gzip.decompress(FLOOD.read_bytes()))
    assert Counter(type(each).__name__ for each in said) == {"Ban": 20}
    assert judge.counters.attempts <= 20 * 5 + 1
    assert judge.counters.repeats > 170_000

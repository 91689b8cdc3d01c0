"""One's own history, judged live and stored, and then judged again by the program."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from ipaddress import ip_address, ip_network
from pathlib import Path
from random import Random
from typing import Any

import pytest

from amiwatch.ami.wire import Tampered
from amiwatch.cli.recorded import Heard, Recordings
from amiwatch.judgement.history import PastAttempt, Rerun, events_of
from amiwatch.judgement.judge import Judge
from amiwatch.judgement.rules import DAY, HOUR, Policy
from amiwatch.judgement.values import Alert, Ban, SecurityEvent, Verdict
from amiwatch.store.history import counts_of, past_attempts
from amiwatch.store.reader import Reader
from amiwatch.store.records import AttemptCount
from amiwatch.store.writer import Store
from amiwatch.testing.builders import Case, attempt_events
from tests.corpus import FOLDER, LABELS

NOW = float(int(time.time()))
OFFICE, SCANNER = "192.0.2.20", "203.0.113.7"


def attempts(
    case: Case, *accounts: str, source: str, at: float, step: float = 1.0, **details: Any
) -> list[SecurityEvent]:
    """Return one attempt on each account, so many seconds apart."""
    return [
        event
        for number, account in enumerate(accounts)
        for event in attempt_events(case, account=account, source=source, at=at + number * step, **details)
    ]


def live(store: Store, events: Iterable[Heard]) -> Rerun:
    """Judge events as they come, and hand everything over to the store as the daemon does."""
    rerun, saved, now = Rerun(Judge(Policy(), random=Random(0))), 0.0, 0.0

    def put(verdicts: Iterable[Verdict]) -> None:
        for verdict in verdicts:
            if isinstance(verdict, Ban):
                store.put_ban(verdict, pbx="pbx", origin="rule", is_enforced=True)
            elif isinstance(verdict, Alert):
                store.put_alert(verdict, pbx="pbx")

    for event in events:
        if isinstance(event, Tampered):
            rerun.judge.refuse(event.session, now)
            continue
        now = max(now, event.at)
        put(rerun.see(event, now))
        if now > saved + 1:
            saved = now
            store.put_attempts(counts_of(rerun.judge.tally.drain()))
    put(rerun.wait(now + 60))
    store.put_attempts(counts_of(rerun.judge.tally.drain()))
    return rerun


@pytest.fixture
def lived(fill: Callable[[Any], None]) -> Callable[..., Rerun]:
    """Live through events; return what was decided."""

    def through(*events: SecurityEvent) -> Rerun:
        made: list[Rerun] = []
        fill(lambda store: made.append(live(store, events)))
        return made[0]

    return through


@pytest.fixture
def records(call: Any) -> Callable[..., list[dict[str, Any]]]:
    """Replay the history, and return its lines."""

    def replay(*arguments: str, **settings: str) -> list[dict[str, Any]]:
        result = call("replay", "--json", *arguments, **settings)
        assert result.exit_code == 0, result.stderr
        return [json.loads(line) for line in result.stdout.splitlines()]

    return replay


def alternatives(records: Sequence[dict[str, Any]]) -> dict[str, tuple[int, int, int]]:
    return {
        one["name"]: (one["sources"], one["with_good_phones"], one["logins_missed"])
        for one in records
        if one["type"] == "alternative"
    }


TOLD_BY_PORTS = {"ast22-pjsip-svcrack-unknown": "192.0.2.66/32"}
"""Who tries passwords on an account that Asterisk does not name, all from one port: no port is kept."""


@pytest.mark.parametrize("name", [name for name in LABELS if (FOLDER / f"{name}.ami").exists()])
def test_the_history_of_every_recording_is_judged_as_the_recording_was(name: str, fill: Any, path: Path) -> None:
    made: list[Rerun] = []
    events = [event for _, event in Recordings([FOLDER / f"{name}.ami"]).read()]
    fill(lambda store: made.append(live(store, events)))
    again, now = Rerun(Judge(Policy(), random=Random(0))), 0.0
    with Reader(path) as reader:
        for event in events_of(past_attempts(reader, since=0.0, until=1e12)):
            now = max(now, event.at)
            list(again.see(event, now))
    list(again.wait(now + 60))
    before = {str(one): ban.rule for one, ban in made[0].first.items()}
    if name in TOLD_BY_PORTS:
        assert before.pop(TOLD_BY_PORTS[name]) == "unknown_rush"
    assert {str(one): ban.rule for one, ban in again.first.items()} == before
    # What a registrar refuses is no attempt, so the history does not hold it.
    assert again.alerts == {kind: n for kind, n in made[0].alerts.items() if not kind.startswith("aor_")}


def test_the_history_is_judged_by_other_policies_and_compared_with_what_was_done(lived: Any, records: Any) -> None:
    lived(
        *attempts(Case.RIGHT_PASSWORD, "200", "201", source=OFFICE, at=NOW - 9 * HOUR),
        *attempts(Case.UNKNOWN_ACCOUNT, *"123456", source=OFFICE, at=NOW - 8 * HOUR, transport="TLS"),
        *attempts(Case.RIGHT_PASSWORD, "200", source=OFFICE, at=NOW - 8 * HOUR + 60),
        *attempts(Case.UNKNOWN_ACCOUNT, *"123456789", source=SCANNER, at=NOW - 2 * HOUR, transport="TLS"),
    )
    found = records("--since", "7d", "--policy", "closed")
    assert alternatives(found) == {"in force": (1, 0, 0), "closed": (2, 1, 1), "recorded then": (1, 0, 0)}
    differences = {(one["alternative"], one["network"]): one for one in found if one["type"] == "difference"}
    assert set(differences) == {("closed", f"{OFFICE}/32")}
    assert differences["closed", f"{OFFICE}/32"]["good_phones"] == ["200", "201"]


def test_people_get_a_table_and_sentences(lived: Any, call: Any) -> None:
    lived(*attempts(Case.UNKNOWN_ACCOUNT, *"123456789", source=SCANNER, at=NOW - HOUR, transport="TLS"))
    text = call("replay", "--since", "all", "-w", "rules.scan.limit=0 rules.scan_rush.limit=0").stdout
    assert "in force (office)" in text
    assert "recorded then: 1 source was banned, none of them had good phones." in text
    assert "The same sources as in force" in text
    assert text.splitlines()[-1].startswith("4 attempts, 1 ban")


def test_only_the_asked_time_is_counted_but_windows_and_trust_are_warm(lived: Any, records: Any) -> None:
    lived(
        *attempts(Case.RIGHT_PASSWORD, "200", source=OFFICE, at=NOW - 3 * DAY),
        *attempts(Case.UNKNOWN_ACCOUNT, *"1234", source=SCANNER, at=NOW - 40 * HOUR),
        *attempts(Case.UNKNOWN_ACCOUNT, *"5678", source=SCANNER, at=NOW - 10 * HOUR),
        *attempts(Case.WRONG_PASSWORD, *["200"] * 9, source=OFFICE, at=NOW - 9 * HOUR, transport="TLS"),
    )
    *_, summary = records("--since", "24h")
    assert summary["attempts"] == 4 + 9
    # The four of the day before count on for the week, and the office's login three days ago still covers it.
    assert (summary["sources"], summary["alert_kinds"]) == (1, {"trusted_offender": 1})
    *_, summary = records("--since", "2d", "--until", "20h")
    assert (summary["attempts"], summary["sources"]) == (4, 0)


def test_trust_from_before_the_kept_attempts_counts(lived: Any, fill: Any, records: Any) -> None:
    fill(lambda store: store.put_trust(ip_network(OFFICE), "200", NOW - 8 * DAY, NOW + DAY, NOW))
    lived(*attempts(Case.WRONG_PASSWORD, *["200"] * 12, source=OFFICE, at=NOW - HOUR, transport="TLS"))
    *_, summary = records("--since", "2h")
    assert (summary["sources"], summary["alert_kinds"]) == (0, {"trusted_offender": 1})


def test_what_limits_the_answer_is_said(lived: Any, fill: Any, path: Path, records: Any) -> None:
    lived(*attempts(Case.UNKNOWN_ACCOUNT, *"123456789", source=SCANNER, at=NOW - 2 * HOUR, transport="TLS"))

    def deaf(store: Store) -> None:
        store.put_gap_begin("pbx", NOW - HOUR, "amiwatch did not run")
        store.put_gap_end("pbx", NOW - HOUR + 600)

    fill(deaf)
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE attempts SET times = '' WHERE account = '1'")  # as an older amiwatch wrote it
    *_, summary = records(
        "--since", "7d", "--with", "rules.scan.limit=0 rules.scan_rush.limit=0 rules.scan_day.limit=0"
    )
    notes = " ".join(summary["notes"])
    assert "The history begins only at" in notes
    assert "Nothing was heard for 10 min of it (1 gap" in notes
    assert "1 attempt has no time of its own" in notes
    assert "holds up to that ban" in notes


def test_an_empty_history_is_said_to_be_empty(fill: Any, records: Any) -> None:
    fill(lambda store: None)
    *_, summary = records("--since", "7d")
    assert (summary["attempts"], summary["sources"]) == (0, 0)
    assert summary["notes"][0] == "The database holds no attempts."


@pytest.mark.parametrize("arguments", [("--since", "soon"), ("--since", "1h", "--until", "2h")])
def test_a_time_that_makes_no_sense_is_one_sentence(arguments: tuple[str, ...], fill: Any, call: Any) -> None:
    fill(lambda store: None)
    result = call("replay", *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.count("\n") == 1


def test_who_was_allowed_since_is_not_banned_in_the_replay(lived: Any, records: Any) -> None:
    lived(*attempts(Case.UNKNOWN_ACCOUNT, *"123456789", source=SCANNER, at=NOW - HOUR, transport="TLS"))
    *_, summary = records("--since", "2h", AMIWATCH_ALLOWLIST=SCANNER)
    assert (summary["sources"], summary["alert_kinds"]) == (0, {"allowed_offender": 1})


def test_hostile_accounts_do_not_reach_the_terminal(lived: Any, call: Any) -> None:
    names = [f"\x1b[31m{n}\u202e" for n in range(9)]
    lived(*attempts(Case.UNKNOWN_ACCOUNT, *names, source=SCANNER, at=NOW - HOUR, transport="TLS"))
    text = call("replay", "--since", "2h", "--policy", "closed").stdout
    assert "closed" in text
    assert all(line.isprintable() for line in text.splitlines())


async def test_a_row_with_more_attempts_than_times_spreads_the_rest(path: Path) -> None:
    async with await Store.open(path) as store:
        begin = NOW // 600 * 600
        times = (begin, begin + 10)
        store.put_attempts(
            [AttemptCount("pbx", ip_address(SCANNER), "1", "PJSIP", "UDP", "unknown", 4, begin, begin + 30, times, 1)]
        )
        await store.flush()
    with Reader(path) as reader:
        found = list(past_attempts(reader, since=0, until=1e12))
    assert [one.at - begin for one in found] == [0, 10, 20, 30]
    assert [one.is_answered for one in found] == [True, False, False, False]
    assert found[0] == PastAttempt(begin, ip_address(SCANNER), "1", "PJSIP", "UDP", "unknown", True)

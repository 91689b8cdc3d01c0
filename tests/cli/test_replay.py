"""What would have been done about the recordings of a real Asterisk."""

from __future__ import annotations

import gzip
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from amiwatch.judgement.rules import POLICIES
from amiwatch.testing.builders import Case, attempt_bytes
from tests.corpus import FOLDER, LABELS

AT = 1795342000.0
"""When what is made here begins."""

VICTIMS = {"8.8.8.8", "8.8.4.4", "9.9.9.9"}
HONEST = {f"192.0.2.{last}" for last in (101, 102, 103)} | {f"198.51.100.{last}" for last in (50, 51, 52)}


def replay(*arguments: str | Path, data: bytes = b"", **settings: str) -> subprocess.CompletedProcess[str]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("AMIWATCH_")}
    done = subprocess.run(
        [sys.executable, "-m", "amiwatch", "replay", *map(str, arguments)],
        env=environ | {f"AMIWATCH_{name.upper()}": value for name, value in settings.items()},
        input=data,
        capture_output=True,
        check=False,
    )
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


def scan(count: int, *, source: str = "203.0.113.7", at: float = AT, transport: str = "TLS") -> bytes:
    """Return so many attempts on accounts that don't exist, one a second."""
    return b"".join(
        attempt_bytes(
            Case.UNKNOWN_ACCOUNT, account=f"{n}", source=source, transport=transport, session=f"{at}{n}", at=at + n
        )
        for n in range(count)
    )


def lines(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def banned(records: list[dict[str, Any]]) -> set[str]:
    return {record["address"] for record in records if record["type"] == "ban"}


def test_every_recording_is_counted_as_its_label_says_and_bans_nobody_honest() -> None:
    for name, label in LABELS.items():
        done = replay(FOLDER / f"{name}.ami", "--json")
        assert done.returncode == (2 if "slow-reader" in name else 0)  # there Asterisk hung up within a message
        *verdicts, summary = map(json.loads, done.stdout.splitlines())
        assert summary["type"] == "summary"
        assert (summary["events"], summary["tampered"]) == (label["genuine"], label["tampered"] + label["fragments"]), (
            name
        )
        assert not banned(verdicts) & (VICTIMS | HONEST), name
        if "hostile" in name or "spoofed" in name or "http" in name:
            assert banned(verdicts) <= {"198.51.100.7"}, name
        assert summary["bans"] == len([each for each in verdicts if each["type"] == "ban"])
        assert summary["alerts"] == len([each for each in verdicts if each["type"] == "alert"])


def test_a_ban_is_one_line_with_all_that_a_program_wants() -> None:
    first = lines(replay("--json", FOLDER / "ast22-pjsip-enum50-register.ami"))[0]
    assert first["type"] == "ban"
    assert re.fullmatch(r"2026-11-22T\d\d:\d\d:\d\d\.\d{3}Z", first["at"])
    assert (first["address"], first["network"], first["service"]) == ("198.51.100.11", "198.51.100.11/32", "PJSIP")
    assert (first["rule"], first["level"]) == ("scan_rush", 1)
    assert 600 <= first["seconds"] <= 3960
    assert "5 unknown accounts" in first["reason"]


def test_an_ipv6_source_is_banned_by_its_64() -> None:
    data = b"".join(
        attempt_bytes(Case.UNKNOWN_ACCOUNT, account=f"{n}", source=f"2001:db8:bad::{n}", session=f"{n}")
        for n in range(9)
    )
    assert {each["network"] for each in lines(replay("-", "--json", data=data)) if each["type"] == "ban"} == {
        "2001:db8:bad::/64"
    }


def test_the_allowlist_comes_from_the_environment() -> None:
    done = replay("--json", FOLDER / "ast22-pjsip-enum50-register.ami", allowlist='["198.51.100.0/24"]')
    *verdicts, _ = lines(done)
    assert not banned(verdicts)
    assert verdicts[0]["kind"] == "allowed_offender"


def test_settings_change_what_would_have_been_done() -> None:
    data = scan(2)
    assert not banned(lines(replay("--json", "-", data=data)))
    assert banned(lines(replay("--json", "-", data=data, policy="closed"))) == {"203.0.113.7"}
    assert banned(lines(replay("--json", "-", data=data, rules__scan__limit="1"))) == {"203.0.113.7"}


def test_several_recordings_are_several_pbxs_at_once(tmp_path: Path) -> None:
    for part in range(2):
        data = [
            attempt_bytes(Case.UNKNOWN_ACCOUNT, account=f"{n}", session=f"{n}", at=1795342000.0 + n)
            for n in range(6)
            if n % 2 == part
        ]
        (tmp_path / f"{part}.ami").write_bytes(b"".join(data))
    alone = lines(replay("--json", tmp_path / "0.ami"))
    both = lines(replay("--json", tmp_path / "0.ami", tmp_path / "1.ami"))
    assert (alone[-1]["bans"], both[-1]["bans"], both[-1]["events"]) == (0, 1, 12)


def test_who_breaks_messages_is_known_by_the_genuine_ones_of_the_same_requests(tmp_path: Path) -> None:
    names = [f"10{number}\r\nRemoteAddress: IPV4/TLS/192.0.2.101/5060\r\n\r\n" for number in range(6)]
    sends = [
        attempt_bytes(
            Case.UNKNOWN_ACCOUNT_ANSWERED, account=name, source="203.0.113.7", transport="TLS", session=f"x{at}", at=at
        )
        for at, name in enumerate(names, start=int(AT))
    ]
    path = tmp_path / "one.ami"
    path.write_bytes(b"".join(sends))
    *verdicts, summary = lines(replay(path, "--json"))
    assert summary["tampered"]
    assert [(ban["address"], ban["rule"]) for ban in verdicts] == [("203.0.113.7", "scan_rush")]


def test_a_ban_ends_in_the_events_own_time_and_the_next_is_longer() -> None:
    def scan(at: float) -> bytes:
        return b"".join(
            attempt_bytes(Case.UNKNOWN_ACCOUNT, account=f"{n}", session=f"{at}{n}", at=at + n) for n in range(6)
        )

    *verdicts, _ = lines(replay("-", "--json", data=scan(1795342000) + scan(1795342000 + 2 * 3600)))
    assert [each["level"] for each in verdicts] == [1, 2]


def test_a_packed_recording_is_unpacked(tmp_path: Path) -> None:
    (tmp_path / "x.ami.gz").write_bytes(gzip.compress((FOLDER / "ast22-pjsip-crack50.ami").read_bytes()))
    assert banned(lines(replay("--json", tmp_path / "x.ami.gz"))) == {"198.51.100.11"}


@pytest.mark.parametrize("data", [b"", b"\r\n\r\n\r\n", b"\x00\xff" * 5000, b"GET / HTTP/1.0\r\n\r\n"])
def test_what_is_no_recording_gives_a_summary_of_nothing_and_is_named(data: bytes) -> None:
    done = replay("--json", "-", data=data)
    (summary,) = map(json.loads, done.stdout.splitlines())
    assert (summary["events"], summary["bans"]) == (0, 0)
    said = "amiwatch: '-' holds no AMI bytes: name a recording of what a manager's connection reads.\n"
    assert (done.returncode, done.stderr) == (2, said)


def test_a_recording_without_any_security_event_is_one_nevertheless() -> None:
    (summary,) = lines(replay("--json", "-", data=b"Asterisk Call Manager/11.0.0\r\n"))
    assert summary["events"] == 0


def test_a_plain_recording_that_ends_in_the_middle_of_a_message_is_named_after_its_summary(tmp_path: Path) -> None:
    (tmp_path / "x.ami").write_bytes(scan(5) + scan(1, source="192.0.2.9")[:-40])
    done = replay("--json", tmp_path / "x.ami")
    *_, summary = map(json.loads, done.stdout.splitlines())
    assert (summary["bans"], summary["tampered"], done.returncode) == (1, 1, 2)
    assert done.stderr == (
        f"amiwatch: {str(tmp_path / 'x.ami')!r} ends in the middle of a message; the summary is of what came before: "
        "get a whole copy.\n"
    )


def test_people_get_sentences(tmp_path: Path) -> None:
    done = replay(FOLDER / "ast22-pjsip-enum50-register.ami")
    assert "ban    198.51.100.11/32" in done.stdout
    assert re.fullmatch(r"96 events, \d+ attempts, 0 tampered, 1 ban, 0 alerts", done.stdout.splitlines()[-1])


@pytest.mark.parametrize("kind", ["missing", "folder"])
def test_a_file_that_can_not_be_read_is_one_sentence(tmp_path: Path, kind: str) -> None:
    path = tmp_path if kind == "folder" else tmp_path / "x.ami.gz"
    done = replay("--json", path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert str(path) in done.stderr


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_a_recording_that_is_cut_short_is_judged_as_far_as_it_goes(tmp_path: Path, options: tuple[str, ...]) -> None:
    plain = (FOLDER / "ast22-pjsip-enum50-register.ami").read_bytes()
    whole = replay(*options, FOLDER / "ast22-pjsip-enum50-register.ami")
    path = tmp_path / "x.ami.gz"
    path.write_bytes(gzip.compress(plain)[:-8])  # all of it, but not the check sum at the end
    done = replay(*options, path)
    assert done.returncode == 2
    assert done.stdout == whole.stdout
    assert done.stderr.startswith(f"amiwatch: {str(path)!r} can't be read to its end")
    assert done.stderr.count("\n") == 1
    packed = gzip.compress(plain)
    path.write_bytes(packed[: len(packed) // 2])
    done = replay(*options, path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stdout not in ("", whole.stdout)


def test_the_other_recordings_go_on_where_one_is_cut_short(tmp_path: Path) -> None:
    (tmp_path / "x.ami.gz").write_bytes(gzip.compress(os.urandom(5000))[:2000])
    done = replay("--json", tmp_path / "x.ami.gz", FOLDER / "ast22-pjsip-enum50-register.ami")
    assert done.returncode == 2
    summary = json.loads(done.stdout.splitlines()[-1])
    assert (summary["events"], summary["bans"]) == (96, 1)


def test_attempts_of_who_is_banned_are_not_judged() -> None:
    def scan(count: int) -> bytes:
        at = 1795342000.0
        return b"".join(
            attempt_bytes(Case.UNKNOWN_ACCOUNT, account=f"{n}", session=f"{n}", at=at + n) for n in range(count)
        )

    some, many = (lines(replay("--json", "-", data=scan(count)))[-1] for count in (20, 200))
    assert many["events"] > some["events"]
    assert many["attempts"] == some["attempts"]


def office(*accounts: str, source: str = "192.0.2.20", at: float = AT) -> bytes:
    """Return one login of each phone."""
    return b"".join(
        attempt_bytes(Case.RIGHT_PASSWORD, account=account, source=source, at=at + number / 10)
        for number, account in enumerate(accounts)
    )


SLIP = office("200", "201") + scan(6, source="192.0.2.20", at=AT + 60) + office("200", at=AT + 120)
"""An office with two phones from which somebody tries six accounts that don't exist, and then a phone logs in."""


def test_other_policies_are_compared_with_what_is_in_force() -> None:
    data = SLIP + scan(9, at=AT + 200)
    done = replay("-", "--policy", "closed", data=data)
    assert done.returncode == 0
    table = {line[:20].strip(): line.split()[-5:] for line in done.stdout.splitlines()[1:3]}
    assert table == {"in force (office)": ["1", "0", "0", "1", "0"], "closed": ["2", "1", "1", "2", "0"]}
    assert "closed: 2 sources would have been banned, 1 of them had good phones." in done.stdout
    assert "1 source in common with in force, 1 sooner." in done.stdout
    assert "+ 192.0.2.20  good phones '200', '201', 1 login missed; 2026-11-22 " in done.stdout


def test_machines_get_each_alternative_and_each_difference() -> None:
    records = lines(replay("-", "--json", "--with", "policy=closed", "-w", "rules.scan.limit=0", data=SLIP))
    assert {one["alternative"] for one in records if one["type"] == "ban"} == {"policy=closed"}
    assert [(one["name"], one["sources"], one["with_good_phones"]) for one in records if "name" in one] == [
        ("in force", 0, 0),
        ("policy=closed", 1, 1),
        ("rules.scan.limit=0", 0, 0),
    ]
    (difference,) = [one for one in records if one["type"] == "difference"]
    assert (difference["change"], difference["network"]) == ("more", "192.0.2.20/32")
    assert (difference["good_phones"], difference["logins_missed"]) == (["200", "201"], 1)
    assert (records[-1]["type"], records[-1]["sources"]) == ("summary", 0)


@pytest.mark.parametrize(
    "changes", ["rules.scan.limit=1", "AMIWATCH_RULES__SCAN__LIMIT=1", "trust_factor=1 policy=closed"]
)
def test_changed_settings_are_named_as_in_toml_or_as_variables(changes: str) -> None:
    records = lines(replay("-", "--json", "--with", changes, data=scan(2)))
    assert [one["sources"] for one in records if one["type"] == "alternative"] == [0, 1]


def test_a_change_that_can_not_decide_is_said_for_else_its_result_would_deceive() -> None:
    change = "rules.scan.limit=8"
    done = replay("-", "--with", change, "--with", f"{change} trust_factor=2", "--policy", "closed", data=scan(9))
    assert done.returncode == 0
    assert done.stderr == (
        "amiwatch: AMIWATCH_RULES__SCAN__LIMIT: 8 in 10m never decides, for the rule 'scan_day' does at 5 in 24h; "
        "raise that, too\n"
    )
    assert replay("-", "--with", "rules.guess.limit=5", data=scan(9)).stderr == ""


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_every_policy_can_be_tried(name: str) -> None:
    assert f"\n{name}" in replay("-", "--policy", name, data=scan(60, transport="UDP")).stdout


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, "name recordings, or say --since 7d"),
        (["-", "--since", "7d"], 2, "one of the two"),
        (["-", "--until", "7d"], 2, "--until belongs to --since"),
        (["-", "--policy", "offices"], 78, "'offices' is not known; write one of"),
        (["-", "--with", "rules.scan.limit"], 2, "write for example rules.guess.limit=5"),
        (["-", "--with", "scan_limit=8"], 78, "AMIWATCH_SCAN_LIMIT: there is no such setting"),
        (["-", "--with", "rules.scan.limit=x"], 78, "'x' is no whole number"),
        (["-", "--with", "policy='"], 2, "close the quotes"),
        (["-", "--with", "rules=1 rules.scan.limit=2"], 2, "contradicts"),
        (["-", *["--policy=office"] * 9], 2, "more than 8 alternatives"),
    ],
)
def test_what_can_not_be_compared_is_one_sentence(arguments: list[str], code: int, words: str) -> None:
    done = replay(*arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


def test_who_finds_a_password_has_no_good_phones() -> None:
    guesses = b"".join(
        attempt_bytes(Case.WRONG_PASSWORD, account="200", source="203.0.113.9", transport="TLS", at=AT + n)
        for n in range(6)
    )
    data = guesses + office("200", source="203.0.113.9", at=AT + 7)
    records = lines(replay("-", "--json", "--policy", "closed", data=data))
    assert [(one["sources"], one["with_good_phones"]) for one in records if one["type"] == "alternative"] == [
        (0, 0),
        (1, 0),
    ]

"""``amiwatch rules``: the table in force, and where its numbers come from."""

import json
from dataclasses import fields

import pytest

from amiwatch.cli.rules import EXCUSED, NUMBERS, SHORT
from amiwatch.config.settings import Settings
from amiwatch.judgement.rules import POLICIES, Measure, Policy, Unless

HAS_ANOTHER_NAME = {
    "name": "policy", "ladder": "ban_time", "unproven_ladder": "unproven_ban_time", "jitter": "ban_jitter",
    "unproven_entries": "unproven_share",
}  # fmt: skip


def test_no_number_of_the_judgement_is_left_out():
    ours = {HAS_ANOTHER_NAME.get(each.name, each.name) for each in fields(Policy)} - {"policy", "rules"}
    assert set(NUMBERS) == ours <= Settings.model_fields.keys()
    assert (SHORT.keys(), EXCUSED.keys()) == (set(Measure), set(Unless))


@pytest.mark.parametrize("policy", POLICIES)
def test_every_row_is_shown_with_its_numbers_and_fits_a_terminal(call, policy):
    result = call("rules", "--policy", policy)
    assert result.exit_code == 0
    lines = {line.split()[0]: line for line in result.stdout.splitlines() if line}
    for rule in POLICIES[policy]:
        words = lines[rule.name].split()
        assert (str(rule.limit) if rule.limit else "off") in words
        assert not rule.limit or (str(rule.unproven_limit) if rule.unproven_limit else "–") in words
        assert len(lines[rule.name]) <= 80
    assert "AMIWATCH_POLICY" not in result.stdout
    assert "All of them are defaults." in result.stdout


def test_what_was_set_is_marked_and_says_where(call, tmp_path):
    (tmp_path / ".env").write_text("AMIWATCH_BAN_TIME=2h,3d\n")
    (tmp_path / "my.toml").write_text("[rules.guess]\nfind_time = '15m'\n")
    said = call("--config", "my.toml", "rules", AMIWATCH_RULES__SCAN__LIMIT="8").stdout
    lines = [line.split() for line in said.splitlines()]
    assert ["scan*", "unknown", "accounts", "8", "9", "10m", "carriers,", "mass"] in lines
    assert ["guess*", "guesses", "8", "10", "15m", "phones,", "mass"] in lines
    assert "AMIWATCH_RULES__SCAN__LIMIT = 8, by default 4\n" in said
    assert "my.toml: rules.guess.find_time = 15m, by default 10m\n" in said
    assert "AMIWATCH_BAN_TIME (.env) = 2h,3d, by default 1h,24h,7d,30d\n" in said
    assert said.count("*") == 3 + 1


def test_another_policy_is_shown_with_ones_own_settings(call):
    found = json.loads(call("rules", "-p", "closed", "--json", AMIWATCH_RULES__GUESS__LIMIT="6").stdout)
    rows = {row["rule"]: row for row in found["rules"]}
    assert found["policy"] == "closed"
    assert (rows["guess"]["limit"], rows["guess"]["set_by"]) == (6, {"limit": "AMIWATCH_RULES__GUESS__LIMIT"})
    assert (rows["scan"]["limit"], rows["scan"]["find_time"], rows["scan"]["set_by"]) == (1, "10m", {})
    assert {"setting": "storm", "value": "30", "default": "30", "set_by": None}.items() <= next(
        one for one in found["settings"] if one["setting"] == "storm"
    ).items()


def test_a_policy_that_is_not_known_is_one_sentence(call):
    result = call("rules", "--policy", "offcie")
    assert (result.exit_code, result.stdout) == (78, "")
    assert "'offcie' is not known; write one of office, closed, carrier" in result.stderr


@pytest.mark.parametrize(
    "arguments", [("rules",), ("rules", "-p", "closed"), ("why", "192.0.2.1"), ("replay", "--since", "7d"), ("bans",)]
)
def test_a_file_of_settings_that_can_not_be_read_is_named_once(call, fill, tmp_path, arguments):
    """What it says is not in force here, and the daemon may go by it."""
    fill(lambda _: None)
    (tmp_path / ".env").mkdir()  # which nobody can read as a file, not even root
    result = call(*arguments)
    assert result.exit_code in (0, 1)
    assert result.stderr.count("what it says is not in force") == 1
    assert result.stderr.startswith("amiwatch: .env: can't be read (")


def test_a_limit_that_decides_nothing_is_warned_of_beside_the_table(call):
    assert "8 in 10m never decides" in call("rules", AMIWATCH_RULES__SCAN__LIMIT="8").stderr


def test_check_says_how_many_numbers_are_ones_own(call):
    said = call("check", AMIWATCH_RULES__SCAN__LIMIT="3", AMIWATCH_STORM="50").stdout
    assert "policy office with 2 numbers of yours (amiwatch rules)" in said
    assert "of yours" not in call("check").stdout


def test_a_limit_that_a_longer_window_makes_void_is_warned_of(call):
    said = call("check", AMIWATCH_RULES__SCAN__LIMIT="8").stdout
    assert (
        "AMIWATCH_RULES__SCAN__LIMIT: 8 in 10m never decides, for the rule 'scan_day' does at 5 in 24h; raise that, too"
    ) in " ".join(said.split())
    both = {f"AMIWATCH_RULES__SCAN_{name}__LIMIT": "8" for name in ("DAY", "WEEK")}
    assert "never decides" not in call("check", AMIWATCH_RULES__SCAN__LIMIT="8", **both).stdout
    assert "never decides" not in call("check").stdout

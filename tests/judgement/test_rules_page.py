"""docs/judgement.md says of the rules, and of the other numbers, what is in force."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from amiwatch.config.settings import PREFIX, Settings
from amiwatch.judgement.reasons import duration
from amiwatch.judgement.rules import OFFICE, TRIPWIRES, Policy, Rule, Unless

PAGE = (Path(__file__).parents[2] / "docs" / "judgement.md").read_text()
ROWS = {
    name: [cell.strip() for cell in cells.split("|")]
    for name, cells in re.findall(r"^\| `(\w+)` \|(.*)\|$", PAGE, re.MULTILINE)
}
NAMES = {Unless.CARRIER: "carriers", Unless.PHONE: "phones", Unless.RETRIES: "retries"}
"""Mass failures, which excuse from most rules, have a section of their own."""


def test_the_table_has_every_rule_and_no_other() -> None:
    assert list(ROWS) == [rule.name for rule in OFFICE]


@pytest.mark.parametrize("rule", OFFICE, ids=lambda rule: rule.name)
def test_a_row_has_the_numbers_of_its_rule(rule: Rule) -> None:
    _, proven, unproven, within, unless = ROWS[rule.name]
    if not rule.limit:
        assert (proven, unproven) == ("off", "off")
    else:
        assert proven == str(rule.limit)
        is_said = rule.unproven_limit not in (0, rule.limit)
        assert unproven == (str(rule.unproven_limit) if is_said else "")
    assert re.sub(r"^an? ", "1 ", within) == {
        "1 d": "1 day", "1 h": "1 hour", "7 d": "1 week"
    }.get(duration(rule.find_time), duration(rule.find_time))  # fmt: skip
    assert unless.split(", ") == ([NAMES[one] for one in NAMES if one in rule.unless] or [""])


def test_the_suggested_tripwires_are_listed() -> None:
    assert ", ".join(f"`{name}`" for name in TRIPWIRES) in PAGE.replace("\n", " ")


def test_every_number_of_the_judgement_is_named_with_its_setting() -> None:
    """But for the bounds of memory, and for what sections of their own explain."""
    other = {"ladder": "ban_time", "unproven_ladder": "unproven_ban_time", "jitter": "ban_jitter"}
    numbers = {each.name for each in fields(Policy)} - {"name", "rules", "unproven_entries"}
    numbers = {name for name in numbers if not name.startswith("max_")}
    for name in numbers | {"unproven_share"}:
        setting = other.get(name, name)
        assert setting in Settings.model_fields
        assert f"`{PREFIX}{setting.upper()}" in PAGE, setting


@pytest.mark.parametrize(
    ("words", "number"),
    [
        (r"from (\d+) accounts on that logged in", "shared_accounts"),
        (r"a shared address \((\d+) accounts\)", "shared_accounts"),
        (r"one account guessed from (\d+) addresses without trust within a day", "attacked_by"),
        (r"a mass failure \((\d+) sources\)", "mass_failure"),
        (r"a storm \((\d+)\)", "storm"),
        (r"a bad neighbourhood \((\d+) bans\)", "bad_neighbours"),
        (r"a password found \((\d+) wrong ones\)", "found_after"),
        (r"`AMIWATCH_UNPROVEN_BANS` \((\d+)\) a minute", "unproven_bans"),
    ],
)
def test_a_number_in_the_text_is_the_default(words: str, number: str) -> None:
    found = re.findall(words, PAGE.replace("\n", " "))
    assert found
    assert {int(one) for one in found} == {getattr(Policy(), number)}

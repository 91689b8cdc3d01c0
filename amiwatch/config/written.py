"""The settings, written down: what ``.env.example`` and ``docs/configuration.md`` hold. Tests compare them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from pydantic.fields import FieldInfo

from amiwatch.config.settings import DURATION, GROUPS, POLICY, RULES, AmiSettings, Settings, variable
from amiwatch.config.texts import Allowlist, duration_text
from amiwatch.judgement.rules import POLICIES, Measure, Rule
from amiwatch.judgement.sources import HISTORY

COUNTED = {
    Measure.ATTEMPTS: "failed attempts",
    Measure.ACCOUNTS: "accounts that don't exist",
    Measure.GUESSES: "passwords on accounts that exist",
    Measure.UNANSWERED: "challenges that nobody answered",
    Measure.AMI: "failed logins to the manager",
    Measure.TRIPWIRE: "attempts on tripwire accounts",
    Measure.ONE_ACCOUNT: "failed attempts on one account",
    Measure.ADDRESSES: "addresses that guess at one account",
}
"""What a rule counts, in words."""

_HEADINGS = {
    ("ami", "host"): "The Asterisk to listen to",
    ("database",): "What is kept, and what is blocked",
    ("allowlist",): "Who is never banned",
    ("policy",): "Who is banned, and for how long",
    ("keep",): "Housekeeping",
    ("rules", RULES[0], "limit"): f"The rows of the policy (here those of {POLICY.name}); each is another window",
}
"""Path of the first setting under each heading of the example."""


class Described(NamedTuple):
    """A setting for people: how to write it, and what it is."""

    path: tuple[str, ...]
    default: str
    sentence: str


def described() -> Iterator[Described]:
    """Yield every setting with its default, those of rules with the numbers of the default policy."""
    for name, info in AmiSettings.model_fields.items():
        yield Described(("ami", name), value_text(info.default, info), info.description or "")
    for name, info in Settings.model_fields.items():
        if name not in GROUPS:
            yield Described((name,), value_text(info.default, info), info.description or "")
    for rule in POLICY.rules:
        limit = f"How many {COUNTED[rule.measure]} make a source an offender, at most {HISTORY}; 0 switches it off."
        yield Described(("rules", rule.name, "limit"), str(rule.limit), limit)
        more = "The same where forged UDP packets could be among them, not less; 0 lets only proven ones ban."
        yield Described(("rules", rule.name, "unproven_limit"), str(rule.unproven_limit), more)
        since = "Duration within which they are counted."
        yield Described(("rules", rule.name, "find_time"), duration_text(rule.find_time), since)


def value_text(value: object, info: FieldInfo) -> str:
    """Write the value of a setting as its default is written; empty for none."""
    if DURATION in info.metadata:
        return ",".join(map(duration_text, value if isinstance(value, tuple) else [value]))
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, frozenset):
        return ",".join(sorted(value))
    return "" if value is None or value == Allowlist() else str(value)


def example() -> str:
    """Return what ``.env.example`` holds; a test compares them."""
    lines = [
        "# The settings of amiwatch: copy this to .env in the directory where amiwatch runs, fill in the secret, and",
        "# let nobody else read it (chmod 600). The lines that are commented out show the defaults.",
        "#",
        "# Durations are written 90 (seconds), 10s, 10m, 1h30m, 24h, 7d or 2w. An empty value counts as not set. The",
        "# environment counts more than this file; docs/configuration.md says the rest.",
    ]
    for path, default, sentence in described():
        if path in _HEADINGS:
            lines += ["", f"## {_HEADINGS[path]}"]
        lines += ["", f"# {sentence} Default: {default or 'none'}."]
        lines.append(f"{'' if path == ('ami', 'secret') else '#'}{variable(path)}={default}")
    several = [f"#{variable(('pbx', 'berlin', name))}=" for name in AmiSettings.model_fields]
    lines += ["", "## Several Asterisks: the same settings as for one, after a name of your choice", "", *several]
    return "\n".join(lines) + "\n"


def settings_table() -> str:
    """Return the table of all settings but the rules' in ``docs/configuration.md``; a test compares them."""
    rows = [
        f"| `{variable(path)}` | {f'`{default}`' if default else '–'} | {sentence} |"
        for path, default, sentence in described()
        if path[0] != "rules"
    ]
    return "\n".join(["| setting | default | what it is |", "|---|---|---|", *rows])


def rules_table() -> str:
    """Return the table of the policies in ``docs/configuration.md``; a test compares them."""
    lines = [f"| rule | counts | {' | '.join(POLICIES)} |", f"|---|---|{'---|' * len(POLICIES)}"]
    by_name = [{rule.name: rule for rule in rules} for rules in POLICIES.values()]
    for name in RULES:
        found = [rules[name] for rules in by_name]
        counts = COUNTED[found[0].measure]
        cells = [_cell(rule) for rule in found]
        lines.append(f"| `{name}` | {counts} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(rule: Rule) -> str:
    if not rule.limit:
        return "off"
    if not rule.unproven_limit:
        return f"{rule.limit}, only proven, in {duration_text(rule.find_time)}"
    limits = str(rule.limit) if rule.unproven_limit == rule.limit else f"{rule.limit}, {rule.unproven_limit}"
    return f"{limits} in {duration_text(rule.find_time)}"

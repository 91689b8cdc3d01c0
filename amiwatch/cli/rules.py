"""``amiwatch rules``: the table by which sources are judged, and where each of its numbers comes from."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import typer

from amiwatch.cli.listing import Form, Listing
from amiwatch.cli.text import complain, strong, visible, wrapped
from amiwatch.config.settings import RuleSettings, Settings
from amiwatch.config.texts import duration_text
from amiwatch.config.written import COUNTED, value_text
from amiwatch.judgement.rules import POLICIES, Measure, Policy, Rule, Unless

if TYPE_CHECKING:
    from amiwatch.cli.call import Call

NUMBERS = (
    "ban_time", "unproven_ban_time", "ban_jitter", "decay", "trust_time", "trust_factor", "answer_time",
    "unproven_bans", "unproven_share", "ipv6_prefix", "tripwires", "ban_chan_sip", "bad_neighbours", "shared_accounts",
    "moved_time", "mass_failure", "storm", "attacked_by", "attacked_time", "found_after", "alert_time",
    "alerts_a_minute", "max_sources", "max_offenders", "max_trusted",
)  # fmt: skip
"""The settings of the judgement that belong to no rule."""

SHORT = {
    Measure.ATTEMPTS: "attempts",
    Measure.ACCOUNTS: "unknown accounts",
    Measure.GUESSES: "guesses",
    Measure.UNANSWERED: "unanswered",
    Measure.AMI: "manager logins",
    Measure.TRIPWIRE: "tripwires",
    Measure.ONE_ACCOUNT: "one account",
    Measure.ADDRESSES: "addresses",
}
"""What a rule counts, short enough for a terminal of 80 columns."""

EXCUSED = {Unless.CARRIER: "carriers", Unless.PHONE: "phones", Unless.RETRIES: "retries", Unless.CROWD: "mass"}
"""What excuses from a rule, as short."""


LEGEND = (
    "PROVEN came over TCP, TLS, WebSocket or AMI; ANY has UDP among it, which is easily forged. BUT NOT names honest "
    "trouble that is told and not banned; mass is a mass failure (docs/judgement.md)."
)


class Change(NamedTuple):
    """A number that was set."""

    name: str
    """As it was written where it was set."""
    value: str
    default: str


def rules(call: Call, policy: str | None, *, as_json: bool) -> None:
    """Print the rules in force, or those of a policy with the same settings. Raises ConfigurationError."""
    settings = call.settings() if policy is None else call.read_settings({"policy": policy})
    for warning in settings.warnings:
        if policy is not None or warning not in settings.unread:
            complain(warning)
    if as_json:
        typer.echo(json.dumps(record(settings), indent=2))
        return
    _show(settings)


def _show(settings: Settings) -> None:
    typer.echo(strong(f"Policy {settings.policy}: so many within so long make a source an offender."))
    _TABLE.show(((rule, _is_changed(settings, rule)) for rule in settings.judgement_policy().rules), Form.TABLE)
    typer.echo("\n" + wrapped(LEGEND))
    changes = changed(settings)
    typer.echo(strong("\nSet by you (*):" if changes else "\nAll of them are defaults."))
    for one in changes:
        typer.echo(
            wrapped(visible(f"{one.name} = {one.value or 'none'}, by default {one.default or 'none'}"), indent=2)
        )
    typer.echo(strong("\nThe other numbers:"))
    _OTHERS.show(((name, settings) for name in NUMBERS), Form.TABLE)


_TABLE: Listing[tuple[Rule, bool]] = Listing(
    heads=("RULE", "COUNTS", "PROVEN", "ANY", "WITHIN", "BUT NOT"),
    cells=lambda row: (
        row[0].name + "*" * row[1],
        SHORT[row[0].measure],
        str(row[0].limit) if row[0].limit else "off",
        str(row[0].unproven_limit) if row[0].limit and row[0].unproven_limit else "–",
        duration_text(row[0].find_time),
        ", ".join(EXCUSED[one] for one in Unless if one in row[0].unless),
    ),
    fields=(),
    values=lambda _: (),
    nothing="",
)

_OTHERS: Listing[tuple[str, Settings]] = Listing(
    heads=("SETTING", "VALUE", "WHAT IT IS"),
    cells=lambda row: (
        row[0] + "*" * ((row[0],) in row[1].origins),
        _value(row[1], row[0]) or "none",
        _description(row[0]),
    ),
    fields=(),
    values=lambda _: (),
    nothing="",
)


def _description(name: str) -> str:
    return (Settings.model_fields[name].description or "").replace("`", "")


def _value(settings: Settings, name: str) -> str:
    return value_text(getattr(settings, name), Settings.model_fields[name])


def _default(name: str) -> str:
    info = Settings.model_fields[name]
    return value_text(info.default, info)


def _is_changed(settings: Settings, rule: Rule) -> bool:
    return any(path[:2] == ("rules", rule.name) for path in settings.origins)


def changed(settings: Settings) -> list[Change]:
    """List the numbers of the judgement that were set, those of the rules first."""
    return [*_changed_rules(settings), *_changed_numbers(settings)]


def _changed_rules(settings: Settings) -> Iterator[Change]:
    defaults = {rule.name: rule for rule in POLICIES[settings.policy]}
    for rule in settings.judgement_policy().rules:
        for name in RuleSettings.model_fields:
            origin = settings.origins.get(("rules", rule.name, name))
            if origin is not None:
                yield Change(origin, _number(rule, name), _number(defaults[rule.name], name))


def _number(rule: Rule, name: str) -> str:
    return duration_text(rule.find_time) if name == "find_time" else str(getattr(rule, name))


def _changed_numbers(settings: Settings) -> Iterator[Change]:
    for name in NUMBERS:
        if (origin := settings.origins.get((name,))) is not None:
            yield Change(origin, _value(settings, name), _default(name))


def record(settings: Settings) -> dict[str, object]:
    """Return what ``--json`` prints. Durations are texts, as settings are written."""
    policy: Policy = settings.judgement_policy()
    return {
        "policy": settings.policy,
        "rules": [
            {
                "rule": rule.name,
                "counts": COUNTED[rule.measure],
                "limit": rule.limit,
                "unproven_limit": rule.unproven_limit,
                "find_time": duration_text(rule.find_time),
                "unless": sorted(rule.unless),
                "set_by": {
                    name: settings.origins[path]
                    for name in RuleSettings.model_fields
                    if (path := ("rules", rule.name, name)) in settings.origins
                },
            }
            for rule in policy.rules
        ],
        "settings": [
            {
                "setting": name,
                "value": _value(settings, name),
                "default": _default(name),
                "set_by": settings.origins.get((name,)),
                "what": _description(name),
            }
            for name in NUMBERS
        ],
    }

"""``amiwatch firewall``: the kernel's sets, and the rule that drops what is in them."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from amiwatch.cli.asking import carry_out, living
from amiwatch.cli.changes import Yes, confirm
from amiwatch.cli.panic import lasting, pause
from amiwatch.cli.proof import prove
from amiwatch.cli.text import complain, counted, local, strong, visible
from amiwatch.errors import Refusal, StoreError
from amiwatch.firewall.base import Firewall, SetState
from amiwatch.firewall.leftovers import left_by, others
from amiwatch.firewall.leftovers import remove as take_away
from amiwatch.firewall.names import rehearsal_name
from amiwatch.firewall.protection import Protection
from amiwatch.firewall.rule import FamilyRule, Rule, RuleState
from amiwatch.firewall.scope import Scope, learns
from amiwatch.store.reader import Reader
from amiwatch.store.records import LearnedPort

if TYPE_CHECKING:
    from amiwatch.config import Settings
    from amiwatch.firewall.ipset import IpsetFirewall
    from amiwatch.firewall.nftables import NftablesFirewall

NO_SIGNATURES = "AMIWATCH_SIGNATURES has no effect: nftables can't search packets for names, iptables (ipset) can"

DRY_RUN = "The setting AMIWATCH_FIREWALL is 'none', a dry run: there are no sets and no rule."

app = typer.Typer(no_args_is_help=True, help="Place, remove, show or test sets and drop rule.")
app.command("test")(prove)


@app.command()
def install(context: typer.Context) -> None:
    """Make the sets and place the drop rule; what is right already is left alone. Needs root."""
    settings = context.obj.settings()
    if settings.firewall == "none":
        typer.echo(DRY_RUN)
        return
    asyncio.run(_install(settings))


async def _install(settings: Settings) -> None:
    from amiwatch.firewall.choice import choose

    why = choose(settings.set_name).why if settings.firewall == "auto" else ""
    async with _sets(settings) as firewall:
        if why:
            typer.echo(f"Firewall: {firewall.name}, for {why}.")
        await firewall.open()
        typer.echo(f"Sets: {', '.join(state.name for state in await firewall.states())}.")
        if settings.drop_rule == "manual":
            typer.echo("The rule is left to you: the setting AMIWATCH_DROP_RULE is 'manual'.")
            return
        protection, rule = wanted(settings), _rule(settings, firewall)
        await rule.install(protection)
        typer.echo(f"Rule: packets of banned addresses are dropped ({_ports(protection.scope)}).")
        if protection.has_limits and not all(one.exempt for one in (await rule.show()).families):
            typer.echo("Limits: none yet; 'amiwatch run' places them, for it knows whom they must not concern.")
        await _tidy(settings, firewall)


async def _tidy(settings: Settings, firewall: Firewall) -> None:
    """Take away what another firewall left, if it drops nobody any more: else the daemon takes it over first."""
    for kind in others(firewall.name):
        states = await left_by(kind, settings.set_name)
        if states and not sum(state.count for state in states):
            await take_away(kind, settings.set_name)
            typer.echo(f"What {kind} had left is removed.")


class OnOff(StrEnum):
    """A position of a switch."""

    ON = "on"
    OFF = "off"


@app.command()
def tiers(
    context: typer.Context,
    position: Annotated[OnOff, typer.Argument(metavar="on|off", help="From now on, and after every start.")],
) -> None:
    """
    Limit the new connections of sources without trust, in the kernel.

    How many in what time says the setting AMIWATCH_TIERS. Nobody on the allowlist and nobody who logged in is limited,
    and no connection that Asterisk has answered. A carrier never logs in: allow it first.
    """
    carry_out(context.obj.settings(), "tiers", position.value)


@app.command()
def remove(context: typer.Context, is_sure: Yes = False) -> None:
    """Take the rule and the sets away: nothing is dropped any more. Needs root."""
    settings = context.obj.settings()
    if settings.firewall == "none":
        typer.echo(DRY_RUN)
        return
    asyncio.run(_remove(settings, is_sure=is_sure))


async def _remove(settings: Settings, *, is_sure: bool) -> None:
    async with _sets(settings) as firewall:
        banned = sum(state.count for state in await firewall.states())
        if banned:
            confirm(f"{counted(banned, 'ban')} will be dropped no longer. Go on?", is_sure=is_sure)
        await _rule(settings, firewall).remove()
        typer.echo("The rule is removed.")
        # Those that drop have sets that outlive them; a dry run did not come this far.
        await cast("IpsetFirewall | NftablesFirewall", firewall).remove_sets()
        typer.echo("The sets are removed.")
        for kind in others(firewall.name):
            if await left_by(kind, settings.set_name):
                await take_away(kind, settings.set_name)
                typer.echo(f"What {kind} had left is removed.")
        await _remove_rehearsals(settings.set_name)
    _warn_of_daemon(settings)


async def _remove_rehearsals(prefix: str) -> None:
    """Take away what a test that was killed left."""
    name = rehearsal_name(prefix)
    for kind in others(""):
        if await left_by(kind, name):
            await take_away(kind, name)
            typer.echo("What a test had left is removed.")


def _warn_of_daemon(settings: Settings) -> None:
    try:
        running = living(settings.database)
    except StoreError:
        return
    if running is not None and running.mode == "enforce" and running.firewall != "none":
        complain(
            f"the daemon runs (pid {running.pid}) and makes its sets anew within seconds, and the rule too if it may: "
            "stop it, or set AMIWATCH_MODE=observe."
        )


@app.command()
def show(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """
    Show the sets, the rule, and how many packets were dropped.

    Needs root. The exit code is 1 if nothing is dropped for want of a rule.
    """
    settings = context.obj.settings()
    if settings.firewall == "none":
        typer.echo(json.dumps({"sets": [], "rules": [], "learned_ports": []}) if as_json else DRY_RUN)
        return
    states, rule = asyncio.run(_read(settings))
    if why := pause(settings.database):
        complain(why)
    if as_json:
        rules = [{**asdict(one), "is_present": one.is_present, "packets": one.packets} for one in rule.families]
        learned = [port._asdict() for port in learned_ports(settings.database)]
        record = {"sets": [asdict(state) for state in states], "rules": rules, "learned_ports": learned}
        typer.echo(json.dumps(record, indent=2))
    else:
        for line in _lines(states, rule, settings):
            typer.echo(line)
    if not _is_dropping(states, rule, settings):
        raise typer.Exit(Refusal.exit_code)


def _is_dropping(states: list[SetState], rule: RuleState, settings: Settings) -> bool:
    """Tell whether each set is used by a rule: by ours, or by the administrator's where it is left to him."""
    if settings.drop_rule == "manual":
        return bool(states) and all(state.references for state in states)
    return rule.is_present


async def _read(settings: Settings) -> tuple[list[SetState], RuleState]:
    async with _sets(settings) as firewall:
        return await firewall.states(), await _rule(settings, firewall).show()


def _lines(states: list[SetState], rule: RuleState, settings: Settings) -> Iterator[str]:
    if not states:
        yield "There are no sets: amiwatch firewall install"
    for state in states:
        used = counted(state.references, "rule")
        yield f"set {state.name:<15} {state.count} of {state.capacity} entries, used by {used}"
    protection = wanted(settings)
    for one in rule.families:
        yield from _rule_lines(one, settings, protection)
    if learns(settings.ports):
        for port in learned_ports(settings.database):
            yield f"{'port learned':<19} {port.protocol} {port.port}, of {visible(port.pbx)}, {local(port.at)}"


def _rule_lines(one: FamilyRule, settings: Settings, protection: Protection) -> Iterator[str]:
    name = f"rule IPv{one.family:<11}"
    if not one.is_present and settings.drop_rule == "manual":
        yield f"{name} left to you: the setting AMIWATCH_DROP_RULE is 'manual'"
        return
    if not one.is_present:
        yield f"{name} {strong('missing', 'red')}: nothing is dropped (amiwatch firewall install)"
        return
    place = "first" if one.position == 1 else f"number {one.position}: rules before it may accept"
    yield f"{name} in {one.place}, {place}; {counted(one.packets, 'packet')}, {one.octets} bytes dropped"
    for drop in one.drops:
        where = f"{drop.protocol} {drop.ports}" if drop.protocol else "everything"
        yield f"{'':<16}   {where:<40} {counted(drop.packets, 'packet')}"
    yield from _behind_lines(one)
    yield from _limit_lines(one, protection)
    if not one.covers(protection):
        more = ", with limits" if protection.has_limits else ""
        yield (
            f"{'':<16}   not what AMIWATCH_PORTS and the ports learned say ({_ports(protection.scope)}{more}): "
            "amiwatch firewall install"
        )


def _behind_lines(one: FamilyRule) -> Iterator[str]:
    for hook in one.behind:
        where = "missing" if hook.position is None else "first" if hook.position == 1 else f"number {hook.position}"
        yield f"{'':<16}   behind address translation: {hook.place}, {where}"


def _limit_lines(one: FamilyRule, protection: Protection) -> Iterator[str]:
    if one.limits:
        yield f"{'':<16}   limits of sources without trust; {counted(one.exempt, 'network')} exempt"
    for limit in one.limits:
        what = (
            f"{limit.name}, {counted(limit.sources, 'source')} counted" if limit.kind == "tier" else f"{limit.name!r}"
        )
        yield f"{'':<16}   {limit.kind + ' ' + what:<40} {counted(limit.packets, 'packet')}"
    if protection.signatures and not one.reads_names:
        yield f"{'':<16}   {NO_SIGNATURES}"


def wanted(settings: Settings) -> Protection:
    """Say what the rule is to drop."""
    from amiwatch.daemon.guard import TIERS, protection

    has_tiers = is_panic = False
    with suppress(StoreError), Reader(settings.database) as reader:
        has_tiers = reader.switches().get(TIERS, False)
        is_panic = lasting(settings.database, time.time(), reader) is not None
    found = protection(settings, learned_ports(settings.database), has_tiers=has_tiers)
    return found.bare() if is_panic else found


def learned_ports(database: Path) -> list[LearnedPort]:
    """Return the ports of Asterisk that its events told; none where the database can't be read, or is not there."""
    with suppress(StoreError), Reader(database) as reader:
        return list(reader.learned_ports())
    return []


def _ports(scope: Scope) -> str:
    return "; ".join(f"{protocol} {ports}" if protocol else "all ports" for protocol, ports in scope.matches())


def _rule(settings: Settings, firewall: Firewall) -> Rule:
    from amiwatch.firewall.table import make_rule

    rule = make_rule(firewall.name, settings.set_name)
    assert rule is not None, "only a dry run has none"
    return rule


@asynccontextmanager
async def _sets(settings: Settings) -> AsyncIterator[Firewall]:
    from amiwatch.firewall.table import make_firewall

    firewall = make_firewall(settings.firewall, prefix=settings.set_name, maxelem=settings.set_size)
    try:
        yield firewall
    finally:
        await firewall.close()

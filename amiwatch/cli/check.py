"""
``amiwatch check``: what is right, what is wrong, and what to do; one line for each.

Rule 1: nothing is changed. What can't be looked at for lack of rights is said, and is no fault.

Rule 2: whatever is wrong has its "what to do".
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from amiwatch.cli.asking import is_alive
from amiwatch.cli.check_firewall import kernel, rights
from amiwatch.cli.findings import Finding, Mark
from amiwatch.cli.panic import lasting, words
from amiwatch.cli.running import USUAL_DATABASE
from amiwatch.cli.text import counted, iso, strong, visible, wrapped
from amiwatch.errors import (
    AmiError,
    AmiLoginRefused,
    AmiPeerUnknown,
    ConfigurationError,
    StoreCorrupt,
    StoreError,
    StoreUnavailable,
)
from amiwatch.judgement.rules import TRIPWIRES
from amiwatch.store import schema
from amiwatch.store.reader import Reader

if TYPE_CHECKING:
    from amiwatch.ami.client import ProbeResult
    from amiwatch.config import AmiSettings, Settings

TIME_ERROR = 5
"""What adjtimex(2) returns for a clock that nothing keeps right."""

TIMEX_SIZE = 256
"""Bytes for ``struct timex`` (208 on 64-bit machines); all zero only asks."""

OLD_PJPROJECT = {13: "every release", 16: "before 16.26", 18: "before 18.12", 19: "before 19.4"}
"""Releases of Asterisk whose bundled pjproject (before 2.12) lets strangers forge whole events (Asterisk facts)."""

CORRECT_IT = "correct it where it stands; .env.example in the source names every setting"

RESCUE_IT = (
    "'amiwatch run' sets it aside, deletes nothing and begins a new one; docs/database.md tells how to rescue what is "
    "in the old one"
)


def check(
    context: typer.Context,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON: one array with an object for each line.")
    ] = False,
) -> None:
    """
    Say what is right, what is wrong and what to do.

    Nothing is changed. The exit code is 0 if nothing is wrong.
    """
    findings = asyncio.run(_say_all(context.obj.read_settings, quietly=as_json))
    if as_json:
        records = [{**one._asdict(), "mark": one.mark.name.lower(), "code": _code(one)} for one in findings]
        typer.echo(json.dumps(records, indent=2))
    codes = {_code(one) for one in findings} - {0}
    if codes:
        raise typer.Exit(codes.pop() if len(codes) == 1 else 1)


def _code(finding: Finding) -> int:
    return finding.code if finding.mark is Mark.BAD else 0


async def _say_all(read: Callable[[], Settings], *, quietly: bool) -> list[Finding]:
    """Look at everything and say each finding as soon as it is known: a PBX that is silent takes its time."""
    findings = []
    async for finding in _findings(read):
        findings.append(finding)
        if not quietly:
            typer.echo(_line(finding))
    return findings


def _line(finding: Finding) -> str:
    sign, colour = finding.mark.value
    # The sign gets its colour after the text was broken, for a colour has no width.
    line = wrapped(visible(finding.text), head=f"  {finding.subject:<9} ", indent=12)
    to_do = wrapped(visible(finding.to_do), head=" " * 12 + "→ ", indent=14)
    return strong(sign, colour) + line[1:] + (f"\n{to_do}" if finding.to_do else "")


async def _findings(read: Callable[[], Settings]) -> AsyncIterator[Finding]:
    try:
        settings = read()
    except ConfigurationError as error:
        for mistake in error.mistakes:
            yield Finding("settings", Mark.BAD, mistake, CORRECT_IT, error.exit_code)
        return
    for finding in _settings(settings):
        yield finding
    async for finding in _names(settings):
        yield finding
    for pbx in settings.pbxs().values():
        for finding in await _ami(pbx):
            yield finding
    yield rights(settings)
    for finding in await kernel(settings):
        yield finding
    for finding in _database(settings):
        yield finding
    yield _clock()


def _settings(settings: Settings) -> Iterator[Finding]:
    from amiwatch.config.texts import SUGGESTED

    for warning in settings.warnings:
        yield Finding("settings", Mark.DOUBT, warning)
    try:
        settings.require_ami()
    except ConfigurationError as error:
        for mistake in error.mistakes:
            yield Finding("settings", Mark.BAD, mistake, CORRECT_IT, error.exit_code)
    else:
        from amiwatch.cli.rules import changed

        mine = (
            f" with {counted(len(changed(settings)), 'number')} of yours (amiwatch rules)" if changed(settings) else ""
        )
        yield Finding("settings", Mark.GOOD, f"read; policy {settings.policy}{mine}, mode {settings.mode}")
    if settings.mode == "observe":
        yield Finding(
            "settings", Mark.DOUBT, "observe mode: nothing is blocked", "when you trust it: AMIWATCH_MODE=enforce"
        )
    if not settings.tripwires:
        to_do = f"AMIWATCH_TRIPWIRES={SUGGESTED} bans whoever tries a name that no PBX has: {', '.join(TRIPWIRES)}"
        yield Finding("settings", Mark.GOOD, "no tripwire accounts are set", to_do)
    if not settings.allowlist.networks and not settings.allowlist.names:
        yield Finding(
            "settings",
            Mark.DOUBT,
            "the allowlist is empty",
            "put your carrier, your office and where you administer from into AMIWATCH_ALLOWLIST",
        )


async def _names(settings: Settings) -> AsyncIterator[Finding]:
    """Look the names of the allowlist up, for one without an address protects nobody."""
    from amiwatch.daemon.host import LOOKUP_TIMEOUT, lookup

    names = list(dict.fromkeys([*settings.allowlist.names, *_allowed_names(settings.database)]))
    found = dict(zip(names, await asyncio.gather(*map(lookup, names)), strict=True))
    mend = "mend the name server (/etc/resolv.conf); an address instead of a name needs none"
    if unanswered := [repr(name) for name, addresses in found.items() if addresses is None]:
        text = f"no name server answered within {LOOKUP_TIMEOUT:g} s for {', '.join(unanswered)}"
        yield Finding("allowlist", Mark.BAD, f"{text}, so whom they protect is not known", mend, 78)
    for name in [name for name, addresses in found.items() if addresses == []]:
        text = f"{name!r} has no address now, so it protects nobody"
        yield Finding("allowlist", Mark.BAD, text, f"correct the name, or {mend}", 78)
    if names and all(found.values()):
        yield Finding("allowlist", Mark.GOOD, f"{counted(len(names), 'name')} looked up")


def _allowed_names(path: Path) -> list[str]:
    """Return the names that were allowed by hand; none where the database can't be read, which has its own line."""
    from amiwatch.config.texts import network_or_name

    with suppress(StoreError, ValueError), Reader(path) as reader:
        targets = [network_or_name(entry.target) for entry in reader.allowlist(time.time())]
        return [target for target in targets if isinstance(target, str)]
    return []


async def _ami(pbx: AmiSettings) -> list[Finding]:
    from amiwatch.ami.client import probe
    from amiwatch.daemon.watch import link_of

    if pbx.secret is None:
        to_do = f"set the secret of [{pbx.username}] in manager.conf"
        return [Finding("ami", Mark.BAD, f"{pbx.name}: no secret is set, so it is not tried", to_do, 78)]
    try:
        result = await probe(link_of(pbx))
    except AmiError as error:
        return [Finding("ami", Mark.BAD, f"{pbx.name}: {error}", _way_in(pbx, error), error.exit_code)]
    return list(_probed(pbx, result))


def _way_in(pbx: AmiSettings, error: AmiError) -> str:
    """Say what to do about a manager that can't be reached or does not let us in."""
    if isinstance(error, AmiLoginRefused):
        return f"compare name, secret and permit with [{pbx.username}] in manager.conf; then 'manager reload'"
    if isinstance(error, AmiPeerUnknown):
        return "set host and port to those of [general] in manager.conf (5038, with TLS 5039)"
    return (
        "see that Asterisk runs, and that [general] in manager.conf has enabled = yes, and bindaddr and port as they "
        "are set here; then 'manager reload'"
    )


def _probed(pbx: AmiSettings, result: ProbeResult) -> Iterator[Finding]:
    version = f"Asterisk {result.asterisk}" if result.asterisk else f"an unknown Asterisk ({result.banner})"
    where = f"{pbx.name}: {version} at {pbx.host}:{pbx.port}"
    if result.is_hearing:
        yield Finding("ami", Mark.GOOD, f"{where}, logged in and hearing, {result.seconds * 1000:.0f} ms")
    else:
        yield Finding(
            "ami",
            Mark.BAD,
            f"{where}, logged in but deaf: our own login was not reported",
            f"add 'read = security' to [{pbx.username}] in manager.conf, then 'manager reload'",
            code=AmiError.exit_code,
        )
    if result.excess:
        some = ", ".join(result.excess[:4]) + (" …" if len(result.excess) > 4 else "")
        yield Finding(
            "ami",
            Mark.DOUBT,
            f"{pbx.name}: this user may do more than listen ({len(result.excess)} actions: {some})",
            f"leave 'write =' empty in [{pbx.username}] of manager.conf",
        )
    if result.asterisk in OLD_PJPROJECT:
        yield Finding(
            "ami",
            Mark.DOUBT,
            f"{pbx.name}: Asterisk {result.asterisk}, {OLD_PJPROJECT[result.asterisk]}, bundles a pjproject older than "
            "2.12, with which strangers can forge whole events",
            "update Asterisk, or pjproject to 2.12",
        )
    yield Finding(
        "ami",
        Mark.DOUBT,
        f"{pbx.name}: whether AMI over HTTP is on can't be seen from here",
        "keep 'webenabled = no' in manager.conf: over HTTP strangers can write forged events",
    )


def _database(settings: Settings) -> Iterator[Finding]:
    path = settings.database
    try:
        if not schema.exists(path):
            yield _missing_database(path)
            return
        with Reader(path) as reader:
            status, bans = reader.status(), reader.count("bans")
            known = {trust.account for trust in reader.stored_trust(time.time())}
            held = lasting(path, time.time(), reader)
    except StoreError as error:
        yield Finding("database", Mark.BAD, str(error), _remedy(error), error.exit_code)
        return
    size = sum(part.stat().st_size for part in _parts(path))
    text = f"{path}: version {len(schema.migrations())}, {size / 1e6:.1f} MB, {counted(bans, 'ban')}"
    yield Finding("database", Mark.GOOD, text)
    if held is not None:
        yield Finding("panic", Mark.BAD, words(held), "amiwatch resume")
    wires = {name.casefold() for name in settings.tripwires}
    for account in sorted(name for name in known if name.casefold() in wires):
        text = f"the tripwire {account!r} is an account that logs in: one mistake of its phone would be its ban"
        yield Finding("settings", Mark.DOUBT, text, "take it out of AMIWATCH_TRIPWIRES")
    if not os.access(path, os.W_OK) or not os.access(path.parent, os.W_OK):
        to_do = "the daemon must be able to; your changes wait for it"
        yield Finding("database", Mark.DOUBT, f"{path} or its directory may not be written by you", to_do)
    if status is None or not is_alive(status):
        yield Finding("daemon", Mark.DOUBT, "does not run", "amiwatch run")
    else:
        yield Finding("daemon", Mark.GOOD, f"runs (pid {status.pid}), last sign of life {iso(status.heartbeat_at)}")


def _remedy(error: StoreError) -> str:
    if isinstance(error, StoreCorrupt):
        return RESCUE_IT
    if isinstance(error, StoreUnavailable):
        return "mend that; a daemon that runs bans on meanwhile, and records it later"
    return "mend that, or set AMIWATCH_DATABASE to another file"


def _parts(path: Path) -> list[Path]:
    return [part for suffix in schema.SIDECARS if (part := Path(f"{path}{suffix}")).exists()]


def _missing_database(path: Path) -> Finding:
    if not path.parent.is_dir() and path == USUAL_DATABASE and os.access(path.parent.parent, os.W_OK):
        return Finding("database", Mark.DOUBT, f"{path}: not made yet", "amiwatch run makes it")
    if not path.parent.is_dir():
        to_do = f"make the directory {path.parent}, or set AMIWATCH_DATABASE"
        return Finding("database", Mark.BAD, f"{path}: there is no such directory", to_do, 74)
    if not os.access(path.parent, os.W_OK):
        to_do = "check owner and rights, or set AMIWATCH_DATABASE"
        return Finding("database", Mark.BAD, f"{path}: it can't be made, the directory may not be written", to_do, 74)
    return Finding("database", Mark.GOOD, f"{path}: not there yet, 'amiwatch run' makes it")


def _clock() -> Finding:
    said = time.strftime("%Y-%m-%d %H:%M:%S %z")
    libc: Any = ctypes.CDLL(None, use_errno=True)
    if libc.adjtimex(ctypes.create_string_buffer(TIMEX_SIZE)) == TIME_ERROR:
        return Finding(
            "time", Mark.DOUBT, f"{said}; nothing keeps the clock right, so listings may be off", "install chrony"
        )
    return Finding("time", Mark.GOOD, said)

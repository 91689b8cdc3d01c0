"""
The program ``amiwatch``: which commands there are, and how they end.

Rule 1: what went wrong is one sentence on standard error and an exit code (docs/exit-codes.md), never a traceback.

Rule 2: this file and what it imports load quickly; a command imports what it needs when it is called.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from amiwatch import __version__
from amiwatch.cli import bans, changes, check, events, firewall, panic, running, status, why
from amiwatch.cli.call import Call
from amiwatch.cli.text import complain
from amiwatch.errors import AmiwatchError, StoreError, UsageError

WrongCall: type[Exception] = typer.BadParameter.__mro__[1]
"""What typer raises for a command line that it can't read; only what descends from it has a public name."""


class Program(TyperGroup):
    """All commands; turns our errors, and typer's, into sentences and exit codes."""

    def make_context(self, *arguments: Any, **more: Any) -> Any:
        with _one_sentence():
            return super().make_context(*arguments, **more)

    def invoke(self, ctx: Any) -> Any:  # the Context inside typer is private
        try:
            try:
                with _one_sentence():
                    return super().invoke(ctx)
            finally:
                sys.stdout.flush()
        except AmiwatchError as error:
            complain(str(error))
            if isinstance(error, StoreError):
                # A settings file that this user may not read is often why another database is looked at.
                settings = ctx.obj.settings()  # which has named those that can't be read at all
                for warning in settings.warnings:
                    if warning not in settings.unread:
                        complain(warning)
            raise typer.Exit(error.exit_code) from None
        except BrokenPipeError:
            # The reader has gone (``| head``), which is no error. Python would flush once more at exit, and complain.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None


@contextmanager
def _one_sentence() -> Iterator[None]:
    """Say in one sentence what is wrong with a command line, and end with 2."""
    try:
        yield
    except WrongCall as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # it shows the help, which is all that is to be said
            raise
        complain(wrong_call(error))
        raise typer.Exit(UsageError.exit_code) from None


def wrong_call(error: Any) -> str:
    """Write typer's words for a mistake as one line that ends with where to read on."""
    text = " ".join(error.format_message().split()).removesuffix(".")
    command = error.ctx.command_path if error.ctx else "amiwatch"
    return f"{text}{' See' if text.endswith('?') else '; see'} '{command} --help'."


app = typer.Typer(
    cls=Program,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"amiwatch {__version__}")
        raise typer.Exit


@app.callback()
def program(
    context: typer.Context,
    config: Annotated[Path | None, typer.Option(metavar="FILE", help="TOML file with settings.")] = None,
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """Ban SIP attackers from Asterisk's own security events, in the kernel, and say why."""
    context.obj = Call(config)


app.command()(running.run)
app.command()(check.check)
app.command()(status.status)
app.command()(bans.bans)
app.command()(why.why)
app.command()(events.events)
app.command()(changes.ban)
app.command("confirm")(changes.confirm_ban)
app.command()(changes.unban)
app.command()(changes.allow)
app.command()(changes.disallow)
app.command()(panic.panic)
app.command()(panic.resume)
app.add_typer(firewall.app, name="firewall")
app.command()(changes.forget)


@app.command()
def replay(
    context: typer.Context,
    files: Annotated[
        list[Path] | None, typer.Argument(help="Recorded AMI bytes, plain or gzipped; - is standard input.")
    ] = None,
    since: Annotated[
        str | None,
        typer.Option("--since", "-s", metavar="TIME", help="Instead: the database's history; 7d, 2026-11-20, all."),
    ] = None,
    until: Annotated[str | None, typer.Option("--until", metavar="TIME", help="The end of that history.")] = None,
    policy: Annotated[
        list[str] | None, typer.Option("--policy", "-p", metavar="NAME", help="Also by this policy. May be repeated.")
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--with", "-w", metavar="CHANGES", help="Also with settings changed: 'rules.guess.limit=5 trust_factor=2'."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")] = False,
) -> None:
    """
    Tell what would have been done about the past, also by other rules.

    Neither kernel nor database is touched, and the past's own time is the clock.
    """
    # Declared here, because its module loads the judgement and the settings, for which --help should not wait.
    import_module("amiwatch.cli.replay").replay(
        context, files or [], since=since, until=until, policies=policy or [], changes=changes or [], as_json=as_json
    )


@app.command()
def rules(
    context: typer.Context,
    policy: Annotated[
        str | None, typer.Option("--policy", "-p", metavar="NAME", help="Those of another policy.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """
    Show the rules in force, and which numbers are yours.

    A table of the policy, all other numbers of the judgement, and where those that you set stand.
    """
    import_module("amiwatch.cli.rules").rules(context.obj, policy, as_json=as_json)


@app.command()
def demo(
    is_plain: Annotated[bool, typer.Option("--plain", help="Plain lines instead of a live view.")] = False,
) -> None:
    """
    Watch attackers being dropped.

    In a network of its own: no root, no Asterisk, and the host's firewall is untouched.
    """
    raise typer.Exit(import_module("amiwatch.demo").main(plain=is_plain))


def main() -> None:
    """Run the program, and end the process."""
    for stream in (sys.stdout, sys.stderr):
        # Where the terminal has no such character, say it in ASCII instead of failing.
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        app(prog_name="amiwatch")
    except Exception as error:
        if sys.flags.dev_mode:  # python -X dev -m amiwatch
            raise
        complain(f"a fault of amiwatch: {type(error).__name__}: {error}. Please report it.")
        sys.exit(AmiwatchError.exit_code)

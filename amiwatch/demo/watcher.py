"""
The daemon of the demo, in a process of its own: the real one, with a listener that tells what happens, a line each.

Started by ``show.py``. It reads its settings from the environment alone, and ends
with its standard input, so that nothing is left behind whatever becomes of the demo.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

from amiwatch.config import load
from amiwatch.daemon.watch import Daemon
from amiwatch.errors import AmiwatchError
from amiwatch.judgement.values import Alert, Ban, IPNetwork

NOWHERE = Path("/nonexistent")
"""Neither the machine's settings nor its secrets are for the demo."""


class Teller:
    """A listener that writes JSON lines to the show."""

    def banned(self, ban: Ban, pbx: str, seconds: float | None) -> None:
        _tell("ban", network=ban.network, rule=ban.rule, reason=ban.reason, seconds=seconds, lasts=ban.seconds)

    def lifted(self, network: IPNetwork) -> None:
        _tell("lift", network=network)

    def alerted(self, alert: Alert, pbx: str) -> None:
        _tell("alert", address=alert.address, kind=alert.kind, account=alert.account, reason=alert.reason)

    def link_changed(self, pbx: str, state: str, detail: str) -> None:
        _tell("link", state=state, detail=detail)


def _tell(what: str, **details: Any) -> None:
    with contextlib.suppress(BrokenPipeError):
        print(json.dumps({"what": what, **details}, default=str), flush=True)  # noqa: T201 - a pipe to the show


async def watch() -> None:
    """Run the daemon until it is told to stop, or nobody is there any more."""
    daemon = Daemon(load(env_file=None, default_config=NOWHERE, secrets_directory=NOWHERE), listeners=[Teller()])
    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), daemon.stop)
    await daemon.run()


def main() -> int:
    """Return the exit code; the reason of a failure is on standard error, in one sentence."""
    logging.basicConfig(level=logging.ERROR, format="%(message)s")
    try:
        asyncio.run(watch())
    except AmiwatchError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return error.exit_code
    except BaseExceptionGroup as group:
        print(group.exceptions[0], file=sys.stderr)  # noqa: T201
        return 70
    return 0


def start() -> None:
    """Run, and end the process: at once, for nobody may be left to read what is buffered."""
    code = main()
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    os._exit(code)

"""
How long a person waits: ``python -m bench.cli``.

Each figure is a process of its own, from its start to its end, output thrown away: the median of RUNS. The bare
interpreter stands beside them. The answer of the daemon is measured with a daemon in a dry run.
"""

import asyncio
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from rich.console import Console
from rich.table import Table

from amiwatch.judgement.values import Ban, Evidence
from amiwatch.store.reader import Reader
from amiwatch.store.writer import Store

ROWS = 100_000
RUNS = 5
PROGRAM = [sys.executable, "-m", "amiwatch"]
FIRST = int(IPv4Address("198.18.0.0"))


async def fill(path: Path) -> None:
    now = time.time()
    async with await Store.open(path) as store:
        for number in range(ROWS):
            address = IPv4Address(FIRST + number)
            evidence = [Evidence(now, "InvalidAccountID", "PJSIP", "100", "a@b", "UDP", str(address), 5060)]
            reason = (
                f"5 unknown accounts in {number % 600} s (limit 5 in 10 min): '100', '101'; no trust; first offence"
            )
            ban = Ban(
                IPv4Network(address),
                address,
                now - 60,
                86400,
                1,
                "scan",
                reason,
                "PJSIP",
                is_proven=False,
                evidence=evidence,
            )
            store.put_ban(ban, pbx="pbx", origin="rule", is_enforced=True)
            if number % 10_000 == 0:
                await store.flush()
        await store.flush()


def seconds(arguments: list[str], environ: dict[str, str]) -> float:
    began = time.perf_counter()
    done = subprocess.run(arguments, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)
    took = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(f"{arguments}: {done.returncode}: {done.stderr.decode()}")
    return took


def median(arguments: list[str], environ: dict[str, str], runs: int = RUNS) -> tuple[float, float]:
    took = [seconds(arguments, environ) for _ in range(runs)]
    return statistics.median(took), max(took)


@contextmanager
def daemon(environ: dict[str, str]) -> Iterator[None]:
    process = subprocess.Popen([*PROGRAM, "run"], env=environ, stderr=subprocess.DEVNULL)
    path = Path(environ["AMIWATCH_DATABASE"])
    try:
        while not is_up(path, process.pid):
            time.sleep(0.05)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def is_up(path: Path, pid: int) -> bool:
    with Reader(path) as reader:
        status = reader.status()
    return status is not None and status.pid == pid


def main() -> None:
    table = Table("what", "median s", "worst s", "wanted s", title=f"amiwatch's commands, {ROWS:,} bans, {RUNS} runs")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "amiwatch.db")
        asyncio.run(fill(path))
        environ = {
            **{name: text for name, text in os.environ.items() if not name.startswith("AMIWATCH_")},
            "AMIWATCH_DATABASE": str(path),
            "AMIWATCH_FIREWALL": "none",
            "AMIWATCH_AMI__SECRET": "secret",
            "AMIWATCH_AMI__PORT": "1",
        }
        rows = [
            ("python -c pass", [sys.executable, "-c", "pass"], ""),
            ("amiwatch --help", [*PROGRAM, "--help"], ""),
            ("amiwatch bans --json", [*PROGRAM, "bans", "--json"], "1.5"),
            ("amiwatch bans --csv", [*PROGRAM, "bans", "--csv"], ""),
            ("amiwatch bans", [*PROGRAM, "bans"], ""),
            ("amiwatch bans --limit 20", [*PROGRAM, "bans", "--limit", "20"], ""),
            ("amiwatch why ADDRESS", [*PROGRAM, "why", "198.18.9.9"], ""),
        ]
        for name, arguments, wanted in rows:
            middle, worst = median(arguments, environ)
            table.add_row(name, f"{middle:.2f}", f"{worst:.2f}", wanted)
        with daemon(environ):
            for name, words in (("ban", ["203.0.113.7", "--for", "2h"]), ("unban", ["203.0.113.7"])):
                middle, worst = median([*PROGRAM, name, *words], environ, runs=1)
                table.add_row(f"amiwatch {name}, answered by the daemon", f"{middle:.2f}", f"{worst:.2f}", "1")
    Console().print(table)


if __name__ == "__main__":
    main()

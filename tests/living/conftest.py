"""
A daemon with a real kernel firewall, everything that others may have on the same host, and dumps to compare.

What others do is done by their own programs; Docker's part, which needs its service and images, by the commands that it
gives.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any

import pytest

from amiwatch.firewall import leftovers, libnftables
from amiwatch.testing.netns import Wire
from tests.daemon.conftest import Start, Watched
from tests.daemon.conftest import settings_for as settings_for
from tests.daemon.conftest import watched as watched
from tests.daemon.test_end_to_end import ATTACKER, ATTACKER6, arrives
from tests.firewall.conftest import SBIN

PREFIX = "living"
CHAIN = PREFIX.upper()
BACKENDS = ("ipset", "nftables")
PATIENCE = 15.0
"""Seconds after which our drop must work again, on a machine that three other workers keep busy: by design it is 5."""

COUNTED = re.compile(r"\[\d+:\d+\]")
SEED = re.compile(r" initval 0x\w+")
"""Of a set's hash table: by chance."""

SAVES = ("iptables-nft-save", "ip6tables-nft-save", "iptables-legacy-save", "ip6tables-legacy-save")


def run(*command: str, text: str = "", check: bool = True) -> str:
    """Do what an administrator or another program does; return what it printed."""
    done = subprocess.run(
        command, input=text, capture_output=True, text=True, check=False, env={**os.environ, "PATH": SBIN}
    )
    if check and done.returncode:
        raise AssertionError(f"{' '.join(command)}: {done.stderr}")
    return done.stdout


def both(*arguments: str, text: str = "", restore: bool = False) -> None:
    """Call iptables and ip6tables, or their restore."""
    for program in ("iptables", "ip6tables"):
        run(f"{program}-restore" if restore else program, "-w", *arguments, text=text)


def theirs() -> dict[str, object]:
    """Return all in the kernel that is not ours; counters, and tables in which nothing stands, are left out."""
    sets = [name for name in run("ipset", "list", "-n").split() if not name.startswith(PREFIX)]
    found: dict[str, object] = {f"ipset {name}": SEED.sub("", run("ipset", "save", name)) for name in sets}
    for program in SAVES:
        if shutil.which(program, path=SBIN):
            # Of the legacy ones, a kernel without them says that there is nothing.
            found[program] = list(_their_lines(run(program, check=False)))
    found["nft"] = list(_their_objects(json.loads(run("nft", "-j", "list", "ruleset"))["nftables"]))
    return {name: part for name, part in found.items() if part}


def _their_lines(saved: str) -> Iterator[str]:
    table = ""
    for line in saved.splitlines():
        if line.startswith("*"):
            table = line
        is_rule = line.startswith("-A") or re.match(r":\S+ (-|DROP)", line)
        if is_rule and not re.search(rf"\b{CHAIN}\b", line):
            yield f"{table} {COUNTED.sub('', line)}"


def _their_objects(objects: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for entry in objects:
        ((kind, content),) = entry.items()
        names = {content.get("name"), content.get("chain"), content.get("table")}
        # Tables and base chains of iptables are told of by iptables-save, if anything stands in them.
        is_compat = content.get("table", content.get("name")) in {"raw", "mangle", "nat", "filter", "security"}
        if kind != "metainfo" and not is_compat and not names & {PREFIX, CHAIN}:
            yield {kind: _bare(content)}


def _bare(content: Any) -> Any:
    """Leave out what the kernel numbers or counts."""
    if isinstance(content, dict):
        return {name: _bare(part) for name, part in content.items() if name not in {"handle", "packets", "bytes"}}
    return [_bare(part) for part in content] if isinstance(content, list) else content


def install_theirs() -> None:
    """Put things of others everywhere: rules in each table, chains, sets, a table of nftables."""
    both("-t", "raw", "-A", "PREROUTING", "-p", "tcp", "--dport", "9999", "-j", "ACCEPT")
    both("-t", "mangle", "-A", "FORWARD", "-p", "tcp", "--tcp-flags", "SYN,RST", "SYN", "-j", "ACCEPT")
    both("-A", "INPUT", "-m", "conntrack", "--ctstate", "ESTABLISHED,RELATED", "-j", "ACCEPT")
    both("-N", "f2b-sshd")
    both("-A", "f2b-sshd", "-j", "RETURN")
    both("-I", "INPUT", "-p", "tcp", "-m", "multiport", "--dports", "22", "-j", "f2b-sshd")
    run("ipset", "create", "theirs", "hash:ip")
    run("ipset", "add", "theirs", "203.0.113.200")
    run("iptables", "-w", "-A", "INPUT", "-m", "set", "--match-set", "theirs", "src", "-j", "DROP")
    run(
        "nft",
        "add table inet theirs; add set inet theirs bad { type ipv4_addr; elements = { 203.0.113.201 }; }; "
        "add chain inet theirs input { type filter hook input priority 10; policy accept; }; "
        "add rule inet theirs input ip saddr @bad counter drop",
    )


def remove_everything() -> None:
    """Leave the namespace as a new one."""
    run("nft", "flush", "ruleset")
    for program in ("iptables-legacy", "ip6tables-legacy"):
        if shutil.which(program, path=SBIN):
            for table in ("raw", "mangle", "nat", "filter"):
                run(program, "-t", table, "-F", check=False)
                run(program, "-t", table, "-X", check=False)
    run("ipset", "destroy", check=False)


Guarded = Callable[..., AbstractAsyncContextManager[Watched]]


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    if why := libnftables.missing():
        pytest.skip(why)
    for program in ("iptables", "nft", "ipset"):
        if not shutil.which(program, path=SBIN):
            pytest.skip(f"{program} is not installed")
    remove_everything()
    yield
    remove_everything()


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def wire() -> Iterator[Wire]:
    with Wire() as cable:
        yield cable


@pytest.fixture
def guarded(watched: Start, backend: str) -> Guarded:
    """Start a daemon that has banned the attacker of both families, beside all that others have."""

    @asynccontextmanager
    async def start(**settings: str) -> AsyncIterator[Watched]:
        install_theirs()
        # In capitals it is the setting; ``firewall`` would be a firewall of our own instead.
        options = {"FIREWALL": backend, "set_name": PREFIX, **settings}
        async with partial(watched, **options)() as it:
            await it.attack(ATTACKER)
            await it.attack(ATTACKER6)
            await it.watcher.until_banned(f"{ATTACKER}/32", "2001:db8:bad::/64")
            yield it
        for kind in BACKENDS:
            with contextlib.suppress(Exception):
                await leftovers.remove(kind, PREFIX)

    return start


async def until_dropped(wire: Wire) -> None:
    """Wait until packets of the attacker no longer arrive, of neither family; fail after ``PATIENCE``."""
    async with asyncio.timeout(PATIENCE):
        while arrives(wire, ATTACKER) or arrives(wire, ATTACKER6):  # noqa: ASYNC110 - nobody is told
            await asyncio.sleep(0.1)

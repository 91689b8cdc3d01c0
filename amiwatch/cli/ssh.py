"""
From where whoever called this program is logged in, so that nobody bans himself.

sudo takes ``SSH_CONNECTION`` out of the environment; the shell in front of it still has it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from ipaddress import ip_address
from pathlib import Path

from amiwatch.judgement.values import IPAddress

ANCESTORS = 64
"""Processes that are looked at, from ours upwards: a login is some five away."""

VARIABLES = ("SSH_CONNECTION", "SSH_CLIENT")
"""sshd(8): the client's address is the first word of each."""


def callers(environ: Mapping[str, str] = os.environ, proc: Path = Path("/proc")) -> set[IPAddress]:
    """Return the addresses of the SSH clients behind this process; what may not be read is left out."""
    found = {environ.get(name, "") for name in VARIABLES}
    for pid in _ancestors(proc):
        found |= set(_variables(proc / pid / "environ"))
    return {address for text in found if (address := _client(text)) is not None}


def _ancestors(proc: Path) -> Iterator[str]:
    pid = str(os.getppid())
    for _ in range(ANCESTORS):
        if pid in ("0", "1"):
            return
        yield pid
        try:
            # The name in parentheses may hold anything, blanks and parentheses too.
            pid = (proc / pid / "stat").read_text(errors="replace").rpartition(")")[2].split()[1]
        except (OSError, IndexError):
            return


def _variables(path: Path) -> Iterator[str]:
    try:
        entries = path.read_bytes().split(b"\0")
    except OSError:
        return
    for entry in entries:
        name, _, text = entry.partition(b"=")
        if name.decode(errors="replace") in VARIABLES:
            yield text.decode(errors="replace")


def _client(text: str) -> IPAddress | None:
    words = text.split()
    try:
        address = ip_address(words[0].partition("%")[0]) if words else None
    except ValueError:
        return None
    mapped = address.ipv4_mapped if address is not None and address.version == 6 else None
    return mapped or address

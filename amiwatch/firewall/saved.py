"""
Files that iptables is restored from at boot, with rules of ours in them.

Whoever saves the rules of a running host saves ours, too. At boot our sets are not there yet, and iptables-restore
refuses a whole file for one rule that names a missing set: the host starts without its firewall.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from amiwatch.firewall.names import chain_name

FILES = tuple(
    map(
        Path,
        (
            "/etc/iptables/rules.v4",  # netfilter-persistent
            "/etc/iptables/rules.v6",
            "/etc/sysconfig/iptables",  # iptables-services of Red Hat
            "/etc/sysconfig/ip6tables",
        ),
    )
)


def holding(prefix: str, files: tuple[Path, ...] = FILES) -> Iterator[Path]:
    """Find the files that hold our rules; what can't be read is passed over."""
    for path in files:
        with suppress(OSError):
            if re.search(pattern(prefix), path.read_text(encoding="utf-8", errors="replace")):
                yield path


def pattern(prefix: str) -> str:
    """Return what each line of ours matches and no other, for Python and for GNU sed: all name our chain."""
    return rf"\b{chain_name(prefix)}\b"

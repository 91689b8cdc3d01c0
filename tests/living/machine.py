"""
A machine with firewalld, ufw, fail2ban and netfilter-persistent installed, around the network namespace of the tests.

The packages that ``make neighbours`` unpacked lie over ``/usr``, ``/etc`` and ``/var`` in a mount namespace; ``/run``
is empty, processes are its own. So the programs run as they are packaged, with all their paths, and whatever they
write, start or leave behind is gone with the namespace.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

UNPACKED = Path(__file__).parents[2] / ".neighbours"

COMMAND_LIMIT = 60.0
"""Seconds that one command may take, so that one which hangs ends the test and not the run."""

INSTALL = """
unpacked=$1 written=$2
mount -t tmpfs neighbours "$written"
for folder in usr etc var; do
    mkdir -p "$written/$folder" "$written/work/$folder"
    lower=$unpacked/$folder:/$folder upper=$written/$folder work=$written/work/$folder
    mount -t overlay neighbours -o "lowerdir=$lower,upperdir=$upper,workdir=$work" "/$folder"
done
# Whoever uses the older iptables takes turns through this file.
touch /run/xtables.lock "$written/xtables.lock"
mount --bind /run/xtables.lock "$written/xtables.lock"
mount -t tmpfs neighbours /run
touch /run/xtables.lock
mount --bind "$written/xtables.lock" /run/xtables.lock
mkdir -p /run/dbus /run/fail2ban
rm -f /etc/resolv.conf  # nobody answers in this network, so nobody is asked
echo installed
cat  # until the test closes it
"""


def missing() -> str:
    """Say why there can be no such machine here; empty if it can."""
    if not (UNPACKED / "complete").exists():
        return (
            "firewalld, ufw and fail2ban are missing: 'make neighbours' fetches and unpacks them; it installs nothing"
        )
    return "firewalld, ufw and fail2ban run as root only" if os.geteuid() else ""


class Machine:
    """Starts at once; ends, with every process in it, at the end of the ``with`` block or of this process."""

    def __init__(self, folder: Path) -> None:
        """Take an empty folder, for what the programs write."""
        if why := missing():
            pytest.skip(why)
        unshare = ("unshare", "--mount", "--pid", "--fork", "--mount-proc")
        self._holder = subprocess.Popen(
            [*unshare, "sh", "-euc", INSTALL, "sh", UNPACKED, folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == b"installed\n", "no machine: see what unshare or mount printed"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._holder.communicate(timeout=COMMAND_LIMIT)

    def run(self, commands: str) -> str:
        """Let root's shell do this; return what it printed."""
        namespaces = f"/proc/{self._holder.pid}/ns"
        done = subprocess.run(
            ["nsenter", f"--mount={namespaces}/mnt", f"--pid={namespaces}/pid_for_children", "sh", "-euc", commands],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_LIMIT,
            check=False,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "HOME": "/"},
        )
        if done.returncode:
            raise AssertionError(f"{commands}: {done.stdout}{done.stderr}")
        return done.stdout

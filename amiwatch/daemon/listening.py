"""
Which ports of this machine are whose: what must never be learned as a port of Asterisk; and who is connected to ssh.

Rule 1: what can't be read is left out; port 22 is ssh's in any case.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import ip_address, ip_network
from pathlib import Path

from amiwatch.judgement.values import IPAddress, IPNetwork

SSH = 22

SSH_CONFIG = Path("/etc/ssh")

SSH_PROGRAMS = frozenset({"sshd", "dropbear"})

CONNECTED = "where an ssh connection to this machine comes from"

_LISTENING, _ESTABLISHED = "0A", "01"
"""TCP_LISTEN and TCP_ESTABLISHED, as /proc/net/tcp writes them (proc_net_tcp.txt)."""

USUAL_RANGE = (32768, 60999)
"""Ports that Linux gives to outgoing connections, unless somebody changed it (ip-sysctl.txt)."""


def ssh_ports() -> set[int]:
    """Return the ports by which people administer this machine: as configured, and as they are open now."""
    return {SSH, *_configured(), *_open()}


def ssh_connections() -> dict[IPNetwork, str]:
    """
    Return from where somebody has a connection to an ssh port here, with the words that say so.

    It may be somebody who only tries to log in. But it is all that a container, and a machine without logind, tells of
    who is logged in, and it is the address of today where a terminal (tmux) was begun from another one.
    """
    ports = ssh_ports()
    peers = [_address(remote) for local, remote, state, _ in _tcp() if state == _ESTABLISHED and _port(local) in ports]
    return {ip_network(peer): CONNECTED for peer in peers if not peer.is_loopback}


def _address(shown: str) -> IPAddress:
    """Read ``0100007F:1F90``: 32-bit words in the machine's byte order (proc_net_tcp.txt)."""
    text = shown.rpartition(":")[0]
    words = [int(text[at : at + 8], 16).to_bytes(4, sys.byteorder) for at in range(0, len(text), 8)]
    address = ip_address(b"".join(words))
    return getattr(address, "ipv4_mapped", None) or address


def is_outgoing(port: int) -> bool:
    """Tell whether a TCP port may be that of a connection which somebody here made, for nobody listens on it."""
    first, last = _outgoing_range()
    return first <= port <= last and port not in _listening().values()


def _configured() -> Iterator[int]:
    for path in [SSH_CONFIG / "sshd_config", *sorted(SSH_CONFIG.glob("sshd_config.d/*.conf"))]:
        with suppress(OSError):
            for line in path.read_text(errors="replace").splitlines():
                yield from _port_of(line.lower().split())


def _port_of(words: list[str]) -> Iterator[int]:
    """Read ``Port 2222`` or ``ListenAddress 192.0.2.1:2222`` (sshd_config(5))."""
    with suppress(ValueError):
        if len(words) > 1 and words[0] == "port":
            yield int(words[1])
        elif len(words) > 1 and words[0] == "listenaddress" and (words[1].count(":") == 1 or "]:" in words[1]):
            yield int(words[1].rpartition(":")[2])


def _open() -> Iterator[int]:
    """Return the ports on which a running ssh server listens; only root sees those of others."""
    listening = _listening()
    for comm in Path("/proc").glob("[0-9]*/comm"):
        with suppress(OSError):
            if comm.read_text().strip() in SSH_PROGRAMS:
                yield from (listening[inode] for inode in _sockets(comm.parent) if inode in listening)


def _sockets(process: Path) -> Iterator[str]:
    for descriptor in (process / "fd").iterdir():
        with suppress(OSError):
            target = str(descriptor.readlink())
            if target.startswith("socket:["):
                yield target[8:-1]


def _listening() -> dict[str, int]:
    """Return the listening TCP sockets of this network namespace: inode to port."""
    return {inode: _port(local) for local, _, state, inode in _tcp() if state == _LISTENING}


def _tcp() -> Iterator[tuple[str, str, str, str]]:
    """List the TCP sockets of this network namespace: local and remote address, state, inode."""
    for name in ("tcp", "tcp6"):
        with suppress(OSError):
            for line in Path("/proc/net", name).read_text().splitlines()[1:]:
                words = line.split()
                yield words[1], words[2], words[3], words[9]


def _port(shown: str) -> int:
    return int(shown.rpartition(":")[2], 16)


def _outgoing_range() -> tuple[int, int]:
    try:
        first, last = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
        return int(first), int(last)
    except (OSError, ValueError):
        return USUAL_RANGE

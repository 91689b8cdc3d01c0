"""What this machine can do: whether ipset and nftables work here, and which of them ``auto`` takes. Changes nothing."""

from __future__ import annotations

import errno
import os
import shutil
import socket
from contextlib import suppress
from typing import NamedTuple

from amiwatch.errors import FirewallError
from amiwatch.firewall import ipset_wire, libnftables
from amiwatch.firewall import nftables_wire as wire
from amiwatch.firewall.iptables import PROGRAMS
from amiwatch.firewall.names import set_name
from amiwatch.firewall.nftables_socket import ANSWER_TIMEOUT, DATAGRAM, NftablesSocket

SYSTEM_PATHS = ":/usr/sbin:/sbin"
"""Ordinary users have no sbin in their PATH; ``iptables.py`` looks there, too."""

FIREWALLD = "firewalld"
"""The table that firewalld keeps its rules in, unless it was told to use iptables."""

_NETFILTER = 12

IPSET_FAULTS = {
    errno.EPERM: "it can't be looked at without CAP_NET_ADMIN",
    errno.EINVAL: "the kernel has no ip_set (EL 10: dnf install kernel-modules-extra)",
    ipset_wire.NO_TYPE: "the kernel has no ip_set_hash_net",
}


class Choice(NamedTuple):
    """A firewall, and why this one."""

    kind: str
    why: str


def choose(prefix: str) -> Choice:
    """Take what holds our bans already; else nftables beside firewalld; else ipset where it works; else nftables."""
    has_table, has_sets = _has_table(prefix), _ipset_code(ipset_wire.header_question(set_name(prefix, 4))) == 0
    is_beside = has_firewalld()
    if has_table and (is_beside or not has_sets):
        return Choice("nftables", f"the table 'inet {prefix}' is there already")
    ipset, nftables = ipset_fault(), nftables_fault()
    if is_beside and not has_sets and not nftables:
        return Choice("nftables", "firewalld is here, which throws rules of iptables away with each reload")
    if not ipset:
        return Choice("ipset", "the kernel has it, and iptables is there")
    if not nftables:
        return Choice("nftables", f"ipset does not work here: {ipset}")
    return Choice("ipset", f"neither works here: {ipset}; {nftables}")


def ipset_fault() -> str:
    """Say why ipset does not work here; empty if it does."""
    code = _ipset_code(ipset_wire.type_question())
    if code:
        return IPSET_FAULTS.get(code, f"the kernel answers with code {code}")
    path = f"{os.environ.get('PATH', os.defpath)}{SYSTEM_PATHS}"
    if not shutil.which(PROGRAMS[4], path=path):
        return f"there is no program {PROGRAMS[4]!r} for the rule"
    return ""


def nftables_fault() -> str:
    """Say why nftables does not work here; empty if it does."""
    try:
        _has_table_of("amiwatch")
    except FirewallError as error:
        return str(error)
    return libnftables.missing()


def has_firewalld() -> bool:
    """Tell whether firewalld has its rules in nftables here; with each reload it flushes iptables, too."""
    with suppress(FirewallError), NftablesSocket(FIREWALLD) as table:
        return any(True for _ in table.listed(wire.LIST_RULES))
    return False


def _has_table(prefix: str) -> bool:
    try:
        return _has_table_of(prefix)
    except FirewallError:
        return False


def _has_table_of(prefix: str) -> bool:
    with NftablesSocket(prefix) as table:
        return any(True for _ in table.listed(wire.LIST_SETS))


def _ipset_code(question: bytes) -> int:
    """Ask the kernel's ipset one thing; return 0 or its code."""
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETFILTER) as netlink:
            netlink.settimeout(ANSWER_TIMEOUT)
            netlink.send(question)
            return next(ipset_wire.answers(netlink.recv(DATAGRAM))).code
    except OSError as exc:
        return exc.errno or errno.EIO

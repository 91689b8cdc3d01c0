"""
The kernel's ipset messages: requests to bytes, answers to values.

Rule 1: no I/O. What is sent and received is ``ipset_socket.py``; what it is for is ``ipset.py``.

Rule 2: this is here for speed only. pyroute2 encodes one entry in 200 microseconds and decodes one in 30;
a restart with 100,000 bans can't wait for that. Constants are those of linux/netfilter/ipset/ip_set.h, protocol 7.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from socket import AF_INET, AF_INET6
from typing import Any, NamedTuple

from amiwatch.firewall.attributes import ADDRESSES, Picture, attribute, attribute_head, attributes
from amiwatch.firewall.base import MAX_TIMEOUT, Entry
from amiwatch.judgement.values import IPNetwork

CREATE, FLUSH, LIST, ADD, DELETE, TEST, HEADER, TYPE = 2, 4, 7, 9, 10, 11, 12, 13
"""Commands (``enum ipset_cmd``)."""

MISSING = 2
"""ENOENT: no set of this name."""
EXISTS = 17
"""EEXIST: there is a set of this name."""
ABSENT = 4103
"""IPSET_ERR_EXIST: to a test, the element is not in the set."""
NO_TYPE = 4098
"""IPSET_ERR_FIND_TYPE: no sets of this kind."""
FULL = 4352
"""IPSET_ERR_HASH_FULL: the set holds ``maxelem`` elements."""

FAMILIES = {4: AF_INET, 6: AF_INET6}

_SUBSYSTEM = 6 << 8
_ERROR, _DONE = 2, 3
_REQUEST, _ACK, _EXCLUSIVE, _DUMP = 0x1, 0x4, 0x200, 0x300
_NESTED, _NETWORK_ORDER = 0x8000, 0x4000

_PROTOCOL, _SETNAME, _TYPENAME, _REVISION, _FAMILY, _FLAGS, _DATA, _ADT, _LINENO = 1, 2, 3, 4, 5, 6, 7, 8, 9
_IP, _CIDR, _TIMEOUT, _CADT_FLAGS = 1, 3, 6, 8
_BYTES, _PACKETS = 24, 25
_MAXELEM, _NETMASK, _ELEMENTS, _REFERENCES = 19, 20, 24, 25
_LIST_HEADER = 4
_WITH_COUNTERS, _NOMATCH = 8, 4

_HEADER = struct.Struct("=IHHII")


_ZEROED = attribute(_BYTES | _NETWORK_ORDER, bytes(8)) + attribute(_PACKETS | _NETWORK_ORDER, bytes(8))
"""The counters of a new entry."""


class _Layout(NamedTuple):
    """How one entry of a family lies in a message: fixed, so that one struct reads and writes it."""

    network: Callable[[Any, int], IPNetwork]
    pack: struct.Struct
    new_head: bytes
    """In place of the first head, where counters follow."""
    heads: tuple[bytes, bytes, bytes, bytes]
    unpack: struct.Struct
    picture: Picture
    """A listed entry that has exactly the attributes that our sets' entries have, in the usual order."""


def _layout(family: int, size: int, kind: int) -> _Layout:
    address = attribute_head(_IP | _NESTED, size + 4) + attribute_head(kind | _NETWORK_ORDER, size)
    cidr, timeout, line = (
        attribute_head(_CIDR, 1),
        attribute_head(_TIMEOUT | _NETWORK_ORDER, 4),
        attribute_head(_LINENO, 4),
    )
    pack = struct.Struct(f">12s{size}s4sB3x4sI4sI")
    number, network = ADDRESSES[family]
    unpack = struct.Struct(f">12x{number}4xB3x4xI4xQ4xQ")
    counters = (attribute_head(_BYTES | _NETWORK_ORDER, 8), attribute_head(_PACKETS | _NETWORK_ORDER, 8))
    # The kernel leaves the network-order flag off the address when it lists.
    listed_address = attribute_head(_IP | _NESTED, size + 4) + attribute_head(kind, size)
    picture: list[int | None] = [*attribute_head(_DATA | _NESTED, unpack.size - 4), *listed_address]
    picture += [None] * size + [*cidr, None, 0, 0, 0, *timeout] + [None] * 4
    for head in counters:
        picture += [*head, *[None] * 8]
    data = attribute_head(_DATA | _NESTED, pack.size - 4)
    new_data = attribute_head(_DATA | _NESTED, pack.size + len(_ZEROED) - 4)
    heads = (data + address, cidr, timeout, line)
    return _Layout(network, pack, new_data + address, heads, unpack, Picture(picture))


_LAYOUTS = {4: _layout(4, 4, kind=1), 6: _layout(6, 16, kind=2)}


@dataclass(frozen=True, slots=True)
class SetOptions:
    """What a listing says of a set before its entries."""

    name: str
    kind: str
    family: int
    """4 or 6; 0 for another."""
    maxelem: int
    has_timeout: bool
    has_counters: bool
    count: int
    references: int


@dataclass(frozen=True, slots=True)
class Answer:
    """One message of the kernel. ``code`` is 0 for an acknowledgement and for data."""

    code: int = 0
    line: int = 0
    """Index of the entry at which the kernel stopped, where ``code`` is not 0 and entries were sent."""
    is_last: bool = False
    options: SetOptions | None = None
    entries: Sequence[Entry] = ()


def listing(name: str, *, protocol: int, header_only: bool = False) -> bytearray:
    """Ask for a set (no name: for all of them), or only for what stands above its entries."""
    flags = attribute(_FLAGS, struct.pack(">I", _LIST_HEADER)) if header_only else b""
    return _request(LIST, name, _REQUEST | _DUMP, flags, protocol=protocol)


def change(command: int, name: str, family: int, entries: Sequence[Entry], *, protocol: int) -> bytearray:
    """
    Add or delete many entries in one message, in order; the kernel stops at the first that it refuses.

    At most 860 entries: the list of them is an attribute, and those end at 64 KiB.
    """
    packed = b"".join(
        [_packed(family, entry.network, entry.seconds, line, entry.is_new) for line, entry in enumerate(entries)]
    )
    lines = attribute(_LINENO, struct.pack("=I", 0)) + attribute(_ADT | _NESTED, packed)
    return _request(command, name, _REQUEST | _ACK, lines, protocol=protocol)


def flush(name: str, *, protocol: int) -> bytearray:
    """Empty one set. Without a name it would be every set of the machine: so the name is checked here, too."""
    if not name:
        raise ValueError("a flush without a name would empty everybody's sets")
    return _request(FLUSH, name, _REQUEST | _ACK, b"", protocol=protocol)


def window_creation(
    name: str, family: int, *, seconds: int, maxelem: int, netmask: int | None, protocol: int
) -> bytearray:
    """Create a set of addresses that the kernel fills, each for so long; ``netmask`` counts them by network."""
    options = attribute(_TIMEOUT | _NETWORK_ORDER, struct.pack(">I", seconds))
    options += attribute(_MAXELEM | _NETWORK_ORDER, struct.pack(">I", maxelem))
    options += attribute(_CADT_FLAGS | _NETWORK_ORDER, struct.pack(">I", _WITH_COUNTERS))
    options += attribute(_NETMASK, bytes([netmask])) if netmask else b""
    # Its first revision with counters (ip_set_hash_ip.c): every kernel with counters has it.
    kind = attribute(_TYPENAME, b"hash:ip\0") + attribute(_REVISION, b"\1")
    kind += attribute(_FAMILY, bytes([FAMILIES[family]]))
    flags = _REQUEST | _ACK | _EXCLUSIVE
    return _request(CREATE, name, flags, kind + attribute(_DATA | _NESTED, options), protocol=protocol)


def question(name: str, family: int, network: IPNetwork, *, protocol: int) -> bytearray:
    """Ask whether a network is in a set; for a single address, whether any entry covers it."""
    return _request(TEST, name, _REQUEST | _ACK, _packed(family, network, None, 0), protocol=protocol)


def header_question(name: str) -> bytes:
    """Ask whether there is a set of this name, in words that every kernel knows."""
    return bytes(_request(HEADER, name, _REQUEST, b"", protocol=6))


def type_question() -> bytes:
    """Ask whether there are hash:net sets, in words that every kernel knows; it loads the modules for them."""
    body = struct.pack("=BBH", AF_INET, 0, 0) + attribute(_PROTOCOL, b"\6")
    body += attribute(_TYPENAME, b"hash:net\0") + attribute(_FAMILY, bytes([AF_INET]))
    return _HEADER.pack(_HEADER.size + len(body), _SUBSYSTEM | TYPE, _REQUEST, 0, 0) + body


def stamp(message: bytearray, sequence: int) -> None:
    """Number a request; its answers carry the number."""
    struct.pack_into("=I", message, 8, sequence)


def sequence_of(datagram: bytes) -> int:
    """Read the number of an answer."""
    return int(struct.unpack_from("=I", datagram, 8)[0])


def answers(datagram: bytes) -> Iterator[Answer]:
    """Read what the kernel sent, message by message."""
    offset = 0
    while offset + _HEADER.size <= len(datagram):
        length, kind, _, _, _ = _HEADER.unpack_from(datagram, offset)
        body = memoryview(datagram)[offset + _HEADER.size : offset + length]
        if kind == _ERROR:
            yield _refusal(body)
        elif kind == _DONE:
            yield Answer(is_last=True)
        else:
            yield _data(body)
        offset += max(length + -length % 4, _HEADER.size)


def _request(command: int, name: str, flags: int, rest: bytes, *, protocol: int) -> bytearray:
    body = struct.pack("=BBH", AF_INET, 0, 0)
    body += attribute(_PROTOCOL, bytes([protocol]))
    body += (attribute(_SETNAME, name.encode() + b"\0") if name else b"") + rest
    return bytearray(_HEADER.pack(_HEADER.size + len(body), _SUBSYSTEM | command, flags, 0, 0) + body)


def _packed(family: int, network: IPNetwork, seconds: int | None, line: int, is_new: bool = False) -> bytes:
    layout = _LAYOUTS[family]
    address, cidr, timeout, lineno = layout.heads
    if is_new:
        address = layout.new_head
    # The line comes back as it went, so its byte order is ours to choose. Never 0 seconds: that would be for ever.
    left = 0 if seconds is None else max(1, min(seconds, MAX_TIMEOUT))
    packed = layout.pack.pack(
        address, network.network_address.packed, cidr, network.prefixlen, timeout, left, lineno, line
    )
    return packed + _ZEROED if is_new else packed


def _refusal(body: memoryview) -> Answer:
    code = -int(struct.unpack_from("=i", body)[0])
    if not code:
        return Answer(is_last=True)
    # Our request comes back behind the code, with the line filled in where entries were sent.
    lines = dict(attributes(body[4 + _HEADER.size + 4 :])).get(_LINENO, b"\0\0\0\0")
    return Answer(code=code, line=int(struct.unpack(">I", lines)[0]), is_last=True)


def _data(body: memoryview) -> Answer:
    found = dict(attributes(body[4:]))
    options = None
    if _DATA in found:
        options = _options(found)
    entries: Sequence[Entry] = ()
    if _ADT in found:
        entries = _entries(found[_ADT])
    return Answer(options=options, entries=entries)


def _options(found: dict[int, memoryview]) -> SetOptions:
    data = dict(attributes(found[_DATA]))

    def number(kind: int) -> int:
        return int.from_bytes(data.get(kind, b""), "big")

    return SetOptions(
        name=bytes(found[_SETNAME]).rstrip(b"\0").decode(errors="replace"),
        kind=bytes(found[_TYPENAME]).rstrip(b"\0").decode(),
        family={int(AF_INET): 4, int(AF_INET6): 6}.get(found[_FAMILY][0], 0),
        maxelem=number(_MAXELEM),
        has_timeout=_TIMEOUT in data,
        has_counters=bool(number(_CADT_FLAGS) & _WITH_COUNTERS),
        count=number(_ELEMENTS),
        references=number(_REFERENCES),
    )


def _entries(packed: memoryview) -> list[Entry]:
    for layout in _LAYOUTS.values():
        if layout.picture.fits(packed):
            network, make = layout.network, Entry._make
            return [
                make((network(address, prefix), seconds or None, packets, octets, False))
                for address, prefix, seconds, octets, packets in layout.unpack.iter_unpack(packed)
            ]
    return list(_any_entries(packed))


def _any_entries(packed: memoryview) -> Iterator[Entry]:
    """Read entries attribute by attribute: a set made with other options, an exception somebody added by hand."""
    for _, data in attributes(packed):
        found = dict(attributes(data))
        if int.from_bytes(found.get(_CADT_FLAGS, b""), "big") & _NOMATCH:
            continue
        [(kind, address)] = attributes(found[_IP])
        network = (IPv4Network if kind == 1 else IPv6Network)((bytes(address), found[_CIDR][0]))
        yield Entry(
            network,
            int.from_bytes(found.get(_TIMEOUT, b""), "big") or None,
            packets=int.from_bytes(found.get(_PACKETS, b""), "big"),
            octets=int.from_bytes(found.get(_BYTES, b""), "big"),
        )

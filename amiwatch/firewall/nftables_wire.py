"""
The kernel's nf_tables messages that come once per ban: requests to bytes, answers to values.

Rule 1: no I/O. What is sent and received is ``nftables_socket.py``; what it is for is ``nftables.py``.

Rule 2: elements and reading only. Tables, chains, sets and rules are made by libnftables, which before every command
asks the kernel for every set of every table: 50 microseconds for a ban on a quiet host, 43 ms beside 3,000 sets of
somebody else's, and 0.7 s to show one rule beside 100,000 bans. Constants are those of linux/netfilter/nf_tables.h.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from amiwatch.firewall.attributes import ADDRESSES, Picture, attribute, attribute_head, attributes
from amiwatch.firewall.base import MAX_TIMEOUT, Entry
from amiwatch.judgement.networks import network4, network6
from amiwatch.judgement.values import IPNetwork

RULE, LIST_RULES, SET, LIST_SETS = 6, 7, 9, 10
ADD, ELEMENTS, LIST_ELEMENTS, DELETE = 12, 12, 13, 14
"""Messages (``enum nf_tables_msg_types``)."""

LONGEST = 700
"""Elements in one message: with counters an IPv6 element takes 84 octets, and a list of them ends at 64 KiB."""

DROP = "drop"
"""What ``RuleHeader.target`` says of a rule that drops."""

_SUBSYSTEM = 10
_BEGIN, _END = 16, 17
_ERROR, _DONE = 2, 3
_REQUEST, _ACK, _EXCLUSIVE, _CREATE, _DUMP = 0x1, 0x4, 0x200, 0x400, 0x300
_ANY_FAMILY, _INET = 0, 1
_NESTED = 0x8000

_TABLE, _NAME = 1, 2
_SET_FLAGS, _SET_KEY_LENGTH, _SET_DESCRIPTION, _SET_EXPRESSION, _SET_COUNT = 3, 5, 9, 17, 20
_CAPACITY = 1
_WITH_TIMEOUT = 0x10
_LIST = 3
_ELEMENT, _VALUE = 1, 1
_KEY, _FLAGS, _TIMEOUT, _EXPIRATION, _EXPRESSION = 1, 3, 4, 5, 7
_INTERVAL_END = 1
_EXPRESSION_NAME, _EXPRESSION_DATA = 1, 2
_OCTETS, _PACKETS = 1, 2
_RULE_EXPRESSIONS = 4
_LOOKUP_SET = 1
_DYNAMIC_SET, _DYNAMIC_EXPRESSION, _LIMIT_BURST = 1, 7, 3
_IMMEDIATE_DATA, _VERDICT, _VERDICT_CODE, _VERDICT_CHAIN = 2, 2, 1, 2
_NF_DROP = 0

_HEADER = struct.Struct("=IHHII")
_FAMILY_HEADER = struct.Struct(">BBH")
_HEAD = _HEADER.size + _FAMILY_HEADER.size


class Change(NamedTuple):
    """Elements to add (``ADD``; one that is there already is refused) or to delete (``DELETE``)."""

    command: int
    set_name: str
    entries: Sequence[Entry]


@dataclass(frozen=True, slots=True)
class Answer:
    """One message of the kernel. ``code`` is 0 for an acknowledgement and for data."""

    sequence: int
    kind: int
    code: int
    body: memoryview

    @property
    def is_last(self) -> bool:
        """Tell whether nothing follows it."""
        return self.kind in (_ERROR, _DONE)


@dataclass(frozen=True, slots=True)
class SetHeader:
    """What the kernel says of a set without listing it."""

    name: str
    capacity: int
    """0 where there is no limit."""
    count: int | None
    """None where the kernel (before 6.17) does not tell."""
    key_length: int
    has_timeout: bool
    has_counters: bool


@dataclass(frozen=True, slots=True)
class RuleHeader:
    """What interests us in a rule."""

    chain: str
    set_names: tuple[str, ...]
    """Sets that are looked up."""
    target: str
    """The chain that it jumps or goes to, ``DROP``, or empty."""
    packets: int
    octets: int
    burst: int
    """Packets that a limit for each element of its set lets through at once; 0 without."""


def _text(kind: int, value: str) -> bytes:
    return attribute(kind, value.encode() + b"\0")


class _Layout(NamedTuple):
    """How one element of a family lies in a message: fixed, so that one struct reads and writes it."""

    network: Callable[[Any, int], IPNetwork]
    head: bytes
    """Before the address of an element with a timeout."""
    pack: struct.Struct
    unpack: struct.Struct
    picture: Picture
    """A listed element that has exactly a timeout and a counter, as our bans have, in the usual order."""


def _layout(family: int, size: int) -> _Layout:
    key = attribute_head(_KEY | _NESTED, size + 4) + attribute_head(_VALUE, size)
    address, network = ADDRESSES[family]
    unpack = struct.Struct(f">12x{address}24xQ4xQ16xQ")
    picture: list[int | None] = [
        *attribute_head(_ELEMENT, unpack.size - 4),
        *attribute_head(_KEY, size + 4),
        *attribute_head(_VALUE, size),
    ]
    picture += [None] * size
    picture += [
        *attribute_head(_EXPRESSION, 40),
        *_text(_EXPRESSION_NAME, "counter"),
        *attribute_head(_EXPRESSION_DATA, 24),
    ]
    picture += [*attribute_head(_OCTETS, 8), *[None] * 8, *attribute_head(_PACKETS, 8), *[None] * 8]
    picture += [*attribute_head(_TIMEOUT, 8), *[None] * 8, *attribute_head(_EXPIRATION, 8), *[None] * 8]
    return _Layout(
        network=network,
        head=attribute_head(_ELEMENT | _NESTED, size + 20) + key,
        pack=struct.Struct(f">12s{size}s4sQ"),
        unpack=unpack,
        picture=Picture(picture),
    )


_LAYOUTS = {4: _layout(4, 4), 6: _layout(6, 16)}
_TIMEOUT_HEAD = attribute_head(_TIMEOUT, 8)


def listing(kind: int, table: str, set_name: str = "", *, sequence: int) -> bytes:
    """Ask for all sets or rules of a table, or for all elements of a set."""
    body = _text(_TABLE, table) + (_text(_NAME, set_name) if set_name else b"")
    return _message(kind, _REQUEST | _DUMP, body, sequence=sequence)


def question(table: str, set_name: str, network: IPNetwork, *, sequence: int) -> bytes:
    """Ask for one element of a set."""
    key = attribute(_KEY | _NESTED, attribute(_VALUE, network.network_address.packed))
    body = _text(_TABLE, table) + _text(_NAME, set_name) + attribute(_LIST | _NESTED, attribute(_ELEMENT, key))
    return _message(LIST_ELEMENTS, _REQUEST | _ACK, body, sequence=sequence)


def batch(table: str, changes: Sequence[Change], *, sequence: int) -> bytes:
    """
    Change all or nothing: the kernel answers for every change, by its place behind ``sequence``.

    A change takes ``LONGEST`` entries at most.
    """
    messages = [_control(_BEGIN, sequence)]
    for number, change in enumerate(changes, start=1):
        # Of the last change we want to hear in any case, of the others only if they are refused.
        flags = _REQUEST | (_ACK if number == len(changes) else 0)
        flags |= _CREATE | _EXCLUSIVE if change.command == ADD else 0
        elements = b"".join(map(_timed if change.command == ADD else _bare, change.entries))
        body = _text(_TABLE, table) + _text(_NAME, change.set_name) + attribute(_LIST | _NESTED, elements)
        messages.append(_message(change.command, flags, body, sequence=sequence + number))
    messages.append(_control(_END, sequence + len(changes) + 1))
    return b"".join(messages)


def _control(kind: int, sequence: int) -> bytes:
    return _HEADER.pack(_HEAD, kind, _REQUEST, sequence, 0) + _FAMILY_HEADER.pack(_ANY_FAMILY, 0, _SUBSYSTEM)


def _message(kind: int, flags: int, body: bytes, *, sequence: int) -> bytes:
    header = _HEADER.pack(_HEAD + len(body), _SUBSYSTEM << 8 | kind, flags, sequence, 0)
    return header + _FAMILY_HEADER.pack(_INET, 0, 0) + body


def _timed(entry: Entry) -> bytes:
    """Write an element with its timeout, and with its counters where they are not 0."""
    layout, address = _LAYOUTS[entry.network.version], entry.network.network_address.packed
    if entry.seconds is None or entry.packets or entry.octets:
        return _element(address, _counter(entry) + _timeout(entry))
    # Never 0 seconds: that would be for ever.
    return layout.pack.pack(layout.head, address, _TIMEOUT_HEAD, max(1, min(entry.seconds, MAX_TIMEOUT)) * 1000)


def _bare(entry: Entry) -> bytes:
    return _element(entry.network.network_address.packed, b"")


def _element(address: bytes, rest: bytes) -> bytes:
    return attribute(_ELEMENT | _NESTED, attribute(_KEY | _NESTED, attribute(_VALUE, address)) + rest)


def _timeout(entry: Entry) -> bytes:
    if entry.seconds is None:
        return b""
    return _TIMEOUT_HEAD + struct.pack(">Q", max(1, min(entry.seconds, MAX_TIMEOUT)) * 1000)


def _counter(entry: Entry) -> bytes:
    if not entry.packets and not entry.octets:
        return b""
    data = attribute(_OCTETS, struct.pack(">Q", entry.octets)) + attribute(_PACKETS, struct.pack(">Q", entry.packets))
    name = _text(_EXPRESSION_NAME, "counter")
    return attribute(_EXPRESSION | _NESTED, name + attribute(_EXPRESSION_DATA | _NESTED, data))


def answers(datagram: bytes) -> Iterator[Answer]:
    """Read what the kernel sent, message by message."""
    offset = 0
    while offset + _HEADER.size <= len(datagram):
        length, kind, _, sequence, _ = _HEADER.unpack_from(datagram, offset)
        body = memoryview(datagram)[offset + _HEADER.size : offset + length]
        if kind in (_ERROR, _DONE):
            # A listing that fails half-way says so in its last message.
            code = -int(struct.unpack_from("=i", body)[0]) if len(body) >= 4 else 0
            yield Answer(sequence, kind, code, body)
        else:
            yield Answer(sequence, kind & 0xFF, 0, body[_FAMILY_HEADER.size :])
        offset += max(length + -length % 4, _HEADER.size)


def set_header(body: memoryview) -> SetHeader:
    """Read the answer of kind ``SET``."""
    found = dict(attributes(body))
    description = dict(attributes(found.get(_SET_DESCRIPTION, memoryview(b""))))
    expression = dict(attributes(found.get(_SET_EXPRESSION, memoryview(b""))))
    return SetHeader(
        name=_string(found[_NAME]),
        capacity=_number(description.get(_CAPACITY)),
        count=_number(found[_SET_COUNT]) if _SET_COUNT in found else None,
        key_length=_number(found.get(_SET_KEY_LENGTH)),
        has_timeout=bool(_number(found.get(_SET_FLAGS)) & _WITH_TIMEOUT),
        has_counters=_string(expression.get(_EXPRESSION_NAME)) == "counter",
    )


def rule_header(body: memoryview) -> RuleHeader:
    """Read the answer of kind ``RULE``."""
    found = dict(attributes(body))
    sets, target, packets, octets, burst = [], "", 0, 0, 0
    for _, element in attributes(found.get(_RULE_EXPRESSIONS, memoryview(b""))):
        expression = dict(attributes(element))
        data = dict(attributes(expression.get(_EXPRESSION_DATA, memoryview(b""))))
        name = _string(expression.get(_EXPRESSION_NAME))
        if name == "lookup":
            sets.append(_string(data.get(_LOOKUP_SET)))
        elif name == "dynset":
            sets.append(_string(data.get(_DYNAMIC_SET)))
            burst = _burst(dict(attributes(data.get(_DYNAMIC_EXPRESSION, memoryview(b"")))))
        elif name == "counter":
            packets, octets = _number(data.get(_PACKETS)), _number(data.get(_OCTETS))
        elif name == "immediate":
            target = _target(dict(attributes(data.get(_IMMEDIATE_DATA, memoryview(b"")))))
    return RuleHeader(_string(found[_NAME]), tuple(sets), target, packets, octets, burst)


def _burst(expression: dict[int, memoryview]) -> int:
    if _string(expression.get(_EXPRESSION_NAME)) != "limit":
        return 0
    return _number(dict(attributes(expression.get(_EXPRESSION_DATA, memoryview(b"")))).get(_LIMIT_BURST))


def _target(data: dict[int, memoryview]) -> str:
    verdict = dict(attributes(data.get(_VERDICT, memoryview(b""))))
    if _VERDICT_CHAIN in verdict:
        return _string(verdict[_VERDICT_CHAIN])
    return DROP if _VERDICT_CODE in verdict and _number(verdict[_VERDICT_CODE]) == _NF_DROP else ""


def entries(body: memoryview, family: int, prefix: int) -> Sequence[Entry]:
    """Read networks of one width from an answer of kind ``ELEMENTS``."""
    packed, layout = _listed(body), _LAYOUTS[family]
    if not layout.picture.fits(packed):
        return [_entry(dict(attributes(element)), family, prefix) for _, element in attributes(packed)]
    network, make = layout.network, Entry._make  # two thirds of the time of a call with names
    return [
        make((network(address, prefix), -(-left // 1000), packets, octets, False))
        for address, octets, packets, left in layout.unpack.iter_unpack(packed)
    ]


def count(body: memoryview) -> int:
    """Count the elements in an answer of kind ``ELEMENTS``."""
    return sum(1 for _ in attributes(_listed(body)))


def bounds(body: memoryview) -> Iterator[tuple[int, bool]]:
    """Read an answer of kind ``ELEMENTS`` of a set of ranges: numbers, and whether each is one past an end."""
    for _, element in attributes(_listed(body)):
        found = dict(attributes(element))
        yield _key(found), bool(_number(found.get(_FLAGS)) & _INTERVAL_END)


def _listed(body: memoryview) -> memoryview:
    return dict(attributes(body)).get(_LIST, memoryview(b""))


def _entry(found: dict[int, memoryview], family: int, prefix: int) -> Entry:
    expression = dict(attributes(found.get(_EXPRESSION, memoryview(b""))))
    counter = dict(attributes(expression.get(_EXPRESSION_DATA, memoryview(b""))))
    return Entry(
        (network4 if family == 4 else network6)(_key(found), prefix),
        -(-_number(found[_EXPIRATION]) // 1000) if _EXPIRATION in found else None,
        packets=_number(counter.get(_PACKETS)),
        octets=_number(counter.get(_OCTETS)),
    )


def _key(found: dict[int, memoryview]) -> int:
    return _number(dict(attributes(found[_KEY])).get(_VALUE))


def _string(value: memoryview | None) -> str:
    return "" if value is None else bytes(value).rstrip(b"\0").decode(errors="replace")


def _number(value: memoryview | None) -> int:
    return 0 if value is None else int.from_bytes(value, "big")

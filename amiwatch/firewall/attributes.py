"""Write and read netlink attributes: a length, a kind, what they hold, filled up to four octets (linux/netlink.h)."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

from amiwatch.judgement.networks import network4, network6
from amiwatch.judgement.values import IPNetwork

_TYPE_MASK = 0x3FFF
"""A kind without its flags (linux/netlink.h: NLA_TYPE_MASK)."""

_HEAD = struct.Struct("=HH")

ADDRESSES: dict[int, tuple[str, Callable[[Any, int], IPNetwork]]] = {
    4: ("I", network4),
    6: ("16s", lambda octets, prefix: network6(int.from_bytes(octets, "big"), prefix)),
}
"""For each family, as what ``struct`` reads an address, and what makes a network of that and a prefix."""


def attribute(kind: int, payload: bytes) -> bytes:
    """Write one attribute."""
    return attribute_head(kind, len(payload)) + payload + bytes(-len(payload) % 4)


def attribute_head(kind: int, length: int) -> bytes:
    """Write what stands before so many octets of content."""
    return _HEAD.pack(length + 4, kind)


def attributes(body: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Read kinds and contents, in their order; what is nested stays as it is. Any bytes end it."""
    offset = 0
    while offset + 4 <= len(body):
        length, kind = _HEAD.unpack_from(body, offset)
        yield kind & _TYPE_MASK, body[offset + 4 : offset + length]
        offset += max(length + -length % 4, 4)


class Picture:
    """How each element of a long list lies, octet by octet: where it does, one struct reads what it holds."""

    def __init__(self, octets: Sequence[int | None]) -> None:
        """Take the octets of one element; None stands for content."""
        self._mask = bytes(0 if octet is None else 255 for octet in octets)
        self._octets = bytes(octet or 0 for octet in octets)

    def fits(self, packed: memoryview) -> bool:
        """Tell whether there is nothing but such elements."""
        number, rest = divmod(len(packed), len(self._octets))
        if rest:
            return False
        # One number, for Python compares that in a third of the time of octets with gaps.
        mask, octets = self._numbers(number)
        return int.from_bytes(packed, "little") & mask == octets

    @lru_cache(maxsize=16)  # noqa: B019 - there are four pictures, for ever
    def _numbers(self, number: int) -> tuple[int, int]:
        return int.from_bytes(self._mask * number, "little"), int.from_bytes(self._octets * number, "little")

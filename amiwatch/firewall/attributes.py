"""Write and read netlink attributes: a length, a kind, what they hold, filled up to four octets (linux/netlink.h)."""

from __future__ import annotations

import struct
from collections.abc import Iterator

_TYPE_MASK = 0x3FFF
"""A kind without its flags (linux/netlink.h: NLA_TYPE_MASK)."""

_HEAD = struct.Struct("=HH")


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

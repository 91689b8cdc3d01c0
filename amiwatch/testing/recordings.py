"""
Recordings of a real Asterisk, as ``FakeAsterisk`` plays them.

``NAME.ami`` (or ``.ami.gz``) holds the bytes as the socket gave them, from the greeting on; ``NAME.times`` has one JSON
line a read, with ``t`` (seconds since the connection) and ``recv`` (bytes).
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

END = b"\r\n\r\n"


def load(path: Path) -> bytes:
    """Read a recording without its greeting and the answer to its login. Raises OSError."""
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return data[_start(data) :]


def _start(data: bytes) -> int:
    at = data.find(b"\r\n") + 2 if data.startswith(b"Asterisk Call Manager/") else 0
    if data.startswith(b"Response: ", at):
        at = data.index(END, at) + len(END)
    return at


def times(path: Path) -> list[tuple[float, int]]:
    """Read when how many bytes came."""
    lines = path.with_suffix(".times").read_text().splitlines()
    return [(line["t"], line["recv"]) for line in map(json.loads, lines) if "recv" in line]


def timed(data: bytes, times: Sequence[tuple[float, int]], pace: float) -> Iterator[tuple[float, bytes]]:
    """Give whole messages their time, in seconds since the first of them; ``pace`` 2 halves the times."""
    position = len(data) - sum(size for _, size in times)  # below 0: what the login took comes first
    sent, first = 0, None
    for when, size in times:
        position += size
        end = data.rfind(END, sent, max(position, 0)) + len(END)
        if end > sent and end >= len(END):
            first = when if first is None else first
            yield (when - first) / pace, data[sent:end]
            sent = end
    if sent < len(data):
        yield 0.0, data[sent:]


def pieces(data: bytes, size: int) -> Iterator[tuple[float, bytes]]:
    """Cut at ends of messages, into pieces of at least ``size`` bytes."""
    sent = 0
    while sent < len(data):
        end = data.find(END, sent + size)
        end = len(data) if end < 0 else end + len(END)
        yield 0.0, data[sent:end]
        sent = end

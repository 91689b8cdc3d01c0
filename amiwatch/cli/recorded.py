"""Recorded AMI bytes as events with the time at which they came."""

from __future__ import annotations

import gzip
import heapq
import io
import sys
import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import cast

from amiwatch.ami.wire import Tampered, Wire
from amiwatch.errors import UsageError
from amiwatch.judgement.judge import MAX_BROKEN
from amiwatch.judgement.values import SecurityEvent

READ_SIZE = 256 * 1024
"""Bytes read at once: what an AMI socket gives under load."""

GZIP_MAGIC = b"\x1f\x8b"

Recording = io.BufferedReader | gzip.GzipFile
Heard = SecurityEvent | Tampered


class CutShort(UsageError):
    """A recording could not be read to its end; what could be read has been judged."""


@dataclass(slots=True)
class Recordings:
    """Several recordings, which are several PBXs at once."""

    paths: Iterable[Path]
    events: int = 0
    """Genuine security events of every service, so far."""
    tampered: int = 0
    """Blocks and fragments that were refused, so far."""
    faults: list[str] = field(default_factory=list)
    """What could not be read to its end, one sentence each: the other recordings go on."""

    def read(self) -> Iterator[tuple[float, Heard]]:
        """
        Yield each event with its time, and before it the broken messages, which have none, if their call is known.

        Raises UsageError before the first one if a file can't be opened.
        """
        with ExitStack() as files:
            streams = [self._timed(self._chunks(path, opened(path, files))) for path in self.paths]
            yield from heapq.merge(*streams, key=itemgetter(0))

    def _timed(self, chunks: Iterable[bytes]) -> Iterator[tuple[float, Heard]]:
        """Yield the events of one recording; its time never runs backwards, as Asterisk's own does under load."""
        wire, now = Wire(has_pings=False), 0.0
        broken: deque[Tampered] = deque(maxlen=MAX_BROKEN)
        for chunk in chunks:
            for item in wire.feed(chunk):
                if type(item) is SecurityEvent:
                    self.events += 1
                    # A time that an attacker may have written moves no clock.
                    now = now if item.tainted else max(now, item.at)
                    while broken:
                        yield now, broken.popleft()
                    yield now, item
                elif type(item) is Tampered and item.session:
                    broken.append(item)
        wire.close()
        self.tampered += wire.tampered

    def _chunks(self, path: Path, file: Recording) -> Iterator[bytes]:
        """Yield what can be read, and note why it ends too early."""
        try:
            # Not read(), which on an error loses what it has gathered.
            while chunk := file.read1(READ_SIZE):
                yield chunk
        except (OSError, EOFError, zlib.error) as error:
            self.faults.append(
                f"{str(path)!r} can't be read to its end ({error}); the summary is of what could be: get a whole copy "
                "of it, or check its disk."
            )


def opened(path: Path, files: ExitStack) -> Recording:
    """Open a recording, plain or gzipped; ``-`` is standard input. Closed with ``files``. Raises UsageError."""
    if str(path) == "-":
        return cast("io.BufferedReader", sys.stdin.buffer)
    try:
        file = files.enter_context(path.open("rb"))
        is_packed = file.peek(2)[:2] == GZIP_MAGIC
    except OSError as error:
        raise UsageError(f"{str(path)!r} can't be read ({error.strerror}): name a recording.") from error
    return gzip.GzipFile(fileobj=file) if is_packed else file

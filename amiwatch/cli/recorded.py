"""Recorded AMI bytes as events with the time at which they came."""

from __future__ import annotations

import gzip
import heapq
import io
import os
import sys
import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import cast

from amiwatch.ami.wire import BANNER, Tampered, Wire
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
    _files: list[io.BufferedReader] = field(default_factory=list)
    """The files as they lie on the disk, packed or not; none of standard input."""

    @property
    def share(self) -> float | None:
        """How much of the files was read, 0 to 1; None where one has no size."""
        sizes = [os.fstat(file.fileno()).st_size for file in self._files]
        return sum(file.tell() for file in self._files) / sum(sizes) if sizes and all(sizes) else None

    def read(self) -> Iterator[tuple[float, Heard]]:
        """
        Yield each event with its time, and before it the broken messages, which have none, if their call is known.

        Raises UsageError before the first one if a file can't be opened.
        """
        with ExitStack() as files:
            streams = [self._timed(path, self._chunks(path, self._opened(path, files))) for path in self.paths]
            yield from heapq.merge(*streams, key=itemgetter(0))

    def _timed(self, path: Path, chunks: Iterable[bytes]) -> Iterator[tuple[float, Heard]]:
        """Yield the events of one recording; its time never runs backwards, as Asterisk's own does under load."""
        wire, now, before, is_ami = Wire(has_pings=False), 0.0, len(self.faults), False
        broken: deque[Tampered] = deque(maxlen=MAX_BROKEN)
        for chunk in chunks:
            is_ami = is_ami or chunk.startswith(BANNER)
            for item in wire.feed(chunk):
                if type(item) is SecurityEvent:
                    self.events += 1
                    is_ami = True
                    # A time that an attacker may have written moves no clock.
                    now = now if item.tainted else max(now, item.at)
                    while broken:
                        yield now, broken.popleft()
                    yield now, item
                elif type(item) is Tampered and item.session:
                    broken.append(item)
        whole = wire.tampered
        wire.close()
        self.tampered += wire.tampered
        if len(self.faults) > before:
            return
        if not is_ami:
            self.faults.append(
                f"{str(path)!r} holds no AMI bytes: name a recording of what a manager's connection reads."
            )
        elif wire.tampered > whole:
            self.faults.append(
                f"{str(path)!r} ends in the middle of a message; the summary is of what came before: get a whole copy."
            )

    def _opened(self, path: Path, files: ExitStack) -> Recording:
        file = opened(path, files)
        if file is not sys.stdin.buffer:
            self._files.append(cast("io.BufferedReader", file.fileobj) if isinstance(file, gzip.GzipFile) else file)
        return file

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

"""The demo as a user starts it, in a process of its own."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from amiwatch.store.reader import Reader

START = [sys.executable, "-c", "import sys; from amiwatch.demo import main; sys.exit(main(True))"]


@pytest.mark.kernel
def test_the_demo_shows_in_plain_lines_that_attackers_arrive_no_more(tmp_path: Path) -> None:
    ended = subprocess.run(START, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    lines = ended.stdout.splitlines()
    assert "real packets" in lines[0]
    assert lines[-1] == "Every attacker was banned and heard no more; nobody else lost a packet."
    told = re.findall(
        r"([\d.]+) ms from the event to the kernel; (\d+) packets sent after that, 0 arrived", ended.stdout
    )
    assert told
    assert all(float(ms) < 1000 and int(after) > 0 for ms, after in told)
    with Reader(tmp_path / "demo.db") as reader:
        assert len(list(reader.bans())) == len(told)

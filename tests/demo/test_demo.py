"""
The demo as a user starts it: a process of its own, on a pipe and on a terminal, with a namespace and without.

It takes half a minute by design, so all performances run at the same time, each in its own folder and network.
"""

import fcntl
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path

import pytest

from amiwatch.demo.cast import CAST, Fate
from amiwatch.store.reader import Reader

DEMO = [sys.executable, "-m", "amiwatch", "demo"]
PATIENCE = 150
"""Seconds: it takes half a minute, and they all play at the same time, on a machine that other tests keep busy."""

BANNED = {actor.source.removesuffix("/32") for actor in CAST if actor.fate is Fate.BANNED}
REPORTED = {actor.source for actor in CAST if actor.fate is Fate.REPORTED}

WITHOUT_NAMESPACES = "echo 0 > /proc/sys/user/max_net_namespaces && exec"
WITHOUT_IPTABLES = "mount -t tmpfs none /usr/sbin && { mount -t tmpfs none /sbin || true; } && exec"


@dataclass
class Performance:
    folder: Path
    process: subprocess.Popen[bytes]
    output: bytearray = field(default_factory=bytearray)
    reader: threading.Thread | None = None

    def read_from(self, descriptor: int) -> None:
        """Read all that comes, in a thread: a full pipe would stop the show."""

        def read() -> None:
            while data := _read(descriptor):
                self.output.extend(data)
            os.close(descriptor)

        self.reader = threading.Thread(target=read)
        self.reader.start()

    def end(self) -> tuple[int, str]:
        code = self.process.wait(PATIENCE)
        assert self.reader is not None
        self.reader.join(5)
        return code, self.output.decode()


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # a terminal whose last user has gone
        return b""


def perform(folder: Path, *command: str, env: dict[str, str] | None = None) -> Performance:
    folder.mkdir()
    process = subprocess.Popen(
        command, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=env
    )
    assert process.stdout is not None
    performance = Performance(folder, process)
    performance.read_from(os.dup(process.stdout.fileno()))
    process.stdout.close()
    return performance


def perform_on_terminal(folder: Path, columns: int, rows: int) -> Performance:
    folder.mkdir()
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    env = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "LINES", "NO_COLOR"}}
    env |= {"TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8"}
    process = subprocess.Popen(DEMO, cwd=folder, stdin=theirs, stdout=theirs, stderr=theirs, env=env)
    os.close(theirs)
    performance = Performance(folder, process)
    performance.read_from(ours)
    return performance


def restricted(restriction: str) -> list[str]:
    """Start the demo in a user namespace of its own in which something is missing."""
    return ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", f'{restriction} "$@"', "sh"]


@pytest.fixture(scope="module")
def performances(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Performance]]:
    stage = tmp_path_factory.mktemp("stage")
    started = {
        "plain": perform(stage / "plain", *DEMO, "--plain"),
        "dumb": perform(stage / "dumb", *DEMO, env=os.environ | {"TERM": "dumb"}),
        "live": perform_on_terminal(stage / "live", 80, 24),
        "wide": perform_on_terminal(stage / "wide", 120, 40),
    }
    if shutil.which("unshare"):
        started["no namespace"] = perform(stage / "none", *restricted(WITHOUT_NAMESPACES), *DEMO, "--plain")
        started["no iptables"] = perform(stage / "bare", *restricted(WITHOUT_IPTABLES), *DEMO, "--plain")
    try:
        yield started
    finally:
        for performance in started.values():
            performance.process.kill()
            performance.end()


def ended(performances: dict[str, Performance], name: str) -> tuple[int, str, Path]:
    if name not in performances:
        pytest.skip("the program unshare is missing")
    performance = performances[name]
    code, text = performance.end()
    return code, text, performance.folder


@pytest.mark.kernel
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 130), (signal.SIGKILL, -9)])
@pytest.mark.usefixtures("performances")  # which go on meanwhile
def test_whoever_interrupts_it_finds_nothing_left_behind(tmp_path: Path, number: signal.Signals, code: int) -> None:
    process = subprocess.Popen([*DEMO, "--plain"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    while b"BANNED" not in (line := process.stdout.readline()):
        assert line
    children = descendants(process.pid)
    assert children
    process.send_signal(number)
    process.communicate(timeout=PATIENCE)
    assert process.returncode == code
    for child in children:
        wait_for_end(child)


def descendants(pid: int) -> list[int]:
    return [
        int(word) for task in Path(f"/proc/{pid}/task").iterdir() for word in (task / "children").read_text().split()
    ]


def wait_for_end(pid: int) -> None:
    """Return when a process that is not our child is gone."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([descriptor], [], [], PATIENCE)[0], f"process {pid} is still there"
    finally:
        os.close(descriptor)


@pytest.mark.kernel
@pytest.mark.parametrize("name", ["plain", "dumb"])
def test_plain_lines_show_that_attackers_arrive_no_more(performances: dict[str, Performance], name: str) -> None:
    code, text, folder = ended(performances, name)
    lines = text.splitlines()
    assert code == 0, text
    assert "\x1b" not in text
    assert "real packets" in lines[0]
    assert lines[-1] == "Every attacker was banned and heard no more; nobody else lost a packet."
    told = re.findall(r"([\d.]+) ms from the event to the kernel; (\d+) packets .* 0 arrived; .* dropped (\d+)", text)
    assert len(told) == len(BANNED)
    # A packet that was on its way when the ban came is dropped too, but was sent before. That sent is arrived plus
    # dropped, to the packet, is what exit code 0 says.
    assert all(float(ms) < 10_000 and 0 < int(after) <= int(dropped) for ms, after, dropped in told)
    with Reader(folder / "demo.db") as reader:
        assert {str(ip_network(ban.network)).removesuffix("/32") for ban in reader.bans()} == BANNED
        assert {alert.address for alert in reader.alerts()} == REPORTED


@pytest.mark.kernel
def test_the_commands_at_the_end_work_as_they_are_printed(performances: dict[str, Performance]) -> None:
    _, text, folder = ended(performances, "plain")
    commands = [line.strip() for line in text.splitlines() if line.startswith("  AMIWATCH_DATABASE=")]
    assert len(commands) == 3
    for command in commands:
        done = subprocess.run(
            command, shell=True, cwd=folder, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        assert done.returncode == 0, done.stderr
        assert "198.51.100.20" in done.stdout


@pytest.mark.kernel
@pytest.mark.parametrize(("name", "columns", "rows"), [("live", 80, 24), ("wide", 120, 40)])
def test_the_live_view_fits_the_terminal(
    performances: dict[str, Performance], name: str, columns: int, rows: int
) -> None:
    code, text, _ = ended(performances, name)
    assert code == 0, text
    assert "Traceback" not in text
    screen, _, rest = text.partition("\x1b[?1049l")  # the other screen, and back
    assert screen.startswith("\x1b[?1049h")
    frames = [bare(frame) for frame in screen.split("\x1b[H")[2:]]
    assert len(frames) > 20
    for frame in frames:
        lines = frame.splitlines()
        assert len(lines) <= rows
        assert max(map(len, lines)) <= columns
    assert any("BANNED scan_rush" in frame for frame in frames)
    assert all(len(line) <= columns for line in bare(rest).splitlines() if "AMIWATCH_" not in line)
    assert "\x1b[?25h" in text  # the cursor is back


def bare(text: str) -> str:
    """Return what a person reads."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).replace("\r", "")


@pytest.mark.parametrize(
    ("name", "why"), [("no namespace", "no private network namespace"), ("no iptables", "install iptables")]
)
def test_without_a_kernel_that_drops_it_is_a_dry_run_that_says_so_first_and_last(
    performances: dict[str, Performance], name: str, why: str
) -> None:
    code, text, folder = ended(performances, name)
    lines = text.splitlines()
    if "unshare" in lines[0]:
        pytest.skip(lines[0])
    assert code == 0, text
    assert "nothing is really dropped" in lines[0]
    assert why in lines[0]
    assert "nothing was really dropped" in lines[-1]
    assert "BANNED" not in text
    with Reader(folder / "demo.db") as reader:
        assert len(list(reader.bans())) == len(BANNED)


def test_a_file_that_is_not_the_demos_own_is_left_alone(tmp_path: Path) -> None:
    other = tmp_path / "demo.db"
    other.write_text("somebody's data")
    code = "import os; from amiwatch.demo import _database; print(_database())"
    found = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    chosen = Path(found.stdout.strip())
    assert chosen.name == "demo.db"
    assert chosen.parent != tmp_path
    chosen.parent.rmdir()
    assert other.read_text() == "somebody's data"

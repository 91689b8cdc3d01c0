import os
import pty
import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from amiwatch import __version__
from amiwatch.cli.main import app, main
from amiwatch.cli.running import cause_of, make_home
from amiwatch.errors import AmiwatchError, FirewallPermission
from tests.cli.conftest import make_ban

PROGRAM = [sys.executable, "-m", "amiwatch"]


def test_the_entry_point_is_this_program():
    assert next(iter(entry_points(group="console_scripts", name="amiwatch"))).load() is main


def test_help_is_long_and_short(call):
    assert call("-h").stdout == call("--help").stdout
    assert "Ban SIP attackers" in call("-h").stdout


def test_the_version_is_told(call):
    assert call("--version").stdout == f"amiwatch {__version__}\n"


def test_every_command_explains_itself_in_80_columns(call):
    for command in app.registered_commands:
        assert command.callback is not None
        name = command.name or command.callback.__name__
        result = call(name, "--help")
        assert result.exit_code == 0
        assert max(map(len, result.stdout.splitlines())) <= 80


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("ban", "Missing argument 'ADDRESS|NETWORK'; see 'amiwatch ban --help'."),
        ("nosuch", "No such command 'nosuch'; see 'amiwatch --help'."),
        ("bann", "No such command 'bann'. Did you mean 'ban', 'bans', 'unban'? See 'amiwatch --help'."),
        ("firewall nosuch", "No such command 'nosuch'; see 'amiwatch firewall --help'."),
        ("--nosuch", "No such option: --nosuch; see 'amiwatch --help'."),
        ("bans --limit 0", "see 'amiwatch bans --help'."),
        ("bans a b", "see 'amiwatch bans --help'."),
    ],
)
def test_a_command_line_that_can_not_be_read_is_one_sentence_and_a_hint(program, line: str, said: str):
    done = program(*line.split())
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("amiwatch: ")
    assert done.stderr.endswith(said + "\n")
    assert done.stderr.count("\n") == 1


def test_nothing_at_all_shows_the_help(program):
    for line in ((), ("firewall",)):
        done = program(*line)
        assert done.returncode == 2
        assert "Usage: amiwatch" in done.stdout + done.stderr
        assert "amiwatch: " not in done.stderr


def test_every_mistake_of_the_settings_has_its_line_and_nothing_else_is_done(call, path):
    result = call("bans", AMIWATCH_MODE="maybe", AMIWATCH_FOO="1", AMIWATCH_SET_SIZE="-1")
    assert result.exit_code == 78
    lines = result.stderr.splitlines()
    assert len(lines) == 3
    assert all(line.startswith("amiwatch: AMIWATCH_") for line in lines)
    assert not path.exists()


def test_a_settings_file_is_named_and_a_missing_one_is_a_mistake(call, tmp_path, fill):
    file = tmp_path / "amiwatch.toml"
    file.write_text('mode = "nonsense"\n')
    assert call("--config", str(file), "bans").exit_code == 78
    assert call("--config", str(tmp_path / "none.toml"), "bans").exit_code == 78


@pytest.mark.parametrize(
    ("text", "line"), [("x = [", "line 1"), ('mode = "observe"\nx = [\n', "line 2"), ("=", "line 1")]
)
def test_a_settings_file_that_can_not_be_read_is_named_with_its_line_and_what_to_do(call, tmp_path, text, line):
    file = tmp_path / "c.toml"
    file.write_text(text)
    result = call("--config", str(file), "bans")
    assert result.exit_code == 78
    assert result.stderr.startswith(f"amiwatch: {file}: {line}")
    assert "write" in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_directory_in_the_place_of_the_database_is_said_in_one_right_sentence(call, tmp_path):
    result = call("bans", AMIWATCH_DATABASE=str(tmp_path))
    assert result.exit_code == 74
    assert result.stderr == f"amiwatch: {str(tmp_path)!r} is no file: name another one for the database.\n"


LOOK_BUT_DO_NOT_READ = "-dac_override,-dac_read_search"
"""What root has to lose for rights to count: capabilities(7)."""


@pytest.mark.parametrize(
    "line",
    ["bans", "status", "check", "why 192.0.2.9", "unban 192.0.2.9", "panic", "resume", "firewall tiers on", "run"],
)
@pytest.mark.parametrize("depth", [0, 1])
def test_a_directory_that_may_not_be_searched_is_said_in_one_sentence(program, tmp_path, line, depth):
    home = tmp_path / "home" / "amiwatch"
    home.mkdir(parents=True)
    closed = (home, home.parent)[depth]
    closed.chmod(0)
    less = ("setpriv", "--bounding-set", LOOK_BUT_DO_NOT_READ) if os.geteuid() == 0 else ()
    try:
        result = program(*line.split(), before=less, AMIWATCH_DATABASE=str(home / "amiwatch.db"))
    finally:
        closed.chmod(0o700)
    said = result.stdout + result.stderr
    assert "fault of amiwatch" not in said
    assert "Permission denied" in said
    assert (result.returncode == 74) is (line != "check")


def test_a_reader_that_goes_away_is_no_error(environ, fill, tmp_path):
    def put(store) -> None:
        for number in range(2000):
            store.put_ban(make_ban(f"198.18.{number // 250}.{number % 250}"), pbx="", origin="rule", is_enforced=True)

    fill(put)
    for option in ("", "--json", "--csv"):
        process = subprocess.Popen(
            [*PROGRAM, "bans", *filter(None, [option])],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environ,
            cwd=tmp_path,
        )
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
        process.stderr.close()
        assert process.wait(timeout=30) == 0


def test_a_reader_that_was_never_there_is_no_error(environ, fill, tmp_path):
    fill(lambda store: store.put_ban(make_ban(), pbx="", origin="rule", is_enforced=True))
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [*PROGRAM, "bans"], stdout=writing, stderr=subprocess.PIPE, env=environ, cwd=tmp_path, check=False
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


def on_terminal(arguments: list[str], environ: dict[str, str], cwd: Path) -> tuple[int, str]:
    """Run the program on a terminal of 80 columns and 24 lines, and return what it wrote there."""
    master, slave = pty.openpty()
    subprocess.run(["stty", "cols", "80", "rows", "24"], stdin=slave, check=True)
    sized = {name: text for name, text in environ.items() if name not in ("COLUMNS", "LINES")}
    process = subprocess.Popen(
        [*PROGRAM, *arguments], stdin=slave, stdout=slave, stderr=slave, env={**sized, "TERM": "xterm"}, cwd=cwd
    )
    os.close(slave)
    written = b""
    while True:
        try:
            chunk = os.read(master, 65536)
        except OSError:  # how Linux says that the other side is closed
            break
        if not chunk:
            break
        written += chunk
    os.close(master)
    return process.wait(timeout=30), written.decode()


@pytest.fixture
def many(fill) -> None:
    def put(store) -> None:
        reason = "25 unknown accounts in 41 s (limit 5 in 10 min): 'administrator', '1000', '1001', '1002'; no trust"
        for number in range(100):
            ban = make_ban(f"198.18.0.{number}", reason=reason)
            store.put_ban(ban, pbx="", origin="rule", is_enforced=True)

    fill(put)


def test_a_listing_fits_a_terminal_of_80_columns_and_goes_through_the_pager(environ, many, tmp_path):
    pager = tmp_path / "pager"
    pager.write_text("#!/bin/sh\necho paged\nexec cat\n")
    pager.chmod(0o755)
    code, text = on_terminal(["bans"], {**environ, "PAGER": str(pager)}, tmp_path)
    first, head, *lines = text.splitlines()
    assert (code, first) == (0, "paged")
    assert head.startswith("\x1b[1mNETWORK      SINCE        LEFT ")
    assert head.endswith("REASON\x1b[0m")
    assert len(lines) == 100
    assert {len(line) for line in lines} == {80}
    assert lines[0].endswith("…")


def test_a_short_listing_needs_no_pager(environ, many, tmp_path):
    code, text = on_terminal(["bans", "--limit", "3"], {**environ, "PAGER": "false", "NO_COLOR": "1"}, tmp_path)
    assert code == 0
    assert len(text.splitlines()) == 4
    assert "\x1b" not in text


def test_a_listing_that_is_piped_is_neither_cut_nor_coloured(program, many):
    lines = program("bans").stdout.splitlines()
    assert lines[0].split() == ["NETWORK", "SINCE", "LEFT", "DROPPED", "RULE", "REASON"]
    assert all(line.endswith("no trust") for line in lines[1:])


def test_ctrl_c_ends_with_130(environ, tmp_path, fill):
    fill(lambda store: None)
    script = "import os, signal; from amiwatch.cli import main, bans\n"
    script += "bans.Reader = lambda path: os.kill(os.getpid(), signal.SIGINT)\n"
    script += "main.main()"
    done = subprocess.run(
        [sys.executable, "-c", script, "bans"], env=environ, cwd=tmp_path, capture_output=True, check=False
    )
    assert done.returncode == 130
    assert b"Traceback" not in done.stderr


def test_a_fault_of_ours_is_a_sentence_too(environ, tmp_path):
    script = "from amiwatch.cli import main, bans\nbans.time = None\nmain.main()"
    done = subprocess.run(
        [sys.executable, "-c", script, "bans"], env=environ, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 70
    assert done.stderr.startswith("amiwatch: a fault of amiwatch: AttributeError")
    assert done.stderr.count("\n") == 1


def test_the_error_of_a_task_group_is_the_one_that_says_what_to_do():
    ours = FirewallPermission("CAP_NET_ADMIN is missing")
    group = BaseExceptionGroup("tasks", [ValueError("x"), ExceptionGroup("inner", [ours])])
    assert cause_of(group) is ours
    assert isinstance(cause_of(ExceptionGroup("tasks", [ValueError("x")])), ValueError)
    assert AmiwatchError.exit_code == 70


def test_help_and_listings_load_nothing_heavy(environ, tmp_path):
    script = "import sys; from amiwatch.cli import main; print(*sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", script], env=environ, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    heavy = {"pydantic", "pyroute2", "panoramisk", "aiosqlite", "amiwatch.config", "amiwatch.daemon.watch"}
    assert heavy & set(done.stdout.split()) == set()


def test_the_shells_complete_commands_and_banned_addresses(program, fill):
    fill(lambda store: store.put_ban(make_ban("203.0.113.7"), pbx="", origin="rule", is_enforced=True))
    asked = {"_AMIWATCH_COMPLETE": "complete_bash", "COMP_CWORD": "2"}
    assert program(COMP_WORDS="amiwatch unban 203", **asked).stdout.split() == ["203.0.113.7"]
    assert program(COMP_WORDS="amiwatch unban 198", **asked).stdout.split() == []
    commands = program(COMP_WORDS="amiwatch un", _AMIWATCH_COMPLETE="complete_bash", COMP_CWORD="1").stdout.split()
    assert commands == ["unban"]
    assert "amiwatch" in program("--show-completion", "bash").stdout


def test_every_command_is_documented():
    page = (Path(__file__).parents[2] / "docs" / "commands.md").read_text()
    groups = [(group.name, group.typer_instance) for group in app.registered_groups]
    names = [(command.name or command.callback.__name__) for command in app.registered_commands if command.callback]
    for group, commands in groups:
        assert commands is not None
        names += [
            f"{group} {command.name or command.callback.__name__}"
            for command in commands.registered_commands
            if command.callback
        ]
    assert [name for name in names if not re.search(rf"^### `{name}[` ]", page, re.MULTILINE)] == []
    assert len(names) >= 13


def test_a_first_start_makes_the_usual_directory_and_no_other(tmp_path: Path):
    usual = tmp_path / "amiwatch" / "amiwatch.db"
    make_home(tmp_path / "slip" / "amiwatch.db", usual)
    assert not (tmp_path / "slip").exists()
    make_home(usual, usual)
    assert usual.parent.stat().st_mode & 0o777 == 0o750

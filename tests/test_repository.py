"""What must never be committed: paths of somebody's machine, names of somebody's registry, secrets, huge files."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

SIZE_LIMIT = 8 * 1024 * 1024
"""Largest tracked file, in bytes: every clone pays for it, for ever. Recorded floods are compressed below it."""

# Written in two halves, so that this file does not contain what it looks for.
REGISTRIES = ["pypi" + ".org", "python" + "hosted.org", "npmjs" + ".org", "deb.debian" + ".org", "docker" + ".io"]
MACHINES = ["/ro" + "ot/", "/wo" + "rk/", "/ho" + "me/[a-z]", "/opt/" + "pypi", "/opt/" + "wheels"]

FORBIDDEN = {
    "a registry's host name": re.compile("|".join(map(re.escape, REGISTRIES)).encode()),
    "a path of somebody's machine": re.compile(rb"(?<![\w.~-])(?:" + "|".join(MACHINES).encode() + rb")"),
    "a private key": re.compile(b"-----BEGIN [A-Z ]*PRIVATE " + b"KEY-----"),
}


def tracked() -> Iterator[Path]:
    if not (ROOT / ".git").exists():
        pytest.skip("this is no git checkout")
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    for name in listing.split(b"\0"):
        path = ROOT / name.decode()
        if name and path.is_file():
            yield path


def told(content: bytes) -> list[str]:
    """Return what the content tells that it should not."""
    return [f"{what}: {found[0]!r}" for what, needle in FORBIDDEN.items() if (found := needle.search(content))]


def test_no_tracked_file_tells_where_it_was_made():
    found = {str(path.relative_to(ROOT)): faults for path in tracked() if (faults := told(path.read_bytes()))}
    assert found == {}


def test_no_tracked_file_is_huge():
    assert [path for path in tracked() if path.stat().st_size > SIZE_LIMIT] == []


@pytest.mark.parametrize(
    "text", ["index: https://" + REGISTRIES[0] + "/simple", MACHINES[0] + "x", "-e /ho" + "me/anna"]
)
def test_what_must_not_be_committed_is_noticed(text: str):
    assert len(told(text.encode())) == 1


@pytest.mark.parametrize("text", ["a framework/x", "docs/home/index.md", "~/ro" + "ot/x", "/opt/amiwatch"])
def test_what_only_looks_like_it_passes(text: str):
    assert told(text.encode()) == []


def test_locks_hold_a_hash_for_each_package():
    for lock in [path for path in tracked() if path.name == "requirements.lock"]:
        entries = re.split(r"\n(?=\w)", lock.read_text())
        assert len(entries) > 5
        assert [entry.split()[0] for entry in entries if "--hash=sha256:" not in entry] == []

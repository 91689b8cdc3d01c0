"""The fixtures, as somebody else's project meets them: a pytest of its own in an empty folder."""

import subprocess
import sys
from pathlib import Path

import pytest

USER_TEST = """
import asyncio
{imports}

{mark}
async def test_the_fixtures_work(fake_asterisk, fake_firewall, clock):
    reader, writer = await asyncio.open_connection(fake_asterisk.host, fake_asterisk.port)
    assert (await reader.readline()).startswith(b"Asterisk Call Manager/")
    writer.close()
    await writer.wait_closed()
    assert clock.advance(1) == clock()
    assert fake_firewall.name
"""


def run_pytest(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("mode", ["auto", "strict"])
def test_the_fixtures_come_with_the_package(tmp_path: Path, mode: str) -> None:
    mark = "@pytest.mark.asyncio" if mode == "strict" else ""
    (tmp_path / "test_user.py").write_text(USER_TEST.format(imports="import pytest" if mark else "", mark=mark))
    done = run_pytest(tmp_path, "-o", f"asyncio_mode={mode}", "-o", "asyncio_default_fixture_loop_scope=function")
    assert "1 passed" in done.stdout, done.stdout + done.stderr


def test_who_has_no_asyncio_plugin_is_not_disturbed(tmp_path: Path) -> None:
    (tmp_path / "test_user.py").write_text("def test_nothing():\n    pass\n")
    done = run_pytest(tmp_path, "-p", "no:asyncio")
    assert "1 passed" in done.stdout, done.stdout + done.stderr


def test_loading_the_plugin_loads_nothing_else_of_ours() -> None:
    code = (
        "import sys; sys.modules['pytest_asyncio'] = None; import amiwatch.testing.plugin;"
        "heavy = ('amiwatch', 'asyncio', 'panoramisk', 'pyroute2', 'pydantic');"
        "print(sorted(name for name in sys.modules if name.startswith(heavy)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "['amiwatch', 'amiwatch.testing', 'amiwatch.testing.plugin']"

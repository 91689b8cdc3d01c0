"""What is built and installed: the wheel, and the search for an interpreter to install it with."""

import configparser
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FIND_PYTHON = ROOT / ".ci" / "python"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    pytest.importorskip("hatchling", reason="the build backend is not installed here")
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=60)
    (built,) = folder.glob("*.whl")
    return zipfile.ZipFile(built)


def test_the_wheel_holds_every_file_of_the_package_and_nothing_else(wheel: zipfile.ZipFile):
    packed = {name for name in wheel.namelist() if ".dist-info/" not in name}
    files = {path for path in (ROOT / "amiwatch").rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert packed == {path.relative_to(ROOT).as_posix() for path in files}
    assert "amiwatch/py.typed" in packed


def test_the_wheel_brings_the_command_the_pytest_plugin_and_the_licence(wheel: zipfile.ZipFile):
    inside = {name.partition(".dist-info/")[2]: name for name in wheel.namelist() if ".dist-info/" in name}
    entry_points = configparser.ConfigParser()
    entry_points.read_string(wheel.read(inside["entry_points.txt"]).decode())
    assert dict(entry_points["console_scripts"]) == {"amiwatch": "amiwatch.cli.main:main"}
    assert dict(entry_points["pytest11"]) == {"amiwatch": "amiwatch.testing.plugin"}
    assert b"Apache License" in wheel.read(inside["licenses/LICENSE"])


def test_the_interpreter_found_is_new_enough():
    found = subprocess.run([FIND_PYTHON], capture_output=True, text=True, check=True, timeout=30).stdout.strip()
    version = subprocess.run([found, "-c", "import sys; print(sys.version_info >= (3, 11))"], capture_output=True)
    assert version.stdout == b"True\n"


def test_an_interpreter_that_is_not_there_is_not_found():
    search = subprocess.run([FIND_PYTHON, "3.99"], capture_output=True, text=True, timeout=30)
    assert (search.returncode, search.stdout) == (1, "")


def test_an_interpreter_too_old_is_not_found(tmp_path: Path):
    old = tmp_path / "python3.10"
    old.write_text(f'#!/bin/sh\nexec {sys.executable} -c "import sys; sys.version_info = (3, 10, 0); $2"\n')
    old.chmod(0o755)
    search = subprocess.run([FIND_PYTHON, "3.10"], capture_output=True, env={"PATH": f"{tmp_path}:/usr/bin:/bin"})
    assert (search.returncode, search.stdout) == (1, b"")

"""The examples of ``docs/testing.md`` are run as somebody would who copies them."""

import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "testing.md"
EXAMPLE = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def test_every_example_of_the_page_runs(tmp_path: Path) -> None:
    examples = EXAMPLE.findall(PAGE.read_text())
    tests = [example for example in examples if "\ndef test_" in example or "\nasync def test_" in example]
    for number, example in enumerate(tests):
        (tmp_path / f"test_example_{number}.py").write_text(example)
    for example in examples:
        compile(example, str(PAGE), "exec")
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider"]
    command += ["-o", "asyncio_mode=strict", "-o", "asyncio_default_fixture_loop_scope=function"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    count = sum(example.count("def test_") for example in tests)
    assert f"{count} passed" in done.stdout, done.stdout + done.stderr
    assert (len(examples), len(tests)) == (10, 9)

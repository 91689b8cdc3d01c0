"""
All benchmarks, one after the other, each in a process of its own: ``make bench``.

The machines are shared and noisy: compare figures of one run, look at medians and ratios.
"""

from __future__ import annotations

import platform
import subprocess
import sys

PARTS = ("judgement", "firewall", "drop", "limits", "store", "daemon", "cli")

SKIPPED = 69
"""Exit code of a part that this machine lets nobody measure; it says why."""


def main() -> int:
    print(f"Python {platform.python_version()}, Linux {platform.release()}, {platform.machine()}")
    failed = []
    for part in PARTS:
        print(f"\n== python -m bench.{part}", flush=True)
        if subprocess.run([sys.executable, "-m", f"bench.{part}"], check=False).returncode not in {0, SKIPPED}:
            failed.append(part)
    if failed:
        print(f"\nfailed: {', '.join(failed)}")
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())

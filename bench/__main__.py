"""
All benchmarks, one after the other, each in a process of its own: ``make bench``.

The machines are shared and noisy: compare figures of one run, look at medians and ratios.
"""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

PARTS = ("judgement", "firewall", "nftables", "store", "daemon", "cli")


def main() -> int:
    print(f"Python {platform.python_version()}, Linux {platform.release()}, {platform.machine()}")
    failed = []
    for part in PARTS:
        if not (Path(__file__).parent / f"{part}.py").exists():
            continue
        print(f"\n== python -m bench.{part}", flush=True)
        if subprocess.run([sys.executable, "-m", f"bench.{part}"], check=False).returncode:
            failed.append(part)
    if failed:
        print(f"\nfailed: {', '.join(failed)}")
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())

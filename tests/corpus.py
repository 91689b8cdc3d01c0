"""The recordings of a real Asterisk (16.28 and 22.10) in a closed lab, and what their labels say of them."""

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "recordings"
LABELS: dict[str, dict[str, Any]] = json.loads((FOLDER / "labels.json").read_text())
FLOOD = FOLDER / "ast22-pjsip-flood-reg-unknown-max.ami.gz"


def recording(name: str) -> bytes:
    return (FOLDER / f"{name}.ami").read_bytes()

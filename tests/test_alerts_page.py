"""docs/alerts.md explains every kind of alert, and its queries find what they promise."""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import closing
from ipaddress import ip_address
from pathlib import Path

import pytest

from amiwatch.config.settings import PREFIX, RULES, Settings
from amiwatch.judgement.alerts import ALERTS
from amiwatch.judgement.values import Alert, Ban, source_network
from amiwatch.store.records import AttemptCount
from amiwatch.store.writer import Store

PAGE = (Path(__file__).parent.parent / "docs" / "alerts.md").read_text()
SECTIONS = dict(re.findall(r"^### `(\w+)`\n(.*?)(?=^##|\Z)", PAGE, re.MULTILINE | re.DOTALL))
NOW = float(int(time.time()))
SOURCE = ip_address("203.0.113.7")


def test_the_page_explains_every_kind_and_no_other() -> None:
    assert list(SECTIONS) == list(ALERTS)


@pytest.mark.parametrize("kind", ALERTS)
def test_a_section_says_what_was_seen_what_it_means_what_to_do_and_what_changes_it(kind: str) -> None:
    parts = re.findall(r"^\*\*(\w+):\*\* (\S.*)", SECTIONS[kind], re.MULTILINE)
    assert [name for name, _ in parts] == ["Seen", "Means", "Do", "Setting"]
    assert SECTIONS[kind].count("```sql\n") == 1


def test_the_settings_that_the_page_names_exist() -> None:
    named = set(re.findall(rf"\b{PREFIX}[A-Z_]+", PAGE))
    assert len(named) > 5
    fields = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    fields |= {f"{PREFIX}RULES__{rule.upper()}__LIMIT" for rule in RULES}
    assert named <= fields


@pytest.fixture
async def filled(tmp_path: Path) -> AsyncIterator[sqlite3.Connection]:
    """A database in which 203.0.113.7 tried the account 200 in every way, and raised every alert."""
    path = tmp_path / "amiwatch.db"
    async with await Store.open(path) as store:
        for service, transport in (("PJSIP", "UDP"), ("SIP", "UDP")):
            for outcome in ("unknown", "guess", "success"):
                store.put_attempts(
                    [
                        AttemptCount(
                            "pbx", SOURCE, "200", service, transport, outcome, 1, NOW - 60, NOW - 60, (NOW - 60,)
                        )
                    ]
                )
        for kind in ALERTS:
            store.put_alert(Alert(NOW - 60, kind, SOURCE, "200", "because"), pbx="pbx")
        ban = Ban(source_network(SOURCE), SOURCE, NOW - 60, 3600, 1, "scan", "because", "PJSIP", is_proven=False)
        store.put_ban(ban, pbx="pbx", origin="rule", is_enforced=True)
        await store.flush()
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        yield db


@pytest.mark.parametrize("kind", ALERTS)
async def test_the_query_of_a_section_finds_something(filled: sqlite3.Connection, kind: str) -> None:
    (query,) = re.findall(r"```sql\n(.*?)```", SECTIONS[kind], re.DOTALL)
    assert filled.execute(query).fetchall()

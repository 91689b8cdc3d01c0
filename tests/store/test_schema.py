from __future__ import annotations

import os
import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest

from amiwatch.errors import StoreCorrupt, StoreError
from amiwatch.store import schema
from amiwatch.store.reader import Reader
from amiwatch.store.requests import ask
from amiwatch.store.writer import Store

LATEST = len(schema.migrations())


def tables(path: Path) -> list[tuple[str, str]]:
    with closing(sqlite3.connect(path)) as db:
        return db.execute("SELECT name, sql FROM sqlite_schema ORDER BY name").fetchall()


@pytest.mark.parametrize("version", range(LATEST + 1))
async def test_a_database_of_any_version_becomes_the_same_as_a_new_one(path: Path, version: int) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        schema.migrate(db, path, target=version)
        assert db.execute("PRAGMA user_version").fetchone() == (version,)
    schema.prepare(path)
    schema.prepare(path.with_name("new.db"))
    assert tables(path) == tables(path.with_name("new.db"))


def test_a_new_database_is_told_from_a_known_one(path: Path) -> None:
    assert schema.prepare(path) is True
    assert schema.prepare(path) is False


async def test_a_database_of_a_newer_amiwatch_is_refused_untouched(path: Path) -> None:
    schema.prepare(path)
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"PRAGMA user_version = {LATEST + 1}")
    before = path.read_bytes()
    for attempt in (lambda: Reader(path), lambda: ask(path, "reload", "", by="alice")):
        with pytest.raises(StoreError, match="newer amiwatch"):
            attempt()
    with pytest.raises(StoreError, match="newer amiwatch"):
        await Store.open_or_wait(path)
    assert path.read_bytes() == before


async def test_the_database_of_another_program_is_refused_untouched(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE astdb (key, value)")
    with pytest.raises(StoreError, match="another program"):
        await Store.open(path)
    assert [name for name, _ in tables(path)] == ["astdb"]


def test_a_failed_step_leaves_the_version_before(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    schema.prepare(path)
    steps = [*schema.migrations(), "CREATE TABLE one (x);\nCREATE TABLE one (x);\n"]
    monkeypatch.setattr(schema, "migrations", lambda: steps)
    with pytest.raises(StoreError, match="already exists"):
        schema.prepare(path)
    monkeypatch.undo()
    assert schema.prepare(path) is False
    assert "one" not in dict(tables(path))


def test_a_new_database_is_not_for_everybody(path: Path) -> None:
    schema.prepare(path)
    assert stat.S_IMODE(path.stat().st_mode) & 0o007 == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes files for others")
def test_a_database_made_by_root_belongs_to_the_owner_of_its_directory(tmp_path: Path) -> None:
    os.chown(tmp_path, 65534, 65534)
    schema.prepare(tmp_path / "amiwatch.db")
    assert (tmp_path / "amiwatch.db").stat().st_uid == 65534


def test_a_second_corrupt_file_of_the_same_second_does_not_overwrite_the_first(path: Path) -> None:
    for content in (b"first", b"second"):
        path.write_bytes(content)
        schema.set_aside(path, 0.0)
    names = sorted(file.name for file in path.parent.iterdir())
    assert names == ["amiwatch.db.corrupt-19700101T000000Z", "amiwatch.db.corrupt-19700101T000000Z-2"]


def test_a_corrupt_file_is_set_aside_with_its_log(path: Path) -> None:
    for suffix in schema.SIDECARS:
        path.with_name(path.name + suffix).write_bytes(b"x")
    aside = schema.set_aside(path, 0.0)
    assert {file.name for file in path.parent.iterdir()} == {aside.name + suffix for suffix in schema.SIDECARS}


def test_damage_is_an_error_of_its_own(path: Path) -> None:
    path.write_bytes(b"This is no database. " * 100)
    with pytest.raises(StoreCorrupt):
        schema.prepare(path)

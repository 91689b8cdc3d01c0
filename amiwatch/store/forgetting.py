"""What is deleted for good: what ended long ago, and everything about one person's address."""

from __future__ import annotations

from amiwatch.judgement.values import IPNetwork
from amiwatch.store import statements
from amiwatch.store.connection import Connection
from amiwatch.store.records import counted_network

STEP_ROWS = 5000
"""Rows deleted in one transaction: 0.1-0.25 s at worst, so that bans are written in between."""

VACUUM_PAGES = 2000
"""Pages given back to the disk in one go (8 MB, 45 ms)."""


async def forget(connection: Connection, *, older_than: float, now: float) -> dict[str, int]:
    """Delete what ended before ``older_than``; return how many rows of each table. Raises StoreError."""
    while await connection.change(statements.EXPIRE.sql, (now, STEP_ROWS)) == STEP_ROWS:
        pass
    counts = {}
    for table, sql in statements.FORGET.items():
        counts[table] = await _delete(connection, sql, {"before": older_than})
    await _give_back_space(connection)
    return counts


async def forget_network(connection: Connection, network: IPNetwork, *, now: float) -> dict[str, int]:
    """Delete everything about a network but a ban that is open; return rows per table. Raises StoreError."""
    network = counted_network(network)
    parameters = statements.forget_parameters(network, now)
    await connection.pragma("secure_delete = ON")
    counts = {}
    for table, sql in statements.FORGET_NETWORK.items():
        counts[table] = await _delete(connection, sql, parameters)
    counts["kept"] = await connection.read(lambda reader: sum(1 for _ in reader.bans(open_at=now, within=network)))
    await _give_back_space(connection)
    return counts


async def _delete(connection: Connection, sql: str, parameters: dict[str, object]) -> int:
    total = 0
    while deleted := await connection.change(sql, {**parameters, "limit": STEP_ROWS}):
        total += deleted
    return total


async def _give_back_space(connection: Connection) -> None:
    """Shrink the file in steps, and empty the write-ahead log, which still holds what was deleted."""
    free = await connection.number("freelist_count")
    for _ in range(free // VACUUM_PAGES + 1):
        await connection.pragma(f"incremental_vacuum({VACUUM_PAGES})")
    for pragma in ("secure_delete = FAST", "optimize", "wal_checkpoint(TRUNCATE)"):
        await connection.pragma(pragma)

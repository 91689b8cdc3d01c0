"""The edge to SQLite: the ledger of what we want, and everything that people ask about."""

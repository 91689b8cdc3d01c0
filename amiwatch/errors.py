"""
The exceptions of amiwatch, each with its fate and its exit code.

::

    AmiwatchError                  70  a fault of ours: exit
    ├── ConfigurationError         78  exit; every mistake in one message
    ├── UsageError                  2  exit; the command line asked for something impossible
    ├── Refusal                     1  exit; the answer is no
    ├── StillWaiting               75  exit; what was asked for waits for the daemon
    ├── AlreadyRunning             75  exit; another process works with the same database
    ├── AmiError                   69  retry
    │   ├── AmiUnreachable         69  retry with back-off 1–60 s
    │   ├── AmiLoginRefused        77  retry slowly, said loudly
    │   └── AmiPeerUnknown         76  retry slowly: what answers is no Asterisk manager
    ├── FirewallError              69  at start: exit; while running: reconcile repairs it
    │   └── FirewallPermission     77  at start: exit; CAP_NET_ADMIN is missing
    └── StoreError                 74  never stops the banning; said loudly, tried again
        ├── StoreUnavailable       74  may pass by itself (full disk, lock): tried again, also at start
        └── StoreCorrupt           74  the file is set aside and a new one begun

The codes are those of sysexits.h, so that systemd and scripts can tell them apart.
"""

from __future__ import annotations

from typing import ClassVar


class AmiwatchError(Exception):
    """Any error of amiwatch. Its text is one sentence for a person and says what to do."""

    exit_code: ClassVar[int] = 70


class ConfigurationError(AmiwatchError):
    """The settings are wrong. ``mistakes`` holds one sentence for each."""

    exit_code = 78

    def __init__(self, mistakes: list[str]) -> None:
        self.mistakes = mistakes
        super().__init__("\n".join(mistakes))


class UsageError(AmiwatchError):
    """The command line asked for something that can't be done as asked."""

    exit_code = 2


class Refusal(AmiwatchError):
    """The answer to a command is no: nothing was broken, and nothing was changed."""

    exit_code = 1


class StillWaiting(AmiwatchError):
    """A request was written down, but nobody carried it out yet."""

    exit_code = 75


class AlreadyRunning(AmiwatchError):
    """Another process of ours works with the same database."""

    exit_code = 75


class AmiError(AmiwatchError):
    """Something between us and Asterisk's manager failed; the client tries again."""

    exit_code = 69


class AmiUnreachable(AmiError):
    """No connection, no TLS, no answer in time, or the connection was lost."""


class AmiLoginRefused(AmiError):
    """Asterisk refused the login."""

    exit_code = 77


class AmiPeerUnknown(AmiError):
    """Whatever answers there does not greet like an Asterisk manager."""

    exit_code = 76


class FirewallError(AmiwatchError):
    """The kernel refused, or does not know, what a backend asked for."""

    exit_code = 69


class LimitsRefused(FirewallError):
    """Tiers or signatures can't be placed; bans are dropped all the same. Said once, tried again."""

    def __init__(self, why: object) -> None:
        super().__init__(f"Bans are dropped, but tiers and signatures can't be: {why}")


class FirewallPermission(FirewallError):
    """The process lacks CAP_NET_ADMIN (or root, for the drop rule)."""

    exit_code = 77


class StoreError(AmiwatchError):
    """SQLite could not read or write: a full disk, a lock, missing rights."""

    exit_code = 74


class StoreUnavailable(StoreError):
    """The disk is full, the file is locked, or a read or write failed: it may pass by itself."""


class StoreCorrupt(StoreError):
    """The file is no database, or a damaged one."""

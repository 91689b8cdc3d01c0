"""What a rule drops, as one value: which packets of banned sources."""

from __future__ import annotations

from dataclasses import dataclass, field

from amiwatch.firewall.scope import Scope


@dataclass(frozen=True, slots=True)
class Protection:
    """All that ``Rule.install`` puts into the kernel beside the sets of bans."""

    scope: Scope = field(default_factory=Scope)
    """The ports that are closed to banned sources."""

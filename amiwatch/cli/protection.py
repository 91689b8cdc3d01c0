"""Who is never banned, gathered from the same sources as the daemon's list, for a command that has no daemon."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from ipaddress import ip_network
from typing import TYPE_CHECKING

from amiwatch.cli.text import complain
from amiwatch.judgement.safe import ALWAYS, PRIVATE
from amiwatch.judgement.values import IPNetwork
from amiwatch.store.records import AllowEntry

if TYPE_CHECKING:
    from amiwatch.config import Settings


_told: set[str] = set()
"""Names of which it was said that nobody answers: a replay asks for them once for each policy."""


async def never_banned(settings: Settings, entries: Sequence[AllowEntry]) -> dict[IPNetwork, str]:
    """Return the networks that are never banned, each with the words that say why; names are looked up."""
    from amiwatch.daemon.host import LOOKUP_TIMEOUT, lookup, safe_networks

    safe: dict[IPNetwork, str] = {**ALWAYS, **(PRIVATE if settings.allow_private else {})}
    safe |= dict.fromkeys(settings.allowlist.networks, "on the allowlist of the settings")
    names = dict.fromkeys(settings.allowlist.names, "on the allowlist of the settings")
    names |= {pbx.host: "a PBX" for pbx in settings.pbxs().values()}
    for entry in entries:
        said = f"allowed by {entry.added_by}" + (f" ({entry.comment})" if entry.comment else "")
        try:
            safe[ip_network(entry.target)] = said
        except ValueError:
            names[entry.target] = said
    found = dict(zip(names, await asyncio.gather(*map(lookup, names)), strict=True))
    for name, addresses in found.items():
        safe |= {ip_network(address): f"{names[name]}, by the name {name}" for address in addresses or ()}
    if unanswered := [name for name, addresses in found.items() if addresses is None and name not in _told]:
        complain(
            f"no name server answered within {LOOKUP_TIMEOUT:g} s for {', '.join(map(repr, unanswered))}: whom they "
            "protect is not known here (the daemon goes on with the addresses that it knew last)"
        )
        _told.update(unanswered)
    return safe | await safe_networks()

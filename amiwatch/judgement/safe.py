"""
Who is never banned, whatever a rule says.

Rule 1: these networks hold everywhere. What depends on the machine (its own addresses, gateways, resolvers, managers,
sessions of administrators) is gathered by the edges and joins them in ``Judge.allowed``.
"""

from __future__ import annotations

from ipaddress import ip_network

from amiwatch.judgement.values import IPNetwork

ALWAYS: dict[IPNetwork, str] = {
    ip_network(text): why
    for text, why in {
        "127.0.0.0/8": "loopback",
        "::1/128": "loopback",
        "0.0.0.0/8": "unspecified",
        "::/128": "unspecified",
        "224.0.0.0/4": "multicast",
        "ff00::/8": "multicast",
        "255.255.255.255/32": "broadcast",
        # All neighbours share fe80::/64, so a ban by /64 would cut off the router.
        "fe80::/10": "a neighbour on the same link",
        "169.254.0.0/16": "a neighbour on the same link",
        # Behind a translator all of IPv4 shares one /64.
        "64:ff9b::/96": "translated IPv4 (RFC 6052)",
        "64:ff9b:1::/48": "translated IPv4 (RFC 8215)",
    }.items()
}

PRIVATE: dict[IPNetwork, str] = {
    ip_network(text): "a private network (RFC 1918, RFC 4193)"
    for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")
}
"""Safe only if a setting says so: attackers come from inside too."""

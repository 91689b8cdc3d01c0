"""
All kinds of alerts, each with its advice.

Rule 1: whoever raises an alert takes its kind from here; ``docs/alerts.md`` has a page for each.

Rule 2: an advice is one sentence that tells a person what to do, at the phone or at the PBX.
"""

from __future__ import annotations

ALERTS: dict[str, str] = {
    # Somebody is inside, or tries to get in where no ban helps.
    "password_found": "Change the password now and look at the account's calls, unless you know who set it right.",
    "account_attacked": "Give the account a long password, or let it in from its own addresses only (acl).",
    # Honest trouble at one address.
    "broken_phone": "Correct the password or the account at the phone; if it is no phone of yours, ban it by hand.",
    "broken_site": "Correct the passwords or accounts at these phones; if they are not yours, ban the address by hand.",
    "mistyped_password": "Nothing, if a person set up a phone there; else change the password of the account.",
    "site_moved": "If the site has a new address, put it into the accounts' acl, and allow it here.",
    "shared_address": "If it is a proxy or a NAT gateway, allow its address and stop the offender there.",
    "unknown_carrier": "If it is your carrier or monitor, match its address in an identify section, and allow it here.",
    "phone_kept_out": "Permit its address in the account's acl, or let our answers reach it (firewall, NAT).",
    "aor_full": "Raise max_contacts of the aor or set remove_existing=yes, or remove the phone that is too many.",
    "aor_missing": "Give the endpoint an aor with the name that the phone registers, and max_contacts of at least 1.",
    "trusted_offender": "Look for the phone, or the computer beside it, that tries these accounts.",
    "allowed_offender": "Look for who tries these accounts there, or take the address off the allowlist.",
    "chan_sip_offender": "Move these phones to PJSIP, or drop port 5060 for all but your own networks.",
    # Many at once.
    "mass_failure": "Look at the database of the accounts, and at pjsip show endpoints after the last reload.",
    "unproven_storm": "Look at pjsip show endpoints; if they are all there, wait, or open TCP or TLS only, not UDP.",
    "ban_not_working": "Run amiwatch firewall test as root, and block the source at your router meanwhile.",
    "ban_ceiling": "Wait until the storm is over, or raise AMIWATCH_UNPROVEN_BANS if these are real scanners.",
    "alert_ceiling": "Look at the database for what was not said: its attempts are all there.",
}
"""Kind → one sentence of advice."""

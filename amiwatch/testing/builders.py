"""
Security events to order: as Asterisk's bytes, and as the values that ``ami.wire`` makes of them.

Everything has a default, so that a test names only what it is about. Two calls never share a session, and two wrong
passwords never share a guess, unless told to.

Rule: the headers and their order come from ``ami.wire.TEMPLATES``; values look like those in recordings of Asterisk
16.28 and 22.10.
"""

# ruff: noqa: S105 - a case named for a password holds none

from __future__ import annotations

import itertools
import secrets
from datetime import UTC, datetime
from enum import StrEnum
from ipaddress import ip_address
from typing import Any, NamedTuple

from amiwatch.ami.wire import TEMPLATES, Template, Wire
from amiwatch.judgement.values import IPAddress, SecurityEvent
from amiwatch.testing.clock import START

SOURCE = "198.51.100.7"
"""Who it was, unless told."""

PBX = {4: "192.0.2.10", 6: "2001:db8:1::10"}
"""Where it arrived unless told, by address family."""

UNKNOWN = "<unknown>"
"""The account of PJSIP's events about requests that belong to no endpoint."""

_TRANSPORTS = {"PJSIP": "UDP", "SIP": "UDP", "AMI": "TCP", "TEST": "UDP"}
_LOCAL_PORTS = {"PJSIP": 5060, "SIP": 5060, "AMI": 5038, "TEST": 5060}
_START = ("EventTV", "Severity", "Service", "EventVersion")
_COMMON = frozenset((*_START, "AccountID", "SessionID", "LocalAddress", "RemoteAddress"))
_numbers = itertools.count(1)


def event_bytes(
    kind: str,
    *,
    account: str = "1001",
    source: str | IPAddress = SOURCE,
    port: int = 5060,
    session: str | None = None,
    service: str | None = None,
    transport: str | None = None,
    at: float = START,
    **headers: str,
) -> bytes:
    """
    Return one security event as Asterisk writes it.

    ``headers`` are Asterisk's own names (``ACLName="…"``) and replace or add values; an optional header appears only if
    it is given here or always there in recordings. Raises ValueError for a kind, or a header, that Asterisk has not.
    """
    template = TEMPLATES.get(kind)
    if template is None:
        raise ValueError(f"Asterisk has no security event {kind!r}; there are {', '.join(sorted(TEMPLATES))}")
    if strange := headers.keys() - {*_COMMON, *template.required, *template.optional}:
        raise ValueError(f"{kind} has no header {', '.join(sorted(strange))}")
    service = service or _service(template)
    remote = ip_address(source)
    transport = transport or _TRANSPORTS[service]
    values = {
        "EventTV": stamp(at),
        "Severity": template.severity,
        "Service": service,
        "EventVersion": str(template.version),
        "AccountID": account,
        "SessionID": _session(service, remote) if session is None else session,
        "LocalAddress": f"IPV{remote.version}/{transport}/{PBX[remote.version]}/{_LOCAL_PORTS[service]}",
        "RemoteAddress": f"IPV{remote.version}/{transport}/{remote}/{port}",
        **_usual(kind, service, at),
        **headers,
    }
    return _message(kind, template, values)


def security_event(kind: str, **details: Any) -> SecurityEvent:
    """Return the event that ``ami.wire`` makes of ``event_bytes(kind, **details)``; ValueError if it refuses it."""
    return _parse(event_bytes(kind, **details))[0]


def bytes_of(event: SecurityEvent) -> bytes:
    """Return bytes that ``ami.wire`` turns into this event again, but for ``guess`` and ``tainted``."""
    headers: dict[str, Any] = {}
    if event.kind == "SuccessfulAuth":
        headers["UsingPassword"] = str(int(event.used_password))
    template = TEMPLATES[event.kind]
    for name in ("ACLName", "RequestType", "AttemptedTransport"):
        if event.detail and name in (*template.required, *template.optional):
            headers[name] = event.detail
    family = f"IPV{event.source.version}/{event.transport}".rstrip("/")
    return event_bytes(
        event.kind,
        account=event.account,
        source=event.source,
        session=event.session,
        service=event.service,
        at=event.at,
        LocalAddress=f"{family}/{PBX[event.source.version]}/{event.local_port}",
        RemoteAddress=f"{family}/{event.source}/{event.port}",
        **headers,
    )


class Case(StrEnum):
    """What one attempt may be; each raises the events that a real Asterisk was seen to raise for it."""

    UNKNOWN_ACCOUNT = "an account that does not exist, without credentials"
    UNKNOWN_ACCOUNT_ANSWERED = "an account that does not exist, by a scanner that answers the challenge"
    UNMATCHED = "no endpoint matched, below the threshold of auth_username (FreePBX's default)"
    NO_CREDENTIALS = "an account that exists, without credentials"
    WRONG_PASSWORD = "an account that exists, with a wrong password"
    RIGHT_PASSWORD = "a phone that logs in"
    STALE_NONCE = "a phone whose nonce was too old"
    ENDPOINT_ACL = "an account whose ACL refuses the address"
    FULL_AOR = "a phone that logged in, with one contact too many"
    AMI_UNKNOWN_USER = "a manager user that does not exist"
    AMI_WRONG_SECRET = "a manager user with a wrong secret"
    AMI_WRONG_KEY = "a manager user with a wrong MD5 key"
    AMI_RIGHT_SECRET = "a manager user that logs in"
    AMI_REFUSED_ADDRESS = "a manager user from an address that it may not use"
    AMI_NOT_ALLOWED = "an action that the manager user may not call"
    AMI_BAD_FORMAT = "an action that does not exist"
    AMI_SESSION_LIMIT = "one manager session too many"
    SIP_WRONG_PASSWORD = "chan_sip: a wrong password, or an unknown account, which look alike"
    SIP_RIGHT_PASSWORD = "chan_sip: a phone that logs in"
    SIP_NO_ANSWER = "chan_sip: an enumeration that never answers the challenge"


class Step(NamedTuple):
    """One event of an attempt."""

    kind: str
    service: str = "PJSIP"
    account: str | None = None
    """None is the account that was tried; ``{}`` in a text stands for it."""
    headers: dict[str, str] = {}  # noqa: RUF012 - never changed


_STRANGER = [Step("InvalidAccountID"), Step("ChallengeSent", account=UNKNOWN)]

STEPS: dict[Case, list[Step]] = {
    Case.UNKNOWN_ACCOUNT: _STRANGER,
    Case.UNKNOWN_ACCOUNT_ANSWERED: [
        *_STRANGER,
        Step("InvalidAccountID"),
        Step("ChallengeResponseFailed", account=UNKNOWN),
    ],
    Case.UNMATCHED: [Step("ChallengeSent", account=UNKNOWN)],
    Case.NO_CREDENTIALS: [Step("ChallengeSent")],
    Case.WRONG_PASSWORD: [Step("ChallengeSent"), Step("ChallengeResponseFailed")],
    Case.RIGHT_PASSWORD: [Step("ChallengeSent"), Step("SuccessfulAuth")],
    Case.STALE_NONCE: [Step("ChallengeSent")],
    Case.ENDPOINT_ACL: [
        Step("FailedACL", headers={"ACLName": "not_match_endpoint_acl"}),
        Step("ChallengeSent", account=UNKNOWN),
    ],
    Case.FULL_AOR: [
        Step("ChallengeSent"),
        Step("SuccessfulAuth"),
        Step("FailedACL", headers={"ACLName": "registrar_attempt_exceeds_maximum_configured_contacts"}),
    ],
    Case.AMI_UNKNOWN_USER: [Step("InvalidAccountID", "AMI")],
    Case.AMI_WRONG_SECRET: [Step("InvalidPassword", "AMI")],
    Case.AMI_WRONG_KEY: [Step("ChallengeResponseFailed", "AMI", account="")],
    Case.AMI_RIGHT_SECRET: [Step("SuccessfulAuth", "AMI")],
    Case.AMI_REFUSED_ADDRESS: [Step("FailedACL", "AMI")],
    Case.AMI_NOT_ALLOWED: [Step("RequestNotAllowed", "AMI", account="")],
    Case.AMI_BAD_FORMAT: [Step("RequestBadFormat", "AMI", account="")],
    Case.AMI_SESSION_LIMIT: [Step("SessionLimit", "AMI", account="")],
    Case.SIP_WRONG_PASSWORD: [Step("ChallengeSent", "SIP"), Step("InvalidPassword", "SIP")],
    Case.SIP_RIGHT_PASSWORD: [Step("ChallengeSent", "SIP"), Step("SuccessfulAuth", "SIP")],
    Case.SIP_NO_ANSWER: [Step("ChallengeSent", "SIP")],
}
"""What a real Asterisk was seen to raise for each case, in order."""


def attempt_bytes(
    case: Case, *, account: str = "1001", source: str | IPAddress = SOURCE, session: str | None = None, **details: Any
) -> bytes:
    """Return all events of one attempt, in order, with one session. ``details`` are those of ``event_bytes``."""
    steps = STEPS[case]
    session = session or _session(steps[0].service, ip_address(source))
    return b"".join(
        event_bytes(
            step.kind,
            service=step.service,
            account=account if step.account is None else step.account,
            source=source,
            session=session,
            **{**step.headers, **details},
        )
        for step in steps
    )


def attempt_events(case: Case, **details: Any) -> list[SecurityEvent]:
    """Return the events that ``ami.wire`` makes of ``attempt_bytes(case, **details)``; ValueError if it refuses one."""
    return _parse(attempt_bytes(case, **details))


def stamp(at: float) -> str:
    """Write an instant (seconds since the epoch) as Asterisk does, for a machine whose zone is UTC."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "+0000"


def _service(template: Template) -> str:
    return next((name for name in ("PJSIP", "AMI", "SIP") if name in template.raised_by), "TEST")


def _session(service: str, remote: IPAddress) -> str:
    """Make a new SessionID: PJSIP's is the Call-ID, the others' is a pointer."""
    number = next(_numbers)
    return f"call{number:08d}@{remote}" if service == "PJSIP" else f"0x7f{number:010x}"


def _usual(kind: str, service: str, at: float) -> dict[str, str]:
    """Return the values of headers that some kinds have, as they were recorded."""
    nonce = f"{int(at)}/{secrets.token_hex(16)}" if service == "PJSIP" else secrets.token_hex(4)
    values = {
        "UsingPassword": "0" if service == "AMI" else "1",
        "RequestType": "registrar_requested_aor_not_found" if service == "PJSIP" else "Action: Command",
        "AttemptedTransport": "UDP",
        "AuthMethod": "MD5",
        "ExpectedAddress": "IPV4/UDP/192.0.2.101/5060",
        "Challenge": "" if (kind, service) == ("ChallengeSent", "PJSIP") else nonce,
        "Response": secrets.token_hex(16),
        "ExpectedResponse": secrets.token_hex(16) if service == "AMI" else "",
    }
    if kind == "InvalidPassword" and service == "SIP":
        values |= {"ReceivedChallenge": nonce, "ReceivedHash": secrets.token_hex(16)}
    elif kind == "InvalidPassword":
        del values["Challenge"]
    if service == "AMI":
        values["SessionTV"] = stamp(at if kind == "SuccessfulAuth" else 0)
    return values


def _message(kind: str, template: Template, values: dict[str, str]) -> bytes:
    account = ("AccountID",) if template.has_account else ()
    required = (*_START, *account, "SessionID", "LocalAddress", "RemoteAddress", *template.required)
    optional = [name for name in template.optional if name in values]
    lines = [f"{name}: {values[name]}" for name in (*required, *optional)]
    return "\r\n".join([f"Event: {kind}", "Privilege: security,all", *lines, "", ""]).encode()


def _parse(data: bytes) -> list[SecurityEvent]:
    items = Wire(has_pings=False).feed(data)
    events = [item for item in items if isinstance(item, SecurityEvent) and not item.tainted]
    if len(events) != len(items) or not events:
        raise ValueError(f"no genuine security events: {[item for item in items if item not in events]!r}")
    return events

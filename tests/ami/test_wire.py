from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from amiwatch.ami.wire import FRAME_LIMIT, SAMPLE_LIMIT, TEMPLATES, Item, OtherEvent, Response, Tampered, Wire, redacted
from amiwatch.judgement.values import SecurityEvent
from amiwatch.testing.builders import event_bytes
from tests.corpus import LABELS, recording

VICTIMS = {"8.8.8.8", "8.8.4.4", "9.9.9.9", "203.0.113.5"}

INVALID_ACCOUNT = (
    b"Event: InvalidAccountID\r\nPrivilege: security,all\r\n"
    b"EventTV: 2026-11-22T10:07:29.042+0000\r\nSeverity: Error\r\n"
    b"Service: %(service)s\r\nEventVersion: 1\r\nAccountID: %(account)s\r\nSessionID: abc@198.51.100.7\r\n"
    b"LocalAddress: IPV4/UDP/192.0.2.10/5060\r\nRemoteAddress: %(remote)s\r\n\r\n"
)


def invalid_account(
    account: bytes = b"7777", remote: bytes = b"IPV4/UDP/198.51.100.7/5060", service: bytes = b"PJSIP"
) -> bytes:
    return INVALID_ACCOUNT % {b"account": account, b"remote": remote, b"service": service}


def parse(data: bytes, *, has_pings: bool = True) -> list[Item]:
    wire = Wire(has_pings=has_pings)
    return [*wire.feed(data), *wire.close()]


def events(items: list[Item]) -> list[SecurityEvent]:
    return [item for item in items if isinstance(item, SecurityEvent)]


@pytest.mark.parametrize("name", sorted(LABELS))
def test_a_recording_parses_as_its_label_says(name: str) -> None:
    label = LABELS[name]
    items = parse(recording(name), has_pings=False)
    found = events(items)
    assert Counter(event.kind for event in found) == label["events"]
    assert Counter(f"{event.service} {event.source}" for event in found) == label["sources"]
    assert len(found) == label["genuine"]
    assert sum(isinstance(item, Tampered) for item in items) == label["tampered"] + label["fragments"]


@pytest.mark.parametrize("name", sorted(name for name in LABELS if "hostile" in name or name.endswith("ami-http")))
@pytest.mark.parametrize("has_pings", [True, False])
def test_no_victim_of_a_forgery_is_named_by_an_event_that_is_believed(name: str, has_pings: bool) -> None:
    believed = [event for event in events(parse(recording(name), has_pings=has_pings)) if not event.tainted]
    assert not {str(event.source) for event in believed if event.service != "SIP"} & VICTIMS


def test_injected_headers_over_pjsip_leave_the_true_sender_believed() -> None:
    found = events(parse(recording("ast22-pjsip-hostile-usernames")))
    sender = [event for event in found if str(event.source) == "198.51.100.7"]
    assert len(sender) == 106
    assert not any(event.tainted for event in sender)


@given(st.lists(st.integers(0, 42982), max_size=40))
@example([1, 2, 3])
def test_a_recording_gives_the_same_items_however_it_is_cut(cuts: list[int]) -> None:
    data = recording("ast22-pjsip-hostile-usernames")
    wire = Wire()
    items: list[Item] = []
    edges = [0, *sorted(cuts), len(data)]
    for begin, end in pairwise(edges):
        items += wire.feed(data[begin:end])
    assert [*items, *wire.close()] == parse(data)


def test_single_bytes_give_the_same_items() -> None:
    data = recording("ast22-pjsip-ami-http")
    wire = Wire()
    items = [item for byte in data for item in wire.feed(bytes([byte]))]
    assert [*items, *wire.close()] == parse(data)


PIECES = st.sampled_from(
    [
        b"\r",
        b"\n",
        b"\r\n",
        b"\r\n\r\n",
        b"Event: ",
        b"Event: InvalidAccountID\r\nPrivilege: security,all\r\n",
        b"Asterisk Call Manager/11.0.0\r\n",
        b"Response: Success\r\n",
        b"RemoteAddress: IPV4/UDP/8.8.8.8/5\r\n",
        b"SessionID: x\r\nLocalAddress: y\r\nRemoteAddress: z",
        invalid_account(),
        b"\xff\x00\x1b[31m",
    ]
)


@given(st.lists(st.one_of(st.binary(max_size=60), PIECES), max_size=30))
@example([b"Asterisk Call Manager/", b"\r\n"])
def test_no_bytes_in_any_chunking_raise(chunks: list[bytes]) -> None:
    wire = Wire()
    whole = [item for chunk in chunks for item in wire.feed(chunk)] + wire.close()
    assert whole == parse(b"".join(chunks))


@given(st.binary(max_size=80), st.sampled_from(sorted({b"8.8.8.8", b"192.0.2.101"})))
def test_an_account_of_any_bytes_never_names_another_source(account: bytes, victim: bytes) -> None:
    forged = account + b"\r\nRemoteAddress: IPV4/UDP/" + victim + b"/5060"
    believed = [event for event in events(parse(invalid_account(forged))) if not event.tainted]
    assert all(str(event.source) == "198.51.100.7" for event in believed)


@pytest.mark.parametrize(
    "broken",
    [
        invalid_account(b"x\rRemoteAddress: IPV4/UDP/8.8.8.8/1"),
        invalid_account(b"x\nRemoteAddress: IPV4/UDP/8.8.8.8/1"),
        invalid_account(b"x\r\nRemoteAddress: IPV4/UDP/8.8.8.8/1"),
        invalid_account().replace(b"SessionID: abc@198.51.100.7\r\n", b""),
        invalid_account().replace(b"Severity: Error\r\n", b"Severity: Error\r\nSeverity: Error\r\n"),
        invalid_account().replace(b"Service: PJSIP\r\nEventVersion: 1\r\n", b"EventVersion: 1\r\nService: PJSIP\r\n"),
        invalid_account().replace(b"EventVersion: 1", b"EventVersion: 2"),
        invalid_account().replace(b"Privilege: security,all", b"Privilege: system,all"),
        invalid_account().replace(b"EventTV: ", b"eventtv: "),
        invalid_account(remote=b"IPV4/UDP/198.51.100.777/5060"),
        invalid_account(remote=b"IPV4/UDP/198.51.100.7/99999"),
        invalid_account(remote=b"IPV4/UDP/198.51.100.7"),
        invalid_account().replace(b"\r\n\r\n", b"\r\nX: y\r\n\r\n"),
        invalid_account().replace(b"\r\n\r\n", b"\r\nSessionTV: now\r\n\r\n"),
        b"Event: Brandnew\r\nPrivilege: security,all\r\nRemoteAddress: IPV4/UDP/8.8.8.8/1\r\n\r\n",
        b"Event: Shutdown\r\nSessionID: a\r\nLocalAddress: b\r\nRemoteAddress: c\r\n\r\n",
        b"Response: Success\r\nSessionID: a\r\nLocalAddress: b\r\nRemoteAddress: c\r\n\r\n",
    ],
)
def test_what_is_not_exactly_its_template_is_tampered(broken: bytes) -> None:
    items = parse(broken)
    assert [type(item) for item in items] == [Tampered]


@pytest.mark.parametrize(
    ("remote", "transport", "source", "port"),
    [
        (b"IPV4/UDP/198.51.100.7/5060", "UDP", "198.51.100.7", 5060),
        (b"IPV4/WSS/198.51.100.7/0", "WSS", "198.51.100.7", 0),
        (b"IPV4/198.51.100.7/1", "", "198.51.100.7", 1),
        (b"IPV6/TLS/2001:db8:bad::7/41127", "TLS", "2001:db8:bad::7", 41127),
        (b"IPV6/TCP/fe80::1%eth0/5", "TCP", "fe80::1", 5),
        (b"IPV6/TCP/::ffff:198.51.100.7/5", "TCP", "198.51.100.7", 5),
    ],
)
def test_every_form_of_address_is_read(remote: bytes, transport: str, source: str, port: int) -> None:
    (event,) = events(parse(invalid_account(remote=remote)))
    assert (event.transport, str(event.source), event.port, event.local_port) == (transport, source, port, 5060)


def test_optional_headers_of_a_configured_asterisk_are_taken() -> None:
    extra = b"Timestamp: 1.5\r\nSequenceNumber: 1\r\nFile: a\r\nLine: 2\r\nFunc: f\r\nSystemName: x\r\nEventTV: "
    data = invalid_account().replace(b"EventTV: ", extra)
    assert len(events(parse(data))) == 1


def test_an_account_of_36_bytes_or_none_in_any_alphabet_is_read() -> None:
    for account in (b"", b"+33123456789", "bäcker".encode(), b"\xff\xfe", b"x" * 36):
        (event,) = events(parse(invalid_account(account)))
        assert event.account == account.decode("utf-8", "replace")


def test_a_retransmission_has_the_same_guess_and_another_password_another() -> None:
    found = events(parse(recording("ast22-pjsip-crack50")))
    guesses = [event.guess for event in found if event.kind == "ChallengeResponseFailed"]
    assert len(set(guesses)) == len(guesses) == 50
    repeated = events(parse(recording("ast22-pjsip-retransmit")))
    assert len({event.guess for event in repeated if event.guess}) == 2


def test_secrets_are_removed_from_what_is_kept_of_a_tampered_block() -> None:
    items = parse(recording("ast22-pjsip-hostile-callid-auth"))
    kept = b"".join(item.block for item in items if isinstance(item, Tampered))
    assert b"Challenge: [redacted]" in kept
    assert b"Response: [redacted]" in kept
    assert not any(b"1795342" in item.block.split(b"SessionID")[-1] for item in items if isinstance(item, Tampered))


@pytest.mark.parametrize(
    "header",
    ["Challenge", "Response", "ExpectedResponse", "ReceivedHash", "ReceivedChallenge", "Secret", "rEsPoNsE", "Key"],
)
@pytest.mark.parametrize("end", [b"\r\n", b"\r", b"\n", b""])
@pytest.mark.parametrize("colon", [b": ", b":", b" :\t"])
def test_nothing_that_can_be_cracked_is_kept_of_a_tampered_block(header: str, end: bytes, colon: bytes) -> None:
    sample = b"Event: ChallengeResponseFailed\rAccountID: x\r" + header.encode() + colon + b"s3cr3t value" + end
    assert b"s3cr3t" not in redacted(sample)
    assert b"AccountID: x" in redacted(sample)


def test_a_digest_is_struck_out_wherever_it_stands() -> None:
    fragment = b"nonce 1700000000/0123456789abcdef0123456789abcdef\r\nSessionID: 7\r\n"
    assert redacted(fragment) == b"nonce 1700000000/[redacted]\r\nSessionID: 7\r\n"


@pytest.mark.parametrize("room", [1, 15, 31, 40])
def test_a_digest_at_the_cut_is_struck_out(room: int) -> None:
    sample = b"x" * (SAMPLE_LIMIT - room) + b"0123456789abcdef" * 4
    assert b"0" not in redacted(sample)
    assert len(redacted(sample)) <= SAMPLE_LIMIT


def test_the_end_of_a_digest_at_the_begin_of_a_fragment_is_struck_out() -> None:
    assert redacted(b"9abcdef\r\nSessionID: 7") == b"[redacted]\r\nSessionID: 7"


def test_a_broken_message_tells_which_call_broke_it_and_its_genuine_companion_the_same() -> None:
    items = parse(recording("ast22-pjsip-hostile-usernames"))
    told = 0
    for block, following in pairwise(items):
        if isinstance(block, Tampered) and isinstance(following, SecurityEvent):
            assert block.session == following.session
            told += 1
    assert told > 20


def test_no_call_is_named_where_a_stranger_may_have_written_all_of_it() -> None:
    wire = Wire()
    wire.feed(b"Asterisk Call Manager/5.0.4\r\n")  # an Asterisk whose accounts have any length
    (item,) = wire.feed(event_bytes("InvalidAccountID", account="x\r\nSessionID: victim", session="mine"))
    assert isinstance(item, Tampered)
    assert item.session == ""


@pytest.mark.parametrize("account", ["x\r\nSessionID: victim", "x\r\nSeverity: Error"])
@pytest.mark.parametrize("session", ["mine", "SessionID: victim", "a\rSessionID: victim", ""])
def test_the_call_of_a_broken_message_is_what_asterisk_wrote_last(account: str, session: str) -> None:
    (item,) = parse(event_bytes("InvalidAccountID", account=account, session=session))
    assert isinstance(item, Tampered)
    assert item.session == session


class TestTaint:
    """After a broken block nothing is believed until a boundary that the attacker can't have written."""

    forged = invalid_account(remote=b"IPV4/UDP/8.8.8.8/5060")

    def inject(self, service: bytes = b"PJSIP") -> bytes:
        """A message cut in two by an account, with a forged one between: what a stranger can cause at the worst."""
        head, tail = invalid_account(b"x\r\n\r\n" + self.forged + b"X: ", service=service), b""
        return head + tail

    def test_a_whole_forged_message_is_tainted(self) -> None:
        found = events(parse(self.inject()))
        assert [(str(event.source), event.tainted) for event in found] == [("8.8.8.8", True)]

    def test_it_stays_until_our_ping_is_answered(self) -> None:
        wire = Wire()
        wire.feed(self.inject(b"AMI"))
        assert events(wire.feed(invalid_account()))[0].tainted
        wire.expect_boundary("c0ffee")
        assert events(wire.feed(b"Response: Success\r\nActionID: guessed\r\nPing: Pong\r\n\r\n" + invalid_account()))[
            0
        ].tainted
        answer = b"Response: Success\r\nActionID: c0ffee\r\nPing: Pong\r\n\r\n"
        before, after = events(wire.feed(invalid_account() + answer + invalid_account()))
        assert before.tainted
        assert not after.tainted
        assert not wire.is_tainted

    def test_a_false_end_does_not_fool_it(self) -> None:
        end = b"SessionID: a\r\nLocalAddress: b\r\nRemoteAddress: c\r\n\r\n"
        wire = Wire()
        wire.feed(invalid_account(b"x\r\n\r\n" + end + self.forged + b"X: ", service=b"AMI"))
        assert events(wire.feed(invalid_account()))[0].tainted

    def test_an_old_asterisk_needs_the_ping_over_pjsip_too(self) -> None:
        wire = Wire()
        wire.feed(b"Asterisk Call Manager/2.10.6\r\n" + invalid_account(b"x\r\nRemoteAddress: y"))
        assert events(wire.feed(invalid_account()))[0].tainted

    def test_a_stream_joined_in_the_middle_is_not_tainted(self) -> None:
        wire = Wire()
        assert not events(wire.feed(invalid_account()[100:] + invalid_account()))[0].tainted

    def test_an_event_that_its_service_never_raises_is_not_believed(self) -> None:
        data = next(part for part in recording("ast22-pjsip-ami-http").split(b"\r\n\r\n") if b"Service: PJSIP" in part)
        assert events(parse(data + b"\r\n\r\n"))[0].tainted


def test_a_message_without_an_end_is_skipped_to_the_next_boundary() -> None:
    wire = Wire()
    items: list[Item] = []
    for _ in range(40):
        items += wire.feed(b"x" * 65536)
    assert [type(item) for item in items] == [Tampered]
    assert wire.skipped > FRAME_LIMIT
    items = wire.feed(b"\r\n\r\n" + invalid_account())
    assert len(events(items)) == 1
    assert wire.is_tainted


def test_a_call_id_of_64_kib_is_no_trouble() -> None:
    data = invalid_account().replace(b"abc@198.51.100.7", b"y" * 65000)
    (event,) = events(parse(data))
    assert len(event.session) == 65000


def test_answers_and_other_classes_are_told_apart() -> None:
    items = parse(recording("ast22-misc-core-restart-system-class"))
    assert [item.name for item in items if isinstance(item, OtherEvent)] == ["FullyBooted", "Reload", "Shutdown"]
    responses = [item.headers for item in items if isinstance(item, Response)]
    assert responses == [{"Response": "Success", "ActionID": "1", "Message": "Authentication accepted"}]


def test_the_banner_tells_the_version() -> None:
    wire = Wire()
    wire.feed(b"Asterisk Call Man")
    wire.feed(b"ager/11.0.0\r\nResponse: Success\r\n\r\n")
    assert (wire.banner, wire.manager_major) == ("Asterisk Call Manager/11.0.0", 11)


def test_every_template_accepts_a_message_of_its_own_shape() -> None:
    for kind, template in TEMPLATES.items():
        account = b"AccountID: a\r\n" if template.has_account else b""
        values = {"UsingPassword": b"1", "SessionTV": b"2026-11-22T10:07:29.042+0000"}
        extra = b"".join(
            b"%s: %s\r\n" % (name.encode(), values.get(name, b"v")) for name in (*template.required, *template.optional)
        )
        data = (
            b"Event: %s\r\nPrivilege: security,all\r\nEventTV: 2026-11-22T10:07:29.042+0000\r\nSeverity: %s\r\n"
            b"Service: TEST\r\nEventVersion: %d\r\n%sSessionID: s\r\nLocalAddress: IPV6/UDP/(null)/(null)\r\n"
            b"RemoteAddress: IPV4/UDP/198.51.100.7/1\r\n%s\r\n"
        ) % (kind.encode(), template.severity.encode(), template.version, account, extra)
        (event,) = events(parse(data))
        assert (event.kind, event.tainted) == (kind, False)

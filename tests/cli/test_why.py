import json
import time
from collections.abc import Callable, Iterable
from dataclasses import replace

import pytest

from amiwatch.cli.story import INSTEAD, KEPT, SHOWN
from amiwatch.judgement.alerts import ALERTS
from amiwatch.judgement.rules import DAY, HOUR, POLICIES
from amiwatch.judgement.values import SecurityEvent, source_network
from amiwatch.store.records import AllowEntry
from amiwatch.testing.builders import Case
from tests.cli.conftest import HOSTILE, make_alert, make_attempts, make_ban
from tests.cli.test_replay_history import attempts, live
from tests.nameserver import NameServer

NOW = float(int(time.time()))
SOURCE = "203.0.113.50"


@pytest.fixture
def offender(fill) -> None:
    def put(store) -> None:
        store.put_ban(make_ban(ago=9000), pbx="pbx", origin="rule", is_enforced=True)
        store.put_ban(make_ban(account="alice"), pbx="pbx", origin="rule", is_enforced=True)
        store.put_attempts([make_attempts(account="alice", count=7), make_attempts(account="bob", count=2)])
        store.put_alert(make_alert(), pbx="pbx")
        now = time.time()
        store.put_trust(source_network(make_ban().address), "300", now - 50, now + 5000, now - 50)

    fill(put)


def test_the_story_of_a_banned_address_is_whole(call, offender):
    result = call("why", "203.0.113.7")
    assert result.exit_code == 0
    story = result.stdout
    assert story.startswith("203.0.113.7 is banned since ")
    for part in (
        "rule 'scan', step 1 of the ladder, seen by pbx: 5 unknown accounts in 41 s",
        "InvalidAccountID PJSIP/UDP account 'alice' from 203.0.113.7 port 5060",
        "earlier",
        "2 accounts that don't exist, in 9 attempts ('alice', 'bob')",
        "→ banned for 1 h, rule 'scan', step 1 of the ladder",
        "phone about '100': a phone with an old password",
        "logged in as '300'",
        "amiwatch unban 203.0.113.7",
        "amiwatch allow 203.0.113.7",
    ):
        assert part in story


def test_machines_get_the_story_as_one_object(call, offender):
    story = json.loads(call("why", "203.0.113.7", "--json").stdout)
    assert (story["is_banned"], story["is_known"], story["network"]) == (True, True, "203.0.113.7/32")
    assert story["ban"]["rule"] == "scan"
    assert len(story["bans"]) == 2
    assert story["evidence"][0]["at"].endswith("Z")
    assert [one["account"] for one in story["tried"]] == ["alice", "bob"]
    assert story["trust"][0]["account"] == "300"


def test_an_address_that_was_never_seen_is_a_no(call, offender):
    result = call("why", "198.51.100.1")
    assert result.exit_code == 1
    assert "198.51.100.1 was never seen." in result.stdout
    assert "amiwatch ban 198.51.100.1" in result.stdout


def test_an_address_inside_a_banned_network_is_told_of_it(call, fill):
    ban = make_ban("198.51.100.0/24", seconds=None)
    fill(lambda store: store.put_ban(ban, pbx="pbx", origin="rule", is_enforced=True))
    story = call("why", "198.51.100.5").stdout
    assert "for ever, because 198.51.100.0/24 is." in story
    assert "amiwatch unban 198.51.100.0/24" in story
    assert "not banned as a whole, but 1 ban inside it" in call("why", "198.51.0.0/16").stdout


def test_an_address_inside_a_network_that_was_banned_is_told_which(call, fill):
    def put(store) -> None:
        for text, ago in (("198.51.100.0/24", 60), ("203.0.113.0/24", 9000)):
            store.put_ban(make_ban(text, ago=ago), pbx="pbx", origin="rule", is_enforced=True)
        store.put_lift(make_ban("198.51.100.0/24").network, at=time.time(), by="bob", reason="mistake")

    fill(put)
    story = call("why", "198.51.100.5").stdout
    assert story.startswith("198.51.100.5 is not banned; 198.51.100.0/24 was, until its ban was lifted.\n")
    assert "why then" in story
    assert call("why", "203.0.113.5").stdout.startswith(
        "203.0.113.5 is not banned; 203.0.113.0/24 was, until its ban expired.\n"
    )
    assert call("why", "198.51.100.0/24").stdout.startswith(
        "198.51.100.0/24 is not banned; its last ban was lifted at "
    )


def test_who_is_never_banned_is_told_why(call, fill):
    fill(lambda store: store.put_allow(AllowEntry("198.51.100.0/24", "the office", time.time(), None, "alice")))
    assert "198.51.100.0/24 is allowed by alice (the office)" in call("why", "198.51.100.9").stdout
    assert "loopback" in call("why", "127.0.0.9").stdout
    settings = {"AMIWATCH_ALLOWLIST": "192.0.2.0/24"}
    assert "on the allowlist of the settings" in call("why", "192.0.2.1", **settings).stdout
    assert "private" in call("why", "10.0.0.1", AMIWATCH_ALLOW_PRIVATE="true").stdout


@pytest.mark.kernel
def test_names_that_no_name_server_answers_for_are_told_and_waited_for_but_once(program, fill):
    fill(lambda store: store.put_ban(make_ban(), pbx="", origin="rule", is_enforced=True))
    with NameServer({}, silent=frozenset({"one.example", "two.example"})):
        result = program("why", "203.0.113.7", AMIWATCH_ALLOWLIST="one.example,two.example")
        replayed = program("replay", "--since", "1h", "--policy", "closed", AMIWATCH_ALLOWLIST="one.example")
    assert replayed.stderr.count("no name server answered") == 1
    assert result.returncode == 0
    told = (
        "amiwatch: no name server answered within 2 s for 'one.example', 'two.example': whom they protect is not known"
    )
    assert " ".join(result.stderr.split()).startswith(told)
    assert "is banned since" in result.stdout


def test_an_ipv6_address_stands_for_its_64(call, fill):
    fill(lambda store: store.put_ban(make_ban("2001:db8:1:2::/64"), pbx="pbx", origin="rule", is_enforced=True))
    assert call("why", "2001:db8:1:2::99").stdout.startswith("2001:db8:1:2::/64 is banned since")


def test_hostile_text_is_visible_and_bounded(call, fill):
    def put(store) -> None:
        store.put_ban(make_ban(reason=HOSTILE, account=HOSTILE), pbx="pbx", origin="rule", is_enforced=True)
        store.put_attempts([make_attempts(account=f"{HOSTILE}{number}") for number in range(50)])
        store.put_alert(make_alert(account=HOSTILE, reason=HOSTILE), pbx="pbx")

    fill(put)
    text = call("why", "203.0.113.7").stdout
    assert all(line.isprintable() for line in text.splitlines())
    assert "and 45 more" in text


@pytest.fixture
def lived(fill) -> Callable[..., None]:
    """Let a real judge live through events, and keep what the daemon keeps."""

    def through(*events: SecurityEvent) -> None:
        fill(lambda store: (live(store, events), None)[1])

    return through


def lines(text: str, part: str) -> list[str]:
    """Return the items of one part of a story."""
    found: list[str] = []
    name = ""
    for line in text.splitlines()[1:]:
        name = line[:10].strip() or name
        found += [line[11:]] if name == part else []
    return found


def test_what_came_is_told_in_the_order_of_time(call, lived):
    lived(
        *attempts(Case.UNKNOWN_ACCOUNT_ANSWERED, *"123456", source=SOURCE, at=NOW - 50 * HOUR),
        *attempts(Case.UNKNOWN_ACCOUNT, *"1234", source=SOURCE, at=NOW - HOUR, transport="TLS"),
    )
    came = [line[21:] for line in lines(call("why", SOURCE).stdout, "what came")]
    assert came[0].startswith(
        "5 accounts that don't exist ('1', '2', '3', '4', '5'), 4 with a password, in 4 s, over UDP"
    )
    assert came[1].startswith("→ banned for ")
    assert came[2].startswith("4 accounts that don't exist ('1', '2', '3', '4'), in 3 s, over TLS")
    assert came[3].endswith("rule 'scan_rush', step 2 of the ladder")


def test_what_a_ban_is_for_is_told_before_it_however_its_time_was_rounded(call, fill):
    at = NOW - 60 + 0.578

    def put(store) -> None:
        store.put_attempts([replace(make_attempts(count=4), first_at=at + 0.002, last_at=at + 0.002)])
        store.put_ban(replace(make_ban(), at=at), pbx="pbx", origin="rule", is_enforced=True)

    fill(put)
    came = lines(call("why", "203.0.113.7").stdout, "what came")
    assert "doesn't exist" in came[0]
    assert "→ banned" in came[1]


def test_a_ban_that_was_lifted_is_told_with_when_by_whom_and_why(call, fill):
    def put(store) -> None:
        store.put_ban(make_ban(ago=600), pbx="pbx", origin="rule", is_enforced=True)
        store.put_lift(make_ban().network, at=time.time() - 300, by="bob", reason="our new carrier")
        store.put_ban(make_ban(ago=60), pbx="pbx", origin="rule", is_enforced=True)

    fill(put)
    came = [line[21:] for line in lines(call("why", "203.0.113.7").stdout, "what came")]
    assert [words.split()[1] for words in came] == ["banned", "lifted", "banned"]
    assert came[1] == "→ lifted by bob: our new carrier"


def test_every_policy_says_what_it_would_have_done(call, lived):
    lived(*attempts(Case.UNKNOWN_ACCOUNT, *"1234", source=SOURCE, at=NOW - HOUR, transport="TLS"))
    otherwise = lines(call("why", SOURCE).stdout, "otherwise")
    assert [line.split(":")[0].removesuffix(" (in force)") for line in otherwise[:-1]] == list(POLICIES)
    assert otherwise[0].startswith("office (in force): banned ")
    assert "at its failed attempt 4, by rule 'scan_rush'" in otherwise[0]
    assert "at its failed attempt 1" in next(line for line in otherwise if line.startswith("closed"))
    otherwise = lines(call("why", SOURCE, AMIWATCH_POLICY="closed").stdout, "otherwise")
    assert otherwise[0].startswith("closed (in force): banned ")


def test_a_policy_that_the_settings_do_not_fit_is_told_with_the_reason(call, lived):
    lived(*attempts(Case.UNKNOWN_ACCOUNT, *"1234", source=SOURCE, at=NOW - HOUR, transport="TLS"))
    wide = {"AMIWATCH_TRUST_FACTOR": "12"}  # 24 times 12 is more than is kept of a source
    result = call("why", SOURCE, "--json", **wide)
    assert result.exit_code == 0
    record = json.loads(result.stdout)
    assert {one["policy"] for one in record["otherwise"]} == POLICIES.keys() - {"carrier"}
    (mistake,) = record["policies_that_do_not_fit"].values()
    assert mistake.startswith(
        "AMIWATCH_TRUST_FACTOR: 12 times the limit 12 of the rule 'scan_rush' is more than the 96"
    )
    told = [line for line in lines(call("why", SOURCE, **wide).stdout, "otherwise") if line.startswith("carrier")]
    assert told == [f"carrier: not told, because your settings don't fit it: {mistake}"]


def test_what_a_carrier_is_told_every_hour_is_one_item(call, lived):
    lived(
        *(
            event
            for call_number in range(1200)
            for event in attempts(
                Case.UNKNOWN_ACCOUNT,
                f"+4930{1_000_000 + call_number}",
                source=SOURCE,
                at=NOW - 13_000 + 10 * call_number,
            )
        )
    )
    story = call("why", SOURCE).stdout
    told = [line for line in lines(story, "what came") if "alert" in line]
    assert len(told) == 1
    assert "→ alert unknown_carrier (4 times until " in told[0]
    assert sum("no password was ever tried" in line for line in lines(story, "why not")) == 1


def test_the_phones_of_an_office_are_trusted_in_one_line(call, fill, lived):
    lived(*attempts(Case.WRONG_PASSWORD, "300", source=SOURCE, at=NOW - HOUR))
    network = source_network(make_ban(SOURCE).address)

    def put(store) -> None:
        for number in range(12):
            store.put_trust(network, str(300 + number), NOW - DAY, NOW + 5 * DAY + number, NOW - 100 + number)
        store.put_trust(network, "999", NOW - 9 * DAY, NOW - DAY, NOW - 8 * DAY)

    fill(put)
    trust = lines(call("why", SOURCE).stdout, "trust")
    assert len(trust) == 2
    assert trust[0].startswith("logged in as '311', '310', '309', '308', '307' and 7 more, first ")
    assert "; trusted until " in trust[0]
    assert trust[1].startswith("logged in as '999', ")
    assert "; its trust ran out " in trust[1]


def test_requests_that_named_their_account_and_were_never_answered_are_told_with_it(call, lived):
    lived(*attempts(Case.NO_CREDENTIALS, *["1001"] * 100, source=SOURCE, at=NOW - 6000, step=60))
    story = call("why", SOURCE).stdout
    assert "requests as '1001', whose challenge nobody answered" in lines(story, "what came")[0]
    assert "'1001', which exists, but no challenge is ever answered" in lines(story, "why not")[0]
    assert "phone_kept_out (account '1001')" in lines(story, "to do")[0]


def test_who_was_never_banned_is_told_how_far_from_it(call, lived):
    lived(*attempts(Case.UNKNOWN_ACCOUNT, "1000", "1001", source=SOURCE, at=NOW - HOUR, transport="TLS"))
    story = call("why", SOURCE).stdout
    assert story.startswith(f"{SOURCE} is not banned, and never was.\n")
    assert lines(story, "why not") == ["it came to 2 of 4 unknown accounts within 10 s (rule 'scan_rush')"]
    assert lines(story, "trust") == ["none: nobody ever logged in from there with a password"]


def test_a_broken_phone_is_told_what_to_do_at_the_phone(call, lived):
    lived(*attempts(Case.WRONG_PASSWORD, *["200"] * 30, source=SOURCE, at=NOW - 3 * HOUR, step=60))
    story = call("why", SOURCE).stdout
    assert lines(story, "what came")[0][21:] == (
        "30 wrong passwords for the account '200', which exists, in 29 min, one every 1 min, over UDP"
    )
    assert "at a steady pace: probably a phone with an old password" in lines(story, "why not")[0]
    assert "but was excused" in lines(story, "why not")[1]
    assert lines(story, "to do")[0] == (
        f"broken_phone (account '200'): {ALERTS['broken_phone']} See docs/alerts.md#broken_phone"
    )


def test_an_office_that_fails_is_told_of_its_trust(call, fill, lived):
    lived(
        *attempts(Case.RIGHT_PASSWORD, "300", "301", source=SOURCE, at=NOW - 2 * DAY),
        *attempts(Case.WRONG_PASSWORD, *["300"] * 12, source=SOURCE, at=NOW - HOUR, transport="TLS"),
    )
    network = source_network(make_ban(SOURCE).address)
    fill(lambda store: store.put_trust(network, "300", NOW - 2 * DAY, NOW + 5 * DAY, NOW - 2 * DAY))
    story = call("why", SOURCE).stdout
    assert "2 logins with the right password as '300', '301'" in lines(story, "what came")[0]
    assert lines(story, "trust")[0].startswith("logged in as '300', first ")
    assert "phones of ours log in from there" in lines(story, "why not")[0]


def test_who_takes_part_in_a_campaign_is_told_so(call, lived):
    lived(
        *(
            event
            for last in range(30)
            for event in attempts(Case.WRONG_PASSWORD, "500", source=f"198.51.100.{last + 1}", at=NOW - 900 + 3 * last)
        )
    )
    story = call("why", "198.51.100.7").stdout
    assert "account_attacked about '500'" in lines(story, "alerts")[0]
    story = call("why", "--account", "500").stdout
    assert story.startswith("The account '500' never logged in and failed from 30 addresses, as far as is kept.\n")
    assert len(lines(story, "failed")) == SHOWN + 1
    assert "account_attacked" in lines(story, "alerts")[0]
    assert "docs/alerts.md#account_attacked" in lines(story, "to do")[0]


def test_the_story_of_an_account_names_who_logged_in_and_who_is_banned(call, lived):
    lived(
        *attempts(Case.RIGHT_PASSWORD, "200", source="192.0.2.7", at=NOW - 2 * HOUR),
        *attempts(Case.WRONG_PASSWORD, *["200"] * 30, source=SOURCE, at=NOW - 900, transport="TLS"),
    )
    story = call("why", "-a", "200").stdout
    assert story.startswith("The account '200' logged in from 1 address and failed from 1 address")
    assert lines(story, "logged in")[0].startswith("192.0.2.7: 1 login, last ")
    assert lines(story, "failed")[0].startswith(f"{SOURCE}: ")
    assert lines(story, "failed")[0].endswith(", banned")
    record = json.loads(call("why", "-a", "200", "--json").stdout)
    assert {(one["address"], one["outcome"], one["is_banned"]) for one in record["sources"]} == {
        ("192.0.2.7", "success", False),
        (SOURCE, "guess", True),
    }


def test_an_account_that_was_never_seen_is_a_no(call, offender):
    result = call("why", "--account", "nobody")
    assert (result.exit_code, result.stdout) == (1, "The account 'nobody' was never seen.\n")


@pytest.mark.parametrize("arguments", [(), ("192.0.2.1", "--account", "200")])
def test_either_an_address_or_an_account_is_asked_for(call, fill, arguments):
    fill(lambda store: None)
    result = call("why", *arguments)
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1)


def test_a_network_is_told_by_its_sources(call, lived):
    lived(
        *attempts(Case.UNKNOWN_ACCOUNT, *"1234", source=SOURCE, at=NOW - 900, transport="TLS"),
        *attempts(Case.UNKNOWN_ACCOUNT, "1", source="203.0.113.51", at=NOW - 800, transport="TLS"),
    )
    story = call("why", "203.0.113.0/24").stdout
    assert story.startswith("203.0.113.0/24 is not banned as a whole, but 1 ban inside it.\n")
    first, second = lines(story, "who")
    assert first.startswith(f"{SOURCE}: 4 failed attempts on 4 accounts, last ")
    assert first.endswith(", banned")
    assert not second.endswith(", banned")
    assert "closed: 2 sources banned" in "\n".join(lines(story, "otherwise"))


def test_neighbours_in_one_64_share_a_story(call, lived):
    lived(
        *(
            event
            for n in range(9)
            for event in attempts(Case.UNKNOWN_ACCOUNT, str(n), source=f"2001:db8:1:2::{n + 1}", at=NOW - 900 + n)
        )
    )
    story = call("why", "2001:db8:1:2::5").stdout
    assert story.startswith("2001:db8:1:2::/64 is banned since ")
    assert "5 accounts that don't exist" in lines(story, "what came")[0]
    assert "office (in force): banned" in lines(story, "otherwise")[0]


def test_a_flood_of_visits_stays_readable(call, lived):
    lived(*attempts(Case.UNKNOWN_ACCOUNT, *["7"] * 60, source=SOURCE, at=NOW - 6 * DAY, step=7000.0))
    assert 0 < len(lines(call("why", SOURCE).stdout, "what came")) <= SHOWN


def test_machines_are_told_what_came_and_what_else_could_have_been(call, lived):
    lived(*attempts(Case.UNKNOWN_ACCOUNT, *"1234", source=SOURCE, at=NOW - HOUR, transport="TLS"))
    story = json.loads(call("why", SOURCE, "--json").stdout)
    assert [(one["attempts"], one["what"][:27]) for one in story["visits"]] == [(4, "4 accounts that don't exist")]
    assert [one["policy"] for one in story["otherwise"]] == list(POLICIES)
    assert (story["otherwise"][0]["rule"], story["otherwise"][0]["failed_attempts"]) == ("scan_rush", 4)


def test_hostile_accounts_are_visible_in_every_story(call, lived):
    names: Iterable[str] = [f"\x1b[31m{n}\u202e" for n in range(4)]
    lived(
        *attempts(Case.UNKNOWN_ACCOUNT, *names, source=SOURCE, at=NOW - HOUR, transport="TLS"),
        *attempts(Case.UNKNOWN_ACCOUNT, "\x1b[31m0\u202e", source="203.0.113.51", at=NOW - HOUR),
    )
    for arguments in ((SOURCE,), ("203.0.113.0/24",), ("--account", "\x1b[31m0\u202e"), ("203.0.113.51",)):
        result = call("why", *arguments)
        assert result.exit_code == 0
        assert all(line.isprintable() for line in result.stdout.splitlines())


def test_an_alert_that_explains_no_ban_is_told_as_what_it_is(call, lived):
    assert ALERTS.keys() > INSTEAD
    lived(
        *attempts(Case.WRONG_PASSWORD, *["400"] * 7, source=SOURCE, at=NOW - HOUR, step=4),
        *attempts(Case.RIGHT_PASSWORD, "400", source=SOURCE, at=NOW - HOUR + 60),
    )
    story = call("why", SOURCE).stdout
    assert lines(story, "why not") == [
        "it came to 7 of 10 password guesses on existing accounts within 10 min (rule 'guess')"
    ]
    assert "password_found about '400': '400' logged in after 7 wrong passwords" in lines(story, "alerts")[0]
    assert lines(story, "to do")[0].startswith("password_found (account '400'): Change the password")
    assert lines(story, "trust")[0].startswith("none: its logins earned none")


def test_machines_get_a_bounded_number_of_bans(call, fill):
    def put(store) -> None:
        for number in range(1200):
            store.put_ban(make_ban(f"203.0.{number // 250}.{number % 250}"), pbx="pbx", origin="rule", is_enforced=True)

    fill(put)
    story = json.loads(call("why", "203.0.0.0/16", "--json").stdout)
    assert (len(story["bans"]), story["is_banned"]) == (KEPT, False)
    assert "1200 bans inside it" in call("why", "203.0.0.0/16").stdout

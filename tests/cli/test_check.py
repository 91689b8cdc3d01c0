import asyncio
import json
import os
import subprocess
import sys
import time
from ipaddress import ip_network

import pytest

from amiwatch.store.records import AllowEntry, Status
from amiwatch.store.writer import Store
from amiwatch.testing.asterisk import FakeAsterisk, User
from tests.nameserver import NameServer


@pytest.fixture
def check(environ, tmp_path):
    """Run ``amiwatch check`` beside the test's Asterisk; returns code, text and findings."""

    async def check(pbx: FakeAsterisk, **more: str) -> tuple[int, str, list[dict]]:
        settings = {**environ, "AMIWATCH_AMI__PORT": str(pbx.port), **more}

        async def run(*options: str) -> tuple[int, str]:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "amiwatch",
                "check",
                *options,
                env=settings,
                cwd=tmp_path,
                stdout=asyncio.subprocess.PIPE,
            )
            out, _ = await asyncio.wait_for(process.communicate(), 20)
            return process.returncode or 0, out.decode()

        (code, text), (_, found) = await asyncio.gather(run(), run("--json"))
        return code, text, json.loads(found)

    return check


def bad(findings: list[dict]) -> list[str]:
    return [one["subject"] for one in findings if one["mark"] == "bad"]


async def test_where_all_is_right_nothing_is_bad(check, fake_asterisk, path):
    code, text, findings = await check(fake_asterisk)
    assert (code, bad(findings)) == (0, [])
    assert "✓ ami       pbx: Asterisk 22 at 127.0.0.1" in text
    assert "logged in and hearing" in text
    assert "✗" not in text
    assert not path.exists()  # nothing is changed


async def test_an_asterisk_that_is_away_or_refuses_is_bad(check, fake_asterisk):
    code, text, _ = await check(fake_asterisk, AMIWATCH_AMI__SECRET="wrong")
    assert code == 77
    assert "✗ ami" in text
    await fake_asterisk.stop()
    assert (await check(fake_asterisk))[0] == 69


async def test_a_user_that_hears_nothing_or_may_too_much_is_told(check, fake_asterisk):
    fake_asterisk.users["deaf"] = User("secret", read=frozenset({"call"}))
    code, text, _ = await check(fake_asterisk, AMIWATCH_AMI__USERNAME="deaf")
    assert code == 69
    assert "deaf" in text
    assert "add 'read = security' to [deaf]" in text
    fake_asterisk.users["mighty"] = User("secret", write=frozenset({"system", "command"}))
    code, text, _ = await check(fake_asterisk, AMIWATCH_AMI__USERNAME="mighty")
    assert code == 0
    assert "may do more than listen" in text


async def test_an_old_asterisk_is_doubted(check, fake_asterisk):
    fake_asterisk.banner = b"Asterisk Call Manager/5.0.2\r\n"
    code, text, _ = await check(fake_asterisk)
    assert code == 0
    assert "Asterisk 16, before 16.26" in text


async def test_every_mistake_of_the_settings_has_its_line(check, fake_asterisk):
    code, text, findings = await check(fake_asterisk, AMIWATCH_MODE="maybe", AMIWATCH_FOO="1")
    assert code == 78
    assert bad(findings) == ["settings", "settings"]
    assert text.count("✗ settings") == 2


async def test_a_missing_secret_is_a_mistake_and_the_rest_is_looked_at(check, fake_asterisk):
    code, _, findings = await check(fake_asterisk, AMIWATCH_AMI__SECRET="")
    assert code == 78
    assert "database" in [one["subject"] for one in findings]


async def test_a_database_without_a_place_is_bad(check, fake_asterisk, tmp_path):
    code, text, findings = await check(fake_asterisk, AMIWATCH_DATABASE=str(tmp_path / "nowhere" / "a.db"))
    assert (code, bad(findings)) == (74, ["database"])
    assert "make the directory" in text
    junk = tmp_path / "junk.db"
    junk.write_bytes(b"no database at all" * 100)
    assert (await check(fake_asterisk, AMIWATCH_DATABASE=str(junk)))[0] == 74


@pytest.mark.kernel
async def test_a_name_of_the_allowlist_without_an_address_is_bad(check, fake_asterisk, path):
    code, text, findings = await check(fake_asterisk, AMIWATCH_ALLOWLIST="localhost")
    assert (code, bad(findings)) == (0, [])
    assert "✓ allowlist 1 name looked up" in text
    async with await Store.open(path) as store:
        store.put_allow(AllowEntry("office.invalid", "", time.time(), None, "alice"))
        await store.flush()
    with NameServer({}):
        code, text, findings = await check(fake_asterisk, AMIWATCH_ALLOWLIST="localhost")
    assert (code, bad(findings)) == (78, ["allowlist"])
    assert "'office.invalid' has no address now" in text


@pytest.mark.kernel
async def test_names_for_which_no_name_server_answers_are_told_together_after_two_seconds(check, fake_asterisk):
    names = [f"carrier{number}.example" for number in range(40)]  # more than are asked for at once
    with NameServer({"office.example": "192.0.2.1"}, silent=frozenset(names)):
        code, text, _ = await check(fake_asterisk, AMIWATCH_ALLOWLIST=",".join(["office.example", *names]))
    assert code == 78
    assert "no name server answered within 2 s for 'carrier0.example', 'carrier1.example'" in " ".join(text.split())
    assert "'office.example'" not in text


async def test_tripwires_are_suggested_and_one_that_logs_in_is_doubted(check, fake_asterisk, path):
    _, _, findings = await check(fake_asterisk)
    (hint,) = [one["to_do"] for one in findings if one["text"] == "no tripwire accounts are set"]
    assert hint.startswith("AMIWATCH_TRIPWIRES=suggested ")
    async with await Store.open(path) as store:
        now = time.time()
        store.put_trust(ip_network("192.0.2.7"), "Root", now, now + 60, now)
        store.put_trust(ip_network("192.0.2.7"), "1001", now, now + 60, now)
        await store.flush()
    _, _, findings = await check(fake_asterisk, AMIWATCH_TRIPWIRES="suggested")
    doubts = [one["text"] for one in findings if one["mark"] == "doubt" and "tripwire" in one["text"]]
    assert doubts == ["the tripwire 'Root' is an account that logs in: one mistake of its phone would be its ban"]


async def test_bans_on_events_of_chan_sip_are_doubted(check, fake_asterisk):
    _, text, _ = await check(fake_asterisk, AMIWATCH_BAN_CHAN_SIP="on")
    assert "! settings  AMIWATCH_BAN_CHAN_SIP: chan_sip reports whatever" in text


@pytest.mark.parametrize(
    ("settings", "to_do"),
    [
        ({"AMIWATCH_MODE": "maybe"}, "correct it where it stands"),
        ({"AMIWATCH_AMI__SECRET": ""}, "set the secret of [amiwatch] in manager.conf"),
        ({"AMIWATCH_AMI__SECRET": "wrong"}, "compare name, secret and permit with [amiwatch]"),
        ({"AMIWATCH_AMI__HOST": "127.0.0.2"}, "see that Asterisk runs"),
        ({"AMIWATCH_DATABASE": "junk.db"}, "'amiwatch run' sets it aside"),
        ({"AMIWATCH_DATABASE": "."}, "set AMIWATCH_DATABASE to another file"),
        ({"AMIWATCH_DATABASE": "nowhere/a.db"}, "make the directory"),
    ],
)
async def test_whatever_is_wrong_comes_with_what_to_do(check, fake_asterisk, tmp_path, settings, to_do):
    (tmp_path / "junk.db").write_bytes(b"no database at all" * 100)
    code, _, findings = await check(fake_asterisk, **settings)
    wrong = [one["to_do"] for one in findings if one["mark"] == "bad"]
    assert code != 0
    assert all(wrong)
    assert to_do in " ".join(wrong)


async def test_what_answers_and_is_no_asterisk_comes_with_what_to_do(check, fake_asterisk):
    fake_asterisk.banner = b"SSH-2.0-OpenSSH_9.2\r\n"
    code, text, _ = await check(fake_asterisk)
    assert code == 76
    assert "→ set host and port" in text


@pytest.mark.kernel
async def test_a_fresh_machine_has_nothing_to_mend_where_the_daemon_places_its_rule(check, fake_asterisk):
    settings = {"AMIWATCH_FIREWALL": "ipset", "AMIWATCH_SET_NAME": "clicheck"}
    code, text, findings = await check(fake_asterisk, **settings)
    assert (code, bad(findings)) == (0, [])
    assert "! rule      IPv4: missing" in text
    assert "'amiwatch run' places it" in text
    assert "'amiwatch run' makes them" in text
    code, text, findings = await check(fake_asterisk, **settings, AMIWATCH_DROP_RULE="manual")
    assert (code, bad(findings)) == (69, ["rule"])
    assert "then place your rule" in text


@pytest.mark.kernel
async def test_a_rule_that_is_missing_while_the_daemon_runs_is_bad(check, fake_asterisk, path):
    async with await Store.open(path) as store:
        store.put_status(Status(os.getpid(), time.time(), time.time(), "enforce", "0", "ipset", {}))
        await store.flush()
    settings = {"AMIWATCH_FIREWALL": "ipset", "AMIWATCH_SET_NAME": "clicheck"}
    code, text, findings = await check(fake_asterisk, **settings)
    assert (code, set(bad(findings))) == (69, {"rule"})
    assert "→ amiwatch firewall install" in text
    assert (await check(fake_asterisk, **settings, AMIWATCH_MODE="observe"))[0] == 0


@pytest.mark.kernel
async def test_a_rule_of_the_administrator_counts_as_one(check, fake_asterisk):
    settings = {"AMIWATCH_FIREWALL": "ipset", "AMIWATCH_SET_NAME": "climanual", "AMIWATCH_DROP_RULE": "manual"}
    for number, family in ((4, "inet"), (6, "inet6")):
        name = f"climanual{number}"
        command = ["ipset", "create", name, "hash:net", "family", family, "timeout", "0", "counters"]
        subprocess.run(command, check=True)
    code, text, _ = await check(fake_asterisk, **settings)
    assert code == 69
    assert "climanual4: no rule uses it" in text
    rule = ["INPUT", "-m", "set", "--match-set"]
    for number, program in ((4, "iptables"), (6, "ip6tables")):
        subprocess.run([program, "-A", *rule, f"climanual{number}", "src", "-j", "DROP"], check=True)
    code, text, _ = await check(fake_asterisk, **settings)
    for number, program in ((4, "iptables"), (6, "ip6tables")):
        subprocess.run([program, "-D", *rule, f"climanual{number}", "src", "-j", "DROP"], check=True)
        subprocess.run(["ipset", "destroy", f"climanual{number}"], check=True)
    assert code == 0
    assert "climanual6: used by 1 rule" in text

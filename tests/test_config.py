import os
import re
import subprocess
import sys
from dataclasses import fields, replace
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from amiwatch.config import Settings, duration_text, load, parse_duration
from amiwatch.config.texts import MAX_DURATION
from amiwatch.config.written import described, example, rules_table, settings_table
from amiwatch.errors import ConfigurationError
from amiwatch.firewall.names import checked_prefix
from amiwatch.firewall.scope import EVERYTHING, VOIP_PORTS, Scope
from amiwatch.judgement.rules import CLOSED, OFFICE, POLICIES, TRIPWIRES, Policy
from amiwatch.judgement.sources import HISTORY

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / ".env.example"
PAGE = ROOT / "docs" / "configuration.md"
SECRET = "correct-horse-#7"


@pytest.fixture
def read(tmp_path: Path):
    """Load settings from nothing but what the test gives."""

    def read(env_text: str | None = None, toml: str | None = None, overrides=None, **environ: str) -> Settings:
        env_file, config = tmp_path / ".env", tmp_path / "amiwatch.toml"
        for path, text in ((env_file, env_text), (config, toml)):
            if text is not None:
                path.write_text(text)
                path.chmod(0o600)
        return load(
            environ={"AMIWATCH_" + name: value for name, value in environ.items()},
            env_file=env_file,
            default_config=config,
            secrets_directory=tmp_path / "secrets",
            overrides=overrides,
        )

    return read


@pytest.fixture
def mistakes(read):
    """Return the mistakes that loading finds."""

    def mistakes(*args: Any, **kwargs: Any) -> list[str]:
        with pytest.raises(ConfigurationError) as caught:
            read(*args, **kwargs)
        assert SECRET not in repr(caught.value) + str(caught.value.mistakes)
        return caught.value.mistakes

    return mistakes


# ── durations ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("10s", 10),
        ("10m", 600),
        ("1h30m", 5400),
        ("24h", 86400),
        ("7d", 604800),
        ("2w", 1209600),
        (" 5m ", 300),
    ],
)
def test_a_duration_is_read_as_people_write_it(text: str, seconds: int):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", " ", "10x", "m", "1.5h", "-5", "30m1h", "10M", "1h 30m", "٣m", "1m1m", "P1D", "1_0"]
)
def test_what_is_no_duration_is_said_with_examples(text: str):
    with pytest.raises(ValueError, match=re.escape(f"{text!r} is no duration; write 90, 10m, 24h or 7d")):
        parse_duration(text)


@pytest.mark.parametrize("text", ["0", "0s", "3651d", "999999999999w"])
def test_a_duration_has_bounds(text: str):
    with pytest.raises(ValueError, match="out of range; write 1s to 3650d"):
        parse_duration(text)


@given(st.integers(1, MAX_DURATION))
def test_a_duration_is_read_as_it_was_written(seconds: int):
    assert parse_duration(duration_text(seconds)) == seconds


# ── defaults and sources ─────────────────────────────────────────────────────────────────────────────────────────────


def test_without_settings_the_defaults_of_the_judgement_hold(read):
    settings = read()
    assert settings.judgement_policy() == Policy()
    assert settings.database == Path("/var/lib/amiwatch/amiwatch.db")
    assert settings.warnings == ()


def test_environment_before_env_file_before_secrets_before_toml(read, tmp_path):
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "amiwatch_ami__username").write_text("by-secret\n")
    (tmp_path / "secrets" / "amiwatch_ami__name").write_text("by-secret\n")
    settings = read(
        "AMIWATCH_AMI__HOST=by-file\nAMIWATCH_AMI__USERNAME=by-file\n",
        '[ami]\nhost = "by-toml"\nusername = "by-toml"\nname = "by-toml"\nport = 5039\n',
        AMI__HOST="by-environment",
    )
    ami = settings.ami
    assert (ami.host, ami.username, ami.name, ami.port) == ("by-environment", "by-file", "by-secret", 5039)
    assert read(AMI__HOST="x", overrides={"ami": {"host": "by-argument"}}).ami.host == "by-argument"


def test_credentials_of_systemd_count_more_than_the_secrets_of_docker(tmp_path):
    for name in ("credentials", "secrets"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "amiwatch_ami__secret").write_text(f"  by-{name}\n")
        (tmp_path / name / "somebody_elses").write_text("x")
    settings = load(
        environ={"CREDENTIALS_DIRECTORY": str(tmp_path / "credentials")},
        env_file=None,
        default_config=tmp_path / "none",
        secrets_directory=tmp_path / "secrets",
    )
    assert settings.require_ami()["pbx"].secret.get_secret_value() == "by-credentials"


def test_a_toml_file_may_be_named_by_argument_variable_and_env_file(tmp_path):
    def mode(env_text: str = "", **given: Any) -> str:
        (tmp_path / ".env").write_text(env_text)
        nothing = tmp_path / "nothing"
        given = {"environ": {}} | given
        return load(env_file=tmp_path / ".env", default_config=nothing, secrets_directory=nothing, **given).mode

    config = tmp_path / "my.toml"
    config.write_text("mode = 'observe'\n")
    assert mode() == "enforce"
    assert mode(config=config) == "observe"
    assert mode(environ={"AMIWATCH_CONFIG": str(config)}) == "observe"
    assert mode(f"AMIWATCH_CONFIG={config}\n") == "observe"
    assert mode(environ={"AMIWATCH_CONFIG": ""}) == "enforce"


def test_a_named_file_that_is_missing_is_a_mistake(mistakes, tmp_path):
    path = tmp_path / "missing.toml"
    assert mistakes(CONFIG=str(path)) == [f"{path}: there is no such file; it was named by --config or AMIWATCH_CONFIG"]


def test_the_state_directory_of_systemd_holds_the_database_unless_one_is_set(tmp_path):
    def database(**environ: str) -> Path:
        nothing = tmp_path / "nothing"
        return load(environ=environ, env_file=None, default_config=nothing, secrets_directory=nothing).database

    assert database(STATE_DIRECTORY="/srv/a:/srv/b") == Path("/srv/a/amiwatch.db")
    assert database(STATE_DIRECTORY="/srv/a", AMIWATCH_DATABASE="/srv/c.db") == Path("/srv/c.db")


def test_settings_alone_read_neither_environment_nor_files(monkeypatch):
    monkeypatch.setenv("AMIWATCH_MODE", "observe")
    assert Settings().mode == "enforce"
    assert Settings(mode="observe").mode == "observe"


def test_settings_are_frozen():
    with pytest.raises(ValidationError):
        Settings().mode = "observe"


def test_an_empty_value_counts_as_not_set_and_an_empty_list_as_empty(read):
    assert read(toml="mode = 'observe'", MODE="").mode == "observe"
    assert read(toml="tripwires = ['2000']", TRIPWIRES="[]").tripwires == frozenset()


def test_keys_of_others_in_an_env_file_are_theirs(read):
    assert read("# comment\nPATH=/x\nexport AMIWATCH_MODE='observe'\nPOSTGRES_PASSWORD=x\n").mode == "observe"


def test_nothing_is_filled_into_a_secret(read):
    secret = "a${HOME}b$c#d"
    for settings in (read(f"AMIWATCH_AMI__SECRET={secret}\n"), read(AMI__SECRET=secret)):
        assert settings.require_ami()["pbx"].secret.get_secret_value() == secret


@pytest.mark.parametrize("secret", ["12345", "null", "[1]", "{}", "true"])
def test_a_secret_that_looks_like_json_stays_a_text(read, secret):
    several = read(AMI__SECRET=secret, PBX__BERLIN__SECRET=secret).require_ami()
    assert [pbx.secret.get_secret_value() for pbx in several.values()] == [secret, secret]


# ── mistakes ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_all_mistakes_of_all_sources_are_said_at_once(mistakes, tmp_path):
    found = mistakes(
        "AMIWATCH_TRUST_TIME=soon\nAMIWATCH_NOISE=1\n",
        "keep = '1y'\n[ami]\nport = 0\ntsl = true\n",
        BAN_TIME="10x",
        AMI__SECRET=SECRET + "\r\n",
        FIREWALL="pf",
        FOO="1",
    )
    env_file, toml = tmp_path / ".env", tmp_path / "amiwatch.toml"
    assert sorted(found) == sorted(
        [
            "AMIWATCH_FOO: there is no such setting",
            f"AMIWATCH_NOISE ({env_file}): there is no such setting",
            f"{toml}: ami.tsl: there is no such setting; did you mean ami.tls?",
            f"{toml}: ami.port: 0 is out of range; write 1 to 65535",
            "AMIWATCH_AMI__SECRET: holds a line break or another control character; write it on one line",
            "AMIWATCH_FIREWALL: 'pf' is not known; write one of ipset, nftables, auto, none",
            "AMIWATCH_BAN_TIME: '10x' is no duration; write 90, 10m, 24h or 7d",
            f"AMIWATCH_TRUST_TIME ({env_file}): 'soon' is no duration; write 90, 10m, 24h or 7d",
            f"{toml}: keep: '1y' is no duration; write 90, 10m, 24h or 7d",
        ]
    )


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("AMI_SECRET", "AMI__SECRET"),
        ("SECRET", "AMI__SECRET"),
        ("BANTIME", "BAN_TIME"),
        ("IGNOREIP", "ALLOWLIST"),
        ("MAXRETRY", "RULES__SCAN__LIMIT"),
        ("ALLOW_LIST", "ALLOWLIST"),
        ("DATABSE", "DATABASE"),
        ("PBX__BERLIN__HOTS", "PBX__BERLIN__HOST"),
        ("RULES__SCAN__LIMT", "RULES__SCAN__LIMIT"),
        ("RULES__GUESS", "RULES__GUESS__LIMIT"),
        ("AMI__HOST__NAME", "AMI__NAME"),
    ],
)
def test_an_unknown_variable_is_a_mistake_that_names_the_nearest(mistakes, name, meant):
    assert mistakes(**{name: SECRET}) == [f"AMIWATCH_{name}: there is no such setting; did you mean AMIWATCH_{meant}?"]


def test_a_group_is_no_setting(mistakes):
    assert mistakes(AMI=SECRET) == ["AMIWATCH_AMI: is a group of settings; write for example AMIWATCH_AMI__HOST"]
    (mistake,) = mistakes(toml='ami = "x"')
    assert mistake.endswith("ami: is a group of settings; write for example ami.host")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("AMI__PORT", "70000", "'70000' is out of range; write 1 to 65535"),
        ("AMI__PORT", "sip", "'sip' is no whole number; write 1 to 65535"),
        ("AMI__HOST", "192.0.2.7 ", None),
        ("AMI__HOST", "a b", "'a b' is no host; write a name or an address, without port"),
        ("AMI__TLS", "perhaps", "'perhaps' is neither; write true or false"),
        ("AMI__TLS", "Yes", None),
        ("AMI__LOGIN", "sha", "'sha' is not known; write one of md5, plain"),
        ("AMI__USERNAME", "a\nb", "holds a line break or another control character; write it on one line"),
        ("AMI__USERNAME", "a\udcff", "is not UTF-8"),
        ("BAN_TIME", "[]", "is no ladder; write 1 to 20 durations, for example 1h,24h,7d"),
        ("BAN_TIME", "0", "'0' is out of range; write 1s to 3650d"),
        ("BAN_JITTER", "1", "'1' is no such share; write 0 to 0.9"),
        ("BAN_JITTER", "nan", "'nan' is no such share; write 0 to 0.9"),
        ("BAN_JITTER", "0.25", None),
        ("RECONCILE_TIME", "2h", "'2h' is out of range; write 1s to 1h"),
        ("KEEP", "5m", "'5m' is out of range; write 1h to 3650d"),
        ("TRUST_TIME", "0s", None),
        ("POLICY", "open", "'open' is not known; write one of office, closed, carrier"),
        ("PORTS", "all,5060", "'all,5060' names no ports; write voip, all, or for example 5060,5061,10000-20000"),
        ("PORTS", "0", "'0' is no port; write 5060, 5060-5069 or 5060/udp, between 1 and 65535"),
        ("PORTS", "9-5", "'9-5' is no port; write 5060, 5060-5069 or 5060/udp, between 1 and 65535"),
        ("TRIPWIRES", "[1", """'[1' is no JSON list; write ["one", "two"], or one, two"""),
    ],
)
def test_a_wrong_value_is_said_in_one_sentence(read, mistakes, name, value, said):
    if said is None:
        assert isinstance(read(**{name: value}), Settings)
    else:
        assert mistakes(**{name: value}) == [f"AMIWATCH_{name}: {said}"]


def test_each_wrong_part_of_a_list_is_one_mistake(mistakes):
    found = mistakes(ALLOWLIST="192.0.2.300, 192.0.2.0/33, 2001:db8::g, 10.0.0, ok.example", BAN_TIME="1h,5q,6q")
    assert [said.split(" is no ")[0] for said in found] == [
        "AMIWATCH_ALLOWLIST: '192.0.2.300'",
        "AMIWATCH_ALLOWLIST: '192.0.2.0/33'",
        "AMIWATCH_ALLOWLIST: '2001:db8::g'",
        "AMIWATCH_ALLOWLIST: '10.0.0'",
        "AMIWATCH_BAN_TIME: '5q'",
        "AMIWATCH_BAN_TIME: '6q'",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("mode = 'observe'\nkeep 5\n", r"line 2, column 6: Expected '=' after a key"),
        ("mode = ", "Invalid value"),
        ("secret = 5", "secret: there is no such setting; did you mean ami.secret?"),
        ("[ami]\nsecret = 5", "ami.secret: is no text; put it into quotes"),
        ("keep = 1.5", "keep: 1.5 is no duration"),
        ("keep = true", "keep: True is no duration"),
        ("tripwires = [[1]]", "tripwires: is no list of texts"),
        ("[[pbx]]\nhost = 'x'", "pbx: is a group of settings"),
        ("[pbx.Berlin]\nhost = 'x'", "pbx.Berlin: 'Berlin' is no such name; write 1 to 32 of a-z, 0-9, _ and -"),
        ("[rules.scann]\nlimit = 3", "rules.scann: there is no such rule; the rules are tripwire, scan_rush, scan"),
    ],
)
def test_a_mistake_in_toml_is_said_with_file_and_key(mistakes, tmp_path, text, said):
    (found,) = mistakes(toml=text)
    assert found.startswith(f"{tmp_path / 'amiwatch.toml'}: ")
    assert said in found


def test_a_broken_line_of_an_env_file_is_said_with_its_number(mistakes, tmp_path):
    assert mistakes("AMIWATCH_MODE=observe\n\n'broken\n") == [f"{tmp_path / '.env'}: line 3 is no NAME=value"]


def test_a_file_that_is_no_text_is_a_mistake_and_an_endless_one_has_an_end(mistakes, tmp_path):
    (tmp_path / ".env").write_bytes(b"AMIWATCH_MODE=\xff\n")
    assert mistakes() == [f"{tmp_path / '.env'}: is not UTF-8"]
    (tmp_path / ".env").unlink()
    assert mistakes(CONFIG="/dev/zero") == ["/dev/zero: is longer than 1048576 octets"]


NASTY = [
    "~nobody-here/x",
    "fe80::1%eth0/64",
    "::ffff:192.0.2.1/120",
    "1e400",
    "1" * 5000,
    "[" * 5000,
    "[null]",
    "a\0b",
    "a\x7fb",
]


@given(
    st.dictionaries(
        st.sampled_from([".".join(one.path) for one in described()]) | st.text(max_size=9),
        st.text(max_size=12) | st.sampled_from(NASTY) | st.from_regex(r"[0-9a-f:./%,\[\]\"~ -]{0,14}", fullmatch=True),
        max_size=4,
    )
)
def test_whatever_stands_there_is_read_or_said_in_single_lines(given):
    environ = {"AMIWATCH_" + name.replace(".", "__").upper(): text for name, text in given.items() if name != "config"}
    nothing = Path("nothing-here")
    said: list[str] = []
    try:
        settings = load(environ=environ, env_file=None, default_config=nothing, secrets_directory=nothing)
        assert settings.model_dump_json()
        said += [str(settings.judgement_policy()), *settings.warnings]
    except ConfigurationError as error:
        said += error.mistakes
    assert said
    assert all(line.isprintable() for line in said)


def test_the_value_of_a_secret_is_in_no_text_about_the_settings(read, mistakes):
    settings = read(AMI__SECRET=SECRET, PBX__BERLIN__SECRET=SECRET)
    assert SECRET not in repr(settings) + str(settings) + settings.model_dump_json()
    assert mistakes(toml=f'[ami]\nsecret = "{SECRET}', MODE="x")
    assert mistakes(AMI__SECRET=SECRET + "\n", AMI__SECRT=SECRET, AMI__HOST="a b")


# ── what the values become ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "text",
    [
        '["192.0.2.7", "198.51.100.9/24", "2001:db8::/32", "::ffff:203.0.113.5", "Office.Example.com."]',
        "192.0.2.7,198.51.100.0/24, 2001:db8::/32,203.0.113.5,office.example.com",
        "192.0.2.7 198.51.100.0/24 2001:db8::/32 203.0.113.5 office.example.com 192.0.2.7",
    ],
)
def test_the_allowlist_holds_networks_and_names_however_it_is_written(read, text):
    networks, names = read(ALLOWLIST=text).allowlist
    assert networks == tuple(map(ip_network, ["192.0.2.7", "198.51.100.0/24", "2001:db8::/32", "203.0.113.5"]))
    assert names == ("office.example.com",)
    assert read(f"AMIWATCH_ALLOWLIST={text}\n").allowlist == (networks, names)


def test_host_bits_are_cut_off_and_said(read, tmp_path):
    assert read(ALLOWLIST="198.51.100.9/24,192.0.2.7,192.0.2.0/24,x.example").warnings == (
        "AMIWATCH_ALLOWLIST: '198.51.100.9/24' is taken as the network 198.51.100.0/24",
    )
    (warning,) = read(toml="allowlist = ['0.0.0.0/0']").warnings
    assert warning == f"{tmp_path / 'amiwatch.toml'}: allowlist: '0.0.0.0/0' is everybody; nobody will be banned"


def test_rows_of_the_policy_are_changed_and_switched_off_one_by_one(read):
    policy = read(
        RULES__SCAN__LIMIT="7",
        RULES__SCAN__FIND_TIME="1h",
        RULES__GUESS__LIMIT="0",
        RULES__ATTEMPTS__UNPROVEN_LIMIT="11",
        RULES__ATTEMPTS_DAY__UNPROVEN_LIMIT="0",
        RULES__ONE_ACCOUNT__LIMIT="6",
    ).judgement_policy()
    rules = {rule.name: rule for rule in policy.rules}
    before = {rule.name: rule for rule in OFFICE}
    scan = before["scan"]
    assert rules["scan"] == replace(scan, limit=7, unproven_limit=7 + scan.unproven_limit - scan.limit, find_time=3600)
    assert rules["guess"].limit == 0
    assert rules["attempts"] == replace(before["attempts"], unproven_limit=11)
    assert rules["attempts_day"] == replace(before["attempts_day"], unproven_limit=0)
    assert rules["one_account"] == replace(before["one_account"], limit=6, unproven_limit=6)
    changed = {"scan", "guess", "attempts", "attempts_day", "one_account"}
    assert all(rules[name] == before[name] for name in before.keys() - changed)


@pytest.mark.parametrize("policy", POLICIES)
def test_every_number_of_every_row_of_every_policy_can_be_set(read, policy):
    numbers = {
        f"RULES__{rule.name.upper()}__{name}": value
        for rule in OFFICE
        for name, value in (("LIMIT", "5"), ("UNPROVEN_LIMIT", "6"), ("FIND_TIME", "77s"))
        if (rule.name, name) != ("campaign", "UNPROVEN_LIMIT")
    }
    rules = read(POLICY=policy, **numbers).judgement_policy().rules
    assert {(rule.limit, rule.find_time) for rule in rules} == {(5, 77)}
    assert {rule.unproven_limit for rule in rules if rule.name != "campaign"} == {6}


@pytest.mark.parametrize(
    ("number", "sentence"),
    [
        (
            {"RULES__CAMPAIGN__UNPROVEN_LIMIT": "3"},
            "3 would let one forged packet each ban any addresses; leave it out",
        ),
        ({"RULES__CAMPAIGN__LIMIT": "4"}, "4 would ban people who mistype; write 5 or more, or 0"),
        ({"RULES__CAMPAIGN__LIMIT": "97"}, "'97' is out of range; write 0 to 96"),
        ({"MASS_FAILURE": "3"}, "'3' is out of range; write 4 to 1000, or 0 for never"),
        ({"STORM": "many"}, "'many' is no whole number; write 4 to 1000, or 0 for never"),
        ({"ATTACKED_BY": "1"}, "'1' is out of range; write 2 to 96, or 0 for never"),
        ({"BAD_NEIGHBOURS": "9"}, "'9' is out of range; write 0 to 8"),
        ({"SHARED_ACCOUNTS": "257"}, "'257' is out of range; write 0 to 256"),
        ({"FOUND_AFTER": "0"}, "'0' is out of range; write 2 to 96"),
        ({"ALERTS_A_MINUTE": "-1"}, "'-1' is no whole number; write 1 to 4294967295"),
        ({"MOVED_TIME": "soon"}, "'soon' is no duration; write 90, 10m, 24h or 7d"),
    ],
)
def test_a_number_that_would_do_harm_is_refused_in_one_sentence(mistakes, number, sentence):
    (name,) = number
    assert mistakes(**number) == [f"AMIWATCH_{name}: {sentence}"]


def test_what_several_sources_must_do_together_can_be_set(read):
    numbers = {"MASS_FAILURE": "40", "STORM": "0", "ATTACKED_BY": "7", "ATTACKED_TIME": "2h", "BAD_NEIGHBOURS": "0"}
    policy = read(**numbers, SHARED_ACCOUNTS="0", RULES__CAMPAIGN__LIMIT="0").judgement_policy()
    assert (policy.mass_failure, policy.storm, policy.attacked_by, policy.attacked_time) == (40, 0, 7, 7200)
    assert (policy.bad_neighbours, policy.shared_accounts, policy.campaign.limit) == (0, 0, 0)


def test_every_number_of_the_policy_has_a_setting():
    called = {
        "name": "policy",
        "ladder": "ban_time",
        "unproven_ladder": "unproven_ban_time",
        "unproven_entries": "unproven_share",
        "jitter": "ban_jitter",
    }
    assert {called.get(each.name, each.name) for each in fields(Policy)} <= Settings.model_fields.keys()


def test_evidence_that_could_be_forged_must_not_ban_sooner(mistakes):
    assert mistakes(IPV6_PREFIX="47") == ["AMIWATCH_IPV6_PREFIX: '47' is out of range; write 48 to 64"]
    assert mistakes(RULES__SCAN__UNPROVEN_LIMIT="3") == [
        "AMIWATCH_RULES__SCAN__UNPROVEN_LIMIT: 3 is less than the limit 4, but what could be forged must not ban "
        "sooner; write 4 or more, or 0"
    ]


def test_every_number_of_the_judgement_can_be_set(read):
    policy = read(
        POLICY="closed",
        BAN_TIME="60,2h",
        BAN_JITTER="0",
        DECAY="1d",
        TRUST_TIME="2d",
        TRUST_FACTOR="2",
        ANSWER_TIME="9",
        UNPROVEN_BAN_TIME="30",
        UNPROVEN_BANS="10",
        UNPROVEN_SHARE="0.25",
        IPV6_PREFIX="56",
        SET_SIZE="1000",
        TRIPWIRES="2000, The Boss",
        BAN_CHAN_SIP="on",
        MAX_SOURCES="500",
        MAX_OFFENDERS="600",
        MAX_TRUSTED="700",
    ).judgement_policy()
    assert policy == Policy(
        name="closed",
        rules=CLOSED,
        ladder=(60, 7200),
        jitter=0.0,
        decay=86400,
        trust_time=172800,
        trust_factor=2,
        answer_time=9,
        unproven_ladder=(30,),
        unproven_bans=10,
        unproven_entries=250,
        ipv6_prefix=56,
        tripwires=frozenset({"2000", "The Boss"}),
        ban_chan_sip=True,
        max_sources=500,
        max_offenders=600,
        max_trusted=700,
    )


def test_a_limit_that_memory_can_never_reach_is_a_mistake(mistakes):
    assert mistakes(RULES__GUESS__LIMIT=str(HISTORY + 1)) == [
        f"AMIWATCH_RULES__GUESS__LIMIT: '{HISTORY + 1}' is out of range; write 0 to {HISTORY}"
    ]
    found = mistakes(RULES__SCAN__LIMIT=str(HISTORY // 4 + 1))
    assert len(found) == 1
    assert found[0].startswith(f"AMIWATCH_TRUST_FACTOR: 4 times the limit {HISTORY // 4 + 1} of the rule 'scan'")


@pytest.mark.parametrize(
    ("written", "scope"),
    [
        ("voip", Scope(VOIP_PORTS)),
        ("ALL", EVERYTHING),
        ("5060, 5061,10000-20000", Scope.parse("5060,5061,10000-20000")),
        ('["voip", 5080]', Scope.parse("voip,5080")),
        ("5060/udp", Scope.parse("5060/udp")),
    ],
)
def test_what_the_settings_take_for_ports_the_firewall_reads(read, written, scope):
    assert Scope.parse(read(PORTS=written).ports) == scope


def test_a_word_stands_for_the_suggested_tripwires(read):
    assert read(TRIPWIRES="suggested, 2000").tripwires == {*TRIPWIRES, "2000"}
    assert read(toml='tripwires = ["suggested"]').tripwires == set(TRIPWIRES)


def test_bans_on_events_of_chan_sip_are_warned_about(read):
    (warning,) = read(BAN_CHAN_SIP="on").warnings
    assert warning.startswith("AMIWATCH_BAN_CHAN_SIP: chan_sip reports whatever address the sender writes into Via")


def test_a_tripwire_with_a_character_that_nobody_sees_is_a_mistake(mistakes):
    assert mistakes(TRIPWIRES="2000,20\x7f00") == [
        "AMIWATCH_TRIPWIRES: '20\\x7f00' holds a character that can't be seen; write it without"
    ]


def test_ports_in_toml_may_be_numbers(read):
    assert read(toml="ports = [5060, '5070-5079']").ports == "5060,5070-5079"


@pytest.mark.parametrize("name", ["amiwatch", "a", "a" * 24, "a-b_c9"])
def test_what_the_settings_take_for_a_set_name_the_firewall_takes(read, name):
    assert checked_prefix(read(SET_NAME=name).set_name) == name


@pytest.mark.parametrize("name", ["a" * 25, "9a", "a b", "a.b", "A"])
def test_a_set_name_that_the_firewall_refuses_is_a_mistake(mistakes, name):
    with pytest.raises(ConfigurationError):
        checked_prefix(name)
    assert len(mistakes(SET_NAME=name)) == 1


def test_a_duration_may_be_given_as_a_timedelta():
    assert Settings(keep=timedelta(days=2)).keep == 172800


# ── one Asterisk and several ─────────────────────────────────────────────────────────────────────────────────────────


def test_no_secret_is_a_mistake_only_for_who_needs_it(read):
    settings = read(PBX__BERLIN__HOST="192.0.2.10", AMI__HOST="192.0.2.11")
    with pytest.raises(ConfigurationError) as caught:
        settings.require_ami()
    assert caught.value.mistakes == [
        "AMIWATCH_AMI__SECRET is missing; write the secret of the user 'amiwatch' of manager.conf",
        "AMIWATCH_PBX__BERLIN__SECRET is missing; write the secret of the user 'amiwatch' of manager.conf",
    ]


def test_a_file_of_certificates_that_can_not_be_read_is_a_mistake(read, tmp_path):
    with pytest.raises(ConfigurationError, match="AMIWATCH_AMI__CA_FILE"):
        read(AMI__SECRET="x", AMI__CA_FILE=str(tmp_path / "none.pem")).require_ami()
    (tmp_path / "ca.pem").write_text("")
    assert read(AMI__SECRET="x", AMI__CA_FILE=str(tmp_path / "ca.pem")).require_ami()


def test_one_asterisk_is_one_pbx(read):
    assert list(read(AMI__NAME="berlin").pbxs()) == ["berlin"]


def test_several_asterisks_are_named_by_their_keys_and_the_single_one_joins_only_if_it_is_set(read):
    several = read(toml="[pbx.berlin]\nhost = '192.0.2.10'\nport = 5039\n", PBX__HAMBURG__HOST="192.0.2.20")
    assert {name: (pbx.host, pbx.port) for name, pbx in several.pbxs().items()} == {
        "berlin": ("192.0.2.10", 5039),
        "hamburg": ("192.0.2.20", 5038),
    }
    assert all(name == pbx.name for name, pbx in several.pbxs().items())
    assert list(read(PBX__HAMBURG__HOST="192.0.2.20", AMI__HOST="192.0.2.1").pbxs()) == ["pbx", "berlin", "hamburg"]


def test_a_pbx_of_a_toml_file_gets_its_secret_from_elsewhere(read, tmp_path):
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "amiwatch_pbx__berlin__secret").write_text("x\n")
    settings = read(toml="[pbx.berlin]\nhost = '192.0.2.10'\n")
    assert settings.require_ami()["berlin"].secret.get_secret_value() == "x"


def test_two_asterisks_with_one_name_are_a_mistake(mistakes):
    assert mistakes(PBX__A__NAME="x", PBX__B__NAME="x") == [
        "AMIWATCH_PBX: two Asterisks have the same name; the names are x, x"
    ]


def test_what_leaves_the_secret_open_is_said(read):
    assert len(read(AMI__HOST="192.0.2.10", AMI__LOGIN="plain").warnings) == 1
    assert read(AMI__HOST="127.0.0.1", AMI__LOGIN="plain").warnings == ()
    assert read(AMI__HOST="192.0.2.10", AMI__LOGIN="plain", AMI__TLS="true").warnings == ()
    assert len(read(AMI__TLS="true", AMI__VERIFY="false").warnings) == 1


@pytest.mark.parametrize("name", [".env", "amiwatch.toml"])
def test_a_secret_that_everybody_can_read_is_said(tmp_path, name):
    path = tmp_path / name
    path.write_text(f"AMIWATCH_AMI__SECRET={SECRET}\n" if name == ".env" else f"[ami]\nsecret = '{SECRET}'\n")

    def warnings(mode: int) -> tuple[str, ...]:
        path.chmod(mode)
        nothing = tmp_path / "nothing"
        return load(
            environ={}, env_file=tmp_path / ".env", default_config=tmp_path / "amiwatch.toml", secrets_directory=nothing
        ).warnings

    assert warnings(0o644) == (f"{path}: holds a secret and everybody can read it; chmod o-rwx {path}",)
    assert warnings(0o640) == ()


def test_a_file_that_can_not_be_read_is_a_warning_unless_it_was_named(tmp_path):
    # A directory can't be read as a file, whoever we are: root reads everything else.
    settings = load(environ={}, env_file=tmp_path, default_config=tmp_path, secrets_directory=tmp_path / "nothing")
    assert [warning.startswith(f"{tmp_path}: can't be read") for warning in settings.warnings] == [True, True]
    with pytest.raises(ConfigurationError, match="can't be read"):
        load(environ={}, env_file=None, config=tmp_path, secrets_directory=tmp_path / "nothing")


def test_no_daemon_goes_by_settings_of_which_a_file_was_not_read(tmp_path):
    given = {"AMIWATCH_AMI__SECRET": SECRET}
    settings = load(environ=given, env_file=None, default_config=tmp_path, secrets_directory=tmp_path / "nothing")
    with pytest.raises(ConfigurationError, match="can't be read") as caught:
        settings.require_complete()
    assert caught.value.mistakes == list(settings.warnings)
    load(environ=given, env_file=None, default_config=tmp_path / "none").require_complete()


# ── written down ─────────────────────────────────────────────────────────────────────────────────────────────────────


def page_as_it_should_be() -> str:
    text = PAGE.read_text()
    for name, table in (("settings", settings_table()), ("rules", rules_table())):
        text = re.sub(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", rf"\1\n{table}\n\n\2", text, flags=re.DOTALL)
    return text


def test_the_example_holds_every_setting():
    assert EXAMPLE.read_text() == example(), "write it anew: python -m tests.test_config"


def test_the_page_holds_every_setting():
    assert PAGE.read_text() == page_as_it_should_be(), "write it anew: python -m tests.test_config"


def test_every_field_is_described_with_its_sentence():
    paths = {entry.path for entry in described()}
    assert {(name,) for name in Settings.model_fields} - paths == {("ami",), ("pbx",), ("rules",)}
    assert {("ami", name) for name in Settings.model_fields["ami"].annotation.model_fields} <= paths
    assert all(entry.sentence.endswith(".") for entry in described())


def test_the_example_changes_nothing_as_it_is_and_says_the_defaults(read):
    assert read(EXAMPLE.read_text()) == Settings()
    uncommented = re.sub(r"^#(?=AMIWATCH_(?!PBX))", "", EXAMPLE.read_text(), flags=re.MULTILINE)
    settings = read(uncommented)
    assert settings.judgement_policy() == Policy()
    changed = {"ami", "rules"}  # set, though to nothing new
    assert settings.model_dump(exclude={"rules"}) == Settings().model_dump(exclude={"rules"})
    assert {"ami", "rules"} <= changed & settings.model_fields_set


def test_the_command_of_the_page_says_what_the_page_says(mistakes):
    console = re.search(r"```console\n\$ (.*) amiwatch check\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert console
    given = dict(word.removeprefix("AMIWATCH_").split("=") for word in console[1].split())
    assert mistakes(**given) == re.findall("^✗ settings  (.*)$", console[2], re.MULTILINE)


def test_loading_reads_the_environment_of_the_process_and_its_working_directory(tmp_path):
    (tmp_path / ".env").write_text("AMIWATCH_MODE=observe\n")
    code = "from amiwatch.config import load; s = load(); print(s.mode, s.policy)"
    environ = os.environ | {"AMIWATCH_POLICY": "closed", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environ, capture_output=True, text=True, check=True
    )
    assert done.stdout == "observe closed\n"


if __name__ == "__main__":
    EXAMPLE.write_text(example())
    PAGE.write_text(page_as_it_should_be())

import json
import os
import subprocess
import time
from dataclasses import replace

from amiwatch.store.records import LearnedPort, Status


def daemon(pid: int, ago: float = 0.0, links: str = "pbx hearing", mode: str = "enforce") -> Status:
    now = time.time()
    counters = {"events": 12, "tampered": 3, "links": links, "latency_ms": 0.2}
    return Status(pid, now - 100, now - ago, mode, "1.2.3", "none", counters)


def test_a_daemon_that_hears_is_well(call, fill):
    fill(lambda store: store.put_status(daemon(os.getpid())))
    result = call("status")
    assert result.exit_code == 0
    for part in ("running for 1m", "version 1.2.3", "pbx pbx      hearing", "0 open", "3 blocks refused", "0.2 ms"):
        assert part in result.stdout


def test_what_was_left_out_is_counted_where_anything_was(call, fill):
    found = daemon(os.getpid())
    left = {"shed": 1, "tainted": 2, "alerts_held_back": 3, "sources_forgotten": 1, "sources": 1, "chan_sip": 4}
    fill(lambda store: store.put_status(replace(found, counters={**found.counters, **left})))
    text = call("status").stdout
    for part in (
        "1 event not judged for lack of time\n",
        "2 events not believed, after a block refused\n",
        "3 alerts held back by the ceiling\n",
        "1 source forgotten for lack of room\n",
        "1 source watched\n",
        "4 events of chan_sip, which ban nobody\n",
    ):
        assert part in text
    fill(lambda store: store.put_status(found))
    text = call("status").stdout
    assert "lack of" not in text
    assert "held back" not in text


def test_what_limits_dropped_and_which_ports_were_learned_is_told(call, fill):
    found = daemon(os.getpid())

    def put(store):
        store.put_status(replace(found, counters={**found.counters, "limited": 7}))
        store.put_learned_port(LearnedPort("udp", 38000, "office", 1_795_345_200.0))

    fill(put)
    text = call("status").stdout
    assert "7 packets dropped by tiers and signatures\n" in text
    assert "learned      udp 38000: ports of Asterisk" in text
    assert json.loads(call("status", "--json").stdout)["learned_ports"][0]["port"] == 38000
    assert "38000" not in call("status", AMIWATCH_PORTS="5060").stdout


def test_one_pbx_that_is_not_heard_is_named(call, fill):
    fill(lambda store: store.put_status(daemon(os.getpid(), links="office hearing, branch deaf")))
    result = call("status")
    assert result.exit_code == 69
    assert result.stderr == "amiwatch: not heard: branch.\n"


def test_the_latest_change_of_a_link_counts_and_brings_its_reason(call, fill):
    def put(store) -> None:
        store.put_status(daemon(os.getpid()))
        store.put_link("pbx", time.time() - 50, "hearing", "")
        store.put_link("pbx", time.time() - 5, "lost", "connection reset")
        store.put_gap_begin("pbx", time.time() - 5, "connection reset")

    fill(put)
    result = call("status", "--json")
    told = json.loads(result.stdout)
    assert result.exit_code == 69
    assert [(link["state"], link["detail"]) for link in told["links"]] == [("lost", "connection reset")]
    assert [gap["reason"] for gap in told["gaps"]] == ["connection reset"]


def test_what_an_earlier_daemon_said_of_links_does_not_count(call, fill):
    def put(store) -> None:
        store.put_link("gone", time.time() - 1000, "hearing", "")
        store.put_status(daemon(os.getpid()))

    fill(put)
    assert [link["pbx"] for link in json.loads(call("status", "--json").stdout)["links"]] == ["pbx"]


def test_a_dead_daemon_is_a_no(call, fill):
    dead = subprocess.Popen(["true"])
    dead.wait()
    fill(lambda store: store.put_status(daemon(dead.pid)))
    result = call("status")
    assert (result.exit_code, result.stderr) == (1, "amiwatch: the daemon does not run.\n")
    assert json.loads(call("status", "--json").stdout)["is_running"] is False


def test_a_daemon_without_a_fresh_sign_of_life_is_doubted(call, fill):
    fill(lambda store: store.put_status(daemon(os.getpid(), ago=100)))
    result = call("status")
    assert result.exit_code == 1
    assert f"Process {os.getpid()} exists" in result.stdout


def test_observe_mode_is_said_loudly(call, fill):
    fill(lambda store: store.put_status(daemon(os.getpid(), mode="observe")))
    assert "observe: nothing is blocked" in call("status").stdout


def test_where_none_ever_ran_it_is_a_no_and_no_fault(call, path):
    result = call("status")
    assert result.exit_code == 1
    assert "none ever did" in result.stderr

import socket
import subprocess
import sys
import threading

import pytest

from amiwatch.testing.netns import Namespace, Wire

pytestmark = pytest.mark.kernel


def python(script):
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip()


def interfaces():
    return {name for _, name in socket.if_nameindex()}


def test_a_process_that_entered_has_loopback_and_nothing_else():
    script = (
        "from amiwatch.testing.netns import enter; import socket; enter()\n"
        "s = socket.create_server(('127.0.0.1', 0)); socket.create_connection(s.getsockname())\n"
        "print([n for _, n in socket.if_nameindex()])"
    )
    assert python(script) == "['lo']"


def test_a_process_with_threads_is_refused_and_stays_where_it_was():
    script = (
        "import os, threading; from amiwatch.testing.netns import *\n"
        "gate = threading.Event(); threading.Thread(target=gate.wait).start()\n"
        "before = os.readlink('/proc/self/ns/net')\n"
        "try: enter()\n"
        "except NamespaceRefused as exc: print(exc, os.readlink('/proc/self/ns/net') == before)\n"
        "gate.set()"
    )
    assert "threads run already" in python(script)
    assert python(script).endswith("True")


def test_packets_of_both_families_cross_the_wire_from_the_address_named():
    with Wire() as wire, wire.receiver(5060) as four, wire.receiver(5060, family=6) as six:
        for sender in ("198.51.100.7", "203.0.113.9", "198.51.100.7"):
            wire.send_from(sender, 5060, b"OPTIONS")
            payload, (address, _) = four.recvfrom(100)
            assert (payload, address) == (b"OPTIONS", sender)
        wire.send_from("2001:db8:bad::7", 5060, b"INVITE")
        payload, (address, *_) = six.recvfrom(100)
        assert (payload, address) == (b"INVITE", "2001:db8:bad::7")


def test_an_answer_goes_back_over_the_wire():
    with Wire() as wire, wire.receiver(5060) as pbx, wire.far_socket("198.51.100.7", port=5062) as phone:
        phone.settimeout(5)
        phone.sendto(b"OPTIONS", (wire.here[4], 5060))
        payload, sender = pbx.recvfrom(100)
        assert sender == ("198.51.100.7", 5062)
        pbx.sendto(payload.lower(), sender)
        assert phone.recv(100) == b"options"


def test_a_port_that_another_process_holds_for_a_moment_is_waited_for():
    with Wire() as wire, wire.receiver(5060) as first:
        # What a program started by another thread does to our sockets between its fork and its exec:
        held = first.dup()
        first.close()
        threading.Timer(0.1, held.close).start()
        with wire.receiver(5060) as second:
            wire.send_from("198.51.100.7", 5060, b"OPTIONS")
            assert second.recv(100) == b"OPTIONS"


def test_a_port_that_stays_busy_is_an_error():
    with Wire() as wire, wire.receiver(5060), pytest.raises(OSError, match="Address already in use"):
        wire.receiver(5060)


def test_unplugging_leaves_nothing_and_may_be_done_twice():
    before = interfaces()
    wire = Wire()
    assert interfaces() == before | {"wire0"}
    wire.close()
    wire.close()
    assert interfaces() == before


def test_the_far_end_is_another_namespace():
    far = Namespace()
    try:
        assert far.run(interfaces) == {"lo"}
        with far.run(lambda: socket.create_server(("127.0.0.1", 0))) as there:
            with socket.socket() as here, pytest.raises(ConnectionRefusedError):
                here.connect(there.getsockname())
            with far.run(lambda: socket.create_connection(there.getsockname(), timeout=5)) as client:
                assert client.getpeername() == there.getsockname()
    finally:
        far.close()

"""--listen as a process: what it serves when, where it listens, and what it costs."""

from __future__ import annotations

import errno
import json
import os
import re
import socket

import pytest
from charger import SILENCE, SimulatedCharger
from program import JSON, METRICS, PAGE, PATHS, Run, Start, eventually, listen, warnings
from registers import DETAILS, INPUT, READING

VOLTAGE_L1 = 1014


# --- What is served when ------------------------------------------------------------------------


@pytest.mark.every_version
def test_every_path_answers_whatever_the_charger_does(
    charger: SimulatedCharger, start: Start
) -> None:
    charger.fault(SILENCE, times=1)
    listening = listen(start, "--timeout=300", "--details", charger=charger)
    eventually(lambda: charger.requests)
    metrics, document, page = map(listening.ask, PATHS)
    assert (metrics.value("vestel_up"), document.status, page.status) == (0, 503, 200)
    reading = json.loads(document.body)
    assert reading["error"] == "there is no reading yet"
    assert [*reading] == ["error", "timestamp", *READING, "details"]
    assert "there is no reading yet" in page.body
    charger.set(VOLTAGE_L1, 219, bank=INPUT)
    charger.cut()
    volts = '"l1_v": 219'
    eventually(lambda: volts in listening.ask(JSON).body)
    charger.fault(SILENCE)
    asked = len(charger.requests)
    eventually(lambda: len(charger.requests) > asked)
    for path in PATHS:  # the charger is silent, and that is not known yet
        assert listening.ask(path).status == 200
    assert volts in listening.ask(JSON).body


def test_demo_serves_all_paths(start: Start) -> None:
    listening = listen(start, "--demo", "--details", ready=True)
    assert listening.is_up()
    reading = listening.ask(JSON).reading()
    assert reading["identity"]["serial"] == "VESTEL-DEMO"
    assert reading["details"]["model"] == DETAILS["model"]
    assert "VESTEL-DEMO" in listening.ask(PAGE).body
    assert listening.running.err == []


def test_warnings_that_last_are_served_until_they_are_over(
    charger: SimulatedCharger, start: Start
) -> None:
    refused = charger.fault(4, 1502)
    listening = listen(start, "--set-dynamic-current=33", charger=charger, ready=True)
    unread = "Cannot read input registers 1502-1513: exception 4 (device failure)"
    unset = "dynamic current 33 A is out of range"

    def count() -> float:
        return listening.ask(METRICS).value("vestel_warnings")

    assert count() == 2
    page = listening.ask(PAGE).body
    assert unread in page
    assert unset in page
    refused()
    eventually(lambda: count() == 1)
    page = listening.ask(PAGE).body
    assert unread not in page
    assert unset in page
    charger.stop()
    eventually(lambda: not listening.is_up())
    assert count() == 2, "the loss is one, too"
    page = listening.ask(PAGE).body
    assert "no reading since " in page
    assert unset in page
    assert listening.running.end() == 0
    said = [line for line in listening.running.err if unread in line]
    assert said == [f"WARNING: {unread}\n", f"WARNING: over: {unread}\n"]
    assert len(warnings(listening.running, unset)) == 1


# --- Where it listens ---------------------------------------------------------------------------


def skip_without_ipv6() -> None:
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            pytest.skip("needs ::1")


@pytest.mark.parametrize(
    ("host", "serves", "refuses"),
    [
        pytest.param("", ["127.0.0.1"], ["127.0.0.2"], id="no host"),
        pytest.param("127.0.0.2:", ["127.0.0.2"], ["127.0.0.1"], id="an address"),
        pytest.param("0.0.0.0:", ["127.0.0.1", "127.0.0.2"], [], id="all addresses"),
        pytest.param("[::1]:", ["::1"], ["127.0.0.1"], id="IPv6"),
    ],
)
def test_it_listens_on_loopback_unless_a_host_is_given(
    start: Start, host: str, serves: list[str], refuses: list[str]
) -> None:
    if ":" in serves[0]:
        skip_without_ipv6()
    listening = listen(start, "--demo", host=host, at=serves[0])
    for address in serves:
        assert listening.ask(METRICS, host=address).status == 200
    for address in refuses:
        with socket.socket() as client:
            assert client.connect_ex((address, listening.port)) == errno.ECONNREFUSED


@pytest.mark.parametrize(
    ("host", "why"),
    [
        pytest.param("", "Address already in use; ", id="port in use"),
        pytest.param("no..such.host:", "", id="no such host"),
        pytest.param("192.0.2.1:", "Cannot assign requested address; ", id="another machine"),
    ],
)
def test_one_line_says_where_it_cannot_listen(
    memory: SimulatedCharger, call: Run, host: str, why: str
) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen(1)
        where = f"{host or '127.0.0.1:'}{other.getsockname()[1]}"
        result = call("--ip=charger", f"--listen={where}", "--set-current=10")
    assert (result.returncode, result.stdout) == (1, "")
    message = rf"ERROR: Cannot listen on {re.escape(where)}: {why}\S.*\n"
    assert re.fullmatch(message, result.stderr)
    assert memory.attempts == [], "nothing is set, since nothing would hold it"


# --- What it costs ------------------------------------------------------------------------------


def test_memory_threads_and_files_do_not_grow_with_scrapes(
    charger: SimulatedCharger, start: Start
) -> None:
    listening = listen(start, charger=charger, ready=True)

    def scrape(times: int) -> None:
        for n in range(times):
            assert listening.ask(PATHS[n % 3]).status == 200

    def cost() -> tuple[int, int]:
        return listening.status("Threads"), len(os.listdir(listening.proc("fd")))

    scrape(100)
    threads = 3  # that which logs, the poller's, the server's
    eventually(lambda: listening.status("Threads") == threads)
    before, memory = cost(), listening.status("VmRSS")
    scrape(500)
    eventually(lambda: cost() == before)
    assert listening.status("VmRSS") - memory < 1024

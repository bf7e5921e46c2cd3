"""--listen as a process: what it serves when, where it listens, what it logs, and what it costs."""

from __future__ import annotations

import errno
import os
import re
import socket
import threading
import time
from datetime import datetime, timedelta, timezone
from typing import Callable

import pytest
from charger import SILENCE, SimulatedCharger
from program import JSON, METRICS, PAGE, PATHS, Run, Start, eventually, listen, side_by_side
from registers import DETAILS, INPUT
from world import World

import vestel

VOLTAGE_L1 = 1014


@pytest.mark.every_version
def test_every_path_answers_whatever_the_charger_does(
    charger: SimulatedCharger, start: Start
) -> None:
    charger.fault(SILENCE, times=1)
    listening = listen(start, "--timeout=300", charger=charger)
    eventually(lambda: charger.requests)
    metrics, document, page = map(listening.ask, PATHS)
    assert (metrics.value("vestel_up"), document.status, page.status) == (0, 503, 200)
    assert '"error": "there is no reading yet"' in document.body
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

    def shown() -> tuple[float, bool, bool]:
        page = listening.ask(PAGE).body
        return listening.ask(METRICS).value("vestel_warnings"), unread in page, unset in page

    assert shown() == (2, True, True)
    refused()
    eventually(lambda: shown() == (1, False, True))
    charger.stop()
    eventually(lambda: not listening.is_up())
    assert shown() == (2, False, True), "the loss is one, too"
    assert "no reading since " in listening.ask(PAGE).body
    assert listening.running.end() == 0
    said = [line for line in listening.running.err if unread in line]
    assert said == [f"WARNING: {unread}\n", f"WARNING: over: {unread}\n"]
    assert len([line for line in listening.running.err if unset in line]) == 1


def test_poller_that_is_stopped_leaves_the_charger(world: Callable[..., World]) -> None:
    stop = threading.Event()
    stop.set()
    one = world()
    vestel.poll_forever(one.poller, stop)
    assert (one.charger.connections, one.charger.links, one.snapshot.fatal) == (1, [], None)


@pytest.mark.parametrize(
    ("host", "serves", "refuses"),
    [
        pytest.param("", "127.0.0.1", "127.0.0.2", id="no host"),
        pytest.param("127.0.0.2:", "127.0.0.2", "127.0.0.1", id="an address"),
        pytest.param("0.0.0.0:", "127.0.0.2", None, id="all addresses"),
        pytest.param("[::1]:", "::1", "127.0.0.1", id="IPv6"),
    ],
)
def test_it_listens_on_loopback_unless_a_host_is_given(
    start: Start, host: str, serves: str, refuses: str | None
) -> None:
    with socket.socket(socket.AF_INET6 if ":" in serves else socket.AF_INET) as probe:
        if probe.connect_ex((serves, 1)) != errno.ECONNREFUSED:
            pytest.skip(f"needs {serves}")
    listening = listen(start, "--demo", host=host, at=serves)
    assert listening.ask(METRICS, host=serves).status == 200
    if refuses:
        with socket.socket() as client:
            assert client.connect_ex((refuses, listening.port)) == errno.ECONNREFUSED


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


TIME = r"(\d\d):(\d\d):(\d\d\.\d{3}) "
NEPAL = timezone(timedelta(hours=5, minutes=45))


def test_lines_of_v_begin_with_the_local_time_to_the_millisecond(
    charger: SimulatedCharger, run: Run, environment: dict[str, str]
) -> None:
    def seconds_of(line: str) -> float:
        match = re.match(TIME, line)
        assert match, line
        hours, minutes, seconds = map(float, match.groups())
        return (hours * 3600 + minutes * 60 + seconds - midnight_to_begin) % 86400

    slow = 0.3  # s
    charger.fault(lambda request: time.sleep(slow), 1000)
    began_at, began = time.monotonic(), datetime.now(NEPAL)
    midnight = began.replace(hour=0, minute=0, second=0, microsecond=0)
    midnight_to_begin = (began - midnight).total_seconds()
    result = run("-v", charger=charger, env={**environment, "TZ": "Asia/Kathmandu"})
    took = time.monotonic() - began_at
    lines = result.stderr.splitlines()
    passed = [seconds_of(each) for each in lines]
    assert passed == sorted(passed)
    assert passed[-1] <= took + 0.01
    (asked,) = [n for n, each in enumerate(lines) if " 04 03 e8 00 26" in each]
    assert passed[asked + 1] - passed[asked] > slow - 0.01


def test_log_has_whole_lines_however_many_speak_at_once(
    charger: SimulatedCharger, start: Start
) -> None:
    listening = listen(start, "-v", charger=charger, ready=True)

    def ask(client: int) -> None:
        for n in range(20):
            assert listening.ask(f"/metrics?{client}-{n}").status == 200

    side_by_side(ask, range(16))
    assert listening.running.end() == 0
    logged = listening.running.err
    asked = [line for line in logged if "GET /metrics?" in line]
    scrape = re.compile(rf'{TIME}127\.0\.0\.1: "GET /metrics\?(\d+-\d+) HTTP/1\.1" 200 -\n')
    found = [match[4] for match in map(scrape.fullmatch, asked) if match]
    assert sorted(found) == sorted(f"{client}-{n}" for client in range(16) for n in range(20))
    assert len(asked) == 320
    wire = rf"{TIME}127\.0\.0\.1:{charger.port}: (connected|(request|reply)( [0-9a-f]{{2}})+)\n"
    others = [line for line in logged if line not in asked and '"GET /metrics HTTP' not in line]
    assert [line for line in others if not re.fullmatch(wire, line)] == []
    assert len(others) >= 2 * len(charger.requests)


def test_client_cannot_steer_the_terminal_that_shows_the_log(start: Start) -> None:
    listening = listen(start, "-v", "--demo")
    for request in (b"GET /\x1b[2J\x9b\r\x85x HTTP/1.0", b"\x1b]0;x\x07", b"GET / HTTP/\x1b[2J"):
        listening.talk(request + b"\r\n\r\n")
    listening.ask(METRICS)
    eventually(lambda: any("GET /metrics" in line for line in [*listening.running.err]))
    assert listening.running.end() == 0
    logged = [line.rstrip("\n") for line in listening.running.err]
    assert [line for line in logged if not line.isprintable()] == []

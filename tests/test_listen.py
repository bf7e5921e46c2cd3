"""--listen as a process: what it serves when, where it listens, what it logs, and what it costs."""

from __future__ import annotations

import errno
import json
import os
import re
import socket
import subprocess
from pathlib import Path

import pytest
from conftest import DETAILS, READING, Memory, Run, Start, eventually, needs
from long_modes import JSON, METRICS, PAGE, PATHS, TIMEOUT, listen, side_by_side
from simulated_charger import HOLDING, INPUT, SimulatedCharger

VOLTAGE_L1 = 1014


# --- What is served when ------------------------------------------------------------------------


@pytest.mark.every_version
def test_every_path_answers_whatever_the_charger_does(charger: SimulatedCharger, start: Start) -> None:
    charger.set(HOLDING, TIMEOUT, 4)  # so that the beat is 1 s
    charger.fault("silence", times=1)
    listening = listen(start, "--timeout=300", "--details", charger=charger)
    eventually(lambda: charger.requests)
    metrics, document, page = map(listening.ask, PATHS)
    assert (metrics.value("vestel_up"), document.status, page.status) == (0, 503, 200)
    reading = json.loads(document.body)
    assert reading["error"] == "there is no reading yet"
    assert [*reading] == ["error", "timestamp", *READING, "details"]
    assert "there is no reading yet" in page.body
    charger.drop()
    charger.set(INPUT, VOLTAGE_L1, 219)
    volts = '"l1_v": 219'
    eventually(lambda: volts in listening.ask(JSON).body)
    charger.fault("silence")
    asked = len(charger.requests)
    eventually(lambda: len(charger.requests) > asked)
    for path in PATHS:  # the charger is silent, and that is not known yet
        assert listening.ask(path).status == 200
    assert volts in listening.ask(JSON).body


def test_the_demo_serves_all_paths(start: Start) -> None:
    listening = listen(start, "--demo", "--details", ready=True)
    assert listening.is_up()
    reading = listening.ask(JSON).reading()
    assert (reading["identity"]["serial"], reading["details"]["model"]) == ("VESTEL-DEMO", DETAILS["model"])
    assert "VESTEL-DEMO" in listening.ask(PAGE).body
    assert listening.running.err == []


def test_a_browser_shows_the_page_and_renews_it(
    charger: SimulatedCharger, start: Start, tmp_path: Path
) -> None:
    chromium = needs("chromium", "chromium")
    listening = listen(start, "-v", charger=charger, ready=True)
    browser = subprocess.run(
        [
            *(chromium, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"),
            *(f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=12000", "--dump-dom"),
            f"http://127.0.0.1:{listening.port}/",
        ],
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=True,
    )
    assert re.search(r'<h1 id="state".*>Charging</h1><p id="power">70\.50 kW</p>', browser.stdout)
    assert '<p id="connection" class="bad" role="alert"></p>' in browser.stdout, "it was not cut off"
    assert "Content Security Policy" not in browser.stderr
    assert listening.running.end() == 0
    loaded = [line for line in listening.running.err if '"GET / HTTP/1.1" 200' in line]
    assert len(loaded) > 1


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
def test_it_listens_on_loopback_alone_unless_a_host_is_given(
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
    "host",
    [
        pytest.param("", id="port in use"),
        pytest.param("no..such.host:", id="no such host"),
        pytest.param("192.0.2.1:", id="address of another machine"),
    ],
)
def test_where_it_cannot_listen_one_line_says_so(memory: Memory, call: Run, host: str) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen(1)
        where = f"{host or '127.0.0.1:'}{other.getsockname()[1]}"
        result = call("--ip=charger", f"--listen={where}", "--set-current=10")
    assert (result.returncode, result.stdout) == (1, "")
    assert re.fullmatch(rf"ERROR: Cannot listen on {re.escape(where)}: \S.*\n", result.stderr)
    assert ("another program" in result.stderr) == (host == "")
    assert (memory.reads, memory.writes) == ([], []), "nothing is set, since nothing would hold it"


# --- What it logs -------------------------------------------------------------------------------


def test_the_log_has_whole_lines_however_many_speak_at_once(charger: SimulatedCharger, start: Start) -> None:
    charger.set(HOLDING, TIMEOUT, 4)
    listening = listen(start, "-v", charger=charger, ready=True)

    def ask(client: int) -> None:
        for n in range(20):
            assert listening.ask(f"/metrics?{client}-{n}").status == 200

    side_by_side(ask, range(16))
    assert listening.running.end() == 0
    logged = listening.running.err
    asked = [line for line in logged if "GET /metrics?" in line]
    found = [
        re.fullmatch(r'127\.0\.0\.1: "GET /metrics\?(\d+-\d+) HTTP/1\.1" 200 -\n', line) for line in asked
    ]
    assert {match[1] for match in found if match} == {
        f"{client}-{n}" for client in range(16) for n in range(20)
    }
    assert len(asked) == 320
    wire = rf"127\.0\.0\.1:{charger.port}: (connected|(request|reply)( [0-9a-f]{{2}})+)\n"
    others = [line for line in logged if line not in asked and '"GET /metrics HTTP' not in line]
    assert [line for line in others if not re.fullmatch(wire, line)] == []
    assert len(others) > 2 * len(charger.requests)


def test_what_a_client_sends_cannot_steer_the_terminal_that_shows_the_log(
    charger: SimulatedCharger, start: Start
) -> None:
    listening = listen(start, "-v", charger=charger)
    for request in (b"GET /\x1b[2J\x9b\r\x85x HTTP/1.0", b"\x1b]0;x\x07", b"GET / HTTP/\x1b[2J"):
        listening.talk(request + b"\r\n\r\n")
    listening.ask(METRICS)
    assert listening.running.end() == 0
    logged = [line.rstrip("\n") for line in listening.running.err]
    assert [line for line in logged if not line.isprintable()] == []
    assert any("GET /metrics" in line for line in logged)


# --- What it costs ------------------------------------------------------------------------------


def test_memory_threads_and_files_do_not_grow_with_the_scrapes(
    charger: SimulatedCharger, start: Start
) -> None:
    listening = listen(start, charger=charger, ready=True)

    def scrape(times: int) -> None:
        for n in range(times):
            assert listening.ask(PATHS[n % 3]).status == 200

    def cost() -> tuple[int, int]:
        return listening.status("Threads"), len(os.listdir(listening.proc("fd")))

    scrape(100)
    eventually(lambda: listening.status("Threads") == 3)  # that which talks, the keeper's, the server's
    before, memory = cost(), listening.status("VmRSS")
    scrape(500)
    eventually(lambda: cost() == before)
    assert listening.status("VmRSS") - memory < 1024

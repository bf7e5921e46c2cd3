"""What -v logs: whole lines with their time, whoever speaks, and nothing that steers a terminal."""

from __future__ import annotations

import re
import time
from datetime import datetime, timedelta, timezone

import pytest
from charger import SimulatedCharger
from program import METRICS, Run, Start, listen, side_by_side
from readings import FORMATS
from registers import RANGES

TIME = r"(\d\d):(\d\d):(\d\d\.\d{3}) "
NEPAL = timezone(timedelta(hours=5, minutes=45))


def second_of_day(moment: datetime) -> float:
    return moment.hour * 3600 + moment.minute * 60 + moment.second + moment.microsecond / 1e6


def seconds_of(line: str) -> float:
    """Return the time at the beginning of a line, as second of the day."""
    match = re.match(TIME, line)
    assert match, line
    hours, minutes, seconds = map(float, match.groups())
    return hours * 3600 + minutes * 60 + seconds


def test_lines_begin_with_the_local_time_to_the_millisecond(
    charger: SimulatedCharger, run: Run, environment: dict[str, str]
) -> None:
    slow = 0.3  # s
    charger.fault(lambda request: time.sleep(slow), 1000)
    began_at, began = time.monotonic(), datetime.now(NEPAL)
    result = run("-v", charger=charger, env={**environment, "TZ": "Asia/Kathmandu"})
    took = time.monotonic() - began_at
    where = re.escape(f"{charger.host}:{charger.port}")
    line = rf"{TIME}{where}: (connected|(request|reply)( [0-9a-f]{{2}})+)"
    lines = result.stderr.splitlines()
    assert [each for each in lines if not re.fullmatch(line, each)] == []
    passed = [(seconds_of(each) - second_of_day(began)) % 86400 for each in lines]
    assert passed == sorted(passed)
    assert passed[-1] <= took + 0.01
    (asked,) = [n for n, each in enumerate(lines) if " 04 03 e8 00 26" in each]
    assert passed[asked + 1] - passed[asked] > slow - 0.01


@pytest.mark.parametrize("style", FORMATS)
def test_v_changes_nothing_on_stdout(
    charger: SimulatedCharger, call: Run, clock: object, style: str
) -> None:
    options = ["--details", f"--format={style}"]
    quiet, verbose = call(*options, charger=charger), call(*options, "-v", charger=charger)
    assert (quiet.returncode, quiet.stderr, verbose.returncode) == (0, "", 0)
    assert verbose.stdout == quiet.stdout
    connected, requests_and_replies = 1, 2 * len(RANGES)
    assert len(verbose.stderr.splitlines()) == connected + requests_and_replies


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


def test_client_cannot_steer_the_terminal_that_shows_the_log(
    charger: SimulatedCharger, start: Start
) -> None:
    listening = listen(start, "-v", charger=charger)
    for request in (
        b"GET /\x1b[2J\x9b\r\x85x HTTP/1.0",
        b"\x1b]0;x\x07",
        b"GET / HTTP/\x1b[2J",
    ):
        listening.talk(request + b"\r\n\r\n")
    listening.ask(METRICS)
    assert listening.running.end() == 0
    logged = [line.rstrip("\n") for line in listening.running.err]
    assert [line for line in logged if not line.isprintable()] == []
    assert any("GET /metrics" in line for line in logged)

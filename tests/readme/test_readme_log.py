"""README.md's log: the lines of cron that write it, and what is asked of it with jq."""

from __future__ import annotations

import copy
import gzip
import itertools
import json
import re
import resource
import signal
from pathlib import Path
from typing import Any

import pytest
from charger import SimulatedCharger
from desk import Desk, answering
from manual import block, cron_commands, cron_lines, prose, spans
from program import JSON, needs
from registers import READING


@pytest.fixture
def desk(tmp_path: Path, charger: SimulatedCharger) -> Desk:
    needs("jq", "jq")
    return Desk(tmp_path, charger)


def log_line(time: str, **values: Any) -> str:
    """Return a line of the log as the program writes it, with values at keys like a__b."""
    reading = copy.deepcopy(READING)
    for key, value in values.items():
        *parents, last = key.split("__")
        place = reading
        for parent in parents:
            place = place[parent]
        assert last in place
        place[last] = value
    return json.dumps({"timestamp": f"{time}:00+00:00", **reading}) + "\n"


def broken(log: str) -> str:
    """Return the log with all that power cuts and full disks leave, between whole lines."""
    first = log.splitlines(keepends=True)[0]
    garbage = [
        *[first[:500] + "\n", "\0" * 300 + "\n", first[:200] + first, "[1, 2]\n", "3\n"],
        *["null\n", '"x"\n', "\n", "}\n", '{"error": "gone"}\n'],
    ]
    lines = zip(itertools.cycle(garbage), log.splitlines(keepends=True))
    return "".join(bad + line for bad, line in lines) + first[:100]


DAMAGES = pytest.mark.parametrize("damage", [str, broken], ids=["whole", "broken"])


def months_line(time: str, state: Any, meter: Any, kwh: Any, code: Any, *faults: str) -> str:
    more = {"states__chargepoint__code": state, "states__fault_code": code}
    energy = {"electrical__meter_reading_kwh": meter, "session__energy_kwh": kwh}
    return log_line(time, **more, **energy, states__faults=faults)


# Midnight of November is 23:00 UTC of the day before. The meter goes on through both its ends.
MONTHS = "".join(
    [
        months_line("2026-10-31T22:55", 2, 1200.0, 4.0, 0),
        months_line("2026-10-31T23:00", 2, 1200.6, 4.5, 64, "CP Short Error"),
        months_line("2026-11-15T12:00", None, None, None, None),
        months_line("2026-11-30T22:50", 2, 2240.9, 7.25, 0),
        months_line("2026-11-30T22:55", 8, 2241.2, 7.25, 262160, "PP Error", "RFID Error"),
        months_line("2026-11-30T23:00", 2, 2243.5, 0, 0),
        months_line("2026-12-01T00:05", 2, None, None, 0),
    ]
)
ANSWERS = {  # number of the block: what it prints for that log, and for an empty one
    1: ("7.25\n", "null\n"),
    2: ("1041.2\n10\n", "0\n0\n"),
    3: ("2026-11-30T22:55:00+00:00 PP Error, RFID Error\n", "none\n"),
}


@DAMAGES
@pytest.mark.parametrize("number", ANSWERS)
def test_question_to_the_log_is_answered(desk: Desk, number: int, damage: Any) -> None:
    for log, answer in zip((damage(MONTHS), ""), ANSWERS[number]):
        desk.charger_log.write_text(log)
        assert desk.shell(block("Keep a log", "sh", number)) == (0, answer, "")


def test_rotated_logs_are_asked_together(desk: Desk) -> None:
    (command,) = [span for span in spans(prose("Keep a log")) if span.startswith("zcat ")]
    first, *lines = MONTHS.splitlines(keepends=True)
    (desk.home / "charger.jsonl.2.gz").write_bytes(gzip.compress(first.encode()))
    (desk.home / "charger.jsonl.1").write_text("".join(lines[:4]))
    desk.charger_log.write_text("".join(lines[4:]))
    before, question = block("Keep a log", "sh", 2).split("jq", 1)
    asked = command.replace("jq ...", f"jq {question.split('$HOME')[0]}")
    assert desk.shell(before + asked, cwd=str(desk.home)) == (0, "1041.2\n", "")


def session_line(time: str, meter: float, kwh: float, lasts: int, start: str | None) -> str:
    counters = {"session__energy_kwh": kwh, "session__duration_s": lasts}
    more = {"session__start_time": start, "electrical__meter_reading_kwh": meter}
    return log_line(time, **counters, **more)


SESSIONS = "".join(
    [
        session_line("2026-07-11T17:04", 999.5, 0.5, 240, "19:00:00"),  # in summer
        session_line("2026-07-11T17:09", 1000.0, 0.9, 540, "19:00:00"),
        session_line("2026-11-10T17:04", 1000.0, 0.0, 240, "18:00:00"),  # the vehicle waits
        session_line("2026-11-10T17:09", 1000.0, 0.0, 540, None),
        session_line("2026-11-10T17:14", 1000.9, 0.9, 840, "18:00:00"),
        session_line("2026-11-10T17:19", 1001.8, 1.8, 1140, "18:00:00"),
        session_line("2026-11-10T17:24", 1001.8, 1.8, 1440, "18:00:00"),  # full
        session_line("2026-11-11T17:04", 1002.1, 0.3, 240, "18:00:00"),  # at the same time
        session_line("2026-11-11T17:09", 1003.0, 1.2, 540, "18:00:00"),
        session_line("2026-11-11T17:14", 1003.6, 0.2, 30, "18:13:30"),  # its counter restarts
        session_line("2026-11-11T17:19", 1004.5, 1.1, 330, "18:13:30"),
        session_line("2026-11-12T17:18", 1005.9, 1.4, 240, "18:13:30"),  # in a gap of the log
    ]
)
FROM_BEFORE = session_line("2026-07-10T16:59", 999.0, 7.5, 9000, "10:00:00")
ROWS = """\
begin,end,kWh by session counter,kWh by meter
2026-07-11 19:04,2026-07-11 19:09,0.9,1
2026-11-10 18:09,2026-11-10 18:19,1.8,1.8
2026-11-11 18:04,2026-11-11 18:09,1.2,1.2
2026-11-11 18:14,2026-11-11 18:19,1.1,1.5
2026-11-12 18:18,2026-11-12 18:18,1.4,1.4
"""


@DAMAGES
def test_sessions_are_listed_with_times_and_energy(desk: Desk, damage: Any) -> None:
    (german,) = [one for one in spans(prose("List the charging sessions")) if "sed" in one]
    for log, rows in ((damage(FROM_BEFORE + SESSIONS), ROWS), ("", ROWS.split("2026")[0])):
        desk.charger_log.write_text(log)
        assert desk.shell(block("List the charging sessions", "sh")) == (0, "", "")
        assert (desk.opt / "sessions.csv").read_text() == rows
        assert desk.shell(german).out == rows.replace(",", ";").replace(".", ",")


# --- The lines that write it --------------------------------------------------------------------


def full_after(size: int) -> Any:
    """Let no file grow beyond that, as on a disk that is full then."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return limit


@pytest.mark.parametrize("with_service", [False, True], ids=["without service", "with service"])
def test_log_grows_by_whole_readings_only(desk: Desk, with_service: bool) -> None:
    needs("curl", "curl")
    (command,) = cron_commands(block("Keep a log", "crontab", 2 if with_service else 1))
    log, errors = desk.charger_log, desk.home / "charger.err"
    answers = {JSON: log_line("2026-11-20T08:15")}
    with answering(answers) as desk.service.port:
        assert desk.cron(command) == (0, "", "")
        whole = log.read_text()
        assert [json.loads(line)["limits"] for line in whole.splitlines()] == [READING["limits"]]
        full = desk.cron(command, preexec_fn=full_after(len(whole) + 300))
        assert (full.out, full.err, log.read_text()) == ("", "", whole)
        assert re.search("cannot write to stdout|Fail.* writing", errors.read_text())
        errors.unlink()
        answers[JSON] = ""
        desk.charger.stop()
        lost = desk.cron(command)
        assert (lost.out, lost.err, log.read_text()) == ("", "", whole)
        assert re.search("^ERROR: Cannot connect to |503", errors.read_text())
        desk.charger.start()
        answers[JSON] = whole
        assert desk.cron(command) == (0, "", "")
    assert len(log.read_text().splitlines()) == 2
    assert 0.25e6 < 288 * len(whole) < 0.35e6  # a day takes 0.3 MB


# --- Lines that do not meet ---------------------------------------------------------------------

READS_S = 2  # s that a command of cron is connected


def moments(heading: str, number: int = 1, wait: int = 0, tries: int = 1, pause: int = 0) -> Any:
    """Return when the commands of a crontab connect (s of the day), a tuple for each run."""
    return [
        tuple(hour * 3600 + minute * 60 + wait + n * pause for n in range(tries))
        for line in cron_lines(block(heading, "crontab", number))
        for hour in line.hours
        for minute in line.minutes
    ]


def first_to_connect(runs: list[tuple[int, ...]], locks_out: int, skip: int = 0) -> set[int]:
    """Return which runs get a connection, where the charger is closed for a while after each."""
    events = sorted((at, n) for n, times in enumerate(runs) for at in times)
    closed_until, served = 0, set()
    for at, n in events[skip:]:
        if n not in served and at >= closed_until:
            served.add(n)
            closed_until = at + READS_S + locks_out
    return served


def test_lines_of_cron_do_not_meet_on_a_charger_that_locks_out() -> None:
    (sleep,) = {int(one) for one in re.findall(r"sleep (\d+)", block("node_exporter", "crontab"))}
    night = block("A lower current at night", "crontab", 2)
    assert {*re.findall(r"for n in (.*?);", night)} == {"1 2 3"}
    (pause,) = {int(one) for one in re.findall(r"sleep (\d+)", night)}
    log = moments("Keep a log")
    tries = moments("A lower current at night", 2, tries=3, pause=pause)
    exporter = moments("node_exporter", wait=sleep)
    assert (len(log), len(tries), len(exporter)) == (288, 2, 1440)
    # With the usual failsafe timeout of 20 s, each run is served at its first try.
    all_runs = [run[:1] for run in [*log, *tries, *exporter]]
    assert len(first_to_connect(all_runs, locks_out=20)) == len(all_runs)
    # With 300 s, the night still gets one of its tries, whichever reading of the log was served.
    for skip in (0, 1):
        served = first_to_connect([*log, *tries], locks_out=300, skip=skip)
        assert {len(log), len(log) + 1} <= served

"""README.md's tables are those of the program.

Its keys, metrics and ranges are compared in tests/unit/test_register_rows.py.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from manual import block, prose, spans, table
from program import ROOT, Run
from readings import samples
from registers import CLOCK, CORE_RANGES, FAULTS, HEARTBEAT, STATES, range_of, span
from world import MakeWorld

import vestel


def test_options_and_defaults_are_those_of_the_help(call: Run) -> None:
    text = call("--help").stdout.split("\noptions:\n")[-1].split("\nexit codes")[0]
    parts = re.split(r"\n(?=  -)", "\n" + text)[1:]
    options = [re.split(r"\s{2,}", part.strip())[0] for part in parts]
    defaults = [re.findall(r"default:\s+([\w.]+)", part) for part in parts]
    rows = table("Options")
    assert [", ".join(spans(row[0])) for row in rows] == options
    assert [[row[2]] if row[2] else [] for row in rows] == defaults


def test_keys_of_the_configuration_are_all_that_there_are(call: Run, tmp_path: Path) -> None:
    (tmp_path / "it.ini").write_text("[vestel]\nunknown = 1\n")
    known = re.findall("known are (.*)", call("--config", str(tmp_path / "it.ini")).stderr)
    named = re.findall(r"Its keys (.*?) work", prose("Configure"))
    assert [", ".join(spans(keys)) for keys in named] == known
    example = (ROOT / "vestel_modbus.ini.example").read_text(encoding="utf-8")
    assert ", ".join(re.findall(r"^(\w+) =", example, re.MULTILINE)) == known[0]


def test_exit_codes_are_those_of_the_help(call: Run) -> None:
    said = re.findall(r"(?<!\()\b(\d+) [a-zA-Z]", call("--help").stdout.split("exit codes: ")[1])
    assert [code for code, _ in table("Exit codes")] == said == ["0", "1", "2", "3", "130", "143"]


# --- Metrics, states, faults and registers ------------------------------------------------------


def test_metrics_of_the_last_rows_have_no_labels(world: MakeWorld) -> None:
    it = world(details=True)
    it.read()
    text = vestel.format_prometheus(it.reading, it.snapshot)
    last = [name for row in table("Readings and metrics")[-4:] for name in spans(row[2])]
    without = {name for name, labels, _ in samples(text) if not labels}
    assert without == {*last}
    assert {name for name, labels, _ in samples(text) if "serial" not in labels} == without
    counters = re.findall(r"^# TYPE (\w+) counter$", text, re.MULTILINE)
    assert counters == [name for name in last if name.endswith("_total")]


def test_codes_of_states_and_bits_of_faults_have_their_names() -> None:
    keys = {"chargepoint": 1000, "charging": 1001, "equipment": 1002, "cable": 1004}
    for cell, _, _, meaning in table("Readings and metrics"):
        for key in re.findall(r"`states\.(\w+)\.code`", cell):
            codes = re.findall(r"(?<!say )(\d) (\w+)", meaning)
            assert codes == [(str(n), name) for n, name in enumerate(STATES[keys.pop(key)])]
    assert keys == {}
    bits = [(row[n], row[n + 1]) for n in (0, 2, 4) for row in table("Faults") if row[n]]
    assert bits == [(str(bit), name) for bit, name in enumerate(FAULTS[:28])]


def test_registers_are_read_when_the_page_says() -> None:
    rows = {row[0]: row[3] for row in table("Registers")}
    assert [*rows.items()][-1] == (str(HEARTBEAT), "never")
    always = [registers for registers in rows if rows[registers].startswith("always")]
    assert always == [span(rows) for rows in CORE_RANGES]
    assert rows[span(range_of(CLOCK))] == "`--details`, `--watch`, `--listen`"
    assert [*rows.values()].count("`--details`") == len(rows) - len(always) - 2


def test_registers_are_written_by_the_options_of_their_rows() -> None:
    """That they are is tested in tests/wire and tests/poller."""
    currents = ["--set-current", "--set-failsafe-current", "--set-failsafe-timeout"]
    assert {row[0]: spans(row[4]) for row in table("Registers") if row[4]} == {
        "2000-2002": currents,
        "5004": ["--set-current", "--set-dynamic-current", "--hold"],
        "6000": ["--watch", "--listen"],
    }


# --- A register is added ------------------------------------------------------------------------

FORGOTTEN = ["nothing", "Demo", "registers.py", "Readings and metrics", "Registers"]


def after(text: str, begin: str, more: str) -> str:
    """Return the text with more behind the row that begins so."""
    row = re.compile(rf"^( *){re.escape(begin)}.*\n(?:\1 +.*\n)*", re.MULTILINE)
    (found,) = row.finditer(text)
    return text[: found.end()] + found[1] + more + text[found.end() :]


@pytest.mark.parametrize("forgotten", FORGOTTEN)
def test_a_register_that_one_place_lacks_fails_by_name(tmp_path: Path, forgotten: str) -> None:
    """Its rows, put where the page says, satisfy the tests; without one of them, one fails."""
    rows = block("Change the program", "text").splitlines(keepends=True)
    typed = "tests/lib/registers.py"
    places = [  # which, file, how the row before begins, and the row
        ("vestel.py", "vestel.py", 'Value("Session Maximum"', rows[0]),
        ("Demo", "vestel.py", '"EVSE Minimum": 6', rows[1]),
        ("registers.py", typed, "Row(INPUT, 1100", rows[2]),
        ("Readings and metrics", "README.md", "| `limits.session_max_a`", rows[3]),
        ("Registers", "README.md", "| 1100-1106 |", rows[4]),
        # What follows from its row there: how people see it, and that it begins a range.
        ("registers.py", typed, "Session Maximum:", "Station Maximum:     24 A\n"),
        ("registers.py", typed, "(INPUT, 1100),", "(INPUT, 1190),\n"),
    ]
    rooms = ("tests/lib", "tests/unit")
    for name in ("vestel.py", "README.md", "tests/conftest.py", "tests/tox.ini", *rooms):
        copy = shutil.copytree if name in rooms else shutil.copy
        (tmp_path / name).parent.mkdir(exist_ok=True)
        copy(str(ROOT / name), str(tmp_path / name))
    first = tmp_path / typed
    first.write_text(first.read_text().replace(" (INPUT, 1100), ", "\n(INPUT, 1100),\n"))
    for place, name, begin, row in places:
        if place != forgotten:
            text = (tmp_path / name).read_text(encoding="utf-8")
            (tmp_path / name).write_text(after(text, begin, row), encoding="utf-8")
    quiet = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    checked = subprocess.run(
        [sys.executable, "-m", "pytest", *quiet, "tests/unit/test_register_rows.py"],
        cwd=str(tmp_path),
        stdout=subprocess.PIPE,
        encoding="utf-8",
        check=False,
    )
    if forgotten == "nothing":
        assert checked.returncode == 0, checked.stdout
    else:
        assert "1 failed" in checked.stdout
        assert re.search(r"\b1190\b|\blimits\.station_max_a\b", checked.stdout), checked.stdout

"""README.md's tables are those of the program."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from charger import SimulatedCharger
from clock import Clock
from conftest import Memory
from manual import README, block, prose, spans, table
from program import ROOT, Run
from readings import WHOLE, samples
from registers import (
    CLOCK,
    CORE_RANGES,
    FAULTS,
    FUNCTION,
    HEARTBEAT,
    RANGES,
    ROWS,
    STATES,
    range_of,
    read,
    span,
)
from rows import compare
from world import MakeWorld

import vestel

# --- Options and configuration ------------------------------------------------------------------

OPTIONS = {spans(row[0])[-1].split()[0]: row for row in table("Options")}


def helped(call: Run) -> str:
    return " ".join(call("--help").stdout.split())


def test_options_are_those_of_the_help(call: Run) -> None:
    text = call("--help").stdout
    listed = re.findall(r"^  (-.*?)(?:  .*)?$", text.split("\noptions:\n")[-1], re.MULTILINE)
    assert [", ".join(spans(row[0])) for row in table("Options")] == listed


def test_defaults_are_those_of_the_help(call: Run) -> None:
    parts = re.split(r" (?=--[\w-]+ )", helped(call).split("options:")[1])
    found = {part.split()[0]: re.findall(r"default: ([\w.]+)", part) for part in parts}
    defaults = {option: [row[2]] if row[2] else [] for option, row in OPTIONS.items()}
    assert {option: found.get(option, []) for option in OPTIONS} == defaults
    assert defaults["--timeout"] == ["2"]


BOUNDS = [  # option, what its row says of its values, values that it takes, and others
    ("--port", "1-65535", ["1", "65535"], ["0", "65536"]),
    ("--unit", "0-255", ["0", "255"], ["-1", "256"]),
    ("--base", "{0,1}", ["0", "1"], ["2"]),
    ("--timeout", "SECONDS", ["0.01", "60"], ["0"]),
    ("--format", "{human,prometheus,json}", ["human", "prometheus", "json"], ["xml"]),
    ("--set-failsafe-timeout", "6-3600", ["6", "3600"], ["5", "3601"]),
]


@pytest.mark.parametrize(("option", "says", "takes", "others"), BOUNDS)
def test_option_and_key_take_the_values_of_the_row(
    call: Run,
    memory: Memory,
    tmp_path: Path,
    option: str,
    says: str,
    takes: list[str],
    others: list[str],
) -> None:
    assert says in " ".join(OPTIONS[option])
    key = option[2:]
    is_key = key in spans(prose("Configure"))
    for value in takes + others:
        status = 2 if value in others else 0
        assert call("--ip=charger", f"{option}={value}").returncode == status
        (tmp_path / "it.ini").write_text(f"[vestel]\nip = charger\n{key} = {value}\n")
        if is_key:
            assert call("--config", str(tmp_path / "it.ini")).returncode == status


def test_watch_takes_what_its_row_says(call: Run) -> None:
    assert "1 or more; human or json" in OPTIONS["--watch"][1]
    for options in (["--watch=0.9"], ["--watch=1", "--format=prometheus"]):
        assert call("--demo", *options).returncode == 2


def test_keys_of_the_configuration_are_all_that_there_are(call: Run, tmp_path: Path) -> None:
    (tmp_path / "it.ini").write_text("[vestel]\nunknown = 1\n")
    told = call("--config", str(tmp_path / "it.ini")).stderr
    known = re.findall(r"known are (.*)", told)[0].split(", ")
    assert re.findall(r"Its keys (.*?) work", prose("Configure"))[0] == ", ".join(
        [f"`{key}`" for key in known[:-1]]
    ) + f" and `{known[-1]}`"
    assert all(f"--{key}" in OPTIONS for key in known)


@pytest.mark.parametrize(
    ("option", "others"),
    [
        ("--set-current=10", ["--set-dynamic-current=10", "--set-failsafe-current=10"]),
        ("--hold=amps", ["--set-current=10", "--set-dynamic-current=10"]),
        ("--watch=1", ["--listen=9946"]),
    ],
)
def test_options_exclude_each_other_as_the_page_says(
    call: Run, option: str, others: list[str]
) -> None:
    names = [f"`{one.split('=')[0]}`" for one in (option, *others)]
    assert f"{names[0]} excludes {' and '.join(names[1:])}" in prose("Options")
    needs = ["--watch=1"] if option == "--hold=amps" else []
    for other in others:
        assert call("--demo", *needs, option, other).returncode == 2


def test_exit_codes_are_those_of_the_help(call: Run) -> None:
    said = re.findall(r"(\d+) [a-zA-Z]", helped(call).split("exit codes: ")[1])
    assert [code for code, _ in table("Exit codes")] == said == ["0", "1", "2", "3", "130", "143"]


# --- Values: keys, metrics, registers -----------------------------------------------------------

PLACE = "the table Readings and metrics of README.md"
UNITS = {"a": "A", "v": "V", "w": "W", "kw": "kW", "wh": "Wh", "kwh": "kWh", "s": "s"}
OF_THE_SERVICE = {  # metrics that belong to no value
    "vestel_info": "gauge",
    "vestel_up": "gauge",
    "vestel_reading_seconds": "gauge",
    "vestel_warnings": "gauge",
    "vestel_readings_total": "counter",
    "vestel_failed_readings_total": "counter",
    "vestel_connections_total": "counter",
}


def whole_keys(cell: str) -> list[str]:
    """Return the keys of a row: each but the first is given by its last part."""
    first, *others = spans(cell) or [""]
    above = first.rpartition(".")[0]
    return [first, *(f"{above}.{last}" for last in others)] if first else []


def keys_with_units() -> list[tuple[str, str]]:
    """Return all keys of the table, each with its unit."""
    pairs = []
    for cell, units, _, _ in table("Readings and metrics"):
        keys, given = whole_keys(cell), units.split(", ")
        each = given if len(given) == len(keys) else given * len(keys)
        pairs += [*zip(keys, each)]
    return pairs


def differences() -> list[str]:
    """Return what the tables of values lack of registers.py, and what they have too much."""
    keys = [key for row in ROWS for key in row.keys]
    listed = [key for key, _ in keys_with_units()]
    lines = compare(["timestamp", *keys], listed, "makes the key", PLACE)
    metrics = {metric.partition("/")[0] for row in ROWS for metric in row.metrics}
    cells = [name for row in table("Readings and metrics") for name in spans(row[2])]
    lines += compare(sorted(metrics | {*OF_THE_SERVICE}), sorted(cells), "prints the metric", PLACE)
    for row in ROWS:
        names = {metric.partition("/")[0] for metric in row.metrics} - {"vestel_fault"}
        for cell, _, metric, _ in table("Readings and metrics"):
            is_its = bool({*row.keys} & {*whole_keys(cell)})
            if is_its and names and names != {*spans(metric)}:
                lines.append(f"README.md has another metric than {names} for {[*row.keys]}")
    asked = [f"{span(rows)} with function {FUNCTION[read(rows)[0]]}" for rows in RANGES]
    ranges = [f"{row[0]} with function {row[1]}" for row in table("Registers") if row[1]]
    return lines + compare(asked, ranges, "asks for", "the table Registers of README.md")


def test_values_of_the_page_are_those_of_the_program() -> None:
    lines = differences()
    if lines:
        pytest.fail("\n".join(lines), pytrace=False)


def test_units_are_those_that_the_keys_end_in() -> None:
    for key, unit in keys_with_units():
        assert unit == UNITS.get(key.rpartition("_")[2], ""), key
    for *_, metrics, meaning in table("Readings and metrics"):
        assert meaning
        assert [name for name in spans(metrics) if not name.startswith("vestel_")] == []


def test_metrics_have_the_labels_and_types_that_the_page_says(world: MakeWorld) -> None:
    it = world(details=True)
    it.read()
    text = vestel.format_prometheus(it.reading, it.snapshot)
    types = dict(re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE))
    for name, kind in types.items():
        assert kind == ("counter" if name.endswith("_total") else "gauge")
    assert {name: types[name] for name in OF_THE_SERVICE} == OF_THE_SERVICE
    own = [name for row in table("Readings and metrics")[-4:] for name in spans(row[2])]
    assert own == [name for name in OF_THE_SERVICE if name != "vestel_info"]
    phases = {metric.partition("/")[0] for row in ROWS for metric in row.metrics if "/1" in metric}
    expected = {
        **{name: {"serial"} for name in types},
        **{name: {"serial", "phase"} for name in phases},
        "vestel_fault": {"serial", "bit", "fault"},
        "vestel_info": {"serial", "chargepoint_id", "brand", "model", "firmware"},
        **{name: set() for name in own},
    }
    found = {name: {*labels} for name, labels, _ in samples(text)}
    assert found == expected


def test_codes_of_the_states_have_their_names() -> None:
    for address, key in ((1000, "chargepoint"), (1001, "charging"), (1002, "equipment"), (1004, "cable")):
        (row,) = [row for row in table("Readings and metrics") if f"`states.{key}.code`" in row[0]]
        assert re.findall(r"(\d) (\w+)", row[3]) == [
            (str(code), name) for code, name in enumerate(STATES[address])
        ] + [("0", "while")] * (key == "charging")


def test_faults_are_those_of_the_charger() -> None:
    rows = table("Faults")
    cells = [(row[n], row[n + 1]) for n in (0, 2, 4) for row in rows if row[n]]
    assert cells == [(str(bit), name) for bit, name in enumerate(FAULTS[:28])]


def test_registers_are_read_when_the_page_says() -> None:
    rows = {row[0]: row[3] for row in table("Registers")}
    *ranges, last = rows
    assert (last, rows[last]) == (str(HEARTBEAT), "never")
    always = [registers for registers in ranges if rows[registers].startswith("always")]
    assert always == [span(rows) for rows in CORE_RANGES]
    assert rows[span(range_of(CLOCK))] == "`--details`, `--watch`, `--listen`"
    others = {*ranges} - {*always, span(range_of(CLOCK))}
    assert {rows[registers] for registers in others} == {"`--details`"}


WRITES = [  # registers, and what its row says of the one written
    ("2000-2002", 2000, ["--set-current", "--set-failsafe-current"]),
    ("2000-2002", 2002, ["--set-failsafe-timeout"]),
    ("5004", 5004, ["--set-current", "--set-dynamic-current", "--hold"]),
    ("6000", 6000, ["--watch", "--listen"]),
]


def test_registers_are_written_by_the_options_that_the_page_names(
    call: Run, memory: Memory, world: MakeWorld, clock: Clock, tmp_path: Path
) -> None:
    written: dict[int, list[str]] = {}
    for option in ("--set-current", "--set-dynamic-current", "--set-failsafe-current"):
        memory.forget()
        call("--ip=charger", f"{option}={len(written) + 11}")
        for address, _ in memory.writes:
            written.setdefault(address, []).append(option)
    memory.forget()
    assert call("--ip=charger", "--set-failsafe-timeout=30").returncode == 0
    written[2002] = ["--set-failsafe-timeout"] * (memory.writes == [(2002, 30)])
    (tmp_path / "amps").write_text("13")
    it = world(hold_file=str(tmp_path / "amps"))
    it.play(20)
    written[5004] += ["--hold"] * ((5004, 13) in it.charger.writes)
    assert {address for address, _ in it.charger.writes} == {5004, HEARTBEAT}
    written[HEARTBEAT] = ["--watch", "--listen"]
    assert written == {address: options for _, address, options in WRITES}
    cells = {row[0]: row[4] for row in table("Registers")}
    for registers, address, options in WRITES:
        text = re.sub(rf".*\b{address}: |;.*", "", cells.pop(registers, "")) or text
        assert spans(text) == options
    assert not any(cells.values())


# --- A register is added ------------------------------------------------------------------------

FORGOTTEN = ["nothing", "Demo.START", "tests/lib/registers.py", "Readings and metrics", "Registers"]


def after(text: str, line: str, more: str) -> str:
    """Return the text with more behind the line that begins with that."""
    found = re.findall(rf"^[ ]*{re.escape(line)}.*\n(?:[ ]{{8,}}.*\n)*", text, re.MULTILINE)
    assert len(found) == 1, line
    return text.replace(found[0], found[0] + more)


@pytest.mark.parametrize("forgotten", FORGOTTEN)
def test_a_register_that_one_place_lacks_fails_by_name(tmp_path: Path, forgotten: str) -> None:
    """Its rows, put where the page says, satisfy the tests; without one of them, one fails."""
    in_program, in_demo, in_tests, in_values, in_registers = block(
        "Change the program", "text"
    ).splitlines(keepends=True)
    ignored = shutil.ignore_patterns("__pycache__", "recordings")
    shutil.copytree(str(ROOT / "tests"), str(tmp_path / "tests"), ignore=ignored)
    program = (ROOT / "vestel.py").read_text(encoding="utf-8")
    program = after(program, 'Value("Session Maximum"', f"    {in_program}")
    if forgotten != "Demo.START":
        program = after(program, "START: Mapping", f"        {in_demo}")
    (tmp_path / "vestel.py").write_text(program, encoding="utf-8")
    typed = tmp_path / "tests" / "lib" / "registers.py"
    if forgotten != "tests/lib/registers.py":
        rows = typed.read_text(encoding="utf-8")
        rows = after(rows, "Row(INPUT, 1100", f"    {in_tests}")
        rows = rows.replace("(INPUT, 1100), (INPUT, 1502)", "(INPUT, 1100), (INPUT, 1190), (INPUT, 1502)")
        typed.write_text(rows, encoding="utf-8")
    page = README
    if forgotten != "Readings and metrics":
        page = after(page, "| `limits.session_max_a`", in_values)
    if forgotten != "Registers":
        page = after(page, "| 1100-1106 |", in_registers)
    (tmp_path / "README.md").write_text(page, encoding="utf-8")
    tests = ["test_rows_of_program_and_tests_are_the_same", "test_values_of_the_page", "test_demo_has"]
    checked = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-k"]
        + [" or ".join(tests), "tests/unit", "tests/readme/test_readme_tables.py"],
        cwd=str(tmp_path),
        stdout=subprocess.PIPE,
        encoding="utf-8",
        check=False,
    )
    assert checked.returncode == (0 if forgotten == "nothing" else 1), checked.stdout
    if forgotten != "nothing":
        assert "1 failed" in checked.stdout
        assert re.search(r"1190|limits\.station_max_a", checked.stdout)

"""A value is a row in vestel.py, in its demo, in registers.py and in README.md.

A row that one of them lacks fails one test, which names it. While vestel.py and registers.py
differ, no other test runs (see conftest.py): all of them would say the same again.
"""

from __future__ import annotations

import itertools
import re

import pytest
from program import ROOT
from readings import WHOLE, flat
from registers import FUNCTION, RANGES, read, span
from rows import asked_for, compare, first_that_differs, name

import vestel

README = ROOT / "README.md"
ZERO_IN_DEMO = {"states.fault_code", "session.end_time"}
UNITS = {"a": "A", "v": "V", "w": "W", "kw": "kW", "wh": "Wh", "kwh": "kWh", "s": "s"}


def name_them(lines: list[str]) -> None:
    if lines:
        pytest.fail("\n".join(lines), pytrace=False)


def test_rows_of_program_and_tests_are_the_same() -> None:
    name_them(first_that_differs())


def test_demo_has_a_value_for_each_register() -> None:
    demo = vestel.Demo()
    missing = [
        f"Demo has no value for {name(registers, keys)}"
        for registers, keys in asked_for().items()
        if not any(demo.read_words(*registers)) and not ZERO_IN_DEMO & {*keys}
    ]
    name_them(missing)


def table(*head: str) -> list[list[str]]:
    """Return the rows of the table that begins with these cells."""
    text = README.read_text(encoding="utf-8").split(f"\n| {' | '.join(head)} |")[1]
    lines = itertools.takewhile(lambda line: line.startswith("|"), text.splitlines()[2:])
    return [[cell.strip() for cell in line[1:-1].split("|")] for line in lines]


def keys_of(cell: str) -> list[str]:
    """Return the keys of `a.b`, `c`: a.b and a.c."""
    first, *others = re.findall("`(.*?)`", cell)
    return [first, *(f"{first.rpartition('.')[0]}.{other}" for other in others)]


def keys_of_readme() -> list[str]:
    lines, listed = [], []
    for cell, units, _, meaning in table("key", "unit", "metric"):
        keys = keys_of(cell) if cell else []
        expected = ", ".join(dict.fromkeys(UNITS.get(key.rpartition("_")[2], "") for key in keys))
        if keys and units != expected:
            lines.append(f"README.md: {cell} is in {units!r}, not in {expected!r}")
        if not meaning:
            lines.append(f"README.md does not say what {cell} means")
        listed += keys
    return compare([*flat(WHOLE)], listed, "makes the key", "README.md") + lines


def metrics_of_readme() -> list[str]:
    exposition = vestel.format_prometheus(WHOLE, vestel.Snapshot(reading=WHOLE))
    printed = re.findall("^# HELP ([a-z_]+) ", exposition, re.MULTILINE)
    cells = [metric for _, _, metric, _ in table("key", "unit", "metric")]
    listed = [metric for cell in cells for metric in re.findall("`(.*?)`", cell)]
    return compare(sorted(printed), sorted(listed), "prints the metric", "README.md")


def registers_of_readme() -> list[str]:
    asked = [f"{span(rows)} with function {FUNCTION[read(rows)[0]]}" for rows in RANGES]
    rows = table("registers", "function")
    listed = [f"{where} with function {function}" for where, function, *_ in rows if function]
    return compare(asked, listed, "asks for", "README.md")


def test_readme_has_each_key_metric_and_register() -> None:
    name_them(keys_of_readme() + metrics_of_readme() + registers_of_readme())

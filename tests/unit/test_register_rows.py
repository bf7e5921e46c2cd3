"""A value is a row in vestel.py, its demo, registers.py and README.md; who lacks it is named."""

from __future__ import annotations

import itertools
import re

import pytest
from program import ROOT
from readings import WHOLE, flat
from registers import FUNCTION, RANGES, read, span
from rows import asked_for, compare, first_that_differs, name

import vestel

ZERO_IN_DEMO = {"states.fault_code", "session.end_time"}
UNITS = {"a": "A", "v": "V", "w": "W", "kw": "kW", "wh": "Wh", "kwh": "kWh", "s": "s"}


def name_them(lines: list[str]) -> None:
    if lines:
        pytest.fail("\n".join(lines), pytrace=False)


def test_rows_of_program_and_tests_are_the_same() -> None:
    name_them(first_that_differs())


def test_demo_has_a_value_for_each_register() -> None:
    asked, words = asked_for().items(), vestel.Demo().read_words
    zeros = [(at, keys) for at, keys in asked if not any(words(*at))]
    missing = [name(at, keys) for at, keys in zeros if not ZERO_IN_DEMO & {*keys}]
    name_them([f"Demo has no value for {one}" for one in missing])


def table(*head: str) -> list[list[str]]:
    text = (ROOT / "README.md").read_text("utf-8").split(f"\n| {' | '.join(head)} |")[1]
    lines = itertools.takewhile(lambda line: line.startswith("|"), text.splitlines()[2:])
    return [[cell.strip() for cell in line[1:-1].split("|")] for line in lines]


def test_readme_has_each_key_metric_and_register() -> None:
    exposition = vestel.format_prometheus(WHOLE, vestel.Snapshot(reading=WHOLE))
    printed = re.findall("^# HELP ([a-z_]+) ", exposition, re.MULTILINE)
    lines, listed, metrics = [], [], []
    for cell, units, metric, meaning in table("key", "unit", "metric"):
        first, *others = re.findall("`(.*?)`", cell) or [""]  # `a.b`, `c`: a.b and a.c
        keys = (
            [first, *(f"{first.rpartition('.')[0]}.{other}" for other in others)] if first else []
        )
        expected = ", ".join(dict.fromkeys(UNITS.get(key.rpartition("_")[2], "") for key in keys))
        if keys and units != expected:
            lines.append(f"README.md: {cell} is in {units!r}, not in {expected!r}")
        if not meaning:
            lines.append(f"README.md does not say what {cell} means")
        listed += keys
        metrics += re.findall("`(.*?)`", metric)
    lines += compare([*flat(WHOLE)], listed, "makes the key", "README.md")
    lines += compare(sorted(printed), sorted(metrics), "prints the metric", "README.md")
    asked = [f"{span(rows)} with function {FUNCTION[read(rows)[0]]}" for rows in RANGES]
    rows = table("registers", "function")
    told = [f"{where} with function {function}" for where, function, *_ in rows if function]
    name_them(lines + compare(asked, told, "asks for", "README.md"))

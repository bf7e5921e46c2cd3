"""A register is a row in vestel.py, in Demo, in registers.py and in README.md: what one lacks is named.

While vestel.py and registers.py differ, no other test runs (see conftest.py): all would repeat it.
"""

from __future__ import annotations

import re

import pytest
from program_rows import asked_for, compare, first_that_differs, name
from readings import WHOLE, changed, decode, flat, holding
from readme import table
from registers import MOST, RANGES, REGISTERS, Row, lost_with, read, span

import vestel

ZERO_IN_DEMO = {"states.fault_code", "session.end_time"}


def told(lines: list[str]) -> None:
    """Fail with these lines, if there are any."""
    if lines:
        pytest.fail("\n".join(lines), pytrace=False)


def test_the_rows_of_the_program_are_those_of_registers_py() -> None:
    told(first_that_differs())


def test_demo_has_a_value_for_each_register() -> None:
    demo = vestel.Demo()
    told(
        [
            f"Demo has no value for {name(registers, keys)}"
            for registers, keys in asked_for().items()
            if not any(demo.read_words(*registers)) and not ZERO_IN_DEMO & {*keys}
        ]
    )


# --- Units --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "row", [row for row in REGISTERS if row.unit in MOST], ids=lambda row: str(row.address)
)
def test_more_than_a_charger_can_have_is_null_with_a_warning_that_has_the_unit(row: Row) -> None:
    most, keys = MOST[row.unit], lost_with(row)[0]
    reading, warnings = decode(holding({row.address: most}))
    assert None not in [flat(reading)[key] for key in keys], f"{span([row])} takes {most} {row.unit}"
    assert warnings == []
    reading, warnings = decode(holding({row.address: most + 1}))
    assert changed(reading) == dict.fromkeys(keys), f"{span([row])} is in {row.unit}"
    (warning,) = warnings
    assert re.search(rf"\b{row.bank} registers? {span([row])}\b.*\b{most + 1} {row.unit}\b", warning)


@pytest.mark.parametrize(
    "row",
    [row for row in REGISTERS if row.unit in ("code", "bits", "s", "Wh", "0.1 kWh")],
    ids=lambda row: str(row.address),
)
def test_a_register_of_any_other_unit_takes_all_that_fits(row: Row) -> None:
    reading, warnings = decode(holding({row.address: [0xFFFF] * len(row.words)}))
    assert (None in [flat(reading)[key] for key in row.keys], warnings) == (False, [])


# --- README.md ----------------------------------------------------------------------------------

UNITS = {"a": "A", "v": "V", "w": "W", "kw": "kW", "wh": "Wh", "kwh": "kWh", "s": "s"}


def keys_of_the_readme() -> list[str]:
    """What to say of the table of the reading."""
    rows = table("JSON")
    lines = compare([*flat(WHOLE)], [key for key, *_ in rows], "makes the key", "the table JSON of README.md")
    units = {key: UNITS.get(key.rpartition("_")[2], "") for key in flat(WHOLE)}
    return [
        *lines,
        *(f"README.md: {key} is in {unit!r}" for key, unit, _ in rows if unit != units.get(key, unit)),
        *(f"README.md does not say what {key} means" for key, _, meaning in rows if not meaning),
    ]


def metrics_of_the_readme() -> list[str]:
    """What to say of the table of metrics: names, labels and help."""
    printed = []
    for metric in vestel.format_prometheus(WHOLE).split("\n\n"):
        about, _, *lines = metric.strip().splitlines()
        help_name, text = about[len("# HELP ") :].split(" ", 1)
        labels = {", ".join(re.findall(r'(\w+)="', line)) or "none" for line in lines}
        printed.append(" | ".join([help_name, *labels, text]))
    listed = [" | ".join(row) for row in table("Metrics")]
    return compare(printed, listed, "prints the metric", "the table Metrics of README.md")


def ranges_of_the_readme() -> list[str]:
    """What to say of the table of what is asked for."""
    asked = [f"{span(rows)} with function {read(rows)[0]}" for rows in RANGES]
    listed = [f"{registers} with function {function}" for registers, function, *_ in table("What it reads")]
    return compare(asked, listed, "asks for", "the table What it reads of README.md")


def test_the_tables_of_the_readme_have_the_rows_of_the_program() -> None:
    told(keys_of_the_readme() + metrics_of_the_readme() + ranges_of_the_readme())

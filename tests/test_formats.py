"""The same reading in three formats: every value is there, in its place and in its shape."""

from __future__ import annotations

import json
import re
import subprocess
from typing import Any

import pytest
from conftest import Memory, Run, needs
from readings import WHOLE, decode, flat, holding, sample_values, samples, without
from registers import (
    DETAILS,
    FAULTS,
    HUMAN,
    HUMAN_DETAILS,
    INFO_LABELS,
    KEYS,
    READING,
    REGISTERS,
    SAMPLES,
    STATES,
    Row,
    lost_with,
    text,
)
from simulated_charger import Image, image

import vestel

SERIAL = READING["identity"]["serial"]


def printed(call: Run, *options: str) -> str:
    """What a run printed that had no complaint."""
    result = call("--ip=charger", *options)
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


# --- JSON ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("details", [False, True], ids=["core", "details"])
def test_json_is_the_whole_reading_in_its_order_on_one_line(memory: Memory, call: Run, details: bool) -> None:
    stdout = printed(call, "--format=json", *(["--details"] if details else []))
    assert stdout.endswith("}\n")
    assert stdout.count("\n") == 1
    reading = json.loads(stdout)
    expected = {"timestamp": reading["timestamp"], **READING, **({"details": DETAILS} if details else {})}
    assert reading == expected
    assert stdout == json.dumps(expected) + "\n"  # order, and 22.0 is not 22


def test_jq_gets_a_number_out_of_the_json() -> None:
    jq = needs("jq", "jq")
    line = vestel.format_json(WHOLE)
    path = ".electrical.current.l1_a"
    assert subprocess.check_output([jq, path], input=line, encoding="utf-8", timeout=60) == "15.234\n"


# --- Human --------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", [[], ["--format=human"]], ids=["by default", "asked for"])
def test_human_is_every_value_in_its_section(memory: Memory, call: Run, option: list[str]) -> None:
    assert printed(call, *option) == HUMAN
    assert printed(call, *option, "--details") == HUMAN + HUMAN_DETAILS


# --- Prometheus ---------------------------------------------------------------------------------


@pytest.mark.parametrize("details", [False, True], ids=["core", "details"])
def test_prometheus_is_every_sample_with_its_labels(memory: Memory, call: Run, details: bool) -> None:
    stdout = printed(call, "--format=prometheus", *(["--details"] if details else []))
    assert sample_values(stdout) == (SAMPLES if details else without("vestel_info"))
    for name, labels, _ in samples(stdout):
        expected = {} if name == "vestel_up" else {"serial": SERIAL}
        if name == "vestel_info":
            expected.update(INFO_LABELS)
        elif name == "vestel_fault":
            expected.update(bit=labels["bit"], fault=FAULTS[int(labels["bit"])])
        elif f"{name}/1" in SAMPLES:
            expected["phase"] = labels["phase"]
        assert labels == expected


def test_a_sample_is_written_so() -> None:
    assert 'vestel_current_amperes{serial="VEST1234567890",phase="1"} 15.234\n' in vestel.format_prometheus(
        WHOLE
    )


@pytest.mark.parametrize("details", [False, True], ids=["core", "details"])
def test_prometheus_has_a_block_for_each_metric(details: bool) -> None:
    exposition = vestel.format_prometheus(WHOLE if details else {"timestamp": WHOLE["timestamp"], **READING})
    assert exposition.endswith("\n")
    blocks = [block.splitlines() for block in exposition[:-1].split("\n\n")]
    names = [block[0].split(" ")[2] for block in blocks]
    expected = SAMPLES if details else without("vestel_info")
    assert sorted(names) == sorted({name.split("/")[0] for name in expected})
    for name, (about, kind, *lines) in zip(names, blocks):
        assert re.fullmatch(rf"# HELP {name} \S.*", about)
        assert kind == f"# TYPE {name} gauge"
        assert lines
        assert all(re.match(rf"{name}(\{{.*\}})? \S+$", line) for line in lines)


@pytest.mark.parametrize(
    ("state", "address"), [("chargepoint", 1000), ("charging", 1001), ("equipment", 1002), ("cable", 1004)]
)
def test_help_names_the_codes_of_a_state(state: str, address: int) -> None:
    about = re.search(rf"# HELP vestel_{state}_state (.*)", vestel.format_prometheus(WHOLE))
    assert about
    codes = [(f"{code}", name) for code, name in enumerate(STATES[address])]
    assert re.findall(r"(\d+)\W+(\w+)", about[1]) == codes


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(image(), id="usual"),
        pytest.param({}, id="nothing read"),
        pytest.param(holding({1006: 0xFFFFFFFF, 1000: 99}), id="faults"),
        pytest.param(holding({100: text('"\\{}é', 25), 190: text('",a="', 10)}), id="labels"),
    ],
)
def test_promtool_has_nothing_to_say(words: Image) -> None:
    promtool = needs("promtool", "prometheus")
    said = subprocess.run(
        [promtool, "check", "metrics"],
        input=vestel.format_prometheus(decode(words)[0]),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert (said.returncode, said.stdout) == (0, "")


@pytest.mark.parametrize("held", ['"', "\\", "\\n", "a\nb", '\\"', "}", ",", "é€\U0001f50c", " "])
def test_label_values_are_escaped(held: str) -> None:
    reading = {**WHOLE, "identity": {**WHOLE["identity"], "serial": held}}
    exposition = vestel.format_prometheus(reading)
    assert sample_values(exposition) == SAMPLES
    assert {labels.get("serial", held) for _, labels, _ in samples(exposition)} == {held}


@pytest.mark.parametrize(("code", "sample"), [(0, {"vestel_phases": 1}), (1, {"vestel_phases": 3}), (2, {})])
def test_prometheus_counts_the_phases_where_they_are_known(code: int, sample: dict[str, float]) -> None:
    reading, _ = decode(holding({404: code}))
    assert sample_values(vestel.format_prometheus(reading)) == {**without("vestel_phases"), **sample}


@pytest.mark.parametrize(
    ("reading", "up"), [(decode({}, details=False)[0], 1), (None, 0)], ids=["nothing read", "no reading"]
)
def test_prometheus_always_has_up_without_labels(reading: dict[str, Any] | None, up: int) -> None:
    exposition = vestel.format_prometheus(reading)
    assert re.fullmatch(rf"# HELP vestel_up .+\n# TYPE vestel_up gauge\nvestel_up {up}\n", exposition)


# --- What is not there --------------------------------------------------------------------------


ENDED = holding({1512: 93005})  # the session has ended, else its end time is null anyway


def cells(human: str) -> dict[tuple[str, int], str]:
    """What people see: label and number of the cell -> text."""
    rows = re.findall("^(.+?): +(.*)$", human, re.MULTILINE)
    return {(label, n): cell for label, held in rows for n, cell in enumerate(re.split(" {2,}", held))}


def cells_lost_with(missing: Row) -> set[tuple[str, int]]:
    """The cells that show n/a, and are otherwise as usual, where this value was not read."""
    words = {address: word for address, word in ENDED.items() if address not in missing.addresses}
    shown, usual = (cells(vestel.format_human(decode(held)[0])) for held in (words, ENDED))
    lost = {cell for cell, held in shown.items() if held == "n/a"}
    assert shown == {**usual, **dict.fromkeys(lost, "n/a")}
    return lost


@pytest.mark.parametrize("missing", REGISTERS, ids=lambda row: str(row.address))
def test_a_missing_register_takes_exactly_its_own_value_from_all_formats(missing: Row) -> None:
    keys, metrics = lost_with(missing)
    for address in {missing.addresses[0], missing.addresses[-1]}:
        reading, warnings = decode(
            {register: word for register, word in ENDED.items() if register != address}
        )
        expected = {**flat(WHOLE), "session.end_time": "09:30:05", **dict.fromkeys(keys)}
        assert (flat(reading), warnings) == (expected, [])
        assert sample_values(vestel.format_prometheus(reading)) == without(*metrics)
    assert len(cells_lost_with(missing)) <= 1 + bool(missing.part_of and missing.keys)


def test_every_cell_for_people_is_lost_with_a_register() -> None:
    lost = {cell for missing in REGISTERS for cell in cells_lost_with(missing)}
    assert lost == {*cells(HUMAN + HUMAN_DETAILS)}


def test_where_nothing_was_read_all_is_null() -> None:
    reading, warnings = decode({})
    assert flat(reading) == {"timestamp": "2026-11-20T08:15:30+00:00", **dict.fromkeys(KEYS)}
    assert [*flat(reading)] == ["timestamp", *KEYS]
    assert warnings == []
    human = vestel.format_human(reading)
    assert re.findall("^.*?:|^==.*", human, re.M) == re.findall("^.*?:|^==.*", HUMAN + HUMAN_DETAILS, re.M)
    assert {"n/a"} == {cell for line in re.findall(": +(.*)", human) for cell in line.split()}


def test_a_text_that_is_empty_is_empty_for_programs_and_not_available_for_people() -> None:
    reading = decode(holding({100: 25 * [0]}))[0]
    assert reading["identity"]["serial"] == ""
    assert vestel.format_human(reading).splitlines()[1] == "Serial:              n/a"
    assert 'vestel_phases{serial=""} 3\n' in vestel.format_prometheus(reading)


@pytest.mark.parametrize("label", INFO_LABELS)
def test_a_detail_that_is_null_leaves_the_rest_of_the_info(label: str) -> None:
    (missing,) = [row for row in REGISTERS if f"details.{label}" in row.keys]
    words = {register: word for register, word in image().items() if register not in missing.addresses}
    exposition = vestel.format_prometheus(decode(words)[0])
    (info,) = [labels for name, labels, _ in samples(exposition) if name == "vestel_info"]
    assert info == {**INFO_LABELS, "serial": SERIAL, label: ""}

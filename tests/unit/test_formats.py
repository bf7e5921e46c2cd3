"""The same reading in three formats: every value is there, in its place and in its shape."""

from __future__ import annotations

import json
import re
import subprocess
from typing import Any

import pytest
import registers
from conftest import Memory
from program import Run, needs
from readings import WHOLE, decode, flat, holding, sample_values, samples, snapshot, without
from registers import HUMAN, HUMAN_DETAILS, INFO_LABELS, SAMPLES, Image, Row, image, lost_with, text

import vestel

SERIAL = "VEST1234567890"


def printed(call: Run, *options: str) -> str:
    result = call("--ip=charger", *options)
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


def test_json_is_the_whole_reading_in_its_order_on_one_line(memory: Memory, call: Run) -> None:
    stdout = printed(call, "--format=json", "--details")
    whole = {**WHOLE, "timestamp": json.loads(stdout)["timestamp"]}
    assert stdout == json.dumps(whole) + "\n"  # order, and 22.0 is not 22
    core = json.loads(printed(call, "--format=json"))
    assert {**core, "timestamp": "", "details": whole["details"]} == {**whole, "timestamp": ""}
    assert "details" not in core


def test_human_is_every_value_in_its_section(memory: Memory, call: Run) -> None:
    assert printed(call) == printed(call, "--format=human") == HUMAN
    assert printed(call, "--details") == HUMAN + HUMAN_DETAILS


# fmt: off
COLOURED: dict[str, tuple[dict[int, Any], str, list[str]]] = {
    "charging is green": (
        {}, "32", ["Chargepoint State:   Charging", "Charging State:      Charging"]),
    "faults are red": (
        {1000: 8, 1001: 0, 1002: 2, 1006: 17}, "1;31",
        ["Chargepoint State:   Faulted", "Equipment State:     Fault",
         "Fault Code:          17 (Contactors Welded Error, PP Error)"]),
}
# fmt: on


@pytest.mark.parametrize(("values", "colour", "rows"), COLOURED.values(), ids=[*COLOURED])
def test_states_that_matter_have_a_colour_and_nothing_else(
    values: dict[int, Any], colour: str, rows: list[str]
) -> None:
    reading, _ = decode(holding(values))
    expected = vestel.format_human(reading)
    for row in rows:
        assert f"\n{row}\n" in expected
        expected = expected.replace(f"{row}\n", f"{row[:21]}\x1b[{colour}m{row[21:]}\x1b[0m\n")
    assert vestel.format_human(reading, colour=True) == expected


def test_prometheus_is_every_sample_with_its_labels(memory: Memory, call: Run) -> None:
    core = printed(call, "--format=prometheus")
    assert sample_values(core) == without("vestel_info")
    stdout = printed(call, "--format=prometheus", "--details")
    assert sample_values(stdout) == SAMPLES
    assert set(core.splitlines()) < set(stdout.splitlines())
    for name, labels, _ in samples(stdout):
        expected = {} if name == "vestel_up" else {"serial": SERIAL}
        if name == "vestel_info":
            expected.update(INFO_LABELS)
        elif name == "vestel_fault":
            expected.update(bit=labels["bit"], fault=registers.FAULTS[int(labels["bit"])])
        elif f"{name}/1" in SAMPLES:
            expected["phase"] = labels["phase"]
        assert labels == expected
    assert f'vestel_current_amperes{{serial="{SERIAL}",phase="1"}} 15.234\n' in stdout


def test_prometheus_has_a_block_for_each_metric() -> None:
    exposition = vestel.format_prometheus(WHOLE)
    assert exposition.endswith("\n")
    blocks = [block.splitlines() for block in exposition[:-1].split("\n\n")]
    names = [block[0].split(" ")[2] for block in blocks]
    assert sorted(names) == sorted({name.split("/")[0] for name in SAMPLES})
    for name, (about, kind, *lines) in zip(names, blocks):
        assert re.fullmatch(rf"# HELP {name} \S.*", about)
        assert kind == f"# TYPE {name} gauge"
        assert lines
        assert all(re.match(rf"{name}(\{{.*\}})? \S+$", line) for line in lines)


def test_help_names_the_codes_of_a_state() -> None:
    found = re.findall(r"# HELP vestel_\w+_state (.*)", vestel.format_prometheus(WHOLE))
    codes = [[*enumerate(names)] for names in registers.STATES.values()]
    named = [re.findall(r"(\d+)\W+(\w+)", text) for text in found]
    assert [[(int(code), name) for code, name in pairs] for pairs in named] == codes


# fmt: off
ODD = {
    "usual": image(), "nothing read": {}, "faults": holding({1006: 0xFFFFFFFE, 1000: 99}),
    "labels": holding({100: text('"\\{}é', 25), 190: text('",a="', 10)}),
}
# fmt: on


@pytest.mark.needs_os
@pytest.mark.parametrize("words", ODD.values(), ids=[*ODD])
def test_promtool_has_nothing_to_say(words: Image) -> None:
    command = [needs("promtool", "prometheus"), "check", "metrics"]
    exposition = vestel.format_prometheus(decode(words)[0], COUNTED._replace(reading=WHOLE))
    checked = subprocess.run(
        command, input=exposition, capture_output=True, encoding="utf-8", timeout=60, check=False
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


@pytest.mark.parametrize(
    "held", ['"', "\\", "\\n", "a\nb", '\\"', "}", ",", "é€\U0001f50c", " "], ids=repr
)
def test_label_values_are_escaped(held: str) -> None:
    exposition = vestel.format_prometheus(snapshot(identity__serial=held).reading)
    assert sample_values(exposition) == SAMPLES
    assert {labels.get("serial", held) for _, labels, _ in samples(exposition)} == {held}


def test_prometheus_has_the_phases_where_they_are_known() -> None:
    for code, phases in ((0, {"vestel_phases": 1.0}), (2, {})):
        values = sample_values(vestel.format_prometheus(decode(holding({404: code}))[0]))
        assert values == {**without("vestel_phases"), **phases}


@pytest.mark.parametrize(("reading", "up"), [(decode({}, False)[0], 1), (None, 0)])
def test_prometheus_always_has_up_without_labels(reading: Any, up: int) -> None:
    up_alone = rf"# HELP vestel_up .+\n# TYPE vestel_up gauge\nvestel_up {up}\n"
    assert re.fullmatch(up_alone, vestel.format_prometheus(reading))


COUNTED = vestel.Snapshot(problem="", seconds=0.25, readings=7, failed=2, connections=3)


def test_metrics_of_the_service_follow_those_of_the_reading() -> None:
    exposition = vestel.format_prometheus(WHOLE, COUNTED._replace(reading=WHOLE))
    expected = vestel.format_prometheus(WHOLE)
    for name, about, kind, value in (
        ("vestel_reading_seconds", "How long the newest reading took in seconds.", "gauge", 0.25),
        ("vestel_warnings", "How many warnings last.", "gauge", 0),
        ("vestel_readings_total", "Readings made since the start.", "counter", 7),
        ("vestel_failed_readings_total", "Readings that failed since the start.", "counter", 2),
        ("vestel_connections_total", "Connections to the charger since the start.", "counter", 3),
    ):
        expected += f"\n# HELP {name} {about}\n# TYPE {name} {kind}\n{name} {value}\n"
    assert exposition == expected


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_lost_charger_leaves_up_warnings_and_counters(count: int) -> None:
    lost = COUNTED._replace(warnings=("no reading since then", "a", "b")[:count])
    expected = {"vestel_up": 0, "vestel_warnings": count, "vestel_readings_total": 7}
    expected.update(vestel_failed_readings_total=2, vestel_connections_total=3)
    assert sample_values(vestel.format_prometheus(None, lost)) == expected


ENDED = holding({1512: 93005})  # the session has ended, else its end time is null anyway


@pytest.mark.parametrize("missing", registers.REGISTERS, ids=lambda row: str(row.address))
def test_a_missing_register_takes_its_own_value_alone(missing: Row) -> None:
    keys, metrics = lost_with(missing)
    for address in {missing.addresses[0], missing.addresses[-1]}:
        known = {place: word for place, word in ENDED.items() if place != address}
        reading, warnings = decode(known)
        expected = {**flat(WHOLE), "session.end_time": "09:30:05", **dict.fromkeys(keys)}
        assert (flat(reading), warnings) == (expected, [])
        exposition = vestel.format_prometheus(reading)
        assert sample_values(exposition) == without(*metrics)
        labels = [label for label in INFO_LABELS if f"details.{label}" in keys]
        info = {**INFO_LABELS, "serial": SERIAL, **dict.fromkeys(labels, "")}
        if "identity.serial" not in keys:
            assert ("vestel_info", info, 1) in samples(exposition)
        cells = re.findall(r": .*\bn/a\b", vestel.format_human(reading))
        assert len(cells) == 1 + bool(missing.part_of and missing.keys)


def test_a_missing_phase_leaves_the_others_in_their_places() -> None:
    reading, _ = decode({place: word for place, word in image().items() if place[1] != 1010})
    assert "\nCurrent L1 L2 L3:    15.234 A  n/a       15.257 A\n" in vestel.format_human(reading)


def test_where_nothing_was_read_all_is_null() -> None:
    reading, warnings = decode({})
    assert [*flat(reading).items()][1:] == [(key, None) for key in registers.KEYS]
    assert (reading["timestamp"], warnings) == ("2026-11-20T08:15:30+00:00", [])
    human, label = vestel.format_human(reading), re.compile("^.*?:|^==.*", re.MULTILINE)
    assert label.findall(human) == label.findall(HUMAN + HUMAN_DETAILS)
    assert {"n/a"} == {cell for line in re.findall(": +(.*)", human) for cell in line.split()}


def test_an_empty_text_is_not_available_for_people_alone() -> None:
    reading = decode(holding({100: 25 * [0]}))[0]
    assert reading["identity"]["serial"] == ""
    assert vestel.format_human(reading).splitlines()[1] == "Serial:              n/a"
    assert '\nvestel_phases{serial=""} 3\n' in vestel.format_prometheus(reading)

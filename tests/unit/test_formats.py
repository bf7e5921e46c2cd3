"""The same reading in three formats: every value is there, in its place and in its shape."""

from __future__ import annotations

import json
import re
import subprocess
from typing import Any

import pytest
from conftest import Memory
from program import Run, needs
from readings import (
    WHOLE,
    decode,
    flat,
    holding,
    sample_values,
    samples,
    snapshot,
    without,
)
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
    Image,
    Row,
    image,
    lost_with,
    text,
)

import vestel

SERIAL = READING["identity"]["serial"]
CORE: dict[str, Any] = {"timestamp": WHOLE["timestamp"], **READING}
WITH_DETAILS = pytest.mark.parametrize("details", [False, True], ids=["core", "details"])


def printed(call: Run, *options: str) -> str:
    """Return what a run printed that logged nothing."""
    result = call("--ip=charger", *options)
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


# --- JSON ---------------------------------------------------------------------------------------


@WITH_DETAILS
def test_json_is_the_whole_reading_in_its_order_on_one_line(
    memory: Memory, call: Run, details: bool
) -> None:
    stdout = printed(call, "--format=json", *(["--details"] if details else []))
    timestamp = json.loads(stdout)["timestamp"]
    expected = {"timestamp": timestamp, **READING, **({"details": DETAILS} if details else {})}
    assert stdout == json.dumps(expected) + "\n"  # order, and 22.0 is not 22


# --- Human --------------------------------------------------------------------------------------


def test_human_is_every_value_in_its_section(memory: Memory, call: Run) -> None:
    assert printed(call) == printed(call, "--format=human") == HUMAN
    assert printed(call, "--details") == HUMAN + HUMAN_DETAILS


def test_a_charging_state_is_green_where_there_is_colour() -> None:
    shown = vestel.format_human(WHOLE, colour=True)
    green = "\x1b[32mCharging\x1b[0m\n"
    expected = HUMAN + HUMAN_DETAILS
    for label in ("Chargepoint State:   ", "Charging State:      "):
        expected = expected.replace(f"{label}Charging\n", label + green)
    assert shown == expected


def test_faulted_states_and_faults_are_red_where_there_is_colour() -> None:
    reading, _ = decode(holding({1000: 8, 1001: 0, 1002: 2, 1006: 17}))
    shown = vestel.format_human(reading, colour=True)
    red = re.findall(r"\n(.*?:) +\x1b\[1;31m(.*)\x1b\[0m", shown)
    assert red == [
        ("Chargepoint State:", "Faulted"),
        ("Equipment State:", "Fault"),
        ("Fault Code:", "17 (Contactors Welded Error, PP Error)"),
    ]
    assert shown.count("\x1b") == 6


# --- Prometheus ---------------------------------------------------------------------------------


@WITH_DETAILS
def test_prometheus_is_every_sample_with_its_labels(
    memory: Memory, call: Run, details: bool
) -> None:
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


@WITH_DETAILS
def test_prometheus_has_a_block_for_each_metric(details: bool) -> None:
    exposition = vestel.format_prometheus(WHOLE if details else CORE)
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
    ("state", "address"),
    [("chargepoint", 1000), ("charging", 1001), ("equipment", 1002), ("cable", 1004)],
)
def test_help_names_the_codes_of_a_state(state: str, address: int) -> None:
    about = re.search(rf"# HELP vestel_{state}_state (.*)", vestel.format_prometheus(WHOLE))
    assert about
    codes = [(f"{code}", name) for code, name in enumerate(STATES[address])]
    assert re.findall(r"(\d+)\W+(\w+)", about[1]) == codes


@pytest.mark.needs_os
@pytest.mark.parametrize(
    "words",
    [
        pytest.param(image(), id="usual"),
        pytest.param({}, id="nothing read"),
        pytest.param(holding({1006: 0xFFFFFFFE, 1000: 99}), id="faults"),
        pytest.param(holding({100: text('"\\{}é', 25), 190: text('",a="', 10)}), id="labels"),
    ],
)
def test_promtool_has_nothing_to_say(words: Image) -> None:
    promtool = needs("promtool", "prometheus")
    service = vestel.Snapshot(reading=WHOLE, seconds=0.25, readings=7)
    checked = subprocess.run(
        [promtool, "check", "metrics"],
        input=vestel.format_prometheus(decode(words)[0], service),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert (checked.returncode, checked.stdout) == (0, "")


HELD = ['"', "\\", "\\n", "a\nb", '\\"', "}", ",", "é€\U0001f50c", " "]


@pytest.mark.parametrize("held", HELD, ids=repr)
def test_label_values_are_escaped(held: str) -> None:
    reading = snapshot(identity__serial=held).reading
    exposition = vestel.format_prometheus(reading)
    assert sample_values(exposition) == SAMPLES
    assert {labels.get("serial", held) for _, labels, _ in samples(exposition)} == {held}


@pytest.mark.parametrize(
    ("code", "sample"), [(0, {"vestel_phases": 1}), (1, {"vestel_phases": 3}), (2, {})]
)
def test_prometheus_has_the_phases_where_they_are_known(
    code: int, sample: dict[str, float]
) -> None:
    reading, _ = decode(holding({404: code}))
    values = sample_values(vestel.format_prometheus(reading))
    assert values == {**without("vestel_phases"), **sample}


@pytest.mark.parametrize(
    ("reading", "up"),
    [
        pytest.param(decode({}, details=False)[0], 1, id="nothing read"),
        pytest.param(None, 0, id="no reading"),
    ],
)
def test_prometheus_always_has_up_without_labels(reading: Any, up: int) -> None:
    exposition = vestel.format_prometheus(reading)
    up_alone = rf"# HELP vestel_up .+\n# TYPE vestel_up gauge\nvestel_up {up}\n"
    assert re.fullmatch(up_alone, exposition)


# --- The metrics of the service -----------------------------------------------------------------

SERVICE = [
    "vestel_reading_seconds How long the newest reading took in seconds. gauge 0.25",
    "vestel_warnings How many warnings last. gauge 0",
    "vestel_readings_total Readings made since the start. counter 7",
    "vestel_failed_readings_total Readings that failed since the start. counter 2",
    "vestel_connections_total Connections to the charger since the start. counter 3",
]
COUNTED = vestel.Snapshot(problem="", seconds=0.25, readings=7, failed=2, connections=3)


def test_metrics_of_the_service_follow_those_of_the_reading() -> None:
    exposition = vestel.format_prometheus(WHOLE, COUNTED._replace(reading=WHOLE))
    expected = vestel.format_prometheus(WHOLE)
    for metric in SERVICE:
        name, text, kind, value = re.findall(r"(\w+) (.*) (\w+) ([\d.]+)", metric)[0]
        expected += f"\n# HELP {name} {text}\n# TYPE {name} {kind}\n{name} {value}\n"
    assert exposition == expected


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_lost_charger_leaves_up_warnings_and_counters(count: int) -> None:
    lost = COUNTED._replace(warnings=("no reading since then", "a", "b")[:count])
    assert sample_values(vestel.format_prometheus(None, lost)) == {
        "vestel_up": 0,
        "vestel_warnings": count,
        "vestel_readings_total": 7,
        "vestel_failed_readings_total": 2,
        "vestel_connections_total": 3,
    }


# --- What is not there --------------------------------------------------------------------------


ENDED = holding({1512: 93005})  # the session has ended, else its end time is null anyway


@pytest.mark.parametrize("missing", REGISTERS, ids=lambda row: str(row.address))
def test_a_missing_register_takes_its_own_value_alone(missing: Row) -> None:
    keys, metrics = lost_with(missing)
    for address in {missing.addresses[0], missing.addresses[-1]}:
        known = {place: word for place, word in ENDED.items() if place != address}
        reading, warnings = decode(known)
        expected = {**flat(WHOLE), "session.end_time": "09:30:05", **dict.fromkeys(keys)}
        assert (flat(reading), warnings) == (expected, [])
        assert sample_values(vestel.format_prometheus(reading)) == without(*metrics)
        cells = re.findall(r": .*\bn/a\b", vestel.format_human(reading))
        assert len(cells) == 1 + bool(missing.part_of and missing.keys)


def test_a_missing_phase_leaves_the_others_in_their_places() -> None:
    reading, _ = decode({place: word for place, word in image().items() if place[1] != 1010})
    assert "\nCurrent L1 L2 L3:    15.234 A  n/a       15.257 A\n" in vestel.format_human(reading)


LABELS = re.compile("^.*?:|^==.*", re.MULTILINE)


def test_where_nothing_was_read_all_is_null() -> None:
    reading, warnings = decode({})
    assert flat(reading) == {"timestamp": "2026-11-20T08:15:30+00:00", **dict.fromkeys(KEYS)}
    assert [*flat(reading)] == ["timestamp", *KEYS]
    assert warnings == []
    human = vestel.format_human(reading)
    assert LABELS.findall(human) == LABELS.findall(HUMAN + HUMAN_DETAILS)
    assert {"n/a"} == {cell for line in re.findall(": +(.*)", human) for cell in line.split()}


def test_an_empty_text_is_not_available_for_people_alone() -> None:
    reading = decode(holding({100: 25 * [0]}))[0]
    assert reading["identity"]["serial"] == ""
    assert vestel.format_human(reading).splitlines()[1] == "Serial:              n/a"
    exposition = vestel.format_prometheus(reading)
    assert 'vestel_voltage_volts{serial="",phase="1"} 231\n' in exposition


@pytest.mark.parametrize("label", INFO_LABELS)
def test_a_detail_that_is_null_leaves_the_rest_of_the_info(label: str) -> None:
    (missing,) = [row for row in REGISTERS if f"details.{label}" in row.keys]
    words = {place: word for place, word in image().items() if place not in missing.addresses}
    exposition = vestel.format_prometheus(decode(words)[0])
    (info,) = [labels for name, labels, _ in samples(exposition) if name == "vestel_info"]
    assert info == {**INFO_LABELS, "serial": SERIAL, label: ""}

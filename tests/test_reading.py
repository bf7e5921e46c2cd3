"""What is asked of the charger, and every value that comes of it, in all three formats."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import unicodedata
from datetime import datetime, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any, Callable

import pytest
from conftest import DETAILS, READING, Run, eventually, fuzzed, needs
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from simulated_charger import (
    HOLDING,
    HOLES,
    INPUT,
    Image,
    SimulatedCharger,
    exception,
    free_port,
    image,
    packed,
    simulated_charger,
    text,
    u32,
)

import vestel

NOW = datetime(2026, 11, 20, 8, 15, 30, tzinfo=timezone.utc)
WHOLE: dict[str, Any] = {"timestamp": "2026-11-20T08:15:30+00:00", **READING, "details": DETAILS}
FORMATS = ["human", "json", "prometheus"]

# (function, address, count)
CORE_READS = [
    *[(4, 100, 25), (4, 400, 5), (4, 1000, 38), (4, 1100, 7), (4, 1502, 12)],
    *[(3, 2000, 3), (3, 5004, 1)],
]
DETAIL_READS = [(4, 130, 50), (4, 190, 10), (4, 210, 5), (4, 230, 50), (4, 290, 6), (3, 405, 1)]
VALUE_READS = {  # after a refused range of several values
    400: [(4, 400, 2), (4, 404, 1)],
    1000: [
        *[(4, address, 1) for address in (1000, 1001, 1002, 1004)],
        (4, 1006, 2),
        *[(4, address, 1) for address in (1008, 1010, 1012, 1014, 1016, 1018)],
        *[(4, address, 2) for address in (1020, 1024, 1028, 1032, 1036)],
    ],
    1100: [(4, 1100, 1), (4, 1102, 1), (4, 1104, 1), (4, 1106, 1)],
    1502: [(4, 1502, 2), (4, 1504, 2), (4, 1508, 2), (4, 1512, 2)],
    2000: [(3, 2000, 1), (3, 2002, 1)],
    290: [(4, 290, 2), (4, 294, 2)],
}

# fmt: off
FAULTS = [
    "Contactors Welded Error", "Contactors Response Error", "Interlock Lock Error",
    "Interlock Unlock Error", "PP Error", "CP Diode Error", "CP Short Error",
    "Overvoltage Phase 1", "Overvoltage Phase 2", "Overvoltage Phase 3",
    "Undervoltage Phase 1", "Undervoltage Phase 2", "Undervoltage Phase 3",
    "Overcurrent Phase 1", "Overcurrent Phase 2", "Overcurrent Phase 3",
    "Residual Current Error", "Protective Earth Error", "RFID Error",
    "Interlock Permanent Error", "OCP Permanent Error",
    "Load Balance Module 1 Error", "Load Balance Module 2 Error", "Load Balance Module 3 Error",
    "HMI External RFID Reader Error", "HMI External MID Communication Error",
    "RCD Device Error", "Installation Error",
    "Unknown fault (bit 28)", "Unknown fault (bit 29)",
    "Unknown fault (bit 30)", "Unknown fault (bit 31)",
]
STATES = {
    1000: ["Available", "Preparing", "Charging", "SuspendedEVSE", "SuspendedEV", "Finishing",
           "Reserved", "Unavailable", "Faulted"],
    1001: ["NotCharging", "Charging"],
    1002: ["Initializing", "Running", "Fault", "Disabled", "Updating"],
    1004: ["CableNotConnected", "CableConnected_NoVehicle", "CableConnected_Vehicle",
           "CableConnected_VehicleLocked"],
}
# fmt: on

HUMAN = """\
== Identity ==
Serial:              VEST1234567890
Max Power:           22000 W (22.00 kW)
Phases:              3-phase

== States ==
Chargepoint State:   Charging
Charging State:      Charging
Equipment State:     Running
Cable State:         CableConnected_VehicleLocked
Fault Code:          0

== Electrical ==
Current L1 L2 L3:    15.234 A  15.181 A  15.257 A
Voltage L1 L2 L3:    231 V     230 V     229 V
Power L1 L2 L3:      66518 W   3491 W    3492 W
Total Power:         70501 W (70.50 kW)
Meter Reading:       121682.1 kWh

== Session ==
Energy:              1940301 Wh (1940.301 kWh)
Duration:            95025 s (1 day, 2:23:45)
Started:             07:42:10
Ended:               n/a

== Current Limits ==
EVSE Minimum:        6 A
EVSE Maximum:        32 A
Cable Maximum:       20 A
Session Maximum:     28 A
Dynamic Current:     16 A
Failsafe Current:    10 A
Failsafe Timeout:    21 s
"""
HUMAN_DETAILS = """
== Details ==
Chargepoint ID:      CP-GARAGE-01
Brand:               Vestel
Model:               EVC04
Firmware:            v3.187.0-1.8.156.0
Clock:               2026-11-20T09:15:30
Phase Switch:        3-phase
"""

# metric, and its phase or bit -> value
SAMPLES: dict[str, float] = {
    "vestel_up": 1,
    "vestel_info": 1,
    "vestel_max_power_watts": 22000,
    "vestel_phases": 3,
    "vestel_chargepoint_state": 2,
    "vestel_charging_state": 1,
    "vestel_equipment_state": 1,
    "vestel_cable_state": 3,
    "vestel_fault_code": 0,
    **{f"vestel_fault/{bit}": 0 for bit in range(28)},
    "vestel_current_amperes/1": 15.234,
    "vestel_current_amperes/2": 15.181,
    "vestel_current_amperes/3": 15.257,
    "vestel_voltage_volts/1": 231,
    "vestel_voltage_volts/2": 230,
    "vestel_voltage_volts/3": 229,
    "vestel_power_watts/1": 66518,
    "vestel_power_watts/2": 3491,
    "vestel_power_watts/3": 3492,
    "vestel_total_power_watts": 70501,
    "vestel_meter_reading_kwh": 121682.1,
    "vestel_evse_min_current_amperes": 6,
    "vestel_evse_max_current_amperes": 32,
    "vestel_cable_max_current_amperes": 20,
    "vestel_session_max_current_amperes": 28,
    "vestel_session_energy_wh": 1940301,
    "vestel_session_duration_seconds": 95025,
    "vestel_dynamic_current_amperes": 16,
    "vestel_failsafe_current_amperes": 10,
    "vestel_failsafe_timeout_seconds": 21,
}
INFO_LABELS = {
    "chargepoint_id": "CP-GARAGE-01",
    "brand": "Vestel",
    "model": "EVC04",
    "firmware": "v3.187.0-1.8.156.0",
}

# Registers of a value, the keys that are made of it, and the metrics.
VALUES = [
    (INPUT, 100, 124, "identity.serial", ""),
    (INPUT, 400, 401, "identity.max_power_w identity.max_power_kw", "vestel_max_power_watts"),
    (INPUT, 404, 404, "identity.phases identity.phases_raw", "vestel_phases"),
    (INPUT, 1000, 1000, "states.chargepoint.code states.chargepoint.name", "vestel_chargepoint_state"),
    (INPUT, 1001, 1001, "states.charging.code states.charging.name", "vestel_charging_state"),
    (INPUT, 1002, 1002, "states.equipment.code states.equipment.name", "vestel_equipment_state"),
    (INPUT, 1004, 1004, "states.cable.code states.cable.name", "vestel_cable_state"),
    (INPUT, 1006, 1007, "states.fault_code states.faults", "vestel_fault_code vestel_fault"),
    (INPUT, 1008, 1008, "electrical.current.l1_a", "vestel_current_amperes/1"),
    (INPUT, 1010, 1010, "electrical.current.l2_a", "vestel_current_amperes/2"),
    (INPUT, 1012, 1012, "electrical.current.l3_a", "vestel_current_amperes/3"),
    (INPUT, 1014, 1014, "electrical.voltage.l1_v", "vestel_voltage_volts/1"),
    (INPUT, 1016, 1016, "electrical.voltage.l2_v", "vestel_voltage_volts/2"),
    (INPUT, 1018, 1018, "electrical.voltage.l3_v", "vestel_voltage_volts/3"),
    (INPUT, 1020, 1021, "electrical.power.total_w electrical.power.total_kw", "vestel_total_power_watts"),
    (INPUT, 1024, 1025, "electrical.power.l1_w", "vestel_power_watts/1"),
    (INPUT, 1028, 1029, "electrical.power.l2_w", "vestel_power_watts/2"),
    (INPUT, 1032, 1033, "electrical.power.l3_w", "vestel_power_watts/3"),
    (INPUT, 1036, 1037, "electrical.meter_reading_kwh", "vestel_meter_reading_kwh"),
    (INPUT, 1100, 1100, "limits.session_max_a", "vestel_session_max_current_amperes"),
    (INPUT, 1102, 1102, "limits.evse_min_a", "vestel_evse_min_current_amperes"),
    (INPUT, 1104, 1104, "limits.evse_max_a", "vestel_evse_max_current_amperes"),
    (INPUT, 1106, 1106, "limits.cable_max_a", "vestel_cable_max_current_amperes"),
    (INPUT, 1502, 1503, "session.energy_wh session.energy_kwh", "vestel_session_energy_wh"),
    (INPUT, 1504, 1505, "session.start_time", ""),
    (INPUT, 1508, 1509, "session.duration_s", "vestel_session_duration_seconds"),
    (INPUT, 1512, 1513, "session.end_time", ""),
    (HOLDING, 2000, 2000, "settings.failsafe_current_a", "vestel_failsafe_current_amperes"),
    (HOLDING, 2002, 2002, "settings.failsafe_timeout_s", "vestel_failsafe_timeout_seconds"),
    (HOLDING, 5004, 5004, "settings.dynamic_current_a", "vestel_dynamic_current_amperes"),
    (INPUT, 130, 179, "details.chargepoint_id", ""),
    (INPUT, 190, 199, "details.brand", ""),
    (INPUT, 210, 214, "details.model", ""),
    (INPUT, 230, 279, "details.firmware", ""),
    (INPUT, 290, 291, "details.clock", ""),
    (INPUT, 294, 295, "details.clock", ""),
    (HOLDING, 405, 405, "details.phase_switch", ""),
]
BANK = {first: bank for bank, first, *_ in VALUES}
COUNT = {first: last - first + 1 for _, first, last, *_ in VALUES}
KEYS = {first: keys.split() for _, first, _, keys, _ in VALUES}
REGISTERS = [(bank, address) for bank, first, last, *_ in VALUES for address in range(first, last + 1)]


def flat(reading: dict[str, Any], above: str = "") -> dict[str, Any]:
    """The reading with keys like `session.energy_wh`."""
    found: dict[str, Any] = {}
    for key, value in reading.items():
        found.update(flat(value, f"{above}{key}.") if isinstance(value, dict) else {above + key: value})
    return found


def changed(reading: dict[str, Any]) -> dict[str, Any]:
    """What differs from the usual reading, which has the same keys."""
    found, usual = flat(reading), flat(WHOLE)
    assert [*found] == [*usual]
    return {key: value for key, value in found.items() if value != usual[key]}


def decode(words: Image, details: bool = True) -> tuple[dict[str, Any], list[str]]:
    """The reading of these words at NOW, and the warnings."""
    reading, warnings = vestel.decode(words, NOW, details)
    return reading, [*warnings.values()]


def holding(values: dict[int, Any]) -> Image:
    """The usual words with other values: address -> number, or the words."""
    words = image()
    for address, value in values.items():
        held = value if isinstance(value, list) else u32(value)[-COUNT[address] :]
        words.update({(BANK[address], address + n): word for n, word in enumerate(held)})
    return words


def samples(exposition: str) -> list[tuple[str, dict[str, str], float]]:
    """The samples as Prometheus takes them: name, labels, value."""
    families = text_string_to_metric_families(exposition)
    return [(s.name, dict(s.labels), s.value) for family in families for s in family.samples]


def sample_values(exposition: str) -> dict[str, float]:
    """Metric, and its phase or bit -> value."""
    found = samples(exposition)
    values = {
        "/".join([name, *(labels[label] for label in ("phase", "bit") if label in labels)]): value
        for name, labels, value in found
    }
    assert len(values) == len(found)
    return values


def without(*metrics: str) -> dict[str, float]:
    """The usual samples but those of some metrics."""
    return {sample: SAMPLES[sample] for sample in SAMPLES if not {sample, sample.split("/")[0]} & {*metrics}}


def stdout_of(result: subprocess.CompletedProcess[str]) -> str:
    """What was printed by a run that had no complaint."""
    assert (result.returncode, result.stderr) == (0, "")
    return str(result.stdout)


def json_of(result: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The reading that was printed, as of NOW."""
    assert result.returncode == 0, result.stderr
    return {**json.loads(result.stdout), "timestamp": WHOLE["timestamp"]}


def printable(held: str) -> str:
    """What is left of a text: neither control nor format characters, and no space but the usual one."""
    return "".join(c for c in held if c == " " or unicodedata.category(c)[0] not in "CZ")


# --- What is asked of the charger ---------------------------------------------------------------


@pytest.mark.parametrize("style", FORMATS)
@pytest.mark.parametrize(
    ("options", "reads"),
    [
        pytest.param([], CORE_READS, id="core"),
        pytest.param(["--details"], CORE_READS + DETAIL_READS, id="details"),
    ],
)
def test_a_reading_is_one_connection_and_one_request_for_each_range(
    charger: SimulatedCharger, run: Run, style: str, options: list[str], reads: list[tuple[int, int, int]]
) -> None:
    stdout_of(run("--format", style, *options, charger=charger))
    assert charger.reads == reads
    assert (charger.connections, charger.writes) == (1, [])


@pytest.mark.parametrize("unit", [None, 0, 1, 2, 247, 255])
def test_the_unit_id_goes_out_as_given(charger: SimulatedCharger, run: Run, unit: int | None) -> None:
    options = [] if unit is None else [f"--unit={unit}"]
    assert json_of(run("--details", "--format=json", *options, charger=charger)) == WHOLE
    assert [request.unit for request in charger.requests] == [1 if unit is None else unit] * 13


@pytest.mark.parametrize("holes", [0, 2])
def test_with_base_1_register_n_is_asked_for_as_n_minus_1(run: Run, holes: int) -> None:
    with simulated_charger(base=1, holes=holes) as charger:
        assert json_of(run("--base=1", "--details", "--format=json", charger=charger)) == WHOLE
    asked = [
        (function, address - 1, count)
        for read in CORE_READS + DETAIL_READS
        for function, address, count in [read, *(VALUE_READS.get(read[1], []) if holes else [])]
    ]
    assert charger.reads == asked


def test_with_base_1_a_warning_names_the_register_as_it_is_known(run: Run) -> None:
    with simulated_charger(base=1) as charger:
        charger.missing.add((HOLDING, 5004))
        stderr = run("--base=1", charger=charger).stderr
    assert re.findall("500[345]", stderr) == ["5004"]


def refuse_holes(charger: SimulatedCharger) -> None:
    """Play a firmware where holes are no registers at all."""
    charger.holes = 2


def refuse_ranges(code: int) -> Callable[[SimulatedCharger], None]:
    """Play a firmware that answers an exception to every range of several values."""

    def refuse(charger: SimulatedCharger) -> None:
        for address in VALUE_READS:
            charger.fault(exception(code), address=address, times=1)

    return refuse


@pytest.mark.parametrize(
    "refuse",
    [refuse_holes, *map(refuse_ranges, (1, 2, 3))],
    ids=["holes", "exception 1", "exception 2", "exception 3"],
)
def test_a_refused_range_is_read_value_by_value(
    charger: SimulatedCharger, run: Run, refuse: Callable[[SimulatedCharger], None]
) -> None:
    refuse(charger)
    result = run("--details", "--format=json", charger=charger)
    assert (json_of(result), result.stderr) == (WHOLE, "")
    reads = [[read, *VALUE_READS.get(read[1], [])] for read in CORE_READS + DETAIL_READS]
    assert charger.reads == [read for of_range in reads for read in of_range]
    assert charger.connections == 1


def test_what_holes_hold_is_in_no_value(charger: SimulatedCharger, run: Run) -> None:
    for bank, address in HOLES - set(charger.image):
        charger.set(bank, address, 0xA5A5)
    assert json_of(run("--details", "--format=json", charger=charger)) == WHOLE


@pytest.mark.parametrize(
    ("bank", "address", "span", "keys"),
    [
        (INPUT, 110, "100-124", ["identity.serial"]),
        (INPUT, 401, "400-404", ["identity.max_power_w", "identity.max_power_kw"]),
        (INPUT, 404, "400-404", ["identity.phases", "identity.phases_raw"]),
        (INPUT, 1002, "1000-1037", ["states.equipment.code", "states.equipment.name"]),
        (INPUT, 1006, "1000-1037", ["states.fault_code", "states.faults"]),
        (INPUT, 1037, "1000-1037", ["electrical.meter_reading_kwh"]),
        (INPUT, 1104, "1100-1106", ["limits.evse_max_a"]),
        (INPUT, 1508, "1502-1513", ["session.duration_s"]),
        (HOLDING, 2002, "2000-2002", ["settings.failsafe_timeout_s"]),
        (HOLDING, 5004, "5004", ["settings.dynamic_current_a"]),
        (INPUT, 279, "230-279", ["details.firmware"]),
        (INPUT, 295, "290-295", ["details.clock"]),
        (HOLDING, 405, "405", ["details.phase_switch"]),
    ],
)
def test_a_refused_value_is_null_with_one_warning_and_costs_no_other(
    charger: SimulatedCharger, run: Run, bank: str, address: int, span: str, keys: list[str]
) -> None:
    charger.missing.add((bank, address))
    result = run("--details", "--format=json", charger=charger)
    assert changed(json_of(result)) == dict.fromkeys(keys)
    assert re.fullmatch(rf"WARNING: .*\b{bank}\b.* {span}\b.*exception 2.*\n", result.stderr)
    assert charger.connections == 1


@pytest.mark.parametrize("style", FORMATS)
def test_old_firmware_without_the_details_gives_all_the_rest(run: Run, style: str) -> None:
    with simulated_charger(old=True) as charger:
        result = run("--details", "--format", style, charger=charger)
    if style == "json":
        assert json_of(result) == {**WHOLE, "details": dict.fromkeys(DETAILS)}
    elif style == "human":
        assert result.stdout == HUMAN + re.sub(r"(: +).*", r"\1n/a", HUMAN_DETAILS)
    else:
        values = sample_values(result.stdout)
        assert {**values, "vestel_info": 1} == SAMPLES
    assert result.returncode == 0
    warnings = result.stderr.splitlines()
    spans = ["130-179", "190-199", "210-214", "230-279", "290-295", "405"]
    assert len(warnings) == len(spans)
    for warning, span in zip(warnings, spans):
        assert re.match(rf"WARNING: .* {span}\b.*exception 2", warning)
    assert charger.reads == [*CORE_READS, *DETAIL_READS[:5], (4, 290, 2), (4, 294, 2), (3, 405, 1)]
    assert charger.connections == 1


def test_the_rfid_tag_is_never_asked_for(charger: SimulatedCharger, run: Run) -> None:
    charger.holes = 2
    charger.missing.update((INPUT, address) for address in range(1502, 1514))
    charger.set(INPUT, 1516, *text("04A2B3C4D5E6F7", 15))
    result = run("-v", "--details", charger=charger)
    assert result.returncode == 0
    assert not [read for read in charger.reads if read[1] <= 1530 and read[1] + read[2] > 1516]
    assert "04A2" not in result.stdout


def test_a_charger_is_read_over_ipv6(run: Run) -> None:
    with simulated_charger(ipv6=True) as charger:
        assert json_of(run("--details", "--format=json", charger=charger)) == WHOLE
    assert charger.host == "::1"


# --- The reading of a real server, in all three formats -----------------------------------------


@pytest.mark.parametrize("details", [False, True], ids=["core", "details"])
def test_json_is_the_whole_reading_in_its_order_on_one_line(
    charger: SimulatedCharger, run: Run, environment: dict[str, str], details: bool
) -> None:
    tokyo = {**environment, "TZ": "Asia/Tokyo"}
    options = ["--details"] if details else []
    before = datetime.now(timezone.utc).replace(microsecond=0)
    stdout = stdout_of(run("--format=json", *options, charger=charger, env=tokyo))
    after = datetime.now(timezone.utc)
    assert stdout.endswith("}\n")
    assert stdout.count("\n") == 1
    reading = json.loads(stdout)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", reading["timestamp"])
    assert before <= datetime.strptime(reading["timestamp"], "%Y-%m-%dT%H:%M:%S%z") <= after
    expected = {**WHOLE, "timestamp": reading["timestamp"]}
    if not details:
        del expected["details"]
    assert json.dumps(reading) == json.dumps(expected)  # order, and 22.0 is not 22


def test_human_is_every_value_in_its_section(charger: SimulatedCharger, run: Run) -> None:
    assert stdout_of(run(charger=charger)) == HUMAN
    assert stdout_of(run("--format=human", "--details", charger=charger)) == HUMAN + HUMAN_DETAILS


@pytest.mark.parametrize("details", [False, True], ids=["core", "details"])
def test_prometheus_is_every_sample_with_its_labels(
    charger: SimulatedCharger, run: Run, details: bool
) -> None:
    options = ["--details"] if details else []
    stdout = stdout_of(run("--format=prometheus", *options, charger=charger))
    assert sample_values(stdout) == (SAMPLES if details else without("vestel_info"))
    for name, labels, _ in samples(stdout):
        expected = {} if name == "vestel_up" else {"serial": "VEST1234567890"}
        if name == "vestel_info":
            expected.update(INFO_LABELS)
        elif name == "vestel_fault":
            expected.update(bit=labels["bit"], fault=FAULTS[int(labels["bit"])])
        elif name in ("vestel_current_amperes", "vestel_voltage_volts", "vestel_power_watts"):
            expected["phase"] = labels["phase"]
        assert labels == expected
    assert 'vestel_current_amperes{serial="VEST1234567890",phase="1"} 15.234\n' in stdout


@pytest.mark.parametrize("options", [[], ["--details"]], ids=["core", "details"])
def test_prometheus_has_a_block_for_each_metric(
    charger: SimulatedCharger, run: Run, options: list[str]
) -> None:
    stdout = stdout_of(run("--format=prometheus", *options, charger=charger))
    assert stdout.endswith("\n")
    blocks = [block.splitlines() for block in stdout[:-1].split("\n\n")]
    names = [block[0].split(" ")[2] for block in blocks]
    assert sorted(names) == sorted(
        {name.split("/")[0] for name in (SAMPLES if options else without("vestel_info"))}
    )
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


def test_jq_gets_a_number_out_of_the_json(charger: SimulatedCharger, run: Run) -> None:
    jq = needs("jq", "jq")
    stdout = stdout_of(run("--format=json", charger=charger))
    path = ".electrical.current.l1_a"
    assert subprocess.check_output([jq, path], input=stdout, encoding="utf-8", timeout=60) == "15.234\n"


# --- Words to values ----------------------------------------------------------------------------


def test_the_usual_words_give_the_usual_reading() -> None:
    reading, warnings = decode(image())
    assert (json.dumps(reading), warnings) == (json.dumps(WHOLE), [])
    core, _ = decode(image(), details=False)
    assert json.dumps({**core, "details": DETAILS}) == json.dumps(WHOLE)
    assert "details" not in core


DECODED: dict[int, dict[Any, list[Any]]] = {  # address -> number or words -> values
    400: {0: [0, 0.0], 7400: [7400, 7.4], 22080: [22080, 22.08]},
    404: {0: ["1-phase", 0], 2: ["Unknown", 2], 65535: ["Unknown", 65535]},
    1008: {0: [0.0], 49: [0.049], 14707: [14.707], 65535: [65.535]},
    1010: {18: [0.018]},
    1012: {18: [0.018]},
    1014: {227: [227]},
    1016: {0: [0]},
    1018: {231: [231]},
    1020: {4: [4, 0.0], 3312: [3312, 3.31], 3316: [3316, 3.32], 10501: [10501, 10.5], (1, 0): [65536, 65.54]},
    1024: {(1, 1): [65537]},
    1028: {(0, 3312): [3312]},
    1032: {(1, 2): [65538]},
    1036: {21682: [2168.2], (1, 0): [6553.6], (65535, 65535): [429496729.5]},
    1100: {0: [0]},
    1102: {8: [8]},
    1104: {16: [16]},
    1106: {63: [63]},
    1502: {8421: [8421, 8.421], (29, 39757): [1940301, 1940.301], (65535, 65535): [4294967295, 4294967.295]},
    1504: {1: ["00:00:01"], 235959: ["23:59:59"]},
    1508: {(1, 0): [65536], (65535, 65535): [4294967295]},
    1512: {100: ["00:01:00"], 93005: ["09:30:05"]},
    2000: {0: [0]},
    2002: {65535: [65535]},
    5004: {0: [0], 32: [32]},
    290: {240229: ["2024-02-29T09:15:30"], 991231: ["2099-12-31T09:15:30"]},
    294: {0: ["2026-11-20T00:00:00"], 235959: ["2026-11-20T23:59:59"]},
    405: {0: ["1-phase"], 2: ["Unknown"]},
}


@pytest.mark.parametrize(
    ("address", "held", "values"),
    [(address, held, values) for address in DECODED for held, values in DECODED[address].items()],
    ids=str,
)
def test_a_value_is_decoded(address: int, held: Any, values: list[Any]) -> None:
    reading, _ = decode(holding({address: [*held] if isinstance(held, tuple) else held}))
    expected = dict(zip(KEYS[address], values))
    assert {key: flat(reading)[key] for key in KEYS[address]} == expected
    assert changed(reading).keys() <= expected.keys()


@pytest.mark.parametrize(
    ("address", "number"),
    [(address, number) for address in (1504, 1512) for number in (0, 240000, 126000, 120060, 2**32 - 1)]
    + [(290, number) for number in (0, 230229, 261320, 1000101, 2**32 - 1)]
    + [(294, number) for number in (240000, 106000, 100060, 2**32 - 1)],
)
def test_what_is_no_time_is_null(address: int, number: int) -> None:
    found = flat(decode(holding({address: number}))[0])
    assert found == {**flat(WHOLE), **dict.fromkeys(KEYS[address])}


def test_an_idle_charger_is_no_cause_for_warnings() -> None:
    idle = holding({1000: 0, 1001: 0, 1004: 0, 1008: 49, 1020: 4, 1504: 0})
    assert decode(idle)[1] == []


@pytest.mark.parametrize(
    ("address", "code", "name"),
    [(address, code, name) for address, names in STATES.items() for code, name in enumerate(names)]
    + [(1000, 9, "Unknown"), (1001, 2, "Unknown"), (1002, 5, "Unknown"), (1004, 4, "Unknown")]
    + [(address, 65535, "Unknown") for address in STATES],
)
def test_a_state_has_its_code_and_name(address: int, code: int, name: str) -> None:
    reading, _ = decode(holding({address: code}))
    assert [flat(reading)[key] for key in KEYS[address]] == [code, name]
    assert changed(reading).keys() <= {*KEYS[address]}
    label = {1000: "Chargepoint", 1001: "Charging", 1002: "Equipment", 1004: "Cable"}[address]
    assert f"\n{label + ' State:':20} {name}\n" in vestel.format_human(reading)


@pytest.mark.parametrize("bit", range(32))
def test_a_fault_bit_has_its_name_in_all_formats(bit: int) -> None:
    code = 2**bit
    reading, _ = decode(holding({1006: code}))
    assert changed(reading) == {"states.fault_code": code, "states.faults": [FAULTS[bit]]}
    assert f"\nFault Code:          {code} ({FAULTS[bit]})\n" in vestel.format_human(reading)
    values = sample_values(vestel.format_prometheus(reading))
    known = {f"vestel_fault/{bit}": 1} if bit < 28 else {}
    assert values == {**SAMPLES, "vestel_fault_code": code, **known}


@pytest.mark.parametrize(
    ("code", "bits"),
    [(0x11, [0, 4]), (0x80010002, [1, 16, 31]), (0x0FFFFFFF, [*range(28)]), (0xFFFFFFFF, [*range(32)])],
)
def test_several_faults_are_named_from_the_lowest_bit(code: int, bits: list[int]) -> None:
    reading, _ = decode(holding({1006: code}))
    assert reading["states"]["faults"] == [FAULTS[bit] for bit in bits]
    assert all(FAULTS[bit] in vestel.format_human(reading) for bit in bits)
    values = sample_values(vestel.format_prometheus(reading))
    assert [values[f"vestel_fault/{bit}"] for bit in range(28)] == [int(bit in bits) for bit in range(28)]


@pytest.mark.parametrize(
    ("address", "most"),
    [(address, 1000) for address in (1014, 1016, 1018)]
    + [(address, 100_000) for address in (400, 1020, 1024, 1028, 1032)]
    + [(address, 100) for address in (1100, 1102, 1104, 1106, 2000, 5004)],
)
def test_more_than_a_charger_can_have_is_null_with_a_warning(address: int, most: int) -> None:
    reading, warnings = decode(holding({address: most}))
    assert (flat(reading)[KEYS[address][0]], warnings) == (most, [])
    reading, (warning,) = decode(holding({address: most + 1}))
    assert changed(reading) == dict.fromkeys(KEYS[address])
    assert re.search(rf"\b{address}\b", warning)
    assert f"{most + 1}" in warning


def test_the_warning_of_an_impossible_value_reaches_stderr(charger: SimulatedCharger, run: Run) -> None:
    charger.set(INPUT, 1020, *u32(250_123))
    result = run("--details", "--format=json", charger=charger)
    assert changed(json_of(result)) == {"electrical.power.total_w": None, "electrical.power.total_kw": None}
    assert re.fullmatch(r"WARNING: .*\b1020\b.*\n", result.stderr)


@pytest.mark.parametrize(
    ("bank", "first", "last", "keys", "metrics"), VALUES, ids=[f"{first}" for _, first, *_ in VALUES]
)
def test_a_missing_register_takes_exactly_its_own_value_from_all_formats(
    bank: str, first: int, last: int, keys: str, metrics: str
) -> None:
    usual = holding({1512: 93005})  # the session has ended, else its end time is null anyway
    for address in {first, last}:
        words = {register: word for register, word in usual.items() if register != (bank, address)}
        reading, warnings = decode(words)
        expected = {"session.end_time": "09:30:05", **dict.fromkeys(keys.split())}
        assert (flat(reading), warnings) == ({**flat(WHOLE), **expected}, [])
        assert [*flat(reading)] == [*flat(WHOLE)]
        assert sample_values(vestel.format_prometheus(reading)) == without(*metrics.split())
        before = vestel.format_human(decode(usual)[0]).splitlines()
        lines = vestel.format_human(reading).splitlines()
        (row,) = [line for line, was in zip(lines, before) if line != was]
        assert len(lines) == len(before)
        assert row.count("n/a") == 1


@pytest.mark.parametrize(
    "words",
    [[*text("VEST1", 6), *text("OLD", 19)], [0x5645, 0x5354, 0x3100, 0x4F4C, 0x4400, *[0] * 20]],
    ids=["a character to a register", "two"],
)
def test_a_text_ends_at_its_first_0(words: list[int]) -> None:
    assert decode(holding({100: words}))[0]["identity"]["serial"] == "VEST1"


def test_a_clock_that_is_none_names_both_its_registers() -> None:
    reading, (warning,) = decode(holding({290: 0, 294: 0}))
    assert reading["details"]["clock"] is None
    assert "290-295" in warning


def test_a_text_that_is_empty_is_empty_for_programs_and_not_available_for_people() -> None:
    reading = decode(holding({100: 25 * [0]}))[0]
    assert reading["identity"]["serial"] == ""
    assert vestel.format_human(reading).splitlines()[1] == "Serial:              n/a"
    assert 'vestel_phases{serial=""} 3\n' in vestel.format_prometheus(reading)


def test_where_nothing_was_read_all_is_null() -> None:
    reading, warnings = decode({})
    nothing = {**dict.fromkeys(flat(WHOLE)), "timestamp": WHOLE["timestamp"]}
    assert (json.dumps(flat(reading)), warnings) == (json.dumps(nothing), [])
    human = vestel.format_human(reading)
    assert re.findall("^.*?:|^==.*", human, re.M) == re.findall("^.*?:|^==.*", HUMAN + HUMAN_DETAILS, re.M)
    assert {"n/a"} == {cell for row in re.findall(": +(.*)", human) for cell in row.split()}


@pytest.mark.parametrize(
    ("reading", "up"), [(decode({}, details=False)[0], 1), (None, 0)], ids=["nothing read", "no reading"]
)
def test_prometheus_always_has_up_without_labels(reading: dict[str, Any] | None, up: int) -> None:
    exposition = vestel.format_prometheus(reading)
    assert re.fullmatch(rf"# HELP vestel_up .+\n# TYPE vestel_up gauge\nvestel_up {up}\n", exposition)


@pytest.mark.parametrize(("code", "sample"), [(0, {"vestel_phases": 1}), (1, {"vestel_phases": 3}), (2, {})])
def test_prometheus_counts_the_phases_where_they_are_known(code: int, sample: dict[str, float]) -> None:
    reading, _ = decode(holding({404: code}))
    assert sample_values(vestel.format_prometheus(reading)) == {**without("vestel_phases"), **sample}


# --- Text ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        pytest.param([0] * 25, "", id="empty"),
        pytest.param(text("ABCDEFGHIJKLMNOPQRSTUVWXY", 25), "ABCDEFGHIJKLMNOPQRSTUVWXY", id="full"),
        pytest.param(text("Zürich 24 €", 25), "Zürich 24 €", id="not ASCII"),
        pytest.param(text("V\ud83d\udd0cE", 25), "V\U0001f50cE", id="above 16 bits"),
        pytest.param(text("V\ud83dE\udd0c", 25), "VE", id="half a character"),
        pytest.param(packed("V", 25), "V", id="packed, one"),
        pytest.param(packed("VEST-1234", 25), "VEST-1234", id="packed, odd"),
        pytest.param(packed("VEST-12345", 25), "VEST-12345", id="packed, even"),
        pytest.param(packed("0123456789" * 5, 25), "0123456789" * 5, id="packed, full"),
        pytest.param(packed("Zürich 24 €", 25), "Zürich 24 €", id="packed, not ASCII"),
        pytest.param([0x5645, 0xFFFE, 0x5354, *[0] * 22], "VEST", id="packed, no UTF-8"),
    ],
)
def test_text_is_decoded_in_both_layouts(words: list[int], expected: str) -> None:
    reading, warnings = decode(holding({100: words}))
    assert (reading["identity"]["serial"], warnings) == (expected, [])


UNRULY = 'A"\\\x1b[31m\nB\r\t\x7f\x85\x9b\u2028\u202eC'
RULY = 'A"\\[31mBC'


@pytest.mark.parametrize("style", FORMATS)
@pytest.mark.parametrize("layout", [text, packed])
def test_unruly_text_stays_one_harmless_token(
    charger: SimulatedCharger, run: Run, layout: Callable[[str, int], list[int]], style: str
) -> None:
    charger.set(INPUT, 100, *layout(UNRULY, 25))
    charger.set(INPUT, 130, *layout(UNRULY, 50))
    stdout = stdout_of(run("--details", "--format", style, charger=charger))
    assert printable(stdout.replace("\n", "")) == stdout.replace("\n", "")
    if style == "json":
        expected = {"identity.serial": RULY, "details.chargepoint_id": RULY}
        assert changed({**json.loads(stdout), "timestamp": WHOLE["timestamp"]}) == expected
    elif style == "human":
        usual = (HUMAN + HUMAN_DETAILS).replace("VEST1234567890", RULY)
        assert stdout == usual.replace("CP-GARAGE-01", RULY)
    else:
        assert sample_values(stdout) == SAMPLES
        found = {name: labels for name, labels, _ in samples(stdout)}
        assert {labels["serial"] for name, labels in found.items() if name != "vestel_up"} == {RULY}
        assert found["vestel_info"] == {**INFO_LABELS, "serial": RULY, "chargepoint_id": RULY}


@pytest.mark.parametrize("held", ['"', "\\", "\\n", "a\nb", '\\"', "}", ",", "é€\U0001f50c", " "])
def test_label_values_are_escaped(held: str) -> None:
    reading = {**WHOLE, "identity": {**WHOLE["identity"], "serial": held}}
    exposition = vestel.format_prometheus(reading)
    assert sample_values(exposition) == SAMPLES
    assert {labels.get("serial", held) for _, labels, _ in samples(exposition)} == {held}


@pytest.mark.parametrize(
    ("first", "last", "label"),
    [(130, 179, "chargepoint_id"), (190, 199, "brand"), (210, 214, "model"), (230, 279, "firmware")],
)
def test_a_detail_that_is_null_leaves_the_rest_of_the_info(first: int, last: int, label: str) -> None:
    words = {register: word for register, word in image().items() if not first <= register[1] <= last}
    found = [
        labels for name, labels, _ in samples(vestel.format_prometheus(decode(words)[0])) if "info" in name
    ]
    assert found == [{**INFO_LABELS, "serial": "VEST1234567890", label: ""}]


# --- Properties ---------------------------------------------------------------------------------

U32 = st.integers(0, 2**32 - 1)


@fuzzed
@given(
    held=st.binary(min_size=2 * len(REGISTERS), max_size=2 * len(REGISTERS)),
    mask=st.sampled_from([0xFFFF, 0xFF, 0x1F, 1]),
    missing=st.sets(st.sampled_from(REGISTERS), max_size=12),
    details=st.booleans(),
)
def test_fuzz_any_words_make_a_reading_that_every_format_can_show(
    held: bytes, mask: int, missing: set[tuple[str, int]], details: bool
) -> None:
    pairs = zip(held[::2], held[1::2])
    words = {register: (high * 256 + low) & mask for register, (high, low) in zip(REGISTERS, pairs)}
    reading, warnings = decode({r: word for r, word in words.items() if r not in missing}, details)
    assert [*flat(reading)] == [key for key in flat(WHOLE) if details or not key.startswith("details.")]
    human, line = vestel.format_human(reading), vestel.format_json(reading)
    exposition = vestel.format_prometheus(reading)
    assert json.loads(line) == json.loads(vestel.format_json(reading, 2)) == reading
    assert line.count("\n") == 1
    assert human.count("\n") == (HUMAN + HUMAN_DETAILS * details).count("\n")
    assert {"vestel_up"} <= sample_values(exposition).keys() <= SAMPLES.keys()
    lines = [part for shown in (human, line, exposition) for part in shown.split("\n")]
    assert [*map(printable, warnings + lines)] == warnings + lines


CHARACTERS = st.characters(min_codepoint=1, max_codepoint=0xFFFF, exclude_categories=["Cs"])


@fuzzed
@given(held=st.text(CHARACTERS, max_size=24))
def test_text_with_a_character_to_a_register_keeps_what_is_printable(held: str) -> None:
    reading, _ = decode(holding({100: text("V" + held, 25)}))
    assert reading["identity"]["serial"] == "V" + printable(held)


@fuzzed
@given(held=st.text(st.characters(min_codepoint=1, exclude_categories=["Cs"]), max_size=12))
def test_text_with_two_bytes_to_a_register_keeps_what_is_printable(held: str) -> None:
    reading, _ = decode(holding({100: packed("Ve" + held, 25)}))
    assert reading["identity"]["serial"] == "Ve" + printable(held)


@fuzzed
@given(number=U32)
def test_a_number_of_two_registers_is_right_to_the_last_digit(number: int) -> None:
    words = [number // 65536, number % 65536]
    reading, _ = decode(holding(dict.fromkeys((1006, 1020, 1036, 1502, 1508), words)))
    found = json.loads(vestel.format_json(reading), parse_float=Decimal)
    assert found["session"]["energy_wh"] == found["session"]["duration_s"] == number
    assert found["session"]["energy_kwh"] * 1000 == number
    assert found["electrical"]["meter_reading_kwh"] * 10 == number
    assert found["states"]["fault_code"] == number
    assert found["states"]["faults"] == [FAULTS[bit] for bit in range(32) if number // 2**bit % 2]
    assert found["electrical"]["power"]["total_w"] == (number if number <= 100_000 else None)


@fuzzed
@given(number=st.integers(0, 65535))
def test_a_current_keeps_its_milliamperes(number: int) -> None:
    reading, _ = decode(holding({1008: number}))
    found = json.loads(vestel.format_json(reading), parse_float=Decimal)
    assert found["electrical"]["current"]["l1_a"] * 1000 == number
    shown = f"{number // 1000}.{number % 1000:03} A "
    assert f"\nCurrent L1 L2 L3:    {shown}" in vestel.format_human(reading)


@fuzzed
@given(watts=st.integers(0, 100_000))
def test_kilowatts_have_two_decimals(watts: int) -> None:
    reading, _ = decode(holding({400: watts, 1020: watts}))
    found = json.loads(vestel.format_json(reading), parse_float=Decimal)
    for kilowatts in (found["identity"]["max_power_kw"], found["electrical"]["power"]["total_kw"]):
        assert kilowatts * 100 == int(kilowatts * 100)
        assert abs(kilowatts * 1000 - watts) <= 5
    row = f"{watts} W ({kilowatts:.2f} kW)\n"
    assert vestel.format_human(reading).count(row) == 2


@fuzzed
@given(number=st.one_of(U32, st.integers(0, 250_000)))
def test_a_time_is_given_where_it_is_one(number: int) -> None:
    digits = f"{number:06}"
    hours, minutes, seconds = digits[:-4], digits[-4:-2], digits[-2:]
    valid = number != 0 and len(hours) == 2 and hours <= "23" and minutes <= "59" and seconds <= "59"
    reading, _ = decode(holding({1504: number, 1512: number}))
    expected = f"{hours}:{minutes}:{seconds}" if valid else None
    assert (reading["session"]["start_time"], reading["session"]["end_time"]) == (expected, expected)


# --- stderr -------------------------------------------------------------------------------------


def test_verbose_shows_every_request_and_reply_in_hex(charger: SimulatedCharger, run: Run) -> None:
    result = run("-v", "--unit=17", charger=charger)
    assert (result.returncode, result.stdout) == (0, HUMAN)
    assert f"127.0.0.1:{charger.port}" in result.stderr.splitlines()[0]  # the connection
    shown = re.sub(r"[\s:]|\\x|0x", "", result.stderr.lower())
    for function, address, count in CORE_READS:
        assert f"0000000611{function:02x}{address:04x}{count:04x}" in shown
    for reply in ["043200560045005300540031", "040a000055f00000", "044c000200010001", "040e001c00000006"]:
        assert f"11{reply}" in shown
    for reply in ["0418001d9b4d000121e2", "0306000a00000015", "03020010"]:
        assert f"11{reply}" in shown


@pytest.mark.parametrize("play", ["silence", "reset", "close", "short", "other transaction", exception(4)])
def test_nothing_of_pymodbus_reaches_stderr(charger: SimulatedCharger, run: Run, play: Any) -> None:
    charger.fault(play, address=190, times=2)
    result = run("--details", "--format=json", "--timeout=1", charger=charger)
    assert changed(json_of(result)) == {"details.brand": None}
    assert re.fullmatch("WARNING: .* 190-199.*\n", result.stderr)


def test_a_refused_connection_is_one_line(run: Run) -> None:
    port = free_port()
    result = run("--ip=127.0.0.1", f"--port={port}")
    assert (result.returncode, result.stdout) == (1, "")
    assert re.fullmatch(f"ERROR: Cannot connect to 127.0.0.1:{port}: .*\n", result.stderr)


# --- Demo, and life without pymodbus ------------------------------------------------------------

Trap = Callable[[str], "dict[str, str]"]


@pytest.fixture
def trap(tmp_path: Path, environment: dict[str, str]) -> Trap:
    """Return the environment of a process where importing pymodbus does that."""

    def set_trap(code: str) -> dict[str, str]:
        library = tmp_path / "library"
        library.mkdir()
        (library / "pymodbus.py").write_text(code + "\n", encoding="utf-8")
        return {**environment, "PYTHONPATH": str(library)}

    return set_trap


END = "raise SystemExit('pymodbus was imported')"


@pytest.mark.parametrize("details", [False, True], ids=["core", "details"])
@pytest.mark.parametrize("style", FORMATS)
def test_demo_shows_a_charging_car_without_pymodbus(run: Run, trap: Trap, style: str, details: bool) -> None:
    options = ["--details"] if details else []
    stdout = stdout_of(run("--demo", "--format", style, *options, env=trap(END)))
    if style == "json":
        reading = json.loads(stdout)
        found = flat(reading)
        assert [*found] == [key for key in flat(WHOLE) if details or not key.startswith("details.")]
        assert [key for key, value in found.items() if value is None] == ["session.end_time"]
        assert reading["states"] == WHOLE["states"]
        assert reading["identity"]["phases"] == "3-phase"
        electrical = reading["electrical"]
        assert all(amperes > 6 for amperes in electrical["current"].values())
        assert all(220 < volts < 240 for volts in electrical["voltage"].values())
        assert all(watts > 1000 for watts in electrical["power"].values() if isinstance(watts, int))
    elif style == "human":
        usual = HUMAN + HUMAN_DETAILS * details
        assert re.findall("^.*?:|^==.*", stdout, re.M) == re.findall("^.*?:|^==.*", usual, re.M)
        assert re.findall(".*n/a", stdout) == ["Ended:               n/a"]
    else:
        expected = SAMPLES if details else without("vestel_info")
        assert sample_values(stdout).keys() == expected.keys()


def test_the_session_of_the_demo_grows() -> None:
    demo = vestel.Demo()

    def grown() -> tuple[int, int]:
        words = demo.read_words("input", 1502, 12)
        return words[0] * 65536 + words[1], words[6] * 65536 + words[7]

    def meter() -> int:
        return demo.read_words("input", 1036, 2)[1]

    (energy, duration), metered = grown(), meter()
    eventually(lambda: grown()[0] > energy and grown()[1] > duration)
    demo._then -= 3600  # an hour at 10.5 kW
    assert grown()[0] - energy in range(10_400, 10_600)
    assert meter() - metered in (104, 105, 106)


def test_demo_reads_no_configuration(run: Run, environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / ".config").mkdir()
    (tmp_path / ".config" / "vestel_modbus.ini").write_text("no configuration", encoding="utf-8")
    stdout_of(run("--demo"))


@pytest.mark.parametrize(
    ("option", "status"),
    [("--help", 0), ("--version", 0), ("--port=0", 2), ("--unit=256", 2), ("--format=xml", 2), ("--no", 2)],
)
def test_help_and_usage_errors_need_no_pymodbus(run: Run, trap: Trap, option: str, status: int) -> None:
    result = run("--ip=127.0.0.1", option, env=trap(END))
    assert result.returncode == status
    assert "pymodbus was imported" not in result.stderr
    assert bool(result.stdout) == (status == 0)


@pytest.mark.parametrize(
    "code",
    [
        pytest.param("raise ModuleNotFoundError('No module named pymodbus')", id="missing"),
        pytest.param("", id="another module"),
        pytest.param("raise AttributeError('module asyncio has no coroutine')", id="too old for this Python"),
    ],
)
def test_without_pymodbus_one_line_names_the_python(run: Run, trap: Trap, code: str) -> None:
    result = run("--ip=127.0.0.1", f"--port={free_port()}", env=trap(code))
    assert (result.returncode, result.stdout) == (1, "")
    assert re.fullmatch(rf"ERROR: .*{re.escape(sys.executable)}.*pip install.*\n", result.stderr)

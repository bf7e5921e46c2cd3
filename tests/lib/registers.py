"""What the charger holds, and what has to come of it: rows, typed by hand, not from vestel.py."""

from __future__ import annotations

import struct
from typing import Any, Dict, NamedTuple, Tuple

INPUT, HOLDING = "input", "holding"
FUNCTION = {INPUT: 4, HOLDING: 3}  # the Modbus function that reads the bank
DERIVED = ""  # no bank: the value is made of those of other rows

HEARTBEAT, DYNAMIC, FAILSAFE, TIMEOUT, PHASE_SWITCH = 6000, 5004, 2000, 2002, 405  # holding
FIRMWARE, CLOCK, PHASES, CABLE, EVSE_MIN, EVSE_MAX = 230, 290, 404, 1004, 1102, 1104  # input
NO_CABLE, NO_VEHICLE, VEHICLE, LOCKED = range(4)  # the states of the cable


def text(value: str, count: int) -> list[int]:
    """Return a text with one character to a register, padded with 0, as real boxes have it."""
    return [ord(character) for character in value] + [0] * (count - len(value))


def packed(value: str, count: int) -> list[int]:
    """Return a text with two characters to a register, as related firmware has it."""
    return [*struct.unpack(f">{count}H", value.encode().ljust(2 * count, b"\0"))]


def u32(value: int) -> list[int]:
    return [value >> 16, value & 0xFFFF]


class Row(NamedTuple):
    bank: str
    address: int
    words: list[int]
    unit: str
    keys: dict[str, Any]  # of the reading, and their values
    metrics: dict[str, float] = {}  # the samples (`name`, or `name/phase`), and their values
    part_of: str = ""  # a key of another row that needs this row, too

    @property
    def last(self) -> int:
        return self.address + len(self.words) - 1

    @property
    def addresses(self) -> list[tuple[str, int]]:
        return [(self.bank, address) for address in range(self.address, self.last + 1)]


# The rows stand in the order of the reading. No two numbers are alike, so that a shifted, stale or
# swapped word shows. Most are above 16 bits where there is room for it.
# fmt: off
CORE_ROWS = [
    Row(INPUT, 100, text("VEST1234567890", 25), "text", {"identity.serial": "VEST1234567890"}),
    Row(INPUT, 400, u32(22000), "W", {"identity.max_power_w": 22000, "identity.max_power_kw": 22.0},
        {"vestel_max_power_watts": 22000}),
    Row(INPUT, 404, [1], "code", {"identity.phases": "3-phase", "identity.phases_raw": 1},
        {"vestel_phases": 3}),
    Row(INPUT, 1000, [2], "code",
        {"states.chargepoint.code": 2, "states.chargepoint.name": "Charging"},
        {"vestel_chargepoint_state": 2}),
    Row(INPUT, 1001, [1], "code", {"states.charging.code": 1, "states.charging.name": "Charging"},
        {"vestel_charging_state": 1}),
    Row(INPUT, 1002, [1], "code", {"states.equipment.code": 1, "states.equipment.name": "Running"},
        {"vestel_equipment_state": 1}),
    Row(INPUT, 1004, [3], "code",
        {"states.cable.code": 3, "states.cable.name": "CableConnected_VehicleLocked"},
        {"vestel_cable_state": 3}),
    Row(INPUT, 1006, u32(0), "bits", {"states.fault_code": 0, "states.faults": []},
        {"vestel_fault_code": 0, **{f"vestel_fault/{bit}": 0 for bit in range(28)}}),
    *[Row(INPUT, address, [number], "mA", {f"electrical.current.l{phase}_a": amperes},
          {f"vestel_current_amperes/{phase}": amperes}, part_of="electrical.active_phases")
      for phase, address, number, amperes in
      [(1, 1008, 15234, 15.234), (2, 1010, 15181, 15.181), (3, 1012, 15257, 15.257)]],
    Row(INPUT, 1014, [231], "V", {"electrical.voltage.l1_v": 231}, {"vestel_voltage_volts/1": 231}),
    Row(INPUT, 1016, [230], "V", {"electrical.voltage.l2_v": 230}, {"vestel_voltage_volts/2": 230}),
    Row(INPUT, 1018, [229], "V", {"electrical.voltage.l3_v": 229}, {"vestel_voltage_volts/3": 229}),
    *[Row(INPUT, address, u32(watts), "W", {f"electrical.power.l{phase}_w": watts},
          {f"vestel_power_watts/{phase}": watts})
      for phase, address, watts in [(1, 1024, 66518), (2, 1028, 3491), (3, 1032, 3492)]],
    Row(INPUT, 1020, u32(70501), "W",
        {"electrical.power.total_w": 70501, "electrical.power.total_kw": 70.5},
        {"vestel_total_power_watts": 70501}),
    Row(INPUT, 1036, u32(1216821), "0.1 kWh", {"electrical.meter_reading_kwh": 121682.1},
        {"vestel_meter_reading_kwh": 121682.1}),
    Row(DERIVED, 0, [], "", {"electrical.active_phases": 3}, {"vestel_active_phases": 3}),
    Row(INPUT, 1102, [6], "A", {"limits.evse_min_a": 6}, {"vestel_evse_min_current_amperes": 6}),
    Row(INPUT, 1104, [32], "A", {"limits.evse_max_a": 32}, {"vestel_evse_max_current_amperes": 32}),
    Row(INPUT, 1106, [20], "A", {"limits.cable_max_a": 20},
        {"vestel_cable_max_current_amperes": 20}),
    Row(INPUT, 1100, [28], "A", {"limits.session_max_a": 28},
        {"vestel_session_max_current_amperes": 28}),
    Row(INPUT, 1502, u32(1940301), "Wh",
        {"session.energy_wh": 1940301, "session.energy_kwh": 1940.301},
        {"vestel_session_energy_wh": 1940301}),
    Row(INPUT, 1508, u32(95025), "s", {"session.duration_s": 95025},
        {"vestel_session_duration_seconds": 95025}),
    Row(INPUT, 1504, u32(74210), "hhmmss", {"session.start_time": "07:42:10"}),
    Row(INPUT, 1512, u32(0), "hhmmss", {"session.end_time": None}),
    Row(HOLDING, 5004, [16], "A", {"settings.dynamic_current_a": 16},
        {"vestel_dynamic_current_amperes": 16}),
    Row(HOLDING, 2000, [10], "A", {"settings.failsafe_current_a": 10},
        {"vestel_failsafe_current_amperes": 10}),
    Row(HOLDING, 2002, [21], "s", {"settings.failsafe_timeout_s": 21},
        {"vestel_failsafe_timeout_seconds": 21}),
]
DETAIL_ROWS = [
    Row(INPUT, 130, text("CP-GARAGE-01", 50), "text", {"details.chargepoint_id": "CP-GARAGE-01"}),
    Row(INPUT, 190, text("Vestel", 10), "text", {"details.brand": "Vestel"}),
    Row(INPUT, 210, text("EVC04", 5), "text", {"details.model": "EVC04"}),
    Row(INPUT, 230, text("v3.187.0-1.8.156.0", 50), "text",
        {"details.firmware": "v3.187.0-1.8.156.0"}),
    Row(INPUT, 290, u32(261120), "yymmdd", {"details.clock": "2026-11-20T09:15:30"}),
    Row(INPUT, 294, u32(91530), "hhmmss", {}, part_of="details.clock"),
    Row(HOLDING, 405, [1], "code", {"details.phase_switch": "3-phase"}),
]
# fmt: on

# The first register of each range that is read with one request, in the order of the requests. A
# range ends with the last row before the next one in its bank.
CORE_FIRST = (100, 400, 1000, 1100, 1502, 2000, 5004)
DETAIL_FIRST = (130, 190, 210, 230, 290, 405)

# No such charger can have more than this, by unit.
MAXIMUM = {"mA": 65_000, "A": 65, "V": 1000, "W": 100_000}

# fmt: off
FAULTS = [  # by bit
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
STATES = {  # by address and code
    1000: ["Available", "Preparing", "Charging", "SuspendedEVSE", "SuspendedEV", "Finishing",
           "Reserved", "Unavailable", "Faulted"],
    1001: ["NotCharging", "Charging"],
    1002: ["Initializing", "Running", "Fault", "Disabled", "Updating"],
    1004: ["CableNotConnected", "CableConnected_NoVehicle", "CableConnected_Vehicle",
           "CableConnected_VehicleLocked"],
}
# fmt: on

# The reading as people see it, without and with details.
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
Active Phases:       3

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


ROWS = CORE_ROWS + DETAIL_ROWS
REGISTERS = [row for row in ROWS if row.bank != DERIVED]

Image = Dict[Tuple[str, int], int]  # (bank, address): word
Read = Tuple[str, int, int]  # bank, address, count


def row(address: int) -> Row:
    (found,) = [row for row in REGISTERS if row.address == address]
    return found


def _range(first: int) -> list[Row]:
    bank = row(first).bank
    later = [one for one in CORE_FIRST + DETAIL_FIRST if one > first and row(one).bank == bank]
    within = range(first, min(later, default=1 << 16))
    rows = [row for row in REGISTERS if row.bank == bank and row.address in within]
    return sorted(rows, key=lambda row: row.address)


CORE_RANGES, DETAIL_RANGES = [*map(_range, CORE_FIRST)], [*map(_range, DETAIL_FIRST)]
RANGES = CORE_RANGES + DETAIL_RANGES


def read(rows: list[Row]) -> Read:
    return rows[0].bank, rows[0].address, rows[-1].last - rows[0].address + 1


def reads(ranges: list[list[Row]]) -> list[Read]:
    return [read(rows) for rows in ranges]


def span(rows: list[Row]) -> str:
    """Return the range as messages name it: `1000-1037`, `5004`."""
    return "-".join(map(str, dict.fromkeys([rows[0].address, rows[-1].last])))


def range_of(address: int) -> list[Row]:
    (found,) = [rows for rows in RANGES if rows[0].address <= address <= rows[-1].last]
    return found


def tree(flat: dict[str, Any]) -> dict[str, Any]:
    reading: dict[str, Any] = {}
    for key, value in flat.items():
        *parents, last = key.split(".")
        place = reading
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
    return reading


def image() -> Image:
    rows = [held for row in REGISTERS for held in zip(row.addresses, row.words)]
    return {(HOLDING, HEARTBEAT): 0, **dict(rows)}


# These registers lie inside of the ranges and mean nothing: they answer 0, or exception 2.
GAPS = {
    (rows[0].bank, address) for rows in RANGES for address in range(rows[0].address, rows[-1].last)
} - {*image()}
KEYS = {key: value for row in ROWS for key, value in row.keys.items()}
# The reading without the timestamp, and its details.
READING = tree({key: KEYS[key] for row in CORE_ROWS for key in row.keys})
DETAILS: Any = tree({key: KEYS[key] for row in DETAIL_ROWS for key in row.keys})["details"]
# The sample of each metric (`name`, `name/phase` or `name/bit`), with details.
SAMPLES: dict[str, float] = {"vestel_up": 1, "vestel_info": 1}
SAMPLES.update(sample for row in ROWS for sample in row.metrics.items())
INFO_LABELS = {label: DETAILS[label] for label in ("chargepoint_id", "brand", "model", "firmware")}


def lost_with(row: Row) -> tuple[set[str], set[str]]:
    """Return the keys that are null, and the metrics without a sample, if the value is missing."""
    keys = {*row.keys, row.part_of} - {""}
    return keys, {metric for other in ROWS if keys & {*other.keys} for metric in other.metrics}

#!/usr/bin/env python3
# /// script
# requires-python = ">=3.8"
# dependencies = ["pymodbus>=3.0,<4"]
# ///
"""Read and control a Vestel EVC04 electric vehicle charger over Modbus TCP.

The file is laid out in the order in which a reading is made:

    options and INI file -> charger -> register image -> reading (dict) -> text -> stdout

After that come the modes that stay connected (--watch and --listen): a poller keeps the charger,
and other threads show and serve what it has read.

Facts about the charger come from its Modbus TCP specification, v1.8 (2022), marked "spec", and
from owners' reports: "evcc 5936" is that issue of github.com/evcc-io/evcc, "nymea" is the Vestel
plug-in in github.com/nymea/nymea-plugins-modbus.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # built in: importing signal takes milliseconds
import sys

if __name__ == "__main__" and _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
    # Ctrl-C during an import would print a traceback, or be dropped and the program would go on.
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
if sys.version_info < (3, 8):  # noqa: UP036 (this file compiles on 3.7, so that it can say so)
    raise SystemExit(
        f"ERROR: vestel.py needs Python 3.8 or later; this is Python {sys.version.split()[0]}"
    )

import argparse
import gc
import math
import os
import re
import signal
import socket
import threading
import time
from argparse import ArgumentTypeError
from collections import deque
from contextlib import ExitStack, suppress
from datetime import datetime, timedelta, timezone
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import socketserver
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from typing import Any, NoReturn, Protocol

    class Connection(Protocol):
        """A connection to a charger. Its requests raise Refused or NoReply."""

        def read_words(self, bank: str, address: int, count: int) -> list[int]: ...  # noqa: D102
        def write_word(self, address: int, value: int) -> None: ...  # noqa: D102
        def close(self) -> None: ...  # noqa: D102

    Connect = Callable[[], Connection]
    Request = Callable[[Connection], Any]
    Conversion = Callable[[Any], Any]
    Values = Sequence["Value"]
    Words = dict[tuple[str, int], int]  # (bank, address) -> 16 bits
    Reading = dict[str, Any]  # as JSON prints it
    Sections = dict[str, list["Row"]]  # what people see: title -> rows
    Powers = Sequence[tuple[float, int | None]]  # when (time.time()), and W
    Trace = Callable[[str], None]
    Wanted = Sequence[tuple["Value", int]]

VERSION = "1.2.0"


def _now() -> float:
    """Return the time in seconds, on a clock that never jumps."""
    return time.monotonic()


# --- Values of the charger (spec) -----------------------------------------------------------

INPUT, HOLDING = "input", "holding"

PHASES = ["1-phase", "3-phase"]
# fmt: off
CHARGEPOINT_STATES = [
    "Available", "Preparing", "Charging", "SuspendedEVSE", "SuspendedEV", "Finishing",
    "Reserved", "Unavailable", "Faulted"
]
CHARGING_STATES = ["NotCharging", "Charging"]
EQUIPMENT_STATES = ["Initializing", "Running", "Fault", "Disabled", "Updating"]
CABLE_STATES = [
    "CableNotConnected", "CableConnected_NoVehicle", "CableConnected_Vehicle",
    "CableConnected_VehicleLocked"
]
# fmt: on
FAULTS = """\
Contactors Welded Error
Contactors Response Error
Interlock Lock Error
Interlock Unlock Error
PP Error
CP Diode Error
CP Short Error
Overvoltage Phase 1
Overvoltage Phase 2
Overvoltage Phase 3
Undervoltage Phase 1
Undervoltage Phase 2
Undervoltage Phase 3
Overcurrent Phase 1
Overcurrent Phase 2
Overcurrent Phase 3
Residual Current Error
Protective Earth Error
RFID Error
Interlock Permanent Error
OCP Permanent Error
Load Balance Module 1 Error
Load Balance Module 2 Error
Load Balance Module 3 Error
HMI External RFID Reader Error
HMI External MID Communication Error
RCD Device Error
Installation Error
""".splitlines()  # by bit
FAULT_NAMES = [*FAULTS, *(f"Unknown fault (bit {bit})" for bit in range(len(FAULTS), 32))]


def _thousandth(number: int) -> float:
    return number / 1000


def _kilo(watts: int) -> float:
    return round(watts / 1000, 2)


def _name_from(names: Sequence[str]) -> Conversion:
    return lambda code: names[code] if code < len(names) else "Unknown"


def _fault_names(code: int) -> list[str]:
    return [name for bit, name in enumerate(FAULT_NAMES) if code >> bit & 1]


def _active_phases(milliamperes: Sequence[int]) -> int:
    return sum(current >= 1000 for current in milliamperes)


def _digit_pairs(number: int) -> tuple[int, int, int]:
    """Return the parts of hhmmss or yymmdd."""
    return number // 10000, number // 100 % 100, number % 100


def _time_of_day(hhmmss: int) -> str | None:
    """Return the ISO time; None for 0, which stands for none (spec), and for no time of day."""
    with suppress(ValueError):
        return datetime(2000, 1, 1, *_digit_pairs(hhmmss)).strftime("%H:%M:%S") if hhmmss else None
    return None


def _date_and_time(numbers: Sequence[int]) -> str | None:
    """Return ISO date and time, without a zone: the charger knows none. None for no time."""
    (year, month, day), time_of_day = map(_digit_pairs, numbers)
    with suppress(ValueError):
        moment = datetime(2000 + year, month, day, *time_of_day)
        return moment.isoformat() if year < 100 else None
    return None


def _h_mm_ss(seconds: int) -> str:
    return str(timedelta(seconds=seconds))


def _duration(seconds: int) -> str:
    return f"{seconds} s ({_h_mm_ss(seconds)})"


def _with_names(code: Any, names: Sequence[str]) -> str:
    return f"{code} ({', '.join(names)})" if names else str(code)


class Value(NamedTuple):
    """A value of the charger: its registers, its keys in a reading, and how it is shown."""

    label: str
    address: int  # of the first word
    words: int  # of 16 bits, the high one first; 0 where the value follows from others
    unit: str
    keys: Mapping[str, Conversion]  # of the reading, each with its conversion
    show: Callable[..., str] = str  # what people see, from what its keys hold
    metric: str = ""  # of Prometheus, with what the first key holds
    help: str = ""
    phase: str = ""  # 1, 2 or 3 where it belongs to one phase
    bank: str = INPUT
    sources: Sequence[str] = ()  # labels of the values that it follows from

    def __hash__(self) -> int:
        return id(self)  # a field may be a dict, which has no hash

    @property
    def end(self) -> int:
        """The address behind its last word."""
        return self.address + self.words

    def decode(self, words: Words) -> Any:
        """Return the text or number in its registers; None where a word is missing."""
        try:
            held = [words[self.bank, address] for address in range(self.address, self.end)]
        except KeyError:
            return None
        if self.unit == "text":
            return _decode_text(held)
        return held[0] if self.words == 1 else held[0] << 16 | held[1]


def _state(label: str, address: int, name: str, names: Sequence[str]) -> Value:
    """Return a state; `name` is part of its keys and of its metric, `names` are by code."""
    keys: dict[str, Conversion] = {f"states.{name}.code": int}
    keys[f"states.{name}.name"] = _name_from(names)
    codes = ", ".join(f"{code} {text}" for code, text in enumerate(names))
    text = f"State: {codes}."
    return Value(label, address, 1, "code", keys, "{1}".format, f"vestel_{name}_state", text)


def _for_each_phase(step: int, value: Value) -> list[Value]:
    """Return a value for each phase, whose number takes the place of {}; `step` registers apart."""
    values = []
    for n, phase in enumerate("123"):
        label, address = value.label.format(phase), value.address + step * n
        keys = {key.format(phase): convert for key, convert in value.keys.items()}
        values.append(value._replace(label=label, address=address, keys=keys, phase=phase))
    return values


_amperes = "{} A".format
_power = "{} W ({:.2f} kW)".format

# In the order of the reading. 1516-1530, the RFID tag, is personal data: it is never read.
# fmt: off
CORE = [
    Value("Serial", 100, 25, "text", {"identity.serial": str}),
    Value("Max Power", 400, 2, "W",
          {"identity.max_power_w": int, "identity.max_power_kw": _kilo},
          _power, "vestel_max_power_watts", "Installed power in watts."),
    Value("Phases", 404, 1, "code",
          {"identity.phases": _name_from(PHASES), "identity.phases_raw": int},
          "{0}".format, "vestel_phases", "Number of phases, 1 or 3."),
    _state("Chargepoint State", 1000, "chargepoint", CHARGEPOINT_STATES),
    _state("Charging State", 1001, "charging", CHARGING_STATES),
    _state("Equipment State", 1002, "equipment", EQUIPMENT_STATES),
    _state("Cable State", 1004, "cable", CABLE_STATES),
    Value("Fault Code", 1006, 2, "bits",
          {"states.fault_code": int, "states.faults": _fault_names},
          _with_names, "vestel_fault_code", "Active faults as a bit field."),
    *_for_each_phase(2, Value("Current L{}", 1008, 1, "mA",
          {"electrical.current.l{}_a": _thousandth},
          "{:.3f} A".format, "vestel_current_amperes", "Current per phase in amperes.")),
    *_for_each_phase(2, Value("Voltage L{}", 1014, 1, "V", {"electrical.voltage.l{}_v": int},
          "{} V".format, "vestel_voltage_volts", "Voltage per phase in volts.")),
    *_for_each_phase(4, Value("Power L{}", 1024, 2, "W", {"electrical.power.l{}_w": int},
          "{} W".format, "vestel_power_watts", "Active power per phase in watts.")),
    Value("Total Power", 1020, 2, "W",
          {"electrical.power.total_w": int, "electrical.power.total_kw": _kilo},
          _power, "vestel_total_power_watts", "Active power in watts."),
    Value("Meter Reading", 1036, 2, "0.1 kWh",
          {"electrical.meter_reading_kwh": lambda number: number / 10},
          "{:.1f} kWh".format, "vestel_meter_reading_kwh", "Energy meter in kilowatt hours."),
    Value("Active Phases", 0, 0, "", {"electrical.active_phases": _active_phases},
          str, "vestel_active_phases", "Number of phases that carry 1 A or more.",
          sources=["Current L1", "Current L2", "Current L3"]),
    Value("EVSE Minimum", 1102, 1, "A", {"limits.evse_min_a": int},
          _amperes, "vestel_evse_min_current_amperes", "EVSE minimum current in amperes."),
    Value("EVSE Maximum", 1104, 1, "A", {"limits.evse_max_a": int},
          _amperes, "vestel_evse_max_current_amperes", "EVSE maximum current in amperes."),
    Value("Cable Maximum", 1106, 1, "A", {"limits.cable_max_a": int},
          _amperes, "vestel_cable_max_current_amperes", "Cable maximum current in amperes."),
    Value("Session Maximum", 1100, 1, "A", {"limits.session_max_a": int},
          _amperes, "vestel_session_max_current_amperes", "Session maximum current in amperes."),
    Value("Energy", 1502, 2, "Wh",
          {"session.energy_wh": int, "session.energy_kwh": _thousandth},
          "{} Wh ({:.3f} kWh)".format,
          "vestel_session_energy_wh", "Energy of the session in watt hours."),
    Value("Duration", 1508, 2, "s", {"session.duration_s": int}, _duration,
          "vestel_session_duration_seconds", "Duration of the session in seconds."),
    Value("Started", 1504, 2, "hhmmss", {"session.start_time": _time_of_day}),
    Value("Ended", 1512, 2, "hhmmss", {"session.end_time": _time_of_day}),
    Value("Dynamic Current", 5004, 1, "A", {"settings.dynamic_current_a": int},
          _amperes, "vestel_dynamic_current_amperes", "Dynamic charging current in amperes.",
          bank=HOLDING),
    Value("Failsafe Current", 2000, 1, "A", {"settings.failsafe_current_a": int},
          _amperes, "vestel_failsafe_current_amperes", "Failsafe current in amperes.",
          bank=HOLDING),
    Value("Failsafe Timeout", 2002, 1, "s", {"settings.failsafe_timeout_s": int},
          "{} s".format, "vestel_failsafe_timeout_seconds", "Failsafe timeout in seconds.",
          bank=HOLDING),
]
DETAILS = [
    Value("Chargepoint ID", 130, 50, "text", {"details.chargepoint_id": str}),
    Value("Brand", 190, 10, "text", {"details.brand": str}),
    Value("Model", 210, 5, "text", {"details.model": str}),
    Value("Firmware", 230, 50, "text", {"details.firmware": str}),
    Value("Date", 290, 2, "yymmdd", {}),
    Value("Time", 294, 2, "hhmmss", {}),
    Value("Clock", 0, 0, "", {"details.clock": _date_and_time}, sources=["Date", "Time"]),
    Value("Phase Switch", 405, 1, "code", {"details.phase_switch": _name_from(PHASES)},
          bank=HOLDING),
]
# fmt: on
VALUES = {value.label: value for value in CORE + DETAILS}
DYNAMIC_CURRENT = VALUES["Dynamic Current"]
FAILSAFE_CURRENT = VALUES["Failsafe Current"]
FAILSAFE_TIMEOUT = VALUES["Failsafe Timeout"]
SETTABLE = (
    FAILSAFE_TIMEOUT,
    DYNAMIC_CURRENT,
    FAILSAFE_CURRENT,
)  # in the order in which they are written
EVSE_MINIMUM, EVSE_MAXIMUM = VALUES["EVSE Minimum"], VALUES["EVSE Maximum"]
CHARGEPOINT_STATE, CABLE_STATE = VALUES["Chargepoint State"], VALUES["Cable State"]
CLOCK = [VALUES["Date"], VALUES["Time"]]
ALIVE_REGISTER = 6000  # holding: the master writes 1, the charger sets it back to 0

# By unit. Owners have seen more than 250 kW from a 22 kW charger.
MAX_PLAUSIBLE = {"mA": 65_000, "A": 65, "V": 1000, "W": 100_000}
MAX_GAP = 2  # unused registers that a request may span: owners have seen these answer 0


def _ranges(values: Iterable[Value]) -> list[list[Value]]:
    """Return the values in groups that one request can read, input registers first."""
    ranges: list[list[Value]] = []
    bank, end = "", 0
    for value in sorted(values, key=lambda v: (v.bank == HOLDING, v.address)):
        if not value.words:
            continue
        if value.bank != bank or value.address > end + MAX_GAP:
            ranges.append([])
        ranges[-1].append(value)
        bank, end = value.bank, value.end
    return ranges


CORE_RANGES, DETAIL_RANGES = _ranges(CORE), _ranges(DETAILS)
ALL_RANGES = CORE_RANGES + DETAIL_RANGES
LIMITS_RANGE = next(values for values in CORE_RANGES if EVSE_MAXIMUM in values)


def _addresses(values: Values) -> str:
    """Return the addresses as messages name them: `1000-1037`, `5004`."""
    first, last = values[0].address, values[-1].end - 1
    return f"{first}" if first == last else f"{first}-{last}"


def _describe(values: Values) -> str:
    """Return the registers as messages name them: `input registers 1000-1037`."""
    addresses = _addresses(values)
    plural = "s" if "-" in addresses else ""
    return f"{values[0].bank} register{plural} {addresses}"


# --- Errors ---------------------------------------------------------------------------------

# Modbus exceptions (Modbus Application Protocol 1.1b3).
ACKNOWLEDGE, BUSY = 5, 6
EXCEPTIONS = {
    1: "illegal function",
    2: "illegal data address",
    3: "illegal data value",
    4: "device failure",
    5: "acknowledge: still working on it",
    6: "device busy",
    7: "negative acknowledge",
    8: "memory parity error",
    10: "gateway path unavailable",
    11: "gateway target does not respond",
}


class CommandError(Exception):
    """Ends the program with a message for the user and an exit code."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class ChargerError(CommandError):
    """Something that was asked of the charger was not done.

    `hint` is a likely cause, or what may be tried.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class Refused(ChargerError):
    """The charger answered with a Modbus exception. The connection is fine."""

    def __init__(self, code: int) -> None:
        meaning = EXCEPTIONS.get(code, "not in the Modbus specification")
        hint = "try again later" if code in (4, ACKNOWLEDGE, BUSY) else ""
        super().__init__(f"exception {code} ({meaning})", hint)
        self.code = code


class NoReply(ChargerError):
    """A request got no usable reply. Except after Silence, the connection is finished."""


class Silence(NoReply):
    """A request got no reply in time. The connection is kept: a late reply is recognised."""


class NothingRead(ChargerError):
    """The charger answers, but not one value could be read."""


class OutOfRange(ChargerError):
    """The charger's limits do not allow a current."""


class Unreachable(ChargerError):
    """The charger does not answer, or no connection can be had."""


def _unreachable(charger: Charger, error: ChargerError) -> Unreachable:
    if isinstance(error, Unreachable):
        return error
    return Unreachable(f"Cannot read {charger.name}: {error}", error.hint)


def _is_unsupported(error: ChargerError | None) -> bool:
    """Tell whether the firmware lacks something of what was asked for."""
    return isinstance(error, Refused) and error.code in (1, 2, 3)


# --- Options and INI file -------------------------------------------------------------------


class Target(NamedTuple):
    """Where the charger is, and how it is addressed."""

    ip: str
    port: int = 502
    unit: int = 1
    base: int = 0  # 1: register N is asked for as N-1
    timeout: float = 2.0  # s

    def __str__(self) -> str:
        return f"{_bracketed(self.ip)}:{self.port}"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _host(text: str) -> str:
    name = re.sub(r"^\[(.*)\]$", r"\1", text)  # [::1] -> ::1
    if not re.fullmatch(r"[\w.:%-]+", name) or name.count(":") == 1:
        raise ArgumentTypeError(
            f"{text!r} is not an IP address or a host name (give the port with --port)"
        )
    return name


def _whole_number(low: int, high: int) -> Callable[[str], int]:
    def check(text: str) -> int:
        if not re.fullmatch("[0-9]{1,9}", text) or not low <= int(text) <= high:
            raise ArgumentTypeError(f"{text!r} is not a whole number from {low} to {high}")
        return int(text)

    return check


def _seconds(text: str, low: float = 0) -> float:
    is_number = re.fullmatch(r"[0-9]{1,9}(\.[0-9]*)?|\.[0-9]+", text)
    seconds = float(text) if is_number else math.nan
    if not (seconds > 0 and low <= seconds <= 86400):
        bounds = f"from {low:g}" if low else "above 0"
        raise ArgumentTypeError(f"{text!r} is not a number of seconds {bounds}, up to 86400")
    return seconds


def _listen_address(text: str) -> tuple[str, int]:
    name, _, port = text.rpartition(":")
    return _host(name or "127.0.0.1"), _whole_number(1, 65535)(port)


SETTINGS: dict[str, tuple[Conversion, str, str]] = {  # of Target: check, metavar, help
    "ip": (_host, "IP", "charger: IP address or host name"),
    "port": (_whole_number(1, 65535), "PORT", "TCP port (default: 502)"),
    "unit": (_whole_number(0, 255), "UNIT", "Modbus unit id, 0-255 (default: 1)"),
    "base": (_whole_number(0, 1), "{0,1}", "1 where register numbers count from 1 (default: 0)"),
    "timeout": (_seconds, "SECONDS", "wait for the connection, and for each reply (default: 2)"),
}
FILE_NAME = "vestel_modbus.ini"


class Formatter(argparse.HelpFormatter):
    """Formats help without colour: Python 3.14 would ask stdout for it, even a closed one."""

    def _set_color(self, _: bool, **more: Any) -> None:
        super()._set_color(False, **more)  # type: ignore[misc]  # since Python 3.14


class Parser(argparse.ArgumentParser):
    """An argument parser that writes as all of the program does, also to a closed stream."""

    def print_help(self, file: Any = None) -> None:  # noqa: ARG002, D102
        write_stdout(self.format_help())

    def error(self, message: str) -> NoReturn:  # noqa: D102
        for line in (*self.format_usage().splitlines(), f"{self.prog}: error: {message}"):
            write_stderr(line)
        raise SystemExit(2)


def parse_options(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the options; `wanted` are the values to set, in the order in which that is done.

    Ends the program with exit code 2 where they are wrong.
    """
    parser = Parser(
        prog="vestel.py",
        description="Read and control a Vestel EVC04 charger over Modbus TCP.",
        epilog="exit codes: 0 done; 1 not reached or not read; 2 usage or configuration; "
        "3 a value is not set as asked for; 130 Ctrl-C; 143 SIGTERM (0 with --watch and --listen)",
        allow_abbrev=False,
        # Argparse would ask for the terminal's width at each option, which takes 3 ms.
        formatter_class=lambda prog: Formatter(prog, width=78),
    )
    _add_options(parser)
    args = parser.parse_args(argv)
    if args.watch and args.format == "prometheus":
        parser.error("--watch prints human or json; for Prometheus use --listen")
    if args.set_current is not None:
        if (args.set_dynamic_current, args.set_failsafe_current) != (None, None):
            parser.error("--set-current sets both currents: give it alone")
        args.set_dynamic_current = args.set_failsafe_current = args.set_current
    if args.hold is not None:
        if not (args.watch or args.listen):
            parser.error("--hold needs --watch or --listen, which stay connected")
        if args.set_dynamic_current is not None:
            parser.error("--hold sets the dynamic current: no other option can set it as well")
    numbers = args.set_failsafe_timeout, args.set_dynamic_current, args.set_failsafe_current
    args.wanted = [pair for pair in zip(SETTABLE, numbers) if pair[1] is not None]
    return args


def _add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    amperes = _whole_number(0, 65535)
    add("--version", action="store_true", help="show the version and exit")
    add("-v", "--verbose", action="store_true", help="log connections, requests and replies")
    add("--config", help=f"INI file, instead of {FILE_NAME} beside the script or in ~/.config")
    for name, (check, metavar, text) in SETTINGS.items():
        add(f"--{name}", type=check, metavar=metavar, help=text)
    add("--format", choices=["human", "prometheus", "json"], default="human", help="default: human")
    add(
        "--details",
        action="store_true",
        help="also read charge point id, brand, model, firmware, clock and phase switch",
    )
    add(
        "--set-current",
        type=amperes,
        metavar="A",
        help="set the dynamic (5004) and the failsafe current (2000); 0 pauses charging",
    )
    add("--set-dynamic-current", type=amperes, metavar="A", help="set register 5004")
    add("--set-failsafe-current", type=amperes, metavar="A", help="set register 2000")
    add(
        "--set-failsafe-timeout",
        type=_whole_number(6, 3600),
        metavar="SECONDS",
        help="set register 2002, 6-3600",
    )
    add(
        "--hold",
        metavar="FILE",
        help="with --watch or --listen: hold the dynamic current (A) that this file names; "
        "it may change at any time",
    )
    modes = parser.add_mutually_exclusive_group()
    modes.add_argument(
        "--watch",
        type=lambda text: _seconds(text, 1),
        metavar="SECONDS",
        help="stay connected, and print a reading every so many seconds",
    )
    modes.add_argument(
        "--listen",
        type=_listen_address,
        metavar="[HOST:]PORT",
        help="stay connected, and serve readings over HTTP",
    )
    add("--demo", action="store_true", help="use a simulated charger: no charger, file or network")


def load_config(path: str) -> dict[str, Any]:
    """Read the settings in an INI file. Raises CommandError (2) that names the file and the key."""
    import configparser

    ini = configparser.ConfigParser(interpolation=None, inline_comment_prefixes=(";", "#"))
    try:
        with open(path, encoding="utf-8-sig") as file:
            ini.read_file(file)
        items = ini.items("vestel")
    except OSError as error:
        raise CommandError(f"{path}: {error.strerror}", 2)
    except (configparser.Error, ValueError, AttributeError) as error:
        why = " ".join(str(error).split())
        raise CommandError(f"{path}: cannot be read as an INI file: {why}", 2)
    settings = {}
    for key, text in items:
        try:
            settings[key] = SETTINGS[key][0](text)
        except KeyError:
            known = ", ".join(SETTINGS)
            write_stderr(f"WARNING: {path}: {key}: unknown key, ignored; known are {known}")
        except ArgumentTypeError as error:
            raise CommandError(f"{path}: {key}: {error}", 2)
    return settings


def find_target(args: argparse.Namespace) -> Target:
    """Merge options, file and defaults: the first that has a setting wins.

    Raises CommandError (2).
    """
    beside = os.path.join(os.path.dirname(os.path.realpath(__file__)), FILE_NAME)
    places = [beside, os.path.expanduser(f"~/.config/{FILE_NAME}")]
    if args.config == "":
        raise CommandError("--config is empty: give the path of a file", 2)
    path = args.config or next(filter(os.path.exists, places), None)
    settings = load_config(path) if path else {}
    for name in SETTINGS:
        if vars(args)[name] is not None:
            settings[name] = vars(args)[name]
    if "ip" not in settings:
        why = f"{path} has none" if path else f"there is no {' or '.join(places)}"
        raise CommandError(f"IP not set: give --ip, or ip in a configuration file ({why})", 2)
    return Target(**settings)


# --- The wire: Modbus TCP -------------------------------------------------------------------

OTHER_MASTER = (
    "another master (evcc, Home Assistant, a running vestel.py, ...) may be connected, "
    "or the failsafe timeout of the last one is not over yet"
)
MIN_FRAME, MAX_FRAME = 9, 260  # bytes (Modbus Messaging on TCP/IP 1.0b)


class Wire:
    """A TCP connection to the charger: a request out, the whole reply to that request back.

    pymodbus alone does not guarantee that: some versions from 3.0 to 3.16 accept a reply that is
    short, late, or of another transaction, and would decode a wrong number from it.
    """

    def __init__(self, target: Target, trace: Trace) -> None:
        self._name, self._timeout_s, self._trace = str(target), target.timeout, trace
        self.socket = _open_socket(target)
        trace(f"{target}: connected")

    def exchange(self, request: bytes) -> bytes:
        """Send a request, and return the whole reply. Raises NoReply.

        A frame of another transaction is the late reply to an earlier request: it is dropped.
        """
        deadline, reply = _now() + self._timeout_s, bytearray()
        self._trace(f"{self._name}: request {request.hex(' ')}")
        try:
            self.socket.sendall(request)
            while reply[:2] != request[:2]:
                reply.clear()
                self._receive_frame(reply, deadline)
        except socket.timeout:
            if reply:
                raise NoReply("a reply that is too short")
            hint = f"{OTHER_MASTER}, or a longer --timeout is needed"
            raise Silence(f"no reply within {self._timeout_s:g} s", hint)
        except OSError:
            raise _closed()
        _check_reply(request, reply)
        return bytes(reply)

    def _receive_frame(self, frame: bytearray, deadline: float) -> None:
        """Receive into the frame until it is whole."""
        try:
            self._receive(frame, MIN_FRAME, deadline)
            size = 6 + int.from_bytes(frame[4:6], "big")
            if frame[2:4] != b"\0\0" or not MIN_FRAME <= size <= MAX_FRAME:
                raise NoReply("a reply that is not Modbus", "check the address and --port")
            self._receive(frame, size, deadline)
        finally:
            self._trace(f"{self._name}: reply {frame.hex(' ') or 'none'}")

    def _receive(self, frame: bytearray, size: int, deadline: float) -> None:
        """Receive into the frame until it has that size."""
        while len(frame) < size:
            seconds_left = deadline - _now()
            if seconds_left <= 0:
                raise socket.timeout
            self.socket.settimeout(seconds_left)
            data = self.socket.recv(size - len(frame))
            if not data:
                raise ConnectionResetError
            frame += data


def _open_socket(target: Target) -> socket.socket:
    """Connect to the first address of the host that takes it. Raises NoReply and Unreachable."""
    place = target.ip, target.port
    try:
        addresses = socket.getaddrinfo(*place, type=socket.SOCK_STREAM)  # they share the timeout
        return socket.create_connection(place, target.timeout / len(addresses))
    except (ConnectionResetError, ConnectionAbortedError):
        raise _closed()  # the charger has accepted, and closed at once
    except (OSError, UnicodeError) as error:
        why = _why_unreachable(error, target)
        raise Unreachable(f"Cannot connect to {target}: {why}")


def _why_unreachable(error: Exception, target: Target) -> str:
    if isinstance(error, ConnectionRefusedError):
        web_page = "or Modbus TCP is not enabled in the charger's web page"
        return f"connection refused; check the address and the port, {web_page}, or {OTHER_MASTER}"
    if isinstance(error, (socket.timeout, TimeoutError)):  # two types before Python 3.10
        hint = "check the address, that the charger is on, and that no firewall is in between"
        return f"no answer within {target.timeout:g} s; {hint}"
    why = getattr(error, "strerror", None) or error
    if isinstance(error, (socket.gaierror, UnicodeError)):
        return f"no address is known for this name ({why}); check --ip, or ip in the file"
    return f"{why}; check the address and the network"


def _closed() -> NoReply:
    return NoReply("the charger closed the connection", OTHER_MASTER)


def _check_reply(request: bytes, reply: bytearray) -> None:
    """Raise NoReply where that is not a reply to this request."""
    if reply[6] != request[6]:
        raise NoReply(f"a reply of unit {reply[6]}")
    if reply[7] & 0x7F != request[7]:
        raise NoReply("a reply to another request")
    if reply[7] & 0x80:  # an exception
        is_whole = len(reply) == 9
    elif request[7] == 6:  # a write
        is_whole = len(reply) == 12
    else:
        data_size = 2 * int.from_bytes(request[10:12], "big")  # two bytes a register
        is_whole = len(reply) - 9 == reply[8] == data_size
    if not is_whole:
        raise NoReply("a reply of the wrong length")


def modbus(target: Target, trace: Trace) -> Connect:
    """Return what connects to the charger when called. Nothing else in this file knows pymodbus.

    Raises CommandError where this Python cannot load pymodbus 3.
    """
    try:
        import io
        import logging

        from pymodbus.client import ModbusTcpClient
    except Exception as error:  # a version that is too old for this Python fails in its own ways
        raise CommandError(_why_no_pymodbus(error))
    # Else Python would print to stderr what is logged.
    logging.getLogger("pymodbus").addHandler(logging.NullHandler())
    parameters = ModbusTcpClient.read_input_registers.__code__.co_varnames
    unit = {"device_id" if "device_id" in parameters else "slave": target.unit}  # renamed in 3.10

    class Client(ModbusTcpClient):
        """pymodbus builds the requests and decodes the replies; the bytes go over a Wire."""

        def __init__(self) -> None:
            super().__init__(target.ip, port=target.port, timeout=target.timeout)
            self._wire, self._reply = Wire(target, trace), io.BytesIO()
            self.socket = self._wire.socket  # pymodbus takes it for its own connection

        def send(self, request: bytes, addr: Any = None) -> int:  # noqa: ARG002
            self._reply = io.BytesIO(self._wire.exchange(request))
            return len(request)

        def recv(self, size: int | None) -> bytes:
            return self._reply.read(size)

        def read_words(self, bank: str, address: int, count: int) -> list[int]:
            read = self.read_input_registers if bank == INPUT else self.read_holding_registers
            words: list[int] = self._checked(read, address, count=count).registers
            return words

        def write_word(self, address: int, value: int) -> None:
            try:
                self._checked(self.write_register, address, value=value)
            except Refused as error:
                if error.code != ACKNOWLEDGE:  # that says that the charger works on it
                    raise

        def _checked(self, call: Callable[..., Any], address: int, **arguments: int) -> Any:
            try:
                response = call(address - target.base, **arguments, **unit)
            except ChargerError:
                raise
            except Exception as error:  # whatever a later pymodbus raises: no traceback
                raise NoReply(f"pymodbus failed: {error!r}")
            if response.isError():
                code = getattr(response, "exception_code", 0)
                if not code:  # pymodbus 3.0 to 3.6 could not decode the reply
                    raise NoReply("a malformed reply")
                raise Refused(code)
            return response

    return Client


def _why_no_pymodbus(error: Exception) -> str:
    python = sys.executable or "python3"
    return (
        f"pymodbus 3 cannot be loaded by {python} (Python {sys.version.split()[0]}): {error}; "
        f"install it with: {python} -m pip install 'pymodbus>=3.0,<4', or on Debian with: "
        "apt install python3-pymodbus python3-serial-asyncio"
    )


# --- The charger ----------------------------------------------------------------------------


class Charger:
    """The charger, over one connection at a time.

    A connection that gave no usable reply is closed, but not after silence: some chargers that
    were idle answer late, and a new connection costs a lock-out on some (evcc 5936).
    """

    connections = 0  # opened so far
    connection_interval_s = 0.0  # the shortest time between two connections
    unconfirmed = ""  # what may have been written, until it is read back
    _connection: Connection | None = None
    _tried_at = -math.inf  # to connect (monotonic, as all times here

    def __init__(self, connect: Connect, name: str, timeout: float) -> None:
        self.name = name
        self.pause_s = min(0.25, timeout / 8)  # before a charger is asked for the same again
        self._connect, self._timeout_s = connect, timeout

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    def read(self, bank: str, address: int, count: int) -> list[int]:
        """Read registers. Raises ChargerError."""
        words: list[int] = self._request(lambda it: it.read_words(bank, address, count))
        return words

    def write(self, value: Value, number: int) -> None:
        """Write a register. Raises ChargerError: it may have been written all the same."""
        self._request(lambda it: it.write_word(value.address, number))

    def _request(self, request: Request) -> Any:
        """Carry out a request; ask a busy charger again for up to one timeout."""
        give_up = _now() + self._timeout_s
        while True:
            try:
                return self._with_retry(self._send, request)
            except Refused as error:
                if error.code not in (ACKNOWLEDGE, BUSY) or _now() >= give_up:
                    raise
            time.sleep(self.pause_s)

    def _with_retry(self, send: Callable[[Request], Any], request: Request) -> Any:
        """Send a request, and once more where it gets no usable reply."""
        try:
            return send(request)
        except NoReply:
            return send(request)

    def _send(self, request: Request) -> Any:
        """Send a request, on a new connection where there is none."""
        if self._connection is None:
            time.sleep(max(0.0, self._tried_at + self.connection_interval_s - _now()))
            self._tried_at = _now()
            self._connection = self._connect()
            self.connections += 1
        try:
            return request(self._connection)
        except Silence:
            raise
        except NoReply:
            self.close()
            raise


# --- The register image ---------------------------------------------------------------------


SETUP_HINT = "nothing was read yet: --unit (1 or 255) or --base may be wrong"


class Finding(NamedTuple):
    """Something to warn of. What the firmware lacks does not count: it will not change."""

    cause: str
    warning: str  # empty where there is none
    counts: bool = True  # among the warnings that last


class Image:
    """The register image: the words that were read last, and why others could not be read."""

    def __init__(self, charger: Charger) -> None:
        self.charger = charger
        self.words: Words = {}
        self.errors: dict[Value, ChargerError] = {}
        self.own_maximum = 0  # A; the newest plausible one that was read, 0 before

    def __getitem__(self, value: Value) -> Any:
        """Return the text or number of a value; None where it is not known."""
        return value.decode(self.words)

    def plausible(self, value: Value) -> Any:
        """Return the text or number of a value; None also where no such charger can have it."""
        number = self[value]
        return number if _is_plausible(value, number) else None

    def read(self, ranges: Iterable[Values]) -> None:
        """Read each range with one request; its values one by one where that is unsupported.

        Raises Unreachable where two ranges in a row get no usable reply, or no connection can be
        had.
        """
        queue, unanswered = deque(ranges), 0
        while queue:
            values = queue.popleft()
            first = values[0].address
            try:
                words = self.charger.read(values[0].bank, first, values[-1].end - first)
            except Refused as error:
                unanswered = 0
                if _is_unsupported(error) and len(values) > 1:
                    queue.extendleft([value] for value in reversed(values))
                else:
                    self._mark_unread(values, error)
            except ChargerError as error:
                self._mark_unread(values, error)
                unanswered += 1
                if unanswered == 2 or isinstance(error, Unreachable):
                    self._mark_unread(chain(*queue), error)
                    raise _unreachable(self.charger, error)
            else:
                unanswered = 0
                for address, word in enumerate(words, first):
                    self.words[values[0].bank, address] = word
                for value in values:
                    self.errors.pop(value, None)

    def read_core(self) -> None:
        """Read the core ranges. Raises Unreachable, or NothingRead where all were refused."""
        self.read(CORE_RANGES)
        if all(value in self.errors for value in chain(*CORE_RANGES)):
            error = self.errors[DYNAMIC_CURRENT]  # it was asked for last
            raise NothingRead(f"Cannot read {self.charger.name}: {error}", error.hint)

    def _mark_unread(self, values: Iterable[Value], error: ChargerError) -> None:
        """Keep why values could not be read.

        A text identifies the charger, and stays as it was read last. Anything else is not known
        any more.
        """
        for value in values:
            self.errors[value] = error
            if value.unit != "text":
                self.words.pop((value.bank, value.address), None)

    def explain(self, error: ChargerError) -> str:
        """Return the message of an error, and what the user may try."""
        setup_hint = SETUP_HINT if self.charger.connections and not self.words else ""
        return "; ".join(filter(None, [str(error), error.hint, setup_hint]))

    def unread(self, ranges: Iterable[Values]) -> Iterator[Finding]:
        """Yield a warning for each range of which values could not be read."""
        for values in ranges:
            failed = [value for value in values if value in self.errors]
            errors = [self.errors[value] for value in failed]
            if failed:
                name = _describe(values)
                addresses = ", ".join(_addresses([value]) for value in failed)
                part = f"{addresses} of " if len(failed) < len(values) else ""
                reasons = "; ".join(dict.fromkeys(map(str, errors)))
                is_unsupported = all(map(_is_unsupported, errors))
                yield Finding(name, f"Cannot read {part}{name}: {reasons}", not is_unsupported)


# --- Setting values -------------------------------------------------------------------------

READ_BACK_S = 3.0  # some devices apply a write late
DEFAULT_MINIMUM, DEFAULT_MAXIMUM = 6, 32  # A
MAXIMUM_WARNING = (
    "the charger does not say its maximum current (input register 1104): "
    f"{DEFAULT_MAXIMUM} A is taken for it"
)


class Limits(NamedTuple):
    """What current (A) the charger takes, besides 0, which pauses charging."""

    minimum: int
    maximum: int
    warning: str = ""  # where the maximum is not the charger's own


def current_limits(image: Image) -> Limits:
    """Return the limits that were read. Raises ChargerError where they cannot be relied on.

    A current above the charger's maximum is the worst that this program can do.
    """
    # While it boots, a charger refuses registers that it has: the state (1000), too.
    is_booting = CHARGEPOINT_STATE in image.errors
    for value in (EVSE_MINIMUM, EVSE_MAXIMUM):
        error = image.errors.get(value)
        if error and (is_booting or not _is_unsupported(error)):
            why = f"Cannot read the charger's limits ({_describe([value])}): {error}"
            raise ChargerError(why, error.hint)
    if image[EVSE_MINIMUM] == image[EVSE_MAXIMUM] == 0:
        raise ChargerError(
            "the charger's minimum and maximum current (input registers 1102 and 1104) read 0, "
            "as they do where --base is wrong"
        )
    image.own_maximum = image.plausible(EVSE_MAXIMUM) or image.own_maximum
    maximum = image.own_maximum or DEFAULT_MAXIMUM
    minimum = image.plausible(EVSE_MINIMUM)
    if not minimum or minimum > maximum:
        minimum = min(DEFAULT_MINIMUM, maximum)
    return Limits(minimum, maximum, "" if image.own_maximum else MAXIMUM_WARNING)


def check_range(value: Value, number: int, image: Image) -> None:
    """Raise ChargerError where the charger's limits forbid setting the value to that number.

    Also for a timeout they must be known: else the registers may be the wrong ones (--base).
    """
    limits = current_limits(image)
    if value.unit == "A" and number and not limits.minimum <= number <= limits.maximum:
        takes = f"this charger takes 0 (pauses charging) or {limits.minimum} to {limits.maximum} A"
        raise OutOfRange(f"{value.label.lower()} {number} A is out of range: {takes}")


def set_value(image: Image, value: Value, number: int) -> str:
    """Write a value, read it back, and return a line that says what has changed.

    Only what is read back counts, whatever the reply to the write was. Raises ChargerError where
    that is another number or not known; Unreachable where the charger does not answer any more.
    """
    charger, before, label = image.charger, image.plausible(value), value.label.lower()
    was = "n/a" if before is None else f"{before} {value.unit}"
    wanted = f"{number} {value.unit}"
    stays = f"{label.capitalize()}: stays {wanted}"
    if before == number and value is not DYNAMIC_CURRENT:  # the charger's memory may wear
        return stays
    charger.unconfirmed = f"{label} {wanted} may have been written (it was {was})"
    outcome, has_reply = "was acknowledged", True
    try:
        charger.write(value, number)
    except Refused as error:
        outcome = f"was refused: {error}"
    except ChargerError as error:
        outcome, has_reply = f"may have been written: {error}", False
    give_up = _now() + READ_BACK_S
    while True:
        with suppress(Unreachable):  # the image keeps the reason
            image.read([[value]])
        unread = image.errors.get(value)
        is_silent = isinstance(unread, (NoReply, Unreachable))
        if image[value] == number or is_silent or _now() >= give_up:
            break
        time.sleep(charger.pause_s)
    if unread:
        is_lost = isinstance(unread, Unreachable) or (is_silent and not has_reply)
        may_be = f"it was {was} and may be {wanted} now"
        why = f"{label}: {wanted} {outcome}; reading back failed: {unread}; {may_be}"
        raise Unreachable(why) if is_lost else ChargerError(why)
    if image[value] != number:
        shows = f"the charger shows {image[value]} {value.unit} (it was {was})"
        note = "" if number else ZERO_NOTE
        raise ChargerError(f"{label}: {wanted} {outcome}, and {shows}{note}")
    return stays if before == number else f"{label.capitalize()}: {was} -> {wanted}"


# Without a vehicle, the charger turns a 0 into its minimum (evcc 10527, nymea).
ZERO_NOTE = (
    "; 0 pauses charging, and some firmware shows its minimum then: the charging state tells; "
    "without a vehicle the minimum stays set, and the next vehicle charges"
)


def set_values(image: Image, wanted: Wanted, log: Log) -> bool:
    """Set values, log what came of each, and return whether all are confirmed.

    All are checked before the first is written. After that each stands for itself, as long as
    the charger answers. Raises CommandError where nothing was tried.
    """
    try:
        image.read([*([value] for value, _ in wanted), LIMITS_RANGE])
        limits = current_limits(image)
        if limits.warning:  # a charger that is booting refuses its state, too
            image.read([[CHARGEPOINT_STATE]])
            limits = current_limits(image)
        for value, number in wanted:
            check_range(value, number, image)
    except ChargerError as error:
        last, _ = wanted[-1]
        why = f"{image.explain(error)}; nothing was written"
        raise CommandError(f"failed writing {_kind(last)}: {why}", 3)
    if limits.warning and any(value.unit == "A" for value, _ in wanted):
        log(f"WARNING: {limits.warning}")
    is_confirmed, is_reachable = True, True
    log.waits = True  # output that nobody takes must not stand between two writes
    for value, number in wanted:
        try:
            if not is_reachable:
                raise Unreachable(f"{value.label.lower()}: not written: no answer any more")
            if value in image.errors:
                why = image.explain(image.errors[value])
                raise ChargerError(f"Cannot read {_describe([value])}: {why}; not written")
            log(set_value(image, value, number))
        except ChargerError as error:
            log(f"ERROR: failed writing {_kind(value)}: {error}")
            is_confirmed = False
            is_reachable = not isinstance(error, Unreachable)
        image.charger.unconfirmed = ""
    log.waits = False
    log.flush()
    return is_confirmed


def _kind(value: Value) -> str:
    return "current" if value.unit == "A" else "timeout"


# --- Decoding: register image to reading ----------------------------------------------------


def decode(words: Words, began: str | None, details: bool) -> tuple[Reading, list[Finding]]:
    """Make the reading that began then, and warnings of what no such charger can have.

    A value that is missing or impossible becomes None.
    """
    reading: Reading = {"timestamp": began}
    findings: list[Finding] = []
    numbers: dict[str, Any] = {}  # or texts, by label; None: missing or impossible
    for value in (CORE + DETAILS) if details else CORE:
        label = value.label
        if value.sources:
            parts = [numbers[source] for source in value.sources]
            number = None if None in parts else parts
        else:
            number = value.decode(words)
            if not _is_plausible(value, number):
                why = f"is {number} {value.unit}: no such charger can have that, left out"
                findings.append(Finding(label, f"{_full_name(value)} {why}"))
                number = None
        numbers[label] = number
        for key, convert in value.keys.items():
            converted = None if number is None else convert(number)
            if converted is None and number not in (None, 0, [0, 0]):  # only with times
                why = f"{number} is not a time, left out"
                findings.append(Finding(label, f"{_full_name(value)}: {why}"))
            *parents, last = key.split(".")
            section = reading
            for parent in parents:
                section = section.setdefault(parent, {})
            section[last] = converted
    return reading, findings


def _full_name(value: Value) -> str:
    sources = [VALUES[label] for label in value.sources] or [value]
    return f"{value.label} ({_describe(sources)})"


def _is_plausible(value: Value, number: Any) -> bool:
    """Tell whether a charger can have that. All bits set stand for "none" in many devices."""
    if number is None or value.unit == "text":
        return True
    all_ones = (1 << 16 * value.words) - 1
    return bool(number <= MAX_PLAUSIBLE.get(value.unit, all_ones - 1))


def _decode_text(words: Sequence[int]) -> str:
    """Return text up to the first 0, without trailing blanks and what cannot be printed.

    Chargers hold one character in a register (UTF-16BE), related firmware two bytes.
    """
    held = words[: [*words, 0].index(0)]
    is_packed = all(word > 0xFF for word in held) and any(word > 0x1FFF for word in held)
    data = b"".join(word.to_bytes(2, "big") for word in held)
    text = data.decode("utf-8" if is_packed else "utf-16-be", "ignore").partition("\0")[0]
    return "".join(filter(str.isprintable, text)).rstrip()


# --- Formats: reading to text ---------------------------------------------------------------


def format_json(reading: Reading, indent: int | None = None) -> str:
    """Return the reading as one line of JSON, or indented."""
    import json

    return json.dumps(reading, indent=indent) + "\n"


def _content(reading: Reading, key: str) -> Any:
    """Return what a key such as `states.cable.code` holds; something empty where it is missing."""
    held: Any = reading
    for part in key.split("."):
        held = held.get(part, {})
    return held


def format_prometheus(reading: Reading | None, service: Snapshot | None = None) -> str:
    """Return a reading in exposition format 0.0.4, with the metrics of --listen (`service`).

    Without a reading, the charger is down.
    """
    blocks: dict[str, str] = {}

    def add(name: str, text: str, number: Any, **labels: str) -> None:
        """Add a sample to the block of its metric. One without a number is left out."""
        if name and number is not None:
            kind = "counter" if name.endswith("_total") else "gauge"
            blocks.setdefault(name, f"# HELP {name} {text}\n# TYPE {name} {kind}\n")
            pairs = ",".join(f'{label}="{_escaped(held)}"' for label, held in labels.items())
            blocks[name] += f"{name}{{{pairs}}} {number}\n" if pairs else f"{name} {number}\n"

    add("vestel_up", "1 if the charger answered.", int(bool(reading)))
    if reading:
        serial = _content(reading, "identity.serial") or ""
        info = {
            name: _content(reading, f"details.{name}") or ""
            for name in ("chargepoint_id", "brand", "model", "firmware")
        }
        if any(info.values()):
            add("vestel_info", "What the charger is.", 1, serial=serial, **info)
        for value in CORE:
            number = _content(reading, next(iter(value.keys)))
            if value.label == "Phases":
                number = {"1-phase": 1, "3-phase": 3}.get(number)
            phase = {"phase": value.phase} if value.phase else {}
            add(value.metric, value.help, number, serial=serial, **phase)
        code = _content(reading, "states.fault_code")
        text = "1 if the fault is active, else 0."
        for bit, fault in enumerate(FAULTS):
            is_active = None if code is None else code >> bit & 1
            add("vestel_fault", text, is_active, serial=serial, bit=str(bit), fault=fault)
    if service:
        seconds = service.seconds if reading else None
        add("vestel_reading_seconds", "How long the newest reading took in seconds.", seconds)
        add("vestel_warnings", "How many warnings last.", len(service.warnings))
        add("vestel_readings_total", "Readings made since the start.", service.readings)
        add("vestel_failed_readings_total", "Readings that failed since the start.", service.failed)
        text = "Connections to the charger since the start."
        add("vestel_connections_total", text, service.connections)
    return "\n".join(blocks.values())


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


# --- Formats: for people --------------------------------------------------------------------

ROW_STYLES = {"Charging": "good", "Faulted": "bad", "Fault": "bad"}
ANSI = {"good": "\x1b[32m", "bad": "\x1b[1;31m", "bold": "\x1b[1m"}
SECTIONS = {  # of the reading, and what people see above their rows
    "identity": "Identity",
    "states": "States",
    "electrical": "Electrical",
    "session": "Session",
    "limits": "Current Limits",
    "settings": "Current Limits",
    "details": "Details",
}
SUMMARY = [  # label, key of the reading, and how people see it
    ("Power", "electrical.power.total_kw", "{:.2f} kW".format),
    ("Session Energy", "session.energy_kwh", "{:.3f} kWh".format),
    ("Session Duration", "session.duration_s", _h_mm_ss),
    ("Dynamic Current", "settings.dynamic_current_a", _amperes),
]


class Row(NamedTuple):
    """A value for people: three cells where it has one for each phase."""

    name: str
    cells: list[str]
    style: str = ""  # good, bad, or none

    @property
    def label(self) -> str:
        """The name, and which phases the cells are of."""
        return f"{self.name} L1 L2 L3" if len(self.cells) == 3 else self.name

    @property
    def text(self) -> str:
        """The cells side by side."""
        return "".join(f"{cell:10}" for cell in self.cells).rstrip()


def sections(reading: Reading) -> Sections:
    """Return what people see of a reading: title -> rows."""
    shown: Sections = {title: [] for title in SECTIONS.values()}
    for value in VALUES.values():
        section = next(iter(value.keys), "").partition(".")[0]
        if section not in reading:
            continue
        contents = [_content(reading, key) for key in value.keys]
        cell = "n/a" if contents[0] in (None, "") else value.show(*contents)
        rows = shown[SECTIONS[section]]
        if value.phase in ("2", "3"):
            rows[-1].cells.append(cell)
        else:
            is_faulted = value.label == "Fault Code" and contents[1]
            style = "bad" if is_faulted else ROW_STYLES.get(cell, "")
            rows.append(Row(value.label.partition(" L1")[0], [cell], style))
    return {title: rows for title, rows in shown.items() if rows}


def summary(reading: Reading) -> list[Row]:
    """Return what one wants to know first: the state with its faults, the power, then more."""
    state = _content(reading, "states.chargepoint.name") or "n/a"
    faults = _content(reading, "states.faults")
    style = "bad" if faults else ROW_STYLES.get(state, "")
    rows = [Row("State", [_with_names(state, faults)], style)]
    for label, key, show in SUMMARY:
        held = _content(reading, key)
        rows.append(Row(label, ["n/a" if held is None else show(held)]))
    return rows


def _paint(text: str, style: str) -> str:
    return f"{ANSI[style]}{text}\x1b[0m" if style and text else text


def format_human(reading: Reading, colour: bool = False) -> str:
    """Return the reading in sections of labelled values."""
    shown = ""
    for title, rows in sections(reading).items():
        shown += f"\n== {title} ==\n"
        for row in rows:
            text = _paint(row.text, row.style if colour else "")
            shown += f"{row.label + ':':20} {text}\n"
    return shown.lstrip()


def _local_time(reading: Reading) -> str:
    """Return when the reading was made, in the local time of this computer: `09:15:30`."""
    made = datetime.fromisoformat(reading["timestamp"]).astimezone()
    return f"{made:%H:%M:%S}"


# --- Output ---------------------------------------------------------------------------------


def write_stdout(text: str) -> None:
    """Write to stdout: all of the text, or nothing as far as a file allows that.

    It writes below the text layer, which would not tell how much was written. Raises
    BrokenPipeError, and CommandError for any other failure.
    """
    out = sys.stdout
    if out is None:
        raise CommandError("cannot write to stdout: it is closed")
    written = 0
    try:
        buffer = getattr(out, "buffer", None)
        raw = getattr(buffer, "raw", buffer)
        if raw is None:  # io.StringIO of a program that calls main()
            out.write(text)
            return
        out.flush()
        data = text.encode(out.encoding if _is_terminal(out) else "utf-8", "replace")
        while written < len(data):
            count = raw.write(data[written:])
            written += count or 0
            if not count:
                time.sleep(0.01)  # a pipe that is full, and set not to block
    except BrokenPipeError:
        raise
    except OSError as error:
        _take_back(raw, written)
        raise CommandError(f"cannot write to stdout: {error.strerror}")
    except (AttributeError, TypeError, ValueError) as error:  # of a program that calls main()
        raise CommandError(f"cannot write to stdout: {error}")


def _take_back(raw: Any, written: int) -> None:
    """Remove what was written last, where that is a file: half a line would spoil a log."""
    with suppress(OSError, AttributeError):
        end = raw.tell()
        if end == raw.seek(0, os.SEEK_END):
            raw.seek(end - written)
            raw.truncate()


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def write_stderr(line: str) -> None:
    """Write a line to stderr, if there is one, without anything that could steer a terminal."""
    with suppress(OSError, AttributeError, TypeError, ValueError):  # closed, or none at all
        sys.stderr.write(_printable(line) + "\n")
        sys.stderr.flush()


def _is_terminal(stream: Any) -> bool:
    with suppress(AttributeError, OSError, ValueError):  # of a program that calls main()
        return bool(stream.isatty())
    return False


def _can_redraw() -> bool:
    """Tell whether stdout is a terminal that understands escape sequences."""
    is_able = os.name == "posix" or "WT_SESSION" in os.environ
    return is_able and _is_terminal(sys.stdout) and os.environ.get("TERM") != "dumb"


def _has_colour() -> bool:
    """Tell whether stdout is a terminal that shows colours, and NO_COLOR is not set."""
    return _can_redraw() and not os.environ.get("NO_COLOR")


def _utc_now() -> str:
    return datetime.fromtimestamp(time.time(), timezone.utc).isoformat(timespec="seconds")


MAX_LINES = 1000  # that wait to be written: the oldest are dropped where stderr takes none


class Log:
    """Lines for stderr. While it waits it only collects them, so that it never blocks."""

    def __init__(self, is_verbose: bool = False, waits: bool = False) -> None:
        self.write = write_stderr
        self.has_news = threading.Event()  # for a thread that flushes
        self._lines: deque[str] = deque(maxlen=MAX_LINES)
        self._is_verbose, self.waits = is_verbose, waits

    def __call__(self, line: str) -> None:
        """Take a line."""
        self._lines.append(line)
        self.has_news.set()
        if not self.waits:
            self.flush()

    def trace(self, line: str) -> None:
        """Take a line of -v, which begins with the time."""
        if self._is_verbose:
            self(f"{datetime.now().isoformat(timespec='milliseconds')[11:]} {line}")

    def flush(self) -> None:
        """Write the lines that wait."""
        with suppress(IndexError):  # another thread may take the last one
            while True:
                self.write(self._lines[0])
                self._lines.popleft()


# --- Staying connected: heartbeat -----------------------------------------------------------

HEARTBEAT_INTERVAL_S = 1.5  # no charger looks more often than every 3 s (spec)
RARE_HEARTBEAT_INTERVAL_S = 60.0  # where the firmware lacks the heartbeat


class ConnectedCharger(Charger):
    """A charger that stays connected, and needs a heartbeat for that: a 1 in register 6000 (spec).

    The heartbeat is the first request on each connection, and comes before another one whenever
    it is due. Without it, the charger closes the connection and charges with the failsafe current.
    """

    connection_interval_s = 1.0
    heartbeat_error: Refused | None = None  # of the last heartbeat
    _heartbeat_worked = False  # at least once
    _sent_at = -math.inf

    @property
    def lacks_heartbeat(self) -> bool:
        """Whether the firmware does not support the heartbeat, as far as it has shown."""
        return not self._heartbeat_worked and _is_unsupported(self.heartbeat_error)

    @property
    def heartbeat_due(self) -> float:
        """When the next heartbeat is due (monotonic) on the same connection."""
        interval_s = RARE_HEARTBEAT_INTERVAL_S if self.lacks_heartbeat else HEARTBEAT_INTERVAL_S
        return self._sent_at + interval_s

    def give_heartbeat(self) -> None:
        """Give the heartbeat if it is due. Raises Unreachable where it gets no usable reply.

        A charger that refuses it is read all the same.
        """
        # It is the first request on each connection, unless the firmware lacks it.
        if (self._connection or self.lacks_heartbeat) and _now() < self.heartbeat_due:
            return
        try:
            self._with_retry(super()._send, self._write_heartbeat)
            self.heartbeat_error, self._heartbeat_worked = None, True
        except Refused as error:
            self.heartbeat_error = error
        except NoReply as error:
            raise _unreachable(self, error)

    def _write_heartbeat(self, connection: Connection) -> None:
        self._sent_at = _now()
        connection.write_word(ALIVE_REGISTER, 1)

    def _send(self, request: Request) -> Any:
        # One that the firmware lacks is given between readings: some chargers reset the connection
        # after each exception (evcc 21127), and would never be read.
        if not self.lacks_heartbeat:
            self.give_heartbeat()
        return super()._send(request)


# --- Staying connected: the poller ----------------------------------------------------------

POLLING_INTERVAL_S = 5.0
MAX_RETRY_WAIT_S = 60.0  # between two attempts at what has failed
HISTORY_S = 3600  # of powers are kept
LOSS = "loss"  # the cause of the warning that the charger is lost


class Snapshot(NamedTuple):
    """What the poller shares. It is replaced as a whole, never changed."""

    reading: Reading | None = None  # the newest; None while the charger is lost
    problem: str = "there is no reading yet"  # why there is none
    warnings: tuple[str, ...] = ()  # that last
    made_at: float = -math.inf  # when the reading began (monotonic)
    seconds: float = 0.0  # how long it took
    readings: int = 0  # since the start, as the next two
    failed: int = 0
    connections: int = 0
    powers: Powers = ()  # of the readings of the last hour; None where it is not known
    fatal: CommandError | None = None  # what ends the program


class Warnings:
    """The warnings that last, by cause: each is logged once, and again when it is over."""

    def __init__(self, log: Log) -> None:
        self.lasting: dict[str, str] = {}
        self._log = log
        self._logged: set[str] = set()  # texts of findings that do not count

    def set(self, cause: str, warning: str) -> None:
        """Take the warning of a cause; "" where it is over. A changed text is not logged."""
        before = self.lasting.pop(cause, "")
        if warning:
            self.lasting[cause] = warning
            if not before:
                self._log(f"WARNING: {warning}")
        elif before:
            self._log(f"WARNING: over: {'the charger is back' if cause == LOSS else before}")

    def update(self, findings: Sequence[Finding]) -> None:
        """Take all that is to be warned of now. What does not count is logged only once."""
        current = {cause: warning for cause, warning, counts in findings if counts}
        for cause in {**self.lasting, **current}:
            self.set(cause, current.get(cause, ""))
        for _, warning, counts in findings:
            if warning and not counts and warning not in self._logged:
                self._logged.add(warning)
                self._log(f"WARNING: {warning}")


class DetailReader:
    """Reads the clock, and with --details all details. A detail never costs the reading."""

    MIN_WAIT_S, MAX_WAIT_S = 60.0, 3600.0  # until what has failed is read again

    def __init__(self, details: bool) -> None:
        self._values = DETAILS if details else CLOCK
        # Of the details that have failed: the next time to read them, and the wait until then.
        self._due: dict[Value, float] = {}
        self._wait_s: dict[Value, float] = {}

    def read(self, image: Image, texts_read: set[Value]) -> None:
        """Read what is due. `texts_read` are not read again."""
        now = _now()
        unread = [value for value in self._values if value not in texts_read]
        due = [value for value in unread if now >= self._due.get(value, now)]
        with suppress(Unreachable):
            image.read(_ranges(due))
        for value in due:
            if value in image.errors:
                wait_s = min(self.MAX_WAIT_S, self._wait_s.get(value, 0.0) * 2 or self.MIN_WAIT_S)
                self._due[value], self._wait_s[value] = now + wait_s, wait_s
            else:
                self._wait_s.pop(value, None)
                if value.unit == "text":
                    texts_read.add(value)


class OldValues:
    """Tells whether a charger repeats old values, as some do until they are connected anew.

    Its clock tells (nymea), once it has been seen to run.
    """

    MAX_AGE_S = 12.0  # without any change, though the clock runs: more than two polls

    _clock_changes = 0  # at successive readings; from 2 on it is known to run
    _changed_at = -math.inf  # when any word has changed last
    _are_old = False

    def __init__(self) -> None:
        self._words: Words = {}
        self._clock: list[int] = []

    def are_in(self, image: Image) -> bool:
        """Tell whether the newest reading repeats old values."""
        now, clock = _now(), [image[value] for value in CLOCK]
        if None in clock or clock == [0, 0]:
            clock = []  # it tells nothing
        clock_runs = self._clock_changes >= 2
        if not image.words.items() <= self._words.items():
            self._words.update(image.words)
            self._changed_at = now
        if not clock and not self._are_old:
            self._changed_at = now
        self._are_old = clock_runs and now > self._changed_at + self.MAX_AGE_S
        if not clock_runs:
            has_ticked = clock and self._clock not in ([], clock)
            self._clock_changes = self._clock_changes + 1 if has_ticked else 0
        self._clock = clock
        return self._are_old


# --- Staying connected: setpoints -----------------------------------------------------------

STABLE_S = 60.0  # a value that was right for so long stays
FIGHT_S = 5.0  # where the wait between two tries has grown beyond this, others set the value, too


class Setpoint:
    """A value that is held: it is set whenever the charger shows another one."""

    _why_not_tried = ""  # why it is not tried now
    _why_failed = ""  # why the last try failed
    _wait_s = _wait_left_s = 0.0  # from the last try to the next
    _right_s = 0.0  # for how long it has been right
    _times_set = 0  # without a failure in between

    def __init__(self, value: Value, wanted: int) -> None:
        self.value, self.wanted = value, wanted

    def start_over(self) -> None:
        """Forget what has failed: something is different now."""
        self._wait_s = self._wait_left_s = 0.0
        self._times_set = 0

    def hold(self, image: Image, log: Log, elapsed_s: float) -> None:
        """Set the value if the charger shows another one, and it is time to try.

        `elapsed_s` is the time since the last call, not counting that while the charger was lost.
        Raises Unreachable.
        """
        self._wait_left_s -= elapsed_s
        self._why_not_tried = ""
        unread = image.errors.get(self.value)
        if unread:
            self._why_not_tried = f"Cannot read {_describe([self.value])}: {unread}"
        elif image[self.value] == self.wanted:
            self._why_failed = ""
            self._right_s += elapsed_s
            if self._right_s >= STABLE_S:
                self.start_over()
        else:
            self._right_s = 0.0
            self._set(image, log)

    def _set(self, image: Image, log: Log) -> None:
        try:
            check_range(self.value, self.wanted, image)
        except ChargerError as error:
            self._why_not_tried = str(error)
            return
        if self._wait_left_s > 0:
            return
        self._wait_s = self._wait_left_s = min(MAX_RETRY_WAIT_S, self._wait_s * 2 or 1.0)
        try:
            line = set_value(image, self.value, self.wanted)
            self._why_failed = ""
            self._times_set += 1
            if not self.is_fought_over:
                log(line)
        except ChargerError as error:
            self._why_failed, self._times_set = str(error), 0
            if isinstance(error, Unreachable):
                raise
        finally:
            image.charger.unconfirmed = ""

    @property
    def is_fought_over(self) -> bool:
        """Whether the value was set again and again, and did not stay."""
        return self._times_set > 1 and self._wait_s > FIGHT_S

    @property
    def warning(self) -> str:
        """What keeps the value from being set; empty where nothing does."""
        reason = self._why_not_tried or self._why_failed
        if reason:
            return f"failed holding {_kind(self.value)}: {reason}; trying again"
        if not self.is_fought_over:
            return ""
        return (
            f"the {self.value.label.lower()} does not stay at {self.wanted} {self.value.unit}: "
            "another master may set it, too"
        )


def read_hold_file(path: str) -> int | None:
    """Return the number in the file of --hold; None where it is blank, as while it is written.

    Raises CommandError.
    """
    max_size = 1000  # bytes
    if os.path.exists(path) and not os.path.isfile(path):  # to open a pipe would wait for a writer
        raise CommandError("not a regular file")
    try:
        with open(path, "rb") as file:
            content = file.read(max_size)
    except OSError as error:
        raise CommandError(str(error.strerror))
    text = content.decode("ascii", "replace").strip()
    if len(content) == max_size or not re.fullmatch("[0-9]{0,5}", text):
        raise CommandError(f"{text[:20]!r} is not a whole number of amperes")
    return int(text) if text else None


class Holder:
    """Holds the values that the options and the file of --hold name.

    When a vehicle is plugged in, the charger puts its own minimum into the dynamic current
    (nymea). One that was without a master is at its failsafe current (spec).
    """

    file_warning = ""
    held_at: float | None = None  # monotonic; None while the charger is lost
    _cable: int | None = None  # its state, as read last
    _file_number: int | None = None  # the newest; None before it, and while the file is wrong

    def __init__(self, wanted: Wanted, file: str | None) -> None:
        self._file = file
        self.setpoints = {value: Setpoint(value, number) for value, number in wanted}

    def look_at_file(self) -> None:
        """Read the file of --hold, before each reading."""
        if self._file is None:
            return
        self.file_warning = ""
        try:
            number = read_hold_file(self._file)
            if number is not None:
                self._file_number = number
        except CommandError as error:
            self._file_number, self.file_warning = None, f"--hold: {self._file}: {error}"

    def hold(self, image: Image, log: Log) -> list[Finding]:
        """Set the values that are not as wanted; return what keeps values from being set.

        Raises Unreachable.
        """
        findings = [
            Finding("file", self.file_warning),
            Finding("number", self._follow_file(image)),
        ]
        cable = image[CABLE_STATE]
        if cable not in (None, self._cable):
            self._cable = cable
            for setpoint in self.setpoints.values():
                setpoint.start_over()
        elapsed_s = 0.0 if self.held_at is None else _now() - self.held_at
        for value in SETTABLE:
            if value in self.setpoints:
                self.setpoints[value].hold(image, log, elapsed_s)
                findings.append(Finding(f"hold {value.label}", self.setpoints[value].warning))
        self.held_at = _now()
        return findings

    def _follow_file(self, image: Image) -> str:
        """Hold the number in the file; return why the charger's limits forbid that, if they do."""
        number, held = self._file_number, self.setpoints.get(DYNAMIC_CURRENT)
        if number is None:
            return ""
        is_new = held is None or held.wanted != number
        try:
            check_range(DYNAMIC_CURRENT, number, image)
            if is_new:
                self.setpoints[DYNAMIC_CURRENT] = Setpoint(DYNAMIC_CURRENT, number)
        except ChargerError as error:
            if is_new or isinstance(error, OutOfRange):
                return f"--hold: {self._file}: {error}"
        return ""


# --- Staying connected: polling -------------------------------------------------------------


class Poller:
    """Polls the charger: gives the heartbeat, makes readings, and holds values.

    One thread runs it. All that others get of it are the newest snapshot and the lines that it
    logs.
    """

    snapshot = Snapshot()
    _so_far = "no reading yet"

    def __init__(self, charger: ConnectedCharger, args: argparse.Namespace, log: Log) -> None:
        self.charger, self.log, self.with_details = charger, log, args.details
        self._interval_s = min(POLLING_INTERVAL_S, args.watch or POLLING_INTERVAL_S)
        self._image, self._old_values = Image(charger), OldValues()
        self._details = DetailReader(args.details)
        self._holder = Holder(args.wanted, args.hold)
        self._warnings = Warnings(log)

    def run(self) -> Iterator[float]:
        """Poll for ever. Yields the time (monotonic) until which there is nothing to do."""
        wait_s = 0.5  # it is doubled before the first use
        while True:
            readings = self.snapshot.readings
            try:
                yield from self._poll()
            except Unreachable as error:
                self.charger.close()
                self._lose(error)
            has_read = self.snapshot.readings > readings
            wait_s = 1.0 if has_read else min(MAX_RETRY_WAIT_S, wait_s * 2)
            yield _now() + wait_s

    def _poll(self) -> Iterator[float]:
        """Poll until the charger does not answer any more: raises Unreachable then."""
        texts_read: set[Value] = set()
        due, is_starting = _now(), False
        while True:
            try:
                self._read(texts_read)
            except NothingRead as error:
                self._lose(error)
                is_starting = True
            due += self._interval_s * ((_now() - due) // self._interval_s + 1)
            while _now() < due:
                yield min(due, self.charger.heartbeat_due)
                self.charger.give_heartbeat()
            if is_starting:  # that a charger that refuses all lacks the heartbeat is not known
                self.charger.heartbeat_error = None
                is_starting = self.snapshot.reading is None

    def _read(self, texts_read: set[Value]) -> None:
        """Make a reading, hold the wanted values, and publish.

        Raises Unreachable, and NothingRead where the charger refuses all.
        """
        image = self._image
        began, timestamp = _now(), _utc_now()
        self._holder.look_at_file()
        image.read_core()
        self._details.read(image, texts_read)
        if self._old_values.are_in(image):
            raise Unreachable("it repeats old values: its clock stands still")
        held = self._holder.hold(image, self.log)
        reading, implausible = decode(image.words, timestamp, self.with_details)
        self._warnings.update([*self._findings(), *implausible, *held])
        self._so_far = f"no reading since {timestamp}"
        self._publish(
            reading["electrical"]["power"]["total_w"],
            reading=reading,
            problem="",
            made_at=began,
            seconds=_now() - began,
            readings=self.snapshot.readings + 1,
        )

    def _findings(self) -> Iterator[Finding]:
        """Yield what was refused or not read."""
        yield from self._image.unread(ALL_RANGES if self.with_details else CORE_RANGES)
        refusal = self.charger.heartbeat_error
        if refusal:
            warning = f"the charger refuses the heartbeat: {refusal}"
            yield Finding("heartbeat", warning, not self.charger.lacks_heartbeat)
        if self._holder.setpoints:
            with suppress(ChargerError):
                yield Finding("limits", current_limits(self._image).warning, counts=False)

    def _lose(self, error: ChargerError) -> None:
        """Publish that there is no reading; warnings that lasted before stay."""
        self._holder.held_at = None
        problem = f"{self._so_far}: {self._image.explain(error)}"
        self._warnings.set("file", self._holder.file_warning)
        self._warnings.set(LOSS, problem)
        self._publish(None, reading=None, problem=problem, failed=self.snapshot.failed + 1)

    def _publish(self, power: int | None, **changes: Any) -> None:
        now = time.time()
        recent = [point for point in self.snapshot.powers if 0 <= now - point[0] <= HISTORY_S]
        self.snapshot = self.snapshot._replace(
            connections=self.charger.connections,
            warnings=tuple(self._warnings.lasting.values()),
            powers=(*recent, (now, power)),
            **changes,
        )
        self.log.has_news.set()


def poll_forever(poller: Poller, stop: threading.Event) -> None:
    """Run the poller, in the only thread that speaks to the charger."""
    try:
        for due in poller.run():
            if stop.wait(due - _now()):
                return
    except Exception as error:  # else old values would be served for ever
        fatal = CommandError(f"the program is at fault: {error!r}")
        poller.snapshot = poller.snapshot._replace(fatal=fatal, reading=None, problem=str(fatal))
        poller.log.has_news.set()
    finally:
        poller.charger.close()


# --- Staying connected: showing what the poller has -----------------------------------------

MAX_EARLY_S = 0.1  # a reading that begins this much too early counts
NEWS_WAIT_S = 5.0 if os.name == "posix" else 1.0  # a signal does not end a wait on Windows

SHUTDOWN_CHECK_S = 5.0  # the HTTP server looks this often whether it is to end


def snapshots(poller: Poller, refresh_s: float) -> Iterator[Snapshot]:
    """Yield the newest snapshot whenever there is news, and after so many seconds; log the lines.

    Nothing goes back to the poller: it never waits for whoever reads this. Raises what ends the
    program.
    """
    log = poller.log
    while True:
        log.has_news.wait(refresh_s)
        log.has_news.clear()
        log.flush()
        snapshot = poller.snapshot
        if snapshot.fatal:
            raise snapshot.fatal
        yield snapshot


def print_readings(stream: Iterator[Snapshot], output_format: str, every: float) -> None:
    """Print the first reading that is made at or after each so many seconds."""
    due = 0.0  # monotonic
    for snapshot in stream:
        # A reading counts for what is due a little later, too.
        counts_as = snapshot.made_at + MAX_EARLY_S
        if snapshot.reading is None or counts_as < due:
            continue
        due = due or snapshot.made_at
        due += every * ((counts_as - due) // every + 1)
        if output_format == "json":
            write_stdout(format_json(snapshot.reading))
        else:
            write_stdout(f"{snapshot.reading['timestamp']}\n{format_human(snapshot.reading)}\n")


def _notes(snapshot: Snapshot) -> Iterable[str]:
    """Return what people are to know: the warnings that last, or why there is no reading yet."""
    return snapshot.warnings or filter(None, [snapshot.problem])


def _highest_powers(powers: Powers, count: int) -> dict[int, int]:
    """Return the highest power (W) in each of so many parts of the last hour, where it is known."""
    now = time.time()
    highest: dict[int, int] = {}
    for published_at, watts in powers:
        part = count - 1 - int((now - published_at) * count / HISTORY_S)
        if watts is not None and 0 <= part < count:
            highest[part] = max(watts, highest.get(part, 0))
    return highest


# --- The live view of --watch ---------------------------------------------------------------

MIN_PLOT_W = 1000  # what an idle charger takes shall not look like charging
COLUMNS = ["States", "Electrical", "Session"], ["Current Limits", "Identity", "Details"]
MIN_WIDTH = 80  # characters, for two columns
LEFT_WIDTH = 47  # characters: the longest state fits
BLOCKS, ASCII = "▁▂▃▄▅▆▇█", "_.:-=+*#"
REFRESH_S = 0.2  # the size of the terminal may change at any time
ENTER_SCREEN, LEAVE_SCREEN = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"


def format_screen(
    name: str, snapshot: Snapshot, width: int, height: int, levels: str, newest_line: str
) -> list[str]:
    """Return lines, in colour, that fit a terminal; `levels` are the characters of the plot."""
    import textwrap

    header, body = f"Ctrl-C ends  {name}", []
    if snapshot.reading:
        state, power, *_ = summary(snapshot.reading)
        header = f"{_local_time(snapshot.reading)}  {power.text}  {state.text}  {header}"
        body = _columns(sections(snapshot.reading), width)
    footer = _plot_text(snapshot.powers, width, levels)
    style = "bad" if snapshot.warnings else ""
    for note in _notes(snapshot):
        footer += [_paint(line, style) for line in textwrap.wrap(_printable(note), width)]
    footer.append(newest_line[: width - 1])
    body = body[: max(0, height - 1 - len(footer))]
    return [_paint(header[:width], "bold"), *body, *footer][:height]


def _columns(shown: Sections, width: int) -> list[str]:
    """Return the sections in two columns, or in one where the terminal is narrow."""
    left, right = (_column(shown, titles) for titles in COLUMNS)
    if width < MIN_WIDTH:
        return [_fit(row, width).rstrip() for row in left + right]
    pairs = zip_longest(left, right, fillvalue=Row("", [""]))
    right_width = width - LEFT_WIDTH - 1
    return [f"{_fit(one, LEFT_WIDTH)} {_fit(other, right_width)}".rstrip() for one, other in pairs]


def _column(shown: Sections, titles: Iterable[str]) -> list[Row]:
    """Return rows whose names are padded to one width; a title is a row, too."""
    column = []
    for title in filter(shown.get, titles):
        start = 2 + max(len(row.label) for row in shown[title])
        column.append(Row("", [f"== {title} =="], "bold"))
        for row in shown[title]:
            column.append(Row(f"{row.label + ':':{start}}", [row.text], row.style))
    return column


def _fit(row: Row, width: int) -> str:
    """Return the row as a line that is cut or filled to the width."""
    name = row.name[:width]
    text = row.text[: width - len(name)]
    return name + _paint(text, row.style) + " " * (width - len(name) - len(text))


def _plot_text(powers: Powers, width: int, levels: str) -> list[str]:
    highest = _highest_powers(powers, width)
    if not highest:
        return []
    most = max(highest.values())
    top = max(MIN_PLOT_W, most) + 1
    bar = {part: levels[watts * len(levels) // top] for part, watts in highest.items()}
    return [_plot_title(most)[:width], "".join(bar.get(part, " ") for part in range(width))]


def _plot_title(watts: int) -> str:
    return f"Power, last {HISTORY_S // 60} min, up to {watts / 1000:.2f} kW"


class Screen:
    """The terminal while --watch redraws the newest reading in place."""

    def __init__(self, name: str, log: Log) -> None:
        self._name, self._log = name, log
        self._newest_line = ""
        self._drawn: object = None
        self._levels = BLOCKS if "utf" in str(sys.stdout.encoding).lower() else ASCII
        log.write = self._note
        write_stdout(ENTER_SCREEN)
        has_ctrl_z = __name__ == "__main__" and hasattr(signal, "SIGTSTP")
        if has_ctrl_z and signal.getsignal(signal.SIGTSTP) != signal.SIG_IGN:
            signal.signal(signal.SIGTSTP, self._suspend)

    def _suspend(self, *_: object) -> None:
        """Give the terminal back while the program is stopped by Ctrl-Z."""
        write_stdout(LEAVE_SCREEN)
        os.kill(os.getpid(), signal.SIGSTOP)
        write_stdout(ENTER_SCREEN)
        self._drawn = None

    def close(self) -> None:
        """Give the terminal back, with the newest line."""
        self._log.write = write_stderr
        with suppress(CommandError, OSError):
            write_stdout(LEAVE_SCREEN)
        if self._newest_line and _is_terminal(sys.stderr):
            write_stderr(self._newest_line)

    def _note(self, line: str) -> None:
        """Keep a line, to draw it below the reading: stderr is most likely the same terminal."""
        self._newest_line = _printable(f"{datetime.now():%H:%M:%S} {line}")
        if not _is_terminal(sys.stderr):
            write_stderr(line)

    def _erasing_the_rest(self, line: str, width: int) -> str:
        """Return a line that erases what stood behind it.

        Behind a full line there is nothing: the cursor stands on its last character.
        """
        plain = re.sub("\x1b\\[[\\d;]*m", "", line)
        end = "\x1b[K" if len(plain) < width else ""
        return (line if _has_colour() else plain) + end

    def draw(self, newest: Iterator[Snapshot]) -> None:
        """Draw each snapshot, and again where the size of the terminal has changed."""
        import shutil

        for snapshot in newest:
            size = shutil.get_terminal_size()
            shown = snapshot, size, self._newest_line
            if shown != self._drawn:
                lines = format_screen(self._name, snapshot, *size, self._levels, self._newest_line)
                text = "\r\n".join(self._erasing_the_rest(line, size.columns) for line in lines)
                self._drawn = shown
                write_stdout(f"\x1b[H{text}\x1b[J")


# --- The page of --listen -------------------------------------------------------------------

CSS = """
:root { color-scheme: light dark; --good: #17752f; --bad: #b3261e; --line: #8886 }
@media (prefers-color-scheme: dark) { :root { --good: #5fd07c; --bad: #ff8a80 } }
body { background: Canvas; font: 1rem/1.4 system-ui, sans-serif; margin: 0 auto; max-width: 72rem;
  overflow-wrap: anywhere; padding: 1rem }
h1, #power { font-size: clamp(1.7rem, 6vw, 2.8rem); line-height: 1.15; margin: 0 }
h2, p { font-size: 1rem; margin: .25rem 0 }
#about, dt, th { font-weight: normal; opacity: .7 }
.good { color: var(--good) } .bad { color: var(--bad) } [id]:empty { display: none }
dl { display: flex; flex-wrap: wrap; gap: .5rem 2rem } dd { font-size: 1.3rem; margin: 0 }
section, figure { border: 1px solid var(--line); border-radius: .6rem; break-inside: avoid;
  margin: 0 0 1rem; padding: .5rem 1rem }
svg { overflow: visible; width: 100% } text { fill: currentColor; font-size: .75rem }
line { stroke: var(--line) } path { fill: var(--good); opacity: .5; stroke: var(--good);
  vector-effect: non-scaling-stroke }
.cards { columns: 22rem } footer { margin-top: 1rem }
table { border-collapse: collapse; font-size: .9rem; width: 100% }
th, td { padding: .25rem 0 .25rem .5rem; text-align: right; vertical-align: top }
th { overflow-wrap: normal } tbody th { padding-left: 0; text-align: left }
thead + tbody td, tbody:first-child th { white-space: nowrap }
tr + tr { border-top: 1px solid var(--line) }
#connection:not(:empty) ~ * { filter: grayscale(1); opacity: .6 }
@media (max-width: 26rem) { body { padding: .5rem } section, figure { padding: .5rem }
  table { font-size: .75rem } th, td { padding-left: .25rem } }
"""
SCRIPT = """
let seen = new Date()
async function renew() {
  try {
    const reply = await fetch(location.pathname,
      { cache: "no-store", signal: AbortSignal.timeout?.(4000) })
    const page = new DOMParser().parseFromString(await reply.text(), "text/html")
    for (const shown of document.querySelectorAll("[id]")) {
      const fresh = page.getElementById(shown.id)  // null, which is caught, on another page
      if (shown.className !== fresh.className) shown.className = fresh.className
      if (shown.innerHTML !== fresh.innerHTML) shown.innerHTML = fresh.innerHTML
    }
    document.title = page.title
    seen = new Date()
  } catch {
    const line = "no connection to vestel.py since " + seen.toTimeString().slice(0, 8)
    const shown = document.getElementById("connection")  // an alert: read aloud at each change
    if (shown.textContent !== line) shown.textContent = document.title = line
  }
}
setInterval(renew, 5000)
"""


def content_security_policy() -> str:
    """Return what a browser may load for the page: what is in it, and nothing else."""
    from base64 import b64encode
    from hashlib import sha256

    def source(text: str) -> str:
        return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"

    return (
        f"default-src 'none'; style-src {source(CSS)}; script-src {source(SCRIPT)}; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'"
    )


def format_page(name: str, snapshot: Snapshot) -> str:
    """Return a web page that needs nothing else and renews itself."""
    from html import escape

    state, style = ("No reading", "bad") if snapshot.failed else ("Connecting", "")
    power, about, glance, cards = "", name, "", ""
    shown: Sections = {}
    if snapshot.reading:
        shown = sections(snapshot.reading)
        first, total, *rows = summary(snapshot.reading)
        state, style, power = first.text, first.style, total.text
        about = f"{name}, read at {_local_time(snapshot.reading)}"
        glance = "".join(f"<div><dt>{row.name}</dt><dd>{row.text}</dd></div>" for row in rows)
    for title in chain(*COLUMNS):
        table = f"<h2>{title}</h2>{_table(shown[title])}" if title in shown else ""
        cards += f'<section id="{title.replace(" ", "-").lower()}">{table}</section>'
    notes = "".join(f"<p>{escape(note)}</p>" for note in _notes(snapshot))
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{escape(state)} {power} - Vestel EVC04</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">
<style>{CSS}</style></head><body>
<p id="connection" class="bad" role="alert"></p><main><p id="about">{escape(about)}</p>
<h1 id="state" class="{style}" aria-live="polite">{escape(state)}</h1><p id="power">{power}</p>
<div id="warnings" class="{"bad" if snapshot.warnings else ""}">{notes}</div>
<dl id="glance">{glance}</dl>
<figure id="plot">{_plot_svg(snapshot.powers)}</figure><div class="cards">{cards}</div></main>
<footer><a href="metrics">Prometheus metrics</a> &middot; <a href="vestel-data.json">JSON</a>
<noscript><p>Without JavaScript this page does not renew itself.</p></noscript></footer>
<script>{SCRIPT}</script></body></html>
"""


def _table(rows: Iterable[Row]) -> str:
    from html import escape

    head, body = "", ""
    for row in rows:
        if len(row.cells) == 3:
            titles = '<th scope="col">L1</th><th scope="col">L2</th><th scope="col">L3</th>'
            head = f"<thead><tr><td></td>{titles}</tr></thead>"
        span = 3 // len(row.cells)
        cells = ""
        for cell in row.cells:
            text = escape(cell).replace("_", "_<wbr>")
            cells += f'<td class="{row.style}" colspan="{span}">{text}</td>'
        body += f'<tr><th scope="row">{row.name}</th>{cells}</tr>'
    return f"<table>{head}<tbody>{body}</tbody></table>"


def _plot_svg(powers: Powers) -> str:
    """Return the powers of the last hour as SVG with kW and local times; "" where there is none."""
    now = time.time()
    highest = _highest_powers(powers, 180)
    if not highest:
        return ""
    top = max(highest.values())
    step = next(step for step in (1, 2, 4, 5, 10, 20) if top <= 5000 * step)  # kW
    steps = max(1, math.ceil(top / 1000 / step))
    full_scale_w = step * steps * 1000
    marks = ""
    for n in range(steps + 1):
        y = 180 - 160 * n // steps
        marks += f'<line x2="100%" y1="{y}" y2="{y}"/><text y="{y - 4}">{n * step} kW</text>'
    for ago in range(int(now) % 600, HISTORY_S, 600):
        x, then = 100 - 100 * ago / HISTORY_S, datetime.fromtimestamp(now - ago)
        marks += f'<text x="{x:.1f}%" y="198" text-anchor="middle">{then:%H:%M}</text>'
    path = "".join(f"M{x} {full_scale_w}v-{watts}h1v{watts}" for x, watts in highest.items())
    return (
        f'<h2>{_plot_title(top)}</h2><svg height="205" aria-hidden="true">'
        f'<svg y="20" height="160" viewBox="0 0 180 {full_scale_w}" preserveAspectRatio="none">'
        f'<path d="{path}"/></svg>{marks}</svg>'
    )


# --- HTTP -----------------------------------------------------------------------------------

MAX_CLIENTS = 150  # at a time; macOS gives a program 256 files, and the charger needs one
HTML, PLAIN = "text/html; charset=utf-8", "text/plain; charset=utf-8"
JSON, PROMETHEUS = "application/json", "text/plain; version=0.0.4; charset=utf-8"


def respond(target: str, poller: Poller) -> tuple[int, str, str]:
    """Return status, content type and text of the answer to a GET request.

    Nothing here asks the charger, or writes to it.
    """
    snapshot = poller.snapshot
    path = re.sub(r"(?i)^https?://[^/?]*|\?.*", "", target) or "/"
    if path == "/metrics":
        return 200, PROMETHEUS, format_prometheus(snapshot.reading, snapshot)
    if path == "/":
        return 200, HTML, format_page(poller.charger.name, snapshot)
    if path != "/vestel-data.json":
        return 404, PLAIN, "not found\n"
    if snapshot.reading:
        return 200, JSON, format_json(snapshot.reading)
    nothing, _ = decode({}, None, poller.with_details)  # all keys, for templates that name them
    return 503, JSON, format_json({"error": snapshot.problem, **nothing})


def http_server(address: tuple[str, int], poller: Poller, trace: Trace) -> socketserver.TCPServer:
    """Listen on the address, and return what serves the snapshots there. Raises CommandError."""
    import http.server

    class Handler(http.server.BaseHTTPRequestHandler):
        timeout = 5  # s without a byte

        def do_GET(self) -> None:
            self.send(*respond(self.path, poller))

        do_HEAD = do_GET

        def __getattr__(self, name: str) -> Any:
            if name.startswith("do_"):  # any other method
                return lambda: self.send(405, PLAIN, "only GET and HEAD\n")
            raise AttributeError(name)

        def send(self, status: int, content_type: str, text: str) -> None:
            body = text.encode(errors="replace")
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Content-Security-Policy", content_security_policy())
            self.send_header("Allow", "GET, HEAD")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def version_string(self) -> str:
            return f"vestel.py/{VERSION}"

        def log_message(self, template: str, *values: Any) -> None:
            trace(f"{self.address_string()}: {template % values}")

    return _listen(address, Handler, trace)


def _listen(address: tuple[str, int], handler: Any, trace: Trace) -> socketserver.TCPServer:
    import socketserver

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = os.name == "posix"  # on Windows that would share a port in use
        daemon_threads = True
        request_queue_size = 1024

        def process_request(self, request: Any, client_address: Any) -> None:
            if threading.active_count() < MAX_CLIENTS:
                super().process_request(request, client_address)
            else:
                self.shutdown_request(request)

        def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
            trace(f"{client_address[0]}: {sys.exc_info()[1]}")  # the client has gone

    host, port = address
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        Server.address_family, *_, place = found[0]
        return Server(place, handler)  # type: ignore[arg-type]
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or error
        hint = "check the host, and that no other program uses the port"
        raise CommandError(f"Cannot listen on {_bracketed(host)}:{port}: {why}; {hint}")


# --- The simulated charger of --demo --------------------------------------------------------


class Demo:
    """Takes the place of the connection: a charger in memory that charges with three phases.

    The energy and duration of its session grow with the time since it was made; its phase
    currents follow the dynamic current.
    """

    # fmt: off
    START: Mapping[str, int | str] = {
        "Serial": "VESTEL-DEMO", "Chargepoint ID": "CP-DEMO-01", "Brand": "Vestel",
        "Model": "EVC04", "Firmware": "v3.187.0-1.8.156.0", "Phase Switch": 1,
        "Max Power": 22000, "Phases": 1, "Equipment State": 1, "Cable State": 3,
        "EVSE Minimum": 6, "EVSE Maximum": 32, "Cable Maximum": 32, "Session Maximum": 32,
        "Failsafe Current": 10, "Failsafe Timeout": 20, "Dynamic Current": 16,
    }
    # fmt: on

    def __init__(self) -> None:
        self._words: Words = {}
        self._began = self._measured_at = _now()
        self._energy_wh, self._power_w = 8421.0, 0
        self._put(self.START)

    def _put(self, contents: Mapping[str, int | str]) -> None:
        for label, content in contents.items():
            value = VALUES[label]
            if isinstance(content, str):
                words = [*map(ord, content)]
            else:
                words = [content >> 16, content & 0xFFFF][-value.words :]
            for address, word in enumerate(words, value.address):
                self._words[value.bank, address] = word

    def _measure(self) -> None:
        now, clock = _now(), datetime.fromtimestamp(time.time())
        self._energy_wh += self._power_w * (now - self._measured_at) / 3600
        self._measured_at, self._power_w = now, 0
        duration_s = 5025 + int(now - self._began)
        amperes = self._words[HOLDING, DYNAMIC_CURRENT.address]
        measured = {
            "Chargepoint State": 2 if amperes else 3,  # Charging, SuspendedEVSE
            "Charging State": int(amperes > 0),
            "Meter Reading": 12345 + int(self._energy_wh / 100),
            "Energy": int(self._energy_wh),
            "Duration": duration_s,
            "Started": int(f"{clock - timedelta(seconds=duration_s):%H%M%S}"),
            "Date": int(f"{clock:%y%m%d}"),
            "Time": int(f"{clock:%H%M%S}"),
        }
        for phase, volts, drop_ma in (("L1", 231, 770), ("L2", 230, 820), ("L3", 229, 750)):
            milliamperes = max(0, amperes * 1000 - drop_ma)  # a vehicle stays a little below
            watts = milliamperes * volts // 1000
            self._power_w += watts
            measured[f"Current {phase}"] = milliamperes
            measured[f"Voltage {phase}"] = volts
            measured[f"Power {phase}"] = watts
        self._put({**measured, "Total Power": self._power_w})

    def read_words(self, bank: str, address: int, count: int) -> list[int]:
        """Return what the registers hold now; 0 for a gap."""
        self._measure()
        return [self._words.get((bank, n), 0) for n in range(address, address + count)]

    def write_word(self, address: int, value: int) -> None:
        """Set a holding register."""
        self._words[HOLDING, address] = value

    def close(self) -> None:
        """Do nothing: the charger is kept."""


# --- The program ----------------------------------------------------------------------------


def print_reading(charger: Charger, args: argparse.Namespace, log: Log) -> None:
    """Print a reading, after the wanted values were set. Raises CommandError, SystemExit."""
    image = Image(charger)
    if args.wanted and not set_values(image, args.wanted, log):
        raise SystemExit(3)
    began = _utc_now()
    try:
        image.read_core()
    except ChargerError as error:
        raise CommandError(image.explain(error))
    if args.details:
        with suppress(Unreachable):  # the details are null then
            image.read(DETAIL_RANGES)
    charger.close()  # another master may be waiting, and whoever reads stdout may be slow
    reading, implausible = decode(image.words, began, args.details)
    for finding in [*image.unread(ALL_RANGES), *implausible]:
        log(f"WARNING: {finding.warning}")
    for value, number in args.wanted:
        if image[value] not in (number, None):
            raise CommandError(
                f"failed writing {_kind(value)}: the {value.label.lower()} was read back as "
                f"{number} {value.unit}, but is {image[value]} {value.unit} now",
                3,
            )
    if args.format == "prometheus":
        write_stdout(format_prometheus(reading))
    elif args.format == "json":
        write_stdout(format_json(reading, 2 if _is_terminal(sys.stdout) else None))
    else:
        write_stdout(format_human(reading, _has_colour()))


def stay_connected(charger: ConnectedCharger, args: argparse.Namespace, log: Log) -> None:
    """Poll the charger, and show its readings (--watch) or serve them (--listen)."""
    gc.enable()
    poller = Poller(charger, args, log)
    stop, ends = threading.Event(), ExitStack()
    ends.callback(log_last_words, charger, log)
    if args.listen:
        server = http_server(args.listen, poller, log.trace)
    end_on_signals(ends.close, 0)
    start_thread(lambda: poll_forever(poller, stop))
    try:
        if args.listen:
            start_thread(lambda: server.serve_forever(SHUTDOWN_CHECK_S))
            for _ in snapshots(poller, NEWS_WAIT_S):
                pass
        elif args.format == "human" and _can_redraw():
            screen = Screen(charger.name, log)
            ends.callback(screen.close)
            screen.draw(snapshots(poller, REFRESH_S))
        else:
            print_readings(snapshots(poller, NEWS_WAIT_S), args.format, args.watch)
    finally:  # where another program called main(), stdout fails, or the poller is at fault
        stop.set()
        if args.listen:
            server.shutdown()
            server.server_close()
        ends.close()


def log_last_words(charger: Charger, log: Log) -> None:
    """Log the lines that wait, and what may have been written."""
    log.flush()
    if charger.unconfirmed:
        write_stderr(f"ERROR: interrupted: {charger.unconfirmed}; a reading shows what is set now")


def end_on_signals(last_words: Callable[[], object], code_of_sigterm: int) -> None:
    """From now on, end the program at once on Ctrl-C and SIGTERM, after its last words.

    By os._exit(): an exception would be dropped where Python happens to run a callback. The last
    words have half a second, since the terminal may hang. A signal that is ignored stays so, and
    a program that calls main() keeps its own handlers.
    """
    signals = signal.SIGINT, signal.SIGTERM

    def end(number: int, _: object) -> NoReturn:
        for each in signals:
            signal.signal(each, signal.SIG_IGN)  # else the last words would be said twice
        start_thread(last_words).join(0.5)
        os._exit(130 if number == signal.SIGINT else code_of_sigterm)

    if __name__ == "__main__":
        for number in signals:
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, end)


def start_thread(work: Callable[[], object]) -> threading.Thread:
    """Start a thread that does not keep the program alive."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def run(argv: Sequence[str] | None) -> None:
    """Do what the command line says. Raises CommandError."""
    args = parse_options(argv)
    if args.version:
        write_stdout(f"vestel.py {VERSION}\n")
        return
    stays = args.watch or args.listen
    log = Log(args.verbose, waits=stays)
    if args.demo:
        demo = Demo()
        name, timeout = "the simulated charger", 1.0
        connect: Connect = lambda: demo  # noqa: E731
    else:
        target = find_target(args)
        connect = modbus(target, log.trace)
        name, timeout = str(target), target.timeout
    if stays:
        stay_connected(ConnectedCharger(connect, name, timeout), args, log)
        return
    charger = Charger(connect, name, timeout)
    end_on_signals(lambda: log_last_words(charger, log), 143)
    try:
        print_reading(charger, args, log)
    except KeyboardInterrupt:  # of a program that calls main()
        log_last_words(charger, log)
        raise
    finally:
        charger.close()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; return its exit code."""
    try:
        run(argv)
    except CommandError as error:
        write_stderr(f"ERROR: {error}")
        return error.exit_code
    except BrokenPipeError:
        pass  # whoever read stdout has seen enough
    except KeyboardInterrupt:
        return 130
    except SystemExit as end:
        return int(end.code or 0)
    return 0


if __name__ == "__main__":
    gc.disable()  # a reading leaves no garbage, and looking for it takes a tenth of the run
    os._exit(main())  # all is written, and taking pymodbus apart would take a sixth of the run

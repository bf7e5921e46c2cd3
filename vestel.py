#!/usr/bin/env python3
# /// script
# requires-python = ">=3.8"
# dependencies = ["pymodbus>=3.0,<4"]
# ///
"""Read and control a Vestel EVC04 electric vehicle charger over Modbus TCP.

A reading flows one way, and this file is laid out in that order:

    argv + INI -> settings -> charger -> {address: word} -> reading (dict) -> text -> stdout

"spec" is the charger's Modbus TCP specification, v1.8 (2022); "seen" is what owners of it and of its
siblings (Webasto/Ampure Unite, E.ON vBox, Vestel Home Smart and Connect Plus) have reported: "evcc 5936"
is that issue of github.com/evcc-io/evcc, "nymea" the plug-in in github.com/nymea/nymea-plugins-modbus.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # built in: importing signal takes milliseconds
import gc
import sys

if __name__ == "__main__" and _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
    # Until there is something to end cleanly: an exception in an import is a traceback, or even dropped.
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
if sys.version_info < (3, 8):  # noqa: UP036 (this file compiles on 3.7, so that it can say so)
    needed = (
        "vestel.py needs Python 3.8 or later: run it with a newer one (uv run vestel.py brings one along)"
    )
    raise SystemExit(f"ERROR: this is Python {sys.version.split()[0]}, and {needed}")

import argparse
import contextlib
import math
import os
import re
import signal
import time
from collections import deque
from datetime import datetime, timedelta, timezone
from functools import partial
from itertools import takewhile, zip_longest
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import socketserver
    import threading
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any, NoReturn, Optional, Protocol

    class Connection(Protocol):
        """What a charger is reached through: words in, words out, or ChargerError."""

        def read_words(self, bank: str, address: int, count: int) -> list[int]: ...  # noqa: D102
        def write_word(self, address: int, value: int) -> None: ...  # noqa: D102
        def close(self) -> None: ...  # noqa: D102

    Words = dict[tuple[str, int], int]  # (bank, address) -> what the register holds
    Warnings = dict[str, str]  # cause -> the line for the user
    Reading = dict[str, Any]  # as JSON prints it
    Say = Callable[[str], None]  # takes a line for stderr
    Conversion = Callable[[Any], Any]
    Currents = Sequence[tuple["Register", int]]  # A
    Written = tuple[Optional[int], Optional["ChargerError"]]
    Show = Callable[["Snapshot", bool], None]  # takes the newest snapshot, and whether its reading is due

VERSION = "1.1.0"

# --- The tables -------------------------------------------------------------------------------


def _rows(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")] for line in table.strip().splitlines()]


# A register a row, in the order of the reading: label, bank, first address, words (the high one first),
# unit, and the keys made of it with their conversions. No row for 1516-1530: the RFID tag is personal.
CORE_TABLE = """
serial number           | input   |  100 | 25 | text    | identity.serial
maximum power           | input   |  400 |  2 | W       | identity.max_power_w identity.max_power_kw:kilo
phases                  | input   |  404 |  1 | code    | identity.phases:phases identity.phases_raw
charge point state      | input   | 1000 |  1 | code    | states.chargepoint.code states.chargepoint.name:chargepoint
charging state          | input   | 1001 |  1 | code    | states.charging.code states.charging.name:charging
equipment state         | input   | 1002 |  1 | code    | states.equipment.code states.equipment.name:equipment
cable state             | input   | 1004 |  1 | code    | states.cable.code states.cable.name:cable
fault code              | input   | 1006 |  2 | bits    | states.fault_code states.faults:faults
current L1              | input   | 1008 |  1 | mA      | electrical.current.l1_a:per_1000
current L2              | input   | 1010 |  1 | mA      | electrical.current.l2_a:per_1000
current L3              | input   | 1012 |  1 | mA      | electrical.current.l3_a:per_1000
voltage L1              | input   | 1014 |  1 | V       | electrical.voltage.l1_v
voltage L2              | input   | 1016 |  1 | V       | electrical.voltage.l2_v
voltage L3              | input   | 1018 |  1 | V       | electrical.voltage.l3_v
active power L1         | input   | 1024 |  2 | W       | electrical.power.l1_w
active power L2         | input   | 1028 |  2 | W       | electrical.power.l2_w
active power L3         | input   | 1032 |  2 | W       | electrical.power.l3_w
active power            | input   | 1020 |  2 | W       | electrical.power.total_w electrical.power.total_kw:kilo
energy meter            | input   | 1036 |  2 | 0.1 kWh | electrical.meter_reading_kwh:per_10
EVSE minimum current    | input   | 1102 |  1 | A       | limits.evse_min_a
EVSE maximum current    | input   | 1104 |  1 | A       | limits.evse_max_a
cable maximum current   | input   | 1106 |  1 | A       | limits.cable_max_a
session maximum current | input   | 1100 |  1 | A       | limits.session_max_a
session energy          | input   | 1502 |  2 | Wh      | session.energy_wh session.energy_kwh:per_1000
session duration        | input   | 1508 |  2 | s       | session.duration_s
session start time      | input   | 1504 |  2 | hhmmss  | session.start_time:time_of_day
session end time        | input   | 1512 |  2 | hhmmss  | session.end_time:time_of_day
dynamic current         | holding | 5004 |  1 | A       | settings.dynamic_current_a
failsafe current        | holding | 2000 |  1 | A       | settings.failsafe_current_a
failsafe timeout        | holding | 2002 |  1 | s       | settings.failsafe_timeout_s
"""  # noqa: E501
DETAILS_TABLE = """
charge point id         | input   |  130 | 50 | text    | details.chargepoint_id
brand                   | input   |  190 | 10 | text    | details.brand
model                   | input   |  210 |  5 | text    | details.model
firmware version        | input   |  230 | 50 | text    | details.firmware
date                    | input   |  290 |  2 | yymmdd  | details.clock:clock
time                    | input   |  294 |  2 | hhmmss  |
phase switch            | holding |  405 |  1 | code    | details.phase_switch:phases
"""
# More than this, no such charger can have. Seen: over 250 kW from a 22 kW box.
MOST = {"mA": 65_000, "A": 65, "V": 1000, "W": 100_000}

# Names by code, and faults by bit (spec).
NAMES_TABLE = """
phases      | 1-phase 3-phase
chargepoint | Available Preparing Charging SuspendedEVSE SuspendedEV Finishing Reserved Unavailable Faulted
charging    | NotCharging Charging
equipment   | Initializing Running Fault Disabled Updating
cable       | CableNotConnected CableConnected_NoVehicle CableConnected_Vehicle CableConnected_VehicleLocked
"""
NAMES = {kind: names.split() for kind, names in _rows(NAMES_TABLE)}
FAULTS_TABLE = """
Contactors Welded Error, Contactors Response Error, Interlock Lock Error, Interlock Unlock Error, PP Error,
CP Diode Error, CP Short Error, Overvoltage Phase 1, Overvoltage Phase 2, Overvoltage Phase 3,
Undervoltage Phase 1, Undervoltage Phase 2, Undervoltage Phase 3, Overcurrent Phase 1, Overcurrent Phase 2,
Overcurrent Phase 3, Residual Current Error, Protective Earth Error, RFID Error, Interlock Permanent Error,
OCP Permanent Error, Load Balance Module 1 Error, Load Balance Module 2 Error, Load Balance Module 3 Error,
HMI External RFID Reader Error, HMI External MID Communication Error, RCD Device Error, Installation Error
"""
FAULTS = [name.strip() for name in FAULTS_TABLE.split(",")]

# A metric a row: name, key of the reading, and help. In a key, # stands for the phases 1, 2 and 3;
# in a help text, a name in braces for the codes and their names.
METRICS = """
vestel_max_power_watts             | identity.max_power_w          | Installed power in watts.
vestel_phases                      | identity.phases               | Number of phases, 1 or 3.
vestel_chargepoint_state           | states.chargepoint.code       | State: {chargepoint}.
vestel_charging_state              | states.charging.code          | State: {charging}.
vestel_equipment_state             | states.equipment.code         | State: {equipment}.
vestel_cable_state                 | states.cable.code             | State: {cable}.
vestel_fault_code                  | states.fault_code             | Active faults as a bit field.
vestel_current_amperes             | electrical.current.l#_a       | Current per phase in amperes.
vestel_voltage_volts               | electrical.voltage.l#_v       | Voltage per phase in volts.
vestel_power_watts                 | electrical.power.l#_w         | Active power per phase in watts.
vestel_total_power_watts           | electrical.power.total_w      | Active power in watts.
vestel_meter_reading_kwh           | electrical.meter_reading_kwh  | Energy meter in kilowatt hours.
vestel_active_phases               | electrical.active_phases      | Number of phases that carry 1 A or more.
vestel_evse_min_current_amperes    | limits.evse_min_a             | EVSE minimum current in amperes.
vestel_evse_max_current_amperes    | limits.evse_max_a             | EVSE maximum current in amperes.
vestel_cable_max_current_amperes   | limits.cable_max_a            | Cable maximum current in amperes.
vestel_session_max_current_amperes | limits.session_max_a          | Session maximum current in amperes.
vestel_session_energy_wh           | session.energy_wh             | Energy of the session in watt hours.
vestel_session_duration_seconds    | session.duration_s            | Duration of the session in seconds.
vestel_dynamic_current_amperes     | settings.dynamic_current_a    | Dynamic charging current in amperes.
vestel_failsafe_current_amperes    | settings.failsafe_current_a   | Failsafe current in amperes.
vestel_failsafe_timeout_seconds    | settings.failsafe_timeout_s   | Failsafe timeout in seconds.
"""
# What --listen tells of itself: name, type, field of Snapshot, and help.
OWN_METRICS = """
vestel_reading_seconds             | gauge   | seconds     | How long the newest reading took in seconds.
vestel_readings_total              | counter | readings    | Readings made since the start.
vestel_failed_readings_total       | counter | failed      | Readings that failed since the start.
vestel_connections_total           | counter | connections | Connections to the charger since the start.
"""

# What people see; # as above. A text whose first value is missing becomes n/a. A section
# whose values are not part of the reading is left out.
HUMAN = """
== Identity ==
Serial:             {identity.serial}
Max Power:          {identity.max_power_w} W ({identity.max_power_kw:.2f} kW)
Phases:             {identity.phases}
== States ==
Chargepoint State:  {states.chargepoint.name}
Charging State:     {states.charging.name}
Equipment State:    {states.equipment.name}
Cable State:        {states.cable.name}
Fault Code:         {states.fault_code}{states.faults}
== Electrical ==
Current L1 L2 L3:   {electrical.current.l#_a:.3f} A
Voltage L1 L2 L3:   {electrical.voltage.l#_v} V
Power L1 L2 L3:     {electrical.power.l#_w} W
Total Power:        {electrical.power.total_w} W ({electrical.power.total_kw:.2f} kW)
Meter Reading:      {electrical.meter_reading_kwh:.1f} kWh
Active Phases:      {electrical.active_phases}
== Session ==
Energy:             {session.energy_wh} Wh ({session.energy_kwh:.3f} kWh)
Duration:           {session.duration_s} s ({session.duration})
Started:            {session.start_time}
Ended:              {session.end_time}
== Current Limits ==
EVSE Minimum:       {limits.evse_min_a} A
EVSE Maximum:       {limits.evse_max_a} A
Cable Maximum:      {limits.cable_max_a} A
Session Maximum:    {limits.session_max_a} A
Dynamic Current:    {settings.dynamic_current_a} A
Failsafe Current:   {settings.failsafe_current_a} A
Failsafe Timeout:   {settings.failsafe_timeout_s} s
== Details ==
Chargepoint ID:     {details.chargepoint_id}
Brand:              {details.brand}
Model:              {details.model}
Firmware:           {details.firmware}
Clock:              {details.clock}
Phase Switch:       {details.phase_switch}
"""


# --- The registers, and the ranges that are asked for with one request --------------------------


def _name(names: Sequence[str], code: int) -> str:
    return names[code] if code < len(names) else "Unknown"


def _fault_names(code: int) -> list[str]:
    names = [*FAULTS, *(f"Unknown fault (bit {bit})" for bit in range(len(FAULTS), 32))]
    return [name for bit, name in enumerate(names) if code >> bit & 1]


def _time_of_day(hhmmss: int) -> str | None:
    """ISO time; None for 0, which stands for none (spec), and for what is no time of day."""
    hours, minutes, seconds = hhmmss // 10000, hhmmss // 100 % 100, hhmmss % 100
    valid = hhmmss and hours < 24 and minutes < 60 and seconds < 60
    return f"{hours:02}:{minutes:02}:{seconds:02}" if valid else None


def _clock(date_and_time: tuple[int, int]) -> str | None:
    """ISO date and time of the charger's own clock, which knows no zone; None for neither."""
    yymmdd, hhmmss = date_and_time
    date = 2000 + yymmdd // 10000, yymmdd // 100 % 100, yymmdd % 100
    try:
        clock = datetime(*date, hhmmss // 10000, hhmmss // 100 % 100, hhmmss % 100)
    except ValueError:
        return None
    return clock.isoformat() if clock.year < 2100 else None


CONVERSIONS: dict[str, Conversion] = {
    "": lambda value: value,
    "per_10": lambda value: value / 10,
    "per_1000": lambda value: value / 1000,
    "kilo": lambda value: round(value / 1000, 2),
    "faults": _fault_names,
    "time_of_day": _time_of_day,
    "clock": _clock,
    **{kind: partial(_name, names) for kind, names in NAMES.items()},
}
INPUT, HOLDING = "input", "holding"


class Register(NamedTuple):
    """A value of the charger: `words` of 16 bits from `address` on, and what makes `keys` of it."""

    label: str
    bank: str
    address: int
    words: int
    unit: str
    keys: Mapping[str, Conversion]

    @property
    def addresses(self) -> range:
        """The addresses of its words."""
        return range(self.address, self.address + self.words)

    @property
    def key(self) -> tuple[str, int]:
        """Where its first word is found."""
        return self.bank, self.address


def _registers(table: str) -> list[Register]:
    registers = []
    for label, bank, address, words, unit, keys in _rows(table):
        made = {key: CONVERSIONS[how] for key, _, how in (key.partition(":") for key in keys.split())}
        registers.append(Register(label, bank, int(address), int(words), unit, made))
    return registers


CORE, DETAILS = _registers(CORE_TABLE), _registers(DETAILS_TABLE)
REGISTERS = {register.label: register for register in CORE + DETAILS}
DYNAMIC_CURRENT, FAILSAFE_CURRENT = REGISTERS["dynamic current"], REGISTERS["failsafe current"]
ALIVE = Register("alive sign", HOLDING, 6000, 1, "", {})  # written, never read

# Seen: holes of two registers in a documented range answer 0. No request spans a longer one.
LONGEST_HOLE = 2


def _ranges(registers: Iterable[Register]) -> list[list[Register]]:
    ranges: list[list[Register]] = []
    bank, end = "", 0
    for register in sorted(registers, key=lambda r: (r.bank != INPUT, r.address)):
        if register.bank != bank or register.address > end + LONGEST_HOLE:
            ranges.append([])
        ranges[-1].append(register)
        bank, end = register.bank, register.addresses.stop
    return ranges


CORE_RANGES = _ranges(CORE)  # 7
DETAIL_RANGES = _ranges(DETAILS)  # 6
CLOCK_RANGE = next(registers for registers in DETAIL_RANGES if REGISTERS["time"] in registers)
# What identifies the charger; the other values change.
IDENTITY = {(r.bank, address) for r in CORE + DETAILS if r.unit == "text" for address in r.addresses}


def _addresses(registers: Sequence[Register]) -> str:
    first, last = registers[0].address, registers[-1].addresses[-1]
    return f"{first}" if first == last else f"{first}-{last}"


def _span(registers: Sequence[Register]) -> str:
    """As messages name it: `input registers 1000-1037`, `holding register 5004`."""
    addresses = _addresses(registers)
    return f"{registers[0].bank} register{'s' * ('-' in addresses)} {addresses}"


# --- The charger ------------------------------------------------------------------------------


class Problem(Exception):
    """What ends the program: a line for the user, and the exit code."""

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


class ChargerError(Problem):
    """The charger did not do as asked.

    `hint` is what the user may try, `setup` the same where nothing was ever answered; `code` the Modbus
    exception, 0 where there was no usable answer; `lost` is set where no connection could be had.
    """

    def __init__(
        self, message: str, hint: str = "", code: int = 0, lost: bool = False, setup: str = ""
    ) -> None:
        super().__init__(message)
        self.hint, self.setup, self.code, self.lost = hint, setup, code, lost

    def advice(self, answered: bool) -> str:
        """The message, and what the user may try."""
        return "; ".join(filter(None, (str(self), "" if answered else self.setup, self.hint)))


NO_SUCH_ADDRESS = 2
NOT_HERE = (1, 2, 3)  # exceptions of firmware that lacks something of what was asked for
ACKNOWLEDGE, BUSY = 5, 6
GATEWAY = (10, 11)
# fmt: off
EXCEPTIONS = {  # Modbus Application Protocol 1.1b3
    1: "illegal function", 2: "illegal data address", 3: "illegal data value", 4: "device failure",
    5: "acknowledge: still working on it", 6: "device busy", 7: "negative acknowledge",
    8: "memory parity error", 10: "gateway path unavailable", 11: "gateway target does not respond",
}
# fmt: on
BUSY_RETRIES = 5
SIGN_EVERY = 1.5  # s, until the failsafe timeout is known: no box looks more often than every 3 s (spec)
LONGEST_WAIT = 60.0  # s between two tries of what does not work
HISTORY = 3600  # s of powers are remembered
OTHER_MASTER = (
    "another master (evcc, Home Assistant, ...) may be connected, "
    "or the failsafe timeout of the last one is not over yet"
)


class Target(NamedTuple):
    """Where the charger is, and how it is spoken to; `base` 1 asks for register N as N-1."""

    ip: str
    port: int = 502
    unit: int = 1
    base: int = 0
    timeout: float = 2.0  # s

    def __str__(self) -> str:
        return f"{_bracketed(self.ip)}:{self.port}"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def modbus(target: Target, trace: Say) -> Callable[[], Connection]:
    """Return what connects to a charger. Nothing else in this file knows pymodbus.

    pymodbus builds the requests and decodes the replies; the bytes in between pass through here, since some
    versions from 3.0 to 3.16 accept a reply that is short, late, or of another transaction: a wrong number.
    Raises Problem where this Python has no pymodbus 3; what is returned raises ChargerError.
    """
    try:
        import logging
        import socket

        from pymodbus.client import ModbusTcpClient
    except Exception as error:  # one too old for this Python fails in ways of its own
        python = sys.executable or "python3"
        what = f"pymodbus 3 is missing in {python} (Python {sys.version.split()[0]}): {error}"
        raise Problem(f"{what}; install it with: {python} -m pip install 'pymodbus>=3.0,<4'") from None
    logging.getLogger("pymodbus").setLevel(logging.CRITICAL + 1)
    arguments = ModbusTcpClient.read_input_registers.__code__.co_varnames
    unit = {"device_id" if "device_id" in arguments else "slave": target.unit}  # renamed in 3.10
    other_unit = f"try --unit {1 if target.unit == 255 else 255}"
    other_base = f"--base {1 - target.base}"

    class Client(ModbusTcpClient):
        """One connection, which lets through nothing but the whole reply to the last request."""

        def __init__(self) -> None:
            super().__init__(target.ip, port=target.port, timeout=target.timeout)
            self._request = self._reply = b""
            self._deadline = 0.0
            try:
                # Not pymodbus's connect(), which keeps the reason of a failure to itself.
                addresses = socket.getaddrinfo(target.ip, target.port, type=socket.SOCK_STREAM)
                share = target.timeout / len(addresses)  # of a name that has several
                self._wire = socket.create_connection((target.ip, target.port), share)
            except (ConnectionResetError, ConnectionAbortedError) as error:
                raise broken(error) from None  # accepted, and closed before we noticed
            except (OSError, UnicodeError) as error:
                why = why_unreachable(error, target.timeout)
                raise ChargerError(f"Cannot connect to {target}: {why}", lost=True) from None
            self.socket = self._wire
            trace(f"{target}: connected")

        def send(self, request: bytes, addr: Any = None) -> int:  # noqa: ARG002
            trace(f"{target}: request {request.hex(' ')}")
            self._request, self._reply = request, b""
            self._deadline = time.monotonic() + target.timeout
            try:
                self._wire.settimeout(target.timeout)
                self._wire.sendall(request)
            except OSError as error:
                raise broken(error) from None
            return len(request)

        def recv(self, size: int | None) -> bytes:
            self._reply = self._reply or self._whole_reply()
            part = self._reply[:size]
            self._reply = self._reply[len(part) :]
            return part

        def _whole_reply(self) -> bytes:
            got = bytearray()
            try:
                self._receive_until(got, 9)
                self._receive_until(got, reply_size(self._request, bytes(got)))
            except OSError as error:
                raise broken(error) from None
            finally:
                trace(f"{target}: reply {got.hex(' ') or 'none'}")
            return bytes(got)

        def _receive_until(self, got: bytearray, size: int) -> None:
            while len(got) < size:
                left = self._deadline - time.monotonic()
                if left <= 0:
                    raise socket.timeout
                self._wire.settimeout(left)
                chunk = self._wire.recv(size - len(got))
                if not chunk:
                    raise ConnectionResetError
                got += chunk

        def read_words(self, bank: str, address: int, count: int) -> list[int]:
            read = self.read_input_registers if bank == INPUT else self.read_holding_registers
            words: list[int] = checked(read, address - target.base, count=count).registers
            if len(words) != count:
                raise ChargerError(f"{len(words)} registers instead of {count}")
            return words

        def write_word(self, address: int, value: int) -> None:
            checked(self.write_register, address - target.base, value=value)

    def checked(call: Callable[..., Any], address: int, **arguments: int) -> Any:
        try:
            response = call(address, **arguments, **unit)
        except ChargerError:
            raise
        except Exception as error:  # whatever a later pymodbus raises: no traceback
            raise ChargerError(f"pymodbus failed: {error!r}") from None
        if not response.isError():
            return response
        code = getattr(response, "exception_code", 0)
        if not code:  # how pymodbus 3.0 to 3.6 tell that they cannot decode it
            raise ChargerError("a malformed reply")
        meaning = EXCEPTIONS.get(code, "not in the Modbus specification")
        hint = "try again later" if code in (4, ACKNOWLEDGE, BUSY) else ""
        setup = other_unit if code in (*NOT_HERE, *GATEWAY) else ""
        setup += f" or {other_base}" if code == NO_SUCH_ADDRESS else ""
        raise ChargerError(f"exception {code} ({meaning})", hint, code, setup=setup)

    def broken(error: OSError) -> ChargerError:
        if isinstance(error, (socket.timeout, TimeoutError)):
            setup = f"{other_unit} or a longer --timeout"
            return ChargerError(f"no reply within {target.timeout:g} s", OTHER_MASTER, setup=setup)
        return ChargerError("the charger closed the connection", OTHER_MASTER)

    return Client


def why_unreachable(error: Exception, timeout: float) -> str:
    """Say why there is no connection, and what may be tried."""
    import socket

    if isinstance(error, ConnectionRefusedError):
        web_page = "or Modbus TCP is not enabled in the charger's web page"
        return f"connection refused; check the address and the port, {web_page}, or {OTHER_MASTER}"
    if isinstance(error, (socket.timeout, TimeoutError)):
        what = "check the address, that the charger is on, and that no firewall is in between"
        return f"no answer within {timeout:g} s; {what}"
    if isinstance(error, (socket.gaierror, UnicodeError)):
        return "no such host is known; check --ip, or ip in the configuration file"
    return f"{getattr(error, 'strerror', None) or error}; check the address and the network"


def reply_size(request: bytes, head: bytes) -> int:
    """Return the length (bytes) of the reply that begins with `head`, its first 9 bytes.

    Raises ChargerError where that is no reply to this request (Modbus Messaging on TCP/IP 1.0b).
    """
    function, refused = head[7] & 0x7F, head[7] & 0x80
    writes = function == 6
    data = 2 * int.from_bytes(request[10:12], "big")  # bytes of the registers that are read
    size = 9 if refused else 12 if writes else 9 + data
    if head[2:4] != b"\0\0":
        raise ChargerError("a reply that is no Modbus", "check the address and --port")
    if head[:2] != request[:2] or function != request[7]:
        raise ChargerError("a reply to another request")
    if head[6] != request[6]:
        raise ChargerError(f"a reply of unit {head[6]}", f"try --unit {head[6]}")
    if int.from_bytes(head[4:6], "big") != size - 6 or not (refused or writes or head[8] == data):
        raise ChargerError("a reply of the wrong length")
    return size


class Charger:
    """The charger, over one connection at a time.

    One on which anything failed is finished: a late reply would be taken for the answer to the next request.
    Who stays connected sets `sign_every`: then the alive sign comes first on each connection, and between
    two requests when it is due; and attempts to connect are at least a second apart.
    """

    def __init__(self, open_connection: Callable[[], Connection], name: str, timeout: float) -> None:
        self.name = name
        self.connections = 0  # so far
        self.unconfirmed = ""  # what may have been written, until the user is told what came of it
        self.sign_every: float | None = None  # s; None: the alive sign is left to others
        self.sign_due = -math.inf  # monotonic, as all times here
        self.sign_failure: ChargerError | None = None  # of the last one
        self._sign_wait = 0.0  # s until one that failed is given again
        self._open = open_connection
        self._connection: Connection | None = None
        self._tried_at = -math.inf  # to connect
        self._patience = timeout  # s for a busy charger
        self._pause = min(0.25, timeout / 10)  # s before it is asked again

    def close(self) -> None:
        """End the connection, if there is one."""
        if self._connection is not None:
            self._connection.close()
        self._connection = None
        if not self.sign_failure:
            self.sign_due = -math.inf  # first on the next one

    def start_over(self) -> None:
        """End the connection, and forget what the charger made of the alive sign."""
        self.sign_failure, self._sign_wait = None, 0.0
        self.close()

    def read(self, bank: str, address: int, count: int) -> list[int]:
        """Read `count` registers; once more, on a new connection, where that fails. Raises ChargerError."""
        try:
            return self._read(bank, address, count)
        except ChargerError as error:
            if error.code or error.lost:
                raise
        return self._read(bank, address, count)

    def _read(self, bank: str, address: int, count: int) -> list[int]:
        words: list[int] = self._patiently(lambda it: it.read_words(bank, address, count), ACKNOWLEDGE, BUSY)
        return words

    def write(self, register: Register, value: int) -> None:
        """Write one register with function 6, once.

        Raises ChargerError: refused where it has a code; without one, it may have been written.
        """
        try:
            self._patiently(lambda it: it.write_word(register.address, value), BUSY)
        except ChargerError as error:
            if error.code != ACKNOWLEDGE:
                raise
            time.sleep(self._pause)

    def attend(self) -> None:
        """Give the alive sign where it is due, as a master that stays connected has to (spec).

        One without a reply is given again at once, on a new connection; one that fails at growing intervals,
        as it may cost the connection each time. Raises ChargerError where none can be had.
        """
        if self.sign_every is None or time.monotonic() < self.sign_due:
            return
        first = time.monotonic()
        for again in (True, False):
            try:
                self._connect()
                begun = time.monotonic()
                self._once(lambda it: it.write_word(ALIVE.address, 1))
            except ChargerError as error:
                if error.lost:
                    raise
                if error.code or not again:
                    now = time.monotonic()  # a silent charger must not spend all its time on the sign
                    self._sign_wait = min(LONGEST_WAIT, self._sign_wait * 2 or max(2.0, 2 * (now - first)))
                    self.sign_failure, self.sign_due = error, now + self._sign_wait
                    return
            else:
                self.sign_failure, self._sign_wait = None, 0.0
                self.sign_due = begun + self.sign_every
                return

    def _connect(self) -> Connection:
        if self._connection is None:
            if self.sign_every is not None:
                time.sleep(max(0.0, self._tried_at + 1 - time.monotonic()))
            self._tried_at = time.monotonic()
            self._connection = self._open()
            self.connections += 1
            self.sign_every = self.sign_every and SIGN_EVERY  # it may have another failsafe timeout now
        return self._connection

    def _once(self, request: Callable[[Connection], Any]) -> Any:
        try:
            return request(self._connect())
        except ChargerError as error:
            if not error.code:
                self.close()
            raise

    def _patiently(self, request: Callable[[Connection], Any], *again: int) -> Any:
        retries, give_up = BUSY_RETRIES, time.monotonic() + self._patience
        while True:
            self.attend()
            try:
                return self._once(request)
            except ChargerError as error:
                if error.code not in again or not retries or time.monotonic() > give_up:
                    raise
            retries -= 1
            time.sleep(self._pause)


class Answers(NamedTuple):
    """What came of some requests: the words, and by label why a register could not be read."""

    words: Words
    failures: dict[str, ChargerError]


def _merged(parts: Iterable[Answers]) -> Answers:
    words: Words = {}
    failures: dict[str, ChargerError] = {}
    for part in parts:
        words.update(part.words)
        failures.update(part.failures)
    return Answers(words, failures)


def _failed(registers: Iterable[Register], error: ChargerError) -> Answers:
    return Answers({}, {register.label: error for register in registers})


def read_range(charger: Charger, registers: Sequence[Register]) -> Answers:
    """Read with one request, or one by one where the firmware has holes. Raises what is `lost`."""
    bank, first = registers[0].bank, registers[0].address
    try:
        values = charger.read(bank, first, registers[-1].addresses.stop - first)
    except ChargerError as error:
        if error.lost:
            raise
        if error.code in NOT_HERE and len(registers) > 1:
            return _merged([read_range(charger, [register]) for register in registers])
        return _failed(registers, error)
    return Answers({(bank, address): value for address, value in enumerate(values, first)}, {})


def read_core(charger: Charger) -> Answers:
    """Read the core ranges. Raises ChargerError where no connection can be had, or nothing can be read.

    Two without a reply at the start are enough: a charger is silent to a wrong unit id.
    """
    parts: list[Answers] = []
    for registers in CORE_RANGES:
        parts.append(read_range(charger, registers))
        answers = _merged(parts)
        errors = [*answers.failures.values()]
        hopeless = len(parts) == len(CORE_RANGES) or (len(parts) == 2 and not any(e.code for e in errors))
        if hopeless and not answers.words:
            raise ChargerError(f"Cannot read {charger.name}: {errors[-1].advice(answered=False)}")
    return answers


def read_details(charger: Charger, ranges: Iterable[Sequence[Register]]) -> list[Answers]:
    """Read ranges of --details; where no connection can be had, the rest of them has failed.

    They come last. Older firmware knows none of them, and seen: one did not answer for 230-279 alone.
    """
    answers: list[Answers] = []
    lost: ChargerError | None = None
    for registers in ranges:
        try:
            if lost:
                raise lost
            answers.append(read_range(charger, registers))
        except ChargerError as error:
            lost = error
            answers.append(_failed(registers, error))
    return answers


def warnings_of(failures: Mapping[str, ChargerError]) -> Warnings:
    """A line for each range with a register that could not be read."""
    warnings: Warnings = {}
    for registers in CORE_RANGES + DETAIL_RANGES:
        failed = [register for register in registers if register.label in failures]
        if failed:
            numbers = ", ".join(_addresses([register]) for register in failed)
            reasons = "; ".join({str(failures[register.label]): "" for register in failed})
            missing = f"{numbers} of " if len(failed) < len(registers) else ""
            warnings[_span(registers)] = f"Cannot read {missing}{_span(registers)}: {reasons}"
    return warnings


# --- Setting currents -------------------------------------------------------------------------

LEAST, MOST_OF_EVSE = REGISTERS["EVSE minimum current"], REGISTERS["EVSE maximum current"]
LIMITS_RANGE = next(registers for registers in CORE_RANGES if LEAST in registers)


def limits(answers: Answers) -> tuple[int, int]:
    """The EVSE's own minimum and maximum in A; 6 and 32 where it tells none that can be.

    Raises ChargerError where they could not be read though the firmware may know them: a
    current above the charger's maximum is the worst that this program can do.
    """
    for register in (LEAST, MOST_OF_EVSE):
        error = answers.failures.get(register.label)
        if error and error.code not in NOT_HERE:
            why = error.advice(answered=bool(answers.words))
            raise ChargerError(f"Cannot read the charger's limits ({_span(LIMITS_RANGE)}): {why}")
    high = _value(MOST_OF_EVSE, answers.words, {}) or 32
    low = _value(LEAST, answers.words, {}) or min(6, high)
    return (low, high) if low <= high else (6, 32)


def out_of_range(register: Register, amps: int, answers: Answers) -> str:
    """Say what is wrong with a current; nothing where the charger takes it. Raises as limits() does."""
    low, high = limits(answers)
    if not amps or low <= amps <= high:
        return ""
    stays = f", it stays {answers.words[register.key]} A" if register.key in answers.words else ""
    takes = f"this charger takes 0 (pauses charging) or {low} to {high} A"
    return f"{register.label} {amps} A is out of range: {takes}; nothing was written{stays}"


def set_current(charger: Charger, register: Register, amps: int, before: int | None) -> Written:
    """Write a current (A) and read it back: only what is read back counts.

    Return what the charger shows now (A; None: unknown), and what failed, if it did. Whoever has told
    the user of it clears `charger.unconfirmed`.
    """
    was = f"it was {_amperes(before)}"
    charger.unconfirmed = f"{register.label} {amps} A may have been written ({was})"
    outcome, refused = f"{amps} A was acknowledged", False
    try:
        charger.write(register, amps)
    except ChargerError as error:
        refused = bool(error.code)
        outcome = f"{amps} A was {'refused' if refused else 'sent'}: {error}"
        if error.lost:
            charger.unconfirmed = ""
            return None, ChargerError(f"{register.label}: not written: {error}; {was}", lost=True)
    try:
        (now,) = charger.read(register.bank, register.address, 1)
    except ChargerError as error:
        maybe = "" if refused else f" and may be {amps} A now"
        failure = f"{register.label}: {outcome}; reading back failed: {error}; {was}{maybe}"
        return None, ChargerError(failure, lost=error.lost)
    if refused:
        stands = f"it stays {now} A" if now == before else f"{was} and is {now} A now"
        return now, ChargerError(f"{register.label}: {outcome}; {stands}")
    if now == amps:
        return now, None
    # Seen: one firmware takes a 0, pauses charging, and reads back 6 (evcc 10527); without a
    # vehicle 0 becomes 6 (nymea).
    pauses = (
        "; some firmware pauses charging and shows its minimum: the charging state tells; without a "
        "vehicle 0 becomes the minimum, so that a vehicle plugged in later charges"
    )
    both = f"{outcome}, but the charger shows {now} A{'' if amps else pauses}"
    return now, ChargerError(f"{register.label}: {both}")


def _amperes(current: int | None) -> str:
    return "unknown" if current is None else f"{current} A"


def change(register: Register, before: int | None, amps: int) -> str:
    """What a write did, as a line for the user."""
    what = f"stays {amps} A" if before == amps else f"{_amperes(before)} -> {amps} A"
    return f"{register.label.capitalize()}: {what}"


def set_currents(charger: Charger, currents: Currents, say: Say) -> bool:
    """Set the currents (A) in this order, and say what came of each; return whether all are confirmed.

    All are checked before the first is written: 0 pauses charging, else from the charger's own
    minimum to its maximum. Each stands for itself, as long as the charger can be reached.
    Raises Problem where nothing was written.
    """
    try:
        answers = read_range(charger, LIMITS_RANGE)
        limits(answers)
        for register, _ in currents:
            answers = _merged([answers, read_range(charger, [register])])
            error = answers.failures.get(register.label)
            if error and error.code in (0, *NOT_HERE):  # what has no such register here may have it beside
                raise ChargerError(f"Cannot read {_span([register])}: {error.advice(answered=False)}")
    except ChargerError as error:
        raise Problem(f"failed writing current: {error}; nothing was written", 3) from None
    for problem in filter(None, (out_of_range(register, amps, answers) for register, amps in currents)):
        raise Problem(f"failed writing current: {problem}", 3)
    confirmed, failure = True, None
    for register, amps in currents:
        before = answers.words.get(register.key)
        if failure and failure.lost:
            gone = f"not written, the charger cannot be reached any more; it was {_amperes(before)}"
            failure = ChargerError(f"{register.label}: {gone}", lost=True)
        else:
            _, failure = set_current(charger, register, amps, before)
        confirmed = confirmed and not failure
        say(f"ERROR: failed writing current: {failure}" if failure else change(register, before, amps))
        charger.unconfirmed = ""
    return confirmed


# --- Decoding: words to the reading -----------------------------------------------------------


def decode(words: Words, began: datetime | None, details: bool) -> tuple[Reading, Warnings]:
    """Make the reading that began then out of the words.

    What is missing in the words, and what no such charger can have, becomes None; the latter
    has a warning.
    """
    reading: Reading = {"timestamp": began and began.isoformat(timespec="seconds")}
    warnings: Warnings = {}
    registers = CORE + DETAILS if details else CORE
    values = {register.label: _value(register, words, warnings) for register in registers}
    clock = values.get("date"), values.get("time")
    values["date"] = None if None in clock else clock
    for register in registers:
        value = values[register.label]
        for key, convert in register.keys.items():
            shown = None if value is None else convert(value)
            if shown is None and value:
                both = [register, REGISTERS["time"]] if isinstance(value, tuple) else [register]
                what = f"{' and '.join(r.label for r in both)} ({_span(both)})"
                warnings[key] = f"{what}: {value} is no such time, left out"
            *parents, last = key.split(".")
            place = reading
            for parent in parents:
                place = place.setdefault(parent, {})
            place[last] = shown
    currents = reading["electrical"]["current"].values()
    active = None if None in currents else sum(current >= 1 for current in currents)
    reading["electrical"]["active_phases"] = active
    return reading, warnings


def _value(register: Register, words: Words, warnings: Warnings) -> Any:
    """The text or number of a register; None where it is missing or impossible."""
    held = [words.get((register.bank, address), -1) for address in register.addresses]
    if -1 in held:
        return None
    if register.unit == "text":
        return _text(held)
    number = held[-1] if register.words == 1 else held[0] << 16 | held[1]
    if number > MOST.get(register.unit, number):
        what = f"{register.label} ({_span([register])}) is {number} {register.unit}"
        warnings[register.label] = f"{what}: no such charger can have that, left out"
        return None
    return number


def _text(words: Sequence[int]) -> str:
    """Text of either layout up to the first 0, without what cannot be printed (it might steer a terminal).

    Trailing blanks go, too.

    Seen: one character to a register (UTF-16BE), and in related firmware two bytes to one.
    """
    held = [*takewhile(bool, words)]
    packed = all(word > 0xFF for word in held) and any(word > 0x1FFF for word in held)
    data = b"".join(word.to_bytes(2, "big") for word in held)
    text = data.decode("utf-8" if packed else "utf-16-be", "ignore").partition("\0")[0]
    return "".join(character for character in text if character.isprintable()).rstrip()


# --- Formatters: the reading to text ----------------------------------------------------------


ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})  # of Prometheus, in label values
FIELD = re.compile(r"{([\w.]+):?(.*?)}")  # of HUMAN: key, format
STYLES = {"Charging": "good", "Faulted": "bad", "Fault": "bad"}
PAINT = {"good": "\x1b[32m", "bad": "\x1b[1;31m", "strong": "\x1b[1m"}
# What one wants to know first, laid out as HUMAN.
GLANCE = """
== Glance ==
State:              {states.chargepoint.name}{states.faults}
Power:              {electrical.power.total_kw:.2f} kW
Session Energy:     {session.energy_kwh:.3f} kWh
Session Duration:   {session.duration}
Dynamic Current:    {settings.dynamic_current_a} A
"""


def _flat(reading: Reading, above: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in reading.items():
        flat.update(_flat(value, f"{above}{key}.") if isinstance(value, dict) else {above + key: value})
    return flat


def _phases(pattern: str) -> list[str]:
    """A pattern with a # stands for three: of phase 1, 2 and 3."""
    return [pattern.replace("#", n) for n in "123"] if "#" in pattern else [pattern]


def format_json(reading: Reading, indent: int | None = None) -> str:
    """The reading as one line of JSON, or indented."""
    import json

    return json.dumps(reading, indent=indent) + "\n"


def format_prometheus(reading: Reading | None, own: Snapshot | None = None) -> str:
    """Exposition format 0.0.4 of a reading (None: the charger is down), and of --listen itself (`own`)."""
    flat = _flat(reading or {})
    flat["identity.phases"] = {"1-phase": 1, "3-phase": 3}.get(flat.get("identity.phases") or "")
    serial = {"serial": flat.get("identity.serial") or ""}
    metrics = [_metric("vestel_up", "1 if the charger answered.", [({}, int(bool(reading)))])]
    info = {key: flat.get(f"details.{key}") or "" for key in ("chargepoint_id", "brand", "model", "firmware")}
    if any(info.values()):
        metrics.append(_metric("vestel_info", "What the charger is.", [({**serial, **info}, 1)]))
    codes = {kind: ", ".join(f"{n} {name}" for n, name in enumerate(names)) for kind, names in NAMES.items()}
    for name, pattern, text in _rows(METRICS):
        labels = [{**serial, "phase": n} for n in "123"] if "#" in pattern else [serial]
        samples = zip(labels, map(flat.get, _phases(pattern)))
        metrics.append(_metric(name, text.format(**codes), samples))
    code = flat.get("states.fault_code")
    if code is not None:
        bits = [({**serial, "bit": str(n), "fault": name}, code >> n & 1) for n, name in enumerate(FAULTS)]
        metrics.append(_metric("vestel_fault", "1 if the fault is active, else 0.", bits))
    for name, kind, field, text in _rows(OWN_METRICS) if own else ():
        value = getattr(own, field) if reading or kind == "counter" else None
        metrics.append(_metric(name, text, [({}, value)], kind))
    return "\n".join(filter(None, metrics))


def _metric(name: str, text: str, samples: Iterable[tuple[dict[str, str], Any]], kind: str = "gauge") -> str:
    lines = ""
    for labels, value in samples:
        pairs = ",".join(f'{label}="{held.translate(ESCAPES)}"' for label, held in labels.items())
        if value is not None:
            lines += f"{name}{{{pairs}}} {value}\n" if pairs else f"{name} {value}\n"
    return lines and f"# HELP {name} {text}\n# TYPE {name} {kind}\n{lines}"


class Row(NamedTuple):
    """A value as people see it: three cells where it has one for each phase."""

    label: str
    cells: list[str]
    text: str  # the cells side by side
    style: str  # of PAINT where it stands out, or ""


def sections(reading: Reading, layout: str = HUMAN, most: int = 32) -> dict[str, list[Row]]:
    """What people see of a reading: section -> rows, `n/a` for None, and at most so many faults by name."""
    flat = _flat(reading)
    seconds, faults = flat["session.duration_s"], flat["states.faults"] or []
    flat["session.duration"] = None if seconds is None else timedelta(seconds=seconds)
    named = faults[:most] + [f"and {len(faults) - most} more"] * (len(faults) > most)
    flat["states.faults"] = f" ({', '.join(named)})" if faults else ""
    if "details" not in reading:
        layout = layout.partition("== Details ==")[0]  # they come last
    shown: dict[str, list[Row]] = {}
    for line in layout.strip().splitlines():
        label, _, pattern = line.partition(":")
        if not pattern:
            rows = shown.setdefault(label.strip("= "), [])
            continue
        cells = [_fill(cell, flat) for cell in _phases(pattern.strip())]
        style = "bad" if faults and "{states.faults}" in pattern else STYLES.get(cells[0], "")
        rows.append(Row(label, cells, "".join(f"{cell:10}" for cell in cells).rstrip(), style))
    return shown


def _fill(pattern: str, flat: dict[str, Any]) -> str:
    first, *_ = FIELD.finditer(pattern)
    if flat[first[1]] in (None, ""):
        return "n/a"
    return FIELD.sub(lambda field: format(flat[field[1]], field[2]), pattern)


def _paint(text: str, style: str) -> str:
    return f"{PAINT[style]}{text}\x1b[0m" if style and text else text


def format_human(reading: Reading, colour: bool = False) -> str:
    """The reading in sections of labelled values, for a terminal."""
    blocks = []
    for title, rows in sections(reading).items():
        lines = [f"{row.label + ':':20} {_paint(row.text, row.style if colour else '')}\n" for row in rows]
        blocks.append("".join([f"== {title} ==\n", *lines]))
    return "\n".join(blocks)


def _local(text: str) -> str:
    """The text with its times in local time."""
    times = r"\d{4}-\d\d-\d\dT[\d:]+\+00:00"
    return re.sub(times, lambda at: str(datetime.fromisoformat(at[0]).astimezone())[:19], text)


def _history(powers: Sequence[tuple[float, int | None]], now: float, count: int) -> list[int | None]:
    """The greatest power (W) in each of so many parts of the last hour; None without a reading."""
    beats: dict[int, list[int | None]] = {}
    for at, watts in powers:
        part = min(math.floor((at - now + HISTORY) * count / HISTORY), count - 1)
        beats.setdefault(part, []).append(watts)
    history = []
    held: list[int | None] = [None]
    for part in range(count):
        held = beats.get(part, held[-1:])  # one without a beat shows what the beat before it has read
        history.append(max((watts for watts in held if watts is not None), default=None))
    return history


# The live view: two halves from 80 columns on. What matters least comes last, and is left out first.
SCREEN = ["States", "Electrical", "Session"], ["Current Limits", "Identity", "Details"]
LEFT = 47  # columns of the left half: the longest state fits
BLOCKS, ASCII = "▁▂▃▄▅▆▇█", "_.:-=+*#"


def format_screen(
    name: str, newest: Snapshot, now: float, width: int, rows: int, colour: bool, fine: bool, notes: list[str]
) -> list[str]:
    """The lines that fill a terminal; `now` is monotonic, and `fine` says whether it can show BLOCKS."""
    reading, problem, foot = newest.reading, _local(newest.problem), []
    head = f"Ctrl-C ends  {name}"
    if reading:
        state, power, *_ = sections(reading, GLANCE, 1)["Glance"]
        head = "  ".join([_local(reading["timestamp"])[11:], power.text, state.text, head])
    if width < 35:  # not even the longest state, or what is said of the plot
        told = _wrap(f"{head}  {problem} (a wider terminal shows more)", width)
        return [line[:width] for line in told[:rows]]
    history, levels = _history(newest.powers, now, width), BLOCKS if fine else ASCII
    top = max((watts for watts in history if watts is not None), default=None)
    if top is not None:
        foot.append(f"Power, last {HISTORY // 60} min, up to {top / 1000:.2f} kW")
        foot.append("".join(" " if w is None else levels[w * len(levels) // (top + 1)] for w in history))
    news = [note for note in notes if reading or newest.problem not in note]
    for note in news[-2 if rows > 24 else -1 :]:
        foot += _wrap(note, width, 2)
    room = max(0, rows - 1 - len(foot))
    if reading and width < 80:
        body = _fit(reading, SCREEN[0] + SCREEN[1], width, room)
    elif reading:
        halves = _fit(reading, SCREEN[0], LEFT, room), _fit(reading, SCREEN[1], width - LEFT - 1, room)
        body = [" ".join(line).rstrip() for line in zip_longest(*halves, fillvalue=" " * LEFT)]
    else:
        body = [_paint(line, "bad" if newest.failed else "") for line in _wrap(problem, width)]
    lines = [_paint(head[:width], "strong"), *body[:room], *foot][:rows]
    return lines if colour else [re.sub("\x1b.*?m", "", line) for line in lines]


def _wrap(text: str, width: int, most: int | None = None) -> list[str]:
    import textwrap

    return textwrap.wrap(text, width, max_lines=most, placeholder=" ...", subsequent_indent="  ")


def _fit(reading: Reading, titles: list[str], width: int, room: int) -> list[str]:
    """The sections as lines that fit the room: faults are cut, then sections left out, which is told."""
    titles = [title for title in titles if title in sections(reading)]
    whole = [(most, len(titles)) for most in range(len(reading["states"]["faults"] or []), 1, -1)]
    for most, count in whole + [(1, count) for count in range(len(titles), -1, -1)]:
        shown = sections(reading, HUMAN, most)
        lines = [line for title in titles[:count] for line in _lines(title, shown[title], width)]
        if titles[count:]:
            told = f"not shown: {', '.join(titles[count:])}: the terminal is too small"
            lines += [f"{line:{width}}" for line in _wrap(told, width)]
        if len(lines) <= room:
            break
    return lines


def _lines(title: str, rows: list[Row], width: int) -> list[str]:
    """A section in colour, each line as long as the width; what finds no room by its label stands below."""
    start = 2 + max(len(row.label) for row in rows)
    parts = [("", f"== {title} ==", "strong")]
    for row in rows:
        below = [] if start + len(row.text) <= width else _wrap(row.text, width - 2)
        parts.append((f"{row.label + ':':{start}}", "" if below else row.text, row.style))
        parts += [("  ", text, row.style) for text in below]
    return [label + _paint(text, style) + " " * (width - len(label + text)) for label, text, style in parts]


STYLE = """
:root { color-scheme: light dark; --good: #17752f; --bad: #b3261e; --line: #8886 }
@media (prefers-color-scheme: dark) { :root { --good: #5fd07c; --bad: #ff8a80 } }
body { background: Canvas; font: 1rem/1.4 system-ui, sans-serif; margin: 0 auto; max-width: 72rem;
  overflow-wrap: anywhere; padding: 1rem }
h1, #power { font-size: clamp(1.7rem, 6vw, 2.8rem); line-height: 1.15; margin: 0 }
h2, p { font-size: 1rem; margin: .25rem 0 } #about, dt, th, text { font-weight: normal; opacity: .7 }
.good { color: var(--good) } .bad { color: var(--bad) } [id]:empty { display: none }
dl { display: flex; flex-wrap: wrap; gap: .5rem 2rem } dd { font-size: 1.3rem; margin: 0 }
section, figure { border: 1px solid var(--line); border-radius: .6rem; break-inside: avoid;
  margin: 0 0 1rem; padding: .5rem 1rem }
svg { overflow: visible; width: 100% } text { fill: currentColor; font-size: .75rem }
line { stroke: var(--line) } path { fill: var(--good); opacity: .5; stroke: var(--good);
  vector-effect: non-scaling-stroke }
main { columns: 22rem } table { border-collapse: collapse; font-size: .9rem; width: 100% }
th, td { padding: .25rem 0 .25rem .5rem; text-align: right; vertical-align: top }
th { overflow-wrap: normal } tbody th { padding-left: 0; text-align: left }
thead + tbody td, tbody:first-child th { white-space: nowrap } tr + tr { border-top: 1px solid var(--line) }
#connection:not(:empty) ~ * { filter: grayscale(1); opacity: .6 }
"""
SCRIPT = """
let seen = new Date()
async function renew() {
  try {
    const reply = await fetch(location.pathname, { signal: AbortSignal.timeout?.(4000) })
    const page = new DOMParser().parseFromString(await reply.text(), "text/html")
    for (const shown of document.querySelectorAll("[id]")) {
      const fresh = page.getElementById(shown.id)  // null, which is caught, where another page answers
      if (shown.className !== fresh.className) shown.className = fresh.className
      if (shown.innerHTML !== fresh.innerHTML) shown.innerHTML = fresh.innerHTML
    }
    document.title = page.title
    seen = new Date()
  } catch {
    const line = "no connection to vestel.py since " + seen.toTimeString().slice(0, 8)
    document.getElementById("connection").textContent = document.title = line
  }
}
setInterval(renew, 5000)
"""


def csp() -> str:
    """The Content-Security-Policy of the page: what is in it, and nothing else."""
    from base64 import b64encode
    from hashlib import sha256

    style, script = (b64encode(sha256(text.encode()).digest()).decode() for text in (STYLE, SCRIPT))
    return (
        f"default-src 'none'; style-src 'sha256-{style}'; script-src 'sha256-{script}'; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def format_page(name: str, snapshot: Snapshot, now: float, clock: float) -> str:
    """A web page that needs nothing else and renews itself; `now` (monotonic) is `clock` (Unix time)."""
    from html import escape

    state, style = ("No reading", "bad") if snapshot.failed else ("Connecting", "")
    power, about, glance, cards, shown = "", name, "", "", {}
    if snapshot.reading:
        shown = sections(snapshot.reading)
        first, total, *rows = sections(snapshot.reading, GLANCE, 2)["Glance"]
        state, style, power = first.text, first.style, total.text
        about = f"{name}, read at {_local(snapshot.reading['timestamp'])[11:]}"
        glance = "".join(f"<div><dt>{row.label}</dt><dd>{row.text}</dd></div>" for row in rows)
    for title in SCREEN[0] + SCREEN[1]:
        table = f"<h2>{title}</h2>{_table(shown[title])}" if title in shown else ""
        cards += f'<section id="{title.replace(" ", "-").lower()}">{table}</section>'
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{escape(state)} {power} - Vestel EVC04</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">
<style>{STYLE}</style></head><body>
<p id="connection" class="bad" role="alert"></p><p id="about">{escape(about)}</p>
<h1 id="state" class="{style}" aria-live="polite">{escape(state)}</h1><p id="power">{power}</p>
<p id="problem" class="{style}">{escape(_local(snapshot.problem))}</p><dl id="glance">{glance}</dl>
<figure id="plot">{_plot(snapshot.powers, now, clock)}</figure><main>{cards}</main>
<footer><a href="metrics">Prometheus metrics</a> &middot; <a href="vestel-data.json">JSON</a>
<noscript><p>Without JavaScript this page does not renew itself.</p></noscript></footer>
<script>{SCRIPT}</script></body></html>
"""


def _table(rows: list[Row]) -> str:
    from html import escape

    head, lines = "", ""
    for label, cells, _, style in rows:
        name, *phases = label.split(" L")
        if phases:
            heads = "".join(f'<th scope="col">L{phase}</th>' for phase in phases)
            head = f"<thead><tr><td></td>{heads}</tr></thead>"
        span = 3 // len(cells)
        held = "".join(f'<td class="{style}" colspan="{span}">{escape(cell)}</td>' for cell in cells)
        lines += f'<tr><th scope="row">{name}</th>{held.replace("_", "_<wbr>")}</tr>'
    return f"<table>{head}<tbody>{lines}</tbody></table>"


def _plot(powers: Sequence[tuple[float, int | None]], now: float, clock: float) -> str:
    """The powers of the last hour as SVG with kW and local times; "" where there is none."""
    bars = {x: watts for x, watts in enumerate(_history(powers, now, 360)) if watts is not None}
    if not bars:
        return ""
    most = max(bars.values())
    step = next(step for step in (1, 2, 4, 5, 10, 20) if most <= 5000 * step)  # kW
    steps = max(1, math.ceil(most / 1000 / step))
    marks, zero = "", step * steps * 1000
    for n in range(steps + 1):
        y = 180 - 160 * n // steps
        marks += f'<line x2="100%" y1="{y}" y2="{y}"/><text y="{y - 4}">{n * step} kW</text>'
    for ago in range(int(clock) % 600, HISTORY, 600):
        x, then = 100 - 100 * ago / HISTORY, datetime.fromtimestamp(clock - ago)
        marks += f'<text x="{x:.1f}%" y="198" text-anchor="middle">{then:%H:%M}</text>'
    path = "".join(f"M{x} {zero}v-{watts}h1v{watts}" for x, watts in bars.items())
    return (
        f"<h2>Power, last {HISTORY // 60} min, up to {most / 1000:.2f} kW</h2>"
        f'<svg height="205" aria-hidden="true">{marks}'
        f'<svg y="20" height="160" viewBox="0 0 360 {zero}" preserveAspectRatio="none">'
        f'<path d="{path}"/></svg></svg>'
    )


# --- The simulated charger of --demo ----------------------------------------------------------


class Demo:
    """Takes the place of the connection: a charger in memory that charges with three phases.

    The energy and duration of its session grow with the time since it was made; its phase
    currents follow the dynamic current.
    """

    # fmt: off
    VALUES: Mapping[str, int | str] = {
        "serial number": "VESTEL-DEMO", "charge point id": "CP-DEMO-01", "brand": "Vestel",
        "model": "EVC04", "firmware version": "v3.187.0-1.8.156.0", "phase switch": 1,
        "maximum power": 22000, "phases": 1, "equipment state": 1, "cable state": 3,
        "voltage L1": 231, "voltage L2": 230, "voltage L3": 229, "session maximum current": 32,
        "EVSE minimum current": 6, "EVSE maximum current": 32, "cable maximum current": 32,
        "failsafe current": 10, "failsafe timeout": 20, "dynamic current": 16,
    }
    # fmt: on

    def __init__(self) -> None:
        self._words: Words = {}
        self._start = self._then = time.time()
        self._energy, self._power = 8421.0, 0  # Wh, W
        for label, value in self.VALUES.items():
            self._put(label, value)

    def _put(self, label: str, value: int | str) -> None:
        register = REGISTERS[label]
        words = [value >> 16, value & 0xFFFF] if isinstance(value, int) else [*map(ord, value)]
        for address, word in enumerate(words[-register.words :], register.address):
            self._words[register.bank, address] = word

    def _measure(self) -> None:
        now = time.time()
        self._energy += self._power * max(0.0, now - self._then) / 3600
        self._then, self._power = now, 0
        amps = min(self._words[HOLDING, DYNAMIC_CURRENT.address], 32)
        for phase, volts, less in (("L1", 231, 770), ("L2", 230, 820), ("L3", 229, 750)):
            current = max(0, amps * 1000 - less)  # mA; a vehicle stays a little below
            self._power += current * volts // 1000
            self._put(f"current {phase}", current)
            self._put(f"active power {phase}", current * volts // 1000)
        seconds = 5025 + max(0, int(now - self._start))
        self._put("active power", self._power)
        self._put("charge point state", 2 if amps else 3)  # Charging, SuspendedEVSE
        self._put("charging state", int(amps > 0))
        self._put("energy meter", 12345 + int(self._energy / 100))
        self._put("session energy", int(self._energy))
        self._put("session duration", seconds)
        self._put("session start time", int(time.strftime("%H%M%S", time.localtime(now - seconds))))
        self._put("date", int(time.strftime("%y%m%d", time.localtime(now))))
        self._put("time", int(time.strftime("%H%M%S", time.localtime(now))))

    def read_words(self, bank: str, address: int, count: int) -> list[int]:
        """Return what the registers hold now; 0 for a hole."""
        self._measure()
        return [self._words.get((bank, n), 0) for n in range(address, address + count)]

    def write_word(self, address: int, value: int) -> None:
        """Set a holding register."""
        self._words[HOLDING, address] = value

    def close(self) -> None:
        """There is nothing to close."""


# --- Settings: argv and INI -------------------------------------------------------------------


def _host(text: str) -> str:
    host = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if not re.fullmatch(r"[\w.:%-]+", host) or host.count(":") == 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no IP address or host name (the port stands apart)")
    return host


def _whole(low: int, high: int) -> Callable[[str], int]:
    def whole(text: str) -> int:
        if not re.fullmatch("[0-9]{1,9}", text) or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {low} to {high}")
        return int(text)

    return whole


def _seconds(text: str, least: float = 0) -> float:
    seconds = float(text) if re.fullmatch(r"[0-9]{1,9}(\.[0-9]*)?|\.[0-9]+", text) else math.nan
    if not (seconds > 0 and least <= seconds <= 86400):
        above = f"from {least:g}" if least else "above 0"
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds {above}, up to 86400")
    return seconds


def _listen_address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return _host(host or "127.0.0.1"), _whole(1, 65535)(port)


SETTINGS: dict[str, tuple[Callable[[str], Any], str, str]] = {  # of Target: check, metavar, help
    "ip": (_host, "IP", "charger: IP address or host name"),
    "port": (_whole(1, 65535), "PORT", "TCP port (default: 502)"),
    "unit": (_whole(0, 255), "UNIT", "Modbus unit id, 0-255 (default: 1)"),
    "base": (_whole(0, 1), "{0,1}", "1 where register numbers count from 1 (default: 0)"),
    "timeout": (_seconds, "SECONDS", "wait for the connection, and for each reply (default: 2)"),
}
FILE_NAME = "vestel_modbus.ini"


class Parser(argparse.ArgumentParser):
    """One whose output goes where all output goes, also where a stream is closed."""

    def print_help(self, file: Any = None) -> None:  # noqa: ARG002, D102
        emit(self.format_help())

    def error(self, message: str) -> NoReturn:  # noqa: D102
        for line in (*self.format_usage().splitlines(), f"{self.prog}: error: {message}"):
            say(line)
        raise SystemExit(2)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options; with `currents`, those to set, in this order. Ends the program where they are wrong."""
    parser = Parser(
        prog="vestel.py",
        description="Read and control a Vestel EVC04 charger over Modbus TCP.",
        epilog="exit codes: 0 done; 1 not reached or not read; 2 usage or configuration; "
        "3 a current is not set as asked for; 130 Ctrl-C; 143 SIGTERM",
        allow_abbrev=False,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, width=78),
    )
    add = parser.add_argument
    add("--version", action="store_true", help="show the version and exit")
    add("-v", "--verbose", action="store_true", help="log connections, requests and replies to stderr")
    add("--config", help=f"INI file, instead of {FILE_NAME} beside the script or in ~/.config")
    for name, (check, metavar, text) in SETTINGS.items():
        add(f"--{name}", type=check, metavar=metavar, help=text)
    add("--format", choices=("human", "prometheus", "json"), default="human", help="default: human")
    add("--details", action="store_true", help="also read charge point id, brand, firmware, clock, ...")
    for name, text in (
        ("--set-current", "set the dynamic (5004) and the failsafe current (2000); 0 pauses charging"),
        ("--set-dynamic-current", "set the dynamic current (5004)"),
        ("--set-failsafe-current", "set the failsafe current (2000)"),
    ):
        add(name, type=_whole(0, 65535), metavar="A", help=text)
    modes = parser.add_mutually_exclusive_group()
    text = "stay connected, and print a reading every so many seconds"
    modes.add_argument("--watch", type=lambda text: _seconds(text, 1), metavar="SECONDS", help=text)
    text = "stay connected, and serve readings over HTTP"
    modes.add_argument("--listen", type=_listen_address, metavar="[HOST:]PORT", help=text)
    add("--demo", action="store_true", help="use a simulated charger: no charger, file or network")
    # Not from the start: for each option it would ask how wide the terminal is, which costs 3 ms.
    parser.formatter_class = argparse.HelpFormatter
    args = parser.parse_args(argv)
    if args.watch and args.format == "prometheus":
        parser.error("--watch prints human or json; for Prometheus there is --listen")
    dynamic, failsafe, both = args.set_dynamic_current, args.set_failsafe_current, args.set_current
    if both is not None:
        if dynamic is not None or failsafe is not None:
            parser.error("--set-current sets both currents, so it stands alone")
        dynamic = failsafe = both
    wanted = (DYNAMIC_CURRENT, dynamic), (FAILSAFE_CURRENT, failsafe)
    args.currents = [(register, amps) for register, amps in wanted if amps is not None]
    return args


def load_config(path: str) -> dict[str, Any]:
    """Read the settings in an INI file. Raises Problem (2) that names the file and the key."""
    import configparser

    ini = configparser.ConfigParser(interpolation=None, inline_comment_prefixes=(";", "#"))
    try:
        with open(path, encoding="utf-8-sig") as file:
            ini.read_file(file)
        section = ini["vestel"]
    except OSError as error:
        raise Problem(f"{path}: {error.strerror}", 2) from None
    except KeyError:
        raise Problem(f"{path}: there is no section [vestel]", 2) from None
    except (configparser.Error, ValueError, AttributeError) as error:
        raise Problem(f"{path}: not an INI file: {' '.join(str(error).split())}", 2) from None
    settings = {}
    for key, text in section.items():
        if key not in SETTINGS:
            say(f"WARNING: {path}: {key}: unknown key, ignored; known are {', '.join(SETTINGS)}")
            continue
        try:
            settings[key] = SETTINGS[key][0](text)
        except argparse.ArgumentTypeError as error:
            raise Problem(f"{path}: {key}: {error}", 2) from None
    return settings


def find_target(args: argparse.Namespace) -> Target:
    """Merge options, configuration file and defaults, in this order. Raises Problem (2)."""
    beside = os.path.join(os.path.dirname(os.path.realpath(__file__)), FILE_NAME)
    places = [beside, os.path.join(os.path.expanduser("~"), ".config", FILE_NAME)]
    path = args.config if args.config is not None else next(filter(os.path.exists, places), None)
    settings = {} if path is None else load_config(path)
    settings.update((name, vars(args)[name]) for name in SETTINGS if vars(args)[name] is not None)
    if "ip" not in settings:
        why = f"there is no {' or '.join(places)}" if path is None else f"{path} has none"
        raise Problem(f"IP not set: give --ip, or ip in a configuration file ({why})", 2)
    return Target(**settings)


# --- Output -----------------------------------------------------------------------------------


def emit(text: str) -> None:
    """Write to stdout: all of the text, or nothing as far as a file allows that.

    Raises BrokenPipeError, and Problem for any other failure.
    """
    out = sys.stdout
    if out is None:
        raise Problem("cannot write to stdout: it is closed")
    if not hasattr(out, "buffer"):  # io.StringIO of a program that calls main()
        out.write(text)
        return
    raw = getattr(out.buffer, "raw", out.buffer)  # the layers above forget what they could not write
    data, written = text.encode(out.encoding, out.errors or "strict"), 0
    try:
        while written < len(data):
            taken = raw.write(data[written:])
            written += taken or 0
            if not taken:
                time.sleep(0.01)  # full, and set not to block
    except BrokenPipeError:
        raise
    except OSError as error:
        with contextlib.suppress(OSError):  # no file
            end = os.lseek(out.fileno(), 0, os.SEEK_CUR)
            if end == os.fstat(out.fileno()).st_size:
                os.ftruncate(out.fileno(), end - written)  # half a line would spoil a log
                os.lseek(out.fileno(), end - written, os.SEEK_SET)
        raise Problem(f"cannot write to stdout: {error.strerror}") from None


def say(line: str) -> None:
    """Write a line to stderr, if there is one, and nothing that could steer a terminal."""
    with contextlib.suppress(OSError):  # nobody is left to tell
        if sys.stderr is not None:
            shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
            print(shown, file=sys.stderr, flush=True)


def _is_terminal(stream: Any) -> bool:
    return stream is not None and stream.isatty()


def _redraws(stream: Any) -> bool:
    return _is_terminal(stream) and os.environ.get("TERM") != "dumb"


def has_colour() -> bool:
    """Whether stdout is a terminal that shows colours, and NO_COLOR is not set."""
    able = os.name == "posix" or "WT_SESSION" in os.environ
    return able and _redraws(sys.stdout) and "NO_COLOR" not in os.environ


def render(reading: Reading, style: str) -> str:
    """The reading in a format of --format, as it suits where stdout goes."""
    if style == "prometheus":
        return format_prometheus(reading)
    if style == "json":
        return format_json(reading, 2 if _is_terminal(sys.stdout) else None)
    return format_human(reading, has_colour())


def _now() -> datetime:
    return datetime.fromtimestamp(int(time.time()), timezone.utc)


def end_by_signal(last_words: Callable[[], object], status_of_sigterm: int) -> None:
    """From now on Ctrl-C and SIGTERM end the program at once, after its last words.

    By os._exit(): an exception would be dropped where Python happens to run a callback. The
    words have half a second, since the terminal may hang. A signal that is ignored stays so,
    and a program that calls main() keeps its own handlers.
    """
    import threading

    def end(number: int, _: object) -> NoReturn:
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_IGN)  # else the words would be said twice
        speaker = threading.Thread(target=last_words, daemon=True)
        speaker.start()
        speaker.join(0.5)
        os._exit(130 if number == signal.SIGINT else status_of_sigterm)

    if __name__ == "__main__":
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, end)


# --- The long modes: the half that keeps the charger --------------------------------------------


class Snapshot(NamedTuple):
    """All that the keeper shares; another one takes its place at the end of each beat."""

    reading: Reading | None = None  # the newest; None while the charger is lost
    problem: str = "there is no reading yet"  # since when and why there is none
    made_at: float = -math.inf  # when the reading began (monotonic, as all times but in texts)
    seconds: float = 0.0  # how long it took
    readings: int = 0  # so far, as the next two
    failed: int = 0
    connections: int = 0
    powers: tuple[tuple[float, int | None], ...] = ()  # when, and W: a point a beat, for an hour
    fatal: Problem | None = None  # what ends the program


class Held:
    """A current (A) that is held, and how that goes."""

    def __init__(self, register: Register, amps: int) -> None:
        self.register, self.amps = register, amps
        self.connection = 0  # on which it was confirmed last, by number
        self.failure = ""  # why it is not set
        self.wait = 0.0  # s from one failure to the next try
        self.retry_at = 0.0


NO_TIMEOUT = 20  # s, the failsafe timeout of a charger where none is set (spec)
STANDS_STILL = 15  # s without a tick of the charger's clock


class Keeper:
    """Keeps the charger: its connection, the alive sign, the readings and the held currents.

    One thread calls beat(). What others get of it are `snapshot` and the lines that it says.
    """

    def __init__(self, charger: Charger, currents: Currents, details: bool, every: float, say: Say) -> None:
        self.snapshot = Snapshot()
        self.charger, self._with_details, self._every, self._say = charger, details, every, say
        self._held = [Held(*current) for current in currents]
        self._in_range = False  # whether the currents were found to be within the charger's limits
        self._details: dict[
            str, tuple[float, Answers]
        ] = {}  # by range, since the charger was lost: when, what
        self._identity: Words = {}  # as last read
        self._clock: tuple[Any, float] = (None, 0.0)  # what the charger's shows, and since when
        self._timeout_s: int | None = None  # the failsafe timeout, once it is known
        self._told: Warnings = {}  # what lasts
        self._lost_at = ""  # when, in UTC
        self._delay = 0.0  # s, between two attempts to reach a lost charger
        self._due = time.monotonic()  # when the next reading is
        charger.sign_every = SIGN_EVERY

    def beat(self) -> float:
        """Do what is due now: the alive sign, or it and all else. Return when the next is due."""
        try:
            if time.monotonic() < self._due:
                self.charger.attend()
            elif self._read():
                every = max(1.0, min(5.0, self._quarter(), self._every))
                self._due += every * max(1, math.ceil((time.monotonic() - self._due) / every))
        except ChargerError as error:
            self._lose(error)
        except Problem as problem:
            self.snapshot = self.snapshot._replace(fatal=problem)
        return self._due if self._lost_at else min(self._due, self.charger.sign_due)

    def _quarter(self) -> float:
        return (self._timeout_s or NO_TIMEOUT) / 4

    def _read(self) -> bool:
        """Read, hold and publish; return whether that was a reading of now.

        Raises ChargerError where the charger is lost, and Problem where it takes no such current.
        """
        charger, began, now = self.charger, time.monotonic(), _now()
        if not charger.sign_failure:
            charger.sign_due = began
        core = read_core(charger)
        due = [registers for registers in DETAIL_RANGES if self._is_due(registers)]
        for registers, answers in zip(due, read_details(charger, due)):
            self._details[_span(registers)] = time.monotonic(), answers
        details = _merged(answers for _, answers in self._details.values())
        if self._lost_at:
            self._say(f"WARNING: {charger.name} answers again (lost at {self._lost_at})")
            self._lost_at, self._delay = "", 0.0
        if self._repeats_old_values(details.words):
            old = "the charger repeats old values: its clock stands still; making a new connection"
            self._tell({**self._told, "frozen": old})
            charger.close()
            self._publish(None, failed=self.snapshot.failed + 1)
            return False
        words = {**self._identity, **core.words, **details.words}
        self._identity = {register: word for register, word in words.items() if register in IDENTITY}
        timeout = _value(REGISTERS["failsafe timeout"], words, {})
        self._timeout_s = self._timeout_s if timeout is None else timeout
        charger.sign_every = SIGN_EVERY if self._timeout_s is None else max(1.0, self._quarter())
        troubles = self._hold(Answers(words, core.failures))
        reading, impossible = decode(words, now, self._with_details)
        failures = {**core.failures, **details.failures} if self._with_details else core.failures
        self._tell({**warnings_of(failures), **impossible, **self._troubles(), **troubles})
        self._publish(
            reading["electrical"]["power"]["total_w"],
            reading=reading,
            problem="",
            made_at=began,
            seconds=time.monotonic() - began,
            readings=self.snapshot.readings + 1,
        )
        return True

    def _is_due(self, registers: Sequence[Register]) -> bool:
        """Whether a range beside the core is to be read now.

        What identifies the charger is read once after each loss; clock and phase switch each time.
        Firmware that has none is not asked again until then: some boxes reset the connection after each
        exception (evcc 21127). Whatever else fails is tried again after a while.
        """
        if not self._with_details and (registers is not CLOCK_RANGE or self._clock[1] == math.inf):
            return False
        asked_at, known = self._details.get(_span(registers), (-math.inf, Answers({}, {})))
        failures, identity = known.failures.values(), registers[0].unit == "text"
        if not failures:
            return not (identity and known.words)
        if any(error.lost or error.code in (ACKNOWLEDGE, BUSY) for error in failures):
            return True
        final = any(error.code in NOT_HERE or (identity and not error.code) for error in failures)
        return not final and time.monotonic() >= asked_at + LONGEST_WAIT

    def _repeats_old_values(self, words: Words) -> bool:
        """Whether the box answers with values of some time ago, as its clock tells (seen: nymea).

        It does so until the connection is closed: a clock that stands still on a new one, too,
        is none, and not looked at again.
        """
        shows = [words.get((r.bank, address)) for r in CLOCK_RANGE for address in r.addresses]
        shown, since = self._clock
        if since < math.inf and (shows != shown or None in shows):
            self._clock = shows, time.monotonic()
        elif time.monotonic() >= since + STANDS_STILL:
            if "frozen" not in self._told:
                return True
            self._clock = shown, math.inf
        return False

    def _hold(self, answers: Answers) -> Warnings:
        """Write the currents that are not what is wanted; what is read back becomes part of the answers.

        Return what keeps them from being set. When a vehicle is plugged in, the charger puts its own
        minimum into 5004 (seen: nymea), and
        one that was without a master is at its failsafe current (spec).
        """
        unreadable, wrong = "", [""] * len(self._held)
        try:
            wrong = [out_of_range(held.register, held.amps, answers) for held in self._held]
            if any(wrong) and not self._in_range:
                raise Problem(f"failed writing current: {next(filter(None, wrong))}", 3)
            self._in_range = True
        except ChargerError as error:
            unreadable = f"failed holding current: {error}; nothing was written; trying again"
        before, cable = self.snapshot.reading, answers.words.get(REGISTERS["cable state"].key)
        changed = before is None or before["states"]["cable"]["code"] != cable
        troubles: Warnings = {}
        reachable = True
        for held, problem in zip(self._held, wrong):
            if changed:
                held.wait = held.retry_at = 0.0
            now = answers.words.get(held.register.key)
            on_this = held.connection == self.charger.connections
            confirmed = on_this if held.register is DYNAMIC_CURRENT else held.connection > 0
            if problem:
                held.failure = problem
            elif now == held.amps and (confirmed or held.register is not DYNAMIC_CURRENT):
                held.failure, held.wait = "", 0.0
            elif now is None and confirmed:
                pass  # nothing says that it is another one now
            elif unreadable:
                troubles["limits"] = unreadable
            elif reachable and time.monotonic() >= held.retry_at:
                reachable = self._set(held, now, answers.words)
            if held.failure:
                what = f"hold {held.register.label}"
                troubles[what] = f"failed holding current: {held.failure}; trying again"
        return troubles

    def _set(self, held: Held, before: int | None, words: Words) -> bool:
        """Set a current; return whether the charger can still be reached."""
        register = held.register
        now, failure = set_current(self.charger, register, held.amps, before)
        if now is not None:
            words[register.key] = now
        if failure is None:
            held.connection, held.failure, held.wait = self.charger.connections, "", 0.0
            if before != now:
                self._say(change(register, before, held.amps))
        elif not failure.lost:
            held.failure = str(failure)
            held.wait = min(LONGEST_WAIT, held.wait * 2 or 1.0)
            held.retry_at = time.monotonic() + held.wait
        self.charger.unconfirmed = ""
        return not (failure and failure.lost)

    def _lose(self, error: ChargerError) -> None:
        """Try again later: after 1 s, then ever more seldom."""
        if not self._lost_at:
            self._lost_at = _now().isoformat()
        problem = f"no reading since {self._lost_at}: {error}"
        if not self._delay:
            self._say(f"WARNING: {problem}; trying again")
        self.charger.start_over()
        self._details, self._timeout_s = {}, None
        self._delay = min(LONGEST_WAIT, self._delay * 2 or 1.0)
        self._due = time.monotonic() + self._delay
        self._publish(None, reading=None, problem=problem, failed=self.snapshot.failed + 1)

    def _publish(self, power: int | None, **changed: Any) -> None:
        now, then = time.monotonic(), self.snapshot
        old = next((n for n, (at, _) in enumerate(then.powers) if at > now - HISTORY), len(then.powers))
        powers = (*then.powers[old:], (now, power))
        self.snapshot = then._replace(connections=self.charger.connections, powers=powers, **changed)

    def _troubles(self) -> Warnings:
        """What else is wrong while the charger answers."""
        sign, causes = self.charger.sign_failure, {}
        if sign:
            what = "refuses the alive sign" if sign.code else "does not take the alive sign"
            causes["alive sign"] = f"the charger {what}: {sign}"
        if self._clock[1] == math.inf:
            causes["clock"] = "the charger's clock stands still: old values that it repeats cannot be told"
        return causes

    def _tell(self, causes: Warnings) -> None:
        """Say what is new, and take back what is over."""
        for cause in [*self._told]:
            if cause not in causes:
                self._say(f"WARNING: over: {self._told.pop(cause)}")
        for cause, text in causes.items():
            if cause not in self._told:
                self._say(f"WARNING: {text}")
                self._told[cause] = text


def keep(keeper: Keeper, stop: threading.Event) -> None:
    """The thread of the keeper: the only one that speaks to the charger."""
    due = time.monotonic()
    try:
        while not (keeper.snapshot.fatal or stop.wait(max(0.0, due - time.monotonic()))):
            due = keeper.beat()
        keeper.charger.close()
    except Exception as error:  # else old values would be served for ever
        what = f"the program is at fault: {error!r}"
        keeper.snapshot = keeper.snapshot._replace(fatal=Problem(what), reading=None, problem=what)


# --- The modes --------------------------------------------------------------------------------


def once(charger: Charger, currents: Currents, details: bool, style: str) -> None:
    """Print a reading, after the currents were set. Raises Problem."""
    began = _now()
    answers = read_core(charger)
    if details:
        answers = _merged([answers, *read_details(charger, DETAIL_RANGES)])
    charger.close()  # another master may be waiting, and whoever reads stdout may be slow
    reading, impossible = decode(answers.words, began, details)
    warnings = {**warnings_of(answers.failures), **impossible}
    for register, amps in currents:
        now = answers.words.get(register.key, amps)
        if now != amps:
            warnings[register.label] = f"the {register.label} was read back as {amps} A, but is {now} A now"
    for warning in warnings.values():
        say(f"WARNING: {warning}")
    emit(render(reading, style))


TICK = 0.1  # s between two looks at what the keeper has to tell
LINES = 1000  # that wait to be said at the most: the oldest are dropped where stderr takes none


def talk(keeper: Keeper, lines: deque[str], say: Say, show: Show, seconds: float = math.inf) -> NoReturn:
    """Say the lines, and show the first reading at or after each so many seconds.

    `show` gets the newest snapshot whenever something is to be drawn, and whether its reading is
    due. Nothing goes back to the keeper: it never waits for who reads this. Raises Problem.
    """
    due, drawn = -math.inf, None
    while True:
        snapshot, said = keeper.snapshot, bool(lines)
        while lines:
            say(lines.popleft())
        if snapshot.fatal:
            raise snapshot.fatal
        made_at = snapshot.made_at + TICK  # the first one may have begun some ms late in its beat
        is_due = snapshot.reading is not None and made_at >= due
        if is_due:
            first = made_at - TICK if due < 0 else due
            due = first + seconds * (math.floor((made_at - first) / seconds) + 1)
        if is_due or said or (snapshot is not drawn and not snapshot.reading):
            show(snapshot, is_due)
            drawn = snapshot
        time.sleep(TICK)


def printer(style: str) -> Show:
    """What prints a reading as a line of JSON, or for people with the time and a blank line."""

    def show(snapshot: Snapshot, is_due: bool) -> None:
        if is_due and snapshot.reading:
            human = f"{snapshot.reading['timestamp']}\n{format_human(snapshot.reading)}\n"
            emit(format_json(snapshot.reading) if style == "json" else human)

    return show


class Screen:
    """The terminal while --watch redraws a reading in place."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._notes: list[str] = []
        self._blocks = bool(BLOCKS.encode(sys.stdout.encoding, "ignore"))  # plain ASCII where it has none

        emit("\x1b[?1049h\x1b[?25l")  # the other screen, without a cursor

    def leave(self) -> None:
        """Give the terminal back, with the last lines that were drawn."""
        with contextlib.suppress(Problem, OSError):  # it may have gone
            emit("\x1b[?25h\x1b[?1049l")
        if _is_terminal(sys.stderr):
            for note in self._notes:
                say(note)

    def say(self, line: str) -> None:
        """Draw a line below the reading: stderr is most likely the same terminal."""
        self._notes = [*self._notes[-1:], line]
        if not _is_terminal(sys.stderr):
            say(line)

    def show(self, snapshot: Snapshot, _: bool) -> None:
        """Draw the newest reading; without one, the problem."""
        import shutil

        columns, rows = shutil.get_terminal_size()
        lines = format_screen(
            self._name, snapshot, time.monotonic(), columns, rows, has_colour(), self._blocks, self._notes
        )
        emit("\x1b[H" + "\r\n".join(f"{line}\x1b[K" for line in lines) + "\x1b[J")


CLIENTS = 900  # at a time; fewer where a process may open fewer files: one has to be left for the charger


def http_server(
    address: tuple[str, int], keeper: Keeper, name: str, details: bool, trace: Say
) -> socketserver.BaseServer:
    """Listen on the address, and return what serves the snapshots of the keeper there.

    Raises Problem where the address cannot be listened on.
    """
    import errno
    import http.server
    import socket
    import socketserver
    import threading

    most = CLIENTS
    if sys.platform != "win32":
        import resource

        most = max(10, min(CLIENTS, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 100))

    class Handler(http.server.BaseHTTPRequestHandler):
        timeout = 5  # s without a byte

        def do_GET(self) -> None:
            snapshot = keeper.snapshot
            path = re.sub(r"(?i)^https?://[^/?]*|\?.*", "", self.path) or "/"
            if path == "/metrics":
                text = format_prometheus(snapshot.reading, snapshot)
                self.respond(200, "text/plain; version=0.0.4; charset=utf-8", text)
            elif path == "/":
                text = format_page(name, snapshot, time.monotonic(), time.time())
                self.respond(200, "text/html; charset=utf-8", text, ("Content-Security-Policy", csp()))
            elif path != "/vestel-data.json":
                self.respond(404, "text/plain; charset=utf-8", "not found\n")
            elif snapshot.reading:
                self.respond(200, "application/json", format_json(snapshot.reading))
            else:  # with all its keys, for templates that name them
                nothing = {"error": snapshot.problem, **decode({}, None, details)[0]}
                self.respond(503, "application/json", format_json(nothing))

        do_HEAD = do_GET

        def __getattr__(self, name: str) -> Any:
            if name.startswith("do_"):  # any other method
                allow = "Allow", "GET, HEAD"
                return lambda: self.respond(405, "text/plain; charset=utf-8", "only GET and HEAD\n", allow)
            raise AttributeError(name)

        def respond(self, status: int, content_type: str, text: str, *more: tuple[str, str]) -> None:
            body = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            for header in (("Cache-Control", "no-store"), *more):
                self.send_header(*header)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def version_string(self) -> str:
            return f"vestel.py/{VERSION}"

        def log_message(self, template: str, *values: Any) -> None:
            trace(f"{self.address_string()}: {template % values}")

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = os.name == "posix"  # on Windows that would share a port in use
        daemon_threads = True
        request_queue_size = 1024

        def process_request(self, request: Any, client_address: Any) -> None:
            if threading.active_count() < most:
                super().process_request(request, client_address)
            else:
                self.shutdown_request(request)

        def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
            trace(f"{client_address[0]}: {sys.exc_info()[1]}")  # it has gone

    host, port = address
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        Server.address_family = found[0]
        return Server(found[4], Handler)  # type: ignore[arg-type]
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or error
        taken = getattr(error, "errno", 0) == errno.EADDRINUSE
        hint = "is another program on that port?" if taken else "check the host and the port"
        raise Problem(f"Cannot listen on {_bracketed(host)}:{port}: {why}; {hint}") from None


def run(argv: Sequence[str] | None) -> None:
    """Do what the command line says. Raises Problem."""
    args = parse(argv)
    if args.version:
        emit(f"vestel.py {VERSION}\n")
        return
    stays = args.watch or args.listen
    lines: deque[str] = deque(maxlen=LINES)
    trace = lines.append if stays else say
    if args.demo:
        demo = Demo()
        charger = Charger(lambda: demo, "the simulated charger", 1)
    else:
        target = find_target(args)
        connect = modbus(target, trace if args.verbose else lambda line: None)
        charger = Charger(connect, str(target), target.timeout)

    def last_words() -> None:
        while lines:
            say(lines.popleft())
        if charger.unconfirmed:
            say(f"ERROR: interrupted: {charger.unconfirmed}; a reading shows what the charger is set to")

    try:
        if stays:
            stay(args, charger, lines, last_words)
        end_by_signal(last_words, 143)
        if args.currents and not set_currents(charger, args.currents, say):
            raise SystemExit(3)
        once(charger, args.currents, args.details, args.format)
    except KeyboardInterrupt:  # of a program that calls main()
        last_words()
        raise
    finally:
        if not stays:  # else it is the keeper's
            charger.close()


def stay(
    args: argparse.Namespace, charger: Charger, lines: deque[str], last_words: Callable[[], None]
) -> NoReturn:
    """Stay connected, for --watch or --listen: start the two halves. Raises Problem."""
    import threading

    gc.enable()
    keeper = Keeper(charger, args.currents, args.details, args.watch or math.inf, lines.append)
    server, screen, stop = None, None, threading.Event()
    if args.listen:
        trace: Say = lines.append if args.verbose else lambda line: None
        server = http_server(args.listen, keeper, charger.name, args.details, trace)

    def leave() -> None:
        if screen:
            screen.leave()
        last_words()

    end_by_signal(leave, 0)
    in_background(lambda: keep(keeper, stop))
    if args.watch and args.format == "human" and _redraws(sys.stdout):
        screen = Screen(charger.name)
    try:
        if server:
            in_background(server.serve_forever)
            talk(keeper, lines, say, lambda snapshot, is_due: None)
        if screen:
            talk(keeper, lines, screen.say, screen.show, args.watch)
        talk(keeper, lines, say, printer(args.format), args.watch)
    finally:
        stop.set()
        if server:
            server.shutdown()
        if screen:
            screen.leave()


def in_background(work: Callable[[], object]) -> None:
    """Work in a thread that leaves the signals to the main one: another's would not end a wait there."""
    import threading

    thread = threading.Thread(target=work, daemon=True)
    if sys.platform == "win32" or not hasattr(signal, "pthread_sigmask"):
        thread.start()
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    thread.start()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; return its exit code."""
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure:
        reconfigure(encoding=None if _is_terminal(sys.stdout) else "utf-8", errors="replace", newline="\n")
    try:
        run(argv)
    except Problem as problem:
        say(f"ERROR: {problem}")
        return problem.status
    except BrokenPipeError:
        pass  # whoever read stdout has seen enough
    except KeyboardInterrupt:
        return 130
    except SystemExit as end:
        return int(end.code or 0)
    return 0


if __name__ == "__main__":
    gc.disable()  # a reading leaves no garbage, and looking for it takes a tenth of the run
    code = main()
    # Not sys.exit(): all is written, and taking pymodbus apart would be a sixth of the run.
    os._exit(code)

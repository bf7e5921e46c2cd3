#!/usr/bin/env python3
# /// script
# requires-python = ">=3.8"
# dependencies = ["pymodbus>=3.0,<4"]
# ///
"""Read and control a Vestel EVC04 electric vehicle charger over Modbus TCP.

A reading flows one way, and this file is laid out in that order:

    argv + INI -> settings -> charger -> {address: word} -> reading (dict) -> text -> stdout

Where the facts come from: "spec" is the charger's Modbus TCP specification, v1.8 (2022);
"seen" is what owners of it and of its siblings (Webasto/Ampure Unite, E.ON vBox, Vestel
Home Smart and Connect Plus) have reported.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import re
import sys
import time
from datetime import datetime, timedelta, timezone
from itertools import takewhile, zip_longest

TYPE_CHECKING = False  # what typing calls so; importing it takes longer than --help should
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any, NoReturn, Protocol

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

VERSION = "1.0.0"

# --- The tables -------------------------------------------------------------------------------


def _rows(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")] for line in table.strip().splitlines()]


# A register a row: label, bank, first address, how many words (the high one first), unit, and the
# keys of the reading that are made of it, each with its conversion. In the order of the reading.
# 1516-1530 hold the RFID tag: personal data, so there is no row.
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
MOST = {"mA": 100_000, "A": 100, "V": 1000, "W": 100_000}

# Names by code, and faults by bit (spec).
NAMES_TABLE = """
phases      | 1-phase 3-phase
chargepoint | Available Preparing Charging SuspendedEVSE SuspendedEV Finishing Reserved Unavailable Faulted
charging    | NotCharging Charging
equipment   | Initializing Running Fault Disabled Updating
cable       | CableNotConnected CableConnected_NoVehicle CableConnected_Vehicle CableConnected_VehicleLocked
"""
NAMES = {kind: names.split() for kind, names in _rows(NAMES_TABLE)}
FAULTS = (
    """
Contactors Welded Error, Contactors Response Error, Interlock Lock Error, Interlock Unlock Error,
PP Error, CP Diode Error, CP Short Error, Overvoltage Phase 1, Overvoltage Phase 2,
Overvoltage Phase 3, Undervoltage Phase 1, Undervoltage Phase 2, Undervoltage Phase 3,
Overcurrent Phase 1, Overcurrent Phase 2, Overcurrent Phase 3, Residual Current Error,
Protective Earth Error, RFID Error, Interlock Permanent Error, OCP Permanent Error,
Load Balance Module 1 Error, Load Balance Module 2 Error, Load Balance Module 3 Error,
HMI External RFID Reader Error, HMI External MID Communication Error, RCD Device Error,
Installation Error
""".replace("\n", " ")
    .strip()
    .split(", ")
)

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

# What people see; # as above. A text whose first value is missing becomes n/a.
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


def _name_of(kind: str) -> Callable[[int], str]:
    names = NAMES[kind]
    return lambda code: names[code] if code < len(names) else "Unknown"


def _fault_names(code: int) -> list[str]:
    bits = [bit for bit in range(32) if code >> bit & 1]
    return [FAULTS[bit] if bit < len(FAULTS) else f"Unknown fault (bit {bit})" for bit in bits]


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
    **{kind: _name_of(kind) for kind in NAMES},
}
INPUT, HOLDING = "input", "holding"


class Register:
    """A value of the charger: `words` registers from `address` to `last`.

    `keys` are those of the reading that are made of it, and what makes their values.
    """

    def __init__(
        self, label: str, bank: str, address: int, words: int, unit: str, keys: dict[str, Conversion]
    ) -> None:
        self.label, self.bank, self.address, self.words = label, bank, address, words
        self.last, self.unit, self.keys = address + words - 1, unit, keys


def _registers(table: str) -> list[Register]:
    registers = []
    for label, bank, address, words, unit, keys in _rows(table):
        made = {key: CONVERSIONS[how] for key, _, how in (key.partition(":") for key in keys.split())}
        registers.append(Register(label, bank, int(address), int(words), unit, made))
    return registers


CORE, DETAILS = _registers(CORE_TABLE), _registers(DETAILS_TABLE)
REGISTERS = {register.label: register for register in CORE + DETAILS}
DYNAMIC_CURRENT, FAILSAFE_CURRENT = REGISTERS["dynamic current"], REGISTERS["failsafe current"]
ALIVE = Register("alive sign", HOLDING, 6000, 1, "1", {})  # written, never read

# Seen: holes of two registers in a documented range answer 0. No request spans a longer one.
LONGEST_HOLE = 2


def _ranges(registers: Iterable[Register]) -> list[list[Register]]:
    ranges: list[list[Register]] = []
    bank, end = "", 0
    for register in sorted(registers, key=lambda r: (r.bank != INPUT, r.address)):
        if register.bank != bank or register.address > end + LONGEST_HOLE:
            ranges.append([])
        ranges[-1].append(register)
        bank, end = register.bank, register.last + 1
    return ranges


CORE_RANGES = _ranges(CORE)  # 7
DETAIL_RANGES = _ranges(DETAILS)  # 6


def _span(registers: Sequence[Register]) -> str:
    """As messages name it: `input registers 1000-1037`, `holding register 5004`."""
    bank, first, last = registers[0].bank, registers[0].address, registers[-1].last
    return f"{bank} register {first}" if first == last else f"{bank} registers {first}-{last}"


# --- The charger ----------------------------------------------------------------------------


class Problem(Exception):
    """What ends the program: a line for the user, and the exit code."""

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


class ChargerError(Problem):
    """The charger did not do as asked.

    `hint` is what the user may try; `code` the Modbus exception it answered with, 0 where it
    gave no answer; `lost` is set where no connection could be had.
    """

    def __init__(self, message: str, hint: str = "", code: int = 0, lost: bool = False) -> None:
        super().__init__(message)
        self.hint, self.code, self.lost = hint, code, lost

    def with_hint(self) -> str:
        """The message, and what the user may try."""
        return "; ".join(filter(None, (str(self), self.hint)))


NOT_HERE = (1, 2, 3)  # exceptions of firmware that lacks something of what was asked for
ACKNOWLEDGE, BUSY = 5, 6
# fmt: off
EXCEPTIONS = {  # Modbus Application Protocol 1.1b3
    1: "illegal function", 2: "illegal data address", 3: "illegal data value", 4: "device failure",
    5: "acknowledge: still working on it", 6: "device busy", 7: "negative acknowledge",
    8: "memory parity error", 10: "gateway path unavailable", 11: "gateway target does not respond",
}
# fmt: on
BUSY_RETRIES = 5
OTHER_MASTER = (
    "another master (evcc, Home Assistant, ...) may be connected, "
    "or the failsafe timeout of the last one is not over yet"
)


class Target:
    """Where the charger is, and how it is spoken to; `base` 1 asks for register N as N-1."""

    def __init__(self, ip: str, port: int, unit: int, base: int, timeout: float) -> None:
        self.ip, self.port, self.unit, self.base = ip, port, unit, base
        self.timeout = timeout  # s

    def __str__(self) -> str:
        return f"[{self.ip}]:{self.port}" if ":" in self.ip else f"{self.ip}:{self.port}"


def modbus(target: Target, trace: Say) -> Callable[[], Connection]:
    """Return what connects to a charger. Nothing else in this file knows pymodbus.

    pymodbus builds the requests and decodes the replies. The bytes in between pass through
    here, since the versions from 3.0 to 3.16 differ in what they take for a reply: some accept
    one that is short, late, or of another transaction, and a wrong number would come of it.

    Raises Problem where this Python has no pymodbus 3; what is returned raises ChargerError.
    """
    import gc

    gc.disable()  # there is no garbage in an import, and looking for it takes a tenth of the run
    try:
        import logging
        import socket

        from pymodbus.client import ModbusTcpClient
    except Exception as error:  # one too old for this Python fails in ways of its own
        python = sys.executable or "python3"
        raise Problem(
            f"pymodbus 3 is missing in {python} (Python {sys.version.split()[0]}): {error}; "
            f"install it with: {python} -m pip install 'pymodbus>=3.0,<4'"
        ) from None
    finally:
        gc.enable()
    logging.getLogger("pymodbus").setLevel(logging.CRITICAL + 1)
    arguments = ModbusTcpClient.read_input_registers.__code__.co_varnames
    unit = {"device_id" if "device_id" in arguments else "slave": target.unit}  # renamed in 3.10

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
            self._reply = self._reply or self._receive()
            part = self._reply[:size]
            self._reply = self._reply[len(part) :]
            return part

        def _receive(self) -> bytes:
            got = bytearray()
            try:
                self._fill(got, 8)
                self._fill(got, reply_size(self._request, bytes(got)))
            except OSError as error:
                raise broken(error) from None
            finally:
                trace(f"{target}: reply {got.hex(' ') or 'none'}")
            return bytes(got)

        def _fill(self, got: bytearray, size: int) -> None:
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
            words: list[int] = answer(read, address - target.base, count=count).registers
            if len(words) != count:
                raise ChargerError(f"{len(words)} registers instead of {count}")
            return words

        def write_word(self, address: int, value: int) -> None:
            answer(self.write_register, address - target.base, value=value)

    def answer(call: Callable[..., Any], address: int, **arguments: int) -> Any:
        try:
            response = call(address, **arguments, **unit)
        except ChargerError:
            raise
        except Exception as error:  # whatever a later pymodbus raises: no traceback
            raise ChargerError(f"pymodbus failed: {error!r}") from None
        if response.isError():
            code = getattr(response, "exception_code", 0)
            meaning = EXCEPTIONS.get(code, "not in the Modbus specification")
            hint = "try again later" if code in (4, ACKNOWLEDGE, BUSY) else "try --unit 255 or --base 1"
            raise ChargerError(f"exception {code} ({meaning})", hint, code)
        return response

    def broken(error: OSError) -> ChargerError:
        if isinstance(error, (socket.timeout, TimeoutError)):
            hint = f"try --unit 255 or a longer --timeout; {OTHER_MASTER}"
            return ChargerError(f"no reply within {target.timeout:g} s", hint)
        return ChargerError("the charger closed the connection", OTHER_MASTER)

    return Client


def why_unreachable(error: Exception, timeout: float) -> str:
    """Say why there is no connection, and what may be tried."""
    import socket

    if isinstance(error, ConnectionRefusedError):
        return f"connection refused; {OTHER_MASTER}, or Modbus TCP is not enabled in the charger's web page"
    if isinstance(error, (socket.timeout, TimeoutError)):
        what = "check the address, that the charger is on, and that no firewall is in between"
        return f"no answer within {timeout:g} s; {what}"
    if isinstance(error, (socket.gaierror, UnicodeError)):
        return "no such host is known; check --ip, or ip in the configuration file"
    return f"{getattr(error, 'strerror', None) or error}; check the address and the network"


def reply_size(request: bytes, head: bytes) -> int:
    """Return the length (bytes) of the reply that begins with `head`, its first 8 bytes.

    Raises ChargerError where that is no reply to this request (source: Modbus Messaging on
    TCP/IP 1.0b and Modbus Application Protocol 1.1b3).
    """
    function = head[7] & 0x7F
    count = int.from_bytes(request[10:12], "big")
    size = 9 if head[7] & 0x80 else 12 if function == 6 else 9 + 2 * count
    if head[2:4] != b"\0\0":
        raise ChargerError("a reply that is no Modbus", "check the address and --port")
    if head[:2] != request[:2] or function != request[7]:
        raise ChargerError("a reply to another request")
    if head[6] != request[6]:
        raise ChargerError(f"a reply of unit {head[6]}", f"try --unit {head[6]}")
    if int.from_bytes(head[4:6], "big") != size - 6:
        raise ChargerError("a reply of the wrong length")
    return size


class Charger:
    """The charger, over one connection at a time.

    A connection on which anything failed is closed and never used again: a reply that comes
    late would be taken for the answer to the next request.
    """

    def __init__(self, open_connection: Callable[[], Connection], name: str, timeout: float) -> None:
        self.name = name
        self.connections = 0  # so far
        self.losses = 0  # of a connection, but for those that came right after an exception reply
        self.sign_every: float | None = None  # s; None: the alive sign is left to others
        self.sign_refused = ""  # why the charger refused the last one
        self._signed = 0.0
        self._refused = False  # the last request, by an exception reply
        self._patience = timeout  # s for a busy charger
        self._pause = min(0.25, timeout / 10)  # s before it is asked again
        self._open = open_connection
        self.connection: Connection | None = None

    def connect(self) -> Connection:
        """Connect where there is no connection. Raises ChargerError."""
        if self.connection is None:
            self.connection = self._open()
            self.connections += 1
            self._signed = time.monotonic()
        return self.connection

    def close(self) -> None:
        """End the connection, if there is one."""
        if self.connection is not None:
            self.connection.close()
        self.connection = None

    def read(self, bank: str, address: int, count: int) -> list[int]:
        """Read `count` registers, once more on a new connection where the first one fails.

        Raises ChargerError.
        """
        try:
            return self._read(bank, address, count)
        except ChargerError as error:
            if error.code or error.lost:
                raise
        return self._read(bank, address, count)

    def _read(self, bank: str, address: int, count: int) -> list[int]:
        if time.monotonic() >= self.sign_due():
            self.sign()
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

    def _patiently(self, request: Callable[[Connection], Any], *again: int) -> Any:
        retries, give_up = BUSY_RETRIES, time.monotonic() + self._patience
        while True:
            try:
                result = request(self.connect())
                self._refused = False
                return result
            except ChargerError as error:
                if not error.code:
                    self.close()
                    # Seen: some boxes reset the connection after an exception reply.
                    self.losses += not self._refused
                self._refused = bool(error.code)
                if error.code not in again or not retries or time.monotonic() > give_up:
                    raise
            retries -= 1
            time.sleep(self._pause)

    def sign_due(self) -> float:
        """When (monotonic) the alive sign is to be given next."""
        return math.inf if self.sign_every is None else self._signed + self.sign_every

    def sign(self) -> None:
        """Give the alive sign, as a master that stays connected has to (spec).

        Raises ChargerError where the connection fails.
        """
        self._signed = time.monotonic()
        self.sign_refused = ""
        try:
            self.write(ALIVE, 1)
        except ChargerError as error:
            if not error.code:
                raise
            self.sign_refused = f"the charger refuses the alive sign: {error}"


def read_core(charger: Charger) -> tuple[Words, Warnings]:
    """Read the core ranges; what cannot be read is missing in the words, and has a warning.

    Raises ChargerError where no connection can be had, or nothing can be read.
    """
    words: Words = {}
    warnings: Warnings = {}
    errors = [_read_range(charger, registers, words, warnings) for registers in CORE_RANGES]
    if not words and errors[-1]:
        raise ChargerError(f"Cannot read {charger.name}: {errors[-1].with_hint()}")
    return words, warnings


def read_details(charger: Charger) -> tuple[Words, Warnings]:
    """Read the ranges of --details, as read_core() does, but nothing is raised.

    They come last. Older firmware knows none of them, and seen: one let the read of the
    firmware version time out while every other register answered.
    """
    words: Words = {}
    warnings: Warnings = {}
    lost = None
    for registers in DETAIL_RANGES:
        try:
            if lost:
                raise lost
            _read_range(charger, registers, words, warnings)
        except ChargerError as error:
            lost = error
            warnings[_span(registers)] = f"Cannot read {_span(registers)}: {error}"
    return words, warnings


def _read_range(
    charger: Charger, registers: list[Register], words: Words, warnings: Warnings
) -> ChargerError | None:
    """Read with one request, or value by value where the firmware has holes; return what failed.

    Raises ChargerError where no connection can be had.
    """
    failed: dict[str, ChargerError] = {}  # by addresses
    parts = [registers]
    for part in parts:
        bank, first = part[0].bank, part[0].address
        try:
            values = charger.read(bank, first, part[-1].last - first + 1)
        except ChargerError as error:
            if error.lost:
                raise
            if error.code in NOT_HERE and len(part) > 1:
                parts += ([register] for register in part)
            else:
                failed[_span(part).split()[-1]] = error
        else:
            words.update(((bank, address), value) for address, value in enumerate(values, first))
    if not failed:
        return None
    span, reasons = _span(registers), "; ".join({str(error): "" for error in failed.values()})
    missing = f"{', '.join(failed)} of " if len(parts) > 1 else ""
    warnings[span] = f"Cannot read {missing}{span}: {reasons}"
    return min(failed.values(), key=lambda error: error.code)


def set_currents(charger: Charger, currents: Sequence[tuple[Register, int]], say: Say) -> None:
    """Write the currents (A) in this order, read each back, and say what is set now.

    All are checked before the first is written: 0 pauses charging, else from the charger's own
    minimum to its maximum. Only what is read back counts. Raises ChargerError with what was
    asked for, what went wrong and what the charger is set to.
    """
    try:
        low, high = _limits(charger)
        before = {register.label: _setting(charger, register) for register, _ in currents}
    except ChargerError as error:
        raise ChargerError(f"{error}; nothing was written", lost=error.lost) from None
    for register, amps in currents:
        if amps and not low <= amps <= high:
            was = before[register.label]
            raise ChargerError(
                f"{register.label} {amps} A is out of range: this charger takes 0 (pauses charging) "
                f"or {low} to {high} A; nothing was written{'' if was == 'unknown' else f', it stays {was}'}"
            )
    done = ""
    for n, (register, amps) in enumerate(currents):
        was = before[register.label]
        try:
            _set_current(charger, register, amps, was)
        except ChargerError as error:
            later = [r for r, _ in currents[n + 1 :]]
            untouched = "".join(f"; the {r.label} was not touched ({before[r.label]})" for r in later)
            raise ChargerError(f"{register.label}: {error}{done}{untouched}") from None
        except (KeyboardInterrupt, SystemExit):
            maybe = f"{register.label} {amps} A may have been written (it was {was})"
            say(f"ERROR: interrupted: {maybe}{done}; a reading shows what the charger is set to")
            raise
        change = f"stays {amps} A" if was == f"{amps} A" else f"{was} -> {amps} A"
        say(f"{register.label.capitalize()}: {change}")
        done += f"; the {register.label} is set to {amps} A already"


def _limits(charger: Charger) -> tuple[int, int]:
    """The EVSE's own minimum and maximum in A; 6 and 32 where it tells none that can be."""
    words: Words = {}
    least, most = REGISTERS["EVSE minimum current"], REGISTERS["EVSE maximum current"]
    limits = next(registers for registers in CORE_RANGES if least in registers)
    error = _read_range(charger, limits, words, {})
    if error and not error.code:
        raise ChargerError(f"Cannot read {_span(limits)}: {error.with_hint()}")
    high = _value(most, words, {}) or 32
    low = _value(least, words, {}) or min(6, high)
    return (low, high) if low <= high else (6, 32)


def _setting(charger: Charger, register: Register) -> str:
    try:
        return f"{charger.read(HOLDING, register.address, 1)[0]} A"
    except ChargerError as error:
        if error.code:
            return "unknown"
        raise ChargerError(f"Cannot read {_span([register])}: {error.with_hint()}", lost=error.lost) from None


def _set_current(charger: Charger, register: Register, amps: int, before: str) -> None:
    outcome = f"{amps} A was acknowledged"
    refused = False
    try:
        charger.write(register, amps)
    except ChargerError as error:
        refused = bool(error.code)
        outcome = f"{amps} A was {'refused' if refused else 'sent'}: {error}"
    try:
        now = charger.read(HOLDING, register.address, 1)[0]
    except ChargerError as error:
        maybe = "" if refused else f" and may be {amps} A now"
        raise ChargerError(f"{outcome}; reading back failed: {error}; it was {before}{maybe}") from None
    if refused:
        stands = f"it stays {now} A" if before == f"{now} A" else f"it was {before} and is {now} A now"
        raise ChargerError(f"{outcome}; {stands}")
    if now != amps:
        # Seen: one firmware takes a 0, pauses charging, and reads back 6.
        pauses = "; some firmware pauses and still shows its minimum: the charging state tells"
        raise ChargerError(f"{outcome}, but the charger shows {now} A{'' if amps else pauses}")


# --- Decoding: words to the reading -----------------------------------------------------------


def decode(words: Words, now: datetime, details: bool) -> tuple[Reading, Warnings]:
    """Make the reading of the time `now` out of the words.

    What is missing in the words, and what no such charger can have, becomes None; the latter
    has a warning.
    """
    reading: Reading = {"timestamp": now.isoformat(timespec="seconds")}
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
    return reading, warnings


def _value(register: Register, words: Words, warnings: Warnings) -> Any:
    """The text or number of a register; None where it is missing or impossible."""
    addresses = range(register.address, register.last + 1)
    held = [words.get((register.bank, address), -1) for address in addresses]
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
    """Text of either layout up to the first 0, without what cannot be printed: it might steer a terminal.

    Seen: one character to a register (UTF-16BE), and in related firmware two bytes to one.
    """
    held = [*takewhile(bool, words)]
    packed = all(word > 0xFF for word in held) and any(word > 0x1FFF for word in held)
    data = b"".join(word.to_bytes(2, "big") for word in held)
    text = data.decode("utf-8" if packed else "utf-16-be", "ignore").partition("\0")[0]
    return "".join(character for character in text if character.isprintable())


# --- Formatters: the reading to text ----------------------------------------------------------


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


def format_prometheus(reading: Reading | None) -> str:
    """The reading in the text exposition format 0.0.4; None says that the charger is down."""
    flat = _flat(reading or {})
    flat["identity.phases"] = {"1-phase": 1, "3-phase": 3}.get(flat.get("identity.phases") or "")
    serial = {"serial": flat.get("identity.serial") or ""}
    metrics = [_metric("vestel_up", "1 if the charger answered.", [({}, int(bool(reading)))])]
    info = {key: flat.get(f"details.{key}") or "" for key in ("chargepoint_id", "brand", "model", "firmware")}
    if any(info.values()):
        metrics.append(_metric("vestel_info", "What the charger is.", [({**serial, **info}, 1)]))
    codes = {kind: ", ".join(map("{} {}".format, range(9), names)) for kind, names in NAMES.items()}
    for name, pattern, text in _rows(METRICS):
        keys = _phases(pattern)
        phases = [{"phase": str(n)} for n in (1, 2, 3)] if len(keys) > 1 else [{}]
        samples = [({**serial, **phase}, flat.get(key)) for phase, key in zip(phases, keys)]
        metrics.append(_metric(name, text.format(**codes), samples))
    code = flat.get("states.fault_code")
    active = [None if code is None else code >> bit & 1 for bit in range(len(FAULTS))]
    labels = ({**serial, "bit": str(bit), "fault": fault} for bit, fault in enumerate(FAULTS))
    metrics.append(_metric("vestel_fault", "1 if the fault is active, else 0.", [*zip(labels, active)]))
    return "\n".join(filter(None, metrics))


def _metric(name: str, text: str, samples: Sequence[tuple[dict[str, str], Any]]) -> str:
    lines = ""
    for labels, value in samples:
        pairs = ",".join(f'{label}="{_escape(held)}"' for label, held in labels.items())
        if value is not None:
            lines += f"{name}{{{pairs}}} {value}\n" if pairs else f"{name} {value}\n"
    return lines and f"# HELP {name} {text}\n# TYPE {name} gauge\n{lines}"


def _escape(label_value: str) -> str:
    return label_value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


FIELD = re.compile(r"{([\w.]+):?(.*?)}")  # of HUMAN: key, format


def sections(reading: Reading) -> dict[str, list[tuple[str, str]]]:
    """What people see of a reading: section -> rows of label and text, `n/a` for None."""
    flat = _flat(reading)
    seconds, faults = flat["session.duration_s"], flat["states.faults"]
    flat["session.duration"] = None if seconds is None else timedelta(seconds=seconds)
    flat["states.faults"] = f" ({', '.join(faults)})" if faults else ""
    shown: dict[str, list[tuple[str, str]]] = {}
    layout = HUMAN if "details" in reading else HUMAN[: HUMAN.index("== Details")]
    for line in layout.strip().splitlines():
        label, _, pattern = line.partition(":")
        if not pattern:
            rows = shown[label.strip("= ")] = []
            continue
        cells = [_fill(cell, flat) for cell in _phases(pattern.strip())]
        rows.append((label, "".join(f"{cell:10}" for cell in cells).rstrip()))
    return shown


def _fill(cell: str, flat: dict[str, Any]) -> str:
    if flat[FIELD.findall(cell)[0][0]] in (None, ""):
        return "n/a"
    return FIELD.sub(lambda field: format(flat[field[1]], field[2]), cell)


def format_human(reading: Reading) -> str:
    """The reading in sections of labelled values, for a terminal."""
    blocks = []
    for section, rows in sections(reading).items():
        lines = [f"{label + ':':20} {text}\n" for label, text in rows]
        blocks.append(f"== {section} ==\n" + "".join(lines))
    return "\n".join(blocks)


def paint(text: str) -> str:
    """Colour what stands out in text for people: charging green, faults red."""
    text = re.sub(r"(State: +)(Charging)\b", "\\1\x1b[32m\\2\x1b[0m", text)
    faulty = r"(State: +|Fault Code: +)(Fault\w*|[1-9].*?)(?=  |$)"
    return re.sub(faulty, "\\1\x1b[1;31m\\2\x1b[0m", text, flags=re.MULTILINE)


SCREEN = ("States", "Electrical", "Session"), ("Identity", "Current Limits", "Details")
LEFT = 47  # columns of the left half: the longest state fits
BLOCKS = "\u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588"


def format_screen(reading: Reading, columns: int, style: Callable[[str], str] = str) -> list[str]:
    """The reading as lines for a screen: from 80 columns on, in two halves that fill 19 lines."""
    import textwrap

    shown = sections(reading)
    halves: list[list[str]] = []
    for titles, width in zip(SCREEN, (LEFT, columns - LEFT - 1) if columns >= 80 else (columns, columns)):
        half: list[str] = []
        for title in filter(shown.__contains__, titles):
            half.append(f"== {title} ==")
            start = 2 + max(len(label) for label, _ in shown[title])
            for label, text in shown[title]:
                line = f"{label + ':':{start}}{text}"
                wrapped = textwrap.wrap(f"{label}: {text}", width, subsequent_indent="  ")
                half += [line] if len(line) <= width else wrapped
        halves.append(half)
    if columns < 80:
        return [style(line[:columns]) for half in halves for line in half]
    pairs = zip_longest(*halves, fillvalue="")
    return [style(left) + " " * (LEFT + 1 - len(left)) + style(right) for left, right in pairs]


def sparkline(powers: Sequence[int | None]) -> str:
    """The powers as a line of blocks, from 0 to the greatest; blank for None."""
    top = max((power for power in powers if power is not None), default=0) + 1
    return "".join(" " if power is None else BLOCKS[power * len(BLOCKS) // top] for power in powers)


PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{state} - Vestel EVC04</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark"><meta http-equiv="refresh" content="5">
<link rel="icon" href="data:,"><style>
body {{ font: 16px/1.4 system-ui, sans-serif; margin: 0 auto; max-width: 64rem; padding: 1rem }}
h1 {{ font-size: 2.2rem; line-height: 1.2; margin: 0 }} h2 {{ font-size: 1rem; margin: 0 }}
main {{ display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(24rem, 100%), 1fr)) }}
section {{ border: 1px solid #8888; border-radius: .5rem; padding: .5rem 1rem }}
dl {{ margin: 0 }} dl div {{ display: flex; flex-wrap: wrap; gap: 0 1rem }} .bad {{ color: #d33 }}
dd {{ font-variant-numeric: tabular-nums; margin: 0 0 0 auto }}
dd {{ overflow-wrap: anywhere; white-space: pre-wrap }}
</style></head><body><h1 class="{style}">{state}</h1><p>{summary}</p><main>{cards}</main>
<p><a href="metrics">Prometheus metrics</a> &middot; <a href="vestel-data.json">JSON</a></p>
</body></html>
"""


def format_page(reading: Reading | None, problem: str) -> str:
    """The reading as a web page that needs nothing from elsewhere; without one, the problem."""
    from html import escape

    if not reading:
        return PAGE.format(state="No reading", style="bad", summary=escape(problem), cards="")
    shown, cards = sections(reading), ""
    for title in filter(shown.__contains__, SCREEN[0] + SCREEN[1]):
        rows = (f"<div><dt>{label}</dt><dd>{escape(text)}</dd></div>" for label, text in shown[title])
        cards += f"<section><h2>{title}</h2><dl>{''.join(rows)}</dl></section>"
    states, power = reading["states"], reading["electrical"]["power"]["total_kw"]
    state, faults = states["chargepoint"]["name"] or "State unknown", ", ".join(states["faults"] or ())
    parts = ["Power n/a" if power is None else f"{power:.2f} kW", faults, reading["timestamp"]]
    style = "bad" if faults or state == "Faulted" else ""
    return PAGE.format(state=state, style=style, summary=" &middot; ".join(filter(None, parts)), cards=cards)


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


SETTINGS: dict[str, tuple[Callable[[str], Any], Any, str, str]] = {  # check, default, metavar, help
    "ip": (_host, None, "IP", "charger: IP address or host name"),
    "port": (_whole(1, 65535), 502, "PORT", "TCP port (default: 502)"),
    "unit": (_whole(0, 255), 1, "UNIT", "Modbus unit id, 0-255 (default: 1)"),
    "base": (_whole(0, 1), 0, "{0,1}", "1 where register numbers count from 1 (default: 0)"),
    "timeout": (_seconds, 2.0, "SECONDS", "wait for the connection, and for each reply (default: 2)"),
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


def build_parser() -> Parser:
    """Return the parser of the command line."""
    parser = Parser(
        prog="vestel.py",
        description="Read and control a Vestel EVC04 charger over Modbus TCP.",
        epilog="exit codes: 0 done; 1 not reached or not read; 2 usage or configuration; "
        "3 a current is not set as asked for; 130 Ctrl-C",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--version", action="store_true", help="show the version and exit")
    add("-v", "--verbose", action="store_true", help="log connections, requests and replies to stderr")
    add("--config", help=f"INI file, instead of {FILE_NAME} beside the script or in ~/.config")
    for name, (check, _, metavar, text) in SETTINGS.items():
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
    return parser


def read_config(path: str) -> dict[str, Any]:
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
    settings = {name: default for name, (_, default, _, _) in SETTINGS.items()}
    settings.update({} if path is None else read_config(path))
    settings.update((name, vars(args)[name]) for name in SETTINGS if vars(args)[name] is not None)
    if settings["ip"] is None:
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


def has_colour() -> bool:
    """Whether stdout is a terminal that shows colours, and NO_COLOR is not set."""
    able = os.name == "posix" or "WT_SESSION" in os.environ
    return (
        able
        and _is_terminal(sys.stdout)
        and "NO_COLOR" not in os.environ
        and os.environ.get("TERM") != "dumb"
    )


def render(reading: Reading, style: str) -> str:
    """The reading in a format of --format, as it suits where stdout goes."""
    if style == "prometheus":
        return format_prometheus(reading)
    if style == "json":
        return format_json(reading, 2 if _is_terminal(sys.stdout) else None)
    return paint(format_human(reading)) if has_colour() else format_human(reading)


def _now() -> datetime:
    return datetime.now(timezone.utc).replace(microsecond=0)


# --- The modes --------------------------------------------------------------------------------


def once(charger: Charger, currents: Sequence[tuple[Register, int]], details: bool, style: str) -> None:
    """Print a reading, after the currents were set. Raises Problem."""
    words, warnings = read_core(charger)
    if details:
        more_words, more_warnings = read_details(charger)
        words.update(more_words)
        warnings.update(more_warnings)
    charger.close()  # another master may be waiting, and whoever reads stdout may be slow
    reading, impossible = decode(words, _now(), details)
    for register, amps in currents:
        now = words.get((HOLDING, register.address), amps)
        if now != amps:
            warnings[register.label] = f"the {register.label} was read back as {amps} A, but is {now} A now"
    for warning in (*warnings.values(), *impossible.values()):
        say(f"WARNING: {warning}")
    emit(render(reading, style))


class Master:
    """Stays connected: gives the alive sign, holds the currents, and outlives a lost charger.

    One thread calls read() and wait(); any other may call latest().
    """

    def __init__(
        self, charger: Charger, currents: Sequence[tuple[Register, int]], details: bool, say: Say
    ) -> None:
        import threading

        self.problem = ""  # since when and why there is no reading
        self._charger, self._currents, self._with_details, self._say = charger, currents, details, say
        self._set_on = 1  # the connection, by number, on which the currents were set
        self._not_held = ""  # why not
        self._details: tuple[Words, Warnings] = {}, {}
        self._details_at = -1  # losses, when the details were read
        self._warnings: Warnings = {}
        self._told: Warnings = {}
        self._doubtful = False  # the alive sign failed: only a reading shows what is wrong
        self._lost_at: datetime | None = None
        self._delay = self._retry_at = self._read_at = self._kept_at = 0.0  # s, the latter monotonic
        self._made_at = -math.inf  # monotonic: when what is served was asked for
        self._reading: Reading | None = None
        self._asked = threading.Event()
        self._changed = threading.Condition()
        charger.sign_every = 5.0

    def read(self) -> Reading | None:
        """Ask the charger; None while it is lost."""
        if self.problem and time.monotonic() < self._retry_at:
            return None
        self._read_at = time.monotonic()
        self._doubtful = False
        try:
            reading = self._read()
        except ChargerError as error:
            self._lose(error)
            return None
        if self._lost_at:
            self._say(f"WARNING: {self._charger.name} answers again (lost at {self._lost_at.isoformat()})")
        self._lost_at, self._delay = None, 0.0
        self._publish(reading, "")
        return reading

    def _read(self) -> Reading:
        charger = self._charger
        self._connect()
        words, warnings = read_core(charger)
        if self._with_details and self._details_at != charger.losses:
            self._details = read_details(charger)
            self._details_at = charger.losses
        reading, impossible = decode({**words, **self._details[0]}, _now(), self._with_details)
        timeout = reading["settings"]["failsafe_timeout_s"]
        if timeout is not None:
            charger.sign_every = (timeout or 20) / 4
        self._warnings = {**warnings, **self._details[1], **impossible}
        self._tell()
        return reading

    def _lose(self, error: ChargerError) -> None:
        self._charger.close()
        self._delay = min(60.0, self._delay * 2 or 1.0)
        self._retry_at = time.monotonic() + self._delay
        self._lost_at = self._lost_at or _now()
        problem = f"no reading since {self._lost_at.isoformat()}: {error}"
        if not self.problem:
            self._say(f"WARNING: {problem}; trying again")
        self._publish(None, problem)

    def _publish(self, reading: Reading | None, problem: str) -> None:
        with self._changed:
            self._reading, self.problem, self._made_at = reading, problem, self._read_at
            self._asked.clear()
            self._changed.notify_all()

    def _connect(self) -> None:
        """Have a connection, on which the currents are set."""
        try:
            self._charger.connect()
        except ChargerError as error:
            if error.lost:
                raise
            why = error.with_hint()
            raise ChargerError(f"Cannot connect to {self._charger.name}: {why}", lost=True) from None
        if self._set_on != self._charger.connections:
            self._hold()

    def _hold(self) -> None:
        """Set the currents: a charger that has lost its master is at its failsafe current (spec)."""
        self._set_on = self._charger.connections  # set once more where the connection fails meanwhile
        lines: list[str] = []
        try:
            if self._currents:
                set_currents(self._charger, self._currents, lines.append)
            self._not_held = ""
        except ChargerError as error:
            if error.lost:
                raise
            lines, self._not_held = [], f"failed holding current, trying again: {error}"
        finally:
            for line in lines:
                if " stays " not in line:
                    self._say(line)

    def _tell(self) -> None:
        """Say each warning once while its cause lasts."""
        causes = {**self._warnings, "hold": self._not_held, "sign": self._charger.sign_refused}
        for cause, text in causes.items():
            if text and not self._told.get(cause):
                self._say(f"WARNING: {text}")
        self._told = causes

    def wait(self, until: float) -> None:
        """Return at the time `until` (monotonic), or a second after the last reading if asked.

        Meanwhile keep the connection alive, or try for a new one.
        """
        charger = self._charger
        while True:
            now = time.monotonic()
            end = min(until, self._read_at + 1) if self._asked.is_set() else until
            if now >= end:
                return
            if self.problem or self._doubtful:
                due = self._retry_at if self.problem else self._read_at + 1
            elif charger.connection is None or self._set_on != charger.connections:
                due = max(self._read_at, self._kept_at) + 1
            else:
                due = charger.sign_due()
            if now < due:
                if self._asked.is_set():
                    time.sleep(min(end, due) - now)
                else:
                    self._asked.wait(min(end, due, now + 1) - now)  # on Windows, Ctrl-C waits for it
            elif self.problem or self._doubtful:
                self.read()
                until = max(until, self._read_at + 1)
            else:
                self._keep()

    def _keep(self) -> None:
        """Give the alive sign, on a new connection where there is none."""
        self._kept_at = time.monotonic()
        try:
            self._connect()
            self._charger.sign()
            if self._not_held:
                self._hold()
        except ChargerError as error:
            if error.lost:
                self._lose(error)
            self._doubtful = not error.lost
        self._tell()

    def latest(self) -> tuple[Reading | None, str]:
        """Return a reading at most a second old, or one made meanwhile; or None, and why."""
        with self._changed:
            before = self._made_at
            if not self.problem and time.monotonic() > before + 1:
                self._asked.set()
                if not self._changed.wait_for(lambda: self._made_at != before or self.problem, timeout=8):
                    return None, f"{self._charger.name} is slow to answer"
            return self._reading, self.problem


class Screen:
    """The terminal while --watch redraws a reading in place."""

    COLUMNS = 60  # of the line of powers, each of 5 s, or of a longer interval

    def __init__(self, name: str, seconds: float) -> None:
        self._name, self._step = name, max(5.0, seconds)
        self._powers: dict[int, int | None] = {}
        self._shown: tuple[Reading | None, str] = None, "connecting"
        self._notes: list[str] = []

    def __enter__(self) -> Screen:
        emit("\x1b[?1049h\x1b[?25l")  # the other screen, without a cursor
        return self

    def __exit__(self, *_: object) -> None:
        emit("\x1b[?25h\x1b[?1049l")
        if _is_terminal(sys.stderr):
            for note in self._notes:
                say(note)

    def say(self, line: str) -> None:
        """Draw a line below the reading: stderr is most likely the same terminal."""
        self._notes = [*self._notes[-1:], line]
        if not _is_terminal(sys.stderr):
            say(line)
        self._draw()

    def show(self, reading: Reading | None, problem: str) -> None:
        """Draw a new reading; without one, the problem."""
        self._shown = reading, problem
        if reading:
            self._powers[self._slot()] = reading["electrical"]["power"]["total_w"]
        self._draw()

    def _slot(self) -> int:
        return int(time.monotonic() // self._step)

    def _draw(self) -> None:
        import shutil
        import textwrap

        reading, problem = self._shown
        columns, height = shutil.get_terminal_size()
        slots = range(self._slot() - self.COLUMNS + 1, self._slot() + 1)
        self._powers = {n: power for n, power in self._powers.items() if n in slots}
        if reading:
            body = [f"{self._name}  {reading['timestamp']}"[:columns]]
            body += format_screen(reading, columns, paint if has_colour() else str)
        else:
            body = textwrap.wrap(f"{self._name}  {problem}", columns)
        title = f"Power, {self._step * self.COLUMNS / 60:g} min: "
        history = sparkline([self._powers.get(n) for n in slots])
        foot = [(title + history[-max(1, columns - len(title)) :])[:columns]]
        foot += [part for note in self._notes for part in textwrap.wrap(note, columns)]
        lines = body[: max(1, height - len(foot))] + foot
        emit("\x1b[H" + "\r\n".join(f"{line}\x1b[K" for line in lines[:height]) + "\x1b[J")


def watch(master: Master, seconds: float, show: Callable[[Reading | None, str], None]) -> NoReturn:
    """Show a reading, or the problem, every so many seconds and without drift."""
    due = time.monotonic()
    while True:
        reading = master.read()
        while not _has_room():  # a reader that sleeps must not cost the alive sign
            master.wait(time.monotonic() + 0.5)
        show(reading, master.problem)
        due += seconds * max(1, math.ceil((time.monotonic() - due) / seconds))
        master.wait(due)


def _has_room() -> bool:
    """Whether stdout takes text at once. On Windows nobody can tell."""
    import select

    if os.name == "posix":
        with contextlib.suppress(OSError, TypeError, ValueError):  # no file: emit() will tell
            return bool(select.select([], [sys.stdout], [], 0)[1])
    return True


def printer(style: str) -> Callable[[Reading | None, str], None]:
    """What prints a reading as a line of JSON, or for people with the time and a blank line."""

    def show(reading: Reading | None, _: str) -> None:
        if reading:
            human = f"{reading['timestamp']}\n{format_human(reading)}\n"
            emit(format_json(reading) if style == "json" else human)

    return show


def http_server(address: tuple[str, int], trace: Say) -> Any:
    """Listen on the address, and return what serves there the reading of its `latest()`.

    Raises Problem where the address cannot be listened on.
    """
    import errno
    import http.server
    import json
    import socket
    import socketserver

    class Handler(http.server.BaseHTTPRequestHandler):
        server: Server
        timeout = 5  # s without a byte

        def do_GET(self) -> None:
            path = re.sub(r"^https?://[^/?]*|\?.*", "", self.path)
            if path not in ("/", "/metrics", "/vestel-data.json"):
                self.answer(404, "text/plain; charset=utf-8", "not found\n")
                return
            reading, problem = self.server.latest()
            if path == "/metrics":
                self.answer(200, "text/plain; version=0.0.4; charset=utf-8", format_prometheus(reading))
            elif path == "/":
                self.answer(200, "text/html; charset=utf-8", format_page(reading, problem))
            elif reading:
                self.answer(200, "application/json", format_json(reading))
            else:
                self.answer(503, "application/json", json.dumps({"error": problem}) + "\n")

        do_HEAD = do_GET

        def __getattr__(self, name: str) -> Any:
            if name.startswith("do_"):  # any other method
                return lambda: self.answer(405, "text/plain; charset=utf-8", "only GET and HEAD\n")
            raise AttributeError(name)

        def answer(self, status: int, content_type: str, text: str) -> None:
            body = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            if status == 405:
                self.send_header("Allow", "GET, HEAD")
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
        request_queue_size = 128
        latest: Callable[[], tuple[Reading | None, str]]
        since: dict[socket.socket, float]  # when (monotonic) each connection began

        def process_request(self, request: Any, client_address: Any) -> None:
            for oldest in [*self.since][: len(self.since) - 63]:
                self.drop(oldest)
            self.since[request] = time.monotonic()
            super().process_request(request, client_address)

        def shutdown_request(self, request: Any) -> None:
            self.since.pop(request, None)
            super().shutdown_request(request)

        def service_actions(self) -> None:
            for request, since in [*self.since.items()]:
                if time.monotonic() > since + 20:
                    self.drop(request)

        def drop(self, request: socket.socket) -> None:
            """End the connection of a client that is slow or dead, and so its thread."""
            self.since.pop(request, None)
            with contextlib.suppress(OSError):
                request.shutdown(socket.SHUT_RDWR)

        def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
            trace(f"{client_address[0]}: {sys.exc_info()[1]}")  # it has gone

    host, port = address
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        Server.address_family = found[0]
        server = Server(found[4], Handler)  # type: ignore[arg-type]
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or error
        taken = getattr(error, "errno", 0) == errno.EADDRINUSE
        hint = "is another program on that port?" if taken else "check the host and the port"
        raise Problem(f"Cannot listen on {host}:{port}: {why}; {hint}") from None
    server.since = {}
    return server


def listen(server: Any, master: Master) -> NoReturn:
    """Serve readings over HTTP. This thread alone speaks to the charger."""
    import signal
    import threading

    server.latest = master.latest
    # The server's threads leave the signals to this one: another's would not end a wait here.
    if sys.platform != "win32":
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    if sys.platform != "win32":
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM))
    while True:
        master.read()
        master.wait(math.inf)


def run(argv: Sequence[str] | None) -> None:
    """Do what the command line says. Raises Problem."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.version:
        emit(f"vestel.py {VERSION}\n")
        return
    if args.watch and args.format == "prometheus":
        parser.error("--watch prints human or json; for Prometheus there is --listen")
    if args.set_current is not None:
        if args.set_dynamic_current is not None or args.set_failsafe_current is not None:
            parser.error("--set-current sets both currents, so it stands alone")
        args.set_dynamic_current = args.set_failsafe_current = args.set_current
    wanted = (DYNAMIC_CURRENT, args.set_dynamic_current), (FAILSAFE_CURRENT, args.set_failsafe_current)
    currents = [(register, amps) for register, amps in wanted if amps is not None]
    trace = say if args.verbose else lambda line: None
    if args.demo:
        demo = Demo()
        charger = Charger(lambda: demo, "the simulated charger", 1)
    else:
        target = find_target(args)
        charger = Charger(modbus(target, trace), str(target), target.timeout)
    try:
        if args.watch or args.listen:
            import signal

            signal.signal(signal.SIGTERM, _stop)
        server = http_server(args.listen, trace) if args.listen else None
        if currents:
            try:
                set_currents(charger, currents, say)
            except ChargerError as error:
                raise Problem(f"failed writing current: {error}", 3) from None
        if server:
            listen(server, Master(charger, currents, args.details, say))
        elif (
            args.watch
            and args.format == "human"
            and _is_terminal(sys.stdout)
            and os.environ.get("TERM") != "dumb"
        ):
            with Screen(charger.name, args.watch) as screen:
                watch(Master(charger, currents, args.details, screen.say), args.watch, screen.show)
        elif args.watch:
            watch(Master(charger, currents, args.details, say), args.watch, printer(args.format))
        else:
            once(charger, currents, args.details, args.format)
    finally:
        charger.close()


def _stop(*_: object) -> NoReturn:
    raise SystemExit(0)


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
    code = main()
    # Not sys.exit(): all is written, and taking pymodbus apart would be a sixth of the run.
    os._exit(code)

"""What vestel.py asks for and prints, found out from outside and compared with registers.py.

Someone who adds a register to one of them is told by name what the other lacks.
"""

from __future__ import annotations

import re
from typing import Any, Callable
from unittest import mock

from charger import SimulatedCharger
from clock import Clock
from program import call_main
from readings import NOW, flat, samples
from registers import (
    HUMAN,
    HUMAN_DETAILS,
    KEYS,
    RANGES,
    REGISTERS,
    SAMPLES,
    Read,
    Row,
    image,
    lost_with,
)
from registers import read as request

import vestel


def _asked() -> list[Read]:
    """Return all requests of a reading that finds nothing: each range, and each value alone."""
    charger = SimulatedCharger(Clock())
    charger.fault(2, skip=1)  # not the serial number: a reading of nothing at all is an error
    nowhere = mock.patch.dict("os.environ", HOME="/nowhere", USERPROFILE="/nowhere")
    program: dict[str, Any] = {
        "modbus": lambda *_: charger.connect,
        "__file__": "/nowhere/vestel.py",
    }
    with nowhere, mock.patch.multiple(vestel, **program):
        call_main("--ip=charger", "--details")
    return [*dict.fromkeys(charger.reads)]


def _registers(request: Read) -> set[tuple[str, int]]:
    bank, first, count = request
    return {(bank, address) for address in range(first, first + count)}


def asked_for() -> dict[Read, list[str]]:
    """Return the values that vestel.py asks for, in order, and the keys that are made of each."""
    asked = {request: _registers(request) for request in _asked()}
    values = {
        request: registers
        for request, registers in asked.items()
        if not any(registers > others for others in asked.values())
    }
    words = {register: 1 for registers in values.values() for register in registers}
    for row in REGISTERS:
        if None not in row.keys.values():
            words.update(zip(row.addresses, row.words))
    whole = flat(vestel.decode(words, NOW, True)[0])

    def keys(registers: set[tuple[str, int]]) -> list[str]:
        rest = {register: word for register, word in words.items() if register not in registers}
        found = flat(vestel.decode(rest, NOW, True)[0])
        return [key for key in whole if found[key] != whole[key]]

    return {request: keys(registers) for request, registers in values.items()}


def name(registers: Read, keys: list[str]) -> str:
    bank, address, count = registers
    which = f"{address}" if count == 1 else f"{address}-{address + count - 1}"
    return (
        f"{bank} register{'s' * (count > 1)} {which} ({' '.join(keys) or 'no key of the reading'})"
    )


def compare(
    program: list[str], listed: list[str], does: str, place: str = "tests/lib/registers.py"
) -> list[str]:
    """Return what one has and the other lacks, or where their order differs, a line each."""
    more = [one for one in program if one not in listed]
    less = [one for one in listed if one not in program]
    lines = [f"vestel.py {does} {one}, which {place} does not have" for one in more]
    lines += [f"{place} has {one}, and vestel.py has not" for one in less]
    if not lines and program != listed:
        first, second = next((a, b) for a, b in zip(program, listed) if a != b)
        lines = [f"vestel.py {does} {first} where {place} has {second}: the order differs"]
    return lines


def _ranges() -> list[Read]:
    asked = {request: _registers(request) for request in _asked()}
    return [one for one in asked if not any(asked[one] < others for others in asked.values())]


def _keys_with(row: Row) -> list[str]:
    return [key for key in KEYS if key in lost_with(row)[0]]


def _labels(shown: str) -> list[str]:
    return re.findall(r"^==.*==$|^.+?:", shown, re.MULTILINE)


def first_that_differs() -> list[str]:
    """Return the lines of the first kind that differs: the others follow from it."""
    rows = [row for rows in RANGES for row in rows]

    def reading() -> Any:
        return vestel.decode(image(), NOW, True)[0]

    kinds: list[tuple[str, Callable[[], list[str]], list[str]]] = [
        (
            "asks for",
            lambda: [name(*one) for one in asked_for().items()],
            [name(request([row]), _keys_with(row)) for row in rows],
        ),
        (
            "asks at once for",
            lambda: [name(one, ["a range"]) for one in _ranges()],
            [name(request(rows), ["a range"]) for rows in RANGES],
        ),
        ("makes the key", lambda: [*flat(reading())][1:], [*KEYS]),
        (
            "prints the metric",
            lambda: sorted({name for name, _, _ in samples(vestel.format_prometheus(reading()))}),
            sorted({sample.split("/")[0] for sample in SAMPLES}),
        ),
        (
            "shows the row",
            lambda: _labels(vestel.format_human(reading())),
            _labels(HUMAN + HUMAN_DETAILS),
        ),
    ]
    return next(filter(None, (compare(made(), typed, does) for does, made, typed in kinds)), [])

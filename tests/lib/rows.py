"""What vestel.py asks for and prints, compared with registers.py: what one lacks, by name."""

from __future__ import annotations

import re
from typing import Any, Callable
from unittest import mock

import registers
from charger import SimulatedCharger
from clock import Clock
from program import call_main
from readings import NOW, flat, samples
from registers import KEYS, RANGES, REGISTERS, SAMPLES, Read, image, lost_with, read

import vestel


def _asked() -> list[Read]:
    """Return all requests of a reading that finds nothing: each range, and each value alone."""
    charger = SimulatedCharger(Clock())
    charger.fault(2, skip=1)  # not the serial number: a reading of nothing at all is an error
    nowhere = mock.patch.dict("os.environ", HOME="/nowhere", USERPROFILE="/nowhere")
    program: Any = {"modbus": lambda *_: charger.connect, "__file__": "/nowhere/vestel.py"}
    with nowhere, mock.patch.multiple(vestel, **program):
        call_main("--ip=charger", "--details")
    return [*dict.fromkeys(charger.reads)]


def _registers(request: Read) -> set[tuple[str, int]]:
    bank, first, count = request
    return {(bank, address) for address in range(first, first + count)}


def asked_for() -> dict[Read, list[str]]:
    """Return the values that vestel.py asks for, in order, and the keys that are made of each."""
    asked = {request: _registers(request) for request in _asked()}
    single = [one for one in asked if not any(asked[one] > other for other in asked.values())]
    words = {register: 1 for one in single for register in asked[one]}
    for row in REGISTERS:
        if None not in row.keys.values():
            words.update(zip(row.addresses, row.words))
    whole = flat(vestel.decode(words, NOW, True)[0])

    def keys(own: set[tuple[str, int]]) -> list[str]:
        rest = {register: word for register, word in words.items() if register not in own}
        found = flat(vestel.decode(rest, NOW, True)[0])
        return [key for key in whole if found[key] != whole[key]]

    return {one: keys(asked[one]) for one in single}


def name(registers: Read, keys: list[str]) -> str:
    bank, address, count = registers
    which = f"s {address}-{address + count - 1}" if count > 1 else f" {address}"
    return f"{bank} register{which} ({' '.join(keys) or 'no key of the reading'})"


def compare(
    program: list[Any], listed: list[Any], does: str, place: str = "tests/lib/registers.py"
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


def _labels(shown: str) -> list[str]:
    return re.findall(r"^==.*==$|^.+?:", shown, re.MULTILINE)


def first_that_differs() -> list[str]:
    """Return the lines of the first kind that differs: the others follow from it."""
    rows = [(row, lost_with(row)[0]) for rows in RANGES for row in rows]
    named = [name(read([row]), [key for key in KEYS if key in keys]) for row, keys in rows]
    metrics = sorted({sample.split("/")[0] for sample in SAMPLES})
    labels = _labels(registers.HUMAN + registers.HUMAN_DETAILS)

    def reading() -> Any:
        return vestel.decode(image(), NOW, True)[0]

    def printed_metrics() -> list[str]:
        return sorted({name for name, _, _ in samples(vestel.format_prometheus(reading()))})

    kinds: list[tuple[str, Callable[[], list[Any]], list[Any]]] = [
        ("asks for", lambda: [name(*one) for one in asked_for().items()], named),
        ("asks at once for", _ranges, [read(rows) for rows in RANGES]),
        ("makes the key", lambda: [*flat(reading())][1:], [*KEYS]),
        ("prints the metric", printed_metrics, metrics),
        ("shows the row", lambda: _labels(vestel.format_human(reading())), labels),
    ]
    return next(filter(None, (compare(made(), typed, does) for does, made, typed in kinds)), [])

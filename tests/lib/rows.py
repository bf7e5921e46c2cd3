"""What vestel.py asks for and prints, found out from outside and compared with registers.py.

Someone who adds a register to one of them is told by name what the other lacks.
"""

from __future__ import annotations

import contextlib
import io
import re
from unittest import mock

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
    read,
)

import vestel


class Refusing:
    """A connection to a charger that answers its first request, and exception 2 to any other."""

    def __init__(self) -> None:
        self.asked: list[Read] = []

    def read_words(self, bank: str, address: int, count: int) -> list[int]:
        self.asked.append((bank, address, count))
        if len(self.asked) == 1:  # the serial number: a reading of nothing at all is an error
            return [0] * count
        raise vestel.Refused(2)

    def write_word(self, address: int, value: int) -> None:
        raise AssertionError

    def close(self) -> None:
        pass


def _asked() -> list[Read]:
    """Return all requests of a reading that finds nothing: each range, and each value alone."""
    connection = Refusing()
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(vestel, "modbus", return_value=lambda: connection))
        stack.enter_context(mock.patch.object(vestel, "__file__", "/nowhere/vestel.py"))
        stack.enter_context(mock.patch.dict("os.environ", HOME="/nowhere", USERPROFILE="/nowhere"))
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
        vestel.main(["--ip=charger", "--details"])
    return connection.asked


def _within(inner: Read, outer: Read) -> bool:
    (bank, first, count), (other, begin, room) = inner, outer
    return bank == other and inner != outer and begin <= first and first + count <= begin + room


def addresses(registers: Read) -> list[tuple[str, int]]:
    bank, first, count = registers
    return [(bank, address) for address in range(first, first + count)]


def asked_for() -> dict[Read, list[str]]:
    """Return the values that vestel.py asks for, in order, and the keys that are made of each."""
    asked = _asked()
    values = [
        one for one in dict.fromkeys(asked) if not any(_within(other, one) for other in asked)
    ]
    words = {address: 1 for registers in values for address in addresses(registers)}
    words.update(
        (address, word)
        for row in REGISTERS
        if None not in row.keys.values()
        for address, word in zip(row.addresses, row.words)
    )
    whole = flat(vestel.decode(words, NOW, True)[0])

    def keys(registers: Read) -> list[str]:
        own = addresses(registers)
        rest = {address: word for address, word in words.items() if address not in own}
        found = flat(vestel.decode(rest, NOW, True)[0])
        return [key for key in whole if found[key] != whole[key]]

    return {registers: keys(registers) for registers in values}


def name(registers: Read, keys: list[str]) -> str:
    bank, address, count = registers
    which = f"{address}" if count == 1 else f"{address}-{address + count - 1}"
    return (
        f"{bank} register{'s' * (count > 1)} {which} ({' '.join(keys) or 'no key of the reading'})"
    )


def _of_row(row: Row) -> tuple[Read, list[str]]:
    keys, _ = lost_with(row)
    return (row.bank, row.address, len(row.words)), [key for key in KEYS if key in keys]


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


def registers_that_differ() -> list[str]:
    """Return what differs in the registers and their keys, a line each."""
    program = [name(registers, keys) for registers, keys in asked_for().items()]
    typed = [name(*_of_row(row)) for rows in RANGES for row in rows]
    return compare(program, typed, "asks for")


def ranges_that_differ() -> list[str]:
    """Return what differs in the ranges that are read with one request."""
    asked = _asked()
    program = [
        one for one in dict.fromkeys(asked) if not any(_within(one, other) for other in asked)
    ]
    typed = [read(rows) for rows in RANGES]
    return compare([*map(_span, program)], [*map(_span, typed)], "asks at once for")


def _span(registers: Read) -> str:
    bank, address, count = registers
    return f"{bank} {address}-{address + count - 1}"


def keys_that_differ() -> list[str]:
    """Return what differs in the keys of the reading and their order."""
    program = [*flat(vestel.decode(image(), NOW, True)[0])][1:]
    return compare(program, [*KEYS], "makes the key")


def metrics_that_differ() -> list[str]:
    """Return what differs in the metrics."""
    printed = vestel.format_prometheus(vestel.decode(image(), NOW, True)[0])
    program = [*dict.fromkeys(name for name, _, _ in samples(printed))]
    typed = [*dict.fromkeys(sample.split("/")[0] for sample in SAMPLES)]
    return compare(sorted(program), sorted(typed), "prints the metric")


def labels_that_differ() -> list[str]:
    """Return what differs in the labels and sections that people see."""
    shown = vestel.format_human(vestel.decode(image(), NOW, True)[0])
    label = re.compile(r"^==.*==$|^.+?:", re.MULTILINE)
    return compare(label.findall(shown), label.findall(HUMAN + HUMAN_DETAILS), "shows the row")


def first_that_differs() -> list[str]:
    """Return the lines of the first kind that differs: the others follow from it."""
    kinds = (
        registers_that_differ,
        ranges_that_differ,
        keys_that_differ,
        metrics_that_differ,
        labels_that_differ,
    )
    return next(filter(None, (kind() for kind in kinds)), [])

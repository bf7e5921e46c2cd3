"""What the words of the registers mean: numbers, times, states, texts, and what cannot be."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from typing import Any, Callable

import pytest
import registers
from hypothesis import given
from hypothesis import strategies as st
from program import fuzzed
from readings import WHOLE, changed, decode, flat, holding, printable, sample_values, samples
from registers import MAXIMUM, REGISTERS, SAMPLES, STATES, Row, lost_with, packed, row, span
from registers import text as wide

import vestel

# fmt: off
DECODED: dict[int, dict[Any, list[Any]]] = {  # address -> number or words -> values of its keys
    400: {0: [0, 0.0], 7400: [7400, 7.4], 22080: [22080, 22.08]},
    404: {0: ["1-phase", 0], 2: ["Unknown", 2], 65534: ["Unknown", 65534]},
    1008: {0: [0.0], 49: [0.049], 14707: [14.707], 65000: [65.0]},
    1010: {18: [0.018]}, 1012: {18: [0.018]},
    1014: {227: [227]}, 1016: {0: [0]}, 1018: {231: [231]},
    1020: {4: [4, 0.0], 3312: [3312, 3.31], 3316: [3316, 3.32], 10501: [10501, 10.5],
           (1, 0): [65536, 65.54]},
    1024: {(1, 1): [65537]}, 1028: {(0, 3312): [3312]}, 1032: {(1, 2): [65538]},
    1036: {21682: [2168.2], (1, 0): [6553.6], (0, 65535): [6553.5],
           (65535, 65534): [429496729.4]},
    1100: {0: [0]}, 1102: {8: [8]}, 1104: {16: [16]}, 1106: {63: [63]},
    1502: {8421: [8421, 8.421], (29, 39757): [1940301, 1940.301], (0, 65535): [65535, 65.535],
           (65535, 65534): [4294967294, 4294967.294]},
    1504: {1: ["00:00:01"], 235959: ["23:59:59"]},
    1508: {(1, 0): [65536], (65535, 65534): [4294967294]},
    1512: {100: ["00:01:00"], 93005: ["09:30:05"]},
    2000: {0: [0]}, 2002: {300: [300], 65534: [65534]}, 5004: {0: [0], 32: [32]},
    290: {240229: ["2024-02-29T09:15:30"], 991231: ["2099-12-31T09:15:30"]},
    294: {0: ["2026-11-20T00:00:00"], 235959: ["2026-11-20T23:59:59"]},
    405: {0: ["1-phase"], 2: ["Unknown"]},
}
# fmt: on


@pytest.mark.parametrize(
    ("address", "held", "values"),
    [(address, held, values) for address in DECODED for held, values in DECODED[address].items()],
    ids=str,
)
def test_a_number_is_decoded(address: int, held: Any, values: list[Any]) -> None:
    keys = [*row(address).keys] or [row(address).part_of]
    words = holding({address: [*held] if isinstance(held, tuple) else held})
    reading, warnings = decode(words)
    expected = {**flat(WHOLE), **dict(zip(keys, values))}
    if row(address).unit == "mA":  # see below
        expected["electrical.active_phases"] = reading["electrical"]["active_phases"]
    assert (flat(reading), warnings) == (expected, [])


NOT_TIMES = {
    (1504, "1504-1505"): [240000, 126000, 120060, 2**32 - 2],
    (1512, "1512-1513"): [240000, 126000, 120060, 2**32 - 2],
    (290, "290-295"): [0, 230229, 261320, 1000101, 2**32 - 2],
    (294, "290-295"): [240000, 106000, 100060, 2**32 - 2],
}


@pytest.mark.parametrize(
    ("address", "where", "number"),
    [(*where, number) for where, numbers in NOT_TIMES.items() for number in numbers],
)
def test_what_is_not_a_time_is_null_with_a_warning(address: int, where: str, number: int) -> None:
    keys = row(address).keys or [row(address).part_of]
    reading, (warning,) = decode(holding({address: number}))
    assert flat(reading) == {**flat(WHOLE), **dict.fromkeys(keys)}
    assert re.search(rf"\binput registers {where}\b.*\b{number}\b", warning)


@pytest.mark.parametrize("zeros", [{1504: 0}, {1512: 0}, {290: 0, 294: 0}], ids=str)
def test_a_time_of_zeros_is_null_without_a_word(zeros: dict[int, Any]) -> None:
    reading, warnings = decode(holding(zeros))
    (key,) = row(min(zeros)).keys
    assert (flat(reading), warnings) == ({**flat(WHOLE), key: None}, [])


U32 = st.integers(0, 2**32 - 2)


@fuzzed
@given(number=U32)
def test_fuzz_two_registers_are_right_to_the_last_digit(number: int) -> None:
    words = [number // 65536, number % 65536]
    reading, _ = decode(holding(dict.fromkeys((1006, 1020, 1036, 1502, 1508), words)))
    found = json.loads(vestel.format_json(reading), parse_float=Decimal)
    assert found["session"]["energy_wh"] == found["session"]["duration_s"] == number
    assert found["session"]["energy_kwh"] * 1000 == number
    assert found["electrical"]["meter_reading_kwh"] * 10 == number
    assert found["states"]["fault_code"] == number
    assert found["states"]["faults"] == [
        registers.FAULTS[bit] for bit in range(32) if number // 2**bit % 2
    ]
    assert found["electrical"]["power"]["total_w"] == (number if number <= 100_000 else None)


@fuzzed
@given(milliamperes=st.integers(0, 65_000), watts=st.integers(0, 100_000))
def test_fuzz_milliamperes_stay_and_kilowatts_have_2_places(milliamperes: int, watts: int) -> None:
    reading, _ = decode(holding({1008: milliamperes, 400: watts, 1020: watts}))
    found = json.loads(vestel.format_json(reading), parse_float=Decimal)
    assert found["electrical"]["current"]["l1_a"] * 1000 == milliamperes
    kilowatts = found["electrical"]["power"]["total_kw"]
    assert found["identity"]["max_power_kw"] == kilowatts
    assert kilowatts * 100 == int(kilowatts * 100)
    assert abs(kilowatts * 1000 - watts) <= 5
    human = vestel.format_human(reading)
    assert f"\nCurrent L1 L2 L3:    {milliamperes // 1000}.{milliamperes % 1000:03} A " in human
    assert human.count(f"{watts} W ({kilowatts:.2f} kW)\n") == 2


@fuzzed
@given(number=st.one_of(U32, st.integers(0, 250_000)))
def test_fuzz_a_time_is_given_where_it_is_one(number: int) -> None:
    digits = f"{number:06}"
    hours, minutes, seconds = digits[:-4], digits[-4:-2], digits[-2:]
    is_time = len(hours) == 2 and hours <= "23" and minutes <= "59" and seconds <= "59"
    expected = f"{hours}:{minutes}:{seconds}" if number and is_time else None
    session = decode(holding({1504: number, 1512: number}))[0]["session"]
    assert (session["start_time"], session["end_time"]) == (expected, expected)


@pytest.mark.parametrize(
    ("address", "code", "name"),
    [(address, code, name) for address, names in STATES.items() for code, name in enumerate(names)]
    + [(1000, 9, "Unknown"), (1001, 2, "Unknown"), (1002, 5, "Unknown"), (1004, 4, "Unknown")]
    + [(address, 65534, "Unknown") for address in STATES],
)
def test_a_state_has_its_code_and_name(address: int, code: int, name: str) -> None:
    reading, warnings = decode(holding({address: code}))
    assert flat(reading) == {**flat(WHOLE), **dict(zip(row(address).keys, [code, name]))}
    label = {1000: "Chargepoint", 1001: "Charging", 1002: "Equipment", 1004: "Cable"}[address]
    assert f"\n{label + ' State:':20} {name}\n" in vestel.format_human(reading)
    assert warnings == []


SETS_OF_BITS = [[bit] for bit in range(32)]
SETS_OF_BITS += [[0, 4], [1, 16, 31], [*range(28)], [*range(1, 32)]]


@pytest.mark.parametrize("bits", SETS_OF_BITS, ids=str)
def test_faults_have_their_names_in_all_formats(bits: list[int]) -> None:
    code, names = sum(2**bit for bit in bits), [registers.FAULTS[bit] for bit in bits]
    reading, warnings = decode(holding({1006: code}))
    assert changed(reading) == {"states.fault_code": code, "states.faults": names}
    assert warnings == []
    human = vestel.format_human(reading)
    assert f"\nFault Code:          {code} ({', '.join(names)})\n" in human
    active = {f"vestel_fault/{bit}": 1 for bit in bits if bit < 28}
    values = sample_values(vestel.format_prometheus(reading))
    assert values == {**SAMPLES, "vestel_fault_code": code, **active}


@pytest.mark.parametrize(
    ("milliamperes", "phases"),
    [
        *[([15234, 15181, 15257], 3), ([65000, 65000, 65000], 3), ([1000, 999, 1001], 2)],
        *[([14707, 18, 18], 1), ([18, 14707, 18], 1), ([18, 18, 14707], 1), ([0, 0, 0], 0)],
        *[([65001, 15000, 15000], None), ([15000, 65535, 15000], None), ([0, 0, 65535], None)],
    ],
    ids=str,
)
def test_active_phases_carry_an_ampere(milliamperes: list[int], phases: int | None) -> None:
    reading, _ = decode(holding(dict(zip((1008, 1010, 1012), milliamperes))))
    active = reading["electrical"]["active_phases"]
    assert (active, type(active)) == (phases, type(phases))
    shown = "n/a" if phases is None else f"{phases}"
    assert f"\nActive Phases:       {shown}\n" in vestel.format_human(reading)
    assert sample_values(vestel.format_prometheus(reading)).get("vestel_active_phases") == phases


WITH_MAXIMUM = {row.address: row for row in REGISTERS if row.unit in MAXIMUM}
NUMBERS = {row.address: row for row in REGISTERS if row.unit != "text"}


@pytest.mark.parametrize("row", WITH_MAXIMUM.values(), ids=WITH_MAXIMUM)
def test_above_the_maximum_is_null_with_a_warning(row: Row) -> None:
    maximum, keys = MAXIMUM[row.unit], lost_with(row)[0]
    reading, warnings = decode(holding({row.address: maximum}))
    assert None not in [flat(reading)[key] for key in keys]
    assert warnings == []
    reading, (warning,) = decode(holding({row.address: maximum + 1}))
    assert changed(reading) == dict.fromkeys(keys)
    where = rf"\b{row.bank} registers? {span([row])}\b"
    assert re.search(rf"{where}.*\b{maximum + 1} {row.unit}\b", warning)


@pytest.mark.parametrize("row", NUMBERS.values(), ids=NUMBERS)
def test_a_number_of_all_ones_is_null_with_a_warning(row: Row) -> None:
    reading, (warning,) = decode(holding({row.address: len(row.words) * [0xFFFF]}))
    keys, metrics = lost_with(row)
    assert flat(reading) == {**flat(WHOLE), **dict.fromkeys(keys)}
    number = {1: "65535", 2: "4294967295"}[len(row.words)]
    assert re.search(rf"\b{row.bank} registers? {span([row])}\b.*\b{number}\b", warning)
    assert not metrics & sample_values(vestel.format_prometheus(reading)).keys()


Layout = Callable[[str, int], "list[int]"]
LAYOUTS = pytest.mark.parametrize("layout", [wide, packed])


def serial_of(words: list[int]) -> str:
    """Return the serial number that these words are. There is no warning."""
    reading, warnings = decode(holding({100: words}))
    assert warnings == []
    return str(reading["identity"]["serial"])


# fmt: off
TEXTS: dict[str, tuple[list[int], str]] = {
    "empty": ([0] * 25, ""), "all ones": ([0xFFFF] * 25, ""),
    "full": (wide("ABCDEFGHIJKLMNOPQRSTUVWXY", 25), "ABCDEFGHIJKLMNOPQRSTUVWXY"),
    "not ASCII": (wide("Zürich 24 €", 25), "Zürich 24 €"),
    "above 16 bits": (wide("V\ud83d\udd0cE", 25), "V\U0001f50cE"),
    "half a character": (wide("V\ud83dE\udd0c", 25), "VE"),
    "more after a 0": ([*wide("VEST1", 6), *wide("OLD", 19)], "VEST1"),
    "packed, one": (packed("V", 25), "V"), "packed, odd": (packed("VEST-1234", 25), "VEST-1234"),
    "packed, even": (packed("VEST-12345", 25), "VEST-12345"),
    "packed, full": (packed("0123456789" * 5, 25), "0123456789" * 5),
    "packed, not ASCII": (packed("Zürich 24 €", 25), "Zürich 24 €"),
    "packed, not UTF-8": ([0x5645, 0xFFFE, 0x5354, *[0] * 22], "VEST"),
    "packed, after a 0": ([0x5645, 0x5354, 0x3100, 0x4F4C, *[0] * 21], "VEST1"),
}
TRAILING = {
    "VEST1  ": "VEST1", "VEST1".ljust(25): "VEST1", "VEST1 \t \r\n": "VEST1",
    "VEST1 \x1b ": "VEST1", "VEST 1": "VEST 1", "  VEST1": "  VEST1", "   ": "",
}
# fmt: on


@pytest.mark.parametrize(("words", "expected"), TEXTS.values(), ids=[*TEXTS])
def test_text_is_decoded_in_both_layouts(words: list[int], expected: str) -> None:
    assert serial_of(words) == expected


@LAYOUTS
@pytest.mark.parametrize(("held", "expected"), TRAILING.items(), ids=repr)
def test_trailing_blanks_go_and_others_stay(layout: Layout, held: str, expected: str) -> None:
    assert serial_of(layout(held, 25)) == expected


UNRULY = 'A"\\\x1b[31m\nB\r\t\x7f\x85\x9b\u2028\u202eC'
RULY = 'A"\\[31mBC'


@LAYOUTS
def test_unruly_text_stays_one_harmless_token(layout: Layout) -> None:
    reading, _ = decode(holding({100: layout(UNRULY, 25), 130: layout(UNRULY, 50)}))
    assert changed(reading) == {"identity.serial": RULY, "details.chargepoint_id": RULY}
    assert vestel.format_human(reading).count(f" {RULY}\n") == 2
    exposition = vestel.format_prometheus(reading)
    assert sample_values(exposition) == SAMPLES
    assert {labels.get("serial", RULY) for _, labels, _ in samples(exposition)} == {RULY}


CHARACTERS: dict[str, Any] = {"exclude_categories": ["Cs"], "min_codepoint": 1}  # no halves, no 0


@fuzzed
@given(
    held=st.text(st.characters(max_codepoint=0xFFFF, **CHARACTERS), max_size=24),
    short=st.text(st.characters(**CHARACTERS), max_size=12),
)
def test_fuzz_text_keeps_what_is_printable(held: str, short: str) -> None:
    assert serial_of(wide("V" + held, 25)) == ("V" + printable(held)).rstrip(" ")
    assert serial_of(packed("Ve" + short, 25)) == ("Ve" + printable(short)).rstrip(" ")


ADDRESSES = [address for register in REGISTERS for address in register.addresses]


@fuzzed
@given(
    held=st.binary(min_size=2 * len(ADDRESSES), max_size=2 * len(ADDRESSES)),
    mask=st.sampled_from([0xFFFF, 0xFF, 0x1F, 1]),
    missing=st.sets(st.sampled_from(ADDRESSES), max_size=12),
    details=st.booleans(),
)
def test_fuzz_any_words_can_be_shown_in_every_format(
    held: bytes, mask: int, missing: set[tuple[str, int]], details: bool
) -> None:
    pairs = zip(held[::2], held[1::2])
    words = {place: (high * 256 + low) & mask for place, (high, low) in zip(ADDRESSES, pairs)}
    known = {place: word for place, word in words.items() if place not in missing}
    reading, warnings = decode(known, details)
    assert [*flat(reading)] == [*flat(decode({}, details)[0])]
    human, line = vestel.format_human(reading), vestel.format_json(reading)
    exposition = vestel.format_prometheus(reading)
    assert json.loads(line) == json.loads(vestel.format_json(reading, 2)) == reading
    assert line.count("\n") == 1
    assert {"vestel_up"} <= sample_values(exposition).keys() <= SAMPLES.keys()
    lines = [part for shown in (human, line, exposition) for part in shown.split("\n")]
    assert [*map(printable, warnings + lines)] == warnings + lines

"""Texts of the charger: both layouts, what is left out, and that none steers a terminal."""

from __future__ import annotations

from typing import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from program import fuzzed
from readings import changed, decode, holding, printable, sample_values, samples
from registers import SAMPLES, packed, text

import vestel

Layout = Callable[[str, int], "list[int]"]
LAYOUTS = pytest.mark.parametrize("layout", [text, packed])


def serial_of(words: list[int]) -> str:
    """Return the serial number that these words are. There is no warning."""
    reading, warnings = decode(holding({100: words}))
    assert warnings == []
    return str(reading["identity"]["serial"])


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
        pytest.param([0xFFFF] * 25, "", id="all ones"),
        pytest.param([0x5645, 0xFFFE, 0x5354, *[0] * 22], "VEST", id="packed, not UTF-8"),
        pytest.param([*text("VEST1", 6), *text("OLD", 19)], "VEST1", id="more after a 0"),
        pytest.param([0x5645, 0x5354, 0x3100, 0x4F4C, *[0] * 21], "VEST1", id="packed, after a 0"),
    ],
)
def test_text_is_decoded_in_both_layouts(words: list[int], expected: str) -> None:
    assert serial_of(words) == expected


@LAYOUTS
@pytest.mark.parametrize(
    ("held", "expected"),
    [
        ("VEST1  ", "VEST1"),
        ("VEST1".ljust(25), "VEST1"),
        ("VEST1 \t \r\n", "VEST1"),
        ("VEST1 \x1b ", "VEST1"),
        ("VEST 1", "VEST 1"),
        ("  VEST1", "  VEST1"),
        ("   ", ""),
    ],
    ids=repr,
)
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


CHARACTERS = st.characters(min_codepoint=1, max_codepoint=0xFFFF, exclude_categories=["Cs"])


@fuzzed
@given(held=st.text(CHARACTERS, max_size=24))
def test_fuzz_text_keeps_what_is_printable(held: str) -> None:
    assert serial_of(text("V" + held, 25)) == ("V" + printable(held)).rstrip(" ")


@fuzzed
@given(held=st.text(st.characters(min_codepoint=1, exclude_categories=["Cs"]), max_size=12))
def test_fuzz_packed_text_keeps_what_is_printable(held: str) -> None:
    assert serial_of(packed("Ve" + held, 25)) == ("Ve" + printable(held)).rstrip(" ")

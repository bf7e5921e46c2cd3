"""What may be written: the charger's own limits, and nothing where they are not known."""

from __future__ import annotations

import re

import pytest
from conftest import Clock, Result, Run
from faults import played
from registers import range_of, span
from simulated_charger import HOLDING, INPUT, SimulatedCharger, exception

pytestmark = pytest.mark.every_version

BOTH, ONLY_DYNAMIC, ONLY_FAILSAFE = "--set-current", "--set-dynamic-current", "--set-failsafe-current"
OPTIONS = [BOTH, ONLY_DYNAMIC, ONLY_FAILSAFE]
DYNAMIC, FAILSAFE = 5004, 2000  # 16 A and 10 A, before anything is written
LIMITS = span(range_of(1100))


def assert_nothing_was_written(result: Result[str], charger: SimulatedCharger, *patterns: str) -> None:
    """One ERROR line that says so, nothing on stdout, and nothing in the box's log of writes."""
    assert charger.writes == []
    assert (result.returncode, result.stdout) == (3, "")
    (line,) = result.stderr.splitlines()
    for pattern in ("^ERROR: failed writing current: ", "nothing was written", *patterns):
        assert re.search(pattern, line), f"{pattern!r} is not in {line!r}"


# --- The command line ---------------------------------------------------------------------------


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize(
    "value",
    ["ten", "16A", "16.5", "16.0", "-5", "-0", "65536", "99999999999", "9" * 5000, "1e1", "0x10", "", " ",
     "+16", "nan", "inf", "1_6", "\u0661\u0666", "16,5"],
)  # fmt: skip
def test_what_is_no_whole_number_of_16_bits_is_a_usage_error(
    call: Run, charger: SimulatedCharger, option: str, value: str
) -> None:
    result = call(f"{option}={value}", charger=charger)
    assert (result.returncode, result.stdout) == (2, "")
    assert option in result.stderr
    assert "Traceback" not in result.stderr
    assert (charger.writes, charger.connections) == ([], 0)


@pytest.mark.parametrize("option", OPTIONS)
def test_a_negative_number_that_stands_apart_is_a_usage_error(
    call: Run, charger: SimulatedCharger, option: str
) -> None:
    result = call(option, "-5", charger=charger)
    assert (result.returncode, result.stdout, charger.connections) == (2, "", 0)


@pytest.mark.parametrize("other", [ONLY_DYNAMIC, ONLY_FAILSAFE])
def test_set_current_goes_with_neither_of_the_others(
    call: Run, charger: SimulatedCharger, other: str
) -> None:
    result = call(BOTH, "10", other, "10", charger=charger)
    assert (result.returncode, result.stdout, charger.connections) == (2, "", 0)


# --- Limits that are known ------------------------------------------------------------------------


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("amps", ["1", "3", "5", "33", "40", "100", "65535"])
def test_what_the_charger_does_not_take_never_reaches_it(
    call: Run, charger: SimulatedCharger, option: str, amps: str
) -> None:
    result = call(option, amps, "--format=json", charger=charger)
    standing = {ONLY_FAILSAFE: "10 A"}.get(option, "16 A")
    what = rf"\b{amps} A is out of range: .*\b0 \(pauses charging\) or 6 to 32 A\b.*\bstays {standing}"
    assert_nothing_was_written(result, charger, what)


MISSING = None
TOLD_AND_TAKEN = {  # 1102, 1104, and what stands: from, to
    "as told": (6, 32, 6, 32),
    "narrow": (8, 20, 8, 20),
    "one value": (16, 16, 16, 16),
    "the most that can be": (6, 65, 6, 65),
    "both missing": (MISSING, MISSING, 6, 32),
    "minimum missing": (MISSING, 16, 6, 16),
    "minimum missing, maximum below 6": (MISSING, 5, 5, 5),
    "maximum missing": (10, MISSING, 10, 32),
    "both 0": (0, 0, 6, 32),
    "minimum 0": (0, 20, 6, 20),
    "maximum 0": (8, 0, 8, 32),
    "maximum absurd": (8, 66, 8, 32),
    "minimum absurd": (66, 20, 6, 20),
    "both absurd": (65535, 65535, 6, 32),
    "minimum above the maximum": (20, 10, 6, 32),
}


@pytest.mark.parametrize(("minimum", "maximum", "low", "high"), TOLD_AND_TAKEN.values(), ids=TOLD_AND_TAKEN)
def test_the_charger_s_own_limits_count_and_6_to_32_where_it_tells_none(
    call: Run, charger: SimulatedCharger, minimum: int | None, maximum: int | None, low: int, high: int
) -> None:
    for address, limit in ((1102, minimum), (1104, maximum)):
        if limit is MISSING:
            charger.missing.add((INPUT, address))
        else:
            charger.set(INPUT, address, limit)
    for amps in (low - 1, high + 1):
        result = call(ONLY_DYNAMIC, str(amps), charger=charger)
        assert_nothing_was_written(result, charger, rf"\b{low} to {high} A\b")
    for amps in (low, high, 0):
        assert call(ONLY_DYNAMIC, str(amps), charger=charger).returncode == 0
    assert charger.writes == [(DYNAMIC, low), (DYNAMIC, high), (DYNAMIC, 0)]


@pytest.mark.parametrize(
    ("dynamic", "failsafe"), [("33", "8"), ("20", "5"), ("5", "33"), ("0", "40"), ("40", "0")]
)
def test_where_one_of_two_is_out_of_range_neither_is_written(
    call: Run, charger: SimulatedCharger, dynamic: str, failsafe: str
) -> None:
    result = call(ONLY_DYNAMIC, dynamic, ONLY_FAILSAFE, failsafe, charger=charger)
    assert_nothing_was_written(result, charger, r"\b6 to 32 A\b")


@pytest.mark.parametrize("amps", ["3", "40"])
def test_the_demo_has_limits_too(call: Run, amps: str) -> None:
    result = call("--demo", BOTH, amps)
    assert (result.returncode, result.stdout) == (3, "")
    assert re.search(r"\b6 to 32 A\b.*nothing was written", result.stderr)


# --- Limits that cannot be read -------------------------------------------------------------------


@pytest.fixture
def box_of_16_a(charger: SimulatedCharger) -> SimulatedCharger:
    """A charger that takes 6 to 16 A: one that is given 32 A may set a house on fire."""
    charger.set(INPUT, 1104, 16)
    return charger


# Where it is played: at the range, or where firmware with holes has its values read one by one.
PLACES = {"range": 1100, "minimum": 1102, "maximum": 1104}
WHY = {  # a fault, and what is said of it
    "exception 4": r"exception 4 \(device failure\)",
    "exception 5": r"exception 5 \(acknowledge",
    "exception 6": r"exception 6 \(device busy\)",
    "exception 7": r"exception 7 \(negative acknowledge\)",
    "exception 8": r"exception 8 \(memory parity error\)",
    "exception 9": "exception 9 ",
    "exception 10": r"exception 10 \(gateway path unavailable\)",
    "exception 11": r"exception 11 \(gateway target",
    "exception 255": "exception 255 ",
    "exception 0": "a malformed reply",
    "silence": r"no reply within 0\.2 s",
    "reset": "the charger closed the connection.* another master .*failsafe timeout",
    "close": "the charger closed the connection.* another master .*failsafe timeout",
    "short": "a reply of the wrong length",
    "other transaction": "a reply to another request",
}


@pytest.mark.parametrize("address", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize("name", WHY)
def test_without_limits_nothing_is_written(
    call: Run, box_of_16_a: SimulatedCharger, clock: Clock, name: str, address: int
) -> None:
    if address != 1100:
        box_of_16_a.fault(exception(2), address=1100)
    with played(box_of_16_a, name, address=address):
        result = call(BOTH, "32", charger=box_of_16_a)
    why = rf"Cannot read the charger's limits \(input registers {LIMITS}\): {WHY[name]}"
    assert_nothing_was_written(result, box_of_16_a, why)


@pytest.mark.parametrize("name", ["exception 10", "silence"])
def test_the_unit_is_hinted_at_where_nothing_was_answered_and_only_there(
    call: Run, box_of_16_a: SimulatedCharger, name: str
) -> None:
    with played(box_of_16_a, name, address=1100):
        assert "; try --unit 255" in call(BOTH, "12", charger=box_of_16_a).stderr
    box_of_16_a.faults.clear()
    box_of_16_a.fault(exception(2), address=1100)
    with played(box_of_16_a, name, address=1102):
        assert "--unit" not in call(BOTH, "12", charger=box_of_16_a).stderr


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("amps", ["0", "6", "16", "32"])
def test_without_limits_no_current_is_written_be_it_ever_so_low(
    call: Run, box_of_16_a: SimulatedCharger, option: str, amps: str
) -> None:
    box_of_16_a.fault(exception(4), address=1100)
    assert_nothing_was_written(call(option, amps, charger=box_of_16_a), box_of_16_a)


@pytest.mark.parametrize("code", [1, 2, 3])
def test_firmware_that_does_not_offer_its_limits_takes_6_to_32(
    call: Run, box_of_16_a: SimulatedCharger, code: int
) -> None:
    for address in (1100, 1102, 1104, 1106):
        box_of_16_a.fault(exception(code), address=address)
    for amps in ("5", "33"):
        assert_nothing_was_written(call(BOTH, amps, charger=box_of_16_a), box_of_16_a, r"\b6 to 32 A\b")
    assert call(BOTH, "32", charger=box_of_16_a).returncode == 0
    assert box_of_16_a.writes == [(DYNAMIC, 32), (FAILSAFE, 32)]


@pytest.mark.parametrize("code", [1, 2, 3])
def test_a_limit_that_the_firmware_offers_counts_where_it_lacks_the_other(
    call: Run, box_of_16_a: SimulatedCharger, code: int
) -> None:
    box_of_16_a.fault(exception(code), address=1100, times=1)
    box_of_16_a.fault(exception(code), address=1102, times=1)
    assert_nothing_was_written(call(BOTH, "17", charger=box_of_16_a), box_of_16_a, r"\b6 to 16 A\b")


@pytest.mark.parametrize("address", [1100, 1106])
def test_what_is_no_limit_of_the_charger_need_not_be_read(
    call: Run, box_of_16_a: SimulatedCharger, address: int
) -> None:
    box_of_16_a.fault(exception(2), address=1100, times=1)
    box_of_16_a.fault(exception(4), address=address)
    result = call(BOTH, "16", charger=box_of_16_a)
    assert (result.returncode, box_of_16_a.writes) == (0, [(DYNAMIC, 16), (FAILSAFE, 16)])


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("code", [5, 6])
def test_limits_of_a_charger_that_is_busy_for_a_moment_are_waited_for(
    call: Run, box_of_16_a: SimulatedCharger, clock: Clock, code: int, times: int
) -> None:
    box_of_16_a.fault(exception(code), address=1100, times=times)
    assert_nothing_was_written(call(BOTH, "17", charger=box_of_16_a), box_of_16_a, r"\b6 to 16 A\b")


def test_limits_that_come_at_the_second_try_count(call: Run, box_of_16_a: SimulatedCharger) -> None:
    box_of_16_a.fault("reset", address=1100, times=1)
    assert_nothing_was_written(call(BOTH, "17", charger=box_of_16_a), box_of_16_a, r"\b6 to 16 A\b")
    assert call(BOTH, "16", charger=box_of_16_a).returncode == 0


# --- What is set cannot be read -------------------------------------------------------------------


@pytest.mark.parametrize("address", [DYNAMIC, FAILSAFE])
@pytest.mark.parametrize("name", ["silence", "reset", "close", "short"])
def test_nothing_is_written_where_what_is_set_now_gets_no_reply(
    call: Run, charger: SimulatedCharger, name: str, address: int
) -> None:
    with played(charger, name, address=address):
        result = call(BOTH, "20", charger=charger)
    assert_nothing_was_written(result, charger, rf"Cannot read holding register {address}: {WHY[name]}")


def test_what_is_set_now_is_unknown_where_the_charger_refuses_to_tell(
    call: Run, charger: SimulatedCharger
) -> None:
    charger.fault(exception(4), address=DYNAMIC, function=3, times=1)
    result = call(ONLY_DYNAMIC, "20", charger=charger)
    assert (result.returncode, result.stderr) == (0, "Dynamic current: unknown -> 20 A\n")
    assert charger.image[HOLDING, DYNAMIC] == 20


@pytest.mark.parametrize("code", [1, 2, 3])
def test_a_register_that_the_firmware_does_not_know_is_not_written(
    call: Run, charger: SimulatedCharger, code: int
) -> None:
    """It would be confirmed by its neighbour where `--base` is wrong."""
    charger.fault(exception(code), address=DYNAMIC)
    result = call(BOTH, "12", charger=charger)
    assert_nothing_was_written(result, charger, "Cannot read holding register 5004: exception")


def test_a_wrong_base_confirms_no_current(call: Run, charger: SimulatedCharger) -> None:
    result = call(BOTH, "12", "--base=1", charger=charger)
    assert_nothing_was_written(result, charger, "exception 2", "--base 0")

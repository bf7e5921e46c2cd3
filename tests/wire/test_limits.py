"""What may be written: the charger's own limits, and nothing where they are not known."""

from __future__ import annotations

import re

import pytest
from charger import GARBAGE, RESET, SILENCE, Outcome, SimulatedCharger
from clock import Clock
from conftest import Memory
from program import Result, Run
from registers import DYNAMIC, FAILSAFE, INPUT

BOTH, ONLY_DYNAMIC = "--set-current", "--set-dynamic-current"
ONLY_FAILSAFE, SET_TIMEOUT = "--set-failsafe-current", "--set-failsafe-timeout"
CURRENTS = [BOTH, ONLY_DYNAMIC, ONLY_FAILSAFE]
EVSE_MIN, EVSE_MAX = 1102, 1104
MISSING = None  # the firmware lacks the register


@pytest.fixture
def box(memory: Memory, clock: Clock) -> Memory:
    """Give a charger in memory, in simulated time; 16 A and 10 A are set, and 21 s."""
    memory.clock = clock
    return memory


@pytest.fixture
def box_of_16_a(box: Memory) -> Memory:
    """Give a charger that takes 6 to 16 A: one that is given 32 A may set a house on fire."""
    box.set(EVSE_MAX, 16, bank=INPUT)
    return box


def limit(box: SimulatedCharger, address: int, amperes: int | None) -> None:
    if amperes is MISSING:
        box.lack(address)
    else:
        box.set(address, amperes, bank=INPUT)


def assert_nothing_was_written(
    result: Result[str], box: SimulatedCharger, *patterns: str, noun: str = "current"
) -> None:
    """One ERROR line that says so, nothing on stdout, and nothing in the box's log of writes."""
    assert box.writes == []
    assert (result.returncode, result.stdout) == (3, "")
    (line,) = result.stderr.splitlines()
    for pattern in (f"^ERROR: failed writing {noun}: ", "; nothing was written$", *patterns):
        assert re.search(pattern, line), f"{pattern!r} is not in {line!r}"


# --- Limits that are known ----------------------------------------------------------------------


@pytest.mark.parametrize("option", CURRENTS)
@pytest.mark.parametrize("amperes", ["1", "5", "33", "100", "65535"])
def test_what_the_charger_does_not_take_never_reaches_it(
    call: Run, box: Memory, option: str, amperes: str
) -> None:
    result = call("--ip=box", option, amperes)
    label = "failsafe" if option == ONLY_FAILSAFE else "dynamic"
    takes = r"this charger takes 0 \(pauses charging\) or 6 to 32 A"
    assert_nothing_was_written(
        result, box, f"{label} current {amperes} A is out of range: {takes};"
    )


LIMITS: dict[str, tuple[int | None, int | None, int, int, bool]] = {
    # 1102, 1104; what is taken: from, to; whether the maximum is the charger's own
    "as told": (6, 32, 6, 32, True),
    "narrow": (8, 20, 8, 20, True),
    "one value": (16, 16, 16, 16, True),
    "the most that can be": (6, 65, 6, 65, True),
    "the least that can be": (1, 1, 1, 1, True),
    "both missing": (MISSING, MISSING, 6, 32, False),
    "minimum missing": (MISSING, 16, 6, 16, True),
    "minimum missing, maximum below 6": (MISSING, 5, 5, 5, True),
    "maximum missing": (10, MISSING, 10, 32, False),
    "minimum 0": (0, 20, 6, 20, True),
    "minimum 0, maximum below 6": (0, 5, 5, 5, True),
    "maximum 0": (8, 0, 8, 32, False),
    "minimum 0, maximum missing": (0, MISSING, 6, 32, False),
    "minimum missing, maximum 0": (MISSING, 0, 6, 32, False),
    "maximum absurd": (8, 66, 8, 32, False),
    "minimum absurd": (66, 20, 6, 20, True),
    "both absurd": (65535, 65535, 6, 32, False),
    "minimum above the maximum": (16, 10, 6, 10, True),
    "minimum above a maximum below 6": (16, 4, 4, 4, True),
    "minimum above 32, maximum 0": (40, 0, 6, 32, False),
}
NO_MAXIMUM = (
    "WARNING: the charger does not say its maximum current (input register 1104): "
    "32 A is taken for it"
)


@pytest.mark.parametrize("name", LIMITS)
def test_limits_are_the_charger_s_own_else_6_to_32(call: Run, box: Memory, name: str) -> None:
    minimum, maximum, low, high, is_own = LIMITS[name]
    limit(box, EVSE_MIN, minimum)
    limit(box, EVSE_MAX, maximum)
    for amperes in (low - 1, high + 1):
        if amperes:
            result = call("--ip=box", ONLY_DYNAMIC, str(amperes))
            assert_nothing_was_written(result, box, rf"\b{low} to {high} A\b")
    for amperes in (low, high, 0):
        result = call("--ip=box", ONLY_DYNAMIC, str(amperes))
        assert result.returncode == 0
        assert [line for line in result.stderr.splitlines() if "maximum" in line] == (
            [] if is_own else [NO_MAXIMUM]
        )
    assert box.writes == [(DYNAMIC, low), (DYNAMIC, high), (DYNAMIC, 0)]


@pytest.mark.parametrize("code", [1, 2, 3])
def test_firmware_that_lacks_its_limits_takes_6_to_32(call: Run, box: Memory, code: int) -> None:
    box.fault(code, 1100, 1102, 1104, 1106)
    assert_nothing_was_written(call("--ip=box", BOTH, "33"), box, r"\b6 to 32 A\b")
    result = call("--ip=box", BOTH, "32")
    assert (result.returncode, box.writes) == (0, [(DYNAMIC, 32), (FAILSAFE, 32)])
    assert result.stderr.startswith(NO_MAXIMUM)


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ([ONLY_DYNAMIC, "33", ONLY_FAILSAFE, "8"], "dynamic current 33 A"),
        ([ONLY_DYNAMIC, "20", ONLY_FAILSAFE, "5"], "failsafe current 5 A"),
        ([ONLY_DYNAMIC, "0", ONLY_FAILSAFE, "40"], "failsafe current 40 A"),
        ([SET_TIMEOUT, "30", BOTH, "40"], "dynamic current 40 A"),
    ],
)
def test_where_one_value_is_out_of_range_none_is_written(
    call: Run, box: Memory, options: list[str], names: str
) -> None:
    result = call("--ip=box", *options)
    assert_nothing_was_written(result, box, rf"{names} is out of range: .*\b6 to 32 A\b")


# --- A wrong base -------------------------------------------------------------------------------

READ_0 = (
    r"the charger's minimum and maximum current \(input registers 1102 and 1104\) read 0, "
    "as they do where --base is wrong;"
)


@pytest.mark.parametrize(("base", "option"), [(0, ["--base=1"]), (1, [])], ids=["1", "0"])
@pytest.mark.parametrize("accepts_all", [False, True], ids=["usual", "accepts all"])
def test_with_a_wrong_base_nothing_is_written(
    call: Run, box: Memory, base: int, option: list[str], accepts_all: bool
) -> None:
    """A box may answer 0 for registers that it does not know, and keep what is written there."""
    box.base, box.accepts_all = base, accepts_all
    result = call("--ip=box", *option, BOTH, "32")
    assert_nothing_was_written(result, box, READ_0)
    result = call("--ip=box", *option, SET_TIMEOUT, "30")
    assert_nothing_was_written(result, box, READ_0, noun="timeout")


@pytest.mark.parametrize("setting", [[BOTH, "0"], [BOTH, "6"], [SET_TIMEOUT, "30"]])
def test_limits_that_both_read_0_forbid_all_writing(
    call: Run, box: Memory, setting: list[str]
) -> None:
    limit(box, EVSE_MIN, 0)
    limit(box, EVSE_MAX, 0)
    noun = "timeout" if SET_TIMEOUT in setting else "current"
    assert_nothing_was_written(call("--ip=box", *setting), box, READ_0, noun=noun)


# --- Limits that cannot be read -----------------------------------------------------------------

WHY: dict[str, tuple[Outcome, str]] = {
    "exception 4": (4, r"exception 4 \(device failure\); try again later"),
    "exception 5": (5, r"exception 5 \(acknowledge: still working on it\); try again later"),
    "exception 6": (6, r"exception 6 \(device busy\); try again later"),
    "exception 7": (7, r"exception 7 \(negative acknowledge\)"),
    "exception 8": (8, r"exception 8 \(memory parity error\)"),
    "exception 9": (9, "exception 9 "),
    "exception 10": (10, r"exception 10 \(gateway path unavailable\)"),
    "exception 11": (11, r"exception 11 \(gateway target does not respond\)"),
    "exception 255": (255, "exception 255 "),
    "silence": (SILENCE, "no reply within 2 s"),
    "reset": (RESET, "the charger closed the connection"),
    "no Modbus": (GARBAGE, "a reply that is no"),
}
# Where it happens: at the range, or where the values are read one by one.
PLACES = {"range": 1100, "minimum": 1102, "maximum": 1104}


@pytest.mark.parametrize("address", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize(("outcome", "why"), WHY.values(), ids=WHY)
def test_without_limits_nothing_is_written(
    call: Run, box_of_16_a: Memory, outcome: Outcome, why: str, address: int
) -> None:
    if address != 1100:
        box_of_16_a.fault(2, 1100)
    box_of_16_a.fault(outcome, address)
    result = call("--ip=box", BOTH, "0", SET_TIMEOUT, "30")
    where = f"input register {max(address, 1102)}"
    assert_nothing_was_written(
        result, box_of_16_a, rf"Cannot read the charger's limits \({where}\): {why}"
    )


@pytest.mark.parametrize("address", [1100, 1106])
def test_what_is_no_limit_need_not_be_read(call: Run, box_of_16_a: Memory, address: int) -> None:
    box_of_16_a.fault(2, 1100, times=1)
    box_of_16_a.fault(4, address)
    assert call("--ip=box", BOTH, "16").returncode == 0
    assert box_of_16_a.writes == [(DYNAMIC, 16), (FAILSAFE, 16)]


@pytest.mark.parametrize("outcome", [5, 6, SILENCE, RESET])
def test_limits_that_come_at_the_second_try_count(
    call: Run, box_of_16_a: Memory, outcome: Outcome
) -> None:
    box_of_16_a.fault(outcome, 1100, times=1)
    assert_nothing_was_written(call("--ip=box", BOTH, "17"), box_of_16_a, r"\b6 to 16 A\b")
    box_of_16_a.fault(outcome, 1100, times=1)
    assert call("--ip=box", BOTH, "16").returncode == 0


# --- The charger is not there -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("away", "why", "seconds"),
    [
        ("refused", "connection refused", 0),
        ("dead", "no answer within 2 s", 2),
        ("resets", "the charger closed the connection", 0),
    ],
)
def test_without_a_connection_nothing_is_written(
    call: Run, box: Memory, clock: Clock, away: str, why: str, seconds: float
) -> None:
    box.away = away
    assert_nothing_was_written(call("--ip=box", BOTH, "10"), box, why)
    assert (len(box.requests), clock.passed) == (0, seconds)


def test_a_charger_that_vanishes_before_a_write_has_one_line(call: Run, box: Memory) -> None:
    box.fault(box.vanish, FAILSAFE)
    result = call("--ip=box", BOTH, "10", SET_TIMEOUT, "30")
    assert_nothing_was_written(result, box, "Cannot connect to the box: connection refused")


# --- Hints --------------------------------------------------------------------------------------


@pytest.mark.every_version
def test_the_unit_is_a_hint_only_where_nothing_was_read(
    call: Run, charger: SimulatedCharger
) -> None:
    charger.fault(11, 1100)
    assert "; try --unit 255; nothing" in call(BOTH, "12", charger=charger).stderr
    charger.fault(2, 1100, times=1)
    charger.faults.reverse()
    charger.fault(11, 1102)
    assert "--unit" not in call(BOTH, "12", charger=charger).stderr
    charger.forget()
    charger.fault(2, 2000, write=False)
    stderr = call(ONLY_FAILSAFE, "12", charger=charger).stderr
    assert "Cannot read holding register 2000: exception 2 (illegal data address)" in stderr
    assert not re.search("--unit|--base", stderr)


@pytest.mark.every_version
def test_where_nothing_was_read_the_base_is_a_hint(call: Run, charger: SimulatedCharger) -> None:
    charger.refuses_gaps = True
    result = call("--base=1", ONLY_DYNAMIC, "32", charger=charger)
    assert (result.returncode, charger.writes) == (3, [])
    why = "exception 2 (illegal data address); try --unit 255 or --base 0; not written"
    assert result.stderr.splitlines() == [
        NO_MAXIMUM,
        f"ERROR: failed writing current: Cannot read holding register 5004: {why}",
    ]

"""What may be written: the charger's own limits, and nothing where they are not known."""

from __future__ import annotations

import re
from typing import Any, Callable

import pytest
from charger import GARBAGE, RESET, SILENCE, Outcome, SimulatedCharger
from clock import Clock
from conftest import Memory
from faults import EXCEPTION
from program import Result, Run
from registers import DYNAMIC, EVSE_MAX, EVSE_MIN, FAILSAFE, INPUT

pytestmark = pytest.mark.usefixtures("clock")

BOTH, ONLY_DYNAMIC = "--set-current", "--set-dynamic-current"
ONLY_FAILSAFE, SET_TIMEOUT = "--set-failsafe-current", "--set-failsafe-timeout"
MISSING = None  # the firmware lacks the register


def limit(box: SimulatedCharger, minimum: int | None, maximum: int | None) -> None:
    for address, amperes in ((EVSE_MIN, minimum), (EVSE_MAX, maximum)):
        if amperes is MISSING:
            box.lack(address)
        else:
            box.set(address, amperes, bank=INPUT)


@pytest.fixture
def box_of_16_a(memory: Memory) -> Memory:
    """Give a charger that takes 6 to 16 A: one that is given 32 A may set a house on fire."""
    limit(memory, 6, 16)
    return memory


def assert_nothing_was_written(result: Result[str], box: SimulatedCharger, why: str) -> None:
    """One ERROR line that says so, nothing on stdout, and nothing in the box's log of writes."""
    assert box.writes == []
    assert (result.returncode, result.stdout) == (3, "")
    noun = "timeout" if result.args[-2] == SET_TIMEOUT and BOTH not in result.args else "current"
    line = rf"ERROR: failed writing {noun}: .*{why}.*; nothing was written\n"
    assert re.fullmatch(line, result.stderr), result.stderr


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
def test_limits_are_the_charger_s_own_else_6_to_32(call: Run, memory: Memory, name: str) -> None:
    minimum, maximum, low, high, is_own = LIMITS[name]
    limit(memory, minimum, maximum)
    for amperes in {low - 1, high + 1} - {0}:
        result = call("--ip=box", ONLY_DYNAMIC, str(amperes))
        takes = rf"this charger takes 0 \(pauses charging\) or {low} to {high} A"
        why = f"dynamic current {amperes} A is out of range: {takes}"
        assert_nothing_was_written(result, memory, why)
    for amperes in (low, high, 0):
        result = call("--ip=box", ONLY_DYNAMIC, str(amperes))
        assert result.returncode == 0
        warnings = [line for line in result.stderr.splitlines() if "maximum" in line]
        assert warnings == ([] if is_own else [NO_MAXIMUM])
    assert memory.writes == [(DYNAMIC, low), (DYNAMIC, high), (DYNAMIC, 0)]


@pytest.mark.parametrize("code", [1, 2, 3])
def test_firmware_that_lacks_its_limits_takes_6_to_32(call: Run, memory: Memory, code: int) -> None:
    memory.fault(code, 1100, 1102, 1104, 1106)
    assert_nothing_was_written(call("--ip=box", BOTH, "33"), memory, " or 6 to 32 A")
    result = call("--ip=box", BOTH, "32")
    assert (result.returncode, memory.writes) == (0, [(DYNAMIC, 32), (FAILSAFE, 32)])
    assert result.stderr.startswith(NO_MAXIMUM)


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ([BOTH, "1"], "dynamic current 1 A"),
        ([ONLY_FAILSAFE, "33"], "failsafe current 33 A"),
        ([ONLY_FAILSAFE, "65535"], "failsafe current 65535 A"),
        ([ONLY_DYNAMIC, "33", ONLY_FAILSAFE, "8"], "dynamic current 33 A"),
        ([ONLY_DYNAMIC, "20", ONLY_FAILSAFE, "5"], "failsafe current 5 A"),
        ([ONLY_DYNAMIC, "0", ONLY_FAILSAFE, "40"], "failsafe current 40 A"),
        ([SET_TIMEOUT, "30", BOTH, "40"], "dynamic current 40 A"),
    ],
)
def test_where_one_value_is_out_of_range_none_is_written(
    call: Run, memory: Memory, options: list[str], names: str
) -> None:
    result = call("--ip=box", *options)
    assert_nothing_was_written(result, memory, f"{names} is out of range: .* or 6 to 32 A")


@pytest.mark.parametrize(
    ("base", "option"), [(0, ["--base=1"]), (1, []), (0, [])], ids=["1", "0", "limits of 0"]
)
@pytest.mark.parametrize("accepts_all", [False, True], ids=["usual", "accepts all"])
@pytest.mark.parametrize(
    "setting", [[BOTH, "0"], [BOTH, "6"], [BOTH, "32"], [SET_TIMEOUT, "30"]], ids=" ".join
)
def test_limits_that_both_read_0_forbid_all_writing(
    call: Run, memory: Memory, base: int, option: list[str], accepts_all: bool, setting: list[str]
) -> None:
    """A box may answer 0 for registers that it does not know, and keep what is written there."""
    memory.base, memory.accepts_all = base, accepts_all
    if not (base or option):
        limit(memory, 0, 0)
    both = r"the charger's minimum and maximum current \(input registers 1102 and 1104\)"
    why = f"{both} read 0, as they do where --base is wrong"
    assert_nothing_was_written(call("--ip=box", *option, *setting), memory, why)


WHY: dict[Outcome, str] = {
    **{code: re.escape(EXCEPTION[code]) for code in (4, 5, 6, 7, 8, 9, 10, 11, 255)},
    SILENCE: "no reply within 2 s",
    RESET: "the charger closed the connection",
    GARBAGE: "a reply that is no",
}


@pytest.mark.parametrize("address", [1100, 1102, 1104], ids=["range", "minimum", "maximum"])
@pytest.mark.parametrize("outcome", WHY)
def test_without_limits_nothing_is_written(
    call: Run, box_of_16_a: Memory, outcome: Outcome, address: int
) -> None:
    if address != 1100:
        box_of_16_a.fault(2, 1100)  # then the values are read one by one
    box_of_16_a.fault(outcome, address)
    result = call("--ip=box", BOTH, "0", SET_TIMEOUT, "30")
    limits = rf"Cannot read the charger's limits \(input register {max(address, 1102)}\)"
    later = "; try again later" if outcome in (4, 5, 6) else ""
    assert_nothing_was_written(result, box_of_16_a, f"{limits}: {WHY[outcome]}{later}")


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
    assert_nothing_was_written(call("--ip=box", BOTH, "17"), box_of_16_a, " or 6 to 16 A")
    box_of_16_a.fault(outcome, 1100, times=1)
    assert call("--ip=box", BOTH, "16").returncode == 0


REFUSED = "Cannot connect to the box: connection refused"


@pytest.mark.parametrize(
    ("happens", "why", "seconds"),
    [
        (lambda box: setattr(box, "away", "refused"), REFUSED, 0),
        (lambda box: setattr(box, "away", "dead"), "no answer within 2 s", 2),
        (lambda box: setattr(box, "away", "resets"), "the charger closed the connection", 0),
        (lambda box: box.fault(box.vanish, FAILSAFE), REFUSED, 0),
    ],
    ids=["refused", "dead", "resets", "vanishes before a write"],
)
def test_without_a_connection_nothing_is_written(
    call: Run, memory: Memory, clock: Clock, happens: Callable[[Any], Any], why: str, seconds: int
) -> None:
    happens(memory)
    assert_nothing_was_written(call("--ip=box", BOTH, "10", SET_TIMEOUT, "30"), memory, why)
    assert clock.passed == seconds


def test_box_that_is_booting_is_not_set(call: Run, box_of_16_a: Memory) -> None:
    box_of_16_a.fault(2, bank=INPUT)
    result = call("--ip=box", ONLY_DYNAMIC, "32")
    assert_nothing_was_written(result, box_of_16_a, "Cannot read the charger's limits")


SETUP_HINT = "nothing was read yet: --unit (1 or 255) or --base may be wrong"


@pytest.mark.every_version
def test_unit_and_base_are_hints_only_where_nothing_was_read(
    call: Run, charger: SimulatedCharger
) -> None:
    charger.fault(11)
    assert f"; {SETUP_HINT}; nothing" in call(BOTH, "12", charger=charger).stderr
    charger.forget()
    charger.fault(2, 2000, write=False)
    stderr = call(ONLY_FAILSAFE, "12", charger=charger).stderr
    assert f"Cannot read holding register 2000: {EXCEPTION[2]}; not written\n" in stderr
    charger.forget()
    charger.refuses_gaps = True
    result = call("--base=1", ONLY_DYNAMIC, "32", charger=charger)
    assert_nothing_was_written(result, charger, re.escape(f"{EXCEPTION[2]}; {SETUP_HINT}"))

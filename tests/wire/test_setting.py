"""Setting values: what reaches the charger, what is believed, and what the user is told."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import math
import re
from typing import Any, Iterator

import pytest
from charger import RESET, SILENCE, Outcome, SimulatedCharger
from clock import Clock
from conftest import Memory
from door import listening
from faults import EXCEPTIONS, HARMLESS, NAMES, cells, playing
from program import Result, Run, target
from registers import CABLE, DYNAMIC, FAILSAFE, INPUT, READING, TIMEOUT

import vestel

pytestmark = pytest.mark.usefixtures("clock")

BOTH, ONLY_DYNAMIC = "--set-current", "--set-dynamic-current"
ONLY_FAILSAFE, SET_TIMEOUT = "--set-failsafe-current", "--set-failsafe-timeout"
# 16 A, 10 A and 21 s are set before anything is written.
DYNAMIC_LINE, FAILSAFE_LINE = "Dynamic current: 16 A -> 12 A", "Failsafe current: 10 A -> 12 A"
TIMEOUT_LINE = "Failsafe timeout: 21 s -> 30 s"
FAILED, TIMEOUT_FAILED = "ERROR: failed writing current: ", "ERROR: failed writing timeout: "
ALL = BOTH, "12", SET_TIMEOUT, "30"


def assert_said(result: Result[str], code: int, *patterns: str) -> None:
    """That exit code, a reading only with 0, and a line for each pattern, matched as a whole."""
    assert (result.returncode, bool(result.stdout)) == (code, code == 0), result.stderr
    lines = result.stderr.splitlines()
    matched = [re.fullmatch(pattern, line) is not None for pattern, line in zip(patterns, lines)]
    assert (matched, len(lines)) == ([True] * len(patterns), len(patterns)), result.stderr


# fmt: off
WRITES: dict[str, tuple[list[str], list[tuple[int, int]], list[str]]] = {
    "dynamic": ([ONLY_DYNAMIC, "12"], [(DYNAMIC, 12)], [DYNAMIC_LINE]),
    "failsafe": ([ONLY_FAILSAFE, "12"], [(FAILSAFE, 12)], [FAILSAFE_LINE]),
    "timeout": ([SET_TIMEOUT, "30"], [(TIMEOUT, 30)], [TIMEOUT_LINE]),
    "current": ([BOTH, "12"], [(DYNAMIC, 12), (FAILSAFE, 12)], [DYNAMIC_LINE, FAILSAFE_LINE]),
    "all, in an order of their own":
        ([ONLY_FAILSAFE, "8", ONLY_DYNAMIC, "12", SET_TIMEOUT, "30"],
         [(TIMEOUT, 30), (DYNAMIC, 12), (FAILSAFE, 8)],
         [TIMEOUT_LINE, DYNAMIC_LINE, "Failsafe current: 10 A -> 8 A"]),
    "a pause":
        ([BOTH, "0"], [(DYNAMIC, 0), (FAILSAFE, 0)],
         ["Dynamic current: 16 A -> 0 A", "Failsafe current: 10 A -> 0 A"]),
    "dynamic as it was": ([ONLY_DYNAMIC, "16"], [(DYNAMIC, 16)], ["Dynamic current: stays 16 A"]),
    "failsafe as it was": ([BOTH, "10"], [(DYNAMIC, 10)],
                           ["Dynamic current: 16 A -> 10 A", "Failsafe current: stays 10 A"]),
    "timeout as it was": ([SET_TIMEOUT, "21"], [], ["Failsafe timeout: stays 21 s"]),
}
# fmt: on


@pytest.mark.every_version
@pytest.mark.parametrize("name", WRITES)
def test_each_write_is_read_back_and_a_reading_follows(
    call: Run, charger: SimulatedCharger, name: str
) -> None:
    options, writes, lines = WRITES[name]
    result = call(*options, "--format=json", charger=charger)
    assert_said(result, 0, *lines)
    assert charger.writes == writes
    log = [(request.write, request.address) for request in charger.requests]
    # What is set now is read first, then the limits; last comes the usual reading.
    pairs = [(write, address) for address, _ in writes for write in (True, False)]
    assert log[-8 - len(pairs)] == (False, 1100)
    assert log[-7 - len(pairs) : -6] == [*pairs, (False, 100)]
    reading = json.loads(result.stdout)
    now = {DYNAMIC: 16, FAILSAFE: 10, TIMEOUT: 21, **dict(writes)}
    assert [*reading["settings"].values()] == [now[DYNAMIC], now[FAILSAFE], now[TIMEOUT]]
    assert reading["electrical"] == READING["electrical"]
    assert charger.connections == 1


@pytest.mark.every_version
def test_a_write_has_function_6_and_the_unit_and_base(call: Run) -> None:
    with listening(base=1) as charger:
        result = call("-v", BOTH, "12", "--base=1", "--unit=255", charger=charger)
    assert result.returncode == 0
    sent = re.findall("request .. .. 00 00 00 06 (ff 06 .*)", result.stderr)
    assert sent == ["ff 06 13 8b 00 0c", "ff 06 07 cf 00 0c"]  # 5003 and 1999


# Where the fault comes: once or always, at a write that is carried out or lost; what is said then,
# and how often it is written.
PLACES: list[dict[str, Any]] = [
    {"at": 1100},
    {"at": DYNAMIC, "write": False, "times": 1},
    {"at": DYNAMIC, "write": True, "times": 1, "executed": False},
    {"at": DYNAMIC, "write": True, "executed": True},
    {"at": DYNAMIC, "write": True, "executed": False},
    {"at": DYNAMIC, "write": False, "skip": 1, "times": 1},
    {"at": DYNAMIC, "write": False, "skip": 1},
]
OUTCOMES = {
    name: outcomes
    for name, *outcomes in cells("""
fault                  | limits  | read once | write once, lost | write, done | write, lost | read-back once | always
harmless               | set     | set       | ignored          | set         | ignored     | set            | set
bytes behind the reply | set, 2  | set       | ignored          | set         | ignored     | set            | set
no usable reply        | nothing | set       | set, 2           | set, 2      | not done, 2 | set            | may be
wrong byte count       | nothing | set       | ignored          | set         | ignored     | set            | may be
unsupported            | set     | unread, 0 | refused          | set         | refused     | set            | may be
other exceptions       | nothing | unread, 0 | refused          | set         | refused     | set            | may be
exception 5            | nothing | set       | ignored          | set         | ignored     | set            | may be
exception 6            | nothing | set       | set, 2           | set, n      | refused, n  | set            | may be
""")  # noqa: E501
}
CURRENT, SHOWS = f"{FAILED}dynamic current: 20 A ", ", and the charger shows 16 A (it was 16 A)"
SAID = {
    "set": "Dynamic current: 16 A -> 20 A",
    "nothing": FAILED + "Cannot read the charger's limits (.*): .*; nothing was written",
    "unread": FAILED + "Cannot read holding register 5004: exception .*; not written",
    "ignored": CURRENT + "was acknowledged" + SHOWS,
    "not done": CURRENT + "may have been written: .*" + SHOWS,
    "refused": CURRENT + "was refused: exception .*" + SHOWS,
    "may be": CURRENT
    + "was acknowledged; reading back failed: .*; it was 16 A and may be 20 A now",
}


def row_of(name: str) -> str:
    """Return the row of a fault."""
    if name in OUTCOMES:
        return name
    if name in EXCEPTIONS:
        return "unsupported" if name.split()[1] in ("1", "2", "3") else "other exceptions"
    return "harmless" if name in HARMLESS else "no usable reply"


@pytest.fixture(scope="module")
def listener() -> Iterator[SimulatedCharger]:
    """Give a charger for many runs: to start one takes longer than a run."""
    with listening() as charger:
        yield charger


@pytest.mark.every_version
@pytest.mark.parametrize("name", NAMES)
def test_a_fault_never_passes_for_a_confirmation(
    call: Run, listener: SimulatedCharger, clock: Clock, name: str
) -> None:
    for place, outcome in zip(PLACES, OUTCOMES[row_of(name)]):
        listener.forget()
        listener.set(DYNAMIC, 16)
        where = dict(place)
        with playing(listener, name, where.pop("at"), clock=clock, **where):
            result = call(ONLY_DYNAMIC, "20", "--timeout=20", charger=listener)
        what, _, times = outcome.partition(", ")
        said = SAID[what].replace("(", r"\(").replace(")", r"\)")
        others = map(re.escape, result.stderr.splitlines()[1:])
        assert_said(result, 0 if what == "set" else 3, said, *others)
        assert {*listener.writes} <= {(DYNAMIC, 20)}
        count = len(listener.writes)
        assert count > 3 if times == "n" else count == int(times or what != "nothing")
        assert what != "set" or listener[DYNAMIC] == 20
        if name in ("silence", "other transaction"):
            assert listener.connections == 1


def shows(amperes: int, wanted: int = 20, note: str = "") -> str:
    """Return the ERROR of a dynamic current that is not the wanted one."""
    what = f"{wanted} A was acknowledged, and the charger shows {amperes} A"
    return rf"{FAILED}dynamic current: {what} \(it was 16 A\){note}"


NOTE = "; 0 pauses charging, and some firmware shows its minimum then: the charging state tells; .*"
ALSO_0 = "Failsafe current: 10 A -> 0 A"
# fmt: off
BELIEVED: dict[str, tuple[dict[str, Any], list[str], list[str]]] = {
    # what the charger is like, options, and the lines
    "ignored": ({"keeps": {DYNAMIC: 16}}, [ONLY_DYNAMIC, "20"], [shows(16)]),
    "one less": ({"keeps": {DYNAMIC: 19}}, [ONLY_DYNAMIC, "20"], [shows(19)]),
    "a pause": ({"keeps": {DYNAMIC: 0}}, [ONLY_DYNAMIC, "20"], [shows(0)]),
    "its minimum for 0": ({"keeps": {DYNAMIC: 6}}, [BOTH, "0"], [shows(6, 0, NOTE), ALSO_0]),
    "another for 0": ({"keeps": {DYNAMIC: 9}}, [BOTH, "0"], [shows(9, 0, NOTE), ALSO_0]),
    "0 without a vehicle":
        ({"without_vehicle": "makes 6 of 0"}, [BOTH, "0"], [shows(6, 0, NOTE), ALSO_0]),
    "too late": ({"lag": {DYNAMIC: 3.5}}, [BOTH, "12"], [shows(16, 12), FAILSAFE_LINE]),
    "never": ({"lag": {DYNAMIC: math.inf}}, [BOTH, "12"], [shows(16, 12), FAILSAFE_LINE]),
}
# fmt: on


@pytest.mark.parametrize("name", BELIEVED)
def test_what_is_read_back_for_3_s_counts(
    call: Run, memory: Memory, clock: Clock, name: str
) -> None:
    attributes, options, lines = BELIEVED[name]
    vars(memory).update(attributes)
    if "vehicle" in name:
        memory.set(CABLE, 0, bank=INPUT)
    assert_said(call("--ip=box", *options), 3, *lines)
    assert memory.times_of(DYNAMIC, write=True) == [10_000]
    assert 3 <= clock.passed < 3.5


@pytest.mark.parametrize("outcome", [None, 5], ids=["acknowledged", "exception 5"])
@pytest.mark.parametrize("seconds", [0.05, 0.5, 2, 2.9])
def test_a_value_that_shows_late_is_confirmed(
    call: Run, memory: Memory, clock: Clock, outcome: Outcome | None, seconds: float
) -> None:
    memory.lag[DYNAMIC] = seconds
    memory.fault(lambda _: outcome, write=True)
    assert_said(call("--ip=box", ONLY_DYNAMIC, "12"), 0, DYNAMIC_LINE)
    assert memory.writes == [(DYNAMIC, 12)]
    assert seconds <= clock.passed <= seconds + 0.3


@pytest.mark.parametrize("outcome", [4, RESET, SILENCE], ids=["refused", "reset", "silence"])
def test_a_value_that_stands_already_is_confirmed(
    call: Run, memory: Memory, outcome: Outcome
) -> None:
    memory.fault(outcome, write=True, executed=False)
    assert_said(call("--ip=box", ONLY_DYNAMIC, "16"), 0, "Dynamic current: stays 16 A")


@pytest.mark.parametrize(
    ("address", "held", "options", "line"),
    [
        (DYNAMIC, 0xFFFF, [ONLY_DYNAMIC, "20"], "Dynamic current: n/a -> 20 A"),
        (DYNAMIC, 66, [ONLY_DYNAMIC, "20"], "Dynamic current: n/a -> 20 A"),
        (FAILSAFE, 500, [ONLY_FAILSAFE, "20"], "Failsafe current: n/a -> 20 A"),
        (TIMEOUT, 0xFFFF, [SET_TIMEOUT, "30"], "Failsafe timeout: n/a -> 30 s"),
    ],
)
def test_over_an_impossible_number_a_value_is_set(
    call: Run, memory: Memory, address: int, held: int, options: list[str], line: str
) -> None:
    memory.set(address, held)
    assert_said(call("--ip=box", *options), 0, line)


# What comes of the write, or of a read of a value; and what is said of it.
WRITE, READ, READ_BACK = {"write": True, "executed": False}, {"write": False}, {"skip": 2}
MAY_BE = "it was .* and may be .* now"
UNREAD = "Cannot read holding register {address}: "
FAILS: dict[str, tuple[list[tuple[Outcome, dict[str, Any]]], str]] = {
    "refused": ([(3, WRITE)], "{what} was refused: exception 3 .*, and the charger shows .*"),
    "ignored": ([(5, WRITE)], "{what} was acknowledged, and the charger shows .*"),
    "no reply": (
        [(RESET, WRITE)],
        "{what} may have been written: the charger closed .* charger shows .*",
    ),
    "not read back": (
        [(SILENCE, READ_BACK)],
        "{what} was ack.*; reading back failed: .*; " + MAY_BE,
    ),
    "refused, and not read back": (
        [(4, WRITE), (RESET, READ_BACK)],
        "{what} was refused: exception 4 .*; reading back failed: .*; " + MAY_BE,
    ),
    "unsupported": ([(2, READ)], UNREAD + r"exception 2 \(illegal data address\); not written"),
    "not read": ([(4, READ)], UNREAD + "exception 4 .*; try again later; not written"),
    "silence": ([(SILENCE, READ)], UNREAD + "no reply within 2 s; not written"),
    "reset": ([(RESET, READ)], UNREAD + "the charger closed the connection; not written"),
}
VALUES = [
    (TIMEOUT, 30, TIMEOUT_FAILED, "failsafe timeout: 30 s", TIMEOUT_LINE),
    (DYNAMIC, 12, FAILED, "dynamic current: 12 A", DYNAMIC_LINE),
    (FAILSAFE, 12, FAILED, "failsafe current: 12 A", FAILSAFE_LINE),
]


@pytest.mark.parametrize(
    "failing",
    [[TIMEOUT], [DYNAMIC], [FAILSAFE], [DYNAMIC, FAILSAFE], [TIMEOUT, DYNAMIC, FAILSAFE]],
    ids=["timeout", "dynamic", "failsafe", "both currents", "all"],
)
@pytest.mark.parametrize("name", FAILS)
def test_a_value_that_fails_keeps_no_other_from_being_tried(
    call: Run, memory: Memory, name: str, failing: list[int]
) -> None:
    faults, said = FAILS[name]
    for address, (outcome, where) in itertools.product(failing, faults):
        memory.fault(outcome, address, **where)
    result = call("--ip=box", *ALL)
    if name in ("silence", "reset") and len(failing) > 1:  # the charger does not answer
        assert_said(result, 3, f"{FAILED}Cannot read box:502: .*; nothing was written")
        return
    lines, tried = [], []
    for address, number, error, what, confirmed in VALUES:
        fails = address in failing
        lines.append(error + said.format(what=what, address=address) if fails else confirmed)
        if not (fails and said.endswith("not written")):
            tried.append((address, number))
    assert_said(result, 3, *lines)
    assert [*dict.fromkeys(memory.writes)] == tried


LOST: dict[str, tuple[Outcome | None, int, str]] = {
    # what comes of the requests to the value from the second on; how long it takes; what is said
    "silent": (SILENCE, 4 * 2, "no reply within 2 s"),
    "resets": (RESET, 0, "the charger closed the connection"),
    "gone": (None, 0, "Cannot connect to the box: connection refused"),
}


@pytest.mark.parametrize("first", range(3), ids=["timeout", "dynamic", "failsafe"])
@pytest.mark.parametrize("name", LOST)
def test_a_write_and_read_back_without_reply_end_the_attempt(
    call: Run, memory: Memory, clock: Clock, name: str, first: int
) -> None:
    outcome, seconds, why = LOST[name]
    memory.fault(outcome or memory.vanish, VALUES[first][0], skip=1)
    result = call("--ip=box", *ALL)
    (_, _, error, what, _), left = VALUES[first], VALUES[first + 1 :]
    lines = [
        *[confirmed for *_, confirmed in VALUES[:first]],
        f"{error}{what} may have been written: {why}; reading back failed: {why}; {MAY_BE}",
        *[f"{FAILED}{what.split(':')[0]}: not written: .* answer.*" for *_, what, _ in left],
    ]
    assert_said(result, 3, *lines)
    assert len({*memory.writes}) == first + 1
    assert clock.passed == seconds


def test_a_refusal_that_no_connection_follows_ends_the_attempt(call: Run, memory: Memory) -> None:
    memory.fault(4, DYNAMIC, write=True, executed=False)
    memory.fault(memory.vanish, DYNAMIC, write=False, skip=1)
    why = "reading back failed: Cannot connect to the box: connection refused"
    lines = [
        TIMEOUT_LINE,
        rf"{FAILED}dynamic current: 12 A was refused: exception 4 .*; {why}; {MAY_BE}",
        f"{FAILED}failsafe current: not written: no answer any more",
    ]
    assert_said(call("--ip=box", *ALL), 3, *lines)
    assert memory.writes == [(TIMEOUT, 30), (DYNAMIC, 12)]


@pytest.mark.parametrize(
    ("address", "line"),
    [
        (TIMEOUT, "timeout: the failsafe timeout was read back as 30 s, but is 9 s now"),
        (DYNAMIC, "current: the dynamic current was read back as 12 A, but is 9 A now"),
        (FAILSAFE, "current: the failsafe current was read back as 12 A, but is 9 A now"),
    ],
)
def test_a_reading_that_shows_another_value_is_exit_3(
    call: Run, memory: Memory, address: int, line: str
) -> None:
    memory.fault(lambda _: memory.set(address, 9), 100)  # the first range of the reading
    error = f"ERROR: failed writing {line}"
    assert_said(call("--ip=box", *ALL), 3, TIMEOUT_LINE, DYNAMIC_LINE, FAILSAFE_LINE, error)


@pytest.mark.parametrize("outcome", [RESET, SILENCE, "gone"])
def test_a_reading_that_fails_after_it_is_exit_1(call: Run, memory: Memory, outcome: str) -> None:
    memory.fault(memory.vanish if outcome == "gone" else outcome, 100, 400)
    error = "ERROR: Cannot (connect to|read) .*"
    assert_said(call("--ip=box", BOTH, "12"), 1, DYNAMIC_LINE, FAILSAFE_LINE, error)


def test_a_value_that_is_not_read_after_it_is_null(call: Run, memory: Memory) -> None:
    memory.fault(4, DYNAMIC, write=False, skip=2)
    result = call("--ip=box", BOTH, "12", "--format=json")
    warning = "WARNING: Cannot read holding register 5004: exception 4 .*"
    assert_said(result, 0, DYNAMIC_LINE, FAILSAFE_LINE, warning)
    assert json.loads(result.stdout)["settings"]["dynamic_current_a"] is None


@pytest.mark.every_version
def test_no_line_comes_between_first_write_and_last_read_back(
    charger: SimulatedCharger, call: Run
) -> None:
    said: list[tuple[int, str]] = []

    class Noting(io.StringIO):
        def write(self, text: str) -> int:
            said.extend((len(charger.requests), line) for line in text.splitlines())
            return len(text)

    charger.fault(4, TIMEOUT, write=False, skip=1)  # an ERROR waits, too
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(Noting()):
        assert vestel.main([*target(charger), "-v", *ALL]) == 3
    assert {count for count, _ in said} == {0, 1, 2, 3, 4, len(charger.requests)}  # four reads
    assert charger.requests[-1][2:5] == (False, "holding", FAILSAFE)
    assert not re.search("request (.. ){7}06 ", "".join(line for at, line in said if at <= 4))
    late = [line for at, line in said if at > 4]
    assert [line for line in late if ": re" not in line] == [
        f"{TIMEOUT_FAILED}failsafe timeout: 30 s was acknowledged; reading back failed: "
        "exception 4 (device failure); it was 21 s and may be 30 s now",
        DYNAMIC_LINE,
        FAILSAFE_LINE,
    ]

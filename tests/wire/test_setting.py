"""Setting values: what reaches the charger, what is believed, and what the user is told."""

from __future__ import annotations

import contextlib
import io
import json
import math
import re
import subprocess
from typing import Any, Callable, Iterator

import pytest
from charger import RESET, SILENCE, Outcome, SimulatedCharger
from clock import Clock
from conftest import Memory
from door import listening
from faults import EXCEPTIONS, HARMLESS, PROMPT, TOO_LATE, cells, outcome_of, playing
from program import Result, Run, command, eventually, full_pipe, target
from registers import DYNAMIC, FAILSAFE, INPUT, READING, TIMEOUT

import vestel

BOTH, ONLY_DYNAMIC = "--set-current", "--set-dynamic-current"
ONLY_FAILSAFE, SET_TIMEOUT = "--set-failsafe-current", "--set-failsafe-timeout"
# 16 A, 10 A and 21 s are set before anything is written.
DYNAMIC_LINE, FAILSAFE_LINE = "Dynamic current: 16 A -> 12 A", "Failsafe current: 10 A -> 12 A"
TIMEOUT_LINE = "Failsafe timeout: 21 s -> 30 s"
FAILED, TIMEOUT_FAILED = "ERROR: failed writing current: ", "ERROR: failed writing timeout: "
ALL = BOTH, "12", SET_TIMEOUT, "30"


@pytest.fixture
def box(memory: Memory, clock: Clock) -> Memory:
    """Give a charger in memory, in simulated time."""
    memory.clock = clock
    return memory


def assert_confirmed(result: Result[str], *lines: str) -> None:
    assert (result.returncode, result.stderr.splitlines()) == (0, list(lines))


def assert_failed(result: Result[str], *patterns: str) -> None:
    """Exit 3, nothing on stdout, and a line for each pattern, which it matches as a whole."""
    assert (result.returncode, result.stdout) == (3, "")
    assert_lines(result.stderr.splitlines(), *patterns)


def assert_lines(lines: list[str], *patterns: str) -> None:
    matched = [re.fullmatch(pattern, line) is not None for pattern, line in zip(patterns, lines)]
    assert (matched, len(lines)) == ([True] * len(patterns), len(patterns)), "\n".join(lines)


def asked_for(charger: SimulatedCharger) -> list[tuple[bool, int]]:
    """Return each request: whether it is a write, and the address."""
    return [(request.write, request.address) for request in charger.requests]


# --- What is written, in which order, and what is said of it ------------------------------------

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
    assert_confirmed(result, *lines)
    assert charger.writes == writes
    log = asked_for(charger)
    # The limits are read first, then what is set now; last comes the usual reading.
    assert log[0] == (False, 1100)
    pairs = [(write, address) for address, _ in writes for write in (True, False)]
    assert log[-7 - len(pairs) : -6] == [*pairs, (False, 100)]
    reading = json.loads(result.stdout)
    now = {DYNAMIC: 16, FAILSAFE: 10, TIMEOUT: 21, **dict(writes)}
    assert reading["settings"] == {
        "dynamic_current_a": now[DYNAMIC],
        "failsafe_current_a": now[FAILSAFE],
        "failsafe_timeout_s": now[TIMEOUT],
    }
    assert reading["electrical"] == READING["electrical"]
    assert charger.connections == 1


@pytest.mark.every_version
def test_a_write_has_function_6_and_the_unit_and_base(call: Run) -> None:
    with listening(base=1) as charger:
        result = call("-v", BOTH, "12", "--base=1", "--unit=255", charger=charger)
    assert result.returncode == 0
    assert {request.unit for request in charger.requests} == {255}
    sent = re.findall("request .. .. 00 00 00 06 (ff 06 .*)", result.stderr)
    assert sent == ["ff 06 13 8b 00 0c", "ff 06 07 cf 00 0c"]  # 5003 and 1999


# --- A fault while a current is set -------------------------------------------------------------

# A fault at the limits (always), at the write (once or always, carried out or lost), and at the
# read-back (once, or always); what is said then, and how often it is written.
PLACES: list[dict[str, Any]] = [
    {"addresses": [1100]},
    {"write": True, "times": 1, "executed": False},
    {"write": True, "executed": True},
    {"write": True, "executed": False},
    {"addresses": [DYNAMIC], "write": False, "skip": 1, "times": 1},
    {"addresses": [DYNAMIC], "write": False, "skip": 1},
]
OUTCOMES = {
    name: outcomes
    for name, *outcomes in cells("""
fault            | limits  | write once, lost | write, done | write, lost | read-back once | always
harmless         | set     | ignored          | set         | ignored     | set            | set
no usable reply  | nothing | set, 2           | set, 2      | not done, 2 | set            | may be
wrong byte count | nothing | ignored          | set         | ignored     | set            | may be
unsupported      | set     | refused          | set         | refused     | may be         | may be
other exceptions | nothing | refused          | set         | refused     | may be         | may be
exception 5      | nothing | ignored          | set         | ignored     | set            | may be
exception 6      | nothing | set, 2           | set, n      | refused, n  | set            | may be
""")
}
SAID = {
    "set": "Dynamic current: 16 A -> 20 A",
    "nothing": FAILED + r"Cannot read the charger's limits \(.*\): .*; nothing was written",
    "ignored": "20 A was acknowledged, and the charger shows 16 A (it was 16 A)",
    "not done": "20 A [a-z ]+: .*, and the charger shows 16 A (it was 16 A)",
    "refused": "20 A was refused: exception .*, and the charger shows 16 A (it was 16 A)",
    "may be": "20 A was acknowledged; reading back failed: .*; it was 16 A and may be 20 A now",
}


def row_of(name: str) -> str:
    """Return the row of a fault."""
    if name in OUTCOMES:
        return name
    if name in HARMLESS:
        return "harmless"
    if name not in EXCEPTIONS:
        return "no usable reply"
    is_unsupported = name.split()[1] in ("1", "2", "3")
    return "unsupported" if is_unsupported else "other exceptions"


def assert_said(charger: SimulatedCharger, result: Result[str], outcome: str) -> None:
    what, _, times = outcome.partition(", ")
    line = result.stderr.splitlines()[0]
    said = SAID[what]
    if what not in ("set", "nothing"):
        said = FAILED + "dynamic current: " + said.replace("(", r"\(").replace(")", r"\)")
    assert re.fullmatch(said, line), (said, line)
    assert result.returncode == (0 if what == "set" else 3)
    assert bool(result.stdout) == (what == "set")
    assert {*charger.writes} <= {(DYNAMIC, 20)}
    count = len(charger.writes)
    assert count > 3 if times == "n" else count == int(times or what != "nothing")
    assert what != "set" or charger[DYNAMIC] == 20


@pytest.fixture(scope="module")
def listener() -> Iterator[SimulatedCharger]:
    """Give a charger for many runs: to start one takes longer than a run."""
    with listening() as charger:
        yield charger


@pytest.mark.every_version
@pytest.mark.parametrize("name", PROMPT)
def test_a_fault_never_passes_for_a_confirmation(
    call: Run, listener: SimulatedCharger, clock: Clock, name: str
) -> None:
    for place, outcome in zip(PLACES, OUTCOMES[row_of(name)]):
        listener.forget()
        listener.set(DYNAMIC, 16)
        where = dict(place)
        listener.fault(outcome_of(name), *where.pop("addresses", []), **where)
        assert_said(listener, call(ONLY_DYNAMIC, "20", charger=listener), outcome)


@pytest.mark.parametrize(
    ("place", "outcome"),
    [*zip(PLACES, OUTCOMES["no usable reply"])],
    ids=["limits", "write once, lost", "write, done", "write, lost", "read-back once", "always"],
)
def test_silence_never_passes_for_a_confirmation(
    call: Run, box: Memory, place: dict[str, Any], outcome: str
) -> None:
    where = dict(place)
    box.fault(SILENCE, *where.pop("addresses", []), **where)
    assert_said(box, call("--ip=box", ONLY_DYNAMIC, "20"), outcome)
    assert box.connections == 1


@pytest.mark.every_version
@pytest.mark.parametrize("name", ["silence", *TOO_LATE])
@pytest.mark.parametrize("executed", [True, False], ids=["carried out", "lost"])
def test_a_write_without_a_reply_is_sent_again(
    call: Run, listener: SimulatedCharger, clock: Clock, name: str, executed: bool
) -> None:
    listener.forget()
    listener.set(DYNAMIC, 16)
    with playing(listener, name, write=True, times=1, executed=executed, clock=clock):
        result = call(ONLY_DYNAMIC, "12", "--timeout=20", charger=listener)
    assert_confirmed(result, DYNAMIC_LINE)
    assert listener.writes == [(DYNAMIC, 12)] * 2
    is_kept = name in ("silence", "other transaction")
    assert listener.connections == (1 if is_kept else 2)


@pytest.mark.every_version
@pytest.mark.parametrize("fault", ["reply and close", "reply and reset"])
def test_a_write_on_a_connection_just_closed_is_sent_again(
    call: Run, listener: SimulatedCharger, fault: str
) -> None:
    listener.forget()
    listener.set(DYNAMIC, 16)
    listener.fault(fault, DYNAMIC, write=False, times=1)
    assert_confirmed(call(ONLY_DYNAMIC, "12", charger=listener), DYNAMIC_LINE)
    assert (listener.writes, listener.connections) == ([(DYNAMIC, 12)], 2)


def test_a_box_that_resets_after_exceptions_is_set(call: Run, box: Memory) -> None:
    box.resets_after_exception, box.refuses_gaps = True, True
    assert_confirmed(call("--ip=box", BOTH, "12"), DYNAMIC_LINE, FAILSAFE_LINE)
    assert box.writes == [(DYNAMIC, 12), (FAILSAFE, 12)]


# --- What is believed ---------------------------------------------------------------------------


@pytest.mark.parametrize("shown", [16, 19, 0], ids=["ignored", "one less", "pauses instead"])
def test_what_is_read_back_counts(call: Run, box: Memory, clock: Clock, shown: int) -> None:
    box.keeps[DYNAMIC] = shown
    result = call("--ip=box", ONLY_DYNAMIC, "20")
    shows = rf"and the charger shows {shown} A \(it was 16 A\)"
    assert_failed(result, FAILED + f"dynamic current: 20 A was acknowledged, {shows}")
    assert box.writes == [(DYNAMIC, 20)]
    assert 3 <= clock.passed < 3.5


@pytest.mark.parametrize("shown", [6, 9], ids=["its minimum", "another"])
def test_a_pause_that_is_not_shown_says_what_it_may_mean(
    call: Run, box: Memory, shown: int
) -> None:
    box.keeps.update({DYNAMIC: shown, FAILSAFE: shown})
    zero = "0 pauses charging, and some firmware shows its minimum then: the charging state tells; "
    shows = rf"0 A was acknowledged, and the charger shows {shown} A \(it was 1. A\); {zero}.*"
    lines = f"{FAILED}dynamic current: {shows}", f"{FAILED}failsafe current: {shows}"
    assert_failed(call("--ip=box", BOTH, "0"), *lines)


def test_without_a_vehicle_the_failsafe_current_is_set(call: Run, box: Memory) -> None:
    box.set(1004, 0, bank=INPUT)
    box.without_vehicle = "makes 6 of 0"
    result = call("--ip=box", BOTH, "0")
    shows = r"dynamic current: 0 A was acknowledged, and the charger shows 6 A \(it was 16 A\); .*"
    assert_failed(result, FAILED + shows, "Failsafe current: 10 A -> 0 A")


@pytest.mark.parametrize("outcome", [None, 5], ids=["acknowledged", "exception 5"])
@pytest.mark.parametrize("seconds", [0.05, 0.5, 2, 2.9])
def test_a_value_that_shows_late_is_confirmed(
    call: Run, box: Memory, clock: Clock, outcome: Outcome | None, seconds: float
) -> None:
    box.lag[DYNAMIC] = seconds
    box.fault(lambda _: outcome, write=True)
    assert_confirmed(call("--ip=box", ONLY_DYNAMIC, "12"), DYNAMIC_LINE)
    assert box.writes == [(DYNAMIC, 12)]
    assert seconds <= clock.passed <= seconds + 0.3


@pytest.mark.parametrize("seconds", [3.5, math.inf], ids=["after 3.5 s", "never"])
def test_a_value_that_shows_too_late_is_an_error(call: Run, box: Memory, seconds: float) -> None:
    box.lag[DYNAMIC] = seconds
    result = call("--ip=box", BOTH, "12")
    shows = r"12 A was acknowledged, and the charger shows 16 A \(it was 16 A\)"
    assert_failed(result, FAILED + f"dynamic current: {shows}", FAILSAFE_LINE)


@pytest.mark.parametrize("outcome", [4, RESET, SILENCE], ids=["refused", "reset", "silence"])
def test_a_value_that_stands_already_is_confirmed(call: Run, box: Memory, outcome: Outcome) -> None:
    box.fault(outcome, write=True, executed=False)
    assert_confirmed(call("--ip=box", ONLY_DYNAMIC, "16"), "Dynamic current: stays 16 A")


# --- What is set now ----------------------------------------------------------------------------


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
    call: Run, box: Memory, address: int, held: int, options: list[str], line: str
) -> None:
    box.set(address, held)
    assert_confirmed(call("--ip=box", *options), line)


OWN = {
    DYNAMIC: (FAILED, [TIMEOUT_LINE, None, FAILSAFE_LINE]),
    FAILSAFE: (FAILED, [TIMEOUT_LINE, DYNAMIC_LINE, None]),
    TIMEOUT: (TIMEOUT_FAILED, [None, DYNAMIC_LINE, FAILSAFE_LINE]),
}
UNREAD: list[tuple[Outcome, str]] = [
    (2, r"exception 2 \(illegal data address\)"),
    (4, r"exception 4 \(device failure\); try again later"),
    (SILENCE, "no reply within 2 s"),
    (RESET, "the charger closed the connection"),
]


@pytest.mark.parametrize(
    ("outcome", "why"), UNREAD, ids=["unsupported", "refused", "silence", "reset"]
)
@pytest.mark.parametrize("address", OWN)
def test_a_value_whose_register_cannot_be_read_fails_alone(
    call: Run, box: Memory, address: int, outcome: Outcome, why: str
) -> None:
    box.fault(outcome, address, write=False)
    failed, lines = OWN[address]
    error = f"{failed}Cannot read holding register {address}: {why}; not written"
    assert_failed(call("--ip=box", *ALL), *[line or error for line in lines])
    assert address not in [written for written, _ in box.writes]
    assert len(box.writes) == 2


# --- Each value stands for itself ---------------------------------------------------------------

# fmt: off
FAILS: dict[str, tuple[Callable[[SimulatedCharger, int], object], str]] = {
    "refused":
        (lambda box, address: box.fault(3, address, write=True),
         r"was refused: exception 3 \(illegal data value\), and the charger shows .*"),
    "ignored":
        (lambda box, address: box.keeps.update({address: box[address]}),
         "was acknowledged, and the charger shows .*"),
    "no reply":
        (lambda box, address: box.fault(RESET, address, write=True, executed=False),
         "[a-z ]+: the charger closed the connection, and the charger shows .*"),
    "not read back":
        (lambda box, address: box.fault(SILENCE, address, write=False, skip=1),
         "was acknowledged; reading back failed: no reply within 2 s; it was .* and may be .* now"),
    "refused, and not read back":
        (lambda box, address: (box.fault(4, address, write=True),
                               box.fault(RESET, address, write=False, skip=1)),
         "was refused: exception 4 .*; reading back failed: .*; it was .* and may be .* now"),
}
# fmt: on
VALUES = [
    (TIMEOUT, f"{TIMEOUT_FAILED}failsafe timeout: 30 s ", TIMEOUT_LINE),
    (DYNAMIC, f"{FAILED}dynamic current: 12 A ", DYNAMIC_LINE),
    (FAILSAFE, f"{FAILED}failsafe current: 12 A ", FAILSAFE_LINE),
]


@pytest.mark.parametrize(
    "failing",
    [[TIMEOUT], [DYNAMIC], [FAILSAFE], [DYNAMIC, FAILSAFE], [TIMEOUT, DYNAMIC, FAILSAFE]],
    ids=["timeout", "dynamic", "failsafe", "both currents", "all"],
)
@pytest.mark.parametrize("name", FAILS)
def test_a_value_that_fails_keeps_no_other_from_being_tried(
    call: Run, box: Memory, name: str, failing: list[int]
) -> None:
    fail, said = FAILS[name]
    for address in failing:
        fail(box, address)
    assert_failed(
        call("--ip=box", *ALL),
        *[error + said if address in failing else line for address, error, line in VALUES],
    )
    assert [*dict.fromkeys(box.writes)] == [(TIMEOUT, 30), (DYNAMIC, 12), (FAILSAFE, 12)]


# --- The charger is lost ------------------------------------------------------------------------

NOT_WRITTEN = "not written: .* answer.*"


@pytest.mark.parametrize(
    ("outcome", "why"),
    [
        (SILENCE, "no reply within 2 s"),
        (RESET, "the charger closed the connection"),
        ("gone", "Cannot connect to the box: connection refused"),
    ],
)
def test_a_write_and_read_back_without_reply_end_the_attempt(
    call: Run, box: Memory, outcome: Outcome, why: str
) -> None:
    box.fault(box.vanish if outcome == "gone" else outcome, DYNAMIC, skip=1)  # but for the first
    result = call("--ip=box", *ALL)
    sent = f"12 A [a-z ]+: .*; reading back failed: {why}; it was 16 A and may be 12 A now"
    lines = f"{FAILED}dynamic current: {sent}", f"{FAILED}failsafe current: {NOT_WRITTEN}"
    assert_failed(result, TIMEOUT_LINE, *lines)
    assert FAILSAFE not in [address for address, _ in box.writes]


def test_a_charger_lost_at_the_first_value_has_a_line_for_each(
    call: Run, box: Memory, clock: Clock
) -> None:
    box.fault(SILENCE, skip=4)  # the limits and three values are read
    result = call("--ip=box", *ALL)
    sent = "30 s [a-z ]+: no reply within 2 s; reading back failed: no reply within 2 s"
    currents = [f"{FAILED}{name} current: {NOT_WRITTEN}" for name in ("dynamic", "failsafe")]
    may_be = "it was 21 s and may be 30 s now"
    assert_failed(result, f"{TIMEOUT_FAILED}failsafe timeout: {sent}; {may_be}", *currents)
    assert clock.passed == 4 * 2


# --- The reading after it -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "line"),
    [
        (TIMEOUT, "timeout: the failsafe timeout was read back as 30 s, but is 9 s now"),
        (DYNAMIC, "current: the dynamic current was read back as 12 A, but is 9 A now"),
        (FAILSAFE, "current: the failsafe current was read back as 12 A, but is 9 A now"),
    ],
)
def test_a_reading_that_shows_another_value_is_exit_3(
    call: Run, box: Memory, address: int, line: str
) -> None:
    box.fault(lambda _: box.set(address, 9), 100)  # the first range of the reading
    confirmed = TIMEOUT_LINE, DYNAMIC_LINE, FAILSAFE_LINE
    assert_failed(call("--ip=box", *ALL), *confirmed, f"ERROR: failed writing {line}")


@pytest.mark.parametrize("outcome", [RESET, SILENCE, "gone"])
def test_a_reading_that_fails_after_it_is_exit_1(call: Run, box: Memory, outcome: str) -> None:
    box.fault(box.vanish if outcome == "gone" else outcome, 100, 400)
    result = call("--ip=box", BOTH, "12")
    assert (result.returncode, result.stdout) == (1, "")
    error = "ERROR: Cannot (connect to|read) .*"
    assert_lines(result.stderr.splitlines(), DYNAMIC_LINE, FAILSAFE_LINE, error)


def test_a_value_that_is_not_read_after_it_is_null(call: Run, box: Memory) -> None:
    box.fault(4, DYNAMIC, write=False, skip=2)
    result = call("--ip=box", BOTH, "12", "--format=json")
    *confirmed, warning = result.stderr.splitlines()
    assert (result.returncode, confirmed) == (0, [DYNAMIC_LINE, FAILSAFE_LINE])
    assert warning.startswith("WARNING: Cannot read holding register 5004: exception 4 ")
    assert json.loads(result.stdout)["settings"]["dynamic_current_a"] is None


# --- stderr does not hold up a write ------------------------------------------------------------


class Noting(io.StringIO):
    """A stderr that notes how many requests had come when it was written to."""

    def __init__(self, charger: SimulatedCharger) -> None:
        super().__init__()
        self.charger = charger
        self.noted: list[tuple[int, str]] = []

    def write(self, text: str) -> int:
        self.noted += [(len(self.charger.requests), line) for line in text.splitlines()]
        return len(text)


@pytest.mark.every_version
def test_no_line_comes_between_first_write_and_last_read_back(
    call: Run, charger: SimulatedCharger
) -> None:
    charger.delay = 0.02
    charger.fault(4, TIMEOUT, write=False, skip=1)  # an ERROR waits, too
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(
        Noting(charger)
    ) as stderr:
        assert vestel.main([*target(charger), "-v", *ALL]) == 3
    log = asked_for(charger)
    first = log.index((True, TIMEOUT))
    assert log[-1] == (False, FAILSAFE)
    assert {at for at, _ in stderr.noted if at > first} == {len(log)}
    early = [line for at, line in stderr.noted if at <= first]
    assert not [line for line in early if re.search("request (.. ){7}06 ", line)]
    late = [line for at, line in stderr.noted if at > first]
    assert [line for line in late if ": re" not in line] == [
        f"{TIMEOUT_FAILED}failsafe timeout: 30 s was acknowledged; reading back failed: "
        "exception 4 (device failure); it was 21 s and may be 30 s now",
        DYNAMIC_LINE,
        FAILSAFE_LINE,
    ]
    # Each line of -v has the time at which it was made.
    seconds = [float(line[6:12]) for line in late[:2]]
    assert (seconds[1] - seconds[0]) % 60 >= 0.019


@pytest.mark.every_version
def test_a_full_pipe_as_stderr_holds_up_no_write(
    charger: SimulatedCharger, environment: dict[str, str]
) -> None:
    with full_pipe() as stderr, subprocess.Popen(
        command(ALL, charger),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=stderr,
        env=environment,
    ) as process:
        try:
            eventually(lambda: len(charger.settings) == 3 and not charger.requests[-1].write)
            assert charger.settings == [(TIMEOUT, 30), (DYNAMIC, 12), (FAILSAFE, 12)]
        finally:
            process.kill()

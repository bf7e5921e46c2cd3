"""Setting currents: what reaches the charger, what is believed, and what the user is told."""

from __future__ import annotations

import json
import re
import subprocess
import time
from typing import Any, Callable, ContextManager, Iterator

import pytest
from conftest import READING, Clock, Result, Run, needs
from faults import NAMES, WAITING, attempts_to, connected, forget, hurrying, play_of, played, side_by_side
from simulated_charger import (
    HOLDING,
    READ_HOLDING,
    READ_INPUT,
    WRITE,
    Play,
    SimulatedCharger,
    dead_host,
    exception,
    free_port,
    simulated_charger,
)

import vestel

pytestmark = pytest.mark.every_version

BOTH, ONLY_DYNAMIC, ONLY_FAILSAFE = "--set-current", "--set-dynamic-current", "--set-failsafe-current"
DYNAMIC, FAILSAFE = 5004, 2000  # 16 A and 10 A, before anything is written
DYNAMIC_LINE, FAILSAFE_LINE = "Dynamic current: 16 A -> 12 A", "Failsafe current: 10 A -> 12 A"
FAILED = "ERROR: failed writing current: "


def assert_confirmed(result: Result[str], *lines: str) -> None:
    assert (result.returncode, result.stderr.splitlines()) == (0, list(lines))


def assert_failed(result: Result[str], *patterns: str) -> None:
    """Exit 3, nothing on stdout, and a line on stderr for each pattern, which it matches as a whole."""
    assert (result.returncode, result.stdout) == (3, "")
    assert_lines(result.stderr.splitlines(), *patterns)


def assert_lines(lines: list[str], *patterns: str) -> None:
    matched = [re.fullmatch(pattern, line) is not None for pattern, line in zip(patterns, lines)]
    assert (matched, len(lines)) == ([True] * len(patterns), len(patterns)), "\n".join(lines)


def dynamic_reads(charger: SimulatedCharger) -> list[int]:
    """The connection of each read of the dynamic current."""
    return [r.connection for r in charger.requests if (r.function, r.address) == (READ_HOLDING, DYNAMIC)]


def play(play: str | Play, **where: Any) -> Callable[[SimulatedCharger], None]:
    return lambda charger: charger.fault(play, **where)


def freeze(**registers: int) -> Callable[[SimulatedCharger], None]:
    return lambda charger: charger.frozen.update({int(name[1:]): held for name, held in registers.items()})


# --- What is written, in which order, and what is said of it -------------------------------------

WRITES: dict[str, Any] = {
    "dynamic": ([ONLY_DYNAMIC, "12"], [(DYNAMIC, 12)], [DYNAMIC_LINE]),
    "failsafe": ([ONLY_FAILSAFE, "12"], [(FAILSAFE, 12)], [FAILSAFE_LINE]),
    "current": ([BOTH, "12"], [(DYNAMIC, 12), (FAILSAFE, 12)], [DYNAMIC_LINE, FAILSAFE_LINE]),
    "both": (
        [ONLY_DYNAMIC, "12", ONLY_FAILSAFE, "8"],
        [(DYNAMIC, 12), (FAILSAFE, 8)],
        [DYNAMIC_LINE, "Failsafe current: 10 A -> 8 A"],
    ),
    "both, the other way round": (
        [ONLY_FAILSAFE, "8", ONLY_DYNAMIC, "12"],
        [(DYNAMIC, 12), (FAILSAFE, 8)],
        [DYNAMIC_LINE, "Failsafe current: 10 A -> 8 A"],
    ),
    "a pause": (
        [BOTH, "0"],
        [(DYNAMIC, 0), (FAILSAFE, 0)],
        ["Dynamic current: 16 A -> 0 A", "Failsafe current: 10 A -> 0 A"],
    ),
    "dynamic as it was": ([ONLY_DYNAMIC, "16"], [(DYNAMIC, 16)], ["Dynamic current: stays 16 A"]),
    "failsafe as it was": ([ONLY_FAILSAFE, "10"], [(FAILSAFE, 10)], ["Failsafe current: stays 10 A"]),
    "one as it was": (
        [BOTH, "10"],
        [(DYNAMIC, 10), (FAILSAFE, 10)],
        ["Dynamic current: 16 A -> 10 A", "Failsafe current: stays 10 A"],
    ),
}


def assert_written(
    charger: SimulatedCharger, result: Result[str], writes: list[tuple[int, int]], lines: list[str]
) -> None:
    assert_confirmed(result, *lines)
    assert charger.writes == writes
    log = [(r.function, r.address) for r in charger.requests]
    first = log.index((WRITE, writes[0][0]))
    pairs = [(function, address) for address, _ in writes for function in (WRITE, READ_HOLDING)]
    assert log[first : first + len(pairs) + 1] == [*pairs, (READ_INPUT, 100)]
    reading = json.loads(result.stdout)
    now = {DYNAMIC: 16, FAILSAFE: 10, **dict(writes)}
    assert reading["settings"] == {
        "dynamic_current_a": now[DYNAMIC],
        "failsafe_current_a": now[FAILSAFE],
        "failsafe_timeout_s": 21,
    }
    assert reading["electrical"] == READING["electrical"]
    assert charger.connections == 1


@pytest.mark.parametrize(("options", "writes", "lines"), WRITES.values(), ids=WRITES)
def test_each_write_is_read_back_and_the_reading_follows_on_the_same_connection(
    call: Run, charger: SimulatedCharger, options: list[str], writes: list[tuple[int, int]], lines: list[str]
) -> None:
    assert_written(charger, call(*options, "--format=json", charger=charger), writes, lines)


@pytest.mark.parametrize("name", ["current", "both"])
def test_a_process_writes_and_says_the_same(run: Run, charger: SimulatedCharger, name: str) -> None:
    options, writes, lines = WRITES[name]
    assert_written(charger, run(*options, "--format=json", charger=charger), writes, lines)


SHOWN = {
    "human": ["Dynamic Current:     12 A", "Failsafe Current:    12 A"],
    "json": ['"dynamic_current_a": 12, "failsafe_current_a": 12'],
    "prometheus": [
        'vestel_dynamic_current_amperes{serial="VEST1234567890"} 12',
        'vestel_failsafe_current_amperes{serial="VEST1234567890"} 12',
    ],
}


@pytest.mark.parametrize("style", SHOWN)
def test_stdout_carries_the_new_reading_alone_in_the_chosen_format(
    call: Run, charger: SimulatedCharger, style: str
) -> None:
    result = call(BOTH, "12", f"--format={style}", charger=charger)
    assert_confirmed(result, DYNAMIC_LINE, FAILSAFE_LINE)
    for text in SHOWN[style]:
        assert text in result.stdout
    assert "->" not in result.stdout
    assert charger.connections == 1


def test_jq_reads_what_follows_a_write(run: Run, charger: SimulatedCharger) -> None:
    jq = needs("jq", "jq")
    result = run(BOTH, "10", "--format=json", charger=charger)
    shown = subprocess.run(
        [jq, "-c", ".settings"], input=result.stdout, stdout=subprocess.PIPE, text=True, check=True
    )
    assert shown.stdout == '{"dynamic_current_a":10,"failsafe_current_a":10,"failsafe_timeout_s":21}\n'


def test_the_unit_and_the_base_hold_for_writes_too(call: Run) -> None:
    with simulated_charger(base=1) as charger:
        result = call(BOTH, "12", "--base=1", "--unit=255", charger=charger)
    assert_confirmed(result, DYNAMIC_LINE, FAILSAFE_LINE)
    assert [(r.address, r.value) for r in charger.requests if r.function == WRITE] == [(5003, 12), (1999, 12)]
    assert {r.unit for r in charger.requests} == {255}


# --- A fault while a current is set ---------------------------------------------------------------

# A fault at the limits (always), at the write (once: carried out, or not), and at the read-back (once,
# or always); and what is said of it.
PLACES: list[dict[str, Any]] = [
    {"address": 1100},
    {"function": WRITE, "times": 1, "executed": True},
    {"function": WRITE, "times": 1, "executed": False},
    {"address": DYNAMIC, "function": READ_HOLDING, "skip": 1, "times": 1},
    {"address": DYNAMIC, "function": READ_HOLDING, "skip": 1},
]
SAID = {
    "set": "Dynamic current: 16 A -> 20 A",
    "nothing": FAILED + r"Cannot read the charger's limits \(.*\): .*; nothing was written",
    "ignored": FAILED + "dynamic current: 20 A was acknowledged, but the charger shows 16 A",
    "not done": FAILED + "dynamic current: 20 A was sent: .*, but the charger shows 16 A",
    "refused": FAILED + "dynamic current: 20 A was refused: exception .*; it stays 16 A",
    "refused, done": FAILED + "dynamic current: 20 A was refused: exception .*; it was 16 A and is 20 A now",
    "may be": FAILED
    + "dynamic current: 20 A was acknowledged; reading back failed: .*; it was 16 A and may be 20 A now",
}
TABLE = """
fault                       | limits  | write, done   | write, not done | read-back, once | read-back, always
single bytes                | set     | set           | ignored         | set             | set
split in the header         | set     | set           | ignored         | set             | set
reply and reset             | set     | set           | ignored         | set             | set
reply and close             | set     | set           | ignored         | set             | set
bytes behind the reply      | set     | set           | ignored         | set             | set
silence                     | nothing | set           | not done        | set             | may be
late                        | nothing | set           | not done        | set             | may be
dripping                    | nothing | set           | not done        | set             | may be
part of a header            | nothing | set           | not done        | set             | may be
short, header of the whole  | nothing | set           | not done        | set             | may be
reset                       | nothing | set           | not done        | set             | may be
close                       | nothing | set           | not done        | set             | may be
half a reply and reset      | nothing | set           | not done        | set             | may be
short                       | nothing | set           | not done        | set             | may be
long                        | nothing | set           | not done        | set             | may be
65535 bytes                 | nothing | set           | not done        | set             | may be
wrong byte count            | nothing | set           | ignored         | set             | may be
other function              | nothing | set           | not done        | set             | may be
other transaction           | nothing | set           | not done        | set             | may be
earlier reply, other length | nothing | set           | not done        | set             | may be
earlier reply, same length  | nothing | set           | not done        | set             | may be
other unit                  | nothing | set           | not done        | set             | may be
other protocol              | nothing | set           | not done        | set             | may be
no Modbus                   | nothing | set           | not done        | set             | may be
web server                  | nothing | set           | not done        | set             | may be
exception 0                 | nothing | set           | not done        | set             | may be
exception 1                 | set     | refused, done | refused         | may be          | may be
exception 2                 | set     | refused, done | refused         | may be          | may be
exception 2 and reset       | set     | refused, done | refused         | may be          | may be
exception 3                 | set     | refused, done | refused         | may be          | may be
exception 4                 | nothing | refused, done | refused         | may be          | may be
exception 4 and reset       | nothing | refused, done | refused         | may be          | may be
exception 5                 | nothing | set           | ignored         | set             | may be
exception 6                 | nothing | set, twice    | set, twice      | set             | may be
exception 7                 | nothing | refused, done | refused         | may be          | may be
exception 8                 | nothing | refused, done | refused         | may be          | may be
exception 9                 | nothing | refused, done | refused         | may be          | may be
exception 10                | nothing | refused, done | refused         | may be          | may be
exception 11                | nothing | refused, done | refused         | may be          | may be
exception 255               | nothing | refused, done | refused         | may be          | may be
"""
OUTCOMES = {
    name.strip(): [cell.strip() for cell in cells]
    for name, *cells in (line.split("|") for line in TABLE.strip().splitlines()[1:])
}


def test_each_fault_is_played_while_a_current_is_set() -> None:
    assert {*OUTCOMES} == {*NAMES}


def assert_said(charger: SimulatedCharger, connection: ContextManager[vestel.Charger], outcome: str) -> None:
    lines: list[str] = []
    what, _, twice = outcome.partition(", ")
    what = what if twice == "twice" else outcome
    with connection as reached:
        try:
            confirmed = vestel.set_currents(reached, [(vestel.DYNAMIC_CURRENT, 20)], lines.append)
        except vestel.Problem as problem:
            confirmed, lines = False, [*lines, f"ERROR: {problem}"]
    assert_lines(lines, SAID[what])
    assert charger.writes == [(DYNAMIC, 20)] * (0 if what == "nothing" else 2 if twice == "twice" else 1)
    assert confirmed == (what == "set")
    assert not confirmed or charger.image[HOLDING, DYNAMIC] == 20


@pytest.fixture(scope="module")
def box() -> Iterator[SimulatedCharger]:
    with simulated_charger() as charger:
        yield charger


@pytest.mark.parametrize("name", [name for name in OUTCOMES if name not in WAITING])
def test_a_fault_while_a_current_is_set_never_passes_for_a_confirmation(
    box: SimulatedCharger, clock: Clock, name: str
) -> None:
    for place, outcome in zip(PLACES, OUTCOMES[name]):
        forget(box)
        box.set(HOLDING, DYNAMIC, 16)
        box.fault(play_of(name), **place)
        assert_said(box, connected(box), outcome)


@pytest.mark.parametrize("name", WAITING)
def test_silence_while_a_current_is_set_never_passes_for_a_confirmation(name: str) -> None:
    def check(case: tuple[dict[str, Any], str]) -> None:
        place, outcome = case
        with simulated_charger() as charger:
            charger.fault(play_of(name), **place)
            assert_said(charger, connected(charger, modbus=hurrying(**place)), outcome)

    side_by_side(check, zip(PLACES, OUTCOMES[name]))


# --- What is not believed -----------------------------------------------------------------------


@pytest.mark.parametrize("shown", [16, 19, 0], ids=["ignored", "one less", "pauses instead"])
def test_what_is_read_back_counts_and_not_what_was_acknowledged(
    call: Run, charger: SimulatedCharger, shown: int
) -> None:
    charger.frozen[DYNAMIC] = shown
    result = call(ONLY_DYNAMIC, "20", "--format=json", charger=charger)
    assert_failed(result, FAILED + f"dynamic current: 20 A was acknowledged, but the charger shows {shown} A")
    assert charger.writes == [(DYNAMIC, 20)]


@pytest.mark.parametrize("shown", [6, 16], ids=["its minimum", "what it was"])
def test_a_pause_that_is_not_shown_says_both_things_that_are_known(
    call: Run, charger: SimulatedCharger, shown: int
) -> None:
    charger.frozen[DYNAMIC] = shown
    result = call(ONLY_DYNAMIC, "0", charger=charger)
    assert_failed(
        result,
        FAILED + f"dynamic current: 0 A was acknowledged, but the charger shows {shown} A; "
        "some firmware pauses charging and shows its minimum: the charging state tells; "
        "without a vehicle 0 becomes the minimum, so that a vehicle plugged in later charges",
    )
    assert charger.writes == [(DYNAMIC, 0)]


MEANINGS = {
    1: "illegal function",
    2: "illegal data address",
    3: "illegal data value",
    4: "device failure",
    7: "negative acknowledge",
    8: "memory parity error",
    9: "not in the Modbus specification",
    10: "gateway path unavailable",
    11: "gateway target does not respond",
    255: "not in the Modbus specification",
}


@pytest.mark.parametrize(("code", "meaning"), MEANINGS.items(), ids=map(str, MEANINGS))
def test_a_refusal_names_its_reason_what_was_asked_for_and_what_stands(
    call: Run, charger: SimulatedCharger, code: int, meaning: str
) -> None:
    charger.fault(exception(code), address=DYNAMIC, function=WRITE, executed=False)
    result = call(ONLY_DYNAMIC, "20", charger=charger)
    refused = rf"dynamic current: 20 A was refused: exception {code} \({meaning}\); it stays 16 A"
    assert_failed(result, FAILED + refused)
    assert charger.writes == [(DYNAMIC, 20)]


def test_what_stands_after_a_refusal_is_read_and_not_remembered(call: Run, charger: SimulatedCharger) -> None:
    def another_master_was_faster(request: bytes, reply: bytes) -> list[tuple[float, bytes]]:
        charger.set(HOLDING, DYNAMIC, 13)
        return exception(4)(request, reply)

    charger.fault(another_master_was_faster, function=WRITE, executed=False)
    result = call(ONLY_DYNAMIC, "20", charger=charger)
    assert_failed(result, FAILED + "dynamic current: 20 A was refused: .*; it was 16 A and is 13 A now")


def test_a_refused_write_whose_read_back_fails_is_not_said_to_be_done(
    call: Run, charger: SimulatedCharger
) -> None:
    charger.fault(exception(4), address=DYNAMIC, function=WRITE, executed=False)
    charger.fault("reset", address=DYNAMIC, function=READ_HOLDING, skip=1)
    result = call(ONLY_DYNAMIC, "20", charger=charger)
    assert_failed(
        result, FAILED + "dynamic current: 20 A was refused: .*; reading back failed: .*; it was 16 A"
    )


@pytest.mark.parametrize("executed", [True, False], ids=["carried out", "not carried out"])
@pytest.mark.parametrize(
    ("option", "address", "before", "name"),
    [(ONLY_DYNAMIC, DYNAMIC, 16, "Dynamic current"), (ONLY_FAILSAFE, FAILSAFE, 10, "Failsafe current")],
    ids=["dynamic", "failsafe"],
)
@pytest.mark.parametrize("fault", ["silence", "reset", "close"])
def test_a_write_without_a_reply_is_settled_by_reading_back_on_a_new_connection(
    call: Run,
    charger: SimulatedCharger,
    fault: str,
    option: str,
    address: int,
    before: int,
    name: str,
    executed: bool,
) -> None:
    with played(charger, fault, function=WRITE, executed=executed):
        result = call(option, "20", charger=charger)
    assert charger.writes == [(address, 20)]
    written = next(n for n, r in enumerate(charger.requests) if r.function == WRITE)
    write, read_back = charger.requests[written : written + 2]
    assert (read_back.function, read_back.address) == (READ_HOLDING, address)
    assert (write.connection, read_back.connection, charger.connections) == (1, 2, 2)
    why = "no reply within 0.2 s" if fault == "silence" else "the charger closed the connection"
    if executed:
        assert_confirmed(result, f"{name}: {before} A -> 20 A")
    else:
        shows = f"{name.lower()}: 20 A was sent: {why}, but the charger shows {before} A"
        assert_failed(result, FAILED + shows)


def test_an_acknowledged_write_is_read_back_and_not_written_again(
    call: Run, charger: SimulatedCharger, clock: Clock
) -> None:
    charger.fault(exception(5), function=WRITE)
    assert_confirmed(call(ONLY_DYNAMIC, "12", charger=charger), DYNAMIC_LINE)
    assert charger.writes == [(DYNAMIC, 12)]


def test_an_acknowledged_write_that_is_not_carried_out_is_not_believed(
    call: Run, charger: SimulatedCharger, clock: Clock
) -> None:
    charger.fault(exception(5), function=WRITE, executed=False)
    result = call(ONLY_DYNAMIC, "12", charger=charger)
    assert_failed(result, FAILED + "dynamic current: 12 A was acknowledged, but the charger shows 16 A")
    assert charger.writes == [(DYNAMIC, 12)]


@pytest.mark.parametrize("times", [1, 3])
def test_a_busy_charger_is_asked_again(
    call: Run, charger: SimulatedCharger, clock: Clock, times: int
) -> None:
    charger.fault(exception(6), function=WRITE, times=times, executed=False)
    assert_confirmed(call(BOTH, "12", charger=charger), DYNAMIC_LINE, FAILSAFE_LINE)
    assert charger.writes == [*[(DYNAMIC, 12)] * (times + 1), (FAILSAFE, 12)]
    assert charger.connections == 1


def test_a_charger_that_stays_busy_has_refused(call: Run, charger: SimulatedCharger, clock: Clock) -> None:
    charger.fault(exception(6), address=DYNAMIC, function=WRITE, executed=False)
    result = call(BOTH, "12", charger=charger)
    refused = r"dynamic current: 12 A was refused: exception 6 \(device busy\); it stays 16 A"
    assert_failed(result, FAILED + refused, FAILSAFE_LINE)
    assert charger.writes == [*[(DYNAMIC, 12)] * 6, (FAILSAFE, 12)]


@pytest.mark.parametrize("fault", ["silence", "reset", "short", "other transaction", "exception 4"])
def test_where_reading_back_fails_the_message_says_what_may_be_set(
    call: Run, charger: SimulatedCharger, fault: str
) -> None:
    with played(charger, fault, address=DYNAMIC, function=READ_HOLDING, skip=1):
        result = call(BOTH, "12", charger=charger)
    maybe = "12 A was acknowledged; reading back failed: .*; it was 16 A and may be 12 A now"
    assert_failed(result, FAILED + f"dynamic current: {maybe}", FAILSAFE_LINE)
    assert charger.writes == [(DYNAMIC, 12), (FAILSAFE, 12)]


def test_reading_back_is_tried_again_once(call: Run, charger: SimulatedCharger) -> None:
    charger.fault("reset", address=DYNAMIC, function=READ_HOLDING, skip=1, times=1)
    assert_confirmed(call(ONLY_DYNAMIC, "12", charger=charger), DYNAMIC_LINE)
    assert charger.writes == [(DYNAMIC, 12)]
    assert dynamic_reads(charger) == [1, 1, 2, 2]  # before, read back, once more, in the reading


def test_a_reading_that_contradicts_the_confirmation_has_a_warning(
    call: Run, charger: SimulatedCharger
) -> None:
    def shows_13(request: bytes, reply: bytes) -> list[tuple[float, bytes]]:
        charger.set(HOLDING, DYNAMIC, 6)
        return [(0, reply)]

    charger.fault(shows_13, DYNAMIC, READ_HOLDING, skip=1, times=1)
    result = call(ONLY_DYNAMIC, "13", "--format=json", charger=charger)
    assert result.stderr.splitlines() == [
        "Dynamic current: 16 A -> 13 A",
        "WARNING: the dynamic current was read back as 13 A, but is 6 A now",
    ]
    assert json.loads(result.stdout)["settings"]["dynamic_current_a"] == 6


# --- Each current stands for itself ---------------------------------------------------------------

DYNAMIC_FAILS: dict[str, tuple[Callable[[SimulatedCharger], None], str]] = {
    "refused": (
        play(exception(3), address=DYNAMIC, function=WRITE, executed=False),
        "12 A was refused: exception 3 .*; it stays 16 A",
    ),
    "ignored": (freeze(r5004=16), "12 A was acknowledged, but the charger shows 16 A"),
    "no reply": (
        play("reset", address=DYNAMIC, function=WRITE, executed=False),
        "12 A was sent: .* closed the connection, but the charger shows 16 A",
    ),
    "not read back": (
        play("reset", address=DYNAMIC, function=READ_HOLDING, skip=1),
        "12 A was acknowledged; reading back failed: .*; it was 16 A and may be 12 A now",
    ),
}
FAILSAFE_FAILS: dict[str, tuple[Callable[[SimulatedCharger], None], str]] = {
    "refused": (
        play(exception(3), address=FAILSAFE, function=WRITE, executed=False),
        "12 A was refused: exception 3 .*; it stays 10 A",
    ),
    "ignored": (freeze(r2000=10), "12 A was acknowledged, but the charger shows 10 A"),
    "no reply": (
        play("reset", address=FAILSAFE, function=WRITE, executed=False),
        "12 A was sent: .* closed the connection, but the charger shows 10 A",
    ),
    "not read back": (
        play("reset", address=FAILSAFE, function=READ_HOLDING, skip=1),
        "12 A was acknowledged; reading back failed: .*; it was 10 A and may be 12 A now",
    ),
}
TWO = pytest.mark.parametrize(
    "options", [[BOTH, "12"], [ONLY_DYNAMIC, "12", ONLY_FAILSAFE, "12"]], ids=["one option", "two options"]
)


@pytest.mark.parametrize(("fail", "said"), DYNAMIC_FAILS.values(), ids=DYNAMIC_FAILS)
@TWO
def test_where_the_dynamic_current_fails_the_failsafe_current_is_set_all_the_same(
    call: Run, charger: SimulatedCharger, options: list[str], fail: Callable[..., None], said: str
) -> None:
    fail(charger)
    assert_failed(call(*options, charger=charger), f"{FAILED}dynamic current: {said}", FAILSAFE_LINE)
    assert charger.writes == [(DYNAMIC, 12), (FAILSAFE, 12)]
    assert charger.image[HOLDING, FAILSAFE] == 12


@pytest.mark.parametrize(("fail", "said"), FAILSAFE_FAILS.values(), ids=FAILSAFE_FAILS)
@TWO
def test_where_the_failsafe_current_fails_the_dynamic_current_is_set(
    call: Run, charger: SimulatedCharger, options: list[str], fail: Callable[..., None], said: str
) -> None:
    fail(charger)
    assert_failed(call(*options, charger=charger), DYNAMIC_LINE, f"{FAILED}failsafe current: {said}")
    assert charger.writes == [(DYNAMIC, 12), (FAILSAFE, 12)]


@pytest.mark.parametrize(("fail", "said"), DYNAMIC_FAILS.values(), ids=DYNAMIC_FAILS)
@pytest.mark.parametrize(("fail_too", "said_too"), FAILSAFE_FAILS.values(), ids=FAILSAFE_FAILS)
def test_where_both_fail_there_is_a_line_for_each(
    call: Run,
    charger: SimulatedCharger,
    fail: Callable[..., None],
    said: str,
    fail_too: Callable[..., None],
    said_too: str,
) -> None:
    fail(charger)
    fail_too(charger)
    result = call(BOTH, "12", charger=charger)
    assert_failed(result, f"{FAILED}dynamic current: {said}", f"{FAILED}failsafe current: {said_too}")
    assert charger.writes == [(DYNAMIC, 12), (FAILSAFE, 12)]


def test_at_night_without_a_vehicle_the_failsafe_current_is_set_though_the_dynamic_one_is_ignored(
    call: Run, charger: SimulatedCharger
) -> None:
    charger.set("input", 1004, 0)
    charger.frozen[DYNAMIC] = 6
    result = call(BOTH, "0", charger=charger)
    ignored = "dynamic current: 0 A was acknowledged, but the charger shows 6 A; .*"
    assert_failed(result, FAILED + ignored, "Failsafe current: 10 A -> 0 A")


@pytest.mark.parametrize(
    ("option", "address", "other"),
    [(ONLY_FAILSAFE, FAILSAFE, "dynamic"), (ONLY_DYNAMIC, DYNAMIC, "failsafe")],
)
def test_nothing_is_said_of_a_current_that_was_not_to_be_set(
    call: Run, charger: SimulatedCharger, option: str, address: int, other: str
) -> None:
    charger.frozen[address] = 9
    result = call(option, "12", charger=charger)
    assert_failed(result, FAILED + ".* current: 12 A was acknowledged, but the charger shows 9 A")
    assert other not in result.stderr.lower()


# --- The connection is lost -----------------------------------------------------------------------


def test_where_there_is_no_charger_there_is_one_line_and_it_says_why(call: Run) -> None:
    port = free_port()
    result = call(BOTH, "10", "--ip=127.0.0.1", f"--port={port}")
    why = "connection refused; .*web page.*another master.*"
    assert_failed(result, FAILED + f"Cannot connect to 127.0.0.1:{port}: {why}; nothing was written")


def test_a_dead_host_costs_a_write_one_timeout(call: Run) -> None:
    with dead_host() as port, attempts_to(port) as attempts:
        begin = time.monotonic()
        result = call(BOTH, "10", "--ip=127.0.0.1", f"--port={port}", "--timeout=0.3")
        assert time.monotonic() - begin >= 0.3
    why = "no answer within 0.3 s; .*firewall.*"
    assert_failed(result, FAILED + f"Cannot connect to 127.0.0.1:{port}: {why}; nothing was written")
    assert attempts == [0.3]


def test_where_another_master_is_on_nothing_is_written_and_the_message_says_what_to_do(
    call: Run, charger: SimulatedCharger
) -> None:
    charger.close_next = 99
    result = call(BOTH, "10", charger=charger)
    assert_failed(result, FAILED + ".*another master.*failsafe timeout.*; nothing was written")
    assert charger.requests == []


UNREACHABLE = "Cannot connect to 127.0.0.1:.*: connection refused; .*"
SENT = f"12 A was sent: the charger closed the connection; reading back failed: {UNREACHABLE}"
ACKNOWLEDGED = f"12 A was acknowledged; reading back failed: {UNREACHABLE}"
MAY_BE = "it was 16 A and may be 12 A now"
NOT_WRITTEN = "failsafe current: not written, the charger cannot be reached any more; it was 10 A"


@pytest.mark.parametrize(
    ("where", "lines", "written"),
    [
        ({"address": 1100}, [f"{FAILED}{UNREACHABLE}; nothing was written"], []),
        ({"address": DYNAMIC}, [f"{FAILED}{UNREACHABLE}; nothing was written"], []),
        ({"address": FAILSAFE}, [f"{FAILED}{UNREACHABLE}; nothing was written"], []),
        (
            {"address": DYNAMIC, "function": WRITE},
            [f"{FAILED}dynamic current: {SENT}; {MAY_BE}", FAILED + NOT_WRITTEN],
            [(DYNAMIC, 12)],
        ),
        (
            {"address": DYNAMIC, "skip": 2},
            [f"{FAILED}dynamic current: {ACKNOWLEDGED}; {MAY_BE}", FAILED + NOT_WRITTEN],
            [(DYNAMIC, 12)],
        ),
        (
            {"address": FAILSAFE, "function": WRITE},
            [DYNAMIC_LINE, f"{FAILED}failsafe current: {SENT}; it was 10 A and may be 12 A now"],
            [(DYNAMIC, 12), (FAILSAFE, 12)],
        ),
        (
            {"address": FAILSAFE, "skip": 2},
            [DYNAMIC_LINE, f"{FAILED}failsafe current: {ACKNOWLEDGED}; it was 10 A and may be 12 A now"],
            [(DYNAMIC, 12), (FAILSAFE, 12)],
        ),
    ],
    ids=["limits", "first setting", "second setting", "first write", "first read-back", "second write",
         "second read-back"],
)  # fmt: skip
def test_a_charger_that_cannot_be_reached_any_more_ends_the_attempt_with_a_line_for_each_not_confirmed(
    call: Run,
    charger: SimulatedCharger,
    where: dict[str, Any],
    lines: list[str],
    written: list[tuple[int, int]],
) -> None:
    charger.fault(charger.vanish(), **where)
    assert_failed(call(BOTH, "12", charger=charger), *lines)
    assert charger.writes == written


def test_a_charger_that_is_gone_before_the_second_write_is_not_written_to(
    call: Run, charger: SimulatedCharger
) -> None:
    charger.fault("reset", address=DYNAMIC, function=READ_HOLDING, skip=1, times=1)
    charger.fault(charger.vanish(), address=DYNAMIC, function=READ_HOLDING, skip=1)
    result = call(BOTH, "12", charger=charger)
    maybe = "12 A was acknowledged; reading back failed: .*; it was 16 A and may be 12 A now"
    not_written = f"failsafe current: not written: {UNREACHABLE}; it was 10 A"
    assert_failed(result, f"{FAILED}dynamic current: {maybe}", FAILED + not_written)
    assert charger.writes == [(DYNAMIC, 12)]


# --- The reading after it -------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["vanishes", "has nothing to tell"])
def test_after_the_confirmations_a_reading_that_fails_is_exit_1(
    call: Run, charger: SimulatedCharger, how: str
) -> None:
    for address in (100, 400):
        charger.fault(charger.vanish() if how == "vanishes" else "reset", address=address)
    result = call(BOTH, "12", charger=charger)
    assert (result.returncode, result.stdout) == (1, "")
    cannot = {"vanishes": "connect to", "has nothing to tell": "read"}[how]
    error = rf"ERROR: Cannot {cannot} 127\.0\.0\.1:\d+: .*"
    assert_lines(result.stderr.splitlines(), DYNAMIC_LINE, FAILSAFE_LINE, error)


def test_after_the_confirmations_a_range_that_fails_is_null_with_a_warning(
    call: Run, charger: SimulatedCharger
) -> None:
    charger.fault(exception(4), address=1000)
    result = call(BOTH, "12", "--format=json", charger=charger)
    *confirmed, warning = result.stderr.splitlines()
    assert (result.returncode, confirmed) == (0, [DYNAMIC_LINE, FAILSAFE_LINE])
    assert warning.startswith("WARNING: Cannot read input registers 1000-")
    reading = json.loads(result.stdout)
    assert reading["electrical"]["current"] == {"l1_a": None, "l2_a": None, "l3_a": None}
    assert reading["settings"]["dynamic_current_a"] == 12


# --- The demo -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("amps", "lines"),
    [
        (10, ["Dynamic current: 16 A -> 10 A", "Failsafe current: stays 10 A"]),
        (32, ["Dynamic current: 16 A -> 32 A", "Failsafe current: 10 A -> 32 A"]),
    ],
)
def test_the_demo_obeys_and_its_phase_currents_follow(call: Run, amps: int, lines: list[str]) -> None:
    result = call("--demo", BOTH, str(amps), "--format=json")
    assert_confirmed(result, *lines)
    reading = json.loads(result.stdout)
    assert reading["settings"]["dynamic_current_a"] == reading["settings"]["failsafe_current_a"] == amps
    assert all(amps - 1 < current <= amps for current in reading["electrical"]["current"].values())
    assert amps * 3 * 210 < reading["electrical"]["power"]["total_w"] < amps * 3 * 231


def test_the_demo_pauses(call: Run) -> None:
    result = call("--demo", ONLY_DYNAMIC, "0", "--format=json")
    assert_confirmed(result, "Dynamic current: 16 A -> 0 A")
    reading = json.loads(result.stdout)
    assert reading["electrical"]["current"] == {"l1_a": 0, "l2_a": 0, "l3_a": 0}
    assert reading["electrical"]["power"] == {"l1_w": 0, "l2_w": 0, "l3_w": 0, "total_w": 0, "total_kw": 0}
    assert reading["states"]["charging"] == {"code": 0, "name": "NotCharging"}
    assert reading["states"]["chargepoint"]["name"] != "Charging"

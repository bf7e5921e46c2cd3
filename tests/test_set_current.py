"""Setting currents: what reaches the charger, what is believed, and what the user is told."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from typing import Any, Callable

import pytest
from conftest import READING, Result, Run, Start, eventually, needs
from simulated_charger import (
    HOLDING,
    INPUT,
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

BOTH, ONLY_DYNAMIC, ONLY_FAILSAFE = "--set-current", "--set-dynamic-current", "--set-failsafe-current"
OPTIONS = [BOTH, ONLY_DYNAMIC, ONLY_FAILSAFE]
DYNAMIC, FAILSAFE = 5004, 2000  # 16 A and 10 A, before anything is written
NO_ANSWER = ["silence", "reset", "close"]


def assert_confirmed(result: Result[str], *lines: str) -> None:
    assert (result.returncode, result.stderr.splitlines()) == (0, list(lines))


def assert_failed(result: Result[str], *patterns: str, confirmed: tuple[str, ...] = ()) -> None:
    """One ERROR line, after what was confirmed before; nothing on stdout."""
    assert (result.returncode, result.stdout) == (3, "")
    *before, error = result.stderr.splitlines()
    assert before == list(confirmed)
    assert error.startswith("ERROR: failed writing current: ")
    for pattern in patterns:
        assert re.search(pattern, error), f"{pattern!r} is not in {error!r}"


def dynamic_reads(charger: SimulatedCharger) -> list[int]:
    """The connection of each read of the dynamic current."""
    return [r.connection for r in charger.requests if (r.function, r.address) == (READ_HOLDING, DYNAMIC)]


def play(play: str | Play, **where: Any) -> Callable[[SimulatedCharger], None]:
    return lambda charger: charger.fault(play, **where)


def freeze(**registers: int) -> Callable[[SimulatedCharger], None]:
    return lambda charger: charger.frozen.update({int(name[1:]): held for name, held in registers.items()})


# --- What may be written ----------------------------------------------------------------------


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize(
    "value",
    ["ten", "16A", "16.5", "16.0", "-5", "-0", "65536", "99999999999", "9" * 5000, "1e1", "0x10", "", " ",
     "+16", "nan", "inf", "1_6", "\u0661\u0666", "16,5"],
)  # fmt: skip
def test_what_is_no_whole_number_of_16_bits_is_a_usage_error(
    run: Run, charger: SimulatedCharger, option: str, value: str
) -> None:
    result = run(f"{option}={value}", charger=charger)
    assert (result.returncode, result.stdout) == (2, "")
    assert option in result.stderr
    assert "Traceback" not in result.stderr
    assert (charger.writes, charger.connections) == ([], 0)


@pytest.mark.parametrize("option", OPTIONS)
def test_a_negative_number_that_stands_apart_is_a_usage_error(
    run: Run, charger: SimulatedCharger, option: str
) -> None:
    result = run(option, "-5", charger=charger)
    assert (result.returncode, result.stdout, charger.writes) == (2, "", [])


@pytest.mark.parametrize("other", [ONLY_DYNAMIC, ONLY_FAILSAFE])
def test_set_current_goes_with_neither_of_the_others(run: Run, charger: SimulatedCharger, other: str) -> None:
    result = run(BOTH, "10", other, "10", charger=charger)
    assert (result.returncode, result.stdout) == (2, "")
    assert (charger.writes, charger.connections) == ([], 0)


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("amps", ["1", "3", "5", "33", "40", "100", "65535"])
def test_what_the_charger_does_not_take_never_reaches_it(
    run: Run, charger: SimulatedCharger, option: str, amps: str
) -> None:
    result = run(option, amps, "--format=json", charger=charger)
    standing = {ONLY_FAILSAFE: r"\b10 A"}.get(option, r"\b16 A")
    assert_failed(result, rf"\b{amps} A", r"\b6\b.{1,4}\b32\b", standing, "nothing was written")
    assert charger.writes == []


MISSING = None
LIMITS = {
    "as told": (6, 32, 6, 32),
    "narrow": (8, 20, 8, 20),
    "one value": (16, 16, 16, 16),
    "the most that can be": (6, 100, 6, 100),
    "both missing": (MISSING, MISSING, 6, 32),
    "minimum missing": (MISSING, 16, 6, 16),
    "maximum missing": (10, MISSING, 10, 32),
    "both 0": (0, 0, 6, 32),
    "minimum 0": (0, 20, 6, 20),
    "maximum 0": (8, 0, 8, 32),
    "maximum absurd": (8, 101, 8, 32),
    "minimum absurd": (101, 20, 6, 20),
    "both absurd": (65535, 65535, 6, 32),
    "minimum above the maximum": (20, 10, 6, 32),
}


@pytest.mark.parametrize(("minimum", "maximum", "low", "high"), LIMITS.values(), ids=LIMITS)
def test_the_charger_s_own_limits_count_and_6_to_32_where_it_tells_none(
    run: Run, charger: SimulatedCharger, minimum: int | None, maximum: int | None, low: int, high: int
) -> None:
    for address, limit in ((1102, minimum), (1104, maximum)):
        if limit is MISSING:
            charger.missing.add((INPUT, address))
        else:
            charger.set(INPUT, address, limit)
    for amps in (low - 1, high + 1):
        assert_failed(run(ONLY_DYNAMIC, str(amps), charger=charger), rf"\b{low}\b.{{1,4}}\b{high}\b")
    assert charger.writes == []
    for amps in (low, high, 0):
        assert run(ONLY_DYNAMIC, str(amps), charger=charger).returncode == 0
    assert charger.writes == [(DYNAMIC, low), (DYNAMIC, high), (DYNAMIC, 0)]


def test_limits_that_are_refused_are_6_to_32(run: Run, charger: SimulatedCharger) -> None:
    charger.set(INPUT, 1102, 10)
    charger.fault(exception(4), address=1100)
    assert_failed(run(ONLY_DYNAMIC, "33", charger=charger), r"\b6\b.{1,4}\b32\b")
    assert run(ONLY_DYNAMIC, "6", charger=charger).returncode == 0
    assert charger.writes == [(DYNAMIC, 6)]


@pytest.mark.parametrize("what", ["limits", "setting"])
@pytest.mark.parametrize("fault", NO_ANSWER)
def test_nothing_is_written_blindly(run: Run, charger: SimulatedCharger, what: str, fault: str) -> None:
    charger.fault(fault, address={"limits": 1100, "setting": DYNAMIC}[what])
    result = run(BOTH, "20", "--timeout=0.3", charger=charger)
    assert_failed(result, "nothing was written", "another master", "failsafe timeout")
    assert charger.writes == []


def test_a_maximum_of_its_own_is_kept_where_the_minimum_is_not_told(
    run: Run, charger: SimulatedCharger
) -> None:
    charger.missing = {(INPUT, 1102)}
    charger.set(INPUT, 1104, 5)
    assert_failed(run(ONLY_DYNAMIC, "6", charger=charger), "5 to 5 A")
    assert charger.writes == []


def test_a_refused_write_that_was_carried_out_is_told_as_it_is(run: Run, charger: SimulatedCharger) -> None:
    charger.fault(exception(4), DYNAMIC, 6)
    result = run(ONLY_DYNAMIC, "13", charger=charger)
    assert_failed(result, "13 A was refused", "exception 4", "it was 16 A and is 13 A now")


def test_a_reading_that_contradicts_the_confirmation_has_a_warning(
    run: Run, charger: SimulatedCharger
) -> None:
    def shows_13(request: bytes, reply: bytes) -> list[tuple[float, bytes]]:
        charger.set(HOLDING, DYNAMIC, 6)
        return [(0, reply)]

    charger.fault(shows_13, DYNAMIC, READ_HOLDING, skip=1, times=1)
    result = run(ONLY_DYNAMIC, "13", "--format=json", charger=charger)
    assert result.stderr.splitlines() == [
        "Dynamic current: 16 A -> 13 A",
        "WARNING: the dynamic current was read back as 13 A, but is 6 A now",
    ]
    assert json.loads(result.stdout)["settings"]["dynamic_current_a"] == 6


def test_limits_of_which_one_got_no_reply_are_not_taken_for_6_to_32(
    run: Run, charger: SimulatedCharger
) -> None:
    for address in (1100, 1102):
        charger.fault(exception(2), address=address)
    charger.fault("silence", address=1104)
    assert_failed(run(BOTH, "20", "--timeout=0.3", charger=charger), "nothing was written")
    assert charger.writes == []


@pytest.mark.parametrize(
    ("dynamic", "failsafe"), [("33", "8"), ("20", "5"), ("5", "33"), ("0", "40"), ("40", "0")]
)
def test_where_one_of_two_is_out_of_range_neither_is_written(
    run: Run, charger: SimulatedCharger, dynamic: str, failsafe: str
) -> None:
    result = run(ONLY_DYNAMIC, dynamic, ONLY_FAILSAFE, failsafe, charger=charger)
    assert_failed(result, r"\b6\b.{1,4}\b32\b")
    assert charger.writes == []


# --- What is written, in which order, and what is said of it -------------------------------------

DYNAMIC_LINE, FAILSAFE_LINE = "Dynamic current: 16 A -> 12 A", "Failsafe current: 10 A -> 12 A"
WRITES = {
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


@pytest.mark.parametrize(("options", "writes", "lines"), WRITES.values(), ids=WRITES)
def test_each_write_is_read_back_and_the_reading_follows_on_the_same_connection(
    run: Run, charger: SimulatedCharger, options: list[str], writes: list[tuple[int, int]], lines: list[str]
) -> None:
    result = run(*options, "--format=json", charger=charger)
    assert_confirmed(result, *lines)
    assert charger.writes == writes
    log = [(r.function, r.address) for r in charger.requests]
    first = log.index((WRITE, writes[0][0]))
    pairs = [(function, address) for address, _ in writes for function in (WRITE, READ_HOLDING)]
    assert log[first : first + len(pairs) + 1] == [*pairs, (READ_INPUT, 100)]
    now = {DYNAMIC: 16, FAILSAFE: 10, **dict(writes)}
    reading = json.loads(result.stdout)
    assert reading["settings"] == {
        "dynamic_current_a": now[DYNAMIC],
        "failsafe_current_a": now[FAILSAFE],
        "failsafe_timeout_s": 21,
    }
    assert reading["electrical"] == READING["electrical"]
    assert charger.connections == 1


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
    run: Run, charger: SimulatedCharger, style: str
) -> None:
    result = run(BOTH, "12", f"--format={style}", charger=charger)
    assert_confirmed(result, DYNAMIC_LINE, FAILSAFE_LINE)
    for text in SHOWN[style]:
        assert text in result.stdout
    assert "->" not in result.stdout
    assert charger.connections == 1


def test_jq_reads_what_follows_a_write(run: Run, charger: SimulatedCharger) -> None:
    jq = needs("jq", "jq")
    result = run(BOTH, "10", "--format=json", charger=charger)
    shown = subprocess.run(
        [jq, "-c", ".settings"], input=result.stdout, capture_output=True, text=True, check=True
    )
    assert shown.stdout == '{"dynamic_current_a":10,"failsafe_current_a":10,"failsafe_timeout_s":21}\n'


def test_the_unit_and_the_base_hold_for_writes_too(run: Run) -> None:
    with simulated_charger(base=1) as charger:
        result = run(BOTH, "12", "--base=1", "--unit=255", charger=charger)
    assert_confirmed(result, DYNAMIC_LINE, FAILSAFE_LINE)
    assert [(r.address, r.value) for r in charger.requests if r.function == WRITE] == [(5003, 12), (1999, 12)]
    assert {r.unit for r in charger.requests} == {255}


def test_a_setting_that_was_not_readable_before_the_write_is_unknown(
    run: Run, charger: SimulatedCharger
) -> None:
    charger.fault(exception(4), address=DYNAMIC, function=READ_HOLDING, times=1)
    assert_confirmed(run(ONLY_DYNAMIC, "20", charger=charger), "Dynamic current: unknown -> 20 A")


# --- What is not believed -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("amps", "shown", "patterns"),
    [
        (20, 16, [r"\b20 A was acknowledged", r"\bshows 16 A"]),
        (20, 19, [r"\b20 A was acknowledged", r"\bshows 19 A"]),
        (20, 0, [r"\b20 A was acknowledged", r"\bshows 0 A"]),
        (0, 6, [r"\b0 A was acknowledged", r"\bshows 6 A", "pauses", "minimum", "charging state"]),
        (0, 16, [r"\b0 A was acknowledged", r"\bshows 16 A", "pauses", "minimum", "charging state"]),
    ],
    ids=["ignored", "one less", "pauses instead", "6 after 0", "0 ignored"],
)
def test_what_is_read_back_counts_and_not_what_was_acknowledged(
    run: Run, charger: SimulatedCharger, amps: int, shown: int, patterns: list[str]
) -> None:
    charger.frozen[DYNAMIC] = shown
    result = run(ONLY_DYNAMIC, str(amps), "--format=json", charger=charger)
    assert_failed(result, "dynamic current", *patterns)
    assert ("charging state" in result.stderr) == (amps == 0)
    assert charger.writes == [(DYNAMIC, amps)]


MEANINGS = {
    1: "illegal function",
    2: "illegal data address",
    3: "illegal data value",
    4: "device failure",
    7: "negative acknowledge",
    8: "memory parity error",
    9: "exception 9",
    10: "gateway path unavailable",
    11: "gateway target",
    255: "exception 255",
}


@pytest.mark.parametrize(("code", "meaning"), MEANINGS.items(), ids=map(str, MEANINGS))
def test_a_refusal_names_its_reason_what_was_asked_for_and_what_stands(
    run: Run, charger: SimulatedCharger, code: int, meaning: str
) -> None:
    charger.fault(exception(code), address=DYNAMIC, function=WRITE, executed=False)
    result = run(ONLY_DYNAMIC, "20", charger=charger)
    assert_failed(result, "dynamic current", meaning, r"\b20 A was refused", r"\b16 A")
    assert charger.writes == [(DYNAMIC, 20)]


def test_what_stands_after_a_refusal_is_read_and_not_remembered(run: Run, charger: SimulatedCharger) -> None:
    def another_master_was_faster(request: bytes, reply: bytes) -> list[tuple[float, bytes]]:
        charger.set(HOLDING, DYNAMIC, 13)
        return exception(4)(request, reply)

    charger.fault(another_master_was_faster, function=WRITE, executed=False)
    assert_failed(run(ONLY_DYNAMIC, "20", charger=charger), r"\b20 A was refused", r"\b13 A")


@pytest.mark.parametrize("executed", [True, False], ids=["carried out", "not carried out"])
@pytest.mark.parametrize(
    ("option", "address", "before", "name"),
    [(ONLY_DYNAMIC, DYNAMIC, 16, "Dynamic current"), (ONLY_FAILSAFE, FAILSAFE, 10, "Failsafe current")],
    ids=["dynamic", "failsafe"],
)
@pytest.mark.parametrize("fault", NO_ANSWER)
def test_a_write_without_a_reply_is_settled_by_reading_back_on_a_new_connection(
    run: Run,
    charger: SimulatedCharger,
    fault: str,
    option: str,
    address: int,
    before: int,
    name: str,
    executed: bool,
) -> None:
    charger.fault(fault, function=WRITE, executed=executed)
    result = run(option, "20", "--timeout=0.4", charger=charger)
    assert charger.writes == [(address, 20)]
    written = next(n for n, r in enumerate(charger.requests) if r.function == WRITE)
    write, read_back = charger.requests[written : written + 2]
    assert (read_back.function, read_back.address) == (READ_HOLDING, address)
    assert (write.connection, read_back.connection, charger.connections) == (1, 2, 2)
    if executed:
        assert_confirmed(result, f"{name}: {before} A -> 20 A")
    else:
        assert_failed(result, name.lower(), r"\b20 A\b", rf"\b{before} A\b", "no reply|closed the connection")


def test_an_acknowledged_write_is_read_back_and_not_written_again(
    run: Run, charger: SimulatedCharger
) -> None:
    charger.fault(exception(5), function=WRITE)
    assert_confirmed(run(ONLY_DYNAMIC, "12", charger=charger), DYNAMIC_LINE)
    assert charger.writes == [(DYNAMIC, 12)]


def test_an_acknowledged_write_that_is_not_carried_out_is_not_believed(
    run: Run, charger: SimulatedCharger
) -> None:
    charger.fault(exception(5), function=WRITE, executed=False)
    assert_failed(run(ONLY_DYNAMIC, "12", charger=charger), r"\b12 A", "acknowledge", r"\b16 A")
    assert charger.writes == [(DYNAMIC, 12)]


@pytest.mark.parametrize("times", [1, 3])
def test_a_busy_charger_is_asked_again(run: Run, charger: SimulatedCharger, times: int) -> None:
    charger.fault(exception(6), function=WRITE, times=times, executed=False)
    assert_confirmed(run(BOTH, "12", charger=charger), DYNAMIC_LINE, FAILSAFE_LINE)
    assert charger.writes == [*[(DYNAMIC, 12)] * (times + 1), (FAILSAFE, 12)]
    assert charger.connections == 1


def test_a_charger_that_stays_busy_has_refused(run: Run, charger: SimulatedCharger) -> None:
    charger.fault(exception(6), function=WRITE, executed=False)
    assert_failed(run(BOTH, "12", charger=charger), "device busy", r"\b12 A", r"\b16 A")
    assert set(charger.writes) == {(DYNAMIC, 12)}
    assert 3 < len(charger.writes) < 10


@pytest.mark.parametrize("fault", ["silence", "reset", "short", "other transaction", exception(4)])
def test_where_reading_back_fails_the_message_says_what_may_be_set(
    run: Run, charger: SimulatedCharger, fault: str | Play
) -> None:
    charger.fault(fault, address=DYNAMIC, function=READ_HOLDING, skip=1)
    result = run(BOTH, "20", "--timeout=0.4", charger=charger)
    assert_failed(result, "dynamic current", "may be 20 A", r"\b16 A", "failsafe current was not touched")
    assert charger.writes == [(DYNAMIC, 20)]


def test_reading_back_is_tried_again_once(run: Run, charger: SimulatedCharger) -> None:
    charger.fault("reset", address=DYNAMIC, function=READ_HOLDING, skip=1, times=1)
    assert_confirmed(run(ONLY_DYNAMIC, "12", charger=charger), DYNAMIC_LINE)
    assert charger.writes == [(DYNAMIC, 12)]
    assert dynamic_reads(charger) == [1, 1, 2, 2]  # before, read back, once more, in the reading


# --- One of two -------------------------------------------------------------------------------

FIRST_FAILS: dict[str, Callable[[SimulatedCharger], None]] = {
    "refused": play(exception(3), address=DYNAMIC, function=WRITE, executed=False),
    "ignored": freeze(r5004=16),
    "no reply": play("reset", address=DYNAMIC, function=WRITE, executed=False),
    "gone": play("reset", address=DYNAMIC, function=READ_HOLDING, skip=1),
}
SECOND_FAILS: dict[str, Callable[[SimulatedCharger], None]] = {
    "refused": play(exception(3), address=FAILSAFE, function=WRITE, executed=False),
    "ignored": freeze(r2000=10),
    "no reply": play("reset", address=FAILSAFE, function=WRITE, executed=False),
    "gone": play("reset", address=FAILSAFE, skip=1),
}


@pytest.mark.parametrize("fail", FIRST_FAILS.values(), ids=FIRST_FAILS)
@pytest.mark.parametrize(
    ("options", "amps"),
    [([BOTH, "20"], 20), ([ONLY_DYNAMIC, "21", ONLY_FAILSAFE, "8"], 21)],
    ids=["one", "two"],
)
def test_when_the_first_fails_the_second_is_not_touched_and_the_message_says_so(
    run: Run,
    charger: SimulatedCharger,
    options: list[str],
    amps: int,
    fail: Callable[[SimulatedCharger], None],
) -> None:
    fail(charger)
    result = run(*options, charger=charger)
    assert_failed(result, f"dynamic current: {amps} A", "failsafe current was not touched", r"\b10 A")
    assert charger.writes == [(DYNAMIC, amps)]
    assert charger.image[HOLDING, FAILSAFE] == 10


@pytest.mark.parametrize("fail", SECOND_FAILS.values(), ids=SECOND_FAILS)
@pytest.mark.parametrize(
    ("options", "writes"),
    [
        ([BOTH, "12"], [(DYNAMIC, 12), (FAILSAFE, 12)]),
        ([ONLY_DYNAMIC, "12", ONLY_FAILSAFE, "8"], [(DYNAMIC, 12), (FAILSAFE, 8)]),
    ],
    ids=["one", "two"],
)
def test_when_the_second_fails_the_message_says_to_what_the_first_is_set(
    run: Run,
    charger: SimulatedCharger,
    options: list[str],
    writes: list[tuple[int, int]],
    fail: Callable[[SimulatedCharger], None],
) -> None:
    fail(charger)
    result = run(*options, charger=charger)
    failed = f"failsafe current: {writes[1][1]} A"
    assert_failed(result, failed, "dynamic current is set to 12 A already", confirmed=(DYNAMIC_LINE,))
    assert charger.writes == writes


def test_where_the_failsafe_current_alone_fails_nothing_is_said_of_the_dynamic_one(
    run: Run, charger: SimulatedCharger
) -> None:
    charger.frozen[FAILSAFE] = 10
    result = run(ONLY_FAILSAFE, "12", charger=charger)
    assert_failed(result, "failsafe current", r"\b12 A", r"\b10 A")
    assert "dynamic" not in result.stderr


# --- The connection is lost -----------------------------------------------------------------------


def test_where_there_is_no_charger_there_is_one_line_and_it_says_why(run: Run) -> None:
    result = run(BOTH, "10", "--ip=127.0.0.1", f"--port={free_port()}")
    assert_failed(
        result, "Cannot connect to 127.0.0.1:", "refused", "another master", "web page", "nothing was written"
    )


def test_a_dead_host_costs_a_write_one_timeout(run: Run) -> None:
    with dead_host() as port:
        begin = time.monotonic()
        result = run(BOTH, "10", "--ip=127.0.0.1", f"--port={port}", "--timeout=2")
        assert 2 <= time.monotonic() - begin < 3.9
    assert_failed(result, "Cannot connect to 127.0.0.1:", "firewall", "nothing was written")


def test_where_another_master_is_on_nothing_is_written_and_the_message_says_what_to_do(
    run: Run, charger: SimulatedCharger
) -> None:
    charger.close_next = 99
    result = run(BOTH, "10", charger=charger)
    assert_failed(result, "another master", "failsafe timeout", "nothing was written")
    assert charger.requests == []


@pytest.mark.parametrize(
    ("where", "patterns", "confirmed", "written"),
    [
        ({"address": 1100}, ["nothing was written"], (), []),
        ({"address": DYNAMIC}, ["nothing was written"], (), []),
        ({"address": DYNAMIC, "function": WRITE}, ["may be 12 A", "16 A", "not touched"], (), [12]),
        ({"address": DYNAMIC, "skip": 2}, ["may be 12 A", "16 A", "not touched"], (), [12]),
        (
            {"address": FAILSAFE, "function": WRITE},
            ["may be 12 A", "set to 12 A already"],
            (DYNAMIC_LINE,),
            [12, 12],
        ),
        ({"address": FAILSAFE, "skip": 2}, ["may be 12 A", "set to 12 A already"], (DYNAMIC_LINE,), [12, 12]),
    ],
    ids=["limits", "setting", "first write", "first read-back", "second write", "second read-back"],
)
def test_until_the_last_confirmation_a_charger_that_vanishes_is_a_failed_write(
    run: Run,
    charger: SimulatedCharger,
    where: dict[str, Any],
    patterns: list[str],
    confirmed: tuple[str, ...],
    written: list[int],
) -> None:
    charger.fault(charger.vanish(), **where)
    result = run(BOTH, "12", charger=charger)
    assert_failed(result, "Cannot connect to 127.0.0.1:", *patterns, confirmed=confirmed)
    assert [value for _, value in charger.writes] == written


def test_after_the_confirmations_a_reading_that_fails_is_exit_1(run: Run, charger: SimulatedCharger) -> None:
    charger.fault(charger.vanish(), address=100)
    result = run(BOTH, "12", charger=charger)
    assert (result.returncode, result.stdout) == (1, "")
    *confirmed, error = result.stderr.splitlines()
    assert confirmed == [DYNAMIC_LINE, FAILSAFE_LINE]
    assert error.startswith("ERROR: Cannot connect to 127.0.0.1:")


def test_after_the_confirmations_a_range_that_fails_is_null_with_a_warning(
    run: Run, charger: SimulatedCharger
) -> None:
    charger.fault(exception(4), address=1000)
    result = run(BOTH, "12", "--format=json", charger=charger)
    *confirmed, warning = result.stderr.splitlines()
    assert (result.returncode, confirmed) == (0, [DYNAMIC_LINE, FAILSAFE_LINE])
    assert warning.startswith("WARNING: Cannot read input registers 1000-1037: ")
    reading = json.loads(result.stdout)
    assert reading["electrical"]["current"] == {"l1_a": None, "l2_a": None, "l3_a": None}
    assert reading["settings"]["dynamic_current_a"] == 12


# --- Ctrl-C -------------------------------------------------------------------------------------


def interrupt(
    start: Start, charger: SimulatedCharger, options: list[str], when: Callable[[], bool]
) -> tuple[int, list[str]]:
    """Press Ctrl-C as soon as that is so: the exit code, and the lines of stderr."""
    running = start(*options, "--timeout=60", charger=charger)
    eventually(when)
    status = running.end(signal.SIGINT)
    assert running.out == []
    return status, running.err


@pytest.mark.parametrize("executed", [True, False], ids=["carried out", "not carried out"])
def test_ctrl_c_while_a_write_is_unanswered_says_what_may_be_set(
    start: Start, charger: SimulatedCharger, executed: bool
) -> None:
    charger.fault("silence", function=WRITE, executed=executed)
    status, lines = interrupt(start, charger, [BOTH, "20"], lambda: bool(charger.writes))
    assert (status, len(lines)) == (130, 1)
    assert re.search(r"^ERROR: .*dynamic current 20 A may have been written .*\b16 A", lines[0])
    assert charger.writes == [(DYNAMIC, 20)]


def test_ctrl_c_during_the_read_back_says_what_may_be_set(start: Start, charger: SimulatedCharger) -> None:
    charger.fault("silence", address=DYNAMIC, function=READ_HOLDING, skip=1)
    status, lines = interrupt(start, charger, [ONLY_DYNAMIC, "20"], lambda: len(dynamic_reads(charger)) == 2)
    assert (status, len(lines)) == (130, 1)
    assert re.search(r"^ERROR: .*dynamic current 20 A may have been written .*\b16 A", lines[0])


def test_ctrl_c_during_the_second_write_says_what_is_set_and_what_may_be(
    start: Start, charger: SimulatedCharger
) -> None:
    charger.fault("silence", address=FAILSAFE, function=WRITE)
    status, lines = interrupt(start, charger, [BOTH, "12"], lambda: (FAILSAFE, 12) in charger.writes)
    assert (status, lines[:-1]) == (130, [f"{DYNAMIC_LINE}\n"])
    assert re.search(r"^ERROR: .*failsafe current 12 A may have been written .*\b10 A", lines[-1])
    assert "dynamic current is set to 12 A already" in lines[-1]


def test_ctrl_c_before_the_write_says_nothing_of_a_write(start: Start, charger: SimulatedCharger) -> None:
    charger.fault("silence", address=1100)
    status, lines = interrupt(start, charger, [BOTH, "12"], lambda: bool(charger.requests))
    assert (status, charger.writes) == (130, [])
    assert not any("written" in line and "nothing was written" not in line for line in lines)


# --- The demo -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("amps", "lines"),
    [
        (10, ["Dynamic current: 16 A -> 10 A", "Failsafe current: stays 10 A"]),
        (32, ["Dynamic current: 16 A -> 32 A", "Failsafe current: 10 A -> 32 A"]),
    ],
)
def test_the_demo_obeys_and_its_phase_currents_follow(run: Run, amps: int, lines: list[str]) -> None:
    result = run("--demo", BOTH, str(amps), "--format=json")
    assert_confirmed(result, *lines)
    reading = json.loads(result.stdout)
    assert reading["settings"]["dynamic_current_a"] == reading["settings"]["failsafe_current_a"] == amps
    assert all(amps - 1 < current <= amps for current in reading["electrical"]["current"].values())
    assert amps * 3 * 210 < reading["electrical"]["power"]["total_w"] < amps * 3 * 231


def test_the_demo_pauses(run: Run) -> None:
    result = run("--demo", ONLY_DYNAMIC, "0", "--format=json")
    assert_confirmed(result, "Dynamic current: 16 A -> 0 A")
    reading = json.loads(result.stdout)
    assert reading["electrical"]["current"] == {"l1_a": 0, "l2_a": 0, "l3_a": 0}
    assert reading["electrical"]["power"] == {"l1_w": 0, "l2_w": 0, "l3_w": 0, "total_w": 0, "total_kw": 0}
    assert reading["states"]["charging"] == {"code": 0, "name": "NotCharging"}
    assert reading["states"]["chargepoint"]["name"] != "Charging"


@pytest.mark.parametrize("amps", ["3", "40"])
def test_the_demo_has_limits_too(run: Run, amps: str) -> None:
    assert_failed(run("--demo", BOTH, amps), r"\b6\b.{1,4}\b32\b", "nothing was written")

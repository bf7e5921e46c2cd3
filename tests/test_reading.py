"""A reading over the wire: what is asked of the charger, and what comes of its answers."""

from __future__ import annotations

import io
import json
import re
from datetime import datetime, timezone
from typing import Any, Callable

import pytest
from conftest import Clock, Memory, Result, Run
from readings import FORMATS, WHOLE, changed, flat, reading_of, sample_values
from registers import (
    CORE_RANGES,
    DETAIL_RANGES,
    DETAILS,
    HUMAN,
    HUMAN_DETAILS,
    RANGES,
    REGISTERS,
    SAMPLES,
    Row,
    lost_with,
    range_of,
    read,
    reads,
    span,
)
from simulated_charger import (
    HOLDING,
    HOLES,
    INPUT,
    SimulatedCharger,
    exception,
    free_port,
    late,
    simulated_charger,
    text,
    u32,
)

pytestmark = pytest.mark.every_version

BOTH = pytest.mark.parametrize(
    ("options", "ranges"), [([], CORE_RANGES), (["--details"], RANGES)], ids=["core", "details"]
)


def json_of(result: Result[str]) -> dict[str, Any]:
    """The reading that was printed, flat and as of NOW."""
    assert result.returncode == 0, result.stderr
    return flat(reading_of(result.stdout))


def value_by_value(ranges: list[list[Row]]) -> list[tuple[int, int, int]]:
    """The requests where each range of several values is refused."""
    return [
        request
        for rows in ranges
        for request in [read(rows), *([read([row]) for row in rows] if len(rows) > 1 else [])]
    ]


# --- What is asked ------------------------------------------------------------------------------


@BOTH
def test_a_reading_is_one_connection_and_one_request_for_each_range(
    charger: SimulatedCharger, call: Run, options: list[str], ranges: list[list[Row]]
) -> None:
    assert call(*options, charger=charger).returncode == 0
    assert charger.reads == reads(ranges)
    assert (charger.connections, charger.writes) == (1, [])


@pytest.mark.parametrize("style", FORMATS)
@BOTH
def test_what_is_asked_does_not_depend_on_the_format(
    memory: Memory, call: Run, style: str, options: list[str], ranges: list[list[Row]]
) -> None:
    assert call("--ip=charger", "--format", style, *options).returncode == 0
    assert memory.reads == [(rows[0].bank, *read(rows)[1:]) for rows in ranges]
    assert memory.writes == []


def test_a_process_reads_the_whole_at_the_time_that_it_tells(
    charger: SimulatedCharger, run: Run, environment: dict[str, str]
) -> None:
    before = datetime.now(timezone.utc).replace(microsecond=0)
    result = run("--details", "--format=json", charger=charger, env={**environment, "TZ": "Asia/Tokyo"})
    after = datetime.now(timezone.utc)
    assert (json_of(result), result.stderr) == (flat(WHOLE), "")
    assert (charger.reads, charger.connections, charger.writes) == (reads(RANGES), 1, [])
    timestamp = json.loads(result.stdout)["timestamp"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", timestamp)
    assert before <= datetime.strptime(timestamp, "%Y-%m-%dT%H:%M:%S%z") <= after


@pytest.mark.parametrize("unit", [None, 0, 1, 2, 247, 255])
def test_the_unit_id_goes_out_as_given(charger: SimulatedCharger, call: Run, unit: int | None) -> None:
    options = [] if unit is None else [f"--unit={unit}"]
    assert json_of(call("--details", "--format=json", *options, charger=charger)) == flat(WHOLE)
    assert [request.unit for request in charger.requests] == [1 if unit is None else unit] * len(RANGES)


@pytest.mark.parametrize("holes", [0, 2])
def test_with_base_1_register_n_is_asked_for_as_n_minus_1(call: Run, holes: int) -> None:
    with simulated_charger(base=1, holes=holes) as charger:
        assert json_of(call("--base=1", "--details", "--format=json", charger=charger)) == flat(WHOLE)
    asked = value_by_value(RANGES) if holes else reads(RANGES)
    assert charger.reads == [(function, address - 1, count) for function, address, count in asked]


def test_with_base_1_a_warning_names_the_register_as_it_is_known(call: Run) -> None:
    with simulated_charger(base=1) as charger:
        charger.missing.add((HOLDING, 5004))
        stderr = call("--base=1", charger=charger).stderr
    assert re.findall("500[345]", stderr) == ["5004"]


def test_the_rfid_tag_is_never_asked_for(charger: SimulatedCharger, call: Run) -> None:
    charger.holes = 2
    charger.missing.update((INPUT, address) for address in range(1502, 1514))
    charger.set(INPUT, 1516, *text("04A2B3C4D5E6F7", 15))
    result = call("-v", "--details", charger=charger)
    assert result.returncode == 0
    assert not [read for read in charger.reads if read[1] <= 1530 and read[1] + read[2] > 1516]
    assert "04A2" not in result.stdout


def test_a_charger_is_read_over_ipv6(call: Run) -> None:
    with simulated_charger(ipv6=True) as charger:
        assert json_of(call("--details", "--format=json", charger=charger)) == flat(WHOLE)
    assert charger.host == "::1"


def test_a_charger_is_read_by_its_name(charger: SimulatedCharger, call: Run) -> None:
    result = call("--ip=LocalHost", f"--port={charger.port}", "--details", "--format=json")
    assert json_of(result) == flat(WHOLE)


def test_the_charger_is_free_for_others_before_anything_is_printed(memory: Memory, call: Run) -> None:
    class Slow(io.StringIO):
        def write(self, text: str) -> int:
            assert memory.closed == 1
            return super().write(text)

    with Slow() as stdout:
        assert call("--ip=charger", stdout=stdout).returncode == 0
        assert stdout.getvalue() == HUMAN


# --- Firmware that has holes, or less -----------------------------------------------------------


def refuse_holes(charger: SimulatedCharger) -> None:
    """Play a firmware where holes are no registers at all."""
    charger.holes = 2


def refuse_ranges(code: int) -> Callable[[SimulatedCharger], None]:
    """Play a firmware that answers an exception to every range of several values."""

    def refuse(charger: SimulatedCharger) -> None:
        for rows in RANGES:
            if len(rows) > 1:
                charger.fault(exception(code), address=rows[0].address, times=1)

    return refuse


@pytest.mark.parametrize(
    "refuse",
    [refuse_holes, *map(refuse_ranges, (1, 2, 3))],
    ids=["holes", "exception 1", "exception 2", "exception 3"],
)
def test_a_refused_range_is_read_value_by_value(
    charger: SimulatedCharger, call: Run, refuse: Callable[[SimulatedCharger], None]
) -> None:
    refuse(charger)
    result = call("--details", "--format=json", charger=charger)
    assert (json_of(result), result.stderr) == (flat(WHOLE), "")
    assert charger.reads == value_by_value(RANGES)
    assert charger.connections == 1


def test_what_holes_hold_is_in_no_value(charger: SimulatedCharger, call: Run) -> None:
    for bank, address in HOLES - set(charger.image):
        charger.set(bank, address, 0xA5A5)
    assert json_of(call("--details", "--format=json", charger=charger)) == flat(WHOLE)


@pytest.mark.parametrize("row", REGISTERS, ids=lambda row: str(row.address))
def test_a_refused_value_is_null_with_one_warning_and_costs_no_other(
    memory: Memory, call: Run, row: Row
) -> None:
    memory.set(INPUT, 1512, *u32(93005))  # the session has ended, else its end time is null anyway
    for bank, address in {row.addresses[0], row.addresses[-1]}:
        memory.missing = {(bank, address)}
        result = call("--ip=charger", "--details", "--format=json")
        expected = {"session.end_time": "09:30:05", **dict.fromkeys(lost_with(row)[0])}
        assert json_of(result) == {**flat(WHOLE), **expected}
        assert re.fullmatch(
            rf"WARNING: .*\b{bank}\b.* {span(range_of(address))}\b.*exception 2.*\n", result.stderr
        )


def test_a_refused_value_is_asked_for_on_the_same_connection(charger: SimulatedCharger, call: Run) -> None:
    charger.missing.add((INPUT, 1002))
    result = call("--details", "--format=json", charger=charger)
    assert changed(reading_of(result.stdout)) == {
        "states.equipment.code": None,
        "states.equipment.name": None,
    }
    assert charger.connections == 1


@pytest.mark.parametrize("style", FORMATS)
def test_old_firmware_without_the_details_gives_all_the_rest(memory: Memory, call: Run, style: str) -> None:
    memory.old = True
    result = call("--ip=charger", "--details", "--format", style)
    assert result.returncode == 0
    if style == "json":
        assert json_of(result) == {**flat(WHOLE), **{f"details.{key}": None for key in DETAILS}}
    elif style == "human":
        assert result.stdout == HUMAN + re.sub(r"(: +).*", r"\1n/a", HUMAN_DETAILS)
    else:
        assert {**sample_values(result.stdout), "vestel_info": 1} == SAMPLES
    warnings = result.stderr.splitlines()
    assert len(warnings) == len(DETAIL_RANGES)
    for warning, rows in zip(warnings, DETAIL_RANGES):
        assert re.match(rf"WARNING: .* {span(rows)}\b.*exception 2", warning)


def test_old_firmware_is_asked_for_each_detail_once(call: Run) -> None:
    with simulated_charger(old=True) as charger:
        assert call("--details", charger=charger).returncode == 0
    assert charger.reads == [*reads(CORE_RANGES), *value_by_value(DETAIL_RANGES)]
    assert charger.connections == 1


# --- Time ---------------------------------------------------------------------------------------


@BOTH
def test_the_timestamp_is_when_the_reading_began(
    memory: Memory,
    call: Run,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    ranges: list[list[Row]],
) -> None:
    read_words = memory.read_words

    def slow(bank: str, address: int, count: int) -> list[int]:
        words = read_words(bank, address, count)
        clock.sleep(1)
        return words

    monkeypatch.setattr(memory, "read_words", slow)
    result = call("--ip=charger", "--format=json", *options)
    assert clock.passed == len(ranges)
    assert json.loads(result.stdout)["timestamp"] == "2026-11-20T08:15:30+00:00"


@pytest.mark.parametrize(
    ("play", "timeout", "missing"),
    [("silence", 0.2, ["settings.dynamic_current_a"]), (late(0.3), 60, [])],
    ids=["ends the wait", "waits"],
)
def test_the_timeout_is_that_of_a_reply(
    charger: SimulatedCharger, call: Run, play: Any, timeout: float, missing: list[str]
) -> None:
    charger.fault(play, address=5004)
    result = call("--format=json", f"--timeout={timeout}", charger=charger)
    assert changed(reading_of(result.stdout)) == dict.fromkeys(missing)


# --- stderr -------------------------------------------------------------------------------------


def test_verbose_shows_every_request_and_reply_in_hex(charger: SimulatedCharger, call: Run) -> None:
    result = call("-v", "--unit=17", charger=charger)
    assert (result.returncode, result.stdout) == (0, HUMAN)
    first, *log = result.stderr.splitlines()
    assert f"127.0.0.1:{charger.port}" in first  # the connection
    assert len(log) == 2 * len(CORE_RANGES)
    for rows, request, reply in zip(CORE_RANGES, log[::2], log[1::2]):
        function, address, count = read(rows)
        held = [charger.word(rows[0].bank, address + n) or 0 for n in range(count)]
        words = "".join(f"{word:04x}" for word in held)
        assert f"0000000611{function:02x}{address:04x}{count:04x}" in re.sub(r"[\s:]", "", request)
        assert re.sub(r"[\s:]", "", reply).endswith(f"11{function:02x}{2 * count:02x}{words}")


def test_nothing_of_pymodbus_reaches_stderr(charger: SimulatedCharger, run: Run) -> None:
    plays: list[Any] = ["silence", "reset", "close", "short", "other transaction", exception(4)]
    for rows, play in zip(DETAIL_RANGES, plays):
        charger.fault(play, address=rows[0].address)
    result = run("--details", "--format=json", "--timeout=0.2", charger=charger)
    assert json_of(result) == {**flat(WHOLE), **{f"details.{key}": None for key in DETAILS}}
    warnings = [rf"WARNING: Cannot read \w+ registers? {span(rows)}: .*\n" for rows in DETAIL_RANGES]
    assert re.fullmatch("".join(warnings), result.stderr)


def test_a_refused_connection_is_one_line(call: Run) -> None:
    port = free_port()
    result = call("--ip=127.0.0.1", f"--port={port}")
    assert (result.returncode, result.stdout) == (1, "")
    assert re.fullmatch(f"ERROR: Cannot connect to 127.0.0.1:{port}: .*\n", result.stderr)

"""Noise for replies, and a box that fails at random: whatever comes, no number is wrong."""

from __future__ import annotations

import io
import itertools
import json
import random
import re
import struct
from typing import Iterator, Tuple

import pytest
from charger import CLOSE, RESET, Frames, Outcome, Piece, Request, SimulatedCharger
from clock import Clock
from door import listening
from faults import PROMPT, flat_of, outcome_of, with_null
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from program import EXAMPLES, Run, fuzzed
from registers import DYNAMIC, KEYS, Row, image, range_of

import vestel

pytestmark = pytest.mark.every_version

IMAGE = image()


@pytest.fixture(scope="module")
def noisy() -> Iterator[SimulatedCharger]:
    with listening() as charger:
        yield charger


# --- Fuzz ---------------------------------------------------------------------------------------

# A reply whose bytes from .. to are replaced: cut, longer, of another header, or all noise.
SPLICES = st.tuples(
    st.integers(0, 12) | st.integers(0, 90), st.integers(0, 90), st.binary(max_size=100)
)
Splice = Tuple[int, int, bytes]


def splice(reply: bytes, how: Splice) -> bytes:
    start, length, inserted = how
    return reply[:start] + inserted + reply[start + length :]


@fuzzed
@given(how=SPLICES, at=st.sampled_from([*map(range_of, (100, 1000, 5004))]), ends=st.booleans())
def test_fuzz_a_read_gives_right_words_or_none(
    noisy: SimulatedCharger, how: Splice, at: list[Row], ends: bool
) -> None:
    sent = []

    def noise(request: bytes, reply: bytes) -> list[Piece]:
        sent.append((splice(reply, how), reply))
        return [(0, sent[0][0]), (0, CLOSE if ends else RESET)]

    noisy.forget()
    noisy.fault(Frames(noise), times=1)
    bank, first = at[0].bank, at[0].address
    words = [IMAGE.get((bank, address), 0) for address in range(first, at[-1].last + 1)]
    connect = vestel.modbus(vestel.Target(noisy.host, noisy.port, timeout=20), lambda line: None)
    connection = connect()
    try:
        got: list[int] | int | None = connection.read_words(bank, first, len(words))
    except vestel.Refused as error:
        got = error.code
    except vestel.NoReply:
        got = None
    connection.close()
    data, reply = sent[0]
    refusal = reply[:4] + b"\0\3" + reply[6:7] + bytes([reply[7] | 0x80])
    if data[:9] == reply[:9] and len(data) >= len(reply):  # at most its values are other ones
        assert got == [*struct.unpack_from(f">{len(words)}H", data, 9)]
    elif data[:8] == refusal and len(data) > 8 and data[8]:
        assert got == data[8]
    else:  # what follows noise may be a whole reply
        assert got in (None, words)


# These two run the program, which takes longer.
called = settings(
    fuzzed,
    max_examples=max(1, EXAMPLES // 3),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@called
@given(how=SPLICES, executed=st.booleans())
def test_fuzz_a_write_is_confirmed_only_where_it_was_done(
    call: Run, clock: Clock, noisy: SimulatedCharger, how: Splice, executed: bool
) -> None:
    noisy.forget()
    noisy.set(DYNAMIC, 16)
    noise = Frames(lambda request, reply: [(0, splice(reply, how)), (0, CLOSE)])
    noisy.fault(noise, write=True, times=1, executed=executed)
    result = call("--set-dynamic-current=20", "--timeout=20", charger=noisy)
    (line,) = result.stderr.splitlines()
    if result.returncode == 0:
        assert line == "Dynamic current: 16 A -> 20 A"
        assert noisy[DYNAMIC] == 20
    else:
        assert result.returncode == 3
        assert re.match(r"ERROR: failed writing current: dynamic current: 20 A\b", line)
        assert noisy[DYNAMIC] == 16
    assert {*noisy.writes} == {(DYNAMIC, 20)}


@called
@given(stream=st.lists(st.binary(max_size=60), min_size=1, max_size=20))
def test_fuzz_a_run_of_noise_ends_in_an_error(
    call: Run, noisy: SimulatedCharger, stream: list[bytes]
) -> None:
    noise = itertools.cycle(stream)
    noisy.forget()
    noisy.fault(Frames(lambda request, reply: [(0, next(noise)), (0, CLOSE)]))
    result = call("--timeout=20", charger=noisy)
    assert (result.returncode, result.stdout) == (1, "")
    assert re.fullmatch("ERROR: Cannot read .*\n", result.stderr)


# --- Soak ---------------------------------------------------------------------------------------


def test_soak_a_log_of_json_is_whole_whatever_the_box_does(
    call: Run, charger: SimulatedCharger
) -> None:
    dice = random.Random(20261120)
    names = ["silence", *PROMPT]

    def play(_: Request) -> Outcome | None:
        return outcome_of(dice.choice(names)) if dice.random() < 0.1 else None

    charger.fault(play)
    log, ends = io.StringIO(), []
    for _ in range(40):
        charger.resets_next = dice.choice([0, 0, 0, 0, 1, 1000])
        before = log.getvalue()
        options = "--details", "--format=json", "--timeout=0.05"
        result = call(*options, charger=charger, stdout=log)
        line = log.getvalue()[len(before) :]
        lines = result.stderr.splitlines()
        if result.returncode:
            assert (result.returncode, line) == (1, "")
            assert re.fullmatch(r"ERROR: Cannot (connect to|read) .*\n", result.stderr)
            ends.append("error")
            continue
        assert re.fullmatch(r"\{.*\}\n", line)
        flat = flat_of(json.loads(line))
        nulls = [key for key, value in flat.items() if value is None and KEYS[key] is not None]
        assert flat == with_null(nulls)
        assert bool(nulls) == bool(lines)
        assert all(line.startswith("WARNING: Cannot read ") for line in lines)
        ends.append("gaps" if nulls else "whole")
    assert {*ends} == {"error", "gaps", "whole"}

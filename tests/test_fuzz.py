"""Noise for replies, and a box that fails at random: whatever comes, no number is wrong."""

from __future__ import annotations

import itertools
import json
import random
import re
import struct
from datetime import datetime
from pathlib import Path
from typing import Iterator, Tuple

import pytest
from conftest import Run, fuzzed
from faults import EXCEPTIONS, NAMES, WAITING, connected, flat_of, forget, play_of, with_null
from hypothesis import given
from hypothesis import strategies as st
from registers import KEYS, Row, range_of
from simulated_charger import CLOSE, HOLDING, RESET, WRITE, SimulatedCharger, image, simulated_charger

import vestel

pytestmark = pytest.mark.every_version

IMAGE = image()


@pytest.fixture(scope="module")
def noisy() -> Iterator[SimulatedCharger]:
    with simulated_charger() as charger:
        yield charger


# --- Fuzz ---------------------------------------------------------------------------------------

# A reply whose bytes from .. to are replaced: cut, longer, of another header, or all noise.
SPLICES = st.tuples(st.integers(0, 12) | st.integers(0, 90), st.integers(0, 90), st.binary(max_size=100))
Splice = Tuple[int, int, bytes]


def splice(reply: bytes, how: Splice) -> bytes:
    start, length, inserted = how
    return reply[:start] + inserted + reply[start + length :]


@fuzzed
@given(how=SPLICES, at=st.sampled_from([*map(range_of, (100, 1000, 5004))]), closes=st.booleans())
def test_fuzz_a_read_gives_right_words_or_none(
    noisy: SimulatedCharger, how: Splice, at: list[Row], closes: bool
) -> None:
    sent = []

    def noise(request: bytes, reply: bytes) -> list[tuple[float, bytes]]:
        sent.append((splice(reply, how), reply))
        return [(0, sent[0][0]), (0, CLOSE if closes else RESET)]

    forget(noisy)
    noisy.fault(noise, times=1)
    bank, first = at[0].bank, at[0].address
    words = [IMAGE.get((bank, address), 0) for address in range(first, at[-1].last + 1)]
    code = None
    with connected(noisy) as reached:
        try:
            got = reached.read(bank, first, len(words))
        except vestel.ChargerError as error:
            code, got = error.code, []
    data, reply = sent[0]
    if data[:9] == reply[:9] and len(data) >= len(reply):  # only its values are other ones
        words = list(struct.unpack_from(f">{len(words)}H", data, 9))
    head = reply[:4] + b"\0\3" + reply[6:7] + bytes([reply[7] | 0x80])
    if data[:8] == head and len(data) > 8 and data[8] not in (0, 5, 6):
        assert code == data[8]
    else:
        assert (code, got) == (None, words)


@fuzzed
@given(how=SPLICES, executed=st.booleans())
def test_fuzz_a_write_is_confirmed_only_where_it_was_carried_out(
    noisy: SimulatedCharger, how: Splice, executed: bool
) -> None:
    forget(noisy)
    noisy.set(HOLDING, 5004, 16)
    noisy.fault(
        lambda request, reply: [(0, splice(reply, how)), (0, CLOSE)],
        function=WRITE,
        times=1,
        executed=executed,
    )
    lines: list[str] = []
    with connected(noisy) as reached:
        confirmed = vestel.set_currents(reached, [(vestel.DYNAMIC_CURRENT, 20)], lines.append)
    (line,) = lines
    if confirmed:
        assert line == "Dynamic current: 16 A -> 20 A"
        assert noisy.image[HOLDING, 5004] == 20
    else:
        assert re.match(r"ERROR: failed writing current: dynamic current: 20 A\b", line)
    assert set(noisy.writes) == {(5004, 20)}


@fuzzed
@given(stream=st.lists(st.binary(max_size=60), min_size=1, max_size=20))
def test_fuzz_a_run_of_noise_ends_in_an_error(noisy: SimulatedCharger, stream: list[bytes]) -> None:
    noise = itertools.cycle(stream)
    forget(noisy)
    noisy.fault(lambda request, reply: [(0, next(noise)), (0, CLOSE)])
    with connected(noisy) as reached, pytest.raises(vestel.ChargerError, match=r"^Cannot read "):
        vestel.read_core(reached)


# --- Soak ---------------------------------------------------------------------------------------


def test_soak_a_log_of_json_lines_is_whole_and_right_whatever_the_box_does(
    call: Run, charger: SimulatedCharger, tmp_path: Path
) -> None:
    dice = random.Random(20261120)
    plays = [play_of(name) for name in NAMES if name in ("silence", *EXCEPTIONS) or name not in WAITING]

    def play(request: bytes, reply: bytes) -> list[tuple[float, bytes]]:
        return dice.choice(plays)(request, reply) if dice.random() < 0.15 else [(0, reply)]

    charger.fault(play)
    path = tmp_path / "log.json"
    outcomes = set()
    good = 0
    for _ in range(40):
        charger.close_next = dice.choice([0, 0, 0, 1, 1000])
        with open(path, "a", encoding="utf-8") as file:
            result = call("--details", "--format=json", "--timeout=0.2", charger=charger, stdout=file)
        good += result.returncode == 0
        lines = path.read_bytes().splitlines(keepends=True)
        assert len(lines) == good
        if result.returncode:
            assert result.returncode == 1
            assert re.fullmatch(r"ERROR: Cannot (connect to|read) .*\n", result.stderr)
            outcomes.add("error")
            continue
        assert lines[-1].endswith(b"\n")
        reading = json.loads(lines[-1])
        datetime.fromisoformat(reading["timestamp"])
        flat = flat_of(reading)
        nulls = [key for key, value in flat.items() if value is None and KEYS.get(key) is not None]
        assert flat == with_null(nulls)
        assert bool(nulls) == bool(result.stderr)
        assert all(line.startswith("WARNING: Cannot read ") for line in result.stderr.splitlines())
        outcomes.add("gaps" if nulls else "whole")
    assert outcomes == {"error", "gaps", "whole"}

"""--watch and --listen with a real process and in real time: the whole story of a charger, in short.

Each rule over time has its own test on a simulated clock (test_beat.py, test_simulation.py).
"""

from __future__ import annotations

import socket
import time

import pytest
from conftest import READING, Start, clients, eventually, gaps
from long_modes import (
    ALIVE,
    DYNAMIC,
    METRICS,
    MODES,
    TIMEOUT,
    Staying,
    listen,
    side_by_side,
    warnings,
)
from simulated_charger import HOLDING, WRITE, SimulatedCharger, simulated_charger


def test_the_simulated_failsafe_bites_where_no_sign_is_given(charger: SimulatedCharger) -> None:
    charger.set(HOLDING, TIMEOUT, 1)
    charger.watch_signs()
    with socket.create_connection((charger.host, charger.port)) as master:
        master.settimeout(20)
        assert master.recv(1) == b""
    assert charger.image[HOLDING, DYNAMIC] == 10


@pytest.mark.every_version
def test_a_charger_is_kept_read_and_held_and_found_again_after_a_loss(start: Start) -> None:
    def keep(mode: str) -> None:
        with simulated_charger() as charger:
            charger.set(HOLDING, TIMEOUT, 4)  # so that the beat is 1 s
            staying = Staying(mode, start, "--set-dynamic-current=14", charger=charger)
            out, err = staying.running.out, staying.err
            reading = eventually(staying.newest)
            assert reading["settings"] == {
                **READING["settings"],
                "dynamic_current_a": 14,
                "failsafe_timeout_s": 4,
            }
            charger.set(HOLDING, DYNAMIC, 6)  # as a box does when a vehicle is plugged in
            eventually(lambda: len(err) == 2)
            assert err == ["Dynamic current: 16 A -> 14 A\n", "Dynamic current: 6 A -> 14 A\n"]
            assert max(gaps(charger.signs)) < 2, "the box looks every 2 s"
            assert charger.connections == 1
            charger.stop()
            charger.set(HOLDING, DYNAMIC, 10)  # as a box does that misses its sign
            eventually(lambda: warnings(staying.running, "WARNING: no reading since "))
            assert mode == "watch" or staying.newest() is None
            printed = len(out)
            charger.start()
            eventually(lambda: len(err) == 5)
            assert len(out) <= printed + 1, "none while it was lost"
            assert f"WARNING: {charger.host}:{charger.port} answers again (lost at " in err[3]
            assert err[4] == "Dynamic current: 10 A -> 14 A\n"
            if mode == "listen":
                assert eventually(staying.newest)["settings"]["dynamic_current_a"] == 14
            assert (staying.running.end(), charger.connections, len(err)) == (0, 2, 5)
            firsts = {r.connection: r for r in reversed(charger.requests)}
            assert [(r.function, r.address, r.value) for r in firsts.values()] == 2 * [(WRITE, ALIVE, 1)]
            assert {write for write in charger.writes if write != (ALIVE, 1)} == {(DYNAMIC, 14)}

    side_by_side(keep, MODES)


def test_a_charger_that_takes_long_for_each_reply_is_up_at_every_scrape(start: Start) -> None:
    """As one of 1.3 s at a failsafe timeout of 20 s: a reading takes longer than the box waits for a sign."""

    def keep(mode: str) -> None:
        with simulated_charger() as charger:
            charger.set(HOLDING, TIMEOUT, 4)  # the box looks every 2 s
            charger.delay = 0.2
            charger.watch_signs()
            if mode == "watch":
                running = start("--watch=1", "--format=json", charger=charger)
                eventually(lambda: len(running.out) > 1)
                assert running.err == []
            else:
                listening = listen(start, charger=charger)
                assert not listening.is_up()
                eventually(listening.is_up)
                made, ups, took = 0.0, [], []

                def scrape() -> None:
                    asked = time.monotonic()
                    answer = listening.ask(METRICS)
                    took.append(time.monotonic() - asked)
                    ups.append(answer.value("vestel_up"))
                    nonlocal made
                    made = answer.value("vestel_readings_total")
                    time.sleep(0.02)

                with clients(1, scrape):
                    eventually(lambda: made == 2)
                assert len(ups) > 20
                assert {*ups} == {1}
                assert sorted(took)[len(took) // 2] < charger.delay, "it waits for no reply"
                assert listening.ask(METRICS).value("vestel_reading_seconds") > 2
                assert listening.running.err == []
            assert charger.connections == 1, "it was not thrown out"

    side_by_side(keep, MODES)


def test_a_current_out_of_range_ends_it_when_the_limits_are_first_read(start: Start) -> None:
    def end(mode: str) -> None:
        with simulated_charger() as charger:
            staying = Staying(mode, start, "--set-dynamic-current=33", charger=charger)
            assert staying.running.wait() == 3
            assert {*charger.writes} == {(ALIVE, 1)}
        assert staying.running.out == []
        (error,) = staying.err
        assert error.startswith("ERROR: failed writing current: dynamic current 33 A is out of range: ")

    side_by_side(end, MODES)

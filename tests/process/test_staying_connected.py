"""--watch and --listen with a real process and in real time: the story of a charger, in short.

Each rule over time has its own test on a simulated clock, in tests/poller.
"""

from __future__ import annotations

import contextlib
import json
import socket
import time
from pathlib import Path

import pytest
from charger import SimulatedCharger
from door import listening
from program import (
    METRICS,
    MODES,
    Running,
    Start,
    Staying,
    clients,
    eventually,
    json_readings,
    listen,
    side_by_side,
    warnings,
)
from registers import DYNAMIC, HEARTBEAT, READING, TIMEOUT


def test_failsafe_of_the_simulation_bites_without_a_heartbeat(charger: SimulatedCharger) -> None:
    charger.set(TIMEOUT, 1)
    charger.shortest_look = 0.1
    charger.failsafe = True
    with socket.create_connection((charger.host, charger.port)) as master:
        master.settimeout(20)
        with contextlib.suppress(ConnectionResetError):
            assert master.recv(1) == b""
    assert charger[DYNAMIC] == 10
    assert charger.thrown_out == 1


@pytest.mark.every_version
def test_charger_is_read_held_and_found_again_after_a_loss(start: Start) -> None:
    def keep(mode: str) -> None:
        with listening() as charger:
            staying = Staying(mode, start, "--set-dynamic-current=14", charger=charger)
            out, err = staying.running.out, staying.err
            reading = eventually(staying.newest)
            assert reading["settings"] == {**READING["settings"], "dynamic_current_a": 14}
            charger.set(DYNAMIC, 6)  # as a box does when a vehicle is plugged in
            eventually(lambda: len(err) == 2)
            assert err == ["Dynamic current: 16 A -> 14 A\n", "Dynamic current: 6 A -> 14 A\n"]
            assert charger.connections == 1
            charger.stop()
            charger.set(DYNAMIC, 10)  # as a box does that misses the heartbeat
            eventually(lambda: warnings(staying.running, "WARNING: no reading since "))
            eventually(lambda: mode == "watch" or staying.newest() is None)
            charger.start()
            eventually(lambda: len(err) == 5)
            assert {*err[3:]} == {
                "WARNING: over: the charger is back\n",
                "Dynamic current: 10 A -> 14 A\n",
            }
            if mode == "listen":
                assert eventually(staying.newest)["settings"]["dynamic_current_a"] == 14
            assert (staying.running.end(), charger.connections, len(err)) == (0, 2, 5)
            firsts = {r.connection: r for r in reversed(charger.requests)}
            heartbeat = (True, HEARTBEAT, 1)
            assert [(r.write, r.address, r.value) for r in firsts.values()] == 2 * [heartbeat]
            assert {*charger.settings} == {(DYNAMIC, 14)}
            stamps = [json.loads(line)["timestamp"] for line in out]
            assert stamps == sorted({*stamps}), "each once, and none again while it was lost"

    side_by_side(keep, MODES)


def test_charger_that_is_slow_with_each_reply_stays_up(start: Start) -> None:
    """A reading takes longer than the box waits for a heartbeat."""

    def keep(mode: str) -> None:
        with listening(delay=0.4, failsafe=True) as charger:
            charger.set(TIMEOUT, 6)  # the box looks every 3 s
            if mode == "watch":
                running = start("--watch=1", "--format=json", charger=charger)
                eventually(lambda: len(running.out) > 1)
                assert running.err == []
            else:
                service = listen(start, charger=charger)
                assert not service.is_up()
                eventually(service.is_up)
                made, ups, took = [0.0], [], []

                def scrape() -> None:
                    asked_at = time.monotonic()
                    answer = service.ask(METRICS)
                    took.append(time.monotonic() - asked_at)
                    ups.append(answer.value("vestel_up"))
                    made.append(answer.value("vestel_readings_total"))
                    time.sleep(0.02)

                with clients(1, scrape):
                    eventually(lambda: made[-1] == 2)
                assert len(ups) > 20
                assert {*ups} == {1}
                assert sorted(took)[len(took) // 2] < charger.delay, "it waits for no reply"
                assert service.ask(METRICS).value("vestel_reading_seconds") > 3
                assert service.running.err == []
            assert (charger.connections, charger.thrown_out) == (1, 0)

    side_by_side(keep, MODES)


def test_current_out_of_range_is_a_warning_and_ends_nothing(start: Start) -> None:
    def hold(mode: str) -> None:
        with listening() as charger:
            staying = Staying(mode, start, "--set-dynamic-current=33", charger=charger)
            eventually(staying.newest)
            (warning,) = eventually(lambda: warnings(staying.running))
            assert "dynamic current 33 A is out of range" in warning
            readings = len(charger.times_of(1000))
            eventually(lambda: len(charger.times_of(1000)) > readings)
            assert staying.running.end() == 0
            assert charger.settings == []

    side_by_side(hold, MODES)


# --- The file of --hold -------------------------------------------------------------------------


def wait_for_reading(running: Running) -> None:
    """Wait until a reading is printed that began after now: the second from now."""
    printed = len(running.out)
    eventually(lambda: len(running.out) >= printed + 2)


def test_hold_follows_its_file_over_one_connection(
    charger: SimulatedCharger, start: Start, tmp_path: Path
) -> None:
    file = tmp_path / "current"
    options = "--watch=1", "--format=json", f"--hold={file}"
    running = start(*options, charger=charger)
    seen = [0]

    def news(count: int) -> list[str]:
        """Return the lines that have come since the last call, as soon as there are so many."""
        eventually(lambda: len(running.err) >= seen[0] + count)
        fresh = running.err[seen[0] :]
        seen[0] += len(fresh)
        assert len(fresh) == count, fresh
        return sorted(line.replace(str(file), "FILE") for line in fresh)

    missing = "WARNING: --hold: FILE: No such file or directory\n"
    wait_for_reading(running)
    assert (charger[DYNAMIC], news(1)) == (16, [missing])

    file.write_text("12\n", encoding="utf-8")
    eventually(lambda: charger[DYNAMIC] == 12)
    over = missing.replace("WARNING: ", "WARNING: over: ")
    assert news(2) == ["Dynamic current: 16 A -> 12 A\n", over]

    file.write_text(" \n", encoding="utf-8")
    wait_for_reading(running)
    assert (charger[DYNAMIC], news(0)) == (12, [])

    file.write_text("7", encoding="utf-8")
    eventually(lambda: charger[DYNAMIC] == 7)
    assert news(1) == ["Dynamic current: 12 A -> 7 A\n"]

    file.write_text("full speed\n", encoding="utf-8")
    (nonsense,) = news(1)
    assert nonsense.startswith("WARNING: --hold: FILE: 'full speed' ")
    charger.plug_in()  # the box puts its minimum there
    eventually(lambda: charger[DYNAMIC] == 7)
    assert news(1) == ["Dynamic current: 6 A -> 7 A\n"]

    file.write_text("33\n", encoding="utf-8")
    wait_for_reading(running)
    assert (charger[DYNAMIC], news(0)) == (7, []), "the cause is the same: the file"

    file.write_text("0\n", encoding="utf-8")
    eventually(lambda: charger[DYNAMIC] == 0)
    change, over = news(2)
    assert change == "Dynamic current: 7 A -> 0 A\n"
    assert over.startswith("WARNING: over: --hold: FILE: dynamic current 33 A is out of range")

    file.unlink()
    wait_for_reading(running)
    assert (charger[DYNAMIC], news(1)) == (0, [missing])

    assert running.end() == 0
    assert charger.connections == 1
    assert charger.settings == [(DYNAMIC, 12), (DYNAMIC, 7), (DYNAMIC, 7), (DYNAMIC, 0)]
    held = {reading["settings"]["dynamic_current_a"] for reading in json_readings(running.out)}
    assert held == {16, 12, 7, 0}, "no reading shows what the box has made of it"

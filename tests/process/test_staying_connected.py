"""--watch and --listen with a real process and in real time: the story of a charger, in short.

Each rule over time has its own test on a simulated clock, in tests/poller.
"""

from __future__ import annotations

import contextlib
import json
import socket
import time
from pathlib import Path

import program
import pytest
from charger import SimulatedCharger
from door import listening
from program import METRICS, MODES, Start, Staying, eventually, json_readings, listen
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
            eventually(lambda: program.warnings(staying.running, "WARNING: no reading since "))
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

    program.side_by_side(keep, MODES)


def test_slow_charger_stays_up_and_no_scrape_waits_for_it(start: Start) -> None:
    """A reading takes longer than the box waits for a heartbeat."""
    with listening(delay=0.4, failsafe=True) as charger:
        charger.set(TIMEOUT, 6)  # the box looks every 3 s
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

        with program.clients(1, scrape):
            eventually(lambda: made[-1] == 2)
        assert len(ups) > 20
        assert {*ups} == {1}
        assert sorted(took)[len(took) // 2] < charger.delay, "it waits for no reply"
        assert service.ask(METRICS).value("vestel_reading_seconds") > 3
        assert service.running.err == []
        assert (charger.connections, charger.thrown_out) == (1, 0)


def test_hold_follows_its_file_over_one_connection(
    charger: SimulatedCharger, start: Start, tmp_path: Path
) -> None:
    file = tmp_path / "current"
    running = start("--watch=1", "--format=json", f"--hold={file}", charger=charger)
    seen = 0

    def follow(content: str | None, current: int, *news: str) -> None:
        """Write the file: the charger has this current then, and the lines are these."""
        nonlocal seen
        if content is not None:
            file.write_text(content, encoding="utf-8")
        printed = len(running.out)
        eventually(lambda: len(running.out) >= printed + 2)  # a reading that began after that
        eventually(lambda: charger[DYNAMIC] == current and len(running.err) >= seen + len(news))
        lines = sorted(line.replace(str(file), "FILE") for line in running.err[seen:])
        seen += len(news)
        assert len(lines) == len(news)
        for line, beginning in zip(lines, news):
            assert line.startswith(beginning)

    missing = "--hold: FILE: No such file or directory\n"
    follow(None, 16, f"WARNING: {missing}")
    follow("12\n", 12, "Dynamic current: 16 A -> 12 A\n", f"WARNING: over: {missing}")
    follow(" \n", 12)
    follow("full speed\n", 12, "WARNING: --hold: FILE: 'full speed' ")
    charger.plug_in()  # the box puts its minimum there
    follow(None, 12, "Dynamic current: 6 A -> 12 A\n")
    follow("0\n", 0, "Dynamic current: 12 A -> 0 A\n", "WARNING: over: --hold: FILE: 'full")
    assert running.end() == 0
    assert charger.connections == 1
    assert charger.settings == [(DYNAMIC, 12), (DYNAMIC, 12), (DYNAMIC, 0)]
    held = {reading["settings"]["dynamic_current_a"] for reading in json_readings(running.out)}
    assert held == {16, 12, 0}, "no reading shows what the box has made of it"

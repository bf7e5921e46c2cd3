"""README.md's chapter Troubleshooting: every message that it quotes is one that the program prints."""

from __future__ import annotations

import math
import re
import runpy
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable, NamedTuple

import pytest
from conftest import SCRIPT, Run
from readme import BLOCKS
from simulated_charger import HOLDING, INPUT, SimulatedCharger, dead_host, exception, free_port, u32

import vestel


class Place(NamedTuple):
    """Where a message is provoked: a charger, and a vestel.py in opt/ of a home."""

    call: Run
    charger: SimulatedCharger
    home: Path
    monkeypatch: pytest.MonkeyPatch

    def told(self, *options: str, **more: Any) -> str:
        """What the program says of the charger."""
        return str(self.call(*options, charger=self.charger, **more).stderr)


@pytest.fixture
def place(call: Run, charger: SimulatedCharger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    return Place(call, charger, tmp_path.resolve(), monkeypatch)


Scenario = Callable[[Place], str]


class Hasty:
    """The time, but for who sleeps: then it has passed at once."""

    localtime, strftime, gmtime = time.localtime, time.strftime, time.gmtime

    def __init__(self) -> None:
        self.slept = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.slept

    def time(self) -> float:
        return time.time() + self.slept

    def sleep(self, seconds: float) -> None:
        self.slept += seconds


def nothing(charger: SimulatedCharger) -> None:
    """The charger goes on."""


def stays(*events: Callable[[SimulatedCharger], object], hold: int | None = None) -> Scenario:
    """Stay connected, for 20 s before each event and after the last."""

    def scenario(place: Place) -> str:
        now = Hasty()
        lines: list[str] = []
        place.monkeypatch.setattr(vestel, "time", now)
        target = vestel.Target(place.charger.host, place.charger.port)
        charger = vestel.Charger(vestel.modbus(target, lambda line: None), str(target), target.timeout)
        currents = [] if hold is None else [(vestel.DYNAMIC_CURRENT, hold)]
        keeper = vestel.Keeper(charger, currents, False, math.inf, lines.append)
        for happens in (*events, nothing):
            end = now.monotonic() + 20
            while now.monotonic() < end:
                now.sleep(max(0.0, keeper.beat() - now.monotonic()))
            happens(place.charger)
        charger.close()
        return "\n".join(lines)

    return scenario


def refused(place: Place) -> str:
    return str(place.call("--ip", "127.0.0.1", "--port", str(free_port())).stderr)


def dead(place: Place) -> str:
    with dead_host() as port:
        return str(place.call("--ip", "127.0.0.1", "--port", str(port), "--timeout=0.1").stderr)


def played(play: Any, *options: str, address: int | None = None, **more: Any) -> Scenario:
    def scenario(place: Place) -> str:
        place.charger.fault(play, address, **more)
        return place.told("--timeout=0.1", *options)

    return scenario


def configured(text: str) -> Scenario:
    def scenario(place: Place) -> str:
        (place.home / "opt").mkdir()
        (place.home / "opt" / "vestel_modbus.ini").write_text(f"[vestel]\n{text}\n")
        return place.told()

    return scenario


def impossible_power(place: Place) -> str:
    place.charger.set(INPUT, 1020, *u32(250001))
    return place.told()


def without_pymodbus(place: Place) -> str:
    ended = subprocess.run(
        [sys.executable, "-S", str(SCRIPT), "--ip=127.0.0.1"],
        stderr=subprocess.PIPE,
        encoding="utf-8",
        check=False,
    )
    return ended.stderr


def old_python(place: Place) -> str:
    place.monkeypatch.setattr(sys, "version", "3.7.16 (default)")
    place.monkeypatch.setattr(sys, "version_info", (3, 7, 16, "final", 0))
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(SCRIPT))
    return str(ended.value.code)


def port_in_use(place: Place) -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        return place.told("--listen", str(port)).replace(f"127.0.0.1:{port}", "127.0.0.1:9946")


def full_disk(place: Place) -> str:
    with open("/dev/full", "w") as full:
        return place.told(stdout=full)


def set_current(amps: int, shown: int) -> Scenario:
    def scenario(place: Place) -> str:
        place.charger.frozen[5004] = shown
        return place.told("--set-dynamic-current", str(amps))

    return scenario


def ignore_writes(charger: SimulatedCharger) -> None:
    charger.set(HOLDING, 5004, 16)
    charger.frozen[5004] = 16


LOST = stays(
    lambda charger: charger.fault("reset"),
    lambda charger: charger.faults.clear(),
)
FORTY = "ERROR: failed writing current: dynamic current 40 A is out of range"
ACKNOWLEDGED = "ERROR: failed writing current: dynamic current: {} A was acknowledged"

# How a message begins, and what brings it about.
PROVOKED: dict[str, Scenario] = {
    "ERROR: Cannot connect to 192.168.1.100:502: connection refused": refused,
    "ERROR: Cannot connect to 192.168.1.100:502: no answer within": dead,
    "ERROR: Cannot connect to wallbox.lan:502": lambda place: str(place.call("--ip=wallbox..lan").stderr),
    "ERROR: Cannot read 192.168.1.100:502: the charger closed the connection": played("reset"),
    "ERROR: Cannot read 192.168.1.100:502: no reply": played("silence"),
    "ERROR: Cannot read 192.168.1.100:502: exception 2": played(exception(2)),
    "ERROR: Cannot read 192.168.1.100:502: a reply that is no Modbus": played("web server"),
    "WARNING: Cannot read input registers 230-279": played("silence", "--details", address=230),
    "WARNING: active power (input registers 1020-1021) is 250001 W": impossible_power,
    "ERROR: IP not set": lambda place: str(place.call().stderr),
    "ERROR: /opt/vestel/vestel_modbus.ini: port: '5o2'": configured("port = 5o2"),
    "WARNING: /opt/vestel/vestel_modbus.ini: adress": configured("adress = wallbox"),
    "ERROR: pymodbus 3 is missing": without_pymodbus,
    "ERROR: this is Python 3.7": old_python,
    "ERROR: Cannot listen on 127.0.0.1:9946": port_in_use,
    "ERROR: cannot write to stdout": full_disk,
    FORTY: lambda place: place.told("--set-current=40"),
    "ERROR: failed writing current: Cannot read the charger's limits": played(
        exception(6), "--set-current=10", address=1100
    ),
    ACKNOWLEDGED.format(10): set_current(10, shown=16),
    ACKNOWLEDGED.format(0): set_current(0, shown=6),
    "ERROR: failed writing current: dynamic current: 10 A was refused": played(
        exception(3), "--set-dynamic-current=10", function=6, executed=False
    ),
    "WARNING: no reading since": LOST,
    "WARNING: 192.168.1.100:502 answers again": LOST,
    "WARNING: failed holding current": stays(ignore_writes, hold=10),
    "WARNING: the charger repeats old values": stays(),
    "WARNING: the charger's clock stands still": stays(nothing),
    "WARNING: the charger refuses the alive sign": stays(
        lambda charger: charger.fault(exception(2), address=6000)
    ),
}
MESSAGES = [b.text for b in BLOCKS if b.chapter == "Troubleshooting"]


def in_the_words_of_the_readme(place: Place, told: str) -> str:
    """Put the places, versions and times of README.md into what the program told here."""
    for pattern, there in [
        (r"wallbox\.\.lan:\d+", "wallbox.lan:502"),
        (r"127\.0\.0\.1:(?!9946)\d+", "192.168.1.100:502"),
        (re.escape(str(place.home / "opt")), "/opt/vestel"),
        (re.escape(str(place.home)), "/home/you"),
        (re.escape(sys.executable), "/usr/bin/python3"),
        (r"\(Python [\d.]+\w*\)", "(Python 3.11.2)"),
        (r"within 0\.\d s", "within 2 s"),
        (r"(since|at) \d{4}-\d\d-\d\dT[\d:]+\+00:00", r"\1 2026-11-20T08:15:30+00:00"),
    ]:
        told = re.sub(pattern, there, told)
    return told


@pytest.mark.parametrize("start", PROVOKED, ids=[re.sub(r"\W+", " ", start)[:60] for start in PROVOKED])
def test_a_quoted_message_is_one_that_the_program_prints(place: Place, start: str) -> None:
    (message,) = [message for message in MESSAGES if message.startswith(start)]
    told = in_the_words_of_the_readme(place, PROVOKED[start](place))
    assert message.rstrip("\n") in told.splitlines()


def test_every_quoted_message_is_provoked() -> None:
    assert [message for message in MESSAGES if not message.startswith(tuple(PROVOKED))] == []
    assert len(MESSAGES) == len(PROVOKED)


def test_a_warning_is_said_once_and_repeated_when_it_is_over(place: Place) -> None:
    refuse = stays(
        lambda charger: charger.fault(exception(2), address=6000), lambda charger: charger.faults.clear()
    )
    said = [line for line in refuse(place).splitlines() if "alive sign" in line]
    assert said == [said[0], said[0].replace("WARNING: ", "WARNING: over: ")]

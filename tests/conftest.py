"""What all tests share: the simulated charger, and vestel.py as a process."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO, Any, Callable, Iterator

import pytest
from hypothesis import settings
from simulated_charger import SimulatedCharger, simulated_charger

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "vestel.py"
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as in the background of a shell: it is inherited
    signal.signal(signal.SIGINT, signal.default_int_handler)
sys.path.insert(0, str(ROOT))  # for tests of the pure functions: import vestel

Result = subprocess.CompletedProcess
Run = Callable[..., "Result[str]"]

# The reading of the simulated charger as it stands, typed by hand. Without the timestamp.
READING: dict[str, Any] = {
    "identity": {
        "serial": "VEST1234567890",
        "max_power_w": 22000,
        "max_power_kw": 22.0,
        "phases": "3-phase",
        "phases_raw": 1,
    },
    "states": {
        "chargepoint": {"code": 2, "name": "Charging"},
        "charging": {"code": 1, "name": "Charging"},
        "equipment": {"code": 1, "name": "Running"},
        "cable": {"code": 3, "name": "CableConnected_VehicleLocked"},
        "fault_code": 0,
        "faults": [],
    },
    "electrical": {
        "current": {"l1_a": 15.234, "l2_a": 15.181, "l3_a": 15.257},
        "voltage": {"l1_v": 231, "l2_v": 230, "l3_v": 229},
        "power": {"l1_w": 66518, "l2_w": 3491, "l3_w": 3492, "total_w": 70501, "total_kw": 70.5},
        "meter_reading_kwh": 121682.1,
    },
    "limits": {"evse_min_a": 6, "evse_max_a": 32, "cable_max_a": 20, "session_max_a": 28},
    "session": {
        "energy_wh": 1940301,
        "energy_kwh": 1940.301,
        "duration_s": 95025,
        "start_time": "07:42:10",
        "end_time": None,
    },
    "settings": {"dynamic_current_a": 16, "failsafe_current_a": 10, "failsafe_timeout_s": 21},
}
DETAILS: dict[str, Any] = {
    "chargepoint_id": "CP-GARAGE-01",
    "brand": "Vestel",
    "model": "EVC04",
    "firmware": "v3.187.0-1.8.156.0",
    "clock": "2026-11-20T09:15:30",
    "phase_switch": "3-phase",
}


# How often each test by hypothesis is played. A longer run:
#     VESTEL_FUZZ_EXAMPLES=50000 python -m pytest -k fuzz tests
fuzzed = settings(
    max_examples=int(os.environ.get("VESTEL_FUZZ_EXAMPLES", "150")), deadline=None, database=None
)


@pytest.fixture
def charger() -> Iterator[SimulatedCharger]:
    """A simulated charger that listens on loopback."""
    with simulated_charger() as running:
        yield running


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """The environment of the process: a home of its own, so that no real configuration is read."""
    kept = {name: os.environ[name] for name in ("PATH", "SYSTEMROOT") if name in os.environ}
    return {**kept, "HOME": str(tmp_path), "USERPROFILE": str(tmp_path)}


@pytest.fixture
def run(environment: dict[str, str]) -> Run:
    """Run vestel.py as a process; with `charger=`, against that charger."""

    def run(*options: str, charger: SimulatedCharger | None = None, **more: Any) -> Result[str]:
        target = ["--ip", charger.host, "--port", str(charger.port)] if charger else []
        more.setdefault("env", environment)
        if "stdout" not in more:
            more["stdout"] = subprocess.PIPE
        return subprocess.run(
            [sys.executable, str(more.pop("script", SCRIPT)), *target, *options],
            stderr=more.pop("stderr", subprocess.PIPE),
            stdin=subprocess.DEVNULL,
            encoding="utf-8",
            timeout=120,
            check=False,
            **more,
        )

    return run


class Running:
    """vestel.py as a process that stays, and every line of it as it comes.

    `out_at` is when (monotonic) each line of `out` came.
    """

    def __init__(self, options: list[str], charger: SimulatedCharger | None, **more: Any) -> None:
        target = ["--ip", charger.host, "--port", str(charger.port)] if charger else []
        self.out: list[str] = []
        self.out_at: list[float] = []
        self.err: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, str(SCRIPT), *target, *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            **more,
        )
        self._collectors = [
            threading.Thread(target=self._collect, args=(self.process.stdout, self.out, self.out_at)),
            threading.Thread(target=self._collect, args=(self.process.stderr, self.err, [])),
        ]
        for collector in self._collectors:
            collector.start()

    @staticmethod
    def _collect(stream: IO[str], lines: list[str], times: list[float]) -> None:
        with stream:
            for line in stream:
                times.append(time.monotonic())
                lines.append(line)

    def end(self, how: int = signal.SIGTERM) -> int:
        """Send the signal and return the exit code; all lines are there then."""
        self.process.send_signal(how)
        return self.wait()

    def wait(self) -> int:
        """Return the exit code of a process that ends by itself; all lines are there then."""
        status = self.process.wait(timeout=60)
        for collector in self._collectors:
            collector.join()
        return status


Start = Callable[..., Running]


@pytest.fixture
def start(environment: dict[str, str]) -> Iterator[Start]:
    """Start vestel.py as a process that stays; with `charger=`, against that charger."""
    started: list[Running] = []

    def start(*options: str, charger: SimulatedCharger | None = None, **more: Any) -> Running:
        started.append(Running([*options], charger, **{"env": environment, **more}))
        return started[-1]

    yield start
    for running in started:
        running.process.kill()
        running.wait()


def eventually(condition: Callable[[], Any], seconds: float = 30) -> Any:
    """Wait until the condition holds, and return what it returned then."""
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.01)
    return result


def times_asked(charger: SimulatedCharger, address: int = 1000) -> list[float]:
    """Note from now on when (monotonic) the range that begins at the address is asked for."""
    times: list[float] = []

    def note(request: bytes, reply: bytes) -> list[tuple[float, bytes]]:
        times.append(time.monotonic())
        return [(0, reply)]

    charger.fault(note, address=address)
    return times


def gaps(times: list[float]) -> list[float]:
    return [later - earlier for earlier, later in zip(times, times[1:])]


@contextlib.contextmanager
def clients(count: int, act: Callable[[], object]) -> Iterator[None]:
    """Let so many clients do something again and again meanwhile."""
    wanted, errors = [True], []

    def client() -> None:
        while wanted:
            try:
                act()
            except Exception as error:
                errors.append(error)
                return

    threads = [threading.Thread(target=client) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        wanted.clear()
        for thread in threads:
            thread.join()
    assert errors == []


def connecting_to(port: int) -> int:
    """How many connections to that port of loopback are being opened (SYN_SENT is 02)."""
    with open("/proc/net/tcp", encoding="ascii") as table:
        rows = [line.split()[2:4] for line in table]
    return rows.count([f"0100007F:{port:04X}", "02"])


def needs(program: str, package: str) -> str:
    """Return the path of a program; without it, skip the test, or fail it in CI, which has all."""
    path = shutil.which(program)
    if path is None:
        missing = f"needs {program} (Debian package: {package})"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    return path

"""What all tests share: the simulated charger, and vestel.py as a process or in this one."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
import tty
from pathlib import Path
from typing import IO, Any, Callable, Iterator

import pytest
from hypothesis import settings
from registers import DETAILS as DETAILS  # these are for whoever imports this module
from registers import READING as READING
from simulated_charger import Box, SimulatedCharger, simulated_charger

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "vestel.py"
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as in the background of a shell: it is inherited
    signal.signal(signal.SIGINT, signal.default_int_handler)
sys.path.insert(0, str(ROOT))

from program_rows import first_that_differs  # noqa: E402

import vestel  # noqa: E402

Result = subprocess.CompletedProcess
Run = Callable[..., "Result[str]"]

# How often each test by hypothesis is played. A longer run:
#     VESTEL_FUZZ_EXAMPLES=50000 python -m pytest -k fuzz tests
fuzzed = settings(
    max_examples=int(os.environ.get("VESTEL_FUZZ_EXAMPLES", "150")), deadline=None, database=None
)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """While vestel.py and registers.py have other rows, run only the test that says so by name."""
    naming = [item for item in items if item.name == "test_the_rows_of_the_program_are_those_of_registers_py"]
    with contextlib.suppress(Exception):  # the tests themselves will tell
        if naming and first_that_differs():
            config.hook.pytest_deselected(items=[item for item in items if item not in naming])
            items[:] = naming


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


@pytest.fixture
def call(environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run vestel.py in this process: for all that is not about processes, at a twentieth of the time.

    It stands in opt/ of a home of its own, so that no real configuration is read.
    """
    for name in ("NO_COLOR", "TERM", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(vestel, "__file__", str(tmp_path / "opt" / "vestel.py"))

    def call(
        *options: str, charger: SimulatedCharger | None = None, stdout: IO[str] | None = None
    ) -> Result[str]:
        target = ["--ip", charger.host, "--port", str(charger.port)] if charger else []
        printed, told = io.BytesIO(), io.BytesIO()
        out = stdout or io.TextIOWrapper(printed, "utf-8")
        err = io.TextIOWrapper(told, "utf-8", "backslashreplace")
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = vestel.main([*target, *options])
        out.flush()
        err.flush()
        return Result(options, status, printed.getvalue().decode(), told.getvalue().decode())

    return call


def read_screen(screen: int) -> bytes:
    """What came next on a terminal; nothing once nobody has it any more."""
    assert select.select([screen], [], [], 60)[0], "neither output nor an end"
    try:
        return os.read(screen, 65536)
    except OSError as error:
        if error.errno != errno.EIO:  # how Linux tells that the other side is closed
            raise
        return b""


@pytest.fixture
def run_on_terminal(environment: dict[str, str]) -> Run:
    """Run vestel.py as a process with a terminal as stdout, one that passes every byte on as it is."""

    def run_on_terminal(
        *options: str, charger: SimulatedCharger | None = None, **variables: str
    ) -> Result[str]:
        target = ["--ip", charger.host, "--port", str(charger.port)] if charger else []
        screen, line = os.openpty()
        tty.setraw(line)
        command = [sys.executable, str(SCRIPT), *target, *options]
        shown = b""
        with os.fdopen(screen, "rb", buffering=0), subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=line,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            env={**environment, "TERM": "xterm", **variables},
        ) as process:
            os.close(line)
            try:
                while chunk := read_screen(screen):
                    shown += chunk
                stderr = process.communicate(timeout=60)[1]
            finally:
                process.kill()
        return Result(command, process.returncode, shown.decode(), stderr)

    return run_on_terminal


class Memory(Box):
    """A charger in memory, which takes the place of the connection where the wire is no subject.

    It logs where it was looked for, and every read and write.
    """

    def __init__(self) -> None:
        super().__init__()
        self.targets: list[vestel.Target] = []
        self.reads: list[tuple[str, int, int]] = []  # bank, address, count
        self.writes: list[tuple[int, int]] = []
        self.closed = 0  # how often

    def read_words(self, bank: str, address: int, count: int) -> list[int]:
        self.reads.append((bank, address, count))
        words = [self.word(bank, n) for n in range(address, address + count)]
        if None in words:
            raise vestel.ChargerError("exception 2 (illegal data address)", code=2)
        return [word for word in words if word is not None]

    def write_word(self, address: int, value: int) -> None:
        self.writes.append((address, value))
        self.write(address, value)

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Memory:
    """A charger in memory that `call` reaches, whatever the address."""
    charger = Memory()

    def connect(target: vestel.Target, _: object) -> Callable[[], Memory]:
        charger.targets.append(target)
        return lambda: charger

    monkeypatch.setattr(vestel, "modbus", connect)
    return charger


class Clock:
    """The time of the program: it goes on when somebody sleeps, and by nothing else."""

    def __init__(self) -> None:
        self.passed = 0.0  # s since 2026-11-20 08:15:30 UTC

    def time(self) -> float:
        return 1795162530 + self.passed

    def monotonic(self) -> float:
        return self.passed

    def sleep(self, seconds: float) -> None:
        self.passed += seconds

    def __getattr__(self, name: str) -> Any:  # localtime, strftime: these only convert
        return getattr(time, name)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Give the program a time of its own."""
    clock = Clock()
    monkeypatch.setattr(vestel, "time", clock)
    return clock


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
    counts = []
    for _ in range(3):  # the table changes while it is read, and a row may be left out
        with open("/proc/net/tcp", encoding="ascii") as table:
            rows = [line.split()[2:4] for line in table]
        counts.append(rows.count([f"0100007F:{port:04X}", "02"]))
    return max(counts)


def needs(program: str, package: str) -> str:
    """Return the path of a program; without it, skip the test, or fail it in CI, which has all."""
    path = shutil.which(program)
    if path is None:
        missing = f"needs {program} (Debian package: {package})"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    return path

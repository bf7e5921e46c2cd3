"""vestel.py as a process or in this one: how it is started, and what comes out of it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import http.client
import io
import json
import os
import pty
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
import tty
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, Callable, Iterable, Iterator, NamedTuple, Sequence, TypeVar

import pytest
from charger import SimulatedCharger
from clock import gaps as gaps
from door import free_port
from hypothesis import settings

import vestel

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "vestel.py"
MODES = ["watch", "listen"]
METRICS, JSON, PAGE = "/metrics", "/vestel-data.json", "/"
PATHS = [METRICS, JSON, PAGE]
STAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00"

# How often each test by hypothesis is played. A longer run:
#     VESTEL_FUZZ_EXAMPLES=50000 python -m pytest -k fuzz tests
EXAMPLES = int(os.environ.get("VESTEL_FUZZ_EXAMPLES", "150"))
fuzzed = settings(max_examples=EXAMPLES, deadline=None, database=None)

Result = subprocess.CompletedProcess
Run = Callable[..., "Result[str]"]
Case = TypeVar("Case")
Outcome = TypeVar("Outcome")


def command(
    options: Sequence[str], charger: SimulatedCharger | None, script: Any = SCRIPT
) -> list[str]:
    return [sys.executable, str(script), *(target(charger) if charger else []), *options]


def target(charger: SimulatedCharger) -> list[str]:
    return ["--ip", charger.host, "--port", str(charger.port)]


def environment_of(home: Path) -> dict[str, str]:
    """Return the environment of a process with a home of its own, without a configuration."""
    kept = {name: os.environ[name] for name in ("PATH", "SYSTEMROOT") if name in os.environ}
    return {**kept, "HOME": str(home), "USERPROFILE": str(home)}


# --- One run ------------------------------------------------------------------------------------


def run_process(
    *options: str, charger: SimulatedCharger | None = None, script: Any = SCRIPT, **more: Any
) -> Result[str]:
    """Run vestel.py as a process, until it ends."""
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL}
    how = {"encoding": "utf-8", "timeout": 120, "check": False, **streams, **more}
    return subprocess.run(command(options, charger, script), **how)


def call_main(
    *options: str, charger: SimulatedCharger | None = None, stdout: IO[str] | None = None
) -> Result[str]:
    """Run vestel.py in this process."""
    printed, logged = io.BytesIO(), io.BytesIO()
    out = stdout or io.TextIOWrapper(printed, "utf-8")
    err = io.TextIOWrapper(logged, "utf-8", "backslashreplace")
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = vestel.main([*(target(charger) if charger else []), *options])
    out.flush()
    err.flush()
    return Result(options, code, printed.getvalue().decode(), logged.getvalue().decode())


def read_screen(screen: int) -> bytes:
    """Return what came next on a terminal; nothing once nobody has it any more."""
    assert select.select([screen], [], [], 60)[0], "neither output nor an end"
    try:
        return os.read(screen, 65536)
    except OSError as error:
        if error.errno != errno.EIO:  # Linux says so where the other side is closed
            raise
        return b""


def run_with_terminal(
    *options: str, env: dict[str, str], charger: SimulatedCharger | None = None, **variables: str
) -> Result[str]:
    """Run vestel.py with a terminal as stdout, one that passes every byte on as it is."""
    screen, line = os.openpty()
    tty.setraw(line)
    arguments = command(options, charger)
    shown = b""
    with os.fdopen(screen, "rb", buffering=0), subprocess.Popen(
        arguments,
        stdin=subprocess.DEVNULL,
        stdout=line,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        env={**env, "TERM": "xterm", **variables},
    ) as process:
        os.close(line)
        try:
            while chunk := read_screen(screen):
                shown += chunk
            stderr = process.communicate(timeout=60)[1]
        finally:
            process.kill()
    return Result(arguments, process.returncode, shown.decode(), stderr)


# --- A process that stays -----------------------------------------------------------------------


class Running:
    """vestel.py as a process that stays, and every line of it as it comes.

    `out_at` is when (monotonic) each line of `out` came.
    """

    def __init__(
        self, options: Sequence[str], charger: SimulatedCharger | None, **more: Any
    ) -> None:
        self.out: list[str] = []
        self.out_at: list[float] = []
        self.err: list[str] = []
        self.process = subprocess.Popen(
            command(options, charger),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            **more,
        )
        out = (self.process.stdout, self.out, self.out_at)
        unused: list[float] = []
        err = (self.process.stderr, self.err, unused)
        self._collectors = [
            threading.Thread(target=self._collect, args=args) for args in (out, err)
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
        """Send the signal and return the exit code. All lines are there then."""
        self.process.send_signal(how)
        return self.wait()

    def wait(self) -> int:
        """Return the exit code of a process that ends by itself. All lines are there then."""
        code = self.process.wait(timeout=60)
        for collector in self._collectors:
            collector.join()
        return code


Start = Callable[..., Running]


@contextlib.contextmanager
def starting(home: Path) -> Iterator[Start]:
    """What starts vestel.py as a process that stays; with `charger=`, against that charger."""
    started: list[Running] = []

    def start(*options: str, charger: SimulatedCharger | None = None, **more: Any) -> Running:
        started.append(Running(options, charger, **{"env": environment_of(home), **more}))
        return started[-1]

    try:
        yield start
    finally:
        for running in started:
            running.process.kill()
            running.wait()


def warnings(running: Running, about: str = "") -> list[str]:
    return [line for line in list(running.err) if line.startswith("WARNING: ") and about in line]


def catches(process: Any, number: int) -> bool:
    """Tell whether the process has a handler for the signal."""
    status = Path("/proc", str(process.pid), "status").read_text()
    (mask,) = re.findall(r"^SigCgt:\s*(\w+)", status, re.MULTILINE)
    return bool(int(mask, 16) & 1 << number - 1)


def thread_count(process: Any) -> int:
    """Return how many threads the process has."""
    return len(os.listdir(f"/proc/{process.pid}/task"))


class Staying:
    """vestel.py --watch or --listen as a process."""

    def __init__(
        self, mode: str, start: Start, *options: str, every: float = 1, **more: Any
    ) -> None:
        self.mode, self.port = mode, free_port()
        watch, listen = [f"--watch={every}", "--format=json"], [f"--listen={self.port}"]
        self.running = start(*(watch if mode == "watch" else listen), *options, **more)
        self.err = self.running.err

    def newest(self) -> Any:
        """Return the reading that was made last, or None."""
        if self.mode == "watch":
            return json.loads(self.running.out[-1]) if self.running.out else None
        with contextlib.suppress(OSError):
            answer = Http(self.port).ask(JSON)
            return json.loads(answer.body) if answer.status == 200 else None


# --- Over HTTP ----------------------------------------------------------------------------------


def json_readings(lines: Iterable[str]) -> list[Any]:
    """Return the readings on these lines of JSON, without their times."""
    found = [json.loads(line) for line in lines]
    for reading in found:
        assert re.fullmatch(STAMP, reading.pop("timestamp"))
    return found


class Answer(NamedTuple):
    """An answer over HTTP."""

    status: int
    headers: dict[str, str]
    body: str

    def reading(self) -> Any:
        """Return the reading, without its time."""
        assert self.status == 200, self.body
        return json_readings([self.body])[0]

    def value(self, metric: str) -> float:
        """Return the value of a metric that has no labels."""
        assert self.status == 200, self.body
        return float(re.findall(rf"^{metric} (.*)$", self.body, re.MULTILINE)[0])


class Http:
    """What listens on a port of this computer."""

    def __init__(self, port: int) -> None:
        self.port = port

    def ask(
        self, path: str, method: str = "GET", body: bytes | None = None, host: str = "127.0.0.1"
    ) -> Answer:
        connection = http.client.HTTPConnection(host, self.port, timeout=20)
        with contextlib.closing(connection):
            connection.request(method, path, body)
            response = connection.getresponse()
            headers = dict(response.getheaders())
            return Answer(response.status, headers, response.read().decode())

    def is_up(self) -> bool:
        return self.ask(METRICS).value("vestel_up") == 1

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def talk(self, data: bytes) -> bytes:
        """Send the bytes and nothing more; return all that comes back."""
        answer = bytearray()
        # A reset means that it was refused before all of it was there.
        with self.connect() as client, contextlib.suppress(ConnectionResetError, BrokenPipeError):
            with contextlib.suppress(OSError):
                client.sendall(data)
                client.shutdown(socket.SHUT_WR)
            while chunk := client.recv(65536):
                answer += chunk
        return bytes(answer)


class Listening(Http):
    """vestel.py --listen as a process."""

    def __init__(self, running: Running, port: int) -> None:
        super().__init__(port)
        self.running = running

    def proc(self, name: str) -> Path:
        return Path("/proc", str(self.running.process.pid), name)

    def status(self, key: str) -> int:
        """Return a number (memory in KiB) of /proc/PID/status."""
        status = self.proc("status").read_text()
        return int(re.findall(rf"^{key}:\s+(\d+)", status, re.MULTILINE)[0])


def listen(
    start: Start,
    *options: str,
    host: str = "",
    at: str = "127.0.0.1",
    ready: bool = False,
    **more: Any,
) -> Listening:
    """Start vestel.py --listen and wait until it listens (at `at`); `host` as --listen takes it.

    `ready` waits until it has looked for the charger, too.
    """
    port = free_port()
    running = start(f"--listen={host}{port}", *options, **more)
    eventually(lambda: accepts(at, port) or running.process.poll() is not None)
    assert running.process.poll() is None, running.err
    listening = Listening(running, port)
    if ready:
        looked = "vestel_readings_total", "vestel_failed_readings_total"
        eventually(lambda: sum(map(listening.ask(METRICS).value, looked)))
    return listening


def accepts(host: str, port: int) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as client:
        return client.connect_ex((host, port)) == 0


def connecting_to(port: int) -> int:
    """Return how many connections to that port of loopback are being opened."""
    syn_sent = [f"0100007F:{port:04X}", "02"]
    counts = []
    for _ in range(3):  # the table changes while it is read, and a row may be left out
        with open("/proc/net/tcp", encoding="ascii") as table:
            rows = [line.split()[2:4] for line in table]
        counts.append(rows.count(syn_sent))
    return max(counts)


# --- On a terminal ------------------------------------------------------------------------------

ENTER, LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
DRAWING = re.compile(r"\x1b\[H(.*?)\x1b\[J", re.DOTALL)


class Terminal:
    """vestel.py on a terminal of its own, and all that it sends there."""

    def __init__(
        self,
        options: Sequence[str],
        environment: dict[str, str],
        columns: int = 80,
        rows: int = 24,
        **more: Any,
    ) -> None:
        self.sent = ""
        self._end, self._line = pty.openpty()
        self.resize(columns, rows)
        streams = dict.fromkeys(("stdin", "stdout", "stderr"), self._line)
        self.process = subprocess.Popen(
            command(options, None),
            env={"TERM": "xterm", **environment},
            start_new_session=True,
            **{**streams, **more},
        )
        self._collector = threading.Thread(target=self._collect)
        self._collector.start()

    def _collect(self) -> None:
        data = b""
        with contextlib.suppress(OSError):  # EIO: the last one who had it open has gone
            while chunk := os.read(self._end, 65536):
                data += chunk
                # A terminal adds \r to the end of a line.
                self.sent = data.decode("utf-8", "ignore").replace("\r\n", "\n")

    def type(self, keys: bytes) -> None:
        os.write(self._end, keys)

    def stop(self) -> None:
        """Take nothing more, as after Ctrl-S."""
        termios.tcflow(self._line, termios.TCOOFF)

    def go_on(self) -> None:
        termios.tcflow(self._line, termios.TCOON)

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self._line, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def wait(self) -> int:
        """Return the exit code of a process that ends. All that it sent is there then."""
        code = self.process.wait(timeout=60)
        if self._collector.is_alive():
            os.close(self._line)
            self._collector.join()
            os.close(self._end)
        return code

    def end(self, how: int) -> int:
        self.process.send_signal(how)
        return self.wait()

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.wait()

    def drawings(self, count: int = 1) -> list[str]:
        """Return the whole drawings, as soon as there are so many."""
        found: list[str] = eventually(lambda: (f := DRAWING.findall(self.sent))[count - 1 :] and f)
        return found


@contextlib.contextmanager
def full_terminal() -> Iterator[int]:
    """The line of a terminal that nobody reads, and that takes not one byte more."""
    yield from _full(*pty.openpty())


@contextlib.contextmanager
def full_pipe() -> Iterator[int]:
    """The writing end of a pipe that nobody reads, and that takes not one byte more."""
    yield from _full(*os.pipe())


def _full(end: int, line: int) -> Iterator[int]:
    try:
        fill(line)
        yield line
    finally:
        os.close(line)
        os.close(end)


def fill(line: int) -> None:
    os.set_blocking(line, False)
    while select.select([], [line], [], 0.05)[1]:  # what is taken may be passed on a moment later
        for size in (4096, 1):
            with contextlib.suppress(BlockingIOError):
                while True:
                    os.write(line, bytes(size))
    os.set_blocking(line, True)


# --- Waiting, and many at a time ----------------------------------------------------------------


def eventually(condition: Callable[[], Any], seconds: float = 30) -> Any:
    """Wait until the condition holds, and return what it returned then."""
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.01)
    return result


def wait_for_heartbeats(charger: SimulatedCharger, count: int) -> None:
    """Wait until the charger was given so many more heartbeats."""
    until = len(charger.heartbeats) + count
    eventually(lambda: len(charger.heartbeats) >= until)


def side_by_side(act: Callable[[Case], Outcome], cases: Sequence[Case]) -> list[Outcome]:
    """Return what comes of each case, all at the same time: they wait more than they work."""

    def play(case: Case) -> Outcome:
        try:
            return act(case)
        except Exception as error:
            raise AssertionError(f"{case}: {error}") from error

    with ThreadPoolExecutor(min(26, len(cases))) as threads:
        return [*threads.map(play, cases)]


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


def needs(program: str, package: str) -> str:
    """Return the path of a program; without it, skip the test, or fail it in CI, which has all."""
    path = shutil.which(program)
    if path is None:
        missing = f"needs {program} (Debian package: {package})"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    return path

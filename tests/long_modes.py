"""What the tests of --watch and --listen share: how they are started, and what comes out of them."""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import json
import os
import pty
import re
import select
import socket
import struct
import subprocess
import sys
import termios
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable, Iterator, NamedTuple, Sequence, TypeVar

from conftest import SCRIPT, Running, Start, eventually
from simulated_charger import SimulatedCharger, free_port

ALIVE, DYNAMIC, FAILSAFE, TIMEOUT = 6000, 5004, 2000, 2002
MODES = ["watch", "listen"]
METRICS, JSON, PAGE = "/metrics", "/vestel-data.json", "/"
PATHS = [METRICS, JSON, PAGE]
STAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00"

Case = TypeVar("Case")
Result = TypeVar("Result")


def side_by_side(act: Callable[[Case], Result], cases: Sequence[Case]) -> list[Result]:
    """What comes of each case, all at the same time: they wait more than they work."""

    def play(case: Case) -> Result:
        try:
            return act(case)
        except Exception as error:
            raise AssertionError(f"{case}: {error}") from error

    with ThreadPoolExecutor(len(cases)) as threads:
        return [*threads.map(play, cases)]


def target(charger: SimulatedCharger) -> list[str]:
    return ["--ip", charger.host, "--port", str(charger.port)]


def readings(lines: Sequence[str]) -> list[Any]:
    """The readings on these lines of JSON, without their times."""
    found = [json.loads(line) for line in lines]
    for reading in found:
        assert re.fullmatch(STAMP, reading.pop("timestamp"))
    return found


def warnings(running: Running, about: str = "") -> list[str]:
    return [line for line in list(running.err) if line.startswith("WARNING: ") and about in line]


def wait_for_signs(charger: SimulatedCharger, count: int) -> None:
    """Wait until the charger was given so many more alive signs."""
    until = len(charger.signs) + count
    eventually(lambda: len(charger.signs) >= until)


# --- Over HTTP ----------------------------------------------------------------------------------


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: str

    def reading(self) -> Any:
        """The reading, without its time."""
        assert self.status == 200, self.body
        return readings([self.body])[0]

    def value(self, metric: str) -> float:
        """The value of a metric that has no labels."""
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
            return Answer(response.status, dict(response.getheaders()), response.read().decode())

    def is_up(self) -> bool:
        return self.ask(METRICS).value("vestel_up") == 1

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def talk(self, data: bytes) -> bytes:
        """Send the bytes and nothing more; return all that comes back."""
        answer = bytearray()
        # A reset: it was refused before all of it was there.
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
        """A number (memory in KiB) of /proc/PID/status."""
        return int(re.findall(rf"^{key}:\s+(\d+)", self.proc("status").read_text(), re.MULTILINE)[0])


def listen(
    start: Start, *options: str, host: str = "", at: str = "127.0.0.1", ready: bool = False, **more: Any
) -> Listening:
    """Start vestel.py --listen and wait until it listens (at `at`); `host` as --listen takes it.

    `ready` waits for what comes of the first look for the charger, too.
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


@contextlib.contextmanager
def starting(home: Path) -> Iterator[Start]:
    """As the fixture `start`, for whatever lives longer than a test."""
    started: list[Running] = []

    def start(*options: str, charger: SimulatedCharger | None = None, **more: Any) -> Running:
        started.append(
            Running([*options], charger, env={"PATH": os.environ["PATH"], "HOME": str(home)}, **more)
        )
        return started[-1]

    try:
        yield start
    finally:
        for running in started:
            running.process.kill()
            running.wait()


# --- Either mode --------------------------------------------------------------------------------


class Staying:
    """vestel.py --watch or --listen as a process; `newest` gives the reading made last, or None."""

    def __init__(self, mode: str, start: Start, *options: str, every: float = 1, **more: Any) -> None:
        self.mode, self.port = mode, free_port()
        how = [f"--watch={every}", "--format=json"] if mode == "watch" else [f"--listen={self.port}"]
        self.running = start(*how, *options, **more)
        self.err = self.running.err

    def newest(self) -> Any:
        if self.mode == "watch":
            return json.loads(self.running.out[-1]) if self.running.out else None
        with contextlib.suppress(OSError):
            answer = Http(self.port).ask(JSON)
            return json.loads(answer.body) if answer.status == 200 else None


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
        streams: dict[str, Any] = {"stdin": self._line, "stdout": self._line, "stderr": self._line, **more}
        self.process = subprocess.Popen(
            [sys.executable, str(SCRIPT), *options],
            env={"TERM": "xterm", **environment},
            start_new_session=True,
            **streams,
        )
        self._collector = threading.Thread(target=self._collect)
        self._collector.start()

    def _collect(self) -> None:
        data = b""
        with contextlib.suppress(OSError):  # EIO: the last one who had it open has gone
            while chunk := os.read(self._end, 65536):
                data += chunk
                # What ends a line comes out of a terminal with one \r more.
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
        """Return the exit code of a process that ends; all that it sent is there then."""
        status = self.process.wait(timeout=60)
        if self._collector.is_alive():
            os.close(self._line)
            self._collector.join()
            os.close(self._end)
        return status

    def end(self, how: int) -> int:
        self.process.send_signal(how)
        return self.wait()

    def drawings(self, count: int = 1) -> list[str]:
        """The whole drawings, as soon as there are so many."""
        found: list[str] = eventually(lambda: (f := DRAWING.findall(self.sent))[count - 1 :] and f)
        return found


@contextlib.contextmanager
def full_terminal() -> Iterator[int]:
    """The line of a terminal that nobody reads, and that takes not one byte more."""
    end, line = pty.openpty()
    try:
        fill(line)
        yield line
    finally:
        os.close(line)
        os.close(end)


@contextlib.contextmanager
def full_pipe() -> Iterator[int]:
    """The writing end of a pipe that nobody reads, and that takes not one byte more."""
    end, line = os.pipe()
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

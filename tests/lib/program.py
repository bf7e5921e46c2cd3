"""vestel.py as a process or in this one: how it is started, and what comes out of it."""

from __future__ import annotations

import contextlib
import fcntl
import functools
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
from door import free_port
from hypothesis import settings

import vestel

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "vestel.py"
MODES = ["watch", "listen"]
METRICS, JSON, PAGE = "/metrics", "/vestel-data.json", "/"
PATHS = [METRICS, JSON, PAGE]
HOST = "127.0.0.1"
STAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00"

# A longer run of the tests by hypothesis:
#     VESTEL_FUZZ_EXAMPLES=50000 python -m pytest -k fuzz tests
EXAMPLES = int(os.environ.get("VESTEL_FUZZ_EXAMPLES", "150"))
fuzzed = settings(max_examples=EXAMPLES, deadline=None, database=None)

Result = subprocess.CompletedProcess
Run = Callable[..., "Result[str]"]
Start = Callable[..., "Running"]
Case = TypeVar("Case")
Outcome = TypeVar("Outcome")
Process = TypeVar("Process", bound="Running")


def target(charger: SimulatedCharger | None) -> list[str]:
    return ["--ip", charger.host, "--port", str(charger.port)] if charger else []


def command(options: Sequence[str], charger: Any = None, script: Any = SCRIPT) -> list[str]:
    return [sys.executable, str(script), *target(charger), *options]


def environment_of(home: Path) -> dict[str, str]:
    return {"PATH": os.environ.get("PATH", ""), "HOME": str(home)}


PIPES = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
STREAMS: dict[str, Any] = {"stdin": subprocess.DEVNULL, "encoding": "utf-8", **PIPES}


def run_process(*options: str, charger: Any = None, script: Any = SCRIPT, **more: Any) -> Any:
    how = {"timeout": 120, "check": False, **STREAMS, **more}
    return subprocess.run(command(options, charger, script), **how)


def call_main(*options: str, charger: Any = None, stdout: IO[str] | None = None) -> Result[str]:
    printed, logged = io.BytesIO(), io.BytesIO()
    out = stdout or io.TextIOWrapper(printed, "utf-8")
    err = io.TextIOWrapper(logged, "utf-8", "backslashreplace")
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = vestel.main([*target(charger), *options])
    out.flush()
    err.flush()
    return Result(options, code, printed.getvalue().decode(), logged.getvalue().decode())


def read_screen(screen: int) -> bytes:
    assert select.select([screen], [], [], 60)[0], "neither output nor an end"
    with contextlib.suppress(OSError):  # EIO, where the other side is closed
        return os.read(screen, 65536)
    return b""


def run_with_terminal(
    *options: str, env: dict[str, str], charger: Any = None, **variables: str
) -> Result[str]:
    screen, line = os.openpty()
    tty.setraw(line)
    env = {**env, "TERM": "xterm", **variables}
    with os.fdopen(screen, "rb", buffering=0), ThreadPoolExecutor(1) as threads:
        shown = threads.submit(lambda: b"".join(iter(lambda: read_screen(screen), b"")))
        with os.fdopen(line):
            result = run_process(*options, charger=charger, stdout=line, env=env)
        return Result(result.args, result.returncode, shown.result().decode(), result.stderr)


class Running:
    def __init__(self, options: Sequence[str], charger: Any = None, **more: Any) -> None:
        self.out: list[str] = []
        self.err: list[str] = []
        self.process = subprocess.Popen(command(options, charger), **{**STREAMS, **more})
        self._collectors = [
            threading.Thread(target=self._collect_lines, args=args)
            for args in ((self.process.stdout, self.out), (self.process.stderr, self.err))
        ]
        for collector in self._collectors:
            collector.start()

    @staticmethod
    def _collect_lines(stream: IO[str], lines: list[str]) -> None:
        with stream:
            for line in stream:
                lines.append(line)

    def end(self, how: int = signal.SIGTERM) -> int:
        self.process.send_signal(how)
        return self.wait()

    def wait(self) -> int:
        code = int(self.process.wait(timeout=60))
        for collector in self._collectors:
            collector.join()
        return code

    def __enter__(self: Process) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.wait()


@contextlib.contextmanager
def starting(home: Path) -> Iterator[Start]:
    with contextlib.ExitStack() as stack:

        def start(*options: str, **more: Any) -> Running:
            return stack.enter_context(Running(options, **{"env": environment_of(home), **more}))

        yield start


def warnings(running: Running, about: str = "") -> list[str]:
    return [line for line in list(running.err) if line.startswith("WARNING: ") and about in line]


def status(process: Any, key: str) -> str:
    lines = Path("/proc", str(process.pid), "status").read_text()
    return str(re.findall(rf"^{key}:\s*(\w+)", lines, re.MULTILINE)[0])


def catches(process: Any, number: int) -> bool:
    return bool(int(status(process, "SigCgt"), 16) & 1 << number - 1)


def open_sockets(process: Any) -> int:
    count = 0
    for name in os.listdir(f"/proc/{process.pid}/fd"):
        with contextlib.suppress(OSError):  # it was closed meanwhile
            count += os.readlink(f"/proc/{process.pid}/fd/{name}").startswith("socket:")
    return count


def waits_for_network(process: Any) -> bool:
    """Tell whether it sleeps with a socket. On the way there, Python handles no signal."""
    return open_sockets(process) > 0 and status(process, "State") == "S"


def thread_count(process: Any) -> int:
    return int(status(process, "Threads"))


class Staying:
    def __init__(
        self, mode: str, start: Start, *options: str, every: float = 1, **more: Any
    ) -> None:
        self.mode, self.port = mode, free_port()
        watch, listen = [f"--watch={every}", "--format=json"], [f"--listen={self.port}"]
        self.running = start(*(watch if mode == "watch" else listen), *options, **more)
        self.err = self.running.err

    def newest(self) -> Any:
        if self.mode == "watch":
            return json.loads(self.running.out[-1]) if self.running.out else None
        with contextlib.suppress(OSError):
            answer = Http(self.port).ask(JSON)
            return json.loads(answer.body) if answer.status == 200 else None


def json_readings(lines: Iterable[str]) -> list[Any]:
    found = [json.loads(line) for line in lines]
    for reading in found:
        assert re.fullmatch(STAMP, reading.pop("timestamp"))
    return found


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: str

    def reading(self) -> Any:
        assert self.status == 200, self.body
        return json_readings([self.body])[0]

    def value(self, metric: str) -> float:
        assert self.status == 200, self.body
        return float(re.findall(rf"^{metric} (.*)$", self.body, re.MULTILINE)[0])


class Http:
    def __init__(self, port: int) -> None:
        self.port = port

    def ask(self, path: str, method: str = "GET", body: Any = None, host: str = HOST) -> Answer:
        connection = http.client.HTTPConnection(host, self.port, timeout=20)
        with contextlib.closing(connection):
            connection.request(method, path, body)
            got = connection.getresponse()
            return Answer(got.status, dict(got.getheaders()), got.read().decode())

    def is_up(self) -> bool:
        return self.ask(METRICS).value("vestel_up") == 1

    def connect(self) -> socket.socket:
        return socket.create_connection((HOST, self.port), timeout=20)

    def talk(self, data: bytes) -> bytes:
        """Send the bytes and nothing more; return all that comes back."""
        answer = b""
        # A reset means that it was refused before all of it was there.
        with self.connect() as client, contextlib.suppress(ConnectionResetError):
            with contextlib.suppress(OSError):
                client.sendall(data)
                client.shutdown(socket.SHUT_WR)
            while chunk := client.recv(65536):
                answer += chunk
        return answer


class Listening(Http):
    def __init__(self, running: Running, port: int) -> None:
        self.running, self.port = running, port

    def proc(self, name: str) -> Path:
        return Path("/proc", str(self.running.process.pid), name)

    def status(self, key: str) -> int:
        return int(status(self.running.process, key))


def listen(
    start: Start, *options: str, host: str = "", ready: bool = False, at: str = HOST, **more: Any
) -> Listening:
    """Wait until --listen (at `at`) listens, or (`ready`) has looked for the charger, too."""
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


ENTER, LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
DRAWING = re.compile(r"\x1b\[H(.*?)\x1b\[J", re.DOTALL)


class Terminal(Running):
    def __init__(self, options: Sequence[str], environment: dict[str, str], **more: Any) -> None:
        self.sent = ""
        self._end, self._line = pty.openpty()
        self.resize(more.pop("columns", 80), more.pop("rows", 24))
        streams = dict.fromkeys(("stdin", "stdout", "stderr"), self._line)
        how = {"env": {"TERM": "xterm", **environment}, "start_new_session": True}
        self.process = subprocess.Popen(command(options, None), **{**how, **streams, **more})
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
        termios.tcflow(self._line, termios.TCOOFF)

    def go_on(self) -> None:
        termios.tcflow(self._line, termios.TCOON)

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self._line, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def wait(self) -> int:
        code = int(self.process.wait(timeout=60))
        if self._collector.is_alive():
            os.close(self._line)
            self._collector.join()
            os.close(self._end)
        return code

    def drawings(self, count: int = 1) -> list[str]:
        eventually(lambda: len(DRAWING.findall(self.sent)) >= count)
        return DRAWING.findall(self.sent)


@contextlib.contextmanager
def _full(make: Callable[[], tuple[int, int]]) -> Iterator[int]:
    """The end to write to of what nobody reads, and that takes not one byte more."""
    end, line = make()
    try:
        fill(line)
        yield line
    finally:
        os.close(line)
        os.close(end)


full_terminal = functools.partial(_full, pty.openpty)
full_pipe = functools.partial(_full, os.pipe)


def fill(line: int) -> None:
    os.set_blocking(line, False)
    while select.select([], [line], [], 0.05)[1]:  # what is taken may be passed on a moment later
        for size in (4096, 1):
            with contextlib.suppress(BlockingIOError):
                while True:
                    os.write(line, bytes(size))
    os.set_blocking(line, True)


def eventually(condition: Callable[[], Any], seconds: float = 30) -> Any:
    """Wait until the condition holds, and return what it returned then."""
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.01)
    return result


def wait_for_heartbeats(charger: SimulatedCharger, count: int) -> None:
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
    wanted = [True]

    def client() -> None:
        while wanted:
            act()

    with ThreadPoolExecutor(count) as threads:
        running = [threads.submit(client) for _ in range(count)]
        try:
            yield
        finally:
            wanted.clear()
    for one in running:
        one.result()


def needs(program: str, package: str) -> str:
    """Return the path of a program; without it, skip the test, or fail it in CI, which has all."""
    path = shutil.which(program)
    if path is None:
        stop = pytest.fail if os.environ.get("CI") else pytest.skip
        stop(f"needs {program} (Debian package: {package})")
    return str(path)

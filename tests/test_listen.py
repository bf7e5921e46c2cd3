"""--listen: what it serves over HTTP and to whom, and what a client cannot do to it."""

from __future__ import annotations

import contextlib
import errno
import http.client
import json
import re
import socket
import struct
import subprocess
import threading
import time
import zlib
from pathlib import Path
from typing import Any, Callable, NamedTuple

import pytest
from conftest import DETAILS, READING, Run, Running, Start, clients, eventually, gaps, needs, times_asked
from prometheus_client.parser import text_string_to_metric_families
from simulated_charger import HOLDING, INPUT, SimulatedCharger, free_port, text, u32

ALIVE, TIMEOUT = 6000, 2002
VOLTAGE_L1 = 1014
METRICS, JSON, PAGE = "/metrics", "/vestel-data.json", "/"
PATHS = [METRICS, JSON, PAGE]
TYPES = {
    METRICS: "text/plain; version=0.0.4; charset=utf-8",
    JSON: "application/json",
    PAGE: "text/html; charset=utf-8",
}


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: str

    def reading(self) -> Any:
        """The reading, without its time."""
        assert self.status == 200, self.body
        reading = json.loads(self.body)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", reading.pop("timestamp"))
        return reading


class Listening(NamedTuple):
    """vestel.py --listen as a process."""

    running: Running
    port: int

    def ask(
        self, path: str, method: str = "GET", body: bytes | None = None, host: str = "127.0.0.1"
    ) -> Answer:
        connection = http.client.HTTPConnection(host, self.port, timeout=20)
        with contextlib.closing(connection):
            connection.request(method, path, body)
            response = connection.getresponse()
            return Answer(response.status, dict(response.getheaders()), response.read().decode())

    def volts(self) -> Any:
        return self.ask(JSON).reading()["electrical"]["voltage"]["l1_v"]

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

    def proc(self, name: str) -> Path:
        return Path("/proc", str(self.running.process.pid), name)

    def status(self, key: str) -> int:
        """A number (memory in KiB) of /proc/PID/status."""
        return int(re.findall(rf"^{key}:\s+(\d+)", self.proc("status").read_text(), re.MULTILINE)[0])


Listen = Callable[..., Listening]


@pytest.fixture
def listen(start: Start) -> Listen:
    """Start vestel.py --listen and wait until it listens; `host` as --listen takes it."""

    def listen(
        *options: str, charger: SimulatedCharger | None = None, host: str = "", at: str = "127.0.0.1"
    ) -> Listening:
        port = free_port()
        running = start(f"--listen={host}{port}", *options, charger=charger)
        eventually(lambda: accepts(at, port) or running.process.poll() is not None)
        assert running.process.poll() is None, running.err
        return Listening(running, port)

    return listen


def accepts(host: str, port: int) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as client:
        return client.connect_ex((host, port)) == 0


def passed(seconds: float) -> None:
    """Wait for a time that a rule names."""
    begun = time.monotonic()
    eventually(lambda: time.monotonic() - begun > seconds)


# --- What is served ---

ELECTRICAL, LIMITS, SETTINGS = READING["electrical"], READING["limits"], READING["settings"]
SAMPLES: dict[str, float] = {
    "vestel_up": 1,
    "vestel_max_power_watts": 22000,
    "vestel_phases": 3,
    "vestel_chargepoint_state": 2,
    "vestel_charging_state": 1,
    "vestel_equipment_state": 1,
    "vestel_cable_state": 3,
    "vestel_fault_code": 0,
    **{f"vestel_fault {bit}": 0 for bit in range(28)},
    **{f"vestel_current_amperes {n}": ELECTRICAL["current"][f"l{n}_a"] for n in (1, 2, 3)},
    **{f"vestel_voltage_volts {n}": ELECTRICAL["voltage"][f"l{n}_v"] for n in (1, 2, 3)},
    **{f"vestel_power_watts {n}": ELECTRICAL["power"][f"l{n}_w"] for n in (1, 2, 3)},
    "vestel_total_power_watts": 70501,
    "vestel_meter_reading_kwh": 121682.1,
    "vestel_evse_min_current_amperes": LIMITS["evse_min_a"],
    "vestel_evse_max_current_amperes": LIMITS["evse_max_a"],
    "vestel_cable_max_current_amperes": LIMITS["cable_max_a"],
    "vestel_session_max_current_amperes": LIMITS["session_max_a"],
    "vestel_session_energy_wh": 1940301,
    "vestel_session_duration_seconds": 95025,
    "vestel_dynamic_current_amperes": SETTINGS["dynamic_current_a"],
    "vestel_failsafe_current_amperes": SETTINGS["failsafe_current_a"],
    "vestel_failsafe_timeout_seconds": SETTINGS["failsafe_timeout_s"],
}


def samples(exposition: str) -> dict[str, float]:
    """The values by metric and its own label."""
    found = {}
    for family in text_string_to_metric_families(exposition):
        for sample in family.samples:
            own = sample.labels.get("phase") or sample.labels.get("bit") or ""
            found[f"{sample.name} {own}".strip()] = sample.value
    return found


def test_metrics_are_every_value_of_the_charger(charger: SimulatedCharger, listen: Listen) -> None:
    answer = listen(charger=charger).ask(METRICS)
    assert answer.status == 200
    assert samples(answer.body) == SAMPLES


@pytest.mark.parametrize(("options", "more"), [([], {}), (["--details"], {"details": DETAILS})])
def test_json_is_the_reading(
    charger: SimulatedCharger, listen: Listen, options: list[str], more: dict[str, Any]
) -> None:
    assert listen(*options, charger=charger).ask(JSON).reading() == {**READING, **more}


def test_while_the_charger_cannot_be_read_every_path_says_so(listen: Listen) -> None:
    port = free_port()
    listening = listen("--ip=127.0.0.1", f"--port={port}")
    eventually(lambda: listening.running.err)
    metrics, document, page = map(listening.ask, PATHS)
    assert (metrics.status, samples(metrics.body)) == (200, {"vestel_up": 0})
    assert metrics.body.splitlines()[2:] == ["vestel_up 0"], "after HELP and TYPE"
    assert document.status == 503
    ((key, why),) = json.loads(document.body).items()
    assert key == "error"
    assert re.match(rf"no reading since \d{{4}}-.*: Cannot connect to 127\.0\.0\.1:{port}: ", why)
    assert page.status == 200
    assert f"127.0.0.1:{port}: connection refused" in page.body


@pytest.mark.parametrize("up", [True, False], ids=["read", "lost"])
@pytest.mark.parametrize("path", [*PATHS, "/other"])
def test_the_headers_are_right_and_head_gives_them_without_the_body(
    charger: SimulatedCharger, listen: Listen, path: str, up: bool
) -> None:
    if not up:
        charger.stop()
    listening = listen(charger=charger)
    eventually(lambda: listening.ask(JSON).status == (200 if up else 503))
    got, head = listening.ask(path), listening.ask(path, "HEAD")
    assert got.headers["Content-Type"] == TYPES.get(path, "text/plain; charset=utf-8")
    assert got.headers["Content-Length"] == str(len(got.body.encode()))
    assert (head.status, head.body) == (got.status, "")
    for answer in (got, head):
        del answer.headers["Date"]
    assert head.headers == got.headers


def test_a_query_is_ignored(charger: SimulatedCharger, listen: Listen) -> None:
    listening = listen(charger=charger)
    for path, like in (
        ("/?", PAGE),
        ("/?refresh=1&a=/metrics", PAGE),
        ("/metrics?name[]=vestel_up", METRICS),
        ("/vestel-data.json?_=1700000000", JSON),
        ("/vestel-data.json??", JSON),
    ):
        answer = listening.ask(path)
        assert (answer.status, answer.headers["Content-Type"]) == (200, TYPES[like]), path


def test_other_paths_are_not_found(charger: SimulatedCharger, listen: Listen) -> None:
    listening = listen(charger=charger)
    for path in (
        *("/metric", "/metrics/", "/METRICS", "/vestel-data", "/index.html", "/favicon.ico", "/%6detrics"),
        *("/../../etc/passwd", "/vestel.py", "/vestel_modbus.ini", "*", "metrics"),
    ):
        assert listening.ask(path).status == 404, path
    assert listening.running.err == []


# --- Nothing can be written ---


def test_no_method_but_get_and_head_is_allowed_and_nothing_is_written(
    charger: SimulatedCharger, listen: Listen
) -> None:
    charger.set(HOLDING, TIMEOUT, 2)
    listening = listen(charger=charger)
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "FOO", "get", "__init__"):
        for path in (*PATHS, "/?set_current=6", "/other"):
            answer = listening.ask(path, method, b"set_current=6")
            assert answer.status == 405, (method, path)
            assert answer.headers["Allow"] == "GET, HEAD"
    for path in (*PATHS, "/other"):
        listening.ask(f"{path}?set_current=6&5004=6")
    eventually(lambda: charger.signs)
    assert set(charger.writes) == {(ALIVE, 1)}
    assert charger.image[HOLDING, 5004] == 16
    assert listening.running.err == []


# --- A reading is at most a second old ---


def test_a_change_is_served_after_a_second(charger: SimulatedCharger, listen: Listen) -> None:
    listening = listen(charger=charger)
    for volts in (219, 225):
        charger.set(INPUT, VOLTAGE_L1, volts)
        passed(1)
        assert listening.volts() == volts
        assert samples(listening.ask(METRICS).body)["vestel_voltage_volts 1"] == volts
        assert f">{volts} V " in listening.ask(PAGE).body


def test_no_client_gets_the_old_reading_while_a_new_one_is_made(
    charger: SimulatedCharger, listen: Listen
) -> None:
    listening = listen(charger=charger)
    assert listening.volts() == 231
    charger.set(INPUT, VOLTAGE_L1, 219)
    charger.delay = 0.1
    passed(1)
    asked = len(charger.requests)
    first: list[Any] = []
    client = threading.Thread(target=lambda: first.append(listening.volts()))
    client.start()
    eventually(lambda: len(charger.requests) > asked)
    second = listening.volts()
    client.join()
    assert (first, second) == ([219], 219)


def test_a_client_that_asks_while_the_first_reading_is_made_gets_it(
    charger: SimulatedCharger, listen: Listen
) -> None:
    charger.delay = 0.1
    listening = listen(charger=charger)
    assert eventually(lambda: charger.requests)
    assert listening.ask(JSON).reading() == READING


def is_off(charger: SimulatedCharger) -> None:
    charger.stop()


def is_silent(charger: SimulatedCharger) -> None:
    charger.fault("silence")


@pytest.mark.parametrize("loss", [is_off, is_silent])
def test_nothing_of_an_old_reading_is_served_after_a_loss(
    charger: SimulatedCharger, listen: Listen, loss: Callable[[SimulatedCharger], None]
) -> None:
    listening = listen("--timeout=0.2", charger=charger)
    assert "VEST1234567890" in listening.ask(PAGE).body
    loss(charger)
    passed(1)
    statuses: list[int] = []
    with clients(4, lambda: statuses.append(listening.ask(JSON).status)):
        eventually(lambda: listening.running.err)
        passed(0.2)
        for path in PATHS:
            body = listening.ask(path).body
            assert not re.search("VEST|70501|70.50|15.234|1940301", body), path
    assert set(statuses) == {503}


# --- The charger is asked at most once a second ---


def test_the_charger_is_asked_at_most_once_a_second_however_many_ask(
    charger: SimulatedCharger, listen: Listen
) -> None:
    times = times_asked(charger)
    listening = listen(charger=charger)
    served: list[Answer] = []
    paths = iter(PATHS * 1_000_000)
    with clients(8, lambda: served.append(listening.ask(next(paths)))):
        passed(3)
    assert 3 <= len(times) <= 5
    assert all(gap > 0.9 for gap in gaps(times)), gaps(times)
    assert len(served) > 100
    assert {answer.status for answer in served} == {200}
    assert charger.connections == 1


def test_where_nobody_asks_the_charger_is_not_read(charger: SimulatedCharger, listen: Listen) -> None:
    times = times_asked(charger)
    listening = listen(charger=charger)
    with listening.connect() as client:
        assert client.recv(1) == b"", "who sends nothing is not kept for long"
    assert len(times) == 1


# --- Clients that do not behave ---

GET = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
REFUSED = rb"|HTTP/1\.[01] (4\d\d|505) .*|<!DOCTYPE .*Error code: (4\d\d|505).*"  # or closed


@pytest.mark.parametrize(
    ("request_", "answers"),
    [
        pytest.param(b"GET /" + 100_000 * b"a" + b" HTTP/1.1\r\n\r\n", REFUSED, id="request line of 100 kB"),
        pytest.param(100_000 * b"A" + b" / HTTP/1.1\r\n\r\n", REFUSED, id="method of 100 kB"),
        pytest.param(GET[:-2] + b"X: " + 1_000_000 * b"a" + b"\r\n\r\n", REFUSED, id="header of 1 MB"),
        pytest.param(GET[:-2] + 10_000 * b"X: a\r\n" + b"\r\n", REFUSED, id="10,000 headers"),
        pytest.param(bytes(range(256)) * 100, REFUSED, id="binary"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500), REFUSED, id="TLS"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", REFUSED, id="HTTP/2"),
        pytest.param(b"GET / HTTP/1.1.1\r\n\r\n", REFUSED, id="no such version"),
        pytest.param(b"GET / / HTTP/1.1\r\n\r\n", REFUSED, id="four words"),
        pytest.param(b"GET /\xff\xfe\x1b[31m HTTP/1.1\r\n\r\n", REFUSED, id="path that is no text"),
        pytest.param(b"", b"", id="nothing"),
        pytest.param(b"\r\n\r\n\r\n", b"", id="empty lines"),
        pytest.param(b"GET /metrics HT", REFUSED, id="part of a request"),
        pytest.param(b"GET /metrics\r\n\r\n", b"# HELP vestel_up .*|" + REFUSED, id="HTTP/0.9"),
        pytest.param(3 * GET, b"HTTP/1.[01] 200 .*", id="pipelined"),
        pytest.param(
            GET.replace(b"GET", b"POST")[:-2] + b"Content-Length: 1000000\r\n\r\n" + 1_000_000 * b"a",
            REFUSED,
            id="body of 1 MB",
        ),
    ],
)
def test_a_bad_request_is_refused_and_the_next_client_is_served(
    charger: SimulatedCharger, listen: Listen, request_: bytes, answers: bytes
) -> None:
    listening = listen(charger=charger)
    answer = listening.talk(request_)
    assert re.fullmatch(answers, answer, re.DOTALL), answer[:200]
    assert listening.ask(JSON).reading() == READING
    assert listening.running.end() == 0
    assert listening.running.err == []


def test_what_a_client_sends_cannot_steer_the_terminal_that_shows_the_log(
    charger: SimulatedCharger, listen: Listen
) -> None:
    listening = listen("-v", charger=charger)
    for request in (b"GET /\x1b[2J\x9b\r\x85x HTTP/1.0", b"\x1b]0;x\x07", b"GET / HTTP/\x1b[2J"):
        listening.talk(request + b"\r\n\r\n")
    listening.ask(METRICS)
    assert listening.running.end() == 0
    logged = [line.rstrip("\n") for line in listening.running.err]
    assert [line for line in logged if not line.isprintable()] == []
    assert any("GET /metrics" in line for line in logged)


def sends_nothing(listening: Listening, stack: contextlib.ExitStack) -> None:
    for _ in range(50):
        stack.enter_context(listening.connect())


def sends_a_byte_a_second(listening: Listening, stack: contextlib.ExitStack) -> None:
    client, ended = stack.enter_context(listening.connect()), threading.Event()
    stack.callback(ended.set)

    def drip() -> None:
        for byte in GET:
            client.sendall(bytes([byte]))
            if ended.wait(1):
                return

    threading.Thread(target=drip).start()


def never_reads(listening: Listening, stack: contextlib.ExitStack) -> None:
    for _ in range(20):
        client = stack.enter_context(socket.socket())
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)  # so that the answer does not fit
        client.connect(("127.0.0.1", listening.port))
        client.sendall(GET)


def leaves_at_once(listening: Listening, stack: contextlib.ExitStack) -> None:
    for _ in range(50):
        with listening.connect() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.sendall(GET)


def test_clients_that_are_slow_or_dead_hold_up_nobody(charger: SimulatedCharger, listen: Listen) -> None:
    charger.set(HOLDING, TIMEOUT, 4)
    listening = listen(charger=charger)
    assert listening.volts() == 231
    with contextlib.ExitStack() as stack:
        for client in (sends_nothing, sends_a_byte_a_second, never_reads, leaves_at_once):
            client(listening, stack)
        asked_until = len(charger.signs) + 3
        while len(charger.signs) < asked_until:
            asked = time.monotonic()
            assert listening.ask(METRICS).status == 200
            assert time.monotonic() - asked < 3
            passed(0.05)
        assert all(0.6 < gap < 1.9 for gap in gaps(charger.signs))
    assert charger.connections == 1
    assert listening.running.err == []


# --- Where it listens ---


def skip_without_ipv6() -> None:
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            pytest.skip("needs ::1")


@pytest.mark.parametrize(
    ("host", "serves", "refuses"),
    [
        pytest.param("", ["127.0.0.1"], ["127.0.0.2"], id="no host"),
        pytest.param("127.0.0.2:", ["127.0.0.2"], ["127.0.0.1"], id="an address"),
        pytest.param("0.0.0.0:", ["127.0.0.1", "127.0.0.2"], [], id="all addresses"),
        pytest.param("[::1]:", ["::1"], ["127.0.0.1"], id="IPv6"),
    ],
)
def test_it_listens_on_loopback_alone_unless_a_host_is_given(
    charger: SimulatedCharger, listen: Listen, host: str, serves: list[str], refuses: list[str]
) -> None:
    if ":" in serves[0]:
        skip_without_ipv6()
    listening = listen(host=host, at=serves[0], charger=charger)
    for address in serves:
        for path in PATHS:
            assert listening.ask(path, host=address).status == 200
    for address in refuses:
        with socket.socket() as client:
            assert client.connect_ex((address, listening.port)) == errno.ECONNREFUSED


@pytest.mark.parametrize(
    "host",
    [
        pytest.param("", id="port in use"),
        pytest.param("no..such.host:", id="no such host"),
        pytest.param("192.0.2.1:", id="address of another machine"),
    ],
)
def test_where_it_cannot_listen_one_line_says_so(charger: SimulatedCharger, run: Run, host: str) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen(1)
        where = f"{host or '127.0.0.1:'}{other.getsockname()[1]}"
        result = run(f"--listen={where}", "--set-current=10", charger=charger)
    assert (result.returncode, result.stdout) == (1, "")
    assert re.fullmatch(rf"ERROR: Cannot listen on {re.escape(where)}: \S.*\n", result.stderr)
    assert ("another program" in result.stderr) == (host == "")
    assert charger.requests == [], "nothing is set, since nothing would hold it"


# --- What it costs ---


def test_memory_threads_and_files_do_not_grow_with_the_scrapes(
    charger: SimulatedCharger, listen: Listen
) -> None:
    listening = listen(charger=charger)

    def scrape(times: int) -> None:
        for n in range(times):
            assert listening.ask(PATHS[n % 3]).status == 200

    def cost() -> tuple[int, int]:
        return listening.status("Threads"), len(list(listening.proc("fd").iterdir()))

    scrape(200)
    eventually(lambda: listening.status("Threads") == 2, seconds=5)
    before, memory = cost(), listening.status("VmRSS")
    scrape(2800)
    eventually(lambda: cost() == before, seconds=5)
    assert listening.status("VmRSS") - memory < 2 * 1024


# --- The simulated charger ---


def test_the_demo_serves_all_paths(listen: Listen) -> None:
    listening = listen("--demo", "--details")
    assert samples(listening.ask(METRICS).body)["vestel_up"] == 1
    reading = listening.ask(JSON).reading()
    assert (reading["identity"]["serial"], reading["details"]["model"]) == ("VESTEL-DEMO", "EVC04")
    assert ">VESTEL-DEMO<" in listening.ask(PAGE).body
    assert listening.running.err == []


# --- The page ---

WIDEST = 25 * "W"


def is_usual(charger: SimulatedCharger) -> None:
    pass


def is_faulted(charger: SimulatedCharger) -> None:
    charger.set(INPUT, 1000, 8)
    charger.set(INPUT, 1006, *u32(0xFFFFFFFF))
    charger.set(INPUT, 100, *text(WIDEST, 25))
    charger.set(INPUT, 130, *text(2 * WIDEST, 50))


def served_page(charger: SimulatedCharger, listen: Listen) -> str:
    listening = listen("--details", charger=charger)
    return listening.ask(PAGE).body


@pytest.mark.parametrize("happens", [is_usual, is_faulted, is_off])
def test_the_page_needs_nothing_from_elsewhere(
    charger: SimulatedCharger, listen: Listen, happens: Callable[[SimulatedCharger], None]
) -> None:
    happens(charger)
    page = served_page(charger, listen)
    assert sorted(re.findall(r"""(?:src|href)\s*=\s*["']?([^"'> ]*)""", page)) == [
        "data:,",  # no icon, so that none is asked for
        "metrics",
        "vestel-data.json",
    ]
    assert not re.search(r"//|https?:|url\(|@import|<script|<i?frame|<form", page)
    for meta in (
        '<meta name="viewport" content="width=device-width',
        '<meta name="color-scheme" content="light dark">',
        '<meta http-equiv="refresh" content="',
        '<meta charset="utf-8">',
    ):
        assert meta in page


def test_the_text_of_the_charger_stays_text(charger: SimulatedCharger, listen: Listen) -> None:
    charger.set(INPUT, 100, *text("<script>alert(1)</script>", 25))
    charger.set(INPUT, 130, *text("\"'><img src=x onerror=alert(1)>&amp;", 50))
    page = served_page(charger, listen)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "&gt;&lt;img src=x onerror=alert(1)&gt;&amp;amp;" in page
    assert not re.search("<script|<img", page)


Browse = Callable[..., str]


@pytest.fixture
def browse(tmp_path: Path) -> Browse:
    """Open an address in a real browser, and return the document as it is then."""
    chromium = needs("chromium", "chromium")

    def browse(address: str, *options: str, width: int = 390, height: int = 844) -> str:
        result = subprocess.run(
            [
                *(chromium, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
                *(f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},{height}"),
                *("--virtual-time-budget=1000", "--dump-dom", *options, address),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="utf-8",
            timeout=20,
            check=True,
        )
        return result.stdout

    return browse


def test_a_browser_shows_the_charger_at_a_glance(
    charger: SimulatedCharger, listen: Listen, browse: Browse
) -> None:
    charger.set(INPUT, 100, *text("<script>alert(1)</script>", 25))
    listening = listen(charger=charger)
    document = browse(f"http://127.0.0.1:{listening.port}/")
    (heading,) = re.findall("<h1.*?>(.*?)</h1>", document)
    assert heading == "Charging"
    assert re.search(r"</h1><p>70\.50 kW\b", document)
    rows = dict(re.findall("<dt>(.*?)</dt><dd>(.*?)</dd>", document))
    assert rows["Serial"] == "&lt;script&gt;alert(1)&lt;/script&gt;"
    assert rows["Current L1 L2 L3"].split("  ") == ["15.234 A", "15.181 A", "15.257 A"]
    assert rows["Energy"] == "1940301 Wh (1940.301 kWh)"
    limits = [
        *("EVSE Minimum", "EVSE Maximum", "Cable Maximum", "Session Maximum"),
        *("Dynamic Current", "Failsafe Current", "Failsafe Timeout"),
    ]
    assert [rows[limit] for limit in limits] == ["6 A", "32 A", "20 A", "28 A", "16 A", "10 A", "21 s"]


@pytest.mark.parametrize("happens", [is_usual, is_faulted, is_off])
def test_the_page_fits_a_phone_and_follows_its_colours(
    charger: SimulatedCharger,
    listen: Listen,
    browse: Browse,
    tmp_path: Path,
    happens: Callable[[SimulatedCharger], None],
) -> None:
    happens(charger)
    measure = "parent.postMessage([innerWidth, document.documentElement.scrollWidth].join(), '*')"
    page = f"{served_page(charger, listen)}<script>{measure}</script>"
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    # In a frame, since no window of this browser is as narrow as a phone.
    frame = (
        '<iframe src="page.html" style="border: 0; inset: 0; position: fixed" width=390 height=844></iframe>'
    )
    (tmp_path / "phone.html").write_text(f"<script>onmessage = e => document.title = e.data</script>{frame}")
    backgrounds = []
    for scheme in (0, 1):  # dark, light
        shot = tmp_path / f"{scheme}.png"
        colours = f"--blink-settings=preferredColorScheme={scheme}"
        document = browse((tmp_path / "phone.html").as_uri(), f"--screenshot={shot}", colours)
        assert "<title>390,390</title>" in document, "no wider than the phone"
        backgrounds.append(top_left(shot.read_bytes()))
    dark, light = backgrounds
    assert max(dark) < 80
    assert min(light) > 200


def top_left(png: bytes) -> bytes:
    """The first pixel of a PNG, which no filter changes: red, green, blue."""
    data, at = b"", 8
    while at < len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        if png[at + 4 : at + 8] == b"IDAT":
            data += png[at + 8 : at + 8 + length]
        at += length + 12
    return zlib.decompressobj().decompress(data, 4)[1:]

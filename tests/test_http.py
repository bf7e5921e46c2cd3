"""What --listen answers over HTTP: paths, methods and headers, and requests that are none."""

from __future__ import annotations

import itertools
import json
import re
from typing import Any, Iterator

import pytest
from conftest import READING, Start, eventually
from long_modes import ALIVE, JSON, METRICS, PAGE, PATHS, Answer, Listening, listen, starting
from readings import sample_values
from registers import DETAILS, SAMPLES
from simulated_charger import HOLDING, INPUT, Piece, SimulatedCharger, free_port, simulated_charger, u32

import vestel

pytestmark = pytest.mark.every_version

TYPES = {
    METRICS: "text/plain; version=0.0.4; charset=utf-8",
    JSON: "application/json",
    PAGE: "text/html; charset=utf-8",
}
OWN = {
    "vestel_reading_seconds",
    "vestel_readings_total",
    "vestel_failed_readings_total",
    "vestel_connections_total",
}


@pytest.fixture(scope="module")
def box() -> Iterator[SimulatedCharger]:
    """A charger that all tests share: none of them changes it. Its clock goes on."""
    with simulated_charger() as charger:
        clock = itertools.count(91531)

        def tick(request: bytes, reply: bytes) -> list[Piece]:
            charger.set(INPUT, 294, *u32(next(clock) % 60 + 91500))
            return [(0, reply)]

        charger.fault(tick, address=290)
        yield charger


@pytest.fixture(scope="module")
def listening(box: SimulatedCharger, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listening]:
    """What serves the readings of that charger, and has one."""
    with starting(tmp_path_factory.mktemp("home")) as start:
        yield listen(start, charger=box, ready=True)


@pytest.fixture(scope="module")
def lost(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listening]:
    """What looks for a charger where none is."""
    with starting(tmp_path_factory.mktemp("home")) as start:
        yield listen(start, "--details", "--ip=127.0.0.1", f"--port={free_port()}", ready=True)


@pytest.fixture(params=["read", "lost"])
def either(request: pytest.FixtureRequest) -> Any:
    """Both of them, in turn."""
    return request.getfixturevalue("listening" if request.param == "read" else "lost")


# --- What is served -----------------------------------------------------------------------------


def test_metrics_are_every_value_of_the_charger_and_those_of_the_exporter(listening: Listening) -> None:
    found = sample_values(listening.ask(METRICS).body)
    assert found.keys() >= OWN
    usual = {metric: value for metric, value in SAMPLES.items() if metric != "vestel_info"}  # a detail
    assert {metric: found[metric] for metric in found if metric not in OWN} == usual
    assert 0 < found["vestel_reading_seconds"] < 5
    assert (found["vestel_failed_readings_total"], found["vestel_connections_total"]) == (0, 1)


def test_json_is_the_reading(listening: Listening) -> None:
    assert listening.ask(JSON).reading() == READING


def test_with_details_these_are_part_of_it(charger: SimulatedCharger, start: Start) -> None:
    answer = listen(start, "--details", charger=charger, ready=True).ask(JSON)
    assert answer.reading() == {**READING, "details": DETAILS}


def nulls(reading: dict[str, Any]) -> dict[str, Any]:
    """The same keys, and null everywhere."""
    return {key: nulls(value) if isinstance(value, dict) else None for key, value in reading.items()}


def test_while_the_charger_is_lost_every_path_says_so(lost: Listening) -> None:
    metrics, document, page = map(lost.ask, PATHS)
    assert metrics.status == 200
    found = sample_values(metrics.body)
    assert found.pop("vestel_failed_readings_total") >= 1
    assert found == {"vestel_up": 0, "vestel_readings_total": 0, "vestel_connections_total": 0}
    assert document.status == 503
    reading = json.loads(document.body)
    assert [*reading][:2] == ["error", "timestamp"]
    why = reading.pop("error")
    assert re.match(
        r"no reading since \d{4}-\S+: Cannot connect to 127\.0\.0\.1:\d+: connection refused", why
    )
    assert reading == {"timestamp": None, **nulls({**READING, "details": DETAILS})}
    assert page.status == 200
    assert "connection refused" in page.body


@pytest.mark.parametrize("path", [*PATHS, "/other"])
def test_the_headers_are_right_and_head_gives_them_without_the_body(either: Listening, path: str) -> None:
    def ask(method: str) -> Answer:
        answer = either.ask(path, method)
        del answer.headers["Date"]
        return answer

    def of_one_reading() -> tuple[Answer, Answer] | None:
        got, head, again = ask("GET"), ask("HEAD"), ask("GET")
        return (got, head) if got == again else None

    got, head = eventually(of_one_reading)
    assert got.headers["Content-Type"] == TYPES.get(path, "text/plain; charset=utf-8")
    assert got.headers["Cache-Control"] == "no-store"
    assert got.headers["Server"] == f"vestel.py/{vestel.VERSION}"
    assert got.headers.get("Content-Security-Policy") == (vestel.csp() if path == PAGE else None)
    assert got.headers["Content-Length"] == str(len(got.body.encode()))
    assert head == (got.status, got.headers, "")
    assert either.talk(f"HEAD {path} HTTP/1.0\r\n\r\n".encode()).endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    ("target", "like"),
    [
        ("/?", PAGE),
        ("/?refresh=1&a=/metrics", PAGE),
        ("/metrics?name[]=vestel_up", METRICS),
        ("/vestel-data.json?_=1700000000", JSON),
        ("/vestel-data.json??", JSON),
        ("http://host", PAGE),  # as a client sends it to a proxy
        ("http://host?", PAGE),
        ("http://host:80/", PAGE),
        ("HTTP://HOST/metrics?a=b", METRICS),
        ("https://user@[::1]:9946/vestel-data.json", JSON),
    ],
)
def test_a_query_and_a_host_are_ignored(listening: Listening, target: str, like: str) -> None:
    answer = listening.talk(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.0 200 ")
    assert f"\r\nContent-Type: {TYPES[like]}\r\n".encode() in head
    assert body


@pytest.mark.parametrize(
    "path",
    [
        *("/metric", "/metrics/", "/METRICS", "/vestel-data", "/index.html", "/favicon.ico", "/%6detrics"),
        *("/../../etc/passwd", "/vestel.py", "/vestel_modbus.ini", "*", "metrics", "http:/metrics"),
    ],
)
def test_other_paths_are_not_found(listening: Listening, path: str) -> None:
    assert listening.ask(path).status == 404


# --- Nothing can be written ---------------------------------------------------------------------


def test_no_method_but_get_and_head_is_allowed_and_nothing_is_written(
    box: SimulatedCharger, listening: Listening
) -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "FOO", "get", "__init__"):
        for path in (*PATHS, "/?set_current=6", "/other"):
            answer = listening.ask(path, method, b"set_current=6")
            assert answer.status == 405, (method, path)
            assert answer.headers["Allow"] == "GET, HEAD"
    for path in (*PATHS, "/other"):
        listening.ask(f"{path}?set_current=6&5004=6")
    assert {*box.writes} == {(ALIVE, 1)}
    assert box.image[HOLDING, 5004] == 16
    assert listening.running.err == []


# --- Requests that are none ---------------------------------------------------------------------

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
    listening: Listening, request_: bytes, answers: bytes
) -> None:
    answer = listening.talk(request_)
    assert re.fullmatch(answers, answer, re.DOTALL), answer[:200]
    assert listening.ask(JSON).status == 200
    assert listening.running.err == []

"""What --listen answers over HTTP: paths, methods and headers, and requests that are none."""

from __future__ import annotations

import json
import re
from typing import Any, Iterator

import door
import program
import pytest
from charger import SimulatedCharger
from program import JSON, METRICS, PAGE, PATHS, Answer, Listening, eventually
from readings import sample_values, without
from registers import DETAILS, DYNAMIC, HEARTBEAT, READING

import vestel

pytestmark = pytest.mark.every_version

TYPES = {
    METRICS: "text/plain; version=0.0.4; charset=utf-8",
    JSON: "application/json",
    PAGE: "text/html; charset=utf-8",
}


@pytest.fixture(scope="module")
def box() -> Iterator[SimulatedCharger]:
    """A charger that all tests share: none of them changes it."""
    with door.listening() as charger:
        yield charger


@pytest.fixture(scope="module")
def service(box: SimulatedCharger, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listening]:
    """What serves the readings of that charger, and has one."""
    with program.starting(tmp_path_factory.mktemp("home")) as start:
        yield program.listen(start, charger=box, ready=True)


@pytest.fixture(scope="module")
def lost(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listening]:
    """What looks for a charger where none is."""
    with program.starting(tmp_path_factory.mktemp("home")) as start:
        nowhere = "--ip=127.0.0.1", f"--port={door.free_port()}"
        yield program.listen(start, "--details", *nowhere, ready=True)


def test_metrics_are_all_values_and_those_of_the_exporter(service: Listening) -> None:
    found = sample_values(service.ask(METRICS).body)
    assert 0 < found.pop("vestel_reading_seconds") < 5
    assert found.pop("vestel_readings_total") >= 1
    assert found.pop("vestel_failed_readings_total") == 0
    assert found.pop("vestel_connections_total") == 1
    assert found.pop("vestel_warnings") == 0
    assert found == without("vestel_info")  # a detail


def test_json_is_the_reading(service: Listening) -> None:
    assert service.ask(JSON).reading() == READING


def nulls(reading: dict[str, Any]) -> dict[str, Any]:
    """Return the same keys, and null everywhere."""
    return {k: nulls(value) if isinstance(value, dict) else None for k, value in reading.items()}


def test_every_path_says_that_the_charger_is_lost(lost: Listening) -> None:
    metrics, document, page = map(lost.ask, PATHS)
    assert metrics.status == 200
    found = sample_values(metrics.body)
    assert found.pop("vestel_failed_readings_total") >= 1
    assert found == {
        "vestel_up": 0,
        "vestel_warnings": 1,
        "vestel_readings_total": 0,
        "vestel_connections_total": 0,
    }
    assert document.status == 503
    reading = json.loads(document.body)
    assert [*reading][:2] == ["error", "timestamp"]
    why = r"no reading yet: Cannot connect to 127\.0\.0\.1:\d+: connection refused"
    assert re.match(why, reading.pop("error"))
    assert reading == {"timestamp": None, **nulls({**READING, "details": DETAILS})}
    assert page.status == 200
    assert "connection refused" in page.body


@pytest.mark.parametrize("path", [*PATHS, "/other"])
def test_headers_are_right_and_head_gives_them_alone(
    service: Listening, lost: Listening, path: str
) -> None:
    for either in (service, lost):

        def ask(method: str) -> Answer:
            answer = either.ask(path, method)  # noqa: B023
            del answer.headers["Date"]
            return answer

        def of_one_reading() -> tuple[Answer, Answer] | None:
            got, head, again = ask("GET"), ask("HEAD"), ask("GET")
            return (got, head) if got == again else None

        got, head = eventually(of_one_reading)
        policy = vestel.content_security_policy()
        assert got.headers["Content-Type"] == TYPES.get(path, "text/plain; charset=utf-8")
        assert got.headers["Server"] == f"vestel.py/{vestel.VERSION}"
        assert path != PAGE or got.headers["Content-Security-Policy"] == policy
        assert got.headers["Content-Length"] == str(len(got.body.encode()))
        assert head == (got.status, got.headers, "")
        assert either.talk(f"HEAD {path} HTTP/1.0\r\n\r\n".encode()).endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    ("target", "like"),
    [
        ("/?refresh=1&a=/metrics", PAGE),
        ("/metrics?name[]=vestel_up", METRICS),
        ("/vestel-data.json??", JSON),
        ("http://host", PAGE),  # as a client sends it to a proxy
        ("http://host?", PAGE),
        ("HTTP://HOST:80/metrics?a=b", METRICS),
        ("https://user@[::1]:9946/vestel-data.json", JSON),
    ],
)
def test_query_and_host_are_ignored(service: Listening, target: str, like: str) -> None:
    answer = service.talk(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.0 200 ")
    assert f"\r\nContent-Type: {TYPES[like]}\r\n".encode() in head
    assert body


OTHERS = [
    *("/metric", "/metrics/", "/METRICS", "/vestel-data", "/index.html", "/favicon.ico"),
    *("/%6detrics", "/../../etc/passwd", "/vestel.py", "*", "metrics", "http:/metrics"),
]


def test_other_paths_are_not_found(service: Listening) -> None:
    assert {path: service.ask(path).status for path in OTHERS} == dict.fromkeys(OTHERS, 404)


METHODS = "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "FOO", "get", "__init__"


def test_only_get_and_head_are_allowed_and_nothing_is_written(
    box: SimulatedCharger, service: Listening
) -> None:
    for method in METHODS:
        for path in (*PATHS, "/?set_current=6", "/other"):
            answer = service.ask(path, method, b"set_current=6")
            assert answer.status == 405, (method, path)
            assert answer.headers["Allow"] == "GET, HEAD"
    for path in (*PATHS, "/other"):
        service.ask(f"{path}?set_current=6&5004=6")
    assert {*box.writes} == {(HEARTBEAT, 1)}
    assert box[DYNAMIC] == 16
    assert service.running.err == []


GET = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST" + GET[3:-2] + b"Content-Length: 1000000\r\n\r\n"
HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500)
REFUSED = rb"|HTTP/1\.[01] (4\d\d|505) .*|<!DOCTYPE .*Error code: (4\d\d|505).*"  # or closed
BAD = {
    "request line of 100 kB": (b"GET /" + 100_000 * b"a" + b" HTTP/1.1\r\n\r\n", REFUSED),
    "header of 1 MB": (GET[:-2] + b"X: " + 1_000_000 * b"a" + b"\r\n\r\n", REFUSED),
    "10,000 headers": (GET[:-2] + 10_000 * b"X: a\r\n" + b"\r\n", REFUSED),
    "binary": (bytes(range(256)) * 100, REFUSED),
    "TLS": (HELLO, REFUSED),
    "no such version": (b"GET / HTTP/1.1.1\r\n\r\n", REFUSED),
    "four words": (b"GET / / HTTP/1.1\r\n\r\n", REFUSED),
    "path that is no text": (b"GET /\xff\xfe\x1b[31m HTTP/1.1\r\n\r\n", REFUSED),
    "nothing": (b"", b""),
    "empty lines": (b"\r\n\r\n\r\n", b""),
    "part of a request": (b"GET /metrics HT", REFUSED),
    "HTTP/0.9": (b"GET /metrics\r\n\r\n", b"# HELP vestel_up .*|" + REFUSED),
    "pipelined": (3 * GET, b"HTTP/1.[01] 200 .*"),
    "body of 1 MB": (POST + 1_000_000 * b"a", REFUSED),
}


@pytest.mark.parametrize(("request_", "answers"), BAD.values(), ids=[*BAD])
def test_bad_request_is_refused_and_the_next_is_served(
    service: Listening, request_: bytes, answers: bytes
) -> None:
    answer = service.talk(request_)
    assert re.fullmatch(answers, answer, re.DOTALL), answer[:200]
    assert service.ask(JSON).status == 200
    assert service.running.err == []

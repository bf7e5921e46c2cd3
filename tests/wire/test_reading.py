"""A reading over the wire: what is asked of the charger, and what comes of its answers."""

from __future__ import annotations

import io
import json
import re
import socket
import threading
from datetime import datetime, timezone
from typing import Any
from unittest import mock

import pytest
from charger import SimulatedCharger
from clock import Clock
from conftest import Memory
from door import free_port, listening
from faults import playing
from program import Result, Run
from readings import FORMATS, WHOLE, flat, reading_of
from registers import GAPS, HOLDING, HUMAN, INPUT, RANGES, Read, read, reads, text

pytestmark = pytest.mark.every_version

READ_ALL = "--details", "--format=json"


def assert_whole(result: Result[str]) -> None:
    """The usual reading was printed, and nothing else."""
    assert (result.returncode, result.stderr) == (0, "")
    assert reading_of(result.stdout) == WHOLE


VALUE_BY_VALUE: list[Read] = [  # the requests where each range of several values is refused
    request
    for rows in RANGES
    for request in [read(rows), *([read([row]) for row in rows] if len(rows) > 1 else [])]
]


ORDER = [
    *[(INPUT, 100, 25), (INPUT, 400, 5), (INPUT, 1000, 38), (INPUT, 1100, 7), (INPUT, 1502, 12)],
    *[(HOLDING, 2000, 3), (HOLDING, 5004, 1)],
    *[(INPUT, 130, 50), (INPUT, 190, 10), (INPUT, 210, 5), (INPUT, 230, 50), (INPUT, 290, 6)],
    (HOLDING, 405, 1),
]


@pytest.mark.parametrize("style", FORMATS)
@pytest.mark.parametrize(("options", "count"), [([], 7), (["--details"], 13)])
def test_a_reading_is_one_connection_and_a_request_a_range(
    charger: SimulatedCharger, call: Run, style: str, options: list[str], count: int
) -> None:
    assert call(*options, "--format", style, charger=charger).returncode == 0
    assert charger.reads == ORDER[:count]
    assert (charger.connections, charger.writes) == (1, [])
    assert {request.unit for request in charger.requests} == {1}


def test_a_process_reads_all_at_the_time_that_it_says(
    charger: SimulatedCharger, run: Run, environment: dict[str, str]
) -> None:
    before = datetime.now(timezone.utc).replace(microsecond=0)
    result = run(*READ_ALL, charger=charger, env={**environment, "TZ": "Asia/Tokyo"})
    after = datetime.now(timezone.utc)
    assert_whole(result)
    assert (charger.reads, charger.connections, charger.writes) == (ORDER, 1, [])
    timestamp = json.loads(result.stdout)["timestamp"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", timestamp)
    assert before <= datetime.strptime(timestamp, "%Y-%m-%dT%H:%M:%S%z") <= after


@pytest.mark.parametrize("refuses_gaps", [False, True], ids=["ranges", "values"])
def test_with_base_1_register_n_is_asked_for_as_n_minus_1(call: Run, refuses_gaps: bool) -> None:
    with listening(base=1, refuses_gaps=refuses_gaps) as charger:
        charger.lack(5004, bank=HOLDING)
        result = call("-v", "--base=1", *READ_ALL, charger=charger)
    assert flat(reading_of(result.stdout)) == {**flat(WHOLE), "settings.dynamic_current_a": None}
    assert charger.reads == (VALUE_BY_VALUE if refuses_gaps else reads(RANGES))
    asked = re.findall("request (?:.. ){8}(.. ..)", result.stderr)
    assert asked[:2] == ["00 63", "01 8f"]  # 99, 399
    assert re.findall("WARNING.* register (.*):", result.stderr) == ["5004"]  # the usual number


def test_the_rfid_tag_is_never_asked_for(charger: SimulatedCharger, call: Run) -> None:
    charger.refuses_gaps = True
    charger.lack(*range(1502, 1514))
    charger.set(1516, *text("04A2B3C4D5E6F7", 15), bank=INPUT)
    result = call("-v", "--details", charger=charger)
    assert result.returncode == 0
    assert not [r for r in charger.reads if r[1] <= 1530 and r[1] + r[2] > 1516]
    assert "04A2" not in result.stdout


def test_a_charger_is_read_over_ipv6(call: Run) -> None:
    with listening(ipv6=True) as charger:
        assert_whole(call(*READ_ALL, charger=charger))
    assert charger.host == "::1"


def test_two_addresses_share_the_timeout(call: Run) -> None:
    tried = []

    def connect(connection: socket.socket, _: object) -> None:
        tried.append(connection.gettimeout())
        raise socket.timeout

    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"192.0.2.{n}", 502)) for n in (1, 2)]
    look_up = mock.patch.object(socket, "getaddrinfo", return_value=found)
    with look_up, mock.patch.object(socket.socket, "connect", connect):
        assert call("--ip=box", "--timeout=3").returncode == 1
    assert tried == [1.5, 1.5]


def test_a_host_is_reached_at_any_of_its_addresses(charger: SimulatedCharger, call: Run) -> None:
    refused, right = (
        socket.getaddrinfo("127.0.0.1", port, type=socket.SOCK_STREAM)[0]
        for port in (free_port(), charger.port)
    )
    with mock.patch.object(socket, "getaddrinfo", return_value=[refused, right]):
        assert_whole(call("--ip=box", *READ_ALL))


def test_the_charger_is_free_before_anything_is_printed(memory: Memory, call: Run) -> None:
    class Slow(io.StringIO):
        def write(self, text: str) -> int:
            assert memory.links == []
            return super().write(text)

    with Slow() as stdout:
        assert call("--ip=charger", stdout=stdout).returncode == 0
        assert stdout.getvalue() == HUMAN


@pytest.mark.parametrize("code", ["gaps", 1, 2, 3])
def test_an_unsupported_range_is_read_value_by_value(
    charger: SimulatedCharger, call: Run, code: Any
) -> None:
    charger.refuses_gaps = code == "gaps"
    for rows in RANGES if code != "gaps" else []:
        if len(rows) > 1:
            charger.fault(code, rows[0].address, times=1)
    assert_whole(call(*READ_ALL, charger=charger))
    assert charger.reads == VALUE_BY_VALUE
    assert charger.connections == 1


def test_what_gaps_hold_is_in_no_value(charger: SimulatedCharger, call: Run) -> None:
    charger.image.update(dict.fromkeys(GAPS, 0xA5A5))
    assert_whole(call(*READ_ALL, charger=charger))


def test_the_timestamp_is_when_the_reading_began(memory: Memory, call: Run, clock: Clock) -> None:
    memory.delay = 1.0
    result = call("--ip=charger", *READ_ALL)
    assert clock.passed == 13
    assert json.loads(result.stdout)["timestamp"] == "2026-11-20T08:15:30+00:00"


@pytest.mark.parametrize(("seconds", "end"), [(1, ""), (2, "a reply that is too short\n")])
def test_the_timeout_is_that_of_each_whole_reply(
    charger: SimulatedCharger, call: Run, clock: Clock, seconds: float, end: str
) -> None:
    def drip(self: socket.socket, size: int, *flags: int) -> bytes:
        if threading.current_thread() is threading.main_thread():
            clock.sleep(seconds)
            size = 1
        return super(socket.socket, self).recv(size, *flags)

    with mock.patch.object(socket.socket, "recv", drip):
        result = call("--timeout=100", charger=charger)  # the longest reply has 85 bytes
    assert (result.stderr == "", result.stderr.endswith(end)) == (not end, True)
    assert clock.passed > 100


def test_verbose_shows_each_request_and_reply_in_hex(charger: SimulatedCharger, call: Run) -> None:
    result = call("-v", "--unit=17", charger=charger)
    assert (result.returncode, result.stdout) == (0, HUMAN)
    head = rf"\d\d:\d\d:\d\d\.\d\d\d 127\.0\.0\.1:{charger.port}: "
    connected, *log = [re.sub(head, "", line) for line in result.stderr.splitlines()]
    assert (connected, len(log)) == ("connected", 14)
    assert [line.split()[1:3] for line in log[::2]] == [line.split()[1:3] for line in log[1::2]]
    assert [re.sub("(request|reply) (.. ..)", r"\1", line) for line in log[-4:]] == [
        "request 00 00 00 06 11 03 07 d0 00 03",
        "reply 00 00 00 09 11 03 06 00 0a 00 00 00 15",
        "request 00 00 00 06 11 03 13 8c 00 01",
        "reply 00 00 00 05 11 03 02 00 10",
    ]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("silence", "reply none"),
        ("part of a header", "reply 00 .. 00 00 00"),
        ("no Modbus", "reply 53 53 48 2d 32 2e 30 2d 64"),
    ],
)
def test_verbose_shows_what_came_in_place_of_a_reply(
    charger: SimulatedCharger, call: Run, clock: Clock, name: str, shown: str
) -> None:
    with playing(charger, name, 400, times=1, clock=clock):
        lines = call("-v", charger=charger).stderr.splitlines()
    assert len([line for line in lines if re.search(f": {shown}$", line)]) == 1
    assert len(lines) == (17 if name == "silence" else 18)  # another request, and connection

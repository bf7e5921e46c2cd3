"""Where there is no reading: one line that says why, and what may be tried, and nothing that cannot help."""

from __future__ import annotations

import re
import time

import pytest
from conftest import Clock, Result, Run, eventually
from faults import WAITING, attempts_to, connected, play_of, side_by_side
from simulated_charger import PLAYS, Fault, SimulatedCharger, dead_host, free_port, simulated_charger

import vestel

pytestmark = pytest.mark.every_version

# All that a message may tell to try.
HINTS = [
    "--unit 0", "--unit 1", "--unit 255", "--base 0", "--base 1", "--timeout", "--ip", "--port",
    "check the address", "firewall", "web page", "another master", "failsafe timeout", "try again later",
]  # fmt: skip
OTHER_MASTER = ["another master", "failsafe timeout"]
# The fault at every request, and what is told to try.
TOLD: dict[str, list[str]] = {
    "reset": OTHER_MASTER,
    "close": OTHER_MASTER,
    "half a reply and reset": OTHER_MASTER,
    "short": [],
    "long": [],
    "other transaction": [],
    "earlier reply, same length": [],
    "exception 0": [],
    "other unit": ["--unit 0"],
    "other protocol": ["check the address", "--port"],
    "no Modbus": ["check the address", "--port"],
    "web server": ["check the address", "--port"],
    "exception 1": ["--unit 255"],
    "exception 2": ["--unit 255", "--base 1"],
    "exception 3": ["--unit 255"],
    "exception 4": ["try again later"],
    "exception 5": ["try again later"],
    "exception 6": ["try again later"],
    "exception 7": [],
    "exception 9": [],
    "exception 10": ["--unit 255"],
    "exception 11": ["--unit 255"],
    "exception 255": [],
}


def hints(text: str) -> list[str]:
    return [hint for hint in HINTS if re.search(rf"(?<!\w){re.escape(hint)}\b", text)]


def only(*told: str) -> list[str]:
    return [hint for hint in HINTS if hint in told]


def error_line(result: Result[str]) -> str:
    """The one line that there is; nothing on stdout."""
    assert (result.returncode, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    assert re.match("ERROR: Cannot (connect to|read) 127.0.0.1:", line)
    return line


# --- Nothing can be read --------------------------------------------------------------------------


@pytest.mark.parametrize("name", TOLD)
def test_where_nothing_can_be_read_the_message_tells_what_may_help(
    call: Run, charger: SimulatedCharger, clock: Clock, name: str
) -> None:
    charger.fault(play_of(name))
    assert hints(error_line(call(charger=charger))) == only(*TOLD[name])


def test_silence_hints_at_the_unit_the_timeout_and_another_master() -> None:
    def check(name: str) -> None:
        with simulated_charger() as charger:
            charger.fault(play_of(name))
            with connected(charger, 0.2) as reached, pytest.raises(vestel.ChargerError) as error:
                vestel.read_core(reached)
        assert hints(str(error.value)) == only("--unit 255", "--timeout", *OTHER_MASTER)

    side_by_side(check, WAITING)


@pytest.mark.parametrize(
    ("options", "name", "told"),
    [
        (["--unit=255"], "exception 2", ["--unit 1", "--base 1"]),
        (["--base=1"], "exception 2", ["--unit 255", "--base 0"]),
        (["--unit=255", "--base=1"], "exception 2", ["--unit 1", "--base 0"]),
        (["--unit=7"], "exception 2", ["--unit 255", "--base 1"]),
        (["--unit=255"], "exception 10", ["--unit 1"]),
        (["--unit=255"], "exception 11", ["--unit 1"]),
        (["--unit=255", "--timeout=0.2"], "silence", ["--unit 1", "--timeout", *OTHER_MASTER]),
        (["--base=1", "--timeout=0.2"], "silence", ["--unit 255", "--timeout", *OTHER_MASTER]),
    ],
)
def test_what_is_told_to_try_is_another_one_than_was_tried(
    call: Run, charger: SimulatedCharger, options: list[str], name: str, told: list[str]
) -> None:
    charger.fault(play_of(name))
    assert hints(error_line(call(*options, charger=charger))) == only(*told)


def test_a_wrong_unit_that_is_silent_costs_four_requests_and_the_other_unit_is_told(
    call: Run, charger: SimulatedCharger
) -> None:
    other_unit = Fault(PLAYS["silence"], lambda request: request.unit != 255, True, [1_000_000])
    charger.faults.append(other_unit)
    line = error_line(call("--timeout=0.2", charger=charger))
    eventually(lambda: len(charger.requests) == 4)
    assert [request.address for request in charger.requests] == [100, 100, 400, 400]
    assert "--unit 255" in hints(line)
    assert call("--unit=255", charger=charger).returncode == 0


# --- Something was answered -----------------------------------------------------------------------


@pytest.mark.parametrize("skip", [1, 2, 6])
@pytest.mark.parametrize("name", [name for name in TOLD if name not in ("exception 5", "exception 6")])
def test_where_the_charger_has_answered_another_register_nothing_is_told_to_try(
    call: Run, charger: SimulatedCharger, name: str, skip: int
) -> None:
    charger.fault(play_of(name), skip=skip)
    result = call("--details", charger=charger)
    assert result.returncode == 0
    assert result.stderr
    assert hints(result.stderr) == []


@pytest.mark.parametrize("name", TOLD)
def test_no_message_tells_of_an_exception_0(
    call: Run, charger: SimulatedCharger, clock: Clock, name: str
) -> None:
    for skip in (0, 3):
        charger.faults.clear()
        charger.fault(play_of(name), skip=skip)
        assert not re.search(r"exception 0\b", call("--details", charger=charger).stderr)


# --- No connection --------------------------------------------------------------------------------


def test_a_refused_port_says_first_to_check_the_address_and_the_port(call: Run) -> None:
    port = free_port()
    line = error_line(call("--ip=127.0.0.1", f"--port={port}"))
    found = re.match(
        f"ERROR: Cannot connect to 127.0.0.1:{port}: connection refused; check the address and the port, "
        "or .*Modbus TCP .*web page, or another master .*evcc, Home Assistant.* failsafe timeout",
        line,
    )
    assert found, line
    assert hints(line) == only("check the address", "web page", *OTHER_MASTER)


def test_a_dead_host_costs_one_timeout_and_is_one_error_line(call: Run) -> None:
    with dead_host() as port, attempts_to(port) as attempts:
        begin = time.monotonic()
        line = error_line(call("--ip=127.0.0.1", f"--port={port}", "--timeout=0.3", "--details"))
        assert time.monotonic() - begin >= 0.3
    assert line.startswith(f"ERROR: Cannot connect to 127.0.0.1:{port}: no answer within 0.3 s; ")
    assert hints(line) == only("check the address", "firewall")
    assert attempts == [0.3]


def test_a_connection_that_is_closed_at_once_every_time_is_one_error_line(
    call: Run, charger: SimulatedCharger
) -> None:
    charger.close_next = 1000
    line = error_line(call(charger=charger))
    assert hints(line) == only(*OTHER_MASTER)
    assert charger.connections == 4

"""The exit code and what stands on stderr with it; where nothing is read, what may be tried."""

from __future__ import annotations

import errno
import re
import socket
import time
from typing import Any, Callable
from unittest import mock

import pytest
from charger import SILENCE, SimulatedCharger
from clock import Clock
from door import dead_host, free_port, listening
from faults import playing
from program import Result, Run
from registers import INPUT

pytestmark = pytest.mark.every_version


Happens = Callable[[SimulatedCharger], Any]


def play(outcome: Any, *addresses: int, **where: Any) -> Happens:
    return lambda charger: charger.fault(outcome, *addresses, **where)


def well(_: object) -> None: ...


gone = SimulatedCharger.stop
DYNAMIC, BOTH = "--set-dynamic-current=12", "--set-current=12"
SET, SET_TOO = "Dynamic current: 16 A -> 12 A", "Failsafe current: 10 A -> 12 A"
NOT_CONNECTED = "ERROR: Cannot connect to 127.0.0.1:{port}: "
NOT_READ = "ERROR: Cannot read 127.0.0.1:{port}: "
FAILED = "ERROR: failed writing current: "

# What the charger does, an option, the exit code, and how each line on stderr begins.
# fmt: off
RUNS: dict[str, tuple[Happens, str, int, list[str]]] = {
    "all is well": (well, "--details", 0, []),
    "a range is refused":
        (play(4, 1502), "", 0, ["WARNING: Cannot read input registers 1502-1513: "]),
    "a value is impossible":
        (lambda charger: charger.set(1014, 5000, bank=INPUT), "", 0,
         ["WARNING: Voltage L1 (input register 1014) is 5000 V: "]),
    "values are set": (well, BOTH, 0, [SET, SET_TOO]),
    "nobody listens": (gone, "", 1, [NOT_CONNECTED]),
    "the charger is silent": (play(SILENCE), "--timeout=0.05", 1, [NOT_READ]),
    "every connection is reset": (play("reset"), "--details", 1, [NOT_READ]),
    "all is refused": (play(7), "--details", 1, [NOT_READ + "exception 7 "]),
    "it is no charger": (play("web server"), "--format=prometheus", 1, [NOT_READ]),
    "the reading after a write fails":
        (lambda charger: charger.fault(charger.vanish, 100), DYNAMIC, 1, [SET, NOT_CONNECTED]),
    "an option is wrong": (well, "--unit=256", 2, ["usage: ", "vestel.py: error: "]),
    "there is no such file": (well, "--config=/missing", 2, ["ERROR: /missing: "]),
    "out of range": (well, "--set-dynamic-current=33", 3, [FAILED + "dynamic current 33 A "]),
    "a write is refused": (play(3, write=True), DYNAMIC, 3, [FAILED + "dynamic current: "]),
    "a timeout is refused":
        (play(3, write=True), "--set-failsafe-timeout=30", 3, ["ERROR: failed writing timeout: "]),
    "the second write is refused": (play(3, 2000, write=True), BOTH, 3, [SET, FAILED]),
    "nobody listens to a write": (gone, BOTH, 3, [FAILED + NOT_CONNECTED[len("ERROR: "):]]),
}
# fmt: on
PROCESSES = ["all is well", "nobody listens", "out of range"]


@pytest.mark.parametrize(
    ("how", "name"), [*(("call", name) for name in RUNS), *(("run", name) for name in PROCESSES)]
)
def test_exit_code_and_lines_say_what_happened(
    request: pytest.FixtureRequest, charger: SimulatedCharger, clock: Clock, how: str, name: str
) -> None:
    happens, options, code, beginnings = RUNS[name]
    happens(charger)
    result = request.getfixturevalue(how)(*options.split(), charger=charger)
    assert (result.returncode, type(result.returncode)) == (code, int)
    assert bool(result.stdout) == (code == 0)
    lines = [line for line in result.stderr.splitlines() if not line.startswith("  ")]
    assert len(lines) == len(beginnings), result.stderr
    for line, beginning in zip(lines, beginnings):
        assert line.startswith(beginning.format(port=charger.port))


# All that a message may say to try.
HINTS = [
    "--unit (1 or 255)", "--base", "--timeout", "--ip", "--port", "check the address", "firewall",
    "web page", "another master", "a running vestel.py", "failsafe timeout", "try again later",
]  # fmt: skip
OTHER_MASTER = ["another master", "a running vestel.py", "failsafe timeout"]
LATE = ["--timeout", *OTHER_MASTER]
SETUP = ["--unit (1 or 255)", "--base"]
# The faults at every request, and what the line says to try besides unit and base.
TRY: list[tuple[str, list[str]]] = [
    ("reset; close; half a reply and reset", OTHER_MASTER),
    ("silence; other transaction", LATE),
    ("short; long; other function; other unit; exception 0", []),
    ("other protocol; no Modbus; web server", ["check the address", "--port"]),
    ("exception 1; exception 2; exception 3; exception 10; exception 11", []),
    ("exception 4; exception 5; exception 6", ["try again later"]),
    ("exception 7; exception 9; exception 255", []),
]


def hints(text: str) -> list[str]:
    return [hint for hint in HINTS if re.search(rf"(?<!\w){re.escape(hint)}(?!\w)", text)]


def error_line(result: Result[str], *said: str) -> str:
    """Return the one line that there is, which gives these hints; nothing is on stdout."""
    assert (result.returncode, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith(("ERROR: Cannot connect to ", "ERROR: Cannot read "))
    assert hints(line) == [hint for hint in HINTS if hint in said]
    return line


@pytest.mark.parametrize(
    ("name", "said"), [(name, said) for names, said in TRY for name in names.split("; ")]
)
def test_where_nothing_is_read_the_line_says_what_may_help(
    call: Run, charger: SimulatedCharger, clock: Clock, name: str, said: list[str]
) -> None:
    with playing(charger, name, clock=clock):
        result = call("--timeout=20", charger=charger)
    line = error_line(result, *said, *SETUP)
    assert not re.search(r"exception 0\b", line)
    if "--timeout" in said:  # the first cause is the first that is named
        assert line.index("another master") < line.index("--unit")


@pytest.mark.parametrize("name", [name for names, _ in TRY for name in names.split("; ")])
def test_once_a_register_was_read_unit_and_base_are_right(
    call: Run, charger: SimulatedCharger, clock: Clock, name: str
) -> None:
    """The charger answers one range and no more, or all but details."""
    for skip in (1, 7):
        charger.forget()
        with playing(charger, name, skip=skip, clock=clock):
            result = call("--details", "--timeout=20", charger=charger)
        assert result.stderr
        assert not re.search("--unit|--base|exception 0", result.stderr)
        is_read = name.startswith("exception") and name != "exception 0"
        assert result.returncode == (0 if is_read or skip == 7 else 1)


def test_a_refused_port_says_first_to_check_the_address(call: Run) -> None:
    port = free_port()
    result = call("--ip=127.0.0.1", f"--port={port}")
    line = error_line(result, "check the address", "web page", *OTHER_MASTER)
    found = re.match(
        f"ERROR: Cannot connect to 127.0.0.1:{port}: connection refused; "
        "check the address and the port, or .*Modbus TCP .*web page, or another master "
        ".*evcc, Home Assistant, a running vestel.py.* failsafe timeout",
        line,
    )
    assert found, line


def test_a_dead_host_costs_one_timeout(call: Run) -> None:
    with dead_host() as port:
        begin = time.monotonic()
        result = call("--ip=127.0.0.1", f"--port={port}", "--timeout=0.3", "--details")
        assert time.monotonic() - begin >= 0.3
    line = error_line(result, "check the address", "firewall")
    assert line.startswith(f"ERROR: Cannot connect to 127.0.0.1:{port}: no answer within 0.3 s; ")


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("reset", OTHER_MASTER),
        ("refused", ["check the address", "web page", *OTHER_MASTER]),
        ("silent", LATE),
    ],
)
def test_a_box_with_another_master_says_so(call: Run, how: str, said: list[str]) -> None:
    with listening(masters=1, second_master=how) as charger:
        charger.other_master()
        result = call("--timeout=0.1", charger=charger)
    # A reset may also come while the connection is made.
    error_line(result, *said, *(SETUP if "nothing was read" in result.stderr else []))


UNKNOWN = "no address is known for this name"
UNREACHABLE: list[tuple[str, Exception, str, list[str]]] = [
    # the address, what the system says to it, and what the line says
    ("box.lan", socket.gaierror(socket.EAI_NONAME, "?"), f"{UNKNOWN} (?)", ["--ip"]),
    ("box..lan", UnicodeError("label empty"), f"{UNKNOWN} (label empty)", ["--ip"]),
    ("box.lan", socket.gaierror(socket.EAI_AGAIN, "failure"), f"{UNKNOWN} (failure)", ["--ip"]),
    ("fe80::1%eth0", OSError(errno.ENODEV, "no device"), "no device", ["check the address"]),
    ("192.0.2.1", OSError(errno.ENETUNREACH, "no net"), "no net", ["check the address"]),
    ("192.0.2.1", socket.timeout(), "no answer within 2 s", ["check the address", "firewall"]),
]


@pytest.mark.parametrize(("ip", "error", "why", "said"), UNREACHABLE)
def test_an_address_without_a_way_says_what_to_check(
    call: Run, ip: str, error: Exception, why: str, said: list[str]
) -> None:
    is_name = not isinstance(error, OSError) or isinstance(error, socket.gaierror)
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    found = error if is_name else [[(family, socket.SOCK_STREAM, 6, "", (ip, 502))]] * 2
    look_up = mock.patch.object(socket, "getaddrinfo", side_effect=found)
    with look_up, mock.patch.object(socket.socket, "connect", side_effect=error):
        line = error_line(call(f"--ip={ip}", "--details"), *said)
    where = f"[{ip}]:502" if ":" in ip else f"{ip}:502"
    assert line.startswith(f"ERROR: Cannot connect to {where}: {why}; ")

"""Where there is no reading: one line that says why, and what may be tried, and nothing else."""

from __future__ import annotations

import errno
import re
import socket
import sys
import time
from typing import Any
from unittest import mock

import pytest
from charger import SILENCE, SimulatedCharger
from clock import Clock
from conftest import Memory
from door import dead_host, free_port, listening
from faults import attempts_to, outcome_of, playing
from program import Result, Run, eventually

pytestmark = pytest.mark.every_version

# All that a message may say to try.
HINTS = [
    "--unit 0", "--unit 1", "--unit 255", "--base 0", "--base 1", "--timeout", "--ip", "--port",
    "check the address", "firewall", "web page", "another master", "a running vestel.py",
    "failsafe timeout", "try again later", "name server", "network interface",
]  # fmt: skip
OTHER_MASTER = ["another master", "a running vestel.py", "failsafe timeout"]
# The fault at every request, and what the line says to try.
TRY: dict[str, list[str]] = {
    "reset": OTHER_MASTER,
    "close": OTHER_MASTER,
    "half a reply and reset": OTHER_MASTER,
    "short": [],
    "long": [],
    "other function": [],
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


def only(*said: str) -> list[str]:
    return [hint for hint in HINTS if hint in said]


def error_line(result: Result[str]) -> str:
    """Return the one line that there is; nothing on stdout."""
    assert (result.returncode, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith(("ERROR: Cannot connect to ", "ERROR: Cannot read "))
    return line


# --- Nothing can be read ------------------------------------------------------------------------


@pytest.mark.parametrize("name", TRY)
def test_where_nothing_is_read_the_line_says_what_may_help(
    call: Run, charger: SimulatedCharger, clock: Clock, name: str
) -> None:
    charger.fault(outcome_of(name))
    line = error_line(call(charger=charger))
    assert hints(line) == only(*TRY[name])
    assert not re.search(r"exception 0\b", line)


@pytest.mark.parametrize("name", ["silence", "other transaction"])
def test_silence_hints_at_other_masters_first(
    call: Run, charger: SimulatedCharger, clock: Clock, name: str
) -> None:
    with playing(charger, name, clock=clock):
        line = error_line(call("--timeout=20", charger=charger))
    assert hints(line) == only("--unit 255", "--timeout", *OTHER_MASTER)
    assert line.index("another master") < line.index("--unit")


@pytest.mark.parametrize(
    ("options", "name", "said"),
    [
        (["--unit=255"], "exception 2", ["--unit 1", "--base 1"]),
        (["--base=1"], "exception 2", ["--unit 255", "--base 0"]),
        (["--unit=255", "--base=1"], "exception 2", ["--unit 1", "--base 0"]),
        (["--unit=7"], "exception 2", ["--unit 255", "--base 1"]),
        (["--unit=255"], "exception 10", ["--unit 1"]),
        (["--unit=255"], "exception 11", ["--unit 1"]),
        (["--unit=255", "--timeout=0.1"], "silence", ["--unit 1", "--timeout", *OTHER_MASTER]),
        (["--base=1", "--timeout=0.1"], "silence", ["--unit 255", "--timeout", *OTHER_MASTER]),
    ],
)
def test_what_may_be_tried_is_not_what_was_tried(
    call: Run, charger: SimulatedCharger, options: list[str], name: str, said: list[str]
) -> None:
    charger.fault(outcome_of(name))
    assert hints(error_line(call(*options, charger=charger))) == only(*said)


def test_a_unit_that_is_silent_is_read_with_the_one_named(
    call: Run, charger: SimulatedCharger
) -> None:
    charger.fault(lambda request: None if request.unit == 255 else SILENCE)
    line = error_line(call("--timeout=0.1", charger=charger))
    eventually(lambda: len(charger.requests) == 4)
    assert [request.address for request in charger.requests] == [100, 100, 400, 400]
    assert "--unit 255" in hints(line)
    assert call("--unit=255", charger=charger).returncode == 0


# --- Something was read -------------------------------------------------------------------------

PROMPT = [name for name in TRY if name not in ("exception 5", "exception 6")]


@pytest.mark.parametrize("name", PROMPT)
def test_once_a_register_was_read_unit_and_base_are_right(
    call: Run, charger: SimulatedCharger, name: str
) -> None:
    """The charger answers one range and no more, or all but details."""
    for skip in (1, 7):
        charger.forget()
        charger.fault(outcome_of(name), skip=skip)
        result = call("--details", charger=charger)
        assert result.stderr
        assert not re.search("--unit|--base|exception 0", result.stderr)
        is_read = name.startswith("exception") and name != "exception 0"
        assert result.returncode == (0 if is_read or skip == 7 else 1)


def test_a_null_in_a_reading_comes_without_hints(memory: Memory, call: Run) -> None:
    for code, address in ((2, 404), (4, 1000), (11, 5004)):
        memory.fault(code, address)
    result = call("--ip=box")
    assert (result.returncode, hints(result.stderr)) == (0, [])


# --- No connection ------------------------------------------------------------------------------


def test_a_refused_port_says_first_to_check_the_address(call: Run) -> None:
    port = free_port()
    line = error_line(call("--ip=127.0.0.1", f"--port={port}"))
    found = re.match(
        f"ERROR: Cannot connect to 127.0.0.1:{port}: connection refused; "
        "check the address and the port, or .*Modbus TCP .*web page, or another master "
        ".*evcc, Home Assistant, a running vestel.py.* failsafe timeout",
        line,
    )
    assert found, line
    assert hints(line) == only("check the address", "web page", *OTHER_MASTER)


def test_a_dead_host_costs_one_timeout(call: Run) -> None:
    with dead_host() as port, attempts_to(port) as attempts:
        begin = time.monotonic()
        line = error_line(call("--ip=127.0.0.1", f"--port={port}", "--timeout=0.2", "--details"))
        assert time.monotonic() - begin >= 0.2
    where = f"127.0.0.1:{port}"
    assert line.startswith(f"ERROR: Cannot connect to {where}: no answer within 0.2 s; ")
    assert hints(line) == only("check the address", "firewall")
    assert attempts == [0.2]


def test_a_connection_that_is_always_closed_is_an_error(
    call: Run, charger: SimulatedCharger
) -> None:
    charger.resets_next = 1000
    line = error_line(call(charger=charger))
    assert hints(line) == only(*OTHER_MASTER)
    assert charger.connections == 4


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("reset", OTHER_MASTER),
        ("refused", ["check the address", "web page", *OTHER_MASTER]),
        ("silent", ["--unit 255", "--timeout", *OTHER_MASTER]),
    ],
)
def test_a_box_with_another_master_says_so(call: Run, how: str, said: list[str]) -> None:
    with listening(masters=1, second_master=how) as charger:
        charger.other_master()
        line = error_line(call("--timeout=0.1", charger=charger))
    assert hints(line) == only(*said)


NO_SUCH_HOST = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
NO_NAME_SERVER = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
LOOK_UPS: dict[str, tuple[Exception, str, list[str]]] = {
    "no such host": (NO_SUCH_HOST, "no such host is known", ["--ip"]),
    "no name server": (
        NO_NAME_SERVER,
        "Temporary failure in name resolution",
        ["name server"],
    ),
    "a name that is no name": (
        UnicodeError("label empty or too long"),
        "no such host is known",
        ["--ip"],
    ),
}


@pytest.mark.parametrize(("error", "why", "said"), LOOK_UPS.values(), ids=LOOK_UPS)
def test_a_name_that_is_not_found_says_what_to_check(
    call: Run, error: Exception, why: str, said: list[str]
) -> None:
    with mock.patch.object(socket, "getaddrinfo", side_effect=error) as look_up:
        line = error_line(call("--ip=wallbox.lan", "--details"))
    assert line.startswith(f"ERROR: Cannot connect to wallbox.lan:502: {why}; ")
    assert (hints(line), look_up.call_count) == (only(*said), 1)


@pytest.mark.parametrize(
    ("ip", "number", "where", "said"),
    [
        ("fe80::1", errno.EINVAL, "[fe80::1]:502", ["network interface"]),
        ("FE80::1", errno.EINVAL, "[FE80::1]:502", ["network interface"]),
        ("fe80::1%eth0", errno.ENODEV, "[fe80::1%eth0]:502", ["check the address"]),
        ("192.0.2.1", errno.ENETUNREACH, "192.0.2.1:502", ["check the address"]),
    ],
)
def test_a_network_error_says_what_to_check(
    call: Run, ip: str, number: int, where: str, said: list[str]
) -> None:
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    found = [(family, socket.SOCK_STREAM, 6, "", (ip, 502))]
    error = OSError(number, "so the system says")
    with mock.patch.object(socket, "getaddrinfo", return_value=found), mock.patch.object(
        socket.socket, "connect", side_effect=error
    ):
        line = error_line(call(f"--ip={ip}"))
    assert line.startswith(f"ERROR: Cannot connect to {where}: so the system says; ")
    assert hints(line) == only(*said)
    assert "network interface" not in said or f"{ip}%eth0" in line


# --- pymodbus -----------------------------------------------------------------------------------


class _Failing:
    """A finder that finds pymodbus, and fails to load it."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def find_spec(self, name: str, *_: Any) -> None:
        if name.partition(".")[0] == "pymodbus":
            raise self.error


@pytest.mark.parametrize(
    "error",
    [
        ModuleNotFoundError("No module named 'pymodbus'"),
        ModuleNotFoundError("No module named 'serial_asyncio'"),
        AttributeError("module 'asyncio' has no attribute 'coroutine'"),
    ],
    ids=["missing", "without its serial part", "too old for this Python"],
)
def test_without_pymodbus_a_line_says_how_to_install_it(
    call: Run, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "pymodbus"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [_Failing(error), *sys.meta_path])
    result = call("--ip=127.0.0.1")
    assert (result.returncode, result.stdout) == (1, "")
    python = f"{sys.executable} (Python {sys.version.split()[0]})"
    assert result.stderr == (
        f"ERROR: pymodbus 3 cannot be loaded by {python}: {error}; install it with: "
        f"{sys.executable} -m pip install 'pymodbus>=3.0,<4', or on Debian with: "
        "apt install python3-pymodbus python3-serial-asyncio\n"
    )

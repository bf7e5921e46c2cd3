"""Where there is no reading: one line that says why, and what may be tried, and nothing else."""

from __future__ import annotations

import errno
import re
import socket
import time
from unittest import mock

import pytest
from charger import SimulatedCharger
from clock import Clock
from door import dead_host, free_port, listening
from faults import attempts_to, outcome_of, playing
from program import Result, Run

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


UNREACHABLE: list[tuple[str, Exception, str, list[str]]] = [
    # the address, what the system says to it, and what the line says
    ("box.lan", socket.gaierror(socket.EAI_NONAME, "?"), "no such host is known", ["--ip"]),
    ("box..lan", UnicodeError("label empty"), "no such host is known", ["--ip"]),
    ("box.lan", socket.gaierror(socket.EAI_AGAIN, "failure"), "failure", ["name server"]),
    ("fe80::1", OSError(errno.EINVAL, "invalid"), "invalid", ["network interface"]),
    ("FE80::1", OSError(errno.EINVAL, "invalid"), "invalid", ["network interface"]),
    ("fe80::1%eth0", OSError(errno.ENODEV, "no device"), "no device", ["check the address"]),
    ("192.0.2.1", OSError(errno.ENETUNREACH, "no net"), "no net", ["check the address"]),
]


@pytest.mark.parametrize(("ip", "error", "why", "said"), UNREACHABLE)
def test_an_address_without_a_way_says_what_to_check(
    call: Run, ip: str, error: Exception, why: str, said: list[str]
) -> None:
    is_name = not isinstance(error, OSError) or isinstance(error, socket.gaierror)
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    found = error if is_name else [[(family, socket.SOCK_STREAM, 6, "", (ip, 502))]]
    look_up = mock.patch.object(socket, "getaddrinfo", side_effect=found)
    with look_up as looked_up, mock.patch.object(socket.socket, "connect", side_effect=error):
        line = error_line(call(f"--ip={ip}", "--details"))
    where = f"[{ip}]:502" if ":" in ip else f"{ip}:502"
    assert line.startswith(f"ERROR: Cannot connect to {where}: {why}; ")
    assert (hints(line), looked_up.call_count) == (only(*said), 1)
    assert "network interface" not in said or line.endswith(f": {ip}%eth0")

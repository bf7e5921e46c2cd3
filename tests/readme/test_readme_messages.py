"""README.md's troubleshooting table has all messages that the program can print, and no others.

Each message is provoked here. What the program prints then is compared with the table, and with the
texts that stand in vestel.py.
"""

from __future__ import annotations

import ast
import contextlib
import errno
import io
import re
import runpy
import socket
import sys
from pathlib import Path
from typing import Any, Callable, Iterator
from unittest import mock

import pytest
from charger import RESET, SILENCE, SimulatedCharger
from clock import Clock
from door import PLAYS, dead_host, free_port
from manual import spans, table
from program import PATHS, SCRIPT, Run
from pymodbus.client import ModbusTcpClient
from registers import CABLE, DYNAMIC, EVSE_MAX, EVSE_MIN, HEARTBEAT, HOLDING, INPUT
from world import MakeWorld

import vestel

Happen = Callable[[SimulatedCharger], object]
Lines = Iterator[str]


# --- A single command against a charger ---------------------------------------------------------


def always(outcome: Any, *addresses: int, **more: Any) -> Happen:
    return lambda charger: charger.fault(outcome, *addresses, **more)


def holds(address: int, *words: int) -> Happen:
    return lambda charger: charger.set(address, *words, bank=INPUT)


def keeps(amperes: int) -> Happen:
    return lambda charger: charger.keeps.update({DYNAMIC: amperes})


def lacks(address: int, bank: str = HOLDING) -> Happen:
    return lambda charger: charger.lack(address, bank=bank)


def silent_from_the_write_on(charger: SimulatedCharger) -> None:
    charger.fault(SILENCE, DYNAMIC, write=True)
    charger.fault(SILENCE, DYNAMIC, write=False, skip=1)


def changed_after_read_back(charger: SimulatedCharger) -> None:
    charger.fault(lambda request: charger.set(DYNAMIC, 6), 100)


SET, BRIEF = "--set-dynamic-current=12", "--timeout=0.1"
FRAMES = ("short", "other unit", "other function", "web server")
CASES: list[tuple[str, Happen]] = [  # options, and what the charger is like
    *[("", always(outcome)) for outcome in (RESET, *range(1, 12), 99)],
    *[("", always(PLAYS[name])) for name in FRAMES],
    *[(BRIEF, always(PLAYS["part of a header"])), (BRIEF, always(SILENCE))],
    *[(f"--unit=255 {BRIEF}", always(SILENCE)), ("--base=1", always(2))],
    *[("", always(6, 1502)), (BRIEF, always(SILENCE, 2000)), ("", lacks(EVSE_MAX, INPUT))],
    *[("", lacks(DYNAMIC)), ("", lacks(2002)), ("--details", lacks(405))],
    *[("", holds(1020, 3, 53393)), ("", holds(1504, 15, 16959))],  # 250001 W, 99:99:99
    *[("--set-current=40", holds(CABLE, 3)), (SET, always(6, EVSE_MIN)), (SET, always(6, 1100))],
    *[(SET, holds(EVSE_MIN, 0, 0, 0)), (SET, holds(EVSE_MAX, 0)), (SET, keeps(16))],
    *[("--set-dynamic-current=0", keeps(6)), (SET, always(3, DYNAMIC, write=True))],
    (f"{SET} {BRIEF}", always(SILENCE, DYNAMIC, write=True, executed=False)),
    (SET, always(RESET, DYNAMIC, write=False, skip=1)),
    (f"--set-current=12 {BRIEF}", silent_from_the_write_on),
    *[(SET, always(4, DYNAMIC, write=False)), (SET, changed_after_read_back), (SET, always(RESET))],
    ("--set-failsafe-timeout=30", always(6, 2002, write=True)),
]


def with_a_charger(call: Run, charger: SimulatedCharger, clock: Clock) -> Lines:
    usual = dict(charger.image)
    for options, happens in CASES:
        charger.forget()
        happens(charger)
        yield call(*options.split(), charger=charger).stderr
        charger.image, charger.unsupported, charger.keeps = dict(usual), set(), {}
    charger.forget()
    charger.keeps[DYNAMIC] = 16
    with mock.patch.object(clock, "sleep", side_effect=KeyboardInterrupt):
        yield call(SET, charger=charger).stderr
    short = mock.Mock(registers=[1], isError=lambda: False)
    malformed = mock.Mock(exception_code=0, isError=lambda: True)  # of pymodbus 3.0 to 3.6
    for answer in (short, malformed):

        def read(self: object, *_: int, answer: Any = answer, **more: int) -> Any:
            return answer

        with mock.patch.object(ModbusTcpClient, "read_input_registers", read):
            yield call(charger=charger).stderr
    broken = mock.Mock(side_effect=RuntimeError, __code__=mock.Mock(co_varnames=()))
    with mock.patch.object(ModbusTcpClient, "read_input_registers", broken):
        yield call(charger=charger).stderr
    with mock.patch.dict(sys.modules, {"pymodbus.client": None}):
        yield call(charger=charger).stderr
    charger.fault(charger.vanish, DYNAMIC, write=True)  # the last case: it is gone from now on
    charger.keeps.clear()
    yield call(SET, charger=charger).stderr


def without_a_charger(call: Run) -> Lines:
    nobody = ["--ip=127.0.0.1", f"--port={free_port()}"]
    yield call(*nobody).stderr
    yield call(*nobody, SET).stderr
    yield call("--ip=wallbox..lan").stderr
    with dead_host() as port:
        yield call("--ip=127.0.0.1", f"--port={port}", BRIEF).stderr
    for error in (
        socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"),
        OSError(errno.EINVAL, "Invalid argument"),
        OSError(errno.ENETUNREACH, "Network is unreachable"),
    ):
        with mock.patch.object(socket, "getaddrinfo", side_effect=error):
            yield call("--ip=fe80::1").stderr


# --- Before the charger is asked ----------------------------------------------------------------

CONFIGURATIONS = [
    *["[vestel]\n", "[other]\n", "ip = 1\n", "[vestel]\nip = 127.0.0.1\nport = 1\nadress = 2\n"],
    *["[vestel]\nport = 5o2\n", "[vestel]\ntimeout = 0\n", "[vestel]\nip = a b\n"],
]
USAGE = [
    *["--watch=5 --format=prometheus", "--set-current=1 --set-dynamic-current=1", "--hold=amps"],
    *["--watch=5 --hold=amps --set-current=1", "--watch=0.5", "--ip=a:b:", "--unknown"],
]


def of_options_and_files(call: Run, home: Path) -> Lines:
    yield call().stderr
    for path in ("", str(home / "nowhere.ini"), str(home)):
        yield call("--config", path).stderr
    file = home / "it.ini"
    for text in CONFIGURATIONS:
        file.write_text(text)
        yield call(f"--config={file}").stderr
    refused = PermissionError(errno.EACCES, "Permission denied")  # also to root
    with mock.patch("builtins.open", side_effect=refused):
        yield call(f"--config={file}").stderr
    for options in USAGE:
        yield call(*options.split()).stderr
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield call("--demo", f"--listen={listener.getsockname()[1]}").stderr
    yield call("--demo", "--listen=192.0.2.1:9946").stderr


def of_python(call: Run) -> Lines:
    old = mock.patch.object(sys, "version_info", (3, 7, 16, "final", 0))
    with old, pytest.raises(SystemExit) as ended:
        runpy.run_path(str(SCRIPT))
    yield str(ended.value.code)
    closed = io.StringIO()
    closed.close()
    full = io.TextIOWrapper(io.FileIO("/dev/full", "w"))
    for stdout in (full, None, closed):
        stderr = io.StringIO()
        with contextlib.redirect_stderr(stderr), contextlib.redirect_stdout(stdout):
            vestel.main(["--version"])
        yield stderr.getvalue()
    with mock.patch.object(vestel.Image, "read_core", side_effect=RuntimeError("a fault")):
        yield call("--demo", "--watch=5", "--format=json").stderr


# --- Staying connected --------------------------------------------------------------------------


def while_connected(world: MakeWorld, home: Path) -> Lines:
    def played(*events: Happen, **more: Any) -> str:
        it = world(**more)
        it.play(40)
        for happens in events:
            happens(it.charger)
            it.play(40)
        return "\n".join([*it.lines, it.snapshot.problem])

    yield vestel.Snapshot().problem
    yield played(away="refused")
    yield played(always(RESET), lambda charger: charger.faults.clear())
    yield played(lambda charger: charger.freeze(until=None))
    yield played(always(4, HEARTBEAT))
    twelve = {DYNAMIC: 12}
    yield played(setpoints={DYNAMIC: 40})
    yield played(setpoints=twelve, keeps={DYNAMIC: 16})
    yield played(always(4, DYNAMIC, write=False), setpoints=twelve)
    yield played(lambda charger: charger.fight(16, every=3.0), setpoints=twelve)
    amps = home / "amps"
    for content in ("ten", "40"):
        amps.write_text(content)
        yield played(hold_file=str(amps))
    for path in (home / "nowhere", home):
        yield played(hold_file=str(path))
    with mock.patch("os.fstat", return_value=mock.Mock(st_mode=0o10644)):
        yield played(hold_file=str(amps))


# --- What else it prints, and the texts in vestel.py --------------------------------------------

NO_MESSAGE = r"<|charset=|src\\ |Unknown\\ fault|No\\ reading|not\\ found|the\\ simulated\\ charger"


def others(call: Run, world: MakeWorld) -> Lines:
    yield " ".join(call("--help").stdout.split())
    it = world(details=True)
    it.read()
    yield from (vestel.respond(path, it.poller)[2] for path in PATHS)


def texts(node: ast.AST) -> Lines:
    """Return the texts below a node, as regular expressions; docstrings are none."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return
    parts = node.values if isinstance(node, ast.JoinedStr) else [node]
    held = [getattr(part, "value", None) for part in parts]
    if any(isinstance(one, str) for one in held):
        yield "".join(re.escape(one) if isinstance(one, str) else ".*" for one in held)
    else:
        for child in ast.iter_child_nodes(node):
            yield from texts(child)


def sentences() -> list[str]:
    """Return the texts in vestel.py that have a blank between two words."""
    found = texts(ast.parse(SCRIPT.read_text(encoding="utf-8")))
    spaced = [text for text in found if re.search(r"[a-z;,)]\\ [a-z(]", text)]
    return [text for text in spaced if not re.search(NO_MESSAGE, text)]


# --- The table ----------------------------------------------------------------------------------


def test_each_message_has_a_row_and_each_row_a_message(
    call: Run, charger: SimulatedCharger, clock: Clock, world: MakeWorld, tmp_path: Path
) -> None:
    told = [
        *[*with_a_charger(call, charger, clock), *without_a_charger(call)],
        *[*of_options_and_files(call, tmp_path), *of_python(call)],
        *while_connected(world, tmp_path),
    ]
    lines = [line for text in told for line in text.splitlines()]
    messages = [
        re.sub("^(ERROR|WARNING): ", "", line)
        for line in lines
        if re.match("ERROR: |WARNING: |vestel.py: error: |there is no reading", line)
    ]
    spans_of_rows = [span for message, _ in table("Troubleshooting") for span in spans(message)]
    rows = {span: re.compile(re.escape(span).replace(r"\.\.\.", ".*")) for span in spans_of_rows}
    said = "\n".join([*told, *others(call, world)])
    missing = {
        "rows": [one for one in messages if not any(row.match(one) for row in rows.values())],
        "messages": [span for span in rows if not any(map(rows[span].match, messages))],
        "scenarios": [text for text in sentences() if not re.search(text, said)],
    }
    assert missing == {"rows": [], "messages": [], "scenarios": []}


def test_each_row_says_what_to_do() -> None:
    assert all(spans(message) and advice[-1] == "." for message, advice in table("Troubleshooting"))

"""README.md's troubleshooting table has all messages that the program can print, and no others.

Each message is provoked here, and compared with the table and with the texts in vestel.py.
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


def always(outcome: Any, *addresses: int, **more: Any) -> Happen:
    return lambda charger: charger.fault(outcome, *addresses, **more)


SET, BRIEF = "--set-dynamic-current=12", "--timeout=0.1"
CASES: list[tuple[str, Happen]] = [  # options, and what the charger is like
    *[("", always(outcome)) for outcome in (RESET, *range(1, 12), 99)],
    *[("", always(PLAYS[name])) for name in ("short", "other unit", "other function")],
    *[("", always(PLAYS["web server"])), (BRIEF, always(PLAYS["part of a header"]))],
    *[(BRIEF, always(SILENCE)), (f"--unit=255 {BRIEF}", always(SILENCE)), ("--base=1", always(2))],
    *[("", always(6, 1502)), (BRIEF, always(SILENCE, 2000))],
    ("", lambda charger: charger.lack(EVSE_MAX)),
    ("", lambda charger: charger.lack(DYNAMIC, 2002, bank=HOLDING)),
    ("--details", lambda charger: charger.lack(405, bank=HOLDING)),
    ("", lambda charger: charger.set(1020, 3, 53393, bank=INPUT)),  # 250001 W
    ("", lambda charger: charger.set(1504, 15, 16959, bank=INPUT)),  # 99:99:99
    ("--set-current=40", lambda charger: charger.set(CABLE, 3, bank=INPUT)),
    *[(SET, always(6, EVSE_MIN)), (SET, always(6, 1100)), (SET, always(3, DYNAMIC, write=True))],
    (SET, lambda charger: charger.set(EVSE_MIN, 0, 0, 0, bank=INPUT)),
    (SET, lambda charger: charger.set(EVSE_MAX, 0, bank=INPUT)),
    (SET, lambda charger: charger.keeps.update({DYNAMIC: 16})),
    ("--set-dynamic-current=0", lambda charger: charger.keeps.update({DYNAMIC: 6})),
    (f"{SET} {BRIEF}", always(SILENCE, DYNAMIC, write=True, executed=False)),
    (SET, always(RESET, DYNAMIC, write=False, skip=1)),
    (f"--set-current=12 {BRIEF}", always(SILENCE, DYNAMIC, skip=1)),
    (SET, lambda charger: charger.fault(lambda _: charger.set(DYNAMIC, 6), 100)),
    *[(SET, always(4, DYNAMIC, write=False)), (SET, always(RESET))],
    ("--set-failsafe-timeout=30", always(6, 2002, write=True)),
]


def with_a_charger(call: Run, charger: SimulatedCharger, clock: Clock) -> Lines:
    usual = dict(charger.image)
    for options, happens in CASES:
        happens(charger)
        yield call(*options.split(), charger=charger).stderr
        charger.forget()
        charger.image, charger.keeps, charger.unsupported = dict(usual), {}, set()

    def interrupt(seconds: float) -> None:
        if seconds:
            raise KeyboardInterrupt

    with mock.patch.object(clock, "sleep", interrupt):
        charger.keeps[DYNAMIC] = 16
        yield call(SET, charger=charger).stderr
    short = mock.Mock(registers=[1], isError=lambda: False)
    malformed = mock.Mock(exception_code=0, isError=lambda: True)  # of pymodbus 3.0 to 3.6
    for outcome in (short, malformed, RuntimeError()):
        read = mock.Mock(side_effect=[outcome] * 50, __code__=mock.Mock(co_varnames=()))
        with mock.patch.object(ModbusTcpClient, "read_input_registers", read):
            yield call(charger=charger).stderr
    with mock.patch.dict(sys.modules, {"pymodbus.client": None}):
        yield call(charger=charger).stderr
    charger.fault(charger.vanish, DYNAMIC, write=True)  # the last case: it is gone from now on
    charger.keeps.clear()
    yield call(SET, charger=charger).stderr


NOBODY = f"--ip=127.0.0.1 --port={free_port()}"
OPTIONS = [
    *["", NOBODY, f"{NOBODY} {SET}", "--ip=wallbox..lan", "--config=", "--config=/nowhere.ini"],
    *["--config=/", "--watch=5 --format=prometheus", "--set-current=1 --set-dynamic-current=1"],
    *["--hold=amps", "--watch=5 --hold=amps --set-current=1", "--watch=0.5", "--ip=a:b:"],
    *["--unknown", "--demo --listen=192.0.2.1:9946"],
]
CONFIGURATIONS = [
    *["[vestel]\n", "[other]\n", "ip = 1\n", "[vestel]\nip = 127.0.0.1\nport = 1\nadress = 2\n"],
    *["[vestel]\nport = 5o2\n", "[vestel]\ntimeout = 0\n", "[vestel]\nip = a b\n"],
]


def without_a_charger(call: Run, home: Path) -> Lines:
    yield from (call(*options.split()).stderr for options in OPTIONS)
    for text in CONFIGURATIONS:
        (home / "it.ini").write_text(text)
        yield call(f"--config={home / 'it.ini'}").stderr
    refused = PermissionError(errno.EACCES, "Permission denied")  # also to root
    with mock.patch("builtins.open", side_effect=refused):
        yield call(f"--config={home / 'it.ini'}").stderr
    with dead_host() as port:
        yield call("--ip=127.0.0.1", f"--port={port}", BRIEF).stderr
    for error in (
        socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"),
        OSError(errno.ENETUNREACH, "Network is unreachable"),
    ):
        with mock.patch.object(socket, "getaddrinfo", side_effect=error):
            yield call("--ip=fe80::1").stderr
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield call("--demo", f"--listen={listener.getsockname()[1]}").stderr
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


TWELVE = {"setpoints": {DYNAMIC: 12}}
STAYING: list[dict[str, Any]] = [  # what it is like, and what happens after 40 s
    {"away": "refused"},
    {"setpoints": {DYNAMIC: 40}},
    {"keeps": {DYNAMIC: 16}, **TWELVE},
    {"happens": always(4, HEARTBEAT)},
    {"happens": lambda charger: charger.restart(30)},
    {"happens": lambda charger: charger.freeze(until=None)},
    {"happens": always(4, DYNAMIC, write=False), **TWELVE},
    {"happens": lambda charger: charger.fight(16, every=3.0), **TWELVE},
]


def while_connected(world: MakeWorld, home: Path) -> Lines:
    def played(happens: Happen = SimulatedCharger.thaw, **more: Any) -> str:
        it = world(**more)
        it.play(40)
        happens(it.charger)
        it.play(80)
        return "\n".join([*it.lines, it.snapshot.problem])

    yield vestel.Snapshot().problem
    yield from (played(**more) for more in STAYING)
    amps = home / "amps"
    for content in ("ten", "40"):
        amps.write_text(content)
        yield played(hold_file=str(amps))
    for path in (home / "nowhere", home):
        yield played(hold_file=str(path))
    with mock.patch("os.fstat", return_value=mock.Mock(st_mode=0o10644)):
        yield played(hold_file=str(amps))


NO_MESSAGE = r"<|charset=|src\\ |Unknown\\ fault|No\\ reading|not\\ found|the\\ simulated\\ charger"


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


def test_each_message_has_a_row_and_each_row_a_message(
    call: Run, charger: SimulatedCharger, clock: Clock, world: MakeWorld, tmp_path: Path
) -> None:
    played = [*with_a_charger(call, charger, clock), *without_a_charger(call, tmp_path)]
    told = [*played, *while_connected(world, tmp_path)]
    begins = re.compile("ERROR: |WARNING: |vestel.py: error: |there is no reading")
    lines = [line for text in told for line in text.splitlines() if begins.match(line)]
    messages = [re.sub("^(ERROR|WARNING): ", "", line) for line in lines]
    assert all(spans(row) and advice[-1] == "." for row, advice in table("Troubleshooting"))
    spans_of_rows = [span for message, _ in table("Troubleshooting") for span in spans(message)]
    rows = {span: re.compile(re.escape(span).replace(r"\.\.\.", ".*")) for span in spans_of_rows}
    it = world(details=True)
    it.read()
    served = [vestel.respond(path, it.poller)[2] for path in PATHS]
    said = "\n".join([*told, *served, " ".join(call("--help").stdout.split())])
    missing = {
        "rows": [one for one in messages if not any(row.match(one) for row in rows.values())],
        "messages": [span for span in rows if not any(map(rows[span].match, messages))],
        "scenarios": [text for text in sentences() if not re.search(text, said)],
    }
    assert missing == {"rows": [], "messages": [], "scenarios": []}

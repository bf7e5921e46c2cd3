"""Terminals and pipes that nobody reads: the charger is kept as if somebody did."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from typing import Any, Iterator, NamedTuple

from conftest import SCRIPT, eventually, gaps
from long_modes import (
    DYNAMIC,
    TIMEOUT,
    Http,
    Terminal,
    full_pipe,
    full_terminal,
    side_by_side,
    target,
)
from simulated_charger import HOLDING, SimulatedCharger, free_port, simulated_charger

CTRL_S = b"\x13"


class Case(NamedTuple):
    """Who is hung: a stream in a full pipe or terminal; the others are read."""

    options: str
    stdout: str = "read"
    stderr: str = "read"


CASES = [
    Case("--watch=1", stdout="Ctrl-S", stderr="Ctrl-S"),
    Case("--watch=1", stdout="terminal", stderr="terminal"),
    Case("--watch=1 --format=json", stdout="pipe"),
    Case("--watch=1 --format=json -v", stderr="pipe"),
    Case("--watch=1 --format=json -v", stderr="terminal"),
    Case("--listen", stderr="terminal"),
    Case("--listen -v", stderr="pipe"),
    Case("--listen -v", stderr="terminal"),
]


@contextlib.contextmanager
def hung(case: Case, options: list[str], environment: dict[str, str]) -> Iterator[subprocess.Popen[Any]]:
    """vestel.py as a process with streams that nobody reads (any more)."""
    with contextlib.ExitStack() as stack:
        if case.stdout == "Ctrl-S":
            window = Terminal(options, environment)
            stack.callback(window.wait)
            stack.callback(window.process.kill)
            eventually(lambda: "VEST" in window.sent)
            window.type(CTRL_S)
            yield window.process
            return
        makes = {"pipe": full_pipe, "terminal": full_terminal}
        lines = {kind: stack.enter_context(make()) for kind, make in makes.items() if kind in case}
        process = stack.enter_context(
            subprocess.Popen(
                [sys.executable, str(SCRIPT), *options],
                stdin=subprocess.DEVNULL,
                stdout=lines.get(case.stdout, subprocess.DEVNULL),
                stderr=lines.get(case.stderr, subprocess.DEVNULL),
                env={**environment, "TERM": "xterm"},
            )
        )
        stack.callback(process.kill)
        yield process


def test_nobody_has_to_read_for_the_charger_to_be_kept(environment: dict[str, str]) -> None:
    def keep(case: Case) -> None:
        with simulated_charger() as charger:
            charger.set(HOLDING, TIMEOUT, 4)  # so that the beat is 1 s, and the box looks every 2 s
            port = free_port()
            options = case.options.replace("--listen", f"--listen={port}").split()
            options += ["--set-dynamic-current=14", *target(charger)]
            with hung(case, options, environment) as process:
                eventually(lambda: charger.image[HOLDING, DYNAMIC] == 14)
                charger.set(HOLDING, DYNAMIC, 6)  # as when a vehicle is plugged in
                eventually(lambda: charger.image[HOLDING, DYNAMIC] == 14)
                assert max(gaps(charger.signs)) < 2
                assert charger.connections == 1
                lose(charger, Http(port) if "--listen" in case.options else None)
                eventually(lambda: charger.image[HOLDING, DYNAMIC] == 14)
                assert charger.connections == 2
                process.send_signal(signal.SIGTERM)
                assert process.wait(timeout=30) == 0, case

    side_by_side(keep, CASES)


def lose(charger: SimulatedCharger, listening: Http | None) -> None:
    """Have the charger off for so long that the program finds it lost."""
    charger.stop()
    charger.set(HOLDING, DYNAMIC, 10)
    if listening:
        eventually(lambda: not listening.is_up())
    else:  # nobody tells, but the program looks every second
        off = time.monotonic()
        eventually(lambda: time.monotonic() > off + 1.2)
    charger.start()

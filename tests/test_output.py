"""Streams and exit codes: where the text goes, in which shape, and what comes of a bad stream."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import re
import resource
import select
import shlex
import shutil
import signal
import subprocess
import sys
import tty
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest
from conftest import DETAILS, READING, SCRIPT, Result, Run, Start, connecting_to, eventually, needs
from simulated_charger import (
    HOLDING,
    INPUT,
    SimulatedCharger,
    dead_host,
    exception,
    simulated_charger,
    text,
)

import vestel

FORMATS = ["human", "json", "prometheus"]
BEGINNINGS = {"human": "== Identity ==\n", "json": '{"timestamp": ', "prometheus": "# HELP vestel_up "}
OUTPUTS = [  # everything that stdout is for
    *[["--demo", f"--format={style}"] for style in FORMATS],
    ["--demo", "--watch=1", "--format=json"],
    ["--demo", "--watch=1"],
    ["--help"],
    ["--version"],
]
STDOUT_ERROR = "ERROR: .*stdout.*\n"


def outcome(result: Result[str]) -> tuple[int, str, str]:
    """All of a run that a user meets."""
    return result.returncode, result.stdout, result.stderr


def without_timestamp(line: str) -> dict[str, Any]:
    """The reading in JSON, to be compared with that of another moment."""
    reading: dict[str, Any] = json.loads(line)
    assert reading.pop("timestamp")
    return reading


@pytest.fixture(params=["", "1"], ids=["buffered", "unbuffered"])
def buffering(request: pytest.FixtureRequest, environment: dict[str, str]) -> dict[str, str]:
    """The environment of a shell, and of a container: unbuffered, a write may be a partial one."""
    return {**environment, "PYTHONUNBUFFERED": request.param}


@contextlib.contextmanager
def pipe_without_reader() -> Iterator[int]:
    """A pipe that nobody reads any more, from the first byte on."""
    reading_end, writing_end = os.pipe()
    os.close(reading_end)
    try:
        yield writing_end
    finally:
        os.close(writing_end)


@pytest.fixture
def run_on_terminal(environment: dict[str, str]) -> Run:
    """Run vestel.py with a terminal as stdout, one that passes every byte on as it is."""

    def run_on_terminal(
        *options: str, charger: SimulatedCharger | None = None, **variables: str
    ) -> Result[str]:
        target = ["--ip", charger.host, "--port", str(charger.port)] if charger else []
        screen, line = os.openpty()
        tty.setraw(line)
        command = [sys.executable, str(SCRIPT), *target, *options]
        shown = b""
        with os.fdopen(screen, "rb", buffering=0), subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=line,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            env={**environment, "TERM": "xterm", **variables},
        ) as process:
            os.close(line)
            try:
                while chunk := read_screen(screen):
                    shown += chunk
                stderr = process.communicate(timeout=60)[1]
            finally:
                process.kill()
        return Result(command, process.returncode, shown.decode(), stderr)

    return run_on_terminal


def read_screen(screen: int) -> bytes:
    """What came next; nothing once no process has the terminal any more."""
    assert select.select([screen], [], [], 60)[0], "neither output nor an end"
    try:
        return os.read(screen, 65536)
    except OSError as error:
        if error.errno != errno.EIO:  # how Linux tells that the other side is closed
            raise
        return b""


def run_into_file(run: Run, path: Path, *options: str, **more: Any) -> Result[str]:
    """Run with stdout appended to a file."""
    with path.open("a", encoding="utf-8") as file:
        return run(*options, stdout=file, **more)


# --- The shape of a reading ---------------------------------------------------------------------


def test_json_is_one_line_in_a_pipe_and_in_a_file(
    charger: SimulatedCharger, run: Run, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    assert run_into_file(run, log, "--format=json", charger=charger).returncode == 0
    for printed in (run("--format=json", charger=charger).stdout, log.read_text(encoding="utf-8")):
        assert printed == json.dumps(json.loads(printed)) + "\n"
        assert without_timestamp(printed) == READING


def test_json_is_indented_by_two_on_a_terminal(charger: SimulatedCharger, run_on_terminal: Run) -> None:
    result = run_on_terminal("--format=json", "--details", charger=charger)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == json.dumps(json.loads(result.stdout), indent=2) + "\n"
    assert without_timestamp(result.stdout) == {**READING, "details": DETAILS}


@pytest.mark.parametrize("style", FORMATS)
def test_a_reading_ends_in_one_newline_wherever_it_goes(
    run: Run, run_on_terminal: Run, tmp_path: Path, style: str
) -> None:
    option = f"--format={style}"
    run_into_file(run, tmp_path / "log", "--demo", option)
    printed = [
        run("--demo", option).stdout,
        run_on_terminal("--demo", option).stdout,
        (tmp_path / "log").read_bytes().decode(),
    ]
    for reading in printed:
        assert re.search(r"\S\n\Z", reading)
        assert "\r" not in reading


# --- Colour -------------------------------------------------------------------------------------

GREEN, RED, PLAIN = "\x1b[32m", "\x1b[1;31m", "\x1b[0m"


def leave_charging(charger: SimulatedCharger) -> None:
    """As the simulated charger is."""


def break_down(charger: SimulatedCharger) -> None:
    charger.set(INPUT, 1000, 8, 0, 2)
    charger.set(INPUT, 1006, 0, 16)


def end_charging(charger: SimulatedCharger) -> None:
    charger.set(INPUT, 1000, 0, 0)


@pytest.mark.parametrize(
    ("change", "coloured"),
    [
        (leave_charging, {("Chargepoint State", f"{GREEN}Charging"), ("Charging State", f"{GREEN}Charging")}),
        (
            break_down,
            {
                ("Chargepoint State", f"{RED}Faulted"),
                ("Equipment State", f"{RED}Fault"),
                ("Fault Code", f"{RED}16 (PP Error)"),
            },
        ),
        (end_charging, set()),
    ],
    ids=["charging", "faulted", "available"],
)
def test_a_state_that_matters_stands_out_on_a_terminal(
    charger: SimulatedCharger, run: Run, run_on_terminal: Run, change: Any, coloured: set[tuple[str, str]]
) -> None:
    change(charger)
    shown, piped = run_on_terminal(charger=charger).stdout, run(charger=charger).stdout
    assert set(re.findall(r"(.+?): +(\x1b.*?)\x1b\[0m\n", shown)) == coloured
    assert re.sub(r"\x1b\[[0-9;]*m", "", shown) == piped
    assert "\x1b" not in piped


@pytest.mark.parametrize("change", [leave_charging, break_down], ids=["charging", "faulted"])
@pytest.mark.parametrize(
    "variables",
    [{"NO_COLOR": "1"}, {"NO_COLOR": "0"}, {"NO_COLOR": "false"}, {"TERM": "dumb"}],
    ids=lambda variables: "=".join(*variables.items()),
)
def test_who_wants_no_colour_gets_the_bytes_of_a_pipe(
    charger: SimulatedCharger, run: Run, run_on_terminal: Run, variables: dict[str, str], change: Any
) -> None:
    change(charger)
    assert outcome(run_on_terminal(charger=charger, **variables)) == outcome(run(charger=charger))


@pytest.mark.parametrize("change", [leave_charging, break_down], ids=["charging", "faulted"])
@pytest.mark.parametrize("style", ["json", "prometheus"])
def test_what_programs_read_is_never_coloured(
    charger: SimulatedCharger, run: Run, run_on_terminal: Run, style: str, change: Any
) -> None:
    change(charger)
    shown = run_on_terminal(f"--format={style}", charger=charger)
    piped = run(f"--format={style}", charger=charger)
    assert "\x1b" not in shown.stdout
    assert style == "json" or outcome(shown) == outcome(piped)


# --- A stdout that cannot be written ------------------------------------------------------------


@pytest.mark.parametrize("options", OUTPUTS, ids=" ".join)
def test_a_pipe_that_nobody_reads_ends_the_program_quietly(
    run: Run, buffering: dict[str, str], options: list[str]
) -> None:
    with pipe_without_reader() as stdout:
        result = run(*options, stdout=stdout, env=buffering)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize(
    ("options", "first"),
    [
        ([], re.escape("== Identity ==\n")),
        (["--format=json", "--watch=1"], '{"timestamp": .*}\n'),
        (["--watch=1"], "[0-9-]+T.*\n"),
    ],
    ids=["once", "watch json", "watch"],
)
def test_head_takes_its_line_and_all_is_well(
    buffering: dict[str, str], options: list[str], first: str
) -> None:
    command = shlex.join([sys.executable, str(SCRIPT), "--demo", *options])
    result = subprocess.run(
        [needs("bash", "bash"), "-c", f"set -o pipefail; {command} | head -1"],
        capture_output=True,
        encoding="utf-8",
        env=buffering,
        timeout=120,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert re.fullmatch(first, result.stdout)


@pytest.mark.parametrize("options", OUTPUTS, ids=" ".join)
def test_a_full_disk_is_one_error_line(run: Run, buffering: dict[str, str], options: list[str]) -> None:
    with open("/dev/full", "w", encoding="utf-8") as full:
        result = run(*options, stdout=full, env=buffering)
    assert result.returncode == 1
    assert re.fullmatch(STDOUT_ERROR, result.stderr)


def room_for(size: int) -> Callable[[], None]:
    """No file may grow above so many bytes: writes up to there succeed, as on a disk that fills."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


@pytest.mark.parametrize("style", FORMATS)
@pytest.mark.parametrize("mode", ["a", "w"], ids=[">>", ">"])  # a loop may have its stdout in a file too
def test_a_disk_that_fills_leaves_no_half_of_a_reading(
    run: Run, buffering: dict[str, str], tmp_path: Path, mode: str, style: str
) -> None:
    options = ["--demo", f"--format={style}"]
    before = '{"of": "earlier runs"}\n' * 3
    log = tmp_path / "log"
    with log.open(mode, encoding="utf-8") as file:
        file.write(before)
        file.flush()
        result = run(*options, stdout=file, env=buffering, preexec_fn=room_for(len(before) + 300))
        assert result.returncode == 1
        assert re.fullmatch(STDOUT_ERROR, result.stderr)
        assert log.read_text(encoding="utf-8") == before
        assert run(*options, stdout=file, env=buffering).returncode == 0
    after = log.read_text(encoding="utf-8")
    assert after.startswith(before + BEGINNINGS[style]), "the next reading follows without a gap"


def test_a_disk_that_fills_while_watching_leaves_whole_lines(
    run: Run, buffering: dict[str, str], tmp_path: Path
) -> None:
    log = tmp_path / "log"
    line = len(run("--demo", "--format=json").stdout)
    options = ["--demo", "--format=json", "--watch=1"]
    result = run_into_file(run, log, *options, env=buffering, preexec_fn=room_for(line * 3 // 2))
    assert result.returncode == 1
    assert re.fullmatch(STDOUT_ERROR, result.stderr)
    (only,) = log.read_text(encoding="utf-8").splitlines(keepends=True)
    assert only == json.dumps(json.loads(only)) + "\n"


# --- Streams that are closed --------------------------------------------------------------------

STDIN, STDOUT, STDERR = 0, 1, 2


def closing(*streams: int) -> Callable[[], None]:
    """What `<&-`, `>&-` and `2>&-` do; files and connections then take the free numbers."""

    def close() -> None:
        for stream in streams:
            os.close(stream)

    return close


@pytest.mark.parametrize("options", OUTPUTS, ids=" ".join)
@pytest.mark.parametrize("closed", [[STDOUT], [STDIN, STDOUT]], ids=["stdout", "stdin and stdout"])
def test_a_closed_stdout_is_one_error_line(run: Run, options: list[str], closed: list[int]) -> None:
    result = run(*options, preexec_fn=closing(*closed))
    assert (result.returncode, result.stdout) == (1, "")
    assert re.fullmatch(STDOUT_ERROR, result.stderr)


@pytest.mark.parametrize("closed", [[STDIN], [STDERR], [STDIN, STDERR]], ids=["stdin", "stderr", "both"])
@pytest.mark.parametrize("options", [[], ["-v"]], ids=["", "-v"])
def test_closed_streams_beside_stdout_take_nothing_from_the_reading(
    charger: SimulatedCharger, run: Run, closed: list[int], options: list[str]
) -> None:
    charger.fault(exception(4), address=2000)  # so that there is a WARNING to be said
    whole = run(charger=charger)
    result = run(*options, charger=charger, preexec_fn=closing(*closed))
    assert (result.returncode, result.stdout) == (0, whole.stdout)
    assert "n/a" in whole.stdout
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("options", [*OUTPUTS, ["--nope"]], ids=" ".join)
def test_with_all_three_closed_the_exit_code_tells(run: Run, options: list[str]) -> None:
    result = run(*options, preexec_fn=closing(STDIN, STDOUT, STDERR))
    assert outcome(result) == (2 if options == ["--nope"] else 1, "", "")


def test_a_charger_is_read_though_its_connection_has_the_number_of_a_stream(
    charger: SimulatedCharger, run: Run
) -> None:
    result = run("-v", charger=charger, preexec_fn=closing(STDIN, STDOUT, STDERR))
    assert outcome(result) == (1, "", "")
    assert [request.address for request in charger.requests] == [100, 400, 1000, 1100, 1502, 2000, 5004]


FAILING = [
    (["--nope"], 2),
    (["--config=/missing"], 2),
    (["--ip=127.0.0.2", "--port=1"], 1),
    (["--set-current=33"], 3),
]


@pytest.mark.parametrize(("options", "status"), FAILING, ids=[" ".join(options) for options, _ in FAILING])
@pytest.mark.parametrize("stderr", ["closed", "full", "without a reader"])
def test_an_error_that_cannot_be_told_has_its_exit_code_and_nothing_on_stdout(
    charger: SimulatedCharger,
    run: Run,
    buffering: dict[str, str],
    options: list[str],
    status: int,
    stderr: str,
) -> None:
    with contextlib.ExitStack() as stack:
        more: dict[str, Any] = {}
        if stderr == "closed":
            more["preexec_fn"] = closing(STDERR)
        elif stderr == "full":
            more["stderr"] = stack.enter_context(open("/dev/full", "w", encoding="utf-8"))
        else:
            more["stderr"] = stack.enter_context(pipe_without_reader())
        result = run(*options, charger=charger, env=buffering, **more)
    assert (result.returncode, result.stdout) == (status, "")


# --- Languages and encodings --------------------------------------------------------------------

NAME = "Käse-1 ✓"
ENVIRONMENTS: dict[str, dict[str, str]] = {
    "LANG=C": {"LANG": "C"},
    "LC_ALL=C": {"LC_ALL": "C"},
    "no UTF-8 whatever": {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    "PYTHONUTF8=0": {"PYTHONUTF8": "0"},
    "ascii": {"PYTHONIOENCODING": "ascii"},
    "ascii:strict": {"PYTHONIOENCODING": "ascii:strict", "LC_ALL": "C"},
    "env -i": {},
}


@pytest.fixture(params=ENVIRONMENTS, ids=str)
def foreign(request: pytest.FixtureRequest, environment: dict[str, str]) -> dict[str, str]:
    """The environment of a process that has, or seems to have, no UTF-8."""
    if request.param == "env -i":
        return {}
    return {**environment, **ENVIRONMENTS[request.param]}


@pytest.fixture
def foreign_box(charger: SimulatedCharger, tmp_path: Path) -> SimulatedCharger:
    """A charger whose serial number and brand are not ASCII."""
    charger.set(INPUT, 100, *text(NAME, 25))
    charger.set(INPUT, 190, *text(NAME, 10))
    (tmp_path / "empty.ini").write_text("[vestel]\n", encoding="utf-8")  # no HOME: not the real one
    return charger


@pytest.mark.parametrize("style", FORMATS)
def test_text_outlives_every_environment(
    foreign_box: SimulatedCharger, run: Run, foreign: dict[str, str], tmp_path: Path, style: str
) -> None:
    options = ["--details", f"--format={style}", f"--config={tmp_path / 'empty.ini'}"]
    result = run(*options, charger=foreign_box, env=foreign)
    assert (result.returncode, result.stderr) == (0, "")
    if style == "json":
        reading = json.loads(result.stdout)
        assert (reading["identity"]["serial"], reading["details"]["brand"]) == (NAME, NAME)
    elif style == "human":
        assert re.search(f"^Serial: +{NAME}$", result.stdout, re.MULTILINE)
        assert re.search(f"^Brand: +{NAME}$", result.stdout, re.MULTILINE)
    else:
        assert re.search(f'^vestel_info{{serial="{NAME}",.*brand="{NAME}"', result.stdout, re.MULTILINE)


@pytest.mark.parametrize("style", FORMATS)
def test_a_terminal_without_these_characters_shows_all_others(
    foreign_box: SimulatedCharger, run_on_terminal: Run, style: str
) -> None:
    variables = {"PYTHONIOENCODING": "ascii:strict", **ENVIRONMENTS["no UTF-8 whatever"]}
    result = run_on_terminal("--details", f"--format={style}", charger=foreign_box, **variables)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.isascii()
    assert len(re.findall(r"K\S+se-1 ", result.stdout)) >= 2


def test_an_error_about_a_name_that_stderr_cannot_show_is_a_line_all_the_same(
    run: Run, foreign: dict[str, str]
) -> None:
    result = run(f"--config=/missing/{NAME}", env=foreign)
    assert (result.returncode, result.stdout) == (2, "")
    assert re.fullmatch("ERROR: /missing/K.*se-1 .*\n", result.stderr)


# --- From cron, and by its name -----------------------------------------------------------------


def test_a_log_grows_by_a_line_a_run_and_by_none_where_a_run_fails(run: Run, tmp_path: Path) -> None:
    log = tmp_path / "charger.jsonl"
    statuses = []
    with simulated_charger() as charger:
        for number in range(3):
            charger.set(HOLDING, 5004, 10 + number)
            statuses.append(run_into_file(run, log, "--format=json", charger=charger).returncode)
    failed = run_into_file(run, log, "--format=json", charger=charger)
    assert failed.stderr.startswith("ERROR: Cannot connect to ")
    statuses.append(failed.returncode)
    with simulated_charger() as charger:
        for number in range(3, 5):
            charger.set(HOLDING, 5004, 10 + number)
            statuses.append(run_into_file(run, log, "--format=json", charger=charger).returncode)
    assert statuses == [0, 0, 0, 1, 0, 0]
    lines = log.read_text(encoding="utf-8").splitlines(keepends=True)
    assert all(line.endswith("\n") for line in lines)
    currents = [json.loads(line)["settings"]["dynamic_current_a"] for line in lines]
    assert currents == [10, 11, 12, 13, 14]


@pytest.mark.parametrize(
    ("command", "cwd"),
    [
        ("./vestel.py", "opt"),
        ("opt/vestel.py", "."),
        ("{home}/opt/vestel.py", "elsewhere"),
        ("./wallbox", "elsewhere"),
        ("wallbox", "."),
    ],
    ids=["in its directory", "from above", "from elsewhere", "a link", "a link on the PATH"],
)
def test_the_script_runs_by_its_own_name(
    charger: SimulatedCharger, environment: dict[str, str], tmp_path: Path, command: str, cwd: str
) -> None:
    for directory in ("opt", "elsewhere", "bin"):
        (tmp_path / directory).mkdir()
    shutil.copy2(SCRIPT, tmp_path / "opt")
    (tmp_path / "elsewhere/wallbox").symlink_to("../opt/vestel.py")
    (tmp_path / "bin/wallbox").symlink_to(tmp_path / "opt/vestel.py")
    python = tmp_path / "bin/python3"  # no link: a virtual environment would not know itself
    python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n', encoding="utf-8")
    python.chmod(0o755)
    result = subprocess.run(
        [command.format(home=tmp_path), "--ip", charger.host, "--port", str(charger.port), "--format=json"],
        capture_output=True,
        encoding="utf-8",
        cwd=tmp_path / cwd,
        env={**environment, "PATH": f"{tmp_path / 'bin'}:{environment['PATH']}"},
        timeout=120,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert without_timestamp(result.stdout) == READING


# --- Exit codes and what is said ----------------------------------------------------------------

FILES = {
    "box.ini": "[vestel]\nip = 127.0.0.1\nport = {port}\n",
    "odd.ini": "[vestel]\nip = 127.0.0.1\nport = {port}\ncolour = red\n",
    "empty.ini": "[vestel]\n",
    "bad.ini": "[vestel]\nport = 0\n",
    "odd and bad.ini": "[vestel]\ncolour = red\nunit = 256\n",
}
RUNS: dict[str, tuple[Callable[[SimulatedCharger], Any], list[str], int, list[str]]] = {
    # what the charger does, options, exit code, how each line on stderr begins
    "all is well": (leave_charging, [], 0, []),
    "a range is refused": (
        lambda charger: charger.fault(exception(4), address=1502),
        [],
        0,
        ["WARNING: Cannot read input registers 1502-1513: "],
    ),
    "a value is impossible": (
        lambda charger: charger.set(INPUT, 1014, 5000),
        [],
        0,
        ["WARNING: voltage L1 "],
    ),
    "an unknown key": (leave_charging, ["--config=odd.ini"], 0, ["WARNING: odd.ini: colour: "]),
    "both currents are set": (
        leave_charging,
        ["--set-current=12"],
        0,
        ["Dynamic current: 16 A -> 12 A", "Failsafe current: 10 A -> 12 A"],
    ),
    "nobody listens": (
        lambda charger: charger.stop(),
        [],
        1,
        ["ERROR: Cannot connect to 127.0.0.1:{port}: "],
    ),
    "the charger is silent": (
        lambda charger: charger.fault("silence"),
        ["--timeout=0.05"],
        1,
        ["ERROR: Cannot read 127.0.0.1:{port}: "],
    ),
    "every connection is reset": (
        lambda charger: charger.fault("reset"),
        ["--details"],
        1,
        ["ERROR: Cannot read 127.0.0.1:{port}: "],
    ),
    "it is no charger": (
        lambda charger: charger.fault("web server"),
        ["--format=prometheus"],
        1,
        ["ERROR: Cannot read 127.0.0.1:{port}: "],
    ),
    "the charger fails after the currents are set": (
        lambda charger: charger.fault(charger.vanish(), address=100),
        ["--set-dynamic-current=12"],
        1,
        ["Dynamic current: 16 A -> 12 A", "ERROR: Cannot connect to 127.0.0.1:{port}: "],
    ),
    "no charger is named": (leave_charging, ["--config=empty.ini"], 2, ["ERROR: IP not set"]),
    "no such file": (leave_charging, ["--config=missing.ini"], 2, ["ERROR: missing.ini: "]),
    "a bad value in the file": (leave_charging, ["--config=bad.ini"], 2, ["ERROR: bad.ini: port: "]),
    "an unknown key and a bad value": (
        leave_charging,
        ["--config=odd and bad.ini"],
        2,
        ["WARNING: odd and bad.ini: colour: ", "ERROR: odd and bad.ini: unit: "],
    ),
    "out of range": (
        leave_charging,
        ["--set-current=33"],
        3,
        ["ERROR: failed writing current: dynamic current 33 A "],
    ),
    "a write is refused": (
        lambda charger: charger.fault(exception(3), function=6, executed=False),
        ["--set-dynamic-current=12"],
        3,
        ["ERROR: failed writing current: "],
    ),
    "the second write is refused": (
        lambda charger: charger.fault(exception(3), 2000, function=6, executed=False),
        ["--set-current=12"],
        3,
        ["Dynamic current: 16 A -> 12 A", "ERROR: failed writing current: "],
    ),
    "nobody listens to a write": (
        lambda charger: charger.stop(),
        ["--set-current=12"],
        3,
        ["ERROR: failed writing current: Cannot connect to 127.0.0.1:{port}: "],
    ),
}


@pytest.mark.parametrize(("happens", "options", "status", "beginnings"), RUNS.values(), ids=RUNS.keys())
def test_the_exit_code_and_every_line_on_stderr_say_what_happened(
    charger: SimulatedCharger,
    run: Run,
    tmp_path: Path,
    happens: Callable[[SimulatedCharger], Any],
    options: list[str],
    status: int,
    beginnings: list[str],
) -> None:
    for name, content in FILES.items():
        (tmp_path / name).write_text(content.format(port=charger.port), encoding="utf-8")
    happens(charger)
    result = run("--config=box.ini", *options, cwd=tmp_path)
    assert result.returncode == status
    assert bool(result.stdout) == (status == 0)
    lines = result.stderr.splitlines(keepends=True)
    assert len(lines) == len(beginnings), result.stderr
    for line, beginning in zip(lines, beginnings):
        assert line.startswith(beginning.format(port=charger.port))
        assert line.endswith("\n")


@pytest.mark.parametrize("option", ["--nope", "--port=0", "--format=xml", "--watch=0"])
def test_a_usage_error_is_told_in_full_without_a_terminal(
    run: Run, buffering: dict[str, str], tmp_path: Path, option: str
) -> None:
    with (tmp_path / "stderr").open("w", encoding="utf-8") as stderr:
        result = run("--demo", option, stderr=stderr, env=buffering)
    assert (result.returncode, result.stdout) == (2, "")
    told = (tmp_path / "stderr").read_text(encoding="utf-8")
    assert re.fullmatch(r"usage: vestel\.py (.+\n)+vestel\.py: error: .+\n", told)


@pytest.mark.parametrize("style", FORMATS)
def test_what_v_adds_is_on_stderr(charger: SimulatedCharger, run: Run, style: str) -> None:
    options = ["--details", f"--format={style}"]
    quiet, verbose = run(*options, charger=charger), run(*options, "-v", charger=charger)
    assert (quiet.returncode, quiet.stderr, verbose.returncode) == (0, "", 0)
    if style == "json":
        assert without_timestamp(verbose.stdout) == without_timestamp(quiet.stdout)
    else:
        assert verbose.stdout == quiet.stdout
    assert len(verbose.stderr.splitlines()) >= 1 + 2 * 13  # the connection, requests and replies


def test_v_of_a_failing_run_leaves_stdout_empty_and_ends_in_the_error(
    charger: SimulatedCharger, run: Run
) -> None:
    charger.fault("reset")
    result = run("-v", charger=charger)
    assert (result.returncode, result.stdout) == (1, "")
    *log, last = result.stderr.splitlines()
    assert last.startswith("ERROR: Cannot read ")
    assert log
    assert not [line for line in log if line.startswith("ERROR: ")]


# --- Ctrl-C -------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [[], ["--details", "-v"]], ids=" ".join)
@pytest.mark.parametrize("address", [100, 5004])
def test_ctrl_c_ends_the_wait_for_a_reply(
    charger: SimulatedCharger, start: Start, options: list[str], address: int
) -> None:
    charger.fault("silence", address=address)
    running = start(*options, "--timeout=300", charger=charger)
    eventually(lambda: address in [request.address for request in charger.requests])
    status = running.end(signal.SIGINT)
    assert (status, running.out) == (130, [])
    assert "Traceback" not in "".join(running.err)
    assert "-v" in options or running.err == []


def test_ctrl_c_ends_the_wait_for_a_connection(start: Start) -> None:
    with dead_host() as port:
        before = connecting_to(port)
        running = start("--ip=127.0.0.1", f"--port={port}", "--timeout=300")
        eventually(lambda: connecting_to(port) > before)
        assert (running.end(signal.SIGINT), running.out, running.err) == (130, [], [])


# --- In the same process ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "status"),
    [
        (["--help"], 0),
        (["--version"], 0),
        (["--demo"], 0),
        (["--demo", "--format=json"], 0),
        (["--demo", "--set-current=33"], 3),
        (["--nope"], 2),
        (["--port=0"], 2),
        (["--watch=1", "--format=prometheus"], 2),
        (["--set-current=6", "--set-dynamic-current=6"], 2),
        (["--config=/missing"], 2),
        (["--ip=127.0.0.2", "--port=1"], 1),
    ],
    ids=lambda value: value[-1].split("=")[0] if isinstance(value, list) else str(value),
)
def test_main_returns_its_exit_code(capsys: pytest.CaptureFixture[str], argv: list[str], status: int) -> None:
    returned = vestel.main(argv)
    captured = capsys.readouterr()
    assert type(returned) is int
    assert returned == status
    assert (bool(captured.out), bool(captured.err)) == (status == 0, status != 0)


def test_main_writes_to_a_stdout_that_is_no_file() -> None:
    with contextlib.redirect_stdout(io.StringIO()) as stdout:
        assert vestel.main(["--demo"]) == 0
    assert stdout.getvalue().startswith("== Identity ==\n")

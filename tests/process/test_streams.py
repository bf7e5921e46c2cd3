"""Streams: closed, full, or unread; whole readings or none; and what a terminal gets.

The rules of a text without a process are tested in tests/unit.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import re
import resource
import shlex
import subprocess
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest
from charger import SimulatedCharger
from door import free_port
from program import Run, command, needs, run_process, side_by_side
from readings import FORMATS, WHOLE, reading_of
from registers import CORE_RANGES, HUMAN, HUMAN_DETAILS, READING, reads

STDIN, STDOUT, STDERR = 0, 1, 2
STDOUT_ERROR = "ERROR: .*stdout.*\n"
USUAL: dict[str, str] = {}
UNBUFFERED = {"PYTHONUNBUFFERED": "1"}  # as in a container
OUTPUTS = {  # what stdout is for
    "human": (["--demo"], USUAL),
    "json": (["--demo", "--format=json"], UNBUFFERED),
    "watch json": (["--demo", "--watch=1", "--format=json"], USUAL),
    "watch human": (["--demo", "--watch=1"], UNBUFFERED),
    "help": (["--help"], USUAL),
}
each_output = pytest.mark.parametrize(("options", "variables"), OUTPUTS.values(), ids=[*OUTPUTS])


@contextlib.contextmanager
def pipe_without_reader() -> Iterator[int]:
    """A pipe that nobody reads any more, from the first byte on."""
    reading_end, writing_end = os.pipe()
    os.close(reading_end)
    try:
        yield writing_end
    finally:
        os.close(writing_end)


def closing(*streams: int) -> Callable[[], None]:
    """Do what `<&-`, `>&-` and `2>&-` do: files and connections then take the free numbers."""

    def close() -> None:
        for stream in streams:
            os.close(stream)

    return close


@each_output
def test_pipe_that_nobody_reads_ends_it_quietly(
    run: Run, environment: dict[str, str], options: list[str], variables: dict[str, str]
) -> None:
    with pipe_without_reader() as stdout:
        result = run(*options, stdout=stdout, env={**environment, **variables})
    assert (result.returncode, result.stderr) == (0, "")


HEADS = {
    "": re.escape("== Identity ==\n"),
    "--format=json --watch=1": '{"timestamp": .*}\n',
    "--watch=1": "[0-9-]+T.*\n",
}


def test_head_takes_its_line_and_all_is_well(environment: dict[str, str]) -> None:
    bash = needs("bash", "bash")

    def take(case: tuple[str, dict[str, str]]) -> None:
        options, variables = case
        demo = shlex.join(command(["--demo", *options.split()], None))
        env = {**environment, **variables}
        how: dict[str, Any] = {"capture_output": True, "encoding": "utf-8", "timeout": 60}
        pipeline = [bash, "-c", f"set -o pipefail; {demo} | head -1"]
        result = subprocess.run(pipeline, env=env, check=False, **how)
        assert (result.returncode, result.stderr) == (0, "")
        assert re.fullmatch(HEADS[options], result.stdout)

    side_by_side(take, [*zip(HEADS, itertools.cycle([USUAL, UNBUFFERED]))])


@each_output
def test_full_disk_is_one_error_line(
    run: Run, environment: dict[str, str], options: list[str], variables: dict[str, str]
) -> None:
    with open("/dev/full", "w", encoding="utf-8") as full:
        result = run(*options, stdout=full, env={**environment, **variables})
    assert result.returncode == 1
    assert re.fullmatch(STDOUT_ERROR, result.stderr)


def room_for(size: int) -> Callable[[], None]:
    """Let no file grow above so many bytes: writes succeed up to there, as where a disk fills."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


@pytest.mark.parametrize(
    ("style", "mode", "variables", "beginning"),
    [
        pytest.param("human", "a", USUAL, "== Identity ==\n", id="human >>"),
        pytest.param("json", "w", USUAL, '{"timestamp": ', id="json >"),  # of a loop
        pytest.param("json", "a", UNBUFFERED, '{"timestamp": ', id="json >>"),
    ],
)
def test_disk_that_fills_gets_no_half_of_a_reading(
    run: Run,
    environment: dict[str, str],
    tmp_path: Path,
    style: str,
    mode: str,
    variables: dict[str, str],
    beginning: str,
) -> None:
    options, env = ["--demo", f"--format={style}"], {**environment, **variables}
    before = '{"of": "earlier runs"}\n' * 3
    log = tmp_path / "log"
    with log.open(mode, encoding="utf-8") as file:
        file.write(before)
        file.flush()
        result = run(*options, stdout=file, env=env, preexec_fn=room_for(len(before) + 300))
        assert result.returncode == 1
        assert re.fullmatch(STDOUT_ERROR, result.stderr)
        assert log.read_text(encoding="utf-8") == before
        assert run(*options, stdout=file, env=env).returncode == 0
    after = log.read_text(encoding="utf-8")
    assert after.startswith(before + beginning), "the next reading follows without a gap"


def test_disk_that_fills_while_watching_gets_whole_lines(
    call: Run, environment: dict[str, str], tmp_path: Path
) -> None:
    line = len(call("--demo", "--format=json").stdout)

    def fill(variables: dict[str, str]) -> None:
        with (tmp_path / f"log{len(variables)}").open("a", encoding="utf-8") as log:
            result = run_process(
                *OUTPUTS["watch json"][0],
                stdout=log,
                env={**environment, **variables},
                preexec_fn=room_for(line * 3 // 2),
            )
        assert result.returncode == 1
        assert re.fullmatch(STDOUT_ERROR, result.stderr)
        (only,) = Path(log.name).read_text(encoding="utf-8").splitlines(keepends=True)
        assert only == json.dumps(json.loads(only)) + "\n"

    side_by_side(fill, [USUAL, UNBUFFERED])


@each_output
def test_closed_stdout_is_one_error_line(
    run: Run, environment: dict[str, str], options: list[str], variables: dict[str, str]
) -> None:
    closed = [STDIN, STDOUT] if variables else [STDOUT]
    result = run(*options, preexec_fn=closing(*closed), env={**environment, **variables})
    assert (result.returncode, result.stdout) == (1, "")
    assert re.fullmatch(STDOUT_ERROR, result.stderr)


@pytest.mark.parametrize(
    ("option", "closed"),
    [("--timeout=5", [STDIN]), ("-v", [STDERR]), ("--timeout=5", [STDIN, STDERR])],
    ids=["stdin", "stderr, -v", "both"],
)
def test_other_closed_streams_take_nothing_from_a_reading(
    charger: SimulatedCharger, run: Run, option: str, closed: list[int]
) -> None:
    charger.fault(4, 2000)  # so that there is a WARNING to write
    result = run(option, charger=charger, preexec_fn=closing(*closed))
    shown = HUMAN.replace("Failsafe Current:    10 A", "Failsafe Current:    n/a")
    shown = shown.replace("Failsafe Timeout:    21 s", "Failsafe Timeout:    n/a")
    assert (result.returncode, result.stdout) == (0, shown)
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("options", "code"), [("--demo", 1), ("--demo --watch=1", 1), ("--help", 1), ("--nope", 2)]
)
def test_exit_code_tells_where_all_three_are_closed(run: Run, options: str, code: int) -> None:
    result = run(*options.split(), preexec_fn=closing(STDIN, STDOUT, STDERR))
    assert (result.returncode, result.stdout, result.stderr) == (code, "", "")


def test_connection_with_the_number_of_a_stream_is_read(
    charger: SimulatedCharger, run: Run
) -> None:
    result = run("-v", charger=charger, preexec_fn=closing(STDIN, STDOUT, STDERR))
    assert (result.returncode, result.stdout, result.stderr) == (1, "", "")
    assert charger.reads == reads(CORE_RANGES)


@pytest.mark.parametrize("stderr", ["closed", "full", "without a reader"])
def test_error_that_stderr_does_not_take_has_its_exit_code(run: Run, stderr: str) -> None:
    nowhere = "--ip=127.0.0.1", f"--port={free_port()}"
    with contextlib.ExitStack() as stack:
        more: dict[str, Any] = {"preexec_fn": closing(STDERR)}
        if stderr == "full":
            more = {"stderr": stack.enter_context(open("/dev/full", "w", encoding="utf-8"))}
        elif stderr == "without a reader":
            more = {"stderr": stack.enter_context(pipe_without_reader())}
        for options, code in ((["--nope"], 2), (nowhere, 1), (["--demo", "--set-current=33"], 3)):
            result = run(*options, **more)
            assert (result.returncode, result.stdout) == (code, "")


class Screen(io.TextIOWrapper):
    """A stdout that says that it is a terminal."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), "utf-8")

    def isatty(self) -> bool:
        return True


Show = Callable[..., str]


@pytest.fixture
def show(call: Run, memory: SimulatedCharger, monkeypatch: pytest.MonkeyPatch) -> Show:
    """Return what vestel.py prints on a terminal."""

    def show(*options: str, **variables: str) -> str:
        screen = Screen()
        for name, value in {"TERM": "xterm", **variables}.items():
            monkeypatch.setenv(name, value)
        result = call("--ip=charger", *options, stdout=screen)
        assert (result.returncode, result.stderr) == (0, "")
        return screen.buffer.getvalue().decode()  # type: ignore[attr-defined, no-any-return]

    return show


def test_json_is_one_line_unless_on_a_terminal(call: Run, show: Show, tmp_path: Path) -> None:
    with (tmp_path / "log").open("w", encoding="utf-8") as log:
        assert call("--ip=charger", "--format=json", stdout=log).returncode == 0
    logged = (tmp_path / "log").read_text(encoding="utf-8")
    piped = call("--ip=charger", "--format=json").stdout
    for printed in (piped, logged):
        assert printed == json.dumps(json.loads(printed)) + "\n"
        assert reading_of(printed) == {"timestamp": WHOLE["timestamp"], **READING}
    shown = show("--format=json", "--details")
    assert shown == json.dumps(json.loads(shown), indent=2) + "\n"
    assert reading_of(shown) == WHOLE


@pytest.mark.parametrize("style", FORMATS)
def test_reading_ends_in_one_newline_wherever_it_goes(
    call: Run, show: Show, tmp_path: Path, style: str
) -> None:
    with (tmp_path / "log").open("w", encoding="utf-8") as log:
        call("--ip=charger", f"--format={style}", stdout=log)
    logged = (tmp_path / "log").read_bytes().decode()
    for printed in (logged, show(f"--format={style}")):
        assert re.search(r"\S\n\Z", printed)
        assert "\r" not in printed
        assert style == "human" or "\x1b" not in printed, "no colour for programs"


@pytest.mark.parametrize(
    ("variables", "coloured"),
    [
        ({}, True),
        ({"NO_COLOR": ""}, True),
        ({"NO_COLOR": "1"}, False),
        ({"NO_COLOR": "0"}, False),
        ({"TERM": "dumb"}, False),
    ],
)
def test_terminal_has_colours_unless_unwanted(
    show: Show, variables: dict[str, str], coloured: bool
) -> None:
    shown = show(**variables)
    assert ("\x1b[32mCharging\x1b[0m" in shown) is coloured
    assert coloured or shown == HUMAN


@pytest.mark.parametrize("variables", [{}, {"NO_COLOR": "1"}], ids=["", "NO_COLOR"])
def test_process_knows_its_terminal(
    charger: SimulatedCharger, run_on_terminal: Run, variables: dict[str, str]
) -> None:
    result = run_on_terminal("--details", charger=charger, **variables)
    assert (result.returncode, result.stderr) == (0, "")
    assert re.sub(r"\x1b\[[0-9;]*m", "", result.stdout) == HUMAN + HUMAN_DETAILS
    assert result.stdout.count("\x1b[32mCharging\x1b[0m") == (0 if variables else 2)

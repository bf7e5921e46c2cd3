"""Streams that are closed, full, or that nobody reads: whole readings or none, and no traceback."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import resource
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest
from conftest import SCRIPT, Result, Run, needs
from readings import FORMATS
from registers import CORE_RANGES, HUMAN
from simulated_charger import SimulatedCharger, exception, free_port

BEGINNINGS = {"human": "== Identity ==\n", "json": '{"timestamp": ', "prometheus": "# HELP vestel_up "}
OUTPUTS = [  # everything that stdout is for
    *[["--demo", f"--format={style}"] for style in FORMATS],
    ["--demo", "--watch=1", "--format=json"],
    ["--demo", "--watch=1"],
    ["--help"],
    ["--version"],
]
STDOUT_ERROR = "ERROR: .*stdout.*\n"


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


def outcome(result: Result[str]) -> tuple[int, str, str]:
    """All of a run that a user meets."""
    return result.returncode, result.stdout, result.stderr


# --- A stdout that cannot be written ------------------------------------------------------------


@pytest.mark.parametrize("options", OUTPUTS, ids=" ".join)
def test_a_pipe_that_nobody_reads_ends_the_program_quietly(
    run: Run, buffering: dict[str, str], options: list[str]
) -> None:
    with pipe_without_reader() as stdout:
        result = run(*options, stdout=stdout, env=buffering)
    assert (result.returncode, result.stderr) == (0, "")


HEADS = {
    (): re.escape("== Identity ==\n"),
    ("--format=json", "--watch=1"): '{"timestamp": .*}\n',
    ("--watch=1",): "[0-9-]+T.*\n",
}


def test_head_takes_its_line_and_all_is_well(environment: dict[str, str]) -> None:
    bash = needs("bash", "bash")
    pipes = {}
    for options, unbuffered in itertools.product(
        HEADS, ("", "1")
    ):  # side by side: they wait for a second line
        command = shlex.join([sys.executable, str(SCRIPT), "--demo", *options])
        pipes[options, unbuffered] = subprocess.Popen(
            [bash, "-c", f"set -o pipefail; {command} | head -1"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            env={**environment, "PYTHONUNBUFFERED": unbuffered},
        )
    for (options, unbuffered), pipe in pipes.items():
        out, err = pipe.communicate(timeout=60)
        assert (pipe.returncode, err) == (0, ""), (options, unbuffered)
        assert re.fullmatch(HEADS[options], out), (options, unbuffered)


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
    run: Run, call: Run, environment: dict[str, str], tmp_path: Path
) -> None:
    line = len(call("--demo", "--format=json").stdout)

    def fill(unbuffered: str) -> tuple[int, str, str]:
        with (tmp_path / f"log{unbuffered}").open("a", encoding="utf-8") as log:
            more = {
                "env": {**environment, "PYTHONUNBUFFERED": unbuffered},
                "preexec_fn": room_for(line * 3 // 2),
            }
            result = run("--demo", "--format=json", "--watch=1", stdout=log, **more)
        return result.returncode, result.stderr, Path(log.name).read_text(encoding="utf-8")

    with ThreadPoolExecutor() as side_by_side:  # they wait for a second line
        for status, told, logged in side_by_side.map(fill, ["", "1"]):
            assert status == 1
            assert re.fullmatch(STDOUT_ERROR, told)
            (only,) = logged.splitlines(keepends=True)
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
    result = run(*options, charger=charger, preexec_fn=closing(*closed))
    lines = HUMAN.replace("Failsafe Current:    10 A", "Failsafe Current:    n/a")
    assert (result.returncode, result.stdout) == (0, lines.replace("Timeout:    21 s", "Timeout:    n/a"))
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
    assert [request.address for request in charger.requests] == [rows[0].address for rows in CORE_RANGES]


FAILING = [
    (["--nope"], 2),
    (["--config=/missing"], 2),
    (["--ip=127.0.0.1", "--port={free port}"], 1),
    (["--demo", "--set-current=33"], 3),
]


@pytest.mark.parametrize(("options", "status"), FAILING, ids=[" ".join(options) for options, _ in FAILING])
@pytest.mark.parametrize("stderr", ["closed", "full", "without a reader"])
def test_an_error_that_cannot_be_told_has_its_exit_code_and_nothing_on_stdout(
    run: Run, buffering: dict[str, str], options: list[str], status: int, stderr: str
) -> None:
    with contextlib.ExitStack() as stack:
        more: dict[str, Any] = {}
        if stderr == "closed":
            more["preexec_fn"] = closing(STDERR)
        elif stderr == "full":
            more["stderr"] = stack.enter_context(open("/dev/full", "w", encoding="utf-8"))
        else:
            more["stderr"] = stack.enter_context(pipe_without_reader())
        filled = [option.replace("{free port}", f"{free_port()}") for option in options]
        result = run(*filled, env=buffering, **more)
    assert (result.returncode, result.stdout) == (status, "")

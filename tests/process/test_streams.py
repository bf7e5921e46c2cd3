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
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest
from charger import SimulatedCharger
from door import free_port
from program import Run, command, needs, run_process, side_by_side
from readings import FORMATS
from registers import CORE_RANGES, HUMAN, reads

STDIN, STDOUT, STDERR = 0, 1, 2
STDOUT_ERROR = "ERROR: .*stdout.*\n"
USUAL: dict[str, str] = {}
UNBUFFERED = {"PYTHONUNBUFFERED": "1"}  # as in a container
OUTPUTS = {  # everything that stdout is for
    **{style: ["--demo", f"--format={style}"] for style in FORMATS},
    "watch json": ["--demo", "--watch=1", "--format=json"],
    "watch human": ["--demo", "--watch=1"],
    "help": ["--help"],
    "version": ["--version"],
}
each_output = pytest.mark.parametrize(
    ("options", "variables"),
    [
        *((options, USUAL) for options in OUTPUTS.values()),
        (OUTPUTS["json"], UNBUFFERED),
        (OUTPUTS["watch human"], UNBUFFERED),
    ],
    ids=[*OUTPUTS, "json, unbuffered", "watch human, unbuffered"],
)


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


# --- A stdout that cannot be written ------------------------------------------------------------


@each_output
def test_pipe_that_nobody_reads_ends_it_quietly(
    run: Run, environment: dict[str, str], options: list[str], variables: dict[str, str]
) -> None:
    with pipe_without_reader() as stdout:
        result = run(*options, stdout=stdout, env={**environment, **variables})
    assert (result.returncode, result.stderr) == (0, "")


HEADS = {
    (): re.escape("== Identity ==\n"),
    ("--format=json", "--watch=1"): '{"timestamp": .*}\n',
    ("--watch=1",): "[0-9-]+T.*\n",
}


def test_head_takes_its_line_and_all_is_well(environment: dict[str, str]) -> None:
    bash = needs("bash", "bash")

    def take(case: tuple[tuple[str, ...], dict[str, str]]) -> None:
        options, variables = case
        pipeline = f"set -o pipefail; {shlex.join(command(['--demo', *options], None))} | head -1"
        env = {**environment, **variables}
        how: dict[str, Any] = {"capture_output": True, "encoding": "utf-8", "timeout": 60}
        result = subprocess.run([bash, "-c", pipeline], env=env, check=False, **how)
        assert (result.returncode, result.stderr) == (0, "")
        assert re.fullmatch(HEADS[options], result.stdout)

    side_by_side(take, [*itertools.product(HEADS, [USUAL, UNBUFFERED])])


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


BEGINNINGS = {
    "human": "== Identity ==\n",
    "json": '{"timestamp": ',
    "prometheus": "# HELP vestel_up ",
}


@pytest.mark.parametrize(
    ("style", "mode", "variables"),
    [
        ("human", "a", USUAL),
        ("json", "a", UNBUFFERED),
        ("json", "w", USUAL),  # of a loop
        ("prometheus", "a", UNBUFFERED),
    ],
    ids=["human >>", "json >>", "json >", "prometheus >>"],
)
def test_disk_that_fills_gets_no_half_of_a_reading(
    run: Run,
    environment: dict[str, str],
    tmp_path: Path,
    style: str,
    mode: str,
    variables: dict[str, str],
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
    assert after.startswith(before + BEGINNINGS[style]), "the next reading follows without a gap"


def test_disk_that_fills_while_watching_gets_whole_lines(
    call: Run, environment: dict[str, str], tmp_path: Path
) -> None:
    line = len(call("--demo", "--format=json").stdout)

    def fill(variables: dict[str, str]) -> None:
        with (tmp_path / f"log{len(variables)}").open("a", encoding="utf-8") as log:
            result = run_process(
                *OUTPUTS["watch json"],
                stdout=log,
                env={**environment, **variables},
                preexec_fn=room_for(line * 3 // 2),
            )
        assert result.returncode == 1
        assert re.fullmatch(STDOUT_ERROR, result.stderr)
        (only,) = Path(log.name).read_text(encoding="utf-8").splitlines(keepends=True)
        assert only == json.dumps(json.loads(only)) + "\n"

    side_by_side(fill, [USUAL, UNBUFFERED])


# --- Streams that are closed --------------------------------------------------------------------


@each_output
def test_closed_stdout_is_one_error_line(
    run: Run, environment: dict[str, str], options: list[str], variables: dict[str, str]
) -> None:
    closed = [STDIN, STDOUT] if variables else [STDOUT]
    result = run(*options, preexec_fn=closing(*closed), env={**environment, **variables})
    assert (result.returncode, result.stdout) == (1, "")
    assert re.fullmatch(STDOUT_ERROR, result.stderr)


@pytest.mark.parametrize(
    "closed", [[STDIN], [STDERR], [STDIN, STDERR]], ids=["stdin", "stderr", "both"]
)
@pytest.mark.parametrize("options", [[], ["-v"]], ids=["", "-v"])
def test_other_closed_streams_take_nothing_from_a_reading(
    charger: SimulatedCharger, run: Run, closed: list[int], options: list[str]
) -> None:
    charger.fault(4, 2000)  # so that there is a WARNING to write
    result = run(*options, charger=charger, preexec_fn=closing(*closed))
    shown = HUMAN.replace("Failsafe Current:    10 A", "Failsafe Current:    n/a")
    shown = shown.replace("Failsafe Timeout:    21 s", "Failsafe Timeout:    n/a")
    assert (result.returncode, result.stdout) == (0, shown)
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("options", [*OUTPUTS.values(), ["--nope"]], ids=[*OUTPUTS, "usage error"])
def test_exit_code_tells_where_all_three_are_closed(run: Run, options: list[str]) -> None:
    result = run(*options, preexec_fn=closing(STDIN, STDOUT, STDERR))
    code = 2 if options == ["--nope"] else 1
    assert (result.returncode, result.stdout, result.stderr) == (code, "", "")


def test_connection_with_the_number_of_a_stream_is_read(
    charger: SimulatedCharger, run: Run
) -> None:
    result = run("-v", charger=charger, preexec_fn=closing(STDIN, STDOUT, STDERR))
    assert (result.returncode, result.stdout, result.stderr) == (1, "", "")
    assert charger.reads == reads(CORE_RANGES)


FAILING = {
    "usage": (["--nope"], 2),
    "configuration": (["--config=/missing"], 2),
    "no charger": (["--ip=127.0.0.1", "--port={free port}"], 1),
    "setting": (["--demo", "--set-current=33"], 3),
}


@pytest.mark.parametrize(("options", "code"), FAILING.values(), ids=[*FAILING])
@pytest.mark.parametrize("stderr", ["closed", "full", "without a reader"])
def test_error_that_stderr_does_not_take_has_its_exit_code(
    run: Run, options: list[str], code: int, stderr: str
) -> None:
    with contextlib.ExitStack() as stack:
        more: dict[str, Any] = {}
        if stderr == "closed":
            more["preexec_fn"] = closing(STDERR)
        elif stderr == "full":
            more["stderr"] = stack.enter_context(open("/dev/full", "w", encoding="utf-8"))
        else:
            more["stderr"] = stack.enter_context(pipe_without_reader())
        given = [option.replace("{free port}", f"{free_port()}") for option in options]
        result = run(*given, **more)
    assert (result.returncode, result.stdout) == (code, "")

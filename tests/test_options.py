"""The command line: which options there are, what they take, and what is a usage error."""

from __future__ import annotations

import json
import re
import socket
from typing import Any

import pytest
from conftest import Memory, Result, Run, Start, eventually
from readings import FORMATS
from simulated_charger import SimulatedCharger, free_port

pytestmark = pytest.mark.every_version

NO_NUMBERS = ["", "x", "nan", "inf", "-inf", "1_6", "١٦", "²", "0x10", "1,6", "1 6", "--1"]
NO_WHOLE_NUMBERS = [*NO_NUMBERS, "1.5", "16.0", "1e1"]
NO_HOSTS = [
    *("", " ", "[]", "[::1", "::1]", "10.0.0.1:502", "[::1]:502", "a b", "a,b", "10.0.0.1/24"),
    *("http://10.0.0.1", '"10.0.0.1"', "user@host"),
]
REFUSED = {
    "ip": NO_HOSTS,
    "port": [*NO_WHOLE_NUMBERS, "0", "-1", "65536", "10.0.0.1:502", "9" * 5000],
    "unit": [*NO_WHOLE_NUMBERS, "-1", "256"],
    "base": [*NO_WHOLE_NUMBERS, "-1", "2", "true"],
    "timeout": [*NO_NUMBERS, "0", "0.0", "-0.0", "-1", "1e999", "1e-999", "2s", "two"],
}
NO_ADDRESSES = [
    *(*NO_WHOLE_NUMBERS, "0", "-1", "65536", "localhost:", "localhost:http", "localhost:0"),
    *("localhost:65536", "a:b:80", "[::1]", "[::1]:", "[::1]:x", "[::1", "a b:80", "http://a:80"),
]
REFUSED_OPTIONS = {
    **REFUSED,
    "format": ["", "xml", "JSON", "human,json"],
    "watch": [*NO_NUMBERS, "0", "0.99", "-5", "1e999"],
    "listen": NO_ADDRESSES,
    "set-current": [*NO_WHOLE_NUMBERS, "-1"],
    "set-dynamic-current": [*NO_WHOLE_NUMBERS, "-1"],
    "set-failsafe-current": [*NO_WHOLE_NUMBERS, "-1"],
}


def cases(table: dict[str, list[str]]) -> list[Any]:
    """A pair of key and value for each value."""
    return [
        pytest.param(key, value, id=f"{key}={value[:20]}")
        for key, values in table.items()
        for value in values
    ]


def assert_usage_error(result: Result[str], about: str) -> None:
    """The run ended in argparse's usage error, whose last line says what it is about."""
    lines = result.stderr.splitlines()
    assert (result.returncode, result.stdout) == (2, "")
    assert lines[0].startswith("usage: vestel.py ")
    assert lines[-1].startswith("vestel.py: error: ")
    assert about in lines[-1]
    assert "Traceback" not in result.stderr


# --- Usage errors -------------------------------------------------------------------------------


@pytest.mark.parametrize(("option", "value"), cases(REFUSED_OPTIONS))
def test_a_bad_value_of_an_option_is_a_usage_error(
    memory: Memory, call: Run, option: str, value: str
) -> None:
    assert_usage_error(call("--ip=charger", f"--{option}={value}"), f"argument --{option}: ")
    assert memory.targets == []


@pytest.mark.parametrize(
    ("options", "about"),
    [
        (["--set-current", "10", "--set-dynamic-current", "10"], "--set-current"),
        (["--set-failsafe-current", "10", "--set-current", "10"], "--set-current"),
        (["--set-current", "0", "--set-dynamic-current", "0"], "--set-current"),
        (["--set-failsafe-current", "0", "--set-current", "0"], "--set-current"),
        (["--watch", "5", "--listen", "9876"], "--listen"),
        (["--watch", "5", "--format", "prometheus"], "--watch"),
        (["--format", "prometheus", "--watch", "5", "--demo"], "--watch"),
        (["192.168.1.100"], "192.168.1.100"),
        (["--nope"], "--nope"),
        (["--ip"], "--ip"),
        (["--ip", "--details"], "--ip"),
        (["--det"], "--det"),
        (["--form", "json"], "--form"),
        (["--form=json"], "--form"),
        (["--conf", "x.ini"], "--conf"),
        (["--vers"], "--vers"),
        (["--set-dyn", "10"], "--set-dyn"),
        (["--set-current=10", "--set-fail=10"], "--set-fail"),
        (["--de"], "--de"),
    ],
    ids=" ".join,
)
def test_what_does_not_go_together_or_is_no_option_is_a_usage_error(
    memory: Memory, call: Run, options: list[str], about: str
) -> None:
    assert_usage_error(call("--ip=charger", *options), about)
    assert memory.targets == []


@pytest.mark.parametrize("option", ["--port=0", "--watch=0.99", "--nope"])
def test_a_usage_error_ends_the_process(charger: SimulatedCharger, run: Run, option: str) -> None:
    assert_usage_error(run(option, charger=charger), option.split("=")[0])
    assert charger.connections == 0


# --- What is taken ------------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["--set-current", "--set-dynamic-current", "--set-failsafe-current"])
@pytest.mark.parametrize("amps", ["33", "65535"])
def test_whole_amperes_above_the_range_are_a_refused_current(
    memory: Memory, call: Run, option: str, amps: str
) -> None:
    result = call("--ip=charger", option, amps)
    assert (result.returncode, result.stdout, memory.writes) == (3, "", [])
    assert result.stderr.startswith("ERROR: failed writing current: ")


def test_watch_takes_a_second_and_more(start: Start) -> None:
    watching = [
        start("--demo", "--format=json", "--watch", seconds) for seconds in ("1", "1.0", "1.5", "3600")
    ]
    eventually(lambda: all(running.out for running in watching))
    assert [running.err for running in watching] == [[]] * 4
    for running in watching:
        assert json.loads(running.out[0])["identity"]["serial"] == "VESTEL-DEMO"


def test_listen_takes_a_port_or_a_host_and_a_port(start: Start) -> None:
    served = {"": "127.0.0.1", "127.0.0.1:": "127.0.0.1", "localhost:": "127.0.0.1", "[::1]:": "::1"}
    listening = [(host, free_port()) for host in served]
    for host, port in listening:
        start("--demo", "--listen", f"{host}{port}")

    def is_served(host: str, port: int) -> bool:
        with socket.socket(socket.AF_INET6 if host == "[::1]:" else socket.AF_INET) as client:
            return client.connect_ex((served[host], port)) == 0

    eventually(lambda: all(is_served(*one) for one in listening))


@pytest.mark.parametrize("style", FORMATS)
def test_format_takes_each_format(call: Run, style: str) -> None:
    beginnings = {"human": "== Identity ==\n", "json": '{"timestamp": ', "prometheus": "# HELP vestel_"}
    result = call("--demo", "--format", style)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith(beginnings[style])


def test_human_is_the_default_format(call: Run) -> None:
    assert call("--demo").stdout.startswith("== Identity ==\n")


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_names_every_option_and_needs_nothing(call: Run, option: str) -> None:
    result = call(option, "--config", "/missing")
    assert (result.returncode, result.stderr) == (0, "")
    assert set(re.findall(r"(?<!\S)\[?(--?[a-z-]+)", result.stdout)) >= {
        *("-h", "--help", "--version", "-v", "--config", "--ip", "--port", "--unit", "--base"),
        *("--timeout", "--format", "--details", "--set-current", "--set-dynamic-current"),
        *("--set-failsafe-current", "--watch", "--listen", "--demo"),
    }


def test_version_is_a_name_and_a_number(call: Run) -> None:
    result = call("--version")
    assert (result.returncode, result.stderr) == (0, "")
    assert re.fullmatch(r"vestel\.py \d+\.\d+\.\d+\n", result.stdout)


@pytest.mark.parametrize("option", ["-v", "--verbose"])
def test_v_logs_connection_requests_and_replies_in_hex_beside_the_reading(
    charger: SimulatedCharger, call: Run, option: str
) -> None:
    quiet, verbose = call(charger=charger), call(option, charger=charger)
    assert (verbose.returncode, verbose.stdout, quiet.stderr) == (0, quiet.stdout, "")
    log = verbose.stderr.replace(" ", "").lower()
    assert f"{charger.host}:{charger.port}" in log
    assert "0400640019" in log  # function 4, address 100, count 25
    assert "0432005600450053" in log  # 50 bytes: "VES..."

"""The command line: which options there are, what they take, and what is a usage error."""

from __future__ import annotations

import re
from typing import Any

import pytest
from conftest import Memory
from program import Result, Run
from readings import FORMATS
from registers import DYNAMIC, FAILSAFE, TIMEOUT

import vestel

pytestmark = pytest.mark.every_version

NO_NUMBERS = ["", "x", "nan", "inf", "-inf", "1_6", "١٦", "²", "0x10", "1,6", "1 6", "--1", "+1"]
NO_WHOLE_NUMBERS = [*NO_NUMBERS, "1.5", "16.0", "1e1", "9" * 5000]
NO_HOSTS = [
    *("", " ", "[]", "[::1", "::1]", "10.0.0.1:502", "[::1]:502", "a b", "a,b", "10.0.0.1/24"),
    *("http://10.0.0.1", '"10.0.0.1"', "user@host"),
]
REFUSED = {
    "ip": NO_HOSTS,
    "port": [*NO_WHOLE_NUMBERS, "0", "-1", "65536", "10.0.0.1:502"],
    "unit": [*NO_WHOLE_NUMBERS, "-1", "256"],
    "base": [*NO_WHOLE_NUMBERS, "-1", "2", "true"],
    "timeout": [*NO_NUMBERS, "0", "0.0", "-0.0", "-1", "1e999", "1e-999", "86401", "2s", "two"],
}
NO_ADDRESSES = [
    *(*NO_WHOLE_NUMBERS, "0", "-1", "65536", "localhost:", "localhost:http", "localhost:0"),
    *("localhost:65536", "a:b:80", "[::1]", "[::1]:", "[::1]:x", "[::1", "a b:80", "http://a:80"),
]
NO_CURRENTS = [*NO_WHOLE_NUMBERS, "-1", "-0", "16A", "65536", "99999999999"]
REFUSED_OPTIONS = {
    **REFUSED,
    "format": ["", "xml", "JSON", "human,json"],
    "watch": [*NO_NUMBERS, "0", "0.99", "-5", "86401", "1e999"],
    "listen": NO_ADDRESSES,
    "set-current": NO_CURRENTS,
    "set-dynamic-current": NO_CURRENTS,
    "set-failsafe-current": NO_CURRENTS,
    "set-failsafe-timeout": [*NO_WHOLE_NUMBERS, "-6", "0", "5", "3601", "20s"],
}


def cases(table: dict[str, list[str]]) -> list[Any]:
    """Return a pair of key and value for each value."""
    return [
        pytest.param(key, value, id=f"{key}={value[:20]}")
        for key, values in table.items()
        for value in values
    ]


def assert_usage_error(result: Result[str], about: str) -> None:
    """The run has ended in a usage error, whose last line says what it is about."""
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
        ("--set-current 10 --set-dynamic-current 10", "--set-current"),
        ("--set-failsafe-current 10 --set-current 10", "--set-current"),
        ("--set-current 0 --set-dynamic-current 0", "--set-current"),
        ("--set-failsafe-current 0 --set-current 0", "--set-current"),
        ("--set-current -5", "--set-current"),
        ("--hold a", "--hold"),
        ("--hold a --format json", "--hold"),
        ("--hold a --watch 5 --set-current 10", "--hold"),
        ("--hold a --watch 5 --set-current 0", "--hold"),
        ("--hold a --listen 9876 --set-dynamic-current 10", "--hold"),
        ("--set-dynamic-current 0 --listen 9876 --hold a", "--hold"),
        ("--watch 5 --hold", "--hold"),
        ("--watch 5 --listen 9876", "--listen"),
        ("--watch 5 --format prometheus", "--watch"),
        ("--format prometheus --watch 5 --demo", "--watch"),
        ("192.168.1.100", "192.168.1.100"),
        ("--nope", "--nope"),
        ("--ip", "--ip"),
        ("--ip --details", "--ip"),
    ],
    ids=str,
)
def test_what_does_not_go_together_is_a_usage_error(
    memory: Memory, call: Run, options: str, about: str
) -> None:
    assert_usage_error(call("--ip=charger", *options.split()), about)
    assert memory.targets == []


def test_an_empty_file_to_hold_needs_a_mode_too(memory: Memory, call: Run) -> None:
    assert_usage_error(call("--ip=charger", "--hold="), "--hold needs --watch or --listen")


@pytest.mark.parametrize(
    "option",
    ["--det", "--form=json", "--conf=x.ini", "--vers", "--set-dyn=10", "--set-f=10", "--hol=a"],
)
def test_an_option_cut_short_is_a_usage_error(memory: Memory, call: Run, option: str) -> None:
    assert_usage_error(call("--ip=charger", "--watch=5", option), option)


# --- What is taken ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ("", []),
        ("--set-current 12", [(DYNAMIC, 12), (FAILSAFE, 12)]),
        ("--set-current 0", [(DYNAMIC, 0), (FAILSAFE, 0)]),
        ("--set-dynamic-current 0", [(DYNAMIC, 0)]),
        ("--set-failsafe-current 65535", [(FAILSAFE, 65535)]),
        ("--set-failsafe-current 6 --set-dynamic-current 12", [(DYNAMIC, 12), (FAILSAFE, 6)]),
        (
            "--set-current 12 --set-failsafe-timeout 6",
            [(TIMEOUT, 6), (DYNAMIC, 12), (FAILSAFE, 12)],
        ),
        ("--set-failsafe-timeout 3600", [(TIMEOUT, 3600)]),
        ("--watch 5 --set-current 12", [(DYNAMIC, 12), (FAILSAFE, 12)]),
        ("--watch 5 --hold a --set-failsafe-current 6", [(FAILSAFE, 6)]),
        ("--listen 80 --hold a --set-failsafe-timeout 20", [(TIMEOUT, 20)]),
    ],
    ids=str,
)
def test_values_are_set_timeout_first_and_failsafe_last(
    options: str, wanted: list[tuple[int, int]]
) -> None:
    taken = vestel.parse_options(options.split()).wanted
    assert [(value.address, number) for value, number in taken] == wanted


@pytest.mark.parametrize("option", ["set-current", "set-dynamic-current", "set-failsafe-current"])
@pytest.mark.parametrize("amperes", ["33", "65535"])
def test_whole_amperes_out_of_range_are_a_refused_current(
    memory: Memory, call: Run, option: str, amperes: str
) -> None:
    result = call("--ip=charger", f"--{option}", amperes)
    assert (result.returncode, result.stdout, memory.writes) == (3, "", [])
    assert result.stderr.startswith("ERROR: failed writing current: ")


@pytest.mark.parametrize(
    ("text", "seconds"), [("1", 1.0), ("1.0", 1.0), ("1.", 1.0), ("1.5", 1.5), ("86400", 86400.0)]
)
def test_watch_takes_a_second_to_a_day(text: str, seconds: float) -> None:
    assert vestel.parse_options(["--watch", text]).watch == seconds


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("9946", ("127.0.0.1", 9946)),
        (":9946", ("127.0.0.1", 9946)),
        ("0.0.0.0:1", ("0.0.0.0", 1)),
        ("localhost:65535", ("localhost", 65535)),
        ("[::1]:80", ("::1", 80)),
        ("[fe80::1%eth0]:80", ("fe80::1%eth0", 80)),
    ],
)
def test_listen_takes_a_port_or_a_host_and_a_port(text: str, address: tuple[str, int]) -> None:
    assert vestel.parse_options(["--listen", text]).listen == address


def test_hold_takes_any_path() -> None:
    for path in ("amps", "/run/vestel/my amps", "-"):
        assert vestel.parse_options(["--watch=5", f"--hold={path}"]).hold == path


@pytest.mark.parametrize("style", FORMATS)
def test_format_takes_each_format(call: Run, style: str) -> None:
    beginnings = {
        "human": "== Identity ==\n",
        "json": '{"timestamp": ',
        "prometheus": "# HELP vestel_",
    }
    result = call("--demo", "--format", style)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith(beginnings[style])


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_names_every_option_and_needs_nothing(call: Run, option: str) -> None:
    result = call(option, "--config", "/missing")
    assert (result.returncode, result.stderr) == (0, "")
    assert {*re.findall(r"(?<!\S)\[?(--?[a-z-]+)", result.stdout)} == {
        *("-h", "--help", "--version", "-v", "--verbose", "--config", "--ip", "--port", "--unit"),
        *("--base", "--timeout", "--format", "--details", "--set-current"),
        *("--set-dynamic-current", "--set-failsafe-current", "--set-failsafe-timeout", "--hold"),
        *("--watch", "--listen", "--demo"),
    }


@pytest.mark.parametrize("columns", ["20", "80", "300"])
def test_help_has_the_same_width_everywhere(
    call: Run, monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert max(map(len, call("--help").stdout.splitlines())) in range(70, 80)


def test_version_is_a_name_and_a_number(call: Run) -> None:
    result = call("--version")
    assert (result.returncode, result.stdout, result.stderr) == (0, "vestel.py 1.2.0\n", "")

"""The command line: which options there are, what they take, and what is a usage error."""

from __future__ import annotations

import re
from typing import Any, Callable

import pytest
from conftest import Memory
from program import Run

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
    return [
        pytest.param(key, value, id=f"{key}={value[:20]}")
        for key, values in table.items()
        for value in values
    ]


@pytest.fixture
def usage_error(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Return what is wrong with options, as the last line of the usage error says it."""

    def refused(*options: str) -> str:
        with pytest.raises(SystemExit) as ended:
            vestel.parse_options(options)
        stdout, stderr = capsys.readouterr()
        lines = stderr.splitlines()
        assert (ended.value.code, stdout) == (2, "")
        assert lines[0].startswith("usage: vestel.py ")
        assert lines[-1].startswith("vestel.py: error: ")
        assert "Traceback" not in stderr
        return lines[-1]

    return refused


# --- Usage errors -------------------------------------------------------------------------------


@pytest.mark.parametrize(("option", "value"), cases(REFUSED_OPTIONS))
def test_a_bad_value_of_an_option_is_a_usage_error(
    usage_error: Callable[..., str], option: str, value: str
) -> None:
    assert f" argument --{option}: " in usage_error(f"--{option}={value}")


@pytest.mark.parametrize(
    ("options", "about"),
    [
        ("--set-current 10 --set-dynamic-current 10", "--set-current"),
        ("--set-failsafe-current 0 --set-current 0", "--set-current"),
        ("--set-current -5", "--set-current"),
        ("--hold a", "--hold needs --watch or --listen"),
        ("--hold=", "--hold needs --watch or --listen"),
        ("--hold a --watch 5 --set-current 0", "--hold"),
        ("--set-dynamic-current 0 --listen 9876 --hold a", "--hold"),
        ("--watch 5 --hold", "--hold"),
        ("--watch 5 --listen 9876", "--listen"),
        ("--watch 5 --format prometheus", "--watch"),
        ("192.168.1.100", "192.168.1.100"),
        ("--nope", "--nope"),
        ("--ip --details", "--ip"),
    ],
    ids=str,
)
def test_what_does_not_go_together_is_a_usage_error(
    usage_error: Callable[..., str], options: str, about: str
) -> None:
    assert about in usage_error(*options.split())


@pytest.mark.parametrize(
    "option",
    ["--det", "--form=json", "--conf=x.ini", "--vers", "--set-dyn=10", "--set-f=10", "--hol=a"],
)
def test_an_option_cut_short_is_a_usage_error(usage_error: Callable[..., str], option: str) -> None:
    assert option in usage_error("--watch=5", option)


def test_a_usage_error_ends_the_program_before_all_else(memory: Memory, call: Run) -> None:
    result = call("--ip=charger", "--config=/missing", "--port=0")
    assert (result.returncode, result.stdout, memory.targets) == (2, "", [])
    assert result.stderr.startswith("usage: vestel.py ")
    assert re.search(r"\nvestel\.py: error: argument --port: .*\n$", result.stderr)


def test_a_usage_error_is_plain_where_colour_is_forced(
    usage_error: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # argparse of Python 3.14 colours its usage
    assert "x1b" not in usage_error("--nope")


# --- What is taken ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ("", ""),
        ("--set-current 12", "5004=12 2000=12"),
        ("--set-current 0", "5004=0 2000=0"),
        ("--set-dynamic-current 0", "5004=0"),
        ("--set-failsafe-current 65535", "2000=65535"),
        ("--set-failsafe-current 6 --set-dynamic-current 12", "5004=12 2000=6"),
        ("--set-current 12 --set-failsafe-timeout 6", "2002=6 5004=12 2000=12"),
        ("--set-failsafe-timeout 3600", "2002=3600"),
        ("--watch 5 --set-current 12", "5004=12 2000=12"),
        ("--watch 5 --hold a --set-failsafe-current 6", "2000=6"),
        ("--listen 80 --hold a --set-failsafe-timeout 20", "2002=20"),
    ],
    ids=str,
)
def test_values_are_set_timeout_first_and_failsafe_last(options: str, wanted: str) -> None:
    taken = vestel.parse_options(options.split()).wanted
    assert " ".join(f"{value.address}={number}" for value, number in taken) == wanted


def test_watch_takes_a_second_to_a_day() -> None:
    for text, seconds in {"1": 1.0, "1.0": 1.0, "1.": 1.0, "1.5": 1.5, "86400": 86400.0}.items():
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


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_names_every_option_and_needs_nothing(call: Run, option: str) -> None:
    result = call(option, "--config", "/missing")
    assert (result.returncode, result.stderr) == (0, "")
    options = "ip port unit base timeout config format details set-current set-dynamic-current "
    options += "set-failsafe-current set-failsafe-timeout hold watch listen demo version verbose"
    found = {*re.findall(r"(?<!\S)\[?(--?[a-z-]+)", result.stdout)}
    assert found == {"-h", "--help", "-v", *(f"--{name}" for name in options.split())}


def test_version_is_a_name_and_a_number(call: Run) -> None:
    result = call("--version")
    assert (result.returncode, result.stdout, result.stderr) == (0, "vestel.py 1.2.0\n", "")

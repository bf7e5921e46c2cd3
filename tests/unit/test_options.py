"""The command line: what options take, what is a usage error, and the number of --hold."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Callable, Iterable, Mapping

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


def cases(table: Mapping[str, Iterable[str]]) -> list[Any]:
    return [
        pytest.param(key, value, id=f"{key}={value[:20]}")
        for key, values in table.items()
        for value in values
    ]


@pytest.fixture
def usage_error(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., str]:
    """Return the last line of the usage error. It is plain, though colour is forced."""
    monkeypatch.setenv("FORCE_COLOR", "1")  # argparse of Python 3.14 colours its usage

    def refused(*options: str) -> str:
        with pytest.raises(SystemExit) as ended:
            vestel.parse_options(options)
        stdout, stderr = capsys.readouterr()
        lines = stderr.splitlines()
        assert (ended.value.code, stdout) == (2, "")
        assert lines[0].startswith("usage: vestel.py ")
        assert lines[-1].startswith("vestel.py: error: ")
        assert not re.search(r"x1b|\x1b|Traceback", stderr)
        return lines[-1]

    return refused


@pytest.mark.parametrize(("option", "value"), cases(REFUSED_OPTIONS))
def test_a_bad_value_of_an_option_is_a_usage_error(
    usage_error: Callable[..., str], option: str, value: str
) -> None:
    assert f" argument --{option}: " in usage_error(f"--{option}={value}")


# fmt: off
NONSENSE = {  # and what the error names
    "--set-current 10 --set-dynamic-current 10": "--set-current",
    "--set-failsafe-current 0 --set-current 0": "--set-current",
    "--set-current -5": "--set-current", "--ip --details": "--ip", "--vers": "--vers",
    "--hold a": "--hold needs --watch or --listen", "--hold=": "--hold needs --watch or --listen",
    "--hold a --watch 5 --set-current 0": "--hold", "--watch 5 --hold": "--hold",
    "--set-dynamic-current 0 --listen 9876 --hold a": "--hold",
    "--watch 5 --listen 9876": "--listen", "--watch 5 --format prometheus": "--watch",
    "192.168.1.100": "192.168.1.100", "--nope": "--nope",
    "--det": "--det", "--form=json": "--form=json", "--conf=x.ini": "--conf",
    "--set-dyn=10": "--set-dyn=10", "--set-f=10": "--set-f=10", "--watch=5 --hol=a": "--hol=a",
}
# fmt: on


@pytest.mark.parametrize(("options", "about"), NONSENSE.items(), ids=str)
def test_options_that_make_no_sense_are_a_usage_error(
    usage_error: Callable[..., str], options: str, about: str
) -> None:
    assert about in usage_error(*options.split())


def test_a_usage_error_ends_the_program_before_all_else(memory: Memory, call: Run) -> None:
    result = call("--ip=charger", "--config=/missing", "--port=0")
    assert (result.returncode, result.stdout, memory.targets) == (2, "", [])
    assert result.stderr.startswith("usage: vestel.py ")
    assert re.search(r"\nvestel\.py: error: argument --port: .*\n$", result.stderr)


# fmt: off
SETTING = {
    "": "", "--set-current 12": "5004=12 2000=12", "--set-current 0": "5004=0 2000=0",
    "--set-dynamic-current 0": "5004=0", "--set-failsafe-current 65535": "2000=65535",
    "--set-failsafe-current 6 --set-dynamic-current 12": "5004=12 2000=6",
    "--set-current 12 --set-failsafe-timeout 6": "2002=6 5004=12 2000=12",
    "--set-failsafe-timeout 3600": "2002=3600", "--watch 5 --set-current 12": "5004=12 2000=12",
    "--watch 5 --hold a --set-failsafe-current 6": "2000=6",
    "--listen 80 --hold a --set-failsafe-timeout 20": "2002=20",
}
TAKEN: dict[str, dict[str, Any]] = {
    "watch": {"1": 1.0, "1.0": 1.0, "1.": 1.0, "1.5": 1.5, "86400": 86400.0},
    "listen": {
        "9946": ("127.0.0.1", 9946), ":9946": ("127.0.0.1", 9946), "0.0.0.0:1": ("0.0.0.0", 1),
        "localhost:65535": ("localhost", 65535), "[::1]:80": ("::1", 80),
        "[fe80::1%eth0]:80": ("fe80::1%eth0", 80),
    },
}
# fmt: on


@pytest.mark.parametrize(("options", "wanted"), SETTING.items(), ids=str)
def test_values_are_set_timeout_first_and_failsafe_last(options: str, wanted: str) -> None:
    taken = vestel.parse_options(options.split()).wanted
    assert " ".join(f"{value.address}={number}" for value, number in taken) == wanted


@pytest.mark.parametrize(("option", "text"), cases(TAKEN))
def test_watch_and_listen_take_what_they_promise(option: str, text: str) -> None:
    assert vars(vestel.parse_options([f"--{option}", text]))[option] == TAKEN[option][text]


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


# fmt: off
NUMBERS = {
    "digits": (b"12", 12), "line end": (b"12\n", 12), "CRLF": (b"12\r\n", 12),
    "blanks": (b" \t\n 12 \n\n", 12), "many blanks": (b"12" + b" " * 900, 12),
    "zero": (b"0\n", 0), "leading zeros": (b"006\n", 6), "the highest": (b"65535", 65535),
    "empty": (b"", None), "a blank": (b" ", None), "line ends": (b"\r\n\n", None),
}
NO_NUMBER = {
    "a word": b"off\n", "with a unit": b"12 A\n", "two numbers": b"12 13", "two lines": b"12\n13\n",
    "negative": b"-6", "signed": b"+6", "a fraction": b"12.0", "a comma": b"12,0",
    "hexadecimal": b"0x10", "an underscore": b"1_2", "Arabic digits": "١٢".encode(),
    "a superscript": "²".encode(), "six digits": b"100000", "a BOM": b"\xef\xbb\xbf12",
    "UTF-16": "12".encode("utf-16"), "zeros": bytes(10), "binary": bytes(range(256)),
    "10 MB of digits": b"1" * 10_000_000, "10 MB of blanks": b"12" + b" " * 10_000_000,
}
# fmt: on


@pytest.mark.parametrize(("content", "number"), NUMBERS.values(), ids=[*NUMBERS])
def test_the_file_holds_a_number_or_is_blank(tmp_path: Path, content: bytes, number: int) -> None:
    (tmp_path / "amps").write_bytes(content)
    assert vestel.read_hold_file(str(tmp_path / "amps")) == number


@pytest.mark.parametrize("content", NO_NUMBER.values(), ids=[*NO_NUMBER])
def test_what_is_not_a_whole_number_is_an_error(tmp_path: Path, content: bytes) -> None:
    (file := tmp_path / "amps").write_bytes(content)
    with pytest.raises(vestel.CommandError, match=r"is not a whole number of amperes$") as caught:
        vestel.read_hold_file(str(file))
    assert len(str(caught.value)) < 200 + len(str(file))
    assert str(caught.value).isprintable()


def test_a_link_to_the_file_is_followed(tmp_path: Path) -> None:
    (tmp_path / "amps").write_text("10")
    (tmp_path / "link").symlink_to("amps")
    assert vestel.read_hold_file(str(tmp_path / "link")) == 10


NO_FILE: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: None, "No such file or directory"),
    "a dangling link": (lambda path: path.symlink_to("nowhere"), "No such file or directory"),
    "a directory": (Path.mkdir, "not a regular file"),
    "a pipe that nobody writes": (lambda path: os.mkfifo(path), "not a regular file"),
    "a device": (lambda path: path.symlink_to("/dev/null"), "not a regular file"),
}


@pytest.mark.needs_os
@pytest.mark.parametrize(("make", "why"), NO_FILE.values(), ids=[*NO_FILE])
def test_what_is_no_file_is_an_error_at_once(
    tmp_path: Path, make: Callable[[Path], object], why: str
) -> None:
    make(tmp_path / "amps")
    for _ in range(2):
        with pytest.raises(vestel.CommandError, match=why):
            vestel.read_hold_file(str(tmp_path / "amps"))


def test_a_file_that_may_not_be_read_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", denied)
    with pytest.raises(vestel.CommandError, match="Permission denied"):
        vestel.read_hold_file("amps")

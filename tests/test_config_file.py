"""The configuration file: where it is looked for, what it may hold, and what is wrong with it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import SCRIPT, Memory, Result, Run
from test_options import REFUSED, cases
from test_settings import DEFAULTS, reached, write

import vestel

pytestmark = pytest.mark.every_version

NAME = "vestel_modbus.ini"
BESIDE, IN_HOME = f"opt/{NAME}", f".config/{NAME}"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The home directory of the program, which stands in opt/."""
    (tmp_path / "opt").mkdir()
    (tmp_path / ".config").mkdir()
    return tmp_path.resolve()


def assert_well(result: Result[str]) -> None:
    """The run had no complaint."""
    assert (result.returncode, result.stderr) == (0, "")


def assert_error(result: Result[str], beginning: str, *words: str) -> None:
    """The run ended in one ERROR line about the configuration."""
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith(f"ERROR: {beginning}")
    assert result.stderr.endswith("\n")
    assert result.stderr[:-1].isprintable(), "more than a line, or a control character"
    for word in words:
        assert word in result.stderr[len(f"ERROR: {beginning}") :]


# --- Where it is looked for ---------------------------------------------------------------------


def test_the_file_beside_the_script_is_used_alone(memory: Memory, call: Run, home: Path) -> None:
    write(home / BESIDE, ip="charger")
    write(home / IN_HOME, ip="127.0.0.9", unit=9, base=1, nonsense=1)
    assert_well(call())
    assert reached(memory) == {"ip": "charger", **DEFAULTS}


def test_what_the_first_file_lacks_is_not_taken_from_the_second(
    memory: Memory, call: Run, home: Path
) -> None:
    write(home / BESIDE, unit=3)
    write(home / IN_HOME, ip="charger")
    assert_error(call(), "IP not set")
    assert memory.targets == []


@pytest.mark.parametrize("spoil", [Path.mkdir, Path.touch], ids=["directory", "empty"])
def test_a_first_file_that_is_no_good_is_an_error_though_the_second_is_good(
    memory: Memory, call: Run, home: Path, spoil: Any
) -> None:
    spoil(home / BESIDE)
    write(home / IN_HOME, ip="charger")
    assert_error(call(), f"{home / BESIDE}: ")
    assert memory.targets == []


def test_without_a_file_beside_the_script_the_one_in_home_is_used(
    memory: Memory, call: Run, home: Path
) -> None:
    write(home / IN_HOME, ip="charger", unit=4)
    assert_well(call())
    assert reached(memory) == {"ip": "charger", **DEFAULTS, "unit": 4}


def linked(home: Path, link: str) -> Path:
    """A link to the script in another directory, or a link to that link."""
    (home / "bin").mkdir()
    script = home / "bin/vestel.py"
    script.symlink_to(home / "opt/vestel.py" if link == "absolute" else Path("../opt/vestel.py"))
    if link == "link to a link":
        script = home / "wallbox"
        script.symlink_to("bin/vestel.py")
    return script


@pytest.mark.parametrize("link", ["absolute", "relative", "link to a link"])
def test_beside_the_script_means_where_its_links_lead(
    memory: Memory, call: Run, home: Path, monkeypatch: pytest.MonkeyPatch, link: str
) -> None:
    write(home / BESIDE, ip="charger", unit=5)
    shutil.copy2(str(SCRIPT), str(home / "opt"))
    monkeypatch.setattr(vestel, "__file__", str(linked(home, link)))
    write(home / "bin" / NAME, ip="charger", unit=9)
    monkeypatch.chdir(home / "bin")
    assert_well(call())
    assert reached(memory)["unit"] == 5


def test_a_process_follows_the_links_to_its_file(run: Run, home: Path) -> None:
    write(home / BESIDE, colour="red")
    shutil.copy2(str(SCRIPT), str(home / "opt"))
    script = linked(home, "link to a link")
    write(home / "bin" / NAME, ip="127.0.0.1")
    result = run(script=script, cwd=home / "bin")
    assert result.stderr.startswith(f"WARNING: {home / BESIDE}: colour: ")
    assert "\nERROR: IP not set" in result.stderr
    assert result.returncode == 2


@pytest.mark.parametrize("where", [NAME, f"work/{NAME}", ".vestel_modbus.ini", f"opt/.config/{NAME}"])
def test_a_file_anywhere_else_is_not_read(
    memory: Memory, call: Run, home: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    (home / "work").mkdir()
    write(home / where, ip="charger", nonsense=1)
    monkeypatch.chdir(home / "work")
    assert_error(call(), "IP not set")
    assert memory.targets == []


@pytest.mark.parametrize("relative", [False, True])
def test_config_is_read_instead_of_both(
    memory: Memory, call: Run, home: Path, monkeypatch: pytest.MonkeyPatch, relative: bool
) -> None:
    write(home / BESIDE, ip="127.0.0.9", unit=9, nonsense=1)
    write(home / IN_HOME, ip="127.0.0.9", base=1, nonsense=1)
    path = write(home / "my box.cfg", ip="charger", unit=6)
    monkeypatch.chdir(home)
    assert_well(call("--config", path.name if relative else str(path)))
    assert reached(memory) == {"ip": "charger", **DEFAULTS, "unit": 6}


def test_what_config_lacks_is_not_taken_from_the_other_files(memory: Memory, call: Run, home: Path) -> None:
    write(home / BESIDE, ip="charger")
    write(home / IN_HOME, ip="charger")
    assert_error(call("--config", str(write(home / "other.ini", unit=1))), "IP not set")
    assert memory.targets == []


def test_without_any_file_ip_is_enough(memory: Memory, call: Run) -> None:
    assert_well(call("--ip=charger"))
    assert reached(memory) == {"ip": "charger", **DEFAULTS}


def test_without_any_file_and_without_ip_the_ip_is_not_set(memory: Memory, call: Run) -> None:
    assert_error(call(), "IP not set")
    assert memory.targets == []


@pytest.mark.parametrize("name", [BESIDE, IN_HOME])
def test_demo_reads_no_file(call: Run, home: Path, name: str) -> None:
    (home / name).write_bytes(b"\xff")
    assert_well(call("--demo"))


def test_demo_does_not_look_at_config(call: Run, home: Path) -> None:
    assert_well(call("--demo", "--config", str(home / "missing.ini")))


# --- What it may hold ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "[vestel]\nip = charger\nport = 5020\nunit = 7\n",
        "\ufeff[vestel]\nip = charger\nport = 5020\nunit = 7\n",
        "[vestel]\r\nip = charger\r\nport = 5020\r\nunit = 7\r\n",
        "\ufeff[vestel]\r\nip = charger ; mine\r\nport = 5020\r\n\r\nunit = 7",
        "[vestel]\nip = charger ; Garage\nport = 5020\t; TCP\nunit = 7 ;; ; one",
        "[vestel]\nip = charger # Garage\nport = 5020\t# TCP ; port\nunit = 7 ; 100 % # sure\n",
        "; Wallbox\n# Höhe: 1 m, 50 %\n\n[vestel] ; mine\n ; more\nip=charger\n\nport=5020\n#unit=8\nunit=7",
        "[vestel]\nip: charger\nport : 5020\nunit:7\n",
        "[vestel]\nIP = charger\nPort = 5020\nUNIT =    7   \n",
        "[other]\nip = other\n[vestel]\nip = charger\nport = 5020\nunit = 7\n[more]\nunit = 8\nx = 50%\n",
    ],
    ids=["plain", "BOM", "CRLF", "BOM and CRLF", ";", "#", "comments", "colon", "case", "other sections"],
)
def test_a_file_may_be_written_so(memory: Memory, call: Run, home: Path, text: str) -> None:
    (home / BESIDE).write_bytes(text.encode())
    assert_well(call())
    assert reached(memory) == {"ip": "charger", **DEFAULTS, "port": 5020, "unit": 7}


@pytest.mark.parametrize("value", ["1", "50%", "%(ip)s", "%", "${ip}", ""])
def test_an_unknown_key_is_a_warning_and_the_run_goes_on(
    memory: Memory, call: Run, home: Path, value: str
) -> None:
    path = write(home / BESIDE, ip="charger", unti=value, details="yes")
    result = call()
    assert result.returncode == 0
    assert reached(memory) == {"ip": "charger", **DEFAULTS}
    lines = result.stderr.splitlines()
    assert [line.split(":")[0] for line in lines] == ["WARNING", "WARNING"]
    assert all(str(path) in line for line in lines)
    assert "unti" in lines[0]
    assert "details" in lines[1]


# --- What is wrong with it ----------------------------------------------------------------------


@pytest.mark.parametrize(("key", "value"), cases(REFUSED))
def test_a_bad_value_names_the_file_and_the_key(
    memory: Memory, call: Run, home: Path, key: str, value: str
) -> None:
    path = write(home / "box.ini", **{"ip": "charger", key: value})
    assert_error(call("--config", str(path)), f"{path}: {key}: ")
    assert memory.targets == []


@pytest.mark.parametrize("value", ["50%", "%(port)s", "%(nothing)s", "%%", "%", "${ip}", "5;2", "5#2", "'1'"])
@pytest.mark.parametrize("key", ["port", "unit", "base", "timeout"])
def test_characters_that_mean_something_elsewhere_are_no_more_than_a_bad_value(
    call: Run, home: Path, key: str, value: str
) -> None:
    path = write(home / "box.ini", **{"ip": "charger", key: value})
    assert_error(call("--config", str(path)), f"{path}: {key}: ")


def test_a_bad_value_is_an_error_though_other_keys_are_unknown(call: Run, home: Path) -> None:
    path = write(home / BESIDE, ip="charger", unti=1, unit="x")
    result = call()
    warning, error = result.stderr.splitlines()
    assert (result.returncode, result.stdout) == (2, "")
    assert warning.startswith("WARNING: ")
    assert error.startswith(f"ERROR: {path}: unit: ")


IP = b"[vestel]\nip = 127.0.0.9\n"
MALFORMED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "vestel"),
    "comment only": (b"; [vestel]\n", "vestel"),
    "no section header": (b"ip = 127.0.0.9\n", ""),
    "another section only": (b"[charger]\nip = 127.0.0.9\n", "vestel"),
    "section in another case": (b"[Vestel]\nip = 127.0.0.9\n", "vestel"),
    "open section header": (b"[vestel\nip = 127.0.0.9\n", ""),
    "empty section header": (b"[]\nip = 127.0.0.9\n", ""),
    "section twice": (IP + b"[vestel]\nunit = 1\n", "vestel"),
    "key twice": (IP + b"port = 1\nport = 1\n", "port"),
    "key twice, another case": (IP + b"Port = 1\nport = 2\n", "port"),
    "key without value": (IP + b"port\n", "port"),
    "known keys without value": (b"[vestel]\nip\nport\nunit\n", "ip"),
    "value without key": (IP + b"= 502\n", ""),
    "continued value": (IP + b"  port = 502\n", "ip: "),
    "continued after a blank line": (IP + b"port = 502\n\n  503\n", "port: "),
    "key without value, continued": (b"[vestel]\nip\n  127.0.0.9\n", ""),
    "indented all": (b"  [vestel]\n    ip = 127.0.0.9\n      port = 502\n", "ip: "),
    "broken and escaping": (IP + b"\x1b[31mport\n", ""),
    "Latin-1": (IP + b"port = 502 ; H\xf6he\n", ""),
    "UTF-16": ("[vestel]\nip = 127.0.0.9\n".encode("utf-16"), ""),
    "binary": (bytes(range(256)) * 20, ""),
    "zeros": (bytes(5000), ""),
    "NUL in a value": (b"[vestel]\nip = 127.0.0.9\0\n", "ip: "),
    "JSON": (b'{"ip": "127.0.0.9"}\n', ""),
    "YAML": (b"vestel:\n  ip: 127.0.0.9\n", ""),
    "only carriage returns": (b"[vestel]\rport\r", "port"),
    "many bad lines": (b"[vestel]\n" + b"port\n" * 2000, ""),
}


@pytest.mark.parametrize(("content", "word"), MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_file_is_one_error_that_names_it(
    memory: Memory, call: Run, home: Path, content: bytes, word: str
) -> None:
    path = home / "box.ini"
    path.write_bytes(content)
    assert_error(call("--config", str(path)), f"{path}: ", word)
    assert memory.targets == []


def test_a_process_ends_with_one_error_about_its_file(run: Run, home: Path) -> None:
    path = home / "box.ini"
    path.write_bytes(MALFORMED["broken and escaping"][0])
    assert_error(run("--config", str(path)), f"{path}: ")


@pytest.mark.parametrize("options", [[], ["--ip=charger"]], ids=["without --ip", "with --ip"])
@pytest.mark.parametrize("name", ["missing.ini", "opt", "missing/box.ini", "opt/vestel.py/x", "", "a" * 300])
def test_a_file_that_cannot_be_read_is_an_error(
    memory: Memory, call: Run, home: Path, options: list[str], name: str
) -> None:
    (home / "opt/vestel.py").touch()
    path = str(home / name) if name else ""
    assert_error(call("--config", path, *options), f"{path}: ")
    assert memory.targets == []


@pytest.mark.parametrize("content", [b"\xff", b"", b"[vestel]\nunit = x\n"], ids=["bytes", "empty", "value"])
def test_a_bad_file_is_an_error_though_ip_is_given(
    memory: Memory, call: Run, home: Path, content: bytes
) -> None:
    (home / BESIDE).write_bytes(content)
    assert_error(call("--ip=charger"), f"{home / BESIDE}: ")
    assert memory.targets == []

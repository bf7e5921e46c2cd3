"""Settings: the command line, the configuration file, and what the repository ships of them."""

from __future__ import annotations

import ast
import configparser
import functools
import json
import os
import re
import shutil
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, SCRIPT, Result, Run, Start, eventually
from simulated_charger import SimulatedCharger, dead_host, free_port, late, simulated_charger

NAME = "vestel_modbus.ini"
BESIDE, IN_HOME = f"opt/{NAME}", f".config/{NAME}"
FORMATS = ["human", "json", "prometheus"]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The home directory of the process, with a vestel.py of its own in opt/."""
    (tmp_path / "opt").mkdir()
    (tmp_path / ".config").mkdir()
    shutil.copy2(SCRIPT, tmp_path / "opt")
    return tmp_path.resolve()


@pytest.fixture
def run(run: Run, home: Path) -> Run:
    """Run that copy, so that a configuration file in the checkout has no say."""
    return functools.partial(run, script=home / "opt/vestel.py")


def write(path: Path, **settings: Any) -> Path:
    """Write a configuration file."""
    lines = [f"{key} = {value}\n" for key, value in settings.items()]
    path.write_text("[vestel]\n" + "".join(lines), encoding="utf-8")
    return path


def address(charger: SimulatedCharger) -> dict[str, Any]:
    """Where the charger is, as settings."""
    return {"ip": charger.host, "port": charger.port}


def seen(charger: SimulatedCharger) -> tuple[set[int], int]:
    """The unit ids that reached the charger, and the first register that was asked for."""
    return {request.unit for request in charger.requests}, charger.requests[0].address


def assert_usage_error(result: Result[str], about: str) -> None:
    """The run ended in argparse's usage error, whose last line says what it is about."""
    lines = result.stderr.splitlines()
    assert (result.returncode, result.stdout) == (2, "")
    assert lines[0].startswith("usage: vestel.py ")
    assert lines[-1].startswith("vestel.py: error: ")
    assert about in lines[-1]
    assert "Traceback" not in result.stderr


def assert_error(result: Result[str], beginning: str, *words: str) -> None:
    """The run ended in one ERROR line about the configuration."""
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith(f"ERROR: {beginning}")
    assert result.stderr.endswith("\n")
    assert result.stderr[:-1].isprintable(), "more than a line, or a control character"
    for word in words:
        assert word in result.stderr[len(f"ERROR: {beginning}") :]


# --- Command line -----------------------------------------------------------------------------

NO_NUMBERS = ["", "x", "nan", "inf", "-inf", "1_6", "١٦", "²", "0x10", "1,6", "1 6", "--1"]
NO_WHOLE_NUMBERS = [*NO_NUMBERS, "1.5", "16.0", "1e1"]
REFUSED = {
    "ip": [
        "",
        " ",
        "[]",
        "[::1",
        "::1]",
        "10.0.0.1:502",
        "[::1]:502",
        "a b",
        "a,b",
        "10.0.0.1/24",
        "http://10.0.0.1",
        '"10.0.0.1"',
        "user@host",
    ],
    "port": [*NO_WHOLE_NUMBERS, "0", "-1", "65536", "10.0.0.1:502", "9" * 5000],
    "unit": [*NO_WHOLE_NUMBERS, "-1", "256"],
    "base": [*NO_WHOLE_NUMBERS, "-1", "2", "true"],
    "timeout": [*NO_NUMBERS, "0", "0.0", "-0.0", "-1", "1e999", "1e-999", "2s", "two"],
}
REFUSED_OPTIONS = {
    **REFUSED,
    "format": ["", "xml", "JSON", "human,json"],
    "watch": [*NO_NUMBERS, "0", "0.99", "-5", "1e999"],
    "listen": [
        *NO_WHOLE_NUMBERS,
        "0",
        "-1",
        "65536",
        "localhost:",
        "localhost:http",
        "localhost:0",
        "localhost:65536",
        "a:b:80",
        "[::1]",
        "[::1]:",
        "[::1]:x",
        "[::1",
        "a b:80",
        "http://a:80",
    ],
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


@pytest.mark.parametrize(("option", "value"), cases(REFUSED_OPTIONS))
def test_a_bad_value_of_an_option_is_a_usage_error(
    charger: SimulatedCharger, run: Run, option: str, value: str
) -> None:
    assert_usage_error(run(f"--{option}={value}", charger=charger), f"argument --{option}: ")
    assert charger.connections == 0


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
    charger: SimulatedCharger, run: Run, options: list[str], about: str
) -> None:
    assert_usage_error(run(*options, charger=charger), about)
    assert charger.connections == 0


@pytest.mark.parametrize("option", ["--set-current", "--set-dynamic-current", "--set-failsafe-current"])
@pytest.mark.parametrize("amps", ["33", "65535"])
def test_whole_amperes_above_the_range_are_a_refused_current(
    charger: SimulatedCharger, run: Run, option: str, amps: str
) -> None:
    result = run(option, amps, charger=charger)
    assert (result.returncode, result.stdout, charger.writes) == (3, "", [])
    assert result.stderr.startswith("ERROR: failed writing current: ")


@pytest.mark.parametrize("value", ["1", "1.0", "1.5", "3600"])
def test_watch_takes_a_second_and_more(charger: SimulatedCharger, start: Start, value: str) -> None:
    running = start("--watch", value, "--format", "json", charger=charger)
    reading = json.loads(eventually(lambda: running.out)[0])
    assert reading["identity"]["serial"] == "VEST1234567890"


@pytest.mark.parametrize("host", ["", "127.0.0.1:", "localhost:", "[::1]:"])
def test_listen_takes_a_port_or_a_host_and_a_port(start: Start, host: str) -> None:
    port = free_port()
    start("--demo", "--listen", f"{host}{port}")

    def is_served() -> bool:
        with socket.socket(socket.AF_INET6 if host == "[::1]:" else socket.AF_INET) as client:
            return client.connect_ex(("::1" if host == "[::1]:" else "127.0.0.1", port)) == 0

    eventually(is_served)


@pytest.mark.parametrize("style", FORMATS)
def test_format_takes_each_format(run: Run, style: str) -> None:
    beginnings = {"human": "== Identity ==\n", "json": '{"timestamp": ', "prometheus": "# HELP vestel_"}
    result = run("--demo", "--format", style)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith(beginnings[style])


def test_human_is_the_default_format(run: Run) -> None:
    assert run("--demo").stdout.startswith("== Identity ==\n")


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_names_every_option_and_needs_nothing(run: Run, option: str) -> None:
    result = run(option, "--config", "/missing")
    assert (result.returncode, result.stderr) == (0, "")
    assert set(re.findall(r"(?<!\S)\[?(--?[a-z-]+)", result.stdout)) >= {
        *("-h", "--help", "--version", "-v", "--config", "--ip", "--port", "--unit", "--base"),
        *("--timeout", "--format", "--details", "--set-current", "--set-dynamic-current"),
        *("--set-failsafe-current", "--watch", "--listen", "--demo"),
    }


def test_version_is_a_name_and_a_number(run: Run) -> None:
    result = run("--version")
    assert (result.returncode, result.stderr) == (0, "")
    assert re.fullmatch(r"vestel\.py \d+\.\d+\.\d+\n", result.stdout)


def test_v_logs_connection_requests_and_replies_in_hex_beside_the_reading(
    charger: SimulatedCharger, run: Run
) -> None:
    quiet, verbose = run(charger=charger), run("-v", charger=charger)
    assert (verbose.returncode, verbose.stdout, quiet.stderr) == (0, quiet.stdout, "")
    log = verbose.stderr.replace(" ", "").lower()
    assert f"{charger.host}:{charger.port}" in log
    assert "0400640019" in log  # function 4, address 100, count 25
    assert "0432005600450053" in log  # 50 bytes: "VES..."
    assert len(log.splitlines()) >= 15  # a connection, 7 requests and 7 replies


# --- Each setting, as an option and in the file -----------------------------------------------


@pytest.fixture(params=["option", "file", "option over file"])
def apply(request: pytest.FixtureRequest, run: Run, home: Path) -> Run:
    """Run with settings: given as options, in the file, or as options over other ones there."""

    def run_with(*options: str, **settings: Any) -> Result[str]:
        if request.param == "file":
            write(home / BESIDE, **settings)
            return run(*options)
        if request.param == "option over file":
            others = {"ip": "127.0.0.9", "port": 1, "unit": 9, "base": 0, "timeout": 0.001}
            write(home / BESIDE, **others)
        return run(*(f"--{key}={value}" for key, value in settings.items()), *options)

    return run_with


def test_every_setting_reaches_the_charger(charger: SimulatedCharger, apply: Run) -> None:
    charger.base = 1
    charger.fault(late(0.3), address=5003)
    result = apply("--format=json", **address(charger), unit=17, base=1, timeout=60)
    assert (result.returncode, result.stderr) == (0, "")
    assert json.loads(result.stdout)["settings"]["dynamic_current_a"] == 16
    assert seen(charger) == ({17}, 99)


def test_the_timeout_ends_the_wait_for_a_reply(charger: SimulatedCharger, apply: Run) -> None:
    charger.fault(late(1.5), address=5004)
    result = apply("--format=json", **address(charger), unit=1, timeout=0.4)
    assert result.returncode == 0
    assert json.loads(result.stdout)["settings"]["dynamic_current_a"] is None


@pytest.mark.parametrize(
    ("key", "value", "units", "first"),
    [
        ("unit", 0, 0, 100),
        ("unit", 1, 1, 100),
        ("unit", 255, 255, 100),
        ("base", 0, 1, 100),
        ("base", 1, 1, 99),
    ],
)
def test_the_bounds_of_a_setting_are_taken(
    charger: SimulatedCharger, apply: Run, key: str, value: int, units: int, first: int
) -> None:
    charger.base = 100 - first
    settings = {"unit": 1, "base": 0, "timeout": 30, **address(charger), key: value}
    result = apply(**settings)
    assert (result.returncode, result.stderr) == (0, "")
    assert seen(charger) == ({units}, first)


@pytest.mark.parametrize("port", [1, 65535])
def test_the_bounds_of_the_port_are_taken(apply: Run, port: int) -> None:
    result = apply(ip="127.0.0.2", port=port, timeout=30)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith(f"ERROR: Cannot connect to 127.0.0.2:{port}: ")


@pytest.mark.parametrize("ip", ["127.0.0.1", "localhost", "LOCALHOST"])
def test_ip_takes_an_ipv4_address_and_a_host_name(charger: SimulatedCharger, apply: Run, ip: str) -> None:
    assert apply(ip=ip, port=charger.port, unit=1, timeout=30).returncode == 0
    assert seen(charger) == ({1}, 100)


@pytest.mark.parametrize("ip", ["::1", "[::1]", "0:0:0:0:0:0:0:1"])
def test_ip_takes_an_ipv6_address(apply: Run, ip: str) -> None:
    with simulated_charger(ipv6=True) as charger:
        assert apply(ip=ip, port=charger.port, unit=1, timeout=30).returncode == 0
        assert seen(charger) == ({1}, 100)


def test_defaults_are_unit_1_and_base_0(charger: SimulatedCharger, run: Run) -> None:
    result = run(charger=charger)
    assert (result.returncode, result.stderr) == (0, "")
    assert seen(charger) == ({1}, 100)


def test_the_default_port_is_502(run: Run) -> None:
    result = run("--ip", "127.0.0.2")
    assert result.stderr.startswith("ERROR: Cannot connect to 127.0.0.2:502: ")


def test_the_default_timeout_is_2_seconds(run: Run) -> None:
    with dead_host() as port:
        began = time.monotonic()
        result = run("--ip=127.0.0.1", f"--port={port}")
        took = time.monotonic() - began
    assert result.returncode == 1
    assert 2 <= took < 3.9


# --- Where the file is looked for -------------------------------------------------------------


def test_the_file_beside_the_script_is_used_alone(charger: SimulatedCharger, run: Run, home: Path) -> None:
    write(home / BESIDE, **address(charger))
    write(home / IN_HOME, ip="127.0.0.9", unit=9, base=1, nonsense=1)
    result = run()
    assert (result.returncode, result.stderr) == (0, "")
    assert seen(charger) == ({1}, 100)


def test_what_the_first_file_lacks_is_not_taken_from_the_second(
    charger: SimulatedCharger, run: Run, home: Path
) -> None:
    write(home / BESIDE, unit=3)
    write(home / IN_HOME, **address(charger))
    assert_error(run(), "IP not set")


@pytest.mark.parametrize("spoil", [Path.mkdir, Path.touch], ids=["directory", "empty"])
def test_a_first_file_that_is_no_good_is_an_error_though_the_second_is_good(
    charger: SimulatedCharger, run: Run, home: Path, spoil: Any
) -> None:
    spoil(home / BESIDE)
    write(home / IN_HOME, **address(charger))
    assert_error(run(), f"{home / BESIDE}: ")
    assert charger.connections == 0


def test_without_a_file_beside_the_script_the_one_in_home_is_used(
    charger: SimulatedCharger, run: Run, home: Path
) -> None:
    write(home / IN_HOME, **address(charger), unit=4)
    result = run()
    assert (result.returncode, result.stderr) == (0, "")
    assert seen(charger) == ({4}, 100)


@pytest.mark.parametrize("link", ["absolute", "relative", "link to a link"])
def test_beside_the_script_means_where_its_links_lead(
    charger: SimulatedCharger, run: Run, home: Path, link: str
) -> None:
    write(home / BESIDE, **address(charger), unit=5)
    (home / "bin").mkdir()
    write(home / "bin" / NAME, **address(charger), unit=9)
    script = home / "bin/vestel.py"
    script.symlink_to(home / "opt/vestel.py" if link == "absolute" else Path("../opt/vestel.py"))
    if link == "link to a link":
        script = home / "wallbox"
        script.symlink_to("bin/vestel.py")
    result = run(script=script, cwd=home / "bin")
    assert (result.returncode, result.stderr) == (0, "")
    assert seen(charger) == ({5}, 100)


@pytest.mark.parametrize("where", [NAME, f"work/{NAME}", ".vestel_modbus.ini", f"opt/.config/{NAME}"])
def test_a_file_anywhere_else_is_not_read(
    charger: SimulatedCharger, run: Run, home: Path, where: str
) -> None:
    (home / "opt/.config").mkdir()
    (home / "work").mkdir()
    write(home / where, **address(charger), nonsense=1)
    assert_error(run(cwd=home / "work"), "IP not set")
    assert charger.connections == 0


@pytest.mark.parametrize("relative", [False, True])
def test_config_is_read_instead_of_both(
    charger: SimulatedCharger, run: Run, home: Path, relative: bool
) -> None:
    write(home / BESIDE, ip="127.0.0.9", unit=9, nonsense=1)
    write(home / IN_HOME, ip="127.0.0.9", base=1, nonsense=1)
    path = write(home / "my box.cfg", **address(charger), unit=6)
    result = run("--config", path.name if relative else str(path), cwd=home)
    assert (result.returncode, result.stderr) == (0, "")
    assert seen(charger) == ({6}, 100)


def test_what_config_lacks_is_not_taken_from_the_other_files(
    charger: SimulatedCharger, run: Run, home: Path
) -> None:
    write(home / BESIDE, **address(charger))
    write(home / IN_HOME, **address(charger))
    assert_error(run("--config", str(write(home / "other.ini", unit=1))), "IP not set")


def test_without_any_file_ip_is_enough(charger: SimulatedCharger, run: Run, home: Path) -> None:
    (home / ".config").rmdir()
    result = run(charger=charger)
    assert (result.returncode, result.stderr) == (0, "")


def test_without_any_file_and_without_ip_the_ip_is_not_set(run: Run) -> None:
    assert_error(run(), "IP not set")


@pytest.mark.parametrize("name", [BESIDE, IN_HOME])
def test_demo_reads_no_file(run: Run, home: Path, name: str) -> None:
    (home / name).write_bytes(b"\xff")
    result = run("--demo")
    assert (result.returncode, result.stderr) == (0, "")


def test_demo_does_not_look_at_config(run: Run, home: Path) -> None:
    assert run("--demo", "--config", str(home / "missing.ini")).returncode == 0


# --- What the file may hold -------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "[vestel]\nip = {ip}\nport = {port}\nunit = 7\n",
        "\ufeff[vestel]\nip = {ip}\nport = {port}\nunit = 7\n",
        "[vestel]\r\nip = {ip}\r\nport = {port}\r\nunit = 7\r\n",
        "\ufeff[vestel]\r\nip = {ip} ; mine\r\nport = {port}\r\n\r\nunit = 7",
        "[vestel]\nip = {ip} ; Garage\nport = {port}\t; TCP\nunit = 7 ;; ; one",
        "[vestel]\nip = {ip} # Garage\nport = {port}\t# TCP ; port\nunit = 7 ; 100 % # sure\n",
        "; Wallbox\n# Höhe: 1,2 m, 50 %\n\n[vestel] ; mine\n ; more\nip={ip}\n\nport={port}\n#unit=8\nunit=7",
        "[vestel]\nip: {ip}\nport : {port}\nunit:7\n",
        "[vestel]\nIP = {ip}\nPort = {port}\nUNIT =    7   \n",
        "[other]\nip = 127.0.0.9\n[vestel]\nip = {ip}\nport = {port}\nunit = 7\n[more]\nunit = 8\nx = 50%\n",
    ],
    ids=["plain", "BOM", "CRLF", "BOM and CRLF", ";", "#", "comments", "colon", "case", "other sections"],
)
def test_a_file_may_be_written_so(charger: SimulatedCharger, run: Run, home: Path, text: str) -> None:
    (home / BESIDE).write_bytes(text.format(**address(charger)).encode())
    result = run()
    assert (result.returncode, result.stderr) == (0, "")
    assert seen(charger) == ({7}, 100)


@pytest.mark.parametrize("value", ["1", "50%", "%(ip)s", "%", "${ip}", ""])
def test_an_unknown_key_is_a_warning_and_the_run_goes_on(
    charger: SimulatedCharger, run: Run, home: Path, value: str
) -> None:
    path = write(home / BESIDE, **address(charger), unti=value, details="yes")
    result = run("--format=json")
    assert result.returncode == 0
    assert json.loads(result.stdout)["identity"]["serial"] == "VEST1234567890"
    lines = result.stderr.splitlines()
    assert [line.split(":")[0] for line in lines] == ["WARNING", "WARNING"]
    assert all(str(path) in line for line in lines)
    assert "unti" in lines[0]
    assert "details" in lines[1]


@pytest.mark.parametrize(("key", "value"), cases(REFUSED))
def test_a_bad_value_names_the_file_and_the_key(run: Run, home: Path, key: str, value: str) -> None:
    path = write(home / "box.ini", **{"ip": "127.0.0.9", key: value})
    assert_error(run("--config", str(path)), f"{path}: {key}: ")


@pytest.mark.parametrize("value", ["50%", "%(port)s", "%(nothing)s", "%%", "%", "${ip}", "5;2", "5#2", "'1'"])
@pytest.mark.parametrize("key", ["port", "unit", "base", "timeout"])
def test_characters_that_mean_something_elsewhere_are_no_more_than_a_bad_value(
    run: Run, home: Path, key: str, value: str
) -> None:
    path = write(home / "box.ini", **{"ip": "127.0.0.9", key: value})
    assert_error(run("--config", str(path)), f"{path}: {key}: ")


def test_a_bad_value_is_an_error_though_other_keys_are_unknown(run: Run, home: Path) -> None:
    path = write(home / BESIDE, ip="127.0.0.9", unti=1, unit="x")
    result = run()
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
def test_a_malformed_file_is_one_error_that_names_it(run: Run, home: Path, content: bytes, word: str) -> None:
    path = home / "box.ini"
    path.write_bytes(content)
    assert_error(run("--config", str(path)), f"{path}: ", word)


@pytest.mark.parametrize("options", [[], ["--ip=127.0.0.1"]], ids=["without --ip", "with --ip"])
@pytest.mark.parametrize("name", ["missing.ini", "opt", "missing/box.ini", "opt/vestel.py/x", "", "a" * 300])
def test_a_file_that_cannot_be_read_is_an_error(run: Run, home: Path, options: list[str], name: str) -> None:
    path = str(home / name) if name else ""
    assert_error(run("--config", path, *options), f"{path}: ")


@pytest.mark.parametrize("content", [b"\xff", b"", b"[vestel]\nunit = x\n"], ids=["bytes", "empty", "value"])
def test_a_bad_file_is_an_error_though_ip_is_given(
    charger: SimulatedCharger, run: Run, home: Path, content: bytes
) -> None:
    (home / BESIDE).write_bytes(content)
    assert_error(run(charger=charger), f"{home / BESIDE}: ")
    assert charger.connections == 0


# --- What the repository ships ----------------------------------------------------------------

EXAMPLE = ROOT / "vestel_modbus.ini.example"


def test_the_example_file_is_accepted_as_it_stands(charger: SimulatedCharger, run: Run, home: Path) -> None:
    shutil.copy(EXAMPLE, home / BESIDE)
    result = run(charger=charger)
    assert (result.returncode, result.stderr) == (0, "")
    assert seen(charger) == ({1}, 100)


def test_the_example_file_holds_every_key_with_its_default() -> None:
    parser = configparser.ConfigParser(interpolation=None, inline_comment_prefixes=(";", "#"))
    parser.read(EXAMPLE, encoding="utf-8")
    keys = {"ip": "192.168.1.100", "port": "502", "unit": "1", "base": "0", "timeout": "2.0"}
    assert {name: dict(parser[name]) for name in parser.sections()} == {"vestel": keys}


def test_script_metadata_and_requirements_agree() -> None:
    (block,) = re.findall(r"^# /// script\n((?:#(?: .*)?\n)+)# ///$", SCRIPT.read_text("utf-8"), re.MULTILINE)
    pairs = (line[2:].split(" = ", 1) for line in block.splitlines())
    metadata = {name: ast.literal_eval(value) for name, value in pairs}
    requirements = (ROOT / "requirements.txt").read_text("utf-8").splitlines()
    assert metadata == {"requires-python": ">=3.8", "dependencies": ["pymodbus>=3.0,<4"]}
    assert requirements == metadata["dependencies"]


def test_the_top_level_holds_only_what_a_user_looks_for() -> None:
    made_by_use = {"__pycache__", NAME}  # both are in .gitignore
    names = {name for name in os.listdir(ROOT) if not name.startswith(".")} - made_by_use
    assert names == {
        *("vestel.py", "vestel_modbus.ini.example", "tests"),
        *("README.md", "LICENSE", "requirements.txt"),
    }


def test_the_script_is_executable_and_finds_its_python() -> None:
    assert os.access(SCRIPT, os.X_OK)
    assert SCRIPT.read_bytes().startswith(b"#!/usr/bin/env python3\n")

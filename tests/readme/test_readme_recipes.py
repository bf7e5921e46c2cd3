"""README.md's recipes around the service: night, energy limit, solar surplus, systemd, MQTT."""

from __future__ import annotations

import contextlib
import json
import subprocess
from pathlib import Path
from typing import Any, Iterator

import jinja2
import pytest
import yaml  # type: ignore[import-untyped, unused-ignore]
from charger import SimulatedCharger
from desk import Desk, answering
from door import free_port
from manual import block, cron_commands, prose, spans, unit
from program import JSON, accepts, eventually, needs
from registers import DYNAMIC, FAILSAFE
from world import MakeWorld

import vestel


@pytest.fixture
def desk(tmp_path: Path, charger: SimulatedCharger) -> Desk:
    needs("jq", "jq")
    needs("curl", "curl")
    return Desk(tmp_path, charger)


# --- The service --------------------------------------------------------------------------------


def test_service_serves_and_holds_what_the_lines_of_cron_write(desk: Desk) -> None:
    start = unit("Run it as a service")["ExecStart"]
    assert start.endswith(" --listen 9946 --hold /opt/vestel/amps")
    assert desk.shell(block("Run it as a service", "sh", 1)).status == 0
    assert desk.amps == ""
    assert "systemctl enable --now vestel.service\n" in desk.log.read_text()
    with desk.running(f"exec {start}"):
        eventually(lambda: desk.get(JSON).status == 200)
        assert desk.shell(block("Run it as a service", "sh", 2)) == (0, "70501\n", "")
        assert desk.charger.settings == []
        (write,) = [one for one in spans(prose("Run it as a service")) if one.startswith("echo ")]
        night, morning = cron_commands(block("A lower current at night", "crontab", 1))
        for command, amperes in ((write, 10), (night, 6), (morning, 16)):
            assert desk.cron(command) == (0, "", "")
            eventually(lambda wanted=amperes: desk.charger[DYNAMIC] == wanted)  # type: ignore[misc]
    assert {address for address, _ in desk.charger.settings} == {DYNAMIC}
    assert desk.charger.connections == 1


UNITS = ["Run it as a service", "Use the solar surplus", "MQTT"]


@pytest.mark.parametrize("heading", UNITS)
def test_unit_of_systemd_is_valid(desk: Desk, heading: str) -> None:
    analyze = needs("systemd-analyze", "systemd")
    (desk.opt / "surplus.sh").touch()
    path = desk.home / "it.service"
    path.write_text(desk.here(block(heading, "ini")).replace("YOU", "root"))
    assert desk.run(analyze, "verify", str(path)) == (0, "", "")
    assert unit(heading)["WantedBy"] == "multi-user.target"


def test_service_has_few_rights_and_ends_on_wrong_configuration(desk: Desk) -> None:
    analyze = needs("systemd-analyze", "systemd")
    path = desk.home / "vestel.service"
    path.write_text(block("Run it as a service", "ini"))
    rated = desk.run(analyze, "security", "--offline=true", "--threshold=25", str(path))
    if "unrecognized option" in rated.err:
        pytest.skip("systemd-analyze security --offline needs systemd 250")
    assert rated.status == 0, rated.out[-200:]  # an exposure of at most 2.5
    lines = unit("Run it as a service")
    assert (lines["Restart"], lines["RestartPreventExitStatus"]) == ("on-failure", "2")
    assert {unit(heading)["Restart"] for heading in UNITS[1:]} == {"always"}


# --- The night, without the service -------------------------------------------------------------


def test_night_sets_both_currents_and_says_so(desk: Desk) -> None:
    night, morning = cron_commands(block("A lower current at night", "crontab", 2))
    lower = "Dynamic current: 16 A -> 6 A\nFailsafe current: 10 A -> 6 A\n"
    higher = "Dynamic current: 6 A -> 16 A\nFailsafe current: 6 A -> 16 A\n"
    assert desk.cron(night) == (0, "", lower)
    assert desk.cron(morning) == (0, "", higher)
    assert desk.charger.settings == [(DYNAMIC, 6), (FAILSAFE, 6), (DYNAMIC, 16), (FAILSAFE, 16)]


def test_night_is_tried_three_times(desk: Desk) -> None:
    night, _ = cron_commands(block("A lower current at night", "crontab", 2))
    desk.charger.resets_next = 4
    failed, again, *printed = desk.cron(night).err.splitlines()
    assert failed.startswith("ERROR: failed writing current: ")
    assert again == failed
    assert printed == ["Dynamic current: 16 A -> 6 A", "Failsafe current: 10 A -> 6 A"]
    assert desk.slept == ["300", "300"]


# --- So many kWh, and the solar surplus ---------------------------------------------------------


def reading(**values: Any) -> str:
    """Return a reading as the service serves it, of what these recipes look at."""
    kwh, cable, state, used = (values.get(name) for name in ("kwh", "cable", "state", "used"))
    whole = {
        "session": {"energy_kwh": kwh},
        "states": {"cable": {"code": cable}, "chargepoint": {"code": state}},
        "electrical": {"power": {"total_w": used}},
    }
    return json.dumps(whole) + "\n"


def test_session_pauses_at_so_many_kwh(desk: Desk) -> None:
    (desk.opt / "amps").write_text("16\n")
    rounds = [
        ({"kwh": 9.99, "cable": 3, "state": 2}, "16\n"),
        ({"kwh": 10.0, "cable": 3, "state": 2}, "0\n"),
        ({"kwh": 10.0, "cable": 3, "state": 3}, "0\n"),
        ({}, "0\n"),  # the charger does not answer
        ({"kwh": 10.0, "cable": 0, "state": 0}, "16\n"),  # disconnected
        ({"kwh": 10.0, "cable": 2, "state": 1}, "16\n"),  # the next vehicle, and the old counter
        ({"kwh": 0.1, "cable": 3, "state": 2}, "16\n"),
        ({"kwh": 12.5, "cable": 3, "state": 2}, "0\n"),
    ]
    answers = {JSON: ""}
    recipe = block("Stop at so many kWh", "sh")
    with answering(answers) as desk.service.port, desk.running(recipe, steps=True) as it:
        for values, amperes in rounds:
            answers[JSON] = reading(**values)
            it.step()
            eventually(lambda wanted=amperes: desk.amps == wanted)  # type: ignore[misc]


# The power at the meter (W; "" where it does not answer) and of the vehicle, for how many rounds,
# and the current after all but the last of them, and after the last.
SURPLUS = [
    *[(-3900.2, 0, 1, "", "0"), (-4200.4, 0, 10, "0", "6"), (-100, 4830, 1, "", "7")],
    *[(-4000, 4830, 1, "", "12"), (-20000, 8280, 1, "", "16"), (3000, 11040, 1, "", "11")],
    *[(5000, 7590, 5, "6", "6"), (0, 4830, 1, "", "7")],  # a cloud
    *[("", 4830, 10, "6", "0"), (-5000, "", 1, "", "0"), (-5000, 0, 1, "", "0")],
]


def test_surplus_goes_to_the_vehicle_and_pauses_late(desk: Desk) -> None:
    (desk.opt / "amps").write_text("16\n")
    answers = {JSON: "", "/status": ""}
    with answering(answers) as desk.service.port:
        desk.meter = desk.service.port
        with desk.running(block("Use the solar surplus", "sh"), steps=True) as it:
            eventually(lambda: desk.amps == "0\n")
            for grid, used, rounds, before, after in SURPLUS:
                answers["/status"] = "" if grid == "" else json.dumps({"total_power": grid})
                answers[JSON] = "" if used == "" else reading(used=used)
                for n in range(rounds):
                    it.step()
                    assert desk.amps == f"{after if n == rounds - 1 else before}\n", (grid, used, n)


def test_surplus_ends_with_a_pause(desk: Desk) -> None:
    lines = unit("Use the solar surplus")
    assert lines["ExecStart"] == "/bin/sh /opt/vestel/surplus.sh"
    (desk.opt / "amps").write_text("16\n")
    assert desk.shell(lines["ExecStopPost"]).status == 0
    assert desk.amps == "0\n"


@pytest.mark.parametrize("heading", ["Use the solar surplus", "Stop at so many kWh"])
def test_shellcheck_has_nothing_to_say(desk: Desk, heading: str) -> None:
    shellcheck = needs("shellcheck", "shellcheck")
    (desk.home / "it.sh").write_text(block(heading, "sh"))
    assert desk.run(shellcheck, "--shell=sh", str(desk.home / "it.sh")) == (0, "", "")


# --- MQTT ---------------------------------------------------------------------------------------


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[int]:
    """Run a broker; give its port."""
    mosquitto = needs("mosquitto", "mosquitto")
    needs("mosquitto_pub", "mosquitto-clients")
    port = free_port()
    conf = tmp_path / "mosquitto.conf"
    conf.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\n")
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([mosquitto, "-c", str(conf)], **quiet) as process:
        try:
            eventually(lambda: accepts("127.0.0.1", port))
            yield port
        finally:
            process.terminate()


SENSORS = {"Wallbox state": "Charging", "Wallbox power": "70501", "Wallbox meter": "121682.1"}
ENERGY = {  # what the energy dashboard of Home Assistant needs
    "Wallbox state": (None, None, None),
    "Wallbox power": ("power", "measurement", "W"),
    "Wallbox meter": ("energy", "total_increasing", "kWh"),
}


def rendered(template: str, **names: Any) -> str:
    """Return what Home Assistant makes of a template; raises where it names what is not there."""
    strict = jinja2.Environment(undefined=jinja2.StrictUndefined)
    return strict.from_string(template).render(**names)


def about(sensors: Any) -> dict[str, Any]:
    keys = ("device_class", "state_class", "unit_of_measurement")
    assert len({sensor["unique_id"] for sensor in sensors}) == len(sensors)
    return {sensor["name"]: tuple(sensor.get(key) for key in keys) for sensor in sensors}


@pytest.mark.parametrize("with_service", [False, True], ids=["without service", "with service"])
def test_readings_come_by_mqtt(desk: Desk, broker: int, with_service: bool) -> None:
    desk.broker = broker
    start = unit("MQTT")["ExecStart"]
    script = start if with_service else block("MQTT", "sh")
    assert " -r" not in script  # an old reading would look like a new one
    service = unit("Run it as a service")["ExecStart"]
    with contextlib.ExitStack() as stack:
        if with_service:
            stack.enter_context(desk.running(f"exec {service}"))
            eventually(lambda: desk.get(JSON).status == 200)
        listener = "exec mosquitto_sub -v -t 'vestel'"
        listening = stack.enter_context(desk.running(listener))
        stack.enter_context(desk.running(script.replace("--watch 10", "--watch 1")))
        eventually(lambda: "}\n" in listening.out)
    message = json.loads(listening.out.splitlines()[0].partition(" ")[2])
    sensors = yaml.safe_load(block("MQTT", "yaml"))["mqtt"]["sensor"]
    assert {sensor["state_topic"] for sensor in sensors} == {"vestel"}
    assert {sensor["expire_after"] for sensor in sensors} == {60}
    shown = {one["name"]: rendered(one["value_template"], value_json=message) for one in sensors}
    assert (shown, about(sensors)) == (SENSORS, ENERGY)


def test_current_is_set_by_mqtt(desk: Desk, broker: int) -> None:
    desk.broker = broker
    (command,) = [one for one in spans(prose("MQTT")) if one.startswith("mosquitto_sub ")]
    with desk.running(command):
        publish = "mosquitto_pub -q 1 -t vestel/set -m 9"
        path = desk.opt / "amps"

        def arrived() -> bool:
            assert desk.shell(publish, env={**desk.environment, "BROKER": str(broker)}).status == 0
            return path.exists() and path.read_text() == "9\n"

        eventually(arrived)


# --- Home Assistant without MQTT ----------------------------------------------------------------


def test_sensors_show_the_reading_or_are_unavailable(world: MakeWorld) -> None:
    """Home Assistant renders both templates, also while the service is gone or has no reading."""
    (rest,) = yaml.safe_load(block("Home Assistant", "yaml"))["rest"]
    assert rest["resource"] == f"http://127.0.0.1:9946{JSON}"
    it = world(measuring=False)

    def shown() -> dict[str, str]:
        body = json.loads(vestel.respond(JSON, it.poller)[2])
        values = {}
        for sensor in rest["sensor"]:
            value = rendered(sensor["value_template"], value_json=body)
            available = rendered(sensor["availability"], value_json=body)
            values[sensor["name"]] = value if available == "True" else available
        return values

    assert shown() == dict.fromkeys(SENSORS, "False")
    it.read()
    assert (shown(), about(rest["sensor"])) == (SENSORS, ENERGY)
    for name, address in (("state", 1000), ("power", 1020), ("meter", 1036)):
        it.charger.unsupported = {("input", address)}
        it.play(6)
        assert shown() == {**SENSORS, f"Wallbox {name}": "False"}
    it.charger.away = "refused"
    it.charger.cut()
    it.play(6)
    assert shown() == dict.fromkeys(SENSORS, "False")
    assert {rendered(sensor["availability"]) for sensor in rest["sensor"]} == {"False"}

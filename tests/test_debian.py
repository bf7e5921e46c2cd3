"""The pymodbus that Debian and Raspberry Pi OS ship, under their own Python."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from conftest import READING, SCRIPT, needs
from simulated_charger import SimulatedCharger


def test_the_distributions_own_package_reads_a_charger(charger: SimulatedCharger, tmp_path: Path) -> None:
    needs("dpkg", "dpkg")
    python = "/usr/bin/python3"
    probe = subprocess.run(
        [python, "-c", "import pymodbus.client; print(pymodbus.__file__)"],
        stdout=subprocess.PIPE,
        cwd=str(tmp_path),
        encoding="utf-8",
        check=False,
    )
    if probe.returncode:
        needs("python3-pymodbus", "python3-pymodbus")
    assert probe.stdout.startswith("/usr/lib/python3/dist-packages/")
    target = ["--ip", charger.host, "--port", str(charger.port)]
    result = subprocess.run(
        [python, str(SCRIPT), *target, "--format=json"],
        capture_output=True,
        encoding="utf-8",
        env={"HOME": str(tmp_path)},
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")
    reading = json.loads(result.stdout)
    del reading["timestamp"]
    assert reading == READING
    assert (charger.connections, len(charger.requests)) == (1, 7)

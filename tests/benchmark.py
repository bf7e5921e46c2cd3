"""How fast vestel.py is, beside a minimal pymodbus script that makes the same requests.

    python tests/benchmark.py [--runs N]

Whole processes are measured, the contenders in turn within each round, against the simulated
charger. It prints wall time and peak memory with their ratios, then the difference where each
reply takes 20 ms, then how --listen serves, also where each reply takes 1.3 s. Needs Linux (for
os.wait4 and /proc).
To reach: JSON at most 1.15 x minimal, --help at most 0.5 x, memory at most 1.25 x, one
connection and 7 requests; with --listen the same scrapes per second whatever the charger does,
none of them with vestel_up 0, and memory that stays.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import NamedTuple

from simulated_charger import INPUT, SimulatedCharger, free_port, simulated_charger

SCRIPT = Path(__file__).resolve().parent.parent / "vestel.py"
MINIMAL = """\
import sys
from pymodbus.client import ModbusTcpClient
client = ModbusTcpClient("127.0.0.1", port=int(sys.argv[1]))
client.connect()
for address, count in ((100, 25), (400, 5), (1000, 38), (1100, 7), (1502, 12)):
    print(client.read_input_registers(address, count=count, {unit}=1).registers)
for address, count in ((2000, 3), (5004, 1)):
    print(client.read_holding_registers(address, count=count, {unit}=1).registers)
client.close()
"""


UP = "\nvestel_up 1\n"


class Measured(NamedTuple):
    """One process: wall time (ms) and peak memory (MiB)."""

    wall: float
    peak: float


LAUNCH = """\
import os, sys, time
start = time.perf_counter()
pid = os.fork()
if not pid:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.execv(sys.argv[1], sys.argv[1:])
_, status, usage = os.wait4(pid, 0)
print((time.perf_counter() - start) * 1000, usage.ru_maxrss / 1024)
sys.exit(status != 0)
"""


def measure(command: list[str]) -> Measured:
    """Run a process to its end, from a small one: a child's peak begins at its parent's size."""
    launcher = [sys.executable, "-S", "-E", "-c", LAUNCH]
    result = subprocess.run([*launcher, *command], stdout=subprocess.PIPE, encoding="ascii", check=True)
    wall, peak = result.stdout.split()
    return Measured(float(wall), float(peak))


def compare(contenders: dict[str, list[str]], runs: int) -> dict[str, Measured]:
    """Measure the contenders in turn; print and return their medians."""
    measured: dict[str, list[Measured]] = {name: [] for name in contenders}
    for round_ in range(runs + 1):
        for name, command in contenders.items():
            result = measure(command)
            if round_:  # the first one warms the caches
                measured[name].append(result)
    medians = {}
    print(f"{'':24}{'median':>9}{'min':>9}{'max':>9} ms{'ratio':>8}{'peak':>9} MiB{'ratio':>8}")
    for name, results in measured.items():
        walls, peaks = [r.wall for r in results], [r.peak for r in results]
        medians[name] = Measured(statistics.median(walls), statistics.median(peaks))
        first = next(iter(medians.values()))
        wall, peak = medians[name]
        print(
            f"{name:24}{wall:9.1f}{min(walls):9.1f}{max(walls):9.1f}   {wall / first.wall:8.2f}"
            f"{peak:9.1f}    {peak / first.peak:8.2f}"
        )
    return medians


def memory(pid: int) -> float:
    """Resident memory of a process in MiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise SystemExit("no VmRSS")


def scrape(charger: SimulatedCharger, total: int) -> None:
    """Print what --listen serves: scrapes in a row from the first reading on, and its memory."""
    port = free_port()
    url = f"http://127.0.0.1:{port}/metrics"
    target = ["--ip", "127.0.0.1", "--port", str(charger.port)]
    server = subprocess.Popen([sys.executable, str(SCRIPT), *target, "--listen", str(port)])

    def metrics() -> str:
        with urllib.request.urlopen(url, timeout=20) as answer:
            text: str = answer.read().decode()
            return text

    try:
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError):
                if UP in metrics():
                    break
            if time.monotonic() > deadline:
                raise SystemExit("no reading within 60 s")
            time.sleep(0.1)
        walls, ups, early = [], 0, 0.0
        for n in range(total):
            start = time.perf_counter()
            text = metrics()
            walls.append((time.perf_counter() - start) * 1000)
            ups += UP in text
            if n == total // 10:
                early = memory(server.pid)
        late = memory(server.pid)
    finally:
        server.terminate()
        server.wait(10)
    p99 = statistics.quantiles(walls, n=100)[98]
    speed = f"{total / sum(walls) * 1000:.0f} scrapes per second, 99th percentile {p99:.1f} ms"
    print(f"{speed}, up at {ups} of {total}")
    print(f"memory after {total // 10} scrapes {early:.1f} MiB, after {total} {late:.1f} MiB")


def main() -> None:
    """Run all of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=20, help="of each process (default: 20)")
    parser.add_argument("--scrapes", type=int, default=10_000, help="of --listen (default: 10000)")
    args = parser.parse_args()
    from pymodbus import __version__ as pymodbus_version
    from pymodbus.client import ModbusTcpClient

    names = ModbusTcpClient.read_input_registers.__code__.co_varnames
    unit = "device_id" if "device_id" in names else "slave"
    print(f"Python {sys.version.split()[0]}, pymodbus {pymodbus_version}, {args.runs} runs each")
    with tempfile.TemporaryDirectory() as directory, simulated_charger() as charger:
        minimal = Path(directory, "minimal.py")
        minimal.write_text(MINIMAL.format(unit=unit))
        vestel = [sys.executable, str(SCRIPT)]
        target = ["--ip", "127.0.0.1", "--port", str(charger.port)]
        contenders = {
            "(a) minimal script": [sys.executable, str(minimal), str(charger.port)],
            "(b) vestel.py JSON": [*vestel, *target, "--format=json"],
            "(c) vestel.py --help": [*vestel, "--help"],
        }
        fast = compare(contenders, args.runs)
        del contenders["(c) vestel.py --help"]
        connections, requests = charger.connections, len(charger.requests)
        measure(contenders["(b) vestel.py JSON"])
        print(f"requests {len(charger.requests) - requests}, connections {charger.connections - connections}")
        print("\nwith 20 ms for each reply:")
        charger.delay = 0.02
        slow = compare(contenders, args.runs)
        a, b = list(contenders)
        for name, medians in (("at once", fast), ("after 20 ms", slow)):
            print(f"(b) - (a), replies {name}: {medians[b].wall - medians[a].wall:.1f} ms")
        charger.missing = {(INPUT, n) for n in range(290, 296)}  # its clock stands: as if it had none
        for seconds in (0.0, 1.3):
            print(f"\n--listen, replies after {seconds:g} s:")
            charger.delay = seconds
            scrape(charger, args.scrapes)


if __name__ == "__main__":
    main()

"""How fast vestel.py is, beside a minimal pymodbus script that makes the same requests.

    python tests/benchmark.py [--runs N] [--scrapes N] [--idle SECONDS]

Whole processes are measured, the contenders in turn within each round, against the simulated
charger. It prints wall time and peak memory with their ratios, then the difference where each
reply takes 20 ms, then how --listen serves, also where each reply takes 1.3 s, and which CPU time
--listen takes where nobody asks it. Needs Linux (for os.wait4 and /proc).

To reach: JSON at most 1.10 x minimal, --help at most 0.5 x, memory at most 1.25 x, one connection
and 7 requests; with --listen the same scrapes per second whatever the charger does, none of them
with vestel_up 0, memory that stays, and at most 2.2 s of CPU time an hour.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Iterator, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "lib")]

from charger import SimulatedCharger  # noqa: E402
from door import free_port, listening  # noqa: E402
from program import METRICS, Http, command, eventually  # noqa: E402

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


class Measured(NamedTuple):
    """One process: wall time (ms) and peak memory (MiB)."""

    wall: float
    peak: float


def measure(arguments: list[str]) -> Measured:
    """Run a process to its end, from a small one: a child's peak begins at its parent's size."""
    launcher = [sys.executable, "-S", "-E", "-c", LAUNCH]
    wall, peak = subprocess.check_output([*launcher, *arguments], encoding="ascii").split()
    return Measured(float(wall), float(peak))


def compare(contenders: dict[str, list[str]], runs: int) -> dict[str, Measured]:
    """Measure the contenders in turn; print and return their medians."""
    measured: dict[str, list[Measured]] = {name: [] for name in contenders}
    for number in range(runs + 1):
        for name, arguments in contenders.items():
            result = measure(arguments)
            if number:  # the first one warms the caches
                measured[name].append(result)
    medians: dict[str, Measured] = {}
    print(f"{'':24}{'median':>9}{'min':>9}{'max':>9} ms{'ratio':>8}{'peak':>9} MiB{'ratio':>8}")
    for name, results in measured.items():
        walls, peaks = [r.wall for r in results], [r.peak for r in results]
        wall, peak = statistics.median(walls), statistics.median(peaks)
        medians[name] = Measured(wall, peak)
        first = next(iter(medians.values()))
        print(
            f"{name:24}{wall:9.1f}{min(walls):9.1f}{max(walls):9.1f}   {wall / first.wall:8.2f}"
            f"{peak:9.1f}    {peak / first.peak:8.2f}"
        )
    return medians


class Service(Http):
    """vestel.py --listen as a process."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        super().__init__(port)
        self.pid = process.pid

    def memory(self) -> float:
        """Return the resident memory in MiB."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        raise SystemExit("no VmRSS")

    def cpu_time(self) -> float:
        """Return the CPU time so far in seconds, to a nanosecond where Linux counts it so."""
        total_ns = 0
        for thread in Path(f"/proc/{self.pid}/task").iterdir():
            total_ns += int((thread / "schedstat").read_text().split()[0])
        return total_ns / 1e9


@contextlib.contextmanager
def service(charger: SimulatedCharger) -> Iterator[Service]:
    """vestel.py --listen, from its first reading on."""
    port = free_port()
    with subprocess.Popen(command([f"--listen={port}"], charger)) as process:
        try:
            running = Service(process, port)

            def has_reading() -> bool:
                with contextlib.suppress(OSError):
                    return running.is_up()
                return False

            eventually(has_reading, seconds=60)
            yield running
        finally:
            process.terminate()


def scrape(charger: SimulatedCharger, total: int) -> None:
    """Print how it serves: scrapes in a row, and its memory."""
    walls, ups, early = [], 0, 0.0
    with service(charger) as running:
        for number in range(total):
            start = time.perf_counter()
            answer = running.ask(METRICS)
            walls.append((time.perf_counter() - start) * 1000)
            ups += answer.value("vestel_up") == 1
            if number == total // 10:
                early = running.memory()
        late = running.memory()
    p99 = statistics.quantiles(walls, n=100)[98]
    speed = f"{total / sum(walls) * 1000:.0f} scrapes per second, 99th percentile {p99:.1f} ms"
    print(f"{speed}, up at {ups} of {total}")
    print(f"memory after {total // 10} scrapes {early:.1f} MiB, after {total} {late:.1f} MiB")


def idle(charger: SimulatedCharger, seconds: float) -> None:
    """Print which CPU time it takes while nobody asks it, but the charger is polled."""
    with service(charger) as running:
        before, began_at = running.cpu_time(), time.monotonic()
        readings = len(charger.times_of(1000))
        time.sleep(seconds)
        used, took = running.cpu_time() - before, time.monotonic() - began_at
        readings = len(charger.times_of(1000)) - readings
    hourly = used / took * 3600
    print(f"{used:.3f} s in {took:.0f} s with {readings} readings: {hourly:.2f} s an hour")


def main() -> None:
    """Run all of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=20, help="of each process (default: 20)")
    parser.add_argument("--scrapes", type=int, default=10_000, help="of --listen (default: 10000)")
    parser.add_argument("--idle", type=float, default=60, help="seconds idle (default: 60)")
    args = parser.parse_args()
    from pymodbus import __version__ as pymodbus_version
    from pymodbus.client import ModbusTcpClient

    names = ModbusTcpClient.read_input_registers.__code__.co_varnames
    unit = "device_id" if "device_id" in names else "slave"
    python = sys.version.split()[0]
    print(f"Python {python}, pymodbus {pymodbus_version}, {args.runs} runs each")
    print(f"load of the machine: {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as directory, listening() as charger:
        minimal = Path(directory, "minimal.py")
        minimal.write_text(MINIMAL.format(unit=unit))
        contenders = {
            "(a) minimal script": [sys.executable, str(minimal), str(charger.port)],
            "(b) vestel.py JSON": command(["--format=json"], charger),
            "(c) vestel.py --help": command(["--help"], None),
        }
        fast = compare(contenders, args.runs)
        del contenders["(c) vestel.py --help"]
        charger.forget()
        measure(contenders["(b) vestel.py JSON"])
        print(f"requests {len(charger.requests)}, connections {charger.connections}")
        print("\nwith 20 ms for each reply:")
        charger.delay = 0.02
        slow = compare(contenders, args.runs)
        a, b = list(contenders)
        for name, medians in (("at once", fast), ("after 20 ms", slow)):
            print(f"(b) - (a), replies {name}: {medians[b].wall - medians[a].wall:.1f} ms")
        for seconds in (0.0, 1.3):
            print(f"\n--listen, replies after {seconds:g} s:")
            charger.delay = seconds
            scrape(charger, args.scrapes)
        print("\n--listen, CPU time without scrapes:")
        charger.delay = 0.0
        idle(charger, args.idle)


if __name__ == "__main__":
    main()

"""A Prometheus that runs, and what it is asked."""

from __future__ import annotations

import contextlib
import json
import subprocess
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any, Iterator

from door import free_port
from program import eventually, needs


class Prometheus:
    """Where it listens."""

    def __init__(self, port: int) -> None:
        self.api = f"http://127.0.0.1:{port}/api/v1/"

    def ask(self, path: str, **parameters: Any) -> Any:
        """Return what the API answers; None where it does not answer yet."""
        with contextlib.suppress(OSError), urllib.request.urlopen(
            f"{self.api}{path}?{urllib.parse.urlencode(parameters)}", timeout=20
        ) as answer:
            return json.load(answer)["data"]
        return None


@contextlib.contextmanager
def prometheus(directory: Path, configuration: str) -> Iterator[Prometheus]:
    """Run it in this directory, where its data may be already."""
    (directory / "prometheus.yml").write_text(configuration)
    port = free_port()
    with subprocess.Popen(
        [
            needs("prometheus", "prometheus"),
            "--config.file=prometheus.yml",
            "--storage.tsdb.path=data",
            "--storage.tsdb.retention.time=10y",
            "--log.level=error",
            f"--web.listen-address=127.0.0.1:{port}",
        ],
        cwd=str(directory),
    ) as process:
        try:
            running = Prometheus(port)
            eventually(lambda: running.ask("query", query="1"))
            yield running
        finally:
            process.terminate()


def promtool(directory: Path, *command: str) -> str:
    """Return what promtool prints, which has to be content."""
    result = subprocess.run(
        [needs("promtool", "prometheus"), *command],
        cwd=str(directory),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        check=False,
    )
    assert result.returncode == 0, result.stdout
    return result.stdout

"""What the tests of decoding and of the formats share: words in, readings, samples and lines out."""

from __future__ import annotations

import json
import unicodedata
from datetime import datetime, timezone
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from registers import DETAILS, READING, SAMPLES, row, u32
from simulated_charger import Image, image

import vestel

NOW = datetime(2026, 11, 20, 8, 15, 30, tzinfo=timezone.utc)
WHOLE: dict[str, Any] = {"timestamp": "2026-11-20T08:15:30+00:00", **READING, "details": DETAILS}
FORMATS = ["human", "json", "prometheus"]


def flat(reading: dict[str, Any], above: str = "") -> dict[str, Any]:
    """The reading with keys like `session.energy_wh`."""
    found: dict[str, Any] = {}
    for key, value in reading.items():
        found.update(flat(value, f"{above}{key}.") if isinstance(value, dict) else {above + key: value})
    return found


def changed(reading: dict[str, Any]) -> dict[str, Any]:
    """What differs from the usual reading with details."""
    usual = flat(WHOLE)
    return {key: value for key, value in flat(reading).items() if value != usual.get(key, "no such key")}


def decode(words: Image, details: bool = True) -> tuple[dict[str, Any], list[str]]:
    """The reading of these words at NOW, and the warnings."""
    reading, warnings = vestel.decode(words, NOW, details)
    return reading, [*warnings.values()]


def holding(values: dict[int, Any]) -> Image:
    """The usual words with other values: address -> number, or the words."""
    words = image()
    for address, value in values.items():
        register = row(address)
        held = value if isinstance(value, list) else u32(value)[-len(register.words) :]
        words.update(((register.bank, address + n), word) for n, word in enumerate(held))
    return words


def samples(exposition: str) -> list[tuple[str, dict[str, str], float]]:
    """The samples as Prometheus takes them: name, labels, value."""
    families = text_string_to_metric_families(exposition)
    return [(s.name, dict(s.labels), s.value) for family in families for s in family.samples]


def sample_values(exposition: str) -> dict[str, float]:
    """Metric, and its phase or bit -> value."""
    found = samples(exposition)
    values = {
        "/".join([name, *(labels[label] for label in ("phase", "bit") if label in labels)]): value
        for name, labels, value in found
    }
    assert len(values) == len(found)
    return values


def without(*metrics: str) -> dict[str, float]:
    """The usual samples but those of some metrics."""
    return {sample: SAMPLES[sample] for sample in SAMPLES if not {sample, sample.split("/")[0]} & {*metrics}}


def reading_of(printed: str) -> dict[str, Any]:
    """The reading in JSON, as of NOW, whenever it was made."""
    reading: dict[str, Any] = json.loads(printed)
    assert reading["timestamp"]
    return {**reading, "timestamp": WHOLE["timestamp"]}


def printable(held: str) -> str:
    """What is left of a text: neither control nor format characters, and no space but the usual one."""
    return "".join(c for c in held if c == " " or unicodedata.category(c)[0] not in "CZ")

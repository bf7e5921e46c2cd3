"""Words in, readings and samples out: what the tests of decoding and of the formats share."""

from __future__ import annotations

import json
import unicodedata
from typing import Any

from clock import START
from prometheus_client.parser import text_string_to_metric_families
from registers import DETAILS, READING, SAMPLES, Image, image, row, tree, u32

import vestel

NOW = "2026-11-20T08:15:30+00:00"
WHOLE: dict[str, Any] = {"timestamp": NOW, **READING, "details": DETAILS}
FORMATS = ["human", "json", "prometheus"]


def flat(reading: dict[str, Any], above: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in reading.items():
        found.update(
            flat(value, f"{above}{key}.") if isinstance(value, dict) else {above + key: value}
        )
    return found


def changed(reading: dict[str, Any]) -> dict[str, Any]:
    """Return what differs from the usual reading with details."""
    usual, missing = flat(WHOLE), object()
    return {key: value for key, value in flat(reading).items() if value != usual.get(key, missing)}


def decode(words: Image, details: bool = True) -> tuple[dict[str, Any], list[str]]:
    reading, findings = vestel.decode(words, NOW, details)
    return reading, [finding.warning for finding in findings]


def holding(values: dict[int, Any]) -> Image:
    """Return the usual words with other values: address -> number, or the words."""
    words = image()
    for address, value in values.items():
        register = row(address)
        held = value if isinstance(value, list) else u32(value)[-len(register.words) :]
        words.update(((register.bank, address + n), word) for n, word in enumerate(held))
    return words


def snapshot(**changes: Any) -> vestel.Snapshot:
    """Return a snapshot of the usual reading with other values: states__fault_code=16."""
    others = {keys.replace("__", "."): value for keys, value in changes.items()}
    reading = tree({**flat(WHOLE), **others})
    return vestel.Snapshot(reading=reading, problem="", made_at=START - 2, readings=1)


def faulted(*faults: str) -> vestel.Snapshot:
    return snapshot(
        states__chargepoint={"code": 8, "name": "Faulted"},
        states__fault_code=2 ** len(faults) - 1,
        states__faults=[*faults],
    )


def samples(exposition: str) -> list[tuple[str, dict[str, str], float]]:
    families = text_string_to_metric_families(exposition)
    return [(s.name, dict(s.labels), s.value) for family in families for s in family.samples]


def sample_values(exposition: str) -> dict[str, float]:
    """Return the value of each sample: `name`, `name/phase` or `name/bit`."""
    values: dict[str, float] = {}
    for name, labels, value in samples(exposition):
        sample = "/".join([name, *(labels[key] for key in ("phase", "bit") if key in labels)])
        assert sample not in values
        values[sample] = value
    return values


def without(*metrics: str) -> dict[str, float]:
    lost = {sample for sample in SAMPLES if {sample, sample.split("/")[0]} & {*metrics}}
    return {sample: value for sample, value in SAMPLES.items() if sample not in lost}


def reading_of(printed: str) -> dict[str, Any]:
    reading: dict[str, Any] = json.loads(printed)
    assert reading["timestamp"]
    return {**reading, "timestamp": WHOLE["timestamp"]}


def printable(held: str) -> str:
    return "".join(c for c in held if c == " " or unicodedata.category(c)[0] not in "CZ")

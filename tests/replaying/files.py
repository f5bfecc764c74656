"""Files of a replayed job: as many rows as its plan or outcome has, none of them all zeros."""

from __future__ import annotations

import hashlib
import json
import os
import random
from array import array
from pathlib import Path
from typing import Any

from worker import plan as agreed

Json = dict[str, Any]

LINE = (",", ":")
WEIGHTS = 1024  # bytes


def of(plan: agreed.Plan, outcome: Json) -> dict[str, bytes]:
    """Contents by name; what is published comes first."""
    if isinstance(plan, agreed.RegisterPlan):
        return _registered(plan, outcome)
    if isinstance(plan, agreed.TrainPlan):
        return _checkpoint(plan) | _signals(plan)
    return _checkpoint(plan) if isinstance(plan, agreed.UnlearnPlan) else {}


def write(path: Path, content: bytes) -> Json:
    """Write a file durably; returns how result.json lists it."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return {"name": path.name, "sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}


def _registered(plan: agreed.RegisterPlan, outcome: Json) -> dict[str, bytes]:
    """Controls first, as the builtin digits have them; keys as theirs, images of noise."""
    channels, height, width = outcome["shape"]
    noise = random.Random(f"{plan.source.path}/{plan.seed}")
    pixels = [noise.randbytes(channels * height * width) for _ in range(outcome["rows"])]
    labels = array("i", [row % len(outcome["classes"]) for row in range(outcome["rows"])])
    digests = [hashlib.sha256(row).digest() for row in pixels]
    lines = []
    for row, digest in enumerate(digests):
        control = row < outcome["controls"]
        number = row if control else row - outcome["controls"]
        lines.append(
            {
                "index": row,
                "key": f"{'control' if control else 'train'}/{number:05d}",
                "sha256": digest.hex(),
                "file_sha256": None,
                "label": labels[row],
                "split": "control" if control else "train",
                "subject": None,
            }
        )
    pairs = [pair for pair in _pairs() if pair["second"] < outcome["rows"]]
    return {
        "pixels.u8": b"".join(pixels),
        "labels.i32": labels.tobytes(),
        "digests.bin": b"".join(digests),
        "manifest.jsonl": _lines(lines),
        "near_duplicates.jsonl": _lines(pairs),
    }


def _pairs() -> list[Json]:
    recorded = Path(__file__).parent / "data" / "near_duplicates.jsonl"
    return [json.loads(line) for line in recorded.read_text().splitlines()]


def _signals(plan: agreed.TrainPlan) -> dict[str, bytes]:
    noise = random.Random(plan.seed)
    signals = array("f", (noise.uniform(1.0, 5.0) for _ in range(plan.data.rows * plan.references)))
    members = bytes(reference % 2 for _ in range(plan.data.rows) for reference in range(plan.references))
    return {"phi.f32": signals.tobytes(), "members.u8": members}


def _checkpoint(plan: agreed.TrainPlan | agreed.UnlearnPlan) -> dict[str, bytes]:
    """A safetensors file with one tensor, which follows from the plan: no two jobs make the same."""
    header = {"weight": {"dtype": "U8", "shape": [WEIGHTS], "data_offsets": [0, WEIGHTS]}}
    text = json.dumps(header, separators=LINE).encode()
    weights = random.Random(agreed.dump(plan)).randbytes(WEIGHTS)
    return {"checkpoint.safetensors": len(text).to_bytes(8, "little") + text + weights}


def _lines(entries: list[Json]) -> bytes:
    return "".join(json.dumps(entry, separators=LINE) + "\n" for entry in entries).encode()

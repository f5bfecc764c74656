"""Register a training set: every image of a source into arrays of fixed-size rows, listed in a manifest."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from worker import plan as agreed
from worker.jobs.failures import Failed, refused_as
from worker.jobs.outputs import DIGESTS, LABELS, MANIFEST, PIXELS, Outputs
from worker.jobs.progress import Reporter
from worker.unlearning import images


def register(plan: agreed.RegisterPlan, outputs: Outputs, report: Reporter) -> agreed.RegisterResult:
    """Decode every image of a source into arrays of fixed-size rows, and list them in a manifest."""
    if (plan.controls.share is None) == (plan.controls.folder is None):
        raise Failed("plan_invalid", "controls need either a share or a folder")
    report.expect({"load": 95.0, "save": 5.0})
    source = {"builtin": _builtin_source, "folder": _folder_source}.get(plan.source.kind)
    if source is None:
        raise Failed("plan_invalid", f"there is no source of kind {plan.source.kind!r}")
    with report.phase("load"), refused_as("data_error", images.DataError):
        described = source(plan)
        digests: list[bytes] = []
        file_digests: list[bytes | None] = []
        shape = (0, 0, 0)
        with outputs.open(PIXELS) as file:
            for done, (pixels, file_digest) in enumerate(described.rows, start=1):
                file.write(pixels.tobytes())
                digests.append(images.row_digest(pixels))
                file_digests.append(file_digest)
                shape = (pixels.shape[0], pixels.shape[1], pixels.shape[2])
                report.step(done, len(described.keys), "image")
        _refuse_shared_images(described, digests)
    with report.phase("save"):
        lines = [
            {
                "index": index,
                "key": key,
                "sha256": digests[index].hex(),
                "file_sha256": _hex(file_digests[index]),
                "label": int(described.labels[index]),
                "split": "control" if described.controls[index] else "train",
            }
            for index, key in enumerate(described.keys)
        ]
        manifest = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines).encode()
        outputs.write(LABELS, described.labels.astype(np.int32).tobytes())
        outputs.write(DIGESTS, b"".join(digests))
        outputs.write(MANIFEST, manifest)
    controls = int(described.controls.sum())
    return agreed.RegisterResult(
        rows=len(lines),
        shape=shape,
        classes=described.classes,
        train=len(lines) - controls,
        controls=controls,
        manifest_sha256=hashlib.sha256(manifest).hexdigest(),
    )


@dataclasses.dataclass(frozen=True)
class Source:
    """What a source holds, row by row."""

    keys: list[str]
    labels: NDArray[np.int64]
    classes: list[str]
    controls: NDArray[np.bool_]
    rows: Iterator[tuple[images.Pixels, bytes | None]]  # pixels, and sha256 of the file where there is one


def _builtin_source(plan: agreed.RegisterPlan) -> Source:
    if plan.source.path != "digits":
        raise Failed("plan_invalid", f"there is no builtin training set {plan.source.path!r}: choose digits")
    if plan.controls.share is None:
        raise Failed("plan_invalid", "a builtin training set has no folders: give a share of controls")
    pixels, labels, classes = images.digits()
    # Digits have no names, and neighbours were written by one hand: they are shuffled, and numbered within each split.
    chosen = images.draw_controls(len(pixels), plan.controls.share, seed=plan.seed)
    order = np.random.default_rng([plan.seed, 1]).permutation(len(pixels))
    order = np.concatenate([order[chosen[order]], order[~chosen[order]]])
    controls = chosen[order]
    count = int(controls.sum())
    keys = [f"control/{row:05d}" if row < count else f"train/{row - count:05d}" for row in range(len(order))]
    return Source(keys, labels[order], classes, controls, ((pixels[row], None) for row in order))


def _folder_source(plan: agreed.RegisterPlan) -> Source:
    folder, split = Path(plan.source.path), plan.controls.folder
    entries = images.entries(folder, splits=split is not None)
    classes = sorted({entry.label for entry in entries})
    labels = np.array([classes.index(entry.label) for entry in entries], dtype=np.int64)
    if plan.controls.share is not None:
        controls = images.draw_controls(len(entries), plan.controls.share, seed=plan.seed)
    else:
        controls = np.array([entry.top == split for entry in entries])
        if controls.all() or not controls.any():
            raise images.DataError(f"{folder.name}: there are no {'training' if controls.all() else 'control'} images")
    for label, name in enumerate(classes):
        if controls[labels == label].all():
            raise images.DataError(f"class {name} has no training images")
    if len(classes) < 2:
        raise images.DataError(f"{folder.name}: there is one class only")
    keys = [entry.key for entry in entries]
    return Source(keys, labels, classes, controls, images.decode_all(folder, keys))


def _hex(digest: bytes | None) -> str | None:
    return None if digest is None else digest.hex()


def _refuse_shared_images(source: Source, digests: list[bytes]) -> None:
    """A control that is the exact copy of a training image has been trained on."""
    trained = {digest: row for row, digest in enumerate(digests) if not source.controls[row]}
    for row in np.flatnonzero(source.controls):
        if digests[row] in trained:
            raise images.DataError(
                f"{source.keys[row]}: a control, but the same image as {source.keys[trained[digests[row]]]}, which is "
                "trained on: remove one of them"
            )

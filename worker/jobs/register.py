"""Register a training set: every image of a source into arrays of fixed-size rows, listed in a manifest."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worker import plan as agreed
from worker.jobs.failures import Failed, refused_as
from worker.jobs.outputs import DIGESTS, LABELS, MANIFEST, NEAR_DUPLICATES, PIXELS, Outputs
from worker.jobs.progress import Reporter
from worker.jobs.sources import Source, describe
from worker.unlearning import images, near_duplicates

LOADING, SAVING = 95.0, 5.0  # share of the work without comparisons
COMPARING = 7e-5  # of the time that reading an image takes, to compare it with one other


@dataclasses.dataclass(frozen=True)
class Read:
    """What is remembered of every image once its pixels are written."""

    digests: list[bytes]
    file_digests: list[bytes | None]
    thumbnails: NDArray[np.float32]
    shape: tuple[int, int, int]


def register(plan: agreed.RegisterPlan, outputs: Outputs, report: Reporter) -> agreed.RegisterResult:
    """Decode every image of a source into arrays of fixed-size rows, list them in a manifest, and compare them."""
    if (plan.controls.share is None) == (plan.controls.folder is None):
        raise Failed("plan_invalid", "controls need either a share or a folder")
    report.expect({"load": LOADING, "save": SAVING})
    with report.phase("load"), refused_as("data_error", images.DataError):
        source = describe(plan)
        report.add({"compare": LOADING * COMPARING * len(source.keys)})
        read = _read(source, outputs, report)
        source = _without_shared_images(source, read.digests)
    with report.phase("compare"):
        found = near_duplicates.search(
            read.thumbnails,
            np.frombuffer(b"".join(read.digests), np.uint8).reshape(-1, images.DIGEST_BYTES),
            on_images=lambda done, count: report.step(done, count, "comparison"),
        )
    with report.phase("save"):
        manifest = "".join(map(_line, _rows(source, read))).encode()
        outputs.write(LABELS, source.labels.astype(np.int32).tobytes())
        outputs.write(DIGESTS, b"".join(read.digests))
        outputs.write(MANIFEST, manifest)
        outputs.write(NEAR_DUPLICATES, "".join(map(_line, _pairs(found))).encode())
    controls = int(source.controls.sum())
    return agreed.RegisterResult(
        rows=len(source.keys),
        shape=read.shape,
        classes=source.classes,
        train=len(source.keys) - controls,
        controls=controls,
        manifest_sha256=hashlib.sha256(manifest).hexdigest(),
        near_duplicates=agreed.NearDuplicates(
            method=near_duplicates.METHOD,
            searched=found.searched,
            why_not=found.why_not,
            threshold=found.threshold,
            median_distance=found.median,
            neighbours=near_duplicates.NEIGHBOURS,
            capped=found.capped,
            pairs=len(found.first),
        ),
    )


def _read(source: Source, outputs: Outputs, report: Reporter) -> Read:
    digests: list[bytes] = []
    file_digests: list[bytes | None] = []
    thumbnails: list[NDArray[np.float32]] = []
    shape = (0, 0, 0)
    with outputs.open(PIXELS) as file:
        for done, (pixels, file_digest) in enumerate(source.rows, start=1):
            if done == 1:
                _need_space(outputs, len(source.keys) * pixels.nbytes)
            file.write(pixels.tobytes())
            digests.append(images.row_digest(pixels))
            file_digests.append(file_digest)
            thumbnails.append(near_duplicates.thumbnail(pixels))
            shape = (pixels.shape[0], pixels.shape[1], pixels.shape[2])
            report.step(done, len(source.keys), "image")
    return Read(digests, file_digests, np.stack(thumbnails), shape)


def _need_space(outputs: Outputs, wanted: int) -> None:
    """Better refused at the first image than failed at the last."""
    free = shutil.disk_usage(outputs.folder).free
    if free < wanted:
        raise Failed(
            "disk_full", f"the pixels take {wanted} bytes, and {free} are free: make room for {wanted - free} more"
        )


def _rows(source: Source, read: Read) -> Iterator[dict[str, Any]]:
    for index, key in enumerate(source.keys):
        file_digest = read.file_digests[index]
        yield {
            "index": index,
            "key": key,
            "sha256": read.digests[index].hex(),
            "file_sha256": None if file_digest is None else file_digest.hex(),
            "label": int(source.labels[index]),
            "split": "control" if source.controls[index] else "train",
            "subject": None if source.subjects is None else source.subjects[index],
        }


def _pairs(found: near_duplicates.Found) -> Iterator[dict[str, Any]]:
    for first, second, distance in zip(found.first, found.second, found.distance, strict=True):
        yield {"first": int(first), "second": int(second), "distance": float(distance)}


def _line(entry: dict[str, Any]) -> str:
    return json.dumps(entry, separators=(",", ":")) + "\n"


def _without_shared_images(source: Source, digests: list[bytes]) -> Source:
    """A control that is the exact copy of a training image has been trained on.

    Whoever made the set must remove one of them. Of a published set nobody can: there the copy counts as trained on.
    """
    trained = {digest: row for row, digest in enumerate(digests) if not source.controls[row]}
    shared = [int(row) for row in np.flatnonzero(source.controls) if digests[row] in trained]
    if shared and not source.published:
        raise images.DataError(
            f"{source.keys[shared[0]]}: a control, but the same image as {source.keys[trained[digests[shared[0]]]]}, "
            "which is trained on: remove one of them"
        )
    controls = source.controls.copy()
    controls[shared] = False
    return dataclasses.replace(source, controls=controls)

"""samples.csv: a document's samples as a table, one line a sample (and model)."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from typing import Any

Json = dict[str, Any]

AUDIT = ("sample", "z_before", "z_after", "low", "high", "testable", "difficulty", "adversarial_example")
RE_AUDIT = ("sample", "z", "low", "high", "testable", "difficulty")
CERTIFICATE = ("sample", "split", "model", "version", "z_before", "z_after", "low", "high", "testable")


def samples_csv(document: Json) -> bytes:
    """RFC 4180 with a header; z in standard deviations of never-trained images, ``low`` and ``high`` its 95% interval.

    Empty: not measured. Columns are fixed by the kind of document: `AUDIT`, `RE_AUDIT` or `CERTIFICATE`.
    """
    rows: dict[str, Any] = {"audit_report": _audit, "re_audit": _re_audit, "erasure_certificate": _certificate}
    columns = {"audit_report": AUDIT, "re_audit": RE_AUDIT, "erasure_certificate": CERTIFICATE}
    kind = document["document"]["kind"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(columns[kind])
    writer.writerows([_shown(value) for value in row] for row in rows[kind](document))
    return text.getvalue().encode()


def _audit(document: Json) -> Iterable[tuple[Any, ...]]:
    before = {sample["reference"]: sample for sample in document["audit"]["before"]["samples"]}
    found = document["action"]["adversarial_set"]
    for sample in document["audit"]["after"]["samples"]:
        name = sample["reference"]
        example = None if found is None else "not found" if name in found["not_found"] else "found"
        yield name, before[name]["z"], *_measured(sample), sample["difficulty"], example


def _re_audit(document: Json) -> Iterable[tuple[Any, ...]]:
    for sample in document["audit"]["now"]["samples"]:
        yield sample["reference"], *_measured(sample), sample["difficulty"]


def _certificate(document: Json) -> Iterable[tuple[Any, ...]]:
    for name in document["scope"]["samples"]:
        for erasure in document["erasures"] or [None]:
            if erasure is None:
                yield name, "train", *[None] * 7
                continue
            version = erasure["version"]["number"] if erasure["version"] else None
            own = erasure["own"] or {"before": [], "after": []}
            before, after = (
                next((sample for sample in own[side] if sample["reference"] == name), None)
                for side in ("before", "after")
            )
            measured = _measured(after) if after else (None,) * 4
            yield name, "train", erasure["model"], version, before["z"] if before else None, *measured
    for name in document["scope"]["controls"]:
        yield name, "control", *[None] * 7


def _measured(sample: Json) -> tuple[Any, ...]:
    return sample["z"], sample["low"], sample["high"], sample["testable"]


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.6g}" if isinstance(value, float) else str(value)

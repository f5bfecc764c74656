"""Sources of a training set: what each holds, row by row, and which rows are controls."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from worker import plan as agreed
from worker.jobs.failures import Failed
from worker.unlearning import _torchvision, arrays, images

MAX_KEY, MAX_SUBJECT = 1024, 255  # characters
SUBJECT_COLUMNS = ["key", "subject"]


@dataclasses.dataclass(frozen=True)
class Source:
    """What a source holds, row by row."""

    keys: list[str]
    labels: NDArray[np.int64]
    classes: list[str]
    controls: NDArray[np.bool_]
    rows: Iterator[tuple[images.Pixels, bytes | None]]  # pixels, and sha256 of the file where there is one
    subjects: list[str | None] | None = None  # whom an image shows; None: nobody says
    published: bool = False  # as it is, known everywhere: nobody can take an image out


def describe(plan: agreed.RegisterPlan) -> Source:
    """Open the plan's source. Raises images.DataError, and Failed(plan_invalid) for one that there is not."""
    kinds = {
        "builtin": _builtin,
        "folder": _folder,
        "arrays": _arrays,
        "torchvision": _published,
    }
    if plan.source.kind not in kinds:
        raise Failed("plan_invalid", f"there is no source of kind {plan.source.kind!r}")
    return kinds[plan.source.kind](plan)


def _builtin(plan: agreed.RegisterPlan) -> Source:
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
    return Source(
        _numbered(_halves(controls)), labels[order], classes, controls, ((pixels[row], None) for row in order)
    )


def _folder(plan: agreed.RegisterPlan) -> Source:
    folder, listed = Path(plan.source.path), plan.source.subjects
    entries = images.entries(folder, splits=plan.controls.folder is not None, beside=listed)
    classes = sorted({entry.label for entry in entries})
    labels = np.array([classes.index(entry.label) for entry in entries], dtype=np.int64)
    controls = _controls(plan, len(entries), [entry.top or "" for entry in entries], folder.name)
    _check_classes(labels, classes, controls, folder.name)
    keys = [entry.key for entry in entries]
    subjects = None if listed is None else _listed_subjects(folder, listed, keys)
    return Source(keys, labels, classes, controls, images.decode_all(folder, keys), subjects)


def _arrays(plan: agreed.RegisterPlan) -> Source:
    path, split = Path(plan.source.path), plan.controls.folder
    found = arrays.load(path)
    if split is not None and found.splits is None:
        raise images.DataError(f"splits: the array is missing, which says what belongs to {split}")
    controls = _controls(plan, len(found.labels), found.splits, path.name)
    labels, classes = _classes(found)
    _check_classes(labels, classes, controls, path.name)
    keys = found.keys
    if keys is None:
        keys = _numbered(found.splits if split is not None and found.splits is not None else _halves(controls))
    _check_keys(keys)
    subjects = None
    if found.subjects is not None:
        subjects = [_subject(subject, f"subjects: entry {row}") for row, subject in enumerate(found.subjects)]
    return Source(keys, labels, classes, controls, ((pixels, None) for pixels in found.rows), subjects)


def _published(plan: agreed.RegisterPlan) -> Source:
    splits, classes = _torchvision.files_of(str(plan.source.dataset), Path(plan.source.path))
    of_row = [split for split, (pixels, _) in splits.items() for _ in range(len(pixels))]
    labels = np.concatenate([labels for _, labels in splits.values()])
    controls = _controls(plan, len(labels), of_row, str(plan.source.dataset))
    _check_classes(labels, classes, controls, str(plan.source.dataset))
    rows = ((image, None) for pixels, _ in splits.values() for image in pixels)
    return Source(_numbered(of_row), labels, classes, controls, rows, published=True)


def _controls(plan: agreed.RegisterPlan, count: int, splits: list[str] | None, name: str) -> NDArray[np.bool_]:
    """A share of all, drawn at random, or one split. Raises DataError where one side is empty."""
    if plan.controls.share is not None:
        return images.draw_controls(count, plan.controls.share, seed=plan.seed)
    controls = np.array([split == plan.controls.folder for split in splits or []])
    if controls.all() or not controls.any():
        raise images.DataError(f"{name}: there are no {'training' if controls.all() else 'control'} images")
    return controls


def _check_classes(labels: NDArray[np.int64], classes: list[str], controls: NDArray[np.bool_], name: str) -> None:
    trained = np.bincount(labels[~controls], minlength=len(classes))
    if not trained.all():
        raise images.DataError(f"class {classes[int(trained.argmin())]} has no training images")
    if len(classes) < 2:
        raise images.DataError(f"{name}: there is one class only")


def _classes(found: arrays.Arrays) -> tuple[NDArray[np.int64], list[str]]:
    """Labels as indices into the names of the classes: those given, or else the numbers themselves."""
    if found.classes is None:
        numbers, labels = np.unique(found.labels, return_inverse=True)
        return labels.astype(np.int64), [str(number) for number in numbers.tolist()]
    for row, name in enumerate(found.classes):
        if not name.isprintable() or not name:
            raise images.DataError(f"classes: entry {row} is empty, or holds characters that cannot be printed")
    if len(set(found.classes)) < len(found.classes):
        raise images.DataError("classes: a name is there twice")
    outside = np.flatnonzero((found.labels < 0) | (found.labels >= len(found.classes)))
    if len(outside):
        row = int(outside[0])
        raise images.DataError(
            f"labels: entry {row} is {found.labels[row]}, and there are {len(found.classes)} classes"
        )
    return found.labels, found.classes


def _halves(controls: NDArray[np.bool_]) -> list[str]:
    return ["control" if control else "train" for control in controls]


def _numbered(splits: list[str]) -> list[str]:
    """Keys such as train/00000, counted within each split."""
    seen: Counter[str] = Counter()
    keys = []
    for split in splits:
        keys.append(f"{split}/{seen[split]:05d}")
        seen[split] += 1
    return keys


def _check_keys(keys: list[str]) -> None:
    for row, key in enumerate(keys):
        if not 0 < len(key) <= MAX_KEY or not key.isprintable():
            raise images.DataError(
                f"keys: entry {row} is empty, longer than {MAX_KEY} characters, or holds some that cannot be printed"
            )
    if len(set(keys)) < len(keys):
        (key, _) = Counter(keys).most_common(1)[0]
        raise images.DataError(f"keys: {key} is there twice")


def _listed_subjects(folder: Path, name: str, keys: list[str]) -> list[str | None]:
    """Whom each image shows, from a CSV file in the source folder. Errors name lines, never a subject."""
    try:
        text = images.read_file(folder, name).decode("utf-8-sig")
        lines = [(reader.line_num, row) for reader in [csv.reader(io.StringIO(text), strict=True)] for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise images.DataError(f"{name}: it is not a CSV file in UTF-8") from error
    if not lines or lines[0][1] != SUBJECT_COLUMNS:
        raise images.DataError(f"{name}: its first line must be {','.join(SUBJECT_COLUMNS)}")
    known, subjects = set(keys), dict[str, str | None]()
    for line, row in lines[1:]:
        where = f"{name}: line {line}"
        if len(row) != len(SUBJECT_COLUMNS):
            raise images.DataError(f"{where} has {len(row)} columns instead of {len(SUBJECT_COLUMNS)}")
        if row[0] not in known:
            raise images.DataError(f"{where} names an image that is not in the folder")
        if row[0] in subjects:
            raise images.DataError(f"{where} names {row[0]} a second time")
        subjects[row[0]] = _subject(row[1], where)
    return [subjects.get(key) for key in keys]


def _subject(text: str, where: str) -> str | None:
    """Raises DataError, which does not repeat it: it may be somebody's name."""
    if len(text) > MAX_SUBJECT or not text.isprintable():
        raise images.DataError(
            f"{where}: a subject has {MAX_SUBJECT} characters at most, all of them printable; an empty one is none"
        )
    return text or None

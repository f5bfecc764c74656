"""Which requests a person must approve first, and which would leave a model nothing to be trained on."""

from __future__ import annotations

import math
import secrets
from collections import Counter

from sqlalchemy import ColumnElement, Connection, Select, bindparam, func, select

from models.parameters import Policy
from models.records import Erasure, RequestSample, Sample, Split
from service.claims import IS_CLAIM
from service.errors import Unprocessable, pointer
from service.selectors import Found
from service.usable import Target, UsableSet

PROBE = 40  # samples looked at to see that a request leaves some of each label


def reasons_for_approval(
    connection: Connection,
    training_set: UsableSet,
    model: Target,
    to_forget: list[Found],
    claimed: set[int],
    controls: int,
) -> list[str]:
    """Why a person must agree first: a whole class, or more than the policy's share of the training images or controls.

    ``claimed`` are rows that the model was asked to forget before. ``controls`` is how many of these the request erases:
    without them, nothing that a model forgets can be audited. Raises Unprocessable where the model would have nothing left
    to be trained on. Nothing is counted over the whole set: a request of ten samples costs the same whether the set has a
    thousand or a million.
    """
    reasons = []
    exhausted, seen = _exhausted(connection, model, [sample for sample in to_forget if sample.index not in claimed])
    if exhausted and not _anything_left(connection, model, exhausted):
        raise Unprocessable(
            "This would leave no image to train on: delete fewer, or ask the operator to retire the models.",
            at=pointer("samples"),
        )
    if exhausted:
        reasons.append("it takes the last training images of " + _classes(training_set, exhausted))
    share = Policy.model_validate(model.policy).approval_share
    if not _at_least(connection, training_set, Split.TRAIN, math.ceil(len(to_forget) / share), seen):
        reasons.append(f"it is more than {share:.0%} of the training images")
    if not _at_least(connection, training_set, Split.CONTROL, math.ceil(controls / share)):
        reasons.append(f"it is more than {share:.0%} of the controls, which audits compare with")
    return reasons


def training_images(connection: Connection, training_set: UsableSet) -> int:
    """How many training images the set has that are not erased; counts them all."""
    every = select(func.count()).select_from(Sample).where(*_live())
    return connection.scalar(every, {"training_set": training_set.id}) or 0


def _classes(training_set: UsableSet, labels: set[int]) -> str:
    names = training_set.classes or []
    named = [repr(names[label]) if label < len(names) else str(label) for label in sorted(labels)]
    return f"{'class' if len(named) == 1 else 'classes'} {', '.join(named)}"


def _exhausted(connection: Connection, model: Target, asked: list[Found]) -> tuple[set[int], int]:
    """Labels of which the request takes the last live training samples that the model still keeps; how many were seen."""
    if not asked:
        return set(), 0
    taken = {sample.index for sample in asked}
    open_labels = Counter(sample.label for sample in asked)
    # Digests are spread evenly whatever the order of the rows: a few from a random place on settle most labels.
    place = secrets.token_hex(32)
    probe = connection.execute(_PROBE, _given(model, place=place, most=PROBE + len(taken))).all()
    for index, label in probe:
        if index not in taken:
            del open_labels[label]
    left = {
        label for label, count in open_labels.items() if not _some_left(connection, model, label, count, taken, place)
    }
    return left, len(probe)


def _some_left(connection: Connection, model: Target, label: int, count: int, taken: set[int], place: str) -> bool:
    """Whether a sample with the label stays that is not in ``taken``, of which ``count`` have it."""
    for half in _OF_LABEL:
        rows = connection.execute(half, _given(model, label=label, place=place, most=count + 1))
        if any(index not in taken for index, _ in rows):
            return True
    return False


def _anything_left(connection: Connection, model: Target, exhausted: set[int]) -> bool:
    others = _kept().where(Sample.label.not_in(exhausted)).limit(1)
    return connection.execute(others, _given(model)).first() is not None


def _given(model: Target, **more: int | str) -> dict[str, object]:
    return {"training_set": model.training_set_id, "model": model.id, **more}


def _at_least(connection: Connection, training_set: UsableSet, split: Split, number: int, seen: int = 0) -> bool:
    """Whether the set has that many live samples of the split, of which so many were seen."""
    if number <= seen:
        return True
    return (connection.scalar(_UP_TO[split], {"training_set": training_set.id, "most": number}) or 0) >= number


def _live(split: Split = Split.TRAIN) -> list[ColumnElement[bool]]:
    return [Sample.training_set_id == bindparam("training_set"), Sample.split == split, Sample.erased_at.is_(None)]


def _kept() -> Select[int, int]:
    """Index and label of live training samples that a model was not asked to forget, in the order of digests."""
    claimed = (
        select(RequestSample.sample_index)
        .join(Erasure, Erasure.request_id == RequestSample.request_id)
        .where(
            RequestSample.training_set_id == bindparam("training_set"),
            RequestSample.sample_index == Sample.index,
            Erasure.model_id == bindparam("model"),
            IS_CLAIM,
        )
        .exists()
    )
    return select(Sample.index, Sample.label).where(*_live(), ~claimed).order_by(Sample.sha256)


def _up_to(split: Split) -> Select[int]:
    """How many live samples of the split there are, counted up to ``most``."""
    # In the order of the primary key, or PostgreSQL reads the table from its beginning: other sets, whole.
    some = select(Sample.index).where(*_live(split)).order_by(Sample.index).limit(bindparam("most")).subquery()
    return select(func.count()).select_from(some)


# Built once, as in service.claims.
_PROBE = _kept().where(Sample.sha256 >= bindparam("place")).limit(bindparam("most"))
_OF_LABEL = [
    _kept().where(Sample.label == bindparam("label"), half).limit(bindparam("most"))
    for half in (Sample.sha256 >= bindparam("place"), Sample.sha256 < bindparam("place"))
]
_UP_TO = {split: _up_to(split) for split in Split}

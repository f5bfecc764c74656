"""Rows that look nearly like the samples of a request and are not part of it: reported, never added in silence."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from models.among import among
from models.records import DeletionRequest, NearDuplicate, RequestSample, Sample, TrainingSet
from service.selectors import chunks


@dataclass(frozen=True)
class Near:
    """A row outside of a request, and the nearest of the request's samples."""

    index: int
    of: int
    distance: float


def near_duplicates(session: Session, training_set: TrainingSet, samples: Collection[int]) -> list[Near] | None:
    """Rows that are still there, nearest first; None where the set was not searched for such pairs."""
    if training_set.near_duplicates is None:
        return None
    named = set(samples)
    nearest: dict[int, Near] = {}
    for mine, other in ((NearDuplicate.first, NearDuplicate.second), (NearDuplicate.second, NearDuplicate.first)):
        for chunk in chunks(sorted(named)):
            pairs = select(mine, other, NearDuplicate.distance).where(
                NearDuplicate.training_set_id == training_set.id, among(mine, chunk)
            )
            for of, index, distance in session.execute(pairs):
                if index not in named and (index not in nearest or distance < nearest[index].distance):
                    nearest[index] = Near(index, of, distance)
    there = _still_there(session, training_set, nearest)
    return sorted((nearest[index] for index in there), key=lambda near: (near.distance, near.index))


def near_duplicates_left(session: Session, request: DeletionRequest) -> int | None:
    """How many there are of a stored request."""
    training_set = session.get_one(TrainingSet, request.training_set_id)
    if training_set.near_duplicates is None:
        return None
    samples = session.scalars(select(RequestSample.sample_index).where(RequestSample.request_id == request.id))
    return len(near_duplicates(session, training_set, list(samples)) or [])


def _still_there(session: Session, training_set: TrainingSet, indices: Collection[int]) -> list[int]:
    found: list[int] = []
    for chunk in chunks(sorted(indices)):
        found.extend(
            session.scalars(
                select(Sample.index).where(
                    Sample.training_set_id == training_set.id,
                    among(Sample.index, chunk),
                    Sample.erased_at.is_(None),
                )
            )
        )
    return found

"""Search for deletion requests by the caller's number of the case, or by the person whose samples they name."""

from __future__ import annotations

import uuid
from collections import defaultdict

from sqlalchemy import ColumnElement, and_, or_, select
from sqlalchemy.orm import Session

from models.among import among
from models.evidence import suppression_digest
from models.records import DeletionRequest, RequestSample, Sample, Suppression, TrainingSet
from service.lists.cursors import Position
from service.lists.listing import KEYS, Sort, kept_by, owned
from service.lists.paging import Paging
from service.lists.ranges import Conditions, Source, positions
from service.schemas.deletion_requests import RequestSearch
from service.security import Principal
from service.selectors import chunks

SETS_AT_ONCE = 200


def search(
    session: Session, suppression_key: bytes, principal: Principal, body: RequestSearch, path: str
) -> tuple[list[uuid.UUID], str | None]:
    """Ids of the requests on the page, newest first, and the next cursor. Raises Unprocessable."""
    paging = Paging(path, body.limit, body.cursor, at={"pointer": "#/cursor"})
    key = KEYS[Sort.NEWEST]
    ours = owned(principal)  # in the source: a cursor must never stand at another application's request
    filters: list[ColumnElement[bool]] = []
    if body.statuses:
        filters.append(DeletionRequest.status.in_(body.statuses))
    if body.training_set is not None:
        named = select(TrainingSet.id).where(TrainingSet.name == body.training_set).scalar_subquery()
        filters.append(DeletionRequest.training_set_id == named)
    if body.subject is None:
        source = positions(session, key, [[DeletionRequest.external_id == body.external_id, *ours]])
    else:
        of_person = _requests_of(session, suppression_key, body.subject, body.training_set, ours)
        source = _among(of_person)
        if body.external_id is not None:
            filters.append(DeletionRequest.external_id == body.external_id)
    found, cursor = paging.take(key, source, kept_by(session, filters) if filters else None)
    return [position[-1] for position in found], cursor


def _among(ids: set[uuid.UUID]) -> Source:
    newest_first = sorted(ids, reverse=True)

    def source(after: Position | None, number: int) -> list[Position]:
        rest = newest_first if after is None else [found for found in newest_first if found < after[-1]]
        return [(found,) for found in rest[:number]]

    return source


def _requests_of(
    session: Session, suppression_key: bytes, subject: str, training_set_name: str | None, ours: Conditions
) -> set[uuid.UUID]:
    """The caller's requests that name samples of the person."""
    found: set[uuid.UUID] = set()
    for training_set, indices in _samples_of(session, suppression_key, subject, training_set_name).items():
        for chunk in chunks(sorted(indices)):
            named = select(RequestSample.request_id).where(
                RequestSample.training_set_id == training_set, among(RequestSample.sample_index, chunk)
            )
            if ours:
                named = named.join(DeletionRequest, DeletionRequest.id == RequestSample.request_id).where(*ours)
            found.update(session.scalars(named))
    return found


def _samples_of(
    session: Session, suppression_key: bytes, subject: str, training_set_name: str | None
) -> dict[uuid.UUID, set[int]]:
    """Rows that show the person, by training set; those that were erased by the keyed hash that was kept."""
    named = [TrainingSet.name == training_set_name] if training_set_name is not None else []
    found: dict[uuid.UUID, set[int]] = defaultdict(set)
    for sets in chunks(list(session.scalars(select(TrainingSet.id).where(*named))), SETS_AT_ONCE):
        live = select(Sample.training_set_id, Sample.index).where(
            Sample.training_set_id.in_(sets), Sample.subject == subject
        )
        erased = select(Suppression.training_set_id, Suppression.sample_index).where(
            or_(*(_erased(suppression_key, each, subject) for each in sets))
        )
        for query in (live, erased):
            for training_set, index in session.execute(query):
                found[training_set].add(index)
    return found


def _erased(suppression_key: bytes, training_set: uuid.UUID, subject: str) -> ColumnElement[bool]:
    digest = suppression_digest(suppression_key, training_set, "subject", subject)
    return and_(Suppression.training_set_id == training_set, Suppression.digest == digest)

"""Which deletion requests are on a page: positions first, out of ranges of an index; rows for the page alone.

A request has one status and one regulation, so a list that names neither is the union of the ranges of each: sparse or
not, whatever a list is filtered by, its page reads the ends of a few ranges.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from itertools import product

from sqlalchemy import select
from sqlalchemy.orm import Session

from models.base import now
from models.deletion_request import IS_LIVE, LIVE
from models.records import DeletionRequest, Erasure, Model, RequestStatus, Role, TrainingSet
from service.due import PERIODS
from service.errors import Unprocessable
from service.lists.cursors import Position
from service.lists.paging import Keep, Paging
from service.lists.ranges import Conditions, Key, Source, positions
from service.security import Principal

FEW = 1000  # requests of a model that are looked at one by one
REGULATIONS = tuple(PERIODS)  # whatever a stored request may name: none is ever taken out


class Sort(StrEnum):
    DUE = "due"  # what is due first; requests that are not finished
    NEWEST = "-received"


KEYS: dict[Sort, Key] = {
    Sort.DUE: (DeletionRequest.due_at, DeletionRequest.id),
    Sort.NEWEST: (DeletionRequest.id,),
}


@dataclass(frozen=True)
class Wanted:
    """What a list of requests is filtered by and how it is sorted; None and empty: not asked for."""

    statuses: tuple[RequestStatus, ...] = ()
    model: str | None = None
    training_set: str | None = None
    regulation: str | None = None
    due_before: datetime | None = None
    overdue: bool = False
    sort: Sort | None = None

    @property
    def due(self) -> bool:
        """Whether only requests are meant that something has to be done about."""
        return self.due_bound is not None or self.sort is Sort.DUE

    @property
    def due_bound(self) -> datetime | None:
        bounds = [bound for bound in (self.due_before, now() if self.overdue else None) if bound is not None]
        return min(bounds, default=None)

    @property
    def everything(self) -> bool:
        """Whether nothing but a model and the caller's role leaves any request out."""
        return not self.statuses and self.regulation is None and self.training_set is None and self.due_bound is None

    @property
    def order(self) -> Sort:
        return self.sort or (Sort.DUE if self.due else Sort.NEWEST)

    @property
    def allowed(self) -> tuple[RequestStatus, ...]:
        """The statuses of the list, or none where every one will do. Raises Unprocessable."""
        if self.due and not set(self.statuses) <= set(LIVE):
            raise Unprocessable(
                "Only requests that are not finished are due: leave out the other statuses, or what asks for due dates.",
                errors=[{"parameter": "status", "detail": "must be one of " + ", ".join(LIVE)}],
            )
        return tuple(dict.fromkeys(self.statuses)) or (LIVE if self.due else ())


def listed(
    session: Session, paging: Paging, principal: Principal, wanted: Wanted
) -> tuple[list[uuid.UUID], str | None]:
    """Ids of the requests on the page, and the next cursor. Raises Unprocessable."""
    source, keep = _source(session, principal, wanted, wanted.allowed)
    found, cursor = paging.take(KEYS[wanted.order], source, keep, sort=wanted.order)
    return [position[-1] for position in found], cursor


def owned(principal: Principal) -> Conditions:
    """An application sees its own requests."""
    return [DeletionRequest.application_id == principal.application_id] if principal.role is Role.APPLICATION else []


def kept_by(session: Session, conditions: Conditions) -> Keep:
    """Keeps positions whose request fulfils the conditions; it looks at each of them by its id."""

    def keep(candidates: list[Position]) -> list[Position]:
        ids = [position[-1] for position in candidates]
        kept = set(session.scalars(select(DeletionRequest.id).where(DeletionRequest.id.in_(ids), *conditions)))
        return [position for position in candidates if position[-1] in kept]

    return keep


def _source(
    session: Session, principal: Principal, wanted: Wanted, statuses: tuple[RequestStatus, ...]
) -> tuple[Source, Keep | None]:
    """Where positions come from, and what is left to be looked at in each."""
    equal = [*owned(principal)]
    if wanted.training_set is not None:
        training_set = session.scalar(select(TrainingSet.id).where(TrainingSet.name == wanted.training_set))
        equal.append(DeletionRequest.training_set_id == training_set)
    due = [DeletionRequest.due_at < wanted.due_bound] if wanted.due_bound is not None else []
    by_due = wanted.order is Sort.DUE
    ranges = _ranges(wanted, statuses, equal, [IS_LIVE, *due] if by_due else [])
    ours = positions(session, KEYS[wanted.order], ranges, oldest_first=by_due)
    unsorted = [] if by_due else due
    if wanted.model is None:
        return ours, kept_by(session, unsorted) if unsorted else None
    model = session.scalar(select(Model.id).where(Model.name == wanted.model))
    own = select(Erasure.request_id).where(Erasure.model_id == model).order_by(Erasure.request_id)
    few = list(session.scalars(own.limit(FEW + 1)))
    if len(few) <= FEW:
        looked_at = [DeletionRequest.id.in_(few), *_filters(wanted, statuses), *equal, *due]
        return positions(session, KEYS[wanted.order], [looked_at], oldest_first=by_due), None
    if wanted.everything and not by_due and not equal:
        return positions(session, [Erasure.request_id], [[Erasure.model_id == model]]), None
    return ours, _kept_by_model(session, model, kept_by(session, unsorted) if unsorted else None)


def _kept_by_model(session: Session, model: uuid.UUID | None, keep: Keep | None) -> Keep:
    """Keeps positions whose request concerns the model, and that ``keep`` keeps."""

    def kept(candidates: list[Position]) -> list[Position]:
        ids = [position[-1] for position in candidates]
        concerned = select(Erasure.request_id).where(Erasure.model_id == model, Erasure.request_id.in_(ids))
        found = set(session.scalars(concerned))
        remaining = [position for position in candidates if position[-1] in found]
        return remaining if keep is None else keep(remaining)

    return kept


def _filters(wanted: Wanted, statuses: tuple[RequestStatus, ...]) -> Conditions:
    regulation = [DeletionRequest.regulation == wanted.regulation] if wanted.regulation is not None else []
    return [*([DeletionRequest.status.in_(statuses)] if statuses else []), *regulation]


def _ranges(
    wanted: Wanted, statuses: tuple[RequestStatus, ...], equal: Conditions, within: Conditions
) -> list[Conditions]:
    """All requests of the caller as they are, else one range for each status and regulation."""
    if not statuses and wanted.regulation is None and wanted.training_set is None:
        return [equal]
    regulations = REGULATIONS if wanted.regulation is None else (wanted.regulation,)
    return [
        [*equal, DeletionRequest.status == status, DeletionRequest.regulation == regulation, *within]
        for status, regulation in product(statuses or tuple(RequestStatus), regulations)
    ]

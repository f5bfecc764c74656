"""Which samples of a set are in erasures already: asked once a request, for all that has to be known of it."""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from sqlalchemy import Connection, and_, bindparam, select

from models.among import among_given
from models.records import DeletionRequest, Erasure, ErasureStatus, RequestSample, RequestStatus

VALUES_AT_ONCE = 10_000  # in one statement
UNFINISHED = (ErasureStatus.OPEN, ErasureStatus.RUNNING, ErasureStatus.AWAITING_RELEASE, ErasureStatus.ON_HOLD)
CALLED_OFF = (ErasureStatus.CANCELLED, ErasureStatus.NOT_APPLICABLE)
IS_CLAIM = and_(*(Erasure.status != status for status in CALLED_OFF))  # without a list that each execution writes out
# Built once: to build a statement and to look it up takes many times as long as the database needs for it.
_CLAIMS = (
    # By the status, not by rejected_at: SQLite finds that behind what the selectors were answered, on another page.
    select(
        RequestSample.sample_index,
        Erasure.model_id,
        Erasure.status,
        DeletionRequest.status == RequestStatus.REJECTED,
    )
    .join(Erasure, Erasure.request_id == RequestSample.request_id)
    .join(DeletionRequest, DeletionRequest.id == RequestSample.request_id)
    .where(RequestSample.training_set_id == bindparam("training_set"), among_given(RequestSample.sample_index, "rows"))
    .distinct()  # a row may be in many requests
)


@dataclass(frozen=True)
class Claims:
    """Rows of a set, by the models whose erasures name them."""

    forgotten: defaultdict[uuid.UUID, set[int]] = field(default_factory=lambda: defaultdict(set))  # its erasure is done
    claimed: defaultdict[uuid.UUID, set[int]] = field(
        default_factory=lambda: defaultdict(set)
    )  # forgotten, or shall be
    pending: set[int] = field(default_factory=set)  # in a request that is still at it, in whatever model

    def forgotten_by_all(self, models: Sequence[uuid.UUID]) -> set[int]:
        """Rows that every one of the models has forgotten; without models, none."""
        return set.intersection(*(self.forgotten[model] for model in models)) if models else set()


def claims_on(connection: Connection, training_set: uuid.UUID, rows: Collection[int]) -> Claims:
    """What erasures there are of these rows."""
    found, wanted = Claims(), sorted(rows)
    for start in range(0, len(wanted), VALUES_AT_ONCE):
        given = {"training_set": training_set, "rows": wanted[start : start + VALUES_AT_ONCE]}
        # all(): row by row, each would be fetched on its own.
        for row, model, status, rejected in connection.execute(_CLAIMS, given).all():
            if status is ErasureStatus.DONE:
                found.forgotten[model].add(row)
            if status not in CALLED_OFF:
                found.claimed[model].add(row)
            if status in UNFINISHED and not rejected:
                found.pending.add(row)
    return found

"""The rows of an accepted deletion request: one statement on PostgreSQL, where each costs a message, and four on SQLite."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

from sqlalchemy import (
    CTE,
    BindParameter,
    Connection,
    Insert,
    Select,
    Table,
    bindparam,
    column,
    func,
    insert,
    select,
    true,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql import ARRAY

from models.among import each_given
from models.base import new_id
from models.records import DeletionRequest, Erasure, ErasureStatus, Event, RequestSample

REQUESTS, SAMPLES, ERASURES, EVENTS = (
    cast(Table, record.__table__) for record in (DeletionRequest, RequestSample, Erasure, Event)
)
REQUEST = (
    "id",
    "application_id",
    "training_set_id",
    "status",
    "submitted_by",
    "external_id",
    "regulation",
    "ground",
    "submitted_at",
    "received_at",
    "due_at",
    "idempotency_key",
    "fingerprint",
    "selectors",
    "resolution",
    "approval_required",
    "has_controls",
)
EVENT = ("id", "at", "name", "record", "record_id", "actor", "data")
# Of all the erasures of a request alike; their own are id, model and version.
COMMON = ("status", "reason", "created_at", "finished_at")
OWN = ("id", "model_id", "version_id")


@dataclass(frozen=True)
class Erasures:
    """One for each model: open, or finished by the version that is the evidence."""

    models: Sequence[tuple[uuid.UUID, uuid.UUID | None]]  # model, version
    status: ErasureStatus
    created_at: datetime
    reason: str | None = None
    finished_at: datetime | None = None


def store(
    connection: Connection,
    request: Mapping[str, Any],
    samples: Sequence[int],
    erasures: Erasures,
    event: Mapping[str, Any],
) -> bool:
    """Insert a request, the rows that it names, its erasures and its event; all or, where its key is taken, nothing.

    ``request`` has the columns of `REQUEST`, ``event`` those of `EVENT`. Returns whether they were stored.
    """
    of_request = _prefixed("request", request)
    named = {"training_set": request["training_set_id"], "samples": samples}
    rows = [(new_id(), model, version) for model, version in erasures.models]
    common = {name: getattr(erasures, name) for name in COMMON}
    if connection.dialect.name == "postgresql":
        own = {f"erasures_{name}": [row[place] for row in rows] for place, name in enumerate(OWN)}
        others = own | _prefixed("erasure", common) | _prefixed("event", event)
        return connection.scalar(_AT_ONCE, of_request | named | others) is not None
    if connection.scalar(_REQUEST, of_request) is None:
        return False
    if samples:
        connection.execute(_SAMPLES, named | {"request": request["id"]})
    if rows:
        common["request_id"] = request["id"]
        connection.execute(_ERASURES, [common | dict(zip(OWN, row, strict=True)) for row in rows])
    connection.execute(_EVENT, dict(event))
    return True


def _prefixed(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{prefix}_{name}": value for name, value in values.items()}


def _given(prefix: str, table: Table, names: Sequence[str]) -> list[BindParameter[Any]]:
    return [bindparam(f"{prefix}_{name}", type_=table.c[name].type) for name in names]


def _insert_request(dialect: Any) -> Any:
    key = [REQUESTS.c.application_id, REQUESTS.c.idempotency_key]
    values = dict(zip(REQUEST, _given("request", REQUESTS, REQUEST), strict=True))
    return dialect.insert(REQUESTS).values(values).on_conflict_do_nothing(index_elements=key).returning(REQUESTS.c.id)


def _insert_samples(stored: CTE | None = None) -> Insert:
    """Of the request in ``stored`` if there is one in it, or of the one that is given."""
    training_set = bindparam("training_set", type_=SAMPLES.c.training_set_id.type)
    each = each_given(RequestSample.sample_index, "samples")
    if stored is None:
        rows = select(bindparam("request", type_=SAMPLES.c.request_id.type), training_set, each.c.value)
    else:
        rows = select(stored.c.id, training_set, each.c.value).select_from(stored.join(each, true()))
    return insert(SAMPLES).from_select(["request_id", "training_set_id", "sample_index"], rows)


def _insert_erasures(stored: CTE) -> Insert:
    arrays = [bindparam(f"erasures_{name}", type_=ARRAY(ERASURES.c[name].type)) for name in OWN]
    own = func.unnest(*arrays).table_valued(*(column(name, ERASURES.c[name].type) for name in OWN), name="own")
    own = own.render_derived()
    rows = select(stored.c.id, *(own.c[name] for name in OWN), *_given("erasure", ERASURES, COMMON))
    of_stored = rows.select_from(stored.join(own, true()))
    return insert(ERASURES).from_select(["request_id", *OWN, *COMMON], of_stored)


def _at_once() -> Select[uuid.UUID]:
    stored = _insert_request(postgresql).cte("stored")
    event = insert(EVENTS).from_select(EVENT, select(*_given("event", EVENTS, EVENT)).select_from(stored))
    others = {"named": _insert_samples(stored), "asked": _insert_erasures(stored), "told": event}
    return select(stored.c.id).add_cte(*(statement.cte(name) for name, statement in others.items()))


# Built once, as in service.claims.
_AT_ONCE = _at_once()
_REQUEST = _insert_request(sqlite)
_SAMPLES = _insert_samples()
_ERASURES = insert(ERASURES).inline()
_EVENT = insert(EVENTS).inline()

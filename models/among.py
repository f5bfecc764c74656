"""``column IN (thousands of values)`` with one parameter: databases take some ten thousand, and each costs its time."""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection
from typing import Any

from sqlalchemy import ColumnElement, Text, any_, func, literal, select
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import InstrumentedAttribute, Session


def among(
    session: Session, column: InstrumentedAttribute[Any], values: Collection[int | str | uuid.UUID]
) -> ColumnElement[bool]:
    """Whether the column has one of the values: texts, integers or ids, as the column does."""
    if session.get_bind().dialect.name == "postgresql":
        return column == any_(literal(list(values), ARRAY(column.type)))
    return column.in_(select(_listed(values)))


def each(
    session: Session, column: InstrumentedAttribute[Any], values: Collection[int | str | uuid.UUID]
) -> ColumnElement[Any]:
    """The values as a column of rows, to insert them from a SELECT."""
    if session.get_bind().dialect.name == "postgresql":
        return func.unnest(literal(list(values), ARRAY(column.type)), type_=column.type)
    return _listed(values)


def _listed(values: Collection[int | str | uuid.UUID]) -> ColumnElement[Any]:
    plain = [value.hex if isinstance(value, uuid.UUID) else value for value in values]  # as SQLite stores ids
    return func.json_each(literal(json.dumps(plain), Text)).table_valued("value").c.value

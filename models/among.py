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
    plain = [value.hex if isinstance(value, uuid.UUID) else value for value in values]  # as SQLite stores ids
    listed = func.json_each(literal(json.dumps(plain), Text)).table_valued("value")
    return column.in_(select(listed.c.value))

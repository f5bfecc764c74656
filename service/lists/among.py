"""``column IN (thousands of values)`` with one parameter: a placeholder for each costs more than the search itself."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from sqlalchemy import ColumnElement, Text, any_, func, literal, select
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import InstrumentedAttribute, Session


def among(session: Session, column: InstrumentedAttribute[Any], values: Collection[int | str]) -> ColumnElement[bool]:
    """Whether the column has one of the values: texts or integers, as the column does."""
    if session.get_bind().dialect.name == "postgresql":
        return column == any_(literal(list(values), ARRAY(column.type)))
    listed = func.json_each(literal(json.dumps(list(values)), Text)).table_valued("value")
    return column.in_(select(listed.c.value))

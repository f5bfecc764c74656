"""``column IN (thousands of values)`` with one parameter: databases take some ten thousand, and each costs its time."""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection
from typing import Any

from sqlalchemy import ColumnElement, Dialect, FromClause, Text, TypeDecorator, bindparam
from sqlalchemy import column as sql_column
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import InstrumentedAttribute
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement, GenericFunction
from sqlalchemy.types import NullType, TypeEngine

Value = int | str | uuid.UUID


class Values(TypeDecorator[Collection[Value]]):
    """Texts, integers or ids as one parameter: an array on PostgreSQL, JSON on SQLite."""

    impl = Text
    cache_ok = True

    def __init__(self, item: TypeEngine[Any]) -> None:
        super().__init__()
        self.item = item

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(ARRAY(self.item) if dialect.name == "postgresql" else Text())

    def process_bind_param(self, value: Collection[Value] | None, dialect: Dialect) -> Any:
        values = list(value or ())
        if dialect.name == "postgresql":
            return values
        return json.dumps([each.hex if isinstance(each, uuid.UUID) else each for each in values])  # ids as stored


class _Among(FunctionElement[Any]):
    type = NullType()  # of a boolean, SQLite would be asked whether it is = 1: other words than an index is found by
    inherit_cache = True


class _Rows(GenericFunction[Any]):
    name = "amun_rows"
    inherit_cache = True


def among(column: InstrumentedAttribute[Any], values: Collection[Value]) -> ColumnElement[bool]:
    """Whether the column has one of the values: texts, integers or ids, as the column does."""
    return _Among(column, bindparam(None, values, Values(column.type), unique=True))


def among_given(column: InstrumentedAttribute[Any], name: str) -> ColumnElement[bool]:
    """The same for a statement that is built once: its values are the parameter ``name`` of each execution."""
    return _Among(column, bindparam(name, type_=Values(column.type)))


def each_given(column: InstrumentedAttribute[Any], name: str) -> FromClause:
    """The values of the parameter ``name`` as rows with a column ``value``, to insert them from a SELECT."""
    rows = _Rows(bindparam(name, type_=Values(column.type)), type_=column.type)
    return rows.table_valued(sql_column("value", column.type), name="value")


@compiles(_Among)
def _among_listed(element: _Among, compiler: SQLCompiler, **options: Any) -> str:
    column, values = (compiler.process(each, **options) for each in element.clauses)
    return f"{column} IN (SELECT value FROM json_each({values}))"  # noqa: S608 - parts that a compiler wrote


@compiles(_Among, "postgresql")
def _among_array(element: _Among, compiler: SQLCompiler, **options: Any) -> str:
    column, values = (compiler.process(each, **options) for each in element.clauses)
    return f"{column} = ANY ({values})"


@compiles(_Rows)
def _rows_listed(element: _Rows, compiler: SQLCompiler, **options: Any) -> str:
    return f"json_each({compiler.process(element.clauses, **options)})"


@compiles(_Rows, "postgresql")
def _rows_unnested(element: _Rows, compiler: SQLCompiler, **options: Any) -> str:
    # A function that returns no record has one column, which is named as the function is in FROM.
    return f"unnest({compiler.process(element.clauses, **options)})"

"""Lists a page at a time: opaque cursors over a sorted, unique column."""

from __future__ import annotations

import base64
import binascii
import uuid
from typing import Annotated, Any, Generic, TypeVar

from fastapi import Depends, Query, Request, Response
from pydantic import BaseModel
from sqlalchemy import ColumnElement, Row, Select
from sqlalchemy.orm import InstrumentedAttribute, Session

from service.errors import Unprocessable

Item = TypeVar("Item")


class Page(BaseModel, Generic[Item]):
    """One page; ``next_cursor`` is null on the last one."""

    data: list[Item]
    next_cursor: str | None


class Paging:
    """``limit`` and ``cursor`` of a list, and the page that they cut out of a query."""

    def __init__(
        self,
        request: Request,
        response: Response,
        limit: Annotated[int, Query(ge=1, le=200, description="Records on a page.")] = 50,
        cursor: Annotated[
            str | None, Query(max_length=128, description="`next_cursor` of the page before; its form may change.")
        ] = None,
    ) -> None:
        self._request = request
        self._response = response
        self._limit = limit
        self._cursor = cursor

    def cut(
        self,
        session: Session,
        query: Select[*tuple[Any, ...]],
        column: InstrumentedAttribute[Any],
        *,
        oldest_first: bool = False,
    ) -> tuple[list[Row[*tuple[Any, ...]]], str | None]:
        """The page's rows and the next cursor; also sets the header Link. ``column`` is selected as the last one.

        Raises Unprocessable for a cursor that no page of this list has given out.
        """
        order: ColumnElement[Any] = column.asc() if oldest_first else column.desc()
        if self._cursor is not None:
            last = _decode(self._cursor, column.type.python_type)
            query = query.where(column > last if oldest_first else column < last)
        rows = list(session.execute(query.add_columns(column).order_by(order).limit(self._limit + 1)))
        if len(rows) <= self._limit:
            return rows, None
        rows = rows[: self._limit]
        following = _encode(rows[-1][-1])
        url = self._request.url.include_query_params(cursor=following, limit=self._limit)
        # Relative to the host: behind a proxy this process does not know its own name.
        self._response.headers["Link"] = f'<{url.path}?{url.query}>; rel="next"'
        return rows, following


Paged = Annotated[Paging, Depends()]


def _encode(value: uuid.UUID | int) -> str:
    return base64.urlsafe_b64encode(str(value).encode()).decode().rstrip("=")


def _decode(cursor: str, kind: type[Any]) -> Any:
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode("ascii")
        value = kind(text)
        if isinstance(value, int) and not 0 <= value < 1 << 62:
            raise ValueError("no position")
    except (ValueError, binascii.Error):
        raise Unprocessable(
            "This cursor is not one of this list: start again without it.",
            errors=[{"parameter": "cursor", "detail": "not given out by this list"}],
        ) from None
    return value

"""Lists a page at a time. A cursor is a position: pages neither skip nor repeat a record, whatever is added meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Generic, TypeVar
from urllib.parse import quote

from fastapi import Depends, Query, Request, Response
from pydantic import BaseModel
from sqlalchemy import BigInteger, Integer, Row, Select
from sqlalchemy.orm import InstrumentedAttribute, Session

from service.errors import Unprocessable
from service.lists import cursors
from service.lists.cursors import Position
from service.lists.ranges import Key, Source, beyond, ordered
from service.schemas.common import MOST_ROWS

Item = TypeVar("Item")
MOST_ON_A_PAGE = 200
DEFAULT_ON_A_PAGE = 50
FIRST_LOOK = 200  # candidates of a page that are looked at, twice as many each time until the page is full
MOST_LOOKED_AT = 5000

Keep = Callable[[list[Position]], list[Position]]  # those of the positions that belong to the list


class Page(BaseModel, Generic[Item]):
    """One page. It may hold fewer records than its limit: the list ends where ``next_cursor`` is null."""

    data: list[Item]
    next_cursor: str | None


class Paging:
    """``limit`` and ``cursor`` of a list, and the page that they cut out of it."""

    def __init__(self, path: str, limit: int, cursor: str | None, *, at: dict[str, str]) -> None:
        """``path`` names the list; ``at`` is where the caller put the cursor, as an error names it."""
        self.following: str | None = None  # the next cursor, once a page was cut
        self._path = path
        self._limit = limit
        self._cursor = cursor
        self._at = at

    def cut(
        self,
        session: Session,
        query: Select[*tuple[Any, ...]],
        *key: InstrumentedAttribute[Any],
        oldest_first: bool = False,
    ) -> tuple[list[Row[*tuple[Any, ...]]], str | None]:
        """The page's rows, sorted by ``key``, and the next cursor. The key's columns are selected as the last ones.

        Raises Unprocessable for a cursor that no page of this list has given out.
        """
        after = self._after(key, "")
        query = query.where(*beyond(key, after, oldest_first=oldest_first)).add_columns(*key)
        query = query.order_by(*ordered(key, oldest_first=oldest_first)).limit(self._limit + 1)
        rows = list(session.execute(query))
        if len(rows) > self._limit:
            rows = rows[: self._limit]
            self._go_on("", tuple(rows[-1][-len(key) :]))
        return rows, self.following

    def take(
        self, key: Key, source: Source, keep: Keep | None = None, *, sort: str = ""
    ) -> tuple[list[Position], str | None]:
        """The page's positions out of ``source``, sorted by ``key``, and the next cursor.

        ``keep`` decides where no index can: it is asked about no more than `MOST_LOOKED_AT` positions a page, which may
        then hold fewer than its limit. Raises Unprocessable as `cut` does; ``sort`` tells orders of one list apart.
        """
        found: list[Position] = []
        after = self._after(key, sort)
        looked_at, number = 0, self._limit + 1 if keep is None else max(FIRST_LOOK, self._limit + 1)
        while len(found) <= self._limit and looked_at < MOST_LOOKED_AT:
            candidates = source(after, number)
            found += candidates if keep is None else keep(candidates)
            looked_at += len(candidates)
            if len(candidates) < number:
                after = None
                break
            after, number = candidates[-1], min(2 * number, MOST_LOOKED_AT - looked_at)
        if len(found) > self._limit:
            found = found[: self._limit]
            after = found[-1]
        if after is not None:
            self._go_on(sort, after)
        return found, self.following

    def _after(self, key: Key, sort: str) -> Position | None:
        if self._cursor is None:
            return None
        try:
            position = cursors.decode(self._order(sort), self._cursor, [column.type.python_type for column in key])
            if all(_holds(column, value) for column, value in zip(key, position, strict=True)):
                return position
        except cursors.ForeignCursor:
            pass
        raise Unprocessable(
            "This cursor is not one of this list, sorted as it is now: start again without it.",
            errors=[{**self._at, "detail": "not given out by this list"}],
        )

    def _go_on(self, sort: str, position: Position) -> None:
        self.following = cursors.encode(self._order(sort), position)

    def _order(self, sort: str) -> str:
        return f"{self._path} {sort}"


def _holds(column: InstrumentedAttribute[Any], value: Any) -> bool:
    """Whether the column can have the value: PostgreSQL refuses to compare an integer with a number that is none."""
    short = isinstance(column.type, Integer) and not isinstance(column.type, BigInteger)
    return not short or 0 <= value <= MOST_ROWS


class _Linked(Paging):
    """A list that is read by GET: the header Link tells where it begins, and where it goes on."""

    def __init__(self, request: Request, response: Response, limit: int, cursor: str | None) -> None:
        super().__init__(request.scope["path"], limit, cursor, at={"parameter": "cursor"})
        # Quoted again: the scope's path is decoded, and a name in it may hold what no header can.
        self._there = quote(request.scope["path"])
        self._url = request.url.include_query_params(limit=limit)
        self._response = response
        self._link({"first": None})

    def _go_on(self, sort: str, position: Position) -> None:
        super()._go_on(sort, position)
        self._link({"next": self.following, "first": None})

    def _link(self, places: dict[str, str | None]) -> None:
        def to(cursor: str | None) -> str:
            url = self._url.remove_query_params("cursor")
            url = url if cursor is None else url.include_query_params(cursor=cursor)
            # Relative to the host: behind a proxy this process does not know its own name.
            return f"{self._there}?{url.query}"

        links = [f'<{to(cursor)}>; rel="{relation}"' for relation, cursor in places.items()]
        self._response.headers["Link"] = ", ".join(links)


def _paged(
    request: Request,
    response: Response,
    limit: Annotated[int, Query(ge=1, le=MOST_ON_A_PAGE, description="Records on a page.")] = DEFAULT_ON_A_PAGE,
    cursor: Annotated[
        str | None,
        Query(max_length=cursors.LONGEST, description="`next_cursor` of the page before; its form may change."),
    ] = None,
) -> Paging:
    return _Linked(request, response, limit, cursor)


Paged = Annotated[Paging, Depends(_paged)]

"""Expected errors are small classes with a status; every answer that is not a success is RFC 9457 problem+json.

Problem
├── Malformed          400
│   ├── TooDeep        400
│   └── Incomplete     400
├── Unauthenticated    401
├── Forbidden          403
├── NotFound           404
├── Conflict           409
├── Gone               410
├── TooLarge           413
├── Unprocessable      422
├── TooManyRequests    429
├── Damaged            500
├── Unavailable        503
└── NoSpace            507
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import IntegrityError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from models import tracing
from models.base import new_id
from models.log import described

MEDIA_TYPE = "application/problem+json"
MOST_ERRORS = 100  # a body of 10,000 bad selectors is answered with the first ones
RETRY_SECONDS = 2
BUSY = (OperationalError, InterfaceError, PoolTimeout)

log = structlog.get_logger(__name__)


def pointer(*parts: object) -> str:
    """JSON Pointer (RFC 6901) to a place in the body, as a URI fragment: ``#/samples/0``."""
    return "#" + "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in parts)


class Problem(Exception):
    """An error that is the caller's to read: ``detail`` says what the caller can do."""

    status = HTTPStatus.INTERNAL_SERVER_ERROR
    title = "Something went wrong"

    def __init__(
        self,
        detail: str,
        *,
        at: str | None = None,
        errors: Sequence[Mapping[str, Any]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = [{"pointer": at, "detail": detail}] if at is not None else list(errors)
        self.headers = dict(headers or {})


class Malformed(Problem):
    status = HTTPStatus.BAD_REQUEST
    title = "The body cannot be read"


class TooDeep(Malformed):
    title = "The body is nested too deeply"

    def __init__(self, limit: int) -> None:
        super().__init__(f"Lists and objects in a body may lie {limit} deep in each other: send one that is flatter.")


class Incomplete(Malformed):
    title = "The body is incomplete"


class Unauthenticated(Problem):
    status = HTTPStatus.UNAUTHORIZED
    title = "A valid API key is needed"

    def __init__(self) -> None:
        super().__init__(
            "The key is missing, unknown, expired or revoked: send `Authorization: Bearer unl_…` with a live one.",
            headers={"WWW-Authenticate": 'Bearer realm="amun"'},
        )


class Forbidden(Problem):
    status = HTTPStatus.FORBIDDEN
    title = "This key's role may not do that"


class NotFound(Problem):
    """Also for what belongs to somebody else: the two answers must not differ."""

    status = HTTPStatus.NOT_FOUND
    title = "Not found"


class Conflict(Problem):
    status = HTTPStatus.CONFLICT
    title = "Not possible in the present state"


class Gone(Problem):
    status = HTTPStatus.GONE
    title = "Destroyed"


class TooLarge(Problem):
    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    title = "The body is too large"

    def __init__(self, limit: int) -> None:
        super().__init__(f"This path accepts bodies of {limit:,} bytes: send less, or in several requests.")


class Unprocessable(Problem):
    status = HTTPStatus.UNPROCESSABLE_ENTITY
    title = "The request cannot be carried out as it is"


class TooManyRequests(Problem):
    status = HTTPStatus.TOO_MANY_REQUESTS
    title = "Too many requests"

    def __init__(self, detail: str, wait_seconds: float) -> None:
        super().__init__(detail, headers={"Retry-After": str(max(1, math.ceil(wait_seconds)))})


class Damaged(Problem):
    title = "A stored file is missing or was changed"


class Unavailable(Problem):
    status = HTTPStatus.SERVICE_UNAVAILABLE
    title = "Not available at the moment"

    def __init__(self, detail: str, **extra: Any) -> None:
        super().__init__(detail, headers={"Retry-After": str(RETRY_SECONDS)}, **extra)


class NoSpace(Problem):
    status = HTTPStatus.INSUFFICIENT_STORAGE
    title = "The disk is full"


class TraceMiddleware:
    """Gives each request a trace id, logs an unexpected error under it, and answers that error as a problem."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        trace_id = tracing.current_trace_id() or new_id().hex
        scope.setdefault("state", {})["trace_id"] = trace_id
        started = False

        async def traced(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [*message["headers"], (b"x-trace-id", trace_id.encode())]
            await send(message)

        with structlog.contextvars.bound_contextvars(trace_id=trace_id):  # in every line, of the handler's thread too
            try:
                await self.app(scope, receive, traced)
            except Exception as error:
                log.error("request.failed", **described(error))
                if started:
                    raise
                problem = Problem("The error was logged under the trace_id: give it to the operator.")
                await answer(trace_id, problem)(scope, receive, traced)


def add_handlers(app: FastAPI) -> None:
    """Turn every kind of error into problem+json."""
    app.add_exception_handler(Problem, _on_problem)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    for kind in BUSY:
        app.add_exception_handler(kind, _on_busy)
    app.add_exception_handler(IntegrityError, _on_race)


def responses(*kinds: type[Problem]) -> dict[int | str, dict[str, Any]]:
    """OpenAPI's description of the problems a route may answer with."""
    return {
        int(kind.status): {
            "description": kind.title,
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for kind in kinds
    }


SCHEMA: dict[str, Any] = {
    "title": "Problem",
    "description": "RFC 9457 problem details.",
    "type": "object",
    "required": ["type", "title", "status", "detail", "trace_id"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "What the caller can do."},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "pointer": {"type": "string", "description": "JSON Pointer into the body, as a URI fragment."},
                    "parameter": {"type": "string", "description": "Name of the header, path or query parameter."},
                    "detail": {"type": "string"},
                },
            },
        },
        "trace_id": {"type": "string"},
    },
}


def as_body(problem: Problem) -> dict[str, Any]:
    """The problem as JSON."""
    slug = re.sub(r"(?<!^)(?=[A-Z])", "-", type(problem).__name__).lower()
    body: dict[str, Any] = {
        "type": f"urn:amun:problem:{slug}",
        "title": problem.title,
        "status": int(problem.status),
        "detail": problem.detail,
    }
    if problem.errors:
        body["errors"] = problem.errors[:MOST_ERRORS]
    return body


def answer(trace_id: str, problem: Problem) -> JSONResponse:
    """The response that carries the problem."""
    return JSONResponse(document(trace_id, problem), int(problem.status), problem.headers, MEDIA_TYPE)


def document(trace_id: str, problem: Problem) -> dict[str, Any]:
    """The problem's document, as it is answered with or sent in a stream."""
    return {**as_body(problem), "trace_id": trace_id}


def _trace_id(request: Request) -> str:
    return str(request.state.trace_id)


def _on_problem(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Problem)  # noqa: S101 - registered for this type
    return answer(_trace_id(request), error)


def _on_invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for this type
    for item in error.errors():
        if item["type"] == "json_invalid":
            place = f"byte {item['loc'][-1]}" if isinstance(item["loc"][-1], int) else "its beginning"
            return answer(_trace_id(request), Malformed(f"The body is not JSON from {place} on: send a JSON object."))
    if request.method not in (allowed := _allowed(request)).split(", "):  # /search is no {request_id}
        return _on_http(request, HTTPException(HTTPStatus.METHOD_NOT_ALLOWED, headers={"Allow": allowed}))
    found = [_invalid(item["loc"], item["msg"], error.body) for item in error.errors()[:MOST_ERRORS]]
    problem = Unprocessable(
        "The request does not have the form that /openapi.json describes: see errors.", errors=found
    )
    return answer(_trace_id(request), problem)


def _invalid(location: Sequence[Any], message: str, body: Any) -> dict[str, str]:
    # The rejected value is left out: it may name a person.
    if location[0] == "body":
        return {"pointer": pointer(*_in_body(location[1:], body)), "detail": message}
    return {"parameter": ".".join(str(part) for part in location[1:]), "detail": message}


def _in_body(location: Sequence[Any], body: Any) -> list[Any]:
    """The location without the names of union members, which pydantic adds and the body does not have."""
    kept: list[Any] = []
    for part in location[:-1]:
        try:
            body = body[part]
        except (KeyError, IndexError, TypeError):
            continue
        kept.append(part)
    return [*kept, *location[-1:]]


def _on_http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for this type
    if isinstance(error.__cause__, Problem):  # FastAPI wraps what stops it while it reads a body
        return answer(_trace_id(request), error.__cause__)
    if isinstance(error.__cause__, BUSY):
        return _on_busy(request, error.__cause__)
    details = {
        400: "The body is not JSON, or is nested too deeply: send a JSON object.",
        404: "There is nothing at this path: /openapi.json lists the paths.",
        405: "This path does not take that method: see the header Allow.",
        413: "The body is larger than this service accepts: send it in several requests.",
    }
    headers = {"Allow": _allowed(request)} if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED else error.headers
    problem = Problem(details.get(error.status_code, str(error.detail)), headers=headers)
    problem.status = HTTPStatus(error.status_code)
    problem.title = problem.status.phrase
    return answer(_trace_id(request), problem)


def _allowed(request: Request) -> str:
    """Every method of the path: the router itself knows of the first route alone that has the path."""
    here = [each for each in request.app.state.methods if each[0].match(request.scope["path"])]
    named = [methods for _, methods, literal in here if literal] or [methods for _, methods, _ in here]
    return ", ".join(sorted(set().union(*named)))


def _on_busy(request: Request, error: Exception) -> JSONResponse:
    log.error("database.unavailable", **described(error))
    return answer(
        _trace_id(request),
        Unavailable("The database does not answer: nothing was changed unless a later GET shows it. Try again."),
    )


def _on_race(request: Request, error: Exception) -> JSONResponse:
    log.warning("database.conflict", **described(error))
    return answer(
        _trace_id(request), Conflict("Another request changed the same records at this moment: send it again.")
    )

"""The OpenAPI document: FastAPI's own, with the problems that are really sent, and an example of everything."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from service import errors
from service.examples import PARAMETERS, SCHEMAS
from service.routers.webhooks import messages

Document = dict[str, Any]
# FastAPI's form of validation errors is never sent: errors.py answers with a problem instead.
NEVER_SENT = ("HTTPValidationError", "ValidationError")
EVERYWHERE = (
    errors.Unauthenticated,
    errors.Forbidden,
    errors.Unprocessable,
    errors.TooManyRequests,
    errors.Unavailable,
)
WITH_A_BODY = (errors.Malformed, errors.TooLarge)


def document(app: FastAPI) -> Document:
    """Made once an application; the same routes give the same document."""
    if app.openapi_schema is None:
        app.openapi_schema = _document(app)
    return app.openapi_schema


def _document(app: FastAPI) -> Document:
    made = get_openapi(
        title=app.title,
        version=app.version,
        description=app.description,
        routes=app.routes,
        webhooks=messages.routes,
    )
    _describe_schemas(made["components"]["schemas"])
    for path, operation in _operations(made["paths"]):
        if path.startswith("/v1"):
            _add_common_problems(operation)
        else:
            operation["responses"].pop("422", None)
        for parameter in operation.get("parameters", []):
            _describe_parameter(parameter, path)
    for _, operation in _operations(made["webhooks"]):
        del operation["responses"]["422"]
    return made


def _operations(paths: Document) -> Iterator[tuple[str, Document]]:
    return ((path, operation) for path, methods in paths.items() for operation in methods.values())


def _describe_schemas(schemas: Document) -> None:
    for name in NEVER_SENT:
        schemas.pop(name, None)
    schemas["Problem"] = errors.SCHEMA
    for name, example in SCHEMAS.items():
        schemas[name]["examples"] = [example]


def _add_common_problems(operation: Document) -> None:
    """What any route under /v1 may answer, whatever it is about; what a route says itself stays."""
    kinds = EVERYWHERE + (WITH_A_BODY if "requestBody" in operation else ())
    for status, answer in errors.responses(*kinds).items():
        operation["responses"][str(status)] = answer
    operation["responses"] = dict(sorted(operation["responses"].items()))


def _describe_parameter(parameter: Document, path: str) -> None:
    """Descriptions stay as the route gives them. Cursors are given out by lists alone, and each list has states of its own."""
    name = parameter["name"]
    if name == "cursor":
        return
    description, example = PARAMETERS[name]
    parameter["description"] = parameter.get("description") or description
    if name == "name" and path.startswith("/v1/training-sets"):
        example = SCHEMAS["TrainingSetAnswer"]["name"]
    if example is not None:
        parameter["examples"] = {"one": {"value": example}}

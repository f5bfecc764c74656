"""The REST API as an application factory: ``uvicorn service.app:create_app --factory``."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool

from models.log import configure_logging
from models.secrets import API_KEY_PEPPER, SUPPRESSION, load_or_create
from models.session import Database
from models.settings import Settings, get_settings
from service import errors, schema
from service.body import BodyLimitMiddleware
from service.routers import (
    certificates,
    checkpoints,
    deletion_requests,
    events,
    health,
    jobs,
    jwks,
    models,
    previews,
    reports,
    training_sets,
)

DESCRIPTION = """Makes trained image classifiers forget. An application posts a deletion request that names training
images; the service unlearns them from every model that was trained on them, measures what is left with membership
inference attacks, and keeps a report for each new version.

Every answer that is not a success is `application/problem+json` (RFC 9457), whose `detail` says what to do."""


def create_app(settings: Settings | None = None, *, dispatch: bool = True) -> FastAPI:
    """The application; ``dispatch=False`` leaves planning and hints to another process.

    At start-up raises schema.WrongSchema where the database is not at this release's schema.
    """
    settings = settings or get_settings()
    configure_logging()
    app = FastAPI(
        title="AMUN unlearning service",
        version="1",
        description=DESCRIPTION,
        lifespan=_lifespan,
        generate_unique_id_function=_operation_id,
        redoc_url=None,
    )
    app.state.settings = settings
    app.state.dispatch = dispatch
    app.add_middleware(BodyLimitMiddleware, limit=settings.body_limit)
    app.add_middleware(errors.TraceMiddleware)  # added last: the outermost
    errors.add_handlers(app)
    for router in (
        training_sets.router,
        models.router,
        checkpoints.router,
        previews.router,
        deletion_requests.router,
        certificates.router,
        jobs.router,
        reports.router,
        events.router,
        jwks.router,
        health.router,
    ):
        app.include_router(router)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    settings: Settings = app.state.settings
    await run_in_threadpool(_open, app, settings)
    try:
        yield
    finally:
        await run_in_threadpool(_close, app)


def _open(app: FastAPI, settings: Settings) -> None:
    database = Database(settings.database)
    schema.check(database)
    app.state.database = database
    app.state.pepper = load_or_create(settings.secrets, API_KEY_PEPPER)
    app.state.suppression_key = load_or_create(settings.secrets, SUPPRESSION)
    app.state.dispatcher = None
    if app.state.dispatch:
        from service.dispatcher import Dispatcher  # brings Celery, which an API without a dispatcher does without

        app.state.dispatcher = Dispatcher(database, settings)
        app.state.dispatcher.start()


def _close(app: FastAPI) -> None:
    if app.state.dispatcher is not None:
        app.state.dispatcher.stop()
    app.state.database.dispose()


def _operation_id(route: APIRoute) -> str:
    return route.name


def _openapi(app: FastAPI) -> dict[str, Any]:
    """FastAPI's document, with its own form of validation errors replaced by the problems that are really sent."""
    if app.openapi_schema is not None:
        return app.openapi_schema
    document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    schemas = document["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    schemas["Problem"] = errors.SCHEMA
    common = errors.responses(errors.Unauthenticated, errors.Forbidden, errors.Unprocessable, errors.Unavailable)
    for path, methods in document["paths"].items():
        for operation in methods.values():
            answers = operation["responses"]
            if path.startswith("/v1"):
                answers.update({str(status): answer for status, answer in common.items()})
            elif "422" in answers:
                del answers["422"]
    app.openapi_schema = document
    return document

"""The REST API as an application factory: ``uvicorn service.app:create_app --factory``."""

from __future__ import annotations

import atexit
import gc
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache, partial

from fastapi import FastAPI
from fastapi.routing import APIRoute
from prometheus_client import CollectorRegistry
from starlette.concurrency import run_in_threadpool

from models import tracing
from models.log import configure_logging
from models.secrets import API_KEY_PEPPER, SUPPRESSION, WEBHOOK_KEY, load_or_create
from models.session import Database
from models.settings import Settings, get_settings
from service import errors, openapi, schema, stopping
from service.body import BodyLimitMiddleware
from service.deps import writing
from service.following import Streams
from service.group_commit import GroupCommit
from service.limiting import RateLimits
from service.monitoring.answers import Answers, AnswersMiddleware
from service.monitoring.ended import Ended
from service.monitoring.process import Process
from service.monitoring.rows import Rows
from service.routers import (
    certificates,
    checkpoints,
    deletion_requests,
    events,
    health,
    jobs,
    jwks,
    metrics,
    models,
    previews,
    reports,
    request_decisions,
    training_sets,
    uploads,
    webhooks,
)
from service.security import KeyFirstMiddleware, LookUps
from service.webhooks.targets import Targets

ROUTERS = (
    training_sets.router,
    uploads.router,
    models.router,
    checkpoints.router,
    previews.router,
    deletion_requests.router,
    request_decisions.router,
    certificates.router,
    jobs.router,
    reports.router,
    events.router,
    webhooks.router,
    jwks.router,
    health.router,
    metrics.router,
)

DESCRIPTION = """Makes trained image classifiers forget. An application posts a deletion request that names training
images; the service unlearns them from every model that was trained on them, measures what is left with membership
inference attacks, and keeps a report for each new version.

Every answer that is not a success is `application/problem+json` (RFC 9457), whose `detail` says what to do."""


def create_app(settings: Settings | None = None, *, dispatch: bool = True) -> FastAPI:
    """The application; ``dispatch=False`` leaves planning and hints to another process.

    At start-up raises schema.WrongSchema where the database is not at this release's schema, and with ``dispatch``
    posting.UnusableAuthority where AMUN_WEBHOOK_CA names no file of certificates.
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
    app.state.limits = RateLimits(settings)
    app.state.registry = CollectorRegistry()
    app.state.answers = Answers(app.state.registry)
    app.add_middleware(KeyFirstMiddleware)
    app.add_middleware(BodyLimitMiddleware)
    app.add_middleware(errors.TraceMiddleware)
    app.add_middleware(AnswersMiddleware)  # added last: the outermost
    errors.add_handlers(app)
    for router in ROUTERS:
        app.include_router(router)
    app.state.methods = [
        (route.path_regex, route.methods, "{" not in route.path)
        for router in ROUTERS
        for route in router.routes
        if isinstance(route, APIRoute)
    ]
    app.openapi = lambda: openapi.document(app)  # type: ignore[method-assign]
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    settings: Settings = app.state.settings
    app.state.stopping = threading.Event()
    app.state.streams = Streams(settings.stream_limit, app.state.stopping.is_set)
    await run_in_threadpool(_open, app, settings)
    app.state.look_ups = LookUps(app.state.database, app.state.pepper, app.state.limits)
    app.state.submissions = GroupCommit(partial(writing, app.state.database))
    _keep_what_is_loaded()
    try:
        with stopping.noticed(app.state.stopping):
            yield
    finally:
        await run_in_threadpool(_close, app)


@cache
def _keep_what_is_loaded() -> None:
    """Once a process. To walk through what was loaded again and again held every answer up for a tenth of a second.

    Nor is that done when Python ends, where it took 0.4 s of a core.
    """
    gc.collect()
    gc.freeze()
    atexit.register(gc.freeze)


def _open(app: FastAPI, settings: Settings) -> None:
    tracing.start("amun-service")
    database = Database(settings.database)
    schema.check(database)
    app.state.database = database
    app.state.pepper = load_or_create(settings.secrets, API_KEY_PEPPER)
    app.state.suppression_key = load_or_create(settings.secrets, SUPPRESSION)
    app.state.webhook_key = load_or_create(settings.secrets, WEBHOOK_KEY)
    app.state.targets = Targets(settings.allowed_networks)
    app.state.dispatcher = app.state.sender = None
    if app.state.dispatch:
        from service.dispatcher import Dispatcher  # brings Celery, which an API without a dispatcher does without
        from service.webhooks.sending import Sender

        app.state.sender = Sender(database, app.state.webhook_key, app.state.targets, further_ca=settings.webhook_ca)
        app.state.dispatcher = Dispatcher(database, settings)
        app.state.dispatcher.start()
        app.state.sender.start()
    app.state.collectors = (Process(app), Rows(database), Ended(database))
    for collector in app.state.collectors:
        app.state.registry.register(collector)


def _close(app: FastAPI) -> None:
    for collector in app.state.collectors:
        app.state.registry.unregister(collector)
    if app.state.sender is not None:
        app.state.sender.stop()
    if app.state.dispatcher is not None:
        app.state.dispatcher.stop()
    app.state.database.dispose()
    tracing.stop()


def _operation_id(route: APIRoute) -> str:
    return route.name

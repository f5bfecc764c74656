"""Every request that this process answers: one line in the log, one count, one span. Paths are told by their template."""

from __future__ import annotations

import time
from http import HTTPMethod
from typing import Any

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from models import tracing

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1, 2, 5, 10, 30)
METHODS = frozenset(HTTPMethod)
UNMATCHED = "unmatched"  # a path of no route: told by no part of it, for anybody can send anything
QUIET = ("/healthz", "/readyz", "/metrics")  # asked every few seconds by machines

log = structlog.get_logger(__name__)


class Answers:
    """The counts of one process. Latency is the time to the first byte of the answer: streams go on for hours."""

    def __init__(self, registry: CollectorRegistry) -> None:
        labels = ["method", "route", "status"]
        self.count = Counter("amun_http_requests", "Requests that were answered.", labels, registry=registry)
        self.seconds = Histogram(
            "amun_http_request_seconds",
            "Time to the first byte.",
            ["method", "route"],
            buckets=BUCKETS,
            registry=registry,
        )
        self.open = Gauge("amun_http_requests_open", "Requests that are being answered.", registry=registry)


class AnswersMiddleware:
    """The outermost: it sees what every other middleware answers."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        answers: Answers = scope["app"].state.answers
        status, first, started = 500, 0.0, time.perf_counter()
        headers: dict[str, str] = {}

        async def noted(message: Message) -> None:
            nonlocal status, first, headers
            if message["type"] == "http.response.start":
                status, first = message["status"], time.perf_counter() - started
                headers = dict(Headers(raw=message["headers"]))
            await send(message)

        method = scope["method"] if scope["method"] in METHODS else "OTHER"
        answers.open.inc()
        try:
            with tracing.span(method, headers=Headers(scope=scope), kind="server") as span:
                try:
                    await self.app(scope, receive, noted)
                finally:
                    route = _route(scope)
                    span.rename(f"{method} {route}")
                    span.set(http__request__method=method, http__route=route, http__response__status_code=status)
                    if status >= 500:
                        span.fail(str(status))
        finally:
            answers.open.dec()
            answers.count.labels(method, route, str(status)).inc()
            answers.seconds.labels(method, route).observe(first or time.perf_counter() - started)
            if route not in QUIET or status >= 400:
                self._log(scope, method, route, status, first, headers)

    def _log(self, scope: Scope, method: str, route: str, status: int, seconds: float, headers: dict[str, str]) -> None:
        told: dict[str, Any] = {"method": method, "route": route, "status": status, "seconds": round(seconds, 4)}
        state = scope.get("state", {})
        told["trace_id"] = state.get("trace_id")
        if (principal := state.get("principal")) is not None:
            told["key"] = principal.key_id
        if "location" in headers and status < 300:  # of what was made: its id
            told["made"] = headers["location"]
        log.info("request.answered", **told)


def _route(scope: Scope) -> str:
    path = getattr(scope.get("route"), "path", None)
    return path if isinstance(path, str) else UNMATCHED

"""Limits on request bodies that count what arrives: they hold for chunked bodies and for false lengths too."""

from __future__ import annotations

import re

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from models.settings import Settings
from service.errors import TooDeep, TooLarge, answer
from service.nesting import Nesting

DEEPEST = 32  # nothing that this service reads nests half as deep
BULK = re.compile(r"/v1/deletion-requests(/preview|/search)?|/v1/training-sets/[^/]+/samples/search")
UPLOAD = re.compile(r"/v1/uploads/[^/]+")


class BodyLimitMiddleware:
    """Answers 413 at once where Content-Length is above the limit, and as soon as more than that has arrived.

    The limit goes by the path: ``upload_limit``, ``bulk_body_limit`` for lists of samples, ``body_limit`` for the rest.
    All bodies but uploads are JSON: one that nests deeper than 32 is answered 400 before a parser sees it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        limit = _limit(scope["app"].state.settings, scope["path"])
        announced = Headers(scope=scope).get("content-length", "")
        if announced.isdecimal() and int(announced) > limit:
            await answer(scope["state"]["trace_id"], TooLarge(limit))(scope, receive, send)
            return
        nesting = Nesting(DEEPEST) if UPLOAD.fullmatch(scope["path"]) is None else None
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            if message["type"] == "http.request":
                chunk = message.get("body", b"")
                received += len(chunk)
                if received > limit:
                    raise TooLarge(limit)
                if nesting is not None and nesting.exceeded_by(chunk):
                    raise TooDeep(DEEPEST)
            return message

        await self.app(scope, counted, send)


def _limit(settings: Settings, path: str) -> int:
    if UPLOAD.fullmatch(path):
        return settings.upload_limit
    return settings.bulk_body_limit if BULK.fullmatch(path) else settings.body_limit

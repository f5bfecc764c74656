"""A limit on request bodies that counts bytes: it holds for chunked bodies and for false lengths too."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import TooLarge, answer


class BodyLimitMiddleware:
    """Answers 413 at once where Content-Length is above ``limit`` bytes, and as soon as more than that has arrived."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self.app = app
        self.limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("content-length", "")
        if announced.isdecimal() and int(announced) > self.limit:
            await answer(scope["state"]["trace_id"], TooLarge(self.limit))(scope, receive, send)
            return
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            if message["type"] == "http.request":
                received += len(message.get("body", b""))
                if received > self.limit:
                    raise HTTPException(TooLarge.status)  # the only kind that FastAPI lets pass while it reads a body
            return message

        await self.app(scope, counted, send)

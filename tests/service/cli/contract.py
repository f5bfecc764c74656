"""A server that answers as the API's contract has it, for what the real service cannot be made to do on demand:
faults, busy answers, streams that break off, decisions whose effects do not matter to the command line."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

KEY = {"Authorization": "Bearer unl_000000000000_" + "x" * 43}


@dataclass(frozen=True)
class Asked:
    method: str
    path: str
    query: dict[str, list[str]]
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Answer:
    """``broken``: the announced length is not reached before the connection closes; ``silent``: it stays open."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    broken: bool = False
    silent: bool = False


def as_json(value: Any, status: int = 200, *, broken: bool = False, **headers: str) -> Answer:
    given = {name.replace("_", "-"): each for name, each in headers.items()}
    return Answer(status, json.dumps(value).encode(), {"Content-Type": "application/json", **given}, broken)


def problem(status: int, title: str = "Not now", **headers: str) -> Answer:
    made = as_json({"title": title, "status": status, "detail": "Try again.", "trace_id": "t"}, status, **headers)
    made.headers["Content-Type"] = "application/problem+json"
    return made


def stream(*messages: tuple[str | None, str, Any], broken: bool = False, silent: bool = False) -> Answer:
    """Server-sent events: id, event, data."""
    lines = []
    for number, event, data in messages:
        lines += [f"id: {number}"] if number is not None else []
        lines += [f"event: {event}", f"data: {json.dumps(data)}", ""]
    body = "\n".join([": keep-alive", "retry: 10", "", *lines, ""]).encode()
    return Answer(200, body, {"Content-Type": "text/event-stream; charset=utf-8"}, broken, silent)


class Contract:
    """Answers each path with what it was told, in order, the last one for ever."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self._closing = threading.Event()
        self._answers: dict[tuple[str, str], list[Answer]] = {}
        contract = self

        class Handler(BaseHTTPRequestHandler):
            def do(self) -> None:
                contract._handle(self)

            do_GET = do_POST = do_PUT = do_DELETE = do  # noqa: N815

            def log_message(self, *_: object) -> None:
                """Nothing: tests look at what was asked."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def answer(self, method: str, path: str, *answers: Answer) -> None:
        self._answers[method, path] = list(answers)

    def close(self) -> None:
        self._closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _handle(self, handler: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(handler.path)
        body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        headers = {name.lower(): value for name, value in handler.headers.items()}
        self.asked.append(Asked(handler.command, parts.path, parse_qs(parts.query), headers, body))
        waiting = self._answers.get((handler.command, parts.path), [problem(404, "Not found")])
        answer = waiting.pop(0) if len(waiting) > 1 else waiting[0]
        handler.send_response(answer.status)
        for name, value in answer.headers.items():
            handler.send_header(name, value)
        missing = 100 if answer.broken or answer.silent else 0
        handler.send_header("Content-Length", str(len(answer.body) + missing))
        handler.end_headers()
        handler.wfile.write(answer.body)
        if answer.silent:
            handler.wfile.flush()
            self._closing.wait()

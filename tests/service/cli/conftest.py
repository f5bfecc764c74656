"""The command line as people and scripts run it, against the real service on a real port."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import structlog
import uvicorn
from fastapi import FastAPI
from typer.testing import CliRunner

from models.settings import Settings
from service.cli import app
from service.limiting import RateLimits
from tests.conftest import free_port
from tests.service.cli.contract import Contract

START_SECONDS = 30.0


@dataclass(frozen=True)
class Done:
    """How a command ended: its exit status, and what went where."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Amun = Callable[..., Done]


@pytest.fixture
def settings(sqlite_settings: Settings) -> Settings:
    """One database is enough: the command line sees HTTP alone."""
    return sqlite_settings


@pytest.fixture
def url(application: FastAPI, settings: Settings) -> Iterator[str]:
    """The service without its dispatcher: what happens is what a test does."""
    port = free_port()
    application.state.settings = settings
    application.state.limits = RateLimits(settings)
    config = uvicorn.Config(application, port=port, log_config=None, lifespan="on")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    deadline = time.monotonic() + START_SECONDS
    while not server.started and thread.is_alive() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert server.started
    # It shares standard error with the commands here, which it does not elsewhere.
    ours = structlog.get_config()["wrapper_class"]
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(START_SECONDS)
    structlog.configure(wrapper_class=ours)


@pytest.fixture
def amun(url: str) -> Amun:
    """Runs a command with a key, as the headers that the fixtures of the service make."""
    return at(url)


@pytest.fixture
def contract() -> Iterator[Contract]:
    server = Contract()
    yield server
    server.close()


def at(url: str) -> Amun:
    def run(headers: dict[str, str] | None, *arguments: object, stdin: str | None = None) -> Done:
        key = headers["Authorization"].removeprefix("Bearer ") if headers is not None else None
        environment = {"AMUN_URL": url, "AMUN_API_KEY": key, "COLUMNS": "200"}
        done = CliRunner().invoke(
            app,
            [str(argument) for argument in arguments],
            input=stdin,
            env=environment,
            catch_exceptions=False,
        )
        return Done(done.exit_code, done.stdout, done.stderr)

    return run

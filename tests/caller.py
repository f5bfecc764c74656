"""A client that loses nothing: it asks every API process in turn until one answers, with the same key each time."""

from __future__ import annotations

import itertools
import threading
import time
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import httpx

from models.records import Role
from models.secrets import API_KEY_PEPPER, load_or_create
from models.session import Database
from models.settings import Settings
from service import security
from service.plain import NO_AUTHORITY

Json = dict[str, Any]
PAUSE_SECONDS = 0.2


@dataclass(frozen=True)
class Accepted:
    """A deletion request that was answered 202."""

    id: uuid.UUID
    at: datetime
    url: str  # of the API process that answered
    attempts: int


class Caller:
    """Holds one key. Connection errors, 429 and 5xx are tried again; any other refusal raises httpx.HTTPStatusError."""

    def __init__(self, urls: list[str], key: str, patience: float = 120.0) -> None:
        self._urls = itertools.cycle(urls)
        self._turn = threading.Lock()
        self._patience = patience
        self._client = httpx.Client(
            headers={"Authorization": f"Bearer {key}"}, timeout=10, trust_env=False, verify=NO_AUTHORITY
        )
        self.accepted: list[Accepted] = []

    def ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        """The first answer that is one."""
        return self._ask(method, path, **more)[0]

    def get(self, path: str, **params: Any) -> Json:
        found: Json = self.ask("GET", path, params=params).json()
        return found

    def erase(
        self, training_set: str, samples: list[Json], models: list[str] | None = None, key: str | None = None
    ) -> uuid.UUID:
        """POST a deletion request until it is accepted; ``key`` is its Idempotency-Key (default: a new one)."""
        body: Json = {"training_set": training_set, "samples": samples, "ground": "17(1)(b)"}
        headers = {"Idempotency-Key": key or str(uuid.uuid4())}
        if models is not None:
            body["models"] = models
        answer, url, attempts = self._ask("POST", "/v1/deletion-requests", json=body, headers=headers)
        accepted = Accepted(uuid.UUID(answer.json()["id"]), datetime.now(UTC), url, attempts)
        self.accepted.append(accepted)
        return accepted.id

    def close(self) -> None:
        self._client.close()

    def _ask(self, method: str, path: str, **more: Any) -> tuple[httpx.Response, str, int]:
        deadline = time.monotonic() + self._patience
        for attempt in itertools.count(1):
            with self._turn:
                url = next(self._urls)
            why = "no answer"
            try:
                answer = self._client.request(method, url + path, **more)
                if answer.status_code != 429 and answer.status_code < 500:
                    return answer.raise_for_status(), url, attempt
                why = answer.text
            except httpx.TransportError as error:
                why = repr(error)
            if time.monotonic() > deadline:
                raise TimeoutError(f"{method} {path} was not answered within {self._patience:.0f} seconds: {why}")
            time.sleep(PAUSE_SECONDS)
        raise AssertionError  # count() has no end


def keys(settings: Settings, applications: list[str]) -> dict[str, str]:
    """A new key for the operator, for compliance, and for each application, by name."""
    pepper = load_or_create(settings.secrets, API_KEY_PEPPER)
    database = Database(settings.database)
    try:
        with database.write() as session:
            staff = {
                role.value: security.create_key(session, pepper, role) for role in (Role.OPERATOR, Role.COMPLIANCE)
            }
            return staff | {
                name: security.create_key(session, pepper, Role.APPLICATION, application=name) for name in applications
            }
    finally:
        database.dispose()

"""SEND: a thread and a bounded pool that post what is due. Any process may: see `service.webhooks.claiming`.

At least once, never exactly: a receiver may see a message again where a process died before it wrote down the answer.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import structlog

from models.base import now
from models.crashes import crash_point
from models.session import Database
from service.webhooks import signatures
from service.webhooks.attempts import SCHEDULE, Outcome, record
from service.webhooks.claiming import WORKERS, Claim, give_back, take
from service.webhooks.posting import TOTAL_SECONDS, Exchange, Unanswered, tls_context
from service.webhooks.targets import RefusedTarget, Targets

WRITERS = 4  # at a time: the pool of database connections is there for requests first
PAUSE_SECONDS = 1.0
STOP_SECONDS = 8.0
USER_AGENT = "amun-webhooks/1"

log = structlog.get_logger(__name__)


class Sender:
    """Sends pending deliveries. ``schedule`` is the seconds to wait after each failed attempt.

    Raises posting.UnusableAuthority where ``further_ca`` is no file of certificates.
    """

    def __init__(
        self,
        database: Database,
        key: bytes,
        targets: Targets,
        *,
        further_ca: Path | None = None,
        schedule: Sequence[float] = SCHEDULE,
        seconds: float = TOTAL_SECONDS,
    ) -> None:
        self._database = database
        self._key = key
        self._targets = targets
        self._context = tls_context(further_ca)
        self._schedule = schedule
        self._seconds = seconds
        self._lock = threading.Lock()
        self._claims: set[Claim] = set()  # in flight
        self._exchanges: set[Exchange] = set()
        self._writers = threading.BoundedSemaphore(WRITERS)
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="webhook")
        self._thread = threading.Thread(target=self._loop, name="webhooks", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread, cut every connection and give its claims back. Takes a few seconds at most."""
        self._stop.set()
        self._wake.set()
        with self._lock:
            exchanges = list(self._exchanges)
        for exchange in exchanges:
            exchange.cut()
        if self._thread.is_alive():
            self._thread.join(timeout=STOP_SECONDS)
        self._pool.shutdown()

    def round(self) -> list[Future[None]]:
        """Claim what is due, as far as there are slots, and hand it to the pool."""
        with self._lock:
            in_flight = list(self._claims)
        claims = take(self._database, self._key, in_flight)
        if claims:
            crash_point("send.claimed")
        with self._lock:
            self._claims.update(claims)
        return [self._pool.submit(self._deliver, claim) for claim in claims]

    def _loop(self) -> None:
        while not self._stop.is_set():
            self._wake.clear()
            try:
                self.round()
            except Exception:
                log.error("webhooks.round_failed", exc_info=True)
                self._stop.wait(PAUSE_SECONDS)
            self._wake.wait(PAUSE_SECONDS)

    def _deliver(self, claim: Claim) -> None:
        try:
            outcome = None if self._stop.is_set() else self._attempt(claim)
            crash_point("send.posted")
            with self._writers, self._database.write() as session:
                if outcome is None:
                    give_back(session, claim)
                else:
                    record(session, claim, outcome, self._schedule)
            crash_point("send.after_commit")
            if outcome is not None and outcome.error is not None:
                log.warning(
                    "webhooks.attempt_failed",
                    webhook=str(claim.webhook_id),
                    delivery=claim.number,
                    status_code=outcome.status_code,
                    error=outcome.error,
                )
        except Exception:  # the claim runs out, and the message is sent again
            log.error("webhooks.delivery_failed", webhook=str(claim.webhook_id), number=claim.number, exc_info=True)
        finally:
            with self._lock:
                self._claims.discard(claim)
            self._wake.set()

    def _attempt(self, claim: Claim) -> Outcome | None:
        """None where it was cut short because this process stops."""
        begun = time.monotonic()
        exchange = Exchange(self._context, self._seconds)
        with self._lock:
            self._exchanges.add(exchange)
        headers = {"Content-Type": "application/json", "User-Agent": USER_AGENT}
        headers |= signatures.headers(list(claim.secrets), claim.message_id, now(), claim.body)
        try:
            target = self._targets.check(claim.url)
            if self._stop.is_set():
                return None
            reply = exchange.post(target, headers, claim.body.encode())
        except RefusedTarget as error:
            return Outcome(time.monotonic() - begun, error=str(error))
        except Unanswered as error:
            return None if self._stop.is_set() else Outcome(time.monotonic() - begun, error=str(error))
        except Exception:  # counted like any failure: it must not be tried for ever
            log.error("webhooks.attempt_broke", webhook=str(claim.webhook_id), number=claim.number, exc_info=True)
            return Outcome(time.monotonic() - begun, error="an error of the service, which its log holds")
        finally:
            with self._lock:
                self._exchanges.discard(exchange)
        return Outcome(time.monotonic() - begun, reply.status_code, _error(reply.status_code), reply.retry_after)


def _error(status_code: int) -> str | None:
    if 200 <= status_code < 300:
        return None
    return "redirects are not followed" if 300 <= status_code < 400 else "not a status of success"

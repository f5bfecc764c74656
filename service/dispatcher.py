"""One thread in whichever API process holds the lease: plan, hint, sweep, destroy, erase, certify, remind, seal, tell."""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid
from collections import Counter
from datetime import timedelta

import structlog
from sqlalchemy import or_, select, update
from sqlalchemy.exc import IntegrityError

from models.crashes import crash_point
from models.lease import DISPATCHER, DISPATCHER_SECONDS
from models.queue import celery_app
from models.records import Lease
from models.session import Database, current_time
from models.settings import Settings
from service import uploads
from service.backups import keeping
from service.duties import certifying, destroying, erasing, hinting, planning, reminding, retention, sealing, sweeping
from service.webhooks import outbox

LEASE = DISPATCHER
LEASE_SECONDS = DISPATCHER_SECONDS
SLOW_SECONDS = 30.0  # between duties that take longer the more is stored, or that nobody waits for
WHOLE_SECONDS = 3600.0  # between looks at the whole log and at every file

log = structlog.get_logger(__name__)


class Dispatcher:
    """Every effect is a guarded move in the database, so two dispatchers at once do nothing twice; the lease saves work."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self.database = database
        self.settings = settings
        self.holder = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        self._celery = celery_app(settings)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="dispatcher", daemon=True)
        self._held_until = 0.0  # monotonic
        self._slow_at = self._whole_at = self._orphans_at = self._all_orphans_at = 0.0
        self.failures: Counter[str] = Counter()  # of duties, for the metrics

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread and give the lease back, so that the next process need not wait for it to expire."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=LEASE_SECONDS)
        try:
            with self.database.write() as session:
                session.execute(
                    update(Lease)
                    .where(Lease.name == LEASE, Lease.holder == self.holder)
                    .values(expires_at=current_time(session))
                )
        except Exception:
            log.warning("dispatcher.lease_not_returned", exc_info=True)

    def round(self) -> None:
        """One pass over everything that is due. A duty that fails is logged and does not keep the others from theirs."""
        if not self._hold_lease():
            return
        crash_point("dispatch.leased")
        slow, whole = time.monotonic() >= self._slow_at, time.monotonic() >= self._whole_at
        self._duty("sweep", lambda: sweeping.expired_leases(self.database))
        self._duty("plan", lambda: planning.plan(self.database, self.settings, gathering=slow))
        self._duty("hint", lambda: hinting.hint(self.database, self._celery))
        self._duty("files", self._destroy_unless_copied)
        self._duty("documents", lambda: certifying.plan_documents(self.database, self.settings))
        look_back = sealing.LOOK_BACK if slow else sealing.RECENT
        self._duty("seal", lambda: sealing.seal_events(self.database, look_back=look_back, everything=whole))
        self._duty("webhooks", lambda: outbox.fan_out(self.database))
        if slow:
            self._slow_at = time.monotonic() + SLOW_SECONDS
            self._duty("remind", lambda: reminding.remind(self.database))
            self._duty("prune", lambda: retention.prune_webhooks(self.database, self.settings))
        if whole:
            self._whole_at = time.monotonic() + WHOLE_SECONDS

    def _destroy_unless_copied(self) -> None:
        with keeping.destroying(self.settings.data_dir) as allowed:
            if allowed:
                self._destroy()

    def _destroy(self) -> None:
        """The duties that overwrite and remove files: not while a backup copies them."""
        self._duty("destroy", lambda: destroying.destroy_versions(self.database, self.settings))
        self._duty("signals", lambda: erasing.erase_signals(self.database, self.settings))
        self._duty("controls", lambda: erasing.erase_controls(self.database, self.settings))
        self._duty("samples", lambda: erasing.erase_samples(self.database, self.settings))
        self._duty("retired", lambda: destroying.destroy_signals(self.database, self.settings))
        self._duty("uploads", lambda: uploads.destroy_uploads(self.database, self.settings))
        if time.monotonic() >= self._orphans_at:
            self._orphans_at = time.monotonic() + SLOW_SECONDS
            self._duty("orphans", lambda: sweeping.orphaned_files(self.database, self.settings, recent=True))
            self._duty("strays", lambda: uploads.remove_strays(self.database, self.settings))
        if time.monotonic() >= self._all_orphans_at:
            self._all_orphans_at = time.monotonic() + WHOLE_SECONDS
            self._duty("all orphans", lambda: sweeping.orphaned_files(self.database, self.settings))

    def _loop(self) -> None:
        while not self._stop.is_set():
            try:
                self.round()
            except Exception:
                log.error("dispatcher.round_failed", exc_info=True)
            self._stop.wait(self.settings.dispatch_seconds)

    def _duty(self, name: str, work: object) -> None:
        if self._stop.is_set():
            return
        try:
            work()  # type: ignore[operator]
        except Exception:
            self.failures[name] += 1
            log.error("dispatcher.duty_failed", duty=name, exc_info=True)

    def _hold_lease(self) -> bool:
        if time.monotonic() < self._held_until - LEASE_SECONDS * 2 / 3:
            return True
        asked = time.monotonic()
        if not self._take_lease():
            self._held_until = 0.0
            return False
        self._held_until = asked + LEASE_SECONDS
        return True

    def _take_lease(self) -> bool:
        try:
            with self.database.write() as session:
                at = current_time(session)
                until = at + timedelta(seconds=LEASE_SECONDS)
                taken = session.execute(
                    update(Lease)
                    .where(Lease.name == LEASE, or_(Lease.holder == self.holder, Lease.expires_at <= at))
                    .values(holder=self.holder, expires_at=until)
                )
                if taken.rowcount:  # type: ignore[attr-defined]
                    return True
                if session.scalar(select(Lease.name).where(Lease.name == LEASE)) is not None:
                    return False
                session.add(Lease(name=LEASE, holder=self.holder, expires_at=until))
                return True
        except IntegrityError:  # another process inserted the row first
            return False

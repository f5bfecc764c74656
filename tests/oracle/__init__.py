"""The one oracle of the fault tests: what must hold of rows, files and the log, whatever died on the way.

It reads only. It asks for nothing that a later round of the dispatcher has still to do, but for what it names itself: a sweep
of leases, of orphans, a seal and a fan-out must have run since the last fault.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection

from models.session import Database
from models.settings import Settings
from tests.oracle import files, log, rows


def violations(
    database: Database, settings: Settings, accepted: Collection[uuid.UUID], *, settled: bool = True
) -> list[str]:
    """Everything that is wrong, in words; empty where all is well.

    Args:
        database: read in one transaction.
        settings: say where the files are.
        accepted: ids of all deletion requests that were answered 202.
        settled: False leaves out what holds only after the dispatcher's rounds: leases swept, nothing orphaned, every event
            sealed and told.
    """
    with database.read() as session:
        found = [
            *rows.missing(session, accepted),
            *rows.stuck(session),
            *rows.wrong_status(session),
            *rows.jobs(session),
            *rows.versions(session),
            *rows.served(session),
            *log.chain(session),
            *log.deliveries(session),
            *files.wrong(session, settings),
        ]
        if settled:
            found += [
                *rows.expired(session),
                *log.untold(session),
                *files.unnamed(session, settings),
            ]
    return found

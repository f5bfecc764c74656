"""Acts in processes of their own: forked, in a few milliseconds, from a server that has everything imported."""

from __future__ import annotations

import multiprocessing
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from models.settings import Settings

SECONDS = 300.0
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.faults.warm", "tests.faults.first_round", "tests.faults.acts"])


@dataclass(frozen=True)
class Play:
    """An act and what it needs.

    ``crash`` is the point at which the process dies; ``recovers`` has it begin as if hours had passed, and end with the
    oracle; ``store`` is seed and rate of a store that fails.
    """

    settings: Settings
    act: str
    receiver: str
    crash: str = ""
    recovers: bool = False
    store: tuple[int, float] = (0, 0.0)


@dataclass(frozen=True)
class Ended:
    """``exitcode`` as multiprocessing has it (negative: the signal); a recovery tells of violations and states."""

    exitcode: int | None
    told: dict[str, Any]


def play(what: Play) -> Ended:
    """Run it in a process of its own."""
    ours, theirs = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=_perform, args=(what, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        told = ours.recv() if ours.poll(SECONDS) else {"error": f"it took longer than {SECONDS:.0f} s"}
    except EOFError:  # it died
        told = {}
    process.join(5)
    if process.exitcode is None:
        process.kill()
        process.join()
    ours.close()
    return Ended(process.exitcode, told)


def _perform(what: Play, connection: Connection) -> None:
    from tests.faults import acts  # in the server already; not in the process of the tests
    from tests.faults.scene import Scene
    from tests.oracle import violations

    try:
        scene = Scene(what.settings, what.crash, what.receiver, what.store)
        if what.recovers:
            scene.later()
        told: dict[str, Any] = getattr(acts, what.act)(scene) or {}
        if what.recovers:
            told = acts.states(scene) | {
                "violations": violations(scene.database, scene.settings, scene.accepted()),
            }
        scene.close()
        connection.send(told)
    except Exception:
        connection.send({"error": traceback.format_exc()})
    finally:
        connection.close()

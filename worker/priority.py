"""A job gives way to the API beside it: a request is answered in milliseconds, a job takes minutes whoever waits."""

from __future__ import annotations

import os
import time
from pathlib import Path

ATTEMPTS = 5
PAUSE_SECONDS = 0.11  # Linux takes one change of a session's weight in a tenth of a second, of anybody's


def give_way(pid: int, niceness: int) -> None:
    """Raise the niceness of a process that leads a session of its own, and of all that it will start, to at least this.

    Where the kernel shares the processor between sessions (autogroup, proc(5)), niceness counts only within each: the
    session's own is raised as well. 0 changes nothing; a process that has ended, or a kernel that refuses, is left alone.
    """
    if niceness == 0:
        return
    try:
        # A worker that was started with more hands it on, and is not to be favoured by a setting that asks for less.
        os.setpriority(os.PRIO_PROCESS, pid, max(niceness, os.getpriority(os.PRIO_PROCESS, pid)))
    except OSError:
        return
    for _ in range(ATTEMPTS):
        try:
            Path(f"/proc/{pid}/autogroup").write_text(str(niceness))
            return
        except BlockingIOError:
            time.sleep(PAUSE_SECONDS)
        except OSError:
            return

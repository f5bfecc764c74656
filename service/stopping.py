"""Knowing that the server is about to stop while it still waits for the answers that it is sending.

uvicorn tells the application only after the last answer has ended, or was cut off: streams without an end must know before.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def noticed(stopping: threading.Event) -> Iterator[None]:
    """Set ``stopping`` at SIGTERM and SIGINT, and pass the signal on to the server's own handler.

    Without such a handler, or outside the main thread, nothing is installed: streams are then cut off at the server's limit.
    """
    replaced = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            server = signal.getsignal(number)
            if callable(server) and server is not signal.default_int_handler:

                def told(number: int, frame: FrameType | None, server: object = server) -> None:
                    stopping.set()
                    server(number, frame)  # type: ignore[operator]

                signal.signal(number, told)
                replaced[number] = server
    try:
        yield
    finally:
        stopping.set()
        for number, server in replaced.items():
            signal.signal(number, server)

"""Knowing that the server is about to stop while it still waits for the answers that it is sending, and that Ctrl-C was pressed.

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


_interrupted = threading.Event()


@contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt within, as always, and again in ``pause`` where the first one was lost.

    Python drops what a signal handler raises while an object is being collected: it only prints "Exception ignored in".
    """

    def pressed(number: int, frame: FrameType | None) -> None:
        _interrupted.set()
        raise KeyboardInterrupt

    _interrupted.clear()
    before = signal.signal(signal.SIGINT, pressed)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def pause(seconds: float) -> None:
    """Sleep. Raises KeyboardInterrupt if Ctrl-C is pressed meanwhile, or was pressed before within ``interruptible``."""
    if _interrupted.wait(seconds):
        raise KeyboardInterrupt

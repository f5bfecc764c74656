"""Ctrl-C is noticed wherever it comes."""

from __future__ import annotations

import os
import signal
import sys

import pytest

from service.stopping import interruptible, pause


class PressedWhileCollected:
    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(1000):  # the handler runs between two instructions: here, where what it raises is dropped
            pass


def test_ctrl_c_is_noticed_though_python_dropped_its_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    dropped: list[type[BaseException]] = []
    before = signal.getsignal(signal.SIGINT)  # a shell's background command ignores it
    monkeypatch.setattr(sys, "unraisablehook", lambda event: dropped.append(event.exc_type))
    with pytest.raises(KeyboardInterrupt), interruptible():
        PressedWhileCollected()
        assert dropped == [KeyboardInterrupt]
        pause(60)
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_ends_a_pause_and_the_next_run_begins_anew() -> None:
    with pytest.raises(KeyboardInterrupt), interruptible():
        os.kill(os.getpid(), signal.SIGINT)
        pause(60)
    with interruptible():
        pause(0)

"""Celery's filesystem transport, made to outlive a full disk: whatever has its name is whole.

The original writes messages and its table of queues in place. On a full disk each try leaves an empty file: a message that
ends the worker which reads it, or a table that nobody can read again.
"""

from __future__ import annotations

import os
import time
import uuid
from pathlib import Path
from typing import Any

from kombu.exceptions import ChannelError
from kombu.transport import TRANSPORT_ALIASES, filesystem
from kombu.utils.json import dumps

SCHEME = "folder"


class Channel(filesystem.Channel):
    """Writes beside and renames; reads past what was cut short before."""

    def _put(self, queue: str, payload: Any, **_: Any) -> None:  # type: ignore[override]
        name = f"{round(time.monotonic() * 1000)}_{uuid.uuid4()}.{queue}.msg"
        _write_whole(Path(self.data_folder_out) / name, payload)

    def _get(self, queue: str, timeout: float | None = None) -> Any:
        while True:
            try:
                return super()._get(queue)  # type: ignore[no-untyped-call]
            except ValueError:  # it is gone by now, and the job it hinted at is hinted at again
                continue

    def _queue_bind(self, exchange: str, routing_key: str | None, pattern: str | None, queue: str | None) -> None:
        bound = [routing_key or "", pattern or "", queue or ""]
        try:
            known = [list(each) for each in self.get_table(exchange)]  # type: ignore[no-untyped-call]
        except ValueError:
            known = []
        if bound not in known:
            file: Path = self._exchange_file(exchange)  # type: ignore[no-untyped-call]
            _write_whole(file, [bound, *known])


class Transport(filesystem.Transport):
    Channel = Channel


def broker_url() -> str:
    """The URL under which Celery finds this transport."""
    TRANSPORT_ALIASES[SCHEME] = f"{__name__}:{Transport.__name__}"
    return f"{SCHEME}://"


def _write_whole(path: Path, content: Any) -> None:
    draft = path.with_name(f".{uuid.uuid4().hex}.draft")
    try:
        with draft.open("wb") as file:
            file.write(dumps(content).encode())  # type: ignore[no-untyped-call]
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise ChannelError(f"cannot write {path}") from error

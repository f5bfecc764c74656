"""Server-sent events, as the HTML standard's section 9.2 has them read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

# A carriage return at the end of a piece may be the first half of a line end.
LINE_END = re.compile(r"\r\n|\n|\r(?!\Z)")


@dataclass(frozen=True)
class Message:
    """``id`` is the last one that the stream has named: what Last-Event-ID repeats after it broke off."""

    event: str
    data: str
    id: str | None


def messages(pieces: Iterable[str], last_id: str | None = None) -> Iterator[Message]:
    """The messages in a body that arrives in pieces. One that is cut off is dropped, and so are comments."""
    event = ""
    data: list[str] = []
    for line in _lines(pieces):
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            if data:
                yield Message(event or "message", "\n".join(data), last_id)
            event, data = "", []
        elif name == "event":
            event = value
        elif name == "data":
            data.append(value)
        elif name == "id" and "\0" not in value:
            last_id = value


def _lines(pieces: Iterable[str]) -> Iterator[str]:
    rest = ""
    for piece in pieces:
        *whole, rest = LINE_END.split(rest + piece)
        yield from whole

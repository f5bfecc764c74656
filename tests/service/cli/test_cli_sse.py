"""Server-sent events, against the HTML standard's own examples and what the service's library writes."""

from __future__ import annotations

from itertools import pairwise

import pytest
from fastapi.sse import format_sse_event
from hypothesis import given
from hypothesis import strategies as st

from service.cli.sse import Message, messages

STANDARD = [
    (
        "data: This is the first message.\n\ndata: This is the second message, it\ndata: has two lines.\n\n",
        [
            ("message", "This is the first message.", None),
            ("message", "This is the second message, it\nhas two lines.", None),
        ],
    ),
    (
        "event: add\ndata: 73857293\n\nevent: remove\ndata: 2153\n\n",
        [("add", "73857293", None), ("remove", "2153", None)],
    ),
    ("data: YHOO\ndata: +2\ndata: 10\n\n", [("message", "YHOO\n+2\n10", None)]),
    (
        ": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n",
        [("message", "first event", "1"), ("message", "second event", ""), ("message", " third event", "")],
    ),
    ("data\n\ndata\ndata\n\ndata:", [("message", "", None), ("message", "\n", None)]),
    ("data:test\n\ndata: test\n\n", [("message", "test", None), ("message", "test", None)]),
    ("data: cut off", []),
    ("id: 1\0\ndata: x\n\n", [("message", "x", None)]),
]


@pytest.mark.parametrize(("text", "expected"), STANDARD)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_the_standards_examples_are_read(
    text: str, expected: list[tuple[str, str, str | None]], end: str, size: int
) -> None:
    sent = text.replace("\n", end) + ("x" if end == "\r" else "")  # a last \r may be half of a line end
    pieces = [sent[start : start + size] for start in range(0, len(sent), size)]
    assert list(messages(pieces)) == [Message(*each) for each in expected]


@given(data=st.text(st.characters(exclude_categories=["Cs"])), cuts=st.lists(st.integers(0, 200)))
def test_what_the_service_writes_is_read_however_it_is_cut(data: str, cuts: list[int]) -> None:
    sent = format_sse_event(event="progress", data_str=data, id="7").decode() + format_sse_event(comment="x").decode()
    places = sorted({0, len(sent), *(cut for cut in cuts if cut < len(sent))})
    pieces = [sent[start:end] for start, end in pairwise(places)]
    (read,) = messages(pieces)
    assert (read.event, read.id) == ("progress", "7")
    assert read.data == data.replace("\r\n", "\n").replace("\r", "\n")


def test_the_last_id_goes_on_after_a_stream_broke_off() -> None:
    assert [each.id for each in messages(["data: a\n\n"], "7")] == ["7"]

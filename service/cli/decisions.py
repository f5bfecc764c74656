"""amun requests: what people decide about a request"""

from __future__ import annotations

from collections.abc import Callable

import typer

from service.cli.client import Api
from service.cli.completing import RequestId
from service.cli.options import OptionalReason, Reason, over_http
from service.cli.output import note, print_bytes
from service.cli.paths import to

# What is decided against the person, or about the law, needs its reason.
NEED_REASON = {
    "hold": "Keep a request back until it is resumed; it stays due. For operators.",
    "extend": "Extend the period, once, as far as the regulation allows. For operators.",
    "reject": "Refuse a request; it gets a certificate that says why. For operators.",
}
MAY_HAVE_REASON = {
    "cancel": "Call a request off: what is not forgotten yet is spared. An application its own.",
    "resume": "Go on with a request that is on hold. For operators.",
    "approve": "Let a request begin that waits for approval. For operators.",
}


def add_to(app: typer.Typer) -> None:
    """Register the decisions as commands of a group."""
    for name in NEED_REASON:
        over_http(app, name)(_with_reason(name))
    for name in MAY_HAVE_REASON:
        over_http(app, name)(_perhaps_with_reason(name))


def _with_reason(what: str) -> Callable[..., None]:
    def command(api: Api, request_id: RequestId, reason: Reason) -> None:
        _decide(api, request_id, what, {"reason": reason})

    command.__doc__ = NEED_REASON[what]
    return command


def _perhaps_with_reason(what: str) -> Callable[..., None]:
    def command(api: Api, request_id: RequestId, reason: OptionalReason = None) -> None:
        _decide(api, request_id, what, {"reason": reason} if reason is not None else {})

    command.__doc__ = MAY_HAVE_REASON[what]
    return command


def _decide(api: Api, request_id: str, what: str, body: dict[str, str]) -> None:
    answer = api.post(to("deletion-requests", request_id, what), body)
    if api.machine:
        print_bytes(answer.content)
        return
    request = answer.json()
    note(f"request {request['id']}: {request['status'].replace('_', ' ')}, due {request['due_at'][:10]}")

"""amun requests: what people decide about a request"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer

from service.cli.client import Api
from service.cli.completing import RequestId
from service.cli.options import Reason, over_http
from service.cli.output import note, print_bytes
from service.cli.paths import to

DECISIONS = {
    "hold": "Stop work on a request until it is resumed. For operators.",
    "resume": "Go on with a request that was put on hold. For operators.",
    "extend": "Extend the period, once, as far as the regulation allows. For operators.",
    "approve": "Let a request go ahead that waits for approval. For operators.",
    "reject": "Refuse a request; it gets a certificate that says why. For operators.",
}


def add_to(app: typer.Typer) -> None:
    """Register the decisions as commands of a group."""
    over_http(app, "cancel")(cancel)
    for name in DECISIONS:
        over_http(app, name)(_decision(name))


def cancel(
    api: Api,
    request_id: RequestId,
    reason: Annotated[str | None, typer.Option(help="Why; it stays in the event log. Name no person in it.")] = None,
) -> None:
    """Take a request back. What was forgotten already stays forgotten."""
    decide(api, request_id, "cancel", reason)


def decide(api: Api, request_id: str, what: str, reason: str | None) -> None:
    """POST a decision, and show what the request is now."""
    body: dict[str, Any] = {"reason": reason} if reason is not None else {}
    answer = api.post(to("deletion-requests", request_id, what), body)
    if api.machine:
        print_bytes(answer.content)
        return
    request = answer.json()
    note(f"request {request['id']}: {request['status'].replace('_', ' ')}, due {request['due_at'][:10]}")


def _decision(what: str) -> Callable[..., None]:
    def command(api: Api, request_id: RequestId, reason: Reason) -> None:
        decide(api, request_id, what, reason)

    command.__doc__ = DECISIONS[what]
    return command

"""amun webhooks: who is told of what. For applications, of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.cli.client import Api
from service.cli.completing import WebhookId
from service.cli.options import SHORT_LIST, All, Limit, listed, over_http
from service.cli.output import Columns, anything, at, details, note, print_bytes, table
from service.cli.paths import to

if TYPE_CHECKING:
    import httpx

app = typer.Typer(no_args_is_help=True, help="Webhooks of an application.")

Number = Annotated[int, typer.Argument(metavar="NUMBER", min=1, help="Of the delivery.")]

COLUMNS: Columns = {
    "id": "id",
    "url": "url",
    "events": lambda row: row.get("events") or "all",
    "disabled": at("disabled_at"),
    "made": at("created_at"),
}
DELIVERIES: Columns = {
    "number": "number",
    "type": "type",
    "status": "status",
    "attempts": lambda row: len(row["attempts"]) if isinstance(row["attempts"], list) else row["attempts"],
    "next attempt": at("next_attempt_at"),
    "made": at("created_at"),
    "finished": at("finished_at"),
}


@over_http(app, "create")
def create(
    api: Api,
    address: Annotated[str, typer.Argument(metavar="ADDRESS", help="https address that messages are sent to.")],
    events: Annotated[
        list[str] | None, typer.Option("--event", help="Type of message; may be repeated. Default: all.")
    ] = None,
) -> None:
    """Be told of events. The signing secret is shown once: keep it where the receiver finds it."""
    _changed(api, "/v1/webhooks", {"url": address} | ({"events": events} if events else {}))


@over_http(app, "list")
def list_webhooks(api: Api, everything: All = False, limit: Limit = SHORT_LIST) -> None:
    """Webhooks of this application."""
    rows, more = api.pages("/v1/webhooks", {}, None if everything else limit)
    listed(api, rows, more, lambda rows: table(rows, COLUMNS))


@over_http(app, "show")
def show(api: Api, webhook_id: WebhookId) -> None:
    """One webhook."""
    _shown(api, api.get(to("webhooks", webhook_id)))


@over_http(app, "delete")
def delete(api: Api, webhook_id: WebhookId) -> None:
    """Send nothing to it any more."""
    api.delete(to("webhooks", webhook_id))
    note(f"webhook {webhook_id} deleted")


@over_http(app, "deliveries")
def deliveries(api: Api, webhook_id: WebhookId, everything: All = False, limit: Limit = SHORT_LIST) -> None:
    """Messages and what became of each, newest first."""
    rows, more = api.pages(to("webhooks", webhook_id, "deliveries"), {}, None if everything else limit)
    listed(api, rows, more, lambda rows: table(rows, DELIVERIES))


@over_http(app, "delivery")
def delivery(api: Api, webhook_id: WebhookId, number: Number) -> None:
    """One message: what was sent, and what came of every attempt."""
    answer = api.get(to("webhooks", webhook_id, "deliveries", number))
    if api.machine:
        print_bytes(answer.content)
    else:
        anything({name: value for name, value in answer.json().items() if name != "links"})


@over_http(app, "enable")
def enable(api: Api, webhook_id: WebhookId) -> None:
    """Send to a disabled webhook again. What happened in between is not sent."""
    _changed(api, to("webhooks", webhook_id, "enable"))


@over_http(app, "rotate-secret")
def rotate_secret(api: Api, webhook_id: WebhookId) -> None:
    """A new signing secret, shown once; the one before it goes on to count for a while."""
    _changed(api, to("webhooks", webhook_id, "rotate-secret"))


@over_http(app, "test")
def test(api: Api, webhook_id: WebhookId) -> None:
    """Send a test message."""
    _sent(api, to("webhooks", webhook_id, "test"))


@over_http(app, "redeliver")
def redeliver(api: Api, webhook_id: WebhookId, number: Number) -> None:
    """Send a message once more."""
    _sent(api, to("webhooks", webhook_id, "deliveries", number, "redeliver"))


def _sent(api: Api, path: str) -> None:
    answer = api.post(path)
    if api.machine:
        print_bytes(answer.content)
        return
    delivery = answer.json()
    note(f"delivery {delivery['number']}: {delivery['status']}")


def _changed(api: Api, path: str, body: dict[str, Any] | None = None) -> None:
    answer = api.post(path, body)
    _shown(api, answer)
    if "secret" in answer.json():
        note("the secret is not shown again")


def _shown(api: Api, answer: httpx.Response) -> None:
    if api.machine:
        print_bytes(answer.content)
        return
    webhook = answer.json()
    details(webhook, {name.replace("_", " "): name for name in webhook if name != "links"})

"""Ids and names that the shell completes: one short question to the service, and nothing where it does not answer."""

from __future__ import annotations

import sys
from collections.abc import Callable
from io import StringIO
from typing import Annotated

import typer

from service.cli.client import DEFAULT_URL, LARGEST_PAGE, Api

SECONDS = 1.0

Complete = Callable[[typer.Context, str], list[str]]


def from_list(path: str, field: str) -> Complete:
    """Completes with a field of the records of a list: of its first page, for people type while they wait."""

    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        api = Api(ctx.params.get("url") or DEFAULT_URL, ctx.params.get("key_file"), seconds=SECONDS)
        terminal, sys.stderr = sys.stderr, StringIO()  # a message would land in the line that is being typed
        try:
            page = api.get(path, {"limit": LARGEST_PAGE}).json()
            return [each[field] for each in page["data"] if each[field].startswith(incomplete)]
        except Exception:  # whatever is wrong, the command itself will say it
            return []
        finally:
            sys.stderr = terminal
            api.close()

    return complete


RequestId = Annotated[
    str, typer.Argument(metavar="ID", help="Of the request.", autocompletion=from_list("/v1/deletion-requests", "id"))
]
JobId = Annotated[str, typer.Argument(metavar="ID", help="Of the job.", autocompletion=from_list("/v1/jobs", "id"))]
ReportId = Annotated[
    str, typer.Argument(metavar="ID", help="Of the report.", autocompletion=from_list("/v1/reports", "id"))
]
WebhookId = Annotated[
    str, typer.Argument(metavar="ID", help="Of the webhook.", autocompletion=from_list("/v1/webhooks", "id"))
]
ModelName = Annotated[
    str, typer.Argument(metavar="NAME", help="Of the model.", autocompletion=from_list("/v1/models", "name"))
]
SetName = Annotated[
    str,
    typer.Argument(metavar="NAME", help="Of the training set.", autocompletion=from_list("/v1/training-sets", "name")),
]
ModelOption = Annotated[
    str | None, typer.Option("--model", help="Of this model only.", autocompletion=from_list("/v1/models", "name"))
]

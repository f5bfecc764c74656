"""amun events: the sealed log"""

from __future__ import annotations

from typing import Annotated

import typer

from service.cli.client import Api
from service.cli.exits import Exit
from service.cli.options import SHORT_LIST, All, Limit, listed, over_http
from service.cli.output import Columns, at, details, print_bytes, table

app = typer.Typer(no_args_is_help=True, help="The sealed event log. For compliance and operators.")

COLUMNS: Columns = {
    "position": "position",
    "at": at("at"),
    "name": "name",
    "record": lambda row: f"{row['record']} {row['record_id']}",
    "actor": "actor",
    "data": "data",
}


@over_http(app, "list")
def list_events(
    api: Api,
    record: Annotated[str | None, typer.Option(help="Kind of record, such as job.")] = None,
    record_id: Annotated[str | None, typer.Option(help="One record of that kind.")] = None,
    everything: All = False,
    limit: Limit = SHORT_LIST,
) -> None:
    """Events, oldest first."""
    params = {"record": record, "record_id": record_id}
    rows, more = api.pages("/v1/events", params, None if everything else limit)
    listed(api, rows, more, lambda rows: table(rows, COLUMNS))


@over_http(app, "verify")
def verify(api: Api) -> Exit:
    """Compute every seal anew. Exit status 1 where the log is not what was sealed."""
    answer = api.get("/v1/events/verify")
    found = answer.json()
    if api.machine:
        print_bytes(answer.content)
    else:
        details(found, {name.replace("_", " "): name for name in found})
    return Exit.DONE if found["intact"] else Exit.FAILED

"""amun training-sets"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from service.cli.client import Api
from service.cli.completing import SetName
from service.cli.exits import Exit
from service.cli.models import registered
from service.cli.naming import read_object
from service.cli.options import SHORT_LIST, All, Limit, Timeout, Watch, listed, over_http
from service.cli.output import Columns, at, details, print_bytes, table
from service.cli.paths import to

app = typer.Typer(no_args_is_help=True, help="Registered images that models are trained on.")

COLUMNS: Columns = {
    "name": "name",
    "status": "status",
    "rows": "rows",
    "shape": "shape",
    "applications": "applications",
    "made": at("created_at"),
    "error": lambda row: (row["error"] or {}).get("code"),
}


@over_http(app, "list")
def list_sets(api: Api, everything: All = False, limit: Limit = SHORT_LIST) -> None:
    """Training sets, newest first."""
    rows, more = api.pages("/v1/training-sets", {}, None if everything else limit)
    listed(api, rows, more, lambda rows: table(rows, COLUMNS))


@over_http(app, "show")
def show(api: Api, name: SetName) -> None:
    """One training set and how far it is."""
    answer = api.get(to("training-sets", name))
    if api.machine:
        print_bytes(answer.content)
        return
    more: Columns = {
        "source": "source",
        "controls": "controls",
        "classes": "classes",
        "manifest sha256": "manifest_sha256",
    }
    details(answer.json(), {**COLUMNS, **more, "error": "error", "id": "id"})


@over_http(app, "create")
def create(
    api: Api,
    file: Annotated[Path, typer.Option("--file", help="JSON as POST /v1/training-sets takes it; - is standard input.")],
    stay: Watch = False,
    timeout: Timeout = None,
) -> Exit | None:
    """Register images; a job reads them."""
    answer = api.post("/v1/training-sets", read_object(file))
    return registered(api, answer.content, answer.json(), "training_set", stay, timeout)

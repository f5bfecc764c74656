"""The console script `amun`: run the service here, or talk to one over HTTP. One file a group of commands."""

from __future__ import annotations

import typer

from service.cli import decisions, events, jobs, models, reports, requests, training_sets, webhooks
from service.cli.backing_up import BACKUPS
from service.cli.exits import EXITS
from service.cli.keys import keys
from service.cli.local import LOCAL

app = typer.Typer(
    no_args_is_help=True,
    help="Machine unlearning with a measured audit.",
    epilog=EXITS,
    pretty_exceptions_enable=False,
)
decisions.add_to(requests.app)
for command in LOCAL:
    app.command(rich_help_panel="On this machine")(command)
for title, copying in BACKUPS:
    app.command(title, rich_help_panel="On this machine")(copying)
app.add_typer(keys, name="keys", rich_help_panel="On this machine")
for name, group in (
    ("requests", requests.app),
    ("jobs", jobs.app),
    ("reports", reports.app),
    ("models", models.app),
    ("training-sets", training_sets.app),
    ("webhooks", webhooks.app),
    ("events", events.app),
):
    app.add_typer(group, name=name, rich_help_panel="Over HTTP")

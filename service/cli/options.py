"""What every command over HTTP shares: where the service is, whose key is sent, how a command ends."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

import typer

from service.cli.client import DEFAULT_URL, Api
from service.cli.exits import EXITS, INTERRUPTED
from service.cli.output import note, print_json
from service.cli.stopped import Stopped

Command = TypeVar("Command", bound=Callable[..., int | None])

SHARED = "Service"
Url = Annotated[
    str, typer.Option("--url", envvar="AMUN_URL", help="Where the service is.", rich_help_panel=SHARED, metavar="URL")
]
KeyFile = Annotated[
    Path | None,
    typer.Option(
        "--key-file", help="File with the API key; default: the variable AMUN_API_KEY.", rich_help_panel=SHARED
    ),
]
Machine = Annotated[
    bool, typer.Option("--json", help="The service's JSON on standard output, nothing else.", rich_help_panel=SHARED)
]
All = Annotated[bool, typer.Option("--all", help="Every page.")]
Limit = Annotated[int, typer.Option("--limit", min=1, help="Most records to show.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; it stays in the event log. Name no person in it.")]
OptionalReason = Annotated[
    str | None, typer.Option("--reason", help="Why; it stays in the event log. Name no person in it.")
]
Timeout = Annotated[
    float | None, typer.Option("--timeout", min=0, help="Seconds after which watching ends, with exit status 6.")
]
Watch = Annotated[bool, typer.Option("--watch", help="Stay, and show how far it is until it ends.")]
SHORT_LIST = 50


def over_http(app: typer.Typer, name: str, *, epilog: str = EXITS) -> Callable[[Command], Command]:
    """Register a command that takes an Api first, and returns an exit status or None for 0.

    Typer sees --url, --key-file and --json in place of the Api.
    """

    def register(command: Command) -> Command:
        @wraps(command)
        def run(*, url: str, key_file: Path | None, machine: bool, **given: Any) -> None:
            api = Api(url, key_file, machine=machine)
            try:
                status = command(api, **given)
            except Stopped as stopped:
                note(str(stopped))
                status = stopped.exit
            except KeyboardInterrupt:
                note("stopped here; what the service was asked to do goes on")
                status = INTERRUPTED
            finally:
                api.close()
            raise typer.Exit(int(status or 0))

        _show_to_typer(run, command)
        app.command(name, epilog=epilog)(run)
        return command

    return register


def _show_to_typer(run: Callable[..., Any], command: Callable[..., Any]) -> None:
    hints = get_type_hints(command, include_extras=True)
    _, *own = inspect.signature(command).parameters.values()
    keyword = inspect.Parameter.KEYWORD_ONLY
    shown = [each.replace(kind=keyword, annotation=hints[each.name]) for each in own]
    for parameter, annotation, default in (
        ("url", Url, DEFAULT_URL),
        ("key_file", KeyFile, None),
        ("machine", Machine, False),
    ):
        shown.append(inspect.Parameter(parameter, keyword, default=default, annotation=annotation))
    run.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in shown}


def listed(api: Api, rows: list[dict[str, Any]], more: bool, show: Callable[[list[dict[str, Any]]], None]) -> None:
    """A list, for people or machines; says where it was cut short."""
    if api.machine:
        print_json(rows)
    elif rows:
        show(rows)
    else:
        note("none")
    if more:
        note(f"there are more than these {len(rows)}: --all shows every one, --limit N more of them")


def time_option(said: str | None, option: str) -> str | None:
    """A day or a time with its zone, as RFC 3339 in UTC. Raises typer.BadParameter."""
    if said is None:
        return None
    try:
        parsed = datetime.fromisoformat(said)
    except ValueError:
        raise typer.BadParameter(f"{option} takes a day such as 2026-11-30, or 2026-11-30T12:00:00Z") from None
    if parsed.tzinfo is None:
        if "T" in said or " " in said:
            raise typer.BadParameter(f"{option} needs a time zone, such as the Z of 2026-11-30T12:00:00Z")
        parsed = parsed.replace(tzinfo=UTC)
    return parsed.astimezone(UTC).isoformat().replace("+00:00", "Z")

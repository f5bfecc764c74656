"""amun reports: what each audit found, and whether the evidence of it is genuine"""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from models import verify as verifier
from service.cli import evidence
from service.cli.choices import Verdict
from service.cli.client import Api
from service.cli.completing import ModelOption, ReportId
from service.cli.exits import VERIFIER_EXITS, Exit
from service.cli.options import SHORT_LIST, All, Limit, listed, over_http, time_option
from service.cli.output import Columns, at, console, details, moment, note, print_bytes, table
from service.cli.paths import to
from service.cli.stopped import Refused
from service.cli.transfer import download, saved

app = typer.Typer(
    no_args_is_help=True, help="Audit reports: list, read, download, verify. For compliance and operators."
)

FORMS = {"bundle": ("/bundle", "zip"), "pdf": ("/pdf", "pdf"), "json": ("", "json"), "csv": ("/samples.csv", "csv")}
COLUMNS: Columns = {
    "id": "id",
    "model": "model",
    "version": "version",
    "verdict": "verdict",
    "kind": lambda row: row["kind"].replace("_", " "),
    "edition": "edition",
    "made": at("created_at"),
    "signed": lambda row: row["key_id"] is not None,
}


@over_http(app, "list")
def list_reports(
    api: Api,
    model: ModelOption = None,
    verdict: Verdict | None = None,
    made_from: Annotated[str | None, typer.Option("--from", help="Made at or after this day or time.")] = None,
    made_to: Annotated[str | None, typer.Option("--to", help="Made before this day or time.")] = None,
    everything: All = False,
    limit: Limit = SHORT_LIST,
) -> None:
    """Reports, newest first."""
    params = {
        "model": model,
        "verdict": verdict,
        "from": time_option(made_from, "--from"),
        "to": time_option(made_to, "--to"),
    }
    rows, more = api.pages("/v1/reports", params, None if everything else limit)
    listed(api, rows, more, lambda rows: table(rows, COLUMNS))


@over_http(app, "show")
def show(api: Api, report_id: ReportId) -> None:
    """One report: the verdict, its reasons and the figures; --json prints the signed document."""
    answer = api.get(to("reports", report_id))
    if api.machine:
        print_bytes(answer.content)
    else:
        _show(answer.json())


@over_http(app, "download")
def download_report(
    api: Api,
    report_id: ReportId,
    out: evidence.Out = None,
    form: Annotated[
        Literal["bundle", "pdf", "json", "csv"], typer.Option("--format", help="bundle: all of them, signed.")
    ] = "bundle",
) -> None:
    """Save a report. Standard output is the file's name."""
    suffix, end = FORMS[form]
    target = evidence.folder(out) / f"report-{report_id}.{end}"
    sha256 = download(api, to("reports", report_id) + suffix, target)
    note(f"sha256 {sha256}")
    saved(api, target, sha256, str(target))


@over_http(app, "verify", epilog=VERIFIER_EXITS)
def verify(
    api: Api,
    bundle: Annotated[str, typer.Argument(metavar="BUNDLE|ID", help="Folder or zip, or a report's id.")],
    trusted_keys: evidence.TrustedKeys = None,
    checkpoint: Annotated[Path | None, typer.Option(help="The model's file, if it is not in the bundle.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder to keep a fetched bundle in.")] = None,
) -> int:
    """Check a report. A bundle is checked here, without the service; one named by its id is fetched first."""
    if Path(bundle).exists():
        result = verifier.verify(Path(bundle), trusted_keys or [], checkpoint)
        evidence.told(api, result)
        return result.status
    try:
        uuid.UUID(bundle)
    except ValueError:
        raise typer.BadParameter(f"{bundle} is neither a file nor the id of a report") from None
    return _verify_fetched(api, bundle, trusted_keys, checkpoint, out)


def _verify_fetched(
    api: Api, report_id: str, trusted: list[Path] | None, checkpoint: Path | None, out: Path | None
) -> int:
    with evidence.kept_in(out) as folder:
        bundle = folder / f"report-{report_id}.zip"
        try:
            download(api, to("reports", report_id, "bundle"), bundle)
        except Refused as refused:
            if refused.exit is Exit.UNAVAILABLE:
                raise
            note(str(refused))
            return verifier.UNREADABLE
        result = evidence.checked(api, bundle, trusted, checkpoint)
        evidence.told(api, result)
        return result.status


def _show(document: dict[str, Any]) -> None:
    if not {"finding", "scope", "audit"} <= document.keys():
        details(document, {name.replace("_", " "): name for name in document})
        return
    head, scope, finding = document["document"], document["scope"], document["finding"]
    shown: Columns = {
        "id": lambda _: head["id"],
        "kind": lambda _: head["kind"].replace("_", " "),
        "edition": lambda _: head["edition"],
        "supersedes": lambda _: head["supersedes"],
        "issued": lambda _: moment(head["issued_at"]),
        "model": lambda _: scope["model"],
        "version before": lambda _: (scope["base_version"] or {}).get("number"),
        "new version": lambda _: (scope["new_version"] or {}).get("number"),
        "verdict": lambda _: finding["verdict"],
        "in words": lambda _: finding["words"],
        "overrides": lambda row: row["overrides"],
    }
    details(document, shown)
    if document["audit"].get("after") and document.get("action"):
        from service.demo_outcome import print_outcome

        print_outcome(console(markup=True), document)

"""amun requests: ask for samples to be forgotten, and see how far that is"""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from models import verify as verifier
from service.cli import evidence
from service.cli.choices import Regulation, RequestStatus
from service.cli.client import Api
from service.cli.completing import ModelOption, RequestId, from_list
from service.cli.exits import Exit
from service.cli.naming import lines, selectors
from service.cli.options import SHORT_LIST, All, Limit, Timeout, Watch, listed, over_http, time_option
from service.cli.output import anything, note, print_bytes, print_json
from service.cli.paths import to
from service.cli.requests_shown import request_rows, show_receipt, show_request
from service.cli.stopped import Deadline, Refused, Stopped
from service.cli.transfer import download
from service.cli.watching import request_outcome, watch_request

app = typer.Typer(no_args_is_help=True, help="Deletion requests: make, follow and decide them, fetch certificates.")

PATH = "/v1/deletion-requests"
NAMES = "Samples"

Statuses = Annotated[list[RequestStatus] | None, typer.Option("--status", help="May be repeated.")]
SetOption = Annotated[
    str | None,
    typer.Option("--training-set", help="On this set only.", autocompletion=from_list("/v1/training-sets", "name")),
]


def _named(*flags: str, help: str) -> Any:
    return typer.Option(*flags, help=help, rich_help_panel=NAMES)


@over_http(app, "create")
def create(
    api: Api,
    training_set: Annotated[
        str, typer.Option("--training-set", autocompletion=from_list("/v1/training-sets", "name"), help="Its name.")
    ],
    keys: Annotated[list[str] | None, _named("--key", help="Key in the set, such as train/00017.")] = None,
    indices: Annotated[list[int] | None, _named("--index", help="Row of the set.")] = None,
    sha256: Annotated[list[str] | None, _named("--sha256", help="Of the pixels.")] = None,
    file_sha256: Annotated[list[str] | None, _named("--file-sha256", help="Of the registered file.")] = None,
    subjects: Annotated[
        Path | None, _named("--subject-file", help="File with a person's identifier on each line; - is standard input.")
    ] = None,
    source: Annotated[
        Path | None,
        _named("--from", help='Many samples: JSON lines ({"key": …}) or CSV with a header; - is standard input.'),
    ] = None,
    models: Annotated[list[str] | None, typer.Option("--model", help="Default: every model of the set.")] = None,
    external_id: Annotated[str | None, typer.Option(help="Your own number of the case.")] = None,
    regulation: Annotated[Regulation | None, typer.Option(help="Sets the due date; default: GDPR.")] = None,
    ground: Annotated[str | None, typer.Option(help="Such as 17(1)(b).")] = None,
    submitted_at: Annotated[str | None, typer.Option(help="When the person asked: the period runs from then.")] = None,
    partial: Annotated[bool, typer.Option("--partial", help="Go on although some samples are not found.")] = False,
    idempotency_key: Annotated[
        str | None,
        typer.Option(help="Sent again with the same key, the request is not made twice. Default: a new one."),
    ] = None,
    preview: Annotated[
        bool, typer.Option("--preview", help="Only show what it would do; exit status 1 where it would be refused.")
    ] = False,
    stay: Watch = False,
    timeout: Timeout = None,
) -> Exit | None:
    """Ask for samples to be forgotten. Prints the request's id; --watch stays until it ended."""
    body = {
        "training_set": training_set,
        "samples": selectors(
            keys=keys or [],
            indices=indices or [],
            sha256=sha256 or [],
            file_sha256=file_sha256 or [],
            subjects=subjects,
            source=source,
        ),
        "models": models or None,
        "external_id": external_id,
        "regulation": regulation,
        "ground": ground,
        "submitted_at": time_option(submitted_at, "--submitted-at"),
        "partial": partial or None,
    }
    body = {name: value for name, value in body.items() if value is not None}
    if preview:
        return _preview(api, body)
    answer = _submit(api, body, idempotency_key or str(uuid.uuid4()))
    receipt = answer.json()
    if stay:
        note(f"request {receipt['id']}")
        return _watched(api, receipt["id"], timeout)
    if api.machine:
        print_bytes(answer.content)
    else:
        show_receipt(receipt)
    return None


@over_http(app, "show")
def show(api: Api, request_id: RequestId) -> None:
    """One request: due date, how far it is in each model, what became of its samples."""
    answer = api.get(to("deletion-requests", request_id))
    if api.machine:
        print_bytes(answer.content)
    else:
        show_request(answer.json())


@over_http(app, "watch")
def watch(api: Api, request_id: RequestId, timeout: Timeout = None) -> Exit:
    """Follow a request until it ended or waits for a person."""
    return _watched(api, request_id, timeout)


@over_http(app, "list")
def list_requests(
    api: Api,
    statuses: Statuses = None,
    model: ModelOption = None,
    training_set: SetOption = None,
    regulation: Regulation | None = None,
    due_before: Annotated[str | None, typer.Option(help="A day, or a time with its zone.")] = None,
    overdue: Annotated[bool, typer.Option("--overdue", help="Its due date has passed and it has not ended.")] = False,
    sort: Annotated[
        Literal["due", "-received"] | None, typer.Option(help="What is due first, or the newest, comes first.")
    ] = None,
    everything: All = False,
    limit: Limit = SHORT_LIST,
) -> None:
    """Requests, newest first, or due first where due dates are asked for. An application sees its own."""
    params = {
        "status": statuses or None,
        "model": model,
        "training_set": training_set,
        "regulation": regulation,
        "due_before": time_option(due_before, "--due-before"),
        "overdue": True if overdue else None,
        "sort": sort,
    }
    rows, more = api.pages(PATH, params, None if everything else limit)
    listed(api, rows, more, request_rows)


@over_http(app, "search")
def search(
    api: Api,
    external_id: Annotated[str | None, typer.Option(help="The application's own number of the case.")] = None,
    subject_file: Annotated[
        Path | None, typer.Option(help="File with one person's identifier; - is standard input.")
    ] = None,
    training_set: SetOption = None,
    statuses: Statuses = None,
    everything: All = False,
    limit: Limit = SHORT_LIST,
) -> None:
    """Requests of a case or a person, also after the erasure."""
    if external_id is None and subject_file is None:
        raise typer.BadParameter("give --external-id, --subject-file or both")
    body: dict[str, Any] = {"external_id": external_id, "training_set": training_set, "status": statuses or None}
    if subject_file is not None:
        named = lines(subject_file)
        if len(named) != 1:
            raise typer.BadParameter(f"{subject_file} must hold one identifier, on one line")
        body["subject"] = named[0]
    body = {name: value for name, value in body.items() if value is not None}
    rows, more = api.search(f"{PATH}/search", body, None if everything else limit)
    listed(api, rows, more, request_rows)


@over_http(app, "certificate")
def certificate(
    api: Api,
    request_id: RequestId,
    out: evidence.Out = None,
    trusted_keys: evidence.TrustedKeys = None,
) -> Exit:
    """Fetch the erasure certificate with its signature as a zip, and check it at once."""
    bundle = evidence.folder(out) / f"certificate-{request_id}.zip"
    download(api, to("deletion-requests", request_id, "certificate", "bundle"), bundle)
    result = evidence.checked(api, bundle, trusted_keys)
    evidence.summed_up(bundle, result)
    if result.status not in (verifier.VERIFIED, verifier.INTEGRITY_ONLY):
        return Exit.FAILED
    if api.machine:
        print_bytes(evidence.part(bundle, "certificate.json"))
    return Exit.DONE


def _submit(api: Api, body: dict[str, Any], key: str) -> Any:
    note(f"idempotency key: {key}")
    try:
        return api.post(PATH, body, again=True, headers={"Idempotency-Key": key})
    except Stopped as stopped:
        if isinstance(stopped, Refused) and stopped.status < 500:
            raise
        note(
            "Whether the request was accepted is not known. "
            f"The same command with --idempotency-key {key} never makes a second one."
        )
        raise


def _preview(api: Api, body: dict[str, Any]) -> Exit:
    answer = api.post(f"{PATH}/preview", body, again=True)
    preview = answer.json()
    if api.machine:
        print_bytes(answer.content)
    else:
        anything(preview)
    return Exit.DONE if preview["accepted"] else Exit.FAILED


def _watched(api: Api, request_id: str, timeout: float | None) -> Exit:
    api.deadline = Deadline(timeout)
    request = watch_request(api, request_id)
    if api.machine:
        print_json(request)
    return request_outcome(request)

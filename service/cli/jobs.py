"""amun jobs"""

from __future__ import annotations

from typing import Any

import typer

from service.cli.choices import JobKind, JobStatus
from service.cli.client import Api
from service.cli.completing import JobId, ModelOption
from service.cli.exits import Exit
from service.cli.options import SHORT_LIST, All, Limit, OptionalReason, Timeout, Watch, listed, over_http
from service.cli.output import Columns, Row, at, details, due, note, print_bytes, print_json, table
from service.cli.paths import to
from service.cli.stopped import Deadline
from service.cli.watching import job_outcome, watch_job

app = typer.Typer(no_args_is_help=True, help="Jobs of the worker. For operators.")

COLUMNS: Columns = {
    "id": "id",
    "kind": "kind",
    "model or set": lambda row: row["model"] or row["training_set"],
    "status": "status",
    "progress": lambda row: f"{100 * row['progress']:.0f} %",
    "phase": "phase",
    "attempts": "attempts",
    "due": lambda row: due(row) if row.get("due_at") else None,
    "made": at("created_at"),
    "error": lambda row: (row["error"] or {}).get("code"),
}


@over_http(app, "list")
def list_jobs(
    api: Api,
    status: JobStatus | None = None,
    model: ModelOption = None,
    kind: JobKind | None = None,
    everything: All = False,
    limit: Limit = SHORT_LIST,
) -> None:
    """Jobs, newest first."""
    params = {"status": status, "model": model, "kind": kind}
    rows, more = api.pages("/v1/jobs", params, None if everything else limit)
    listed(api, rows, more, lambda rows: table(rows, COLUMNS))


@over_http(app, "show")
def show(api: Api, job_id: JobId) -> None:
    """One job: how far it is, and why it failed."""
    answer = api.get(to("jobs", job_id))
    if api.machine:
        print_bytes(answer.content)
    else:
        show_job(answer.json())


@over_http(app, "watch")
def watch(api: Api, job_id: JobId, timeout: Timeout = None) -> Exit:
    """Follow a job until it ends."""
    api.deadline = Deadline(timeout)
    return watched(api, job_id)


@over_http(app, "cancel")
def cancel(api: Api, job_id: JobId, reason: OptionalReason = None) -> None:
    """Stop a job. The requests that it served are put on hold, and stay due."""
    answer = api.post(to("jobs", job_id, "cancel"), {"reason": reason} if reason is not None else {})
    if api.machine:
        print_bytes(answer.content)
    else:
        note(f"job {job_id} is to be cancelled: it is {answer.json()['status']} now")


@over_http(app, "retry")
def retry(api: Api, job_id: JobId, stay: Watch = False, timeout: Timeout = None) -> Exit | None:
    """Make a new job of one that failed or was cancelled."""
    answer = api.post(to("jobs", job_id, "retry"))
    made = answer.json()
    note(f"job {made['id']} takes the place of {job_id}")
    if stay:
        api.deadline = Deadline(timeout)
        return watched(api, made["id"])
    if api.machine:
        print_bytes(answer.content)
    return None


def watched(api: Api, job_id: str) -> Exit:
    """Watch a job to its end, and print it."""
    job = watch_job(api, job_id)
    if api.machine:
        print_json(job)
    return job_outcome(job)


def show_job(job: Row) -> None:
    details(
        job,
        {
            "id": "id",
            "kind": "kind",
            "status": "status",
            "model": "model",
            "training set": "training_set",
            "version": "version",
            "progress": lambda row: f"{100 * row['progress']:.0f} %",
            "phase": "phase",
            "step": "step",
            "seconds left": lambda row: _seconds(row["eta_seconds"]),
            "attempts": "attempts",
            "due": lambda row: due(row) if row.get("due_at") else None,
            "requests": "requests",
            "retry of": "retry_of",
            "to be cancelled since": at("cancel_requested_at"),
            "worker": "worker",
            "made": at("created_at"),
            "not before": at("not_before"),
            "started": at("started_at"),
            "finished": at("finished_at"),
            "seconds": lambda row: {phase: _seconds(each) for phase, each in (row["seconds"] or {}).items()},
            "error": "error",
        },
    )


def _seconds(value: Any) -> str | None:
    return f"{value:.1f}" if isinstance(value, int | float) else None

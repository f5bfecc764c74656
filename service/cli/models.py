"""amun models: train them, fetch what is served, decide about versions"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from service.cli.choices import JOB_ENDED
from service.cli.client import Api
from service.cli.completing import ModelName
from service.cli.exits import Exit
from service.cli.jobs import watched
from service.cli.naming import read_object
from service.cli.options import SHORT_LIST, All, Limit, Reason, Timeout, Watch, listed, over_http
from service.cli.output import Columns, at, details, note, print_bytes, table
from service.cli.paths import to
from service.cli.stopped import Deadline
from service.cli.transfer import download, saved, upload
from service.cli.watching import job_outcome, watch_job

app = typer.Typer(no_args_is_help=True, help="Models and their versions.")

Number = Annotated[int, typer.Argument(metavar="NUMBER", min=1, help="Of the version.")]

COLUMNS: Columns = {
    "name": "name",
    "status": "status",
    "training set": "training_set",
    "network": lambda row: row["network"].get("name"),
    "released": "released_version",
    "made": at("created_at"),
    "error": lambda row: (row["error"] or {}).get("code"),
}
VERSIONS: Columns = {
    "number": "number",
    "status": "status",
    "parent": "parent",
    "verdict": "verdict",
    "made": at("created_at"),
    "released": at("released_at"),
    "destroyed": at("destroyed_at"),
    "sha256": lambda row: row["sha256"][:16],
    "reason": "reason",
}


@over_http(app, "list")
def list_models(api: Api, everything: All = False, limit: Limit = SHORT_LIST) -> None:
    """Models, newest first."""
    rows, more = api.pages("/v1/models", {}, None if everything else limit)
    listed(api, rows, more, lambda rows: table(rows, COLUMNS))


@over_http(app, "show")
def show(api: Api, name: ModelName) -> None:
    """One model, with every parameter it was registered with."""
    answer = api.get(to("models", name))
    if api.machine:
        print_bytes(answer.content)
        return
    parameters: Columns = {"recipe": "recipe", "policy": "policy", "error": "error", "id": "id"}
    details(answer.json(), {**COLUMNS, "network": "network", **parameters})


@over_http(app, "versions")
def versions(api: Api, name: ModelName, everything: All = False, limit: Limit = SHORT_LIST) -> None:
    """A model's versions, newest first."""
    rows, more = api.pages(to("models", name, "versions"), {}, None if everything else limit)
    listed(api, rows, more, lambda rows: table(rows, VERSIONS))


@over_http(app, "create")
def create(
    api: Api,
    file: Annotated[Path, typer.Option("--file", help="JSON as POST /v1/models takes it; - is standard input.")],
    checkpoint: Annotated[
        Path | None, typer.Option(help="A trained model in safetensors: it is sent first, and loaded, not trained.")
    ] = None,
    stay: Watch = False,
    timeout: Timeout = None,
) -> Exit | None:
    """Register a model; a job trains it, or loads its checkpoint, and makes the reference signals."""
    body = read_object(file)
    if checkpoint is not None:
        if "checkpoint" in body:
            raise typer.BadParameter(f"{file} names a checkpoint already: leave it out, or leave out --checkpoint")
        body["checkpoint"] = upload(api, checkpoint)
        note(f"sent {checkpoint}, sha256 {body['checkpoint']}")
    answer = api.post("/v1/models", body)
    return registered(api, answer.content, answer.json(), "model", stay, timeout)


@over_http(app, "checkpoint")
def checkpoint_of(
    api: Api,
    name: ModelName,
    out: Annotated[Path, typer.Option("--out", help="File to save to.")],
    number: Annotated[
        int | None, typer.Option("--version", min=1, help="Default: the released one. Others: for operators.")
    ] = None,
) -> None:
    """Fetch a checkpoint; its sha256 is checked, and printed."""
    version = ("versions", number) if number is not None else ()
    sha256 = download(api, to("models", name, *version, "checkpoint"), out)
    saved(api, out, sha256, sha256)


@over_http(app, "release")
def release(api: Api, name: ModelName, number: Number, reason: Reason) -> None:
    """Serve a quarantined version, on your responsibility."""
    _decide_version(api, name, number, "release", reason)


@over_http(app, "quarantine")
def quarantine(api: Api, name: ModelName, number: Number, reason: Reason) -> None:
    """Take the released version out of service; the model is withdrawn until one is released."""
    _decide_version(api, name, number, "quarantine", reason)


@over_http(app, "audit")
def audit(api: Api, name: ModelName, stay: Watch = False, timeout: Timeout = None) -> Exit | None:
    """Audit the released version once more."""
    answer = api.post(to("models", name, "audits"))
    job = answer.json()
    note(f"job {job['id']}")
    if stay:
        api.deadline = Deadline(timeout)
        return watched(api, job["id"])
    if api.machine:
        print_bytes(answer.content)
    return None


@over_http(app, "retire")
def retire(api: Api, name: ModelName, reason: Reason) -> None:
    """Take a model out of service for good; requests that wait for it need not wait any more."""
    answer = api.post(to("models", name, "retire"), {"reason": reason})
    if api.machine:
        print_bytes(answer.content)
    else:
        note(f"model {name} is {answer.json().get('status', 'retired')}")


def registered(
    api: Api, content: bytes, accepted: dict[str, dict[str, str]], what: str, stay: bool, timeout: float | None
) -> Exit | None:
    """What a registration answered with; with ``stay`` its job is watched, and the record as it is then printed."""
    name, job = accepted[what]["name"], accepted["job"]
    note(f"{what.replace('_', ' ')} {name}: job {job['id']} {job['status']}")
    if not stay:
        if api.machine:
            print_bytes(content)
        return None
    api.deadline = Deadline(timeout)
    ended = watch_job(api, job["id"])
    if api.machine and ended["status"] in JOB_ENDED:
        print_bytes(api.get(to(f"{what.replace('_', '-')}s", name)).content)
    return job_outcome(ended)


def _decide_version(api: Api, name: str, number: int, what: str, reason: str) -> None:
    answer = api.post(to("models", name, "versions", number, what), {"reason": reason})
    if api.machine:
        print_bytes(answer.content)
    else:
        note(f"version {number} of {name} is {answer.json()['status']}")

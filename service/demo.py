"""`amun demo`: the main job from nothing to the end, over HTTP, in a folder of its own."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from models import verify
from models.parameters import DEMO
from models.records import Role
from models.secrets import API_KEY_PEPPER, load_or_create
from models.session import Database
from models.settings import Settings
from service import schema, security
from service.demo_outcome import print_outcome
from service.embedded import DidNotStart, Embedded, free_port
from service.plain import NO_AUTHORITY
from service.stopping import interruptible, pause

MARKER = ".amun-demo"
TRAINING_SET = "digits"
MODEL = "digits-cnn"
APPLICATION = "photo-album"
POLL_SECONDS = 0.4


class DemoFailed(RuntimeError):
    """A step did not do what it should; the message says which and where to look."""


def run_demo(console: Console, data: Path, seed: int | None) -> int:
    """Returns the exit status: 0 where the released version's verdict is `pass` or `exact`, else 1; 130 after Ctrl-C."""
    started = time.monotonic()
    try:
        _fresh_folder(data)
        drawn = DEMO.seed if seed is None else seed
        # Somebody waits for these jobs: they give way to nothing.
        settings = Settings(data_dir=data, seed=drawn, heartbeat_seconds=5, threads=1, niceness=0)
        schema.upgrade(settings)
        secrets = _keys(settings)
        console.print(f"[bold]AMUN demo[/bold] in {data}, seed {settings.seed}")
        with interruptible(), Embedded(settings, "127.0.0.1", free_port()) as embedded:
            passed = _main_job(console, embedded, secrets, data)
        console.print(f"\nThe whole demo took {time.monotonic() - started:.0f} s. Nothing is left running.")
        _how_to_go_on(console, data, secrets)
        return 0 if passed else 1
    except KeyboardInterrupt:
        console.print("\nstopped: no process was left behind")
        return 130
    except (DemoFailed, DidNotStart) as error:
        console.print(f"[red]{error}[/red]", soft_wrap=True)
        return 1


def _fresh_folder(data: Path) -> None:
    if data.exists() and any(data.iterdir()):
        if not (data / MARKER).exists():
            raise DemoFailed(f"{data} is not empty and was not made by a demo: give another --data folder")
        shutil.rmtree(data)
    data.mkdir(parents=True, exist_ok=True)
    (data / MARKER).touch()


def _keys(settings: Settings) -> dict[Role, str]:
    pepper = load_or_create(settings.secrets, API_KEY_PEPPER)
    database = Database(settings.database)
    with database.write() as session:
        made = {
            role: security.create_key(
                session,
                pepper,
                role,
                application=APPLICATION if role is Role.APPLICATION else None,
                label="demo",
                actor="cli",
            )
            for role in Role
        }
    database.dispose()
    return made


def _main_job(console: Console, embedded: Embedded, secrets: dict[Role, str], data: Path) -> bool:
    clients = {
        role: httpx.Client(
            base_url=embedded.url, headers={"Authorization": f"Bearer {secret}"}, timeout=30, verify=NO_AUTHORITY
        )
        for role, secret in secrets.items()
    }
    operator, application = clients[Role.OPERATOR], clients[Role.APPLICATION]
    with _progress(console) as progress:
        registered = _post(
            operator,
            "/v1/training-sets",
            {
                "name": TRAINING_SET,
                "applications": [APPLICATION],
                "source": {"kind": "builtin", "path": "digits"},
                "controls": {"share": DEMO.controls_share},
            },
        )
        _follow(progress, embedded, operator, registered["job"]["id"], "register 1,797 handwritten digits")
        model = _post(
            operator,
            "/v1/models",
            {
                "name": MODEL,
                "training_set": TRAINING_SET,
                "network": DEMO.network.model_dump(mode="json"),
                "recipe": DEMO.recipe.model_dump(mode="json"),
                "policy": DEMO.policy.model_dump(mode="json"),
            },
        )
        trained = _follow(
            progress, embedded, operator, model["job"]["id"], f"train it and {DEMO.policy.references} reference models"
        )
        request = _post(
            application,
            "/v1/deletion-requests",
            {
                "training_set": TRAINING_SET,
                "samples": [{"key": f"train/{index:05d}"} for index in range(DEMO.forget)],
                "external_id": "demo-1",
                "ground": "17(1)(b)",
            },
            {"Idempotency-Key": "demo-1"},
        )
        job = _job_of(embedded, application, request["id"])
        unlearned = _follow(progress, embedded, operator, job, f"forget {DEMO.forget} digits and audit it")
        final = _settled(progress, embedded, application, request["id"])
    document = _reports(clients[Role.COMPLIANCE], data)
    for name, finished in (("train", trained), ("unlearn", unlearned)):
        phases = ", ".join(f"{phase} {seconds:.1f} s" for phase, seconds in finished["seconds"].items())
        console.print(f"{name}: {phases}")
    passed = print_outcome(console, document)
    console.print(f"The request is now [bold]{final['status']}[/bold].")
    verified = _evidence(console, clients, final, data)
    return passed and verified


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[doing]}"),
        console=console,
    )


def _post(
    client: httpx.Client, path: str, body: dict[str, Any], headers: dict[str, str] | None = None
) -> dict[str, Any]:
    answer = client.post(path, json=body, headers=headers)
    if answer.status_code != 202:
        raise DemoFailed(f"POST {path} answered {answer.status_code}: {answer.text}")
    return dict(answer.json())


def _follow(progress: Progress, embedded: Embedded, operator: httpx.Client, job_id: str, title: str) -> dict[str, Any]:
    """Show the job's progress until it ends; returns its last state. Raises DemoFailed where it did not succeed."""
    bar = progress.add_task(title, total=1.0, doing="queued")
    while True:
        embedded.watch()
        job: dict[str, Any] = operator.get(f"/v1/jobs/{job_id}").json()
        doing = " ".join(filter(None, [job["phase"] or job["status"], job["step"]]))
        eta = job["eta_seconds"]
        progress.update(bar, completed=job["progress"], doing=doing + (f", {eta:.0f} s left" if eta else ""))
        if job["status"] == "succeeded":
            return job
        if job["status"] in ("failed", "cancelled"):
            error = job["error"] or {}
            raise DemoFailed(
                f"the job to {title} {job['status']}: {error.get('code')}: {error.get('detail')}; "
                f"worker log: {embedded.log('worker')}"
            )
        pause(POLL_SECONDS)


def _job_of(embedded: Embedded, application: httpx.Client, request_id: str) -> str:
    while True:
        embedded.watch()
        request = application.get(f"/v1/deletion-requests/{request_id}").json()
        job = request["erasures"][0]["job"]
        if job is not None:
            return str(job)
        pause(POLL_SECONDS)


def _reports(compliance: httpx.Client, data: Path) -> dict[str, Any]:
    newest = compliance.get("/v1/reports", params={"model": MODEL}).json()["data"][0]
    answer = compliance.get(f"/v1/reports/{newest['id']}")
    (data / "report.json").write_bytes(answer.content)
    (data / "report.pdf").write_bytes(compliance.get(f"/v1/reports/{newest['id']}/pdf").content)
    document: dict[str, Any] = json.loads(answer.content)
    return document


def _settled(progress: Progress, embedded: Embedded, application: httpx.Client, request_id: str) -> dict[str, Any]:
    """The request once its certificate is there, or once it waits for a person."""
    bar = progress.add_task("destroy what must go, and certify it", total=1.0, doing="waiting")
    while True:
        embedded.watch()
        request: dict[str, Any] = application.get(f"/v1/deletion-requests/{request_id}").json()
        ended = request["status"] not in ("queued", "running")
        if request["certificate"] is not None or (ended and request["status"] != "completed"):
            progress.update(bar, completed=1.0, doing=request["status"])
            return request
        gone = "files are gone, writing" if request["samples_erased_at"] else "files"
        progress.update(bar, doing=gone)
        pause(POLL_SECONDS)


def _evidence(console: Console, clients: dict[Role, httpx.Client], request: dict[str, Any], data: Path) -> bool:
    """Save report and certificate with their signatures, and check them as a stranger would; True where all is well."""
    keys = data / "jwks.json"
    keys.write_bytes(clients[Role.COMPLIANCE].get("/.well-known/jwks.json").content)
    newest = clients[Role.COMPLIANCE].get("/v1/reports", params={"model": MODEL}).json()["data"][0]
    bundles = {"report": f"/v1/reports/{newest['id']}/bundle"}
    if request["certificate"] is not None:
        bundles["certificate"] = request["links"]["certificate_bundle"]
        pdf = clients[Role.APPLICATION].get(request["links"]["certificate_pdf"])
        (data / "certificate.pdf").write_bytes(pdf.content)
    checkpoint = data / "released.safetensors"
    checkpoint.write_bytes(clients[Role.APPLICATION].get(f"/v1/models/{MODEL}/checkpoint").content)
    well = True
    for name, path in bundles.items():
        answer = clients[Role.COMPLIANCE].get(path)
        (data / f"{name}.zip").write_bytes(answer.content)
        checked = verify.verify(data / f"{name}.zip", keys=[keys], checkpoint=checkpoint if name == "report" else None)
        right = checked.status == verify.VERIFIED
        well = well and right
        state = "[green]verified[/green]" if right else "[red]NOT verified[/red]"
        console.print(f"{name}: signature {state}", soft_wrap=True)
    for title, name in (("for people", "report.pdf"), ("for machines", "report.json"), ("signed", "report.zip")):
        console.print(f"report {title + ':':<14} {data / name}", soft_wrap=True)
    if request["certificate"] is not None:
        console.print(f"certificate:          {data / 'certificate.pdf'}", soft_wrap=True)
    return well


def _how_to_go_on(console: Console, data: Path, secrets: dict[Role, str]) -> None:
    console.print("\nGo on with the same data (the keys work there):", soft_wrap=True)
    console.print(f"  amun up --data {data}", soft_wrap=True)
    lines = [
        (Role.OPERATOR, f"http://127.0.0.1:8000/v1/models/{MODEL}/versions"),
        (Role.APPLICATION, "http://127.0.0.1:8000/v1/deletion-requests"),
        (Role.COMPLIANCE, "http://127.0.0.1:8000/v1/reports"),
    ]
    for role, url in lines:
        console.print(f"  curl -H 'Authorization: Bearer {secrets[role]}' {url}", soft_wrap=True, markup=False)

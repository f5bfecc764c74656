"""Do lists stay as fast with 100,000 stored requests as with 1,000, and what do 10,000 selectors take?

    python -m benchmarks.lists [--calls 60] [--stored 1000 100000]

The application answers in this process, without a network, out of SQLite and PostgreSQL (a server of its own). Calls on
the small and on the large store alternate, so that other work on the machine slows both. Requests are two years of a
service in use: 97% completed, two failed, two under LGPD. Writes benchmarks/results/lists.json and lists.md.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy import text
from starlette.testclient import TestClient

from benchmarks.footprint import processor
from models.parameters import Network, Policy, Recipe
from models.records import Job, JobKind, JobStatus, Model, ModelStatus, Role, TrainingSet, TrainingSetApplication
from models.records import TrainingSetStatus as SetStatus
from models.secrets import API_KEY_PEPPER, load_or_create
from models.session import Database
from models.settings import Settings
from service import schema
from service.app import create_app
from service.security import application_named, create_key
from tests.conftest import Server, as_user, find_program, free_port, unprivileged
from tests.service import stored

RESULTS = Path(__file__).parent / "results"
SAMPLES, SELECTORS = 60_000, 10_000
WARM_UP = 5
LARGE_RUNS = 5
LIMIT_SECONDS = 2.0  # for 10,000 selectors
URL = "/v1/deletion-requests"
ANYONE = (Role.COMPLIANCE, Role.APPLICATION)
LISTS: dict[str, tuple[tuple[Role, ...], str, dict[str, Any]]] = {
    "requests, newest": (ANYONE, URL, {}),
    "requests, completed": (ANYONE, URL, {"status": "completed"}),
    "requests, queued or on hold": (ANYONE, URL, {"status": ["queued", "on_hold"]}),
    "requests, failed (two)": (ANYONE, URL, {"status": "failed"}),
    "requests of a model": (ANYONE, URL, {"model": "digits-cnn"}),
    "requests of a model with three": (ANYONE, URL, {"model": "rare"}),
    "requests of a model, failed (one)": (ANYONE, URL, {"model": "digits-cnn", "status": "failed"}),
    "requests of a set": (ANYONE, URL, {"training_set": "digits"}),
    "requests under LGPD (two)": (ANYONE, URL, {"regulation": "LGPD"}),
    "requests by due date": (ANYONE, URL, {"sort": "due"}),
    "requests that are overdue": (ANYONE, URL, {"overdue": True}),
    "jobs, newest": ((Role.OPERATOR,), "/v1/jobs", {}),
    "jobs, failed (one)": ((Role.OPERATOR,), "/v1/jobs", {"status": "failed"}),
    "jobs that unlearn": ((Role.OPERATOR,), "/v1/jobs", {"kind": "unlearn"}),
    "jobs of a model": ((Role.OPERATOR,), "/v1/jobs", {"model": "digits-cnn"}),
    "reports, newest": ((Role.COMPLIANCE,), "/v1/reports", {}),
    "reports, under-unlearned (one)": ((Role.COMPLIANCE,), "/v1/reports", {"verdict": "under_unlearned"}),
    "events of a job (three)": ((Role.COMPLIANCE,), "/v1/events", {"record": "job"}),
}
SEARCHES = {
    "search by case number": {"external_id": "crm-77"},
    "search by person": {"subject": "person-77"},
}


class Store:
    """A service with so many requests in its database."""

    def __init__(self, settings: Settings, number: int) -> None:
        schema.upgrade(settings)
        self.number = number
        self.records = 0  # on the page that was read last
        self._stack = contextlib.ExitStack()
        self._database = Database(settings.database)
        self._fill(number)
        pepper = load_or_create(settings.secrets, API_KEY_PEPPER)
        with self._database.write() as session:
            self._keys = {
                role: create_key(session, pepper, role, "shop" if role is Role.APPLICATION else None) for role in Role
            }
        self.client = self._stack.enter_context(TestClient(create_app(settings, dispatch=False)))

    def close(self) -> None:
        self._stack.close()
        self._database.dispose()

    def call(self, role: Role, method: str, url: str, **more: Any) -> float:
        """Milliseconds until the answer is there. Fails on anything but success."""
        headers = {"Authorization": f"Bearer {self._keys[role]}"}
        started = time.perf_counter()
        answer = self.client.request(method, url, headers=headers, **more)
        milliseconds = 1000 * (time.perf_counter() - started)
        if answer.status_code not in (200, 202):
            raise RuntimeError(f"{method} {url}: {answer.status_code} {answer.text[:500]}")
        self.records = len(answer.json().get("data", []))
        return milliseconds

    def _fill(self, number: int) -> None:
        with self._database.write() as session:
            training_set = TrainingSet(
                name="digits",
                status=SetStatus.READY,
                source={},
                controls={},
                classes=["a", "b", "c", "d"],
                rows=SAMPLES,
            )
            session.add(training_set)
            session.flush()
            for name in ("shop", "rival"):
                application = application_named(session, name)
                session.add(TrainingSetApplication(training_set_id=training_set.id, application_id=application.id))
            models = [_model(name, training_set) for name in ("digits-cnn", "second", "rare")]
            session.add_all(models)
            session.flush()
            job = Job(kind=JobKind.TRAIN, status=JobStatus.SUCCEEDED, model_id=models[0].id, seed=0)
            session.add(job)
            session.flush()
            stored.store_samples(session, training_set.id, SAMPLES)
            stored.store_requests(session, number, "digits", ["digits-cnn", "second"], ["shop", "rival"])
            stored.store_requests(session, 3, "digits", ["rare"], ["shop"])
            stored.store_jobs(session, number // 2, "digits-cnn")
            stored.store_events(session, 2 * number, job.id)
        if self._database.engine.dialect.name == "postgresql":  # autovacuum would do it within a minute
            with self._database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                connection.execute(text("VACUUM ANALYZE"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=60, help="of each list on each store")
    parser.add_argument("--stored", type=int, nargs=2, default=[1000, 100_000], help="requests in the two stores")
    options = parser.parse_args()
    document: dict[str, Any] = {
        "machine": {"processor": processor(), "cores": os.cpu_count(), "python": platform.python_version()},
        "stored": options.stored,
        "calls": options.calls,
        "databases": {},
    }
    with tempfile.TemporaryDirectory() as folder, postgres() as create:
        for name, url in (("SQLite", lambda _: None), ("PostgreSQL", create)):
            document["databases"][name] = measure(Path(folder) / name, url, options.stored, options.calls)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "lists.json").write_text(json.dumps(document, indent=1) + "\n")
    (RESULTS / "lists.md").write_text(table(document))
    print(table(document))


def measure(folder: Path, url: Callable[[int], str | None], sizes: list[int], calls: int) -> dict[str, Any]:
    """Every list on both stores of one database, and 10,000 selectors on the larger one."""
    stores = []
    for number in sizes:
        data = folder / str(number)
        data.mkdir(parents=True)
        started = time.perf_counter()
        stores.append(Store(Settings(data_dir=data, database_url=url(number)), number))
        print(f"{folder.name}: {number} requests stored in {time.perf_counter() - started:.0f} s", flush=True)
    try:
        return {"lists": [*_lists(stores, calls)], "selectors": _selectors(stores[-1])}
    finally:
        for store in stores:
            store.close()


def _lists(stores: list[Store], calls: int) -> Iterator[dict[str, Any]]:
    for name, (roles, url, query) in LISTS.items():
        for role in roles:
            yield _compared(name, role, stores, calls, "GET", url, params=query)
    for name, body in SEARCHES.items():
        for role in ANYONE:
            yield _compared(name, role, stores, calls, "POST", f"{URL}/search", json=body)


def _compared(
    name: str, role: Role, stores: list[Store], calls: int, method: str, url: str, **more: Any
) -> dict[str, Any]:
    found: list[list[float]] = [[] for _ in stores]
    for turn in range(WARM_UP + calls):
        for place, store in enumerate(stores):
            milliseconds = store.call(role, method, url, **more)
            if turn >= WARM_UP:
                found[place].append(milliseconds)
    p50 = [statistics.median(each) for each in found]
    p99 = [statistics.quantiles(each, n=100)[98] for each in found]
    print(f"{name}, {role.value}: {p50[0]:.1f} -> {p50[1]:.1f} ms", flush=True)
    return {
        "list": name,
        "role": role.value,
        "records": [store.records for store in stores],
        "p50_ms": [round(value, 2) for value in p50],
        "p99_ms": [round(value, 2) for value in p99],
        "ratio": round(p50[1] / p50[0], 2),
    }


def _selectors(store: Store) -> dict[str, list[float]]:
    """Seconds of previews and requests with 10,000 selectors each, other ones each time."""
    found: dict[str, list[float]] = {"preview": [], "request": []}
    for run in range(LARGE_RUNS):
        first = 100 + run * SELECTORS
        selectors = [{"key": f"train/{index:06d}"} for index in range(first, first + SELECTORS)]
        body = {"training_set": "digits", "models": ["digits-cnn", "second"], "samples": selectors}
        for what, path in (("preview", f"{URL}/preview"), ("request", URL)):
            found[what].append(round(store.call(Role.APPLICATION, "POST", path, json=body) / 1000, 3))
    print(found, flush=True)
    return found


@contextlib.contextmanager
def postgres() -> Iterator[Callable[[int], str]]:
    """Makes databases on a server that lives as long as this context."""
    initdb, program = find_program("initdb"), find_program("postgres")
    if initdb is None or program is None:
        raise RuntimeError("PostgreSQL is not installed: put initdb and postgres on PATH")
    with tempfile.TemporaryDirectory(prefix="amun-bench-") as name:
        folder, port, user = Path(name), free_port(), unprivileged()
        if user is not None:
            os.chown(folder, user.pw_uid, user.pw_gid)
        command = [initdb, "-D", f"{folder}/data", "-U", "amun", "-A", "trust", "-E", "UTF8", "--locale=C"]
        subprocess.run(command, cwd=folder, check=True, capture_output=True, **as_user())
        options = ["listen_addresses=127.0.0.1", f"unix_socket_directories={folder}"]
        settings = [part for option in options for part in ("-c", option)]
        server = Server([program, "-D", f"{folder}/data", "-p", str(port), *settings], folder, signal.SIGINT)
        url = f"postgresql://amun@127.0.0.1:{port}/"

        def ready() -> bool:
            with contextlib.suppress(psycopg.OperationalError):
                psycopg.connect(url + "postgres", connect_timeout=2).close()
                return True
            return False

        def create(number: int) -> str:
            with psycopg.connect(url + "postgres", autocommit=True) as connection:
                connection.execute(f"CREATE DATABASE amun_{number}")  # type: ignore[call-overload]
            return f"postgresql+psycopg{url.removeprefix('postgresql')}amun_{number}"

        try:
            server.wait(ready)
            yield create
        finally:
            server.stop()


def _model(name: str, training_set: TrainingSet) -> Model:
    return Model(
        name=name,
        training_set_id=training_set.id,
        status=ModelStatus.READY,
        network=Network(name="small-cnn").model_dump(mode="json"),
        recipe=Recipe().model_dump(mode="json"),
        policy=Policy().model_dump(mode="json"),
    )


def table(document: dict[str, Any]) -> str:
    """The results as Markdown."""
    machine, (few, many) = document["machine"], document["stored"]
    lines = [
        "# Lists with many requests stored",
        "",
        f"Milliseconds of one page of 50, in one process without a network, {document['calls']} calls each, with {few:,} and "
        f"with {many:,} requests stored (half as many unlearn and certify jobs each, twice as many events). The ratio is of "
        "the medians; calls on the two stores alternate; p99 of so few calls is nearly the worst. Where "
        "the small store has fewer records than fill a page, the ratio "
        "is also that of the pages.",
        "",
        f"Machine: {machine['processor']}, {machine['cores']} cores, Python {machine['python']}; other work beside it.",
    ]
    for name, found in document["databases"].items():
        ratios = [one["ratio"] for one in found["lists"] if one["records"][0] == one["records"][1]]
        lines += [
            "",
            f"## {name}",
            "",
            f"Ratio where both pages hold as many records: median {statistics.median(ratios):.2f}, largest "
            f"{max(ratios):.2f}.",
            "",
            f"| list | role | records | p50, {few:,} | p50, {many:,} | p99, {few:,} | p99, {many:,} | ratio |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for one in found["lists"]:
            values = [*one["p50_ms"], *one["p99_ms"]]
            cells = " | ".join(f"{value:.1f}" for value in values)
            records = " and ".join(str(number) for number in dict.fromkeys(one["records"]))
            lines.append(f"| {one['list']} | {one['role']} | {records} | {cells} | {one['ratio']:.2f} |")
        lines += ["", f"{SELECTORS:,} selectors with {many:,} requests stored (limit {LIMIT_SECONDS:.0f} s):", ""]
        for what, seconds in found["selectors"].items():
            lines.append(
                f"- {what}: median {statistics.median(seconds):.2f} s, worst of {len(seconds)} {max(seconds):.2f} s"
            )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()

"""A client of the service's REST API and a walk through it, written from docs/api.md alone."""

import base64
import hashlib
import hmac
import io
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import uuid
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import httpx

Json = dict[str, Any]
REQUESTS = "/v1/deletion-requests"
TOLD = {
    f"deletion_request.{kind}"
    for kind in ("accepted", "extended", "awaiting_approval", "on_hold", "completed", "cancelled", "rejected")
} | {"certificate.issued", "version.released"}


@dataclass
class Problem(Exception):
    """An RFC 9457 answer."""

    status: int
    title: str
    type: str
    detail: str
    trace_id: str
    errors: list[Json] = field(default_factory=list)
    retry_after: float | None = None

    def __str__(self) -> str:
        return f"{self.status} {self.title}: {self.detail} {self.errors or ''}"


class BadBody(Problem): ...


class NotAuthenticated(Problem): ...


class Forbidden(Problem): ...


class NotFound(Problem): ...


class Conflict(Problem): ...


class Gone(Problem): ...


class TooLarge(Problem): ...


class Unprocessable(Problem): ...


class Unavailable(Problem): ...


PROBLEMS: dict[int, type[Problem]] = {
    400: BadBody,
    401: NotAuthenticated,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: Gone,
    413: TooLarge,
    422: Unprocessable,
    429: Unavailable,
    503: Unavailable,
    507: Unavailable,
}


class Event(NamedTuple):
    name: str
    data: Any
    id: str | None


def parse_sse(lines: Iterator[str]) -> Iterator[Event]:
    name, data, last = "message", [], None
    for line in lines:
        key, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            if data:
                yield Event(name, json.loads("\n".join(data)), last)
            name, data = "message", []
        elif key == "event":
            name = value
        elif key == "data":
            data.append(value)
        elif key == "id" and "\0" not in value:
            last = value


class Client:
    def __init__(self, base: str, key: str | None = None) -> None:
        self.http = httpx.Client(base_url=base, timeout=60)
        self.http.headers.update({"Authorization": f"Bearer {key}"} if key else {})

    def send(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Send; wait as Retry-After says on 429 and 503; raise a Problem on any other error."""
        until = time.monotonic() + 60
        while True:
            answer = self.http.request(method, path, **options)
            if answer.status_code < 400:
                return answer
            problem = self.problem(answer)
            if (
                not isinstance(problem, Unavailable)
                or problem.retry_after is None
                or time.monotonic() + problem.retry_after > until
            ):
                raise problem
            time.sleep(problem.retry_after)

    @staticmethod
    def problem(answer: httpx.Response) -> Problem:
        wait = answer.headers.get("retry-after")
        body = answer.json() if "json" in answer.headers.get("content-type", "") else {"detail": answer.text[:200]}
        texts = [body.get(name) or "" for name in ("title", "type", "detail", "trace_id")]
        known = PROBLEMS.get(answer.status_code, Problem)
        return known(answer.status_code, *texts, body.get("errors") or [], float(wait) if wait else None)

    def get(self, path: str, **params: Any) -> Json:
        return self.send("GET", path, params=params).json()

    def post(self, path: str, body: Json | None = None, **options: Any) -> Json:
        return self.send("POST", path, **(options if body is None else options | {"json": body})).json()

    def pages(self, path: str, limit: int = 50, cursor: str | None = None, **params: Any) -> Iterator[Json]:
        while True:
            answer = self.send("GET", path, params={**params, "limit": limit} | ({"cursor": cursor} if cursor else {}))
            data, cursor = answer.json()["data"], answer.json()["next_cursor"]
            check(len(data) <= limit, "a page holds at most `limit`")
            yield from data
            check(bool(cursor) == ("next" in answer.links), "Link rel=next goes with next_cursor")
            if not cursor:
                return

    def poll(self, path: str, done: Callable[[Json], bool], seconds: float = 400) -> Json:
        until = time.monotonic() + seconds
        while not done((answer := self.send("GET", path)).json()):
            check(time.monotonic() < until, f"{path} in time: {answer.text[:300]}")
            time.sleep(float(answer.headers.get("retry-after", 0.7)))
        return answer.json()

    def request(self, request: str) -> Json:
        return self.get(f"{REQUESTS}/{request}")

    def wait_request(self, request: str, *states: str) -> Json:
        return self.poll(f"{REQUESTS}/{request}", lambda found: found["status"] in states)

    def decide(self, request: str, verb: str, reason: str | None = None) -> Json:
        return self.post(f"{REQUESTS}/{request}/{verb}", {"reason": reason} if reason else None)

    def follow(self, job: str, break_after: int = 0) -> list[Event]:
        """All events of a job until `end`; the first connection is dropped after `break_after` sealed events."""
        seen, last = list[Event](), None
        for attempt in range(20):
            headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": last} if last else {})
            try:
                with self.http.stream("GET", f"/v1/jobs/{job}/events", headers=headers) as stream:
                    if stream.status_code >= 400:
                        stream.read()
                        raise self.problem(stream)
                    for event in parse_sse(stream.iter_lines()):
                        seen.append(event)
                        last = event.id or last
                        if event.name == "end":
                            return seen
                        if attempt == 0 and break_after and len({e.id for e in seen if e.id}) >= break_after:
                            break
            except (httpx.TransportError, Unavailable) as broken:
                time.sleep(getattr(broken, "retry_after", None) or 1)
        raise TimeoutError(f"no end of job {job}")


class Hook:
    """A small receiver of webhooks that keeps what came and whether it verifies."""

    def __init__(self) -> None:
        self.secrets: list[str] = []
        self.got: list[tuple[str, Json, int, list[bool]]] = []
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                number, at = self.headers["webhook-id"], self.headers["webhook-timestamp"]
                given = self.headers["webhook-signature"].split()
                fresh, signed = abs(time.time() - int(at)) < 300, f"{number}.{at}.".encode() + body
                proofs = [fresh and sign(secret, signed) in given for secret in hook.secrets]
                hook.got.append((number, json.loads(body), len(given), proofs))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: Any) -> None: ...

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{server.server_port}/hook"

    def wait(self, done: Callable[[], bool], seconds: float = 60) -> None:
        until = time.monotonic() + seconds
        while not done():
            check(time.monotonic() < until, f"webhook came in time; so far {self.got}")
            time.sleep(0.2)


def sign(secret: str, signed: bytes) -> str:
    key = base64.b64decode(secret.removeprefix("whsec_"))
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def check(truth: Any, promise: str) -> None:
    if not truth:
        raise AssertionError(promise)


def refused(kind: type[Problem], call: Callable[[], Any]) -> Problem:
    try:
        call()
    except kind as problem:
        check(problem.title and problem.type and problem.trace_id, f"a whole problem: {problem!r}")
        return problem
    raise AssertionError(f"not refused with {kind.__name__}")


def when(text: str) -> datetime:
    check(text.endswith("Z"), "answers use UTC")
    return datetime.fromisoformat(text)


def near(one: str, two: datetime, days: float = 2) -> bool:
    return abs(when(one) - two) <= timedelta(days=days)


def verify_bundle(data: bytes, jwks: Json) -> str:
    """Run the bundle's own verify.py: true as it came, false with a byte more in its PDF."""
    with tempfile.TemporaryDirectory() as name:
        folder, command = Path(name), ["python3", "verify.py", ".", "--key", "../jwks.json"]
        zipfile.ZipFile(io.BytesIO(data)).extractall(folder / "b")
        (folder / "jwks.json").write_text(json.dumps(jwks))
        done = subprocess.run(command, cwd=folder / "b", capture_output=True, text=True)
        check(done.returncode == 0, f"verify.py: {done.stdout} {done.stderr}")
        pdf = next((folder / "b").glob("*.pdf"))
        pdf.write_bytes(pdf.read_bytes() + b" ")
        check(
            subprocess.run(command, cwd=folder / "b", capture_output=True).returncode != 0,
            "a changed PDF does not verify",
        )
        return done.stdout.strip().splitlines()[-1]


@dataclass
class Walk:
    operator: Client
    application: Client
    compliance: Client
    anonymous: Client
    name: str
    hook: Hook = field(default_factory=Hook)
    deviations: list[str] = field(default_factory=list)

    def body(self, *samples: Json, **more: Any) -> Json:
        return {"training_set": self.name, "samples": list(samples), "regulation": "GDPR"} | more

    def ask(self, *samples: Json, key: str | None = None, **more: Any) -> Json:
        return self.application.post(
            REQUESTS, self.body(*samples, **more), headers={"Idempotency-Key": key} if key else {}
        )

    def errors(self) -> None:
        post, head = self.application.send, {"Content-Type": "application/json"}
        check(self.anonymous.send("GET", "/readyz").status_code == 200, "ready")
        refused(NotAuthenticated, lambda: self.anonymous.get("/v1/models"))
        refused(Forbidden, lambda: self.application.post("/v1/models", {"name": "x"}))
        refused(NotFound, lambda: self.application.request(str(uuid.uuid4())))
        refused(
            TooLarge,
            lambda: post("POST", "/v1/webhooks", content=b'{"url": "' + b"x" * 1_100_000 + b'"}', headers=head),
        )
        for text in ("hello", '{"samples": ', "[" * 40 + "]" * 40):
            try:
                refused(BadBody, lambda text=text: post("POST", REQUESTS, content=text, headers=head))
            except Unprocessable as other:
                self.deviations.append(f"400 for the body {text[:15]}, not {other}")
        for key, value in (("limit", 201), ("cursor", "of-no-list")):
            problem = refused(Unprocessable, lambda query={key: value}: self.application.get(REQUESTS, **query))
            check([error["parameter"] for error in problem.errors] == [key], f"names the parameter: {problem.errors}")

    def watch(self, job: str, break_after: int = 1) -> None:
        """By SSE with a break, and by polling; both must agree."""
        events = self.operator.follow(job, break_after)
        sealed = [(event.name, event.id) for event in events if event.name not in ("progress", "end")]
        listed = [(event["name"], str(event["position"])) for event in self.operator.pages(f"/v1/jobs/{job}/events")]
        check(sealed == listed, f"each event once, in order, as in the page: {sealed}")
        polled = self.operator.poll(f"/v1/jobs/{job}", lambda found: found["status"] not in ("queued", "running"))
        check(
            events[-1].data["status"] == polled["status"] == "succeeded",
            f"`end` brings the job, and it succeeded: {polled}",
        )
        say(f"{polled['kind']} {polled['status']}: {len(events)} events")

    def model(self, name: str, **more: Any) -> str:
        body = {
            "name": name,
            "training_set": self.name,
            "network": {"name": "small-cnn", "width": 8},
            "recipe": {"epochs": 6, "batch_size": 64, "learning_rate": 0.05},
            "policy": {
                "references": 8,
                "rehearsal": {"models": 2, "sizes": [80], "shown_on": 1},
                "audit": {"tolerance": 0.1},
            },
        }
        return self.operator.post("/v1/models", body | more)["job"]["id"]

    def train(self) -> None:
        made = self.operator.post(
            "/v1/training-sets",
            {
                "name": self.name,
                "applications": ["default"],
                "source": {"kind": "builtin", "path": "digits"},
                "controls": {"share": 0.5},
            },
        )
        self.watch(made["job"]["id"])
        self.watch(self.model(self.cnn), 2)
        check(self.operator.get(f"/v1/models/{self.cnn}")["released_version"] == 1, "version 1 is released")

    def second(self) -> None:
        """Upload the checkpoint and delete it; upload it again for a second model; cancel and retry its job."""
        path, up, send = f"/v1/models/{self.cnn}/checkpoint", "/v1/uploads/", self.operator.send
        first = self.application.send("GET", path)
        sha, self.etag = hashlib.sha256(first.content).hexdigest(), first.headers["etag"]
        check(self.etag.strip('"') == sha, "the ETag is the sha256 of the file")
        check(self.application.send("GET", path, headers={"If-None-Match": self.etag}).status_code == 304, "304")
        sent = send("PUT", up + sha, content=first.content).json()
        check((sent["sha256"], sent["size"]) == (sha, len(first.content)), "uploaded")
        check(near(sent["expires_at"], datetime.now(UTC) + timedelta(days=1), 0.1), "kept for a day")
        send("DELETE", up + sha)
        refused(Unprocessable, lambda: send("PUT", up + "0" * 64, content=first.content))
        send("PUT", up + sha, content=first.content)
        try:
            job = self.model(self.two, checkpoint=sha)
        except (
            Conflict
        ) as problem:  # the set holds images that were asked to be forgotten elsewhere; detail says what to do
            check("leave the checkpoint out" in problem.detail, problem.detail)
            say("no model of a checkpoint: earlier runs erased images")
            send("DELETE", up + sha)
            job = self.model(self.two)
        self.operator.post(f"/v1/jobs/{job}/cancel")
        self.operator.poll(f"/v1/jobs/{job}", lambda found: found["status"] == "cancelled")
        again = self.operator.post(f"/v1/jobs/{job}/retry")
        check(again["id"] != job and again["retry_of"] == job, "retried as a new job")
        refused(Conflict, lambda: self.operator.post(f"/v1/jobs/{job}/retry"))
        self.watch(again["id"])
        refused(NotFound, lambda: send("DELETE", up + sha))

    def webhook(self) -> None:
        made = self.application.post("/v1/webhooks", {"url": self.hook.url, "events": sorted(TOLD)})
        self.hooks = f"/v1/webhooks/{made['id']}"
        self.hook.secrets.append(made["secret"])
        check("secret" not in self.application.get(self.hooks), "the secret is shown once")
        sent = self.application.post(f"{self.hooks}/test")
        self.application.poll(f"{self.hooks}/deliveries", lambda page: page["data"][0]["status"] == "delivered", 20)
        self.application.post(f"{self.hooks}/deliveries/{sent['number']}/redeliver")
        self.hook.wait(lambda: len(self.hook.got) == 2)
        check(len({number for number, *_ in self.hook.got}) == 1, "webhook-id is the same in every attempt")
        check(all(proofs == [True] for *_, proofs in self.hook.got), "signatures verify")
        self.hook.secrets.append(self.application.post(f"{self.hooks}/rotate-secret")["secret"])
        self.application.post(f"{self.hooks}/test")
        self.hook.wait(lambda: len(self.hook.got) == 3)
        check(self.hook.got[2][2:] == (2, [True, True]), "old and new secret sign")

    def post(self) -> None:
        """Preview, post, repeat; twenty at once; hold, resume, extend, cancel; approve and reject."""
        number, send = f"crm-{self.name}", self.application.send
        every = [{"key": f"train/{row:05}"} for row in range(800)] + [{"index": row} for row in range(100)]
        known = self.application.post(f"{REQUESTS}/preview", self.body(*every, partial=True))["samples"]
        keys = [found["selector"] for found in known if found["outcome"] == "matched" and "key" in found["selector"]]
        control = next(found["selector"] for found in known if found["outcome"] == "control")
        samples, self.keys = (keys[0], keys[1], control), keys
        more = {"external_id": number, "ground": "17(1)(b)", "models": [self.cnn]}
        seen = self.application.post(f"{REQUESTS}/preview", self.body(*samples, **more))
        check(seen["accepted"] and seen["outcomes"] == {"matched": 2, "control": 1}, f"previewed: {seen['outcomes']}")
        check([model["model"] for model in seen["models"]] == [self.cnn], "the models touched")
        problem = refused(Unprocessable, lambda: self.ask(*samples, {"key": "none"}, **more))
        check(
            [error["pointer"] for error in problem.errors] == ["#/samples/3"],
            f"a pointer into the body: {problem.errors}",
        )
        refused(Unprocessable, lambda: self.ask({"key": "none"}, partial=True))
        self.main = self.ask(*samples, key=number, **more)["id"]
        again = send("POST", REQUESTS, json=self.body(*samples, **more), headers={"Idempotency-Key": number})
        refused(Conflict, lambda: self.application.get(f"{REQUESTS}/{self.main}/certificate/bundle"))
        check(
            again.json()["id"] == self.main and again.headers["idempotency-replayed"] == "true",
            "the first answer again",
        )
        refused(Unprocessable, lambda: self.ask(keys[2], key=number, **more))
        found = self.application.request(self.main)
        check(
            found["external_id"] == number and found["days_left"] in (29, 30, 31) and not found["overdue"],
            f"as it was: {found}",
        )
        asked = datetime.now(UTC).replace(microsecond=0) - timedelta(days=10)
        body = self.body(keys[3], external_id=number, submitted_at=asked.isoformat())
        with ThreadPoolExecutor(20) as pool:
            many = list(
                pool.map(
                    lambda _: send("POST", REQUESTS, json=body, headers={"Idempotency-Key": f"{number}-20"}), range(20)
                )
            )
        replays = sum("idempotency-replayed" in answer.headers for answer in many)
        check(
            len({answer.json()["id"] for answer in many}) == 1 and replays == 19,
            f"one id of twenty at once; {replays} replays",
        )
        other = many[0].json()["id"]
        held = self.operator.decide(other, "hold", "the identity is being verified")
        check(
            held["status"] == "on_hold"
            and held["decision_reason"]
            and near(held["due_at"], asked + timedelta(days=30)),
            f"held: {held}",
        )
        check(
            near(self.operator.decide(other, "extend", "complex")["due_at"], asked + timedelta(days=91)),
            "two further months",
        )
        refused(Conflict, lambda: self.operator.decide(other, "extend", "again"))
        refused(Forbidden, lambda: self.application.post(f"{REQUESTS}/{other}/resume"))
        check(self.operator.decide(other, "resume")["status"] == "queued", "goes on")
        check(self.application.decide(other, "cancel", "sent by mistake")["status"] == "cancelled", "cancelled")
        check(
            "cancelled" in refused(Conflict, lambda: self.application.decide(other, "cancel", "twice")).detail,
            "detail names the state",
        )
        for verb, status in (("approve", "queued"), ("reject", "rejected")):
            self.rejected = (big := self.ask(*keys[5 : len(keys) * 9 // 10], external_id=number, models=[self.cnn]))[
                "id"
            ]
            check(big["status"] == "awaiting_approval", "a large share waits for approval")
            check(
                self.operator.decide(self.rejected, verb, "no" if verb == "reject" else None)["status"] == status, verb
            )
            if verb == "approve":
                self.application.decide(self.rejected, "cancel", "only to see")
        ids = [found["id"] for found in self.application.pages(REQUESTS, limit=2)]
        check(
            len(ids) == len(set(ids)) and {self.main, other, self.rejected} <= set(ids),
            "every request once over all pages",
        )
        off = {found["status"] for found in self.application.pages(REQUESTS, status=["cancelled", "rejected"])}
        check(off == {"cancelled", "rejected"}, f"filtered by state: {off}")
        mine = self.application.post(f"{REQUESTS}/search", {"external_id": number})["data"]
        check(
            len(mine) == 4 and {self.main, other, self.rejected} < {found["id"] for found in mine},
            "found by external id",
        )

    def finish(self, request: str) -> None:
        """Wait; where the gate kept the version back, release it."""
        over = ("completed", "failed", "partially_completed")
        found = self.application.wait_request(request, "awaiting_release", *over)
        for part in found["erasures"]:
            if part["status"] == "awaiting_release":
                path = f"/v1/models/{part['model']}/versions/{part['version']}/release"
                check(
                    self.operator.post(path, {"reason": "few images; the report was read"})["status"] == "released",
                    "released",
                )
        check(self.application.wait_request(request, *over)["status"] == "completed", "completed")

    def jobs(self) -> None:
        """The main request's job, live; one over both models: retire one, cancel the job of the other, go on."""
        found = self.application.poll(f"{REQUESTS}/{self.main}", lambda found: found["erasures"][0]["job"])
        self.watch(found["erasures"][0]["job"], 2)
        self.finish(self.main)
        refused(Conflict, lambda: self.application.decide(self.main, "cancel", "too late"))
        refused(Conflict, lambda: self.operator.post(f"/v1/jobs/{found['erasures'][0]['job']}/retry"))
        new = self.application.send("GET", f"/v1/models/{self.cnn}/checkpoint", headers={"If-None-Match": self.etag})
        check(new.status_code == 200 and new.headers["etag"] != self.etag, "a new version is served")
        asked = self.ask(self.keys[4], regulation="CCPA")
        self.both, received = asked["id"], when(asked["received_at"])
        check(
            set(asked["models"]) == {self.cnn, self.two} and near(asked["due_at"], received + timedelta(days=45)),
            "every model, 45 days",
        )
        self.operator.decide(self.both, "hold", "wait for the retirement")
        check(
            near(self.operator.decide(self.both, "extend", "complex")["due_at"], received + timedelta(days=90)),
            "CCPA: 90 in all",
        )
        check(
            self.operator.post(f"/v1/models/{self.two}/retire", {"reason": "superseded"})["status"] == "retired",
            "retired",
        )
        refused(Problem, lambda: self.application.send("GET", f"/v1/models/{self.two}/checkpoint"))
        parts = {part["model"]: part["status"] for part in self.application.request(self.both)["erasures"]}
        check(parts[self.two] == "not_applicable", f"what waits for a retired model becomes not_applicable: {parts}")
        check(self.operator.decide(self.both, "resume")["status"] == "queued", "resumed")
        found = self.application.wait_request(self.both, "running")
        job = next(part["job"] for part in found["erasures"] if part["model"] == self.cnn)
        self.operator.post(f"/v1/jobs/{job}/cancel")
        self.application.wait_request(self.both, "on_hold")
        self.operator.decide(self.both, "resume")
        self.finish(self.both)

    def evidence(self) -> None:
        jwks = self.anonymous.get("/.well-known/jwks.json")
        for request in (self.main, self.both, self.rejected):
            self.compliance.poll(f"{REQUESTS}/{request}", lambda found: found["certificate"], 90)
            path = f"{REQUESTS}/{request}/certificate/bundle"
            for client in (self.compliance, self.application):
                say(verify_bundle(client.send("GET", path).content, jwks))
        reports = list(self.compliance.pages("/v1/reports", model=self.cnn, limit=1))
        check({report["version"] for report in reports} == {2, 3}, f"a report for each job: {reports}")
        one, count = (
            reports[0],
            lambda **filters: len(list(self.compliance.pages("/v1/reports", model=self.cnn, **filters))),
        )
        check(
            sum(count(verdict=verdict) for verdict in {report["verdict"] for report in reports}) >= len(reports),
            "filtered by verdict",
        )
        check(
            not count(to="2020-01-01T00:00:00Z") and count(**{"from": "2020-01-01T00:00:00Z"}) >= len(reports),
            "by `from`, `to`",
        )
        for link, digest in (("self", "json_sha256"), ("pdf", "pdf_sha256"), ("samples", "csv_sha256")):
            data = self.compliance.send("GET", one["links"][link]).content
            check(
                hashlib.sha256(data).hexdigest() == one[digest] and (link != "pdf" or data[:5] == b"%PDF-"),
                f"{link} is what is listed",
            )
        check(self.compliance.get(one["links"]["envelope"])["payload"], "a DSSE envelope")
        say(verify_bundle(self.compliance.send("GET", f"/v1/reports/{one['id']}/bundle").content, jwks))
        refused(Forbidden, lambda: self.compliance.post(REQUESTS, self.body({"index": 1})))
        refused(
            Gone,
            lambda: self.operator.post(
                f"/v1/models/{self.cnn}/versions/1/release", {"reason": "the file was destroyed"}
            ),
        )
        log = self.compliance.get("/v1/events/verify")
        check(log["intact"] is True and log["head"], f"the log is intact: {log}")
        places = [event["position"] for event in self.compliance.pages("/v1/events", limit=200)]
        check(
            places == list(range(1, len(places) + 1)) and len(places) >= log["sealed"],
            "all events in order, none missing",
        )
        names = [
            e["name"]
            for e in self.compliance.pages("/v1/events", limit=3, record="deletion_request", record_id=self.main)
        ]
        check(
            names[0] == "deletion_request.accepted" and names[-1] == "certificate.issued",
            f"events of the request: {names}",
        )

    def farewell(self) -> None:
        self.hook.wait(lambda: TOLD | {"webhook.test"} <= {body["type"] for _, body, _, _ in list(self.hook.got)})
        check(all(any(proofs) for *_, proofs in self.hook.got), "each delivery verifies")
        check(
            not any("crm-" in str(body) or "train/" in str(body) for _, body, *_ in self.hook.got),
            "never names of people or images",
        )
        self.application.send("DELETE", self.hooks)
        refused(NotFound, lambda: self.application.get(self.hooks))
        say(f"{len(self.hook.got)} deliveries verified; the webhook is gone")

    def run(self) -> None:
        self.cnn, self.two = f"{self.name}-cnn", f"{self.name}-two"
        for step in (
            self.errors,
            self.train,
            self.second,
            self.webhook,
            self.post,
            self.jobs,
            self.evidence,
            self.farewell,
        ):
            step()


def main() -> int:
    keys = [os.environ[role] for role in ("OPERATOR", "APPLICATION", "COMPLIANCE")]
    name = os.environ.get("SET") or f"digits-{uuid.uuid4().hex[:8]}"
    walk = Walk(*(Client(os.environ["API"], key) for key in [*keys, None]), name)
    walk.run()
    for deviation in walk.deviations:
        print(f"not as the page says: {deviation}")
    return 1 if walk.deviations else 0


if __name__ == "__main__":
    sys.exit(main())

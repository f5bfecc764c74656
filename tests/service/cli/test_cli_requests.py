"""amun requests"""

from __future__ import annotations

import hashlib
import json
import threading
import uuid
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import rfc8785
from sqlalchemy import update

from models.base import new_id, now
from models.records import Certificate, DeletionRequest, ErasureStatus, VersionStatus
from models.verify import ERASURE_CERTIFICATE
from tests import plain
from tests.service.cli.conftest import Amun, Done, at
from tests.service.cli.contract import KEY, Contract, as_json, problem
from tests.service.conftest import Headers, World
from tests.settled import settle_all
from worker import signing

CREATE = ("requests", "create", "--training-set", "digits")


@pytest.fixture(autouse=True)
def _set(digits: uuid.UUID) -> None:
    """Every test has the training set `digits` and its model."""


def made(amun: Amun, shop: Headers, *options: object) -> str:
    done = amun(shop, *CREATE, *(options or ("--key", "train/00007")), "--json")
    assert done.status == 0, done.err
    return str(done.json["id"])


def later(act: Callable[[], Any], seconds: float = 0.7) -> threading.Timer:
    timer = threading.Timer(seconds, act)
    timer.start()
    return timer


def certified(world: World, request: str, *, damaged: bool = False) -> None:
    """The certificate that a `certify` job would have made."""
    job = world.job("digits-cnn")
    with world.database.write() as session:
        key = signing.active_key(session, world.settings)
        document = {"document": {"id": str(new_id())}, "outcome": "completed"}
        files = {"json": rfc8785.dumps(document), "pdf": b"%PDF-1.7 pages", "csv": b"sample\r\n"}
        names = {"json": "certificate.json", "pdf": "certificate.pdf", "csv": "samples.csv"}
        subjects = [(names[kind], hashlib.sha256(content).hexdigest()) for kind, content in files.items()]
        predicate = {"document_id": document["document"]["id"], "kind": "erasure_certificate", "outcome": "completed"}
        files["envelope"] = signing.sign(key, subjects, ERASURE_CERTIFICATE, predicate)
        if damaged:
            files["csv"] = b"sample\r\nanother\r\n"
        row = Certificate(request_id=uuid.UUID(request), job_id=job, outcome="completed", key_id=key.key_id)
        folder = world.settings.data_dir / "certificates"
        folder.mkdir()
        for kind, content in files.items():
            (folder / kind).write_bytes(content)
            setattr(row, f"{kind}_path", f"certificates/{kind}")
            setattr(row, f"{kind}_sha256", hashlib.sha256(content).hexdigest())
        session.add(row)
        session.execute(update(DeletionRequest).values(certified_at=now()))


def jwks(url: str, folder: Path) -> Path:
    keys = folder / "trusted.json"
    keys.write_bytes(plain.get(f"{url}/.well-known/jwks.json").content)
    return keys


def test_a_request_is_made_and_shown_to_people(amun: Amun, shop: Headers) -> None:
    done = amun(shop, *CREATE, "--key", "train/00007", "--index", 8, "--external-id", "crm-1", "--ground", "17(1)(b)")
    assert done.status == 0, done.err
    for part in ("queued", "days left", "crm-1", "17(1)(b)", "digits-cnn", "matched: 2"):
        assert part in done.out, part
    assert "idempotency key: " in done.err


def test_json_is_exactly_what_the_service_answers(amun: Amun, url: str, shop: Headers) -> None:
    request = made(amun, shop)
    done = amun(shop, "requests", "show", request, "--json")
    assert done.out.encode() == plain.get(f"{url}/v1/deletion-requests/{request}", headers=shop).content + b"\n"


def test_the_same_idempotency_key_never_makes_a_second_request(amun: Amun, shop: Headers) -> None:
    key = ("--idempotency-key", "case-17")
    first = made(amun, shop, "--key", "train/00007", *key)
    assert made(amun, shop, "--key", "train/00007", *key) == first
    done = amun(shop, *CREATE, "--key", "train/00008", *key)
    assert (done.status, done.out) == (3, "")


def test_without_one_each_request_has_a_key_of_its_own_that_is_told(amun: Amun, shop: Headers) -> None:
    keys = [amun(shop, *CREATE, "--index", index).err.split("idempotency key: ")[1][:36] for index in (1, 2)]
    assert len({uuid.UUID(key) for key in keys}) == 2


@pytest.mark.parametrize("source", ["-", "people.txt"])
def test_people_are_named_in_a_file_or_on_standard_input(
    source: str, amun: Amun, shop: Headers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("people.txt").write_text("user-42\n\n")
    done = amun(shop, *CREATE, "--subject-file", source, "--json", stdin="user-42\n")
    assert done.status == 0, done.err
    assert done.json["samples"][0]["selector"] == {"subject": "user-42"}
    assert done.json["samples"][0]["count"] == 3


def test_there_is_no_option_that_takes_a_person_from_the_command_line(amun: Amun, shop: Headers) -> None:
    assert amun(shop, *CREATE, "--subject", "user-42").status == 2


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("many.jsonl", '{"key": "train/00007"}\n\n{"index": 8}\r\n{"subject": "user-42"}\n'),
        ("many.csv", "key,index,subject\r\ntrain/00007,,\r\n,8,\r\n\r\n,,user-42\r\n"),
        ("-", '{"key": "train/00007"}\n{"index": 8}\n{"subject": "user-42"}'),
        ("-", "\ufeffindex,key,subject\n,train/00007,\n8,,\n,,user-42\n"),
    ],
    ids=["JSON lines", "CSV", "JSON lines on standard input", "CSV on standard input"],
)
def test_many_samples_come_from_a_file(
    name: str, content: str, amun: Amun, shop: Headers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if name != "-":
        Path(name).write_bytes(content.encode())
    done = amun(shop, *CREATE, "--from", name, "--json", stdin=content)
    assert done.status == 0, done.err
    named = [sample["selector"] for sample in done.json["samples"]]
    assert named == [{"key": "train/00007"}, {"index": 8}, {"subject": "user-42"}]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"key": "a"}\n{"key": "b", "subject": "user-42"}', "line 2: name the sample by exactly one of"),
        ('{"subject": "user-42"', "line 1: no JSON object"),
        ('{"person": "user-42"}', "line 1: name the sample by exactly one of"),
        ('{"index": "user-42"}', "line 1: an index is a whole number"),
        ("key,person\nx,user-42", "the first line of a CSV file names its columns"),
        ("key\nx,user-42", "line 2: more cells than columns"),
        ("index\nuser-42", "line 2: an index is a whole number"),
        ("key,subject\nx,user-42", "line 2: name the sample by exactly one of"),
        ("", "the first line of a CSV file names its columns"),
        ("key\n", "names no sample"),
    ],
)
def test_a_file_that_names_no_samples_is_wrong_usage_and_never_echoed(
    content: str, said: str, amun: Amun, shop: Headers
) -> None:
    done = amun(shop, *CREATE, "--from", "-", stdin=content)
    assert done.status == 2
    assert said in " ".join(done.err.replace("│", " ").split())
    assert "user-42" not in done.err + done.out


def test_a_request_without_samples_is_wrong_usage(amun: Amun, shop: Headers) -> None:
    done = amun(shop, *CREATE)
    assert done.status == 2
    assert "--subject-file" in done.err


def test_a_refusal_names_each_error_and_its_place(amun: Amun, shop: Headers) -> None:
    done = amun(shop, *CREATE, "--key", "train/00007", "--key", "train/99999", "--json")
    assert (done.status, done.out) == (3, "")
    assert "422 The request cannot be carried out as it is" in done.err
    assert "#/samples/1" in done.err
    assert amun(shop, *CREATE, "--key", "train/00007", "--key", "train/99999", "--partial").status == 0


def test_what_belongs_to_another_application_is_refused(amun: Amun, shop: Headers, rival: Headers) -> None:
    request = made(amun, shop)
    done = amun(rival, "requests", "show", request)
    assert (done.status, done.out) == (3, "")
    assert "404 Not found" in done.err


def test_an_id_stays_one_part_of_the_path(amun: Amun, shop: Headers, operator: Headers) -> None:
    made(amun, shop)
    for given in ("..", "../jobs", "x?limit=1", "%2e%2e"):
        done = amun(operator, "requests", "show", given)
        assert (done.status, done.out) == (3, "")


def test_lists_are_for_people_or_whole_for_machines(amun: Amun, shop: Headers) -> None:
    requests = [made(amun, shop, "--index", index) for index in range(10, 15)]
    cut = amun(shop, "requests", "list", "--limit", 3, "--json")
    assert [each["id"] for each in cut.json] == requests[:1:-1]
    assert "there are more than these 3" in cut.err
    everything = amun(shop, "requests", "list", "--all", "--json")
    assert [each["id"] for each in everything.json] == requests[::-1]
    assert everything.err == ""
    people = amun(shop, "requests", "list").out.splitlines()
    assert [line.split()[0] for line in people] == ["id", *requests[::-1]]


def test_every_page_is_fetched(amun: Amun, contract: Contract) -> None:
    pages = [{"data": [{"id": str(n)}], "next_cursor": str(n) if n < 3 else None} for n in range(4)]
    contract.answer("GET", "/v1/deletion-requests", *(as_json(page) for page in pages))
    done = at(contract.url)(KEY, "requests", "list", "--all", "--json")
    assert [each["id"] for each in done.json] == ["0", "1", "2", "3"]
    assert [asked.query.get("cursor") for asked in contract.asked] == [None, ["0"], ["1"], ["2"]]
    assert contract.asked[0].query["limit"] == ["200"]


def test_an_empty_list_is_an_empty_array(amun: Amun, shop: Headers) -> None:
    assert amun(shop, "requests", "list", "--status", "failed", "--json").json == []
    assert amun(shop, "requests", "list", "--status", "failed").out == ""


def test_filters_reach_the_service(contract: Contract) -> None:
    contract.answer("GET", "/v1/deletion-requests", as_json({"data": [], "next_cursor": None}))
    options = ("--status", "queued", "--status", "on_hold", "--model", "m", "--due-before", "2026-12-01", "--overdue")
    more = ("--training-set", "digits", "--regulation", "CCPA", "--sort", "due")
    assert at(contract.url)(KEY, "requests", "list", *options, *more).status == 0
    assert contract.asked[0].query == {
        "status": ["queued", "on_hold"],
        "model": ["m"],
        "due_before": ["2026-12-01T00:00:00Z"],
        "overdue": ["true"],
        "training_set": ["digits"],
        "regulation": ["CCPA"],
        "sort": ["due"],
        "limit": ["50"],
    }


@pytest.mark.parametrize("time", ["soon", "2026-13-01", "2026-12-01T10:00:00"])
def test_a_time_needs_its_form_and_its_zone(time: str, amun: Amun, shop: Headers) -> None:
    assert amun(shop, "requests", "list", "--due-before", time).status == 2


def test_a_due_date_is_counted_in_days(amun: Amun, world: World, shop: Headers) -> None:
    request = made(amun, shop)
    for days, said in ((-3, "3 days overdue"), (-1, "1 day overdue"), (1, "1 day left"), (40, "40 days left")):
        with world.database.write() as session:
            session.execute(update(DeletionRequest).values(due_at=now() + timedelta(days=days)))
        assert said in amun(shop, "requests", "list").out
        assert said in amun(shop, "requests", "show", request).out


def test_a_search_names_people_in_its_body_alone(contract: Contract) -> None:
    pages = [{"data": [{"id": "1"}], "next_cursor": "c"}, {"data": [{"id": "2"}], "next_cursor": None}]
    contract.answer("POST", "/v1/deletion-requests/search", *(as_json(page) for page in pages))
    search = ("requests", "search", "--external-id", "crm-1", "--subject-file", "-", "--all", "--json")
    done = at(contract.url)(KEY, *search, stdin="user-42\n")
    assert done.json == [{"id": "1"}, {"id": "2"}]
    body = {"external_id": "crm-1", "subject": "user-42", "limit": 200}
    assert [asked.json for asked in contract.asked] == [body, {**body, "cursor": "c"}]
    assert all(asked.query == {} for asked in contract.asked)


def test_a_search_needs_one_person_or_a_case(amun: Amun, shop: Headers) -> None:
    assert amun(shop, "requests", "search").status == 2
    assert amun(shop, "requests", "search", "--subject-file", "-", stdin="one\ntwo\n").status == 2
    assert amun(shop, "requests", "search", "--subject-file", "-", stdin="\n").status == 2


def test_a_preview_shows_whatever_the_service_says_and_makes_nothing(contract: Contract) -> None:
    said = {
        "accepted": True,
        "samples": [{"selector": {"key": "train/00007"}, "outcome": "matched", "count": 1}],
        "models": [{"model": "digits-cnn", "share": 0.025}],
        "near_duplicates": {"found": 1, "nearest": [{"index": 9, "distance": 0.5}]},
        "warnings": ["one"],
    }
    contract.answer("POST", "/v1/deletion-requests/preview", as_json(said))
    preview = (*CREATE, "--key", "train/00007", "--preview")
    assert at(contract.url)(KEY, *preview, "--json").json == said
    people = at(contract.url)(KEY, *preview)
    for part in ("accepted", "yes", "matched", "digits-cnn", "0.025", "near duplicates", "warnings"):
        assert part in people.out, part
    assert {asked.path for asked in contract.asked} == {"/v1/deletion-requests/preview"}
    assert contract.asked[0].json == {"training_set": "digits", "samples": [{"key": "train/00007"}]}


def test_a_preview_of_what_would_be_refused_fails(contract: Contract) -> None:
    said = {"accepted": False, "problem": {"title": "Not found", "detail": "There is none."}, "models": []}
    contract.answer("POST", "/v1/deletion-requests/preview", as_json(said))
    done = at(contract.url)(KEY, *CREATE, "--key", "train/00007", "--preview")
    assert done.status == 1
    assert "There is none." in done.out


DECISIONS = [
    ("cancel", ()),
    ("cancel", ("--reason", "why")),
    ("hold", ("--reason", "why")),
    ("resume", ()),
    ("extend", ("--reason", "why")),
    ("approve", ("--reason", "why")),
    ("reject", ("--reason", "why")),
]


@pytest.mark.parametrize(("what", "options"), DECISIONS)
def test_a_decision_is_posted_with_its_reason(what: str, options: tuple[str, ...], contract: Contract) -> None:
    request = {"id": "r", "status": "on_hold", "due_at": "2026-12-24T23:59:59Z"}
    contract.answer("POST", f"/v1/deletion-requests/r/{what}", as_json(request, 202))
    done = at(contract.url)(KEY, "requests", what, "r", *options)
    assert (done.status, done.out) == (0, "")
    assert "request r: on hold, due 2026-12-24" in done.err
    assert contract.asked[0].json == ({"reason": "why"} if options else {})
    assert at(contract.url)(KEY, "requests", what, "r", *options, "--json").json == request


@pytest.mark.parametrize("what", ["hold", "extend", "reject"])
def test_what_needs_a_reason_is_not_sent_without_one(what: str, contract: Contract) -> None:
    assert at(contract.url)(KEY, "requests", what, "r").status == 2
    assert contract.asked == []


def test_watching_ends_well_once_the_request_is_completed(amun: Amun, world: World, shop: Headers) -> None:
    request = made(amun, shop)

    def finish() -> None:
        world.finish(request, "digits-cnn", world.version("digits-cnn", 2, VersionStatus.RELEASED, parent=1))

    timer = later(finish)
    done = amun(shop, "requests", "watch", request, "--json")
    timer.join()
    assert (done.status, done.json["status"]) == (0, "completed")
    assert "digits-cnn: done" in done.err


@pytest.mark.parametrize(
    ("erasure", "status", "exit_status"),
    [
        (ErasureStatus.AWAITING_RELEASE, "awaiting_release", 5),
        (ErasureStatus.ON_HOLD, "on_hold", 5),
        (ErasureStatus.FAILED, "failed", 1),
        (ErasureStatus.CANCELLED, "cancelled", 1),
        (ErasureStatus.DONE, "completed", 0),
    ],
)
def test_watching_ends_as_the_request_stands(
    erasure: ErasureStatus, status: str, exit_status: int, amun: Amun, world: World, shop: Headers
) -> None:
    request = made(amun, shop)
    world.finish(request, "digits-cnn", world.version("digits-cnn", 2, VersionStatus.QUARANTINED, parent=1), erasure)
    done = amun(shop, "requests", "watch", request, "--json")
    assert (done.status, done.json["status"]) == (exit_status, status)


def test_watching_a_rejected_request_fails(amun: Amun, world: World, shop: Headers) -> None:
    request = made(amun, shop)
    with world.database.write() as session:
        session.execute(update(DeletionRequest).values(rejected_at=now()))
        settle_all(session)
    assert amun(shop, "requests", "watch", request).status == 1


def test_watching_gives_up_in_time_and_says_that_the_work_goes_on(amun: Amun, shop: Headers) -> None:
    done = amun(shop, *CREATE, "--key", "train/00007", "--watch", "--timeout", 0.5, "--json")
    assert (done.status, done.out) == (6, "")
    assert "goes on" in done.err


def erasure(status: str, job: str | None) -> dict[str, Any]:
    return {"model": "m", "status": status, "job": job, "reason": None}


def watched(contract: Contract, *jobs: Any) -> Done:
    states = [
        ("queued", erasure("open", None)),
        ("running", erasure("running", "j")),
        ("completed", erasure("done", "j")),
    ]
    answers = [as_json({"id": "r", "status": status, "erasures": [each]}) for status, each in states]
    contract.answer("GET", "/v1/deletion-requests/r", *answers)
    contract.answer("GET", "/v1/jobs/j", *jobs)
    return at(contract.url)(KEY, "requests", "watch", "r")


def test_watching_shows_the_job_where_the_key_may_see_it(contract: Contract) -> None:
    job = {"status": "running", "phase": "finetune", "step": "AMUN", "progress": 0.4, "eta_seconds": 12.0}
    done = watched(contract, as_json(job))
    assert done.status == 0
    assert [line for line in done.err.splitlines() if line.startswith("m: ")] == [
        "m: open (0 %)",
        "m: finetune AMUN (40 %)",
        "m: done (100 %)",
    ]


def test_watching_goes_by_the_status_where_the_key_may_not_see_jobs(contract: Contract) -> None:
    done = watched(contract, problem(403, "This key's role may not do that"))
    assert done.status == 0
    assert "m: running (0 %)" in done.err
    assert "403" not in done.err


def test_a_busy_service_is_asked_again_with_the_same_idempotency_key(contract: Contract) -> None:
    receipt = {"id": "r", "status": "queued"}
    busy = problem(503, Retry_After="0")
    contract.answer("POST", "/v1/deletion-requests", busy, problem(429, Retry_After="0"), as_json(receipt, 202))
    done = at(contract.url)(KEY, *CREATE, "--index", 1, "--json")
    assert (done.status, done.json) == (0, receipt)
    assert len({asked.headers["idempotency-key"] for asked in contract.asked}) == 1
    assert len(contract.asked) == 3


def test_where_it_is_not_known_whether_a_request_was_accepted_the_way_on_is_told(contract: Contract) -> None:
    contract.answer("POST", "/v1/deletion-requests", problem(500, "Something went wrong"))
    done = at(contract.url)(KEY, *CREATE, "--index", 1, "--idempotency-key", "case-17")
    assert (done.status, done.out) == (4, "")
    assert "--idempotency-key case-17 never makes a second one" in done.err


def test_a_certificate_is_checked_as_soon_as_it_is_fetched(
    amun: Amun, url: str, world: World, shop: Headers, tmp_path: Path
) -> None:
    request = made(amun, shop)
    certified(world, request)
    fetch = ("requests", "certificate", request, "--out", tmp_path / "out", "--json")
    done = amun(shop, *fetch, "--trusted-keys", jwks(url, tmp_path))
    assert done.status == 0, done.err
    assert done.json["outcome"] == "completed"
    assert done.err.strip() == f"{tmp_path}/out/certificate-{request}.zip: verified"
    assert [path.name for path in (tmp_path / "out").iterdir()] == [f"certificate-{request}.zip"]


def test_without_a_trusted_key_a_certificate_is_said_to_be_integrity_only(
    amun: Amun, world: World, shop: Headers, tmp_path: Path
) -> None:
    request = made(amun, shop)
    certified(world, request)
    done = amun(shop, "requests", "certificate", request, "--out", tmp_path)
    assert (done.status, done.out) == (0, "")
    assert "INTEGRITY ONLY" in done.err


def test_a_certificate_that_was_changed_is_a_failure(
    amun: Amun, url: str, world: World, shop: Headers, tmp_path: Path
) -> None:
    request = made(amun, shop)
    certified(world, request, damaged=True)
    done = amun(shop, "requests", "certificate", request, "--out", tmp_path, "--json")
    assert (done.status, done.out) == (1, "")
    assert "WRONG samples.csv" in done.err


def test_before_there_is_a_certificate_the_status_is_told(amun: Amun, shop: Headers, tmp_path: Path) -> None:
    request = made(amun, shop)
    done = amun(shop, "requests", "certificate", request, "--out", tmp_path)
    assert done.status == 3
    assert "the request is queued" in done.err
    assert list(tmp_path.glob("*.zip")) == []


def test_what_others_wrote_can_not_drive_the_terminal(amun: Amun, shop: Headers) -> None:
    request = made(amun, shop, "--index", 1, "--external-id", "\x1b[2J[red]\u202e\x07\nx[/red]")
    for command in (("show", request), ("list",)):
        out = amun(shop, "requests", *command).out
        assert not {"\x1b", "\x07", "\u202e"} & set(out)
        assert "[red]" in out


def test_json_lines_survive_any_text(amun: Amun, shop: Headers) -> None:
    request = made(amun, shop, "--index", 1, "--external-id", "ü\u2028 \U0001f600")
    listed = amun(shop, "requests", "list", "--json")
    assert json.loads(listed.out)[0]["external_id"] == "ü\u2028 \U0001f600"
    assert listed.json[0]["id"] == request

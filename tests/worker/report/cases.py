"""Documents of the recorded results, with the rows that a service would have beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from models.parameters import DEMO
from models.rehearsals import rehearsal_failed
from worker import gate, report
from worker.plan import Result, load_result
from worker.report import wording

Json = dict[str, Any]

DATA = Path(__file__).parent / "data"
CASES = ("pass", "retrained", "few", "over")
FILES = {"pass": "result.json"}
REQUESTS = [f"01a30000-0000-7000-8000-00000000000{number}" for number in range(1, 4)]
REPORT = "01a20000-0000-7000-8000-000000000001"
KEY = "k" * 43


def recorded(case: str) -> Result:
    """A recorded result: one of `CASES`, or ``audit``."""
    return load_result(DATA / FILES.get(case, f"result-{case}.json"))


def audit_document(case: str, **changes: Any) -> Json:
    result = recorded(case)
    return report.audit_report(facts(result) | changes, result)


def re_audit_document() -> Json:
    result = recorded("audit")
    given = facts(result)
    given["head"]["kind"] = "re_audit"
    given["scope"] |= {"base_version": {"number": 2, "sha256": "b" * 64, "size": 63760}, "new_version": None}
    return report.re_audit(given, result)


def overridden(document: Json) -> Json:
    """The next edition, after an operator has released the version."""
    override = {
        "at": "2026-11-21T10:00:00+00:00",
        "action": "released",
        "actor": "key:0f9a6c2b",
        "reason": "Reviewed with the data protection officer: served until the retrained version is ready.",
        "event": "01a40000-0000-7000-8000-000000000001",
    }
    later = head() | {"id": "01a20000-0000-7000-8000-000000000002", "issued_at": "2026-11-21T10:00:05+00:00"}
    return report.edition(document, later, [override], document["downloads"], document["trail"])


def facts(result: Result) -> Json:
    """What worker.reporting gathers for the only request, or the only three, of a recorded job."""
    outcome = result.outcome
    assert outcome is not None
    measured = outcome.get("after") or outcome
    samples = measured["audit"]["samples"] if measured["audit"] else []
    number = len(measured["slices"])
    policy = DEMO.policy.model_dump(mode="json")
    return {
        "head": head(),
        "requests": [request(REQUESTS[at], part["forget"]) for at, part in enumerate(measured["slices"])],
        "slices": REQUESTS[:number],
        "samples": {sample["index"]: f"{0xA5A5A5A5 * (sample['index'] + 1):016x}" for sample in samples},
        "scope": {
            "training_set": training_set(),
            "model": "digits-cnn",
            "network": DEMO.network.model_dump(mode="json"),
            "recipe": DEMO.recipe.model_dump(mode="json"),
            "uploaded_checkpoint": None,
            "base_version": {"number": 1, "sha256": "a" * 64, "size": 63760},
            "new_version": {"number": 2, "sha256": "b" * 64, "size": 63760},
        },
        "form": DEMO.policy.finetuning.form,
        "seed": str(2**61 + 1),
        "job": {
            "id": "01a50000-0000-7000-8000-000000000001",
            "attempt": 1,
            "worker": "gpu-1",
            "started_at": "2026-11-20T08:59:00+00:00",
            "ended_at": "2026-11-20T09:00:00+00:00",
        },
        "policy": policy,
        "rehearsed": rehearsed(outcome["forget"]),
        "gate": decision(outcome) if "verdict" in outcome else None,
        "overrides": [],
        "downloads": [
            {
                "version": 1,
                "sha256": "a" * 64,
                "at": "2026-11-19T07:30:00+00:00",
                "actor": "key:77aa01cd",
                "application": "shop",
            }
        ],
        "trail": trail(),
    }


def head() -> Json:
    return {
        "id": REPORT,
        "schema_version": wording.SCHEMA_VERSION,
        "kind": "audit_report",
        "edition": 1,
        "supersedes": None,
        "issued_at": "2026-11-20T09:00:00+00:00",
        "issuer": "Example Ltd, privacy@example.org",
        "key_id": KEY,
        "verify": "amun verify BUNDLE.zip --key jwks.json",
    }


def request(identifier: str, samples: int) -> Json:
    return {
        "id": identifier,
        "external_id": "crm-9911",
        "application": "shop",
        "regulation": "GDPR",
        "ground": "17(1)(b)",
        "submitted_by": "1f2e3d4c",
        "submitted_at": None,
        "received_at": "2026-11-20T08:00:00+00:00",
        "acknowledged_at": "2026-11-20T08:00:00+00:00",
        "due_at": "2026-12-20T23:59:59+00:00",
        "due_rule": "Regulation (EU) 2016/679, Article 12(3)",
        "days_used": 0.04,
        "in_time": True,
        "approval_required": False,
        "approved_at": None,
        "rejected_at": None,
        "samples": samples,
        "outcomes": {"matched": samples},
        "identified_by": {"key": samples},
        "history": [line("deletion_request.accepted", "key:1f2e3d4c", 41)],
    }


def line(event: str, actor: str, position: int | None) -> Json:
    return {"at": "2026-11-20T08:00:00+00:00", "event": event, "actor": actor, "position": position, "data": {}}


def trail() -> Json:
    return {
        "head": {"position": 57, "hash": "d" * 64},
        "excerpt": [line("job.planned", "dispatcher", 43), line("job.started", "worker:gpu-1", None)],
        "retention_months": 24,
    }


def training_set() -> Json:
    return {
        "name": "digits",
        "manifest_sha256": "c" * 64,
        "rows": 1797,
        "shape": [1, 8, 8],
        "classes": [str(digit) for digit in range(10)],
        "left_out_at_registration": 0,
        "near_duplicates": {
            "method": "thumbnails",
            "searched": 1797,
            "why_not": None,
            "threshold": 0.0598,
            "median_distance": 0.126,
            "neighbours": 10,
            "capped": 1,
            "pairs": 2,
        },
    }


def rehearsed(size: int) -> Json | None:
    if not size:
        return None
    strengths: list[Json] = json.loads((DATA / "rehearsed.json").read_text())
    strength = min(strengths, key=lambda each: abs(each["size"] - size))
    why_not = rehearsal_failed(DEMO.policy, strength, size)
    return {"passed": why_not is None, "why_not": why_not, "strength": strength}


def decision(outcome: Json) -> Json:
    strength = (rehearsed(outcome["forget"]) or {})["strength"]
    made = gate.decide(outcome["verdict"], outcome["utility"]["passed"], DEMO.policy, strength, outcome["forget"])
    return {"decision": made.decision, "cause": made.cause, "reason": made.reason, "rule": gate.RULE}


def certificate_facts(document: Json) -> Json:
    """Facts of the certificate of the first request of an audit report whose version was released."""
    own = document["requests"][0]
    samples = [sample["reference"] for sample in document["audit"]["after"]["samples"]][: own["samples"]]
    return {
        "head": head() | {"id": "01a60000-0000-7000-8000-000000000001", "kind": "erasure_certificate"},
        "outcome": "completed",
        "request": own,
        "scope": {
            "training_set": training_set(),
            "samples": samples,
            "controls": [],
            "near_duplicates": [near_duplicate(samples[0], "trained_on"), near_duplicate(samples[-1], "erased")],
            "excluded_models": [{"model": "digits-wide", "reason": "trained after the request, without the samples"}],
        },
        "erasures": [
            {
                "model": "digits-cnn",
                "status": "done",
                "reason": None,
                "version": document["scope"]["new_version"],
                "version_id": "01a70000-0000-7000-8000-000000000001",
                "released_at": "2026-11-20T09:00:00+00:00",
                "finished_at": "2026-11-20T09:00:00+00:00",
                "verdict": document["finding"]["verdict"],
                "report": {"id": document["document"]["id"], "edition": 1, "json_sha256": "e" * 64},
                "recipients": document["downloads"],
                **report.from_report(document, own["id"], set(samples)),
            }
        ],
        "destroyed": [
            destroyed("checkpoint", version=1),
            destroyed("reference signals", len(samples)),
            destroyed("pixels and names", len(samples)),
        ],
        "kept": [{"what": "keyed hashes in the ledger", "count": 4 * len(samples), "reason": "refusal"}],
        "trail": trail(),
    }


def near_duplicate(sample: str, now: str) -> Json:
    return {"sample": sample, "near": f"{int(sample, 16) ^ 0xFF:016x}", "distance": 0.0415, "now": now}


def rejected_certificate() -> Json:
    given = certificate_facts(audit_document("few"))
    stays = {"what": "samples and their files", "count": 3, "reason": "the request was rejected"}
    given["request"]["rejected_at"] = "2026-11-20T08:30:00+00:00"
    return report.certificate(given | {"outcome": "rejected", "erasures": [], "destroyed": [], "kept": [stays]})


def destroyed(what: str, samples: int | None = None, version: int | None = None) -> Json:
    return {
        "what": what,
        "model": "digits-cnn",
        "version": version,
        "sha256": "a" * 64 if version else None,
        "samples": samples,
        "at": "2026-11-20T09:00:02+00:00",
        "method": "overwritten with zeros, synchronised, read back",
        "verified": True,
        "position": 61,
    }

"""What signed documents hold, as models: they check every document before it is signed, and give the published JSON Schema.

Times are RFC 3339 in UTC, accuracies and AUCs 0..1, distances l2 with pixels in [0, 1]. A sample is a reference: 16 hex
digits of an HMAC that only the controller can recompute. What the job measured is described in `worker.plan`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from worker.plan import (
    Auc,
    Boundary,
    Environment,
    Estimate,
    LadderStep,
    NearDuplicates,
    Provenance,
    RehearsedStrength,
    Utility,
    UtilityVerdict,
)

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Reference = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
Time = Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?\+00:00$")]
Id = Annotated[str, Field(pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]
Verdict = Literal["exact", "pass", "over_unlearned", "under_unlearned", "inconclusive", "not_audited"]
Values = dict[str, Any]


class Part(BaseModel):
    """Unknown names and numbers that are not finite are refused."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Head(Part):
    """Group 1. The sha256 of the files and the signature are in the envelope."""

    id: Id
    schema_version: Literal["1.0", "1.1"] = Field(description="1.1 added near-duplicates and uploaded models.")
    kind: Literal["audit_report", "re_audit", "erasure_certificate"]
    edition: int = Field(ge=1)
    supersedes: Id | None = Field(description="Id of the edition before.")
    issued_at: Time
    issuer: str = Field(description="Controller, and how to reach it.")
    key_id: str = Field(description="RFC 7638 thumbprint of the Ed25519 key that signs.")
    verify: str = Field(description="Command that checks the bundle offline.")


class Line(Part):
    """An event of the log. Actors are `key:` and the id of an API key, `worker:` and its name, or `dispatcher`."""

    at: Time
    event: str
    actor: str
    position: int | None = Field(description="In the sealed log; null: not sealed yet when this was written.")
    data: Values


class Request(Part):
    """Group 2: a deletion request as its rows know it."""

    id: Id
    external_id: str | None
    application: str
    regulation: str
    ground: str | None
    submitted_by: str = Field(description="Id of the API key.")
    submitted_at: Time | None = Field(description="As the application says.")
    received_at: Time
    acknowledged_at: Time | None = Field(description="Committed, and answered with 202.")
    due_at: Time
    due_rule: str | None
    days_used: float = Field(ge=0, description="From receipt to the issue of this document.")
    in_time: bool = Field(description="This document was issued by the due date.")
    approval_required: bool
    approved_at: Time | None
    rejected_at: Time | None
    samples: int = Field(ge=0, description="Found, exact copies included.")
    outcomes: dict[str, int] = Field(description="What became of the selectors, as counts.")
    identified_by: dict[str, int] = Field(description="By which kind of name samples were asked for, as counts.")
    history: list[Line]


class TrainingSet(Part):
    name: str
    manifest_sha256: Sha256
    rows: int
    shape: list[int] = Field(description="Channels, height, width.")
    classes: list[str]
    left_out_at_registration: int | None = Field(description="Rows whose content was erased elsewhere before.")
    near_duplicates: NearDuplicates | None = Field(
        default=None,
        description="How pairs of nearly the same image were searched for at registration; null: they were not.",
    )


class Version(Part):
    number: int
    sha256: Sha256
    size: int | None = Field(description="Bytes.")


class Scope(Part):
    """Group 3 of an audit."""

    training_set: TrainingSet
    model: str
    network: Values
    recipe: Values
    uploaded_checkpoint: Sha256 | None = Field(
        default=None, description="Of the upload that the model's first version was made of; null: it was trained here."
    )
    base_version: Version | None
    new_version: Version | None = Field(description="null in a re-audit, which makes none.")
    forget_samples: int
    retained_samples: int
    out_of_scope: list[str]


class JobFacts(Part):
    id: Id
    attempt: int
    worker: str | None
    started_at: Time | None
    ended_at: Time
    seconds: dict[str, float] = Field(description="By phase.")


class AdversarialSet(Part):
    method: str
    found: int
    not_found: list[Reference]
    distance_quantiles: dict[str, float]
    passes_per_sample: float


class Action(Part):
    """Group 4."""

    method: str
    paper: str
    form: str | None
    steps: list[LadderStep] = Field(description="Of the ladder, in order; the last one made the checkpoint.")
    adversarial_set: AdversarialSet | None = Field(description="null: AMUN was not tried.")
    provenance: Provenance | None = Field(description="Of a retrained checkpoint.")
    withdrawn: bool = Field(description="The ladder ended without a model that may be served.")
    incident: bool = Field(description="The audit disagrees with a retrained model.")
    seed: str = Field(description="As text: 62 bits are more than a JSON number carries exactly.")
    requests_in_batch: int
    batches_halved: bool
    environment: Environment
    job: JobFacts


class UtilityGroup(Part):
    """Group 5."""

    before: Utility | None = None
    after: Utility | None = None
    retrained: Utility | None = None
    now: Utility | None = Field(default=None, description="Of a re-audit.")
    verdict: UtilityVerdict | None


class Sample(Part):
    reference: Reference
    z: float
    low: float
    high: float
    testable: bool
    difficulty: float


class RequestSlice(Part):
    request: Id | None
    forget: int
    verdict: Verdict
    reasons: list[str]
    estimates: list[Estimate]
    smallest_detectable_shift: float
    worst_sample: Reference


class ModelAudit(Part):
    """One model under the audit: `worker.plan.ModelMeasurement` with references in place of rows."""

    verdict: Verdict
    reasons: list[str]
    estimates: list[Estimate]
    loss_null: float | None
    blind_auc: float | None
    smallest_detectable_shift: float | None
    tpr: float | None
    tpr_at_fpr: float | None
    tpr_at_zero: float | None
    tpr_at_zero_high: float | None
    samples: list[Sample]
    worst_sample: Reference | None
    scores: dict[str, dict[str, list[float]]]
    slices: list[RequestSlice]
    boundary: Boundary | None
    retained: Auc | None
    changed: Auc | None


class Rehearsed(Part):
    passed: bool
    why_not: str | None
    strength: RehearsedStrength


class AuditGroup(Part):
    """Group 6."""

    threat_model: str
    attacks_not_tried: list[str]
    rule: Values = Field(description="Tolerances, level and parameters of the attacks, from the policy.")
    rule_words: str
    policy_sha256: Sha256 = Field(
        description="Of the model's policy as RFC 8785 JSON; it was fixed before the request."
    )
    forget_samples: int
    audit_controls: int
    calibration_controls: int
    controls_chosen: str
    reference_models: int
    reference_train_size: int | None
    train_size: int
    detectable_before: bool | None = Field(description="null: there is no version before.")
    rehearsed: Rehearsed | None
    before: ModelAudit | None = None
    after: ModelAudit | None = None
    retrained: ModelAudit | None = None
    now: ModelAudit | None = None


class Gate(Part):
    decision: Literal["released", "quarantined"]
    cause: Literal["privacy", "utility", "inconclusive"] | None
    reason: str
    rule: str


class Override(Part):
    """A decision by a person, after the gate's."""

    at: Time
    action: Literal["released", "quarantined"]
    actor: str
    reason: str | None
    event: Id


class Recipient(Part):
    """Somebody who fetched a checkpoint that knows the samples, and can compare it with what is served now."""

    version: int
    sha256: Sha256
    at: Time
    actor: str
    application: str | None


class Finding(Part):
    verdict: Verdict
    headline: str
    words: str
    notes: list[str]
    reasons: list[str]


class LogHead(Part):
    position: int
    hash: Sha256


class Trail(Part):
    """Group 9."""

    head: LogHead | None = Field(description="Last seal of the log; null: nothing is sealed yet.")
    excerpt: list[Line]
    retention_months: int = Field(description="How long this record is kept.")


class AuditDocument(Part):
    """An audit report, of an unlearn job, or a re-audit of a released version."""

    document: Head
    finding: Finding
    requests: list[Request]
    scope: Scope
    action: Action | None
    utility: UtilityGroup
    audit: AuditGroup
    policy: Values
    gate: Gate | None
    overrides: list[Override]
    downloads: list[Recipient]
    limits: list[str]
    trail: Trail


class OwnSlice(Part):
    """What the audit says of the samples of this request alone."""

    verdict: Verdict | None = Field(description="null: the request had no slice of its own in that audit.")
    reasons: list[str]
    estimates: list[Estimate]
    smallest_detectable_shift: float | None
    before: list[Sample]
    after: list[Sample]


class ReportDigest(Part):
    id: Id
    edition: int
    json_sha256: Sha256


class ErasureLine(Part):
    """The request in one model."""

    model: str
    status: Literal["done", "not_applicable", "cancelled", "failed", "open", "on_hold", "awaiting_release"]
    reason: str | None
    version: Version | None
    version_id: Id | None
    released_at: Time | None
    finished_at: Time | None
    verdict: Verdict | None = Field(
        description="Of the version's audit; null: the model was never trained on the samples."
    )
    steps: list[str] = Field(description="Methods tried, in order.")
    gate: Gate | None
    overrides: list[Override]
    other_requests_in_batch: int | None
    own: OwnSlice | None
    report: ReportDigest | None
    recipients: list[Recipient]


class Destroyed(Part):
    """Group 7: one thing that is gone, and how that was seen."""

    what: Literal["checkpoint", "adversarial set", "reference signals", "pixels and names", "controls"]
    model: str | None
    version: int | None
    sha256: Sha256 | None
    samples: int | None
    at: Time
    method: str
    verified: bool = Field(description="Read back as gone.")
    position: int | None = Field(description="Of its event in the sealed log.")


class Kept(Part):
    what: str
    count: int
    reason: str


class NearDuplicate(Part):
    """An image that is nearly the same as one of the request's, and that the request does not name."""

    sample: Reference = Field(description="Of the request.")
    near: Reference
    distance: float = Field(description="Root mean square difference of thumbnails in [0, 1].")
    now: Literal["trained_on", "control", "erased"] = Field(
        description="When this was written; control: never trained on."
    )


class CertificateScope(Part):
    training_set: TrainingSet
    samples: list[Reference]
    controls: list[Reference] = Field(description="Asked for too, and never trained on by any model.")
    near_duplicates: list[NearDuplicate] = Field(
        default_factory=list, description="Closest first; how they were searched for is said of the training set."
    )
    excluded_models: list[dict[str, str]] = Field(
        description="Models of the set that the request did not reach, and why."
    )
    out_of_scope: list[str]


class CertificateDocument(Part):
    """The erasure certificate of one request over all its models. It names no other request."""

    document: Head
    outcome: Literal["completed", "rejected"]
    finding: Finding
    request: Request
    scope: CertificateScope
    erasures: list[ErasureLine]
    destroyed: list[Destroyed]
    kept: list[Kept]
    limits: list[str]
    trail: Trail

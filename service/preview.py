"""What would come of a deletion request. Reads, and writes nothing."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Mapping

from sqlalchemy import select
from sqlalchemy.orm import Session

from models.holdings import NEVER_TRAINED
from models.parameters import Policy
from models.records import Model, TrainingSet
from service import expecting
from service.approval import training_images
from service.asking import Asked, examine, understand
from service.errors import Problem, as_body
from service.nearby import near_duplicates
from service.schemas.deletion_requests import NewDeletionRequest
from service.schemas.previews import (
    ApprovalAnswer,
    ModelPreview,
    NearDuplicateAnswer,
    NearDuplicatesAnswer,
    PreviewAnswer,
)
from service.security import Principal

MOST_NEAR_DUPLICATES = 100


def preview(session: Session, suppression_key: bytes, principal: Principal, body: NewDeletionRequest) -> PreviewAnswer:
    """The answer to the body if it were sent now.

    A refusal that follows from what was found is part of it, so that a person sees each selector. Where there is nothing
    to look in (no such set or model, a set that is not ready), raises what the POST raises.
    """
    asked = understand(session.connection(), suppression_key, principal, body)
    approvals: Mapping[uuid.UUID, list[str]] = {}
    problem: Problem | None = None
    try:
        approvals = examine(session.connection(), body, asked)
    except Problem as refused:
        problem = refused
    samples = asked.resolution.samples
    return PreviewAnswer(
        accepted=problem is None,
        problem=as_body(problem) if problem is not None else None,
        training_set=asked.training_set.name,
        regulation=body.regulation,
        due_at=asked.due_at,
        approval_required=any(approvals.values()) if problem is None else None,
        samples=asked.resolution.answers,
        outcomes=dict(Counter(answer.outcome for answer in asked.resolution.answers)),
        rows={outcome: len(found) for outcome, found in samples.items() if found},
        near_duplicates=_near(session, asked),
        models=_models(session, asked, approvals if problem is None else None),
    )


def _near(session: Session, asked: Asked) -> NearDuplicatesAnswer | None:
    named = {sample.index for found in asked.resolution.samples.values() for sample in found}
    near = near_duplicates(session, session.get_one(TrainingSet, asked.training_set.id), named)
    if near is None:
        return None
    nearest = [NearDuplicateAnswer.model_validate(each) for each in near[:MOST_NEAR_DUPLICATES]]
    return NearDuplicatesAnswer(total=len(near), data=nearest)


def _models(session: Session, asked: Asked, approvals: Mapping[uuid.UUID, list[str]] | None) -> list[ModelPreview]:
    if not asked.resolution.to_forget:
        return []
    images = training_images(session.connection(), asked.training_set)
    targets = [model.id for model in asked.models]
    models = session.scalars(select(Model).where(Model.id.in_(targets)))
    in_order = sorted(models, key=lambda model: model.name)
    found = [_model(session, asked, model, images, approvals) for model in in_order]
    return [model for model in found if model.samples]  # it may be another model that still knows them


def _model(
    session: Session, asked: Asked, model: Model, images: int, approvals: Mapping[uuid.UUID, list[str]] | None
) -> ModelPreview:
    indices = {sample.index for sample in asked.resolution.to_forget}
    known = indices - asked.resolution.claims.forgotten[model.id]
    size = len(known - set((model.training or {}).get(NEVER_TRAINED, [])))
    policy = Policy.model_validate(model.policy)
    jobs = expecting.earlier_jobs(session, model)
    rehearsal = expecting.rehearsal(model, policy, size)
    begins = approvals is not None and not any(approvals.values())
    return ModelPreview(
        model=model.name,
        status=model.status,
        samples=size,
        share=size / images,
        approval=_approval(approvals[model.id]) if approvals is not None else None,
        estimate=expecting.estimate(jobs, size),
        accuracy_change=expecting.accuracy_change(jobs, model, size),
        rehearsed=rehearsal,
        inconclusive=expecting.inconclusive(policy, rehearsal.passed),
        queue=expecting.queue(session, model, begins, asked.received_at, asked.due_at),
    )


def _approval(reasons: list[str]) -> ApprovalAnswer:
    return ApprovalAnswer(required=bool(reasons), reasons=reasons)

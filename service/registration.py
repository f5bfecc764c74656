"""Register training sets and models: the record, its job and their events in one transaction."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from models import holdings
from models.records import (
    Job,
    JobKind,
    JobStatus,
    Model,
    Sample,
    TrainingSet,
    TrainingSetApplication,
    TrainingSetStatus,
    Upload,
    record_event,
)
from models.release import released_version
from models.secrets import SUPPRESSION, load_or_create
from models.seeds import new_seed
from models.settings import Settings
from models.suppression import suppressed
from service.deps import training_set_named
from service.errors import Conflict, NotFound, Unprocessable, pointer
from service.schemas.models import NewModel
from service.schemas.training_sets import NewTrainingSet
from service.security import Principal, application_named


def register_training_set(
    session: Session, settings: Settings, principal: Principal, body: NewTrainingSet
) -> tuple[TrainingSet, Job]:
    """Raises Conflict for a name that exists, Unprocessable where no files can be read."""
    if body.source.kind != "builtin" and settings.import_root is None:
        raise Unprocessable(
            "This service reads no folders or files: the operator of the machine must set AMUN_IMPORT_ROOT first.",
            at=pointer("source", "kind"),
        )
    training_set = TrainingSet(
        name=body.name,
        source=body.source.model_dump(mode="json", exclude_none=True),
        controls=body.controls.model_dump(mode="json", exclude_none=True),
    )
    _insert(session, training_set, body.name)
    for name in dict.fromkeys(body.applications):
        application = application_named(session, name)
        session.add(TrainingSetApplication(training_set_id=training_set.id, application_id=application.id))
    job = Job(
        kind=JobKind.REGISTER, training_set_id=training_set.id, seed=new_seed(settings, "register", training_set.name)
    )
    _queue(session, job, principal, "training_set", training_set)
    return training_set, job


def register_model(session: Session, settings: Settings, principal: Principal, body: NewModel) -> tuple[Model, Job]:
    """Every parameter is resolved now and stored, so that a later default changes nothing.

    Raises NotFound for the training set or the upload, Conflict for a set that is not ready, a name that exists, or an
    upload that may know what was to be forgotten.
    """
    training_set = training_set_named(session, body.training_set, principal, at=pointer("training_set"))
    if training_set.status is TrainingSetStatus.REGISTERING:
        raise Conflict(
            "The training set is still being registered: wait until it is ready.", at=pointer("training_set")
        )
    if training_set.status is TrainingSetStatus.FAILED:
        raise Conflict(
            "The registration of the training set failed: register it again under another name.",
            at=pointer("training_set"),
        )
    if body.checkpoint is not None:
        _check_upload(session, settings, body.checkpoint, training_set)
    model = Model(
        name=body.name,
        training_set_id=training_set.id,
        training_set=training_set,
        network=body.network.model_dump(mode="json"),
        recipe=body.recipe.model_dump(mode="json"),
        policy=body.policy.model_dump(mode="json"),
        checkpoint=body.checkpoint,
    )
    _insert(session, model, body.name)
    job = Job(
        kind=JobKind.TRAIN,
        training_set_id=training_set.id,
        model_id=model.id,
        seed=new_seed(settings, "train", model.name),
    )
    _queue(session, job, principal, "model", model)
    return model, job


def _check_upload(session: Session, settings: Settings, sha256: str, training_set: TrainingSet) -> None:
    """Nobody can tell what an uploaded model was trained on: it may only come before the first erasure of its set."""
    if session.get(Upload, sha256, with_for_update={"read": True}) is None:  # nobody destroys it until this commits
        raise NotFound(
            "There is no upload of this sha256: PUT the file to /v1/uploads/{sha256} first.", at=pointer("checkpoint")
        )
    samples = session.scalars(select(Sample).where(Sample.training_set_id == training_set.id))
    if holdings.named_for_erasure(session, training_set.id) or suppressed(
        session, load_or_create(settings.secrets, SUPPRESSION), samples
    ):
        raise Conflict(
            "Images of this training set were erased, refused or asked to be forgotten, and an uploaded model may know "
            "them: leave the checkpoint out, and the model is trained here without them.",
            at=pointer("checkpoint"),
        )


def queue_audit(session: Session, settings: Settings, principal: Principal, model: Model) -> Job:
    """A job that audits what the model serves now. Raises Conflict where it serves nothing, or one is queued already."""
    if released_version(session, model) is None:
        raise Conflict(f"Model {model.name} is {model.status.value}: there is no released version to audit.")
    waiting = session.scalars(
        select(Job.id).where(
            Job.model_id == model.id, Job.kind == JobKind.AUDIT, Job.status.in_([JobStatus.QUEUED, JobStatus.RUNNING])
        )
    ).first()
    if waiting is not None:
        raise Conflict(f"An audit of model {model.name} is on its way: follow job {waiting}.")
    job = Job(
        kind=JobKind.AUDIT,
        training_set_id=model.training_set_id,
        model_id=model.id,
        seed=new_seed(settings, "audit", model.name),
    )
    session.add(job)
    session.flush()
    record_event(session, "job.queued", "job", job.id, principal.actor, kind=job.kind.value)
    session.flush()
    return job


def _insert(session: Session, record: TrainingSet | Model, name: str) -> None:
    taken = Conflict(f"The name {name} is taken: choose another one.", at=pointer("name"))
    if session.scalar(select(type(record).id).where(type(record).name == name)) is not None:
        raise taken
    try:
        session.add(record)
        session.flush()
    except IntegrityError as error:  # another process inserted it since we looked
        raise taken from error


def _queue(session: Session, job: Job, principal: Principal, owner: str, record: Any) -> None:
    session.add(job)
    session.flush()
    record_event(session, f"{owner}.accepted", owner, record.id, principal.actor, **{owner: record.name})
    record_event(session, "job.queued", "job", job.id, principal.actor, kind=job.kind.value)
    session.flush()

"""A trained model: its first version, released, and the signals of its reference models."""

from __future__ import annotations

from sqlalchemy.orm import Session

from models import holdings
from models.moves import advance
from models.records import Model, ModelStatus
from models.release import release
from worker.commits.finished import Finished
from worker.commits.versions import new_version
from worker.plan import PLAN_FILE, TrainPlan, load_plan


def train(session: Session, finished: Finished) -> None:
    model = session.get_one(Model, finished.taken.job.model_id)
    plan = load_plan(finished.folder / PLAN_FILE)
    if not isinstance(plan, TrainPlan):
        raise TypeError(f"a model is made of a train job, not of kind {plan.kind}")
    never_trained = holdings.train_rows(session, model.training_set_id) - set(plan.train)
    version = new_version(finished, parent=None, verdict=None)
    session.add(version)
    session.flush()
    release(session, model, version, actor=finished.taken.actor, reason=None)
    advance(
        session,
        Model,
        Model.id == model.id,
        ModelStatus.READY,
        training=finished.outcome | {holdings.NEVER_TRAINED: sorted(never_trained)},
        folder=finished.relative,
    )

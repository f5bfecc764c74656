"""What would come of a deletion request, told before it is sent."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from models.model import ModelStatus
from service.schemas.common import Answer
from service.schemas.selectors import Outcome, SelectorOutcome


class NearDuplicateAnswer(Answer):
    index: int = Field(description="Row of the set that is not part of the request.")
    of: int = Field(description="The nearest of the request's samples.")
    distance: float


class NearDuplicatesAnswer(Answer):
    """Rows that look nearly like the samples. They are only reported: whoever means them too names them."""

    total: int
    data: list[NearDuplicateAnswer] = Field(description="The nearest ones, nearest first.")


class ApprovalAnswer(Answer):
    required: bool
    reasons: list[str]


class Spread(Answer):
    median: float
    lowest: float
    highest: float


class EstimateAnswer(Answer):
    """Rests on nothing but earlier jobs of the model, as they were measured: nothing is scaled to another size."""

    seconds: Spread = Field(description="From the start of the job to its end.")
    jobs: int = Field(description="How many succeeded jobs it rests on.")
    comparable: bool = Field(description="Whether those jobs forgot about as many samples, within a factor of 10.")


class AccuracyAnswer(Answer):
    """Accuracy on images never trained on, after minus before."""

    change: float = Field(description="The median of the jobs, or the mean of the rehearsed requests.")
    source: Literal["earlier_jobs", "rehearsal"]
    lowest: float | None = Field(description="Of the jobs.")
    highest: float | None = Field(description="Of the jobs.")
    count: int = Field(description="Jobs, or rehearsed requests.")
    size: int | None = Field(description="Samples of each rehearsed request.")
    comparable: bool = Field(description="Whether they forgot about as many samples, within a factor of 10.")


class RehearsedAnswer(Answer):
    """Whether rehearsal on reference models speaks for a request of this size."""

    passed: bool
    size: int | None = Field(description="Nearest size that was rehearsed.")
    reason: str | None = Field(description="Why it did not pass.")


class InconclusiveAnswer(Answer):
    """What follows where the audit finds too few samples to tell."""

    policy: Literal["release", "wait_for_batch", "retrain"]
    released: bool | None = Field(description="Whether the new version is served then; null: after it was retrained.")
    meaning: str


class QueueAnswer(Answer):
    """What the model's worker has to do now."""

    running: bool = Field(description="A job of the model runs.")
    queued: int = Field(description="Jobs of the model that wait.")
    requests: int = Field(description="Requests whose erasure in this model has not begun, as far as 1,000.")
    starts_by: datetime | None = Field(
        description="When the model has gathered enough at the latest, if the request were sent now. Null where nothing is "
        "gathered, where the request would be refused or needs approval first, and while the model cannot forget."
    )


class ModelPreview(Answer):
    model: str
    status: ModelStatus
    samples: int = Field(description="Training samples that this model would have to forget.")
    share: float = Field(description="Of the set's training images, 0 to 1.")
    approval: ApprovalAnswer | None = Field(description="Null where the request would be refused.")
    estimate: EstimateAnswer | None = Field(description="Null where the model has no succeeded unlearn job yet.")
    accuracy_change: AccuracyAnswer | None = Field(description="Null where nothing was measured or rehearsed.")
    rehearsed: RehearsedAnswer
    inconclusive: InconclusiveAnswer
    queue: QueueAnswer


class PreviewAnswer(Answer):
    accepted: bool
    problem: dict[str, Any] | None = Field(
        description="Where it would be refused: type, title, status, detail and errors of the answer to the POST."
    )
    training_set: str
    regulation: str
    due_at: datetime = Field(description="If it were sent now.")
    approval_required: bool | None = Field(description="Null where it would be refused.")
    samples: list[SelectorOutcome]
    outcomes: dict[Outcome, int] = Field(description="Selectors, by what became of them.")
    rows: dict[Outcome, int] = Field(description="Samples they stand for, by what would be done with them.")
    near_duplicates: NearDuplicatesAnswer | None = Field(
        description="Rows outside of the request that look nearly like its samples; null where the set was not searched."
    )
    models: list[ModelPreview] = Field(description="Those that would have to forget, by name.")

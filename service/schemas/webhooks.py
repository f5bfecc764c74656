"""Webhooks, the messages that they are sent, and the log of their deliveries."""

from __future__ import annotations

import uuid
from datetime import datetime
from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, Field, StringConstraints

from models.deletion_request import RequestStatus
from models.webhook import DeliveryStatus
from service.schemas.common import Answer, Body, Details, Links

LONGEST_URL = 2000


class MessageType(StrEnum):
    """What a message tells of. Those of a deletion request go to the application that posted it."""

    QUEUED = "deletion_request.queued"  # one for every status that a request enters, its first one included
    RUNNING = "deletion_request.running"
    AWAITING_APPROVAL = "deletion_request.awaiting_approval"
    AWAITING_RELEASE = "deletion_request.awaiting_release"
    ON_HOLD = "deletion_request.on_hold"
    COMPLETED = "deletion_request.completed"
    PARTIALLY_COMPLETED = "deletion_request.partially_completed"
    FAILED = "deletion_request.failed"
    CANCELLED = "deletion_request.cancelled"
    REJECTED = "deletion_request.rejected"
    ACCEPTED = "deletion_request.accepted"
    EXTENDED = "deletion_request.extended"  # its due date was moved
    DUE_SOON = "deletion_request.due_soon"
    OVERDUE = "deletion_request.overdue"
    CERTIFICATE_ISSUED = "certificate.issued"  # a new edition of a request's certificate can be fetched
    VERSION_RELEASED = "version.released"  # to every application that may erase from the model's training set
    VERSION_QUARANTINED = "version.quarantined"  # to the same; it may have been served, or been kept back by its audit
    MODEL_WITHDRAWN = "model.withdrawn"  # to the same: no version of the model may be used until one is released
    TEST = "webhook.test"  # sent on demand, whatever types the webhook asks for


def _each_once(types: list[MessageType]) -> list[MessageType]:
    return list(dict.fromkeys(types))


class NewWebhook(Body):
    url: Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_URL)] = Field(
        description="`https://`, at a host that resolves to public addresses only. Messages are posted to it.",
        examples=["https://example.com/amun"],
    )
    events: Annotated[list[MessageType], AfterValidator(_each_once)] = Field(
        default=[], max_length=100, description="Types of messages to be sent; none named: all of them."
    )


class WebhookAnswer(Answer):
    id: uuid.UUID
    url: str
    events: list[MessageType] = Field(description="Types of messages that it is sent; empty: all.")
    created_at: datetime
    disabled_at: datetime | None = Field(description="Since when it is sent nothing; `enable` ends that.")
    disabled_reason: str | None
    failing_since: datetime | None = Field(description="First of the failed attempts since the last delivery.")
    previous_secret_until: datetime | None = Field(
        description="Until then messages carry a second signature, by the secret before the last rotation."
    )
    links: Links


class WebhookWithSecret(WebhookAnswer):
    secret: str = Field(
        description="`whsec_…`, shown this once: verifies the signatures of messages (standardwebhooks.com)."
    )


class AttemptAnswer(Answer):
    at: datetime
    status_code: int | None = Field(description="What the receiver answered; null where no answer came.")
    error: str | None = Field(description="Why it was no success.")
    seconds: float


class DeliverySummary(Answer):
    number: int = Field(description="Counts the webhook's deliveries.")
    type: MessageType
    message_id: str = Field(description="Header `webhook-id`: the same in every attempt and redelivery.")
    status: DeliveryStatus
    attempts: int
    next_attempt_at: datetime | None
    last_attempt: AttemptAnswer | None
    created_at: datetime
    finished_at: datetime | None
    links: Links


class DeliveryAnswer(DeliverySummary):
    payload: Details = Field(description="The message: `type`, `timestamp` and `data`.")
    log: list[AttemptAnswer] = Field(description="Every attempt, oldest first.")


class RequestData(Answer):
    """`data` of a message about a deletion request; the request itself is fetched by its link."""

    deletion_request: uuid.UUID
    status: RequestStatus
    was: RequestStatus | None = Field(default=None, description="The status before, where a change of it is told.")
    due_at: datetime
    links: Links


class VersionData(Answer):
    """`data` of `version.released`: fetch the checkpoint, and serve this version instead of the one before.

    Of `version.quarantined`: whoever serves the checkpoint with this sha256 stops; the link leads to what is served now.
    """

    model: str
    version: int
    sha256: str
    links: Links


class ModelData(Answer):
    """`data` of `model.withdrawn`: stop using the model, whichever version, until `version.released` tells of one."""

    model: str
    links: Links


class WebhookData(Answer):
    """`data` of `webhook.test`."""

    webhook: uuid.UUID


class Message(Answer):
    """The body that is posted to a webhook (Standard Webhooks)."""

    type: MessageType
    timestamp: datetime = Field(description="When it happened.")
    data: RequestData | VersionData | ModelData | WebhookData

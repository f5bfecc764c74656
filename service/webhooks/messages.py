"""What the events of the log mean to applications: which messages, for whom, saying what.

A message is thin: ids, a status, a date and paths. It names no sample, no person, and nothing of another application.
"""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from models.records import DeletionRequest, Event, Model, RequestStatus, TrainingSetApplication
from service.intake import status_at_receipt
from service.schemas.webhooks import Message, MessageType, ModelData, RequestData, VersionData, WebhookData

STATUS_CHANGED = "deletion_request.status_changed"
ACCEPTED = MessageType.ACCEPTED.value
WITHDRAWN = MessageType.MODEL_WITHDRAWN.value
OF_REQUESTS = (
    STATUS_CHANGED,
    ACCEPTED,
    MessageType.EXTENDED.value,
    MessageType.DUE_SOON.value,
    MessageType.OVERDUE.value,
    MessageType.CERTIFICATE_ISSUED.value,
)
OF_MODELS = (MessageType.VERSION_RELEASED.value, MessageType.VERSION_QUARANTINED.value, WITHDRAWN)
TOLD = (*OF_REQUESTS, *OF_MODELS)  # names of the events that become messages
AT_ONCE = 500


@dataclass(frozen=True)
class Notice:
    """A message and the applications that it is for."""

    event: Event
    applications: frozenset[uuid.UUID]
    message: Message

    @property
    def payload(self) -> dict[str, Any]:
        return payload(self.message)


def payload(message: Message) -> dict[str, Any]:
    """The body as JSON values."""
    return message.model_dump(mode="json", exclude_none=True)


def trial(webhook: uuid.UUID, at: datetime) -> Message:
    return Message(type=MessageType.TEST, timestamp=at, data=WebhookData(webhook=webhook))


def notices(session: Session, events: list[Event]) -> Iterator[Notice]:
    """The messages that follow from events, in the order of the events; one event may be told in two ways."""
    requests = _by_id(session, DeletionRequest, [each for each in events if each.name in OF_REQUESTS])
    models = _by_id(session, Model, [each for each in events if each.name in OF_MODELS])
    granted = _granted(session, {model.training_set_id for model in models.values()})
    for event in events:
        request, model = requests.get(event.record_id), models.get(event.record_id)
        if event.name in OF_REQUESTS and request is not None:
            for kind, data in _of_request(event, request):
                message = Message(type=kind, timestamp=event.at, data=data)
                yield Notice(event, frozenset({request.application_id}), message)
        elif event.name in OF_MODELS and model is not None:
            if event.name != WITHDRAWN and "sha256" not in event.data:  # of an older release: nobody could act on it
                continue
            message = Message(type=MessageType(event.name), timestamp=event.at, data=_of_model(event, model))
            yield Notice(event, granted[model.training_set_id], message)


def _of_request(event: Event, request: DeletionRequest) -> Iterator[tuple[MessageType, RequestData]]:
    status, was = request.status, None
    if event.name == STATUS_CHANGED:
        status, was = RequestStatus(event.data["now"]), RequestStatus(event.data["was"])
    elif event.name == ACCEPTED:
        status = status_at_receipt(request)
    path = f"/v1/deletion-requests/{request.id}"
    links = {"self": path}
    if event.name == MessageType.CERTIFICATE_ISSUED:
        links["certificate"] = f"{path}/certificate"
    data = RequestData(deletion_request=request.id, status=status, was=was, due_at=request.due_at, links=links)
    if event.name != STATUS_CHANGED:
        yield MessageType(event.name), data
    if event.name in (STATUS_CHANGED, ACCEPTED):
        yield MessageType(f"deletion_request.{status.value}"), data


def _of_model(event: Event, model: Model) -> VersionData | ModelData:
    """Without the reason, which people write for the log alone."""
    links = {"checkpoint": f"/v1/models/{model.name}/checkpoint"}
    if event.name == WITHDRAWN:
        return ModelData(model=model.name, links=links)
    return VersionData(model=model.name, version=event.data["version"], sha256=event.data["sha256"], links=links)


def _by_id(session: Session, record: type[Any], events: Iterable[Event]) -> dict[str, Any]:
    ids = sorted({uuid.UUID(each.record_id) for each in events})
    found: dict[str, Any] = {}
    for start in range(0, len(ids), AT_ONCE):
        query = select(record).where(record.id.in_(ids[start : start + AT_ONCE]))
        found |= {str(each.id): each for each in session.scalars(query)}
    return found


def _granted(session: Session, training_sets: set[uuid.UUID]) -> dict[uuid.UUID, frozenset[uuid.UUID]]:
    found: defaultdict[uuid.UUID, set[uuid.UUID]] = defaultdict(set)
    query = select(TrainingSetApplication).where(TrainingSetApplication.training_set_id.in_(training_sets))
    for each in session.scalars(query):
        found[each.training_set_id].add(each.application_id)
    return {each: frozenset(found[each]) for each in training_sets}

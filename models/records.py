"""Every record, imported once, so that the metadata is complete wherever it is used."""

from models.application import ApiKey, Application, Role
from models.audit_report import AuditReport
from models.base import Base
from models.certificate import Certificate
from models.deletion_request import DeletionRequest, RequestSample, RequestStatus
from models.erasure import Erasure, ErasureStatus
from models.event import Event, EventSeal, event_row, record_event
from models.job import MAX_ATTEMPTS, Job, JobKind, JobStatus
from models.lease import Lease
from models.model import Model, ModelStatus
from models.model_version import ModelVersion, VersionStatus
from models.near_duplicate import NearDuplicate
from models.settling import settle, settled, unsettle
from models.signing_key import SigningKey
from models.training_set import Sample, Split, Suppression, TrainingSet, TrainingSetApplication, TrainingSetStatus
from models.upload import Upload
from models.webhook import Cursor, DeliveryStatus, Webhook, WebhookAttempt, WebhookDelivery

__all__ = [
    "MAX_ATTEMPTS",
    "ApiKey",
    "Application",
    "AuditReport",
    "Base",
    "Certificate",
    "Cursor",
    "DeletionRequest",
    "DeliveryStatus",
    "Erasure",
    "ErasureStatus",
    "Event",
    "EventSeal",
    "Job",
    "JobKind",
    "JobStatus",
    "Lease",
    "Model",
    "ModelStatus",
    "ModelVersion",
    "NearDuplicate",
    "RequestSample",
    "RequestStatus",
    "Role",
    "Sample",
    "SigningKey",
    "Split",
    "Suppression",
    "TrainingSet",
    "TrainingSetApplication",
    "TrainingSetStatus",
    "Upload",
    "VersionStatus",
    "Webhook",
    "WebhookAttempt",
    "WebhookDelivery",
    "event_row",
    "record_event",
    "settle",
    "settled",
    "unsettle",
]

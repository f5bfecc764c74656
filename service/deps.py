"""What a handler may ask for, one name each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

from fastapi import Depends, Path, Request
from sqlalchemy import bindparam, exists, select
from sqlalchemy.orm import Session

from models.crashes import crash_point
from models.records import Model, ModelVersion, Role, TrainingSet, TrainingSetApplication
from models.session import Database
from models.settings import Settings
from service.errors import NotFound
from service.schemas.common import NAME
from service.security import Authenticated, Principal


# Not plain functions: each of those would be sent to a thread and back.
async def _settings(request: Request) -> Settings:
    settings: Settings = request.app.state.settings
    return settings


async def _database(request: Request) -> Database:
    database: Database = request.app.state.database
    return database


async def _pepper(request: Request) -> bytes:
    pepper: bytes = request.app.state.pepper
    return pepper


async def _suppression_key(request: Request) -> bytes:
    key: bytes = request.app.state.suppression_key
    return key


async def _webhook_key(request: Request) -> bytes:
    key: bytes = request.app.state.webhook_key
    return key


CurrentSettings = Annotated[Settings, Depends(_settings)]
CurrentDatabase = Annotated[Database, Depends(_database)]
Pepper = Annotated[bytes, Depends(_pepper)]
SuppressionKey = Annotated[bytes, Depends(_suppression_key)]
WebhookKey = Annotated[bytes, Depends(_webhook_key)]


def _read(database: CurrentDatabase) -> Iterator[Session]:
    with database.read() as session:
        yield session


@contextmanager
def writing(database: Database) -> Iterator[Session]:
    """The transaction of a request that writes: committed at its end, before the answer leaves."""
    with database.write() as session:
        yield session
        crash_point("request.before_commit")
    crash_point("request.after_commit")


def _write(database: CurrentDatabase) -> Iterator[Session]:
    with writing(database) as session:
        yield session


# scope="function" commits before the response leaves. The limits stay below the number of threads in the pool together:
# whoever holds the lock or a connection always finds a thread to go on with.
ReadSession = Annotated[Session, Depends(_read, scope="function", max_concurrency=8)]
WriteSession = Annotated[Session, Depends(_write, scope="function", max_concurrency=8)]

# Built once, as in service.claims.
IS_GRANTED = exists().where(
    TrainingSetApplication.training_set_id == TrainingSet.id,
    TrainingSetApplication.application_id == bindparam("application"),
)
_SET = select(TrainingSet).where(TrainingSet.name == bindparam("name"))
_GRANTED_SET = _SET.where(IS_GRANTED)
_MODEL = select(Model).join(TrainingSet).where(Model.name == bindparam("name"))
_GRANTED_MODEL = _MODEL.where(IS_GRANTED)

NameInPath = Annotated[str, Path(pattern=NAME, description="Name given at registration.")]
NumberInPath = Annotated[int, Path(ge=1, le=2**31 - 1, description="Number of the version.")]


def training_set_named(session: Session, name: str, principal: Principal, *, at: str | None = None) -> TrainingSet:
    """The set, if this principal may use it. Raises NotFound, alike for others' sets and for none."""
    query = _GRANTED_SET if principal.role is Role.APPLICATION else _SET
    found = session.scalars(query, {"name": name, "application": principal.application_id}).one_or_none()
    if found is None:
        raise no_such_set(at)
    return found


def no_such_set(at: str | None) -> NotFound:
    """Alike for others' sets and for none; ``at`` points to the name in a body."""
    return NotFound("There is no training set of this name that this key may use.", at=at)


def model_named(session: Session, name: str, principal: Principal) -> Model:
    """The model, if this principal may see it. Raises NotFound, alike for others' models and for none."""
    query = _GRANTED_MODEL if principal.role is Role.APPLICATION else _MODEL
    found = session.scalars(query, {"name": name, "application": principal.application_id}).one_or_none()
    if found is None:
        raise NotFound("There is no model of this name that this key may use.")
    return found


def version_numbered(session: Session, model: Model, number: int) -> ModelVersion:
    """Raises NotFound."""
    found = session.scalars(
        select(ModelVersion).where(ModelVersion.model_id == model.id, ModelVersion.number == number)
    ).one_or_none()
    if found is None:
        raise NotFound(f"Model {model.name} has no version {number}.")
    return found


def _training_set(name: NameInPath, principal: Authenticated, session: ReadSession) -> TrainingSet:
    return training_set_named(session, name, principal)


def _model(name: NameInPath, principal: Authenticated, session: ReadSession) -> Model:
    return model_named(session, name, principal)


LoadedTrainingSet = Annotated[TrainingSet, Depends(_training_set)]
LoadedModel = Annotated[Model, Depends(_model)]


def _version(model: LoadedModel, number: NumberInPath, session: ReadSession) -> ModelVersion:
    return version_numbered(session, model, number)


def _model_to_retire(name: NameInPath, principal: Authenticated, session: WriteSession) -> Model:
    return model_named(session, name, principal)


def _locked_model(name: NameInPath, principal: Authenticated, session: WriteSession) -> Model:
    model = model_named(session, name, principal)
    session.refresh(model, with_for_update={"of": Model})  # a finishing job must not release another version meanwhile
    return model


LoadedVersion = Annotated[ModelVersion, Depends(_version)]
LockedModel = Annotated[Model, Depends(_locked_model)]
ModelToRetire = Annotated[Model, Depends(_model_to_retire)]  # not locked yet: its jobs come first


def _version_of_locked_model(model: LockedModel, number: NumberInPath, session: WriteSession) -> ModelVersion:
    return version_numbered(session, model, number)


VersionToChange = Annotated[ModelVersion, Depends(_version_of_locked_model)]

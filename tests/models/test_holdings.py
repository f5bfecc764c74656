"""What a model has forgotten is asked of the database in one piece, however much it was."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import event, select, update

from models import holdings
from models.records import Erasure, ErasureStatus, ModelVersion
from models.session import Database
from models.settings import Settings
from tests.service.conftest import World
from tests.service.stored import store_requests

REQUESTS = 400  # PostgreSQL takes 65,535 parameters; a model's finished erasures are more one day


@pytest.fixture
def widest(database: Database) -> Iterator[list[int]]:
    """Numbers of parameters of the statements that were sent."""
    sent: list[int] = []

    def count(_c: Any, _cursor: Any, _statement: str, parameters: Any, _context: Any, many: bool) -> None:
        if not many:
            sent.append(len(parameters or ()))

    event.listen(database.engine, "before_cursor_execute", count)
    yield sent
    event.remove(database.engine, "before_cursor_execute", count)


def test_no_statement_names_every_erasure_of_a_model(database: Database, settings: Settings, widest: list[int]) -> None:
    world = World(database, settings)
    made = world.training_set("digits", "shop")
    world.model("digits-cnn", "digits")
    with database.write() as session:
        store_requests(session, REQUESTS, "digits", ["digits-cnn"], ["shop"])
        version = session.scalars(select(ModelVersion).where(ModelVersion.number == 1)).one()
        done = Erasure.status == ErasureStatus.DONE
        session.execute(update(Erasure).where(done).values(version_id=version.id))
    widest.clear()
    with database.read() as session:
        version = session.scalars(select(ModelVersion).where(ModelVersion.number == 1)).one()
        ids = list(session.scalars(select(Erasure.id).where(done)))
        session.scalars(select(Erasure.id).where(Erasure.id.in_(ids))).all()
        assert widest[-1] > REQUESTS / 2
        widest.clear()
        erased = holdings.samples_of(session, ids)
        assert len(erased) > 1
        assert holdings.forgotten(session, version) == erased
        assert holdings.still_known(session, version) == set()
        assert holdings.asked_to_forget(session, made) >= erased
        assert holdings.forgotten_since_retraining(session, version) == set()
    assert max(widest) < 10

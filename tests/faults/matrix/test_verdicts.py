"""Rows 18 and 19: a model that lost accuracy or still shows what it should forget is kept back, and its parent serves on."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from sqlalchemy import select

from models.records import Erasure, ErasureStatus, Model, ModelStatus, ModelVersion, VersionStatus
from models.session import Database
from models.settings import Settings
from models.verify import VERIFIED
from tests.worker.test_reporting_batch import Batch
from worker.reporting.audits import load_document


def versions(batch: Batch) -> list[ModelVersion]:
    """Of the model, by number; the requests wait for a release."""
    with batch.database.read() as session:
        assert set(session.scalars(select(Erasure.status))) == {ErasureStatus.AWAITING_RELEASE}
        of_model = ModelVersion.model_id == batch.models[0]
        return list(session.scalars(select(ModelVersion).where(of_model).order_by(ModelVersion.number)))


@pytest.mark.fault(18)
def test_accuracy_below_the_floor_is_quarantined_for_its_utility_and_the_parent_serves(
    database: Database, settings: Settings, tmp_path: Path
) -> None:
    batch = Batch(database, settings, tmp_path, "pass")
    lost = batch.outcome["utility"] | {"passed": False, "change": -0.2, "low": -0.25, "high": -0.15}
    batch.result = dataclasses.replace(batch.result, outcome=batch.outcome | {"utility": lost})
    batch.unlearn()
    parent, made = versions(batch)
    assert (parent.status, made.status) == (VersionStatus.RELEASED, VersionStatus.QUARANTINED)
    assert made.verdict == "pass", "its privacy is judged apart"
    with database.read() as session:
        assert session.get_one(Model, parent.model_id).status is ModelStatus.READY
    (report,) = batch.reports()
    gate = load_document(settings, report)["gate"]
    assert (gate["decision"], gate["cause"]) == ("quarantined", "utility")
    assert batch.verified(report, tmp_path).status == VERIFIED


@pytest.mark.fault(19)
def test_membership_above_the_limit_is_quarantined_and_signed_as_failed(
    database: Database, settings: Settings, tmp_path: Path
) -> None:
    batch = Batch(database, settings, tmp_path, "over")
    batch.unlearn()
    _, made = versions(batch)
    assert made.status is VersionStatus.QUARANTINED
    (report,) = batch.reports()
    document = load_document(settings, report)
    assert made.verdict == report.verdict == document["finding"]["verdict"] == "over_unlearned"
    assert (document["gate"]["decision"], document["gate"]["cause"]) == ("quarantined", "privacy")
    assert batch.verified(report, tmp_path).status == VERIFIED

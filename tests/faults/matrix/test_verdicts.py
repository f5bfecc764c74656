"""Rows 18 and 19: a model that lost accuracy or still shows what it should forget is kept back, and its parent serves on."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from sqlalchemy import select

from models.records import Erasure, ErasureStatus, Event, Model, ModelVersion, VersionStatus
from models.session import Database
from models.settings import Settings
from models.verify import VERIFIED
from tests.worker.test_reporting_batch import Batch
from worker.reporting.audits import load_document


def kept_back(batch: Batch) -> tuple[ModelVersion, dict[str, str]]:
    """The new version, which nobody is served, and why; its parent serves on."""
    with batch.database.read() as session:
        model = session.get_one(Model, batch.models[0])
        versions = session.scalars(
            select(ModelVersion).where(ModelVersion.model_id == model.id).order_by(ModelVersion.number)
        ).all()
        assert [version.status for version in versions] == [VersionStatus.RELEASED, VersionStatus.QUARANTINED]
        assert set(session.scalars(select(Erasure.status))) == {ErasureStatus.AWAITING_RELEASE}
        told = session.scalars(select(Event).where(Event.record_id == str(versions[1].id)).order_by(Event.id)).all()
        return versions[1], {key: str(value) for event in told for key, value in event.data.items()}


@pytest.mark.fault(18)
def test_accuracy_below_the_floor_is_quarantined_for_its_utility_and_the_parent_serves(
    database: Database, settings: Settings, tmp_path: Path
) -> None:
    batch = Batch(database, settings, tmp_path, "pass")
    lost = batch.outcome["utility"] | {"passed": False, "change": -0.2, "low": -0.25, "high": -0.15}
    batch.result = dataclasses.replace(batch.result, outcome=batch.outcome | {"utility": lost})
    batch.unlearn()
    version, told = kept_back(batch)
    assert version.verdict == "pass", "its privacy is judged apart"
    (report,) = batch.reports()
    gate = load_document(settings, report)["gate"]
    assert (gate["decision"], gate["cause"]) == ("quarantined", "utility")
    assert "utility" in " ".join(told.values())
    assert batch.verified(report, tmp_path).status == VERIFIED


@pytest.mark.fault(19)
def test_membership_above_the_limit_is_quarantined_and_signed_as_failed(
    database: Database, settings: Settings, tmp_path: Path
) -> None:
    batch = Batch(database, settings, tmp_path, "over")
    batch.unlearn()
    version, _ = kept_back(batch)
    (report,) = batch.reports()
    document = load_document(settings, report)
    assert version.verdict == report.verdict == document["audit"]["verdict"]["privacy"] == "over_unlearned"
    assert (document["gate"]["decision"], document["gate"]["cause"]) == ("quarantined", "privacy")
    assert batch.verified(report, tmp_path).status == VERIFIED

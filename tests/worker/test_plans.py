"""What a plan trains on, forgets and keeps, as the rows say."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from models import artifacts
from models.base import now
from models.evidence import content_digest
from models.parameters import Network, Policy, Recipe
from models.records import (
    Application,
    DeletionRequest,
    Erasure,
    ErasureStatus,
    Job,
    JobKind,
    Model,
    ModelStatus,
    ModelVersion,
    RequestSample,
    Sample,
    Split,
    Suppression,
    TrainingSet,
    TrainingSetStatus,
    Upload,
    VersionStatus,
)
from models.secrets import SUPPRESSION, load_or_create
from models.session import Database
from models.settings import Settings
from service.duties import planning
from tests.settled import settle_all
from worker import finish
from worker.claim import claim
from worker.plan import (
    PLAN_FILE,
    AuditPlan,
    CheckpointFile,
    Environment,
    OutputFile,
    Result,
    TrainPlan,
    UnlearnPlan,
    dump,
    load_plan,
)
from worker.plans import CannotPlan, make_plan, nearest_strength

TRAIN, CONTROLS = 12, 8
REHEARSED = [
    {"size": 1, "learning_rate": 0.1, "weight_scale": 1.0},
    {"size": 100, "learning_rate": 0.2, "weight_scale": 2.0},
]


class Rows:
    """A training set of 12 images and 8 controls, and what hangs on it."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self.database, self.settings = database, settings
        (settings.data_dir / "store/set").mkdir(parents=True)
        with database.write() as session:
            application = Application(name="shop")
            made = TrainingSet(
                name="set",
                status=TrainingSetStatus.READY,
                source={"kind": "builtin", "path": "digits"},
                controls={"share": 0.4},
                shape=[1, 2, 2],
                classes=["a"],
                rows=TRAIN + CONTROLS,
                folder="store/set",
            )
            session.add_all([application, made])
            session.flush()
            for index in range(TRAIN + CONTROLS):
                digest = hashlib.sha256(bytes([index])).hexdigest()
                split = Split.TRAIN if index < TRAIN else Split.CONTROL
                session.add(Sample(training_set_id=made.id, index=index, sha256=digest, label=0, split=split))
        self.set_id, self.application_id = made.id, application.id

    def model(
        self,
        name: str,
        status: ModelStatus = ModelStatus.READY,
        never_trained: tuple[int, ...] = (),
        **policy: Any,
    ) -> uuid.UUID:
        training = {"references": 16, "rehearsal": REHEARSED, "never_trained": list(never_trained)}
        with self.database.write() as session:
            made = Model(
                name=name,
                status=status,
                training_set_id=self.set_id,
                network=Network(name="small-cnn").model_dump(mode="json"),
                recipe=Recipe().model_dump(mode="json"),
                policy=Policy(**policy).model_dump(mode="json"),
                training=training if status is ModelStatus.READY else None,
                folder="store/model" if status is ModelStatus.READY else None,
            )
            session.add(made)
            session.flush()
            if status is ModelStatus.READY:
                job = Job(kind=JobKind.TRAIN, status="succeeded", model_id=made.id, training_set_id=self.set_id, seed=1)
                session.add(job)
                session.flush()
                session.add(
                    ModelVersion(
                        model_id=made.id,
                        number=1,
                        job_id=job.id,
                        status=VersionStatus.RELEASED,
                        path="store/model/checkpoint.safetensors",
                        sha256="0" * 64,
                        size=10,
                    )
                )
        return made.id

    def version(self, model: uuid.UUID, number: int, status: VersionStatus, **values: Any) -> uuid.UUID:
        """A version made from the released one, which it supersedes where it is released itself."""
        with self.database.write() as session:
            parent = session.scalars(
                select(ModelVersion).where(
                    ModelVersion.model_id == model, ModelVersion.status == VersionStatus.RELEASED
                )
            ).one()
            if status is VersionStatus.RELEASED:
                parent.status = VersionStatus.SUPERSEDED
                session.flush()
            job = Job(kind=JobKind.UNLEARN, status="succeeded", model_id=model, training_set_id=self.set_id, seed=1)
            session.add(job)
            session.flush()
            made = ModelVersion(
                model_id=model,
                number=number,
                parent_id=parent.id,
                job_id=job.id,
                status=status,
                path=f"store/model/{number}.safetensors",
                sha256=str(number) * 64,
                size=10,
                **values,
            )
            session.add(made)
        return made.id

    def request(
        self,
        model: uuid.UUID,
        *indices: int,
        status: ErasureStatus = ErasureStatus.OPEN,
        version: uuid.UUID | None = None,
        days: int = 30,
    ) -> uuid.UUID:
        with self.database.write() as session:
            request = DeletionRequest(
                application_id=self.application_id,
                training_set_id=self.set_id,
                submitted_by="key",
                regulation="GDPR",
                due_at=now() + timedelta(days=days),
                fingerprint=b"",
            )
            session.add(request)
            session.flush()
            for index in indices:
                session.add(RequestSample(request_id=request.id, sample_index=index, training_set_id=self.set_id))
            erasure = Erasure(request_id=request.id, model_id=model, status=status, version_id=version)
            session.add(erasure)
        return erasure.id

    def planned(self, job: uuid.UUID, folder: Path) -> Any:
        taken = claim(self.database, self.settings, job, "here")
        assert taken is not None
        with self.database.read() as session:
            return make_plan(session, self.settings, taken.job, folder)

    def unlearn(self, model: uuid.UUID, folder: Path) -> UnlearnPlan:
        assert planning.plan(self.database, self.settings) == 1
        with self.database.read() as session:
            job = session.scalars(
                select(Job.id).where(Job.model_id == model, Job.kind == JobKind.UNLEARN, Job.status == "queued")
            ).one()
        plan = self.planned(job, folder)
        assert isinstance(plan, UnlearnPlan)
        return plan

    def train_job(self, model: uuid.UUID) -> uuid.UUID:
        return self._job(JobKind.TRAIN, model)

    def audit_job(self, model: uuid.UUID) -> uuid.UUID:
        return self._job(JobKind.AUDIT, model)

    def _job(self, kind: JobKind, model: uuid.UUID) -> uuid.UUID:
        with self.database.write() as session:
            job = Job(kind=kind, model_id=model, training_set_id=self.set_id, seed=1)
            session.add(job)
        return job.id


@pytest.fixture
def rows(database: Database, settings: Settings) -> Rows:
    return Rows(database, settings)


UPLOADED = "a" * 64


def upload_of(rows: Rows, model: uuid.UUID) -> Path:
    """Make the model one of an upload; returns the upload's file."""
    path = f"uploads/{UPLOADED}.safetensors"
    (rows.settings.data_dir / "uploads").mkdir()
    (rows.settings.data_dir / path).write_bytes(b"uploaded")
    with rows.database.write() as session:
        session.add(Upload(sha256=UPLOADED, size=8, path=path, submitted_by="key"))
        session.get_one(Model, model).checkpoint = UPLOADED
    return rows.settings.data_dir / path


def test_a_model_of_an_upload_is_planned_with_it_and_every_image(rows: Rows, tmp_path: Path) -> None:
    model = rows.model("new", ModelStatus.TRAINING)
    path = upload_of(rows, model)
    plan = rows.planned(rows.train_job(model), tmp_path)
    assert isinstance(plan, TrainPlan)
    assert plan.checkpoint == CheckpointFile(str(path), UPLOADED)
    assert (plan.train, len(plan.controls)) == (list(range(TRAIN)), CONTROLS)


def test_a_model_made_of_an_upload_says_so_and_leaves_the_upload_to_the_dispatcher(rows: Rows) -> None:
    model = rows.model("new", ModelStatus.TRAINING)
    path = upload_of(rows, model)
    taken = claim(rows.database, rows.settings, rows.train_job(model), "here")
    assert taken is not None
    folder = artifacts.staging(rows.settings.data_dir, taken.job.id, taken.token)
    folder.mkdir(parents=True)
    with rows.database.read() as session:
        (folder / PLAN_FILE).write_text(dump(make_plan(session, rows.settings, taken.job, folder)))
    plan = load_plan(folder / PLAN_FILE)
    assert isinstance(plan, TrainPlan)
    assert plan.checkpoint == CheckpointFile(str(path), UPLOADED)
    files = []
    for name in ("checkpoint.safetensors", "phi.f32", "members.u8"):
        (folder / name).write_bytes(name.encode())
        files.append(OutputFile(name, hashlib.sha256(name.encode()).hexdigest(), len(name)))
    environment = Environment("cpu", "here", 1, "3", "2", "1")
    outcome = {"references": 16, "rehearsal": REHEARSED, "uploaded": True}
    result = Result("train", "succeeded", {}, environment, files, outcome=outcome)
    finish.finish(rows.database, rows.settings, taken, folder, result)
    with rows.database.read() as session:
        made = session.get_one(Model, model)
        assert (made.status, made.released_number, made.checkpoint) == (ModelStatus.READY, 1, UPLOADED)
        assert made.training == outcome | {"never_trained": []}
        assert session.get(Upload, UPLOADED) is not None
    assert path.is_file()


def test_a_model_that_is_trained_here_has_no_checkpoint_in_its_plan(rows: Rows, tmp_path: Path) -> None:
    plan = rows.planned(rows.train_job(rows.model("new", ModelStatus.TRAINING)), tmp_path)
    assert plan.checkpoint is None


@pytest.mark.parametrize("gone", ["row", "file"])
def test_an_upload_that_is_gone_fails_the_model_and_says_what_to_do(rows: Rows, tmp_path: Path, gone: str) -> None:
    model = rows.model("new", ModelStatus.TRAINING)
    path = upload_of(rows, model)
    if gone == "file":
        path.unlink()
    else:
        with rows.database.write() as session:
            session.delete(session.get_one(Upload, UPLOADED))
    with pytest.raises(CannotPlan, match="upload it again") as raised:
        rows.planned(rows.train_job(model), tmp_path)
    assert raised.value.code == "checkpoint_invalid"


def _asked(rows: Rows) -> None:
    rows.request(rows.model("other"), 3)


def _erased(rows: Rows) -> None:
    with rows.database.write() as session:
        sample = session.get_one(Sample, (rows.set_id, 15))
        sample.erased_at, sample.sha256 = now(), None


def _suppressed(rows: Rows) -> None:
    key = load_or_create(rows.settings.secrets, SUPPRESSION)
    digest = content_digest(key, "sha256", hashlib.sha256(bytes([4])).hexdigest())
    with rows.database.write() as session:
        session.add(Suppression(training_set_id=rows.set_id, digest=digest, sample_index=99))


@pytest.mark.parametrize("happened", [_asked, _erased, _suppressed])
def test_an_upload_that_may_know_what_was_to_be_forgotten_makes_no_model(
    rows: Rows, tmp_path: Path, happened: Callable[[Rows], None]
) -> None:
    model = rows.model("new", ModelStatus.TRAINING)
    upload_of(rows, model)
    happened(rows)
    with pytest.raises(CannotPlan, match="may know") as raised:
        rows.planned(rows.train_job(model), tmp_path)
    assert raised.value.code == "checkpoint_invalid"


def test_a_request_that_was_rejected_keeps_no_upload_out(rows: Rows, tmp_path: Path) -> None:
    model = rows.model("new", ModelStatus.TRAINING)
    upload_of(rows, model)
    rows.request(rows.model("other"), 3, status=ErasureStatus.CANCELLED)
    with rows.database.write() as session:
        session.execute(update(DeletionRequest).values(rejected_at=now()))
        settle_all(session)
    assert rows.planned(rows.train_job(model), tmp_path).checkpoint is not None


def test_a_plan_forgets_what_was_asked_and_keeps_what_nobody_asked_to_forget(rows: Rows, tmp_path: Path) -> None:
    model = rows.model("one")
    rows.request(model, 1, 2)
    rows.request(model, 3, status=ErasureStatus.ON_HOLD)
    rows.request(model, 4, status=ErasureStatus.FAILED)
    rows.request(model, 5, status=ErasureStatus.CANCELLED)
    plan = rows.unlearn(model, tmp_path)
    assert plan.forget == [1, 2]
    assert plan.retain == [0, 5, 6, 7, 8, 9, 10, 11]


def test_calibration_and_audit_controls_are_disjoint_and_were_never_trained_on(rows: Rows, tmp_path: Path) -> None:
    model = rows.model("one")
    rows.request(model, 1)
    plan = rows.unlearn(model, tmp_path)
    assert (plan.calibration, plan.audit_controls) == ([12, 14, 16, 18], [13, 15, 17, 19])


def test_a_control_that_somebody_asked_to_erase_judges_nothing(rows: Rows, tmp_path: Path) -> None:
    model = rows.model("one")
    rows.request(model, 1, 13)
    with rows.database.write() as session:
        session.execute(update(DeletionRequest).values(has_controls=True))
        settle_all(session)
    assert rows.unlearn(model, tmp_path).audit_controls == [15, 17, 19]


def test_a_control_whose_request_was_cancelled_judges_again(rows: Rows, tmp_path: Path) -> None:
    model = rows.model("one")
    rows.request(model, 1, 13)
    with rows.database.write() as session:
        session.execute(update(DeletionRequest).values(has_controls=True, cancelled_at=now()))
        settle_all(session)
    assert rows.unlearn(model, tmp_path).audit_controls == [13, 15, 17, 19]


def test_what_was_asked_to_be_forgotten_is_not_learned_by_a_later_model(rows: Rows, tmp_path: Path) -> None:
    rows.request(rows.model("one"), 1, 2, status=ErasureStatus.DONE)
    later = rows.model("two", ModelStatus.TRAINING)
    rows.request(later, 3)
    plan = rows.planned(rows.train_job(later), tmp_path)
    assert isinstance(plan, TrainPlan)
    assert plan.train == [0, 4, 5, 6, 7, 8, 9, 10, 11]


def test_an_erasure_of_samples_that_the_model_never_learned_is_done_without_a_job(rows: Rows) -> None:
    model = rows.model("one", never_trained=(1, 2))
    erasure = rows.request(model, 1, 2)
    assert planning.plan(rows.database, rows.settings) == 0
    with rows.database.read() as session:
        assert session.get_one(Erasure, erasure).status is ErasureStatus.DONE


def test_of_a_mixed_request_only_what_the_model_knows_is_forgotten(rows: Rows, tmp_path: Path) -> None:
    model = rows.model("one", never_trained=(1,))
    rows.request(model, 1, 2)
    assert rows.unlearn(model, tmp_path).forget == [2]


def test_the_digests_are_those_of_the_rows_and_nothing_for_erased_ones(rows: Rows, tmp_path: Path) -> None:
    with rows.database.write() as session:
        session.execute(update(Sample).where(Sample.index == 7).values(sha256=None, erased_at=now()))
    model = rows.model("one")
    rows.request(model, 1)
    plan = rows.unlearn(model, tmp_path)
    digests = Path(plan.data.digests).read_bytes()
    assert digests[32:64] == hashlib.sha256(bytes([1])).digest()
    assert digests[7 * 32 : 8 * 32] == bytes(32)
    assert 7 not in plan.retain


@pytest.mark.parametrize(("size", "learning_rate"), [(1, 0.1), (9, 0.1), (11, 0.2), (5000, 0.2)])
def test_the_strength_is_the_one_rehearsed_at_the_nearest_size_by_ratio(size: int, learning_rate: float) -> None:
    assert nearest_strength(REHEARSED, size)["learning_rate"] == learning_rate


@pytest.mark.fault(11)
@pytest.mark.parametrize("kind", [JobKind.UNLEARN, JobKind.AUDIT])
def test_a_job_that_would_not_fit_on_the_disk_is_refused_before_it_starts(
    kind: JobKind, rows: Rows, tmp_path: Path
) -> None:
    model = rows.model("one")
    rows.request(model, 1)
    with rows.database.write() as session:
        session.execute(update(ModelVersion).values(size=artifacts.free_bytes(rows.settings.data_dir)))
    with pytest.raises(CannotPlan, match="more are needed") as refused:
        if kind is JobKind.UNLEARN:
            rows.unlearn(model, tmp_path)
        else:
            rows.planned(rows.audit_job(model), tmp_path)
    assert refused.value.code == "disk_full"


def test_rows_of_the_forget_set_are_told_apart_by_request(rows: Rows, tmp_path: Path) -> None:
    model = rows.model("one")
    rows.request(model, 4, 2)
    rows.request(model, 2, 6)
    plan = rows.unlearn(model, tmp_path)
    assert (plan.forget, plan.requests) == ([2, 4, 6], [[2, 4], [2, 6]])


@pytest.mark.parametrize(
    ("share", "asked", "straight"), [(0.25, (0, 1, 2), False), (0.25, (0, 1, 2, 3), True), (0.05, (0,), True)]
)
def test_a_request_beyond_the_policys_share_goes_straight_to_retraining(
    share: float, asked: tuple[int, ...], straight: bool, rows: Rows, tmp_path: Path
) -> None:
    model = rows.model("one", retrain_share=share)
    rows.request(model, *asked)
    assert rows.unlearn(model, tmp_path).ladder.straight_to_retraining is straight


@pytest.mark.parametrize(("verdict", "straight"), [("pass", True), ("exact", False)])
def test_what_was_forgotten_since_the_last_retraining_counts_towards_the_share(
    verdict: str, straight: bool, rows: Rows, tmp_path: Path
) -> None:
    model = rows.model("one", retrain_share=0.25)
    version = rows.version(model, 2, VersionStatus.RELEASED, verdict=verdict)
    rows.request(model, 0, 1, status=ErasureStatus.DONE, version=version)
    rows.request(model, 2, 3)
    plan = rows.unlearn(model, tmp_path)
    assert (plan.forget, plan.ladder.straight_to_retraining) == ([2, 3], straight)


def test_a_policy_without_retraining_never_goes_there(rows: Rows, tmp_path: Path) -> None:
    model = rows.model("one", ladder={"retrain": False}, retrain_share=0.01)
    rows.request(model, 0, 1)
    ladder = rows.unlearn(model, tmp_path).ladder
    assert (ladder.retrain, ladder.straight_to_retraining) == (False, False)


@pytest.mark.parametrize(
    ("inconclusive", "days", "retrain"),
    [("release", 1, False), ("retrain", 30, True), ("wait_for_batch", 30, False), ("wait_for_batch", 2, True)],
)
def test_too_few_to_tell_is_followed_by_retraining_where_the_policy_or_the_due_date_says_so(
    inconclusive: str, days: int, retrain: bool, rows: Rows, tmp_path: Path
) -> None:
    model = rows.model("one", inconclusive=inconclusive)
    rows.request(model, 0, days=days)
    assert rows.unlearn(model, tmp_path).ladder.retrain_inconclusive is retrain


def test_what_waited_for_a_batch_joins_the_next_request(rows: Rows, tmp_path: Path) -> None:
    model = rows.model("one", inconclusive="wait_for_batch", retrain_share=1.0)
    version = rows.version(model, 2, VersionStatus.QUARANTINED, verdict="inconclusive")
    rows.request(model, 0, status=ErasureStatus.AWAITING_RELEASE, version=version)
    assert planning.plan(rows.database, rows.settings) == 0
    rows.request(model, 1)
    assert rows.unlearn(model, tmp_path).forget == [0, 1]


def test_nearly_due_it_waits_no_longer_and_a_version_made_so_late_is_left_to_a_person(
    rows: Rows, tmp_path: Path
) -> None:
    model = rows.model("one", inconclusive="wait_for_batch")
    early = now() - timedelta(days=20)
    version = rows.version(model, 2, VersionStatus.QUARANTINED, verdict="inconclusive", created_at=early)
    erasure = rows.request(model, 0, status=ErasureStatus.AWAITING_RELEASE, version=version, days=2)
    plan = rows.unlearn(model, tmp_path)
    assert (plan.forget, plan.ladder.retrain_inconclusive) == ([0], True)
    with rows.database.write() as session:
        session.execute(update(Job).where(Job.kind == JobKind.UNLEARN).values(status="succeeded"))
        session.execute(update(ModelVersion).where(ModelVersion.id == version).values(created_at=now()))
        session.execute(
            update(Erasure)
            .where(Erasure.id == erasure)
            .values(status=ErasureStatus.AWAITING_RELEASE, job_id=None, version_id=version)
        )
        settle_all(session)
    assert planning.plan(rows.database, rows.settings) == 0


def test_a_retrained_version_knows_nothing_that_was_left_out_of_its_training(rows: Rows) -> None:
    model = rows.model("one")
    rows.version(model, 2, VersionStatus.RELEASED, verdict="exact", never_trained=[0, 1])
    erasure = rows.request(model, 1)
    assert planning.plan(rows.database, rows.settings) == 0
    with rows.database.read() as session:
        assert session.get_one(Erasure, erasure).status is ErasureStatus.DONE


def test_a_re_audit_looks_at_what_is_not_erased_yet_and_keeps_what_nobody_asked_for(rows: Rows, tmp_path: Path) -> None:
    model = rows.model("one")
    version = rows.version(model, 2, VersionStatus.RELEASED, verdict="pass")
    rows.request(model, 0, status=ErasureStatus.DONE, version=version)
    rows.request(model, 1, status=ErasureStatus.ON_HOLD)
    plan = rows.planned(rows.audit_job(model), tmp_path)
    assert isinstance(plan, AuditPlan)
    assert (plan.forget, plan.requests, plan.retain) == ([1], [[1]], [2, 3, 4, 5, 6, 7, 8, 9, 10, 11])
    assert plan.base.sha256 == "2" * 64


def test_content_that_was_erased_elsewhere_is_not_trained_on_but_still_forgotten_where_it_is_asked_for(
    rows: Rows, tmp_path: Path
) -> None:
    key = load_or_create(rows.settings.secrets, SUPPRESSION)
    with rows.database.write() as session:
        for index in (1, 4, 13):
            digest = content_digest(key, "sha256", hashlib.sha256(bytes([index])).hexdigest())
            session.add(Suppression(training_set_id=rows.set_id, digest=digest, sample_index=99))
    model = rows.model("one", retrain_share=1.0)
    rows.request(model, 1)
    plan = rows.unlearn(model, tmp_path)
    assert plan.forget == [1]
    assert plan.retain == [0, 2, 3, 5, 6, 7, 8, 9, 10, 11]
    assert plan.audit_controls == [15, 17, 19]

"""What worker.tasks and worker.pipeline say to each other, as plain dataclasses that are JSON on disk.

A plan names local files and holds every value the job needs: no default inside ``worker.unlearning`` decides a service
job. ``tasks`` writes ``plan.json``; the pipeline prints one `Progress` a line and writes ``result.json`` last. Only the
standard library is imported, so a job also runs by hand on a bare GPU machine.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PLAN_FILE = "plan.json"
RESULT_FILE = "result.json"

REGISTER_PHASES = ("load", "compare", "save")
TRAIN_PHASES = ("load", "train", "references", "rehearse", "save")
UNLEARN_PHASES = ("load", "attack", "finetune", "audit", "retrain", "save")  # the middle ones once a ladder step
AUDIT_PHASES = ("load", "audit", "save")

NO_SPACE_STATUS = 28  # ENOSPC: exit status of a pipeline that had no space left to say so in result.json

ERROR_CODES = {
    "data_error": "an image, an array or a source folder cannot be used; the detail names which",
    "dataset_changed": "stored pixels no longer have the digest that was recorded at registration",
    "checkpoint_invalid": "a checkpoint has another digest, other tensors, or values that are not finite",
    "plan_invalid": "the plan asks for something that cannot be done, such as an empty forget set",
    "diverged": "the loss became NaN or infinite",
    "oom": "the device ran out of memory, with half the batch at a time too",
    "no_gpu": "AMUN_DEVICE is cuda and there is no GPU, or there are fewer than the job has ranks",
    "disk_full": "no space was left while files were written",
    "internal": "an unexpected error; the detail holds its type and message",
}


@dataclass(frozen=True)
class Source:
    """Where the images of a new training set come from."""

    kind: str  # builtin | folder | arrays | torchvision
    path: str  # name of a builtin set, or absolute: folder with class folders, npz file, root of torchvision's files
    dataset: str | None = None  # torchvision only: CIFAR10 | FashionMNIST
    subjects: str | None = None  # folder only: CSV file directly in it, with the columns key and subject


@dataclass(frozen=True)
class Controls:
    """Which images are never trained on. Exactly one of the two is set."""

    share: float | None = None  # of all images, drawn at random by the plan's seed
    folder: str | None = (
        None  # this top folder, or split of arrays or files, holds controls, every other training images
    )


@dataclass(frozen=True)
class RegisterPlan:
    """Writes pixels.u8, labels.i32, digests.bin, manifest.jsonl and near_duplicates.jsonl; see `RegisterResult`."""

    source: Source
    controls: Controls
    seed: int
    kind: str = "register"


@dataclass(frozen=True)
class DataFiles:
    """A registered training set as files of fixed-size rows without a header; row i belongs to sample index i."""

    pixels: str  # uint8, rows x channels x height x width
    labels: str  # int32, rows
    digests: str  # 32 bytes a row: sha256 of the row's pixels as the database holds it (zeros: erased)
    rows: int
    shape: tuple[int, int, int]  # channels, height, width
    classes: list[str]


@dataclass(frozen=True)
class NetworkSpec:
    name: str
    width: int  # channels of the first stage; ignored where the architecture fixes it


@dataclass(frozen=True)
class RecipeSpec:
    """How a model of this kind is trained; references and retraining use the same."""

    epochs: int
    batch_size: int
    learning_rate: float
    momentum: float
    weight_decay: float
    schedule: str  # one-cycle | step | constant
    augment: bool
    mixed_precision: bool  # bfloat16 on a GPU; nothing on a CPU
    compiled: bool  # steps by torch.compile
    accumulate: int = 1  # a batch passes in so many parts, whose gradients are summed before the step


@dataclass(frozen=True)
class RehearsalSpec:
    """Which strengths are tried on the reference models, before any request exists."""

    models: int  # how many of the reference models
    sizes: list[int]  # pseudo-request sizes
    requests: int  # of each size on each model, to choose the strength by
    shown_on: int  # further ones, to show what it does
    learning_rates: list[float]
    weight_scales: list[float]
    tolerance_accuracy: float  # loss of accuracy on images never trained on, 0..1, that a strength may cost


@dataclass(frozen=True)
class AttackSpec:
    method: str  # boundary | pgd
    batch_size: int
    rival_classes: int  # boundary: nearest rivals looked at
    steps: int  # boundary: linearised steps at most; pgd: steps for each eps
    bisections: int
    eps_start: float  # pgd
    doublings: int  # pgd: eps is doubled at most this often
    mixed_precision: bool  # steps in bfloat16 on a GPU


@dataclass(frozen=True)
class UnlearnSpec:
    """Form and strength of AMUN. ``learning_rate`` and ``weight_scale`` come from rehearsal at the nearest size."""

    form: str  # retain+forget+adversarial | forget+adversarial | retain+adversarial | adversarial
    weight_scale: float  # factor of all weights of the adversarial set
    weight_power: float  # it weighs by how much models memorise the image, to this power; 0: all alike
    weight_spread: bool  # and by a random factor, so that the forgotten do not end up all alike
    learning_rate: float
    schedule: str  # linear | constant | tenth-each-epoch | tenth-each-fifth-epoch
    epochs: int
    batch_size: int
    momentum: float
    weight_decay: float
    augment: bool
    retain_share: float  # of the retained set in each epoch
    saliency_share: float | None  # AMUN+SalUn: of the weights, the others stay; None: all move
    mixed_precision: bool
    accumulate: int = 1  # as in the recipe


@dataclass(frozen=True)
class AuditSpec:
    """Fixed in the model's policy before the request arrives."""

    tolerance: float  # of AUC(z) - 1/2 and of each secondary AUC; twice this in a third of difficulty
    tolerance_membership: float  # of R
    level: float  # two-sided significance of "bad"
    rmia_offline_a: float
    rmia_gamma: float


@dataclass(frozen=True)
class UtilitySpec:
    """The second verdict, apart from privacy."""

    tolerance_accuracy: float  # loss of accuracy on never-trained controls, 0..1, that is accepted


@dataclass(frozen=True)
class LadderSpec:
    """What follows a verdict of `under_unlearned` or `over_unlearned`; nothing follows any other."""

    amun_steps: int  # attempts by AMUN at most, 1..3: rehearsed strength, another strength, AMUN-A with SalUn
    stronger: float  # factor of the weight scale after `under_unlearned`
    weaker: float  # and after `over_unlearned`
    saliency_share: float  # of AMUN-A with SalUn
    retrain: bool  # at the end, from the recipe; without it the model is withdrawn
    retrain_inconclusive: bool  # `inconclusive` is followed by retraining too
    straight_to_retraining: bool  # AMUN is not tried: too large a share was erased since the last (re)training


@dataclass(frozen=True)
class CheckpointFile:
    path: str
    sha256: str


@dataclass(frozen=True)
class SignalFiles:
    """Reference signals: what K reference models say of each sample, and which of them had trained on it."""

    phi: str  # float32, rows x references
    members: str  # uint8, rows x references: 1 where the reference was trained on the row
    references: int


@dataclass(frozen=True)
class TrainPlan:
    """Writes checkpoint.safetensors, phi.f32 and members.u8; see `TrainResult`.

    With a ``checkpoint`` nothing is trained but the reference models: phase "train" then loads and checks that file.
    """

    data: DataFiles
    network: NetworkSpec
    recipe: RecipeSpec
    train: list[int]
    controls: list[int]
    references: int
    rehearsal: RehearsalSpec
    attack: AttackSpec
    unlearn: UnlearnSpec  # its learning_rate and weight_scale are replaced by the rehearsed ones
    audit: AuditSpec
    seed: int
    threads: int | None = None  # torch threads; None: torch's own choice
    checkpoint: CheckpointFile | None = None  # uploaded: the model, trained elsewhere on ``train`` by ``recipe``
    kind: str = "train"


@dataclass(frozen=True)
class UnlearnPlan:
    """Writes checkpoint.safetensors; see `UnlearnResult`.

    ``forget`` and ``retain`` are disjoint; so are ``calibration`` and ``audit_controls``, and neither was ever trained on.
    """

    data: DataFiles
    network: NetworkSpec
    recipe: RecipeSpec
    base: CheckpointFile
    signals: SignalFiles
    forget: list[int]
    retain: list[int]
    calibration: list[int]
    audit_controls: list[int]
    requests: list[list[int]]  # rows of ``forget`` by request, in the order of the report; each has its own verdict
    attack: AttackSpec
    unlearn: UnlearnSpec
    audit: AuditSpec
    utility: UtilitySpec
    ladder: LadderSpec
    compare_retrained: bool  # retrain beside it to print both, where the ladder does not retrain anyway
    seed: int
    threads: int | None = None
    kind: str = "unlearn"


@dataclass(frozen=True)
class AuditPlan:
    """Audits a model as it is, and writes no file but the result; see `AuditResult`. The same sets as an `UnlearnPlan`."""

    data: DataFiles
    network: NetworkSpec
    base: CheckpointFile
    signals: SignalFiles
    forget: list[int]  # samples whose erasure is not done: may be empty, for what was erased cannot be audited again
    retain: list[int]
    calibration: list[int]
    audit_controls: list[int]
    requests: list[list[int]]
    attack: AttackSpec
    audit: AuditSpec
    seed: int
    threads: int | None = None
    kind: str = "audit"


Plan = RegisterPlan | TrainPlan | UnlearnPlan | AuditPlan


@dataclass(frozen=True)
class Progress:
    """One line on the pipeline's standard output."""

    phase: str
    progress: float  # 0..1 of the whole job, never falling
    step: str = ""
    eta_seconds: float | None = None  # None until measured


@dataclass(frozen=True)
class OutputFile:
    name: str  # inside OUT_DIR
    sha256: str
    size: int  # bytes


@dataclass(frozen=True)
class Failure:
    code: str  # a key of ERROR_CODES
    detail: str


@dataclass(frozen=True)
class Environment:
    """What the job ran on, as read at run time."""

    device: str  # cpu | cuda
    hardware: str  # name of the processor or GPU
    threads: int
    python: str
    torch: str
    code_version: str
    ranks: int = 1  # processes that shared the job
    devices: list[str] = field(default_factory=list)  # of several ranks, one each: device and name


@dataclass(frozen=True)
class NearDuplicates:
    """How pairs of nearly the same image were searched for in a training set, and how many there are."""

    method: str  # in words
    searched: int  # distinct images that were compared; 0: none, for the reason that follows
    why_not: str | None
    threshold: float | None  # a pair is at most this far apart: root mean square difference of thumbnails in [0, 1]
    median_distance: float | None  # of an image to its nearest neighbour
    neighbours: int  # looked at for each image
    capped: int  # images whose neighbours are all within the threshold: they may have more
    pairs: int  # of rows; exact copies are none, and stand for each other


@dataclass(frozen=True)
class RegisterResult:
    """Files: pixels.u8, labels.i32, digests.bin, manifest.jsonl, near_duplicates.jsonl.

    A line of the manifest is ``{"index", "key", "sha256", "file_sha256" (null where there is no file), "label",
    "split": "train" | "control", "subject" (null where none is known)}``; label is an index into ``classes``. A line of
    the near-duplicates is ``{"first", "second", "distance"}``: two rows, first < second, each pair once.
    """

    rows: int
    shape: tuple[int, int, int]
    classes: list[str]
    train: int
    controls: int
    manifest_sha256: str
    near_duplicates: NearDuplicates | None = None  # None: registered before they were searched for


@dataclass(frozen=True)
class RehearsedStrength:
    """One size of rehearsed requests: the strength chosen, and what it did to requests it was not chosen on."""

    size: int
    learning_rate: float
    weight_scale: float
    requests: int  # that show it
    models: int
    auc_z_mean: float | None  # None below 20 forget samples
    auc_z_sd: float | None
    membership: float  # R over all these requests
    membership_standard_error: float | None
    membership_before: float
    accuracy_change_mean: float  # on controls, after minus before
    boundary_auc_mean: float | None  # `Boundary.auc` after unlearning; None below 20 forget samples


@dataclass(frozen=True)
class TrainResult:
    accuracy_train: float
    accuracy_controls: float
    references: int
    reference_train_size: int  # images each reference was trained on
    rehearsal: list[RehearsedStrength]
    reference_weights_deleted: bool
    uploaded: bool = False  # the model was loaded from the plan's checkpoint, not trained


@dataclass(frozen=True)
class Estimate:
    """One statistic of the audit against its null."""

    name: str  # z | rmia | lira | absolute_z | loss | third_easy | third_middle | third_hard | membership
    role: str  # primary | secondary
    estimate: float  # AUC - 1/2, AUC - a_F for loss, R for membership: 0 is "like never trained"
    standard_error: float
    tolerance: float
    p_value: float  # two-sided
    inside: bool
    bad: bool
    auc: float | None  # None for membership
    low: float  # 95% interval of the estimate
    high: float


@dataclass(frozen=True)
class SampleScore:
    """One forget sample; ``index`` is the row of the training set."""

    index: int
    z: float
    low: float  # 95% interval of z
    high: float
    testable: bool  # its membership effect is at least 2.8 standard deviations
    difficulty: float  # mean signal of references that had not trained on it


@dataclass(frozen=True)
class Audit:
    """The audit of one model. Empty ``estimates`` where fewer than 20 forget samples allow no AUC (R is still there)."""

    verdict: str  # pass | over_unlearned | under_unlearned | inconclusive
    reasons: list[str]
    estimates: list[Estimate]
    loss_null: float | None  # a_F
    blind_auc: float | None  # AUC of the mean reference signal alone: how unlike the controls the forget set is
    smallest_detectable_shift: float
    tpr: float | None  # true positive rate of z at ``tpr_at_fpr``, where there are controls enough
    tpr_at_fpr: float | None
    tpr_at_zero: float | None  # share of forget samples above every control, with its exact 95% upper bound
    tpr_at_zero_high: float | None
    samples: list[SampleScore]
    scores: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    # scores["z"|"rmia"|"lira"|"loss"|"difficulty"]["forget"|"controls"]: one value a sample, in the plan's order


@dataclass(frozen=True)
class Utility:
    """Accuracies, 0..1, of one model."""

    forget: float | None  # None where there is no forget set, and so for ``retained``
    retained: float | None
    controls: float
    controls_low: float  # 95% Wilson interval
    controls_high: float
    controls_by_class: dict[str, float]


@dataclass(frozen=True)
class AdversarialSummary:
    method: str
    found: int
    not_found: list[int]  # indices
    distance_quantiles: dict[str, float]  # "0.05", "0.25", "0.5", "0.75", "0.95" of the l2 distance, pixels in [0, 1]
    passes_per_sample: float  # forward and backward passes


@dataclass(frozen=True)
class Slice:
    """The audit of one request of the job, with the same controls; its level is that of the job over the requests."""

    forget: int
    verdict: str
    reasons: list[str]
    estimates: list[Estimate]  # none but R below 20 samples
    smallest_detectable_shift: float
    worst: int  # index of the sample most like a member


@dataclass(frozen=True)
class Auc:
    """An AUC that is reported and not judged."""

    value: float
    low: float  # 95% interval
    high: float


@dataclass(frozen=True)
class Boundary:
    """Distance to the nearest adversarial example, l2, pixels in [0, 1]: AMUN's own fingerprint on the forget set."""

    forget_median: float | None  # None where none was found
    controls_median: float | None
    auc: Auc | None  # that a forget sample is farther from the boundary than an audit control; None below 20 samples
    not_found: int  # of both sets: left out


@dataclass(frozen=True)
class ModelMeasurement:
    audit: Audit
    utility: Utility
    slices: list[Slice]  # by the plan's requests
    boundary: Boundary
    retained: Auc | None  # AUC of z of the retained set against audit controls: what membership looks like here
    changed: (
        Auc | None
    )  # AUC of (signal before - signal now) against controls: what a keeper of the old checkpoint sees


@dataclass(frozen=True)
class LadderStep:
    """One attempt, in order; the last one made the checkpoint."""

    number: int  # from 1; the audit's significance level is divided by it
    method: str  # amun | amun-a+salun | retrain
    learning_rate: float | None  # None for a retraining, which repeats the recipe
    weight_scale: float | None
    weight_power: float | None
    weight_spread: bool | None
    saliency_share: float | None
    epochs: int
    losses: list[float]  # mean training loss of each epoch
    started_from: str  # base | previous step | random initialisation
    verdict: str  # of the audit, slices included
    reasons: list[str]
    estimates: list[Estimate]
    accuracy_controls: float
    seconds: float


@dataclass(frozen=True)
class UtilityVerdict:
    """Accuracy on never-trained controls of the new model against the base."""

    passed: bool  # the loss is within the tolerance
    change: float  # after minus before
    low: float  # 95% interval of the change, paired by image
    high: float
    tolerance: float


@dataclass(frozen=True)
class Provenance:
    """Why a retrained model knows nothing of the forget set: what it was trained on, and how it began."""

    samples: int
    samples_sha256: str  # over the sorted sha256 of the pixels of every image it was trained on
    copies_left_out: int  # retained images that are exact copies of a forgotten one, and were not trained on
    seed: str  # of its random initialisation and shuffling


@dataclass(frozen=True)
class UnlearnResult:
    verdict: str  # of privacy: exact (retrained) | pass | over_unlearned | under_unlearned | inconclusive
    reasons: list[str]
    utility: UtilityVerdict
    withdraw: bool  # the ladder ended without a model that may be released, nor one that was retrained
    incident: bool  # the audit disagrees with a retrained model: a person looks, nothing is withdrawn
    steps: list[LadderStep]
    provenance: Provenance | None  # of a retrained checkpoint
    before: ModelMeasurement
    after: ModelMeasurement  # of the last step
    retrained: ModelMeasurement | None  # where the plan asked to compare, and the last step is not itself a retraining
    adversarial: AdversarialSummary | None  # of the base model; None where AMUN was not tried
    forget: int
    retain: int
    calibration_controls: int
    audit_controls: int
    references: int
    reference_train_size: int
    detectable_before: bool  # False: the audit did not see the forget set in the base model, so `after` shows little


@dataclass(frozen=True)
class AuditResult:
    """A re-audit. Without a forget set there is no verdict; what can still be measured is."""

    audit: Audit | None
    slices: list[Slice]
    boundary: Boundary | None
    utility: Utility
    retained: Auc | None
    forget: int
    retain: int
    calibration_controls: int
    audit_controls: int
    references: int
    reference_train_size: int | None  # None: the train job's result says it, the signals of today do not


@dataclass(frozen=True)
class Result:
    """result.json. On failure ``outcome`` is None and ``error`` says why."""

    kind: str
    status: str  # succeeded | failed
    seconds: dict[str, float]  # by phase
    environment: Environment
    files: list[OutputFile] = field(default_factory=list)
    error: Failure | None = None
    peak_memory: dict[str, int] = field(default_factory=dict)  # bytes: "process", and "gpu" where one was used
    # The device ran out of memory once. Then every batch passed in two halves, whose gradients were summed, and searches
    # took half as many images at a time: steps and batch sizes are the plan's; batch norm alone saw halves.
    batches_halved: bool = False
    outcome: dict[str, Any] | None = None  # RegisterResult, TrainResult, UnlearnResult or AuditResult as JSON


def dump(value: Any) -> str:
    """Any dataclass of this module as JSON text; NaN and infinity are refused with a ValueError."""
    return json.dumps(dataclasses.asdict(value), allow_nan=False, separators=(",", ":"))


def load_plan(path: Path) -> Plan:
    """Read ``plan.json``. Raises ValueError on an unknown kind and TypeError on unknown or missing fields."""
    raw = json.loads(path.read_text("utf-8"))
    kinds: dict[str, type[Any]] = {
        "register": RegisterPlan,
        "train": TrainPlan,
        "unlearn": UnlearnPlan,
        "audit": AuditPlan,
    }
    if not isinstance(raw, dict) or raw.get("kind") not in kinds:
        raise ValueError(f"a plan is an object whose kind is one of {', '.join(kinds)}")
    return _build(kinds[raw["kind"]], raw)  # type: ignore[no-any-return]


_NESTED: dict[str, type[Any]] = {
    "source": Source,
    "controls": Controls,
    "data": DataFiles,
    "network": NetworkSpec,
    "recipe": RecipeSpec,
    "rehearsal": RehearsalSpec,
    "attack": AttackSpec,
    "unlearn": UnlearnSpec,
    "audit": AuditSpec,
    "utility": UtilitySpec,
    "ladder": LadderSpec,
    "base": CheckpointFile,
    "checkpoint": CheckpointFile,
    "signals": SignalFiles,
    "environment": Environment,
}


def _build(cls: type[Any], raw: dict[str, Any]) -> Any:
    values = {
        name: _build(_NESTED[name], value) if name in _NESTED and isinstance(value, dict) else value
        for name, value in raw.items()
    }
    if "shape" in values:
        values["shape"] = tuple(values["shape"])
    return cls(**values)


def load_result(path: Path) -> Result:
    """Read ``result.json`` back; ``outcome`` stays a plain dictionary."""
    raw = json.loads(path.read_text("utf-8"))
    raw["environment"] = Environment(**raw["environment"])
    raw["files"] = [OutputFile(**item) for item in raw["files"]]
    raw["error"] = Failure(**raw["error"]) if raw["error"] else None
    return Result(**raw)

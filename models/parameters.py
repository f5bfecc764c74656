"""Names of networks, training recipe and unlearning policy, with their defaults.

The values are resolved when a request is accepted and stored in the row; the worker copies every one of them into the plan.
"""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

BATCH_MARGIN = timedelta(days=3)  # before the due date: too few samples to tell are waited with no longer

NETWORKS = ("small-cnn", "resnet18", "vgg19-bn", "resnet18-lipschitz")


class Parameters(BaseModel):
    """Unknown names are an error, so that a misspelt parameter never falls back to a default in silence."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Network(Parameters):
    name: str = Field(
        max_length=100,
        description="`small-cnn` for small images, `resnet18` (CIFAR stem), `vgg19-bn` (32 x 32 and more), "
        "`resnet18-lipschitz` (every layer's norm bounded, no batch norm), or `torchvision/` and the name of any of its "
        "classifiers. Whether torchvision has it, and takes images of this size, shows when training starts.",
        examples=["small-cnn", "torchvision/mobilenet_v3_small"],
        json_schema_extra={"pattern": f"^({'|'.join(NETWORKS)}|torchvision/[a-z0-9_]+)$"},
    )
    width: int = Field(default=16, ge=4, le=256, description="Channels of the first stage of `small-cnn`.")

    @field_validator("name")
    @classmethod
    def name_is_known(cls, name: str) -> str:
        if name not in NETWORKS and not re.fullmatch(r"torchvision/[a-z0-9_]+", name):
            raise ValueError(f"there is no network of this name: choose {', '.join(NETWORKS)}, or torchvision/NAME")
        return name


class Recipe(Parameters):
    """How the model is trained. Compulsory: reference models and retraining repeat it."""

    epochs: int = Field(default=30, ge=1, le=1000)
    batch_size: int = Field(default=64, ge=2, le=4096)
    learning_rate: float = Field(default=0.1, gt=0, le=10)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=5e-4, ge=0, le=1)
    schedule: Literal["one-cycle", "step", "constant"] = "one-cycle"
    augment: bool = Field(default=False, description="Random crop and horizontal flip.")
    mixed_precision: bool = Field(default=True, description="bfloat16 on a GPU; a CPU computes in float32 in any case.")
    compiled: bool = Field(
        default=False, description="Training steps by torch.compile; pays on a GPU, for long trainings."
    )


class Rehearsal(Parameters):
    """Strengths tried on reference models, before any request exists, with pseudo-requests of these sizes."""

    models: int = Field(default=4, ge=2, le=16)
    sizes: list[int] = Field(default=[10, 100], min_length=1, max_length=8)
    requests: int = Field(default=1, ge=1, le=100, description="Of each size on each model, to choose the strength by.")
    shown_on: int = Field(
        default=2, ge=1, le=100, description="Further ones, to show what the strength does where it was not chosen."
    )
    learning_rates: list[float] = Field(default=[0.05], min_length=1, max_length=8)
    weight_scales: list[float] = Field(
        default=[0.5, 1.5, 4.0], min_length=1, max_length=8, description="Factors of the adversarial set's weights."
    )
    tolerance_accuracy: float = Field(
        default=0.02, gt=0, le=1, description="Loss of accuracy on images never trained on that a strength may cost."
    )


class Attack(Parameters):
    """Search for the nearest adversarial examples."""

    method: Literal["boundary", "pgd"] = "boundary"
    batch_size: int = Field(default=512, ge=1, le=65536)
    rival_classes: int = Field(default=2, ge=1, le=1000)
    steps: int = Field(default=50, ge=1, le=1000)
    bisections: int = Field(default=8, ge=0, le=40)
    eps_start: float = Field(default=0.04, gt=0)
    doublings: int = Field(default=12, ge=0, le=30)
    mixed_precision: bool = Field(
        default=False, description="Steps in bfloat16 on a GPU, what they do not bring across again in float32."
    )


class Finetuning(Parameters):
    """AMUN's form (arXiv 2503.00917, section 4); learning rate and scale of the weights are rehearsed, never set here."""

    form: Literal["retain+forget+adversarial", "forget+adversarial", "retain+adversarial", "adversarial"] = (
        "retain+adversarial"
    )
    weight_power: float = Field(
        default=1.0,
        ge=0,
        le=4,
        description="The adversarial set weighs as much as models memorise the image, to this power; 0: all alike.",
    )
    weight_spread: bool = Field(
        default=True, description="And by a random factor of mean 1, so that the forgotten do not end up all alike."
    )
    schedule: Literal["linear", "constant", "tenth-each-epoch", "tenth-each-fifth-epoch"] = "linear"
    epochs: int = Field(default=5, ge=1, le=100)
    batch_size: int = Field(default=64, ge=2, le=4096)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=5e-4, ge=0, le=1)
    augment: bool = False
    retain_share: float = Field(default=1.0, gt=0, le=1, description="Of the retained set in each epoch, drawn anew.")
    saliency_share: float | None = Field(
        default=None, gt=0, le=1, description="AMUN+SalUn: only this share of the weights moves."
    )
    mixed_precision: bool = True


class AuditRule(Parameters):
    """The verdict rule, fixed before a request arrives."""

    tolerance: float = Field(default=0.05, gt=0, lt=0.5, description="Of AUC(z) - 1/2 and the secondary AUCs.")
    tolerance_membership: float = Field(default=0.5, gt=0, le=1, description="Of R, the remaining membership share.")
    level: float = Field(default=0.05, gt=0, lt=0.5, description="Two-sided significance.")
    rmia_offline_a: float = Field(default=0.3, ge=0, le=1)
    rmia_gamma: float = Field(default=1.0, gt=0)


class UtilityRule(Parameters):
    """The second verdict: what forgetting may cost everybody else."""

    tolerance_accuracy: float = Field(
        default=0.05, gt=0, le=1, description="Loss of accuracy on never-trained controls that is accepted."
    )


class Ladder(Parameters):
    """What is tried, in turn, after `under_unlearned` or `over_unlearned`."""

    amun_steps: int = Field(
        default=3, ge=1, le=3, description="By AMUN: the rehearsed strength, another one, AMUN-A with SalUn."
    )
    stronger: float = Field(default=2.0, gt=1, le=100, description="Factor of the weights after `under_unlearned`.")
    weaker: float = Field(default=0.5, gt=0, lt=1, description="And after `over_unlearned`.")
    saliency_share: float = Field(default=0.5, gt=0, le=1, description="Of the weights that SalUn lets move.")
    retrain: bool = Field(default=True, description="At the end, from the recipe; otherwise the model is withdrawn.")


class Batching(Parameters):
    """When requests that wait for a model become one job."""

    mode: Literal["at_once", "gather"] = Field(
        default="at_once", description="`gather` waits for more requests until one of the limits below is reached."
    )
    requests: int | None = Field(default=None, ge=2, le=100_000, description="As many as this wait.")
    window_hours: float | None = Field(default=None, gt=0, le=8760, description="The first has waited so long.")
    margin_days: float = Field(
        default=3.0,
        gt=0,
        le=60,
        description="The one that is due first is due in so many days: the job takes its time.",
    )

    @model_validator(mode="after")
    def limits_belong_to_gathering(self) -> Self:
        if self.mode == "at_once" and (self.requests is not None or self.window_hours is not None):
            raise ValueError('requests and window_hours need the mode "gather": at_once waits for nothing')
        return self


class Policy(Parameters):
    """Everything about a model's unlearning and audit that is decided before a request arrives."""

    references: int = Field(default=16, ge=4, le=256, description="Reference models, trained in disjoint pairs.")
    rehearsal: Rehearsal = Rehearsal()
    attack: Attack = Attack()
    finetuning: Finetuning = Finetuning()
    audit: AuditRule = AuditRule()
    utility: UtilityRule = UtilityRule()
    ladder: Ladder = Ladder()
    inconclusive: Literal["release", "wait_for_batch", "retrain"] = Field(
        default="release",
        description="Too few samples to tell: `release` where rehearsal passed for this size, `wait_for_batch` (until "
        "shortly before the oldest request is due, then retrain), or `retrain`.",
    )
    batching: Batching = Batching()
    retrain_share: float = Field(
        default=0.1,
        gt=0,
        le=1,
        description="Retrain at once where a request, or all since the last (re)training, exceed this share of the "
        "training images.",
    )
    compare_retrained: bool = Field(default=False, description="Also retrain from the recipe, to print it beside.")
    approval_share: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="Requests for more than this share of the training images wait for approval.",
    )

    @model_validator(mode="after")
    def references_come_in_pairs(self) -> Self:
        if self.references % 2:
            raise ValueError("references must be even: they are trained on disjoint halves, in pairs")
        if self.rehearsal.models > self.references:
            raise ValueError("rehearsal.models must not exceed references")
        return self


class DemoCase(Parameters):
    """The case that `amun demo` runs and benchmarks/seeds.py repeats over many seeds."""

    seed: int
    controls_share: float
    forget: int
    network: Network
    recipe: Recipe
    policy: Policy


# A leak that an audit of this size can see: few images, weight decay that keeps the memorised ones apart.
DEMO = DemoCase(
    seed=4,
    controls_share=0.5,
    forget=175,
    network=Network(name="small-cnn", width=16),
    recipe=Recipe(epochs=20, learning_rate=0.02, weight_decay=5e-3),
    policy=Policy(
        rehearsal=Rehearsal(
            models=4, sizes=[175], requests=1, shown_on=2, learning_rates=[0.01], weight_scales=[0.5, 1.0, 2.0, 4.0]
        ),
        finetuning=Finetuning(epochs=10),
        audit=AuditRule(tolerance=0.10),
        retrain_share=0.2,
        compare_retrained=True,
    ),
)

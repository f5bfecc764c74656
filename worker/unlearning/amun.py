"""AMUN: unlearning by fine-tuning on the nearest adversarial examples (arXiv 2503.00917)."""

from __future__ import annotations

from torch import Tensor, nn

from worker.unlearning.adversarial import Adversarial
from worker.unlearning.finetuning import DataSet, Part, finetune, saliency
from worker.unlearning.training import OnEpoch

FORMS = ("retain+forget+adversarial", "forget+adversarial", "retain+adversarial", "adversarial")


def unlearn(
    network: nn.Module,
    forget: DataSet,
    retain: DataSet | None = None,
    *,
    adversarial: Adversarial,
    form: str,
    weights: Tensor | None = None,
    retain_share: float = 1.0,
    saliency_share: float | None = None,
    learning_rate: float,
    schedule: str,
    epochs: int,
    batch_size: int,
    momentum: float,
    weight_decay: float,
    augment: bool,
    seed: int,
    mixed_precision: bool = False,
    accumulate: int = 1,
    on_epoch: OnEpoch | None = None,
) -> nn.Module:
    """A copy of ``network``, in evaluation mode, fine-tuned so that it no longer shows the forget set; section 4.

    Cross-entropy on the sets that ``form`` names, shuffled together. Examples that were not found are left out: their
    rows hold the forgotten image under its true label. For requests in sequence, each starts from the network that the
    last one left and takes the examples nearest to that (AMUN-A, section 6.4); examples of the first network age.

    Args:
        forget: the forget set.
        retain: the retained set, None where it is not available.
        adversarial: `adversarial.nearest` of the forget set on ``network``, row for row.
        form: which sets are trained on, one of `FORMS`.
        weights: factor of each adversarial sample's loss, N of the forget set, at least 0; None: all 1.
        retain_share: share of the retained set in each epoch, another draw each time; 0 < share <= 1.
        saliency_share: AMUN+SalUn, only this share of the weights moves, see `finetuning.saliency`; None: all.
        augment: random crop and flip on the retained and forget set; the adversarial set is never augmented, because
            a moved example is no longer the nearest one.
        schedule, seed, mixed_precision, accumulate: see `finetuning.finetune`.

    Raises:
        ValueError: an empty forget set, an unknown form, a form that needs a retained set where there is none, rows of
            ``adversarial`` or ``weights`` that do not match the forget set, a share out of range, or nothing left to
            train on.
        Diverged: the loss of an epoch is not finite.
    """
    if form not in FORMS:
        raise ValueError(f"unknown form {form!r}: choose one of {', '.join(FORMS)}")
    if not len(forget[0]):
        raise ValueError("the forget set is empty")
    if len(adversarial.labels) != len(forget[0]):
        raise ValueError(f"{len(adversarial.labels)} adversarial examples for {len(forget[0])} images to forget")
    if weights is not None and weights.shape != (len(forget[0]),):
        raise ValueError("weights must be one for each image to forget")
    if not 0 < retain_share <= 1:
        raise ValueError(f"a share of {retain_share} of the retained set cannot be drawn")
    found = adversarial.found
    chosen = None if weights is None else weights.to(found.device)[found]
    parts = [Part(adversarial.inputs[found], adversarial.labels[found], movable=False, weights=chosen)]
    if "retain" in form:
        if retain is None:
            raise ValueError(f"form {form} needs the retained set")
        parts.append(Part(*retain, movable=True, share=retain_share))
    if "forget" in form:
        parts.append(Part(*forget, movable=True))
    at_once = -(-batch_size // accumulate)
    mask = None if saliency_share is None else saliency(network, forget, share=saliency_share, batch_size=at_once)
    return finetune(
        network,
        parts,
        learning_rate=learning_rate,
        schedule=schedule,
        epochs=epochs,
        batch_size=batch_size,
        momentum=momentum,
        weight_decay=weight_decay,
        augment=augment,
        seed=seed,
        mixed_precision=mixed_precision,
        accumulate=accumulate,
        mask=mask,
        on_epoch=on_epoch,
    )

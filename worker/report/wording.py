"""Sentences of the report that do not depend on the job. Never "erased", never "proved"."""

from __future__ import annotations

UNSIGNED = "UNSIGNED: this edition carries no signature. Its origin and integrity cannot be verified offline."

FINDINGS = {
    "pass": "Within tolerance of never-trained controls under the listed attacks.",
    "under_unlearned": (
        "Not within tolerance: at least one listed attack still tells the images that should be forgotten from images "
        "the model never saw, because they look like training images."
    ),
    "over_unlearned": (
        "Not within tolerance: the images that should be forgotten stand out from images the model never saw in the "
        "opposite direction. That, too, tells an attacker which images they were."
    ),
    "inconclusive": (
        "Cannot tell: no listed attack found a significant difference, but a difference larger than the tolerance could "
        "not be ruled out either."
    ),
}

UNDETECTED = (
    "The audit could not see these samples in the version before unlearning either, so its outcome afterwards is no "
    "evidence that the method worked."
)

THREAT_MODEL = (
    "An attacker who holds the new checkpoint and images of the people concerned, knows how the model was trained and "
    "what reference models with and without each image say, and asks of each image whether it was trained on."
)

NOT_TRIED = ("model inversion", "reconstruction of training images", "attribute inference", "extraction by fine-tuning")

LIMITS = (
    "The finding is statistical. It bounds what the listed attacks see; another attack may see more.",
    "AMUN is an approximate method: the model is changed, not trained again without the samples.",
    f"Not tried: {', '.join(NOT_TRIED)}.",
    "The forget set is compared with never-trained controls as if drawn from the same source. A request that is unlike "
    "the controls (one writer, one camera) shifts the statistics by itself; the blind baseline shows how unlike it is.",
    "Whoever kept the earlier checkpoint can compare it with the new one. This report covers the new checkpoint alone.",
    "Back-ups, data lakes, caches and copies outside this service are out of scope.",
    "Reference signals of the samples are pseudonymised personal data and are kept until they are erased.",
    "This report draws no legal conclusion.",
)

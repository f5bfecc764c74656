"""Sentences of the documents that do not depend on the job. Never "erased" of a model, never "proved"."""

from __future__ import annotations

from typing import Any

SCHEMA_VERSION = "1.1"
PAPER = "arXiv 2503.00917"
VERIFY = "amun verify BUNDLE.zip --key jwks.json, or in the unpacked bundle: python verify.py . --key jwks.json"

METHODS = {
    "amun": "AMUN: fine-tuned on the nearest adversarial examples of the forget set",
    "amun-a+salun": "AMUN-A with SalUn: adversarial examples of the current model, and only the most salient weights move",
    "retrain": "trained again from the recipe and a random initialisation, without the forget set and its exact copies",
}

HEADLINES = {
    "pass": "pass: within tolerance",
    "under_unlearned": "under-unlearned: still recognised",
    "over_unlearned": "over-unlearned: it stands out",
    "inconclusive": "inconclusive: too few to tell",
    "exact": "exact: trained again without them",
    "not_audited": "not audited: nothing to look at",
}

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
        "not be ruled out either. What can be said of each image is in the table of samples."
    ),
    "exact": (
        "The new checkpoint was trained from a random initialisation on images without these, so it rests on what it was "
        "trained on, not on the attacks. Its audit is reported beside."
    ),
    "not_audited": (
        "No image that the model still has to forget is left, and what was erased cannot be audited again. What is "
        "measured is accuracy, and how well the attacks see the images that the model keeps."
    ),
}

UNDETECTED = (
    "The audit could not see these samples in the version before unlearning either, so its outcome afterwards is no "
    "evidence that the method worked."
)
INCIDENT = (
    "The audit disagrees with a model that was trained without the samples. A person has to look: images in the training "
    "set may be near-duplicates of the forgotten, or the controls unlike them."
)
WITHDRAWN = "Every step that the policy allows has failed: the model was withdrawn, and no version of it is served."
UPLOADED = (
    "The model's first version was uploaded, not trained here. That it was trained by this recipe, and on no control, is "
    "the word of whoever uploaded it. z holds although the reference models may be trained otherwise, because it is "
    "calibrated on controls under this very model; RMIA and LiRA lean on the reference models more, and say less here."
)
REHEARSED = "What speaks for it is the rehearsal at this size, before any request arrived: see Rehearsal."

THREAT_MODEL = (
    "An attacker who holds the new checkpoint and images of the people concerned, knows how the model was trained and "
    "what reference models with and without each image say, and asks of each image whether it was trained on."
)
RULE = (
    "Each statistic is compared with what never-trained controls show. Inside: the 90% interval lies within the tolerance. "
    "Bad: not inside, and rejected two-sided (the primary at the level, the secondaries together by Holm; both divided by "
    "the number of the ladder's step, and a request's by the number of requests). under_unlearned: something bad is above; "
    "over_unlearned: bad only below; pass: nothing bad and the primary inside; inconclusive: anything else."
)
CONTROLS = "never trained on; odd rows judge, even rows calibrate, fixed before the request arrived"
NOT_TRIED = ("model inversion", "reconstruction of training images", "attribute inference", "extraction by fine-tuning")
OUT_OF_SCOPE = (
    "back-ups of the database and of the data folder",
    "the source that the training set was registered from, and data lakes beside it",
    "caches and copies outside this service",
    "checkpoints that were fetched before: their recipients are listed",
)

STATISTICAL = "The finding is statistical. It bounds what the listed attacks see; another attack may see more."
APPROXIMATE = "AMUN is an approximate method: the model is changed, not trained again without the samples."
NOT_TRIED_LIMIT = f"Not tried: {', '.join(NOT_TRIED)}."
KEPT_EARLIER = (
    "Whoever kept the earlier checkpoint can compare it with the new one, and recognise what was forgotten, after "
    "retraining too. Who fetched it here is listed; whom they gave it to is not known."
)
NO_SANITISATION = (
    "Files are overwritten, deleted and read back as gone. That is no sanitisation of the medium (NIST SP 800-88), nor of "
    "its snapshots."
)
UNLIKE_CONTROLS = (
    "The forget set is compared with never-trained controls as if drawn from the same source. A request that is unlike "
    "the controls (one writer, one camera) shifts the statistics by itself; the blind baseline shows how unlike it is."
)
OTHERS = (
    "Back-ups, data lakes, caches and copies outside this service are out of scope.",
    "Reference signals, sample references and the ledger of keyed hashes are pseudonymised personal data. Signals are kept "
    "until the sample is erased; the ledger is kept so that an erased image is not trained on again (GDPR Article 17(3)(b) "
    "and (e) may be grounds; the controller decides).",
    "What was erased cannot be audited again: later audits look at other images.",
    "The signature shows who issued the files and that they are unchanged. It does not show when: the dates are the "
    "issuer's own.",
    "This document draws no legal conclusion.",
)
AUDIT_LIMITS = (STATISTICAL, APPROXIMATE, NOT_TRIED_LIMIT, KEPT_EARLIER, UNLIKE_CONTROLS)
CERTIFICATE_LIMITS = (STATISTICAL, APPROXIMATE, KEPT_EARLIER, NO_SANITISATION, NOT_TRIED_LIMIT, UNLIKE_CONTROLS)

COPIES = "Exact copies of an image are found by their pixels."
NOT_SEEN = (
    "Pictures that were shifted, cropped, turned or mirrored are not found so, nor other pictures of the same person or "
    "object. What was found is listed, and forgotten only where it is asked for."
)

COMPLETED_HEADLINE = "completed"
REJECTED_HEADLINE = "rejected"
COMPLETED = (
    "Every model that the request reaches serves a version that was made to forget the samples, within what the audits of "
    "those versions say, or is retired; the files listed here were read back as gone."
)
RELEASED_BY_A_PERSON = "The gate had kept a version back, and a person released it: see the decisions."
REJECTED = (
    "The request was rejected, for the reason in its history. The person concerned may lodge a complaint with a supervisory "
    "authority and seek a judicial remedy (GDPR Article 12(4))."
)
LEDGER_KEPT = "so that an erased image is refused at every later registration or retraining"
REQUEST_KEPT = "record of the request and of this certificate"


def near_duplicates_left(count: int) -> str:
    images = "One image that this request does not name is" if count == 1 else f"{count} images not named here are"
    return f"{images} nearly the same as some of its own, and may still be trained on: see Near-duplicates."


def limits(fixed: tuple[str, ...], near_duplicates: dict[str, Any] | None) -> list[str]:
    """All limits of a document; ``near_duplicates`` is how they were searched for in its training set, if at all."""
    return [*fixed, f"{COPIES} {_searched(near_duplicates)}", *OTHERS]


def _searched(found: dict[str, Any] | None) -> str:
    if found is None:
        return "Near-duplicates were not searched for in this set."
    if not found["searched"]:
        return f"Near-duplicates could not be told in this set: {found['why_not']}."
    capped = f"; {found['capped']} images may have more than the {found['neighbours']} that were looked at"
    return (
        f"Near-duplicates were searched for at registration, among {found['searched']} distinct images: "
        f"{found['method']}. Threshold {found['threshold']:.4g}, median {found['median_distance']:.4g}, pairs found "
        f"{found['pairs']}{capped if found['capped'] else ''}. {NOT_SEEN}"
    )

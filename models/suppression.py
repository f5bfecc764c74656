"""The ledger of erased content: keyed hashes that keep an erased image from coming back, in whatever training set."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import exists, select
from sqlalchemy.orm import Session

from models.evidence import content_digests
from models.training_set import Sample, Suppression

DIGESTS_AT_ONCE = 500


def suppressed(session: Session, key: bytes, samples: Iterable[Sample]) -> set[int]:
    """Indices of those samples whose pixels or file were erased before, here or in another training set."""
    if not session.scalar(select(exists().select_from(Suppression))):
        return set()
    named = {sample.index: content_digests(key, sample) for sample in samples}
    digests = list({digest for digests in named.values() for digest in digests})
    known: set[str] = set()
    for start in range(0, len(digests), DIGESTS_AT_ONCE):
        some = digests[start : start + DIGESTS_AT_ONCE]
        known.update(session.scalars(select(Suppression.digest).where(Suppression.digest.in_(some))))
    return {index for index, digests in named.items() if not known.isdisjoint(digests)}

"""Which samples the selectors of a request stand for, resolved in sets: a few statements for 10,000 of them."""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, TypeVar

from sqlalchemy import Connection, bindparam, exists, select
from sqlalchemy.orm import aliased

from models.among import among_given
from models.evidence import suppression_digest
from models.records import Sample, Split, Suppression
from service.claims import VALUES_AT_ONCE, Claims, claims_on
from service.schemas.selectors import FIELDS, Outcome, Selector, SelectorOutcome

# A selector that stands for several samples is called by what most still has to be done.
PRECEDENCE = (Outcome.MATCHED, Outcome.PENDING, Outcome.CONTROL, Outcome.ALREADY_ERASED)

_COPY = aliased(Sample)
_IS_SHARED = exists().where(
    _COPY.training_set_id == Sample.training_set_id, _COPY.sha256 == Sample.sha256, _COPY.index != Sample.index
)
# Built once, as in service.claims. Not in the order of rows: SQLite would walk through the whole set in it.
_SAMPLES = {
    name: select(
        Sample.index,
        Sample.key,
        Sample.sha256,
        Sample.file_sha256,
        Sample.subject,
        Sample.label,
        Sample.split,
        Sample.erased_at.is_not(None),
        _IS_SHARED,
    ).where(Sample.training_set_id == bindparam("training_set"), among_given(getattr(Sample, name), "values"))
    for name in FIELDS
}
_SUPPRESSIONS = select(Suppression.digest, Suppression.sample_index).where(
    Suppression.training_set_id == bindparam("training_set"), among_given(Suppression.digest, "values")
)

Value = TypeVar("Value")
Name = tuple[str, str | int]  # the field that is given, and its value


@dataclass(slots=True)
class Found:
    """The columns of a sample that resolution needs."""

    index: int
    key: str | None
    sha256: str | None
    file_sha256: str | None
    subject: str | None
    label: int
    split: Split
    erased: bool
    shared: bool  # another sample has the same pixels


@dataclass(frozen=True)
class Resolution:
    """Answers in the order of the selectors, and every sample they stand for by what has to be done with it."""

    answers: list[SelectorOutcome]
    claims: Claims  # on these samples, from requests that came before
    samples: dict[Outcome, list[Found]] = field(default_factory=lambda: defaultdict(list))

    @property
    def to_forget(self) -> list[Found]:
        """Training samples that some model still has to forget."""
        return [*self.samples[Outcome.MATCHED], *self.samples[Outcome.PENDING]]


def resolve(
    connection: Connection,
    suppression_key: bytes,
    training_set: uuid.UUID,
    selectors: Sequence[Selector],
    models: Sequence[uuid.UUID],
) -> Resolution:
    """Find the samples of the set that the selectors name, with their exact copies.

    ``models`` are those that shall forget: a sample counts as already erased when all of them have forgotten it.
    """
    asked = [selector.name for selector in selectors]
    named = _named(connection, training_set, asked)
    copies = _copies(connection, training_set, [sample for rows in named.values() for sample in rows if sample.shared])
    everything = {sample.index for rows in [*named.values(), *copies.values()] for sample in rows}
    suppressed = _suppressed(connection, suppression_key, training_set, [name for name in asked if name not in named])
    claims = claims_on(connection, training_set, everything)
    state = _States(claims.forgotten_by_all(models), claims.pending)
    resolution = Resolution([], claims)
    taken: set[int] = set()
    spread: set[str] = set()  # pixels whose copies were taken along
    names: set[Name] = set()
    for name in asked:
        rows = named.get(name, suppressed.get(name, [])) if name not in names else []
        fresh = [sample for sample in rows if sample.index not in taken]
        taken.update(sample.index for sample in fresh)
        along: list[Found] = []
        for digest in {sample.sha256 for sample in fresh if sample.sha256} - spread:
            along.extend(sample for sample in copies.get(digest, ()) if sample.index not in taken)
            spread.add(digest)
        taken.update(sample.index for sample in along)
        for sample in [*fresh, *along]:
            resolution.samples[state.of(sample)].append(sample)
        known = name in named or name in suppressed
        resolution.answers.append(_answer(name, known, state, fresh, along))
        names.add(name)
    return resolution


@dataclass(frozen=True)
class _States:
    forgotten: set[int]  # by all of the models
    pending: set[int]

    def of(self, sample: Found) -> Outcome:
        if sample.erased:
            return Outcome.ALREADY_ERASED
        if sample.split is Split.CONTROL:
            return Outcome.CONTROL
        if sample.index in self.forgotten:
            return Outcome.ALREADY_ERASED
        return Outcome.PENDING if sample.index in self.pending else Outcome.MATCHED


def _answer(name: Name, known: bool, state: _States, fresh: list[Found], along: list[Found]) -> SelectorOutcome:
    outcomes = {state.of(sample) for sample in fresh}
    if fresh:
        outcome = next(each for each in PRECEDENCE if each in outcomes)
    else:
        outcome = Outcome.DUPLICATE if known else Outcome.NOT_FOUND
    return SelectorOutcome(
        selector={name[0]: name[1]},
        outcome=outcome,
        count=len(fresh) + len(along),
        indices=[sample.index for sample in fresh],
        copies=sorted(sample.index for sample in along),
    )


def _named(connection: Connection, training_set: uuid.UUID, names: Iterable[Name]) -> dict[Name, list[Found]]:
    values: dict[str, set[str | int]] = defaultdict(set)
    for column, value in names:
        values[column].add(value)
    found: dict[Name, list[Found]] = defaultdict(list)
    for column in FIELDS:
        for sample in _samples(connection, training_set, column, values[column]):
            found[column, getattr(sample, column)].append(sample)
    return dict(found)


def _copies(connection: Connection, training_set: uuid.UUID, shared: list[Found]) -> dict[str, list[Found]]:
    """These samples and all that have their pixels, by digest, each in the order of rows."""
    found: dict[str, list[Found]] = defaultdict(list)
    for sample in _samples(connection, training_set, "sha256", {sample.sha256 for sample in shared if sample.sha256}):
        if sample.sha256 is not None:
            found[sample.sha256].append(sample)
    return found


def _samples(connection: Connection, training_set: uuid.UUID, name: str, values: Iterable[Any]) -> Iterator[Found]:
    for chunk in chunks(sorted(values)):
        rows = connection.execute(_SAMPLES[name], {"training_set": training_set, "values": chunk}).all()
        yield from sorted((Found(*row) for row in rows), key=lambda sample: sample.index)


def _suppressed(
    connection: Connection, key: bytes, training_set: uuid.UUID, names: Iterable[Name]
) -> dict[Name, list[Found]]:
    """Names of samples that were erased: the row no longer has the name, but a keyed hash of it was kept."""
    digests = {suppression_digest(key, training_set, *name): name for name in names}
    hits: dict[int, list[Name]] = defaultdict(list)
    for chunk in chunks(list(digests)):
        given = {"training_set": training_set, "values": chunk}
        for digest, index in connection.execute(_SUPPRESSIONS, given).all():
            hits[index].append(digests[digest])
    found: dict[Name, list[Found]] = defaultdict(list)
    for sample in _samples(connection, training_set, "index", hits):
        for name in hits[sample.index]:
            found[name].append(sample)
    return dict(found)


def chunks(values: Sequence[Value] | Iterable[Value], size: int = VALUES_AT_ONCE) -> Iterator[list[Value]]:
    """Lists short enough for one IN."""
    rest = iter(values)
    while chunk := list(islice(rest, size)):
        yield chunk

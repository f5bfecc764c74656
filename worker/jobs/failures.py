"""Expected failures of a job, by the codes of `worker.plan`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from worker.unlearning import training


class Failed(Exception):
    """An expected failure; ``code`` is a key of `plan.ERROR_CODES`."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code


@contextmanager
def refused_as(code: str, *errors: type[Exception]) -> Iterator[None]:
    """These errors inside the block become a failure of the job with that code."""
    try:
        yield
    except errors as error:
        raise Failed(code, str(error)) from error


@contextmanager
def training_errors() -> Iterator[None]:
    """What the plan asks of the engine may be impossible or diverge."""
    with refused_as("diverged", training.Diverged), refused_as("plan_invalid", ValueError):
        yield

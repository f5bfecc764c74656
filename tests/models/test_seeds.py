"""Seeds of jobs."""

from __future__ import annotations

from models.seeds import new_seed
from models.settings import Settings


def test_a_fixed_seed_gives_each_purpose_its_own_repeatable_seed() -> None:
    fixed = Settings(seed=1)
    assert new_seed(fixed, "train", "a") == new_seed(fixed, "train", "a")
    assert (
        len({new_seed(fixed, "train", "a"), new_seed(fixed, "train", "b"), new_seed(Settings(seed=2), "train", "a")})
        == 3
    )


def test_parts_are_not_run_together() -> None:
    assert new_seed(Settings(seed=1), "a", "bc") != new_seed(Settings(seed=1), "ab", "c")


def test_without_a_fixed_seed_seeds_differ() -> None:
    assert new_seed(Settings(), "train", "a") != new_seed(Settings(), "train", "a")


def test_a_seed_fits_a_signed_64_bit_column() -> None:
    assert all(0 <= new_seed(Settings(seed=seed)) < 2**62 for seed in range(100))

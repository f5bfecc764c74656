"""Secrets that only their owner reads; rows of files that are really gone."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from models import artifacts, secrets
from models.secrets import UnusableSecret, load_or_create


def test_a_secret_is_made_once_with_mode_0600(tmp_path: Path) -> None:
    first = load_or_create(tmp_path / "secrets", "pepper")
    assert len(first) == 32
    assert load_or_create(tmp_path / "secrets", "pepper") == first
    assert stat.S_IMODE((tmp_path / "secrets" / "pepper").stat().st_mode) == 0o600


def test_twenty_threads_that_start_at_once_share_one_secret(tmp_path: Path) -> None:
    with ThreadPoolExecutor(20) as pool:
        made = set(pool.map(lambda _: load_or_create(tmp_path, "pepper"), range(20)))
    assert len(made) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["pepper"]


def test_a_secret_that_others_can_read_is_refused(tmp_path: Path) -> None:
    load_or_create(tmp_path, "pepper")
    (tmp_path / "pepper").chmod(0o640)
    with pytest.raises(UnusableSecret, match="chmod 600"):
        load_or_create(tmp_path, "pepper")


def test_a_secret_that_was_cut_short_is_refused(tmp_path: Path) -> None:
    load_or_create(tmp_path, "pepper")
    (tmp_path / "pepper").write_bytes(b"short")
    with pytest.raises(UnusableSecret, match="5 bytes"):
        load_or_create(tmp_path, "pepper")


def test_the_keyed_hash_is_hmac_sha256() -> None:
    # RFC 4231, test case 2
    expected = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    assert secrets.keyed_hash(b"Jefe", "what do ya want for nothing?") == expected


def test_erased_rows_become_zeros_and_their_neighbours_stay(tmp_path: Path) -> None:
    path = tmp_path / "pixels.u8"
    path.write_bytes(bytes(range(1, 13)))
    artifacts.erase_rows(path, 3, [1, 3, 1])
    assert path.read_bytes() == bytes([1, 2, 3, 0, 0, 0, 7, 8, 9, 0, 0, 0])


@pytest.mark.parametrize("row", [-1, 4])
def test_a_row_outside_the_file_is_refused_and_nothing_is_written(tmp_path: Path, row: int) -> None:
    path = tmp_path / "pixels.u8"
    path.write_bytes(bytes(range(1, 13)))
    with pytest.raises(ValueError, match="outside"):
        artifacts.erase_rows(path, 3, [0, row])
    assert path.read_bytes() == bytes(range(1, 13))


def test_a_durable_write_leaves_no_draft_behind(tmp_path: Path) -> None:
    artifacts.write_durably(tmp_path / "deep" / "file", b"content")
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["file"]


def test_a_published_folder_is_moved_whole(tmp_path: Path) -> None:
    staged = tmp_path / "staging" / "job.1"
    staged.mkdir(parents=True)
    (staged / "a").write_bytes(b"a")
    artifacts.publish(staged, tmp_path, "store/owner/job.1")
    assert (tmp_path / "store/owner/job.1/a").read_bytes() == b"a"
    assert not staged.exists()


def test_the_digest_of_a_file_is_sha256(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")  # FIPS 180-2, appendix B.1
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert artifacts.sha256_of(tmp_path / "abc") == expected

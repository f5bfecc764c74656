"""Two ranks on the CPU against one process; what they compute is in `shared_work`."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.worker.unlearning import shared_work
from worker.unlearning import distributed

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def of_two(tmp_path_factory):
    """What each of two ranks has computed."""
    folder = tmp_path_factory.mktemp("ranks")
    command = [sys.executable, "-m", "tests.worker.unlearning.shared_work", str(folder)]
    ranks = [subprocess.Popen([*command, str(rank), "2"], cwd=ROOT) for rank in range(2)]
    try:
        assert [rank.wait(timeout=120) for rank in ranks] == [0, 0]
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("case", shared_work.CASES)
def test_two_ranks_compute_what_one_process_does(case, of_two):
    alone = shared_work.CASES[case]()
    torch.testing.assert_close(of_two[0][case], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", shared_work.CASES)
def test_ranks_end_with_the_very_same_numbers(case, of_two):
    assert torch.equal(of_two[0][case], of_two[1][case])


def test_values_are_gathered_in_the_order_of_the_ranks_however_many_each_has(of_two):
    assert [found["values"] for found in of_two] == [[None, 0.1]] * 2


def test_a_loss_that_one_rank_alone_finds_not_finite_stops_all(of_two):
    assert all(torch.isnan(torch.tensor(found["averaged"])) for found in of_two)


def test_a_process_alone_takes_everything_with_a_weight_that_changes_no_bit():
    share = distributed.share(7)
    assert (share.part, share.weight, share.whole) == (slice(0, 7), 1.0, True)
    assert list(distributed.part(3)) == [0, 1, 2]
    network, rows = torch.nn.Linear(2, 2), torch.ones(3)
    with distributed.together(network) as same:
        assert same is network
    assert distributed.gathered(rows, 3) is rows
    assert distributed.averaged(rows) is rows


@pytest.mark.parametrize("ranks", [2, 3, 4])
@pytest.mark.parametrize("count", [1, 4, 5, 8, 13, 64])
def test_shares_cover_a_batch_once_and_their_weighted_means_make_its_mean(ranks, count, monkeypatch):
    monkeypatch.setattr(distributed, "world_size", lambda: ranks)
    losses, shares = torch.rand(count, dtype=torch.float64), []
    for rank in range(ranks):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        shares.append(distributed.share(count))
    mean = sum(losses[share.part].mean() * share.weight for share in shares) / ranks
    torch.testing.assert_close(mean, losses.mean())
    if count >= 2 * ranks:
        assert torch.equal(torch.cat([losses[share.part] for share in shares]), losses)
        assert min(len(losses[share.part]) for share in shares) >= 2
    else:
        assert all(share.whole for share in shares)

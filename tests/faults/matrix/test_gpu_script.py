"""What benchmarks/gpu_faults.py says where there is no GPU, and how it judges what it sees."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import gpu_faults


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_nothing_is_measured_or_written_and_that_is_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(gpu_faults, "RESULTS", tmp_path)
    assert gpu_faults.main([]) == gpu_faults.NO_GPU
    assert "no GPU" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.fault(6)
def test_a_hidden_gpu_is_none_to_the_real_child_of_the_script(tmp_path: Path) -> None:
    (seen,) = gpu_faults.no_gpu(gpu_faults.Bench(tmp_path, rehearse=True))
    assert (seen.row, seen.found, seen.right) == (6, "no_gpu", True)


@pytest.mark.parametrize(
    ("ends", "right"),
    [
        (["whole", "halved", "oom"], True),
        (["whole", "whole", "halved", "halved", "oom"], True),
        (["whole", "oom"], False),
        (["whole", "halved"], False),
        (["whole", "halved", "no result"], False),
        (["halved", "oom"], False),
    ],
)
def test_memory_is_judged_by_the_order_of_its_ends(
    ends: list[str], right: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found: list[Any] = [(end, 2**30, 0.5) for end in ends]
    monkeypatch.setattr(gpu_faults, "rehearsed_ends", lambda bench: found)
    (seen,) = gpu_faults.out_of_memory(gpu_faults.Bench(tmp_path, rehearse=True))
    assert seen.right is right
    assert gpu_faults.markdown([seen], "Machine.").count("as it must be") == right

"""Several processes at one computation, the ranks of torch.distributed. Where there is no process group, all is as alone.

Every rank calls the same functions with the same arguments, and all of them get the same result: each takes its part of
a batch or of a list of images, and what the parts give is put together. Nothing depends on which rank took what, but for
the order in which floats are added.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

_ALONE: ContextVar[bool] = ContextVar("alone", default=False)


@dataclass(frozen=True)
class Share:
    """What this rank takes of things that all ranks list in the same order."""

    count: int  # of all
    part: slice
    weight: float  # of a mean over this part, so that the mean over the ranks is that over all; exactly 1 where alone

    @property
    def whole(self) -> bool:
        return self.part == slice(0, self.count)


def world_size() -> int:
    """How many ranks share the computation; 1 without a process group and where this rank works `alone`."""
    return dist.get_world_size() if _grouped() else 1


def rank() -> int:
    """This process's number among them, from 0."""
    return dist.get_rank() if _grouped() else 0


@contextmanager
def alone() -> Iterator[None]:
    """What this thread does inside is not shared with other ranks, who may do something else meanwhile."""
    before = _ALONE.set(True)
    try:
        yield
    finally:
        _ALONE.reset(before)


def part(count: int) -> range:
    """Which of ``count`` independent tasks are this rank's: consecutive ones, none for some ranks if there are few."""
    ranks, own = world_size(), rank()
    return range(count * own // ranks, count * (own + 1) // ranks)


def share(count: int) -> Share:
    """This rank's part of a batch or list of ``count`` images.

    Fewer than two for each rank are not worth sharing, and batch norm has no use for a single one: then every rank takes
    all of them, and a mean over the ranks is still the mean over all.
    """
    if not _shareable(count):
        return Share(count, slice(0, count), 1.0)
    own = part(count)
    return Share(count, slice(own.start, own.stop), len(own) * world_size() / count)


def gathered(rows: Tensor, count: int) -> Tensor:
    """The rows of all ranks in order, ``count`` in all, where each gives those of its `share`; equal on all ranks."""
    ranks = world_size()
    if ranks == 1:
        return rows
    if not _shareable(count):
        return _of_first(rows)
    lengths = [count * (number + 1) // ranks - count * number // ranks for number in range(ranks)]
    padded = rows.new_zeros((max(lengths), *rows.shape[1:]))
    padded[: len(rows)] = rows
    everyone = [torch.empty_like(padded) for _ in range(ranks)]
    dist.all_gather(everyone, padded)
    whole = torch.cat([some[:length] for some, length in zip(everyone, lengths, strict=True)])
    last = rows.dim() == 4 and rows.is_contiguous(memory_format=torch.channels_last)
    return whole.contiguous(memory_format=torch.channels_last) if last else whole


def gathered_values(values: list[Any]) -> list[Any]:
    """The JSON values of all ranks in the order of the ranks, which may have any number of them each."""
    if world_size() == 1:
        return values
    # As JSON in plain tensors: what comes from another process is never unpickled.
    content = torch.frombuffer(bytearray(json.dumps(values).encode()), dtype=torch.uint8).to(_device())
    sizes = [torch.zeros(1, dtype=torch.int64, device=_device()) for _ in range(world_size())]
    dist.all_gather(sizes, torch.tensor([len(content)], device=_device()))
    padded = content.new_zeros(int(torch.cat(sizes).max()))
    padded[: len(content)] = content
    everyone = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(everyone, padded)
    texts = [bytes(some[: int(size)].tolist()) for some, size in zip(everyone, sizes, strict=True)]
    return [value for text in texts for value in json.loads(text)]


def summed(values: Tensor) -> Tensor:
    """The sum over the ranks, equal on all of them."""
    if world_size() == 1:
        return values
    total = values.to(_device(), copy=True)
    dist.all_reduce(total)
    return total.to(values.device)


def averaged(values: Tensor) -> Tensor:
    """The mean over the ranks, equal on all of them."""
    return values if world_size() == 1 else summed(values) / world_size()


@contextmanager
def together(network: nn.Module) -> Iterator[nn.Module]:
    """``network`` to be called in training: its gradients are means over the ranks, its batch norm sees all their images.

    At the end every rank holds the very same parameters and buffers.
    """
    if world_size() == 1:
        yield network
        return
    device = next(network.parameters()).device
    own = [
        (parent, name, child)
        for parent in network.modules()
        for name, child in parent.named_children()
        if isinstance(child, _BatchNorm)
    ]
    shared = DistributedDataParallel(network, device_ids=[device.index] if device.type == "cuda" else None)
    for parent, name, child in own:  # only now, for it refuses them on a CPU
        setattr(parent, name, BatchNormOverRanks.sharing(child))
    try:
        yield shared
    finally:
        for parent, name, child in own:
            setattr(parent, name, child.train(getattr(parent, name).training))
    with torch.no_grad():
        for tensor in network.state_dict().values():
            tensor.copy_(_of_first(tensor))


def normalize_over_ranks(network: nn.Module, share: Share) -> None:
    """Batch norm of a network that is trained `together` takes the next images for what they are, all or a share."""
    if world_size() > 1:
        for module in network.modules():
            if isinstance(module, BatchNormOverRanks):
                module.over_ranks = not share.whole


class BatchNormOverRanks(nn.SyncBatchNorm):
    """Batch norm by mean and variance of the ranks' images together: torch's own on a GPU, where alone it works."""

    over_ranks = True

    @classmethod
    def sharing(cls, own: _BatchNorm) -> BatchNormOverRanks:
        """One with the parameters and running statistics of ``own``: the same tensors."""
        shared = cls(own.num_features, own.eps, own.momentum, own.affine, own.track_running_stats, device="meta")
        for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
            setattr(shared, name, getattr(own, name))
        return shared.train(own.training)

    def forward(self, input: Tensor) -> Tensor:
        if not (self.training and self.over_ranks):
            return _BatchNorm.forward(self, input)
        if input.is_cuda:
            return super().forward(input)
        shape, others = [1, -1, *[1] * (input.dim() - 2)], [0, *range(2, input.dim())]
        count = summed(input.new_tensor([input.numel() / input.shape[1]]))
        mean = _summed(input.sum(others)) / count
        centred = input - mean.view(shape)
        variance = _summed(centred.square().sum(others)) / count
        self._remember(mean.detach(), variance.detach() * count / (count - 1))
        scale = torch.rsqrt(variance + self.eps)
        if self.weight is not None:
            scale = scale * self.weight
        normal: Tensor = centred * scale.view(shape)
        return normal if self.bias is None else normal + self.bias.view(shape)

    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        newest = 1 / self.num_batches_tracked.item() if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, newest)
        self.running_var.lerp_(variance, newest)


class _Summed(torch.autograd.Function):
    """A sum over the ranks whose gradient comes back from all of them."""

    @staticmethod
    def forward(_: Any, values: Tensor) -> Tensor:
        return summed(values)

    @staticmethod
    def backward(_: Any, slope: Tensor) -> Tensor:
        return summed(slope)


def _summed(values: Tensor) -> Tensor:
    total: Tensor = _Summed.apply(values)  # type: ignore[no-untyped-call]
    return total


def _grouped() -> bool:
    return not _ALONE.get() and dist.is_available() and dist.is_initialized()


def _shareable(count: int) -> bool:
    return world_size() > 1 and count >= 2 * world_size()


def _device() -> torch.device:
    """Where the process group wants its tensors."""
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")


def _of_first(values: Tensor) -> Tensor:
    sent = values.contiguous().to(_device(), copy=True)
    dist.broadcast(sent, 0)
    return sent.to(values.device)

"""A network's parameters as safetensors, and back into a network of the same architecture."""

from __future__ import annotations

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn


class InvalidCheckpoint(Exception):
    """These bytes are not the parameters of this network; the message says why."""


def dump(network: nn.Module) -> bytes:
    """Parameters and buffers, on the CPU. The same values always give the same bytes."""
    return save({name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()})


def restore(network: nn.Module, content: bytes) -> nn.Module:
    """Fill ``network`` in place; returns it in evaluation mode.

    Raises:
        InvalidCheckpoint: not safetensors, other names, shapes or types than the network's, or a value that is not finite.
    """
    try:
        tensors = load(content)
    except SafetensorError as error:
        raise InvalidCheckpoint(f"it is not a safetensors file ({error})") from error
    wanted = network.state_dict()
    if tensors.keys() != wanted.keys():
        names = sorted(tensors.keys() ^ wanted.keys())
        raise InvalidCheckpoint(f"it is of another network: {len(names)} names differ, {names[0]!r} among them")
    for name, tensor in tensors.items():
        if tensor.shape != wanted[name].shape or tensor.dtype != wanted[name].dtype:
            raise InvalidCheckpoint(
                f"{name} is {tensor.dtype} {tuple(tensor.shape)} instead of "
                f"{wanted[name].dtype} {tuple(wanted[name].shape)}"
            )
        if not torch.isfinite(tensor).all():
            raise InvalidCheckpoint(f"{name} holds values that are not finite")
    network.load_state_dict(tensors)
    return network.eval()

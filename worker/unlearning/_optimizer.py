"""torch's SGD without its import of torch's compiler, which takes as long as importing torch does."""

from __future__ import annotations

from inspect import unwrap

import torch
from torch.optim import SGD as TorchSGD


class SGD(TorchSGD):
    """`torch.optim.SGD`: the same arguments, the same steps.

    Its methods are wrapped to tell ``torch.compile`` to leave them alone, and load all of that for it: 2 seconds of
    processor time and 60 MB of memory in each process that trains anything. Nothing here compiles a step of the
    optimizer, only a network's forward pass; so these are the methods within the wrappers.
    """

    add_param_group = unwrap(TorchSGD.add_param_group)
    zero_grad = unwrap(TorchSGD.zero_grad)
    step = torch.no_grad()(unwrap(TorchSGD.step))

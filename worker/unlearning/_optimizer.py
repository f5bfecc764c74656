"""torch's SGD without its import of torch's compiler, which takes as long as importing torch does."""

from __future__ import annotations

from inspect import unwrap

import torch
from torch import optim


class SGD(optim.SGD):
    """`torch.optim.SGD`: the same arguments, the same steps.

    Its methods are wrapped to tell ``torch.compile`` to leave them alone, and load all of that for it: 1.3 to 2.8 seconds of
    processor time and 73 MB of memory in each process that trains anything. Nothing here compiles a step of the
    optimizer, only a network's forward pass; so these are the methods within the wrappers.
    """

    add_param_group = unwrap(optim.SGD.add_param_group)
    zero_grad = unwrap(optim.SGD.zero_grad)
    step = torch.no_grad()(unwrap(optim.SGD.step))

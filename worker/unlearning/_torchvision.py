"""torchvision's ResNet-18, also where its compiled operators do not load."""

from __future__ import annotations

import torch


def resnet18(*, classes: int) -> torch.nn.Module:
    """torchvision's randomly initialised ``resnet18`` with ``classes`` logits."""
    try:
        from torchvision.models import resnet18 as architecture
    except RuntimeError:
        # A wheel built for another torch loads none of its operators, and its import fails on describing these two.
        # Declaring their signatures is enough: no network here calls them.
        for name in ("nms", "qnms"):
            torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        from torchvision.models import resnet18 as architecture
    network: torch.nn.Module = architecture(num_classes=classes)
    return network

"""torchvision's classifiers, also where its compiled operators do not load. The only place that imports torchvision."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

import torch
from torch import nn


def _models() -> Any:
    try:
        from torchvision import models
    except RuntimeError:
        # A wheel built for another torch loads none of its operators, and its import fails on describing these two.
        # Declaring their signatures is enough: no classifier calls them.
        for name in ("nms", "qnms"):
            torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        from torchvision import models
    return models


def classifier(name: str, *, classes: int, side: int) -> nn.Module:
    """torchvision's randomly initialised classifier of that name, for three channels, mapping images to logits alone.

    Args:
        side: of the images in pixels; only vision transformers are built for one.

    Raises:
        ValueError: no classifier has that name, or it cannot be built for this side.
    """
    models = _models()
    names = models.list_models(module=models)
    if name not in names:
        close = get_close_matches(name, names) or names[:3]
        raise ValueError(f"torchvision has no classifier {name!r}; it has {', '.join(close)}")
    options: dict[str, Any] = {"weights": None, "num_classes": classes}
    if name in ("googlenet", "inception_v3"):
        options |= {"aux_logits": False, "init_weights": True}  # auxiliary heads would return more than logits
    if name.startswith("vit_"):
        options["image_size"] = side
    try:
        network: nn.Module = models.get_model(name, **options)
    except (AssertionError, ValueError, RuntimeError) as error:
        raise ValueError(f"torchvision/{name} cannot be built for images of {side} pixels: {error}") from error
    return network


def features(name: str) -> nn.Module:
    """The convolutional part of one of torchvision's VGG networks, randomly initialised."""
    part: nn.Module = _models().get_model(name, weights=None).features
    return part

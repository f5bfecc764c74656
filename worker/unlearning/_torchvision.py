"""torchvision's classifiers and files, also where its compiled operators do not load. The only place that imports it."""

from __future__ import annotations

import gzip
import hashlib
import os
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from worker.unlearning.images import DataError, Pixels, refuse_links

SPLITS = ("train", "test")


def _package() -> Any:
    try:
        import torchvision
    except RuntimeError:
        # A wheel built for another torch loads none of its operators, and its import fails on describing these two.
        # Declaring their signatures is enough: no classifier calls them.
        for name in ("nms", "qnms"):
            torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision
    return torchvision


def _models() -> Any:
    return _package().models


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


def files_of(dataset: str, root: Path) -> tuple[dict[str, tuple[Pixels, NDArray[np.int64]]], list[str]]:
    """Images and labels by split, ``train`` and ``test``, and the names of the classes, from torchvision's own files.

    Nothing is fetched. CIFAR10's files are pickles: torchvision compares their md5 with the published ones before it opens
    them. FashionMNIST's are plain bytes, of which torchvision knows no md5; where the archives that they were unpacked from
    lie beside them, as its download leaves them, these are compared with the published md5 and with the files.

    Args:
        dataset: CIFAR10 or FashionMNIST.
        root: folder that holds ``cifar-10-batches-py`` or ``FashionMNIST``, absolute.

    Raises:
        DataError: another data set, or a file that is missing, was changed, or is reached through a link.
    """
    read = {"CIFAR10": _cifar10, "FashionMNIST": _fashion_mnist}.get(dataset)
    if read is None:
        raise DataError(f"there is no data set {dataset!r} to read from torchvision's files: CIFAR10 or FashionMNIST")
    refuse_links(root)
    try:
        return read(_package().datasets, root)
    except (DataError, MemoryError):
        raise
    except Exception as error:  # changed files may raise anything in torchvision's readers
        raise DataError(f"{dataset}: its files cannot be read ({type(error).__name__})") from error


def _cifar10(datasets: Any, root: Path) -> tuple[dict[str, tuple[Pixels, NDArray[np.int64]]], list[str]]:
    kind = datasets.CIFAR10
    listed = [*kind.train_list, *kind.test_list, (kind.meta["filename"], kind.meta["md5"])]
    for name, md5 in listed:
        _check(datasets, root / kind.base_folder / name, f"{kind.base_folder}/{name}", md5)
    splits, classes = {}, []
    for split in SPLITS:
        made = kind(root, train=split == "train", download=False)
        splits[split] = made.data.transpose(0, 3, 1, 2), np.array(made.targets, dtype=np.int64)
        classes = list(made.classes)
    return splits, classes


def _fashion_mnist(datasets: Any, root: Path) -> tuple[dict[str, tuple[Pixels, NDArray[np.int64]]], list[str]]:
    kind = datasets.FashionMNIST
    folder = root / "FashionMNIST"
    if os.path.lexists(folder / "processed"):
        raise DataError("FashionMNIST/processed: it is of an older torchvision, and would be read instead: remove it")
    for name, md5 in kind.resources:
        plain, archive = folder / "raw" / name.removesuffix(".gz"), folder / "raw" / name
        _check(datasets, plain, f"FashionMNIST/raw/{plain.name}", None)
        if os.path.lexists(archive):
            _check(datasets, archive, f"FashionMNIST/raw/{name}", md5)
            _check_unpacked(archive, plain)
    splits = {}
    for split in SPLITS:
        made = kind(root, train=split == "train", download=False)
        pixels, labels = made.data.numpy()[:, None], made.targets.numpy()
        if len(pixels) != len(labels) or not len(labels) or labels.max() >= len(kind.classes):
            raise DataError(f"FashionMNIST/raw: images and labels of {split} do not fit together")
        splits[split] = pixels, labels
    return splits, list(kind.classes)


def _check(datasets: Any, path: Path, name: str, md5: str | None) -> None:
    """Raises DataError where there is no such file, or where it has another md5."""
    refuse_links(path)
    if not path.is_file():
        raise DataError(f"{name}: the file is missing")
    if not datasets.utils.check_integrity(path, md5):
        raise DataError(f"{name}: it is not the file that torchvision knows; its md5 differs")


def _check_unpacked(archive: Path, plain: Path) -> None:
    with gzip.open(archive) as packed, plain.open("rb") as file:
        if hashlib.file_digest(packed, "sha256").digest() != hashlib.file_digest(file, "sha256").digest():
            raise DataError(f"FashionMNIST/raw/{plain.name}: it is not what its archive holds")

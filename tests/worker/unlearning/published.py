"""Small files in the formats of the data sets that torchvision reads."""

import gzip
import hashlib
import pickle
from pathlib import Path

import numpy as np

from worker.unlearning import _torchvision

CIFAR_CLASSES = ["airplane", "automobile", "bird"]
CIFAR_BATCH = 6


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def cifar10(root, monkeypatch):
    """Five training batches and a test batch, their md5 made known to torchvision; returns images and labels by split."""
    kind = _torchvision._package().datasets.CIFAR10
    folder, generator = root / "cifar-10-batches-py", np.random.default_rng(0)
    folder.mkdir(parents=True)
    listed, made = {}, {"train": [], "test": []}
    for name in [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]:
        pixels = generator.integers(0, 256, (CIFAR_BATCH, 3, 32, 32), dtype=np.uint8)
        labels = [row % len(CIFAR_CLASSES) for row in range(CIFAR_BATCH)]
        content = {"data": pixels.reshape(CIFAR_BATCH, -1), "labels": labels}
        (folder / name).write_bytes(pickle.dumps(content))
        made["test" if name == "test_batch" else "train"].append((pixels, labels))
        listed[name] = md5(folder / name)
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": CIFAR_CLASSES}))
    test = listed.pop("test_batch")
    monkeypatch.setattr(kind, "train_list", [list(pair) for pair in listed.items()])
    monkeypatch.setattr(kind, "test_list", [["test_batch", test]])
    monkeypatch.setattr(kind, "meta", kind.meta | {"md5": md5(folder / "batches.meta")})
    return {
        split: (np.concatenate([pixels for pixels, _ in parts]), [label for _, labels in parts for label in labels])
        for split, parts in made.items()
    }


def fashion_mnist(root, monkeypatch, *, archives=True):
    """Images and labels in the format of MNIST, with the archives they come from; returns them by split."""
    kind = _torchvision._package().datasets.FashionMNIST
    folder, generator = root / "FashionMNIST/raw", np.random.default_rng(0)
    folder.mkdir(parents=True)
    made, resources = {}, []
    for split, name, count in (("train", "train", 40), ("test", "t10k", 20)):
        pixels = generator.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = np.arange(count, dtype=np.uint8) % 10
        made[split] = pixels[:, None], labels.tolist()
        for file, magic, array in (
            (f"{name}-images-idx3-ubyte", 2051, pixels),
            (f"{name}-labels-idx1-ubyte", 2049, labels),
        ):
            content = b"".join(number.to_bytes(4) for number in (magic, *array.shape)) + array.tobytes()
            (folder / file).write_bytes(content)
            packed = folder / f"{file}.gz"
            packed.write_bytes(gzip.compress(content))
            resources.append((packed.name, md5(packed)))
            if not archives:
                packed.unlink()
    monkeypatch.setattr(kind, "resources", resources)
    return made

"""torchvision's own files, read through torchvision."""

import os
import pickle
import shutil

import numpy as np
import pytest

from tests.worker.unlearning import published
from worker.unlearning import _torchvision, images


def flipped(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("archives", [True, False])
@pytest.mark.parametrize("name", ["CIFAR10", "FashionMNIST"])
def test_images_and_labels_are_those_of_the_files(tmp_path, monkeypatch, name, archives):
    if name == "CIFAR10":
        made = published.cifar10(tmp_path, monkeypatch)
    else:
        made = published.fashion_mnist(tmp_path, monkeypatch, archives=archives)
    splits, classes = _torchvision.files_of(name, tmp_path)
    assert list(splits) == ["train", "test"]
    for split, (pixels, labels) in made.items():
        assert np.array_equal(splits[split][0], pixels)
        assert splits[split][0].dtype == np.uint8
        assert splits[split][1].tolist() == labels
    assert classes[:2] == (["airplane", "automobile"] if name == "CIFAR10" else ["T-shirt/top", "Trouser"])


@pytest.mark.parametrize("file", ["data_batch_3", "test_batch", "batches.meta"])
@pytest.mark.parametrize("spoil", [flipped, os.unlink])
def test_a_cifar_file_that_is_missing_or_was_changed_is_refused_before_it_is_unpickled(
    tmp_path, monkeypatch, file, spoil
):
    published.cifar10(tmp_path, monkeypatch)
    spoil(tmp_path / "cifar-10-batches-py" / file)
    monkeypatch.setattr(pickle, "load", lambda *_, **__: pytest.fail("it was unpickled"))
    with pytest.raises(images.DataError, match=f"cifar-10-batches-py/{file}: .*(md5|missing)"):
        _torchvision.files_of("CIFAR10", tmp_path)


@pytest.mark.parametrize("file", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte", "t10k-images-idx3-ubyte.gz"])
def test_a_fashion_file_that_is_not_what_its_archive_holds_is_refused(tmp_path, monkeypatch, file):
    published.fashion_mnist(tmp_path, monkeypatch)
    flipped(tmp_path / "FashionMNIST/raw" / file)
    with pytest.raises(images.DataError, match=f"FashionMNIST/raw/{file}: .*(archive|md5)"):
        _torchvision.files_of("FashionMNIST", tmp_path)


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def other_labels(path):
    path.write_bytes(path.read_bytes()[:8] + b"\x0b" * 20)


@pytest.mark.parametrize(
    ("file", "spoil"),
    [
        ("train-images-idx3-ubyte", os.unlink),
        ("train-images-idx3-ubyte", cut),
        ("t10k-labels-idx1-ubyte", cut),
        ("t10k-labels-idx1-ubyte", other_labels),
        ("t10k-images-idx3-ubyte", lambda path: path.write_bytes(b"")),
    ],
)
def test_without_archives_files_that_do_not_fit_together_are_refused(tmp_path, monkeypatch, file, spoil):
    published.fashion_mnist(tmp_path, monkeypatch, archives=False)
    spoil(tmp_path / "FashionMNIST/raw" / file)
    with pytest.raises(images.DataError, match="FashionMNIST"):
        _torchvision.files_of("FashionMNIST", tmp_path)


def test_what_an_older_torchvision_left_is_not_read_instead(tmp_path, monkeypatch):
    published.fashion_mnist(tmp_path, monkeypatch)
    (tmp_path / "FashionMNIST/processed").mkdir()
    with pytest.raises(images.DataError, match="processed: .* remove it"):
        _torchvision.files_of("FashionMNIST", tmp_path)


def test_links_are_refused_wherever_they_are(tmp_path, monkeypatch):
    published.cifar10(tmp_path / "real", monkeypatch)
    (tmp_path / "root").mkdir()
    (tmp_path / "root/cifar-10-batches-py").symlink_to(tmp_path / "real/cifar-10-batches-py")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for root in (tmp_path / "root", tmp_path / "link"):
        with pytest.raises(images.DataError, match="without links"):
            _torchvision.files_of("CIFAR10", root)
    batch = tmp_path / "real/cifar-10-batches-py/test_batch"
    shutil.move(batch, tmp_path / "elsewhere")
    batch.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(images.DataError, match="test_batch"):
        _torchvision.files_of("CIFAR10", tmp_path / "real")


def test_another_data_set_is_refused(tmp_path):
    with pytest.raises(images.DataError, match="CIFAR10 or FashionMNIST"):
        _torchvision.files_of("CIFAR100", tmp_path)

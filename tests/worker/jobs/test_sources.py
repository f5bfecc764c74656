"""What is registered of each kind of source: keys, labels, splits, subjects, and what is refused."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from tests.worker.unlearning import published
from worker import pipeline
from worker import plan as agreed
from worker.jobs import sources
from worker.unlearning import images

GREY = np.random.default_rng(0).integers(0, 256, (8, 6, 5), dtype=np.uint8)
SPLITS = ["train", "test"] * 4
TEST = agreed.Controls(folder="test")
QUARTER = agreed.Controls(share=0.25)


def npz(folder, **content):
    np.savez(folder / "set.npz", **{"images": GREY, "labels": [0, 0, 1, 1] * 2, **content})
    return agreed.Source("arrays", str(folder / "set.npz"))


def registered(source, controls, folder):
    """Outcome and manifest of a register job, run here."""
    folder.mkdir()
    (folder / "plan.json").write_text(agreed.dump(agreed.RegisterPlan(source, controls, seed=3)))
    stream = io.StringIO()
    result = pipeline.run(folder / "plan.json", folder, stream)
    assert result.status == "succeeded", result.error
    assert {json.loads(line)["phase"] for line in stream.getvalue().splitlines()} == set(agreed.REGISTER_PHASES)
    return result.outcome, [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]


def refusal(source, controls=QUARTER):
    with pytest.raises(images.DataError) as raised:
        sources.describe(agreed.RegisterPlan(source, controls, seed=0))
    return str(raised.value)


def test_arrays_keep_their_order_keys_and_subjects(tmp_path):
    keys = [f"person-{row}" for row in range(8)]
    source = npz(tmp_path, keys=keys, subjects=["Xaver", ""] * 4, splits=SPLITS, classes=["cat", "dog"])
    outcome, lines = registered(source, TEST, tmp_path / "out")
    assert (outcome["rows"], outcome["shape"], outcome["classes"]) == (8, (1, 6, 5), ["cat", "dog"])
    assert (outcome["train"], outcome["controls"]) == (4, 4)
    assert [line["key"] for line in lines] == keys
    assert [line["subject"] for line in lines] == ["Xaver", None] * 4
    assert [line["split"] for line in lines] == ["train", "control"] * 4
    assert [line["label"] for line in lines] == [0, 0, 1, 1] * 2
    assert {line["file_sha256"] for line in lines} == {None}
    assert [line["sha256"] for line in lines] == [images.row_digest(image).hex() for image in GREY]
    pixels = np.fromfile(tmp_path / "out/pixels.u8", np.uint8)
    assert np.array_equal(pixels.reshape(GREY.shape), GREY)


def test_without_keys_images_are_numbered_within_their_split(tmp_path):
    _, lines = registered(npz(tmp_path, splits=SPLITS), TEST, tmp_path / "by split")
    assert [line["key"] for line in lines[:4]] == ["train/00000", "test/00000", "train/00001", "test/00001"]
    _, lines = registered(npz(tmp_path), QUARTER, tmp_path / "drawn")
    assert sorted(line["key"] for line in lines) == [
        *(f"control/{number:05d}" for number in range(2)),
        *(f"train/{number:05d}" for number in range(6)),
    ]
    assert all(line["key"].startswith(line["split"]) for line in lines)


def test_without_classes_the_numbers_are_their_names(tmp_path):
    outcome, lines = registered(npz(tmp_path, labels=[7, 7, -1, -1] * 2), QUARTER, tmp_path / "out")
    assert outcome["classes"] == ["-1", "7"]
    assert [line["label"] for line in lines] == [1, 1, 0, 0] * 2


@pytest.mark.parametrize(
    ("content", "controls", "named"),
    [
        ({}, TEST, "splits: the array is missing"),
        ({"splits": ["train"] * 8}, TEST, "no control images"),
        ({"splits": ["test"] * 8}, TEST, "no training images"),
        ({"splits": ["train", "train", "test", "test"] * 2}, TEST, "class 1 has no training images"),
        ({"labels": [0] * 8}, QUARTER, "one class only"),
        ({"classes": ["cat", "dog", "cow"]}, QUARTER, "class cow has no training images"),
        ({"classes": ["cat"]}, QUARTER, "labels: entry 2 is 1, and there are 1 classes"),
        ({"classes": ["cat", "cat"]}, QUARTER, "classes: a name is there twice"),
        ({"classes": ["cat", ""]}, QUARTER, "classes: entry 1"),
        ({"keys": list("abcdefga")}, QUARTER, "keys: a is there twice"),
        ({"keys": ["a" * 1025, *"bcdefgh"]}, QUARTER, "keys: entry 0"),
        ({"keys": [*"abcdefg", "h\ni"]}, QUARTER, "keys: entry 7"),
        ({"keys": ["a\0b", *"bcdefgh"]}, QUARTER, "keys: entry 0"),
        ({"subjects": [*"abcdefg", "x" * 256]}, QUARTER, "subjects: entry 7"),
        ({"subjects": ["Xaver\tbob", *"bcdefgh"]}, QUARTER, "subjects: entry 0"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_arrays_that_make_no_training_set_are_refused(tmp_path, content, controls, named):
    told = refusal(npz(tmp_path, **content), controls)
    assert named in told
    assert "Xaver" not in told


@pytest.mark.parametrize("name", ["CIFAR10", "FashionMNIST"])
def test_published_files_are_numbered_within_train_and_test(tmp_path, monkeypatch, name):
    made = {"CIFAR10": published.cifar10, "FashionMNIST": published.fashion_mnist}[name](tmp_path, monkeypatch)
    source = agreed.Source("torchvision", str(tmp_path), dataset=name)
    outcome, lines = registered(source, TEST, tmp_path / "out")
    count = {split: len(labels) for split, (_, labels) in made.items()}
    assert (outcome["train"], outcome["controls"]) == (count["train"], count["test"])
    assert [line["key"] for line in lines] == [
        f"{split}/{number:05d}" for split in ("train", "test") for number in range(count[split])
    ]
    pixels = np.concatenate([made["train"][0], made["test"][0]])
    assert [line["sha256"] for line in lines] == [images.row_digest(image).hex() for image in pixels]
    assert [line["label"] for line in lines] == made["train"][1] + made["test"][1]
    _, drawn = registered(source, QUARTER, tmp_path / "drawn")
    assert [line["key"] for line in drawn] == [line["key"] for line in lines]
    assert sum(line["split"] == "control" for line in drawn) == round(0.25 * len(lines))


def test_a_published_control_that_is_a_copy_of_a_training_image_counts_as_trained_on(tmp_path, monkeypatch):
    published.fashion_mnist(tmp_path, monkeypatch, archives=False)
    raw, size = tmp_path / "FashionMNIST/raw", 28 * 28
    train = (raw / "train-images-idx3-ubyte").read_bytes()
    test = (raw / "t10k-images-idx3-ubyte").read_bytes()
    (raw / "t10k-images-idx3-ubyte").write_bytes(test[:16] + train[16 : 16 + size] + test[16 + size :])
    source = agreed.Source("torchvision", str(tmp_path), dataset="FashionMNIST")
    outcome, lines = registered(source, TEST, tmp_path / "out")
    assert [line["key"] for line in lines if line["split"] == "control"] == [
        f"test/{number:05d}" for number in range(1, 20)
    ]
    assert (outcome["train"], outcome["controls"]) == (41, 19)


@pytest.fixture
def folder(tmp_path):
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            for number in range(2):
                path = tmp_path / "source" / split / name / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                pixels = np.random.default_rng([ord(split[1]), ord(name[0]), number]).integers(0, 256, (6, 5))
                Image.fromarray(pixels.astype(np.uint8)).save(path)
    return tmp_path / "source"


def listed(folder, text):
    (folder / "subjects.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    return agreed.Source("folder", str(folder), subjects="subjects.csv")


@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_a_folder_s_subjects_are_those_of_its_list(folder, tmp_path, start):
    text = f'{start}key,subject\r\ntrain/cat/1.png,"Ann, B."\r\ntest/dog/0.png,Zoë\r\ntrain/dog/0.png,\r\n'
    _, lines = registered(listed(folder, text), TEST, tmp_path / "out")
    assert {line["key"]: line["subject"] for line in lines if line["subject"]} == {
        "train/cat/1.png": "Ann, B.",
        "test/dog/0.png": "Zoë",
    }
    assert len(lines) == 8


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "first line must be key,subject"),
        ("train/cat/1.png,Xaver\n", "first line must be key,subject"),
        ("subject,key\n", "first line must be key,subject"),
        ("key,subject\ntrain/cat/9.png,Xaver\n", "line 2 names an image that is not in the folder"),
        ("key,subject\ntrain/cat/1.png,Xaver\ntrain/cat/1.png,Xaver\n", "line 3 names train/cat/1.png a second time"),
        ("key,subject\ntrain/cat/1.png,Xaver,bob\n", "line 2 has 3 columns"),
        ("key,subject\ntrain/cat/1.png\n", "line 2 has 1 columns"),
        ("key,subject\n\n", "line 2 has 0 columns"),
        ("key,subject\ntrain/cat/1.png," + "Xaver" * 100 + "\n", "line 2: a subject has 255"),
        ('key,subject\ntrain/cat/1.png,"Xaver\nbob"\n', "line 3: a subject has"),
        ('key,subject\ntrain/cat/1.png,"Xaver" bob\n', "not a CSV file"),
        (b"key,subject\ntrain/cat/1.png,Xaver\xff\n", "not a CSV file in UTF-8"),
    ],
)
def test_a_list_of_subjects_that_cannot_be_used_is_refused_without_repeating_a_subject(folder, text, named):
    told = refusal(listed(folder, text), TEST)
    assert told.startswith("subjects.csv: ")
    assert named in told
    assert "Xaver" not in told


def test_a_list_that_is_missing_or_a_link_is_refused(folder, tmp_path):
    source = agreed.Source("folder", str(folder), subjects="subjects.csv")
    assert "subjects.csv: the file cannot be read" in refusal(source, TEST)
    (tmp_path / "secret.csv").write_text("key,subject\n")
    (folder / "subjects.csv").symlink_to(tmp_path / "secret.csv")
    assert "subjects.csv: the file cannot be read" in refusal(source, TEST)


def test_a_list_that_nobody_named_is_an_image_out_of_place(folder):
    listed(folder, "key,subject\n")
    assert "subjects.csv: a folder is expected here" in refusal(agreed.Source("folder", str(folder)), TEST)


def test_a_source_that_there_is_not_is_a_plan_that_cannot_be_done():
    with pytest.raises(sources.Failed, match="no source of kind 'url'"):
        sources.describe(agreed.RegisterPlan(agreed.Source("url", "x"), QUARTER, seed=0))


def test_a_near_copy_among_training_images_and_controls_is_written_beside_the_manifest(tmp_path):
    digits, labels, _ = images.digits()
    near = np.clip(digits[:1].astype(int) + np.random.default_rng(0).integers(-2, 3, (1, 1, 8, 8)), 0, 255)
    source = npz(
        tmp_path,
        images=np.concatenate([digits[:300], near.astype(np.uint8)]),
        labels=np.concatenate([labels[:300], labels[:1]]),
        splits=["train"] * 300 + ["test"],
    )
    outcome, lines = registered(source, TEST, tmp_path / "out")
    found = [json.loads(line) for line in (tmp_path / "out/near_duplicates.jsonl").read_text().splitlines()]
    told = outcome["near_duplicates"]
    assert (lines[0]["split"], lines[300]["split"]) == ("train", "control")
    pair = next(pair for pair in found if (pair["first"], pair["second"]) == (0, 300))
    assert 0 < pair["distance"] <= told["threshold"] < told["median_distance"]
    assert (told["searched"], told["pairs"], told["why_not"]) == (301, len(found), None)

import io
import os
import pickle
import zipfile

import numpy as np
import pytest

from worker.unlearning import arrays, images

GENERATOR = np.random.default_rng(0)
COLOUR = GENERATOR.integers(0, 256, (4, 3, 6, 5), dtype=np.uint8)
LABELS = np.array([0, 1, 1, 0])


def saved(path, **content):
    np.savez(path, **{"images": COLOUR, "labels": LABELS, **content})
    return path


def rows_of(path):
    return np.stack(list(arrays.load(path).rows))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (COLOUR, COLOUR),
        (np.ascontiguousarray(COLOUR.transpose(0, 2, 3, 1)), COLOUR),
        (COLOUR[:, 0].copy(), COLOUR[:, :1]),
        (COLOUR[:, :1].copy(), COLOUR[:, :1]),
        (np.ascontiguousarray(COLOUR[:, :1].transpose(0, 2, 3, 1)), COLOUR[:, :1]),
    ],
    ids=lambda array: "x".join(map(str, array.shape)),
)
def test_images_are_read_with_channels_first_wherever_they_were(tmp_path, save, given, expected):
    save(tmp_path / "set.npz", images=given, labels=LABELS)
    assert np.array_equal(rows_of(tmp_path / "set.npz"), expected)


def test_many_images_are_read_block_by_block(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "CHUNK", 200)
    assert np.array_equal(rows_of(saved(tmp_path / "set.npz")), COLOUR)


def test_the_other_arrays_are_read_where_they_are_there(tmp_path):
    given = {
        "classes": ["cat", "dog"],
        "keys": list("abcd"),
        "subjects": ["ä", "", "x", ""],
        "splits": ["train", "train", "test", "test"],
    }
    found = arrays.load(saved(tmp_path / "set.npz", labels=LABELS.astype(np.uint8), **given))
    assert found.labels.tolist() == [0, 1, 1, 0]
    assert found.labels.dtype == np.int64
    assert {name: getattr(found, name) for name in given} == given
    alone = arrays.load(saved(tmp_path / "alone.npz"))
    assert {getattr(alone, name) for name in given} == {None}


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ({"images": COLOUR.astype(float)}, "images: they are float64 instead of uint8"),
        ({"images": COLOUR.astype(np.int8)}, "images: they are int8"),
        ({"images": COLOUR[0, 0]}, "images: their shape"),
        ({"images": COLOUR[None]}, "images: their shape"),
        ({"images": COLOUR[:0]}, "images: their shape"),
        ({"images": COLOUR[:, :2]}, "neither side has 1 or 3 channels"),
        ({"images": COLOUR[:, :, :, :3]}, "cannot be told"),
        ({"images": COLOUR[:, :1, :, :1]}, "cannot be told"),
        ({"images": np.zeros((1, 5000, 5000), np.uint8), "labels": [0]}, "images: 5000 x 5000 pixels"),
        ({"images": np.asfortranarray(COLOUR)}, "images: save it in C order"),
        ({"labels": LABELS.astype(float)}, "labels: float64"),
        ({"labels": LABELS[:3]}, "labels: int64 of shape (3,) instead of 4 integers"),
        ({"labels": LABELS[None]}, "labels: int64 of shape (1, 4)"),
        ({"labels": np.array([2**64 - 1] * 4, np.uint64)}, "labels: they are larger"),
        ({"keys": ["a", "b"]}, "keys: 2 entries for 4 images"),
        ({"keys": [1, 2, 3, 4]}, "keys: int64"),
        ({"subjects": [b"a"] * 4}, "subjects: |S1"),
        ({"splits": [["a"]] * 4}, "splits: <U1 of shape (4, 1)"),
        ({"classes": np.array(["cat", None], object)}, "classes: it holds Python objects"),
        ({"more": [1]}, "nothing else"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_arrays_that_are_not_as_described_are_named(tmp_path, content, named):
    with pytest.raises(images.DataError) as raised:
        arrays.load(saved(tmp_path / "set.npz", **content))
    assert named in str(raised.value)


def test_an_array_that_is_missing_is_named(tmp_path):
    np.savez(tmp_path / "set.npz", images=COLOUR)
    with pytest.raises(images.DataError, match="labels: the array is missing"):
        arrays.load(tmp_path / "set.npz")


class Bomb:
    def __reduce__(self):
        return os.system, ("touch exploded",)


def test_a_pickle_is_never_opened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = saved(tmp_path / "set.npz", classes=np.array([Bomb()], object))
    with pytest.raises(images.DataError, match="never unpickled"):
        arrays.load(path)
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(images.DataError, match=r"set\.npz: not an npz file"):
        arrays.load(path)
    assert not (tmp_path / "exploded").exists()


def header(shape, dtype="|u1"):
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": dtype, "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def packed(path, content, compression=zipfile.ZIP_DEFLATED, name="images.npy"):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr(name, content)
        buffer = io.BytesIO()
        np.save(buffer, LABELS)
        archive.writestr("labels.npy", buffer.getvalue())
    return path


@pytest.mark.parametrize(
    ("content", "compression", "named"),
    [
        (header((4, 1000, 500)) + bytes(2_000_000), zipfile.ZIP_DEFLATED, "would unpack to"),
        (header((10**12, 4096, 4096)), zipfile.ZIP_STORED, "do not fit together"),
        (header((4, 6, 5)) + bytes(119), zipfile.ZIP_STORED, "do not fit together"),
        (header((4, 6, 5)) + bytes(121), zipfile.ZIP_STORED, "do not fit together"),
        (header((2**63, 2**63, 2)), zipfile.ZIP_STORED, "do not fit together"),
        (header((4, 6, 5)) + bytes(120), zipfile.ZIP_BZIP2, "save it by numpy"),
        (b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 65535, zipfile.ZIP_STORED, "cannot be read"),
        (b"\x93NUMPY\x09\x00", zipfile.ZIP_STORED, "of a format"),
        (b"\x93NUMPY\x03\x00\x00\x00\x00\x00", zipfile.ZIP_STORED, "of a format"),
        (b"", zipfile.ZIP_STORED, "cannot be read"),
    ],
)
def test_arrays_that_were_made_to_harm_are_refused_before_they_are_unpacked(
    tmp_path, monkeypatch, content, compression, named
):
    monkeypatch.setattr(arrays, "RATIO_FREE", 1 << 20)
    with pytest.raises(images.DataError, match=f"images: .*{named}"):
        arrays.load(packed(tmp_path / "set.npz", content, compression))


@pytest.mark.parametrize(("limit", "name"), [("MAX_UNPACKED", "images"), ("MAX_BESIDE", "labels")])
def test_arrays_larger_than_allowed_are_refused(tmp_path, monkeypatch, limit, name):
    monkeypatch.setattr(arrays, limit, 10)
    with pytest.raises(images.DataError, match=f"{name}: .* more than allowed"):
        arrays.load(saved(tmp_path / "set.npz"))


def test_the_same_name_twice_is_refused(tmp_path):
    path = saved(tmp_path / "set.npz")
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("images.npy", b"")
    with pytest.raises(images.DataError, match="each once"):
        arrays.load(path)


def test_a_flipped_byte_is_found_by_the_archive_s_own_checksum(tmp_path):
    path = saved(tmp_path / "set.npz")
    content = bytearray(path.read_bytes())
    place = content.index(COLOUR.tobytes()[:64])
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(images.DataError, match="images: the array cannot be read"):
        rows_of(path)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_truncated_file_is_refused(tmp_path, share):
    path = saved(tmp_path / "set.npz")
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(images.DataError, match=r"set\.npz: not an npz file"):
        arrays.load(path)


def test_a_file_that_is_replaced_between_its_arrays_is_refused(tmp_path):
    found = arrays.load(saved(tmp_path / "set.npz"))
    saved(tmp_path / "set.npz", images=COLOUR[:3])
    with pytest.raises(images.DataError, match="changed while"):
        list(found.rows)


def test_links_and_what_is_no_file_are_refused(tmp_path):
    saved(tmp_path / "set.npz")
    (tmp_path / "link.npz").symlink_to(tmp_path / "set.npz")
    (tmp_path / "below").mkdir()
    (tmp_path / "here").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "pipe.npz")
    for path in ("link.npz", "here/set.npz", "below/../set.npz"):
        with pytest.raises(images.DataError, match="without links"):
            arrays.load(tmp_path / path)
    for path in ("below", "pipe.npz", "nothing.npz"):
        with pytest.raises(images.DataError, match=path):
            arrays.load(tmp_path / path)

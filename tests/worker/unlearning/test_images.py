import hashlib
import io
import os
import zlib

import numpy as np
import pytest
from PIL import Image

from worker.unlearning import images


def encoded(pixels, kind="PNG", **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture
def colour():
    return np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def make(folder, *keys):
    for key in keys:
        (folder / key).parent.mkdir(parents=True, exist_ok=True)
        (folder / key).write_bytes(b"x")
    return folder


def test_a_png_is_decoded_exactly_with_channels_first(colour):
    pixels = images.decode(encoded(colour), "a.png")
    assert pixels.shape == (3, 5, 7)
    assert np.array_equal(pixels, colour.transpose(2, 0, 1))


def test_a_grey_image_has_one_channel(colour):
    assert np.array_equal(images.decode(encoded(colour[:, :, 0]), "a.png"), colour[None, :, :, 0])


def test_a_jpeg_is_decoded_nearly(colour):
    flat = np.full_like(colour, 130)
    assert np.abs(images.decode(encoded(flat, "JPEG"), "a.jpg").astype(int) - 130).max() <= 2


def test_a_palette_is_read_as_its_colours(colour):
    palette = Image.fromarray(np.full((3, 3, 3), (10, 200, 30), dtype=np.uint8)).convert("P", palette=1, colors=4)
    buffer = io.BytesIO()
    palette.save(buffer, "PNG")
    assert images.decode(buffer.getvalue(), "a.png").shape == (3, 3, 3)


def png_of_size(width, height):
    """A valid PNG header that claims a size, with next to no data behind it."""

    def chunk(kind, body):
        return len(body).to_bytes(4) + kind + body + zlib.crc32(kind + body).to_bytes(4)

    header = width.to_bytes(4) + height.to_bytes(4) + bytes([8, 2, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def broken(colour):
    png, jpeg = encoded(colour), encoded(np.tile(colour, (20, 20, 1)), "JPEG")
    flipped = bytearray(png)
    flipped[len(png) // 2] ^= 0xFF
    return {
        "empty": b"",
        "text": b"not an image",
        "truncated.png": png[: len(png) // 2],
        "truncated.jpg": jpeg[: len(jpeg) // 2],
        "flipped.png": bytes(flipped),
        "huge.png": png_of_size(30_000, 30_000),
        "large.png": png_of_size(5_000, 4_000),
        "without data.png": png_of_size(8, 8),
        "gif": encoded(colour[:, :, 0], "GIF"),
        "bmp": encoded(colour, "BMP"),
        "transparent.png": encoded(np.dstack([colour, colour[:, :, :1]])),
        "16 bit.png": encoded(colour[:, :, 0].astype(np.uint16)),
    }


@pytest.mark.fault(20)
@pytest.mark.parametrize("name", broken(np.zeros((5, 7, 3), dtype=np.uint8)))
def test_what_is_no_whole_image_is_refused_by_name(colour, name):
    with pytest.raises(images.DataError, match=name):
        images.decode(broken(colour)[name], name)


def test_class_folders_are_walked_in_the_order_of_their_keys(tmp_path):
    make(tmp_path, "b/2.png", "a/9.png", "b/1.png", "a/10.png")
    found = images.entries(tmp_path, splits=False)
    assert [entry.key for entry in found] == ["a/10.png", "a/9.png", "b/1.png", "b/2.png"]
    assert [entry.label for entry in found] == ["a", "a", "b", "b"]
    assert {entry.top for entry in found} == {None}


def test_splits_are_the_folders_above_the_class_folders(tmp_path):
    make(tmp_path, "train/a/1.png", "test/a/1.png")
    found = images.entries(tmp_path, splits=True)
    assert [(entry.top, entry.label, entry.key) for entry in found] == [
        ("test", "a", "test/a/1.png"),
        ("train", "a", "train/a/1.png"),
    ]


@pytest.mark.parametrize("target", ["outside", "class/1.png"])
def test_links_are_refused_wherever_they_lead(tmp_path, target):
    source = make(tmp_path / "source", "class/1.png")
    make(tmp_path, "outside/1.png")
    (source / "link").symlink_to(tmp_path / "outside" if target == "outside" else source / target)
    with pytest.raises(images.DataError, match="link: links"):
        images.entries(source, splits=False)


def test_a_linked_file_is_refused_in_a_class_folder_and_when_it_is_read(tmp_path):
    make(tmp_path, "source/class/1.png", "secret")
    (tmp_path / "source/class/2.png").symlink_to(tmp_path / "secret")
    with pytest.raises(images.DataError, match=r"class/2\.png"):
        images.entries(tmp_path / "source", splits=False)
    with pytest.raises(images.DataError, match=r"class/2\.png"):
        images.read_file(tmp_path / "source", "class/2.png")


def test_a_source_reached_through_a_link_or_dots_is_refused(tmp_path):
    make(tmp_path, "source/class/1.png")
    (tmp_path / "link").symlink_to(tmp_path / "source")
    for folder in (tmp_path / "link", tmp_path / "source" / ".." / "source"):
        with pytest.raises(images.DataError, match="without links"):
            images.entries(folder, splits=False)


@pytest.mark.parametrize(
    ("splits", "keys", "named"),
    [
        (False, ["README", "a/1.png"], "README"),
        (False, ["a/b/1.png"], "a/b"),
        (True, ["train/1.png"], "train/1.png"),
        (False, ["a/bad\nname.png"], "bad"),
    ],
)
def test_a_file_or_folder_out_of_place_is_named(tmp_path, splits, keys, named):
    make(tmp_path, *keys)
    with pytest.raises(images.DataError, match=named):
        images.entries(tmp_path, splits=splits)


def test_a_missing_and_an_empty_folder_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("empty", "missing"):
        with pytest.raises(images.DataError, match=name):
            images.entries(tmp_path / name, splits=False)


def test_a_pipe_and_a_file_that_is_too_large_are_not_read(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    make(tmp_path, "large")
    monkeypatch.setattr(images, "MAX_FILE_BYTES", 0)
    for key in ("pipe", "large", "missing"):
        with pytest.raises(images.DataError, match=key):
            images.read_file(tmp_path, key)


def test_files_come_with_their_digest_and_must_agree_in_shape(tmp_path, colour):
    (tmp_path / "1.png").write_bytes(encoded(colour))
    (tmp_path / "2.png").write_bytes(encoded(colour[:, ::-1]))
    (tmp_path / "3.png").write_bytes(encoded(colour[:4]))
    seen = []
    pairs = list(images.decode_all(tmp_path, ["1.png", "2.png"], lambda done, count: seen.append((done, count))))
    assert [digest for _, digest in pairs] == [
        hashlib.sha256((tmp_path / name).read_bytes()).digest() for name in ("1.png", "2.png")
    ]
    assert seen == [(1, 2), (2, 2)]
    with pytest.raises(images.DataError, match="3.png: its shape 7 x 4 with 3 channels"):
        list(images.decode_all(tmp_path, ["1.png", "3.png"]))


def test_digits_are_scikit_learns():
    pixels, labels, classes = images.digits()
    assert pixels.shape == (1797, 1, 8, 8)
    assert (pixels.min(), pixels.max()) == (0, 255)
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert classes == list("0123456789")


def test_controls_are_a_share_that_the_seed_fixes():
    chosen = images.draw_controls(100, 0.3, seed=1)
    assert chosen.sum() == 30
    assert np.array_equal(chosen, images.draw_controls(100, 0.3, seed=1))
    assert not np.array_equal(chosen, images.draw_controls(100, 0.3, seed=2))


@pytest.mark.parametrize("share", [0.0, 0.04, 1.0])
def test_a_share_that_leaves_one_side_empty_is_refused(share):
    with pytest.raises(images.DataError):
        images.draw_controls(10, share, seed=0)


def test_a_durable_file_appears_only_when_it_is_complete(tmp_path):
    path = tmp_path / "rows"
    with images.durable(path) as file:
        file.write(b"abc")
        assert not path.exists()
    assert path.read_bytes() == b"abc"
    with pytest.raises(RuntimeError), images.durable(tmp_path / "other") as file:
        file.write(b"abc")
        raise RuntimeError
    assert os.listdir(tmp_path) == ["rows"]


def test_rows_are_read_in_the_order_asked_for(tmp_path):
    rows = np.arange(24, dtype=np.int32).reshape(4, 2, 3)
    (tmp_path / "rows").write_bytes(rows.tobytes())
    got = images.read_rows(tmp_path / "rows", np.array([3, 0]), count=4, shape=(2, 3), dtype="int32")
    assert np.array_equal(got, rows[[3, 0]])


@pytest.mark.parametrize(("name", "count", "row"), [("rows", 5, 0), ("other", 4, 0), ("rows", 4, 4), ("rows", 4, -1)])
def test_a_file_of_another_size_and_rows_outside_it_are_refused(tmp_path, name, count, row):
    (tmp_path / "rows").write_bytes(bytes(24))
    with pytest.raises(images.DataError):
        images.read_rows(tmp_path / name, np.array([row]), count=count, shape=(6,), dtype="uint8")


def test_a_changed_row_is_found():
    pixels = np.random.default_rng(0).integers(0, 256, (3, 1, 2, 2), dtype=np.uint8)
    digests = np.stack([np.frombuffer(images.row_digest(image), np.uint8) for image in pixels])
    rows = np.array([10, 11, 12])
    assert images.changed_row(pixels, digests, rows) is None
    pixels[1, 0, 0, 0] ^= 1
    assert images.changed_row(pixels, digests, rows) == 11
    assert images.changed_row(pixels[:1], np.zeros((1, 32), np.uint8), rows[:1]) == 10

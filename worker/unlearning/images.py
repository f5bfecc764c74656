"""Images in: folders and built-in sets, decoded safely; arrays of fixed-size rows out, written durably.

A row is one image, uint8, channels x height x width, without a header. So a row can be overwritten in place, and its
digest is the sha256 of its bytes.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]

FORMATS = ("PNG", "JPEG")
MODES = {"1": "L", "L": "L", "P": "RGB", "RGB": "RGB"}  # what is read as grey and what as colour
MAX_PIXELS = 1 << 24
MAX_FILE_BYTES = 64 << 20
DIGEST_BYTES = 32


class DataError(Exception):
    """An image or a source folder cannot be used; the message names which."""


@dataclass(frozen=True)
class Entry:
    """One image file of a source folder."""

    key: str  # path inside the source folder, with forward slashes
    label: str  # name of its class folder
    top: str | None  # the folder above the class folder, in a folder with splits


def refuse_links(path: Path) -> None:
    """Raises DataError for a path that is relative, or that leads through a link or ``..``."""
    if ".." in path.parts or not path.is_absolute() or os.path.realpath(path) != os.path.normpath(path):
        raise DataError(f"{path}: a source must be an absolute path without links and '..'")


def entries(folder: Path, *, splits: bool, beside: str | None = None) -> list[Entry]:
    """Every file of ``folder``/class/file, or of ``folder``/split/class/file, sorted by key.

    ``beside`` is the name of a file directly in ``folder`` that is no image and passed over.

    Nothing is passed over: a link, anything that is neither file nor folder, and a file or folder at another level is an
    error, so that what is registered is what was meant.

    Raises:
        DataError: one of these, an unreadable or empty folder, or a folder that is reached through a link or ``..``.
    """
    refuse_links(folder)
    depth = 2 if splits else 1
    found = [
        Entry(key="/".join(parts), label=parts[-2], top=parts[0] if splits else None)
        for parts in _walk(folder, (), depth, beside)
    ]
    if not found:
        raise DataError(f"{folder.name}: there are no images in it")
    return sorted(found, key=lambda entry: entry.key)


def _walk(folder: Path, above: tuple[str, ...], depth: int, beside: str | None = None) -> Iterator[tuple[str, ...]]:
    try:
        with os.scandir(folder) as listing:
            children = list(listing)
    except OSError as error:
        raise DataError(f"{'/'.join(above) or folder.name}: the folder cannot be read ({error.strerror})") from error
    for child in children:
        if child.name == beside:
            continue
        parts = (*above, child.name)
        key = "/".join(parts)
        if not child.name.isprintable():  # control characters, and bytes that are no UTF-8
            raise DataError(f"{key!a}: the name holds characters that cannot be printed")
        if child.is_symlink():
            raise DataError(f"{key}: links are not followed")
        if len(above) < depth:
            if not child.is_dir():
                raise DataError(f"{key}: a folder is expected here")
            yield from _walk(folder / child.name, parts, depth)
        elif child.is_file():
            yield parts
        else:
            raise DataError(f"{key}: an image file is expected here")


@contextmanager
def opened(path: Path, key: str) -> Iterator[BinaryIO]:
    """A regular file to read, not through a link. Raises DataError, with the name ``key``, where it is none."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise DataError(f"{key}: it is not a regular file")
            yield file
    except OSError as error:
        raise DataError(f"{key}: the file cannot be read ({error.strerror})") from error


def read_file(folder: Path, key: str) -> bytes:
    """The bytes of an image file. Raises DataError where it is no regular file, unreadable or over 64 MiB."""
    with opened(folder / key, key) as file:
        size = os.fstat(file.fileno()).st_size
        if size > MAX_FILE_BYTES:
            raise DataError(f"{key}: {size} bytes are more than the {MAX_FILE_BYTES} allowed")
        return file.read(MAX_FILE_BYTES)


def decode(content: bytes, key: str) -> Pixels:
    """A PNG or JPEG as uint8, 1 or 3 channels x height x width.

    Grey images and palettes are read as such; transparency, 16-bit and CMYK images are refused, because dropping a
    part of them would not be seen. Not for use in several threads at once: warnings become errors while it runs.

    Raises:
        DataError: not an image of these kinds, truncated, corrupt, or more than 2^24 pixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise DataError(f"{key}: {image.width} x {image.height} pixels are more than allowed")
                if image.mode not in MODES or "transparency" in image.info:
                    raise DataError(f"{key}: mode {image.mode} is not supported: save it as 8-bit grey or RGB, opaque")
                pixels = np.asarray(image.convert(MODES[image.mode]))
    except DataError:
        raise
    except Exception as error:  # a decoder may raise anything on bytes that were made to break it
        raise DataError(f"{key}: not a PNG or JPEG that can be read ({type(error).__name__})") from error
    return np.ascontiguousarray(np.atleast_3d(pixels).transpose(2, 0, 1))


def digits() -> tuple[Pixels, NDArray[np.int64], list[str]]:
    """scikit-learn's 1,797 real handwritten digits: uint8 images N x 1 x 8 x 8, labels, and the names of the classes."""
    from sklearn.datasets import load_digits  # it takes a second to import, which only this set should cost

    images, labels = load_digits(return_X_y=True)
    pixels = np.rint(images * (255 / 16)).astype(np.uint8).reshape(-1, 1, 8, 8)
    return pixels, labels.astype(np.int64), [str(digit) for digit in range(10)]


def draw_controls(count: int, share: float, *, seed: int) -> NDArray[np.bool_]:
    """Which of ``count`` images are controls: round(share x count) of them, drawn at random.

    Raises:
        DataError: no image or every image would be a control.
    """
    controls = round(share * count)
    if not 0 < controls < count:
        raise DataError(f"a share of {share} makes {controls} controls of {count} images")
    chosen = np.zeros(count, dtype=bool)
    chosen[np.random.default_rng(seed).permutation(count)[:controls]] = True
    return chosen


@contextmanager
def durable(path: Path) -> Iterator[BinaryIO]:
    """A file to write that appears under its name, and on the disk, only once it is complete."""
    draft = path.with_name(f".{path.name}.part")
    try:
        with draft.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def row_digest(pixels: Pixels) -> bytes:
    return hashlib.sha256(pixels.tobytes()).digest()


def read_rows(path: Path, rows: NDArray[np.int64], *, count: int, shape: tuple[int, ...], dtype: str) -> NDArray:  # type: ignore[type-arg]
    """Chosen rows of an array of fixed-size rows, in the order asked for.

    Args:
        rows: row numbers.
        count: number of rows the file must hold.
        shape, dtype: of one row.

    Raises:
        DataError: the file is missing or has another size, or a row is out of range.
    """
    size = count * int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    actual = path.stat().st_size if path.is_file() else None
    if actual != size:
        raise DataError(f"{path.name} is missing or has {actual} bytes instead of {size}")
    if len(rows) and (rows.min() < 0 or rows.max() >= count):
        raise DataError(f"a row outside 0..{count - 1} of {path.name} was asked for")
    return np.array(np.memmap(path, dtype=dtype, mode="r", shape=(count, *shape))[rows])


def changed_row(pixels: Pixels, digests: NDArray[np.uint8], rows: NDArray[np.int64]) -> int | None:
    """The first of ``rows`` whose image no longer has its digest, or None. A digest of zeros marks an erased row."""
    for image, digest, row in zip(pixels, digests, rows.tolist(), strict=True):
        if row_digest(image) != digest.tobytes():
            return int(row)
    return None


OnImage = Callable[[int, int], None]
"""Called with the number of images done and of all images."""


def decode_all(folder: Path, keys: list[str], on_image: OnImage | None = None) -> Iterator[tuple[Pixels, bytes]]:
    """Image and sha256 of the file for each key.

    Raises:
        DataError: see `read_file` and `decode`; or an image of another shape than the first.
    """
    first: tuple[int, ...] | None = None
    for done, key in enumerate(keys, start=1):
        content = read_file(folder, key)
        pixels = decode(content, key)
        first = first or pixels.shape
        if pixels.shape != first:
            raise DataError(f"{key}: its shape {_shown(pixels.shape)} is not that of {keys[0]}, {_shown(first)}")
        yield pixels, hashlib.sha256(content).digest()
        if on_image:
            on_image(done, len(keys))


def _shown(shape: tuple[int, ...]) -> str:
    channels, height, width = shape
    return f"{width} x {height} with {channels} channel{'s' if channels > 1 else ''}"

"""Images out of one npz file: its arrays are checked by name, type and size before they are unpacked, and never unpickled."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from worker.unlearning.images import MAX_PIXELS, DataError, Pixels, opened, refuse_links

NAMES = ("images", "labels", "classes", "keys", "subjects", "splits")
MAX_UNPACKED = 1 << 36  # bytes of the images
MAX_BESIDE = 1 << 29  # bytes of any other array: these are read whole
MAX_RATIO = 200  # of unpacked to packed bytes, above the first 64 MiB: more is no real image
RATIO_FREE = 64 << 20
MAX_HEADER = 1000
CHUNK = 4 << 20


@dataclass(frozen=True)
class Arrays:
    """What an npz file holds, row by row; text arrays that are not there are None."""

    labels: NDArray[np.int64]
    classes: list[str] | None
    keys: list[str] | None
    subjects: list[str] | None
    splits: list[str] | None
    rows: Iterator[Pixels]  # channels x height x width; read when asked for


@dataclass(frozen=True)
class _Header:
    shape: tuple[int, ...]
    dtype: np.dtype


def load(path: Path) -> Arrays:
    """Read ``images`` and ``labels``, and ``classes``, ``keys``, ``subjects`` and ``splits`` where they are there.

    Images are uint8, N x H x W, N x H x W x C or N x C x H x W, C 1 or 3; labels are integers, one an image; the others are
    text, one an image, but ``classes``.

    Raises:
        DataError: anything else, named; a file that is reached through a link, or arrays that unpack to too much.
    """
    refuse_links(path)
    with _archive(path) as archive:
        unknown = [name for name in archive.namelist() if name.removesuffix(".npy") not in NAMES]
        if unknown or len(set(archive.namelist())) < len(archive.namelist()):
            raise DataError(f"{path.name}: it may hold {', '.join(NAMES)}, each once, and nothing else")
        with _member(archive, "images") as (_, header):
            _check_images(header)
        count = header.shape[0]
        labels = _labels(archive, count)
        text = {name: _text(archive, name) for name in NAMES[2:]}
    for name in ("keys", "subjects", "splits"):
        if (found := text[name]) is not None and len(found) != count:
            raise DataError(f"{name}: {len(found)} entries for {count} images")
    return Arrays(labels=labels, rows=_rows(path, header), **text)


@contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """Whatever unpacking raises is a DataError."""
    try:
        with opened(path, path.name) as file, zipfile.ZipFile(file) as archive:
            yield archive
    except (DataError, MemoryError, GeneratorExit):
        raise
    except Exception as error:  # bytes that were made to break it may raise anything
        raise DataError(f"{path.name}: not an npz file that can be read ({type(error).__name__})") from error


@contextmanager
def _member(archive: zipfile.ZipFile, name: str) -> Iterator[tuple[IO[bytes], _Header]]:
    """An array behind its header, which says exactly how much there is to unpack. Raises DataError, with its name."""
    try:
        info = archive.getinfo(f"{name}.npy")
    except KeyError as error:
        raise DataError(f"{name}: the array is missing") from error
    if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise DataError(f"{name}: save it by numpy.savez or numpy.savez_compressed, without a password")
    if info.file_size > RATIO_FREE and info.file_size > MAX_RATIO * info.compress_size:
        raise DataError(f"{name}: {info.compress_size} bytes would unpack to {info.file_size}")
    try:
        with archive.open(info) as file:
            header = _header(file, name)
            size = int(np.prod(header.shape, dtype=object)) * header.dtype.itemsize
            if size != info.file_size - file.tell():
                raise DataError(f"{name}: its header and its size do not fit together")
            if size > (MAX_UNPACKED if name == "images" else MAX_BESIDE):
                raise DataError(f"{name}: {size} bytes are more than allowed")
            yield file, header
    except (DataError, MemoryError, GeneratorExit):
        raise
    except Exception as error:
        raise DataError(f"{name}: the array cannot be read ({type(error).__name__})") from error


def _header(file: IO[bytes], name: str) -> _Header:
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(np.lib.format.read_magic(file))
    if read is None:
        raise DataError(f"{name}: the array is of a format that this service does not read")
    shape, in_columns, dtype = read(file, max_header_size=MAX_HEADER)
    if dtype.hasobject:
        raise DataError(f"{name}: it holds Python objects, which are never unpickled: save numbers or text")
    if in_columns and len(shape) > 1:
        raise DataError(f"{name}: save it in C order (numpy.ascontiguousarray)")
    return _Header(shape, dtype)


def _check_images(header: _Header) -> None:
    if header.dtype != np.uint8:
        raise DataError(f"images: they are {header.dtype} instead of uint8, 0 to 255")
    if len(header.shape) not in (3, 4) or min(header.shape) < 1:
        raise DataError(f"images: their shape {header.shape} is none of N x H x W, N x H x W x C and N x C x H x W")
    height, width = _sides(header.shape)
    if height * width > MAX_PIXELS:
        raise DataError(f"images: {width} x {height} pixels are more than allowed")


def _channels_last(shape: tuple[int, ...]) -> bool:
    first, last = shape[1] in (1, 3), shape[3] in (1, 3)
    if first == last:
        why = "where the channels are cannot be told" if first else "neither side has 1 or 3 channels"
        raise DataError(f"images: of shape {shape} {why}: save grey images as N x H x W, others as N x H x W x 3")
    return last


def _sides(shape: tuple[int, ...]) -> tuple[int, int]:
    if len(shape) == 3:
        return shape[1], shape[2]
    return (shape[1], shape[2]) if _channels_last(shape) else (shape[2], shape[3])


def _labels(archive: zipfile.ZipFile, count: int) -> NDArray[np.int64]:
    with _member(archive, "labels") as (file, header):
        if header.dtype.kind not in "iu" or header.shape != (count,):
            raise DataError(f"labels: {header.dtype} of shape {header.shape} instead of {count} integers")
        labels = np.frombuffer(_whole(file, header), header.dtype)
        if labels.max() > np.iinfo(np.int64).max:
            raise DataError("labels: they are larger than any number of classes")
        return labels.astype(np.int64)


def _text(archive: zipfile.ZipFile, name: str) -> list[str] | None:
    if f"{name}.npy" not in archive.namelist():
        return None
    with _member(archive, name) as (file, header):
        if header.dtype.kind != "U" or not header.dtype.itemsize or len(header.shape) != 1:
            raise DataError(f"{name}: {header.dtype} of shape {header.shape} instead of a list of text")
        return [str(entry) for entry in np.frombuffer(_whole(file, header), header.dtype)]


def _whole(file: IO[bytes], header: _Header) -> bytes:
    """All bytes of an array, and past its end, where the checksum of the archive is compared."""
    content = file.read(int(np.prod(header.shape)) * header.dtype.itemsize)
    file.read(1)
    return content


def _rows(path: Path, expected: _Header) -> Iterator[Pixels]:
    row = tuple(expected.shape[1:])
    size = int(np.prod(row))
    at_once = max(1, CHUNK // size)
    last = len(row) == 3 and _channels_last(expected.shape)
    with _archive(path) as archive, _member(archive, "images") as (file, header):
        if header != expected:
            raise DataError("images: the file was changed while it was read")
        left = expected.shape[0]
        while left:
            count = min(left, at_once)
            block = np.frombuffer(file.read(count * size), np.uint8).reshape(count, *row)
            block = block[:, None] if len(row) == 2 else block.transpose(0, 3, 1, 2) if last else block
            yield from np.ascontiguousarray(block)
            left -= count
        file.read(1)  # past its end, where the checksum of the archive is compared

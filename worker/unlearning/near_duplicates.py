"""Pairs of nearly the same image in a training set: who asks to forget one of them has not thought of the other.

Images are compared as small thumbnails, so what leaves these almost as they are is found: another compression, a little
noise, another brightness, a retouched detail. It is not found where the picture moves: shifts of more than a few pixels,
crops, rotations, mirror images, other scenes of the same person or object. Nor where close images are the rule: how close
is conspicuous is measured by the set itself, so a set in which half of the images or more have a near copy shows none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

CELLS = 8  # of a thumbnail's side at most
NEIGHBOURS = 10  # looked at for each image
FEWEST = 20  # distinct images, below which their distances say nothing
MOST = 250_000  # distinct images: time grows with the square, 60,000 colour images take about a minute on two cores
CUTOFF = 3.5  # of the modified z-score, as Iglewicz and Hoaglin recommend
NORMAL_MAD = 0.6745  # median absolute deviation of a standard normal variable
SMALLEST = 1e-9  # stands for no distance at all, where a logarithm is taken
BLOCK = 2048  # images compared at a time: memory for their neighbours alone, never for all distances

METHOD = (
    f"area-pooled thumbnails of at most {CELLS} x {CELLS} cells a channel, root mean square difference, the nearest "
    f"{NEIGHBOURS} of each image; a pair stands out below median - {CUTOFF} x MAD / {NORMAL_MAD} of the logarithms of the "
    "set's own nearest-neighbour distances (modified z-score, Iglewicz and Hoaglin 1993)"
)

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]
OnImages = Callable[[int, int], None]
"""Called with the number of images compared and of all distinct images."""


@dataclass(frozen=True)
class Found:
    """Pairs of rows, sorted, first < second, with their distances: root mean square difference of thumbnails, 0..1."""

    first: Rows
    second: Rows
    distance: Floats
    searched: int  # distinct images compared; 0: see `why_not`
    why_not: str | None
    threshold: float | None  # a pair is at most this far apart
    median: float | None  # distance of an image to its nearest neighbour
    capped: int  # images all of whose neighbours are within the threshold: they may have more


def thumbnail(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Means over equal areas, in [0, 1], flat: channels x (8 or the image's height) x (8 or its width), the smaller.

    Args:
        pixels: one image, uint8, channels x height x width.
    """
    _, height, width = pixels.shape
    means = _areas(height) @ (pixels.astype(np.float32) / np.float32(255)) @ _areas(width).T
    return np.asarray(means.reshape(-1), dtype=np.float32)


@lru_cache(maxsize=8)
def _areas(size: int) -> NDArray[np.float32]:
    """Cells x size: the share of each cell that lies in each pixel."""
    cells = min(CELLS, size)
    edges = np.arange(cells + 1) * (size / cells)
    pixels = np.arange(size)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return np.asarray(np.clip(overlap, 0, None) * (cells / size), dtype=np.float32)


def search(
    thumbnails: NDArray[np.float32], digests: NDArray[np.uint8], on_images: OnImages = lambda done, count: None
) -> Found:
    """Every pair that stands out, among the nearest neighbours of each image.

    Exact copies are compared once. A pair of images is listed for all copies of either, beside the first row of the other.

    Args:
        thumbnails: one a row, as `thumbnail` makes them.
        digests: 32 bytes a row; equal ones are exact copies.
    """
    _, rows, group, sizes = np.unique(
        np.ascontiguousarray(digests).view("V32").ravel(), return_index=True, return_inverse=True, return_counts=True
    )
    if len(rows) < FEWEST:
        return _nothing(f"{len(rows)} distinct images are too few to tell what is close; {FEWEST} are needed")
    if len(rows) > MOST:
        return _nothing(f"{len(rows)} distinct images are more than the {MOST} that are compared")
    neighbours, distances = _nearest(thumbnails[rows], on_images)
    logs = np.log(np.maximum(distances[:, 0], SMALLEST))
    middle = float(np.median(logs))
    deviation = float(np.median(np.abs(logs - middle)))
    if deviation == 0:
        return _nothing("half of the images or more are equally far from their nearest: no distance stands out")
    threshold = float(np.exp(middle - CUTOFF * deviation / NORMAL_MAD))
    close = distances <= threshold
    image, rank = np.nonzero(close)
    pairs = _of_rows(np.column_stack([image, neighbours[image, rank]]), distances[close], rows, group, sizes)
    return Found(
        *pairs,
        searched=len(rows),
        why_not=None,
        threshold=threshold,
        median=float(np.exp(middle)),
        capped=int(close.all(1).sum()),
    )


def _nearest(thumbnails: NDArray[np.float32], on_images: OnImages) -> tuple[Rows, Floats]:
    """Neighbours of each image and their distances, N x 10, nearest first."""
    from sklearn.neighbors import NearestNeighbors  # it takes a second to import, which only a registration should cost

    count = len(thumbnails)
    index = NearestNeighbors(n_neighbors=NEIGHBOURS + 1, algorithm="brute").fit(thumbnails)
    neighbours = np.empty((count, NEIGHBOURS), dtype=np.int64)
    distances = np.empty((count, NEIGHBOURS))
    for start in range(0, count, BLOCK):
        images = np.arange(start, min(start + BLOCK, count))
        found = index.kneighbors(thumbnails[images], return_distance=False)
        # The search's own distances lose the small ones to rounding.
        apart = thumbnails[found].astype(np.float64) - thumbnails[images, None]
        exact = np.sqrt(np.square(apart).mean(2))
        exact[found == images[:, None]] = np.inf
        nearest = np.argsort(exact, axis=1, kind="stable")[:, :NEIGHBOURS]
        neighbours[images] = np.take_along_axis(found, nearest, axis=1)
        distances[images] = np.take_along_axis(exact, nearest, axis=1)
        on_images(int(images[-1]) + 1, count)
    return neighbours, distances


def _of_rows(pairs: Rows, distances: Floats, rows: Rows, group: Rows, sizes: Rows) -> tuple[Rows, Rows, Floats]:
    """Pairs of distinct images as pairs of rows, each once: with copies, one side is always an image's first row."""
    found, apart = [rows[pairs]], [distances]
    members = np.split(np.argsort(group, kind="stable"), np.cumsum(sizes)[:-1]) if sizes.max() > 1 else []
    for at in np.flatnonzero(sizes[pairs].max(1) > 1):
        for image, copied in (pairs[at], pairs[at, ::-1]):
            copies = members[copied][1:]
            found.append(np.column_stack([np.full(len(copies), rows[image]), copies]))
            apart.append(np.full(len(copies), distances[at]))
    listed, kept = np.unique(np.sort(np.concatenate(found), axis=1), axis=0, return_index=True)
    return listed[:, 0], listed[:, 1], np.concatenate(apart)[kept]


def _nothing(why_not: str) -> Found:
    none = np.empty(0, dtype=np.int64)
    return Found(none, none, np.empty(0), searched=0, why_not=why_not, threshold=None, median=None, capped=0)

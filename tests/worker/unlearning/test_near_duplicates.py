import hashlib
import io

import numpy as np
import pytest
from PIL import Image

from worker.unlearning import images, near_duplicates


def digests_of(pixels):
    return np.frombuffer(b"".join(map(images.row_digest, pixels)), np.uint8).reshape(-1, 32)


def search(pixels, **keywords):
    thumbnails = np.stack([near_duplicates.thumbnail(image) for image in pixels])
    return near_duplicates.search(thumbnails, digests_of(pixels), **keywords)


def pairs_of(found):
    return list(zip(found.first.tolist(), found.second.tolist(), strict=True))


def jpeg(image, quality):
    buffer = io.BytesIO()
    Image.fromarray(image.transpose(1, 2, 0).squeeze()).save(buffer, "JPEG", quality=quality)
    return np.atleast_3d(np.asarray(Image.open(buffer))).transpose(2, 0, 1)


def noisy(image):
    noise = np.random.default_rng(int(image[0, 0, 0])).integers(-2, 3, image.shape)
    return np.clip(image.astype(int) + noise, 0, 255).astype(np.uint8)


def brighter(image):
    return np.clip(image.astype(int) + 8, 0, 255).astype(np.uint8)


def scenes(count, side=32, seed=0):
    """Colour images of a few soft blobs each, as unlike each other as photographs of different things."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / side
    made = np.empty((count, 3, side, side), np.uint8)
    for number in range(count):
        image = np.ones((3, side, side)) * generator.uniform(0, 1, (3, 1, 1))
        for _ in range(5):
            (row, column), width = generator.uniform(0, 1, 2), generator.uniform(0.05, 0.4)
            blob = np.exp(-((y - row) ** 2 + (x - column) ** 2) / width**2)
            image += blob * generator.uniform(-1, 1, (3, 1, 1))
        made[number] = np.clip(255 * image, 0, 255)
    return made


@pytest.fixture(scope="module")
def digits():
    return images.digits()[0]


def test_a_thumbnail_holds_means_over_equal_areas():
    image = np.random.default_rng(0).integers(0, 256, (3, 32, 16), dtype=np.uint8)
    own = image.reshape(3, 8, 4, 8, 2).mean((2, 4)) / 255
    assert near_duplicates.thumbnail(image) == pytest.approx(own.reshape(-1), abs=1e-6)


def test_sides_that_eight_does_not_divide_are_cut_at_fractions_of_pixels():
    image = np.random.default_rng(0).integers(0, 256, (1, 12, 5), dtype=np.uint8)
    # Each pixel becomes 2 x 1 equal ones, so that a cell, 1.5 pixels high, is 3 of them.
    own = np.repeat(image[0], 2, axis=0).reshape(8, 3, 5).mean(1) / 255
    assert near_duplicates.thumbnail(image) == pytest.approx(own.reshape(-1), abs=1e-6)


def test_an_image_of_up_to_eight_pixels_is_its_own_thumbnail(digits):
    assert near_duplicates.thumbnail(digits[0]) == pytest.approx(digits[0].reshape(-1) / 255)


def brute_force(pixels):
    """All pairs by all distances, one copy of each image, written without the code under test."""
    _, rows = np.unique([hashlib.sha256(image.tobytes()).hexdigest() for image in pixels], return_index=True)
    rows = np.sort(rows)
    shrunk = pixels[rows].reshape(len(rows), -1) / 255
    apart = np.sqrt(((shrunk[:, None] - shrunk[None]) ** 2).mean(2))
    np.fill_diagonal(apart, np.inf)
    nearest = np.log(apart.min(1))
    median = np.median(nearest)
    threshold = np.exp(median - 3.5 * np.median(abs(nearest - median)) / 0.6745)
    first, second = np.nonzero(np.triu(apart <= threshold))
    return dict(zip(zip(rows[first], rows[second], strict=True), apart[first, second], strict=True)), threshold


def test_pairs_and_threshold_are_those_of_all_distances(digits):
    pixels = np.concatenate([digits[:500], [noisy(image) for image in digits[:20]]])
    own, threshold = brute_force(pixels)
    found = search(pixels)
    assert len(own) >= 20
    assert found.threshold == pytest.approx(threshold)
    assert dict(zip(pairs_of(found), found.distance, strict=True)) == pytest.approx(own)
    assert (found.searched, found.why_not) == (520, None)


@pytest.mark.parametrize("change", [noisy, brighter, lambda image: jpeg(image, 90), lambda image: jpeg(image, 75)])
@pytest.mark.parametrize("source", ["digits", "scenes"])
def test_planted_near_copies_are_found_and_distinct_images_are_mostly_not(source, change, digits):
    pixels = digits if source == "digits" else scenes(600)
    planted = np.random.default_rng(1).permutation(len(pixels))[:20].tolist()
    found = search(np.concatenate([pixels, np.stack([change(pixels[row]) for row in planted])]))
    copies = {(row, len(pixels) + number) for number, row in enumerate(planted)}
    assert copies <= set(pairs_of(found))
    others = [pair for pair in pairs_of(found) if pair[1] < len(pixels)]
    assert len(others) <= len(pixels) // 100


def test_what_moves_in_the_picture_is_not_found_as_the_module_says():
    pixels = scenes(600)
    mirrored = search(np.concatenate([pixels, pixels[:20, :, :, ::-1]]))
    assert len({(row, 600 + row) for row in range(20)} & set(pairs_of(mirrored))) <= 2  # these are nearly symmetric


def test_exact_copies_are_no_pair_and_stand_for_each_other(digits):
    pixels = np.concatenate([digits[:300], digits[7:8], digits[7:8], noisy(digits[7])[None]])
    found = set(pairs_of(search(pixels)))
    assert {(7, 302), (300, 302), (301, 302)} <= found
    assert not {(7, 300), (7, 301), (300, 301)} & found


def test_of_two_groups_of_copies_every_row_is_beside_the_first_of_the_other(digits):
    near = noisy(digits[7])[None]
    pixels = np.concatenate([digits[:300], digits[7:8], near, near])
    found = set(pairs_of(search(pixels)))
    assert {(7, 301), (7, 302), (300, 301)} <= found
    assert (300, 302) not in found


def test_images_with_more_near_copies_than_are_looked_at_are_counted(digits):
    noise = np.random.default_rng(0).integers(-2, 3, (14, 1, 8, 8))
    crowd = np.clip(digits[7].astype(int) + noise, 0, 255).astype(np.uint8)
    found = search(np.concatenate([digits[:300], crowd]))
    assert found.capped == 15
    assert 15 * 10 / 2 <= sum(pair[1] >= 300 for pair in pairs_of(found)) < 15 * 14 / 2


@pytest.mark.parametrize("count", [1, 19])
def test_a_set_too_small_to_tell_says_so(digits, count):
    found = search(np.concatenate([digits[:count], digits[:1]]))
    assert (pairs_of(found), found.searched, found.threshold) == ([], 0, None)
    assert "too few" in found.why_not


def test_a_set_too_large_to_compare_says_so(digits, monkeypatch):
    monkeypatch.setattr(near_duplicates, "MOST", 100)
    assert "more than the 100" in search(digits[:101]).why_not


def test_where_all_are_equally_far_apart_nothing_stands_out():
    pixels = np.zeros((30, 1, 6, 6), np.uint8)
    for number, image in enumerate(pixels):
        image.reshape(-1)[number] = 200
    assert "equally far" in search(pixels).why_not


def test_images_that_differ_below_a_thumbnail_s_reach_are_at_no_distance():
    pixels = scenes(100)
    pixels = np.concatenate([pixels, pixels[:1]])
    pixels[-1, 0, :4, :4] = pixels[-1, 0, :4, :4][::-1]
    found = search(pixels)
    assert (0, 100) in pairs_of(found)
    assert found.distance.min() < 1e-6


def test_progress_ends_with_every_distinct_image(digits):
    seen = []
    search(np.concatenate([digits[:50], digits[:10]]), on_images=lambda *step: seen.append(step))
    assert seen[-1] == (50, 50)

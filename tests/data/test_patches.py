"""Patches are true crops, every position as likely as the next."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from small_runs import RECIPE
from torch import Tensor

from fanogan.data.normals import Normals
from fanogan.data.patches import Patches, augmented, seeded
from fanogan.data.preprocessing import Preprocessing

CPU = torch.device("cpu")


def seen_through(
    window: tuple[int, int] | None,
    image_size: tuple[int, int] | None = None,
    depth: str = "uint8",
    channels: int = 1,
) -> Preprocessing:
    high = 255.0 if depth == "uint8" else 65535.0
    return Preprocessing(depth, 0.0, high, channels, window, image_size or window or (0, 0))


def numbered(
    shapes: Sequence[tuple[int, int, int]], dtype: type[np.unsignedinteger], last: int
) -> list[np.ndarray]:
    """Images (C, H, W) of which no two pixels are equal; the greatest value is ``last``."""
    counts = [int(np.prod(shape)) for shape in shapes]
    values = np.split(np.arange(last + 1 - sum(counts), last + 1), np.cumsum(counts)[:-1])
    return [v.astype(dtype).reshape(s) for v, s in zip(values, shapes, strict=True)]


def stored(x: Tensor, levels: int) -> np.ndarray:
    """The stored values that gave (…) in [−1, 1]."""
    values = (x.double() + 1) * levels / 2
    assert float((values - values.round()).abs().max()) < 0.01
    found: np.ndarray = values.round().long().numpy()
    return found


def place_of(patch: np.ndarray, images: Sequence[np.ndarray]) -> tuple[int, int, int]:
    """Where a patch (C, h, w) comes from, (image, row, column), having checked that it does."""
    for number, image in enumerate(images):
        hits = np.argwhere(image[0].astype(np.int64) == patch[0, 0, 0])
        if len(hits):
            row, column = (int(index) for index in hits[0])
            crop = image[:, row : row + patch.shape[1], column : column + patch.shape[2]]
            assert np.array_equal(crop, patch)
            return number, row, column
    raise AssertionError("its first pixel is in no image")


CASES = [
    ([(1, 9, 11), (1, 6, 7), (1, 4, 5), (1, 12, 6)], np.uint8, 255),
    ([(1, 40, 50), (1, 6, 90), (1, 30, 5), (1, 4, 60)], np.uint16, 65535),
    ([(3, 6, 7), (3, 5, 6), (3, 4, 5)], np.uint8, 250),
    ([(3, 40, 50), (3, 20, 70)], np.uint16, 38000),
    ([(2, 30, 40)], np.uint16, 32769),
]


@pytest.mark.parametrize(("shapes", "dtype", "last"), CASES)
@pytest.mark.parametrize("flip", [False, True])
def test_every_patch_is_a_crop_of_an_image(
    shapes: list[tuple[int, int, int]], dtype: type[np.unsignedinteger], last: int, flip: bool
) -> None:
    images = numbered(shapes, dtype, last)
    channels = shapes[0][0]
    preprocessing = seen_through((4, 5), depth=np.dtype(dtype).name, channels=channels)
    patches = Patches(images, preprocessing, flip=flip, device=CPU)
    x = patches.draw(600, seeded(CPU, 0))
    assert x.dtype == torch.float32 and x.shape == (600, channels, 4, 5)
    mirrored = 0
    places = set()
    for patch in stored(x, preprocessing.levels):
        # Values rise from left to right, unless the patch was mirrored.
        is_mirrored = patch[0, 0, 0] > patch[0, 0, 1]
        mirrored += is_mirrored
        places.add(place_of(patch[..., ::-1] if is_mirrored else patch, images))
    assert {image for image, _, _ in places} == set(range(len(images)))
    if flip:
        assert 240 < mirrored < 360
    else:
        assert mirrored == 0


def test_every_position_is_equally_likely() -> None:
    images = numbered([(1, 9, 8), (1, 4, 5), (1, 6, 12)], np.uint8, 255)
    patches = Patches(images, seen_through((4, 5)), flip=False, device=CPU)
    positions = {
        (number, row, column): 0
        for number, image in enumerate(images)
        for row in range(image.shape[1] - 3)
        for column in range(image.shape[2] - 4)
    }
    assert patches.total == len(positions) == 6 * 4 + 1 + 3 * 8
    for patch in stored(patches.draw(10_000, seeded(CPU, "positions")), 255):
        positions[place_of(patch, images)] += 1
    counts = list(positions.values())
    assert min(counts) > 0
    assert chisquare(counts).pvalue > 0.001
    # The test can fail: with every image equally likely, the least image's patch is drawn most.
    skewed = np.array([1 / 3 / (24, 1, 24)[image] for image, _, _ in positions]) * 10_000
    assert chisquare(counts, skewed).pvalue < 1e-6


def test_a_flip_changes_the_sides_alone_and_not_which_patches_are_drawn() -> None:
    images = numbered([(1, 9, 11)], np.uint8, 255)
    preprocessing = seen_through((4, 5))
    plain, flipped = (
        Patches(images, preprocessing, flip=flip, device=CPU).draw(200, seeded(CPU, 3))
        for flip in (False, True)
    )
    for one, other in zip(plain, flipped, strict=True):
        assert torch.equal(one, other) or torch.equal(one.flip(2), other)
        assert not torch.equal(one, one.flip(2))


def test_the_same_seed_draws_the_same_patches() -> None:
    images = numbered([(1, 40, 50)], np.uint16, 65535)
    patches = Patches(images, seen_through((4, 5), depth="uint16"), flip=True, device=CPU)
    first = patches.draw(32, seeded(CPU, 7, "gan", 5))
    assert torch.equal(first, patches.draw(32, seeded(CPU, 7, "gan", 5)))
    for other in [(8, "gan", 5), (7, "encoder", 5), (7, "gan", 6), (7, "gan")]:
        assert not torch.equal(first, patches.draw(32, seeded(CPU, *other)))
    random = seeded(CPU, 7, "gan", 5)
    patches.draw(32, random)
    assert not torch.equal(first, patches.draw(32, random))


def test_whole_images() -> None:
    images = numbered([(1, 6, 8)] * 5, np.uint8, 255)
    patches = Patches(images, seen_through(None, (6, 8)), flip=False, device=CPU)
    x = stored(patches.draw(200, seeded(CPU, 0)), 255)
    places = [place_of(patch, images) for patch in x]
    assert set(places) == {(number, 0, 0) for number in range(5)}
    assert x.shape == (200, 1, 6, 8)


def test_what_the_networks_see_is_resampled() -> None:
    images = [np.full((1, 40, 50), 51, np.uint8)]
    patches = Patches(images, seen_through((32, 32), (16, 16)), flip=True, device=CPU)
    x = patches.draw(3, seeded(CPU, 0))
    assert x.shape == (3, 1, 16, 16)
    assert torch.allclose(x, torch.tensor(-0.6), atol=1e-6)


@pytest.mark.parametrize(
    ("window", "sizes"),
    [((4, 5), [(4, 5), (3, 9)]), (None, [(8, 8), (9, 8)]), (None, [(8, 8), (4, 4)])],
)
def test_images_that_do_not_fit_are_refused(
    window: tuple[int, int] | None, sizes: list[tuple[int, int]]
) -> None:
    images = [np.zeros((1, *size), np.uint8) for size in sizes]
    rows, columns = sizes[1]
    with pytest.raises(ValueError, match=f"no patches of .* in an image of {rows}×{columns}"):
        Patches(images, seen_through(window, (8, 8)), flip=False, device=CPU)


def test_patches_lie_only_where_they_may() -> None:
    images = numbered([(1, 9, 9), (1, 6, 8)], np.uint8, 200)
    usable = [np.zeros((6, 5), bool), np.zeros((3, 4), bool)]
    allowed = [(0, 2, 3), (0, 5, 4), (1, 0, 0), (1, 2, 1)]
    for image, row, column in allowed:
        usable[image][row, column] = True
    patches = Patches(images, seen_through((4, 5)), flip=False, device=CPU, usable=usable)
    drawn = patches.draw(800, seeded(CPU, 1))
    places = [place_of(patch, images) for patch in stored(drawn, 255)]
    assert set(places) == set(allowed)
    assert chisquare([places.count(place) for place in allowed]).pvalue > 1e-3
    with pytest.raises(ValueError, match="within the retina"):
        none = [np.zeros_like(mask) for mask in usable]
        Patches(images, seen_through((4, 5)), flip=False, device=CPU, usable=none)


def test_normals_that_are_augmented_are_stretched_and_change_their_greys_within_their_limits() -> (
    None
):
    """A step shows the stretch, two grey values what becomes of them; the seed repeats both."""
    side, low, high = 64, 0.4, 0.6
    x = torch.full((400, 1, side, side), 2 * low - 1)
    x[..., 48:] = 2 * high - 1  # a step 16 columns right of the middle
    found, again = (augmented(x, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(found, again)
    left, right = ((found[:, 0, 0, at] + 1) / 2 for at in (32, 63))
    middle = ((left + right) / 2)[:, None]
    edges = 64 - ((found[:, 0, 0] + 1) / 2 > middle).sum(1) - 32
    assert 16 / 1.15 - 1 <= float(edges.min()) < 14.6
    assert 17.4 < float(edges.max()) <= 16 * 1.15 + 1
    # A dark and a bright value: exponent, then contrast about the mean, then brightness.
    assert 0.8 * (high**0.6 - low**0.6) - 0.01 <= float((right - left).min()) < 0.15
    assert 0.22 < float((right - left).max()) <= 1.2 * (high**1.65 - low**1.65) + 0.01
    assert float(left.min()) >= low**1.65 - 0.09
    assert float(right.max()) <= high**0.6 + 0.09


def test_held_out_normals_are_never_augmented_and_training_ones_only_where_asked() -> None:
    images = np.random.default_rng(0).integers(0, 256, (40, 32, 32), dtype=np.uint8)
    recipe = RECIPE.but(horizontal_flip=False)
    normals = Normals.read(images, recipe, seed=0)

    def drawn(augment: bool) -> list[torch.Tensor]:
        parts = normals.patches(flip=False, device=torch.device("cpu"), augment=augment)
        return [part.draw(8, torch.Generator().manual_seed(1)) for part in parts]

    (plain, plain_held), (changed, changed_held) = drawn(False), drawn(True)
    assert torch.equal(plain_held, changed_held)
    assert not torch.allclose(plain, changed, atol=0.05)

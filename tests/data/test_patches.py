"""Patches are true crops, every position as likely as the next; windows cover all and fuse."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from fanogan.data.patches import Patches, score_windows, seeded
from fanogan.data.preprocessing import Preprocessing

CPU = torch.device("cpu")


def seen_through(
    window: tuple[int, int] | None,
    sides: tuple[int, int] | None = None,
    depth: str = "uint8",
    channels: int = 1,
) -> Preprocessing:
    high = 255.0 if depth == "uint8" else 65535.0
    return Preprocessing(depth, 0.0, high, channels, window, sides or window or (0, 0))


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


# --- windows ------------------------------------------------------------------------------------

SIZES = [(16, 16), (16, 40), (33, 47), (50, 21), (64, 64)]


def identity(windows: Tensor, inside: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """What is seen, as the maps; the mean and the greatest value of each window as its terms."""
    flat = windows.flatten(1)
    maps = torch.cat([windows.mean(1, keepdim=True), windows], 1)
    return torch.stack([flat.mean(1), flat.amax(1)], 1), maps


def windows_along(side: int) -> int:
    return 1 + -(-(side - 16) // 8)


def random_image(size: tuple[int, int], channels: int = 1) -> Tensor:
    return torch.rand(1, channels, *size, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [1, 3])
def test_windows_give_back_the_image(size: tuple[int, int], channels: int) -> None:
    x = random_image(size, channels)
    before = x.clone()
    terms, _, maps = score_windows(x, seen_through((16, 16)), identity, batch=4)
    assert terms.shape == (windows_along(size[0]) * windows_along(size[1]), 2)
    assert maps.shape == (1 + channels, *size)
    assert float((maps[1:] - x[0]).abs().max()) < 1e-5
    assert torch.equal(x, before)


@pytest.mark.parametrize("size", SIZES)
def test_every_pixel_is_in_a_window(size: tuple[int, int]) -> None:
    rows, columns = torch.arange(size[0])[:, None], torch.arange(size[1])
    for pixel in [(0, 0), (size[0] - 1, size[1] - 1), (size[0] // 2, 0), (0, size[1] - 1)]:
        x = ((rows == pixel[0]) & (columns == pixel[1])).float()[None, None]
        terms, _, _ = score_windows(x, seen_through((16, 16)), identity, batch=4)
        assert float(terms[:, 1].max()) == 1


@pytest.mark.parametrize("size", SIZES)
def test_the_map_of_a_constant_is_constant(size: tuple[int, int]) -> None:
    def constant(windows: Tensor, inside: Tensor | None) -> tuple[Tensor, Tensor]:
        return torch.ones(len(windows), 2), torch.full((len(windows), 2, 16, 16), 0.7)

    terms, _, maps = score_windows(random_image(size), seen_through((16, 16)), constant, batch=4)
    assert maps.shape == (2, *size)
    assert float((maps - 0.7).abs().max()) < 1e-5
    assert bool((terms == 1).all())


def test_overlapping_windows_are_weighted_to_their_middle() -> None:
    def ordinal(windows: Tensor, inside: Tensor | None) -> tuple[Tensor, Tensor]:
        maps = torch.arange(len(windows)).float()[:, None, None, None].expand(-1, 2, 16, 16)
        return torch.zeros(len(windows), 2), maps.clone()

    _, _, maps = score_windows(random_image((16, 24)), seen_through((16, 16)), ordinal, batch=4)
    line = maps[0, 8]
    assert bool((line[:8] == 0).all()) and bool((line[16:] == 1).all())
    assert bool((line[8:16].diff() > 0).all())
    assert float(line[8:16].mean()) == pytest.approx(0.5, abs=1e-3)


def test_batches_change_nothing() -> None:
    x = random_image((50, 47))
    preprocessing = seen_through((16, 16), (32, 32))
    terms, _, maps = score_windows(x, preprocessing, identity, batch=64)
    for batch in (1, 3, 7):
        other_terms, _, other_maps = score_windows(x, preprocessing, identity, batch=batch)
        assert torch.allclose(terms, other_terms, rtol=1e-5, atol=1e-6)
        assert torch.allclose(maps, other_maps, rtol=1e-5, atol=1e-6)


def test_a_mirrored_image_has_the_mirrored_map_and_the_same_terms() -> None:
    x = random_image((32, 48))
    terms, _, maps = score_windows(x, seen_through((16, 16), (8, 8)), identity, batch=5)
    mirrored_terms, _, mirrored_maps = score_windows(
        x.flip(3), seen_through((16, 16), (8, 8)), identity, batch=5
    )
    assert torch.allclose(mirrored_maps.flip(2), maps, atol=1e-5)
    order, mirrored_order = terms[:, 0].argsort(), mirrored_terms[:, 0].argsort()
    assert torch.allclose(terms[order], mirrored_terms[mirrored_order], atol=1e-5)


@pytest.mark.parametrize("sides", [(16, 16), (64, 64), (16, 28)])
def test_a_map_comes_back_at_the_size_of_the_image(sides: tuple[int, int]) -> None:
    rows, columns = torch.arange(70)[:, None], torch.arange(45)
    smooth = (torch.sin(rows / 12) * torch.cos(columns / 10))[None, None]
    seen = []

    def look(windows: Tensor, inside: Tensor | None) -> tuple[Tensor, Tensor]:
        seen.append(windows.shape[1:])
        return identity(windows)

    _, _, maps = score_windows(smooth, seen_through((32, 32), sides), look, batch=4)
    assert set(seen) == {(1, *sides)}
    assert maps.shape == (2, 70, 45)
    assert float((maps[1:] - smooth[0]).abs().mean()) < 0.02
    assert float((maps[1:] - smooth[0]).abs().max()) < 0.2


def test_only_usable_windows_count_and_the_rest_of_the_map_is_unknown() -> None:
    x = random_image((32, 48))
    usable = torch.zeros(17, 33, dtype=torch.bool)
    usable[8, :20] = True
    terms, corners, maps = score_windows(x, seen_through((16, 16)), identity, 4, usable)
    assert corners.tolist() == [[8, 0], [8, 8], [8, 16]]
    known = torch.zeros(32, 48, dtype=torch.bool)
    known[8:24, :32] = True
    assert torch.equal(maps.isfinite(), known.expand(2, -1, -1))
    assert float((maps[1] - x[0, 0])[known].abs().max()) < 1e-5
    for (row, column), (mean, _) in zip(corners.tolist(), terms, strict=True):
        crop = x[0, 0, row : row + 16, column : column + 16]
        assert float(mean) == pytest.approx(float(crop.mean()), abs=1e-6)


def test_without_a_usable_window_nothing_is_known() -> None:
    usable = torch.zeros(17, 33, dtype=torch.bool)
    terms, corners, maps = score_windows(
        random_image((32, 48)), seen_through((16, 16)), identity, 4, usable
    )
    assert terms.shape == (0, 2) and corners.shape == (0, 2) and bool(maps.isnan().all())


def test_the_retina_goes_with_its_windows() -> None:
    retina = torch.zeros(32, 48, dtype=torch.bool)
    retina[10:20] = True
    rows = []

    def look(windows: Tensor, inside: Tensor | None) -> tuple[Tensor, Tensor]:
        assert inside is not None and inside.shape == windows.shape
        rows.extend(inside[:, 0, :, 0].sum(1).tolist())
        return identity(windows)

    score_windows(random_image((32, 48)), seen_through((16, 16)), look, 4, retina=retina)
    assert rows == [6] * 5 + [10] * 5 + [4] * 5


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

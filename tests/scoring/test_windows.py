"""Windows cover all of an image, and what they give is fused to whole maps."""

import pytest
import torch
from torch import Tensor

from fanogan.data import Preprocessing
from fanogan.scoring.windows import score_windows


def seen_through(
    window: tuple[int, int], image_size: tuple[int, int] | None = None
) -> Preprocessing:
    return Preprocessing("uint8", 0.0, 255.0, 1, window, image_size or window)


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


def test_a_window_that_is_known_in_part_is_scored_on_that_part() -> None:
    def within(windows: Tensor, inside: Tensor | None) -> tuple[Tensor, Tensor]:
        assert inside is not None
        kept = windows.abs() * inside
        terms = kept.flatten(1).mean(1)[:, None].expand(-1, 2)
        return terms, torch.cat([kept, windows], 1)

    x = random_image((16, 24))
    recorded = torch.ones(16, 24, dtype=torch.bool)
    recorded[:, :5] = False
    see = seen_through((16, 16))
    terms, corners, _ = score_windows(x, see, within, batch=4, inside=recorded, recorded=recorded)
    for (row, column), term in zip(corners.tolist(), terms, strict=True):
        part = x[0, 0, row : row + 16, max(column, 5) : column + 16]
        assert float(term[0]) == pytest.approx(float(part.abs().mean()), rel=1e-5)


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


@pytest.mark.parametrize("image_size", [(16, 16), (64, 64), (16, 28)])
def test_a_map_comes_back_at_the_size_of_the_image(image_size: tuple[int, int]) -> None:
    rows, columns = torch.arange(70)[:, None], torch.arange(45)
    smooth = (torch.sin(rows / 12) * torch.cos(columns / 10))[None, None]
    seen = []

    def look(windows: Tensor, inside: Tensor | None) -> tuple[Tensor, Tensor]:
        seen.append(windows.shape[1:])
        return identity(windows)

    _, _, maps = score_windows(smooth, seen_through((32, 32), image_size), look, batch=4)
    assert set(seen) == {(1, *image_size)}
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


def test_tissue_goes_with_its_windows() -> None:
    tissue = torch.zeros(32, 48, dtype=torch.bool)
    tissue[10:20] = True
    rows = []

    def look(windows: Tensor, inside: Tensor | None) -> tuple[Tensor, Tensor]:
        assert inside is not None and inside.shape == windows.shape
        rows.extend(inside[:, 0, :, 0].sum(1).tolist())
        return identity(windows)

    score_windows(random_image((32, 48)), seen_through((16, 16)), look, 4, inside=tissue)
    assert rows == [6] * 5 + [10] * 5 + [4] * 5

"""From a scan's pixels to what the networks see: grey values, bit depths, channels, geometry."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from fanogan.data.grey import GreyRangeDoubtful
from fanogan.data.preprocessing import Preprocessing
from fanogan.recipes.recipe import Recipe, load_recipe
from fanogan.scans import BadScan, Note, Scan, read_scan, read_scans

SMALL = load_recipe("small")


def scan(
    pixels: np.ndarray, name: str = "eye.png", notes: tuple[Note, ...] = (), group: str = "eye"
) -> Scan:
    return Scan(np.asarray(pixels), name, group, notes=notes)


def noise(
    *shape: int, dtype: type[np.generic] = np.uint8, low: int = 0, high: int = 256, seed: int = 0
) -> np.ndarray:
    return np.random.default_rng(seed).integers(low, high, shape).astype(dtype)


def seen(preprocessing: Preprocessing, of: Scan) -> np.ndarray:
    """The scan in [−1, 1], (frames, C, H, W), before anything is resampled."""
    encoded = preprocessing.encode(of)
    assert encoded.dtype == (np.uint8 if preprocessing.levels == 255 else np.uint16)
    widened = torch.from_numpy(encoded.astype(np.int32))
    return preprocessing.normalise(widened).numpy()


# --- grey values --------------------------------------------------------------------------------


def test_eight_bits_are_taken_as_they_are() -> None:
    # A narrow range is not stretched: 2·(x/255 − ½) whatever the training normals hold.
    preprocessing = Preprocessing.of([scan(noise(3, 28, 28, low=40, high=90))], SMALL)
    every = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    encoded = preprocessing.encode(scan(every))
    assert np.array_equal(encoded, every[:, None])
    x = preprocessing.normalise(torch.from_numpy(encoded))
    assert x.dtype == torch.float32
    expected = 2 * (np.arange(256) / 255 - 0.5)
    assert np.abs(x.numpy().ravel() - expected).max() < 1e-6
    assert (float(x.min()), float(x.max())) == (-1.0, 1.0)


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.float32])
def test_other_depths_are_mapped_by_percentiles_of_the_training_normals(
    dtype: type[np.generic],
) -> None:
    least = 0 if dtype is np.uint16 else -900
    values = np.random.default_rng(0).normal(1500, 200, (4, 64, 64)).clip(least)
    values[0, 0, :4] = 20_000  # a few saturated pixels don't set the range
    normals = [scan(part[None].astype(dtype), f"{i}.tif") for i, part in enumerate(values)]
    preprocessing = Preprocessing.of(normals, SMALL)
    low, high = np.percentile(values.astype(dtype).astype(np.float64), [0.1, 99.9])
    assert (preprocessing.low, preprocessing.high) == pytest.approx((low, high))
    x = seen(preprocessing, normals[1])
    expected = np.clip((values[1].astype(dtype).astype(float) - low) / (high - low), 0, 1) * 2 - 1
    assert np.abs(x[0, 0] - expected).max() <= 1 / 65535 + 1e-6
    assert float(seen(preprocessing, normals[0])[0, 0, 0, 0]) == 1.0


def test_the_range_is_the_training_normals_alone() -> None:
    train = [scan(noise(1, 28, 28, dtype=np.uint16, low=100, high=1000))]
    held_out = [scan(noise(1, 28, 28, dtype=np.uint16, low=5000, high=60000))]
    with_held_out = Preprocessing.of(train, SMALL, held_out)
    assert with_held_out == Preprocessing.of(train, SMALL)
    assert with_held_out.high < 1000


def test_a_few_bright_pixels_on_a_flat_ground_have_a_range() -> None:
    pixels = np.full((1, 64, 64), 7, np.uint16)
    pixels[0, 3, 3] = 400
    preprocessing = Preprocessing.of([scan(pixels)], SMALL)
    assert (preprocessing.low, preprocessing.high) == (7.0, 400.0)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_one_grey_value_is_nothing_to_learn_from(dtype: type[np.generic]) -> None:
    flat = [scan(np.full((1, 28, 28), 9, dtype), f"{i}.tif") for i in range(3)]
    with pytest.raises(BadScan, match=r"one grey value \(9\).*nothing to learn"):
        Preprocessing.of(flat, SMALL)


def test_an_eight_bit_model_scores_a_sixteen_bit_scan() -> None:
    pixels = noise(1, 28, 28)
    preprocessing = Preprocessing.of([scan(pixels)], SMALL)
    sixteen = scan(pixels.astype(np.uint16) * 257)
    assert np.array_equal(preprocessing.encode(sixteen), preprocessing.encode(scan(pixels)))
    fine = scan(noise(1, 28, 28, dtype=np.uint16, high=65536))
    exact = 2 * (fine.pixels / 257 / 255 - 0.5)
    assert np.abs(seen(preprocessing, fine)[0, 0] - exact).max() <= 1 / 255 + 1e-6


def test_a_sixteen_bit_model_scores_an_eight_bit_scan() -> None:
    pixels = noise(1, 28, 28)
    sixteen = scan(pixels.astype(np.uint16) * 257)
    preprocessing = Preprocessing.of([sixteen], SMALL)
    assert np.array_equal(preprocessing.encode(scan(pixels)), preprocessing.encode(sixteen))


@pytest.mark.parametrize("trained", [np.uint8, np.int64, np.int32, np.uint16])
@pytest.mark.parametrize("given", [np.uint8, np.int64, np.int32, np.uint16, np.uint64, ">u4"])
def test_zero_to_255_is_the_same_picture_in_any_integers(trained: Any, given: Any) -> None:
    images = noise(4, 28, 28, low=40, high=200)

    def scans(dtype: Any) -> list[Scan]:
        return [*read_scans(images.astype(dtype))]

    preprocessing = Preprocessing.of(scans(trained), SMALL)
    for given_scan, same in zip(scans(given), scans(trained), strict=True):
        expected = preprocessing.encode(same)
        assert np.array_equal(preprocessing.encode(given_scan), expected)
        is_told = trained is np.uint8 and given is not np.uint8
        doubts = [GreyRangeDoubtful(int(images.max()), 255)] if is_told else []
        assert [*preprocessing.doubts(given_scan)] == doubts


def test_bits_in_use_are_those_of_the_whole_array_or_file(tmp_path: Path) -> None:
    preprocessing = Preprocessing.of([scan(noise(3, 28, 28))], SMALL)
    stack = noise(3, 28, 28, dtype=np.uint16, high=65536)
    stack[1] //= 300  # a dark picture among others of 16 bits
    np.save(tmp_path / "stack.npy", stack)
    for source in (stack, [*stack], tmp_path / "stack.npy"):
        for index, each in enumerate(read_scans(source)):
            expected = np.round(stack[index] / 257)
            assert np.abs(preprocessing.encode(each)[0, 0] - expected).max() <= 1
            assert not [*preprocessing.doubts(each)]


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.npy"])
def test_files_of_sixteen_bits_that_hold_eight_or_twelve_say_so(tmp_path: Path, name: str) -> None:
    eight, twelve = noise(28, 28, high=250), noise(28, 28, dtype=np.uint16, high=4000)

    def written(values: np.ndarray) -> Scan:
        if name == "a.png":
            Image.fromarray(values).save(tmp_path / name)
        elif name == "a.tif":
            tifffile.imwrite(tmp_path / name, values)
        else:
            np.save(tmp_path / name, values)
        return read_scan(tmp_path / name)

    of_eight = Preprocessing.of([scan(noise(3, 28, 28))], SMALL)
    given = written(eight.astype(np.uint16))
    assert np.array_equal(of_eight.encode(given)[0, 0], eight)
    assert [*of_eight.doubts(given)] == [GreyRangeDoubtful(int(eight.max()), 255)]
    given = written(twelve)  # 12 bits or a dark picture of 16: nobody can tell
    assert [*of_eight.doubts(given)] == [GreyRangeDoubtful(int(twelve.max()), 65535)]
    of_sixteen = Preprocessing.of([scan(noise(3, 28, 28, dtype=np.uint16, high=60000))], SMALL)
    (doubt,) = of_sixteen.doubts(written(eight.astype(np.uint16)))
    assert isinstance(doubt, GreyRangeDoubtful) and doubt.white == round(of_sixteen.high)
    assert not [*of_sixteen.doubts(written(twelve * np.uint16(15)))]


@pytest.mark.parametrize(
    ("trained", "given"),
    [(np.uint8, np.float32), (np.uint8, np.int16), (np.float32, np.uint8), (np.int16, np.uint8)],
)
def test_depths_that_share_no_unit_are_refused(
    trained: type[np.generic], given: type[np.generic]
) -> None:
    preprocessing = Preprocessing.of([scan(noise(1, 28, 28, dtype=trained))], SMALL)
    with pytest.raises(BadScan, match=rf"other\.tif is {given.__name__}.*on {trained.__name__}"):
        preprocessing.encode(scan(noise(1, 28, 28, dtype=given), "other.tif"))


def test_mixed_bit_depths_are_refused_by_name() -> None:
    normals = [scan(noise(1, 28, 28)), scan(noise(1, 28, 28, dtype=np.uint16), "deep.tif")]
    with pytest.raises(BadScan, match=r"eye\.png is uint8 and deep\.tif is uint16.*one bit depth"):
        Preprocessing.of(normals, SMALL)
    with pytest.raises(BadScan, match=r"deep\.tif"):
        Preprocessing.of(normals[:1], SMALL, normals[1:])


def test_integers_of_any_width_reach_the_networks_alike() -> None:
    preprocessing = Preprocessing("uint16", 0, 65535, 1, None, (16, 16))
    values = torch.tensor([0, 1, 32767, 32768, 65535])
    expected = values.double() * 2 / 65535 - 1
    assert torch.allclose(preprocessing.normalise(values).double(), expected, atol=1e-6)
    assert torch.equal(preprocessing.normalise(values), preprocessing.normalise(values.int()))


# --- channels -----------------------------------------------------------------------------------


def test_channels_go_first_and_keep_their_order() -> None:
    pixels = noise(2, 28, 32, 3)
    preprocessing = Preprocessing.of([scan(pixels)], SMALL)
    assert preprocessing.channels == 3
    encoded = preprocessing.encode(scan(pixels))
    assert encoded.shape == (2, 3, 28, 32)
    assert encoded.flags.c_contiguous
    for channel in range(3):
        assert np.array_equal(encoded[:, channel], pixels[..., channel])


def test_grey_among_colour_is_refused_by_name() -> None:
    normals = [scan(noise(1, 28, 28, 3), "colour.png"), scan(noise(1, 28, 28), "plain.png")]
    for order in (normals, normals[::-1]):
        with pytest.raises(BadScan, match=r"plain\.png is grey and colour\.png has 3 channels"):
            Preprocessing.of(order, SMALL)


def test_grey_stored_as_rgb_among_colour_becomes_colour_again(tmp_path: Any) -> None:
    from PIL import Image

    grey = noise(28, 28)
    Image.fromarray(np.stack([grey] * 3, -1)).save(tmp_path / "grey.png")
    stored_as_rgb = read_scan(tmp_path / "grey.png")
    assert stored_as_rgb.pixels.shape == (1, 28, 28)
    colour = scan(noise(1, 28, 28, 3, seed=1), "colour.png")
    for normals in ([colour, stored_as_rgb], [stored_as_rgb, colour]):
        preprocessing = Preprocessing.of(normals, SMALL)
        assert preprocessing.channels == 3
        encoded = preprocessing.encode(stored_as_rgb)
        assert encoded.shape == (1, 3, 28, 28)
        assert all(np.array_equal(encoded[0, channel], grey) for channel in range(3))
    assert Preprocessing.of([stored_as_rgb], SMALL).channels == 1


@pytest.mark.parametrize(
    ("trained", "given", "sentence"),
    [
        ((1, 28, 28), (1, 28, 28, 3), r"new\.png is RGB, the model was trained on grey images"),
        ((1, 28, 28, 3), (1, 28, 28), r"new\.png is grey, the model was trained on RGB images"),
    ],
)
def test_other_channels_than_the_models_are_refused(
    trained: tuple[int, ...], given: tuple[int, ...], sentence: str
) -> None:
    preprocessing = Preprocessing.of([scan(noise(*trained))], SMALL)
    with pytest.raises(BadScan, match=sentence):
        preprocessing.encode(scan(noise(*given), "new.png"))


def test_grey_values_are_shares_of_the_range_with_channels_last() -> None:
    pixels = noise(1, 16, 16, 3)
    preprocessing = Preprocessing.of([scan(pixels)], SMALL)
    grey_values = preprocessing.grey_values(preprocessing.encode(scan(pixels)))
    assert grey_values.shape == (1, 16, 16, 3)
    np.testing.assert_allclose(grey_values * 255, pixels, rtol=1e-6)


# --- geometry -----------------------------------------------------------------------------------

GEOMETRIES: list[tuple[Sequence[tuple[int, int]], dict[str, Any], Any, tuple[int, int]]] = [
    ([(28, 28)], {}, None, (28, 28)),
    ([(32, 32)], {}, None, (32, 32)),
    ([(16, 28)], {}, None, (16, 28)),
    ([(64, 64)], {}, None, (32, 32)),
    ([(8, 8)], {}, None, (32, 32)),
    ([(30, 30)], {}, None, (32, 32)),
    ([(496, 512)], {}, (64, 64), (32, 32)),
    ([(496, 512), (496, 768)], {}, (64, 64), (32, 32)),
    ([(64, 64), (64, 65)], {}, (64, 64), (32, 32)),
    ([(496, 512)], {"window": (64, 112), "image_size": (64, 112)}, (64, 112), (64, 112)),
    ([(64, 64)], {"image_size": (64, 64)}, None, (64, 64)),
    ([(28, 28)], {"window": (16, 16), "image_size": (16, 16)}, (16, 16), (16, 16)),
]


@pytest.mark.parametrize(("sizes", "changes", "window", "image_size"), GEOMETRIES)
def test_what_is_seen_of_which_sizes(
    sizes: Sequence[tuple[int, int]],
    changes: dict[str, Any],
    window: tuple[int, int] | None,
    image_size: tuple[int, int],
) -> None:
    normals = [scan(noise(1, *size), f"{i}.png") for i, size in enumerate(sizes)]
    preprocessing = Preprocessing.of(normals, SMALL.but(**changes))
    assert (preprocessing.window, preprocessing.image_size) == (window, image_size)
    piece = torch.zeros(2, 1, *(window or sizes[0]))
    assert preprocessing.resize(piece).shape == (2, 1, *image_size)
    assert (
        preprocessing.resize_back(torch.zeros(2, 1, *image_size), piece.shape[2:]).shape
        == piece.shape
    )


@pytest.mark.parametrize(
    ("sizes", "name"),
    [
        ([(28, 28), (32, 32)], r"0\.png has 28×28"),
        ([(100, 100), (60, 100)], r"1\.png has 60×100"),
        ([(100, 40)], r"0\.png has 100×40"),
    ],
)
def test_images_too_small_for_the_window_are_refused_by_name(
    sizes: list[tuple[int, int]], name: str
) -> None:
    normals = [scan(noise(1, *size), f"{i}.png") for i, size in enumerate(sizes)]
    with pytest.raises(BadScan, match=rf"{name} pixels, fewer than the window.*64×64.*smaller"):
        Preprocessing.of(normals, SMALL)


def test_a_held_out_image_of_another_size_counts() -> None:
    normals = [scan(noise(1, 28, 28), "a.png"), scan(noise(1, 40, 40), "b.png")]
    with pytest.raises(BadScan, match="differ in size"):
        Preprocessing.of(normals[:1], SMALL, normals[1:])
    large = [scan(noise(1, 64, 64), "a.png"), scan(noise(1, 80, 80), "b.png")]
    assert Preprocessing.of(large[:1], SMALL, large[1:]).window == (64, 64)


def test_a_scan_smaller_than_the_models_window_is_refused() -> None:
    preprocessing = Preprocessing.of([scan(noise(1, 100, 100))], SMALL)
    with pytest.raises(BadScan, match=r"tiny\.png has 100×63 pixels, fewer than the window.*64×64"):
        preprocessing.encode(scan(noise(1, 100, 63), "tiny.png"))


def test_what_the_networks_see_is_the_same_picture() -> None:
    preprocessing = Preprocessing("uint8", 0, 255, 1, (64, 64), (32, 32))
    x = torch.arange(64.0).div(32).sub(1).expand(1, 1, 64, 64)
    small = preprocessing.resize(x)
    # Away from the border, a slope sampled at half the rate is a slope twice as steep.
    assert torch.allclose(small[..., 4:-4].diff(dim=3), torch.tensor(1 / 16), atol=1e-4)
    assert float(small.mean()) == pytest.approx(float(x.mean()), abs=1e-3)
    back = preprocessing.resize_back(small, (64, 64))
    assert float((back - x).abs()[..., 4:-4].max()) < 1e-3
    assert preprocessing.resize_back(x, (64, 64)) is x


def test_no_pixel_is_passed_over_where_the_networks_see_fewer() -> None:
    preprocessing = Preprocessing("uint8", 0, 255, 1, (64, 64), (16, 16))
    bright_columns = torch.where(torch.arange(64) % 4 == 0, 1.0, -1.0).expand(1, 1, 64, 64)
    small = preprocessing.resize(bright_columns)[..., 2:-2]
    assert float((small + 0.5).abs().max()) < 0.1


# --- kept with the model ------------------------------------------------------------------------


@pytest.mark.parametrize("window", [None, (64, 112)])
def test_round_trip_through_json(window: tuple[int, int] | None) -> None:
    preprocessing = Preprocessing("uint16", 12.25, 1 / 3 + 4000, 3, window, (32, 56))
    again = Preprocessing.from_dict(json.loads(json.dumps(preprocessing.to_dict())))
    assert again == preprocessing
    assert hash(again) == hash(preprocessing)


def test_of_settled_values_are_plain_json() -> None:
    normals = [scan(noise(1, 100, 100, dtype=np.uint16, high=4000))]
    preprocessing = Preprocessing.of(normals, Recipe())
    assert Preprocessing.from_dict(json.loads(json.dumps(preprocessing.to_dict()))) == preprocessing
    with pytest.raises(dataclasses.FrozenInstanceError):
        preprocessing.low = 0  # type: ignore[misc]

"""What results hold of the nearest normal version: the scan's own geometry, in 8 bits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from test_score_volumes import RECIPE, flat_phantom, phantom
from test_voxels import TINY as VOXELS
from test_voxels import waves, write_niftis

from fanogan import FAnoGAN
from fanogan.recipes import load_recipe
from fanogan.scoring import results, write_results

TINY = load_recipe("smoke").but(
    critic_updates=2, encoder_updates=2, reestimate_batch_norm=False, held_out_fraction=0.5
)


def assert_same(stored: np.ndarray, image: np.ndarray) -> None:
    """To half a grey level; black where the networks saw nothing."""
    assert stored.dtype == np.uint8
    np.testing.assert_allclose(
        stored / 127.5 - 1, np.nan_to_num(image, nan=-1), atol=0.5 / 127.5 + 1e-6
    )


@pytest.mark.parametrize("channels", [(), (3,)])
def test_of_images_large_and_small_grey_and_in_colours(
    tmp_path: Path, channels: tuple[int, ...]
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 20, 24, *channels), np.uint8)
    model = FAnoGAN(TINY).fit(pixels).model
    np.save(tmp_path / "scans.npy", pixels[:2])
    write_results(model, tmp_path / "scans.npy", tmp_path / "out")
    for result in results(model, tmp_path / "scans.npy"):
        path = tmp_path / "out" / "reconstructions" / f"{result.name}.tif"
        assert_same(tifffile.imread(path), result.reconstruction)
    write_results(model, tmp_path / "scans.npy", tmp_path / "out", scores_only=True)
    assert not (tmp_path / "out" / "reconstructions").exists()


def test_of_a_flattened_volume_in_its_own_rows(tmp_path: Path) -> None:
    model = FAnoGAN(RECIPE).fit([flat_phantom(phantom(seed)) for seed in range(3)]).model
    eye = flat_phantom(phantom(11, diseased=True))
    write_results(model, [eye], tmp_path / "out")
    with tifffile.TiffFile(tmp_path / "out" / "reconstructions" / f"{eye.name}.tif") as file:
        assert file.series[0].axes == "ZYX"
        stored = file.asarray()
    assert stored.shape == eye.bscans.shape
    for result in results(model, [eye]):
        if result.unit == "image":
            assert_same(stored[result.frame], result.reconstruction)


def test_of_a_volume_that_is_seen_in_three_dimensions(tmp_path: Path) -> None:
    model = FAnoGAN(VOXELS).fit(waves(10)).model
    scans = write_niftis(tmp_path / "scans", waves(1, first=60))
    write_results(model, scans, tmp_path / "out", maps="nifti")
    (result,) = results(model, scans)
    stored = tifffile.imread(tmp_path / "out" / "reconstructions" / "v0.nii.gz.tif")
    assert_same(stored, result.reconstruction)

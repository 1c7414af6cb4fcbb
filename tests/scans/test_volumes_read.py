"""Volumes that are seen in three dimensions: arrays, NIfTI, stacks, and what is too large."""

from pathlib import Path

import nibabel
import numpy as np
import pytest
import tifffile
import torch

from fanogan.scans import BadScan, checks, read_scan, read_scans

RNG = np.random.default_rng(0)
VOXELS = RNG.integers(0, 256, (2, 5, 6, 7)).astype(np.uint8)  # two volumes


def volumes(source: object) -> list[np.ndarray]:
    return [scan.pixels for scan in read_scans(source, kind="volume")]


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_an_array_file_holds_one_volume_or_several(tmp_path: Path, suffix: str) -> None:
    save = np.save if suffix == ".npy" else np.savez_compressed
    path = tmp_path / f"a{suffix}"
    for given, expected in ((VOXELS[0], [VOXELS[0]]), (VOXELS, [*VOXELS])):
        save(path, given)
        found = list(read_scans([path], kind="volume"))
        assert [(scan.pixels.tolist(), scan.is_volume) for scan in found] == [
            (one.tolist(), False) for one in expected
        ]
        names = [path.name] if len(found) == 1 else [f"{path.name}#0", f"{path.name}#1"]
        assert [scan.name for scan in found] == names
    np.save(tmp_path / "flat.npy", VOXELS[0, 0])
    with pytest.raises(BadScan, match=r"flat\.npy has shape \(6, 7\): give \(slices, rows, col"):
        volumes([tmp_path / "flat.npy"])


def test_arrays_and_tensors_in_memory() -> None:
    colour = RNG.integers(0, 256, (2, 5, 6, 7, 3)).astype(np.uint8)
    for given, expected in (
        (VOXELS, VOXELS),
        ([*VOXELS], VOXELS),
        (torch.from_numpy(VOXELS), VOXELS),
        (colour, colour),
        (torch.from_numpy(colour).movedim(-1, 1), colour),
    ):
        assert np.array_equal(volumes(given), expected)
    with pytest.raises(BadScan, match=r"shape \(5, 6, 7\): give \(N, slices.*array\[None\]"):
        volumes(VOXELS[0])
    with pytest.raises(BadScan, match="NaN"):
        volumes(np.full((1, 5, 6, 7), np.nan))


def test_a_nifti_and_a_stack_are_one_scan_and_a_picture_is_none(tmp_path: Path) -> None:
    affine = np.diag([2.0, 3.0, 4.0, 1.0])
    stored = VOXELS[0].transpose(1, 2, 0)  # rows, columns, slices
    nibabel.save(nibabel.Nifti1Image(stored, affine), tmp_path / "a.nii.gz")
    tifffile.imwrite(tmp_path / "b.tif", VOXELS[1], imagej=True, metadata={"axes": "ZYX"})
    nifti, stack = read_scans([tmp_path / "a.nii.gz", tmp_path / "b.tif"], kind="volume")
    assert np.array_equal(nifti.pixels, VOXELS[0]) and nifti.spacing == (4, 2, 3)
    assert np.array_equal(stack.pixels, VOXELS[1])
    assert not (nifti.is_volume or stack.is_volume)
    tifffile.imwrite(tmp_path / "c.tif", VOXELS[0, 0])
    with pytest.raises(BadScan, match=r"^c\.tif is a single image, and volumes are meant"):
        volumes([tmp_path / "c.tif"])
    good = read_scans(tmp_path, kind="volume", skip_bad=True)
    assert [scan.name for scan in good] == ["a.nii.gz", "b.tif"]


def test_what_is_too_large_for_memory_stays_where_it_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "c.npy", VOXELS[0])
    np.save(tmp_path / "f.npy", np.asfortranarray(VOXELS[0]))
    stored = VOXELS[0].transpose(1, 2, 0)
    nibabel.save(nibabel.Nifti1Image(stored, np.eye(4)), tmp_path / "n.nii")
    monkeypatch.setattr(checks, "MAX_BYTES", 100)
    for name in ("c.npy", "f.npy", "n.nii"):
        (scan,) = read_scans([tmp_path / name], kind="volume")
        assert isinstance(scan.pixels, np.memmap) and np.array_equal(scan.pixels, VOXELS[0])
        with pytest.raises(BadScan, match="more than the 0 GB that one file may have"):
            read_scan(tmp_path / name)  # slice by slice all of it would be held
    for refused in (VOXELS[0].astype(np.float64), VOXELS[0].astype(">u2")):
        np.save(tmp_path / "d.npy", refused)
        with pytest.raises(BadScan, match=r"d\.npy takes .*only as uint8, uint16, int16 or float"):
            volumes([tmp_path / "d.npy"])

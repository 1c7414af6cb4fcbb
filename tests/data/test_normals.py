"""The normals of a run: read, split by subject, remembered without a name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from pydicom.data import get_testdata_file

from fanogan.data.normals import Normals
from fanogan.data.notes import (
    DuplicateImages,
    FewHeldOut,
    FewImages,
    FewSubjects,
    HeldOutDuplicates,
    VolumesAsImages,
)
from fanogan.recipes.recipe import load_recipe
from fanogan.report import describe
from fanogan.scans import BadScan, Note

SMOKE = load_recipe("smoke")


def pixels(*shape: int, seed: int = 0, top: int = 256) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, top, shape, dtype=np.uint8)


def write_folders(root: Path, images: Mapping[str, int]) -> Path:
    """One folder a subject, with so many images of 16×16."""
    for subject, (name, count) in enumerate(images.items()):
        (root / name).mkdir(parents=True)
        for index in range(count):
            image = Image.fromarray(pixels(16, 16, seed=1000 * subject + index))
            image.save(root / name / f"{index}.png")
    return root


def as_bytes(normals: Normals) -> tuple[set[bytes], set[bytes]]:
    """The images that are learnt from, and those held out."""
    held = [normals.preprocessing.encode(scan) for scan in normals.held_out]
    return (
        {image.tobytes() for image in normals.training},
        {image.tobytes() for encoded in held for image in encoded},
    )


def test_subjects_are_folders_and_stay_together(tmp_path: Path) -> None:
    folder = write_folders(tmp_path, {f"subject {i}": 3 for i in range(5)})
    normals = Normals.read(folder, SMOKE)
    assert {scan.group for scan in normals.held_out} < {f"subject {i}" for i in range(5)}
    assert len(normals.held_out) == 3 and len(normals.training) == 12
    training, held_out = as_bytes(normals)
    assert len(training | held_out) == 15
    assert not training & held_out


def test_another_seed_holds_out_others(tmp_path: Path) -> None:
    folder = write_folders(tmp_path, {f"subject {i}": 1 for i in range(8)})
    chosen = {Normals.read(folder, SMOKE, seed=seed).held_out[0].group for seed in range(6)}
    assert len(chosen) > 1
    again = Normals.read(folder, SMOKE, seed=3)
    assert again.held_out[0].group == Normals.read(folder, SMOKE, seed=3).held_out[0].group


def test_share_held_out_is_the_recipes() -> None:
    normals = Normals.read(pixels(40, 16, 16), SMOKE.but(held_out_fraction=0.25))
    assert (len(normals.training), len(normals.held_out)) == (30, 10)
    assert normals.fingerprint["subjects"] == 30
    assert normals.fingerprint["held_out_subjects"] == 10


@pytest.mark.parametrize("kind", ["array", "npy", "npz", "tensor"])
def test_images_of_an_array_are_their_own_subjects(tmp_path: Path, kind: str) -> None:
    images = pixels(20, 16, 16)
    source: Any = tmp_path / f"images.{kind}"
    if kind == "array":
        source = images
    elif kind == "tensor":
        source = torch.from_numpy(images)
    elif kind == "npy":
        np.save(source, images)
    else:
        np.savez(source, images)
    normals = Normals.read(source, SMOKE)
    assert (len(normals.training), len(normals.held_out)) == (18, 2)
    assert normals.fingerprint["held_out_subjects"] == 2
    training, held_out = as_bytes(normals)
    assert training | held_out == {image.tobytes() for image in images}
    assert not training & held_out


def test_an_array_file_in_a_folder_is_one_subject(tmp_path: Path) -> None:
    for subject in range(3):
        (tmp_path / f"s{subject}").mkdir()
        np.save(tmp_path / f"s{subject}" / "images.npy", pixels(4, 16, 16, seed=subject))
    normals = Normals.read(tmp_path, SMOKE)
    assert (len(normals.training), len(normals.held_out)) == (8, 4)
    assert normals.fingerprint["subjects"] == 2
    assert normals.fingerprint["volumes"] == 0


def test_a_volume_stays_together(tmp_path: Path) -> None:
    for subject in range(4):
        tifffile.imwrite(tmp_path / f"eye {subject}.tif", pixels(5, 16, 16, seed=subject))
    normals = Normals.read(tmp_path, SMOKE)
    (volume,) = normals.held_out
    assert volume.is_volume and volume.pixels.shape == (5, 16, 16)
    assert len(normals.training) == 15
    assert normals.fingerprint["volumes"] == 4
    assert normals.summary.startswith("4 volumes, 20 images of 4 subjects")
    assert VolumesAsImages() in normals.notes
    told = Normals.read(tmp_path, SMOKE.but(geometry="image"))
    assert VolumesAsImages() not in told.notes


def test_groups_name_the_subjects(tmp_path: Path) -> None:
    for index in range(12):
        Image.fromarray(pixels(16, 16, seed=index)).save(tmp_path / f"p{index % 3}_{index}.png")
    normals = Normals.read(tmp_path, SMOKE, groups=r"(p\d)_")
    assert len(normals.held_out) == 4
    assert len({scan.group for scan in normals.held_out}) == 1
    assert normals.origin == {
        "normals": [str(tmp_path)],
        "groups": r"(p\d)_",
        "pictures": "auto",
        "spacing": None,
        "skip_bad": False,
    }


@pytest.mark.parametrize("count", [1, 2])
def test_two_subjects_are_needed(tmp_path: Path, count: int) -> None:
    folder = write_folders(tmp_path, {f"s{i}": 4 for i in range(count)})
    if count == 2:
        assert len(Normals.read(folder, SMOKE).training) == 4
    else:
        with pytest.raises(BadScan, match="at least two subjects are needed, 1 subject found"):
            Normals.read(folder, SMOKE)


def test_an_odd_image_is_found_though_it_is_held_out() -> None:
    for seed in range(4):  # whether it is held out or not
        images = [pixels(16, 16, seed=i) for i in range(3)] + [pixels(12, 16)]
        with pytest.raises(BadScan, match="12×16"):
            Normals.read(images, SMOKE.but(held_out_fraction=0.5), seed=seed)
        images[-1] = pixels(16, 16, 3)
        with pytest.raises(BadScan, match="3 channels"):
            Normals.read(images, SMOKE.but(held_out_fraction=0.5), seed=seed)


def test_the_grey_range_is_that_of_the_training_images_alone() -> None:
    images = np.random.default_rng(0).integers(100, 1000, (10, 16, 16)).astype(np.uint16)
    (held,) = Normals.read(images, SMOKE).held_out
    brighter = images.copy()
    brighter[int(held.name.removeprefix("image "))] += 20_000
    before, after = (Normals.read(array, SMOKE).preprocessing for array in (images, brighter))
    assert (before.low, before.high) == (after.low, after.high)
    assert before.high < 1000


def test_skipped_files_are_told(tmp_path: Path) -> None:
    folder = write_folders(tmp_path, {"a": 3, "b": 3})
    (folder / "a" / "1.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
    with pytest.raises(BadScan, match=r"1\.png"):
        Normals.read(folder, SMOKE)
    normals = Normals.read(folder, SMOKE, skip_bad=True)
    (told,) = normals.skipped
    assert "1.png" in told
    assert normals.fingerprint["images"] + normals.fingerprint["held_out_images"] == 5


def test_files_without_an_image_are_told(tmp_path: Path) -> None:
    folder = write_folders(tmp_path, {"a": 3, "b": 3})
    shutil.copy(str(get_testdata_file("rtplan.dcm")), folder / "a" / "IM1")
    normals = Normals.read(folder, SMOKE)
    assert normals.skipped == ("1 file without an image (1 DICOM RT Plan)",)
    assert normals.fingerprint["images"] + normals.fingerprint["held_out_images"] == 6


# --- fingerprint and notes -------------------------------------------------------------------


def test_duplicates_are_counted() -> None:
    images = pixels(30, 16, 16)
    clean = Normals.read(images, SMOKE)
    assert clean.fingerprint["duplicates"] == clean.fingerprint["held_out_duplicates"] == 0
    out = [int(scan.name.removeprefix("image ")) for scan in clean.held_out]
    kept = [index for index in range(30) if index not in out]
    images[kept[1]] = images[kept[2]] = images[kept[0]]
    images[out[0]] = images[kept[5]]
    normals = Normals.read(images, SMOKE)
    assert normals.fingerprint["duplicates"] == 2
    assert normals.fingerprint["held_out_duplicates"] == 1
    assert DuplicateImages(2, of=27) in normals.notes
    assert HeldOutDuplicates(1, of=3) in normals.notes


def test_few_images_and_few_subjects_are_warned_of(tmp_path: Path) -> None:
    few = Normals.read(write_folders(tmp_path, {"a": 3, "b": 3, "c": 3}), SMOKE)
    assert few.notes == (FewImages(6), FewSubjects(2), FewHeldOut(1, 19))
    assert Normals.read(pixels(223, 16, 16), SMOKE).notes == ()  # 201 of them to learn from


@pytest.mark.parametrize(
    ("note", "words"),
    [
        (DuplicateImages(2, of=27), "2 of 27 training images repeat another exactly"),
        (HeldOutDuplicates(1, of=3), "1 of 3 held-out images are among the training images too"),
        (FewImages(6), "only 6 training images: the model may learn them by heart"),
        (FewSubjects(1), "only 1 training subject: others may look different and yet be normal"),
        (VolumesAsImages(), "fanogan prepare or a recipe with geometry: retina flattens them"),
    ],
)
def test_notes_have_words(note: Note, words: str) -> None:
    assert words in describe(note)


def test_the_fingerprint_is_of_the_images_and_their_order() -> None:
    images = pixels(12, 16, 16)

    def sha256(array: np.ndarray, seed: int = 0) -> str:
        return str(Normals.read(array, SMOKE, seed=seed).fingerprint["sha256"])

    assert sha256(images) == sha256(images.copy())
    others = [sha256(images[::-1]), sha256(images.reshape(12, 8, 32).repeat(2, 1))]
    for index in range(12):  # one pixel of any image, held out or not
        changed = images.copy()
        changed[index, 3, 3] ^= 1
        others.append(sha256(changed))
    assert len({sha256(images), *others}) == 15


def test_the_fingerprint_holds_no_name(tmp_path: Path) -> None:
    folder = write_folders(tmp_path, {"Erika Mustermann": 2, "Max Mustermann": 2})
    normals = Normals.read(folder, SMOKE)
    assert "Mustermann" not in json.dumps(normals.fingerprint)
    assert "Mustermann" not in json.dumps(normals.profile.to_dict())
    assert "Mustermann" not in normals.summary + repr(normals.notes)


# --- what a user reads --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "seen"),
    [
        ((20, 16, 16), "grey, uint8 · whole images of 16×16 pixels, seen at 16×16 pixels"),
        ((20, 24, 40), "grey, uint8 · windows of 16×16 pixels, seen at 16×16 pixels"),
        ((20, 16, 16, 3), "RGB, uint8 · whole images of 16×16 pixels, seen at 16×16 pixels"),
        ((20, 8, 8), "grey, uint8 · whole images of 8×8 pixels, seen at 16×16 pixels"),
    ],
)
def test_the_summary_says_what_was_found(shape: tuple[int, ...], seen: str) -> None:
    first, second = Normals.read(pixels(*shape), SMOKE).summary.split("\n")
    assert first == f"20 images of 20 subjects · {seen}"
    assert second == "held out for calibration: 2 images of 2 subjects"


def test_one_of_a_kind_is_named_as_one(tmp_path: Path) -> None:
    folder = write_folders(tmp_path, {"one": 1, "other": 1})
    normals = Normals.read(folder, SMOKE)
    assert normals.summary.endswith("held out for calibration: 1 image of 1 subject")
    assert normals.notes == (FewImages(1), FewSubjects(1), FewHeldOut(1, 19))


def test_arrays_have_no_origin_and_paths_are_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Normals.read(pixels(4, 16, 16), SMOKE).origin is None
    write_folders(tmp_path / "healthy", {"a": 1, "b": 1})
    monkeypatch.chdir(tmp_path)
    Path("subjects.csv").write_text("path,subject\na/0.png,1\nb/0.png,2\n")
    assert Normals.read(["healthy"], SMOKE, groups="subjects.csv").origin == {
        "normals": [str(tmp_path / "healthy")],
        "groups": str(tmp_path / "subjects.csv"),
        "pictures": "auto",
        "spacing": None,
        "skip_bad": False,
    }

"""What is no B-scan the right way up is refused in a sentence; sick and odd eyes are not."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data

from fanogan.phantom import LESIONS, make_phantom
from fanogan.retina import read_volumes, straighten
from fanogan.retina.flatten import FlatSpace
from fanogan.scans import BadScan, PerhapsSideBySide, Scan

SPACING = (0.5, 0.00387, 0.0114)
EYE = make_phantom(7, shape=(2, 360, 300), spacing=SPACING)


def scan(pixels: np.ndarray, name: str = "eye") -> Scan:
    pixels = pixels if pixels.ndim == 3 else pixels[None]
    return Scan(np.ascontiguousarray(pixels), name, name, SPACING, is_volume=True)


FUNDUS = data.retina()[::3, ::3, 1]


@pytest.mark.parametrize(
    ("pixels", "said"),
    [
        (FUNDUS, "shows no layers, as a picture of the fundus or an angiogram does: give B-scans"),
        (FUNDUS[130:330, 100:340], "shows no layers"),
        (EYE.pixels[:, ::-1], "is upside down, brighter above the retina than below: turn it over"),
        (EYE.pixels.swapaxes(1, 2), "holds layers that run from top to bottom: turn it by 90°"),
        (np.hstack([EYE.pixels[:1, 40:], EYE.pixels[1:, 40:]]), "holds two B-scans one above the"),
        (np.random.default_rng(1).integers(0, 60, (300, 300)).astype(np.uint8), "no retina"),
        (np.random.default_rng(1).integers(0, 60, (1, 50)).astype(np.uint8), "no retina"),
        (
            np.full((300, 300), 9, np.uint8),
            "nothing but filled margins or one grey value|no retina",
        ),
    ],
    ids=[
        "fundus",
        "part of a fundus",
        "upside down",
        "vertical",
        "two in one",
        "noise",
        "a line",
        "blank",
    ],
)
def test_each_is_refused_in_a_sentence(pixels: np.ndarray, said: str) -> None:
    with pytest.raises(BadScan, match=said) as caught:
        straighten(scan(pixels))
    assert "eye" in str(caught.value) and "--skip-bad" in str(caught.value)


def test_two_side_by_side_are_noted() -> None:
    shifted = np.roll(EYE.pixels[0], 60, axis=0)
    two = straighten(scan(np.hstack([EYE.pixels[0], shifted])))
    assert PerhapsSideBySide() in two.notes
    assert PerhapsSideBySide() not in straighten(scan(EYE.pixels)).notes


def test_the_others_go_on() -> None:
    bad = [scan(FUNDUS, "fundus"), scan(EYE.pixels[:1, ::-1], "over")]
    told: list[str] = []
    volumes = read_volumes(
        [*bad, scan(EYE.pixels[:1], "good")],
        FlatSpace(),
        skip_bad=True,
        on_bad=lambda error: told.append(str(error)),
    )
    assert [volume.name for volume in volumes] == ["good"]
    assert [text.split()[0] for text in told] == ["fundus", "over"]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("lesion", [None, *LESIONS])
def test_healthy_and_sick_eyes_are_taken(lesion: str | None, seed: int) -> None:
    eye = make_phantom(
        seed,
        shape=(1, 320, 200),
        spacing=(0.5, 0.00387, 0.0171),
        diseased=lesion is not None,
        lesions=[lesion] if lesion else None,
    )
    straighten(Scan(eye.pixels, "eye", "eye", eye.spacing, is_volume=True))


@pytest.mark.parametrize("name", ["kermany", "octdl"])
def test_published_bscans_are_taken(data_folder: Path, name: str) -> None:
    files = sorted((data_folder / "oct" / name).rglob("*.jp*g"))[::80]
    if not files:
        pytest.skip(f"no pictures at {data_folder / 'oct' / name}")
    for file in files:
        straighten(scan(np.asarray(Image.open(file).convert("L")), file.name))

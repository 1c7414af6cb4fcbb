"""Write made-up eyes as a clinic exports them, in two visits, and score them.

Usage: python docs/site/review_phantoms.py OUT

OUT/exports/PATIENT_EYE_DAY/ is a Heidelberg export (XML, B-scans, picture of the fundus), and
OUT/results what `fanogan score` finds in them; OUT/masks/PATIENT_EYE_DAY.tif holds where lesions
were made. The pictures of docs/review.md, and the tests of
the pages, are made of these.
"""

import sys
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image
from scipy.ndimage import gaussian_filter

from fanogan.detectors import Detector, new_detector
from fanogan.phantom import make_phantom
from fanogan.recipes import load_recipe
from fanogan.scoring import write_results

SHAPE, SPACING = (16, 320, 256), (0.24, 0.00387, 0.022)
FUNDUS, FUNDUS_MM = 384, 0.018  # pixels of a side, and their size
LEFT, TOP = 0.6, 1.5  # mm from the picture's corner to the first B-scan
GROUPS = r"^(patient_\d+)"
DRUSEN, CYST, FLUID = ["drusen"], ["cyst"], ["subretinal fluid", "drusen"]
EYES: tuple[tuple[str, int, list[str] | None], ...] = (
    ("patient_01_OD_2023-03-14", 201, DRUSEN),
    ("patient_01_OD_2024-03-19", 201, ["drusen", "cyst", "subretinal fluid"]),
    ("patient_01_OS_2024-03-19", 202, DRUSEN),
    ("patient_02_OS_2024-01-08", 203, CYST),
    ("patient_02_OS_2024-07-02", 203, ["cyst", "subretinal fluid"]),
    ("patient_03_OD_2024-05-21", 204, FLUID),
    ("patient_04_OD_2024-05-22", 205, None),
    ("patient_04_OS_2024-05-22", 206, None),
    ("patient_05_OS_2024-06-11", 207, CYST),
)


def image(number: int, kind: str, name: str, eye: str, y: float) -> str:
    """One image of an export's XML."""
    ends = "".join(
        f"<{end}><Coord><X>{x:.4f}</X><Y>{y:.4f}</Y></Coord></{end}>"
        for end, x in (("Start", LEFT), ("End", LEFT + SHAPE[2] * SPACING[2]))
    )
    scale = (SPACING[2], SPACING[1]) if kind == "OCT" else (FUNDUS_MM, FUNDUS_MM)
    return (
        f"<Image><ImageNumber>{number}</ImageNumber><Laterality>{eye}</Laterality>"
        f"<ImageType><Type>{kind}</Type></ImageType><OphthalmicAcquisitionContext>"
        f"<ScaleX>{scale[0]:.4f}</ScaleX><ScaleY>{scale[1]:.4f}</ScaleY>"
        f"{ends if kind == 'OCT' else ''}</OphthalmicAcquisitionContext>"
        f"<ImageData><ExamURL>{name}</ExamURL></ImageData></Image>"
    )


def export(folder: Path, seed: int, lesions: list[str] | None) -> np.ndarray:
    """Write one eye; returns where its lesions are, (B-scans, rows, columns) bool."""
    folder.mkdir(parents=True, exist_ok=True)
    eye = "R" if "_OD" in folder.name else "L"
    made = make_phantom(
        seed, shape=SHAPE, spacing=SPACING, diseased=lesions is not None, lesions=lesions
    )
    # The device's B-scans run from below upwards, and their mean stands in for its picture.
    pixels = made.pixels[::-1]
    images = []
    for number, bscan in enumerate(pixels):
        tifffile.imwrite(folder / f"{number}.tif", bscan)
        y = TOP + (len(pixels) - 1 - number) * SPACING[0]
        images.append(image(number + 1, "OCT", f"{number}.tif", eye, y))
    mean = made.pixels.mean(axis=1)
    size = (round(SHAPE[2] * SPACING[2] / FUNDUS_MM), round(SHAPE[0] * SPACING[0] / FUNDUS_MM))
    inside = np.asarray(Image.fromarray(mean.astype(np.float32)).resize(size))
    fundus = np.full((FUNDUS, FUNDUS), float(mean.mean()))
    top, left = round((TOP - SPACING[0] / 2) / FUNDUS_MM), round(LEFT / FUNDUS_MM)
    fundus[top : top + size[1], left : left + size[0]] = inside
    noise = gaussian_filter(np.random.default_rng(seed).normal(0, 30, fundus.shape), 2)
    grey = np.clip((gaussian_filter(fundus, 3) + noise - 40) * 2, 0, 255).astype(np.uint8)
    tifffile.imwrite(folder / "fundus.tif", grey)
    body = "".join([image(0, "LOCALIZER", "fundus.tif", eye, 0), *images])
    text = f"<HEDX><BODY><Patient><Study><Series>{body}</Series></Study></Patient></BODY></HEDX>"
    (folder / "export.xml").write_text(text)
    return made.mask[::-1]


def make(out: Path) -> Path:
    """Write the exports, learn healthy eyes by their principal components, and score the others."""
    for seed in range(100, 112):
        export(out / "healthy" / f"healthy_{seed}_OD", seed, None)
    (out / "masks").mkdir(exist_ok=True)
    for name, seed, lesions in EYES:
        mask = export(out / "exports" / name, seed, lesions).astype(np.uint8) * 255
        tifffile.imwrite(out / "masks" / f"{name}.tif", mask, photometric="minisblack")
    recipe = load_recipe("small").but(held_out_fraction=0.34)
    detector: Detector = new_detector("pca", recipe, device="cpu")
    detector.fit([out / "healthy"])
    detector.model.save(out / "model")
    write_results(detector.model, [out / "exports"], out / "results", groups=GROUPS)
    return out / "results"


if __name__ == "__main__":
    make(Path(sys.argv[1]))

"""Write the real OCT split as ``fanogan study`` takes it: healthy eyes and eyes with edema.

`train.zarr` holds the three healthy Spectralis eyes. Of the six eyes with edema (Chiu et al. 2015),
the graded columns of B-scans with fluid are in `anomalous.zarr`, those of B-scans without any in
`normal.zarr`, and the graders' marks in `masks`. Of these scans only tables may be
published.

    python benchmarks/oct_study.py runs/study/oct_data
    fanogan study runs/study/oct_data --recipe small --seeds 3 --out runs/study/oct
    python benchmarks/study.py oct runs/study/oct
"""

from __future__ import annotations

import argparse
import shutil
from collections import defaultdict
from pathlib import Path

import nibabel
import numpy as np
from oct import SPACING
from oct_patches import GRADED
from PIL import Image
from tables import data_folder

from fanogan.retina import prepare
from fanogan.scans import read_scan


def main() -> None:
    """Write the folder."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", help="folder that holds oct/")
    options = parser.parse_args()
    data, out = data_folder(options.data) / "oct", options.out
    healthy = sorted((data / "spectralis").glob("healthy_*"))
    prepare(healthy, out / "train.zarr")
    write_edema(data / "chiu_dme", out)
    for part in ("normal", "anomalous"):
        prepare([out / part], out / f"{part}.zarr")
        shutil.rmtree(out / part)


def write_edema(chiu: Path, out: Path) -> None:
    """Write the graded columns of each eye as two volumes: B-scans with fluid and without."""
    graded = slice(GRADED.start, GRADED.stop)
    parts: dict[tuple[str, str], list[tuple[np.ndarray, np.ndarray]]] = defaultdict(list)
    for file in sorted((chiu / "bscans").glob("*.png")):
        pixels = read_scan(file).pixels[0][:, graded]
        marks = np.asarray(Image.open(chiu / "fluid" / file.name).convert("L"))[:, graded] > 127
        part = "anomalous" if marks.any() else "normal"
        parts[part, file.name.split("_")[0]].append((pixels, marks))
    for (part, subject), pairs in parts.items():
        pixels, marks = (np.stack(each, axis=-1) for each in zip(*pairs, strict=True))
        name = f"{subject}/{'with' if part == 'anomalous' else 'without'}_fluid.nii.gz"
        write_nifti(pixels, out / part / name)
        if part == "anomalous":
            write_nifti(marks.astype(np.uint8), out / "masks" / name)


def write_nifti(pixels: np.ndarray, path: Path) -> None:
    """Write a volume (rows, columns, B-scans) with its spacing."""
    between, row, column = SPACING
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(pixels, np.diag([row, column, between, 1]))
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)


if __name__ == "__main__":
    main()

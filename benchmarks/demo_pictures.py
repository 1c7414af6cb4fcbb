"""The pictures of the demo: a part of OCTDL, made as small as the demo sees it.

Which pictures is decided by sizes and patients' numbers alone. All are of the set's most common
size, so that neither sharpness nor spacing tells who is ill. Of each healthy patient there are two
pictures at most; a stable number of the patient, that of `oct_pictures.py`, takes a third of them
to the test. Of each disease there are thirteen patients at most, one picture each. Columns are
averaged to those 22 µm wide to which a retina is resampled anyway; rows stay as they are.

    python benchmarks/demo_pictures.py
"""

from __future__ import annotations

import argparse
import re
import shutil
from itertools import chain, groupby
from pathlib import Path

from oct_pictures import SETS, part_of
from PIL import Image
from tables import data_folder

OUT = Path(__file__).parents[1] / "src" / "fanogan" / "cli" / "octdl"
COLUMNS, ROWS = range(870, 891), range(305, 331)
COLUMN_MM = 0.022
QUALITY = 70
PICTURES_OF_HEALTHY, TESTED_SHARE, PATIENTS_OF_DISEASE = 2, 1 / 3, 13


def main() -> None:
    """Write the pictures to the package, in place of those that are there."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", help="folder that holds oct/")
    folder = data_folder(parser.parse_args().data) / "oct" / "octdl"
    (healthy, *ill), pattern, (_, _, column) = SETS["octdl"]
    for part in ("train", "normal", "anomalous"):
        shutil.rmtree(OUT / part, ignore_errors=True)
        (OUT / part).mkdir()
    for kind in (healthy, *ill):
        patients = by_patient(folder / kind, pattern)
        if kind == healthy:
            patients = [files[:PICTURES_OF_HEALTHY] for files in patients]
            tested = len(patients) - round(TESTED_SHARE * len(patients))
            chosen = {"train": patients[:tested], "normal": patients[tested:]}
        else:
            chosen = {"anomalous": [files[:1] for files in patients[:PATIENTS_OF_DISEASE]]}
        for part, files in chosen.items():
            for file in chain.from_iterable(files):
                with Image.open(file) as image:
                    width = round(image.width * column / COLUMN_MM)
                    small = image.resize((width, image.height), Image.Resampling.LANCZOS)
                small.save(OUT / part / file.name, quality=QUALITY, progressive=True, optimize=True)
            print(f"{kind}: {len(files)} patients to {part}")


def by_patient(folder: Path, pattern: str) -> list[list[Path]]:
    """The pictures of the common size of each patient, in the order of the stable number."""

    def patient(file: Path) -> str:
        found = re.search(pattern, file.name)
        assert found
        return found[1]

    files = []
    for file in sorted(folder.iterdir()):
        with Image.open(file) as image:
            if image.width in COLUMNS and image.height in ROWS:
                files.append(file)
    files.sort(key=lambda file: (part_of(patient(file)), file.name))
    return [list(each) for _, each in groupby(files, patient)]


if __name__ == "__main__":
    main()

"""The pictures of the demo: a part of OCTDL, made as small as the demo sees it.

Which pictures is decided by sizes and patients' numbers alone. All are of the set's most common
size, so that neither sharpness nor spacing tells who is ill. Of each healthy patient there are two
pictures at most; a stable number of the patient, that of `oct_pictures.py`, takes a quarter of them
to the test. Of each disease there are thirteen patients at most, one picture each. Some people are
in the set under two numbers, which a nearly equal picture shows: only the lowest is taken. Columns
are averaged to those 22 µm wide to which a retina is resampled anyway; rows stay as they are.

    python benchmarks/demo_pictures.py
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Container, Iterable
from itertools import chain, groupby
from pathlib import Path

from oct_pictures import SETS, part_of, patient_of, seconds
from PIL import Image
from tables import data_folder

OUT = Path(__file__).parents[1] / "src" / "fanogan" / "cli" / "octdl"
COLUMNS, ROWS = range(870, 891), range(305, 331)
COLUMN_MM = 0.022
QUALITY = 70
PICTURES_OF_HEALTHY, TESTED_SHARE, PATIENTS_OF_DISEASE = 2, 1 / 4, 13


def main() -> None:
    """Write the pictures to the package, in place of those that are there."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", help="folder that holds oct/")
    folder = data_folder(parser.parse_args().data) / "oct" / "octdl"
    (healthy, *ill), pattern, (_, _, column) = SETS["octdl"]
    every = [file for kind in (healthy, *ill) for file in sorted((folder / kind).iterdir())]
    left_out = seconds(every, pattern)
    print(f"{len(left_out)} numbers are second ones")
    for part in ("train", "normal", "anomalous"):
        shutil.rmtree(OUT / part, ignore_errors=True)
        (OUT / part).mkdir()
    for kind in (healthy, *ill):
        of_kind = [file for file in every if file.parent.name == kind]
        patients = by_patient(of_kind, pattern, left_out)
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


def by_patient(files: Iterable[Path], pattern: str, left_out: Container[str]) -> list[list[Path]]:
    """The pictures of the common size of each patient, in the order of the stable number."""
    fitting = []
    for file in files:
        with Image.open(file) as image:
            is_common = image.width in COLUMNS and image.height in ROWS
        if is_common and patient_of(file, pattern) not in left_out:
            fitting.append(file)
    fitting.sort(key=lambda file: (part_of(patient_of(file, pattern)), file.name))
    return [list(each) for _, each in groupby(fitting, lambda file: patient_of(file, pattern))]


if __name__ == "__main__":
    main()

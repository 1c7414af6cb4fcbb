"""Write Kermany's or OCTDL's B-scans as ``fanogan study`` takes them, split as in oct_pictures.py.

`train.zarr` holds the healthy pictures that are learnt or held out, `normal.zarr` and
`anomalous.zarr` those tested, flattened at full depth. A line of the study is a picture.

    python benchmarks/pictures_study.py kermany runs/study/kermany_data
    fanogan study runs/study/kermany_data --recipe small --set stretch_retina=true flat_rows=64 \
        flat_base=60 held_out_fraction=0.2 --out runs/study/kermany
    python benchmarks/study.py kermany runs/study/kermany
"""

from __future__ import annotations

import argparse
from pathlib import Path

from oct_pictures import FULL_DEPTH, SETS, by_class, pictures, second_numbers, split
from tables import data_folder

from fanogan.retina import FlatSpace, prepare


def main() -> None:
    """Write the folder."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("set", choices=[*SETS])
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", help="folder that holds oct/")
    options = parser.parse_args()
    data = data_folder(options.data) / "oct"
    scans = by_class(options.set, pictures(options.set, data))
    learnt, held_out, tested = split(scans, second_numbers(options.set, data))
    healthy = {scan.name for scan in scans[SETS[options.set][0][0]]}
    parts = {
        "train": [*learnt, *held_out],
        "normal": [scan for scan in tested if scan.name in healthy],
        "anomalous": [scan for scan in tested if scan.name not in healthy],
    }
    space = FlatSpace(*FULL_DEPTH.values())
    for part, chosen in parts.items():
        print(part, prepare(chosen, options.out / f"{part}.zarr", space=space))


if __name__ == "__main__":
    main()

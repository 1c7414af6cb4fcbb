"""The README's picture: what the demo's model makes of a made-up eye that it hasn't seen.

The eye is the one of the highest score among the demo's six with lesions, the B-scan its worst.

    make demo && python benchmarks/readme_picture.py
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from fanogan.cli.demo import DISEASED, SHAPE, SPACING, flat_phantom
from fanogan.detectors import Detector
from fanogan.phantom import make_phantom
from fanogan.report import en_face_picture, outline, overlay
from fanogan.scoring import VolumeMaps, as_picture, results


def main() -> None:
    """Score the demo's diseased eyes and draw the worst B-scan of the worst."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--demo", type=Path, default=Path("demo"))
    parser.add_argument("--out", type=Path, default=Path("docs/demo.png"))
    options = parser.parse_args()
    model = Detector.load(options.demo / "run").model
    phantoms = [make_phantom(s, shape=SHAPE, spacing=SPACING, diseased=True) for s in DISEASED]
    eyes = [flat_phantom(phantom) for phantom in phantoms]
    found = list(results(model, eyes))
    worst = max((one for one in found if one.unit == "volume"), key=lambda one: one.total)
    bscans = [one for one in found if one.unit == "image" and one.group == worst.group]
    shown = max(bscans, key=lambda one: one.total)
    assert worst.volume is not None
    maps = VolumeMaps(worst.volume, model.calibration.en_face)
    for one in bscans:
        maps.add(one)
    case = maps.case(worst, model.calibration, 0.05)
    mask = next(each.mask for each in phantoms if each.name == worst.group)[shown.frame]
    assert shown.picture is not None and shown.reconstruction is not None
    assert shown.residual is not None
    picture = as_picture(shown.picture)
    rows = np.flatnonzero(np.isfinite(shown.residual).any(axis=1))
    cut = slice(max(rows[0] - 8, 0), rows[-1] + 8)
    residual = overlay(picture, shown.residual, model.calibration.map_scale)
    pictures = {
        "a made-up B-scan with lesions, outlined": outline(picture, mask)[cut],
        "its nearest normal version": as_picture(shown.reconstruction)[cut],
        "what differs": residual[cut],
        f"the eye from above, its B-scans lying across (this is {shown.frame} of 0 to "
        f"{len(case.scores) - 1})": en_face_picture(case),
    }
    figure = Figure(figsize=(12, 7.2), layout="constrained")
    axes = figure.subplots(2, 2)
    for axis, (title, pixels) in zip(axes.flat, pictures.items(), strict=True):
        axis.imshow(pixels, cmap="gray", vmin=0, vmax=255, aspect="auto")
        axis.set_title(title, fontsize=11)
        axis.set_axis_off()
    axes.flat[3].set_aspect("equal")
    figure.savefig(options.out, dpi=80, metadata={"Software": None})


if __name__ == "__main__":
    main()

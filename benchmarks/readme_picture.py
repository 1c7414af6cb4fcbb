"""The README's picture: what the demo's model makes of real B-scans that it hasn't seen.

For each of three diseases, of the demo's pictures the one of the highest score.

    make demo && python benchmarks/readme_picture.py
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from fanogan.detectors import Detector
from fanogan.report import overlay
from fanogan.scoring import as_picture, results

DISEASES = {
    "dme": "diabetic macular edema",
    "rvo": "retinal vein occlusion",
    "vid": "vitreomacular interface disease",
}


def main() -> None:
    """Score the demo's patients and draw the highest of each disease."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--demo", type=Path, default=Path("demo"))
    parser.add_argument("--out", type=Path, default=Path("docs/demo.png"))
    options = parser.parse_args()
    model = Detector.load(options.demo / "run").model
    figure = Figure(figsize=(12, 6.4), layout="constrained")
    axes = figure.subplots(len(DISEASES), 3)
    for row, (short, disease) in zip(axes, DISEASES.items(), strict=True):
        files = str(options.demo / "images" / "anomalous" / f"{short}_*.jpg")
        found = results(model, files, pictures="bscans")
        shown = max(found, key=lambda one: one.total)
        assert shown.picture is not None and shown.reconstruction is not None
        assert shown.residual is not None
        picture = as_picture(shown.picture)
        rows = np.flatnonzero(np.isfinite(shown.residual).any(axis=1))
        cut = slice(max(rows[0] - 8, 0), rows[-1] + 8)
        pictures = {
            disease: picture,
            "its nearest normal version": as_picture(shown.reconstruction),
            "what differs": overlay(picture, shown.residual, model.calibration.map_scale),
        }
        for axis, (title, pixels) in zip(row, pictures.items(), strict=True):
            axis.imshow(pixels[cut], cmap="gray", vmin=0, vmax=255, aspect="auto")
            axis.set_title(title, fontsize=11)
            axis.set_axis_off()
    figure.savefig(options.out, dpi=80, metadata={"Software": None})


if __name__ == "__main__":
    main()

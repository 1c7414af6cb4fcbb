"""The README's picture: what the demo's model makes of ten digits that it hasn't seen.

The digits are the first of each kind in scikit-learn's set, not chosen by their scores.

    make demo && python benchmarks/readme_picture.py
"""

from __future__ import annotations

import argparse
from pathlib import Path

from matplotlib.figure import Figure

from fanogan import FAnoGAN
from fanogan.pictures import overlay
from fanogan.results import as_picture

ROWS = ("image", "nearest normal", "what differs")


def main() -> None:
    """Score the first unseen images of each digit and draw them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--demo", type=Path, default=Path("demo"))
    parser.add_argument("--out", type=Path, default=Path("docs/demo.png"))
    options = parser.parse_args()
    detector = FAnoGAN.load(options.demo / "run")
    images = options.demo / "images"
    normal = sorted((images / "normal").iterdir())[:3]
    others = [next(iter(sorted((images / "anomalous").glob(f"*digit{d}.png")))) for d in "0235789"]
    figure = Figure(figsize=(10, 3.3), layout="constrained")
    axes = figure.subplots(len(ROWS), len(normal) + len(others))
    scale = detector.calibration.map_scale
    for column, result in zip(axes.T, detector.results([*normal, *others]), strict=True):
        assert result.picture is not None and result.reconstruction is not None
        assert result.residual is not None
        picture = as_picture(result.picture)
        rows = (picture, as_picture(result.reconstruction))
        for axis, pixels in zip(
            column, (*rows, overlay(picture, result.residual, scale)), strict=True
        ):
            axis.imshow(pixels, cmap="gray", vmin=0, vmax=255)
            axis.set_xticks([])
            axis.set_yticks([])
        column[-1].set_xlabel(f"{result.total:.3f}")
    for axis, name in zip(axes[:, 0], ROWS, strict=True):
        axis.set_ylabel(name, rotation=0, ha="right", va="center")
    figure.savefig(options.out, dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    main()

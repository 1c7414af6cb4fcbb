"""What the systems make of chosen images: grids, interpolations, and how long they take."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fanogan.data import seeded
from fanogan.detectors import Detector, with_networks_of
from fanogan.models import Encoder, Generator
from fanogan.report import overlay
from fanogan.scoring import Model, as_picture
from fanogan.storage import write_whole
from fanogan.study.drawings import PictureRow, grid_figure, save_figure
from fanogan.study.outcomes import Study, read_json
from fanogan.study.test_sets import (
    TRAINING_IMAGES,
    BadStudy,
    Scored,
    StudyData,
    Windows,
    score_windows,
    training_images,
    windows_of,
)
from fanogan.training import precision_of

COLUMNS = 4  # of each block of a grid
STEPS = 100  # of an interpolation
TIMED = 64  # images in one batch


class Pictures:
    """The trained systems of one seed, and the images that all pictures of the report show."""

    def __init__(self, study: Study, seed: int, data: StudyData, device: str):
        """Choose the images: the same ones for all systems.

        Raises:
            BadStudy: No system of this seed was tested on all images.
        """
        self.study, self.seed, self.device = study, seed, device
        self.folder = study.folder / f"seed{seed}"
        self.timed_systems = [name for name in study.systems if seed in study.seeds(name)]
        self.systems = [n for n in self.timed_systems if not study.systems[n].on_subset]
        if not self.systems:
            raise BadStudy(f"no system of seed {seed} is done: there is nothing to show")
        first = self.model(self.systems[0])
        scored = study.scored(self.systems[0], seed)
        self.blocks, keys = choose_images(scored)
        timed = [key for key in study.subset if key not in keys][:TIMED]
        windows = windows_of(first, data, scored.unit, [*keys, *timed])
        self.test = windows.part(slice(len(keys)))
        self.timed = windows.part(slice(len(keys), None)) if timed else self.test
        self.training = training_images(self.folder)

    @functools.cache  # noqa: B019 - as long as the report is being made
    def model(self, name: str) -> Model:
        """Return the trained model of a system that has one of its own."""
        return Detector.load(self.folder / name, device=self.device).model


def choose_images(scored: Scored) -> tuple[list[tuple[str, int]], list[str]]:
    """Choose test images at random: normal ones of healthy cases, and both of diseased ones.

    A case is a subject; it is diseased where anything of it is anomalous.

    Returns:
        Headings and how many images stand under each; the images' keys.
    """
    anomalous = scored.labels == 1
    diseased = np.isin(scored.subjects, scored.subjects[anomalous])
    order = np.random.default_rng(0).permutation(len(scored.keys))
    blocks, chosen = [], []
    for heading, kind in (
        ("normal, healthy cases", ~diseased),
        ("normal, diseased cases", diseased & ~anomalous),
        ("anomalous", anomalous),
    ):
        keys = scored.keys[order[kind[order]]][:COLUMNS].tolist()
        if keys:
            blocks.append((heading, len(keys)))
            chosen += keys
    return blocks, chosen


# --- grids --------------------------------------------------------------------------------------

GRIDS = {
    "fig6": ("Fig. 6", "Reconstructions and residuals.", ("izi_f", "ae", "advae", "ali")),
    "fig7": ("Fig. 7", "Trainings of the encoder.", ("izi_f", "izi", "ziz")),
    "figA1": ("Fig. A1", "Normal test images.", ("izi_f", "denoising")),
    "figA2": (
        "Fig. A2",
        "Output of the encoder: tanh and linear.",
        ("izi_f", "izi_f-linear", "izi", "izi-linear", "ziz", "ziz-linear"),
    ),
}


def grids(pictures: Pictures, folder: Path) -> list[dict[str, str]]:
    """Draw the grids of the paper with what is done (Figs. 6, 7, A1, A2)."""
    blocks, parts = list(pictures.blocks), [pictures.test]
    if pictures.training is not None:
        x = pictures.training[:COLUMNS]
        unmarked = np.zeros((len(x), *x.shape[2:]), dtype=np.bool_)
        blocks.insert(0, ("training", len(x)))
        parts.insert(0, Windows(x, None, unmarked))
    normal = [block for block in pictures.blocks if block[0].startswith("normal")]
    count = sum(count for _, count in normal)
    about = (
        " Below each system's reconstructions the image with the residual in colour, on a scale "
        f"that the system's held-out normals fix. Seed {pictures.seed}; chosen at random."
    )
    figures = []
    for name, (title, caption, systems) in GRIDS.items():
        shown = [each for each in systems if each in pictures.systems]
        headings, windows = blocks, parts
        if name == "figA1":
            headings, windows = normal, [pictures.test.part(slice(count))] if count else []
        if shown and windows:
            drawing = grid_figure(_grid(pictures, shown, windows), headings)
            figures.append(save_figure(folder, name, title, caption + about, drawing))
    return figures


def _grid(pictures: Pictures, systems: Sequence[str], parts: Sequence[Windows]) -> list[PictureRow]:
    """Images, masks, and of each system reconstructions and overlays."""
    images = [_picture(image) for part in parts for image in part.x.numpy()]
    rows = [PictureRow("image", images)]
    masks = np.concatenate([part.masks for part in parts])
    if masks.any():
        rows.append(PictureRow("annotation", [np.uint8(255) * mask for mask in masks]))
    for name in systems:
        model = pictures.model(name)
        maps = np.concatenate([score_windows(model, part)[1] for part in parts])
        scale = model.calibration.map_scale
        title = pictures.study.systems[name].title
        rows.append(PictureRow(title, [_picture(each[1:]) for each in maps]))
        laid = [overlay(image, each[0], scale) for image, each in zip(images, maps, strict=True)]
        rows.append(PictureRow("", laid))
    return rows


def _picture(image: np.ndarray) -> np.ndarray:
    """(C, H, W) in [−1, 1] → 8 bits."""
    return as_picture(np.moveaxis(image, 0, -1))


def detail(pictures: Pictures) -> dict[str, float]:
    """Return how much detail each system's reconstructions have, of that of the images.

    The paper calls those of AE, izi and the denoising encoder smooth. Measured as the gradient
    energy of x̂ over that of x, on the images whose time is taken.
    """
    names = {name for _, _, systems in GRIDS.values() for name in systems}
    windows = pictures.timed
    shares = {}
    for name in [each for each in pictures.systems if each in names]:
        x_hat = score_windows(pictures.model(name), windows)[1][:, 1:]
        shares[name] = gradient_energy(x_hat) / gradient_energy(windows.x.numpy())
    return dict(sorted(shares.items(), key=lambda each: each[1]))


def gradient_energy(images: np.ndarray) -> float:
    """Return the mean squared difference of neighbours in images (n, C, rows, columns)."""
    return float(
        sum(np.square(np.diff(images, axis=axis), dtype=float).mean() for axis in (-2, -1))
    )


# --- interpolations -----------------------------------------------------------------------------


def smoothness(paths: Sequence[Tensor]) -> dict[str, float]:
    """Measure how smooth paths of images are, (steps + 1, C, rows, columns) each.

    Returns:
        Means over ``paths`` of the ``largest`` step over the mean step, and of the ``length`` of
        the path over the distance of its ends, both of images (root mean square). A straight blend
        of two images has 1 and 1.
    """
    largest, length = [], []
    for images in paths:
        steps = (images[1:] - images[:-1]).square().flatten(1).mean(1).sqrt()
        direct = (images[-1] - images[0]).square().mean().sqrt()
        if steps.mean() > 0 and direct > 0:
            largest.append(float(steps.max() / steps.mean()))
            length.append(float(steps.sum() / direct))
    means = [float(np.mean(each)) if each else float("nan") for each in (largest, length)]
    return {"largest": means[0], "length": means[1], "paths": len(largest)}


def interpolations(
    pictures: Pictures, folder: Path
) -> tuple[list[dict[str, str]], dict[str, dict[str, float]]]:
    """Draw Fig. 5 and B1, and measure how smooth the paths are.

    Returns:
        The figure, and the smoothness by what the paths join; nothing without f-AnoGAN or training
        images.
    """
    if "izi_f" not in pictures.systems or pictures.training is None:
        return [], {}
    model = pictures.model("izi_f")
    G, E = model.networks["G"], model.networks["E"]
    assert isinstance(G, Generator) and isinstance(E, Encoder)
    random = seeded(torch.device("cpu"), pictures.seed, "interpolations")
    real = pictures.training
    share = torch.linspace(0, 1, STEPS + 1, device=model.device)[:, None]
    with torch.inference_mode(), precision_of("fp32"):
        z = torch.randn(TRAINING_IMAGES, G.latent, generator=random).to(model.device)
        ends = {"random latents": z, "encoded training images": E(real.to(model.device))}
        paths = {
            name: [
                G(start + share * (end - start)).cpu()
                for start, end in zip(latents[::2], latents[1::2], strict=True)
            ]
            for name, latents in ends.items()
        }
    rows = []
    shown = np.linspace(0, STEPS, 10).round().astype(int)
    for name, each in paths.items():
        for number, images in enumerate(each[:6]):
            row: list[np.ndarray | None] = [_picture(image) for image in images[shown].numpy()]
            edged: frozenset[int] = frozenset()
            if name == "encoded training images":
                first, last = (_picture(image) for image in real.numpy()[2 * number :][:2])
                row, edged = [first, *row, last], frozenset({0, len(row) + 1})
            else:
                row = [None, *row, None]
            rows.append(PictureRow("" if number else name, row, edged))
    caption = (
        "Images along straight lines between latents: random ones, and those of encoded training "
        f"images, which stand at both ends with red edges. Seed {pictures.seed}."
    )
    figure = save_figure(folder, "fig5", "Fig. 5 and B1", caption, grid_figure(rows))
    return [figure], {name: smoothness(each) for name, each in paths.items()}


# --- time ---------------------------------------------------------------------------------------


def times(pictures: Pictures) -> dict[str, Any]:
    """Return milliseconds an image of each system, one after the other, measured once and kept.

    The networks alone: no reading, no preprocessing; the least of three.
    """
    path = pictures.study.folder / "times.json"
    if path.exists():
        kept = read_json(path)
        if list(kept["milliseconds"]) == pictures.timed_systems:
            return kept
    device = pictures.model(pictures.systems[0]).device
    measured = {
        "milliseconds": {name: _milliseconds(pictures, name) for name in pictures.timed_systems},
        "batch": len(pictures.timed.x),
        "sides": list(pictures.timed.x.shape[2:]),
        "threads": torch.get_num_threads(),
        "device": _machine(device),
        "seed": pictures.seed,
    }
    write_whole(path, json.dumps(measured, indent=1).encode())
    return measured


def _milliseconds(pictures: Pictures, name: str) -> float:
    system, windows = pictures.study.systems[name], pictures.timed
    if system.on_subset:
        assert system.networks_of is not None
        other = pictures.model(system.networks_of)
        options = {"seed": pictures.seed, "device": pictures.device}
        model = with_networks_of(other, system.new(other.recipe, **options))
    else:
        model = pictures.model(name)
        score_windows(model, windows)  # the first call takes longer
    seconds = []
    for _ in range(1 if system.on_subset else 3):
        started = time.perf_counter()
        score_windows(model, windows, len(windows.x))  # onto the CPU: so the device is done
        seconds.append(time.perf_counter() - started)
    return 1000 * min(seconds) / len(windows.x)


def _machine(device: torch.device) -> str:
    """Return the machine in words, without its name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} cores {names[0]}" if names else device.type

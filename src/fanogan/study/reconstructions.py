"""What the systems make of chosen images: grids, interpolations, and how long they take."""

from __future__ import annotations

import dataclasses
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
from fanogan.detectors import LearnedDetector, load_detector, precision_of
from fanogan.models import Encoder, Generator
from fanogan.report import overlay
from fanogan.scoring import as_picture
from fanogan.storage import write_whole
from fanogan.study.drawings import Drawn, Row, grid_figure, keep
from fanogan.study.outcomes import Study
from fanogan.study.systems import GAN, SYSTEMS
from fanogan.study.test_sets import (
    TRAINING_IMAGES,
    BadStudy,
    Scored,
    StudyData,
    Windows,
    image_windows,
    look,
    patch_windows,
    training_images,
)

COLUMNS = 4  # of each block of a grid
PATHS = TRAINING_IMAGES // 2  # of the interpolations
STEPS, SHOWN = 100, 10  # images along a path, and how many of them are drawn
ROWS = 6
TIMED = 64  # images in one batch


# --- what the report shows ----------------------------------------------------------------------


class Shown:
    """The trained systems of one seed, and the images that all pictures of the report show."""

    def __init__(self, study: Study, seed: int, data: StudyData, device: str):
        """Choose the images: the same ones for all systems.

        Raises:
            BadStudy: no system of this seed has a table of all test images.
        """
        self.study, self.seed, self.device = study, seed, device
        self.folder = study.folder / f"seed{seed}"
        done = [name for name in SYSTEMS if seed in study.seeds(name)]
        self.done = [name for name in done if not SYSTEMS[name].on_subset]
        if not self.done:
            raise BadStudy(f"no system of seed {seed} is done: there is nothing to show")
        self.all_done = done
        first = self.detector(self.done[0])
        scored = study.scored(self.done[0], seed, False)
        self.blocks, keys = choose(scored, seed=0)
        cut = patch_windows if scored.unit == "patch" else image_windows
        timed = [key for key in study.subset if key not in keys][:TIMED]
        windows = cut(first, data, [*keys, *timed])
        self.test = windows.part(range(len(keys)))
        self.timed = windows.part(range(len(keys), len(windows.keys))) if timed else self.test
        self.training = training_images(self.folder)

    @functools.cache  # noqa: B019 - as long as the report is being made
    def detector(self, name: str) -> LearnedDetector:
        """The trained detector of a system that has a model of its own."""
        return load_detector(self.folder / name, device=self.device)

    def windows(self) -> tuple[list[tuple[str, int]], list[Windows]]:
        """Blocks of columns with their headings, and the windows in them."""
        blocks, parts = list(self.blocks), [self.test]
        if self.training is not None:
            x = self.training[:COLUMNS]
            none = np.zeros((len(x), *x.shape[2:]), dtype=np.bool_)
            parts.insert(0, Windows(("",) * len(x), x, None, none))
            blocks.insert(0, ("training", len(x)))
        return blocks, parts

    def grid(self, systems: Sequence[str], places: Sequence[int] | None = None) -> list[Row]:
        """Images, masks, and of each system reconstructions and overlays (Figs. 6, 7, A1, A2).

        Args:
            systems: those that are not done are left out.
            places: which test images alone; None: training images and all test images.
        """
        parts = [self.test.part(places)] if places is not None else self.windows()[1]
        x = [image for part in parts for image in part.x.numpy()]
        rows = [Row("image", [_picture(image) for image in x])]
        masks = np.concatenate([part.masks for part in parts])
        if masks.any():
            rows.append(Row("annotation", [np.uint8(255) * mask for mask in masks]))
        for name in systems:
            if name not in self.done:
                continue
            detector, title = self.detector(name), SYSTEMS[name].title
            maps = np.concatenate([look(detector, part)[1] for part in parts])
            scale = detector.calibration.map_scale
            rows.append(Row(title, [_picture(each[1:]) for each in maps]))
            laid = [overlay(_picture(i), each[0], scale) for i, each in zip(x, maps, strict=True)]
            rows.append(Row("", laid))
        return rows


def choose(scored: Scored, seed: int) -> tuple[list[tuple[str, int]], list[str]]:
    """Test images for the grids: normal ones of healthy cases, normal and anomalous of diseased.

    A case is a subject; it is diseased where anything of it is anomalous.
    """
    order = np.random.default_rng(seed).permutation(len(scored.keys))
    diseased = {
        subject
        for subject, label in zip(scored.subjects, scored.labels.tolist(), strict=True)
        if label
    }
    kinds: dict[str, list[str]] = {
        "normal, healthy cases": [],
        "normal, diseased cases": [],
        "anomalous": [],
    }
    for at in order:
        if scored.labels[at]:
            kind = "anomalous"
        else:
            is_ill = scored.subjects[at] in diseased
            kind = "normal, diseased cases" if is_ill else "normal, healthy cases"
        if len(kinds[kind]) < COLUMNS:
            kinds[kind].append(scored.keys[at])
    blocks = [(heading, len(keys)) for heading, keys in kinds.items() if keys]
    return blocks, [key for keys in kinds.values() for key in keys]


def grids(shown: Shown, folder: Path) -> list[Drawn]:
    """The grids of the paper, of what is done."""
    blocks, _ = shown.windows()
    about = (
        " Below each system's reconstructions the image with the residual in colour, on a scale "
        f"that the system's held-out normals fix. Seed {shown.seed}; chosen at random."
    )
    normal = list(range(sum(count for name, count in shown.blocks if name.startswith("normal"))))
    wanted: list[tuple[str, str, str, Sequence[str], Sequence[int] | None]] = [
        ("fig6", "Fig. 6", "Reconstructions and residuals.", ("izi_f", "ae", "advae", "ali"), None),
        ("fig7", "Fig. 7", "Trainings of the encoder.", ("izi_f", "izi", "ziz"), None),
        ("figA1", "Fig. A1", "Normal test images.", ("izi_f", "denoising"), normal),
        (
            "figA2",
            "Fig. A2",
            "Output of the encoder: tanh and linear.",
            ("izi_f", "izi_f-linear", "izi", "izi-linear", "ziz", "ziz-linear"),
            None,
        ),
    ]
    found = []
    for name, title, caption, systems, places in wanted:
        if not set(systems) & set(shown.done) or places == []:
            continue
        rows = shown.grid(systems, places)
        headings = shown.blocks[:-1] if places is not None else blocks
        found.append(keep(folder, name, title, caption + about, grid_figure(rows, headings)))
    return found


# --- interpolations -----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Smoothness:
    """Of paths between latents: means over paths; a straight blend of two images has 1 and 1.

    ``largest`` is the largest step over the mean step, ``length`` the length of the path over the
    distance of its ends, both of images (root mean square).
    """

    largest: float
    length: float
    paths: int


def path_images(G: Generator, start: Tensor, end: Tensor) -> Tensor:
    """The images along the line between two latents: (STEPS + 1, C, *sides)."""
    share = torch.linspace(0, 1, STEPS + 1, device=start.device)[:, None]
    images: Tensor = G(start + share * (end - start))
    return images


def smoothness(paths: Sequence[Tensor]) -> Smoothness:
    """Measure paths of images, (steps + 1, C, *sides) each."""
    largest, length = [], []
    for images in paths:
        steps = (images[1:] - images[:-1]).square().flatten(1).mean(1).sqrt()
        direct = (images[-1] - images[0]).square().mean().sqrt()
        if steps.mean() > 0 and direct > 0:
            largest.append(float(steps.max() / steps.mean()))
            length.append(float(steps.sum() / direct))
    if not largest:
        return Smoothness(float("nan"), float("nan"), 0)
    return Smoothness(float(np.mean(largest)), float(np.mean(length)), len(largest))


def interpolations(shown: Shown, folder: Path) -> tuple[Drawn, dict[str, Smoothness]] | None:
    """Fig. 5 and B1, and how smooth the paths are; None without f-AnoGAN or training images."""
    if "izi_f" not in shown.done or shown.training is None:
        return None
    detector = shown.detector("izi_f")
    G, _, E = detector.networks
    assert isinstance(G, Generator) and isinstance(E, Encoder)
    random = seeded(torch.device("cpu"), shown.seed, "interpolations")
    real = shown.training.to(detector.device)
    with torch.inference_mode(), precision_of("fp32"):
        drawn = torch.randn(2 * PATHS, G.latent, generator=random).to(detector.device)
        ends = {"random latents": drawn, "encoded training images": E(real)}
        paths = {
            name: [path_images(G, *z).cpu() for z in zip(latents[::2], latents[1::2], strict=True)]
            for name, latents in ends.items()
        }
    rows = []
    at = np.linspace(0, STEPS, SHOWN).round().astype(int)
    for name, found in paths.items():
        for number, images in enumerate(found[:ROWS]):
            pictures = [_picture(image) for image in images[at].numpy()]
            label = name if number == 0 else ""
            edges: list[np.ndarray | None] = [None, None]
            if name != "random latents":
                both = real[2 * number : 2 * number + 2].cpu().numpy()
                edges = [_picture(image) for image in both]
            edged = frozenset() if edges[0] is None else frozenset({0, SHOWN + 1})
            rows.append(Row(label, [edges[0], *pictures, edges[1]], edged))
    caption = (
        "Images along straight lines between latents: random ones, and those of encoded training "
        f"images, which stand at both ends with red edges. Seed {shown.seed}."
    )
    figure = keep(folder, "fig5", "Fig. 5 and B1", caption, grid_figure(rows))
    return figure, {name: smoothness(found) for name, found in paths.items()}


# --- time ---------------------------------------------------------------------------------------


def times(shown: Shown) -> dict[str, Any]:
    """Milliseconds an image of each system, one after the other, measured once and kept.

    Of the networks alone: no reading, no preprocessing; the least of three.
    """
    path = shown.study.folder / "times.json"
    if path.exists():
        kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if list(kept["milliseconds"]) == shown.all_done:
            return kept
    found = {name: _milliseconds(shown, name) for name in shown.all_done}
    result = {
        "milliseconds": found,
        "batch": len(shown.timed.x),
        "sides": list(shown.timed.x.shape[2:]),
        "threads": torch.get_num_threads(),
        "device": _device_of(shown.detector(shown.done[0])),
        "seed": shown.seed,
    }
    write_whole(path, json.dumps(result, indent=1).encode())
    return result


def _milliseconds(shown: Shown, name: str) -> float:
    system = SYSTEMS[name]
    if system.on_subset:
        trained = shown.detector(GAN)
        detector = system.new(trained.recipe, seed=shown.seed, device=shown.device)
        detector.preprocessing, detector.networks = trained.preprocessing, trained.networks
        repeats = 1
    else:
        detector, repeats = shown.detector(name), 3
        look(detector, shown.timed)
    least = min(_seconds(detector, shown.timed) for _ in range(repeats))
    return 1000 * least / len(shown.timed.x)


def _seconds(detector: LearnedDetector, windows: Windows) -> float:
    started = time.perf_counter()
    look(detector, windows, len(windows.x))  # what it gives is on the CPU: the device is done
    return time.perf_counter() - started


def _device_of(detector: LearnedDetector) -> str:
    """The machine in words, without its name."""
    if detector.device.type == "cuda":
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} cores {names[0]}" if names else detector.device.type


def _picture(image: np.ndarray) -> np.ndarray:
    """(C, H, W) in [−1, 1] → 8 bits."""
    return as_picture(np.moveaxis(image, 0, -1))

"""Phantoms beside real eyes: grey-value histograms and texture spectra, and one picture to look at.

Five Spectralis volumes against made-up ones of the same field. The picture holds real B-scans and
goes to a folder that git ignores; numbers go to docs/phantom.md.

    python benchmarks/phantom_spectra.py --data ../shared/data
"""

from __future__ import annotations

import argparse
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter, uniform_filter1d
from scipy.stats import wasserstein_distance
from tables import ROOT, commit, data_folder, markdown, write_section

from fanogan.phantom import make_phantom
from fanogan.scans import read_scan

EYES = ("healthy_subject1", "healthy_subject2", "healthy_subject3", "AMD_patient1", "AMD_patient2")
EVERY = 4
# Parameters were set while looking at lower seeds.
FIRST = 200
SIDE = 48  # rows and columns of the patches whose spectra are averaged
REGIONS = {"vitreous": ("inner", -64), "retina": ("outer", -56), "choroid": ("outer", 10)}


@dataclass(frozen=True)
class Texture:
    """What is compared of an eye, by region: grey values, and spectra in dB by direction."""

    greys: dict[str, np.ndarray]
    spectra: dict[str, np.ndarray]


Distance = Callable[[Texture, Texture, str], float]


def main() -> None:
    """Measure, write the table and the picture."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", help="folder that holds oct/spectralis")
    parser.add_argument(
        "--phantoms", type=int, default=10, help="healthy ones, and as many with drusen"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/phantom"))
    options = parser.parse_args()
    folder = data_folder(options.data) / "oct" / "spectralis"
    volumes = {name: real_volume(folder / name) for name in EYES}
    real = [texture(volume) for volume in volumes.values()]
    seeds = range(FIRST, FIRST + options.phantoms)
    healthy = [phantom_volume(seed) for seed in seeds]
    drusen = [phantom_volume(seed, lesions=("drusen",)) for seed in seeds]
    options.out.mkdir(parents=True, exist_ok=True)
    picture(list(volumes.values()), [*healthy[:3], *drusen[:2]], options.out / "beside_real.png")
    made = {"healthy phantoms": healthy, "phantoms with drusen": drusen}
    text = report(real, {name: [texture(one) for one in some] for name, some in made.items()})
    write_section("phantom", text, ROOT / "docs" / "phantom.md")


def real_volume(folder: Path) -> np.ndarray:
    """Every fourth B-scan of an exported volume, in order: (B-scans, rows, columns) uint8."""
    export = ElementTree.parse(next(folder.glob("*.xml"))).getroot()
    files = [
        image.findtext("ImageData/ExamURL", "").split("\\")[-1]
        for image in export.iter("Image")
        if image.findtext("ImageType/Type") == "OCT"
    ]
    return np.stack([read_scan(folder / file).pixels[0] for file in files[::EVERY]])


def phantom_volume(seed: int, lesions: tuple[str, ...] = ()) -> np.ndarray:
    """As many B-scans of a phantom, over the same field: (B-scans, rows, columns) uint8."""
    return make_phantom(
        seed,
        shape=(13, 496, 512),
        spacing=(0.12 * EVERY, 0.0039, 0.0116),
        diseased=bool(lesions),
        lesions=lesions or None,
    ).pixels


def texture(volume: np.ndarray) -> Texture:
    """Grey values and spectra of vitreous, retina and choroid, found by one rule in all eyes."""
    greys: dict[str, list[np.ndarray]] = {name: [] for name in REGIONS}
    power: dict[str, list[np.ndarray]] = {name: [] for name in REGIONS}
    for scan in volume.astype(np.float64):
        lines = dict(zip(("inner", "outer"), surfaces(scan), strict=True))
        for name, (line, offset) in REGIONS.items():
            for patch in patches(scan, lines[line] + offset):
                greys[name].append(patch.ravel())
                power[name].append(spectrum(patch))
    greys_of = {name: np.concatenate(some) for name, some in greys.items()}
    greys_of["whole B-scan"] = np.concatenate([scan[scan.any(axis=1)].ravel() for scan in volume])
    spectra = {}
    for name, some in power.items():
        mean = np.mean(some, axis=0)
        spectra[f"{name}, along columns"] = 10 * np.log10(mean.sum(axis=0)[1 : SIDE // 2])
        spectra[f"{name}, along rows"] = 10 * np.log10(mean.sum(axis=1)[1 : SIDE // 2])
        spectra[f"{name}, radial"] = 10 * np.log10(radial(mean))
    return Texture(greys_of, spectra)


def patches(scan: np.ndarray, top: np.ndarray) -> Iterable[np.ndarray]:
    """Squares below a line, each column shifted to it, without filled margins."""
    first = np.rint(gaussian_filter(top.astype(float), 4)).astype(int)
    rows = first + np.arange(SIDE)[:, None]
    for left in range(16, scan.shape[1] - SIDE - 16, SIDE // 2):
        columns = np.arange(left, left + SIDE)
        inside = rows[:, columns]
        if inside.min() < 0 or inside.max() >= scan.shape[0]:
            continue
        patch = scan[inside, columns]
        if not uniform_filter1d((patch == 0).astype(float), 15, axis=0).max() > 0.99:
            yield patch


def spectrum(patch: np.ndarray) -> np.ndarray:
    """Power spectrum of a square, its mean taken out and its rim faded."""
    window = np.hanning(SIDE)
    faded = (patch - patch.mean()) * window[:, None] * window
    return np.asarray(np.abs(np.fft.fft2(faded)) ** 2 / SIDE**2)


def radial(power: np.ndarray) -> np.ndarray:
    """Mean power over rings of equal frequency, up to half a cycle a pixel."""
    frequency = np.fft.fftfreq(SIDE) * SIDE
    ring = np.rint(np.hypot(frequency[:, None], frequency)).astype(int)
    sums = np.bincount(ring.ravel(), power.ravel())
    return np.asarray((sums / np.bincount(ring.ravel()))[1 : SIDE // 2])


def surfaces(scan: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The retina's inner and outer surface, roughly, row by column: cheapest paths."""
    smooth = gaussian_filter(scan, (2, 4))
    mean = uniform_filter1d(smooth, 10, axis=0)
    outer = cheapest(np.roll(mean, -12, axis=0) - np.roll(mean, 5, axis=0))
    rows = np.arange(scan.shape[0])[:, None]
    dark_above = np.roll(uniform_filter1d(smooth, 20, axis=0), 12, axis=0)
    cost = 0.1 * dark_above - np.gradient(smooth, axis=0)
    between = (rows < outer - 25) & (rows > outer - 130)
    return cheapest(np.where(between, cost, 50.0)), outer


def cheapest(cost: np.ndarray, jump: int = 2) -> np.ndarray:
    """The path from left to right of least total cost, at most `jump` rows a column."""
    height, width = cost.shape
    total = cost[:, 0]
    came = np.zeros((height, width), dtype=int)
    for column in range(1, width):
        padded = np.pad(total, jump, constant_values=np.inf)
        options = np.stack(
            [padded[k : k + height] + 0.3 * abs(k - jump) for k in range(2 * jump + 1)]
        )
        came[:, column] = options.argmin(axis=0) - jump
        total = cost[:, column] + options.min(axis=0)
    path = np.empty(width, dtype=int)
    path[-1] = total.argmin()
    for column in range(width - 1, 0, -1):
        path[column - 1] = path[column] + came[path[column], column]
    return path


def report(real: list[Texture], made: dict[str, list[Texture]]) -> str:
    """Distances among real eyes, and from phantoms to real eyes, as Markdown."""
    measured = {
        (f"grey values, {name}", "grey values"): distances(real, made, name, histogram_distance)
        for name in real[0].greys
    } | {
        (f"spectrum, {name}", "dB"): distances(real, made, name, spectrum_distance)
        for name in real[0].spectra
    }
    rows = [
        [*what, *(f"{np.mean(cell):.1f} ({np.max(cell):.1f})" for cell in cells)]
        for what, cells in measured.items()
    ]
    lines = [
        f"of {len(rows)} rows, the mean of the {name} is no more than that of the real eyes in "
        f"{sum(np.mean(cells[index]) <= np.mean(cells[0]) for cells in measured.values())}, and "
        f"their farthest eye no farther than the farthest real one in "
        f"{sum(max(cells[index]) <= max(cells[0]) for cells in measured.values())}"
        for index, name in enumerate(made, start=1)
    ]
    count = len(next(iter(made.values())))
    return (
        f"The phantoms are synthetic. Real: five Spectralis volumes (three healthy eyes, two with "
        f"drusen), every fourth B-scan. Phantoms: seeds {FIRST} to {FIRST + count - 1}, healthy "
        f"and with drusen; parameters were set on other seeds. Commit {commit()}.\n\n"
        f"Of each eye its mean distance to the (other) real eyes; then the "
        f"mean of that over eyes, and in brackets the largest. Histograms: 1-Wasserstein distance. "
        f"Spectra: mean absolute difference over frequencies from 1/{SIDE} cycle a pixel to nearly "
        f"1/2.\n\n{markdown(['what', 'unit', 'among real eyes', *made], rows)}\n\n"
        f"In short: {'; '.join(lines)}."
    )


def histogram_distance(one: Texture, other: Texture, name: str) -> float:
    """1-Wasserstein distance of two eyes' grey values in a region."""
    bins = np.arange(256)
    weights = [np.bincount(eye.greys[name].astype(int), minlength=256) for eye in (one, other)]
    return float(wasserstein_distance(bins, bins, *weights))


def spectrum_distance(one: Texture, other: Texture, name: str) -> float:
    """Mean absolute difference of two eyes' spectra in dB."""
    return float(np.abs(one.spectra[name] - other.spectra[name]).mean())


def distances(
    real: list[Texture], made: dict[str, list[Texture]], name: str, distance: Distance
) -> list[list[float]]:
    """Of one row: each real eye's mean distance to the others, then each phantom's to all."""
    within = [
        float(np.mean([distance(eye, other, name) for other in real if other is not eye]))
        for eye in real
    ]
    return [within] + [
        [float(np.mean([distance(eye, other, name) for other in real])) for eye in some]
        for some in made.values()
    ]


def picture(real: list[np.ndarray], made: list[np.ndarray], path: Path) -> None:
    """Real and made-up B-scans in turn: one outside the fovea and one through it of each eye."""
    rows = [
        np.hstack([eye[3], phantom[3], eye[6], phantom[6]])
        for eye, phantom in zip(real, made, strict=True)
    ]
    Image.fromarray(np.vstack(rows)).save(path)


if __name__ == "__main__":
    main()

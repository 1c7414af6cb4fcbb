"""The data of a study: a folder of training normals, test normals, anomalies and their masks."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fanogan.data import Normals, is_retina, seeded
from fanogan.detectors import BATCH, Encoded, LearnedDetector, Looked, Result, precision_of
from fanogan.errors import FanoganError
from fanogan.evaluation import masks_of
from fanogan.recipes import Recipe
from fanogan.retina import FlatSpace, is_store, prepare
from fanogan.storage import write_whole

PARTS = ("train", "normal", "anomalous")
SUBSET = 500  # images or patches that the iterative search is tested on
TRAINING_IMAGES = 64  # kept for the pictures of the report


class BadStudy(FanoganError):
    """A study that can't be made, said in one sentence."""


# --- the folder ---------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class StudyData:
    """Where the images of a study lie; each as ``evaluate`` takes it."""

    train: Path
    normal: Path
    anomalous: Path
    masks: Path | None

    @classmethod
    def find(cls, folder: Path) -> StudyData:
        """Find the parts: folders, or stores that ``prepare`` made (``train.zarr``).

        Raises:
            BadStudy: one is missing.
        """
        found = {part: _part(folder, part) for part in (*PARTS, "masks")}
        missing = [part for part in PARTS if found[part] is None]
        if missing:
            raise BadStudy(
                f"{folder}: has no {' and no '.join(missing)}; a study takes a folder that holds "
                "train (normals), normal and anomalous (both for testing), and masks where the "
                "truth is known, each a folder or a prepared store such as train.zarr"
            )
        return cls(**found)  # type: ignore[arg-type]

    def straight(self, recipe: Recipe, folder: Path) -> StudyData:
        """The same with volumes of the retina made straight, once, in stores in ``folder``.

        Raises:
            BadScan: volumes that can't be read, or a store of other ones.
        """
        space = FlatSpace(recipe.flat_rows, recipe.flat_base, recipe.stretch_retina)
        stores = {}
        for part in PARTS:
            source = getattr(self, part)
            retinal = recipe.geometry == "retina" or (
                recipe.geometry == "auto" and is_retina(source, None)
            )
            if retinal and not is_store(source):
                stores[part] = folder / f"{part}.zarr"
                prepare(source, stores[part], space=space)
        return dataclasses.replace(self, **stores)


def _part(folder: Path, part: str) -> Path | None:
    for path in (folder / part, folder / f"{part}.zarr"):
        if path.is_dir():
            return path
    return None


# --- what was scored ----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Scored:
    """The lines of a ``scores.csv`` in one order for all systems; (n,) each."""

    unit: str
    keys: tuple[str, ...]
    labels: np.ndarray
    groups: tuple[str, ...]  # as the table has them
    subjects: tuple[str, ...]  # as they are resampled
    total: np.ndarray
    image: np.ndarray
    feature: np.ndarray
    windows: np.ndarray  # that each was scored in

    @classmethod
    def read(cls, path: Path) -> Scored:
        """Read a table.

        Raises:
            BadStudy: two lines can't be told apart.
        """
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        keyed = sorted((f"{row['label']} {row['name']}", row) for row in rows)
        key, count = Counter(key for key, _ in keyed).most_common(1)[0]
        if count > 1:
            raise BadStudy(
                f"{path}: {count} lines are called {key[2:]}, so systems can't be compared line "
                "by line; give the volumes among normal and anomalous different names"
            )
        total, image, feature = (
            np.array([float(row[column]) for _, row in keyed])
            for column in ("score", "image_residual", "feature_residual")
        )
        return cls(
            rows[0]["unit"],
            tuple(key for key, _ in keyed),
            np.array([int(row["label"]) for _, row in keyed]),
            tuple(row["subject"] for _, row in keyed),
            tuple(_subject(row) for _, row in keyed),
            total,
            image,
            feature,
            np.array([int(row.get("windows") or 1) for _, row in keyed]),
        )

    def only(self, keys: Sequence[str]) -> Scored:
        """Those lines alone."""
        wanted = set(keys)
        at = [place for place, key in enumerate(self.keys) if key in wanted]
        return Scored(
            self.unit,
            tuple(self.keys[place] for place in at),
            self.labels[at],
            tuple(self.groups[place] for place in at),
            tuple(self.subjects[place] for place in at),
            self.total[at],
            self.image[at],
            self.feature[at],
            self.windows[at],
        )


def _subject(row: dict[str, str]) -> str:
    """As ``evaluate`` resamples: files of one name in two folders are not one subject."""
    name, group = row["name"], row["subject"]
    is_its_own = group == name or name.startswith(f"{group}#")
    return f"{row['label']} {group}" if is_its_own and row["unit"] != "patch" else group


def choose_subset(scored: Scored, count: int = SUBSET) -> list[str]:
    """Keys of a fixed sample, as many of each label and subject as their share asks for."""
    shuffled = np.random.default_rng(0).permutation(len(scored.keys))
    order = sorted(shuffled, key=lambda line: (scored.labels[line], scored.subjects[line]))
    places = np.unique(np.linspace(0, len(order) - 1, count).round().astype(int))
    return sorted(scored.keys[order[place]] for place in places)


def subset(folder: Path, scored: Scored | None = None) -> list[str]:
    """The study's subset: chosen when it is first asked for, the same ever after."""
    path = folder / "subset.json"
    if not path.exists():
        if scored is None:
            raise BadStudy("no system has been tested on all images yet: there is no subset")
        write_whole(path, json.dumps(choose_subset(scored), indent=0).encode())
    keys: list[str] = json.loads(path.read_text(encoding="utf-8"))
    return keys


# --- what a detector sees of it -----------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Windows:
    """Chosen images or patches, as the networks see them, in the order of their keys.

    ``x`` (n, C, *sides) in [−1, 1]; ``inside`` (n, 1, *sides) bool, where x̂ counts, or None;
    ``masks`` (n, *sides) bool, empty where nothing is marked.
    """

    keys: tuple[str, ...]
    x: Tensor
    inside: Tensor | None
    masks: np.ndarray

    def part(self, places: Sequence[int]) -> Windows:
        """Some of them."""
        at = list(places)
        return Windows(
            tuple(self.keys[place] for place in at),
            self.x[at],
            None if self.inside is None else self.inside[at],
            self.masks[at],
        )


def keep_training_images(detector: LearnedDetector, normals: Normals, folder: Path) -> None:
    """Write random training images as the networks see them, for the pictures of the report."""
    training, _ = detector._patches(normals)
    x = training.draw(TRAINING_IMAGES, seeded(detector.device, "pictures")).cpu().numpy()
    stream = io.BytesIO()
    np.savez_compressed(stream, x=x)
    write_whole(folder / "training.npz", stream.getvalue())


def training_images(folder: Path) -> Tensor | None:
    """What ``keep_training_images`` wrote: (n, C, *sides), or None."""
    path = folder / "training.npz"
    if not path.exists():
        return None
    with np.load(path) as file:
        return torch.from_numpy(file["x"])


def look(
    detector: LearnedDetector, windows: Windows, batch: int = BATCH
) -> tuple[np.ndarray, np.ndarray]:
    """What the networks make of windows, by the path that all scoring takes.

    Returns:
        (A_R, A_D) as (n, 2) float64, and |x − x̂| and x̂ as (n, 1 + C, *sides) float32.
    """
    terms, maps = [], []
    with torch.inference_mode(), precision_of("fp32"):
        for start in range(0, len(windows.x), batch):
            part = slice(start, start + batch)
            inside = None if windows.inside is None else windows.inside[part].to(detector.device)
            found, given = detector.look(windows.x[part].to(detector.device), inside)
            terms.append(found.cpu().double().numpy())
            maps.append(given.cpu().numpy())
    return np.concatenate(terms), np.concatenate(maps)


def frames(
    detector: LearnedDetector, data: StudyData, names: Container[str]
) -> Iterator[tuple[int, Encoded, Result, np.ndarray | None]]:
    """The test images and B-scans of those names, in order.

    Yields:
        1 for what lies among the anomalous, else 0; the scan; the frame's name and place, with its
        picture and no score; and its mask, where it has one.
    """
    retinal = detector.preprocessing.retina is not None
    mask_of = masks_of(data.masks, data.anomalous, None, retinal)
    for label, source in enumerate((data.normal, data.anomalous)):
        for encoded in detector.read(source):
            for frame, pixels in enumerate(encoded.pixels):
                result = detector._result(encoded, frame, Looked(np.zeros((1, 2))))
                if result.name not in names:
                    continue
                bscan = result.volume.bscans[frame] if result.volume else np.moveaxis(pixels, 0, -1)
                result = dataclasses.replace(result, picture=np.asarray(bscan))
                yield label, encoded, result, mask_of(result) if label else None


def patch_windows(detector: LearnedDetector, data: StudyData, keys: Sequence[str]) -> Windows:
    """The patches of those keys, '1 volume#frame@row,column', cut as scoring cuts them."""
    wanted: dict[str, list[tuple[int, int, str]]] = {}
    for key in keys:
        bscan, _, corner = key[2:].rpartition("@")
        row, column = map(int, corner.split(","))
        wanted.setdefault(bscan, []).append((row, column, key))
    view, window = detector.preprocessing.retina, detector.preprocessing.window
    assert view is not None and window is not None
    found: dict[str, Cut] = {}
    for _, encoded, result, mask in frames(detector, data, wanted):
        volume, frame = result.volume, result.frame
        assert volume is not None
        flat = None if mask is None else volume.forward(frame, mask)
        retina = volume.retina[frame] if view.score_retina_only else None
        for row, column, key in wanted[result.name]:
            at = slice(row, row + window[0]), slice(column, column + window[1])
            found[key] = Cut(
                encoded.pixels[frame][:, *at],
                None if flat is None else flat[at],
                None if retina is None else retina[at],
            )
    return _windows(detector, [found[key] for key in keys], keys)


def image_windows(detector: LearnedDetector, data: StudyData, keys: Sequence[str]) -> Windows:
    """The images of those keys, '1 name', whole; of larger ones a window.

    It lies around the middle of what is marked, where there is a mask, else of the image.
    """
    found: dict[str, Cut] = {}
    for label, encoded, result, mask in frames(detector, data, {key[2:] for key in keys}):
        pixels = encoded.pixels[result.frame]
        at = _middle(pixels.shape[1:], detector.preprocessing.window, mask)
        found[f"{label} {result.name}"] = Cut(pixels[:, *at], None if mask is None else mask[at])
    return _windows(detector, [found[key] for key in keys], keys)


@dataclasses.dataclass(frozen=True)
class Cut:
    """A window as it is stored: ``pixels`` (C, h, w), ``mask`` and ``retina`` (h, w) bool."""

    pixels: np.ndarray
    mask: np.ndarray | None = None
    retina: np.ndarray | None = None


def _windows(detector: LearnedDetector, cuts: Sequence[Cut], keys: Sequence[str]) -> Windows:
    see = detector.preprocessing.see
    x = see(detector._to_device(np.stack([cut.pixels for cut in cuts]))).cpu()
    none = np.zeros(cuts[0].pixels.shape[1:], dtype=np.bool_)
    masks = np.stack([none if cut.mask is None else cut.mask for cut in cuts])
    inside = None
    if cuts[0].retina is not None:
        retina = np.stack([none if cut.retina is None else cut.retina for cut in cuts])
        inside = see(torch.from_numpy(retina)[:, None].float()) > 0.5
    seen = see(torch.from_numpy(masks)[:, None].float()) > 0.5
    return Windows(tuple(keys), x, inside, seen[:, 0].numpy())


def _middle(
    shape: Sequence[int], window: tuple[int, int] | None, mask: np.ndarray | None
) -> tuple[slice, slice]:
    if window is None:
        return slice(None), slice(None)
    middle = np.array(shape) / 2
    if mask is not None and mask.any():
        middle = np.argwhere(mask).mean(0)
    first = np.clip(np.round(middle - np.array(window) / 2), 0, np.array(shape) - window)
    (row, column), (rows, columns) = first.astype(int).tolist(), window
    return slice(row, row + rows), slice(column, column + columns)


def score_chosen(
    detector: LearnedDetector, data: StudyData, unit: str, keys: Sequence[str]
) -> np.ndarray:
    """Total, A_R and A_D of chosen images or patches alone: (n, 3), in the order of their keys."""
    if unit == "patch":
        terms, _ = look(detector, patch_windows(detector, data, keys))
        return np.column_stack([detector._totals(terms), terms])
    found = {}
    names = {key[2:] for key in keys}
    for label, source in enumerate((data.normal, data.anomalous)):
        scans = detector.read(source)
        for result in detector._score(_named(detector, scans, names)):
            if result.unit == "image":
                found[f"{label} {result.name}"] = (result.total, result.image, result.feature)
    return np.array([found[key] for key in keys])


def _named(
    detector: LearnedDetector, scans: Iterator[Encoded], names: Container[str]
) -> Iterator[Encoded]:
    """The frames of those names: of flat volumes by their windows, of others each as an image."""
    for encoded in scans:
        results = [
            detector._result(encoded, frame, Looked(np.zeros((1, 2))))
            for frame in range(len(encoded.pixels))
        ]
        chosen = [frame for frame, result in enumerate(results) if result.name in names]
        if encoded.usable is not None:
            usable = np.zeros_like(encoded.usable)
            usable[chosen] = encoded.usable[chosen]
            if usable.any():
                yield dataclasses.replace(encoded, usable=usable)
            continue
        for frame in chosen:
            scan = dataclasses.replace(
                encoded.scan,
                pixels=encoded.scan.pixels[frame : frame + 1],
                name=results[frame].name,
                is_volume=False,
            )
            pixels = encoded.pixels[frame : frame + 1]
            yield dataclasses.replace(encoded, scan=scan, pixels=pixels)

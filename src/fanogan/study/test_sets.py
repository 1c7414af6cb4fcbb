"""The data of a study: a folder of training normals, test normals, anomalies and their masks."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fanogan.data import Normals, is_retina, seeded, short_hashes
from fanogan.errors import FanoganError
from fanogan.evaluation import Leaks, masks_of
from fanogan.recipes import Recipe
from fanogan.retina import FlatSpace, is_store, prepare, stored_volumes
from fanogan.scans import each_scan
from fanogan.scoring import (
    BATCH,
    Encoded,
    FrameScore,
    Model,
    frame_name,
    read,
    read_csv,
    result_of,
    score_batch,
    score_encoded,
    totals_of,
)
from fanogan.storage import write_whole
from fanogan.training import precision_of

PARTS = ("train", "normal", "anomalous")
SUBSET = 500  # images or patches that the iterative search is tested on
TRAINING_IMAGES = 64  # kept for the pictures of the report


class BadStudy(FanoganError):
    """A study that can't be made, said in one sentence."""


# --- the folder ---------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class StudyData:
    """Where the images of a study are; each as ``evaluate`` takes it."""

    train: Path
    normal: Path
    anomalous: Path
    masks: Path | None

    @classmethod
    def find(cls, folder: Path) -> StudyData:
        """Return the parts: folders, or stores that ``prepare`` made (``train.zarr``).

        Raises:
            BadStudy: One is missing.
        """
        parts = {
            path.name.removesuffix(".zarr"): path
            for part in (*PARTS, "masks")
            for path in (folder / f"{part}.zarr", folder / part)
            if path.is_dir()
        }
        missing = [part for part in PARTS if part not in parts]
        if missing:
            raise BadStudy(
                f"{folder}: has no {' and no '.join(missing)}; a study takes a folder that holds "
                "train (normals), normal and anomalous (both for testing), and masks where the "
                "truth is known, each a folder or a prepared store such as train.zarr"
            )
        return cls(parts["train"], parts["normal"], parts["anomalous"], parts.get("masks"))

    def identities(self) -> dict[str, str]:
        """Return digests of names, sizes and times of change of the images of each part."""
        found = {}
        for part, path in dataclasses.asdict(self).items():
            if path is not None:
                digest = hashlib.sha256()
                for source in stored_volumes(path) if is_store(path) else each_scan(path):
                    digest.update(repr((source.name, source.identity)).encode())
                found[part] = digest.hexdigest()
        return found

    def check_unseen(self, normals: Normals) -> None:
        """Refuse test images that are among the normals of training, or have both labels.

        Raises:
            BadTestSet: how many there are.
            BadScan: an image that can't be read.
        """
        preprocessing = normals.preprocessing
        leaks = Leaks(normals.seen, preprocessing.noun)
        for label, source in enumerate((self.normal, self.anomalous)):
            for scan in preprocessing.read(source):
                for number, hashed in enumerate(short_hashes(preprocessing.encode(scan))):
                    leaks.add(label, frame_name(scan, number), hashed)
            leaks.check(label)

    def flattened(self, recipe: Recipe, folder: Path) -> StudyData:
        """Return the same with volumes of the retina flattened, once, in stores in ``folder``.

        Raises:
            BadScan: Volumes that can't be read, or a store of other ones.
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


# --- scores -------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Scored:
    """The lines of a ``scores.csv``, in one order for all systems; each column (n,)."""

    unit: str  # what was scored: 'image', 'patch' …
    keys: np.ndarray  # label and name, '1 name'
    labels: np.ndarray  # 1 anomalous, 0 normal
    groups: np.ndarray  # the subject as the table has it
    subjects: np.ndarray  # the subject as it is resampled
    total: np.ndarray  # A
    image: np.ndarray  # A_R
    feature: np.ndarray  # A_D
    windows: np.ndarray  # that each was scored in

    @classmethod
    def read(cls, path: Path) -> Scored:
        """Read a table.

        Raises:
            BadStudy: Two lines can't be told apart.
        """
        lines = sorted(read_csv(path), key=_key)
        key, count = Counter(map(_key, lines)).most_common(1)[0]
        if count > 1:
            raise BadStudy(
                f"{path}: {count} lines are called {key[2:]}, so systems can't be compared line "
                "by line; give the volumes among normal and anomalous different names"
            )
        return cls(
            lines[0]["unit"],
            np.array([_key(line) for line in lines]),
            np.array([int(line["label"]) for line in lines]),
            np.array([line["subject"] for line in lines]),
            np.array([_subject(line) for line in lines]),
            np.array([float(line["score"]) for line in lines]),
            np.array([float(line["image_residual"]) for line in lines]),
            np.array([float(line["feature_residual"]) for line in lines]),
            np.array([int(line.get("windows") or 1) for line in lines]),
        )

    def only(self, keys: Sequence[str]) -> Scored:
        """Return those lines alone."""
        wanted = np.isin(self.keys, keys)
        columns = (getattr(self, field.name) for field in dataclasses.fields(self)[1:])
        return Scored(self.unit, *(column[wanted] for column in columns))


def _key(line: Mapping[str, str]) -> str:
    return f"{line['label']} {line['name']}"


def _subject(line: Mapping[str, str]) -> str:
    """As ``evaluate`` resamples: files of one name in two folders are not one subject."""
    name, group = line["name"], line["subject"]
    is_its_own = group == name or name.startswith(f"{group}#")
    return f"{line['label']} {group}" if is_its_own and line["unit"] != "patch" else group


def choose_subset(scored: Scored, count: int = SUBSET) -> list[str]:
    """Return keys of a fixed sample, of each label and subject as many as their share asks for."""
    shuffled = np.random.default_rng(0).permutation(len(scored.keys))
    order = shuffled[np.lexsort((scored.subjects[shuffled], scored.labels[shuffled]))]
    places = np.unique(np.linspace(0, len(order) - 1, count).round().astype(int))
    return sorted(scored.keys[order[places]].tolist())


def subset(folder: Path, scored: Scored) -> list[str]:
    """Return the study's subset: chosen when it is first asked for, the same ever after."""
    path = folder / "subset.json"
    if not path.exists():
        write_whole(path, json.dumps(choose_subset(scored), indent=0).encode())
    keys: list[str] = json.loads(path.read_text(encoding="utf-8"))
    return keys


# --- what the networks are given ----------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Windows:
    """Chosen images or patches, as the networks see them."""

    x: Tensor  # (n, C, *image_size) in [−1, 1]
    inside: Tensor | None  # (n, 1, *image_size) bool, where x̂ counts; None: everywhere
    masks: np.ndarray  # (n, *image_size) bool

    def part(self, at: slice) -> Windows:
        """Return some of them."""
        inside = None if self.inside is None else self.inside[at]
        return Windows(self.x[at], inside, self.masks[at])


def keep_training_images(model: Model, normals: Normals, folder: Path) -> None:
    """Write random training images as the networks see them, for the pictures of the report."""
    training, _ = normals.patches(flip=model.recipe.horizontal_flip, device=model.device)
    x = training.draw(TRAINING_IMAGES, seeded(model.device, "pictures")).cpu().numpy()
    stream = io.BytesIO()
    np.savez_compressed(stream, x=x)
    write_whole(folder / "training.npz", stream.getvalue())


def training_images(folder: Path) -> Tensor | None:
    """Return what ``keep_training_images`` wrote: (n, C, *image_size), or None."""
    path = folder / "training.npz"
    if not path.exists():
        return None
    with np.load(path) as file:
        return torch.from_numpy(file["x"])


def score_windows(
    model: Model, windows: Windows, batch: int = BATCH
) -> tuple[np.ndarray, np.ndarray]:
    """Return what the networks make of windows, as all scoring does.

    Returns:
        (A_R, A_D) as (n, 2) float64, and |x − x̂| and x̂ as (n, 1 + C, *image_size) float32.
    """
    terms, maps = [], []
    with torch.inference_mode(), precision_of("fp32"):
        for start in range(0, len(windows.x), batch):
            part = slice(start, start + batch)
            inside = None if windows.inside is None else windows.inside[part].to(model.device)
            scored = score_batch(model, windows.x[part].to(model.device), inside)
            terms.append(scored[0].cpu().double().numpy())
            maps.append(scored[1].cpu().numpy())
    return np.concatenate(terms), np.concatenate(maps)


def windows_of(model: Model, data: StudyData, unit: str, keys: Sequence[str]) -> Windows:
    """Return the test images or patches of those keys.

    Patches, '1 volume#frame@row,column', are cut as scoring cuts them. An image that is larger than
    the window is cut around the middle of what is marked, where there is a mask, else its own.
    """
    seen, is_patch, nothing = model.preprocessing, unit == "patch", FrameScore(np.zeros((1, 2)))
    wanted: dict[str, list[str]] = {}
    for key in keys:
        name = key[2:].rpartition("@")[0] if is_patch else key[2:]
        wanted.setdefault(name, []).append(key)
    mask_of = masks_of(data.masks, data.anomalous, None, seen)
    cuts: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray | None]] = {}
    for label, encoded, number in _frames(model, data, wanted):
        pixels, tissue = encoded.pixels[number], None
        result = result_of(model, encoded, number, nothing)
        mask = np.zeros(pixels.shape[1:], dtype=np.bool_)
        if label:
            picture = encoded.scan.original(number)
            picture = np.moveaxis(pixels, 0, -1) if picture is None else picture
            # Of the map that a mask is laid on its size alone is asked for.
            laid_on = np.empty(picture.shape[: mask.ndim], dtype=np.float32)
            marked = mask_of(dataclasses.replace(result, residual=laid_on))
            if marked is not None:
                mask = result.volume.forward(number, marked) if result.volume else marked
        if is_patch and seen.tissue_only:
            assert result.volume is not None
            tissue = result.volume.tissue[number]
        size = np.array(seen.window or mask.shape)
        for key in wanted[result.name]:
            if is_patch:
                first = np.array(key.rpartition("@")[2].split(","), dtype=int)
            else:
                middle = np.argwhere(mask).mean(0) if mask.any() else np.array(mask.shape) / 2
                first = np.clip(np.round(middle - size / 2), 0, mask.shape - size).astype(int)
            at = tuple(slice(*edges) for edges in zip(first, first + size, strict=True))
            if is_patch or key[0] == str(label):
                cuts[key] = pixels[:, *at], mask[at], None if tissue is None else tissue[at]
    chosen = [cuts[key] for key in keys]
    tissues = [tissue for _, _, tissue in chosen if tissue is not None]

    def resized(masks: Sequence[np.ndarray]) -> Tensor:
        return seen.resize(torch.from_numpy(np.stack(masks))[:, None].float()) > 0.5

    pixels = np.stack([pixels for pixels, _, _ in chosen])
    x = seen.resize(seen.to_device(pixels, model.device)).cpu()
    masks = resized([mask for _, mask, _ in chosen])[:, 0].numpy()
    return Windows(x, resized(tissues) if tissues else None, masks)


def _frames(
    model: Model, data: StudyData, names: Container[str]
) -> Iterator[tuple[int, Encoded, int]]:
    """Yield label, scan and number of the test images and B-scans of those names, in order."""
    for label, source in enumerate((data.normal, data.anomalous)):
        for encoded in read(model, source):
            for number in range(len(encoded.pixels)):
                if frame_name(encoded.scan, number) in names:
                    yield label, encoded, number


def score_chosen(model: Model, data: StudyData, unit: str, keys: Sequence[str]) -> np.ndarray:
    """Return A, A_R and A_D of chosen images or patches alone: (n, 3), in the order of their keys.

    Images are scored in all their windows.
    """
    if unit == "patch":
        terms, _ = score_windows(model, windows_of(model, data, unit, keys))
        return np.column_stack([totals_of(model, terms), terms])
    scores = {}
    names = {key[2:] for key in keys}
    for label, source in enumerate((data.normal, data.anomalous)):
        for batch in score_encoded(model, _only(read(model, source), names)):
            for result in batch:
                if result.unit == "image":
                    scores[f"{label} {result.name}"] = (result.total, result.image, result.feature)
    return np.array([scores[key] for key in keys])


def _only(scans: Iterator[Encoded], names: Container[str]) -> Iterator[Encoded]:
    """Yield the frames of those names: of flat volumes by windows, of others each as an image."""
    for encoded in scans:
        scan = encoded.scan
        frames = [frame_name(scan, number) for number in range(len(encoded.pixels))]
        chosen = [number for number, name in enumerate(frames) if name in names]
        if encoded.usable is not None:
            usable = np.zeros_like(encoded.usable)
            usable[chosen] = encoded.usable[chosen]
            if usable.any():
                yield dataclasses.replace(encoded, usable=usable)
            continue
        for frame in chosen:
            alone = slice(frame, frame + 1)
            image = dataclasses.replace(
                scan, pixels=scan.pixels[alone], name=frames[frame], is_volume=False
            )
            yield dataclasses.replace(encoded, scan=image, pixels=encoded.pixels[alone])

"""The normals of a training run: read, split by subject, and settled how the networks see them."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fanogan.calibration import split_subjects
from fanogan.familiarity import Familiar, FamiliarBuilder
from fanogan.preprocessing import Preprocessing
from fanogan.recipes import Recipe
from fanogan.scans import BadScan, Scan, is_array_like, read_scans

FEW_IMAGES = 200
FEW_SUBJECTS = 10


def subjects_of(scan: Scan) -> list[str]:
    """The subject of each frame. Images of one array file are their own subjects."""
    frames = len(scan.pixels)
    if scan.is_volume or frames == 1 or scan.group != scan.name:
        return [scan.group] * frames
    return [f"{scan.group}#{frame}" for frame in range(frames)]


def single_images(scans: Iterator[Scan]) -> Iterator[Scan]:
    """Volumes as they are, and each image of an array file as a scan of its own."""
    for scan in scans:
        if scan.is_volume or len(scan.pixels) == 1:
            yield scan
            continue
        for frame, subject in enumerate(subjects_of(scan)):
            yield dataclasses.replace(
                scan,
                pixels=scan.pixels[frame : frame + 1],
                name=f"{scan.name}#{frame}",
                group=subject,
            )


@dataclasses.dataclass(frozen=True)
class Normals:
    """Training and held-out normals, and what must be remembered of them."""

    preprocessing: Preprocessing
    familiar: Familiar
    training: list[np.ndarray]  # encoded frames (C, H, W), uint8 or uint16
    held_out: list[Scan]
    fingerprint: dict[str, Any]
    warnings: tuple[str, ...]
    skipped: tuple[str, ...] = ()
    origin: dict[str, Any] | None = None  # how to read them again; None: arrays in memory

    @classmethod
    def read(
        cls,
        source: Any,
        recipe: Recipe,
        *,
        groups: str | None = None,
        seed: int = 0,
        skip_bad: bool = False,
    ) -> Normals:
        """Read normal images from paths, arrays or tensors (see ``read_scans``).

        Args:
            source: what to read.
            recipe: its sides and window, and the share of subjects to hold out.
            groups: how subjects are named (see ``find_scans``); default: folders.
            seed: of the split into training and held-out subjects.
            skip_bad: leave files out that can't be read, instead of stopping.

        Raises:
            BadScan: a bad file, mixed images, or fewer than two subjects.
        """
        bad: list[str] = []
        found = read_scans(source, groups, skip_bad, on_bad=lambda error: bad.append(str(error)))
        scans = list(single_images(found))
        try:
            held = split_subjects([scan.group for scan in scans], recipe.held_out, seed)
        except ValueError as error:
            raise BadScan(str(error)) from None
        kept = [scan for scan, out in zip(scans, held, strict=True) if not out]
        held_out = [scan for scan, out in zip(scans, held, strict=True) if out]
        normals = cls.of(kept, held_out, recipe, bad)
        return dataclasses.replace(normals, origin=_origin(source, groups, skip_bad))

    @classmethod
    def of(
        cls,
        kept: Sequence[Scan],
        held_out: Sequence[Scan],
        recipe: Recipe,
        skipped: Sequence[str] = (),
    ) -> Normals:
        """Settle what is needed of scans that are split already.

        Args:
            kept: to learn from.
            held_out: to calibrate with, of other subjects.
            recipe: its sides and window.
            skipped: what was wrong with files that were left out.

        Raises:
            BadScan: mixed images.
        """
        preprocessing = Preprocessing.of(kept, recipe, held_out)
        builder = FamiliarBuilder()
        training: list[np.ndarray] = []
        for scan in kept:
            encoded = preprocessing.encode(scan)
            builder.add(scan, grey_shares(encoded, preprocessing))
            training.extend(encoded)
        held = [image for scan in held_out for image in preprocessing.encode(scan)]
        fingerprint = _fingerprint(training, held, kept, held_out)
        return cls(
            preprocessing,
            builder.build(),
            training,
            list(held_out),
            fingerprint,
            (*_warnings(fingerprint), *_notes([*kept, *held_out])),
            tuple(skipped),
        )

    @property
    def summary(self) -> str:
        """One line a user can check: what was found, how it is seen, what is held out."""
        f, p = self.fingerprint, self.preprocessing
        volumes = f"{f['volumes']:,} volumes, " if f["volumes"] else ""
        if p.window is None:
            size = f"{self.training[0].shape[1]}×{self.training[0].shape[2]}"
            seen = f"whole images of {size}"
        else:
            seen = f"patches of {p.window[0]}×{p.window[1]}"
        colour = {1: "grey", 3: "RGB"}.get(p.channels, f"{p.channels} channels")
        return (
            f"{volumes}{f['images'] + f['held_out_images']:,} images of "
            f"{f['subjects'] + f['held_out_subjects']:,} subjects · {colour}, {p.depth} · {seen}, "
            f"seen at {p.sides[0]}×{p.sides[1]}\nheld out for calibration: "
            f"{f['held_out_images']:,} images of {f['held_out_subjects']:,} subjects"
        )


def grey_shares(encoded: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """Encoded frames (frames, C, H, W) → grey values in [0, 1], channels last."""
    return np.moveaxis(encoded, 1, -1).astype(np.float32) / preprocessing.levels


def _origin(source: Any, groups: str | None, skip_bad: bool) -> dict[str, Any] | None:
    if is_array_like(source):
        return None
    paths = source if isinstance(source, list | tuple) else [source]
    normals = [str(Path(path).absolute()) for path in paths]
    if groups is not None and groups.lower().endswith(".csv"):
        groups = str(Path(groups).absolute())
    return {"normals": normals, "groups": groups, "skip_bad": skip_bad}


def _fingerprint(
    training: Sequence[np.ndarray],
    held: Sequence[np.ndarray],
    kept: Sequence[Scan],
    held_out: Sequence[Scan],
) -> dict[str, Any]:
    """What the images are, without a name. Their order counts: training draws by it."""
    digests, held_digests = ([_digest(image) for image in images] for images in (training, held))
    seen = set(digests)
    return {
        "images": len(training),
        "subjects": len({scan.group for scan in kept}),
        "volumes": sum(scan.is_volume for scan in [*kept, *held_out]),
        "held_out_images": len(held),
        "held_out_subjects": len({scan.group for scan in held_out}),
        "duplicates": len(digests) - len(seen),
        "held_out_duplicates": sum(digest in seen for digest in held_digests),
        "sha256": hashlib.sha256(
            ",".join([*digests, "held out", *held_digests]).encode()
        ).hexdigest(),
    }


def _digest(image: np.ndarray) -> str:
    digest = hashlib.sha256(f"{image.dtype} {image.shape}".encode())
    digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()


def _notes(scans: Sequence[Scan]) -> Iterator[str]:
    """What was done in reading, once for all files it was done to."""
    for note, count in Counter(note for scan in scans for note in scan.notes).items():
        yield f"{note}: {count:,} of {len(scans):,} scans"


def _warnings(fingerprint: dict[str, Any]) -> Iterator[str]:
    images, subjects = fingerprint["images"], fingerprint["subjects"]
    if fingerprint["duplicates"]:
        yield f"{fingerprint['duplicates']:,} of {images:,} training images repeat another exactly"
    if fingerprint["held_out_duplicates"]:
        yield (
            f"{fingerprint['held_out_duplicates']:,} of {fingerprint['held_out_images']:,} "
            "held-out images are among the training images too: thresholds come out too low"
        )
    if images < FEW_IMAGES:
        yield f"only {images} training images: the model may learn them by heart"
    if subjects < FEW_SUBJECTS:
        yield f"only {subjects} training subjects: others may look different and yet be normal"

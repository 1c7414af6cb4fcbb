"""The normals of a training run: read, split by subject, and settled how the networks see them."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fanogan.calibration import Profile, ProfileBuilder, split_subjects
from fanogan.data.notes import notes_on
from fanogan.data.patches import Patches
from fanogan.data.preprocessing import Preprocessing
from fanogan.data.seen import Seen, digest_of
from fanogan.recipes import Recipe
from fanogan.remote import is_url
from fanogan.retina import (
    FlatSpace,
    FlatVolume,
    PicturesAs,
    estimated_row,
    given_spacing,
    with_row,
)
from fanogan.scans import (
    BadScan,
    Kind,
    Note,
    Scan,
    Spacing,
    each_scan,
    is_array_like,
    read_scans,
    scans_of,
)
from fanogan.text import counted, extent


@dataclasses.dataclass(frozen=True)
class Normals:
    """Training and held-out normals, and what must be remembered of them."""

    preprocessing: Preprocessing
    profile: Profile
    training: list[np.ndarray]  # encoded frames (C, *sides), uint8 or uint16
    held_out: list[Scan]
    fingerprint: dict[str, Any]
    seen: Seen
    notes: tuple[Note, ...]
    skipped: tuple[str, ...] = ()
    usable: list[np.ndarray] | None = None  # of each training frame; see ``Preprocessing.usable``
    origin: dict[str, Any] | None = None  # how to read them again; None: arrays in memory

    @classmethod
    def read(
        cls,
        source: Any,
        recipe: Recipe,
        *,
        groups: str | None = None,
        pictures: PicturesAs = "auto",
        spacing: Spacing | None = None,
        seed: int = 0,
        skip_bad: bool = False,
        on_scan: Callable[[Scan], None] = lambda scan: None,
    ) -> Normals:
        """Read normal images from paths, arrays or tensors (see ``read_scans``, ``read_volumes``).

        Args:
            source: what to read.
            recipe: its sides and window, and the share of subjects to hold out.
            groups: how subjects are named (see ``find_scans``); default: folders.
            pictures: of retinal OCT, what the pictures of a folder are (see ``find_volumes``).
            spacing: of retinal OCT, mm between B-scans, rows and columns for what files don't tell;
                kept with the model. Default: that of a prepared store among them, else an estimate
                by the usual thickness of retinas.
            seed: of the split into training and held-out subjects.
            skip_bad: leave files out that can't be read, instead of stopping.
            on_scan: called after each scan that is read.

        Raises:
            BadScan: a bad file, mixed images, or fewer than two subjects.
        """
        bad: list[str] = []
        scans = []
        for scan in _read(source, recipe, groups, pictures, spacing, skip_bad, bad):
            scans.append(scan)
            on_scan(scan)
        row = estimated_row(scan for scan in scans if isinstance(scan, FlatVolume))
        scans = [with_row(scan, row) if isinstance(scan, FlatVolume) else scan for scan in scans]
        try:
            held = split_subjects([scan.group for scan in scans], recipe.held_out_fraction, seed)
        except ValueError as error:
            raise BadScan(str(error)) from None
        kept = [scan for scan, out in zip(scans, held, strict=True) if not out]
        held_out = [scan for scan, out in zip(scans, held, strict=True) if out]
        normals = cls.of(kept, held_out, recipe, bad)
        view = normals.preprocessing.retina
        if view:
            view = dataclasses.replace(view, spacing=spacing or given_spacing(source), row=row)
        return dataclasses.replace(
            normals,
            preprocessing=dataclasses.replace(normals.preprocessing, retina=view),
            origin=_origin(source, groups, pictures, spacing, skip_bad),
        )

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
        builder = ProfileBuilder()
        training: list[np.ndarray] = []
        usable: list[np.ndarray] = []
        for scan in kept:
            encoded = preprocessing.encode(scan)
            builder.add(scan, preprocessing.grey_values(encoded))
            training.extend(encoded)
            corners = preprocessing.usable(scan, to_learn=True)
            usable.extend(() if corners is None else corners)
        held_out_usable = [preprocessing.usable(scan, to_learn=True) for scan in held_out]
        for of, masks in ((kept, usable), (held_out, held_out_usable)):
            known = [each for each in masks if each is not None]
            if known and not any(each.any() for each in known):
                noun = "volume" if of[0].is_volume else "B-scan"
                raise BadScan(
                    f"no place for a patch that holds {100 * recipe.min_retina_fraction:g} % of "
                    f"retina in {counted(len(of), noun)}, such as {of[0].name}: look at the layers "
                    "with fanogan prepare, or give a recipe with a smaller window or "
                    "min_retina_fraction"
                )
        held = [image for scan in held_out for image in preprocessing.encode(scan)]
        digests, held_digests = ([digest_of(image) for image in of] for of in (training, held))
        fingerprint = _fingerprint(digests, held_digests, kept, held_out)
        return cls(
            preprocessing,
            builder.build(),
            training,
            list(held_out),
            fingerprint,
            Seen.of(digests, held_digests),
            tuple(notes_on([*kept, *held_out], fingerprint, recipe)),
            tuple(skipped),
            usable or None,
        )

    def patches(
        self, *, flip: bool, device: torch.device, augment: bool = False
    ) -> tuple[Patches, Patches]:
        """Copy the images to a device: those to learn from, and those held out, never changed."""
        training = Patches(
            self.training,
            self.preprocessing,
            flip=flip,
            device=device,
            usable=self.usable,
            augment=augment,
        )
        held_out = Patches.of_scans(self.held_out, self.preprocessing, flip=False, device=device)
        return training, held_out

    @property
    def summary(self) -> str:
        """One line a user can check: what was found, how it is seen, what is held out."""
        f, p = self.fingerprint, self.preprocessing
        if p.retina:
            return self._summary_of_retinas()
        volumes = f"{counted(f['volumes'], 'volume')}, " if f["volumes"] else ""
        if p.signal:
            named = ", ".join(p.signal.called)
            rate = f" at {p.signal.rate:g} Hz" if p.signal.rate else ", sampling rate unknown"
            channels = f"{named}{rate}"
        else:
            kind = {1: "grey", 3: "RGB"}.get(p.channels, f"{p.channels} channels")
            channels = f"{kind}, {p.depth}"
        seen = f"whole {p.noun}s of {extent(self.training[0].shape[1:])}"
        if p.window:
            seen = f"windows of {extent(p.window)}"
        return (
            f"{volumes}{counted(f['images'] + f['held_out_images'], p.noun)} of "
            f"{counted(f['subjects'] + f['held_out_subjects'], 'subject')} · {channels} · "
            f"{seen}, seen at {extent(p.image_size)}\nheld out for calibration: "
            f"{counted(f['held_out_images'], p.noun)} of "
            f"{counted(f['held_out_subjects'], 'subject')}"
        )

    def _summary_of_retinas(self) -> str:
        f, p = self.fingerprint, self.preprocessing
        assert p.window is not None
        _, row, column = self.held_out[0].spacing
        pixel = f" at {1000 * row:.2g} µm × {1000 * column:.2g} µm" if row and column else ""
        volumes = f"{counted(f['volumes'], 'volume')}, " if f["volumes"] else ""
        unit = "volume" if self.held_out[0].is_volume else "B-scan"
        return (
            f"{volumes}{counted(f['images'] + f['held_out_images'], 'B-scan')} of "
            f"{counted(f['subjects'] + f['held_out_subjects'], 'subject')} · retina found in "
            f"{100 * f['retina_found']:.1f} % of columns · windows of "
            f"{extent(p.window)}{pixel}, seen at {extent(p.image_size)}\n"
            f"held out for calibration: {counted(len(self.held_out), unit)} of "
            f"{counted(f['held_out_subjects'], 'subject')}"
        )


def _read(
    source: Any,
    recipe: Recipe,
    groups: str | None,
    pictures: PicturesAs,
    spacing: Spacing | None,
    skip_bad: bool,
    bad: list[str],
) -> Iterator[Scan]:
    """Single images and volumes, or flat volumes, as the recipe's geometry says.

    What is said of B-scans says that they are OCT.
    """

    def on_bad(error: BadScan) -> None:
        bad.append(str(error))

    of_bscans = pictures != "auto" or spacing is not None
    if (recipe.geometry == "image" or recipe.is_signal or recipe.is_volume) and of_bscans:
        given = "the recipe's geometry is image: set it to retina"
        given = "the recipe is for signals" if recipe.is_signal else given
        given = "the recipe is for volumes in three dimensions" if recipe.is_volume else given
        raise BadScan(f"--bscans, --volumes and --spacing are for retinal OCT, and {given}")
    if recipe.is_signal or recipe.is_volume:
        kind: Kind = "signal" if recipe.is_signal else "volume"
        return read_scans(source, groups, skip_bad, on_bad, kind=kind)
    retinal = recipe.geometry == "retina" or of_bscans
    if retinal or (recipe.geometry == "auto" and is_retina(source, groups)):
        from fanogan.retina import read_volumes

        return read_volumes(
            source,
            FlatSpace(recipe.flat_rows, recipe.flat_base, recipe.stretch_retina),
            groups=groups,
            pictures=pictures,
            spacing=spacing,
            skip_bad=skip_bad,
            on_bad=on_bad,
        )
    return read_scans(source, groups, skip_bad, on_bad=on_bad)


def is_retina(source: Any, groups: str | None) -> bool:
    """Whether a source is a prepared store, volumes in memory, or an OCT device's own files."""
    from fanogan.retina import is_store

    if is_array_like(source):
        return False
    for entry in source if isinstance(source, list | tuple) else [source]:
        if isinstance(entry, Scan):
            return entry.is_retina
        if is_store(entry):
            return True
    for found in each_scan(source, groups):
        try:
            return next(scans_of(found)).is_retina
        except BadScan:  # reading all of them will say so
            continue
    return False


def _origin(
    source: Any,
    groups: str | None,
    pictures: PicturesAs,
    spacing: Spacing | None,
    skip_bad: bool,
) -> dict[str, Any] | None:
    paths = source if isinstance(source, list | tuple) else [source]
    if not all(isinstance(path, str | Path) for path in paths):
        return None
    normals = [path if is_url(path) else str(Path(path).absolute()) for path in paths]
    if groups is not None and groups.lower().endswith(".csv") and not is_url(groups):
        groups = str(Path(groups).absolute())
    return {
        "normals": normals,
        "groups": groups,
        "pictures": pictures,
        "spacing": list(spacing) if spacing else None,
        "skip_bad": skip_bad,
    }


def _fingerprint(
    digests: Sequence[str],
    held_digests: Sequence[str],
    kept: Sequence[Scan],
    held_out: Sequence[Scan],
) -> dict[str, Any]:
    """Return what the images are, by their digests. Their order counts: training draws by it."""
    retinas = [scan.found for scan in [*kept, *held_out] if isinstance(scan, FlatVolume)]
    seen = set(digests)
    return {
        "images": len(digests),
        "subjects": len({scan.group for scan in kept}),
        "volumes": sum(scan.is_volume for scan in [*kept, *held_out]),
        "held_out_images": len(held_digests),
        "held_out_subjects": len({scan.group for scan in held_out}),
        "duplicates": len(digests) - len(seen),
        "held_out_duplicates": sum(digest in seen for digest in held_digests),
        "sha256": hashlib.sha256(
            ",".join([*digests, "held out", *held_digests]).encode()
        ).hexdigest(),
        **({"retina_found": float(np.mean(retinas))} if retinas else {}),
    }

"""Ground-truth masks: which pixels are marked as anomalous."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from types import EllipsisType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fanogan.scans.arrays import ArrayFile, plain_array, volume_layout
from fanogan.scans.checks import BadScan, check_dtype, check_finite
from fanogan.scans.find import split_key
from fanogan.scans.nifti import laid_over
from fanogan.scans.notes import (
    ConvertedToRGB,
    LabelsBelowWhite,
    MaskInAlpha,
    Note,
    OneBitGrey,
    SoftMask,
)
from fanogan.scans.pixels import channels_are_equal, drop_alpha, is_constant
from fanogan.scans.read import ARRAYS, format_of, read_scan
from fanogan.scans.scan import Affine, Pixels, Scan
from fanogan.scans.source import Kind

_ROUNDING = 1e-3
"""Labels that a NIfTI's slope has been applied to are whole numbers to within this."""

_MOST_GREY_LABELS = 8
"""Levels between a quarter and three quarters of the full range that labels may have."""


def read_mask(
    path: str | Path,
    labels: Collection[int] | None = None,
    *,
    image_affine: Affine | EllipsisType | None = ...,
    kind: Kind = "image",
    on_note: Callable[[Note], None] = lambda note: None,
) -> NDArray[np.bool_]:
    """Read a ground-truth mask, as `marked` says of its values.

    Of a palette its indices are the labels, as segmentation tools write them.

    Args:
        path: The file, or 'file.npz:key'.
        labels: The values that count as anomalous; None: all but 0.
        image_affine: Where its image lies (`Scan.affine`), which a NIfTI is turned by; None where
            the image is of a format that doesn't say, and pixels are paired as they are stored.
        kind: Of what it is the mask; of volumes an array file may hold several.
        on_note: Called with what a user should know of how the mask was understood.

    Returns:
        (frames, rows, columns) bool, or of volumes (N, slices, rows, columns); all false in a file
        of zeros.

    Raises:
        BadScan: As `read_scan` and `marked`; a mask in colours; one whose alpha channel marks
            other pixels than its grey values; or a NIfTI without its image's affine, or that isn't
            on its image's grid.
    """
    scan = read_scan(path, as_stored=True, kind=kind)
    file, key = split_key(Path(path))
    found = format_of(file)
    values = _stored_labels(file, found, scan)
    if values.ndim == 4:
        values, note = _without_channels(str(path), values)
        if note is not None:
            on_note(note)
    mask, note = marked(values, str(path), labels, is_lossy=found == "JPEG")
    if note is not None:
        on_note(note)
    if found == "NIfTI" and scan.affine is not None and image_affine is not None:
        if isinstance(image_affine, EllipsisType):
            raise BadScan(
                f"{path} says how it lies in space, which only its image can be held against: give "
                "image_affine=read_scan(image).affine"
            )
        mask = laid_over(str(path), mask, scan.affine, image_affine)
    if kind != "volume":
        return mask
    slices = ArrayFile(file, key, volume_layout).each if found in ARRAYS else len(mask)
    return mask.reshape(-1, slices, *mask.shape[1:])


def marked(
    values: Any, label: str, labels: Collection[int] | None = None, *, is_lossy: bool = False
) -> tuple[NDArray[np.bool_], Note | None]:
    """Return which pixels of a mask are anomalous: all that are not 0, or those of some labels.

    A soft mask, of fractions from 0 to 1 or of many grey levels as interpolation and JPEG leave
    them, marks what is above half of its range (1, 255 or 65,535); a note says so. Another says
    that the few levels below white are taken for labels, which a blurred edge has too.

    Args:
        values: The mask's numbers, of any shape.
        label: What messages call the mask.
        labels: The values that count as anomalous; None: all but 0.
        is_lossy: Whether compression has altered the numbers.

    Raises:
        BadScan: Numbers that are neither labels nor soft, or labels chosen of a soft mask.
    """
    values = plain_array(label, values)
    check_dtype(label, values.dtype)
    check_finite(label, values, values)
    whole = np.rint(values) if values.dtype.kind == "f" else values
    is_whole = whole is values or np.allclose(values, whole, rtol=0, atol=_ROUNDING)
    if labels is not None:
        if is_lossy or not is_whole:
            raise BadScan(
                f"{label} is a soft or lossy mask, in which no labels can be chosen: save its "
                "labels as whole numbers, as PNG, TIFF or NIfTI, or leave out --mask-labels"
            )
        return np.isin(whole, list(labels)), None
    if values.min() < 0:
        raise BadScan(
            f"{label} holds negative values, which are no labels of anything marked: say which "
            "labels count (--mask-labels 1,2), or save 0 where nothing is marked"
        )
    highest = values.max()
    full = 1 if highest <= 1 and not is_whole else 255 if highest <= 255 else 65535
    between = values[(values > full / 4) & (values < 3 * full / 4)]
    is_grey = 0.9 * full <= highest <= full and len(np.unique(between)) > _MOST_GREY_LABELS
    if not is_whole and full > 1 and not is_grey:
        raise BadScan(
            f"{label} holds fractions up to {highest:g}, neither labels nor a soft mask from 0 to "
            "1: save its labels as whole numbers"
        )
    if is_lossy and 0 < highest < full / 2:
        raise BadScan(
            f"{label} is a JPEG with values up to {highest}, and JPEG alters labels: save the mask "
            "as PNG"
        )
    if is_lossy or full == 1 or is_grey:
        return values > full / 2, SoftMask(full / 2, full)
    is_white = highest == full and ((values != 0) & (values != full)).any()
    return whole != 0, LabelsBelowWhite(full) if is_white else None


def _without_channels(label: str, pixels: Pixels) -> tuple[Pixels, Note | None]:
    """Return the one channel of (frames, rows, columns, channels) that holds the mask."""
    colour, has_alpha = drop_alpha(label, pixels)
    if colour.ndim == 4 and channels_are_equal(colour):
        colour = colour[..., 0]
    alpha = pixels[..., -1]
    opaque = np.iinfo(alpha.dtype).max if alpha.dtype.kind in "ui" else 1
    if has_alpha and (alpha != opaque).any():
        if is_constant(colour):
            return alpha, MaskInAlpha()
        if colour.ndim == 3 and ((colour != 0) != (alpha != 0)).any():
            raise BadScan(
                f"{label} marks other pixels in its alpha channel than in grey: save the mask in "
                "grey without alpha"
            )
    if colour.ndim == 4:
        raise BadScan(f"{label} is a mask in colours: save it in grey, 0 where nothing is marked")
    return colour, None


def _stored_labels(path: Path, kind: str, scan: Scan) -> Pixels:
    """Return what a segmentation tool wrote: indices of a palette, few bits not spread to 255."""
    bits = 1 if OneBitGrey() in scan.notes else 8
    indices: Pixels | None = None
    background: Sequence[int] = ()
    if kind == "TIFF":
        from tifffile import TiffFile

        with TiffFile(path) as file:
            page = file.pages[0].aspage()
            bits = page.bitspersample
            # ImageJ's inverted tables mark what is 1, fax encoders what is 0, and a viewer shows
            # both alike; so it does booleans that tifffile wrote, in which 1 is true.
            if page.photometric == 0 and bits == 1 and page.software == "tifffile.py":
                indices = file.asarray().astype(np.uint8)
            elif page.photometric == 0:
                raise BadScan(
                    f"{path} stores white as zero, so that it can't be told what is marked: save "
                    "the mask with black as zero (photometric='minisblack' in tifffile)"
                )
            if ConvertedToRGB("palette") in scan.notes and page.colormap is not None:
                indices, background = file.asarray(), page.colormap[:, 0].tolist()
    elif ConvertedToRGB("palette") in scan.notes:
        from PIL import Image

        with Image.open(path) as image:
            indices, background = np.asarray(image), (image.getpalette() or [])[:3]
    elif kind == "PNG":
        with path.open("rb") as stored:
            bits = min(stored.read(26)[24], bits)
    if indices is not None:
        if any(background):
            raise BadScan(
                f"{path} has a palette whose first colour isn't black, so that its indices can't "
                "be labels: save the mask in grey, 0 where nothing is marked"
            )
        return indices.reshape(scan.pixels.shape[:3])
    pixels = scan.pixels
    # The readers spread two and four bits over 0 to 255, as a viewer shows them.
    return pixels // (255 // (2**bits - 1)) if bits < 8 and pixels.dtype == np.uint8 else pixels

"""What a reader changed in a scan, or found odd about it, as data; `fanogan.report` words it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Note:
    """Base of all notes: a kind adds its data as fields of strings, numbers or tuples of them."""


@dataclass(frozen=True)
class AlphaDropped(Note):
    """An alpha channel was left out."""


@dataclass(frozen=True)
class GreyStoredAsColour(Note):
    """All three channels were equal, so one of them was kept."""


@dataclass(frozen=True)
class TintedGrey(Note):
    """The channels differed by no more than a JPEG rounds colours, so their mean was kept."""


@dataclass(frozen=True)
class ColouredMarks(Note):
    """Letters, arrows or lines in colour were burnt into a grey B-scan, and count as margin."""


@dataclass(frozen=True)
class WhiteMarks(Note):
    """White letters or a scale bar were burnt into a B-scan, and count as margin."""


@dataclass(frozen=True)
class ColourMapUndone(Note):
    """A B-scan in false colours was turned back into grey; `name` is matplotlib's of the map."""

    name: str


@dataclass(frozen=True)
class ConvertedToRGB(Note):
    """Pixels were converted from another colour model: 'palette', 'CMYK', or a mode of Pillow."""

    model: str


@dataclass(frozen=True)
class OneBitGrey(Note):
    """One bit per pixel was read as 8-bit grey."""


@dataclass(frozen=True)
class LabelsBelowWhite(Note):
    """A mask has a few levels between 0 and white, which were taken for labels."""

    white: int


@dataclass(frozen=True)
class SoftMask(Note):
    """A mask has no labels but a soft edge: what is above a threshold was taken as marked."""

    threshold: float
    full: int


@dataclass(frozen=True)
class MaskInAlpha(Note):
    """A mask was taken from the alpha channel of a picture of one colour."""


@dataclass(frozen=True)
class FirstFrameOnly(Note):
    """Only the first of several frames was read."""

    of: int


@dataclass(frozen=True)
class FirstVolumeOnly(Note):
    """Only the first of several volumes was read."""

    of: int


@dataclass(frozen=True)
class UndeclaredFrames(Note):
    """The file holds more frames than its header declares; the others were left out."""

    held: int
    declared: int


@dataclass(frozen=True)
class WindowLeftOut(Note):
    """The first window of a DICOM image cannot be followed; `window` says what it is like."""

    window: str


@dataclass(frozen=True)
class EmptyFrames(Note):
    """Some frames of a volume have one value everywhere; they are counted from 0."""

    frames: tuple[int, ...]
    of: int


@dataclass(frozen=True)
class UnevenBScans(Note):
    """B-scans are not parallel at equal distances, so no distance between them was set."""


@dataclass(frozen=True)
class UnevenSlices(Note):
    """Slices of a DICOM volume lie at uneven distances; `unit` is 'mm', or 'numbers' of files."""

    least: float
    greatest: float
    unit: str


@dataclass(frozen=True)
class SlicesByName(Note):
    """Nothing in the files of a DICOM volume tells the order of its slices."""


@dataclass(frozen=True)
class ReflectivityAsShown(Note):
    """Reflectivity was converted to 8 bits as the device's software shows it."""


@dataclass(frozen=True)
class PerhapsSideBySide(Note):
    """A seam in the middle of a picture hints at two B-scans side by side."""


@dataclass(frozen=True)
class Verbatim(Note):
    """A note that was stored as text, in stores prepared before notes had kinds."""

    text: str


def note_to_json(note: Note) -> dict[str, Any]:
    """Return a note as a JSON object: the name of its kind, and its data."""
    return {"kind": type(note).__name__, **asdict(note)}


def note_from_json(value: str | Mapping[str, Any]) -> Note:
    """Return the note that `note_to_json` wrote; plain text becomes `Verbatim`.

    Raises:
        ValueError: A kind of note that this version does not know.
    """
    if isinstance(value, str):
        return Verbatim(value)
    kinds = {kind.__name__: kind for kind in Note.__subclasses__()}
    data = {key: tuple(item) if isinstance(item, list) else item for key, item in value.items()}
    name = str(data.pop("kind", None))
    if name not in kinds:
        raise ValueError(f"{name!r} is no kind of note that this version of fanogan knows")
    return kinds[name](**data)

"""The words for notes, which are data until somebody reads them."""

from __future__ import annotations

from fanogan.calibration import (
    ALPHA,
    BitDepthUnseen,
    ChannelsUnseen,
    GreyRangeUnseen,
    GreyValuesUnseen,
    SizeUnseen,
    SpacingUnseen,
)
from fanogan.data import (
    ChannelsNotSeen,
    DuplicateImages,
    FewHeldOut,
    FewImages,
    FewSubjects,
    GreyRangeDoubtful,
    HeldOutDuplicates,
    NoteOfScans,
    SamplingRateUnknown,
    SeenBefore,
    VolumesAsImages,
)
from fanogan.retina import THICKNESS_MM, SpacingEstimated, ThicknessUnseen
from fanogan.scans import (
    AlphaDropped,
    ColouredMarks,
    ColourMapUndone,
    ConvertedToRGB,
    EmptyFrames,
    FirstFrameOnly,
    FirstVolumeOnly,
    GreyStoredAsColour,
    LabelsBelowWhite,
    MaskInAlpha,
    Note,
    OneBitGrey,
    PerhapsSideBySide,
    ReflectivityAsShown,
    SlicesByName,
    SoftMask,
    TintedGrey,
    UndeclaredFrames,
    UnevenBScans,
    UnevenSlices,
    Verbatim,
    WhiteMarks,
    WindowLeftOut,
)
from fanogan.text import counted

_MOST_FRAMES_NAMED = 10


def p_value_text(p_value: float) -> str:
    """Write a p-value to three decimals, or two digits where it is smaller."""
    return f"{p_value:.3f}" if p_value >= 0.001 else f"{p_value:.2g}"


def least_p_value(p_value: float, subjects: int) -> str:
    """Say what a p-value is that so many held-out subjects can't make any smaller; '' of others."""
    if subjects == 0 or p_value > 1 / (subjects + 1):
        return ""
    named = {1: ("the one held-out subject", "one"), 2: ("both held-out subjects", "two")}
    others = f"all {subjects:,} held-out subjects", f"{subjects:,}"
    who, count = named.get(subjects, others)
    return f"above {who}; {count} can show no less than 1/{subjects + 1:,}"


def describe(note: Note) -> str:
    """Return a note in plain words, as tables, reports and the console show it.

    Raises:
        TypeError: A kind of note that has no words here.
    """
    match note:
        case AlphaDropped():
            return "alpha channel dropped"
        case GreyStoredAsColour():
            return "grey stored as RGB, read as grey"
        case TintedGrey():
            return "slightly tinted, read as grey"
        case ColouredMarks():
            return "letters, arrows or lines in colour are left out as margins"
        case WhiteMarks():
            return "white letters or a scale bar are left out as margins"
        case ColourMapUndone(name):
            return f"false colours turned back into grey (colour map {name})"
        case ConvertedToRGB(model):
            return f"{model} converted to RGB"
        case OneBitGrey():
            return "one bit a pixel, read as 8-bit grey"
        case SoftMask(threshold, full):
            return f"soft mask: what is above {threshold:g} of {full:,} counts as anomalous"
        case LabelsBelowWhite(white):
            return (
                f"mask with levels between 0 and {white:,}: each counts as an anomalous label; if "
                f"they are blurred edges, --mask-labels {white} takes the white alone"
            )
        case MaskInAlpha():
            return "the mask is taken from the alpha channel: all else has one colour"
        case FirstFrameOnly(of):
            return f"first of {of} frames read"
        case FirstVolumeOnly(of):
            return f"first of {of} volumes read"
        case UndeclaredFrames(held, declared):
            return f"holds {held} frames and declares {declared}: the others are left out"
        case WindowLeftOut(window):
            return f"its window is {window}, which DICOM doesn't allow: shown without a window"
        case EmptyFrames((frame,)):
            return f"B-scan {frame} is empty"
        case EmptyFrames(frames, of) if len(frames) > _MOST_FRAMES_NAMED:
            return f"{len(frames)} of {of} B-scans are empty"
        case EmptyFrames(frames):
            return f"B-scans {', '.join(map(str, frames))} are empty"
        case UnevenBScans():
            return "B-scans are not parallel at equal distances, so their distance is unknown"
        case UnevenSlices(least, greatest, unit):
            return (
                f"slices are {_range((least, greatest))} {unit} apart: some are missing, or belong "
                "to another volume"
            )
        case SlicesByName():
            return "slices are in the order of their files' names, since nothing tells another"
        case ReflectivityAsShown():
            return "reflectivity shown in 8 bits as the device's software shows it"
        case SpacingEstimated(row, column):
            return (
                f"no spacing is known: estimated as {1000 * row:.3g} µm a row, by which the "
                f"training normals' retinas are about {THICKNESS_MM} mm thick, and "
                f"{1000 * column:.3g} µm a column, as is usual; give --spacing if you know it"
            )
        case ThicknessUnseen(thickness, seen):
            return (
                f"the retina is {thickness:.2g} mm thick in the median, trained on {_range(seen)}: "
                "disease, or another spacing than it is taken for"
            )
        case PerhapsSideBySide():
            return "perhaps two B-scans side by side: if so, cut them into one file each"
        case Verbatim(text):
            return text
        # --- the normals of a run
        case VolumesAsImages():
            return (
                "volumes are seen slice by slice as plain images; if they are OCT of the retina, "
                "fanogan prepare or a recipe with geometry: retina flattens them"
            )
        case DuplicateImages(count, of):
            return f"{count:,} of {of:,} training images repeat another exactly"
        case HeldOutDuplicates(count, of):
            return (
                f"{count:,} of {of:,} held-out images are among the training images too: "
                "thresholds come out too low"
            )
        case FewImages(count, noun):
            return f"only {counted(count, f'training {noun}')}: the model may learn them by heart"
        case FewSubjects(count):
            subjects = counted(count, "training subject")
            return f"only {subjects}: others may look different and yet be normal"
        case FewHeldOut(count, needed):
            return (
                f"only {counted(count, 'subject')} held out: a flag at a false-positive rate of "
                f"{100 * ALPHA:g} % needs {needed}, so none will be given; add subjects, or raise "
                "the recipe's held_out_fraction"
            )
        case NoteOfScans(of_scan, count, of):
            return f"{describe(of_scan)}: {count:,} of {of:,} scans"
        # --- a scan beside the training normals
        case SeenBefore(1, _, 1):
            return "the model was trained on this image, so its score is too low"
        case SeenBefore(_, 1, 1):
            return "the model was calibrated on this image, so its p-value is biased"
        case SeenBefore(trained, calibrated, of):
            return (
                f"the model was trained on {trained:,} and calibrated on {calibrated:,} of its "
                f"{of:,} frames"
            )
        case SizeUnseen(size, sizes, rows, columns):
            return (
                f"size {_size(size)} is outside the training normals "
                f"({_sizes(sizes, rows, columns)})"
            )
        case BitDepthUnseen(dtype, seen):
            return f"bit depth {dtype}, trained on {' and '.join(seen)}"
        case GreyRangeDoubtful(highest, white):
            return (
                f"more than 8 bits with values up to {highest:,}, and {white:,} was taken for "
                "white: if it isn't, convert the image to the bits of the training normals"
            )
        case SamplingRateUnknown(rate):
            return f"no sampling rate in the file: taken for the model's, {rate:g} samples a second"
        case ChannelsNotSeen(names):
            return f"channels that the model doesn't look at: {', '.join(names)}"
        case ChannelsUnseen(channels, seen):
            return f"{counted(channels, 'channel')}, trained on {' and '.join(map(str, seen))}"
        case SpacingUnseen(axis, spacing, seen):
            return f"spacing {spacing:.3g} mm a {axis}, trained on {_range(seen)}"
        case GreyRangeUnseen(low, high, lows, highs):
            return (
                f"grey values from {low:.3g} to {high:.3g}, trained on {_range(lows)} to "
                f"{_range(highs)}: scoring stretches both to the same range"
            )
        case GreyValuesUnseen(frames, of, distance, largest):
            which, up_to = (f" of {frames:,} of {of:,} frames", "up to ") if of > 1 else ("", "")
            return (
                f"grey histogram{which} outside the training normals (distance {up_to}"
                f"{distance:.2g}, largest seen {largest:.2g}): another scanner looks like disease"
            )
    raise TypeError(f"{type(note).__name__} has no words in fanogan.report")


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]}×{size[1]}"


def _sizes(
    sizes: tuple[tuple[int, int], ...], rows: tuple[int, int], columns: tuple[int, int]
) -> str:
    if 0 < len(sizes) <= 3:
        return ", ".join(map(_size, sizes))
    many = f"{len(sizes)} sizes of " if sizes else ""
    return f"{many}{_range(rows)} rows, {_range(columns)} columns"


def _range(bounds: tuple[float, float]) -> str:
    """Return 'low-high', or one number where both read the same."""
    low, high = (f"{v}" if isinstance(v, int) else f"{v:.3g}" for v in bounds)
    return low if low == high else f"{low}-{high}"

"""The words for notes, which are data until somebody reads them."""

from __future__ import annotations

from fanogan.scans import (
    AlphaDropped,
    ConvertedToRGB,
    EmptyFrames,
    FirstFrameOnly,
    FirstVolumeOnly,
    GreyStoredAsColour,
    Note,
    OneBitGrey,
    ReflectivityAsShown,
    UndeclaredFrames,
    UnevenBScans,
    Verbatim,
)

_MOST_FRAMES_NAMED = 10


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
        case ConvertedToRGB(model):
            return f"{model} converted to RGB"
        case OneBitGrey():
            return "one bit a pixel, read as 8-bit grey"
        case FirstFrameOnly(of):
            return f"first of {of} frames read"
        case FirstVolumeOnly(of):
            return f"first of {of} volumes read"
        case UndeclaredFrames(held, declared):
            return f"holds {held} frames and declares {declared}: the others are left out"
        case EmptyFrames((frame,)):
            return f"B-scan {frame} is empty"
        case EmptyFrames(frames, of) if len(frames) > _MOST_FRAMES_NAMED:
            return f"{len(frames)} of {of} B-scans are empty"
        case EmptyFrames(frames):
            return f"B-scans {', '.join(map(str, frames))} are empty"
        case UnevenBScans():
            return "B-scans are not parallel at equal distances, so their distance is unknown"
        case ReflectivityAsShown():
            return "reflectivity shown in 8 bits as the device's software shows it"
        case Verbatim(text):
            return text
    raise TypeError(f"{type(note).__name__} has no words in fanogan.report")

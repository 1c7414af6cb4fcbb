"""Notes in words, and notes as JSON."""

import json

import pytest

import fanogan.retina  # noqa: F401  so that its kinds of notes are known
from fanogan.report import describe
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
    note_from_json,
    note_to_json,
)

WORDS: dict[Note, str] = {
    AlphaDropped(): "alpha channel dropped",
    GreyStoredAsColour(): "grey stored as RGB, read as grey",
    ConvertedToRGB("palette"): "palette converted to RGB",
    OneBitGrey(): "one bit a pixel, read as 8-bit grey",
    FirstFrameOnly(3): "first of 3 frames read",
    FirstVolumeOnly(2): "first of 2 volumes read",
    UndeclaredFrames(3, 2): "holds 3 frames and declares 2: the others are left out",
    EmptyFrames((3,), 11): "B-scan 3 is empty",
    EmptyFrames((0, 2), 11): "B-scans 0, 2 are empty",
    EmptyFrames(tuple(range(11)), 12): "11 of 12 B-scans are empty",
    UnevenBScans(): "B-scans are not parallel at equal distances, so their distance is unknown",
    ReflectivityAsShown(): "reflectivity shown in 8 bits as the device's software shows it",
    Verbatim("B-scan 1 is empty"): "B-scan 1 is empty",
}


def test_every_kind_of_note_has_words() -> None:
    assert {type(note) for note in WORDS} == set(Note.__subclasses__())
    for note, words in WORDS.items():
        assert describe(note) == words


@pytest.mark.parametrize("note", WORDS, ids=lambda note: type(note).__name__)
def test_notes_come_back_from_json(note: Note) -> None:
    assert note_from_json(json.loads(json.dumps(note_to_json(note)))) == note


def test_notes_of_older_stores_are_kept_word_for_word() -> None:
    assert note_from_json("alpha channel dropped") == Verbatim("alpha channel dropped")


def test_an_unknown_kind_of_note_is_named() -> None:
    with pytest.raises(ValueError, match="'Blurred' is no kind of note"):
        note_from_json({"kind": "Blurred"})

"""Notes in words, and notes as JSON."""

import json

import pytest

import fanogan.retina  # noqa: F401  so that its kinds of notes are known
from fanogan.calibration import (
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
from fanogan.report import describe
from fanogan.retina import SpacingEstimated, ThicknessUnseen
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
    note_from_json,
    note_to_json,
)

WORDS: dict[Note, str] = {
    SpacingEstimated(0.00387, 0.01149): (
        "no spacing is known: estimated as 3.87 µm a row, by which the training normals' retinas "
        "are about 0.3 mm thick, and 11.5 µm a column, as is usual; give --spacing if you know it"
    ),
    AlphaDropped(): "alpha channel dropped",
    GreyStoredAsColour(): "grey stored as RGB, read as grey",
    TintedGrey(): "slightly tinted, read as grey",
    WhiteMarks(): "white letters or a scale bar are left out as margins",
    ColouredMarks(): "letters, arrows or lines in colour are left out as margins",
    ColourMapUndone("jet"): "false colours turned back into grey (colour map jet)",
    ConvertedToRGB("palette"): "palette converted to RGB",
    OneBitGrey(): "one bit a pixel, read as 8-bit grey",
    LabelsBelowWhite(255): "mask with levels between 0 and 255: each counts as an anomalous label; "
    "if they are blurred edges, --mask-labels 255 takes the white alone",
    SoftMask(127.5, 255): "soft mask: what is above 127.5 of 255 counts as anomalous",
    SoftMask(32767.5, 65535): "soft mask: what is above 32767.5 of 65,535 counts as anomalous",
    MaskInAlpha(): "the mask is taken from the alpha channel: all else has one colour",
    FirstFrameOnly(3): "first of 3 frames read",
    FirstVolumeOnly(2): "first of 2 volumes read",
    UndeclaredFrames(3, 2): "holds 3 frames and declares 2: the others are left out",
    WindowLeftOut("incomplete"): (
        "its window is incomplete, which DICOM doesn't allow: shown without a window"
    ),
    UnevenSlices(1.0, 2.5, "mm"): (
        "slices are 1-2.5 mm apart: some are missing, or belong to another volume"
    ),
    SlicesByName(): "slices are in the order of their files' names, since nothing tells another",
    EmptyFrames((3,), 11): "B-scan 3 is empty",
    EmptyFrames((0, 2), 11): "B-scans 0, 2 are empty",
    EmptyFrames(tuple(range(11)), 12): "11 of 12 B-scans are empty",
    UnevenBScans(): "B-scans are not parallel at equal distances, so their distance is unknown",
    ReflectivityAsShown(): "reflectivity shown in 8 bits as the device's software shows it",
    PerhapsSideBySide(): "perhaps two B-scans side by side: if so, cut them into one file each",
    Verbatim("B-scan 1 is empty"): "B-scan 1 is empty",
}


OF_A_RUN: dict[Note, str] = {
    VolumesAsImages(): (
        "volumes are seen slice by slice as plain images; if they are OCT of the retina, fanogan "
        "prepare or a recipe with geometry: retina flattens them"
    ),
    DuplicateImages(2, 1200): "2 of 1,200 training images repeat another exactly",
    HeldOutDuplicates(1, 30): (
        "1 of 30 held-out images are among the training images too: thresholds come out too low"
    ),
    FewImages(1): "only 1 training image: the model may learn them by heart",
    FewSubjects(3): "only 3 training subjects: others may look different and yet be normal",
    FewHeldOut(7, 19): (
        "only 7 subjects held out: a flag at a false-positive rate of 5 % needs 19, so none will "
        "be given; add subjects, or raise the recipe's held_out_fraction"
    ),
    NoteOfScans(AlphaDropped(), 2, 1000): "alpha channel dropped: 2 of 1,000 scans",
    SeenBefore(1, 0, 1): "the model was trained on this image, so its score is too low",
    SeenBefore(0, 1, 1): "the model was calibrated on this image, so its p-value is biased",
    SeenBefore(3, 1, 49): "the model was trained on 3 and calibrated on 1 of its 49 frames",
    SizeUnseen((9, 8), ((8, 8),), (8, 8), (8, 8)): (
        "size 9×8 is outside the training normals (8×8)"
    ),
    SizeUnseen((9, 8), (), (10, 20), (8, 8)): (
        "size 9×8 is outside the training normals (10-20 rows, 8 columns)"
    ),
    GreyRangeDoubtful(199, 255): (
        "more than 8 bits with values up to 199, and 255 was taken for white: if it isn't, convert "
        "the image to the bits of the training normals"
    ),
    SamplingRateUnknown(360.0): (
        "no sampling rate in the file: taken for the model's, 360 samples a second"
    ),
    ChannelsNotSeen(("V1", "V5")): "channels that the model doesn't look at: V1, V5",
    ThicknessUnseen(0.412, (0.28, 0.325)): (
        "the retina is 0.41 mm thick in the median, trained on 0.28-0.325: disease, or another "
        "spacing than it is taken for"
    ),
    BitDepthUnseen("uint16", ("uint8",)): "bit depth uint16, trained on uint8",
    ChannelsUnseen(1, (3,)): "1 channel, trained on 3",
    GreyRangeUnseen(0.0, 41.0, (0.0, 12.0), (116.0, 233.0)): (
        "grey values from 0 to 41, trained on 0-12 to 116-233: scoring stretches both to the same "
        "range"
    ),
    SpacingUnseen("row", 0.5, (0.1, 0.25)): "spacing 0.5 mm a row, trained on 0.1-0.25",
    GreyValuesUnseen(2, 49, 0.123, 0.05): (
        "grey histogram of 2 of 49 frames outside the training normals (distance up to 0.12, "
        "largest seen 0.05): another scanner looks like disease"
    ),
    GreyValuesUnseen(1, 1, 0.123, 0.05): (
        "grey histogram outside the training normals (distance 0.12, largest seen 0.05): another "
        "scanner looks like disease"
    ),
}


def test_every_kind_of_note_has_words() -> None:
    assert {type(note) for note in (*WORDS, *OF_A_RUN)} == set(Note.__subclasses__())
    for note, words in (*WORDS.items(), *OF_A_RUN.items()):
        assert describe(note) == words


@pytest.mark.parametrize("note", WORDS, ids=lambda note: type(note).__name__)
def test_notes_come_back_from_json(note: Note) -> None:
    assert note_from_json(json.loads(json.dumps(note_to_json(note)))) == note


def test_notes_of_older_stores_are_kept_word_for_word() -> None:
    assert note_from_json("alpha channel dropped") == Verbatim("alpha channel dropped")


def test_an_unknown_kind_of_note_is_named() -> None:
    with pytest.raises(ValueError, match="'Blurred' is no kind of note"):
        note_from_json({"kind": "Blurred"})

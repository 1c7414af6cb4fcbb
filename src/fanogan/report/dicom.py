"""A result as DICOM objects of the scan's own study, by highdicom.

A **Segmentation** of the candidate regions, a **Parametric Map** of the residual, and a
**Structured Report** (TID 1500) of the numbers. All refer to the images that they are made of.
"""

from __future__ import annotations

import hashlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fanogan.retina import Region
from fanogan.scans import BadScan, DicomSource, read_source

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

log = logging.getLogger(__name__)

UNKNOWN = -1.0
"""The map's value where nothing is known, which the object itself declares: NaN isn't for all."""

_RESEARCH = "Research use only, not a medical device."
_SERIES = {"PM": 9001, "SEG": 9002, "SR": 9003}
_SCHEME = "99FANOGAN"
_RETINA = ("5665001", "SCT", "Retina")
_SIDES = {"R": ("24028007", "SCT", "Right"), "L": ("7771000", "SCT", "Left")}
_ABNORMAL = ("49755003", "SCT", "Morphologically Abnormal Structure")
_CANDIDATE = ("candidate", _SCHEME, "Candidate region, residual above held-out normals")
_ACCEPTED = ("accepted", _SCHEME, "Region that a reader has accepted or drawn")
_OF_THE_RETINA = ("OPT", "OP")
"""Modalities: tomography of the eye and its photographs."""


@dataclass(frozen=True)
class Maker:
    """What made a result: the detector's title, its recipe, the version, its weights' SHA-256."""

    detector: str
    recipe: str
    version: str
    weights: str


@dataclass(frozen=True)
class Found:
    """What is sent back of a scan.

    Attributes:
        residual: (frames, rows, columns) float32, NaN where nothing is known.
        scale: The residual at which colours end.
        score: Of the scan; higher is more anomalous.
        p_value: None where no normals were held out.
        regions: The candidate regions.
        labels: Like `residual`, the number of the region that a pixel lies in, or 0.
        accepted: What readers call each region, by its number, where these are what they have
            accepted or drawn; None: candidates.
    """

    residual: NDArray[np.float32]
    scale: float
    score: float
    p_value: float | None
    regions: Sequence[Region] = ()
    labels: NDArray[np.uint16] | None = None
    accepted: Mapping[int, str] | None = None


def dicom_objects(files: Sequence[Path], found: Found, maker: Maker) -> Iterator[tuple[str, bytes]]:
    """Yield ends of names and contents of the objects: ``.pm.dcm``, ``.seg.dcm``, ``.sr.dcm``.

    A map must hold the size of a pixel: where the files don't tell it there is none, and the log
    says so. Frames that lie in no common space have a map and a segmentation each, ``#0.pm.dcm``.
    The same scan, model and result have the same UIDs each time, so that an archive knows them.

    Args:
        files: of the scan.
        found: what was found in it.
        maker: what found it.

    Raises:
        BadScan: the files' headers don't allow it.
    """
    source = read_source(files)
    if not source.has_spacing:
        log.warning(
            "%s doesn't say how large a pixel is, which a DICOM parametric map must, so none is "
            "written of it; its residual is in maps/",
            files[0],
        )
    try:
        # Its warnings and errors may quote what a file holds.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            objects = _Objects(source, found, maker).all()
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise BadScan(
            f"{files[0]} has a header that no DICOM object can be derived from "
            f"({type(error).__name__}): export it again, or leave out --dicom"
        ) from None
    for end, made in objects:
        made.update(source.owner)
        if end.endswith("pm.dcm"):
            made.Laterality = source.laterality or ""
        buffer = io.BytesIO()
        made.save_as(buffer, enforce_file_format=True)
        yield end, buffer.getvalue()


class _Objects:
    """Makes the objects of one scan, still without its patient."""

    def __init__(self, source: DicomSource, found: Found, maker: Maker):
        """Find the numbers that UIDs are made of."""
        self.source, self.found, self.maker = source, found, maker
        self.is_of_retina = source.frames[0].Modality in _OF_THE_RETINA
        digest = hashlib.sha256(np.ascontiguousarray(found.residual).data)
        if found.labels is not None:
            digest.update(np.ascontiguousarray(found.labels).data)
        names = None if found.accepted is None else sorted(found.accepted.items())
        known = (found.score, found.p_value, found.scale, found.regions, names, maker)
        instances = [frame.SOPInstanceUID for frame in source.frames]
        digest.update(repr((known, instances)).encode())
        self.digest = digest.hexdigest()

    def all(self) -> list[tuple[str, Dataset]]:
        """Return the ends of the names, and the objects."""
        source, found = self.source, self.found
        pieces: list[tuple[str, tuple[Dataset, ...], slice, int | None]] = [
            ("", source.images, slice(None), None)
        ]
        if not source.images:
            several = len(source.frames) > 1
            pieces = [
                (f"#{i}" if several else "", (frame,), slice(i, i + 1), number)
                for i, (frame, number) in enumerate(zip(source.frames, source.numbers, strict=True))
            ]
        objects: list[tuple[str, Dataset]] = []
        for instance, (end, images, piece, number) in enumerate(pieces, start=1):
            made = []
            if source.has_spacing:
                made.append((f"{end}.pm.dcm", self._map(images, piece, instance)))
            labels = None if found.labels is None else found.labels[piece]
            if labels is not None and labels.any():
                made.append((f"{end}.seg.dcm", self._segmentation(images, labels, instance)))
            if not source.images:
                for _, each in made:
                    self._set_apart(each, instance, number)
            objects += made
        return [*objects, (".sr.dcm", self._report([each for _, each in objects]))]

    def uid(self, *what: object) -> str:
        from pydicom.uid import generate_uid

        return str(generate_uid(entropy_srcs=[self.digest, *map(str, what)]))

    def _instance(self, kind: str, number: int) -> dict[str, Any]:
        regions = "candidate regions" if self.found.accepted is None else "accepted regions"
        what = {"PM": "residual", "SEG": regions, "SR": "scores"}[kind]
        return {
            "series_instance_uid": self.uid(kind),
            "series_number": _SERIES[kind],
            "series_description": f"fanogan: {what}, research use only",
            "sop_instance_uid": self.uid(kind, number),
            "instance_number": number,
            "manufacturer": "fanogan",
            "manufacturer_model_name": self.maker.detector,
            "software_versions": self.maker.version,
            "device_serial_number": self.maker.weights,
        }

    def _map(self, images: Sequence[Dataset], piece: slice, number: int) -> Dataset:
        import highdicom
        from pydicom.sr.codedict import codes

        values = np.nan_to_num(self.found.residual[piece].astype(np.float32), nan=UNKNOWN)
        mapping = highdicom.pm.RealWorldValueMapping(
            lut_label="residual",
            lut_explanation="Absolute difference to the nearest normal image, in [0, 2]",
            unit=codes.UCUM.NoUnits,
            value_range=(0.0, 2.0),
            slope=1.0,
            intercept=0.0,
        )
        made = highdicom.pm.ParametricMap(
            source_images=images,
            pixel_array=values,
            contains_recognizable_visual_features=False,
            real_world_value_mappings=[mapping],
            voi_lut_transformations=[
                highdicom.VOILUTTransformation(
                    window_center=self.found.scale / 2,
                    window_width=self.found.scale,
                    voi_lut_function="LINEAR_EXACT",
                )
            ],
            content_label="RESIDUAL",
            content_description=_RESEARCH,
            **self._instance("PM", number),
        )
        made.FloatPixelPaddingValue = made.FloatPixelPaddingRangeLimit = UNKNOWN
        return made

    def _segmentation(
        self, images: Sequence[Dataset], labels: NDArray[np.uint16], number: int
    ) -> Dataset:
        import highdicom
        from pydicom.sr.codedict import codes

        numbers = np.unique(labels[labels > 0])
        concept, accepted = highdicom.sr.CodedConcept, self.found.accepted
        names = {} if accepted is None else accepted
        segments = [
            highdicom.seg.SegmentDescription(
                segment_number=place,
                segment_label=(names.get(region) or f"Region {region}")[:64],
                segmented_property_category=concept(*_ABNORMAL),
                segmented_property_type=concept(*(_CANDIDATE if accepted is None else _ACCEPTED)),
                algorithm_type="AUTOMATIC" if accepted is None else "SEMIAUTOMATIC",
                algorithm_identification=highdicom.AlgorithmIdentificationSequence(
                    name=f"fanogan {self.maker.detector}",
                    family=codes.cid7162.ArtificialIntelligence,
                    version=self.maker.version,
                ),
                tracking_uid=self.uid("region", region),
                tracking_id=f"Region {region}",
                anatomic_regions=[concept(*_RETINA)] if self.is_of_retina else None,
            )
            for place, region in enumerate(numbers.tolist(), start=1)
        ]
        consecutive = np.searchsorted(numbers, labels) + 1
        return highdicom.seg.Segmentation(
            source_images=images,
            pixel_array=np.where(labels > 0, consecutive, 0).astype(np.uint16),
            segmentation_type="BINARY",
            segment_descriptions=segments,
            content_label="REGIONS",
            content_description=_RESEARCH,
            **self._instance("SEG", number),
        )

    def _report(self, objects: Sequence[Dataset]) -> Dataset:
        import highdicom
        from highdicom import sr
        from pydicom.uid import generate_uid

        concept, maker, found = sr.CodedConcept, self.maker, self.found
        algorithm = sr.AlgorithmIdentification(
            name=f"fanogan {maker.detector}",
            version=maker.version,
            parameters=[f"recipe {maker.recipe}", f"weights SHA-256 {maker.weights}"],
        )
        whole = sr.MeasurementsAndQualitativeEvaluations(
            tracking_identifier=sr.TrackingIdentifier(self.uid("scan"), "Scan"),
            algorithm_id=algorithm,
            measurements=[
                _number(("score", _SCHEME, "Anomaly score"), found.score),
                *(
                    [_number(("p-value", _SCHEME, "p-value, held-out normals"), found.p_value)]
                    if found.p_value is not None
                    else []
                ),
            ],
            source_images=self._references(sr.SourceImageForMeasurementGroup),
        )
        comment = sr.TextContentItem(
            name=concept("121106", "DCM", "Comment"),
            value=_RESEARCH,
            relationship_type="CONTAINS",
        )
        whole[0].ContentSequence.append(comment)
        device = sr.DeviceObserverIdentifyingAttributes(
            uid=generate_uid(entropy_srcs=[maker.weights]),
            name="fanogan",
            manufacturer_name="fanogan",
            model_name=maker.detector,
            serial_number=maker.weights,
        )
        report = sr.MeasurementReport(
            observation_context=sr.ObservationContext(
                observer_device_context=sr.ObserverContext(
                    concept("121007", "DCM", "Device"), device
                )
            ),
            procedure_reported=concept("363679005", "SCT", "Imaging procedure"),
            imaging_measurements=[
                whole,
                *(self._region(region, algorithm, objects) for region in found.regions),
            ],
        )
        sources = self.source.images or self.source.frames
        once = {each.SOPInstanceUID: each for each in sources}
        return highdicom.sr.ComprehensiveSR(
            evidence=[*once.values(), *objects],
            content=report,
            is_complete=True,
            **self._instance("SR", 1),
        )

    def _set_apart(self, made: Dataset, instance: int, number: int | None) -> None:
        """Name the frame that an object of a single one was derived from, and where it lies.

        A map must have a space (PS3.3 A.75). A frame that lies in none has one of its own, which it
        shares with its segmentation and nothing else, and so has a series of its own.
        """
        if number is not None:
            for group in made.PerFrameFunctionalGroupsSequence:
                for derivation in group.DerivationImageSequence:
                    derivation.SourceImageSequence[0].ReferencedFrameNumber = number
        if not self.source.has_place:
            made.FrameOfReferenceUID = self.uid("space", instance)
            made.SeriesInstanceUID = self.uid(made.Modality, "series", instance)
        if not self.source.has_spacing:  # of segmentations, which need none
            del made.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence

    def _region(self, region: Region, algorithm: Any, objects: Sequence[Dataset]) -> Any:
        """Return the group of a region; its segment where there is one that holds all of it.

        Else segments of the same tracking UID are in the segmentations of its frames.
        """
        from highdicom import sr

        concept, side = sr.CodedConcept, self.source.laterality
        site = sr.FindingSite(concept(*_RETINA), concept(*_SIDES[side]) if side else None)
        measured = [
            _number(("mean", _SCHEME, "Mean residual on the en-face map"), region.mean),
            _number(("peak", _SCHEME, "Peak residual on the en-face map"), region.peak),
        ]
        if region.area_mm2 is not None:
            area = ("42798000", "SCT", "Area")
            measured.insert(0, _number(area, region.area_mm2, ("mm2", "UCUM", "mm2")))
        group: dict[str, Any] = {
            "tracking_identifier": sr.TrackingIdentifier(
                self.uid("region", region.number), f"Region {region.number}"
            ),
            "finding_category": concept(*_ABNORMAL),
            "finding_type": concept(*_CANDIDATE),
            "finding_sites": [site] if self.is_of_retina else None,
            "algorithm_id": algorithm,
            "measurements": measured,
        }
        within = range(region.bscans[0], region.bscans[1] + 1)
        if not self.source.images:
            sources = self._references(sr.SourceImageForMeasurementGroup, within)
            return sr.MeasurementsAndQualitativeEvaluations(**group, source_images=sources)
        segmentation = next(each for each in objects if each.Modality == "SEG")
        segment = sr.ReferencedSegment(
            sop_class_uid=segmentation.SOPClassUID,
            sop_instance_uid=segmentation.SOPInstanceUID,
            segment_number=region.number,
            source_images=self._references(sr.SourceImageForSegmentation, within),
        )
        return sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
            **group, referenced_segment=segment
        )

    def _references(self, kind: Any, within: range | None = None) -> list[Any]:
        """Return references to the frames `within`; to all where None."""
        source = self.source
        places = range(len(source.frames)) if within is None else within
        first = source.frames[0]
        if source.numbers[0] is None:
            frames = [source.frames[place] for place in places]
            return [kind(frame.SOPClassUID, frame.SOPInstanceUID) for frame in frames]
        numbers = None if within is None else [source.numbers[place] for place in places]
        return [kind(first.SOPClassUID, first.SOPInstanceUID, numbers)]


def _number(
    name: tuple[str, str, str],
    value: float,
    unit: tuple[str, str, str] = ("1", "UCUM", "no units"),
) -> Any:
    from highdicom import sr

    concept = sr.CodedConcept
    return sr.Measurement(name=concept(*name), value=float(value), unit=concept(*unit))

"""What leaves a review: decisions as CSV and JSON, masks, and DICOM segmentations."""

from __future__ import annotations

import csv
import io
import json
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from fanogan.evaluation import without_extension
from fanogan.report import Found, Maker, dicom_objects
from fanogan.review.database import Database
from fanogan.review.fundus import plane_of
from fanogan.review.opened import Opened, member_of, opened
from fanogan.review.shapes import mask_of
from fanogan.review.standing import Standing, by_reader, final
from fanogan.scans import BadScan, as_nifti, check_source, extension
from fanogan.scoring import mask_tiff
from fanogan.text import as_cells, place_of

COLUMNS = (
    *("case", "subject", "eye", "visit", "results", "score", "reader", "what", "region"),
    *("decision", "label", "bscan", "area_mm2", "note", "at"),
)


def _cases(database: Database) -> Iterator[dict[str, Any]]:
    """Yield each case of which anything was decided, whole."""
    for row in database.rows("SELECT DISTINCT case_id FROM events ORDER BY case_id"):
        case = database.case(row["case_id"])
        assert case is not None
        yield case


def decisions_csv(database: Database, who: str | None) -> Iterator[str]:
    """Yield a table: a line for each judgement, region and note of a reader, or of all."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for case in _cases(database):
        events = database.decisions(case["id"], who)
        regions = {str(region["id"]): region for region in case["regions"]}
        for event in events:
            if event["kind"] == "fovea":
                continue
            value, region = event["value"], regions.get(event["region"], {})
            line = {
                **{"case": case["name"], "results": case["folder"], "reader": event["who"]},
                **{key: case[key] for key in ("subject", "eye", "visit", "score")},
                "what": {"draw": "drawn region"}.get(event["kind"], event["kind"]),
                "at": event["at"],
            }
            match event["kind"]:
                case "case":
                    line["decision"] = value
                case "note":
                    line["note"] = value
                case "draw":
                    line |= {"region": f"d{event['id']}", "decision": "drawn"}
                    line |= {"label": value["label"], "bscan": value["frame"]}
                case "region":
                    line |= {"decision": value["verdict"], "label": value["label"]}
                    line["region"] = region.get("number", event["region"])
                    line |= {k: region[k] for k in ("bscan", "area_mm2") if k in region}
            writer.writerow(as_cells(line))
        yield text.getvalue()
        text.seek(0)
        text.truncate()
    yield text.getvalue()


def decisions_json(database: Database, who: str | None) -> Iterator[str]:
    """Yield the same as JSON, with the shapes that were drawn and all events, undone ones too."""
    yield "[\n"
    for place, case in enumerate(_cases(database)):
        events = database.decisions(case["id"], who)
        known = {k: case[k] for k in ("name", "subject", "eye", "visit", "score", "folder")}
        standing = {reader: vars(each) for reader, each in by_reader(events).items()}
        history = database.rows(
            "SELECT id, at, who, role, kind, region, value, undoes FROM events WHERE case_id = ? "
            "AND (who = ? OR ? IS NULL) ORDER BY id",
            *(case["id"], who, who),
        )
        entry = {
            **known,
            "regions": case["regions"],
            "by_reader": standing,
            "final": vars(final(events)) if who is None else None,
            "events": [{**row, "value": json.loads(row["value"])} for row in history],
        }
        yield (",\n" if place else "") + json.dumps(entry)
    yield "\n]\n"


def _standing(database: Database, case_id: int, who: str | None) -> Standing:
    events = database.decisions(case_id, who)
    return final(events) if who is None else by_reader(events).get(who, Standing())


def labels_of(case: Opened, standing: Standing) -> tuple[NDArray[np.uint16], list[str]]:
    """Return the number of the accepted region that each pixel lies in, from 1, and their ids."""
    labels, keys = np.zeros(case.shape, np.uint16), standing.accepted
    for number, key in enumerate(keys, start=1):
        shape = standing.drawn.get(key)
        if shape is not None and shape["frame"] is not None:
            labels[shape["frame"]][mask_of(shape, case.shape[1:])] = number
        elif shape is not None:
            labels[case.below(plane_of(case, shape))] = number
        else:
            labels[case.region_volume(int(key))] = number
    return labels, keys


def masks_zip(database: Database, who: str | None) -> tuple[IO[bytes], int]:
    """Return a zip with the mask of each judged case, as `evaluate --masks` reads them.

    Of a NIfTI it is a NIfTI on the scan's own voxels, of a signal an array (1, samples), of all
    images of an array file one array, of all else a TIFF of 8 bits, 255 where accepted. A case that
    was judged and has no accepted region has a mask of zeros. What can have no mask is named in
    `left_out.txt`.

    Returns:
        The file, and how many masks it holds.
    """
    left_out, arrays = list[str](), dict[tuple[str, str], dict[int, NDArray[np.bool_]]]()
    file = tempfile.TemporaryFile()  # noqa: SIM115 -- closed once it has been sent
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:

        def add(case: str, place: str, data: bytes) -> None:
            if place in packed.NameToInfo:
                left_out.append(f"{case}: another case has a mask of this name")
            else:
                packed.writestr(place, data)

        for case in _cases(database):
            standing = _standing(database, case["id"], who)
            if standing.judgement is None and not standing.accepted:
                continue
            here, (name, number) = opened(case), member_of(case)
            mask = _span_mask(here, standing) if here.is_signal else None
            if here.shape == (1, 1, 1) and mask is None:
                left_out.append(f"{case['name']}: {here.problem or 'these results hold no map'}")
                continue
            if mask is None:
                mask = labels_of(here, standing)[0] > 0
                mask = mask[0] if len(mask) == 1 else mask
            if name != case["name"]:
                arrays.setdefault((case["folder"], name), {})[number] = mask
            elif here.is_signal:
                add(name, place_of(without_extension(name), ".npy"), _npy(mask))
            else:
                add(name, *_mask_file(here, mask))
        for (folder, name), masks in arrays.items():
            count = database.members(folder, name)
            if sorted(masks) != [*range(count)]:
                left_out.append(
                    f"{name}: {len(masks):,} of its {count:,} images are judged; their mask is one "
                    "array, of all"
                )
            else:
                stack = np.stack([masks[number] for number in sorted(masks)])
                add(name, place_of(without_extension(name), ".npy"), _npy(stack))
        count = len(packed.namelist())
        if left_out:
            packed.writestr("left_out.txt", "\n".join(left_out) + "\n")
    file.seek(0)
    return file, count


def _span_mask(case: Opened, standing: Standing) -> NDArray[np.bool_] | None:
    """Return the accepted spans of a signal, (1, samples); None where its map isn't kept."""
    path = case.folder / "maps" / place_of(case.case["name"], ".npy")
    if not path.exists():
        return None
    mask = np.zeros((1, len(np.load(path, mmap_mode="r"))), dtype=np.bool_)
    for region in case.case["regions"]:
        if str(region["id"]) in standing.accepted:
            mask[:, int(region["first_sample"]) : int(region["last_sample"]) + 1] = True
    return mask


def _npy(mask: NDArray[np.bool_]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, mask.astype(np.uint8))
    return buffer.getvalue()


def _mask_file(case: Opened, mask: NDArray[np.bool_]) -> tuple[str, bytes]:
    name = without_extension(case.case["name"])
    files = case.case["scan"].get("files") or [""]
    if extension(files[0]) in (".nii", ".nii.gz", ".hdr") and case.scan is not None:
        values = mask.reshape(case.shape).astype(np.uint8)
        data = as_nifti(values, case.spacing, case.scan.affine, rows_first=True)
        return place_of(name, ".nii.gz"), bytes(data)
    return place_of(name, ".tif"), mask_tiff(mask, case.spacing)


def dicom_zip(database: Database, who: str | None) -> tuple[IO[bytes], int]:
    """Return a zip with a DICOM segmentation of the accepted regions of each case of DICOM files.

    Segments are named after their labels. Cases of other files are left out, and named. Unpacked,
    it is a folder that `fanogan send` takes.

    Returns:
        The file, and how many segmentations it holds.
    """
    left_out, count = list[str](), 0
    file = tempfile.TemporaryFile()  # noqa: SIM115 -- closed once it has been sent
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
        for case in _cases(database):
            standing = _standing(database, case["id"], who)
            if not standing.accepted:
                continue
            here = opened(case)
            try:
                for place, data in _segmentations(here, standing):
                    packed.writestr(f"dicom/{place}", data)
                    count += 1
            except BadScan as error:
                left_out.append(f"{case['name']}: {error}")
        if left_out:
            packed.writestr("left_out.txt", "\n".join(left_out) + "\n")
    file.seek(0)
    return file, count


def _segmentations(case: Opened, standing: Standing) -> Iterator[tuple[str, bytes]]:
    files = [Path(path) for path in case.case["scan"].get("files", ())]
    if case.scan is None or not files:
        raise BadScan(case.problem or "no scan")
    if "maker" not in case.about:
        raise BadScan("its results don't say which model made them: score the scan again")
    check_source(files)
    labels, keys = labels_of(case, standing)
    known = {str(number): region for number, region in case.regions}
    regions = [
        replace(known[key], number=number)
        for number, key in enumerate(keys, start=1)
        if key in known
    ]
    residual = [case.residual(frame) for frame in range(case.shape[0])]
    found = Found(
        np.stack([np.zeros(case.shape[1:], np.float32) if r is None else r for r in residual]),
        case.about["scale"],
        case.case["score"],
        case.case["p_value"],
        regions,
        labels,
        {number: standing.regions[key]["label"] for number, key in enumerate(keys, start=1)},
    )
    maker = Maker(**case.about["maker"])
    for end, data in dicom_objects(files, found, maker):
        if end.endswith("seg.dcm"):
            yield place_of(case.case["name"], end), data

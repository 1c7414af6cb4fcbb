"""Calibration: the held-out normals, scored as everything else is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fanogan.calibration import (
    EN_FACE_QUANTILE,
    MAP_QUANTILE,
    Calibration,
    Combination,
    HeldOut,
    Reference,
    ResidualHistogram,
    TermScale,
)
from fanogan.data import Seen
from fanogan.scans import BadScan, Scan
from fanogan.scoring.frames import score_frames
from fanogan.scoring.model import Model
from fanogan.scoring.pipeline import encode, score_encoded
from fanogan.scoring.result import Result


def calibrate(
    model: Model,
    held_out: Sequence[Scan],
    on_result: Callable[[Result], None] = lambda result: None,
) -> Model:
    """Return the model with what held-out normals say about its scores and maps.

    Subjects are numbered: a name may be a patient's. ``on_result`` is called after each image or
    volume.
    """
    if model.recipe.standardise_terms:
        scale = _term_scale(model, held_out)
        model = model.but(calibration=Calibration({}, map_scale=2.0, term_scale=scale))
    residuals, en_face = ResidualHistogram(), ResidualHistogram()
    scores: dict[str, list[float]] = {}
    shapes: dict[str, list[float]] = {}
    groups: dict[str, list[str]] = {}
    numbers: dict[str, str] = {}
    measures: list[tuple[float, ...]] = []
    has_en_face = False
    for batch in score_encoded(model, encode(model, held_out)):
        for result in batch:
            on_result(result)
            number = numbers.setdefault(result.group, f"subject {len(numbers) + 1}")
            totals = {result.unit: [result.total]}
            if result.unit == "image":
                measures.append(result.measures)
            if result.patches is not None:
                totals["patch"] = result.patches[:, 2].tolist()
            for unit, values in totals.items():
                scores.setdefault(unit, []).extend(values)
                groups.setdefault(unit, []).extend([number] * len(values))
            if result.shape is not None:
                shapes.setdefault(result.unit, []).append(result.shape)
            if result.residual is None:
                continue
            residual = result.residual
            # Slice by slice, as a volume may not fit into memory.
            for part in residual if residual.ndim == 3 else residual[None]:
                residuals.update(part[np.isfinite(part)])
            if result.volume is not None:
                has_en_face = True
                line = result.volume.en_face_line(result.frame, result.residual)
                en_face.update(line[np.isfinite(line)])
            elif result.smoothed is not None:
                has_en_face = True
                for part in np.atleast_2d(result.smoothed):
                    en_face.update(part)
    combination = None
    if shapes:
        positive = model.averages_pixels and not model.recipe.standardise_terms
        combination = Combination.of(scores["image"], shapes["image"], positive)

    def held_out_of(values: dict[str, Any]) -> dict[str, HeldOut]:
        return {unit: HeldOut(np.array(of), tuple(groups[unit])) for unit, of in values.items()}

    combined = {}
    if combination:
        combined = {unit: combination(scores[unit], of) for unit, of in shapes.items()}
    return model.but(
        calibration=Calibration(
            held_out_of(dict(sorted(scores.items()))),
            residuals.quantile(MAP_QUANTILE),
            (en_face.quantile(0.5), en_face.quantile(EN_FACE_QUANTILE)) if has_en_face else None,
            model.calibration.term_scale,
            held_out_of(shapes),
            held_out_of(combined),
            combination,
            Reference.of(measures, groups["image"]),
        )
    )


def _term_scale(model: Model, held_out: Sequence[Scan]) -> TermScale:
    """Means and standard deviations of A_R and A_D over all windows of held-out normals."""
    terms = np.concatenate(
        [frame.terms for scan in encode(model, held_out) for frame in score_frames(model, scan)]
    )
    spreads = np.maximum(terms.std(0), 1e-12)
    return tuple(terms.mean(0).tolist()), tuple(spreads.tolist())


def recalibrate(model: Model, normals: Sequence[Scan]) -> Model:
    """Return the model calibrated with other normals, in place of those that fit held out.

    Raises:
        BadScan: the model was trained on one of them, or can't take it.
    """
    hashes: list[int] = []
    for encoded in encode(model, normals):
        notes = model.seen.note(encoded.hashes) if model.seen else None
        if notes and notes.trained:
            raise BadScan(
                f"{encoded.scan.name}: the model was trained on it, so that it says nothing of new "
                "normals; give others"
            )
        hashes.extend(encoded.hashes)
    groups = [scan.group for scan in normals]
    counts = {
        "held_out_images": sum(len(scan.pixels) for scan in normals),
        "held_out_subjects": len(set(groups)),
    }
    fingerprint = {**model.provenance["fingerprint"], **counts}
    seen = model.seen and Seen(model.seen.trained, np.unique(np.array(hashes, dtype=np.uint64)))
    others = {
        name: calibrate(model.but(precision=name), normals).calibration for name in model.others
    }
    return calibrate(model, normals).but(
        provenance={**model.provenance, "fingerprint": fingerprint}, seen=seen, others=others
    )

"""The self-contained HTML page of scores, or of an evaluation.

A page holds its pictures and figures inside itself, loads nothing, and can be mailed, printed and
opened without a network.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fanogan.report.curves import Curves, draw_curves
from fanogan.report.en_face import VolumeCase
from fanogan.report.figures import evaluation_figures, score_figures
from fanogan.report.images import (
    as_uri,
    compressed_uri,
    data_uri,
    outline,
    overlay,
    scale_bar,
    with_strip,
)
from fanogan.report.verdict import alarms, interval, lead, noun_of
from fanogan.report.volume_view import volume_panels
from fanogan.report.wording import least_p_value, p_value_text
from fanogan.storage import write_whole
from fanogan.text import counted, harmless, number, percent, plural, share

if TYPE_CHECKING:
    from jinja2 import Environment

PIXELATED_SIDE = 128  # px; a smaller picture is shown with visible pixels
OUTLINE_SIDE = 256  # px; a smaller overlay is enlarged, which keeps the outline of a mask thin


@dataclass(frozen=True)
class Case:
    """One scored image as the gallery shows it.

    Attributes:
        name: Path of the image relative to the searched folder.
        score: Anomaly score A = A_R + kappa * A_D; higher is more anomalous.
        image_residual: The term A_R.
        feature_residual: The term A_D.
        p_value: Conformal p-value against the held-out normals, in (0, 1], or None without them.
        flag: Whether the score lies above the calibrated threshold; None with too few held out.
        label: 1 anomalous, 0 normal, None unknown.
        warnings: Sentences about this image.
        size: Rows and columns of the image, from which what follows was shrunk by `shrink`.
        picture: (rows, columns) or (rows, columns, 3), uint8.
        reconstruction: Like picture, or None.
        residual: (rows, columns) float32, raw abs(x - x_hat) in network units, [0, 2], or None.
        mask: (rows, columns) bool, ground truth, or None.
        flat: (flat rows, columns) uint8, a B-scan flattened, as the networks see it, or None.
        held_out_subjects: Of how many subjects the held-out normals are.
        shape_line: (columns of the scan,) as `ShapeNormals.lines`, or None.
        curves: Of a signal, what is drawn in the place of pictures.
        place: Which slice of a volume the pictures show; '' of an image.
    """

    name: str
    score: float
    image_residual: float
    feature_residual: float
    p_value: float | None
    flag: bool | None
    label: int | None
    warnings: tuple[str, ...]
    size: tuple[int, int]
    picture: np.ndarray
    reconstruction: np.ndarray | None
    residual: np.ndarray | None
    mask: np.ndarray | None
    flat: np.ndarray | None = None
    held_out_subjects: int = 0
    shape_line: np.ndarray | None = None
    curves: Curves | None = None
    place: str = ""


def write_score_report(
    path: Path,
    *,
    noun: str = "image",
    title: str,
    model: Mapping[str, str],
    scale: float,
    statement: str,
    cases: Sequence[Case],
    total: int,
    scores: np.ndarray,
    held_out: np.ndarray,
    volumes: Sequence[Mapping[str, Any]] = (),
    volume_cases: Sequence[VolumeCase] = (),
    steps: bytes | None = None,
    warnings: Sequence[str] = (),
) -> None:
    """Write the page of a scored folder, whole or not at all.

    Args:
        path: The HTML file.
        noun: What one of the images is called.
        title: Heading of the page.
        model: Names and values that describe the model.
        scale: Colour scale of residuals, in network units, from the held-out normals.
        statement: The sentence that says what the calibration allows to claim.
        cases: Images for the gallery, in any order; the page says whether they are the highest.
        total: How many images were scored.
        scores: (total,) their scores.
        held_out: (n,) scores of the held-out normals; may be empty.
        volumes: Rows of the table of volumes; their keys are its columns.
        volume_cases: Volumes to leaf through, in the order of the page.
        steps: PNG of the preprocessing steps on one of the scans.
        warnings: Sentences about the whole run.

    Raises:
        ValueError: A picture, residual or mask doesn't fit the others.
        OSError: The file can't be written.
    """
    of_volumes = f" of {counted(len(volumes), 'volume')}" if volume_cases and volumes else ""
    which = f"volumes and which {plural(noun)}" if of_volumes else plural(noun)
    _write_page(
        path,
        title=title,
        kind="Anomaly scores",
        model=model,
        scale=scale,
        statement=statement,
        gallery=_gallery(cases, scale, noun, scores, len(held_out)),
        figures=score_figures(scores, held_out, noun),
        volume_cases=volume_cases,
        volumes=volumes,
        steps=steps,
        warnings=warnings,
        lead=[
            f"{counted(total, noun)}{of_volumes} scored.",
            f"Scores say which {which} are unlike the normals, maps where in them.",
        ],
        alarms=[],
        evaluation=None,
        credit="",
    )


def write_evaluation_report(
    path: Path,
    *,
    title: str,
    model: Mapping[str, str],
    scale: float,
    statement: str,
    cases: Sequence[Case],
    total: int,
    evaluation: Mapping[str, Any],
    scores: np.ndarray,
    labels: np.ndarray,
    held_out: np.ndarray,
    volume_cases: Sequence[VolumeCase] = (),
    steps: bytes | None = None,
    warnings: Sequence[str] = (),
    credit: str = "",
) -> None:
    """Write the page of an evaluation on labelled images, whole or not at all.

    Arguments and errors are those of `write_score_report`; besides, `evaluation` is what
    `metrics.json` holds, `labels` are (total,) 1 anomalous, 0 normal, and `credit` says whose the
    images are.
    """
    unit: str = evaluation["unit"]
    if unit == "patch":  # Patches are cut from B-scans, and those are what the gallery shows.
        gallery = _gallery(cases, scale, "B-scan", None, None)
    else:
        gallery = _gallery(cases, scale, noun_of(evaluation), scores, len(held_out))
    _write_page(
        path,
        title=title,
        kind="Evaluation",
        model=model,
        scale=scale,
        statement=statement,
        gallery=gallery,
        figures=evaluation_figures(evaluation, scores, labels),
        volume_cases=volume_cases,
        volumes=[],
        steps=steps,
        warnings=warnings,
        lead=lead(evaluation),
        alarms=alarms(evaluation),
        evaluation=evaluation,
        credit=credit,
    )


def _write_page(
    path: Path,
    *,
    scale: float,
    volume_cases: Sequence[VolumeCase],
    volumes: Sequence[Mapping[str, Any]],
    steps: bytes | None,
    **content: Any,
) -> None:
    panels = volume_panels(volume_cases, scale)
    table: Sequence[Mapping[str, Any]] = volumes or [
        {"name": case.name, "score": case.score, "p_value": case.p_value, "flag": case.flag}
        for case in volume_cases
    ]
    extent = f"{len(panels):,} of {len(table):,} are shown with their B-scans; "
    keys = list(dict.fromkeys(key for row in table for key in row))
    texts = [key for key in keys if any(isinstance(row.get(key), str) for row in table)]
    page = page_from(
        "report.html",
        scale=number(scale),
        scale_bar=data_uri(scale_bar(scale)),
        panels=panels,
        panels_extent=f"{extent}all are in the table below" if len(panels) < len(table) else "",
        volumes={"keys": keys, "texts": texts, "rows": table} if table else None,
        steps=None if steps is None else as_uri(steps),
        **content,
    )
    write_whole(Path(path), page)


def page_from(template: str, **content: Any) -> bytes:
    """Return a page from one of the templates, in which no text is taken for markup."""
    return _environment().get_template(template).render(content).encode("utf-8")


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("fanogan.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: harmless(value) if type(value) is str else value,  # no markup
    )
    environment.filters.update(
        number=number,
        share=share,
        percent=percent,
        pixel_numbers=_pixel_numbers,
        interval=interval,
        cell=_cell,
        p_value=_p_value,
        signed=lambda value: "–" if value is None else f"{value:+.2f}".replace("-", "−"),
        words=_words,
        counted=counted,
    )
    return environment


def _p_value(case: Case | VolumeCase, n_held_out: int | None = None) -> str:
    if case.p_value is None:
        return ""
    of_held_out = "" if n_held_out is None else f" (n = {n_held_out:,})"
    least = least_p_value(case.p_value, case.held_out_subjects)
    return f"{least or f'p = {p_value_text(case.p_value)}'}{of_held_out}"


def _words(key: str) -> str:
    return {"p_value": "p", "f_score": "F-score"}.get(key, key.replace("_", " "))


def _cell(value: object, key: str = "") -> str:
    """Write a value of a table whose columns the caller chose."""
    match value:
        case None:
            return "–"
        case bool() | np.bool_():
            return "yes" if value else "no"
        case int() | np.integer():
            return f"{value:,}"
        case float() | np.floating():
            return p_value_text(float(value)) if key == "p_value" else number(float(value))
        case Iterable() if not isinstance(value, str):
            return "; ".join(_cell(entry) for entry in value)
    return str(value)


def _pixel_numbers(pixel: Mapping[str, Any], unit: str) -> dict[str, str]:
    """Return names and texts of the pixel-level numbers but Youden's, groups of them laid flat."""
    names = {
        "auc": f"{unit} AUC",
        **{name: f"{unit} AUC of {name}, a trivial map" for name in pixel["trivial"]},
        "dice": "Dice",
        "mean_dice": "mean Dice",
        "iou": "IoU",
        "prevalence": f"anomalous {unit}s",
        "lesion_sensitivity": "share of lesions detected",
        "threshold": "threshold of the map",
    }
    texts = {"prevalence": percent, "threshold": number, "false_regions_per_image": number}
    groups = [value for key, value in pixel.items() if key != "youden" and isinstance(value, dict)]
    plain = {key: value for key, value in pixel.items() if not isinstance(value, dict)}
    return {
        names.get(key, _words(key)): texts.get(key, share)(value)
        if isinstance(value, float)
        else _cell(value)
        for group in [plain, *groups]
        for key, value in group.items()
    }


def _gallery(
    cases: Sequence[Case],
    scale: float,
    noun: str,
    scores: np.ndarray | None,
    n_held_out: int | None,
) -> dict[str, Any]:
    """Return a gallery of cases, and which of the scored images they are where those are given."""
    ordered = sorted(cases, key=lambda case: -case.score)
    shown = [case.score for case in ordered]
    if scores is None:
        extent = counted(len(shown), noun)
    elif len(shown) == len(scores):
        extent = f"the only {noun}" if len(scores) == 1 else f"all {len(scores):,} {plural(noun)}"
    elif np.allclose(shown, np.sort(scores)[::-1][: len(shown)], rtol=1e-9, atol=0):
        extent = f"the {len(shown):,} highest of {len(scores):,}"
    else:
        extent = f"{len(shown):,} of {counted(len(scores), noun)}"
    return {
        "heading": f"{noun[0].upper()}{plural(noun)[1:]}",
        "extent": extent,
        "nouns": plural(noun),
        "curves": any(case.curves is not None for case in ordered),
        "cards": [_card(case, scale, n_held_out) for case in ordered],
        "flagged": sum(case.flag is True for case in ordered),
        "warned": sum(bool(case.warnings) for case in ordered),
    }


def _card(case: Case, scale: float, n_held_out: int | None) -> dict[str, Any]:
    rows, columns = case.size
    if case.curves is not None:
        alt = f"{case.name}, its nearest normal version, and their difference as curves"
        caption = f"{columns:,} samples: signal, nearest normal version, and what differs"
        drawn = draw_curves(case.curves)
        shown = {"caption": caption, "alt": alt, "uri": data_uri(drawn), "shape": drawn.shape}
        p = _p_value(case, n_held_out)
        return {"case": case, "p": p, "pixelated": False, "pictures": [shown]}
    caption = f"{case.place or 'image'} {rows} × {columns}"
    pictures = [(caption, f"image {case.name}", case.picture)]
    if case.reconstruction is not None:
        pictures.append(("reconstruction", f"reconstruction of {case.name}", case.reconstruction))
    if case.residual is not None:
        marked = "" if case.mask is None else ", ground truth outlined"
        alt = f"residual of {case.name} in colour over the image{marked}"
        drawn, caption = _marked_overlay(case, case.residual, scale), "residual"
        if case.shape_line is not None:
            drawn, caption = with_strip(drawn, case.shape_line), "residual, shape below"
        pictures.append((caption, alt, drawn))
    if case.flat is not None:
        pictures.append(("flattened, as the networks see it", f"{case.name} flattened", case.flat))
    pixelated = max(rows, columns) < PIXELATED_SIDE
    # Speckle as PNG makes a page of sixty B-scans 50 MB large.
    encode = data_uri if pixelated else compressed_uri
    return {
        "case": case,
        "p": _p_value(case, n_held_out),
        "pixelated": pixelated,
        "pictures": [
            {"caption": caption, "alt": alt, "uri": encode(pixels), "shape": pixels.shape}
            for caption, alt, pixels in pictures
        ],
    }


def _marked_overlay(case: Case, residual: np.ndarray, scale: float) -> np.ndarray:
    size = case.picture.shape[:2]
    for name, array in (("residual", residual), ("mask", case.mask)):
        if array is not None and array.shape != size:
            raise ValueError(
                f"{case.name}: the {name}'s shape {array.shape} isn't the image's, {size}."
            )
    layer = overlay(case.picture, residual, scale)
    if case.mask is None:
        return layer
    factor = max(1, OUTLINE_SIDE // max(layer.shape[:2]))
    layer, mask = (one.repeat(factor, axis=0).repeat(factor, axis=1) for one in (layer, case.mask))
    return outline(layer, mask)

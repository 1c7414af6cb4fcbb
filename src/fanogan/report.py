"""What a person sees: one self-contained HTML page of scores, or of an evaluation.

A page holds its pictures and figures inside itself, loads nothing, and can be mailed, printed and
opened without a network. Colours of residuals mean the same on every page of a model, because their
scale comes from the held-out normals and never from the picture that is shown.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fanogan.figures import evaluation_figures, number, percent, score_figures, share
from fanogan.folders import write_whole

PAGE_SIDE = 512  # px; a larger picture is downsampled for the page
PIXELATED_SIDE = 128  # px; a smaller picture is shown with visible pixels
OUTLINE_SIDE = 256  # px; a smaller overlay is enlarged first, to keep the contour of a mask thin
OUTLINE_COLOUR = (0, 229, 255)  # cyan: absent from grey pictures and from the colours of residuals
STRONGEST_ALPHA = 0.85  # some anatomy stays visible under the strongest residual
COLOUR_RANGE = (0.3, 0.95)  # of 'inferno': its darkest part would look like a shadow in the picture


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
        warnings: Sentences about this image, such as a size outside the training normals.
        picture: (rows, columns) or (rows, columns, 3), uint8.
        reconstruction: Like picture, or None.
        residual: (rows, columns) float32, raw abs(x - x_hat) in network units, [0, 2], or None.
        mask: (rows, columns) bool, ground truth, or None.
    """

    name: str
    score: float
    image_residual: float
    feature_residual: float
    p_value: float | None
    flag: bool | None
    label: int | None
    warnings: tuple[str, ...]
    picture: np.ndarray
    reconstruction: np.ndarray | None
    residual: np.ndarray | None
    mask: np.ndarray | None


def overlay(picture: np.ndarray, residual: np.ndarray, scale: float) -> np.ndarray:
    """Lay a residual as a layer of colour over a picture.

    Args:
        picture: (rows, columns) or (rows, columns, 3), uint8.
        residual: (rows, columns), abs(x - x_hat) in network units, [0, 2].
        scale: The residual, in the same units, at which colour and opacity are strongest. Fixed by
            the held-out normals, so that one residual has one colour in all pictures of a model.

    Returns:
        (rows, columns, 3) uint8. Where the residual is 0 the picture is unchanged.

    Raises:
        ValueError: The shapes differ, the picture isn't uint8 grey or RGB, or the scale is negative
            or not finite.
    """
    if not (math.isfinite(scale) and scale >= 0):
        raise ValueError(
            f"The colour scale of residuals must be finite and not negative, but it is {scale}."
        )
    base = _as_rgb(picture)
    if residual.shape != base.shape[:2]:
        raise ValueError(
            f"A residual of shape {residual.shape} doesn't fit a picture of {base.shape[:2]}."
        )
    # Normals that are reconstructed exactly give scale 0: any residual is then at the strongest.
    level = np.clip(residual / max(scale, 1e-12), 0, 1).astype(np.float32)
    colour = _residual_colours()[np.rint(level * 255).astype(np.intp)]
    alpha = STRONGEST_ALPHA * level[..., np.newaxis]
    return np.asarray(np.rint(base + alpha * (colour - base)), dtype=np.uint8)


def outline(picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Draw the inner edge of a mask, one pixel wide, on a picture.

    Args:
        picture: (rows, columns) or (rows, columns, 3), uint8.
        mask: (rows, columns) bool.

    Returns:
        (rows, columns, 3) uint8.

    Raises:
        ValueError: The shapes differ, or the picture isn't uint8 grey or RGB.
    """
    drawn = _as_rgb(picture)
    if mask.shape != drawn.shape[:2]:
        raise ValueError(
            f"A mask of shape {mask.shape} doesn't fit a picture of {drawn.shape[:2]}."
        )
    inside = np.pad(mask.astype(bool), 1)
    surrounded = inside[:-2, 1:-1] & inside[2:, 1:-1] & inside[1:-1, :-2] & inside[1:-1, 2:]
    drawn[inside[1:-1, 1:-1] & ~surrounded] = OUTLINE_COLOUR
    return drawn


def write_score_report(
    path: Path,
    *,
    title: str,
    model: Mapping[str, str],
    scale: float,
    statement: str,
    cases: Sequence[Case],
    total: int,
    scores: np.ndarray,
    held_out: np.ndarray,
    volumes: Sequence[Mapping[str, Any]] = (),
    warnings: Sequence[str] = (),
) -> None:
    """Write the page of a scored folder, whole or not at all.

    Args:
        path: The HTML file.
        title: Heading of the page.
        model: Facts about the model, name to value.
        scale: Colour scale of residuals, in network units, from the held-out normals.
        statement: The sentence that says what the calibration allows to claim.
        cases: Images for the gallery, any order; the page says whether they are the highest.
        total: How many images were scored.
        scores: (total,) their scores.
        held_out: (n,) scores of the held-out normals; may be empty.
        volumes: Rows of the table of volumes; their keys are its columns.
        warnings: Sentences about the whole run.

    Raises:
        ValueError: A picture, residual or mask doesn't fit the others.
        OSError: The file can't be written.
    """
    _write_page(
        path,
        title=title,
        kind="Anomaly scores",
        model=model,
        scale=scale,
        statement=statement,
        gallery=_gallery(cases, scores, total, scale, len(held_out)),
        figures=score_figures(scores, held_out),
        volumes=_table(volumes),
        warnings=warnings,
        lead=f"{_count(total, 'image')} scored.",
        alarms=[],
        evaluation=None,
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
    warnings: Sequence[str] = (),
) -> None:
    """Write the page of an evaluation on labelled images, whole or not at all.

    Args:
        path: The HTML file.
        title: Heading of the page.
        model: Facts about the model, name to value.
        scale: Colour scale of residuals, in network units, from the held-out normals.
        statement: The sentence that says what the calibration allows to claim.
        cases: Images for the gallery, any order; the page says whether they are the highest.
        total: How many images were scored.
        evaluation: What `metrics.json` holds: rows (the method first), calibrated,
            pixel, roc, pixel_roc.
        scores: (total,) scores.
        labels: (total,) 1 anomalous, 0 normal.
        held_out: (n,) scores of the held-out normals; may be empty.
        warnings: Sentences about the whole run.

    Raises:
        ValueError: A picture, residual or mask doesn't fit the others.
        OSError: The file can't be written.
    """
    _write_page(
        path,
        title=title,
        kind="Evaluation",
        model=model,
        scale=scale,
        statement=statement,
        gallery=_gallery(cases, scores, total, scale, len(held_out)),
        figures=evaluation_figures(evaluation, scores, labels),
        volumes=None,
        warnings=warnings,
        lead=_lead(evaluation),
        alarms=_alarms(evaluation),
        evaluation=evaluation,
    )


def _write_page(path: Path, *, scale: float, **content: Any) -> None:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(
        number=number,
        share=share,
        percent=percent,
        pixel_facts=_pixel_facts,
        interval=_interval,
        cell=_cell,
        words=_words,
    )
    source = files("fanogan").joinpath("templates", "report.html").read_text(encoding="utf-8")
    page = environment.from_string(source).render(
        scale=number(scale), scale_bar=_data_uri(_scale_bar(scale)), **content
    )
    write_whole(Path(path), page.encode("utf-8"))


# ---------------------------------------------------------------- what the numbers say


def _lead(evaluation: Mapping[str, Any]) -> str:
    method, n, subjects = evaluation["rows"][0], evaluation["n"], evaluation["n_subjects"]
    # Without groups each image counts as a subject of its own, which says nothing about people.
    of_subjects = f" of {_count(subjects, 'subject')}" if subjects < n else ""
    return (
        f"{method['name']} reaches AUC {share(method['auc'])} "
        f"(95 % interval {_interval(method['auc_interval'])}) on "
        f"{_count(n, evaluation['unit'])}{of_subjects}; {evaluation['n_anomalous']:,} "
        f"({percent(evaluation['prevalence'])}) are anomalous."
    )


def _best_honest(evaluation: Mapping[str, Any]) -> Mapping[str, Any] | None:
    honest = [row for row in evaluation["rows"] if row["kind"] == "honest"]
    return max(honest, key=lambda row: float(row["auc"]), default=None)


def _alarms(evaluation: Mapping[str, Any]) -> list[str]:
    """Sentences not to be missed: a trivial score is better, or chance is."""
    method, best, pixel = evaluation["rows"][0], _best_honest(evaluation), evaluation["pixel"]
    alarms = []
    if best is not None and best["auc"] > method["auc"]:
        alarms.append(
            f"A trivial score does better: {best['name']} reaches AUC {share(best['auc'])}, "
            f"{method['name']} {share(method['auc'])}."
        )
    if method["auc"] < 0.5:
        alarms.append(
            f"The AUC is below 0.5 ({share(method['auc'])}): normal {evaluation['unit']}s are "
            "mostly scored as more anomalous than the anomalous ones."
        )
    if pixel and pixel["darkness_auc"] > pixel["auc"]:
        alarms.append(
            "A trivial map does better: darkness reaches pixel AUC "
            f"{share(pixel['darkness_auc'])}, the residual {share(pixel['auc'])}."
        )
    return alarms


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def _interval(bounds: Sequence[float] | None) -> str:
    return "–" if bounds is None else f"{share(bounds[0])} to {share(bounds[1])}"


def _p_value(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else f"{value:.2g}"


def _words(key: str) -> str:
    return {"p_value": "p", "f_score": "F-score"}.get(key, key.replace("_", " "))


def _cell(value: object, key: str = "") -> str:
    """Text of a value in a table whose columns the caller chose."""
    match value:
        case None:
            return "–"
        case bool() | np.bool_():
            return "yes" if value else "no"
        case int() | np.integer():
            return f"{value:,}"
        case float() | np.floating():
            return _p_value(float(value)) if key == "p_value" else number(float(value))
        case str():
            return value
        case Iterable():
            return "; ".join(_cell(entry) for entry in value)
    return str(value)


def _pixel_facts(pixel: Mapping[str, Any]) -> dict[str, str]:
    """Names and texts of the pixel-level numbers but Youden's, groups of them laid flat."""
    names = {
        "auc": "pixel AUC",
        "darkness_auc": "pixel AUC of darkness, a trivial map",
        "dice": "Dice",
        "iou": "IoU",
        "prevalence": "anomalous pixels",
        "lesion_sensitivity": "share of lesions found",
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


def _table(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    keys = list(dict.fromkeys(key for row in rows for key in row))
    texts = [key for key in keys if any(isinstance(row.get(key), str) for row in rows)]
    return {"keys": keys, "texts": texts, "rows": rows} if rows else None


# ---------------------------------------------------------------- pictures


def _gallery(
    cases: Sequence[Case], scores: np.ndarray, total: int, scale: float, n_held_out: int
) -> dict[str, Any]:
    ordered = sorted(cases, key=lambda case: -case.score)
    return {
        "extent": _extent([case.score for case in ordered], scores, total),
        "cards": [_card(case, scale, n_held_out) for case in ordered],
        "flagged": sum(case.flag is True for case in ordered),
        "warned": sum(bool(case.warnings) for case in ordered),
    }


def _extent(shown: Sequence[float], scores: np.ndarray, total: int) -> str:
    """Which images a gallery holds: its scores, falling, beside those of all images."""
    if len(shown) == total:
        return "the only image" if total == 1 else f"all {total:,} images"
    highest = np.sort(scores)[::-1][: len(shown)]
    if np.allclose(shown, highest, rtol=1e-9, atol=0):
        return f"the {len(shown):,} highest of {total:,}"
    return f"{len(shown):,} of {_count(total, 'image')}"


def _card(case: Case, scale: float, n_held_out: int) -> dict[str, Any]:
    rows, columns = case.picture.shape[:2]
    pictures = [(f"image {rows} × {columns}", f"image {case.name}", _shrink(case.picture))]
    if case.reconstruction is not None:
        pictures.append(
            ("reconstruction", f"reconstruction of {case.name}", _shrink(case.reconstruction))
        )
    if case.residual is not None:
        marked = "" if case.mask is None else ", ground truth outlined"
        layer = _marked_overlay(case, case.residual, scale)
        pictures.append(
            ("residual", f"residual of {case.name} in colour over the image{marked}", layer)
        )
    return {
        "case": case,
        "p": None if case.p_value is None else f"p = {_p_value(case.p_value)} (n = {n_held_out:,})",
        "pixelated": max(rows, columns) < PIXELATED_SIDE,
        "pictures": [
            {"caption": caption, "alt": alt, "uri": _data_uri(pixels), "shape": pixels.shape}
            for caption, alt, pixels in pictures
        ],
    }


def _marked_overlay(case: Case, residual: np.ndarray, scale: float) -> np.ndarray:
    # Checked on the full size first: after shrinking, an array of another shape could seem to fit.
    if residual.shape != case.picture.shape[:2]:
        raise ValueError(
            f"{case.name}: the residual's shape {residual.shape} isn't the image's, "
            f"{case.picture.shape[:2]}."
        )
    layer = overlay(_shrink(case.picture), _shrink(residual.astype(np.float32)), scale)
    if case.mask is None:
        return layer
    if case.mask.shape != case.picture.shape[:2]:
        raise ValueError(
            f"{case.name}: the mask's shape {case.mask.shape} isn't the image's, "
            f"{case.picture.shape[:2]}; give a mask of the image's size."
        )
    mask = _shrink(case.mask.astype(np.float32)) > 0
    factor = max(1, OUTLINE_SIDE // max(layer.shape[:2]))
    enlarged = [array.repeat(factor, axis=0).repeat(factor, axis=1) for array in (layer, mask)]
    return outline(enlarged[0], enlarged[1])


def _shrink(pixels: np.ndarray) -> np.ndarray:
    """Downsample a uint8 picture or float32 map that is larger than `PAGE_SIDE` on a side."""
    rows, columns = pixels.shape[:2]
    factor = PAGE_SIDE / max(rows, columns)
    if factor >= 1:
        return pixels
    size = (max(1, round(columns * factor)), max(1, round(rows * factor)))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX))


def _as_rgb(picture: np.ndarray) -> np.ndarray:
    """A new (rows, columns, 3) uint8 array of a grey or RGB picture."""
    grey = picture.ndim == 2
    if picture.dtype != np.uint8 or not (grey or (picture.ndim == 3 and picture.shape[2] == 3)):
        raise ValueError(
            "A picture must be uint8, (rows, columns) or (rows, columns, 3), but this one is "
            f"{picture.dtype} of shape {picture.shape}."
        )
    return np.repeat(picture[..., np.newaxis], 3, axis=2) if grey else picture.copy()


@cache
def _residual_colours() -> np.ndarray:
    """(256, 3) float32 in [0, 255], from the weakest residual to the strongest."""
    from matplotlib import colormaps

    colours = colormaps["inferno"](np.linspace(*COLOUR_RANGE, 256))
    return np.asarray(255 * colours[:, :3], dtype=np.float32)


def _scale_bar(scale: float) -> np.ndarray:
    """The residuals 0 to scale over black, mid-grey and white: (24, 256, 3) uint8."""
    ground = np.repeat(np.array([0, 110, 220], dtype=np.uint8), 8)[:, np.newaxis].repeat(
        256, axis=1
    )
    return overlay(
        ground, np.linspace(0, 1, 256)[np.newaxis].repeat(len(ground), axis=0) * scale, scale
    )


def _data_uri(pixels: np.ndarray) -> str:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")

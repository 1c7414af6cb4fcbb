"""What the paper claims, and whether it holds here: one sentence a claim, with its interval."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fanogan.evaluation import mean_interval, resampled_times
from fanogan.scoring import write_csv
from fanogan.study.outcomes import RESAMPLES, Study
from fanogan.study.paper import IMAGES, PIXELS
from fanogan.study.systems import SYSTEMS
from fanogan.study.tables import compared, compared_pixels

Difference = tuple[float, list[float] | None]


@dataclasses.dataclass(frozen=True)
class Claim:
    """A claim that one system exceeds another in a figure, or that both are alike.

    Attributes:
        group: What it is part of.
        first: The system that the paper has above, or that is claimed to be as good.
        second: The other.
        of: 'AUC', 'AUC of pixels' or 'false-positive rate'.
        alike: Whether the paper finds no difference.
        on_subset: Whether it is compared on the subset.
    """

    group: str
    first: str
    second: str
    of: str = "AUC"
    alike: bool = False
    on_subset: bool = False


ORDER = "the order of the systems"
CLAIMS = (
    Claim(ORDER, "izi_f", "iterative", on_subset=True),
    Claim(ORDER, "iterative", "ziz", on_subset=True),
    Claim(ORDER, "izi_f", "ziz"),
    Claim(ORDER, "ziz", "izi"),
    Claim(ORDER, "izi", "ae"),
    Claim(ORDER, "ae", "advae", alike=True),
    Claim(ORDER, "advae", "ali"),
    Claim(ORDER, "ali", "critic"),
    Claim("tanh at the encoder's output", "izi_f", "izi_f-linear"),
    Claim("tanh at the encoder's output", "izi", "izi-linear"),
    Claim("tanh at the encoder's output", "ziz", "ziz-linear"),
    Claim("features in the score", "izi-features", "izi"),
    Claim("features in the score", "ziz-features", "ziz"),
    Claim("features in the encoder's training too", "izi_f", "izi-features"),
    Claim("features in the encoder's training too", "izi_f", "ziz-features"),
    Claim("localisation", "izi_f", "advae", "AUC of pixels"),
    Claim("localisation", "advae", "ali", "AUC of pixels"),
    Claim("localisation", "ali", "ae", "AUC of pixels"),
    Claim("denoising", "denoising", "izi_f", "false-positive rate"),
)


@dataclasses.dataclass(frozen=True)
class Finding:
    """What this study says of a claim.

    ``verdict`` is 'holds', 'reverse', 'open' or 'unknown'; ``paper`` the paper's own difference.
    """

    claim: Claim
    difference: float | None
    interval: list[float] | None
    seeds: int
    paper: float | None
    verdict: str
    sentence: str


def findings(study: Study) -> list[Finding]:
    """Of all claims, in the paper's order; pixels only where there are masks."""
    return [
        _finding(study, claim)
        for claim in CLAIMS
        if claim.of != "AUC of pixels" or study.has_pixels()
    ]


def _finding(study: Study, claim: Claim) -> Finding:
    found = _measured(study, claim)
    paper = _of_paper(claim)
    seeds = len(set(study.seeds(claim.first)) & set(study.seeds(claim.second)))
    if found is None:
        which = [name for name in (claim.first, claim.second) if not study.seeds(name)]
        why = (
            "no threshold could be calibrated"
            if not which
            else f"{' and '.join(SYSTEMS[name].title for name in which)} not done"
        )
        sentence = f"{_said(claim)}: not known here, {why}."
        return Finding(claim, None, None, seeds, paper, "unknown", sentence)
    difference, interval = found
    verdict = _verdict(claim, interval)
    return Finding(
        claim, difference, interval, seeds, paper, verdict, _sentence(claim, found, verdict, paper)
    )


def _measured(study: Study, claim: Claim) -> Difference | None:
    if claim.of == "AUC of pixels":
        return compared_pixels(study, claim.first, claim.second)
    if claim.of == "false-positive rate":
        return compared_false_positives(study, claim.first, claim.second)
    return compared(study, claim.first, claim.second, claim.on_subset)


def compared_false_positives(study: Study, first: str, second: str) -> Difference | None:
    """The mean over seeds of the difference in the share of normals above the own threshold."""
    exact, resampled = [], []
    for seed in study.seeds(first):
        if seed not in study.seeds(second):
            continue
        flags = [_false_alarms(study, name, seed) for name in (first, second)]
        if flags[0] is None or flags[1] is None:
            return None
        more = flags[0].astype(float) - flags[1].astype(float)
        scored = study.scored(first, seed, False)
        subjects = np.array(scored.subjects)[scored.labels == 0]
        names, of = np.unique(subjects, return_inverse=True)
        exact.append(float(more.mean()))
        if len(names) > 1:
            times = resampled_times(names.tolist(), len(names), RESAMPLES)
            sums, counts = np.bincount(of, more), np.bincount(of)
            resampled.append(times @ sums / (times @ counts))
    if not exact:
        return None
    interval = mean_interval(np.stack(resampled, axis=1)) if resampled else None
    return float(np.mean(exact)), interval


def _false_alarms(study: Study, system: str, seed: int) -> np.ndarray | None:
    """Which normals lie above the calibrated threshold; None without one."""
    threshold = study.metrics(system, seed)["calibrated"]["threshold"]
    scored = study.scored(system, seed, False)
    return None if threshold is None else scored.total[scored.labels == 0] > threshold


def _verdict(claim: Claim, interval: Sequence[float] | None) -> str:
    if interval is None or interval[0] <= 0 <= interval[1]:
        return "open"
    return "holds" if interval[0] > 0 and not claim.alike else "reverse"


def _said(claim: Claim) -> str:
    first, second = SYSTEMS[claim.first].title, SYSTEMS[claim.second].title
    if claim.of == "false-positive rate":
        return f"{first} raises more false alarms on normals than {second}"
    if claim.alike:
        return f"{first} is as good as {second}"
    return f"{first} {'localises' if 'pixels' in claim.of else 'is'} better than {second}"


def _sentence(claim: Claim, found: Difference, verdict: str, paper: float | None) -> str:
    difference, interval = found
    said = f"{_said(claim)}: "
    where = " on the subset" if claim.on_subset else ""
    edges = f", 95 % interval {signed(interval[0])} to {signed(interval[1])}" if interval else ""
    figures = f"difference in {claim.of}{where} {signed(difference)}{edges}"
    papers = "" if paper is None else f" (the paper's, on other data: {signed(paper)})"
    if claim.alike:
        better = SYSTEMS[claim.first if difference > 0 else claim.second].title
        words = {
            "open": "no difference is established here, which doesn't show that there is none",
            "reverse": f"not so here, {better} is better",
        }
    else:
        zero = "the interval holds zero" if interval else "too few subjects for an interval"
        words = {
            "holds": "holds here",
            "reverse": "does not hold here, it is the other way round",
            "open": f"not established here, {zero}",
        }
    return f"{said}{words[verdict]}; {figures}{papers}."


def signed(value: float) -> str:
    """A difference with its sign."""
    return f"{value:+.3f}".replace("-", "−")


def _of_paper(claim: Claim) -> float | None:
    figures = PIXELS if claim.of == "AUC of pixels" else IMAGES
    if claim.of == "false-positive rate" or not {claim.first, claim.second} <= set(figures):
        return None
    return figures[claim.first]["auc"] - figures[claim.second]["auc"]


def orders(study: Study) -> list[dict[str, object]]:
    """Detection and localisation beside each other: AUC of images and of pixels, best first."""
    if not study.has_pixels():
        return []
    rows = []
    for name in PIXELS:
        seeds = study.seeds(name)
        if not seeds:
            continue
        images = np.mean([study.result(name, seed)["auc"] for seed in seeds])
        pixels = np.mean([study.pixels(name, seed).figures["auc"] for seed in seeds])
        rows.append(
            {
                "system": name,
                "title": SYSTEMS[name].title,
                "images": float(images),
                "pixels": float(pixels),
                "paper_images": IMAGES[name]["auc"],
                "paper_pixels": PIXELS[name]["auc"],
            }
        )
    return sorted(rows, key=lambda row: -float(str(row["images"])))


def false_positive_rates(study: Study, systems: Sequence[str]) -> list[dict[str, object]]:
    """The share of normals above the calibrated threshold, beside the rate asked for, by system."""
    rows: list[dict[str, object]] = []
    for name in systems:
        flags = [_false_alarms(study, name, seed) for seed in study.seeds(name)]
        known = [float(each.mean()) for each in flags if each is not None]
        if not known:
            continue
        asked = study.metrics(name, study.seeds(name)[0])["calibrated"]["alpha"]
        rows.append(
            {
                "system": name,
                "title": SYSTEMS[name].title,
                "asked": asked,
                "rate": float(np.mean(known)),
                "spread": float(np.std(known, ddof=1)) if len(known) > 1 else None,
                "seeds": len(known),
            }
        )
    return rows


def write_claims(found: Sequence[Finding], path: Path) -> None:
    """Write them as a CSV."""
    rows = [
        {
            "group": one.claim.group,
            "first": one.claim.first,
            "second": one.claim.second,
            "of": one.claim.of,
            "on_subset": one.claim.on_subset,
            "seeds": one.seeds,
            "difference": one.difference,
            "low": one.interval[0] if one.interval else None,
            "high": one.interval[1] if one.interval else None,
            "paper": one.paper,
            "verdict": one.verdict,
            "sentence": one.sentence,
        }
        for one in found
    ]
    write_csv(path, list(rows[0]), rows)

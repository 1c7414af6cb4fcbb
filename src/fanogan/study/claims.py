"""What the paper claims, and whether it holds here: one sentence a claim, with its interval."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fanogan.evaluation import resampled_times
from fanogan.scoring import write_csv
from fanogan.study.outcomes import RESAMPLES, Study
from fanogan.study.paper import IMAGES, PIXELS
from fanogan.study.systems import SYSTEMS
from fanogan.study.tables import (
    Difference,
    auc_difference,
    mean_difference,
    pixel_auc_difference,
)

AUC, PIXEL_AUC, FALSE_ALARMS = "AUC", "AUC of pixels", "false-positive rate"


@dataclasses.dataclass(frozen=True)
class Claim:
    """A claim that one system exceeds another in a figure, or that both are alike.

    Attributes:
        group: The heading that it stands under.
        first: The system that the paper has above, or that is claimed to be as good.
        second: The other.
        of: AUC, PIXEL_AUC or FALSE_ALARMS.
        alike: Whether the paper finds no difference.
        on_subset: Whether it is compared on the subset.
    """

    group: str
    first: str
    second: str
    of: str = AUC
    alike: bool = False
    on_subset: bool = False

    @property
    def statement(self) -> str:
        """The claim in words."""
        first, second = SYSTEMS[self.first].title, SYSTEMS[self.second].title
        if self.of == FALSE_ALARMS:
            return f"{first} raises more false alarms on normals than {second}"
        if self.alike:
            return f"{first} is as good as {second}"
        return f"{first} {'localises' if self.of == PIXEL_AUC else 'is'} better than {second}"

    @property
    def paper(self) -> float | None:
        """The paper's own difference; None where it reports none."""
        figures = PIXELS if self.of == PIXEL_AUC else IMAGES
        if self.of == FALSE_ALARMS or not {self.first, self.second} <= set(figures):
            return None
        return figures[self.first]["auc"] - figures[self.second]["auc"]


ORDER = "the order of the systems"
TANH = "tanh at the encoder's output"
FEATURES = "features in the score"
TRAINED_WITH_FEATURES = "features in the encoder's training too"
CLAIMS = (
    Claim(ORDER, "izi_f", "iterative", on_subset=True),
    Claim(ORDER, "iterative", "ziz", on_subset=True),
    Claim(ORDER, "izi_f", "ziz"),
    Claim(ORDER, "ziz", "izi"),
    Claim(ORDER, "izi", "ae"),
    Claim(ORDER, "ae", "advae", alike=True),
    Claim(ORDER, "advae", "ali"),
    Claim(ORDER, "ali", "critic"),
    Claim(TANH, "izi_f", "izi_f-linear"),
    Claim(TANH, "izi", "izi-linear"),
    Claim(TANH, "ziz", "ziz-linear"),
    Claim(FEATURES, "izi-features", "izi"),
    Claim(FEATURES, "ziz-features", "ziz"),
    Claim(TRAINED_WITH_FEATURES, "izi_f", "izi-features"),
    Claim(TRAINED_WITH_FEATURES, "izi_f", "ziz-features"),
    Claim("localisation", "izi_f", "advae", PIXEL_AUC),
    Claim("localisation", "advae", "ali", PIXEL_AUC),
    Claim("localisation", "ali", "ae", PIXEL_AUC),
    Claim("denoising", "denoising", "izi_f", FALSE_ALARMS),
)


@dataclasses.dataclass(frozen=True)
class Finding:
    """What this study says of a claim.

    Attributes:
        claim: The claim.
        difference: The mean over seeds; None where it isn't known.
        interval: 95 %, of resampled subjects and seeds.
        seeds: How many both systems have.
        verdict: 'holds', 'reverse', 'open' or 'unknown'.
        sentence: All of it in words.
    """

    claim: Claim
    difference: float | None
    interval: list[float] | None
    seeds: int
    verdict: str
    sentence: str


def findings(study: Study) -> list[Finding]:
    """Return what is found of all claims, in the paper's order; of pixels only with masks."""
    has_pixels = study.has_pixels()
    return [_finding(study, claim) for claim in CLAIMS if claim.of != PIXEL_AUC or has_pixels]


def _finding(study: Study, claim: Claim) -> Finding:
    first, second = claim.first, claim.second
    seeds = len(study.seeds(first, second))
    if claim.of == PIXEL_AUC:
        measured = pixel_auc_difference(study, first, second)
    elif claim.of == FALSE_ALARMS:
        measured = false_alarm_difference(study, first, second)
    else:
        measured = auc_difference(study, first, second, claim.on_subset)
    if measured is None:
        missing = [SYSTEMS[name].title for name in (first, second) if not study.seeds(name)]
        why = f"{' and '.join(missing)} not done" if missing else "no threshold could be calibrated"
        sentence = f"{claim.statement}: not known here, {why}."
        return Finding(claim, None, None, seeds, "unknown", sentence)
    difference, interval = measured
    if interval is None or interval[0] <= 0 <= interval[1]:
        verdict = "open"
    else:
        verdict = "holds" if interval[0] > 0 and not claim.alike else "reverse"
    sentence = _sentence(claim, measured, verdict)
    return Finding(claim, difference, interval, seeds, verdict, sentence)


def _sentence(claim: Claim, measured: Difference, verdict: str) -> str:
    difference, interval = measured
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
    where = " on the subset" if claim.on_subset else ""
    edges = f", 95 % interval {signed(interval[0])} to {signed(interval[1])}" if interval else ""
    paper = "" if claim.paper is None else f" (the paper's, on other data: {signed(claim.paper)})"
    return (
        f"{claim.statement}: {words[verdict]}; difference in {claim.of}{where} "
        f"{signed(difference)}{edges}{paper}."
    )


def signed(value: float) -> str:
    """Return a difference with its sign."""
    return f"{value:+.3f}".replace("-", "−")


def write_claims(findings: Sequence[Finding], path: Path) -> None:
    """Write them as a CSV."""
    lines = []
    for finding in findings:
        claim, (low, high) = finding.claim, finding.interval or (None, None)
        lines.append(
            {
                **{key: getattr(claim, key) for key in ("group", "first", "second", "of")},
                "on_subset": claim.on_subset,
                "seeds": finding.seeds,
                "difference": finding.difference,
                "low": low,
                "high": high,
                "paper": claim.paper,
                "verdict": finding.verdict,
                "sentence": finding.sentence,
            }
        )
    write_csv(path, list(lines[0]), lines)


# --- false alarms, and detection beside localisation --------------------------------------------


def _false_alarms(study: Study, name: str, seed: int) -> np.ndarray | None:
    """Which normals are above the calibrated threshold; None without one."""
    threshold = study.metrics(name, seed)["calibrated"]["threshold"]
    scored = study.scored(name, seed, False)
    return None if threshold is None else scored.total[scored.labels == 0] > threshold


def false_alarm_difference(study: Study, first: str, second: str) -> Difference | None:
    """Return how many more normals the first has above its own threshold, as a share of them.

    None where a threshold is missing.
    """
    exact, resampled = [], []
    for seed in study.seeds(first, second):
        flags = [_false_alarms(study, name, seed) for name in (first, second)]
        if flags[0] is None or flags[1] is None:
            return None
        more = flags[0].astype(float) - flags[1].astype(float)
        exact.append(float(more.mean()))
        scored = study.scored(first, seed, False)
        names, subjects = np.unique(scored.subjects[scored.labels == 0], return_inverse=True)
        if len(names) > 1:
            times = resampled_times(names.tolist(), len(names), RESAMPLES)
            sums, counts = np.bincount(subjects, more), np.bincount(subjects)
            resampled.append(times @ sums / (times @ counts))
    return mean_difference(exact, resampled)


def false_positive_rates(study: Study) -> list[dict[str, Any]]:
    """Return the share of normals above the calibrated threshold, beside the rate asked for.

    Of f-AnoGAN and of its denoising encoder, of which the paper says something (A.1).
    """
    rows = []
    for name in ("izi_f", "denoising"):
        seeds = study.seeds(name)
        flags = [_false_alarms(study, name, seed) for seed in seeds]
        rates = [float(each.mean()) for each in flags if each is not None]
        if rates:
            rows.append(
                {
                    "system": name,
                    "title": SYSTEMS[name].title,
                    "asked": study.metrics(name, seeds[0])["calibrated"]["alpha"],
                    "rate": float(np.mean(rates)),
                    "spread": float(np.std(rates, ddof=1)) if len(rates) > 1 else None,
                    "seeds": len(rates),
                }
            )
    return rows


def detection_and_localisation(study: Study) -> list[dict[str, Any]]:
    """Return the AUC of images and of pixels beside each other, best images first."""
    rows = []
    for name in PIXELS:
        seeds = study.seeds_with_pixels(name)
        if seeds:
            images = [study.result(name, seed)["auc"] for seed in seeds]
            pixels = [study.pixels(name, seed).figures["auc"] for seed in seeds]
            rows.append(
                {
                    "system": name,
                    "title": SYSTEMS[name].title,
                    "images": float(np.mean(images)),
                    "pixels": float(np.mean(pixels)),
                    "paper_images": IMAGES[name]["auc"],
                    "paper_pixels": PIXELS[name]["auc"],
                }
            )
    return sorted(rows, key=lambda row: -row["images"])

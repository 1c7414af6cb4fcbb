"""What the paper claims, and whether it holds here: one sentence a claim, with its interval."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fanogan.evaluation import resampled_times
from fanogan.scoring import write_csv
from fanogan.study.outcomes import RESAMPLES, Level, Study
from fanogan.study.paper import IMAGES, PIXELS
from fanogan.study.systems import SYSTEMS
from fanogan.study.tables import Difference, auc_difference, mean_difference

AUC, PIXEL_AUC, FALSE_ALARMS = "AUC", "AUC of pixels", "false-positive rate"


@dataclasses.dataclass(frozen=True)
class Claim:
    """A claim that one system exceeds another in a figure, or that both are alike."""

    group: str  # the heading that it stands under
    first: str  # the system that the paper has above, or that is claimed to be as good
    second: str
    of: str = AUC  # or PIXEL_AUC, FALSE_ALARMS
    alike: bool = False  # the paper finds no difference
    on_subset: bool = False  # it is compared on the subset

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
HEADLINE = "f-AnoGAN against all others"
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
    Claim(HEADLINE, "izi_f", "ae"),
    Claim(HEADLINE, "izi_f", "advae"),
    Claim(HEADLINE, "izi_f", "ali"),
    Claim(HEADLINE, "izi_f", "critic"),
    Claim(TANH, "izi_f", "izi_f-linear"),
    Claim(TANH, "izi", "izi-linear"),
    Claim(TANH, "ziz", "ziz-linear"),
    Claim(TANH, "izi_f-linear", "ziz"),
    Claim(TANH, "izi_f-linear", "izi"),
    Claim(FEATURES, "izi-features", "izi"),
    Claim(FEATURES, "ziz-features", "ziz"),
    Claim(TRAINED_WITH_FEATURES, "izi_f", "izi-features"),
    Claim(TRAINED_WITH_FEATURES, "izi_f", "ziz-features"),
    Claim("localisation", "izi_f", "advae", PIXEL_AUC),
    Claim("localisation", "advae", "ali", PIXEL_AUC),
    Claim("localisation", "ali", "ae", PIXEL_AUC),
    Claim("localisation", "izi_f", "ali", PIXEL_AUC),
    Claim("localisation", "izi_f", "ae", PIXEL_AUC),
    Claim("denoising", "denoising", "izi_f", FALSE_ALARMS),
)


@dataclasses.dataclass(frozen=True)
class Finding:
    """What this study says of a claim."""

    claim: Claim
    difference: float | None  # mean over seeds; None where it isn't known
    interval: list[float] | None  # 95 %, of resampled subjects and seeds
    seeds: int  # that both systems have
    verdict: str  # 'holds', 'reverse', 'open' or 'unknown'
    sentence: str  # all of it in words


def findings(study: Study) -> list[Finding]:
    """Return what is found of all claims, in the paper's order; of pixels only with masks."""
    has_pixels = any(study.seeds(name, level="pixels") for name in study.systems)
    return [_finding(study, claim) for claim in CLAIMS if claim.of != PIXEL_AUC or has_pixels]


def _finding(study: Study, claim: Claim) -> Finding:
    first, second = claim.first, claim.second
    if claim.of == FALSE_ALARMS:
        measured = false_alarm_difference(study, first, second)
    else:
        level: Level = "subset" if claim.on_subset else "images"
        level = "pixels" if claim.of == PIXEL_AUC else level
        measured = auc_difference(study, first, second, level)
    difference, interval = measured or (None, None)
    if difference is None:
        missing = [SYSTEMS[name].title for name in (first, second) if not study.seeds(name)]
        why = f"{' and '.join(missing)} not done" if missing else "no threshold could be calibrated"
        verdict, words = "unknown", f"not known here, {why}"
    elif interval is None or interval[0] <= 0 <= interval[1]:
        zero = "the interval holds zero" if interval else "too few subjects for an interval"
        verdict, words = "open", f"not established here, {zero}"
        if claim.alike:
            words = "no difference is established here, which doesn't show that there is none"
    elif claim.alike:
        better = SYSTEMS[first if difference > 0 else second].title
        verdict, words = "reverse", f"not so here, {better} is better"
    elif interval[0] > 0:
        verdict, words = "holds", "holds here"
    else:
        verdict, words = "reverse", "does not hold here, it is the other way round"
    sentence = f"{claim.statement}: {words}"
    if difference is not None:
        where = " on the subset" if claim.on_subset else ""
        sentence += f"; difference in {claim.of}{where} {signed(difference)}"
    if interval:
        sentence += f", 95 % interval {signed(interval[0])} to {signed(interval[1])}"
    if difference is not None and claim.paper is not None:
        sentence += f" (the paper's, on other data: {signed(claim.paper)})"
    seeds = len(study.seeds(first, second))
    return Finding(claim, difference, interval, seeds, verdict, f"{sentence}.")


def signed(value: float) -> str:
    """Return a difference with its sign."""
    return f"{value:+.3f}".replace("-", "−")


def write_claims(findings: Sequence[Finding], path: Path) -> None:
    """Write them as a CSV."""
    lines = []
    for finding in findings:
        claim, (low, high) = finding.claim, finding.interval or (None, None)
        line = {key: getattr(claim, key) for key in ("group", "first", "second", "of", "on_subset")}
        line |= {"seeds": finding.seeds, "difference": finding.difference}
        line |= {"low": low, "high": high, "paper": claim.paper}
        lines.append(line | {"verdict": finding.verdict, "sentence": finding.sentence})
    write_csv(path, list(lines[0]), lines)


# --- false alarms, and detection beside localisation --------------------------------------------


def _false_alarms(study: Study, name: str, seed: int) -> np.ndarray | None:
    """Which normals are above the calibrated threshold; None without one."""
    threshold = study.metrics(name, seed)["calibrated"]["threshold"]
    scored = study.scored(name, seed)
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
        scored = study.scored(first, seed)
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
            asked = study.metrics(name, seeds[0])["calibrated"]["alpha"]
            row = {"system": name, "title": SYSTEMS[name].title, "asked": asked}
            spread = float(np.std(rates, ddof=1)) if len(rates) > 1 else None
            row |= {"rate": float(np.mean(rates)), "spread": spread, "seeds": len(rates)}
            rows.append(row)
    return rows


def detection_and_localisation(study: Study) -> list[dict[str, Any]]:
    """Return the AUC of images and of pixels beside each other, best images first."""
    rows = []
    for name, paper in PIXELS.items():
        seeds = study.seeds(name, level="pixels")
        if seeds:
            images = np.mean([study.result(name, seed)["auc"] for seed in seeds])
            pixels = np.mean([study.figures(name, seed, "pixels")["auc"] for seed in seeds])
            row: dict[str, Any] = {"system": name, "title": SYSTEMS[name].title}
            row |= {"images": float(images), "pixels": float(pixels)}
            row |= {"paper_images": IMAGES[name]["auc"], "paper_pixels": paper["auc"]}
            rows.append(row)
    return sorted(rows, key=lambda row: -row["images"])

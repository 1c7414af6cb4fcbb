"""What an evaluation comes to, in the sentences that page and terminal begin with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fanogan.text import counted, percent, plural, share

OF_UNIT = {
    "volume": "Per volume, whether an eye is anomalous",
    "image": "Per B-scan, whether one is",
    "patch": "Per patch, whether this part of a B-scan is",
}
"""What a score of each kind of unit says."""


def noun_of(evaluation: Mapping[str, Any]) -> str:
    """Return what one of what was evaluated is called."""
    noun: str = evaluation.get("noun", evaluation["unit"])
    return noun


def lead(evaluation: Mapping[str, Any]) -> list[str]:
    """Say what the method reaches, and whether it is ahead of all that needs no trained network.

    Each kind of unit has a sentence, the largest first: they answer different questions.
    """
    method, n, subjects = evaluation["rows"][0], evaluation["n"], evaluation["n_subjects"]
    unit, larger, pixel = evaluation["unit"], evaluation.get("larger", {}), evaluation["pixel"]
    noun = noun_of(evaluation)
    sentences = [
        f"{OF_UNIT[name]}: AUC {share(larger[name]['auc'])} (95 % interval "
        f"{interval(larger[name]['auc_interval'])}) on {counted(larger[name]['n'], of)}."
        for name, of in (("volume", "volume"), ("image", "B-scan"))
        if name in larger and name != unit
    ]
    # Without groups each image counts as a subject of its own, which says nothing about people.
    of_subjects = f" of {counted(subjects, 'subject')}" if subjects < n else ""
    of_unit = OF_UNIT[unit]
    if unit == "image":
        of_unit = f"Per {noun}, whether it is anomalous"
    sentences.append(
        f"{of_unit}: {method['name']} reaches AUC {share(method['auc'])} "
        f"(95 % interval {interval(method['auc_interval'])}) on "
        f"{counted(n, noun)}{of_subjects}; {evaluation['n_anomalous']:,} "
        f"({percent(evaluation['prevalence'])}) are anomalous."
    )
    if pixel:
        name, trivial = max(pixel["trivial"].items(), key=lambda each: each[1])
        sentences.append(
            f"Per pixel, where it is: AUC {share(pixel['auc'])}, the best trivial map ({name}) "
            f"{share(trivial)}."
        )
    best = evaluation["ahead_of_best"]
    by, edges = best["difference"], best["interval"]
    if by <= 0:
        return sentences
    of_best = f"{share(by)} above {best['name']} (AUC {share(best['auc'])})"
    if edges is None:
        sentences.append(f"It is {of_best}, the best score that needs no trained network.")
    elif edges[0] > 0:
        sentences.append(
            f"It is ahead of every score that needs no trained network: {of_best}, "
            f"95 % interval of the difference {interval(edges)}."
        )
    else:
        sentences.append(
            f"It isn't told apart from the best score that needs no trained network: {of_best}, "
            f"95 % interval of the difference {interval(edges)}."
        )
    return sentences


def alarms(evaluation: Mapping[str, Any]) -> list[str]:
    """Return sentences not to be missed: a trivial score is better, or chance is."""
    method, pixel = evaluation["rows"][0], evaluation["pixel"]
    best = evaluation["ahead_of_best"]
    found = []
    if best["difference"] < 0:
        found.append(
            f"A trivial score does better: {best['name']} reaches AUC {share(best['auc'])}, "
            f"{method['name']} {share(method['auc'])}."
        )
    if method["auc"] < 0.5:
        found.append(
            f"The AUC is below 0.5 ({share(method['auc'])}): normal {plural(noun_of(evaluation))} "
            "are mostly scored as more anomalous than the anomalous ones; look at the labels, "
            "which may be swapped."
        )
    if pixel:
        name, trivial = max(pixel["trivial"].items(), key=lambda each: each[1])
        if trivial > pixel["auc"]:
            found.append(
                f"A trivial map does better: {name} reaches pixel AUC {share(trivial)}, the "
                f"residual {share(pixel['auc'])}."
            )
    return found


def interval(bounds: Sequence[float] | None) -> str:
    """Return the edges of an interval, or a dash where there is none."""
    return "–" if bounds is None else f"{share(bounds[0])} to {share(bounds[1])}"

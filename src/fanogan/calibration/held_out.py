"""How much is too much: p-values, thresholds and the colour scale, from held-out normals alone.

Some of the normal subjects are held out of training (`split_subjects`) and scored by the trained
model. A new score's conformal p-value is its rank among K subjects, p = (1 + sum over subjects of
the share of a subject's scores that are >= the new one) / (K + 1): images of one subject resemble
each other, so each subject counts once, however many images it has. Where subjects are
exchangeable, and a subject's images too, at most a share alpha of the images of new normal subjects
has p <= alpha, whatever the distribution of the scores (Lee, Barber and Willett, *Distribution-free
inference with hierarchical data*, 2023, HCP). With one image a subject that is the ordinary
(1 + #{held out >= score}) / (n + 1) (Vovk, Gammerman and Shafer, *Algorithmic Learning in a Random
World*, 2005; Bates et al., *Testing for Outliers with Conformal p-values*, Annals of Statistics
2023). No anomaly is needed, and none is used.
"""

import dataclasses
import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fanogan.calibration.combination import Combination
from fanogan.calibration.drift import Reference
from fanogan.text import counted, plural

ALPHA = 0.05
"""The false-positive rate of flags, unless another one is asked for."""

MAP_QUANTILE = 0.995
"""The colour scale of maps ends at this quantile of the held-out normals' pixel residuals."""

EN_FACE_QUANTILE = 0.999
"""Candidate regions lie above this quantile of the held-out normals' en-face maps."""

TermScale = tuple[tuple[float, float], tuple[float, float]]
"""Means and standard deviations of (A_R, A_D) over windows of held-out normals."""


def held_out_needed(alpha: float) -> int:
    """Return how many held-out subjects a false-positive rate needs: ceil(1 / alpha) - 1.

    Args:
        alpha: The wanted false-positive rate, in (0, 1).

    Returns:
        The smallest K for which the smallest possible p-value, 1 / (K + 1), is at most alpha.

    Raises:
        ValueError: alpha is not between 0 and 1.
    """
    _check_rate(alpha)
    # 1 / alpha may be rounded across an integer (1 / (1 / 49) > 49), so the p-value itself decides.
    subjects = max(1, math.floor(1 / alpha) - 1)
    while 1 / subjects > alpha:
        subjects += 1
    return subjects - 1


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Scores of normals held out of training, for one kind of unit (image or volume).

    Attributes:
        scores: (n,) float64, higher is more anomalous; kept as a read-only copy.
        groups: (n,) the subject of each.

    Raises:
        ValueError: A score is not finite, or scores and groups differ in number.
    """

    scores: NDArray[np.float64]
    groups: tuple[str, ...]

    def __post_init__(self) -> None:
        """Copy, freeze and check the fields."""
        scores = np.array(self.scores, dtype=np.float64)
        groups = tuple(str(group) for group in self.groups)
        if scores.shape != (len(groups),):
            raise ValueError(
                f"held-out scores of shape {scores.shape} came with {len(groups)} subjects: "
                "give one subject for each score"
            )
        if not np.isfinite(scores).all():
            worst = groups[int(np.flatnonzero(~np.isfinite(scores))[0])]
            raise ValueError(
                f"a held-out score of subject {worst!r} is not finite: "
                "look at this subject's images, or train again with a lower learning rate"
            )
        scores.setflags(write=False)
        object.__setattr__(self, "scores", scores)
        object.__setattr__(self, "groups", groups)

    def __eq__(self, other: object) -> bool:
        """Tell whether scores and groups are the same, in the same order."""
        if not isinstance(other, HeldOut):
            return NotImplemented
        return self.groups == other.groups and np.array_equal(self.scores, other.scores)

    @property
    def n(self) -> int:
        """Number of held-out units."""
        return len(self.groups)

    @cached_property
    def n_subjects(self) -> int:
        """Number of distinct subjects among them, K."""
        return len(set(self.groups))

    @cached_property
    def ranked(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Scores in rising order, and the p-value (n + 1,) of a score that j of them are >= to."""
        order, images = np.argsort(self.scores, kind="stable"), Counter(self.groups)
        weights = np.array([1 / images[group] for group in self.groups])
        above = np.concatenate([[0.0], np.cumsum(weights[order[::-1]])])
        # Shares of one subject add up to 1, and thirds don't in floats.
        whole = np.rint(above)
        above = np.where(np.abs(above - whole) < 1e-9, whole, above)
        # A correctly rounded division equals the alpha that a user types for the same ratio, so
        # that p <= alpha needs no tolerance: 1 / 20 and .05 are the same float.
        return self.scores[order], (1 + above) / (self.n_subjects + 1)

    def p_value(self, score: float) -> float:
        """Return the conformal p-value of one score, in [1 / (K + 1), 1]."""
        return float(self.p_values([score])[0])

    def p_values(self, scores: ArrayLike) -> NDArray[np.float64]:
        """Return p = (1 + sum over subjects of their share of scores >= it) / (K + 1) for each.

        Args:
            scores: Array of any shape, higher is more anomalous.

        Returns:
            Array of the same shape, in [1 / (K + 1), 1].

        Raises:
            ValueError: A score is not a number.
        """
        wanted = np.asarray(scores, dtype=np.float64)
        if np.isnan(wanted).any():
            raise ValueError(
                "a score is not a number, so it has no p-value: look at the image it came from"
            )
        rising, p_values = self.ranked
        return np.asarray(p_values[self.n - np.searchsorted(rising, wanted, side="left")])

    def threshold(self, alpha: float) -> float | None:
        """Return the score above which, strictly, a unit is flagged at a false-positive rate.

        It is the lowest held-out score above which all scores have p <= alpha. A score equal to it
        is not flagged, since it counts that held-out score against itself.

        Args:
            alpha: The wanted false-positive rate, in (0, 1).

        Returns:
            The threshold, or None where fewer than `held_out_needed(alpha)` subjects were held out.

        Raises:
            ValueError: alpha is not between 0 and 1.
        """
        if not self._suffices(alpha):
            return None
        rising, p_values = self.ranked
        return float(rising[self.n - np.searchsorted(p_values, alpha, side="right")])

    def flag(self, score: float, alpha: float) -> bool | None:
        """Tell whether one score's p-value is at most alpha; None where too few were held out."""
        flags = self.flags([score], alpha)
        return None if flags is None else flags[0]

    def flags(self, scores: Sequence[float] | NDArray[Any], alpha: float) -> list[bool] | None:
        """Tell for each score whether it is flagged, p <= alpha.

        Args:
            scores: (n,) scores, higher is more anomalous.
            alpha: The wanted false-positive rate, in (0, 1).

        Returns:
            One bool a score, or None where fewer than `held_out_needed(alpha)` subjects were held
            out: there is then no flag at this level.

        Raises:
            ValueError: alpha is not between 0 and 1, or a score is not a number.
        """
        if not self._suffices(alpha):
            return None
        return [bool(p <= alpha) for p in self.p_values(scores)]

    def describe(self, alpha: float, unit: str = "image") -> str:
        """Say in one sentence what is flagged at a false-positive rate, and on what evidence.

        Args:
            alpha: The wanted false-positive rate, in (0, 1).
            unit: What was scored, in the singular: 'image' or 'volume'.

        Returns:
            A sentence with n and the number of subjects.

        Raises:
            ValueError: alpha is not between 0 and 1.
        """
        subjects = self.n_subjects
        evidence = f"{counted(self.n, f'held-out {unit}')} of {counted(subjects, 'subject')}"
        threshold = self.threshold(alpha)
        if threshold is None:
            return (
                f"too few held out: {evidence} can show no p-value below 1/{subjects + 1}; a "
                f"false-positive rate of {_percent(alpha)} needs "
                f"{counted(held_out_needed(alpha), 'subject')}, so no flag is given"
            )
        whose = "" if subjects == self.n else " of new subjects"
        return (
            f"above {threshold:.4g} is flagged: at most {_percent(alpha)} of normal "
            f"{plural(unit)}{whose} expected ({evidence})"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON can hold them, without loss."""
        return {"scores": self.scores.tolist(), "groups": list(self.groups)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "HeldOut":
        """Make it again from what `to_dict` returned."""
        return cls(np.asarray(values["scores"], dtype=np.float64), tuple(values["groups"]))

    def _suffices(self, alpha: float) -> bool:
        return self.n_subjects >= held_out_needed(alpha)


@dataclass(frozen=True)
class Calibration:
    """What held-out normals say about scores and maps; saved with the model.

    Attributes:
        units: Held-out scores of each kind of unit: 'image' (a B-scan is one), 'volume', 'patch'.
        map_scale: Upper end of the fixed colour scale of maps, a pixel residual: the
            `MAP_QUANTILE` quantile over all held-out pixels (see `ResidualHistogram`).
        en_face: Median and `EN_FACE_QUANTILE` quantile of the en-face maps of held-out volumes, or
            of the smoothed maps of held-out signals; None where there are none.
        term_scale: What the terms of a standardised score are measured in, or None.
        shapes: Held-out shape scores of images and volumes; empty where shape isn't scored.
        combined: Likewise of both scores combined.
        combination: How they are combined, or None.
        reference: What images in use are held against (see `drift`); None in older models.

    Raises:
        ValueError: map_scale is not a positive number.
    """

    units: dict[str, HeldOut]
    map_scale: float
    en_face: tuple[float, float] | None = None
    term_scale: TermScale | None = None
    shapes: dict[str, HeldOut] = field(default_factory=dict)
    combined: dict[str, HeldOut] = field(default_factory=dict)
    combination: Combination | None = None
    reference: Reference | None = None

    def __post_init__(self) -> None:
        """Check that the colour scale can be divided by."""
        if not 0 < self.map_scale < math.inf:
            raise ValueError(
                f"a colour scale cannot end at {self.map_scale}: give a positive pixel residual"
            )

    def assess(self, unit: str, score: float, alpha: float) -> tuple[float | None, bool | None]:
        """Return a score's p-value, None without held-out units of its kind, and its flag.

        The flag is None where too few subjects were held out for a false-positive rate of alpha.
        """
        held_out = self.units.get(unit)
        if held_out is None:
            return None, None
        return held_out.p_value(score), held_out.flag(score, alpha)

    def subjects(self, unit: str) -> int:
        """Return of how many subjects the held-out units of a kind are."""
        return self.units[unit].n_subjects if unit in self.units else 0

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON can hold them, without loss."""
        kinds = {"units": self.units, "shapes": self.shapes, "combined": self.combined}
        return {
            **{
                kind: {unit: held_out.to_dict() for unit, held_out in of.items()}
                for kind, of in kinds.items()
            },
            "combination": self.combination.to_dict() if self.combination else None,
            "map_scale": float(self.map_scale),
            "en_face": self.en_face,
            "term_scale": self.term_scale,
            "reference": dataclasses.asdict(self.reference) if self.reference else None,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Calibration":
        """Make it again from what `to_dict` returned."""
        units, shapes, combined = (
            {unit: HeldOut.from_dict(held_out) for unit, held_out in of.items()}
            for of in (values["units"], values.get("shapes", {}), values.get("combined", {}))
        )
        combination = values.get("combination")
        reference = values.get("reference")
        scale, en_face = values.get("term_scale"), values.get("en_face")
        return cls(
            units,
            float(values["map_scale"]),
            (en_face[0], en_face[1]) if en_face else None,
            (tuple(scale[0]), tuple(scale[1])) if scale else None,
            shapes,
            combined,
            Combination.from_dict(combination) if combination else None,
            Reference.from_dict(reference) if reference else None,
        )


UNCALIBRATED = Calibration({}, map_scale=2.0)
"""What is known without held-out normals: nothing, and that no residual is above 2."""


def split_subjects(groups: Sequence[str], share: float = 0.1, seed: int = 0) -> NDArray[np.bool_]:
    """Choose whole subjects to hold out of training for calibration.

    The choice depends on the subjects' names and the seed alone: neither the order of the files,
    nor the number of images of a subject, nor the version of a library changes it.

    Args:
        groups: (n,) the subject of each image or volume.
        share: Share of the subjects to hold out, in (0, 1); rounded, at least one, never all.
        seed: Another seed chooses other subjects.

    Returns:
        (n,) bool, True where held out.

    Raises:
        ValueError: There are fewer than two subjects, or the share is not between 0 and 1.
    """
    if not 0 < share < 1:
        raise ValueError(f"a share of {share} cannot be held out: give one between 0 and 1")
    subjects = sorted(set(groups))
    if len(subjects) < 2:
        raise ValueError(
            f"at least two subjects are needed, {counted(len(subjects), 'subject')} found: "
            "one is held out for calibration; add images of another subject, or name the "
            "subjects with --groups"
        )
    count = min(max(1, round(share * len(subjects))), len(subjects) - 1)
    held_out = set(sorted(subjects, key=lambda subject: _draw(subject, seed))[:count])
    return np.array([group in held_out for group in groups], dtype=np.bool_)


def _draw(subject: str, seed: int) -> bytes:
    """Return a number as good as random that depends on subject and seed alone."""
    return hashlib.sha256(f"{seed}\n{subject}".encode(errors="surrogateescape")).digest()


def _check_rate(alpha: float) -> None:
    if not 0 < alpha < 1:
        raise ValueError(f"a false-positive rate of {alpha} is not possible: give one in (0, 1)")


def _percent(share: float) -> str:
    return f"{100 * share:.4g} %"

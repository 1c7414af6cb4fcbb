"""How good is a model, honestly: ROC, intervals, pixels, and the rows that need no network."""

from fanogan.evaluation.comparison import calibrated_row, compared_rows
from fanogan.evaluation.labelled import evaluate
from fanogan.evaluation.leaks import BadTestSet, Leaks, leak_sentences
from fanogan.evaluation.localization import PixelROC
from fanogan.evaluation.masks import masks_of, named_masks, without_extension
from fanogan.evaluation.metrics import (
    delong,
    image_metrics,
    mean_interval,
    resampled_aucs,
    resampled_times,
    trivial_scores,
)
from fanogan.evaluation.roc import finite_or_none, roc_curve_points

__all__ = [
    "BadTestSet",
    "Leaks",
    "PixelROC",
    "calibrated_row",
    "compared_rows",
    "delong",
    "evaluate",
    "finite_or_none",
    "image_metrics",
    "leak_sentences",
    "masks_of",
    "mean_interval",
    "named_masks",
    "resampled_aucs",
    "resampled_times",
    "roc_curve_points",
    "trivial_scores",
    "without_extension",
]

"""report."""

from fanogan.report.card import model_card
from fanogan.report.en_face import VolumeCase, en_face_picture
from fanogan.report.figures import (
    FIGURE_STYLE,
    histogram_figure,
    inline_svg,
    number,
    percent,
    share,
)
from fanogan.report.images import outline, overlay
from fanogan.report.page import Case, write_evaluation_report, write_score_report
from fanogan.report.wording import describe

__all__ = [
    "FIGURE_STYLE",
    "Case",
    "VolumeCase",
    "describe",
    "en_face_picture",
    "histogram_figure",
    "inline_svg",
    "model_card",
    "number",
    "outline",
    "overlay",
    "percent",
    "share",
    "write_evaluation_report",
    "write_score_report",
]

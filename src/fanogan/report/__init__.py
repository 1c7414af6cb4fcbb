"""What a person reads: pictures, figures, the self-contained HTML page, and the model card.

Colours and figures of a page come from here too where other rooms draw.
"""

from fanogan.report.card import model_card
from fanogan.report.curves import Curves, draw_curves
from fanogan.report.dicom import Found, Maker, dicom_objects
from fanogan.report.drift_page import drift_sentences, write_drift_page
from fanogan.report.en_face import Ground, VolumeCase, en_face_picture, region_mask
from fanogan.report.figures import FIGURE_STYLE, histogram_figure, inline_svg
from fanogan.report.images import (
    as_rgb,
    outline,
    overlay,
    residual_layer,
    shrink,
    with_strip,
)
from fanogan.report.page import Case, write_evaluation_report, write_score_report
from fanogan.report.side_by_side import SideBySide, write_comparison
from fanogan.report.verdict import alarms, lead
from fanogan.report.wording import describe, least_p_value

__all__ = [
    "FIGURE_STYLE",
    "Case",
    "Curves",
    "Found",
    "Ground",
    "Maker",
    "SideBySide",
    "VolumeCase",
    "alarms",
    "as_rgb",
    "describe",
    "dicom_objects",
    "draw_curves",
    "drift_sentences",
    "en_face_picture",
    "histogram_figure",
    "inline_svg",
    "lead",
    "least_p_value",
    "model_card",
    "outline",
    "overlay",
    "region_mask",
    "residual_layer",
    "shrink",
    "with_strip",
    "write_comparison",
    "write_drift_page",
    "write_evaluation_report",
    "write_score_report",
]

"""Figures: what they draw and say, and that two of them can stand on one page."""

import re

import numpy as np
import pytest

from fanogan.report.figures import (
    ANOMALOUS,
    INK,
    NORMAL,
    histogram_figure,
    inline_svg,
    roc_figure,
    score_figures,
)

CURVE = {"fpr": [0, 0.1, 1], "tpr": [0, 0.8, 1]}
YOUDEN = {"sensitivity": 0.8, "specificity": 0.9}
CALIBRATED = {
    "alpha": 0.05,
    "threshold": 0.234,
    "false_positive_rate": 0.083,
    "sensitivity": 0.602,
}


def lines(figure):
    """Places (x, y) of what a figure draws, by label."""
    return {line.get_label(): line.get_xydata() for line in figure.axes[0].get_lines()}


# ROC curves


def test_operating_points_lie_at_their_rates():
    drawn = lines(roc_figure(CURVE, 0.91, YOUDEN, CALIBRATED))
    np.testing.assert_allclose(drawn["AUC 0.910"], [[0, 0], [0.1, 0.8], [1, 1]])
    np.testing.assert_allclose(drawn["Youden's point, chosen on the test labels"], [[0.1, 0.8]])
    np.testing.assert_allclose(drawn["calibrated threshold, 5.0 % asked for"], [[0.083, 0.602]])


@pytest.mark.parametrize(
    ("youden", "calibrated"),
    [(None, None), ({**YOUDEN, "sensitivity": None}, {**CALIBRATED, "threshold": None})],
)
def test_points_that_are_not_known_are_not_drawn(youden, calibrated):
    drawn = roc_figure(CURVE, 0.91, youden, calibrated).axes[0]
    assert [text.get_text() for text in drawn.get_legend().get_texts()] == ["AUC 0.910"]
    assert len(drawn.get_lines()) == 2


# Histograms


def test_each_class_adds_up_to_one_whatever_its_size():
    random = np.random.default_rng(0)
    series = [("normal", random.random(90), NORMAL), ("anomalous", random.random(7), ANOMALOUS)]
    outlines = [
        patch
        for patch in histogram_figure(series, None).axes[0].patches
        if patch.get_label() and not patch.get_fill()
    ]
    assert [patch.get_label() for patch in outlines] == ["normal (90)", "anomalous (7)"]
    for patch in outlines:
        corners = patch.get_xy()[::2, 1]
        assert corners.sum() == pytest.approx(1)


def test_threshold_is_marked_where_there_is_one():
    series = [("normal", np.linspace(0.1, 0.3, 9), NORMAL)]
    drawn = lines(histogram_figure(series, 0.234))
    np.testing.assert_allclose(drawn["calibrated threshold 0.2340"][:, 0], 0.234)
    assert lines(histogram_figure(series, None)) == {}


def test_an_outlier_does_not_press_the_others_into_one_bin():
    scores = np.append(np.linspace(0.1, 0.3, 50), 90)
    assert histogram_figure([("normal", scores, NORMAL)], None).axes[0].get_xscale() == "log"
    assert histogram_figure([("normal", scores[:-1], NORMAL)], None).axes[0].get_xscale() == (
        "linear"
    )


@pytest.mark.parametrize(
    "scores", [np.full(5, 0.3), np.zeros(5), np.array([0.1, 0.1, 0.2, 0.1, 90])]
)
def test_awkward_scores_have_a_histogram(scores):
    (figure,) = score_figures(scores, np.array([]), "image")
    assert "scored images (5)" in figure["svg"]
    assert "held-out normals (" not in figure["svg"]


# SVG


def test_colours_are_the_page_s():
    svg = inline_svg("roc", "a curve", roc_figure(CURVE, 0.91, YOUDEN, CALIBRATED))
    assert INK[:6] not in svg
    for colour in ("var(--normal)", "var(--anomalous)", "currentColor"):
        assert colour in svg, colour


def test_two_figures_share_no_id_and_refer_to_their_own():
    drawing = roc_figure(CURVE, 0.91, YOUDEN, CALIBRATED)
    first, second = (inline_svg(name, "a curve", drawing) for name in ("roc", "pixels"))
    ids = [set(re.findall(r'\bid="([^"]*)"', svg)) for svg in (first, second)]
    assert ids[0] and not ids[0] & ids[1]
    for svg, own in zip((first, second), ids, strict=True):
        references = set(re.findall(r'(?:href="|url\()#([^")]*)', svg))
        assert references and references <= own


def test_description_cannot_leave_its_attribute():
    svg = inline_svg("roc", '"><script>', roc_figure(CURVE, 0.91, None, None))
    assert svg.startswith('<svg role="img" aria-label="&quot;&gt;&lt;script&gt;"')
    assert "<script>" not in svg


@pytest.mark.parametrize(
    ("noun", "many"), [("image", "images"), ("B-scan", "B-scans"), ("patch", "patches")]
)
def test_what_was_scored_is_named(noun, many):
    figure = score_figures(np.linspace(0, 1, 5), np.array([]), noun)[0]
    assert f"scored {many} (5)" in figure["svg"]
    assert f"the {many} of this report" in figure["caption"]

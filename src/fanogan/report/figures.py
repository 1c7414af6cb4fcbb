"""Figures of a page: ROC curves and histograms of scores, as SVG in the page's own colours."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fanogan.report.verdict import noun_of
from fanogan.text import number, percent, plural, share

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BINS = 40

# Matplotlib wants fixed colours; these stand in for the page's, which differ in light and dark.
INK, NORMAL, ANOMALOUS, MUTED, LINE = (f"#01010{digit}" for digit in range(1, 6))
PAGE_COLOURS = {
    INK: "currentColor",
    NORMAL: "var(--normal)",
    ANOMALOUS: "var(--anomalous)",
    MUTED: "var(--muted)",
    LINE: "var(--line)",
}
HELD_OUT = "_held_out"
"""The end of the names of figures that are of held-out normals."""

# Okabe and Ito's, which colour-blind readers tell apart, and which show on light and dark.
SEVERAL = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
FIGURE_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "axes.grid": True,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
}


def score_figures(scores: np.ndarray, held_out: np.ndarray, noun: str) -> list[dict[str, str]]:
    """Draw scores, (n,), beside those of held-out normals, (m,), which may be none.

    Returns one figure: its `caption`, and its `svg` ready for the page.
    """
    series = [("held-out normals", held_out, NORMAL), (f"scored {plural(noun)}", scores, ANOMALOUS)]
    caption = f"Scores of the {plural(noun)} of this report beside those of the held-out normals."
    return [figure_of("scores", caption, histogram_figure(series, None))]


def evaluation_figures(
    evaluation: Mapping[str, Any], scores: np.ndarray, labels: np.ndarray
) -> list[dict[str, str]]:
    """Draw an evaluation: ROC curve, scores of both classes, and the pixels' ROC curve if any.

    Takes what `metrics.json` holds, with scores and labels (n,). Returns figures as
    `score_figures` does.
    """
    method, calibrated = evaluation["rows"][0], evaluation["calibrated"]
    roc = roc_figure(evaluation["roc"], method["auc"], method["youden"], calibrated)
    series = [
        ("normal", scores[labels == 0], NORMAL),
        ("anomalous", scores[labels == 1], ANOMALOUS),
    ]
    histogram = histogram_figure(series, calibrated["threshold"])
    shown = f"normal and anomalous {plural(noun_of(evaluation))}"
    figures = [
        (
            "roc",
            "Receiver operating characteristic. Youden's point is chosen on the test labels.",
            roc,
        ),
        ("scores", f"Scores of {shown} on one axis (as in Fig. B3 of the paper).", histogram),
    ]
    if (pixel := evaluation["pixel"]) and evaluation["pixel_roc"]:
        caption = "Pixel by pixel: the residual map against the ground-truth masks."
        roc = roc_figure(evaluation["pixel_roc"], pixel["auc"], pixel.get("youden"), None)
        figures.append(("pixels", caption, roc))
    return [figure_of(*figure) for figure in figures]


def roc_figure(
    curve: Mapping[str, Sequence[float]],
    auc: float,
    youden: Mapping[str, Any] | None,
    calibrated: Mapping[str, Any] | None,
) -> Figure:
    """Draw a ROC curve with its operating points.

    Args:
        curve: `fpr` and `tpr`, equally long, each in [0, 1].
        auc: The area under it.
        youden: `sensitivity` and `specificity` at Youden's point; without them it isn't drawn.
        calibrated: `threshold`, `alpha`, `false_positive_rate` and `sensitivity` at the calibrated
            threshold; without a threshold it isn't drawn.
    """
    from matplotlib import rc_context

    with rc_context(FIGURE_STYLE):
        drawing, axes = new_figure()
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
        label = f"AUC {share(auc)}"
        axes.plot(curve["fpr"], curve["tpr"], color=ANOMALOUS, linewidth=1.8, label=label)
        if youden is not None and youden["sensitivity"] is not None:
            place = (1 - youden["specificity"], youden["sensitivity"])
            label = "Youden's point, chosen on the test labels"
            axes.plot(*place, "o", markersize=7, color=INK, fillstyle="none", label=label)
        if calibrated is not None and calibrated["threshold"] is not None:
            place = (calibrated["false_positive_rate"], calibrated["sensitivity"])
            label = f"calibrated threshold, {percent(calibrated['alpha'])} asked for"
            axes.plot(*place, "D", markersize=6.5, color=NORMAL, label=label)
        axes.set(xlabel="false-positive rate", ylabel="sensitivity")
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        axes.legend(loc="lower right")
    return drawing


def histogram_figure(
    series: Sequence[tuple[str, np.ndarray, str]], threshold: float | None
) -> Figure:
    """Draw relative frequencies of scores on one axis (as Fig. B3 of the paper).

    Args:
        series: Name, scores (n,) and colour of each class. An empty one is left out.
        threshold: The calibrated threshold, marked where there is one.

    Raises:
        ValueError: There are no scores.
    """
    from matplotlib import rc_context

    present = [(name, values, colour) for name, values, colour in series if len(values)]
    edges, logarithmic = _bins(np.concatenate([values for _, values, _ in present]))
    with rc_context(FIGURE_STYLE):
        drawing, axes = new_figure()
        for name, values, colour in present:
            weights = np.full(len(values), 1 / len(values))
            style: dict[str, Any] = {"bins": edges, "weights": weights, "color": colour}
            label = f"{name} ({len(values):,})"
            axes.hist(values, histtype="stepfilled", alpha=0.25, **style)
            axes.hist(values, histtype="step", linewidth=1.4, label=label, **style)
        if threshold is not None:
            label = f"calibrated threshold {number(threshold)}"
            axes.axvline(threshold, color=INK, linewidth=1.1, linestyle=(0, (5, 2)), label=label)
        axes.set(xlabel="anomaly score", ylabel="relative frequency")
        axes.set_xscale("log" if logarithmic else "linear")
        axes.grid(axis="x", visible=False)
        axes.legend(loc="upper right")
    return drawing


def training_figures(
    runs: Mapping[str, Sequence[Mapping[str, Any]]],
) -> list[dict[str, str]]:
    """Draw how trainings went, a figure for each quantity with the curves of all runs.

    Takes the lines of each run's ``metrics.jsonl``, by what the legend calls it. Drawn are figures
    of held-out normals, with the same of training normals dotted, and how diverse samples are.
    Returns figures as `score_figures` does.
    """
    from matplotlib import rc_context

    wanted = dict.fromkeys(
        (line["stage"], key)
        for lines in runs.values()
        for line in lines
        for key in line
        if key.endswith(HELD_OUT) or key == "diversity"
    )
    figures = []
    for stage, key in wanted:
        quantity = key.removesuffix(HELD_OUT)
        with rc_context(FIGURE_STYLE):
            drawing, axes = new_figure()
            for place, (name, lines) in enumerate(runs.items()):
                colour = SEVERAL[place % len(SEVERAL)]
                ours = [line for line in lines if line["stage"] == stage and key in line]
                if not ours:
                    continue
                steps = [line["step"] for line in ours]
                # A short run has one line alone, which is a point.
                style: dict[str, Any] = {"color": colour, "marker": "o", "markersize": 3}
                axes.plot(steps, [line[key] for line in ours], label=name, **style)
                for seen in (f"{quantity}_seen", quantity):
                    if seen != key and seen in ours[0]:
                        values = [line[seen] for line in ours]
                        axes.plot(steps, values, linestyle=":", **style)
                        break
            axes.set(xlabel=f"step of the {stage} stage", ylabel=quantity)
            axes.legend()
        caption = f"{stage}: {quantity} on held-out normals; dotted, on training normals."
        if key == quantity:
            caption = f"{stage}: diversity of samples, as a fraction of that of real images."
        figures.append(figure_of(f"{stage}-{key}", caption, drawing))
    return figures


def inline_svg(name: str, description: str, drawing: Figure) -> str:
    """Return a figure as SVG with the page's colours and letters.

    Args:
        name: Prefix of the figure's ids; no other figure of the page may have it.
        description: What a screen reader says of it.
        drawing: The figure.
    """
    from html import escape

    from markupsafe import Markup
    from matplotlib import rc_context

    stream = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with rc_context({**FIGURE_STYLE, "svg.hashsalt": name}):
        drawing.savefig(stream, format="svg", transparent=True, metadata=nothing)
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    for colour, replacement in PAGE_COLOURS.items():
        text = text.replace(colour, replacement)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(href="|url\()#', rf"\1#{name}-", text)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text)
    text = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", text)
    text = re.sub(r' (width|height)="[\d.]+pt"', "", text, count=2)
    return Markup(text.replace("<svg", f'<svg role="img" aria-label="{escape(description)}"', 1))


def figure_of(name: str, caption: str, drawing: Figure) -> dict[str, str]:
    """Return a figure of a page: its caption, and its SVG."""
    return {"caption": caption, "svg": inline_svg(name, caption, drawing)}


def new_figure() -> tuple[Figure, Axes]:
    """Return a figure of the usual size and its axes."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(4.4, 3.3), layout="constrained")
    return drawing, drawing.add_subplot()


def _bins(values: np.ndarray) -> tuple[np.ndarray, bool]:
    """Return edges of bins, logarithmic (True) where outliers would leave the rest in one bin."""
    low, high = float(values.min()), float(values.max())
    if low > 0 and high > 20 * float(np.median(values)):
        return np.geomspace(low, high, BINS + 1), True
    if high - low <= 1e-9 * abs(high):
        low, high = low - 0.5 * abs(low) - 1e-6, high + 0.5 * abs(high) + 1e-6
    return np.linspace(low, high, BINS + 1), False

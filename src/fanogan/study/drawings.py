"""The figures of a study, each as SVG for the page, and as SVG and PDF for a paper."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fanogan.amounts import share
from fanogan.report import FIGURE_STYLE, inline_svg
from fanogan.storage import write_whole
from fanogan.study.systems import SYSTEMS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, MUTED, LINE, NORMAL, ANOMALOUS = "#1d2327", "#5c666d", "#dcdfdf", "#0069a8", "#c24a0a"
ON_PAGE = {
    INK: "currentColor",
    MUTED: "var(--muted)",
    LINE: "var(--line)",
    NORMAL: "var(--normal)",
    ANOMALOUS: "var(--anomalous)",
}
STYLE: dict[Any, Any] = {
    **FIGURE_STYLE,
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"), INK),
    **dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), MUTED),
    "grid.color": LINE,
    "pdf.fonttype": 42,
}
# The paper's colours (Fig. 8 and B2), f-AnoGAN's grey in the colour of the text.
CURVES: dict[str, tuple[str, str]] = {
    "ae": ("#d1495b", "-"),
    "advae": ("#d99a00", "-"),
    "ali": ("#3a8f4d", "-"),
    "critic": ("#3d6fb6", ":"),
    "iterative": (MUTED, "--"),
    "izi_f": (INK, "-"),
    "ziz": ("#3d6fb6", "-"),
    "izi": ("#1aa3b8", "-"),
}
EDGING = "#c22d1f"  # of real images, red as in the paper

Curve = tuple[np.ndarray, np.ndarray]


def curves_figure(curves: Mapping[str, tuple[Curve, float]]) -> Figure:
    """Draw ROC curves.

    Args:
        curves: By system, the false-positive rates and sensitivities, and the AUC for the legend.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        drawing = Figure(figsize=(4.6, 4.2), layout="constrained")
        axes = drawing.add_subplot()
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
        for system, ((rates, sensitivities), auc) in curves.items():
            colour, dashes = CURVES[system]
            axes.plot(
                rates,
                sensitivities,
                color=colour,
                linestyle=dashes,
                linewidth=2.0 if system == "izi_f" else 1.4,
                label=f"{SYSTEMS[system].title} ({share(auc)})",
            )
        axes.set(
            xlabel="false-positive rate",
            ylabel="sensitivity",
            xlim=(-0.02, 1.02),
            ylim=(-0.02, 1.02),
            aspect="equal",
        )
        axes.legend(loc="lower right")
    return drawing


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of pictures: (rows, columns) or (rows, columns, 3) uint8 each, None for a gap."""

    label: str
    pictures: Sequence[np.ndarray | None]
    edged: frozenset[int] = frozenset()


def grid_figure(
    rows: Sequence[Row], blocks: Sequence[tuple[str, int]] = (), side: float = 0.48
) -> Figure:
    """Draw rows of pictures.

    Args:
        rows: All of one length.
        blocks: What the columns are, from the left: a heading and how many.
        side: Of a picture, in inches.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    across, left, top = len(rows[0].pictures), 1.5, 0.35 if blocks else 0.05
    starts = np.cumsum([0, *(count for _, count in blocks)])
    gap = 0.12
    offsets = [gap * max(0, int(np.searchsorted(starts[1:-1], c, "right"))) for c in range(across)]
    width = left + across * side + gap * max(0, len(blocks) - 1)
    height = top + len(rows) * side
    with rc_context(STYLE):
        drawing = Figure(figsize=(width, height))
        for number, row in enumerate(rows):
            bottom = height - top - (number + 1) * side
            middle = (bottom + side / 2) / height
            drawing.text(
                (left - 0.08) / width, middle, row.label, ha="right", va="center", fontsize=7.5
            )
            for column, picture in enumerate(row.pictures):
                if picture is None:
                    continue
                place = left + column * side + offsets[column]
                axes = drawing.add_axes(
                    (place / width, bottom / height, 0.96 * side / width, 0.96 * side / height)
                )
                axes.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="none")
                axes.axis("off")
                if column in row.edged:
                    edge = Rectangle((0, 0), 1, 1, transform=axes.transAxes, fill=False)
                    edge.set(edgecolor=EDGING, linewidth=2.5)
                    axes.add_patch(edge)
        for number, (heading, count) in enumerate(blocks):
            first = int(starts[number])
            centre = left + (first + count / 2) * side + offsets[first]
            drawing.text(
                centre / width, 1 - 0.16 / height, heading, ha="center", va="center", fontsize=7.5
            )
    return drawing


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A figure on the page: its file's name, what it shows, and its SVG."""

    name: str
    title: str
    caption: str
    svg: str


def keep(folder: Path, name: str, title: str, caption: str, drawing: Figure) -> Drawn:
    """Write a figure as SVG and PDF, and make it ready for the page."""
    from markupsafe import Markup
    from matplotlib import rc_context

    metadata: dict[str, dict[str, None]] = {
        "svg": dict.fromkeys(("Date", "Creator")),
        "pdf": dict.fromkeys(("CreationDate", "Creator", "Producer")),
    }
    for kind, nothing in metadata.items():
        stream = io.BytesIO()
        with rc_context({**STYLE, "svg.hashsalt": name}):
            drawing.savefig(stream, format=kind, metadata=nothing)
        write_whole(folder / f"{name}.{kind}", stream.getvalue())
    svg = str(inline_svg(name, caption, drawing))
    for colour, replacement in ON_PAGE.items():
        svg = svg.replace(colour, replacement)
    return Drawn(name, title, caption, Markup(svg))

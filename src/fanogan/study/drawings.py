"""The figures of a study, each as SVG for the page, and as SVG and PDF for a paper."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fanogan.report import FIGURE_STYLE, inline_svg
from fanogan.storage import write_whole
from fanogan.study.systems import SYSTEMS
from fanogan.text import share

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, MUTED, LINE, NORMAL, ANOMALOUS = "#1d2327", "#5c666d", "#dcdfdf", "#0069a8", "#c24a0a"
PAGE_COLOURS = {
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
EDGE = "#c22d1f"  # around real images, red as in the paper


def curves_figure(rates: np.ndarray, curves: Mapping[str, tuple[np.ndarray, float]]) -> Figure:
    """Draw ROC curves.

    Args:
        rates: The false-positive rates of all curves.
        curves: Each system's sensitivities at them, and its AUC for the legend.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=(4.6, 4.2), layout="constrained")
        axes = figure.add_subplot()
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
        for name, (sensitivities, auc) in curves.items():
            colour, dashes = CURVES[name]
            axes.plot(
                rates,
                sensitivities,
                color=colour,
                linestyle=dashes,
                linewidth=2.0 if name == "izi_f" else 1.4,
                label=f"{SYSTEMS[name].title} ({share(auc)})",
            )
        axes.set(xlabel="false-positive rate", ylabel="sensitivity", aspect="equal")
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        axes.legend(loc="lower right")
    return figure


@dataclasses.dataclass(frozen=True)
class PictureRow:
    """A row of pictures: (rows, columns) or (rows, columns, 3) uint8 each, None for a gap.

    ``edged`` are the columns of those with a red edge.
    """

    label: str
    pictures: Sequence[np.ndarray | None]
    edged: frozenset[int] = frozenset()


def grid_figure(rows: Sequence[PictureRow], blocks: Sequence[tuple[str, int]] = ()) -> Figure:
    """Draw rows of pictures.

    Args:
        rows: All of one length.
        blocks: Headings over the columns, from the left: each a text and how many columns.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    # In inches, the side that of a picture.
    side, gap, left, top = 0.48, 0.12, 1.5, 0.35 if blocks else 0.05
    starts = np.cumsum([0, *(count for _, count in blocks)])
    places = [
        left + column * side + gap * max(0, int(np.searchsorted(starts[1:-1], column, "right")))
        for column in range(len(rows[0].pictures))
    ]
    width = left + len(places) * side + gap * max(0, len(blocks) - 1)
    height = top + len(rows) * side
    small: dict[str, Any] = {"va": "center", "fontsize": 7.5}
    with rc_context(STYLE):
        figure = Figure(figsize=(width, height))
        for number, row in enumerate(rows, 1):
            bottom = height - top - number * side
            middle = (bottom + side / 2) / height
            figure.text((left - 0.08) / width, middle, row.label, ha="right", **small)
            for column, (picture, place) in enumerate(zip(row.pictures, places, strict=True)):
                if picture is None:
                    continue
                axes = figure.add_axes(
                    (place / width, bottom / height, 0.96 * side / width, 0.96 * side / height)
                )
                axes.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="none")
                axes.axis("off")
                if column in row.edged:
                    edge = Rectangle((0, 0), 1, 1, transform=axes.transAxes, fill=False)
                    edge.set(edgecolor=EDGE, linewidth=2.5)
                    axes.add_patch(edge)
        for (heading, count), start in zip(blocks, starts, strict=False):
            centre = (places[start] + count / 2 * side) / width
            figure.text(centre, 1 - 0.16 / height, heading, ha="center", **small)
    return figure


def save_figure(
    folder: Path, name: str, title: str, caption: str, figure: Figure
) -> dict[str, str]:
    """Write a figure as SVG and PDF; return ``title``, ``caption`` and the ``svg`` for the page."""
    from markupsafe import Markup
    from matplotlib import rc_context

    unwanted = {"svg": ("Date", "Creator"), "pdf": ("CreationDate", "Creator", "Producer")}
    for kind, keys in unwanted.items():
        stream = io.BytesIO()
        with rc_context({**STYLE, "svg.hashsalt": name}):
            figure.savefig(stream, format=kind, metadata=dict.fromkeys(keys))
        write_whole(folder / f"{name}.{kind}", stream.getvalue())
    svg = str(inline_svg(name, caption, figure))
    for colour, variable in PAGE_COLOURS.items():
        svg = svg.replace(colour, variable)
    return {"title": title, "caption": caption, "svg": Markup(svg)}

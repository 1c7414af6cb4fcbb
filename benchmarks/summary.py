"""The first table of docs/benchmarks.md, from the tables of all data sets in the details.

Run it after any of the scripts that write those.

    python benchmarks/summary.py
"""

from __future__ import annotations

from collections.abc import Iterator

from tables import DOCS, SUMMARY, markdown, write_section

METHODS = ("f-AnoGAN", "f-AnoGAN (A)")
AUTOENCODER = "autoencoder of equal cost"
UNTRAINED = ("untrained", "untrained networks")
NO_NETWORK = (
    "score inverted (−A)",
    "brightness",
    "darkness",
    "low contrast",
    "low gradient",
    "three statistics",
    "row means as z-scores",
    "columns not seen clearly",
    "shape",
    "PCA residual",
    "amplitude",
    "steepness",
    "distance to the mean normal beat",
    "loudness",
    "crest",
    "share above 150 Hz",
    "share above 20 Hz",
    "longest flat run",
    "volume of the shape",
    "surface",
    "surface over volume",
    "distance to the mean normal shape",
)
# The section, which of its tables that have a row of f-AnoGAN, the column (from behind: negative),
# what was trained on and what was tested.
ROWS = (
    ("mnist", 0, -1, "MNIST, one digit", "the other nine, mean of ten digits"),
    ("oct_pictures", 0, 1, "Kermany, single B-scans", "Kermany, all ill, by picture"),
    ("oct_pictures", 4, 1, "OCTDL, single B-scans", "OCTDL, all ill, by picture"),
    ("oct_pictures", 1, 1, "Kermany, single B-scans", "OCTDL, all ill, by picture"),
    ("oct_pictures", 3, 1, "OCTDL, single B-scans", "Kermany, all ill, by picture"),
    ("oct_pictures", 2, 1, "Kermany, single B-scans", "six eyes with edema, any fluid, by patch"),
    ("oct, small", 0, 1, "two healthy eyes, flattened", "six eyes with edema, any fluid, by patch"),
    ("oct, small", 0, 6, "two healthy eyes, flattened", "the same by pixel"),
    ("oct_patches, healthy", 0, 1, "two healthy eyes, not flattened", "any fluid, by patch"),
    ("pneumoniamnist", 0, 1, "normal chests", "pneumonia, by picture"),
    ("chest_xray", 0, 1, "normal chests at 224×224", "pneumonia, by picture"),
    ("lgg", 0, 1, "brain MRI without glioma", "glioma, by slice"),
    ("lgg", 1, 1, "brain MRI without glioma", "glioma, by pixel"),
    ("brain_tumor", 0, 1, "normal brain MRI", "tumour, by slice, as published"),
    ("brain_tumor", 0, 2, "normal brain MRI", "the same without leaks"),
    ("signals", 0, 1, "normal heart beats (MIT-BIH)", "ventricular ones of other people, by beat"),
    ("signals", 0, 2, "normal heart beats (MIT-BIH)", "other abnormal ones, by beat"),
    ("signals, ecg", 0, 1, "the same records, eight seconds", "inserted changes (synthetic)"),
    ("heart sounds", 0, 1, "normal heart sounds", "abnormal ones, by recording"),
    (
        "volumes, adrenal",
        0,
        1,
        "normal adrenal glands, shapes of 28³",
        "those with a mass, by volume",
    ),
    ("volumes, vessels", 0, 1, "made-up vessels, in three dimensions", "nodules, by volume"),
    ("volumes, vessels", 0, 2, "the same slice by slice, at equal cost", "nodules, by volume"),
    ("volumes, vessels", 0, 3, "made-up vessels, in three dimensions", "nodules, by voxel"),
    ("volumes, vessels", 0, 4, "the same slice by slice, at equal cost", "nodules, by voxel"),
)


def main() -> None:
    """Write the table."""
    rows = []
    for section, number, column, learned, tested in ROWS:
        found = [*tables_of(section)][number]
        best = max(
            (float(found[name][column].split()[0]), name)
            for name in NO_NETWORK
            if name in found and found[name][column] != "–"
        )
        method, untrained = (
            next((plain(found[name][column]) for name in names if name in found), "–")
            for names in (METHODS, UNTRAINED)
        )
        ahead = "ahead" if float(method.split()[0]) > best[0] else "**behind**"
        beside = plain(found[AUTOENCODER][column]) if AUTOENCODER in found else "–"
        bar = f"{best[0]:.3f} ({best[1]})"
        rows.append([learned, tested, method, bar, ahead, beside, untrained])
    header = ["trained on", "tested on", "f-AnoGAN", "best without a network", ""]
    header += [AUTOENCODER, "untrained"]
    write_section("summary", markdown(header, rows), SUMMARY)


def tables_of(section: str) -> Iterator[dict[str, list[str]]]:
    """The tables of a section that have a row of f-AnoGAN: cells by the first of each row."""
    page = DOCS.read_text(encoding="utf-8")
    text = page.split(f"<!-- {section}: begin -->")[1].split(f"<!-- {section}: end -->")[0]
    for block in text.split("\n\n"):
        lines = [
            [cell.strip(" *") for cell in line.strip("|").split("|")]
            for line in block.splitlines()
            if line.startswith("|")
        ]
        table = {cells[0].replace("_", " "): cells for cells in lines}
        if any(name in table for name in METHODS):
            yield table


def plain(cell: str) -> str:
    """A cell without its interval."""
    return cell.split(" (")[0]


if __name__ == "__main__":
    main()

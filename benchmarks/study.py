"""Tables of docs/study.md, from the folder of a finished study.

fanogan study runs/study/phantoms --recipe phantom --seeds 3 --out runs/study/phantom
python benchmarks/study.py phantom runs/study/phantom
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tables import ROOT, conditions, markdown, write_section

from fanogan.study import Finding, Study, Table, amount, findings, signed, tables

DOCS = ROOT / "docs" / "study.md"
WORDS = {"f_score": "F-score", "auc": "AUC"}


def main() -> None:
    """Write a section of the docs."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("section", choices=["phantom", "phantom_small", "oct", "kermany", "octdl"])
    parser.add_argument("study", type=Path)
    options = parser.parse_args()
    study = Study(options.study)
    numbers = json.loads((options.study / "tables" / "numbers.json").read_text())
    timed = json.loads((options.study / "times.json").read_text())
    parts = [
        circumstances(study, numbers),
        claims(findings(study)),
        *(table_text(table) for table in tables(study)),
        residuals(study),
        alarms(numbers),
        times(study, timed),
        smoothness(numbers),
        raters(numbers),
    ]
    write_section(options.section, "\n\n".join(filter(None, parts)), DOCS)


def circumstances(study: Study, numbers: Mapping[str, Any]) -> str:
    """Return data, recipe, seeds, time, machine and commit in words."""
    scored, now = study.first_tested(), conditions()
    data = study.successes[0]["fingerprint"]
    seeds = sorted({outcome["seed"] for outcome in study.outcomes})
    minutes = [outcome["minutes"] for outcome in study.successes]
    # Several may have been trained at once; a system that was resumed has no minutes.
    told = "" if None in minutes else f"{sum(minutes) / len(seeds):.0f} minutes a seed, added up, "
    unit = "patches" if scored.unit == "patch" else f"{scored.unit}s"
    return (
        f"Trained on {data['images']:,} images of {data['subjects']:,} subjects, "
        f"{data['held_out_images']:,} of {data['held_out_subjects']:,} held out; tested on "
        f"{len(scored.keys):,} {unit} of {len(set(scored.subjects)):,} subjects, "
        f"{int(scored.labels.sum()):,} anomalous. Recipe `{study.settings['recipe']['name']}`, "
        f"seeds {', '.join(map(str, seeds))}, last checkpoint, {told}"
        f"on {now['machine']}, torch {now['torch']}, commit {now['commit']}."
    )


def claims(found: Sequence[Finding]) -> str:
    """Return what is found of the paper's claims, sentence by sentence."""
    return "\n".join(f"- {finding.sentence}" for finding in found)


def table_text(table: Table) -> str:
    """Return one table, with the paper's AUC in its last column."""
    header = [
        "system",
        *(WORDS.get(name, name) for name in table.columns),
        "95 % of the AUC",
        "AUC − izi_f's (95 %)",
        "untrained",
        "multiply-adds",
        "the paper's AUC",
    ]
    rows = [
        [
            row["title"],
            *(
                mean(row[name], row[f"{name}_spread"])
                + (f" ({mean(row['beside'][name], None)})" if "beside" in row else "")
                for name in table.columns
            ),
            edges(row["auc_low"], row["auc_high"]),
            difference(row),
            mean(row["untrained"], None),
            "–" if row["multiply_adds"] is None else amount(row["multiply_adds"]),
            "–" if not row["paper"] else f"{row['paper']['auc']:.4f}",
        ]
        for row in table.rows
    ]
    failed = [
        f"{row['title']}, seed {seed}, failed: {why}"
        for row in table.rows
        for seed, why in row["failed"].items()
    ]
    text = f"### {table.title}\n\n{table.about}\n\n{markdown(header, rows)}"
    return "\n\n".join([text, *failed])


def residuals(study: Study) -> str:
    """Return the mean residual of normal and of anomalous images, by system."""
    rows = []
    for name, system in study.systems.items():
        seeds = study.seeds(name)
        if not seeds or system.on_subset or system.networks_of or system.detector == "critic":
            continue
        tested = [study.scored(name, seed) for seed in seeds]
        normal, anomalous = (
            np.mean([scored.image[scored.labels == label].mean() for scored in tested])
            for label in (0, 1)
        )
        rows.append(
            [system.title, f"{normal:.4f}", f"{anomalous:.4f}", f"{anomalous / normal:.2f}"]
        )
    table = markdown(["system", "normal", "anomalous", "ratio"], rows)
    return (
        "### What is left of an image\n\nMean image residual A_R of normal and of anomalous test "
        f"images; mean over seeds.\n\n{table}"
    )


def alarms(numbers: Mapping[str, Any]) -> str:
    """Return false alarms on normals at the calibrated threshold."""
    rows = [
        [row["title"], f"{100 * row['asked']:g} %", f"{100 * row['rate']:.1f} %", str(row["seeds"])]
        for row in numbers["false_positive_rates"]
    ]
    if not rows:
        return ""
    table = markdown(["system", "asked for", "reached", "seeds"], rows)
    return f"### False alarms on normals, at the calibrated threshold\n\n{table}"


def times(study: Study, timed: Mapping[str, Any]) -> str:
    """Return milliseconds an image."""
    each = timed["milliseconds"]
    own = each.get("izi_f")
    rows = [
        [study.systems[name].title, f"{value:.3g}", "–" if own is None else f"{value / own:,.3g}"]
        for name, value in sorted(each.items(), key=lambda item: item[1])
    ]
    return (
        f"### Time per image\n\nNetworks alone, {timed['batch']} images of "
        f"{'×'.join(map(str, timed['sides']))} in one batch, {timed['threads']} thread(s) on "
        f"{timed['device']}, one after the other.\n\n"
        f"{markdown(['system', 'milliseconds', 'of f-AnoGAN’s'], rows)}"
    )


def smoothness(numbers: Mapping[str, Any]) -> str:
    """Return how smooth the latents are."""
    rows = [
        [name, f"{means['largest']:.2f}", f"{means['length']:.2f}", str(means["paths"])]
        for name, means in numbers["smoothness"].items()
    ]
    if not rows:
        return ""
    header = ["between", "largest step over mean step", "length over direct distance", "paths"]
    return f"### Smoothness of the latents\n\n{markdown(header, rows)}"


def raters(numbers: Mapping[str, Any]) -> str:
    """Return the accuracy of the small classifier, seed by seed."""
    rows = [
        [str(row["seed"]), *(f"{row[key]:.3f}" for key in ("accuracy", "of_real", "of_generated"))]
        for row in numbers["raters"]
    ]
    if not rows:
        return ""
    table = markdown(["seed", "accuracy", "of real images", "of generated"], rows)
    return f"### A rater that anyone can repeat\n\n{table}"


def mean(value: float | None, spread: float | None) -> str:
    """Return mean ± standard deviation."""
    if value is None:
        return "–"
    return f"{value:.3f}" if spread is None else f"{value:.3f} ± {spread:.3f}"


def edges(low: float | None, high: float | None) -> str:
    """Return an interval."""
    return "–" if low is None or high is None else f"{low:.3f} to {high:.3f}"


def difference(row: Mapping[str, Any]) -> str:
    """Return the paired difference, with its interval."""
    if row["difference"] is None:
        return "–"
    low, high = row["difference_low"], row["difference_high"]
    within = "" if low is None else f" ({signed(low)} to {signed(high)})"
    return f"{signed(row['difference'])}{within}"


if __name__ == "__main__":
    main()

"""Commands for a model in use: what it is shown, and its calibration with other normals."""

from __future__ import annotations

import dataclasses
import json as json_format
import sys
from collections.abc import Sequence
from pathlib import Path

from fanogan.cli import console
from fanogan.cli.arguments import (
    UsageError,
    check_alpha,
    pictures_as,
    spacing_in,
    value_errors_as_usage,
)
from fanogan.cli.console import say

SHIFTED = 3
"""The exit status of ``drift`` where the last period has shifted."""


def drift(
    records: Sequence[Path] = (),
    out: Path = Path("drift.html"),
    against: Path | None = None,
    alpha: float = 0.01,
    json: bool = False,
) -> None:
    """Tell whether a model is still shown what it was calibrated on; exit status 3 where not.

    Example: fanogan drift results --out drift.html

    Args:
        records: folders that score has written, or records of serve --drift, of one model; they are
            counted together.
        out: the page to write.
        against: a record or results of a time that was in order, in place of the held-out normals;
            for where patients come, whose scores aren't those of normals.
        alpha: the share of periods that may show a shift by chance.
        json: print distances and intervals as JSON in place of sentences.
    """
    from fanogan.calibration import periods
    from fanogan.report import drift_sentences, write_drift_page
    from fanogan.scoring import read_drift

    check_alpha(alpha)
    if not records:
        raise UsageError("no record: fanogan drift RESULTS_OR_RECORD …")
    record, beside = read_drift(records), "held-out normals"
    normals = record.reference.tally
    if against:
        read_drift([*records, against])  # of one model
        normals, beside = read_drift([against]).everything, "images of an earlier time"
        if not normals.images:
            raise UsageError(f"{against}: nothing is recorded in it yet; give another")
    found = periods(record, normals, alpha)
    write_drift_page(out, record, found, normals, alpha, beside)
    told = [period for period in found if period.shifts]
    shifted = bool(told and told[-1].shifted)
    if json:
        shown = [{**dataclasses.asdict(each), "shifted": each.shifted} for each in found]
        for each in shown:
            each["images"] = each.pop("tally")["images"]
        values = {"model": record.model, "alpha": alpha, "shifted": shifted, "periods": shown}
        print(json_format.dumps(values, indent=1))
    else:
        first, *others = drift_sentences(found, normals, alpha, beside)
        say(first, "bold yellow" if shifted else "")
        for sentence in others:
            say(sentence)
        say(f"the page: {out}")
    if shifted:
        sys.exit(SHIFTED)


def calibrate(
    model: Path,
    normals: Sequence[str],
    out: Path,
    groups: str | None = None,
    bscans: bool = False,
    volumes: bool = False,
    spacing: str | None = None,
    device: str = "auto",
) -> None:
    """Calibrate a model anew, with normals that it wasn't trained on.

    Example: fanogan calibrate runs/retina scans/healthy --out models/retina-2

    Args:
        model: a run folder or a model folder.
        normals: folders, files or globs of normal images, such as another scanner's; they take the
            place of those that fit has held out.
        out: the model folder to write.
        groups: how subjects are named, as for fit.
        bscans: the pictures of a folder are single B-scans of the retina, as for prepare.
        volumes: the pictures of a folder are a volume of the retina, as for prepare.
        spacing: of retinal OCT, as for prepare; by default the one that the model was trained with.
        device: auto, cpu, cuda, one of several GPUs as cuda:1, or mps.
    """
    from fanogan.detectors import Detector
    from fanogan.scoring import recalibrate

    if not normals:
        raise UsageError("no normal images: fanogan calibrate MODEL NORMALS --out NEW")
    with value_errors_as_usage():
        trained = Detector.load(model, device=device).model
    pictures, lengths = pictures_as(bscans, volumes), spacing_in(spacing)
    with console.status("calibrating"):
        scans = list(
            trained.preprocessing.read(
                list(normals), groups=groups, pictures=pictures, spacing=lengths
            )
        )
        calibrated = recalibrate(trained, scans)
        calibrated.save(out)
    console.say_calibration(calibrated, 0.05)
    say(f"model: {out}")

"""The command that learns from normal images, and resumes a run of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fanogan.cli import bars, console
from fanogan.cli.arguments import (
    UsageError,
    pictures_as,
    settings_in,
    spacing_in,
    value_errors_as_usage,
)
from fanogan.cli.console import say

if TYPE_CHECKING:
    from fanogan.recipes import Recipe


def fit(
    normals: Sequence[str] = (),
    recipe: str = "small",
    set: Sequence[str] = (),
    detector: str | None = None,
    gan: str | None = None,
    out: Path | None = None,
    resume: Path | None = None,
    groups: str | None = None,
    bscans: bool = False,
    volumes: bool = False,
    spacing: str | None = None,
    seed: int = 0,
    device: str = "auto",
    devices: int = 1,
    logger: str = "tensorboard",
    skip_bad: bool = False,
    dry_run: bool = False,
) -> None:
    """Learn from normal images; writes a run folder with the model in it.

    Example: fanogan fit scans/healthy --recipe small --out runs/retina

    Args:
        normals: folders, files or globs of normal images.
        recipe: paper, overnight, small, smoke, or a YAML file of your own.
        set: fields of the recipe to change, such as base_width=16 critic_updates=5000; an unknown
            one is answered with the list.
        detector: a detector's name; an unknown one is answered with the list. Without it, the
            recipe's encoder_loss names one, by default izi_f, which is f-AnoGAN.
        gan: a run or model folder whose GAN is used, instead of training one.
        out: the run folder to make.
        resume: a run folder to resume, in place of NORMALS, --recipe and --out.
        groups: how subjects are named, if not by folders: a CSV file with the columns path and
            subject, or a regular expression whose first group is the subject.
        bscans: the pictures of a folder are single B-scans of the retina, as for prepare.
        volumes: the pictures of a folder are a volume of the retina, as for prepare.
        spacing: of retinal OCT, as for prepare; the model keeps it.
        seed: of the split, the weights and all of training.
        device: auto, cpu, cuda, one of several GPUs as cuda:1, or mps.
        devices: how many GPUs (or processes) train together; torchrun's, where that starts them,
            on one machine or several.
        logger: where figures go besides metrics.jsonl: tensorboard, csv, mlflow or wandb.
        skip_bad: leave out files that can't be read, instead of stopping.
        dry_run: only say what would be done and how long it would take.
    """
    from fanogan.data import Normals
    from fanogan.detectors import new_detector, seconds_to_fit
    from fanogan.recipes import load_recipe
    from fanogan.report import describe
    from fanogan.training import (
        RunFolder,
        by_each,
        check_tracker,
        fabric_of,
        launched,
        read_metrics,
        standing,
    )

    if resume:
        given = (normals, out, groups, bscans, volumes, spacing, detector, gan, skip_bad, set)
        if any(given) or (recipe, seed, logger) != ("small", 0, "tensorboard"):
            raise UsageError(
                f"{resume}: a run is resumed as it was begun; give --resume without images, --out, "
                "--recipe, --set, --detector, --gan, --groups, --bscans, --volumes, --spacing, "
                "--seed, --logger and --skip-bad"
            )
        chosen, seed, origin, detector, gan = _begun(resume)
        normals = origin["normals"]
        # Runs that were begun before this could be said have neither of the two.
        reading = {"pictures": "auto", "spacing": None, **origin}
        del reading["normals"]
        out = resume
    else:
        if not normals:
            raise UsageError("no normal images: fanogan fit NORMALS --out RUN")
        reading = {
            "groups": groups,
            "pictures": pictures_as(bscans, volumes),
            "spacing": spacing_in(spacing),
            "skip_bad": skip_bad,
        }
        settings = settings_in(set)
        if detector and "encoder_loss" in settings:
            raise UsageError("--detector and --set encoder_loss each name a detector: give one")
        chosen = load_recipe(recipe, **settings)
        if not out and not dry_run:
            raise UsageError("no run folder: give --out RUN")
        check_tracker(logger)
        if out:
            RunFolder(out)  # refused now, not after the images are read
    started = launched()
    if started and devices not in (1, started):
        raise UsageError(
            f"--devices {devices}: torchrun has started {started} processes; leave --devices out"
        )
    with value_errors_as_usage():
        name = detector or chosen.encoder_loss
        learner = new_detector(name, chosen, seed=seed, device=device, devices=started or devices)

    def read_normals() -> Normals:
        with bars.reading_bar("reading") as on_scan:
            return Normals.read(list(normals), chosen, seed=seed, on_scan=on_scan, **reading)

    # Of processes that wait for each other already, none ends alone.
    read = (
        by_each(fabric_of(learner.device, chosen, started), read_normals)
        if started
        else read_normals()
    )
    for line in read.summary.splitlines():
        say(line)
    for note in read.notes:
        say(f"note: {describe(note)}", "yellow")
    expected: dict[str, float] = {}  # of a run that is resumed, stages may be done
    if dry_run or not resume:
        with console.status("timing a few updates"):
            expected = seconds_to_fit(learner, read, gan=gan)
        within = "" if chosen.precision == "fp32" else f", in {chosen.precision}"
        seconds = bars.duration(sum(expected.values()))
        included = ", calibration included" if learner.exportable else ""
        say(f"about {seconds} on this machine{within}{included}")
    if dry_run:
        return
    with bars.training_bars(expected) as progress:
        learner.fit(read, gan=gan, out=out, resume=bool(resume), logger=logger, progress=progress)
    console.say_calibration(learner.model, 0.05)
    if stands := out and standing(read_metrics(out)):
        say(stands)
    about = f": {chosen.about}" if chosen.about else ""
    say(f"model: {out}/model · recipe {chosen.name}{about}")


def _begun(run: Path) -> tuple[Recipe, int, dict[str, Any], str | None, str | None]:
    """Return recipe, seed, images, detector and GAN that a run was begun with."""
    from fanogan.recipes import Recipe
    from fanogan.storage import BadFolder
    from fanogan.training import RunFolder

    config = RunFolder(run, resume=True).config
    try:
        recipe, seed, origin = Recipe.from_dict(config["recipe"]), config["seed"], config["origin"]
    except (KeyError, AttributeError) as error:
        raise BadFolder(f"{run}: damaged, its config.yaml has no {error}; begin anew") from None
    gan, gan_path = config.get("gan"), config.get("gan_path")
    if origin is None or (gan and not gan_path):
        what = "arrays" if origin is None else "a GAN of your own"
        raise UsageError(
            f"{run}: this run was begun in Python, with {what}; resume it there, with "
            "fit(normals, out=…, resume=True)"
        )
    return recipe, seed, origin, config.get("detector"), gan_path or None

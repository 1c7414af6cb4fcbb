"""The commands: each is a function, and what it says when it is done.

Signatures and docstrings are the options and help. Heavy libraries are imported inside, so that
``fanogan --help`` answers at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fanogan.cli import bars, console
from fanogan.cli.arguments import (
    UsageError,
    check_alpha,
    check_dicom,
    labels_in,
    maps_as,
    pictures_as,
    scans_in,
    spacing_in,
    value_errors_as_usage,
)
from fanogan.cli.cluster import check_cluster, score_on_ray
from fanogan.cli.console import say
from fanogan.cli.several import devices_for, score_in_parts
from fanogan.text import harmless

if TYPE_CHECKING:
    from fanogan.retina import PicturesAs
    from fanogan.scoring import Model

RESEARCH_ONLY = "Research use only, not a medical device."


def prepare(
    scans: Sequence[str],
    out: Path,
    groups: str | None = None,
    bscans: bool = False,
    volumes: bool = False,
    spacing: str | None = None,
    recipe: str = "small",
) -> None:
    """Flatten volumes of retinal OCT once, and keep them for fit and score.

    Example: fanogan prepare exports --out prepared.zarr

    Args:
        scans: folders, files or globs of OCT: volumes, or single B-scans.
        out: the store to make or to resume; its steps.png shows what was done.
        groups: how subjects are named, as for fit.
        bscans: the pictures of a folder are single B-scans; without this and --volumes, they are
            single where their sizes differ or their names hold no running number.
        volumes: the pictures of a folder, or of a folder and subject, are the B-scans of a volume.
        spacing: millimetres between B-scans, rows and columns where files don't say, such as
            0.12,0.0039,0.0115; leave out a number that isn't known.
        recipe: the recipe that fit will be given; it sets the flat area.
    """
    from fanogan.recipes import load_recipe
    from fanogan.retina import FlatSpace, find_volumes, read_store, steps_figure
    from fanogan.retina import prepare as prepare_store
    from fanogan.storage import write_whole

    if not scans:
        raise UsageError("no scans: fanogan prepare SCANS --out STORE")
    chosen = load_recipe(recipe)
    if chosen.is_signal or chosen.is_volume:
        raise UsageError(
            f"recipe {chosen.name}: only retinal OCT is prepared, and this recipe takes signals or "
            "volumes as they are; give them to fit"
        )
    pictures, known = pictures_as(bscans, volumes), spacing_in(spacing)
    with console.status("looking for volumes"):
        count = len(find_volumes(list(scans), groups, pictures=pictures))
    with bars.volumes_bar(count) as on_volume:
        summary = prepare_store(
            list(scans),
            out,
            space=FlatSpace(chosen.flat_rows, chosen.flat_base, chosen.stretch_retina),
            groups=groups,
            pictures=pictures,
            spacing=known,
            on_volume=on_volume,
        )
    if not (out / "steps.png").exists():  # a picture of the steps on the first volume
        first = next(read_store(out))
        write_whole(out / "steps.png", steps_figure(first, len(first.pixels) // 2, chosen.window))
    console.say_prepared(summary, out)


def score(
    model: Path,
    images: Sequence[str] = (),
    out: Path = Path("results"),
    list: str | None = None,
    shard: str | None = None,
    alpha: float = 0.05,
    groups: str | None = None,
    bscans: bool = False,
    volumes: bool = False,
    spacing: str | None = None,
    device: str = "auto",
    devices: int = 1,
    on: str | None = None,
    engine: str = "torch",
    precision: str = "fp32",
    skip_bad: bool = False,
    scores_only: bool = False,
    maps: str = "tiff",
    dicom: bool = False,
) -> None:
    """Score images: a table, maps, overlays and a page to look at.

    Example: fanogan score runs/retina scans/new --out results

    Args:
        model: a run folder or a model folder.
        images: folders, files or globs of images, or URLs of these, such as s3://bucket/scans.
        out: the folder for scores.csv, maps/, overlays/ and report.html.
        list: a file that lists the images in place of IMAGES, or - for standard input; a path a
            line, paths with NULs between them, or a CSV file with the columns path and subject.
        shard: score only a part of the images, such as 3/100, the third of a hundred; merge puts
            the results of all parts together.
        alpha: the false-positive rate wanted of the flags.
        groups: how subjects are named, as for fit.
        bscans: the pictures of a folder are single B-scans of the retina, as for prepare.
        volumes: the pictures of a folder are a volume of the retina, as for prepare.
        spacing: of retinal OCT, as for prepare; by default the one that the model was trained with.
        device: auto, cpu, cuda, one of several GPUs as cuda:1, or mps.
        devices: how many GPUs score at once, each a part of the images; or processes on a CPU.
        on: ray, to score by all processors of a Ray cluster, one on this machine; or ray: and the
            address of a cluster. Tables are written in Parquet too.
        engine: torch, onnxruntime, openvino, or auto, the fastest of those that are installed.
        precision: fp32; bf16, faster on processors that have it and slightly less exact; or auto,
            bf16 where this machine and the model have it.
        skip_bad: leave out files that can't be read, instead of stopping.
        scores_only: write only scores.csv and report.html; maps can take longer than scores.
        maps: the format of maps/: tiff; or nifti, one file a volume, for 3D Slicer and ITK-SNAP.
        dicom: write dicom/ too, for an archive: regions, residual and a report of each scan, as
            objects of its own study with its patient; the scans must be DICOM.
    """
    from fanogan.detectors import Detector
    from fanogan.scoring import images_done, in_precision, write_results

    check_alpha(alpha)
    if devices < 1 or (devices > 1 and shard):
        why = f"--shard {shard} is for one process" if shard else "give a number from 1"
        raise UsageError(f"--devices {devices}: {why}")
    if on:
        check_cluster(on, devices, shard, list)
    pictures, written = pictures_as(bscans, volumes), maps_as(maps, scores_only)
    check_dicom(dicom, scores_only)
    with scans_in(images, list, shard) as source:
        with value_errors_as_usage():
            several = devices_for(devices, device) if devices > 1 else []
            trained = Detector.load(model, device=device).model
        trained, chosen = in_precision(trained, precision)
        if precision != "fp32":
            say(chosen)
        if engine != "torch":
            from fanogan.export import use_engine

            with console.status("preparing the engine"):
                trained, chosen = use_engine(trained, engine)
            say(chosen)
        how: dict[str, Any] = {"alpha": alpha, "groups": groups, "pictures": pictures}
        how |= {"spacing": spacing_in(spacing), "skip_bad": skip_bad}
        how |= {"scores_only": scores_only, "maps": written, "dicom": dicom}
        files = count_images(trained, source, groups, pictures)
        if on:
            rows = score_on_ray(trained, model, source, out, on, files, **how)
        elif devices > 1:
            rows = score_in_parts(trained, model, source, out, several, files, **how)
        else:
            files = max(files - images_done(out), 0)
            with bars.counting_bar("scoring", files) as on_result:
                rows = write_results(trained, source, out, **how, on_result=on_result)
    console.say_calibration(trained, alpha)
    say("look first at:")
    console.say_scores(rows, most=3)
    drawn = "" if scores_only else f" · {out}/maps/ · {out}/overlays/"
    say(f"the page: {out}/report.html · {out}/scores.csv{drawn}")
    say(RESEARCH_ONLY)


def evaluate(
    model: Path,
    normal: Sequence[str],
    anomalous: Sequence[str],
    out: Path = Path("evaluation"),
    masks: Sequence[str] | None = None,
    mask_labels: str | None = None,
    beside: Sequence[Path] | None = None,
    alpha: float = 0.05,
    groups: str | None = None,
    bscans: bool = False,
    volumes: bool = False,
    spacing: str | None = None,
    device: str = "auto",
    skip_bad: bool = False,
    allow_seen: bool = False,
) -> None:
    """Evaluate on labelled images, beside scores that need no network.

    Example: fanogan evaluate runs/retina --normal test/healthy --anomalous test/ill --out eval

    Args:
        model: a run folder or a model folder.
        normal: normal images that were neither trained nor calibrated on.
        anomalous: anomalous images.
        out: the folder for metrics.json, scores.csv and report.html.
        masks: masks of the anomalous images, in files of the same names, non-zero where anomalous;
            OCT is then evaluated patch by patch.
        mask_labels: the labels of the masks that are anomalous, such as 1,3; all but 0 otherwise.
        beside: run or model folders of other detectors to compare with.
        alpha: the false-positive rate wanted of the calibrated threshold.
        groups: how subjects are named, as for fit; intervals resample subjects.
        bscans: the pictures of a folder are single B-scans of the retina, as for prepare.
        volumes: the pictures of a folder are a volume of the retina, as for prepare.
        spacing: of retinal OCT, as for prepare; by default the one that the model was trained with.
        device: auto, cpu, cuda, one of several GPUs as cuda:1, or mps.
        skip_bad: leave out files that can't be read, instead of stopping.
        allow_seen: evaluate on images that a model was trained or calibrated on, instead of
            stopping; the report says how many.
    """
    from fanogan.detectors import Detector, linear
    from fanogan.evaluation import evaluate as evaluate_model

    check_alpha(alpha)
    with value_errors_as_usage():
        trained = Detector.load(model, device=device).model
        others = [Detector.load(other, device=device).model for other in beside or ()]
    labels = None if mask_labels is None else labels_in(mask_labels)
    if labels and not masks:
        raise UsageError("--mask-labels chooses labels of masks: give --masks too")
    pictures = pictures_as(bscans, volumes)
    files = sum(count_images(trained, source, groups, pictures) for source in (normal, anomalous))
    passes = 2 + (linear(trained) is not None) + len(others)
    with bars.counting_bar("scoring, trained and untrained", passes * files) as on_result:
        metrics = evaluate_model(
            trained,
            list(normal),
            list(anomalous),
            out,
            masks=list(masks) if masks else None,
            mask_labels=labels,
            beside=others,
            alpha=alpha,
            groups=groups,
            pictures=pictures,
            spacing=spacing_in(spacing),
            skip_bad=skip_bad,
            allow_seen=allow_seen,
            on_result=on_result,
        )
    console.say_evaluation(metrics)
    say(f"{out}/report.html · {out}/metrics.json · {out}/scores.csv")
    say(RESEARCH_ONLY)


def demo(
    out: Path = Path("demo"),
    phantom: bool = False,
    digits: bool = False,
    signal: bool = False,
    seed: int = 0,
    device: str = "auto",
) -> None:
    """Show the whole job on real retinas: learn from healthy people, test patients.

    Example: fanogan demo --out demo

    Args:
        out: the folder for the images, the runs and the report; made anew.
        phantom: use made-up eyes instead, in which each pixel of a lesion is known.
        digits: use handwritten digits instead: one is normal, the others anomalous.
        signal: use heart beats instead, of electrocardiograms: some are ventricular.
        seed: of the split, the weights and all of training.
        device: auto, cpu, cuda, one of several GPUs as cuda:1, or mps.
    """
    from fanogan.cli.demo import Data, by_hand, run_demo

    kinds: dict[Data, bool] = {"phantom": phantom, "digits": digits, "signal": signal}
    data, *others = [*(kind for kind, is_asked in kinds.items() if is_asked), "octdl"]
    if len(others) > 1:
        raise UsageError(f"--{data} and --{others[0]} contradict each other: give one of them")
    with bars.training_bars() as progress:
        found = run_demo(out, data, seed=seed, device=device, progress=progress)
    console.say_evaluation(found)
    say(f"the report: {out}/report.html")
    say("each step by hand:")
    for command in by_hand(out, data):
        # A terminal's own line breaks are left out when a command is copied.
        console.console().print(f"  {harmless(command)}", markup=False, soft_wrap=True)
    say(RESEARCH_ONLY)


def count_images(model: Model, images: Any, groups: str | None, pictures: PicturesAs) -> int:
    """Return how many files or volumes there are to score."""
    return sum(1 for _ in model.preprocessing.find(images, groups, pictures))

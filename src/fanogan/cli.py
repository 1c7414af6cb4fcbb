"""The command line: ``fanogan demo``, ``fit``, ``score``, ``evaluate``.

Each verb is a function; its signature and docstring are the command's options and help. What is
heavy is imported inside, so that ``fanogan --help`` answers at once.
"""

from __future__ import annotations

import contextlib
import errno
import inspect
import logging
import os
import sys
from argparse import SUPPRESS
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, get_args, get_origin

from jsonargparse import ArgumentParser, DefaultHelpFormatter

from fanogan import terminal
from fanogan.terminal import say

if TYPE_CHECKING:
    from fanogan.recipes import Recipe

RESEARCH_ONLY = "Research use only, not a medical device."


class UsageError(ValueError):
    """A command that can't be carried out as it was typed, said in one sentence."""


def fit(
    normals: Sequence[str] = (),
    recipe: str = "small",
    out: Path | None = None,
    resume: Path | None = None,
    groups: str | None = None,
    seed: int = 0,
    device: str = "auto",
    devices: int = 1,
    skip_bad: bool = False,
    dry_run: bool = False,
) -> None:
    """Learn from normal images; writes a run folder with the model in it.

    Example: fanogan fit scans/healthy --recipe small --out runs/retina

    Args:
        normals: folders, files or globs of normal images.
        recipe: paper, overnight, small, smoke, or a YAML file of your own.
        out: the run folder to make.
        resume: a run folder to go on with, in place of NORMALS, --recipe and --out.
        groups: how subjects are named, if not by folders: a CSV file with the columns path and
            subject, or a regular expression whose first group is the subject.
        seed: of the split, the weights and all of training.
        device: auto, cpu, cuda or mps.
        devices: how many GPUs (or processes) train together.
        skip_bad: leave out files that can't be read, instead of stopping.
        dry_run: say what would be done and how long it would take, and stop.
    """
    from fanogan.detectors import FAnoGAN
    from fanogan.folders import RunFolder
    from fanogan.normals import Normals
    from fanogan.recipes import load_recipe

    if resume:
        if normals or out or groups or (recipe, seed) != ("small", 0):
            raise UsageError(
                f"{resume}: a run goes on as it was begun; give --resume without images, --out, "
                "--recipe, --groups and --seed"
            )
        chosen, seed, origin = _begun(resume)
        normals, groups, skip_bad = origin["normals"], origin["groups"], origin["skip_bad"]
        out = resume
    else:
        if not normals:
            raise UsageError("no normal images: fanogan fit NORMALS --out RUN")
        chosen = load_recipe(recipe)
        if not out and not dry_run:
            raise UsageError("no run folder: give --out RUN")
        if out:
            RunFolder(out)  # refused now, not after the images are read
    with _told_by_the_user():
        detector = FAnoGAN(chosen, seed=seed, device=device, devices=devices)
    with terminal.status("reading images"):
        read = Normals.read(list(normals), chosen, groups=groups, seed=seed, skip_bad=skip_bad)
    say(read.summary)
    for warning in read.warnings:
        say(f"note: {warning}", "yellow")
    if dry_run or not resume:
        with terminal.status("timing a few updates"):
            seconds = detector.seconds_to_fit(read)
        say(f"about {terminal.duration(seconds)} on this machine")
    if dry_run:
        return
    try:
        with terminal.training_bars() as progress:
            detector.fit(read, out=out, resume=bool(resume), progress=progress)
    except KeyboardInterrupt:
        say(f"stopped; go on with: fanogan fit --resume {out}")
        raise
    for unit, held_out in detector.calibration.units.items():
        say(f"calibration: {held_out.describe(0.05, unit)}")
    about = f": {chosen.about}" if chosen.about else ""
    say(f"model: {out}/model · recipe {chosen.name}{about}")


def _begun(run: Path) -> tuple[Recipe, int, dict[str, Any]]:
    """The recipe, the seed and the images that a run was begun with."""
    from fanogan.folders import BadFolder, RunFolder
    from fanogan.recipes import Recipe

    config = RunFolder(run, resume=True).config
    try:
        recipe, seed, origin = Recipe.from_dict(config["recipe"]), config["seed"], config["origin"]
    except KeyError as error:
        raise BadFolder(f"{run}: damaged, its config.yaml has no {error}; begin anew") from None
    if origin is None:
        raise UsageError(
            f"{run}: this run was begun in Python, with arrays; go on there, with "
            "fit(normals, out=…, resume=True)"
        )
    return recipe, seed, origin


def score(
    model: Path,
    images: Sequence[str],
    out: Path = Path("results"),
    alpha: float = 0.05,
    groups: str | None = None,
    device: str = "auto",
    skip_bad: bool = False,
) -> None:
    """Score images: a table, maps, overlays and a page to look at.

    Example: fanogan score runs/retina scans/new --out results

    Args:
        model: a run folder or a model folder.
        images: folders, files or globs of images.
        out: the folder for scores.csv, maps/, overlays/ and report.html.
        alpha: the false-positive rate wanted of the flags.
        groups: how subjects are named, as for fit.
        device: auto, cpu, cuda or mps.
        skip_bad: leave out files that can't be read, instead of stopping.
    """
    from fanogan.detectors import FAnoGAN
    from fanogan.results import write_results
    from fanogan.scans import find_scans

    if not images:
        raise UsageError("no images: fanogan score MODEL IMAGES --out DIR")
    _check_alpha(alpha)
    with _told_by_the_user():
        detector = FAnoGAN.load(model, device=device)
    files = len(find_scans(list(images), groups))
    with terminal.counting_bar("scoring", files) as on_result:
        rows = write_results(
            detector,
            list(images),
            out,
            alpha=alpha,
            groups=groups,
            skip_bad=skip_bad,
            on_result=on_result,
        )
    terminal.say_scores(rows)
    terminal.say_calibration(detector, alpha)
    say(f"{out}/report.html · {out}/scores.csv · {out}/maps/ · {out}/overlays/")
    say(RESEARCH_ONLY)


def evaluate(
    model: Path,
    normal: Sequence[str],
    anomalous: Sequence[str],
    out: Path = Path("evaluation"),
    masks: Sequence[str] | None = None,
    alpha: float = 0.05,
    groups: str | None = None,
    device: str = "auto",
    skip_bad: bool = False,
) -> None:
    """Evaluate on labelled images, beside scores that need no learning.

    Example: fanogan evaluate runs/retina --normal test/healthy --anomalous test/ill --out eval

    Args:
        model: a run folder or a model folder.
        normal: normal images that were not trained on.
        anomalous: anomalous images.
        out: the folder for metrics.json, scores.csv and report.html.
        masks: masks of the anomalous images, in files of the same names, non-zero where anomalous.
        alpha: the false-positive rate wanted of the calibrated threshold.
        groups: how subjects are named, as for fit; intervals resample subjects.
        device: auto, cpu, cuda or mps.
        skip_bad: leave out files that can't be read, instead of stopping.
    """
    from fanogan.detectors import FAnoGAN
    from fanogan.evaluation import evaluate as evaluate_detector
    from fanogan.scans import find_scans

    _check_alpha(alpha)
    with _told_by_the_user():
        detector = FAnoGAN.load(model, device=device)
    files = len(find_scans(list(normal), groups)) + len(find_scans(list(anomalous), groups))
    with terminal.counting_bar("scoring, trained and untrained", 2 * files) as on_result:
        found = evaluate_detector(
            detector,
            list(normal),
            list(anomalous),
            out,
            masks=list(masks) if masks else None,
            alpha=alpha,
            groups=groups,
            skip_bad=skip_bad,
            on_result=on_result,
        )
    terminal.say_evaluation(found)
    say(f"{out}/report.html · {out}/metrics.json · {out}/scores.csv")
    say(RESEARCH_ONLY)


def demo(out: Path = Path("demo"), seed: int = 0, device: str = "auto") -> None:
    """Show the whole job on handwritten digits: one digit is normal, the others are anomalous.

    Example: fanogan demo --out demo

    Args:
        out: the folder for the images, the run and the report; made anew.
        seed: of the split, the weights and all of training.
        device: auto, cpu, cuda or mps.
    """
    from fanogan.demo import run_demo

    with terminal.training_bars() as progress:
        found = run_demo(out, seed=seed, device=device, progress=progress)
    terminal.say_evaluation(found)
    say(f"the report: {out}/report.html")
    say(RESEARCH_ONLY)


VERBS: dict[str, tuple[Callable[..., None], tuple[str, ...]]] = {
    "demo": (demo, ()),
    "fit": (fit, ("normals",)),
    "score": (score, ("model", "images")),
    "evaluate": (evaluate, ("model",)),
}


def parser() -> ArgumentParser:
    """The parser, made of the verbs' signatures and docstrings."""
    from importlib.metadata import version

    whole = ArgumentParser(
        prog="fanogan",
        description="Learns what normal scans look like, and says of a new scan how far from "
        "normal it is, and where.",
        epilog="A first look: fanogan demo",
        version=version("fanogan"),
        formatter_class=_Help,
    )
    commands = whole.add_subcommands(required=True, metavar="VERB", title="verbs")
    for name, (function, positional) in VERBS.items():
        text = inspect.getdoc(function) or ""
        about, _, arguments = text.partition("\n\nArgs:\n")
        title, example = about.split("\n\n")
        command = ArgumentParser(
            prog=f"fanogan {name}", description=title, epilog=example, formatter_class=_Help
        )
        _add_arguments(command, function, positional, _argument_help(arguments))
        commands.add_subcommand(name, command, help=title)
    return whole


class _Help(DefaultHelpFormatter):
    """Says of an option what it does, and its default where it has one."""

    def _get_help_string(self, action: Any) -> str:
        # 0 is a default that is shown, though it equals False.
        is_plain = any(action.default is nothing for nothing in (None, False, SUPPRESS))
        return (action.help or "") + ("" if is_plain else " (default: %(default)s)")

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        """Leaves an example on its line, to be copied."""
        return text if text.startswith("Example:") else super()._fill_text(text, width, indent)


def _argument_help(text: str) -> dict[str, str]:
    """The lines of a docstring's Args section, by name."""
    found: dict[str, str] = {}
    name = ""
    for line in text.splitlines():
        if line.startswith("    ") and not line.startswith("     "):
            name, _, rest = line.strip().partition(": ")
            found[name] = rest
        else:
            found[name] += f" {line.strip()}"
    return found


def _add_arguments(
    command: ArgumentParser,
    function: Callable[..., None],
    positional: Sequence[str],
    texts: Mapping[str, str],
) -> None:
    """A function's parameters, with switches and lists given bare, as a shell has them."""
    types = inspect.get_annotations(function, eval_str=True)
    for name, parameter in inspect.signature(function).parameters.items():
        kind, several = _kind(types[name])
        required = parameter.default is inspect.Parameter.empty
        options: dict[str, Any] = {"help": texts[name]}
        if several:
            options["nargs"] = "*" if name in positional else "+"
        if kind is bool:
            options["action"] = "store_true"
        else:
            options["type"] = kind
            if not required and not several:
                options["default"] = parameter.default
        if name in positional:
            command.add_argument(name, **options)
        else:
            flag = f"--{name.replace('_', '-')}"
            command.add_argument(flag, required=required, **options)


def _kind(annotation: Any) -> tuple[Any, bool]:
    """The type of one value of a parameter, and whether it takes several."""
    if isinstance(annotation, UnionType):
        annotation = get_args(annotation)[0]
    several = get_origin(annotation) is Sequence
    return (get_args(annotation)[0] if several else annotation), several


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; ends the process with 0, 1 (said why), 2 (usage) or 130 (stopped)."""
    # Before torch is imported: waiting threads that spin slow a busy machine down many times over.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    given = parser().parse_args(arguments)
    verb = given.subcommand
    logging.basicConfig(
        level=logging.WARNING, format="%(message)s", handlers=[terminal.LogHandler()]
    )
    try:
        VERBS[verb][0](**given[verb])
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if not _is_said(error):
            raise
        folder = given[verb].get("out") or given[verb].get("resume")
        print(f"fanogan: {_sentence(error, folder)}", file=sys.stderr)
        sys.exit(1)


def _is_said(error: Exception) -> bool:
    """Whether an error is the user's to mend: the package's own kinds, and the system's.

    Any other is a fault of the program, and keeps its traceback.
    """
    return isinstance(error, OSError) or type(error).__module__.startswith("fanogan.")


@contextlib.contextmanager
def _told_by_the_user() -> Iterator[None]:
    """A ValueError in here is about a value that the user gave."""
    try:
        yield
    except ValueError as error:
        raise UsageError(str(error)) from error


REMEDIES = {
    errno.ENOSPC: "make room, or give another folder",
    errno.EDQUOT: "make room, or give another folder",
    errno.EFBIG: "raise the limit (ulimit -f), or give another folder",
    errno.ENOTDIR: "give a folder",
    errno.EEXIST: "give a folder",
}


def _sentence(error: Exception, folder: Path | None) -> str:
    """The error in one line; where the system names no file, it is one of ``folder``."""
    if not isinstance(error, OSError) or error.strerror is None:
        return " ".join(str(error).splitlines())
    remedy = REMEDIES.get(error.errno or 0, "check its permissions, or give another folder")
    return f"{error.filename or folder}: {error.strerror.lower()}; {remedy}"


def _check_alpha(alpha: float) -> None:
    if not 0 < alpha < 1:
        raise UsageError(f"--alpha is {alpha:g}: give a false-positive rate between 0 and 1")

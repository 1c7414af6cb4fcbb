"""The commands of the study."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fanogan.cli import console
from fanogan.cli.arguments import UsageError, settings_in, value_errors_as_usage
from fanogan.cli.commands import RESEARCH_ONLY
from fanogan.cli.console import say
from fanogan.text import harmless


def study(
    data: Path,
    recipe: str = "small",
    set: Sequence[str] = (),
    seeds: int = 3,
    out: Path = Path("study"),
    systems: Sequence[str] = (),
    device: str = "auto",
) -> None:
    """Repeat the paper's whole comparison on your data: systems, tables, figures and claims.

    Example: fanogan study scans --recipe overnight --out study

    Args:
        data: a folder that holds train (normals), normal and anomalous (for testing), and masks
            where the truth is known; each a folder, or a store that prepare made (train.zarr).
        recipe: of all systems.
        set: fields of the recipe to change, as for fit.
        seeds: how many trainings of each.
        out: the study's folder; a stopped study is resumed by the same command.
        systems: some of the paper's systems, or other detectors by their names; all of the paper's
            if left out. An unknown name is answered with the list.
        device: auto, cpu, cuda, one of several GPUs as cuda:1, or mps.
    """
    from fanogan.detectors import FAnoGAN
    from fanogan.recipes import load_recipe
    from fanogan.study import run_study, write_study_report

    if seeds < 1:
        raise UsageError(f"--seeds {seeds}: give one or more")
    chosen = load_recipe(recipe, **settings_in(set))
    with value_errors_as_usage():
        FAnoGAN(chosen, device=device)  # refused now, not by each system
    with _table() as on_state:
        outcomes = run_study(
            data,
            out,
            recipe=chosen,
            seeds=seeds,
            systems=systems or (),
            device=device,
            on_state=on_state,
        )
    for outcome in outcomes:
        if "failed" in outcome:
            where = f"{outcome['system']}, seed {outcome['seed']}"
            say(f"failed: {where}: {outcome['failed']}", "yellow")
    with console.status("writing the report"):
        page = write_study_report(out, device=device)
    say(f"{page} · {out}/tables/ · {out}/figures/")
    say(RESEARCH_ONLY)


def turing(
    model: Path | None = None,
    images: Sequence[str] = (),
    out: Path | None = None,
    seed: int = 0,
    score: Sequence[Path] = (),
    key: Path | None = None,
    device: str = "auto",
) -> None:
    """Make a visual Turing test: 50 real and 50 generated images for raters, and its scores.

    Example: fanogan turing runs/retina scans/healthy_unseen --out turing

    Args:
        model: a run folder or a model folder.
        images: folders, files or globs of normal images, which should not be training images.
        out: the folder for turing.html, which goes to the raters, and key.json, which does not;
            with --score, the folder for turing.json.
        seed: of the windows, the latents and the order of the images.
        score: the answers that the raters saved, in place of MODEL and IMAGES.
        key: the key.json of the test, with --score.
        device: auto, cpu, cuda, one of several GPUs as cuda:1, or mps.
    """
    if score:
        if model or images or not key:
            raise UsageError("give either a model and images, or --score ANSWERS with --key KEY")
        import json

        from fanogan.storage import write_whole
        from fanogan.study import SCORES, score_answers

        scores = score_answers(score, key)
        _say_turing(scores)
        if out:
            text = json.dumps(scores, indent=1, ensure_ascii=False) + "\n"
            write_whole(out / SCORES, text.encode(errors="backslashreplace"))
            say(f"{out / SCORES}")
        return
    if not (model and images and out) or key:
        raise UsageError(
            "a test is made with fanogan turing MODEL IMAGES --out DIR, and scored with fanogan "
            "turing --score ANSWERS --key KEY"
        )
    from fanogan.detectors import Detector
    from fanogan.study import EACH, KEY, PAGE, write_test

    with value_errors_as_usage():
        trained = Detector.load(model, device=device).model
    with console.status("drawing images"):
        test = write_test(trained, list(images), out, seed=seed)
    say(f"test {test}: {EACH} real and {EACH} generated images in random order")
    say(f"for the raters: {out / PAGE} · to be kept from them: {out / KEY}")


@contextlib.contextmanager
def _table() -> Iterator[Callable[[str, int, str], None]]:
    """Show the state of each system and seed of a study; as lines where there is no terminal."""
    from rich.console import RenderableType
    from rich.control import Control
    from rich.live import Live
    from rich.table import Table

    states: dict[str, dict[int, str]] = {}
    screen = console.console()

    def table() -> RenderableType:
        if not states:
            return Control()  # refused before it began
        # Copies at once: other threads add to them.
        rows = {system: dict(each) for system, each in list(states.items())}
        seeds = sorted({seed for each in rows.values() for seed in each})
        drawn = Table(box=None, padding=(0, 3, 0, 0))
        drawn.add_column("system")
        for seed in seeds:
            drawn.add_column(f"seed {seed}")
        for system, each in rows.items():
            drawn.add_row(system, *(each.get(seed, "") for seed in seeds))
        return drawn

    def on_state(system: str, seed: int, state: str) -> None:
        states.setdefault(system, {})[seed] = state
        is_outcome = state == "failed" or state.startswith("AUC")
        if not screen.is_terminal and is_outcome:
            say(f"{system}, seed {seed}: {state}")

    try:
        with Live(get_renderable=table, console=screen, refresh_per_second=2):
            yield on_state
    finally:
        if states and not screen.is_terminal:
            screen.line()  # which rich leaves out there


def _say_turing(found: Mapping[str, Any]) -> None:
    """Print the raters' shares as a table, and how far they agree."""
    from rich.markup import escape
    from rich.table import Table

    def text(share: Mapping[str, Any]) -> str:
        if share["share"] is None:
            return "–"
        low, high = share["interval"]
        return f"{share['share']:.2f} ({low:.2f} to {high:.2f})"

    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("rater", "accuracy (95 %)", "of real images", "of generated images"):
        table.add_column(name, justify="left" if name == "rater" else "right")
    majority = [{"rater": "majority", **found["majority"]}] if found["majority"] else []
    for row in [*found["raters"], *majority]:
        cells = (text(row[name]) for name in ("accuracy", "real", "generated"))
        table.add_row(escape(harmless(row["rater"])), *cells)
    console.console().print(table)
    if majority:
        say(
            f"mean accuracy of the raters {found['mean_accuracy']:.2f} · the majority leaves out "
            f"{found['majority']['ties']} ties"
        )
    for pair in found["pairs"]:
        kappa = "undefined" if pair["kappa"] is None else f"{pair['kappa']:.2f}"
        say(f"{' and '.join(pair['raters'])} agree in {text(pair['agreement'])}, Cohen's κ {kappa}")

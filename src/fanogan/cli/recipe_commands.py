"""The command that shows recipes."""

from __future__ import annotations

from collections.abc import Sequence

from fanogan.cli import bars, console
from fanogan.cli.arguments import UsageError, value_errors_as_usage


def recipes(what: Sequence[str] = (), device: str = "auto") -> None:
    """List the recipes with the time that training takes here, or show one to start from.

    Example: fanogan recipes show small > mine.yaml

    Args:
        what: show and a recipe's name, or its file, for all of its fields as YAML; nothing for
            the list.
        device: auto, cpu, cuda, one of several GPUs as cuda:1, or mps; of the estimates.
    """
    from fanogan.recipes import commented_yaml, load_recipe, recipe_names

    if what:
        if len(what) != 2 or what[0] != "show":
            raise UsageError(
                f"fanogan recipes {' '.join(what)}: give nothing for the list, or show and a "
                "recipe, such as fanogan recipes show small"
            )
        # Whole lines, as a file is to hold them.
        text = commented_yaml(load_recipe(what[1]))
        console.console().print(text, end="", markup=False, soft_wrap=True)
        return
    from fanogan.detectors import new_detector, seconds_to_fit_any

    # The longest comes last; each is shown when it is timed, since paper takes a minute or more.
    for recipe in sorted(map(load_recipe, recipe_names()), key=lambda each: each.critic_updates):
        with console.status(f"timing a few updates of {recipe.name}"), value_errors_as_usage():
            detector = new_detector(recipe.encoder_loss, recipe, device=device)
            seconds = seconds_to_fit_any(detector)
        console.say(f"{recipe.name:<10} about {bars.duration(seconds):<13} {recipe.about}")

"""A recipe as a YAML file to start from, with the comments of the fields where they are defined."""

from __future__ import annotations

import inspect
import re

import yaml

from fanogan.recipes.recipe import Recipe
from fanogan.text import harmless


def commented_yaml(recipe: Recipe) -> str:
    """Return every field of a recipe as YAML, which ``load_recipe`` reads without a base.

    Name and description are left out: a file's name is its recipe's.
    """
    lines = [
        f"# Recipe {harmless(recipe.name)}, every field. To start from it, save it as mine.yaml:",
        "# fanogan fit NORMALS --recipe mine.yaml --out RUN",
    ]
    source = inspect.getsource(Recipe)
    fields = source[source.index("    # What the networks see.") : source.index("    def ")]
    for line in fields.splitlines():
        if field := re.match(r"    (\w+): .*?(  # .*)?$", line):
            value = yaml.safe_dump(recipe.to_dict()[field[1]], default_flow_style=True)
            lines.append(f"{field[1]}: {value.splitlines()[0]}{field[2] or ''}")
        else:
            if line.startswith("    # ") and not lines[-1].startswith("#"):
                lines.append("")
            lines.extend([line.strip()] if line else [])
    return "\n".join([*lines[:2], "", *lines[2:]]).rstrip() + "\n"

"""Every setting of a run, and the recipes that ship.

A recipe is a typed dataclass; a YAML file holds what differs from its base.
"""

from fanogan.recipes.commented import commented_yaml
from fanogan.recipes.image_size import blocks_of
from fanogan.recipes.recipe import (
    BadRecipe,
    EncoderLoss,
    Precision,
    Recipe,
    Sides,
    load_recipe,
    recipe_names,
)

__all__ = [
    "BadRecipe",
    "EncoderLoss",
    "Precision",
    "Recipe",
    "Sides",
    "blocks_of",
    "commented_yaml",
    "load_recipe",
    "recipe_names",
]

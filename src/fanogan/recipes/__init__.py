"""recipes."""

from fanogan.recipes.recipe import BadRecipe, EncoderLoss, Precision, Recipe, load_recipe
from fanogan.recipes.sides import blocks_of

__all__ = [
    "BadRecipe",
    "EncoderLoss",
    "Precision",
    "Recipe",
    "blocks_of",
    "load_recipe",
]

"""A recipe is every setting of a training run; a YAML file holds what differs from its base."""

from __future__ import annotations

import dataclasses
import math
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

import yaml

from fanogan.errors import FanoganError
from fanogan.recipes.sides import blocks_of

EncoderLoss = Literal["izi_f", "izi", "ziz"]
EncoderOutput = Literal["tanh", "linear"]
Geometry = Literal["auto", "image", "retina"]
Precision = Literal["fp32", "tf32", "bf16"]
MAY_BE_ZERO = ("kappa", "checkpoint_minutes", "critic_updates", "denoising", "search_patience")

# The fields' names in version 0.1, which are still read.
FORMER_NAMES = {
    "batch": "batch_size",
    "critic_updates_per_round": "critic_updates_per_generator_update",
    "encoder_rate": "encoder_learning_rate",
    "flip": "horizontal_flip",
    "gan_rate": "gan_learning_rate",
    "held_out": "held_out_fraction",
    "latent": "latent_size",
    "penalty": "gradient_penalty_weight",
    "reestimate_statistics": "reestimate_batch_norm",
    "retina_share": "min_retina_fraction",
    "search_rate": "search_learning_rate",
    "sides": "image_size",
    "standardised": "standardise_terms",
    "stretched": "stretch_retina",
    "tick": "log_every",
    "top": "top_window_fraction",
    "width": "base_width",
}


class BadRecipe(FanoganError):
    """A recipe that can't be read or that asks for something impossible, said in one sentence."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Every setting of a run. The defaults are the paper's (recipe ``paper``).

    Sides are (rows, columns) in pixels. Lengths are counted in updates: ``critic_updates`` is
    what the paper calls iterations. See ``docs/recipes.md`` for each field's source.
    """

    name: str = "paper"
    about: str = ""
    # What the network sees.
    image_size: tuple[int, int] = (64, 64)  # of the network
    window: tuple[int, int] = (64, 64)  # of the piece of the image that is resampled to `sides`
    horizontal_flip: bool = True  # random horizontal flips in training; wrong for digits and chests
    # Retinal OCT: made straight, and seen by patches within the retina (section 3, Data).
    geometry: Geometry = "auto"  # auto: 'retina' for what only an OCT device of the eye writes
    flat_rows: int = 128  # of the flat area
    flat_base: int = 120  # its row in which the outer boundary of the retina lies
    stretch_retina: bool = False  # the retina fills the rows above the base in every column
    min_retina_fraction: float = 0.5  # least share of retina in a patch
    # Not the paper's: tried on retinal OCT, see docs/benchmarks.md.
    depth_channel: bool = False  # the row in the flat area as a second channel
    match_layers: bool = False  # a volume's grey values matched to the training normals', by depth
    score_retina_only: bool = False  # vitreous and choroid are left out of the score
    standardise_terms: bool = (
        False  # the score's terms in units of their spread on held-out normals
    )
    # Networks.
    base_width: int = 64
    latent_size: int = 128
    encoder_output: EncoderOutput = "tanh"
    # GAN training (section 2.1).
    batch_size: int = 64
    critic_updates: int = 100_000
    critic_updates_per_generator_update: int = 5
    gan_learning_rate: float = 1e-4
    gradient_penalty_weight: float = 10.0  # lambda
    # Encoder training (section 2.2).
    encoder_updates: int = 50_000
    encoder_loss: EncoderLoss = "izi_f"
    encoder_learning_rate: float = 5e-5
    kappa: float = 1.0
    denoising: float = 0.0  # share of the pixels that the encoder sees as 0 in training
    score_features: bool = False  # izi and ziz are scored by Eq. 4 too, as izi_f always is
    # The iterative search for a latent (section 3.1).
    search_updates: int = 300
    search_learning_rate: float = 0.1
    search_patience: int = 0  # stop after so many updates without a lower loss; 0: never
    # How the run goes.
    reestimate_batch_norm: bool = False  # batch-norm statistics, once after each stage
    precision: Precision = "fp32"
    log_every: int = 100  # rounds (GAN) or updates (encoder) between two lines of metrics
    checkpoint_minutes: float = 5.0
    # What is held out, and what the score of a large image is.
    held_out_fraction: float = 0.1  # share of the subjects
    top_window_fraction: float = (
        0.05  # a large image scores the mean of this share of its window scores
    )

    def __post_init__(self) -> None:
        """Refuse what can't work.

        Raises:
            BadRecipe: a number outside its range, or sides that the networks can't have.
        """
        try:
            blocks_of(self.image_size)
        except ValueError as error:
            raise BadRecipe(f"recipe {self.name}: {error}") from None
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            may_be_zero = field.name in MAY_BE_ZERO
            for number in value if isinstance(value, tuple) else (value,):
                if isinstance(number, (str, bool)):
                    continue
                if not 0 <= number < math.inf or (number == 0 and not may_be_zero):
                    least = "0 or more" if may_be_zero else "above 0"
                    raise BadRecipe(
                        f"recipe {self.name}: {field.name} is {number}, it must be a number {least}"
                    )
        if not (
            self.held_out_fraction < 1
            and self.top_window_fraction <= 1
            and self.min_retina_fraction <= 1
        ):
            raise BadRecipe(
                f"recipe {self.name}: held_out must be below 1, top and retina_share at most 1"
            )
        if self.denoising >= 1:
            raise BadRecipe(
                f"recipe {self.name}: denoising is {self.denoising}, it must be below 1"
            )
        if not self.flat_base < self.flat_rows:
            raise BadRecipe(
                f"recipe {self.name}: flat_base is {self.flat_base}, it must be a row of the "
                f"{self.flat_rows} flat ones (flat_rows)"
            )

    @property
    def rounds(self) -> int:
        """Rounds of GAN training: one generator update (not in the first) and the critic's."""
        return -(-self.critic_updates // self.critic_updates_per_generator_update)

    def but(self, **changes: Any) -> Recipe:
        """The same recipe with some fields changed."""
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain values, for YAML and JSON."""
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in dataclasses.asdict(self).items()
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Recipe:
        """The recipe of plain values; what is missing has the paper's value.

        Raises:
            BadRecipe: an unknown field, or a value of the wrong type.
        """
        hints = get_type_hints(cls)
        name = values.get("name", "without a name")
        values = {FORMER_NAMES.get(key, key): value for key, value in values.items()}
        unknown = sorted(str(key) for key in values if key not in hints)
        if unknown:
            raise BadRecipe(
                f"recipe {name}: no such field as {', '.join(unknown)}; "
                f"the fields are {', '.join(hints)}"
            )
        return cls(**{key: _typed(name, key, value, hints[key]) for key, value in values.items()})


def _typed(name: str, key: str, value: Any, hint: Any) -> Any:
    choices = get_args(hint) if getattr(hint, "__origin__", None) is Literal else ()
    if choices:
        if value in choices:
            return value
        raise BadRecipe(f"recipe {name}: {key} is {value!r}, it must be one of {choices}")
    if hint == tuple[int, int]:
        pair = (value, value) if isinstance(value, int) else value
        if isinstance(pair, (list, tuple)) and [type(side) for side in pair] == [int, int]:
            return tuple(pair)
        raise BadRecipe(f"recipe {name}: {key} is {value!r}, it must be one number or two")
    if hint is float and isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            return float(value)  # YAML reads 5e-5 as a string
        except (ValueError, OverflowError):
            pass
    if type(value) is not hint:
        raise BadRecipe(f"recipe {name}: {key} is {value!r}, it must be of type {hint.__name__}")
    return value


def recipe_names() -> list[str]:
    """The recipes that the package ships."""
    return sorted(
        entry.name.removesuffix(".yaml")
        for entry in files(__package__).iterdir()
        if entry.name.endswith(".yaml")
    )


def load_recipe(recipe: str | Path | Recipe) -> Recipe:
    """A shipped recipe by its name, or one from a YAML file.

    The file's key ``base`` names the recipe whose values it changes (default ``paper``).

    Raises:
        BadRecipe: no such recipe, or a file that isn't one.
    """
    return recipe if isinstance(recipe, Recipe) else _load(str(recipe), ())


def _load(recipe: str, above: tuple[str, ...]) -> Recipe:
    """Load one that is the base of those ``above``."""
    if recipe in above:
        raise BadRecipe(f"{above[0]}: its base leads back to {recipe}; name another base")
    name = recipe if recipe in recipe_names() else Path(recipe).stem
    try:
        values = yaml.safe_load(_text(recipe))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise BadRecipe(f"{recipe}: not a YAML file ({reason}); correct it") from None
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise BadRecipe(f"{recipe}: a recipe is a list of 'field: value' lines; correct it")
    base = values.pop("base", None)
    inherited = _load(str(base), (*above, recipe)).to_dict() if base is not None else {}
    return Recipe.from_dict({**inherited, "about": "", **values, "name": name})


def _text(recipe: str) -> str:
    if recipe in recipe_names():
        return (files(__package__) / f"{recipe}.yaml").read_text(encoding="utf-8")
    try:
        return Path(recipe).read_text(encoding="utf-8")
    except (FileNotFoundError, IsADirectoryError):
        raise BadRecipe(
            f"no recipe {recipe!r}: give one of {', '.join(recipe_names())}, "
            "or the path of a YAML file"
        ) from None
    except (OSError, ValueError) as error:
        raise BadRecipe(f"{recipe}: can't be read ({error}); give a YAML file") from None

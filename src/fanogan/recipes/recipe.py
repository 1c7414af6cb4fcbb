"""A recipe is every setting of a training run; a YAML file holds what differs from its base."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import logging
import math
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_type_hints

import yaml

from fanogan.errors import FanoganError
from fanogan.recipes.image_size import blocks_of
from fanogan.remote import copy_of, is_url

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

log = logging.getLogger(__name__)

EncoderLoss = Literal["izi_f", "izi", "ziz"]
EncoderOutput = Literal["tanh", "linear"]
Geometry = Literal["auto", "image", "retina"]
Precision = Literal["fp32", "tf32", "bf16"]
Sides = tuple[int, ...]
"""Two numbers, (rows, columns), or three, (slices, rows, columns)."""

MAY_BE_ZERO = (
    "checkpoint_minutes",
    "critic_updates",
    "denoising",
    "generator_average",
    "kappa",
    "search_patience",
)
BELOW_ONE = ("denoising", "generator_average", "held_out_fraction")
AT_MOST_ONE = ("min_retina_fraction", "top_window_fraction")

# The keys of version 0.1, which are still read.
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
    """A recipe that can't be read or asks for something impossible, said in one sentence."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Every setting of a run. The defaults are the paper's (recipe ``paper``).

    Sizes are (rows, columns) in pixels, (1, samples) for signals, (slices, rows, columns) for
    volumes in three dimensions. Training length is counted in updates: ``critic_updates`` is what
    the paper calls iterations. ``docs/recipes.md`` gives the source of each value.
    """

    name: str = "paper"
    about: str = ""

    # What the networks see.
    window: Sides = (64, 64)  # of the patch that is cut from an image
    image_size: Sides = (64, 64)  # to which that patch is resampled for the networks
    horizontal_flip: bool = True  # flip at random in training; wrong for digits and chests
    # Not in the paper.
    augment_normals: bool = False  # change their grey values and stretch them at random in training

    # Retinal OCT: flattened, and seen in patches within the retina (section 3, Data).
    geometry: Geometry = "auto"  # auto: 'retina' for what only an OCT device of the eye writes
    flat_rows: int = 128  # rows of the flattened B-scan
    flat_base: int = 120  # the row on which the outer boundary of the retina lies
    stretch_retina: bool = False  # in each column, stretch the retina to fill the rows above it
    min_retina_fraction: float = 0.5  # of a patch's pixels

    # Not in the paper: tried on retinal OCT, see docs/benchmark_details.md.
    depth_channel: bool = False  # add the row in the flattened B-scan as a second channel
    match_layers: bool = False  # match grey values to the training normals', depth by depth
    score_retina_only: bool = False  # leave vitreous and choroid out of the score
    score_shape: bool = False  # score thickness and boundaries, which flattening takes away
    standardise_terms: bool = False  # divide the score's terms by their spread on held-out normals

    # Networks.
    base_width: int = 64  # channels after the critic's first convolution
    latent_size: int = 128  # numbers in a latent z
    encoder_output: EncoderOutput = "tanh"  # tanh or linear

    # GAN training (section 2.1).
    batch_size: int = 64  # images or patches in an update
    critic_updates: int = 100_000  # in all; the paper calls them iterations
    critic_updates_per_generator_update: int = 5
    gan_learning_rate: float = 1e-4  # of Adam, for generator and critic
    gradient_penalty_weight: float = 10.0  # λ in the critic's loss
    # Not in the paper.
    augment_critic: bool = False  # change what the critic sees at random, where it overfits
    generator_average: float = 0.0  # decay of a moving average of G, with which it ends; 0: none

    # Encoder training (section 2.2).
    encoder_updates: int = 50_000
    encoder_loss: EncoderLoss = "izi_f"  # izi_f (Eq. 3), izi (Eq. 2) or ziz (Eq. 1)
    encoder_learning_rate: float = 5e-5  # of RMSprop
    kappa: float = 1.0  # weight of the feature residual, in the loss and in the score
    denoising: float = 0.0  # fraction of the pixels set to 0 in what the encoder sees in training
    score_features: bool = False  # score izi and ziz by Eq. 4 too, as izi_f always is

    # The iterative search for a latent (section 3.1).
    search_updates: int = 300  # of the detector iterative
    search_learning_rate: float = 0.1  # of Adam
    search_patience: int = 0  # stop after so many updates without a lower loss; 0: never

    # How the run proceeds.
    reestimate_batch_norm: bool = False  # re-estimate its statistics after each stage
    precision: Precision = "fp32"  # of training: fp32, tf32 or bf16
    log_every: int = 100  # rounds (GAN) or updates (encoder) between two lines of metrics
    checkpoint_minutes: float = 5.0  # between two checkpoints

    # Calibration, and the score of a large image.
    held_out_fraction: float = 0.1  # of the subjects
    # A large image or a volume scores the mean of these highest windows. auto: half of a flattened
    # B-scan's (docs/benchmark_details.md, "How windows become a picture's score"), 5 % of others'.
    top_window_fraction: float | Literal["auto"] = "auto"

    def __post_init__(self) -> None:
        """Refuse what can't work.

        Raises:
            BadRecipe: a number outside its range, or an image size that the networks can't have.
        """
        try:
            blocks_of(self.image_size)
        except ValueError as error:
            raise BadRecipe(f"recipe {self.name}: {error}") from None
        if len(self.window) != len(self.image_size):
            window, size = ("×".join(map(str, sides)) for sides in (self.window, self.image_size))
            raise BadRecipe(
                f"recipe {self.name}: window is {window} and image_size {size}: give two numbers "
                "for images, or three for volumes, in both"
            )
        if self.is_volume and self.geometry == "retina":
            raise BadRecipe(
                f"recipe {self.name}: geometry is retina, which is flattened B-scan by B-scan, and "
                "the window has three sides: give it two"
            )
        if (self.window[0] == 1) != self.is_signal:
            raise BadRecipe(
                f"recipe {self.name}: window and image_size are (1, samples) for signals, both; "
                "for images neither has one row"
            )
        if self.augment_normals and not self.can_augment_normals:
            raise BadRecipe(
                f"recipe {self.name}: augment_normals is for images without a depth channel; "
                "set it to false"
            )
        for key, value in vars(self).items():
            least = "0 or more" if key in MAY_BE_ZERO else "above 0"
            most = ""
            most = " and below 1" if key in BELOW_ONE else most
            most = " and at most 1" if key in AT_MOST_ONE else most
            for number in value if isinstance(value, tuple) else (value,):
                if not isinstance(number, (str, bool)) and not (
                    0 <= number < math.inf
                    and (number > 0 or key in MAY_BE_ZERO)
                    and (number < 1 or key not in BELOW_ONE)
                    and (number <= 1 or key not in AT_MOST_ONE)
                ):
                    raise BadRecipe(
                        f"recipe {self.name}: {key} is {number}, it must be a number {least}{most}"
                    )
        if self.flat_base >= self.flat_rows:
            raise BadRecipe(
                f"recipe {self.name}: flat_base is {self.flat_base}, it must be less than "
                f"flat_rows ({self.flat_rows})"
            )

    @property
    def can_augment_normals(self) -> bool:
        """Whether ``augment_normals`` can be set: for images without a depth channel."""
        return not (self.is_signal or self.is_volume or self.depth_channel)

    @property
    def is_signal(self) -> bool:
        """Whether it is for signals, which are images of one row."""
        return self.image_size[0] == 1

    @property
    def is_volume(self) -> bool:
        """Whether it is for volumes, seen in three dimensions."""
        return len(self.image_size) == 3

    @property
    def rounds(self) -> int:
        """Rounds of GAN training: one generator update (not in the first) and the critic's."""
        return -(-self.critic_updates // self.critic_updates_per_generator_update)

    def but(self, **changes: Any) -> Recipe:
        """Return the same recipe with some fields changed, checked as a file's are.

        Raises:
            BadRecipe: as of ``from_dict``.
        """
        return dataclasses.replace(self, **_parsed(self.name, changes))

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as plain values, for YAML and JSON."""
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in dataclasses.asdict(self).items()
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Recipe:
        """Return the recipe of plain values; what is missing has the paper's value.

        Raises:
            BadRecipe: an unknown field, or a value of the wrong type.
        """
        return cls(**_parsed(str(values.get("name", "without a name")), values))


def recipe_names() -> list[str]:
    """Return the names of the recipes that the package ships."""
    return sorted(
        entry.name.removesuffix(".yaml")
        for entry in files(__package__).iterdir()
        if entry.name.endswith(".yaml")
    )


def load_recipe(recipe: str | Path | Recipe, /, **settings: Any) -> Recipe:
    """Return a shipped recipe by its name, or one from a YAML file, with some fields changed.

    The file's key ``base`` names the recipe whose values it changes (default ``paper``).

    Args:
        recipe: a shipped recipe's name, a YAML file, or a ``Recipe``.
        settings: fields by their names, checked as a file's are; the recipe's name tells them.

    Raises:
        BadRecipe: no such recipe, a file that isn't one, or settings that aren't a recipe's.
    """
    loaded = recipe if isinstance(recipe, Recipe) else _load(str(recipe), ())
    if not settings:
        return loaded
    for key in settings.keys() & FORMER_NAMES.keys():
        _tell_new_name(loaded.name, key)
    name = f"{loaded.name} with {', '.join(f'{key}={value}' for key, value in settings.items())}"
    return loaded.but(**{"name": name, "about": "", **settings})


def _load(recipe: str, above: tuple[str, ...]) -> Recipe:
    """Load a recipe that is the base of those ``above``."""
    if recipe in above:
        raise BadRecipe(f"{above[0]}: its base leads back to {recipe}; name another base")
    name = recipe if recipe in recipe_names() else Path(recipe).stem
    text = _text(recipe)
    try:
        values = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise BadRecipe(f"{recipe}: not a YAML file ({reason}); correct it") from None
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise BadRecipe(f"{recipe}: a recipe is a list of 'field: value' lines; correct it")
    base = values.pop("base", None)
    inherited = Recipe() if base is None else _load(str(base), (*above, recipe))
    changes = _parsed(name, values)
    for key in values:
        if key in FORMER_NAMES:
            _tell_new_name(recipe, key)
    return inherited.but(**{"about": "", **changes, "name": name})


def _text(recipe: str) -> str:
    if recipe in recipe_names():
        return (files(__package__) / f"{recipe}.yaml").read_text(encoding="utf-8")
    try:
        path = copy_of(recipe) if is_url(recipe) else Path(recipe)
        return path.read_text(encoding="utf-8")
    except (FileNotFoundError, IsADirectoryError):
        raise BadRecipe(
            f"no recipe {recipe!r}: give one of {', '.join(recipe_names())}, "
            "or the path of a YAML file"
        ) from None
    except (OSError, ValueError) as error:
        raise BadRecipe(f"{recipe}: can't be read ({error}); give a YAML file") from None


@functools.cache  # so that each is told once
def _tell_new_name(recipe: str, former: str) -> None:
    log.warning("%s: '%s' is now called '%s'", recipe, former, FORMER_NAMES[former])


@functools.cache
def _parser() -> ArgumentParser:
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Recipe)
    return parser


def _parsed(name: str, values: dict[str, Any]) -> dict[str, Any]:
    """Return the values in the fields' types and under the fields' present names."""
    from jsonargparse import ArgumentError

    types = get_type_hints(Recipe)
    unknown = sorted(str(key) for key in values if FORMER_NAMES.get(key, key) not in types)
    if unknown:
        near = {
            FORMER_NAMES.get(match, match)
            for key in unknown
            for match in difflib.get_close_matches(key, [*types, *FORMER_NAMES], n=2)
        }
        perhaps = f"; did you mean {' or '.join(sorted(near))}?" if near else ""
        raise BadRecipe(
            f"recipe {name}: no such field as {', '.join(unknown)}; "
            f"the fields are {', '.join(types)}{perhaps}"
        )
    wanted = {
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        str: "text",
        Sides: "one whole number, two, or three",
    }
    parsed: dict[str, Any] = {}
    for given, value in values.items():
        key = FORMER_NAMES.get(given, given)
        if key != given and key in values:
            raise BadRecipe(
                f"recipe {name}: {given} is now called {key}, and both are given; delete {given}"
            )
        is_side = types[key] == Sides and not isinstance(value, (list, tuple))
        found = None
        # One field at a time, to know which one is refused. The parser lets None pass.
        with contextlib.suppress(ArgumentError, OverflowError):
            fields = {key: [value, value] if is_side else value}
            found = _parser().parse_object(fields, defaults=False)[key]
        if types[key] == Sides and found is not None and len(found) not in (2, 3):
            found = None
        if found is None:
            kind = wanted.get(types[key]) or f"one of {', '.join(get_args(types[key]))}"
            raise BadRecipe(f"recipe {name}: {key} is {value!r}, it must be {kind}")
        parsed[key] = found
    return parsed

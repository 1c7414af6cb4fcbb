"""The GAN that several detectors share: trained once (section 2.1), ours or a user's own."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fanogan.data import Normals, Patches, Preprocessing
from fanogan.detectors.learned import BadGan, LearnedDetector, detector_of
from fanogan.models import Discriminator, Generator
from fanogan.recipes import BadRecipe, Recipe
from fanogan.storage import BadFolder, read_model
from fanogan.training import Progress, RunFolder, no_progress, train_gan

if TYPE_CHECKING:
    from lightning_fabric import Fabric

NOT_GANS = ("ae", "advae", "ali")


class OwnGenerator(Generator):
    """A user's own G as one of ours: any callable z (B, latent) → image (B, C, *sides)."""

    def __init__(self, own: Any):
        """Wrap it; ``own.latent`` is the size of its z ~ N(0, I)."""
        nn.Module.__init__(self)
        self.own = own
        self.latent = own.latent

    def forward(self, z: Tensor) -> Tensor:
        """The image of a latent."""
        images: Tensor = self.own(z)
        return images


class OwnDiscriminator(Discriminator):
    """A user's own D as one of ours: ``own.features(x)``, and for ``critic`` ``own(x)``."""

    def __init__(self, own: Any):
        """Wrap it."""
        nn.Module.__init__(self)
        self.own = own

    def features(self, x: Tensor) -> Tensor:
        """f(·) of Eqs. 3 and 4, flattened: (B, n_d)."""
        features: Tensor = self.own.features(x)
        return features.flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        """The critic's value of each image, (B,)."""
        values: Tensor = self.own(x)
        return values.reshape(len(x))


@dataclasses.dataclass(frozen=True)
class Gan:
    """A trained GAN."""

    G: Generator
    D: Discriminator
    facts: dict[str, Any]  # 'own': whether a user's; 'weights': their SHA-256
    warnings: tuple[str, ...] = ()


def read_gan(
    gan: str | Path | tuple[Any, Any], normals: Normals, recipe: Recipe, device: torch.device
) -> Gan:
    """A trained GAN, if it is one for these normals.

    Args:
        gan: the folder of a model or run of ours; or your own (G, D), whose images are in [−1, 1]:
            G maps z (B, ``G.latent``) ~ N(0, I) to images (B, C, *sides), and ``D.features(x)``
            are f(x). They are put in eval mode, take no gradients, and stay as they are.
        normals: what the detector learns from.
        recipe: the detector's.
        device: where the networks go.

    Raises:
        BadFolder: no GAN there, or one of other images or of another size.
        BadGan: a generator of images of another size.
    """
    if isinstance(gan, (str, Path)):
        return _ours(gan, normals, recipe, device)
    own, seen = own_gan(gan[0], gan[1], device), normals.preprocessing
    with torch.no_grad():
        images = own.G(torch.zeros(2, own.G.latent, device=device))
        own.D.features(images)
    if images.shape != (2, seen.channels, *seen.sides):
        raise BadGan(
            f"your generator makes images {tuple(images.shape[1:])} (channels, rows, columns), "
            f"and the normals are seen as {(seen.channels, *seen.sides)}: give a recipe with "
            "that image_size"
        )
    return own


def own_gan(G: Any, D: Any, device: torch.device) -> Gan:
    """A user's own G and D, in eval mode."""
    generator, discriminator = OwnGenerator(G), OwnDiscriminator(D)
    for network in (generator, discriminator):
        network.to(device).eval()
    facts = {"own": True, "weights": _digest(generator, discriminator)}
    return Gan(generator, discriminator, facts)


def _ours(folder: str | Path, normals: Normals, recipe: Recipe, device: torch.device) -> Gan:
    tensors, facts = read_model(folder)
    try:
        name, theirs = detector_of(facts)
        seen = Preprocessing.from_dict(facts["preprocessing"])
    except (KeyError, TypeError, BadRecipe) as error:
        raise BadFolder(f"{folder}: not a model that this version can read ({error})") from None
    if name in NOT_GANS or facts.get("gan", {}).get("own"):
        held = "a GAN of your own" if name not in NOT_GANS else f"the detector {name}"
        raise BadFolder(
            f"{folder}: holds no GAN of ours to build on, it was made with {held}; give a model "
            "of izi_f, izi, ziz, critic or iterative"
        )
    asked = {
        **normals.preprocessing.to_dict(),
        "base_width": recipe.base_width,
        "latent_size": recipe.latent_size,
    }
    has = {**seen.to_dict(), "base_width": theirs.base_width, "latent_size": theirs.latent_size}
    differing = [key for key in asked if asked[key] != has[key]]
    if differing:
        each = ", ".join(f"{key} {has[key]} where {asked[key]} is asked" for key in differing)
        raise BadFolder(
            f"{folder}: its GAN doesn't fit these normals and this recipe ({each}); give the "
            "recipe and normals that it was trained with"
        )
    with torch.device("meta"):  # so no weights are drawn
        G = Generator(seen.sides, seen.channels, theirs.base_width, theirs.latent_size)
        D = Discriminator(seen.sides, seen.channels, theirs.base_width)
    for letter, network in (("G", G), ("D", D)):
        prefix = f"{letter}."
        network.load_state_dict(
            {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)},
            assign=True,
        )
        network.to(device).eval()
    return Gan(G, D, {"own": False, "weights": _digest(G, D)}, _warnings(facts, normals))


def _warnings(facts: dict[str, Any], normals: Normals) -> tuple[str, ...]:
    if facts["fingerprint"]["sha256"] == normals.fingerprint["sha256"]:
        return ()
    return (
        "the GAN was trained on other normals, or on another split of them: where it has seen "
        "those that are held out here, thresholds come out too low",
    )


def _digest(*networks: nn.Module) -> str:
    digest = hashlib.sha256()
    for network in networks:
        for tensor in network.state_dict().values():
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


class GanDetector(LearnedDetector):
    """A detector built on a Wasserstein GAN of normals, which it trains unless it is given one."""

    letters = "GD"
    gan: Gan | None = None  # one that was given

    def _make(self) -> tuple[nn.Module, ...]:
        sides, channels, recipe = self.preprocessing.sides, self.preprocessing.channels, self.recipe
        G = Generator(sides, channels, recipe.base_width, recipe.latent_size)
        D = Discriminator(sides, channels, recipe.base_width)
        # A GAN that is given takes their place, and what is made after them stays the same.
        return (self.gan.G, self.gan.D) if self.gan else (G, D)

    def _take_gan(self, gan: Any, normals: Normals) -> None:
        self.gan = read_gan(gan, normals, self.recipe, self.device) if gan is not None else None
        if self.gan:
            self.facts["gan"] = self.gan.facts
            self.facts["warnings"] += self.gan.warnings

    def _restore_gan(self, folder: str | Path, gan: Any) -> None:
        if not self.facts.get("gan", {}).get("own"):
            return
        if gan is None:
            raise BadFolder(
                f"{folder}: this model was trained on a GAN of your own, which isn't kept in it; "
                "load it in Python with gan=(G, D)"
            )
        self.gan = own_gan(gan[0], gan[1], self.device)
        if self.gan.facts != self.facts["gan"]:
            raise BadFolder(
                f"{folder}: this model was trained on another GAN than the (G, D) given; give that"
            )

    def _kept(self) -> dict[str, nn.Module]:
        kept = super()._kept()
        own = self.gan is not None and self.gan.facts["own"]
        return {letter: kept[letter] for letter in kept if not (own and letter in "GD")}

    def steps(self) -> dict[str, int]:
        """Rounds of the GAN, where it isn't given."""
        return {} if "gan" in self.facts else {"gan": self.recipe.rounds}

    def _train(
        self,
        training: Patches,
        held_out: Patches,
        *,
        fabric: Fabric,
        run: RunFolder | None = None,
        progress: Progress = no_progress,
    ) -> list[str]:
        G, D = self.networks[:2]
        if self.gan:
            G.to(fabric.device)
            D.to(fabric.device)
            return []
        assert isinstance(G, Generator) and isinstance(D, Discriminator)
        return train_gan(
            G,
            D,
            training,
            held_out,
            self.recipe,
            fabric=fabric,
            seed=self.seed,
            run=run,
            progress=progress,
        )

"""The GAN that several detectors share: trained once (section 2.1), ours or a user's own."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fanogan.data import Normals, Seen
from fanogan.detectors.building import registered_for
from fanogan.detectors.definition import Definition
from fanogan.detectors.registry import name_of
from fanogan.errors import FanoganError
from fanogan.models import Discriminator, Generator, lay_out, widened
from fanogan.recipes import Recipe
from fanogan.remote import model_at
from fanogan.scoring import ModelFile, read_model
from fanogan.storage import BadFolder


class BadGan(FanoganError):
    """A GAN that a detector can't be built on, said in one sentence."""


class OwnGenerator(Generator):
    """A user's own G as one of ours: any callable z (B, latent) → image (B, C, rows, columns)."""

    def __init__(self, own: Any):
        """Wrap it; ``own.latent`` is the size of its z ~ N(0, I)."""
        nn.Module.__init__(self)
        self.own = own
        self.latent = own.latent

    def forward(self, z: Tensor) -> Tensor:
        """Return the image of a latent."""
        images: Tensor = self.own(z)
        return widened(images)


class OwnDiscriminator(Discriminator):
    """A user's own D as one of ours: ``own.features(x)``, and for ``critic`` ``own(x)``."""

    def __init__(self, own: Any):
        """Wrap it."""
        nn.Module.__init__(self)
        self.own = own

    def features(self, x: Tensor) -> Tensor:
        """Return f(·) of Eqs. 3 and 4, flattened: (B, n_d)."""
        features: Tensor = self.own.features(x)
        return widened(features.flatten(1))

    def forward(self, x: Tensor) -> Tensor:
        """Return the critic's value of each image, (B,)."""
        values: Tensor = self.own(x)
        return widened(values.reshape(len(x)))


@dataclasses.dataclass(frozen=True)
class Gan:
    """A trained GAN; ``identity`` says whether it is a user's own, and its weights' SHA-256.

    ``seen`` are the images of one of ours.
    """

    G: Generator
    D: Discriminator
    identity: Mapping[str, Any]
    warnings: tuple[str, ...] = ()
    seen: Seen | None = None


def given_gan(detector: Definition, gan: Any, normals: Normals, device: torch.device) -> Gan | None:
    """Return the GAN that a detector is to build on, or None; the recipe takes its latents' size.

    Raises:
        BadGan: the detector takes none, or this one doesn't fit.
        BadFolder: as ``read_gan``.
    """
    if gan is None:
        return None
    if not detector.builds_on_gan:
        name = name_of(type(detector), detector.recipe)
        raise BadGan(f"the detector {name} trains all its networks: leave the GAN out")
    given = read_gan(gan, normals, detector.recipe, device)
    detector.recipe = detector.recipe.but(latent_size=given.G.latent)
    return given


def read_gan(
    gan: str | Path | tuple[Any, Any], normals: Normals, recipe: Recipe, device: torch.device
) -> Gan:
    """Return a trained GAN, if it is one for these normals.

    Args:
        gan: the folder of a model or run of ours, or its URL; or your own (G, D), whose images are
            in [−1, 1]: G maps z (B, ``G.latent``) ~ N(0, I) to images (B, C, rows, columns), and
            ``D.features(x)`` are f(x). They are put in eval mode, take no gradients, and stay as
            they are.
        normals: what the detector learns from.
        recipe: the detector's.
        device: where the networks go.

    Raises:
        BadFolder: no GAN there, or one of other images or of another size.
        BadGan: a generator of images of another size.
    """
    if isinstance(gan, (str, Path)):
        with model_at(str(gan)) as folder:
            return _our_gan(folder, normals, recipe, device)
    own, seen = own_gan(gan[0], gan[1], device), normals.preprocessing
    with torch.no_grad():
        images = own.G(torch.zeros(2, own.G.latent, device=device))
        own.D.features(images)
    if images.shape != (2, seen.channels, *seen.image_size):
        raise BadGan(
            f"your generator makes images {tuple(images.shape[1:])} (channels, rows, columns), "
            f"and the normals are seen as {(seen.channels, *seen.image_size)}: give a recipe with "
            "its image_size"
        )
    return own


def own_gan(G: Any, D: Any, device: torch.device) -> Gan:
    """Wrap a user's own G and D, and put them in eval mode."""
    generator, discriminator = OwnGenerator(G), OwnDiscriminator(D)
    for network in (generator, discriminator):
        network.to(device).eval()
    identity = {"own": True, "weights": _weights_sha256(generator, discriminator)}
    return Gan(generator, discriminator, identity)


def own_gan_of(saved: ModelFile, gan: Any, device: torch.device) -> Gan | None:
    """Return the user's own GAN that a model was trained on; None: it has one of ours.

    Raises:
        BadFolder: it was trained on one that isn't given.
    """
    if not saved.identity_of_own_gan:
        return None
    if gan is None:
        raise BadFolder(
            f"{saved.folder}: this model was trained on a GAN of your own, which isn't kept in it; "
            "load it in Python with gan=(G, D)"
        )
    given = own_gan(gan[0], gan[1], device)
    if given.identity != saved.identity_of_own_gan:
        raise BadFolder(
            f"{saved.folder}: this model was trained on another GAN; give the (G, D) that it was "
            "trained on"
        )
    return given


def _our_gan(folder: str | Path, normals: Normals, recipe: Recipe, device: torch.device) -> Gan:
    saved = read_model(folder)
    if not registered_for(saved).kind.builds_on_gan or saved.identity_of_own_gan:
        own = saved.identity_of_own_gan
        made_with = "a GAN of your own" if own else f"the detector {saved.detector}"
        raise BadFolder(
            f"{folder}: holds no GAN of ours to build on, it was made with {made_with}; give a "
            "model of a detector that trains one, such as izi_f or critic"
        )
    theirs = saved.recipe

    def settings(seen: Any, of: Recipe) -> dict[str, Any]:
        return {**seen.to_dict(), "base_width": of.base_width, "latent_size": of.latent_size}

    asked, has = settings(normals.preprocessing, recipe), settings(saved.preprocessing, theirs)
    differing = [key for key in asked if asked[key] != has[key]]
    if differing:
        each = ", ".join(f"{key} {has[key]} where {asked[key]} is asked" for key in differing)
        raise BadFolder(
            f"{folder}: its GAN doesn't fit these normals and this recipe ({each}); give the "
            "recipe and normals that it was trained with"
        )
    seen = saved.preprocessing
    size = (seen.image_size, seen.channels, theirs.base_width)
    with torch.device("meta"):  # so no weights are drawn
        G, D = Generator(*size, theirs.latent_size), Discriminator(*size)
    saved.put_weights_into({"G": G, "D": D}, assign=True)
    for network in (G, D):
        # As `initialise` lays them: from a file they lie otherwise, and would round otherwise.
        lay_out(network.to(device)).eval()
    warnings: tuple[str, ...] = ()
    if saved.provenance["fingerprint"]["sha256"] != normals.fingerprint["sha256"]:
        warnings = (
            "the GAN was trained on other normals, or on another split of them: where it has seen "
            "those that are held out here, thresholds come out too low",
        )
    return Gan(G, D, {"own": False, "weights": _weights_sha256(G, D)}, warnings, saved.seen)


def _weights_sha256(*networks: nn.Module) -> str:
    digest = hashlib.sha256()
    for network in networks:
        for tensor in network.state_dict().values():
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()

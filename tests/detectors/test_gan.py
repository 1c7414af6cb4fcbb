"""One GAN for all detectors that build on one: ours, kept in a model, or a user's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stripes import (
    IMAGES,
    NORMALS,
    TINY,
    as_seen,
    assert_same_scores,
    fit,
    fitted,
    stripes,
)
from torch import nn

from fanogan.detectors import Detector, detector_names, registered, untrained
from fanogan.detectors.gan import BadGan
from fanogan.models import Discriminator, Generator
from fanogan.scoring import score
from fanogan.storage import BadFolder, read_model_folder

ON_A_GAN = [name for name in detector_names() if registered(name).kind.builds_on_gan]

# --- a GAN of ours --------------------------------------------------------------------------------


def test_which_detectors_build_on_a_gan() -> None:
    expected = "izi_f izi ziz izi-features ziz-features critic iterative"
    assert expected.split() == ON_A_GAN


@pytest.mark.parametrize("name", ON_A_GAN)
def test_a_shared_gan_gives_what_training_it_again_would(tmp_path: Path, name: str) -> None:
    fitted("izi_f").save(tmp_path / "gan")
    out = tmp_path / "run"
    detector = fit(name, gan=tmp_path / "gan", out=out)
    assert "gan" not in detector.model.provenance["steps"]
    assert not (out / "checkpoints/gan.safetensors").exists()
    assert_same_scores(detector.score(IMAGES), fitted(name).score(IMAGES))
    assert detector.model.provenance["warnings"] == fitted(name).model.provenance["warnings"]
    kept = Detector.load(out, device="cpu")
    assert_same_scores(kept.score(IMAGES), fitted(name).score(IMAGES))
    assert "a GAN trained before (SHA-256" in (out / "model" / "card.md").read_text()
    if name == "critic":  # what was built on a GAN has one to build on
        fit("ziz", gan=out)


def test_a_run_on_one_gan_is_not_resumed_on_another(tmp_path: Path) -> None:
    fitted("izi_f").save(tmp_path / "gan")
    fit("izi", gan=tmp_path / "gan", out=tmp_path / "run")
    with pytest.raises(BadFolder, match="it was begun with another GAN"):
        fit("izi", out=tmp_path / "run", resume=True)


def test_a_gan_of_other_normals_is_warned_of(tmp_path: Path) -> None:
    fitted("izi_f").save(tmp_path / "gan")
    detector = fit("critic", stripes(40, seed=5), gan=tmp_path / "gan")
    warnings = detector.model.provenance["warnings"]
    assert any("the GAN was trained on other normals" in warning for warning in warnings)


@pytest.mark.parametrize(
    ("changes", "images", "words"),
    [
        ({"base_width": 8}, NORMALS, r"width 4 where 8 is asked"),
        ({"latent_size": 5}, NORMALS, r"latent_size 16 where 5 is asked"),
        ({}, np.repeat(NORMALS[..., None], 3, -1) // np.array([1, 2, 3]), "channels 1 where 3"),
        ({"image_size": (24, 24), "window": (24, 24)}, np.pad(NORMALS, 4), "image_size"),
    ],
)
def test_a_gan_of_another_size_is_refused(
    tmp_path: Path, changes: Any, images: Any, words: str
) -> None:
    fitted("izi_f").save(tmp_path / "gan")
    images = images[4:-4] if len(images) > 40 else images
    with pytest.raises(BadFolder, match=f"doesn't fit these normals and this recipe.*{words}"):
        fit("izi", images.astype(np.uint8), TINY.but(**changes), gan=tmp_path / "gan")


def test_what_has_no_gan_is_refused(tmp_path: Path) -> None:
    fitted("ali").save(tmp_path / "ali")
    with pytest.raises(BadFolder, match=r"holds no GAN of ours to build on.*the detector ali"):
        fit("izi", gan=tmp_path / "ali")
    with pytest.raises(BadGan, match="the detector ae trains all its networks"):
        fit("ae", gan=tmp_path / "ali")


def test_networks_of_a_given_gan_are_not_made_anew(tmp_path: Path) -> None:
    fitted("critic").save(tmp_path / "gan")
    values = json.loads((tmp_path / "gan" / "model.json").read_text())
    assert values["steps"] == {"gan": 2}
    assert isinstance(values["constants"]["critic_mean"], float)
    model = fit("ziz", gan=tmp_path / "gan").model
    assert isinstance(model.networks["G"], Generator)
    assert isinstance(model.networks["D"], Discriminator)
    for letter in "GD":
        found, expected = (m.networks[letter].state_dict() for m in (model, fitted("critic").model))
        assert all(torch.equal(found[key], expected[key]) for key in expected)


# --- a user's own ---------------------------------------------------------------------------------


class OwnG:
    """A generator that is no module of torch's."""

    latent = 3

    def __init__(self, side: int = 16) -> None:
        across = torch.linspace(-1, 1, side)
        self.basis = torch.stack(
            [
                across.repeat(side, 1),
                across.repeat(side, 1).T,
                across**2 * 0.5 + torch.zeros(side, side),
            ]
        )

    def __call__(self, z: torch.Tensor) -> torch.Tensor:
        return torch.tanh(torch.einsum("bd,dhw->bhw", z, self.basis))[:, None]


class OwnD(nn.Module):
    """A discriminator with features that are maps, not vectors."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.conv = nn.Conv2d(1, 4, 3, stride=2)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.conv(x)
        return features

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.features(x).mean((1, 2, 3))[:, None]


@pytest.mark.parametrize("name", ["izi_f", "ziz", "critic", "iterative"])
def test_an_encoder_for_any_gan(tmp_path: Path, name: str) -> None:
    G, D = OwnG(), OwnD()
    before = {key: value.clone() for key, value in D.state_dict().items()}
    detector = fit(name, gan=(G, D), out=tmp_path / "run")
    assert all(torch.equal(before[key], value) for key, value in D.state_dict().items())
    scores = detector.score(IMAGES)
    assert np.isfinite(scores.total).all() and len(np.unique(scores.total)) == len(IMAGES)
    if "E" in detector.model.networks:
        E, x = detector.model.networks["E"], as_seen(IMAGES)
        with torch.no_grad():
            expected = (x - G(E(x))).square().mean((1, 2, 3))
        np.testing.assert_allclose(scores.image, expected, rtol=1e-4)
    loaded = Detector.load(tmp_path / "run", device="cpu", gan=(G, D))
    np.testing.assert_array_equal(loaded.score(IMAGES).total, scores.total)
    tensors, _ = read_model_folder(tmp_path / "run")
    assert {key.partition(".")[0] for key in tensors} <= {"E", "pca", "seen"}
    with pytest.raises(BadFolder, match="trained on a GAN of your own, which isn't kept"):
        Detector.load(tmp_path / "run", device="cpu")
    other = OwnD()
    nn.init.zeros_(other.conv.weight)
    with pytest.raises(BadFolder, match=r"trained on another GAN; give the \(G, D\)"):
        Detector.load(tmp_path / "run", device="cpu", gan=(G, other))
    assert np.isfinite(score(untrained(detector.model), IMAGES).total).all()


def test_a_gan_of_ours_given_as_objects_scores_alike() -> None:
    G, D = (fitted("izi_f").model.networks[letter] for letter in "GD")
    detector = fit("izi_f", gan=(G, D))
    assert_same_scores(detector.score(IMAGES), fitted("izi_f").score(IMAGES))


def test_a_generator_of_other_images_is_refused() -> None:
    with pytest.raises(BadGan, match=r"your generator makes images \(1, 24, 24\)"):
        fit("izi", gan=(OwnG(24), OwnD()))

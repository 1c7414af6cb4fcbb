"""Each system learns: trained networks tell digits apart, untrained ones don't."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score

from fanogan.detectors import Detector, detector_names, new_detector, registered, untrained
from fanogan.recipes import load_recipe
from fanogan.scoring import score, score_batch
from fanogan.training.wgan import diversity

# A quarter of the digits' recipe; and half as many images searched for, in half the updates.
SHORT = load_recipe("digits").but(
    critic_updates=400,
    encoder_updates=300,
    search_updates=150,
    log_every=1000,
    checkpoint_minutes=5.0,
)
DIGITS = load_digits()
PIXELS = (DIGITS.images * 255 / 16).round().astype(np.uint8)
FOURS, OTHERS = PIXELS[DIGITS.target == 4], PIXELS[DIGITS.target != 4]
TEST = np.concatenate([FOURS[120:], OTHERS[:90]])
LABELS = np.repeat([0, 1], [len(FOURS) - 120, 90])
TRAINED: dict[str, Detector] = {}


@pytest.fixture(scope="module")
def gan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose GAN all that need one share."""
    run = tmp_path_factory.mktemp("gan") / "run"
    TRAINED["izi_f"] = new_detector("izi_f", SHORT, device="cpu").fit(FOURS[:120], out=run)
    return run


def trained(name: str, gan: Path) -> Detector:
    if name not in TRAINED:
        shared = gan if registered(name).kind.builds_on_gan else None
        TRAINED[name] = new_detector(name, SHORT, device="cpu").fit(FOURS[:120], gan=shared)
    return TRAINED[name]


# PCA trains no network; ALI, which differs far more by its seed, is in test_ali.
@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in detector_names() if name not in ("pca", "ali")])
def test_trained_networks_beat_untrained_ones(name: str, gan: Path) -> None:
    detector = trained(name, gan)
    auc, untrained_auc = (
        roc_auc_score(LABELS, score(model, TEST).total)
        for model in (detector.model, untrained(detector.model))
    )
    assert auc > 0.85
    assert auc > untrained_auc + 0.1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["izi_f", "ae", "advae"])
def test_nothing_has_collapsed(name: str, gan: Path) -> None:
    model = trained(name, gan).model
    x = model.preprocessing.resize(torch.from_numpy(FOURS[:120, None]) * (2 / 255) - 1)
    real = diversity(x)
    with torch.inference_mode():
        x_hat = score_batch(model, x)[1][:, 1:]
        z = torch.randn(256, SHORT.latent_size, generator=torch.Generator().manual_seed(0))
        samples = model.networks["G"](z)
    assert diversity(x_hat) > 0.5 * real
    if name == "izi_f":  # what learns G from latents ~ N(0, I)
        assert diversity(samples) > 0.6 * real
    # And reconstructions follow their images. ALI's need more updates (see test_ali).
    own = (x - x_hat).square().mean()
    other = (x - x_hat.roll(1, 0)).square().mean()
    assert own < 0.75 * other

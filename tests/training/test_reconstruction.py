"""What training encoder and generator together shares: statistics, figures, grids, warnings."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from small_runs import RECIPE, noise, small_detector, small_run
from torch import nn

from fanogan.training.run_folder import RunFolder

STEPS = {"ae": 4, "advae": 3, "ali": 4}


@pytest.mark.parametrize("name", STEPS)
def test_reestimated_statistics_are_those_of_what_the_networks_see(name: str) -> None:
    recipe = RECIPE.but(reestimate_batch_norm=True, encoder_output="linear")
    detector, networks = small_detector(name, recipe)
    detector.train(networks, small_run(recipe, steps={name: STEPS[name]}))
    G, E = networks["G"], networks["E"]
    x = noise(0).draw(512, torch.Generator().manual_seed(5))
    z = torch.randn(512, RECIPE.latent_size, generator=torch.Generator().manual_seed(6))
    for network, given in ((E, x), (G, z if name == "ali" else E(x).detach())):
        with torch.no_grad():
            evaluated = network(given)
            trained = network.train()(given)
        assert (evaluated - trained).abs().mean() < 0.05 * trained.std()


@pytest.mark.parametrize(
    ("name", "losses"),
    [
        ("ae", {"image"}),
        ("advae", {"image", "adversarial", "wasserstein", "penalty"}),
        ("ali", {"discriminator", "generator", "diversity"}),
    ],
)
def test_figures_and_grids_are_reported(tmp_path: Path, name: str, losses: set[str]) -> None:
    shown: list[dict[str, float]] = []
    run = small_run(
        steps={name: STEPS[name]},
        folder=RunFolder(tmp_path),
        progress=lambda stage, step, steps, figures: shown.append(dict(figures)),
    )
    detector, networks = small_detector(name)
    detector.train(networks, run)
    shown = [figures for figures in shown if figures]
    assert len(shown) == STEPS[name]
    assert all(math.isfinite(value) for figures in shown for value in figures.values())
    assert set(shown[0]) == losses | {"image_seen", "image_held_out", "reconstruction_diversity"}
    assert list((tmp_path / "samples").glob(f"{name}_*.png"))


@pytest.mark.parametrize("name", STEPS)
def test_an_encoder_that_overfits_is_warned_of(name: str) -> None:
    words = "the encoder overfits: the image residual of training normals is"
    # x̂ is grey so early, as the training normals are here.
    for held_out, warned in ((noise(1, 118, 138), False), (noise(1), True)):
        detector, networks = small_detector(name)
        grey = noise(0, 118, 138)
        run = small_run(steps={name: STEPS[name]}, normals=grey, held_out=held_out)
        assert any(text.startswith(words) for text in detector.train(networks, run)) == warned


@pytest.mark.parametrize("name", STEPS)
def test_collapse_is_warned_of(name: str) -> None:
    still = RECIPE.but(gan_learning_rate=1e-12)
    detector, networks = small_detector(name, still)
    nn.init.zeros_(networks["G"].conv.weight)
    warnings = detector.train(networks, small_run(still, steps={name: STEPS[name]}))
    assert any("x̂ collapse: their diversity is 0.00" in warning for warning in warnings)
    assert any("samples collapse" in warning for warning in warnings) == (name == "ali")

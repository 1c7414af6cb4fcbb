"""ALI: its networks and updates, its stochastic encoder, and that x̂ follows x."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from small_runs import RECIPE, SIDE, moved_by, optimiser_steps, small_detector, small_run
from torch import Tensor, nn

from fanogan.detectors import new_detector, untrained
from fanogan.detectors.ali import Ali, backward_both
from fanogan.models import JointDiscriminator, ali_values
from fanogan.models.networks import dropped
from fanogan.recipes import load_recipe
from fanogan.scoring import score, score_batch
from fanogan.training.wgan import diversity


def test_an_update_is_one_of_the_discriminator_and_one_of_encoder_and_generator() -> None:
    detector, networks = small_detector("ali")
    D = networks["D"]
    before = {name: p.clone() for name, p in D.named_parameters()}
    with optimiser_steps() as steps:
        detector.train(networks, small_run(steps={"ali": 4}))
    assert [moved_by(optimiser, networks) for optimiser in steps] == ["D", "GE"] * 4
    assert not all(torch.equal(before[name], p) for name, p in D.named_parameters())
    for network in networks.values():
        assert not network.training and all(p.requires_grad for p in network.parameters())


def test_statistics_move_once_an_update() -> None:
    detector, networks = small_detector("ali")
    detector.train(networks, small_run(steps={"ali": 4}))
    for network in networks.values():
        for norm in (m for m in network.modules() if isinstance(m, nn.BatchNorm2d)):
            assert norm.num_batches_tracked is not None
            assert int(norm.num_batches_tracked) == 4


def test_all_start_near_zero_so_that_latents_start_near_the_prior() -> None:
    _, networks = small_detector("ali", RECIPE.but(base_width=16))
    for network in networks.values():
        layers = [m for m in network.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
        weights = torch.cat([layer.weight.detach().flatten() for layer in layers])
        assert abs(weights.mean()) < 1e-4 and abs(weights.std() - 0.01) < 1e-4
        assert all(not layer.bias.any() for layer in layers if layer.bias is not None)
        kernels = [layer.weight for layer in layers if isinstance(layer, nn.Conv2d)]
        assert all(w.is_contiguous(memory_format=torch.channels_last) for w in kernels)
    x = torch.rand(64, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        mean, log_deviation = networks["E"](x).chunk(2, 1)
    assert mean.square().mean() < 0.1**2 and log_deviation.abs().max() < 0.5


def test_the_discriminator_hears_image_and_latent_alike() -> None:
    """With 64 channels: 512 values of each and 1,024 units for both, as the authors have them."""
    with torch.device("meta"):
        D = JointDiscriminator((64, 64), 3)
        x, z = torch.empty(2, 3, 64, 64), torch.empty(2, 128)
    assert D.features(x).shape == (2, 512)
    assert [layer.weight.shape for layer in D.latent] == [(512, 128), (512, 512)]
    assert [layer.weight.shape for layer in D.both] == [(1024, 1024), (1024, 1024)]
    assert D(x, z).shape == (2,)


def test_the_image_branch_ends_in_batch_norm_and_a_leaky_relu() -> None:
    D = JointDiscriminator((SIDE, SIDE), width=2).train()
    x = torch.rand(9, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found, values = D.features(x), D.image.linear(D.image.trunk(x))
        normed = (values - values.mean(0)) / (values.var(0, correction=0) + 1e-3).sqrt()
    torch.testing.assert_close(found, torch.where(normed > 0, normed, normed / 10))


def test_dropout_sets_a_fifth_to_zero_and_is_drawn_from_the_steps_own_numbers() -> None:
    x = torch.ones(200, 500)
    found = dropped(x, torch.Generator().manual_seed(1))
    assert torch.equal(found, dropped(x, torch.Generator().manual_seed(1)))
    assert set(found.unique().tolist()) == {0.0, 1.25}
    assert abs((found == 0).float().mean() - 0.2) < 0.005
    assert dropped(x, None) is x


def test_both_losses_are_of_the_same_values_and_each_moves_its_own_networks() -> None:
    _, networks = small_detector("ali")
    G, D, E = (networks[letter].train() for letter in "GDE")
    x, z, noise = torch.rand(6, 1, SIDE, SIDE), *torch.randn(2, 6, RECIPE.latent_size)

    def values() -> tuple[Tensor, Tensor]:
        return ali_values(E, G, D, x, z, noise, torch.Generator().manual_seed(0))

    pair = [*E.parameters(), *G.parameters()]
    backward_both(values(), D, pair)
    encoded, generated = values()
    for parameters, loss in (
        ([*D.parameters()], -torch.log(encoded.sigmoid()) - torch.log(1 - generated.sigmoid())),
        (pair, -torch.log(1 - encoded.sigmoid()) - torch.log(generated.sigmoid())),
    ):
        expected = torch.autograd.grad(loss.mean(), parameters, retain_graph=True)
        for p, gradient in zip(parameters, expected, strict=True):
            torch.testing.assert_close(p.grad, gradient, rtol=1e-3, atol=1e-6)


def test_the_encoder_gives_mean_and_deviation_and_its_mean_scores() -> None:
    detector, networks = small_detector("ali")
    latent = detector.recipe.latent_size
    x = torch.rand(5, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        for network in networks.values():
            network.eval()
        encoded = networks["E"](x)
        assert encoded.shape == (5, 2 * latent)
        _, maps = detector.score_module(networks, {})(x)
        torch.testing.assert_close(maps[:, 1:], networks["G"](encoded[:, :latent]))


@pytest.mark.slow
def test_reconstructions_follow_their_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """3,000 updates on 1,500 digits of 16×16, width 8, rate 1e-3: under three CPU minutes.

    The residual was .63 of that to another image's x̂, on digits that it hadn't seen, and falling
    (.93 after 1,200 updates at half the rate). That is far from an autoencoder's: ALI learns that
    pairs look alike, not that x̂ equals x.
    """
    recipe = load_recipe("digits").but(gan_learning_rate=1e-3, log_every=1000)
    pixels = (load_digits().images * 255 / 16).round().astype(np.uint8)
    monkeypatch.setattr(Ali, "steps", lambda self, preprocessing: {"ali": 3000})
    detector = new_detector("ali", recipe, device="cpu").fit(pixels[:1500])
    x = detector.model.preprocessing.resize(torch.from_numpy(pixels[1500:, None]) * (2 / 255) - 1)
    with torch.inference_mode():
        x_hat = score_batch(detector.model, x)[1][:, 1:]
    own, other = ((x - each).square().mean() for each in (x_hat, x_hat.roll(1, 0)))
    assert own < 0.75 * other
    assert diversity(x_hat) > 0.6 * diversity(x)


@pytest.mark.slow
def test_trained_networks_beat_untrained_ones_over_seeds() -> None:
    """Of four seeds one gave an AUC of .70, the others .86 to .92; untrained networks .64.

    A quarter of these updates gave from .38 to .94.
    """
    digits = load_digits()
    pixels = (digits.images * 255 / 16).round().astype(np.uint8)
    fours, others = pixels[digits.target == 4], pixels[digits.target != 4]
    test = np.concatenate([fours[120:], others[:90]])
    labels = np.repeat([0, 1], [len(fours) - 120, 90])
    recipe = load_recipe("digits").but(log_every=1000)
    trained, chance = [], []
    for seed in range(3):
        model = new_detector("ali", recipe, seed=seed, device="cpu").fit(fours[:120]).model
        for aucs, each in ((trained, model), (chance, untrained(model))):
            aucs.append(roc_auc_score(labels, score(each, test).total))
    assert np.mean(trained) > np.mean(chance) + 0.1

"""What the critic sees is changed where it overfits, differentiably; G can be a moving average."""

from __future__ import annotations

import pytest
import torch
from small_runs import RECIPE, noise, small_networks, small_run
from torch.optim.optimizer import register_optimizer_step_post_hook

from fanogan.training.augmentation import CriticAugmentation
from fanogan.training.wgan import train_gan


def augmentation(probability: float) -> CriticAugmentation:
    changes = CriticAugmentation()
    changes.probability.fill_(probability)
    return changes


def images(n: int = 200, side: int = 24) -> torch.Tensor:
    return torch.rand(n, 1, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_without_probability_nothing_changes() -> None:
    x = images()
    assert torch.equal(augmentation(0)(x, torch.Generator().manual_seed(1)), x)


def test_so_many_images_are_changed_and_each_draw_is_repeated() -> None:
    x = images(1000, 16)
    found, again = (augmentation(0.3)(x, torch.Generator().manual_seed(2)) for _ in range(2))
    assert torch.equal(found, again)
    changed = (found != x).flatten(1).any(1).float().mean()
    assert 0.25 < changed < 0.35
    assert not torch.equal(augmentation(0.3)(x, torch.Generator().manual_seed(3)), found)


def test_a_changed_image_is_shifted_scaled_and_cut_within_its_limits() -> None:
    """A ramp shows each: its slope is the contrast, its offset the shift, and 0 what is cut."""
    side = 24
    ramp = torch.linspace(0.2, 0.8, side).expand(100, 1, side, side)
    slope = 0.6 / (side - 1)
    found = augmentation(1)(ramp, torch.Generator().manual_seed(4))
    cut = found == 0
    sizes = cut[:, 0].any(2).sum(1), cut[:, 0].any(1).sum(1)
    assert all(int(size.max()) == side // 3 for size in sizes)
    differences = found.diff(dim=3) / slope
    whole = ~(cut[..., 1:] | cut[..., :-1]) & (differences.abs() > 1e-3)
    contrasts = torch.stack([d[w].median() for d, w in zip(differences, whole, strict=True)])
    assert contrasts.min() >= 0.699
    assert contrasts.max() <= 1.301
    assert contrasts.std() > 0.1
    edges = (found[:, 0, 0].diff(dim=1).abs() < 1e-6).sum(1)  # repeated columns
    assert int(edges.max()) <= side // 8 + side // 3 + 1


def test_gradients_reach_the_pixels_that_are_seen() -> None:
    x = images(8).requires_grad_()
    found = augmentation(1)(x, torch.Generator().manual_seed(5))
    found.sum().backward()
    assert x.grad is not None
    # The sum over an image moves by as much as all that isn't cut: contrast leaves its mean.
    assert (x.grad.flatten(1).sum(1) > 0).all()


@pytest.mark.parametrize(("held_out", "expected"), [(0.79, 0.4), (0.81, 0.0)])
def test_it_rises_where_held_out_normals_lie_nearer_to_samples(
    held_out: float, expected: float
) -> None:
    changes = CriticAugmentation()
    changes.adapt(1.0, held_out, share=0.1)
    assert float(changes.probability) == pytest.approx(expected)
    for _ in range(5):
        changes.adapt(1.0, held_out, share=0.1)
    assert float(changes.probability) == pytest.approx(0.8 if expected else 0)


def test_training_raises_it_where_the_critic_learns_its_images_by_heart() -> None:
    """Held-out normals of another brightness are no better to this critic than samples."""
    recipe = RECIPE.but(critic_updates=60, augment_critic=True)
    G, D, _ = small_networks()
    shown: list[float] = []

    def progress(stage: str, step: int, steps: int, figures: dict[str, float]) -> None:
        shown.extend([figures["augmentation"]] if figures else [])

    train_gan(G, D, small_run(recipe, normals=noise(0, 200, 256), progress=progress))
    assert max(shown) == pytest.approx(0.8)


def test_the_generator_ends_as_the_moving_average_of_itself() -> None:
    decay = 0.7
    G, D, _ = small_networks()
    expected: dict[str, torch.Tensor] = {}

    def average(optimiser: torch.optim.Optimizer, *_: object) -> None:
        mine = {id(p) for p in G.parameters()}
        if not any(id(p) in mine for group in optimiser.param_groups for p in group["params"]):
            return
        for name, p in G.named_parameters():
            before = expected.get(name)
            now = p.detach().clone()
            expected[name] = now if before is None else decay * before + (1 - decay) * now

    handle = register_optimizer_step_post_hook(average)
    train_gan(G, D, small_run(RECIPE.but(critic_updates=12, generator_average=decay)))
    handle.remove()
    for name, p in G.named_parameters():
        torch.testing.assert_close(p.detach(), expected[name])

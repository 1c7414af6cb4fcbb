"""The encoder into the latent space of a trained GAN (section 2.2)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fanogan.models import Discriminator, Encoder, Generator, encoder_loss, encoder_terms
from fanogan.training.run import Run
from fanogan.training.stage import Stage
from fanogan.training.updates import (
    TensorFlowRMSprop,
    descend,
    frozen,
    reestimate_statistics,
    share_buffers,
    statistics_untouched,
)

ENCODER = "encoder"
"""The name of the stage."""


def train_encoder(E: Encoder, G: Generator, D: Discriminator, run: Run) -> list[str]:
    """Train E into the latent space of a trained GAN (Eqs. 1, 2, 3: ``recipe.encoder_loss``).

    G and D stay bit-equal, buffers included: they run in eval mode and take no gradients.
    Returns health warnings; errors as for ``train_gan``.
    """
    # --- networks and optimiser
    recipe, device = run.recipe, run.device
    G.to(device).eval()
    D.to(device).eval()
    E.to(device).train()
    rmsprop = TensorFlowRMSprop(E.parameters(), recipe.encoder_learning_rate)
    held_out = run.held_out.draw(run.HEALTH_IMAGES, run.random("encoder health"))
    training = run.normals.draw(run.HEALTH_IMAGES, run.random("encoder health of training"))
    health_z = torch.randn(
        run.HEALTH_IMAGES, G.latent, generator=run.random("encoder z"), device=device
    )

    @torch.no_grad()
    def terms_of(images: Tensor) -> dict[str, float]:
        with statistics_untouched(E):
            found = encoder_terms(recipe.encoder_loss, E, G, D, images, health_z)
        return {name: float(value) for name, value in found.items()}

    def warnings(seen: Mapping[str, float], unseen: Mapping[str, float]) -> list[str]:
        return [
            warning
            for name in ("image", "feature")
            if name in seen
            for warning in stage.warn_of_overfit(name, seen[name], unseen[name])
        ]

    stage = Stage(ENCODER, run, {"encoder": E, "rmsprop": rmsprop})
    with frozen(G, D), stage:
        for update in stage.steps_left():
            # --- encoder update
            random = run.random_at(ENCODER, update)
            x = run.normals.draw(run.batch_size, random)
            z = torch.randn(run.batch_size, G.latent, generator=random, device=device)
            keep = None
            if recipe.denoising > 0:
                keep = torch.rand(len(x), 1, *x.shape[2:], generator=random, device=device)
                keep = (keep >= recipe.denoising).to(x.dtype)
            with run.fabric.autocast():
                terms = encoder_terms(recipe.encoder_loss, E, G, D, x, z, keep)
                loss = encoder_loss(terms, recipe.kappa)
            descend(loss, rmsprop, run.fabric)
            stage.collect(**terms)

            # --- health
            if stage.is_due(update):
                means, unseen = stage.means(), terms_of(held_out)
                figures = means | {f"{name}_held_out": value for name, value in unseen.items()}
                late = update >= 0.2 * stage.steps
                stage.report(update, figures, warnings=warnings(means, unseen) if late else [])

        if recipe.reestimate_batch_norm and stage.first < stage.steps:
            random = run.random("statistics of E")
            batches = (
                run.normals.draw(recipe.batch_size, random) for _ in range(run.REESTIMATE_BATCHES)
            )
            reestimate_statistics(E, batches)
        share_buffers(E, run.fabric)
        stage.finish()
    E.eval()
    with frozen(G, D):
        return warnings(terms_of(training), terms_of(held_out))

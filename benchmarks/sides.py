"""Speed with one, two and three sides: our blocks against the blocks as the paper writes them.

CPU seconds of a critic update, an encoder update and of scoring a batch, each with the networks of
the recipe `signal`, `small` or `volume`, the least of several; and memory and time at 64×512
pixels, a whole flattened B-scan. One thread; run it while the machine does nothing else.

    python benchmarks/sides.py
"""

from __future__ import annotations

import copy
import resource
import time
from collections.abc import Callable, Sequence

import torch
from plain import as_written
from tables import ROOT, commit, machine, markdown, write_section

from fanogan import load_recipe
from fanogan.models import (
    Discriminator,
    Encoder,
    Generator,
    critic_loss,
    critic_values,
    encoder_loss,
    encoder_terms,
    gradient_penalty,
    wasserstein_distance,
)

RECIPES = {"1-D": "signal", "2-D": "small", "3-D": "volume"}
WHOLE = (64, 512)


def main() -> None:
    """Measure, and write the section."""
    torch.set_num_threads(1)
    rows = []
    for name, recipe_name in RECIPES.items():
        recipe = load_recipe(recipe_name)
        rows.append([name, *measured(recipe.image_size, recipe.batch_size, recipe.base_width)])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rows.append(["2-D, whole B-scans", *measured(WHOLE, 4, 16)])
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    heading = ["", "sides", "width", "batch"]
    heading += ["critic update, s", "encoder update, s", "scoring, ms an image"]
    write_section(
        "sides",
        "CPU seconds, ours and in brackets those of the blocks as written, times how many:\n\n"
        f"{markdown(heading, rows)}\n\nThe process took {memory / 2**20:.2f} GiB at most, "
        f"{before / 2**20:.2f} before the whole B-scans. {machine()}, 1 thread, "
        f"torch {torch.__version__}, commit {commit()}.",
        ROOT / "docs" / "volumes.md",
    )


def measured(sides: Sequence[int], batch: int, width: int, repeats: int = 4) -> list[str]:
    """The cells of a row."""
    torch.manual_seed(0)
    ours = Generator(sides, 1, width), Discriminator(sides, 1, width), Encoder(sides, 1, width)
    plain = tuple(as_written(copy.deepcopy(network)) for network in ours)
    x, z = torch.rand(batch, 1, *sides) * 2 - 1, torch.randn(batch, 128)
    times = [seconds(*of, x, z, repeats) for of in (ours, plain)]
    cells = [
        f"{scale * one:.3g} ({scale * other:.3g}, ×{other / one:.1f})"
        for one, other, scale in zip(*times, (1, 1, 1000 / batch), strict=True)
    ]
    return ["×".join(map(str, sides)), str(width), str(batch), *cells]


def seconds(
    G: torch.nn.Module,
    D: torch.nn.Module,
    E: torch.nn.Module,
    x: torch.Tensor,
    z: torch.Tensor,
    repeats: int,
) -> list[float]:
    """CPU seconds of a critic update, of an encoder update, and of scoring, the least of each."""
    assert isinstance(G, Generator) and isinstance(D, Discriminator) and isinstance(E, Encoder)
    alpha = torch.rand(len(x), *[1] * (x.dim() - 1))

    def critic() -> None:
        with torch.no_grad():
            fake = G(z)
        distance = wasserstein_distance(*critic_values(D, x, fake))
        critic_loss(distance, gradient_penalty(D, x, fake, alpha), 10.0).backward()

    def encoder() -> None:
        encoder_loss(encoder_terms("izi_f", E, G, D, x, z), 1.0).backward()

    def score() -> None:
        with torch.inference_mode():
            D.features(torch.cat([x, G(E(x))]))

    def least(step: Callable[[], None]) -> float:
        took = []
        for _ in range(repeats):
            begun = time.process_time()
            step()
            took.append(time.process_time() - begun)
        return min(took)

    return [least(step) for step in (critic, encoder, score)]


if __name__ == "__main__":
    main()

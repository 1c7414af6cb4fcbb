"""Speed with one, two and three sides: our blocks against the blocks as the paper writes them.

CPU seconds of an update of critic, generator and encoder and of scoring a batch, the least of
several, and how much memory they take at most; with the networks of the recipes `signal`, `small`
and `volume`, whose whole training follows from them, and of whole flattened B-scans of 64×512 and
128×512 pixels. One thread; run it while the machine does nothing else.

    python benchmarks/sides.py
"""

from __future__ import annotations

import copy
import multiprocessing
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
    generator_loss,
    gradient_penalty,
    wasserstein_distance,
)

RECIPES = {"1-D": "signal", "2-D": "small", "3-D": "volume"}
WHOLE = (64, 512), (128, 512)


def main() -> None:
    """Measure, and write the section."""
    rows = []
    # A process each, whose memory is its own.
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for name, recipe in RECIPES.items():
            rows.append([f"{name}, `{recipe}`", *pool.apply(of_recipe, [recipe])])
        for sides in WHOLE:
            cells, _ = pool.apply(measured, [sides, 4, 16])
            rows.append(["2-D, whole B-scans", *cells, "–"])
    heading = ["", "sides", "width", "batch", "critic update, s", "generator update, s"]
    heading += ["encoder update, s", "scoring, ms an image", "memory, GiB", "training, minutes"]
    write_section(
        "sides",
        "CPU seconds, ours and in brackets those of the blocks as written, times how many; memory "
        f"beyond what the process took before; training without calibration.\n\n"
        f"{markdown(heading, rows)}\n\n{machine()}, 1 thread, torch {torch.__version__}, commit "
        f"{commit()}.",
        ROOT / "docs" / "volumes.md",
    )


def of_recipe(name: str) -> list[str]:
    """The cells of a recipe's row."""
    recipe = load_recipe(name)
    cells, (critic, generator, encoder, _) = measured(
        recipe.image_size, recipe.batch_size, recipe.base_width
    )
    whole = critic * recipe.critic_updates + generator * recipe.rounds
    return [*cells, f"{(whole + encoder * recipe.encoder_updates) / 60:.0f}"]


def measured(
    sides: Sequence[int], batch: int, width: int, repeats: int = 4
) -> tuple[list[str], list[float]]:
    """The cells of a row but the last, and our seconds."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    ours = Generator(sides, 1, width), Discriminator(sides, 1, width), Encoder(sides, 1, width)
    plain = tuple(as_written(copy.deepcopy(network)) for network in ours)
    x, z = torch.rand(batch, 1, *sides) * 2 - 1, torch.randn(batch, 128)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times = [seconds(*ours, x, z, repeats)]
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    times.append(seconds(*plain, x, z, repeats))
    cells = [
        f"{scale * one:.3g} ({scale * other:.3g}, ×{other / one:.1f})"
        for one, other, scale in zip(*times, (1, 1, 1, 1000 / batch), strict=True)
    ]
    size = "×".join(map(str, sides))
    return [size, str(width), str(batch), *cells, f"{memory / 2**20:.2f}"], times[0]


def seconds(
    G: torch.nn.Module,
    D: torch.nn.Module,
    E: torch.nn.Module,
    x: torch.Tensor,
    z: torch.Tensor,
    repeats: int,
) -> list[float]:
    """CPU seconds of updates of D, G and E, and of scoring, the least of each."""
    assert isinstance(G, Generator) and isinstance(D, Discriminator) and isinstance(E, Encoder)
    alpha = torch.rand(len(x), *[1] * (x.dim() - 1))

    def critic() -> None:
        with torch.no_grad():
            fake = G(z)
        distance = wasserstein_distance(*critic_values(D, x, fake))
        critic_loss(distance, gradient_penalty(D, x, fake, alpha), 10.0).backward()

    def generator() -> None:
        generator_loss(D, G(z)).backward()

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

    return [least(step) for step in (critic, generator, encoder, score)]


if __name__ == "__main__":
    main()

"""PyTorch beside torch.compile, ONNX Runtime and OpenVINO on this CPU: speed, and how far apart.

Where it has bfloat16, PyTorch and OpenVINO in that too; the difference is of those in fp32.

Networks of the recipe `small` at 64×64 that have learnt next to nothing, which costs the same; the
images are scikit-learn's digits. --write puts the table into docs/deployment.md: only from a
machine that does nothing else.

    python benchmarks/engines.py --write
"""

from __future__ import annotations

import argparse
from importlib.metadata import version

import numpy as np
import torch
from sklearn.datasets import load_digits
from tables import ROOT, commit, machine, markdown, write_section

from fanogan import FAnoGAN
from fanogan.cli import keep_memory
from fanogan.export import LIBRARIES, images_a_second, use_engine, with_engines
from fanogan.recipes import load_recipe
from fanogan.scoring import in_precision, score
from fanogan.training import lacking_bf16

SIDE = 64
WIDTHS = (8, 16, 64)
THREADS = (1, 2)


def main() -> None:
    """Measure, and print or write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--write", action="store_true", help="into docs/deployment.md")
    options = parser.parse_args()
    keep_memory()
    rows = [
        row_of(width, threads, options.batch, options.repeats)
        for width in WIDTHS
        for threads in THREADS
    ]
    header = [
        "width",
        "threads",
        "PyTorch",
        "compiled",
        *LIBRARIES.values(),
        *(() if lacking_bf16(torch.device("cpu")) else ("PyTorch, bf16", "OpenVINO, bf16")),
        "largest difference of a score",
    ]
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", *LIBRARIES))
    text = (
        f"Images of {SIDE}×{SIDE} a second, each with score and map, in batches of "
        f"{options.batch}: the fastest of {options.repeats} batches, the engines taking turns; in "
        f"brackets the ratio to PyTorch as `score` uses it. {machine()}, {versions}, commit "
        f"{commit()}.\n\n{markdown(header, rows)}"
    )
    if options.write:
        # Another table: a processor with bfloat16 is another kind of machine.
        name = "engines" if lacking_bf16(torch.device("cpu")) else "engines, bf16"
        write_section(name, text, ROOT / "docs" / "deployment.md")
    else:
        print(text)


def row_of(width: int, threads: int, batch: int, repeats: int) -> list[str]:
    """One line of the table."""
    torch.set_num_threads(threads)
    torch.compiler.reset()  # or what was compiled for the rows before counts towards its limit
    pixels = np.round(load_digits().images * (255 / 16)).astype(np.uint8)
    images = pixels[:96].repeat(SIDE // 8, 1).repeat(SIDE // 8, 2)
    recipe = load_recipe("small").but(
        image_size=(SIDE, SIDE), base_width=width, batch_size=8, critic_updates=2, encoder_updates=1
    )
    recipe = recipe.but(reestimate_batch_norm=False)
    model = FAnoGAN(recipe, device="cpu").fit(images[:32]).model
    compiled = model.but(score=torch.compile(model.score), engine="torch.compile")
    others = {"torch.compile": compiled, **with_engines(model, list(LIBRARIES))}
    halves = {}
    if not lacking_bf16(model.device):
        half, _ = in_precision(model, "bf16")
        halves = {"torch, bf16": half, "openvino, bf16": use_engine(half, "openvino")[0]}
    speeds = images_a_second({"torch": model, **others, **halves}, batch=batch, repeats=repeats)
    expected = score(model, images[32:]).total
    differences = [
        np.max(np.abs(score(other, images[32:]).total / expected - 1)) for other in others.values()
    ]
    cells = [f"{speed:.0f} ({speed / speeds['torch']:.2f}×)" for speed in speeds.values()]
    return [str(width), str(threads), *cells, f"{max(differences):.1e}"]


if __name__ == "__main__":
    main()

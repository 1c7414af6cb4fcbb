"""The rate of the iterative search, by what it ends at on held-out normals of finished studies.

python benchmarks/search.py runs/study/phantom runs/study/oct
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch
from tables import ROOT, conditions, markdown, write_section

from fanogan.cli import keep_memory
from fanogan.data import Normals, seeded
from fanogan.recipes import Recipe
from fanogan.scoring import Model, score_batch, totals_of
from fanogan.study import SYSTEMS, StudyData, fitted, settings_of
from fanogan.training import no_progress, precision_of

RATES = (0.02, 0.05, 0.1, 0.2)
IMAGES = 48


def main() -> None:
    """Search, and write the section of the docs."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("study", type=Path, nargs="+")
    keep_memory()
    found = {study.name: dict(losses(study)) for study in parser.parse_args().study}
    header = ["study", *next(iter(found.values()))]
    rows = [[name, *amounts.values()] for name, amounts in found.items()]
    where = "{machine}, torch {torch}, commit {commit}".format(**conditions())
    text = (
        f"Mean loss of Eq. 3 on {IMAGES} images or patches of held-out normals, seed 0; beside the "
        f"search's the encoder's, which takes one look. On {where}."
    )
    write_section("search", f"{text}\n\n{markdown(header, rows)}", ROOT / "docs" / "study.md")


def losses(study: Path) -> Iterator[tuple[str, str]]:
    """The encoder's loss on held-out normals of seed 0, then the search's at each rate."""
    settings = settings_of(study)
    recipe = Recipe.from_dict(settings["recipe"])
    data = StudyData.find(Path(settings["data"])).flattened(recipe, study / "prepared")
    normals = Normals.read(data.train, recipe, seed=0)

    def model(system: str, **changes: float) -> Model:
        return fitted(
            SYSTEMS[system],
            recipe.but(**changes),
            normals,
            study / "seed0",
            seed=0,
            device="auto",
            progress=no_progress,
        )

    encoder = model("izi_f")
    _, held_out = normals.patches(flip=recipe.horizontal_flip, device=encoder.device)
    x = held_out.draw(IMAGES, seeded(encoder.device, "search rates"))
    yield "encoder (izi_f)", amount(encoder, x)
    for rate in RATES:
        yield f"search at {rate:g}", amount(model("iterative", search_learning_rate=rate), x)


def amount(model: Model, x: torch.Tensor) -> str:
    """The mean of Eq. 4, which with one κ for loss and score is the loss, too."""
    with torch.inference_mode(), precision_of("fp32"):
        terms, _ = score_batch(model, x)
    return f"{float(totals_of(model, terms.cpu().double().numpy()).mean()):.4f}"


if __name__ == "__main__":
    main()

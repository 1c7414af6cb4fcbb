"""The demo: the whole job on data that a package carries, scikit-learn's handwritten digits."""

from __future__ import annotations

import itertools
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from fanogan.detectors import FAnoGAN
from fanogan.evaluation import evaluate
from fanogan.folders import BadFolder
from fanogan.stages import Progress, no_progress

NORMAL_DIGIT = 4
TRAINED_SHARE = 0.8


def run_demo(
    out: str | Path, *, seed: int = 0, device: str = "auto", progress: Progress = no_progress
) -> dict[str, Any]:
    """Train on one digit, evaluate on the others and on unseen ones of that digit.

    Writes ``images/`` (PNG files, as a user would have them), ``run/`` and the evaluation.

    Args:
        out: the folder; one that an earlier demo made is made anew.
        seed: of the split, the weights and all of training.
        device: 'auto', 'cpu', 'cuda' or 'mps'.
        progress: as for ``FAnoGAN.fit``, with a last stage that counts scored images.

    Returns:
        What ``evaluate`` returns.

    Raises:
        BadFolder: ``out`` holds something else.
        OSError: it can't be written.
    """
    out = Path(out)
    marker = out / ".fanogan-demo"
    if out.exists() and any(out.iterdir()) and not marker.exists():
        raise BadFolder(f"{out}: holds something else; give --out another folder")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    marker.touch()
    images = out / "images"
    counts = _write_images(images, seed)
    detector = FAnoGAN("demo", seed=seed, device=device)
    detector.fit([images / "train"], out=out / "run", progress=progress)
    scored, to_score = itertools.count(1), 2 * (counts["normal"] + counts["anomalous"])
    return evaluate(
        detector,
        [images / "normal"],
        [images / "anomalous"],
        out,
        on_result=lambda result: progress("scoring", next(scored), to_score, {}),
    )


def _write_images(folder: Path, seed: int) -> Counter[str]:
    """Write each digit as a file; returns how many there are of each kind."""
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)
    normal = np.flatnonzero(digits.target == NORMAL_DIGIT)
    order = np.random.default_rng(seed).permutation(normal)
    trained = set(order[: round(TRAINED_SHARE * len(order))].tolist())
    counts: Counter[str] = Counter()
    for index, (image, digit) in enumerate(zip(pixels, digits.target, strict=True)):
        kind = "train" if index in trained else "normal" if digit == NORMAL_DIGIT else "anomalous"
        path = folder / kind / f"{index:04d}_digit{digit}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
        counts[kind] += 1
    return counts

"""The visual Turing test (section 3.1 (1)): can a rater tell generated images from real ones?

One page of 50 real and 50 generated images goes to the raters; the key stays with whoever asks.
Only the pictures tell the two apart: the same code writes both, as files of one length, in an order
that can't be computed from the page.
"""

from __future__ import annotations

import base64
import hashlib
import io
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fanogan.data import Patches, seeded
from fanogan.detectors import registered
from fanogan.errors import FanoganError
from fanogan.models import Generator
from fanogan.scoring import Model, as_picture, read
from fanogan.storage import write_whole
from fanogan.training import precision_of

EACH = 50  # real images, and as many generated ones
REAL, GENERATED = "real", "generated"
PAGE, KEY, SCORES = "turing.html", "key.json", "turing.json"
CPU = torch.device("cpu")  # what is drawn doesn't depend on the device of the networks

Labels = Mapping[str, str]
"""REAL or GENERATED, by the image's number from "1" on."""


class BadTest(FanoganError):
    """A Turing test that can't be made or scored, in one sentence."""


# --- making a test ------------------------------------------------------------------------------


def write_test(model: Model, images: Any, out: str | Path, *, seed: int = 0) -> str:
    """Write a test: ``turing.html`` for the raters, and ``key.json``, which they mustn't see.

    Args:
        model: Any that has a generator.
        images: Normal images (see ``read_scans``) that the model wasn't trained on.
        out: The folder.
        seed: Of the windows, the latents and the order; the same call makes the same test.

    Returns:
        The test's name, which the page, the key and all answers carry.

    Raises:
        BadTest: A detector without a generator, too few windows, or ``out`` holds another test.
        BadScan: Bad images.
        OSError: ``out`` can't be written.
    """
    if not registered(model.detector).kind.has_generator:
        raise BadTest(
            f"the detector {model.detector} has no generator of images from z ~ N(0, I): give "
            "a model with a GAN, such as f-AnoGAN's"
        )
    G = model.networks["G"]
    assert isinstance(G, Generator)
    random = seeded(CPU, seed, "turing")
    x = real_windows(model, images, random)
    z = torch.randn(EACH, G.latent, generator=random)
    with torch.inference_mode(), precision_of("fp32"):
        x = torch.cat([x, G(z.to(model.device)).cpu()])
    pictures = [as_picture(np.moveaxis(image, 0, -1)) for image in x.numpy()]
    order = _order(pictures)
    pngs = [_png(pictures[index]) for index in order]
    test = hashlib.sha256(b"".join(pngs)).hexdigest()[:12]
    labels = {
        str(number): REAL if index < EACH else GENERATED for number, index in enumerate(order, 1)
    }
    key = json.dumps({"test": test, "seed": seed, "truth": labels}, indent=1) + "\n"
    out = Path(out)
    if (out / PAGE).exists() and not (out / KEY).exists():
        raise BadTest(
            f"{out / PAGE}: is there without its key; move it, or give --out another folder"
        )
    if (out / KEY).exists() and (out / KEY).read_bytes() != key.encode():
        raise BadTest(
            f"{out / KEY}: the key of another test, without which its answers say nothing; give "
            "--out another folder"
        )
    write_whole(out / KEY, key.encode())
    write_whole(out / PAGE, _page(test, pngs, pictures[0].shape).encode())
    return test


def real_windows(model: Model, images: Any, random: torch.Generator) -> Tensor:
    """Draw real windows as the networks see them in training, none twice: (50, C, *sides).

    They come from as many different images as there are: an image gives a second window only after
    every other has given one.

    Raises:
        BadTest: There are fewer than 50 windows.
        BadScan: Bad images.
    """
    patches = []
    for encoded in read(model, images):
        for frame, pixels in enumerate(encoded.pixels):
            usable = None if encoded.usable is None else [encoded.usable[frame]]
            if usable is None or usable[0].any():
                patches.append(
                    Patches([pixels], model.preprocessing, flip=False, device=CPU, usable=usable)
                )
    order = torch.randperm(len(patches), generator=random).tolist()
    windows: dict[bytes, Tensor] = {}
    for index in itertools.islice(itertools.cycle(order), max(len(patches), 40 * EACH)):
        x = patches[index].draw(1, random)
        windows.setdefault(x.numpy().tobytes(), x)
        if len(windows) == EACH:
            break
    else:
        raise BadTest(
            f"only {len(windows)} different windows in these images, the test needs {EACH} real "
            "ones: give more normal images"
        )
    x = torch.cat(list(windows.values()))
    if model.recipe.horizontal_flip:  # as G has learned it
        mirrored = torch.rand(EACH, generator=random) < 0.5
        x = torch.where(mirrored[:, None, None, None], x.flip(3), x)
    return x


def _order(pictures: Sequence[np.ndarray]) -> list[int]:
    """Return a random order, which can't be repeated without knowing which pictures are real.

    It depends on them in the order in which they were drawn, so a rater who knows this code and the
    seed can't compute it.
    """
    drawn = hashlib.sha256(np.stack(pictures).tobytes()).hexdigest()
    random = seeded(CPU, "turing order", drawn)
    shuffled: list[int] = torch.randperm(len(pictures), generator=random).tolist()
    return shuffled


def _png(picture: np.ndarray) -> bytes:
    """Uncompressed: the length of a compressed file would tell smooth images from noisy ones."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, format="PNG", compress_level=0)
    return stream.getvalue()


def _page(test: str, pngs: Sequence[bytes], shape: Sequence[int]) -> str:
    from jinja2 import Environment, PackageLoader

    environment = Environment(loader=PackageLoader("fanogan.report"), autoescape=True)
    images = [base64.b64encode(png).decode("ascii") for png in pngs]
    return environment.get_template(PAGE).render(
        test=test, images=images, rows=shape[0], columns=shape[1]
    )


# --- scoring its answers ------------------------------------------------------------------------


def score_answers(answers: Sequence[str | Path], key: str | Path) -> dict[str, Any]:
    """Return how well each rater told the images apart, and how far raters agree.

    Shares have the exact 95 % interval of Clopper and Pearson.

    Args:
        answers: The file of each rater.
        key: The test's ``key.json``.

    Returns:
        ``raters``: each one's accuracy, and sensitivity for real and for generated images.
        ``mean_accuracy``: over raters. ``pairs``: the agreement of each two raters, and Cohen's κ,
        None where both gave the same answer throughout. ``majority``: the same shares of
        the answer that more than half of the raters gave, over the images where there is one, and
        the number of ``ties``; None for a single rater.

    Raises:
        BadTest: A file that is damaged or of another test, or two files of one rater.
    """
    otherwise = f"no key of a test, or a damaged one; give the {KEY} beside its page"
    test, actual, _ = _read(Path(key), "test", "truth", otherwise)
    raters: dict[str, Labels] = {}
    for path in map(Path, answers):
        otherwise = "no answers of a rater, or damaged; save them again from the page"
        rater, labels, of = _read(path, "rater", "answers", otherwise)
        if of != test:
            raise BadTest(
                f"{path}: answers of another test ({of}) than the key's ({test}); give the key of "
                "their test"
            )
        if len(labels) != len(actual):
            raise BadTest(
                f"{path}: {len(labels)} answers to {len(actual)} images; go through the page to "
                "its end, and save them there"
            )
        if rater.casefold() in map(str.casefold, raters):
            raise BadTest(f"{path}: a second file of the rater {rater}; give one for each rater")
        raters[rater] = labels
    scored = [{"rater": rater, **_shares(labels, actual)} for rater, labels in raters.items()]
    pairs = []
    for names in itertools.combinations(raters, 2):
        first, second = ([raters[name][image] for image in actual] for name in names)
        alike = sum(a == b for a, b in zip(first, second, strict=True))
        agreement = _share(alike, len(actual))
        pairs.append({"raters": list(names), "agreement": agreement, "kappa": kappa(first, second)})
    majority = None
    if len(raters) > 1:
        votes = {image: sum(each[image] == REAL for each in raters.values()) for image in actual}
        decided = {
            image: REAL if 2 * real > len(raters) else GENERATED
            for image, real in votes.items()
            if 2 * real != len(raters)
        }
        majority = {**_shares(decided, actual), "ties": len(actual) - len(decided)}
    return {
        "test": test,
        "images": len(actual),
        "raters": scored,
        "mean_accuracy": float(np.mean([rater["accuracy"]["share"] for rater in scored])),
        "pairs": pairs,
        "majority": majority,
    }


def _read(path: Path, name: str, labels: str, otherwise: str) -> tuple[str, Labels, Any]:
    """Return a file's name of the test or rater, its labels, and the test that it says it is of."""
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise BadTest(f"{path}: damaged, this is no JSON of a test; copy it again")
    called, values = content.get(name), content.get(labels)
    if not (
        (isinstance(called, str) and called.strip())
        and isinstance(values, dict)
        and values.keys() == {str(number) for number in range(1, len(values) + 1)}
        and all(label in (REAL, GENERATED) for label in values.values())
    ):
        raise BadTest(f"{path}: {otherwise}")
    return called.strip(), values, content.get("test")


def _shares(labels: Labels, actual: Labels) -> dict[str, Any]:
    """Return the share of right answers: of all, to real images, and to generated ones."""
    kinds = {"accuracy": (REAL, GENERATED), REAL: (REAL,), GENERATED: (GENERATED,)}
    shares = {}
    for name, kind in kinds.items():
        right = [label == actual[image] for image, label in labels.items() if actual[image] in kind]
        shares[name] = _share(sum(right), len(right))
    return shares


def _share(count: int, of: int) -> dict[str, Any]:
    """Return a share with its exact 95 % interval (Clopper and Pearson 1934); None of nothing."""
    from scipy.stats import binomtest

    if of == 0:
        return {"count": 0, "of": 0, "share": None, "interval": None}
    interval = binomtest(count, of).proportion_ci(0.95, method="exact")
    edges = [float(interval.low), float(interval.high)]
    return {"count": count, "of": of, "share": count / of, "interval": edges}


def kappa(first: Sequence[str], second: Sequence[str]) -> float | None:
    """Return Cohen's κ of two raters' answers to the same images; None where it is 0/0."""
    from sklearn.metrics import cohen_kappa_score

    labels = sorted({*first, *second})
    return float(cohen_kappa_score(first, second, labels=labels)) if len(labels) > 1 else None

"""The visual Turing test (section 3.1 (1)): can a rater tell generated images from real ones?

One page of 50 real and 50 generated images goes to the raters; the key stays with whoever asks.
Nothing in the page tells the two apart but the pictures: the same code writes them, as files of one
length, in an order that can't be computed from it.
"""

from __future__ import annotations

import base64
import hashlib
import io
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import Tensor

from fanogan.data import Patches, seeded
from fanogan.detectors import LearnedDetector, precision_of
from fanogan.errors import FanoganError
from fanogan.models import Generator
from fanogan.scoring import as_picture
from fanogan.storage import write_whole

EACH = 50  # real images, and as many generated ones
REAL, GENERATED = "real", "generated"
PAGE, KEY, SCORES = "turing.html", "key.json", "turing.json"
WITHOUT_GENERATOR = ("ae", "advae")  # their decoders have never seen z ~ N(0, I)
CPU = torch.device("cpu")  # what is drawn doesn't depend on the device of the networks


class BadTest(FanoganError):
    """A Turing test that can't be made or scored, in one sentence."""


# --- the test -----------------------------------------------------------------------------------


def write_test(detector: LearnedDetector, images: Any, out: str | Path, *, seed: int = 0) -> str:
    """Write a test: ``turing.html`` for the raters, and ``key.json``, which they mustn't see.

    Args:
        detector: any that has a generator.
        images: normal images (see ``read_scans``) that the detector wasn't trained on.
        out: the folder.
        seed: of the windows, the latents and the order; the same test from the same call.

    Returns:
        The test's name, which the page, the key and all answers carry.

    Raises:
        BadTest: a detector without a generator, too few windows, or ``out`` holds another test.
        BadScan: bad images.
        OSError: ``out`` can't be written.
    """
    G = _generator(detector)
    generator = seeded(CPU, seed, "turing")
    real = real_windows(detector, images, generator)
    z = torch.randn(EACH, G.latent, generator=generator)
    with torch.inference_mode(), precision_of("fp32"):
        generated = G(z.to(detector.device)).cpu()
    pictures = [
        as_picture(np.moveaxis(image, 0, -1)) for image in torch.cat([real, generated]).numpy()
    ]
    order = _order(pictures)
    pngs = [_png(pictures[index]) for index in order]
    test = hashlib.sha256(b"".join(pngs)).hexdigest()[:12]
    truth = {
        str(number): REAL if index < EACH else GENERATED for number, index in enumerate(order, 1)
    }
    key = json.dumps({"test": test, "seed": seed, "truth": truth}, indent=1) + "\n"
    out = Path(out)
    if (out / KEY).exists() and (out / KEY).read_text("utf-8") != key:
        raise BadTest(
            f"{out / KEY}: the key of another test, without which its answers say nothing; give "
            "--out another folder"
        )
    write_whole(out / KEY, key.encode())
    write_whole(out / PAGE, _page(test, pngs, pictures[0].shape).encode())
    return test


def _generator(detector: LearnedDetector) -> Generator:
    if detector.name in WITHOUT_GENERATOR:
        raise BadTest(
            f"the detector {detector.name} has no generator that makes images of z ~ N(0, I): give "
            "a model with a GAN, such as f-AnoGAN's"
        )
    G = detector.networks[0]
    assert isinstance(G, Generator)
    return G


def real_windows(detector: LearnedDetector, images: Any, generator: torch.Generator) -> Tensor:
    """Real windows as the networks see them in training, each only once: (50, C, *sides).

    They come from as many different images as there are: an image gives a second window only after
    every other has given one.

    Raises:
        BadTest: there are fewer than 50 windows.
        BadScan: bad images.
    """
    patches = list(_patches(detector, images))
    order = torch.randperm(len(patches), generator=generator).tolist()
    found: dict[bytes, Tensor] = {}
    for index in itertools.islice(itertools.cycle(order), max(len(patches), 40 * EACH)):
        x = patches[index].draw(1, generator)
        found.setdefault(x.numpy().tobytes(), x)
        if len(found) == EACH:
            break
    else:
        raise BadTest(
            f"only {len(found)} different windows in these images, the test needs {EACH} real "
            "ones: give more normal images"
        )
    x = torch.cat(list(found.values()))
    if detector.recipe.horizontal_flip:  # as G has learnt it
        mirrored = torch.rand(EACH, generator=generator) < 0.5
        x = torch.where(mirrored[:, None, None, None], x.flip(3), x)
    return x


def _patches(detector: LearnedDetector, images: Any) -> Iterator[Patches]:
    """The windows of each frame that has any."""
    for encoded in detector.read(images):
        for frame, pixels in enumerate(encoded.pixels):
            usable = None if encoded.usable is None else [encoded.usable[frame]]
            if usable is None or usable[0].any():
                yield Patches(
                    [pixels], detector.preprocessing, flip=False, device=CPU, usable=usable
                )


def _order(pictures: Sequence[np.ndarray]) -> list[int]:
    """A random order of the pictures.

    It depends on which pictures are real and on the order in which they were drawn. So a rater who
    knows this code and the seed can't repeat it: that takes what is asked.
    """
    drawn = hashlib.sha256(np.stack(pictures).tobytes()).hexdigest()
    shuffled: list[int] = torch.randperm(
        len(pictures), generator=seeded(CPU, "turing order", drawn)
    ).tolist()
    return shuffled


def _png(picture: np.ndarray) -> bytes:
    """Uncompressed: the length of a compressed file would tell smooth images from noisy ones."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, format="PNG", compress_level=0)
    return stream.getvalue()


def _page(test: str, pngs: Sequence[bytes], shape: Sequence[int]) -> str:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    source = files("fanogan.report").joinpath("templates", PAGE).read_text(encoding="utf-8")
    return environment.from_string(source).render(
        test=test,
        images=[base64.b64encode(png).decode("ascii") for png in pngs],
        rows=shape[0],
        columns=shape[1],
    )


# --- its scores ---------------------------------------------------------------------------------


def score_answers(answers: Sequence[str | Path], key: str | Path) -> dict[str, Any]:
    """How well each rater told the images apart, and how far raters agree.

    Shares stand with the exact 95 % interval of Clopper and Pearson.

    Args:
        answers: the file of each rater.
        key: the test's ``key.json``.

    Returns:
        ``raters``: of each the accuracy, and the sensitivity for real and for generated images.
        ``mean_accuracy``: over raters. ``pairs``: of each two raters the agreement, and Cohen's κ,
        None where both gave one and the same answer throughout. ``majority``: the same shares of
        the answer that more than half of the raters gave, over the images where there is one, and
        the number of ``ties``; None of a single rater.

    Raises:
        BadTest: a file that is damaged or of another test, or two files of one rater.
    """
    test, truth = _read_key(Path(key))
    read = [_read_answers(Path(path), test, truth) for path in answers]
    raters: dict[str, dict[str, str]] = {}
    for path, (rater, given) in zip(answers, read, strict=True):
        if rater.casefold() in map(str.casefold, raters):
            raise BadTest(f"{path}: a second file of the rater {rater}; give one for each rater")
        raters[rater] = given
    scored = [{"rater": rater, **_shares(given, truth)} for rater, given in raters.items()]
    return {
        "test": test,
        "images": len(truth),
        "raters": scored,
        "mean_accuracy": float(np.mean([row["accuracy"]["share"] for row in scored])),
        "pairs": [
            {
                "raters": list(pair),
                "agreement": _share(
                    sum(raters[pair[0]][image] == raters[pair[1]][image] for image in truth),
                    len(truth),
                ),
                "kappa": kappa(*(list(raters[rater].values()) for rater in pair)),
            }
            for pair in itertools.combinations(raters, 2)
        ],
        "majority": _majority(list(raters.values()), truth) if len(raters) > 1 else None,
    }


def _read_key(path: Path) -> tuple[str, dict[str, str]]:
    """The test's name, and what each image is, by number."""
    content = _read_json(path)
    test, truth = content.get("test"), content.get("truth")
    if not (isinstance(test, str) and _are_labels(truth)):
        raise BadTest(f"{path}: no key of a test, or a damaged one; give the {KEY} beside its page")
    return test, {str(number): truth[str(number)] for number in range(1, len(truth) + 1)}


def _read_answers(path: Path, test: str, truth: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """The rater's name and answers, in the order of the key."""
    content = _read_json(path)
    rater, given = content.get("rater"), content.get("answers")
    if not (isinstance(rater, str) and rater.strip() and _are_labels(given)):
        raise BadTest(f"{path}: no answers of a rater, or damaged; save them again from the page")
    if content.get("test") != test:
        raise BadTest(
            f"{path}: answers of another test ({content.get('test')}) than the key's ({test}); "
            "give the key of their test"
        )
    if len(given) != len(truth):
        raise BadTest(
            f"{path}: {len(given)} answers to {len(truth)} images; go through the page to its end, "
            "and save them there"
        )
    return rater.strip(), {image: given[image] for image in truth}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise BadTest(f"{path}: damaged, this is no JSON of a test; copy it again")
    return content


def _are_labels(values: Any) -> TypeGuard[dict[str, str]]:
    """Whether ``values`` are labels by number, from "1" on."""
    return (
        isinstance(values, dict)
        and values.keys() == {str(number) for number in range(1, len(values) + 1)}
        and all(label in (REAL, GENERATED) for label in values.values())
    )


def _share(count: int, of: int) -> dict[str, Any]:
    """A share with its exact 95 % interval (Clopper and Pearson 1934); None of nothing."""
    from scipy.stats import binomtest

    if of == 0:
        return {"count": 0, "of": 0, "share": None, "interval": None}
    interval = binomtest(count, of).proportion_ci(0.95, method="exact")
    return {
        "count": count,
        "of": of,
        "share": count / of,
        "interval": [float(interval.low), float(interval.high)],
    }


def _shares(given: Mapping[str, str], truth: Mapping[str, str]) -> dict[str, Any]:
    """The share of answers that are right: of all, of those to real images, to generated ones."""

    def share_of(*labels: str) -> dict[str, Any]:
        right = [label == truth[image] for image, label in given.items() if truth[image] in labels]
        return _share(sum(right), len(right))

    return {
        "accuracy": share_of(REAL, GENERATED),
        REAL: share_of(REAL),
        GENERATED: share_of(GENERATED),
    }


def kappa(one: Sequence[str], other: Sequence[str]) -> float | None:
    """Cohen's κ of two raters' answers to the same images; None where it is 0/0."""
    from sklearn.metrics import cohen_kappa_score

    labels = sorted({*one, *other})
    return float(cohen_kappa_score(one, other, labels=labels)) if len(labels) > 1 else None


def _majority(raters: Sequence[Mapping[str, str]], truth: Mapping[str, str]) -> dict[str, Any]:
    votes = {image: sum(given[image] == REAL for given in raters) for image in truth}
    decided = {
        image: REAL if 2 * real > len(raters) else GENERATED
        for image, real in votes.items()
        if 2 * real != len(raters)
    }
    return {**_shares(decided, truth), "ties": len(truth) - len(decided)}

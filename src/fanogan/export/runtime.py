"""Score images with an exported model: needs onnxruntime, numpy and Pillow, and nothing else.

    python runtime.py FOLDER image.png … [--providers CUDAExecutionProvider CPUExecutionProvider]

prints as JSON the score, p-value, flag and warnings of each image, as `fanogan score` gives them.
FOLDER is what `fanogan export --to folder` wrote, this file in it; its `model.json` holds all rules
and numbers that are used below. Research use only, not a medical device.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


class BadInput(Exception):
    """What can't be scored, in one sentence."""


class Model:
    """An exported model, ready to score."""

    def __init__(self, folder: str | Path, providers: Sequence[str] = ("CPUExecutionProvider",)):
        """Read it; `providers` are ONNX Runtime's execution providers, the first preferred."""
        self.about: dict[str, Any] = json.loads(Path(folder, "model.json").read_text("utf-8"))
        known = onnxruntime.get_available_providers()
        if missing := set(providers) - set(known):
            raise BadInput(f"{', '.join(missing)}: this onnxruntime has {', '.join(known)}")
        graph = Path(folder, self.about["graph"])
        self.session = onnxruntime.InferenceSession(graph, providers=list(providers))

    def score(self, path: str | Path) -> tuple[dict[str, Any], np.ndarray]:
        """Return what an image scores, and its map of |x - G(E(x))|, (rows, columns) in [0, 2]."""
        if self.about["takes"] != "images":
            raise BadInput(f"this model takes {self.about['takes']}: call Model.patches with them")
        stored, warnings = self.encode(read(path))
        size = stored.shape[1:]
        window = tuple(self.about["window"] or size)
        weight, fused, total = weights(window), np.zeros(size), np.zeros(size)
        terms, (h, w) = [], window
        places = list(itertools.product(*map(starts, size, window)))
        for at in (places[first : first + 64] for first in range(0, len(places), 64)):
            found, maps = self.run(np.stack([stored[:, y : y + h, x : x + w] for y, x in at]))
            terms.append(found)
            for (y, x), each in zip(at, maps, strict=True):
                fused[y : y + h, x : x + w] += weight * each
                total[y : y + h, x : x + w] += weight
        row = {**self.judge(np.concatenate(terms), "image"), "warnings": warnings}
        return {"name": str(path), **row}, (fused / total).astype(np.float32)

    def patches(self, stored: np.ndarray, retina: np.ndarray | None = None) -> list[dict[str, Any]]:
        """Return what flattened patches of a retina score, (n, C, *window); the mask has C = 1."""
        if self.about["needs_mask"] != (retina is not None):
            raise BadInput("give a mask to a model that scores the retina alone, and to no other")
        return [self.judge(each[None], "patch") for each in self.run(stored, retina)[0]]

    def run(self, stored: np.ndarray, mask: np.ndarray | None = None) -> tuple[np.ndarray, ...]:
        """Return the terms (n, 2) and maps (n, rows, columns) of windows (n, C, rows, columns)."""
        x = stored.astype(np.float32) * np.float32(2 / self.about["levels"]) - np.float32(1)
        given = {"x": resize(x, self.about["image_size"])}
        if len(self.session.get_inputs()) > 1:
            inside = np.ones_like(x[:, :1]) if mask is None else mask.astype(np.float32)
            given["inside"] = resize(inside, self.about["image_size"]) > 0.5001
        terms, maps = self.session.run(["terms", "maps"], given)
        return terms.astype(np.float64), resize(maps[:, :1], x.shape[2:])[:, 0]

    def judge(self, terms: np.ndarray, unit: str) -> dict[str, Any]:
        """Reduce windows' terms (n, 2), A_R and A_D, to a score beside the held-out normals'."""
        means, factors = np.array(self.about["total"])  # A_R + κ·A_D, or in units of their spread
        totals = ((terms - means) * factors).sum(1)
        count = max(1, math.ceil(self.about["top_window_fraction"] * len(totals) * (1 - 1e-12)))
        highest = terms[np.argsort(-totals, kind="stable")[:count]].mean(0)
        score = float(((highest - means) * factors).sum())
        held_out = self.about["held_out"].get(unit, {"subjects": 0, "suffices": False})
        p_value, flag = None, "too few held out"
        if held_out["subjects"]:
            below = int(np.searchsorted(held_out["scores"], score, side="left"))
            p_value = held_out["p_values"][len(held_out["scores"]) - below]
        if held_out["suffices"]:
            flag = "yes" if p_value <= self.about["false_positive_rate"] else "no"
        found = {"score": score, "image_residual": highest[0], "feature_residual": highest[1]}
        return {**found, "windows": len(totals), "p_value": p_value, "flag": flag}

    def encode(self, pixels: np.ndarray) -> tuple[np.ndarray, list[str]]:
        """Map pixels (rows, columns, C) to the model's grey values (C, rows, columns); warnings."""
        about, given, highest = self.about, pixels.dtype.name, int(pixels.max())
        depth, low, high = about["depth"], about["low"], about["high"]
        is_grey = bool((pixels == pixels[..., :1]).all())  # perhaps stored as colour
        pixels = pixels[..., :1] if is_grey and about["channels"] == 1 else pixels
        if pixels.shape[2] != about["channels"]:
            raise BadInput(f"has {pixels.shape[2]} channels, the model takes {about['channels']}")
        if (np.array(pixels.shape[:2]) < (about["window"] or 2)).any():
            raise BadInput(f"has {pixels.shape[0]}×{pixels.shape[1]} pixels, which is too few")
        factor = 1.0
        if {given, depth} == {"uint8", "uint16"}:
            if (high if depth == "uint16" else highest) > 255:
                factor = 65535 / 255 if given == "uint8" else 255 / 65535
        elif "uint8" in {given, depth} and given != depth:
            raise BadInput(f"is {given}, the model was trained on {depth}: convert it")
        share = np.clip((pixels * factor - low) / (high - low), 0, 1)  # of 8 bits exact
        stored = np.moveaxis(np.round(share * about["levels"]), -1, 0).astype(np.float32)
        warnings = list(self.unlike(stored, given, 1 if is_grey else pixels.shape[2]))
        white, is_guess = round(high / factor), depth == "uint8" and factor == 1
        if given == "uint16" and depth[0] == "u" and (is_guess or highest * 8 < white):
            warnings.insert(0, about["doubt"].format(highest=highest, white=white))
        return stored, warnings

    def unlike(self, stored: np.ndarray, dtype: str, channels: int) -> Iterator[str]:
        """Yield in what way an image is unlike the training normals."""
        known, (rows, columns) = self.about["familiar"], stored.shape[1:]
        within = zip((rows, columns), (known["rows"], known["columns"]), strict=True)
        is_within = all(low <= side <= high for side, (low, high) in within)
        if not ([rows, columns] in known["sizes"] if known["sizes"] else is_within):
            yield known["size_text"].format(size=f"{rows}×{columns}")
        if dtype not in known["dtypes"]:
            yield f"bit depth {dtype}, trained on {' and '.join(known['dtypes'])}"
        if channels not in known["channels"]:
            yield "1 channel, trained on 3"  # grey stored as colour; others are refused
        step = max(1, math.ceil(math.sqrt(rows * columns / 65_536)))
        bins = (stored[:, ::step, ::step] / np.float32(self.about["levels"]) * 64).astype(int)
        shares = np.bincount(bins.clip(0, 63).ravel(), minlength=64) / bins.size
        distance = np.abs(np.cumsum(shares - np.array(known["histogram"]))).sum() / 64
        if distance > known["furthest"]:
            yield known["histogram_text"].format(distance=f"{distance:.2g}")


def read(path: str | Path) -> np.ndarray:
    """Return the pixels of a PNG, JPEG or BMP, (rows, columns, C) uint8 or uint16."""
    try:
        header = Path(path).read_bytes()[:26]
        if header[:4] == b"\x89PNG" and header[24] == 16 and header[25] in (2, 4, 6):
            raise BadInput("has 16 bits and several channels, which Pillow can't read: convert it")
        with Image.open(path, formats=("PNG", "JPEG", "BMP")) as image:
            if image.width * image.height > 100_000_000:
                raise BadInput("has more than 100 megapixels: crop or tile it")
            kept = ("L", "LA", "I", "I;16", "I;16B", "I;16L", "RGB", "RGBA")
            mode = image.mode if image.mode in kept else "L" if image.mode == "1" else "RGB"
            pixels = np.asarray(ImageOps.exif_transpose(image).convert(mode))
    except (OSError, SyntaxError, ValueError, IndexError, Image.DecompressionBombError) as error:
        raise BadInput(f"can't be read as a PNG, JPEG or BMP ({error})") from None
    pixels = pixels.reshape(*pixels.shape[:2], -1).astype("uint16" if mode[0] == "I" else "uint8")
    pixels = pixels[..., : {2: 1, 4: 3}.get(pixels.shape[2])]  # the last is alpha
    if (pixels == pixels[0, 0]).all():
        raise BadInput("has the same value in every pixel, so there is nothing to score")
    return pixels


def starts(side: int, window: int) -> list[int]:
    """Return where windows begin: one each half window, the last at the end."""
    step = max(window // 2, 1)
    return [min(at, side - window) for at in range(0, side - window + step, step)]


def weights(window: Sequence[int]) -> np.ndarray:
    """Return the weights of a window's pixels: Gaussian, σ an eighth of its sides."""
    away = [(np.arange(side) - (side - 1) / 2) / (side / 8) for side in window]
    return np.asarray(np.maximum(np.outer(*(np.exp(-0.5 * each**2) for each in away)), 1e-3))


def resize(x: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Resample (n, C, rows, columns) bilinearly: triangles as wide as two of the larger pixels."""
    for axis, (before, after) in enumerate(zip(x.shape[2:], size, strict=True), 2):
        middles = (np.arange(after)[:, None] + 0.5) * (before / after)
        away = np.abs(np.arange(before) + 0.5 - middles) / max(before / after, 1)
        matrix = np.maximum(1 - away, 0)
        matrix = (matrix / matrix.sum(1, keepdims=True)).astype(np.float32)
        x = np.moveaxis(np.moveaxis(x, axis, -1) @ matrix.T, -1, axis) if before != after else x
    return x


def main() -> None:
    """Score the images that are named."""
    parser = argparse.ArgumentParser(description="Score images with an exported model.")
    parser.add_argument("folder")
    parser.add_argument("images", nargs="+")
    parser.add_argument("--providers", nargs="+", default=["CPUExecutionProvider"])
    given, rows = parser.parse_args(), []
    try:
        model = Model(at := given.folder, given.providers)
        for at in given.images:
            rows.append(model.score(at)[0])
    except (BadInput, OSError) as error:
        sys.exit(f"{at}: {error}")
    print(json.dumps(rows, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()

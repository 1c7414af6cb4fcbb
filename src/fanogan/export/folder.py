"""What stands beside the graph in a folder: what scoring needs to know, or a server's settings."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import torch

from fanogan.calibration import ALPHA, GreyValuesUnseen, HeldOut, Profile, SizeUnseen
from fanogan.data import GreyRangeDoubtful
from fanogan.export.graph import Deployed
from fanogan.report import describe
from fanogan.scoring import BATCH, Model

FORMAT = 1
TRITON = "# Written by fanogan export."
_TYPES = {torch.uint8: "UINT8", torch.int32: "INT32", torch.bool: "BOOL", torch.float32: "FP32"}


def about_folder(model: Model) -> dict[str, Any]:
    """Return what ``runtime.py`` reads in ``model.json``: every rule and number of scoring."""
    seen, calibration, recipe = model.preprocessing, model.calibration, model.recipe
    fraction = recipe.top_window_fraction
    scale = calibration.term_scale
    means, spreads = scale or ((0.0, 0.0), (1.0, 1.0))
    kappa = 1.0 if scale else recipe.kappa
    size = " × ".join(map(str, seen.window or ()))
    return {
        "format": FORMAT,
        "research_use": "Research use only, not a medical device.",
        "fanogan": version("fanogan"),
        "detector": model.detector,
        "graph": "model.onnx",
        "takes": f"flattened patches of a retina, {size} pixels" if seen.retina else "images",
        "needs_mask": seen.tissue_only,
        "rules": {
            "input": "x = 2 · stored / levels − 1, resampled to image_size; of a model whose depth "
            "isn't uint8, stored = round(levels · clip((grey − low) / (high − low), 0, 1))",
            "windows": "without a window, images are seen whole; otherwise a window each half "
            "window (rounded down) along both axes, the last one ending where the image ends",
            "map": "the mean of windows' maps, resampled to their size, with Gaussian weights of "
            "σ = an eighth of the window's sides, at least 0.001",
            "resampling": "bilinear, antialiased: triangles as wide as two of the larger pixels",
            "total": "Σ (terms − total[0]) · total[1], of A_R and A_D",
            "score": "the total of the mean terms of the windows with the highest totals, a share "
            "of top_window_fraction, rounded up",
            "p_value": "p_values[j] of a score that j of the held-out scores reach or exceed",
            "flag": "p_value ≤ false_positive_rate, if held_out suffices for that",
        },
        "image_size": seen.image_size,
        "window": seen.window,
        "channels": seen.channels,
        "depth": seen.depth,
        "low": seen.low,
        "high": seen.high,
        "levels": seen.levels,
        "top_window_fraction": 0.05 if fraction == "auto" else fraction,
        "total": [means, [1 / spreads[0], kappa / spreads[1]]],
        "false_positive_rate": ALPHA,
        "held_out": {unit: _ranks(each) for unit, each in calibration.units.items()},
        "map_scale": calibration.map_scale,
        "familiar": _familiar(model.profile),
        "doubt": describe(GreyRangeDoubtful(1, 2)).replace(
            "up to 1, and 2", "up to {highest:,}, and {white:,}"
        ),
        "fingerprint": model.provenance["fingerprint"],
        "warnings": model.provenance["warnings"],
    }


def _ranks(held_out: HeldOut) -> dict[str, Any]:
    scores, p_values = held_out.ranked
    threshold = held_out.threshold(ALPHA)
    return {
        "scores": scores.tolist(),
        "p_values": p_values.tolist(),
        "subjects": held_out.n_subjects,
        "suffices": threshold is not None,
        "threshold": threshold,
    }


def _familiar(profile: Profile) -> dict[str, Any]:
    """Return what the training normals looked like, with the words for what is unlike them."""
    size = SizeUnseen((0, 0), profile.sizes, profile.rows, profile.columns)
    histogram = GreyValuesUnseen(1, 1, 0.0, profile.largest_distance)
    return {
        **profile.to_dict(),
        "furthest": profile.furthest,
        "size_text": describe(size).replace("size 0×0", "size {size}"),
        "histogram_text": describe(histogram).replace("distance 0,", "distance {distance},"),
    }


def triton_config(deployed: Deployed, name: str) -> str:
    """Return ``config.pbtxt`` of a graph in a repository of Triton's; the name is its folder's."""
    rows, columns = deployed.window
    channels = deployed.preprocessing.channels
    outputs = {
        "terms": ("FP32", "dims: [2]"),
        # Without the batch nothing is left, for which Triton wants a shape all the same.
        "total": ("FP32", "dims: [1] reshape { shape: [] }"),
        "map": ("FP32", f"dims: [{rows}, {columns}]"),
        "reconstruction": ("FP32", f"dims: [{channels}, {rows}, {columns}]"),
        "flag": ("BOOL", "dims: [1] reshape { shape: [] }"),
    }
    inputs = {
        key: (_TYPES[one.dtype], f"dims: {list(one.shape[1:])}")
        for key, one in deployed.inputs.items()
    }
    lines = [
        TRITON,
        f'name: "{name}"',
        'backend: "onnxruntime"',
        f"max_batch_size: {BATCH}",
        "dynamic_batching { max_queue_delay_microseconds: 2000 }",
        *(f'input {{ name: "{k}" data_type: TYPE_{t} {dims} }}' for k, (t, dims) in inputs.items()),
    ]
    for key in deployed.outputs:
        kind, dims = outputs[key]
        lines.append(f'output {{ name: "{key}" data_type: TYPE_{kind} {dims} }}')
    return "\n".join([*lines, ""])

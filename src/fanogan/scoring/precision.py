"""In which precision the networks of a model score, and the calibration that belongs to it."""

from __future__ import annotations

from fanogan.errors import FanoganError
from fanogan.scoring.model import Model
from fanogan.training import lacking_bf16

PRECISIONS = ("fp32", "bf16", "auto")


class BadPrecision(FanoganError):
    """A precision in which a model can't score here, said in one sentence."""


def in_precision(model: Model, name: str) -> tuple[Model, str]:
    """Return a model that scores in a precision, by the held-out normals scored in the same.

    Args:
        model: a trained one; an engine comes after its precision (see ``export.use_engine``).
        name: one of ``PRECISIONS``; 'auto' is bf16 where device and model have it, else fp32.

    Returns:
        The model, and which precision it has and why, in one line.

    Raises:
        BadPrecision: no such precision, or the device or the model lacks it.
    """
    if name not in PRECISIONS:
        raise BadPrecision(f"--precision {name}: give one of {', '.join(PRECISIONS)}")
    if model.engine != "torch":
        raise BadPrecision(
            f"the engine {model.engine} is made for one precision: choose that first"
        )
    lacking = lacking_in(model) if name != "fp32" else ""
    if lacking and name == "bf16":
        raise BadPrecision(f"--precision bf16: {lacking}")
    if lacking:
        return in_precision(model, "fp32")[0], f"precision: fp32 ({lacking})"
    chosen = "fp32" if name == "fp32" else "bf16"
    known = {model.precision: model.calibration, **model.others}
    calibration = known.pop(chosen)
    return model.but(
        precision=chosen, calibration=calibration, others=known
    ), f"precision: {chosen}"


def lacking_in(model: Model) -> str:
    """Return why a model can't score in bf16 here, and what to do; empty where it can."""
    if not model.exportable:
        return f"the detector {model.detector} computes its score step by step, in fp32 alone"
    if has := lacking_bf16(model.device):
        return f"{has}; score in fp32"
    if "bf16" in (model.precision, *model.others):
        return ""
    return (
        "this model's held-out normals were scored in fp32 alone, and p-values would rest on them; "
        "resume its run here, which only scores them in bf16 too: fanogan fit --resume RUN"
    )

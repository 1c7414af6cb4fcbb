"""A model leaves Python: one graph for ONNX Runtime and OpenVINO, and these in place of PyTorch."""

from fanogan.export.engines import (
    LIBRARIES,
    ExportedModel,
    images_a_second,
    use_engine,
    with_engines,
)
from fanogan.export.file import export
from fanogan.export.graph import BadExport

__all__ = [
    "LIBRARIES",
    "BadExport",
    "ExportedModel",
    "export",
    "images_a_second",
    "use_engine",
    "with_engines",
]

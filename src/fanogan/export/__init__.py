"""export."""

from fanogan.export.engines import LIBRARIES, engines_of, images_a_second, use_engine
from fanogan.export.file import export
from fanogan.export.graph import Scorer

__all__ = [
    "LIBRARIES",
    "Scorer",
    "engines_of",
    "export",
    "images_a_second",
    "use_engine",
]

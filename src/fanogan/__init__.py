"""Anomaly detection on scans that learns from normal scans alone (f-AnoGAN).

The names below load the module that holds them on first use, so that ``import fanogan`` stays
quick and does not bring in PyTorch.
"""

from typing import TYPE_CHECKING

__all__ = [
    "BadScan",
    "FAnoGAN",
    "FanoganError",
    "Recipe",
    "Scan",
    "Scores",
    "__version__",
    "load_recipe",
    "read_scan",
]

if TYPE_CHECKING:
    from fanogan.detectors import FAnoGAN
    from fanogan.errors import FanoganError
    from fanogan.recipes import Recipe, load_recipe
    from fanogan.scans import BadScan, Scan, read_scan
    from fanogan.scoring import Scores

    __version__: str
else:
    _HOMES = {
        "BadScan": "fanogan.scans",
        "FAnoGAN": "fanogan.detectors",
        "FanoganError": "fanogan.errors",
        "Recipe": "fanogan.recipes",
        "Scan": "fanogan.scans",
        "Scores": "fanogan.scoring",
        "load_recipe": "fanogan.recipes",
        "read_scan": "fanogan.scans",
    }

    def __getattr__(name):
        """Import an exported name on first use and keep it.

        Hidden from type checkers, which would otherwise let any misspelt name pass.

        Raises:
            AttributeError: the name is not one that the package exports.
        """
        if name == "__version__":
            from importlib.metadata import version

            value = version("fanogan")
        elif name in _HOMES:
            from importlib import import_module

            value = getattr(import_module(_HOMES[name]), name)
        else:
            raise AttributeError(f"module 'fanogan' has no attribute {name!r}")
        globals()[name] = value
        return value

    def __dir__():
        """List the exported names beside those already loaded."""
        return sorted({*globals(), *__all__})

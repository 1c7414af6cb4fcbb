"""phantom."""

from fanogan.phantom.eye import Phantom, make_phantom
from fanogan.phantom.lesions import LESIONS

__all__ = [
    "LESIONS",
    "Phantom",
    "make_phantom",
]

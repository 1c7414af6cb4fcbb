"""Made-up data with exact truth: OCT volumes of retinas, volumes of vessels."""

from fanogan.phantom.eye import Phantom, make_phantom
from fanogan.phantom.lesions import LESIONS
from fanogan.phantom.vessels import MadeUpVessels, make_vessels

__all__ = [
    "LESIONS",
    "MadeUpVessels",
    "Phantom",
    "make_phantom",
    "make_vessels",
]

"""Made-up data with exact truth: OCT volumes of retinas, electrocardiograms, volumes of vessels."""

from fanogan.phantom.ecg import MadeUpECG, make_ecg
from fanogan.phantom.eye import Phantom, make_phantom
from fanogan.phantom.lesions import LESIONS
from fanogan.phantom.vessels import MadeUpVessels, make_vessels

__all__ = [
    "LESIONS",
    "MadeUpECG",
    "MadeUpVessels",
    "Phantom",
    "make_ecg",
    "make_phantom",
    "make_vessels",
]

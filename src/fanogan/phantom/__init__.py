"""Made-up data with exact truth: OCT volumes of retinas, and electrocardiograms."""

from fanogan.phantom.ecg import MadeUpECG, make_ecg
from fanogan.phantom.eye import Phantom, make_phantom
from fanogan.phantom.lesions import LESIONS

__all__ = ["LESIONS", "MadeUpECG", "Phantom", "make_ecg", "make_phantom"]

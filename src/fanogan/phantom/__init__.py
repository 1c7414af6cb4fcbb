"""Made-up retinas: OCT volumes drawn from a seed, with exact boundaries and lesion masks."""

from fanogan.phantom.eye import Phantom, make_phantom
from fanogan.phantom.lesions import LESIONS

__all__ = ["LESIONS", "Phantom", "make_phantom"]

"""What a user holds: detectors, all with one contract."""

from fanogan.detectors.detector import Detector, Result, Scores
from fanogan.detectors.fanogan import FAnoGAN

__all__ = ["Detector", "FAnoGAN", "Result", "Scores"]

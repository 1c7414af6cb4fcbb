"""What a user holds: detectors, all with one contract."""

from fanogan.detectors.fanogan import FAnoGAN, Result, Scores

__all__ = ["FAnoGAN", "Result", "Scores"]

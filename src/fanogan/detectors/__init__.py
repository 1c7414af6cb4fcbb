"""Detectors: one file each, registered where it is defined, all with one contract.

A detector says which networks it has, how they are trained and what score they make of a batch.
Other packages add their own through the entry point group ``fanogan.detectors``.
"""

from fanogan.detectors.building import linear, untrained, with_networks_of
from fanogan.detectors.detector import Detector, new_detector
from fanogan.detectors.gan import BadGan
from fanogan.detectors.registry import BadDetector, detector_names, register, registered
from fanogan.detectors.timing import seconds_to_fit, seconds_to_fit_any

# They are registered in this order, in which errors name them.
# isort: off
from fanogan.detectors.fanogan import FAnoGAN
from fanogan.detectors.critic import Critic
from fanogan.detectors.iterative import Iterative
from fanogan.detectors.autoencoder import Autoencoder
from fanogan.detectors.adversarial_autoencoder import AdversarialAutoencoder
from fanogan.detectors.ali import Ali
from fanogan.detectors.pca import PrincipalComponents
# isort: on

__all__ = [
    "AdversarialAutoencoder",
    "Ali",
    "Autoencoder",
    "BadDetector",
    "BadGan",
    "Critic",
    "Detector",
    "FAnoGAN",
    "Iterative",
    "PrincipalComponents",
    "detector_names",
    "linear",
    "new_detector",
    "register",
    "registered",
    "seconds_to_fit",
    "seconds_to_fit_any",
    "untrained",
    "with_networks_of",
]

"""Made-up volumes of vessels."""

import numpy as np
from scipy import ndimage

from fanogan.phantom import make_vessels
from fanogan.phantom.vessels import BLOOD, NODULE_RADII, NOISE, TISSUE


def test_only_the_diseased_have_nodules_and_their_truth_is_exact() -> None:
    healthy, ill = make_vessels(3), make_vessels(3, diseased=True)
    again = make_vessels(3, diseased=True)
    assert np.array_equal(ill.voxels, again.voxels) and healthy.voxels.shape == (48, 48, 48)
    assert not healthy.nodules.any()
    _, count = ndimage.label(ill.nodules, np.ones((3, 3, 3)))
    assert 1 <= count <= 3
    least, most = (4 / 3 * np.pi * radius**3 for radius in NODULE_RADII)
    assert 0.8 * least < ill.nodules.sum() < 3.2 * most
    # As bright as vessels, but for half voxels at the edge.
    inside = ndimage.binary_erosion(ill.nodules)
    assert abs(ill.voxels[inside].mean() - BLOOD) < 2
    assert abs(ill.voxels[inside].std() - NOISE) < 2
    assert abs(np.median(healthy.voxels) - TISSUE) < 3

"""What windows that all miss the retina come to."""

import numpy as np
import pytest

from fanogan import FAnoGAN
from fanogan.cli.demo import flat_phantom
from fanogan.phantom import make_phantom
from fanogan.recipes import load_recipe
from fanogan.scans import BadScan
from fanogan.scoring import Encoded, score_encoded


def test_a_volume_whose_windows_all_miss_the_usable_corners_is_refused_in_a_sentence() -> None:
    shape, spacing = (2, 200, 96), (0.24, 0.00387, 0.022)
    eyes = [flat_phantom(make_phantom(seed, shape=shape, spacing=spacing)) for seed in (0, 1)]
    recipe = load_recipe("smoke").but(
        geometry="retina",
        window=(64, 64),
        held_out_fraction=0.5,
        critic_updates=2,
        encoder_updates=2,
        reestimate_batch_norm=False,
    )
    model = FAnoGAN(recipe, device="cpu").fit(eyes).model
    seen = model.preprocessing
    usable = seen.usable(eyes[0], to_learn=False)
    assert usable is not None
    usable = np.zeros_like(usable)
    usable[0, 1, 1] = True  # windows are half a window apart, so none begins here
    encoded = Encoded(eyes[0], seen.encode(eyes[0]), usable, (), grey=[(0.5, 0.1)] * len(usable))
    with pytest.raises(BadScan, match="has no place where 64×64 flat pixels hold"):
        [result for batch in score_encoded(model, [encoded]) for result in batch]

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import binary_dilation, map_coordinates

from fanogan.phantom.eye import BOUNDARIES, Phantom, make_phantom
from fanogan.phantom.lesions import LESIONS

SMALL = {"shape": (8, 128, 128), "spacing": (0.7, 0.0150, 0.0456)}
SHARP = {"shape": (5, 320, 320), "spacing": (0.7, 0.00387, 0.0114)}


@pytest.fixture(scope="module")
def healthy() -> Phantom:
    return make_phantom(7, **SHARP)


@pytest.fixture(scope="module")
def diseased() -> list[Phantom]:
    return [make_phantom(seed, diseased=True, **SMALL) for seed in range(12)]


def one_kind(kind: str, seed: int = 3) -> Phantom:
    return make_phantom(seed, diseased=True, lesions=[kind], **SMALL)


def across(phantom: Phantom, name: str, reach: int = 12) -> np.ndarray:
    """Mean grey value above and below a boundary, at whole rows from it."""
    offsets = np.arange(-reach, reach + 1)
    columns = np.arange(phantom.pixels.shape[2])
    profiles = [
        map_coordinates(
            scan.astype(float),
            np.broadcast_arrays(rows[None] + offsets[:, None], columns[None]),
            order=1,
        )
        for scan, rows in zip(phantom.pixels, phantom.boundaries[name], strict=True)
    ]
    return np.mean(profiles, axis=(0, 2))


def test_a_seed_gives_the_same_volume_again_and_another_seed_another_eye(
    diseased: list[Phantom],
) -> None:
    again = make_phantom(3, diseased=True, **SMALL)
    assert again.name == "phantom_0003"
    assert np.array_equal(again.pixels, diseased[3].pixels)
    assert np.array_equal(again.lesions, diseased[3].lesions)
    assert all(np.array_equal(again.boundaries[n], diseased[3].boundaries[n]) for n in BOUNDARIES)
    thickness = [(p.boundaries["Bruch"] - p.boundaries["ILM"]).mean() for p in diseased]
    assert len(set(np.round(thickness, 3))) == len(diseased)


def test_shapes_types_and_names(diseased: list[Phantom]) -> None:
    for phantom in diseased:
        assert phantom.pixels.shape == phantom.lesions.shape == SMALL["shape"]
        assert phantom.pixels.dtype == phantom.lesions.dtype == np.uint8
        assert tuple(phantom.boundaries) == BOUNDARIES
        for rows in phantom.boundaries.values():
            assert rows.dtype == np.float32
            assert rows.shape == (8, 128)
        assert phantom.spacing == SMALL["spacing"]


def test_boundaries_are_in_order_and_inside(healthy: Phantom, diseased: list[Phantom]) -> None:
    for phantom in [healthy, *diseased]:
        stack = np.stack([phantom.boundaries[name] for name in BOUNDARIES])
        assert np.diff(stack, axis=0).min() >= -1e-3
        assert stack.min() >= 0
        assert phantom.boundaries["Bruch"].max() <= phantom.pixels.shape[1] - 1


@pytest.mark.parametrize(
    ("name", "sign"), [("ILM", 1), ("MZ/EZ", 1), ("RPE inner", 1), ("RPE outer", -1)]
)
def test_contrast_lies_on_the_boundary(healthy: Phantom, name: str, sign: int) -> None:
    profile = across(healthy, name, reach=4)
    steps = sign * np.diff(profile)
    place = (steps.clip(0) * (np.arange(len(steps)) - len(steps) / 2 + 0.5)).sum()
    assert abs(place / steps.clip(0).sum()) < 1
    assert steps.max() > 10


def test_layers_have_the_contrast_of_a_retina(healthy: Phantom) -> None:
    def mean(above: str, below: str) -> float:
        rows = np.arange(healthy.pixels.shape[1])[:, None]
        inside = (rows >= healthy.boundaries[above][:, None] + 1) & (
            rows <= healthy.boundaries[below][:, None] - 1
        )
        return float(healthy.pixels[inside].mean())

    vitreous = float(healthy.pixels[:, :10].mean())
    nuclear, plexiform = mean("HFL/ONL", "ELM"), mean("NFL/GCL", "IPL/INL")
    assert vitreous < nuclear < mean("IPL/INL", "INL/OPL") < plexiform
    assert plexiform < mean("EZ/OS", "OS outer") < mean("RPE inner", "RPE outer")
    assert mean("Bruch", "choroid/sclera") < plexiform


def test_fovea_is_a_pit() -> None:
    phantom = make_phantom(1, **SMALL)
    inner = phantom.boundaries["OPL/HFL"] - phantom.boundaries["ILM"]
    middle, beside = inner[3:5, 48:80], inner[3:5, [38, 39, 88, 89]]
    assert middle.min() < 0.4 * beside.mean()


def test_speckle_multiplies(healthy: Phantom) -> None:
    """The contrast of the intensity is the same in layers that differ sixfold in brightness."""

    def contrast(above: str, below: str) -> tuple[float, float]:
        middle = (healthy.boundaries[above] + healthy.boundaries[below]) / 2
        rows = np.rint(middle).astype(int)[:, None]
        grey = np.take_along_axis(healthy.pixels, rows, axis=1)[:, 0].astype(float)
        grey -= grey.mean(axis=1, keepdims=True) - grey.mean()
        intensity = np.exp(grey * 8.285 / 255)
        pairs = intensity[:, ::8], intensity[:, 4::8]
        return float(np.std(pairs[0] / pairs[1])), float(intensity.mean())

    (inner, dim), (outer, bright) = contrast("GCL/IPL", "IPL/INL"), contrast("RPE inner", "Bruch")
    assert bright > 6 * dim
    assert 0.6 < inner / outer < 1.6


def test_healthy_eyes_have_no_lesions(healthy: Phantom) -> None:
    assert not healthy.mask.any()
    assert np.array_equal(healthy.boundaries["RPE outer"], healthy.boundaries["Bruch"])
    assert np.array_equal(healthy.boundaries["OS outer"], healthy.boundaries["RPE inner"])


def test_diseased_eyes_show_every_kind_and_differ(diseased: list[Phantom]) -> None:
    kinds = [frozenset(np.unique(phantom.lesions)) - {0} for phantom in diseased]
    assert all(kinds)
    assert frozenset.union(*kinds) == set(LESIONS.values())
    assert len(set(kinds)) > 3


def test_outside_lesions_a_diseased_eye_is_its_healthy_self(diseased: list[Phantom]) -> None:
    compared = 0
    for seed, phantom in enumerate(diseased[:6]):
        twin = make_phantom(seed, **SMALL)
        for scan in range(8):
            if all(
                np.array_equal(twin.boundaries[name][scan], phantom.boundaries[name][scan])
                for name in BOUNDARIES
            ):
                compared += 1
                changed = twin.pixels[scan] != phantom.pixels[scan]
                # What is drawn spreads by the device's blur.
                assert not changed[~binary_dilation(phantom.mask[scan], iterations=5)].any()
    assert compared > 5


@pytest.mark.parametrize("kind", LESIONS)
@pytest.mark.parametrize("seed", range(3))
def test_a_named_kind_comes_alone(kind: str, seed: int) -> None:
    phantom = one_kind(kind, seed)
    assert set(np.unique(phantom.lesions)) == {0, LESIONS[kind]}
    assert np.array_equal(phantom.mask, phantom.lesions == LESIONS[kind])


def test_lesions_lie_in_the_retina(diseased: list[Phantom]) -> None:
    rows = np.arange(SMALL["shape"][1])[None, :, None]
    for phantom in diseased:
        above = rows < phantom.boundaries["ILM"][:, None]
        below = rows > phantom.boundaries["Bruch"][:, None]
        assert not (phantom.mask & (above | below)).any()


@pytest.mark.parametrize(
    ("kind", "above", "below"),
    [
        ("subretinal fluid", "OS outer", "RPE inner"),
        ("pigment epithelium detachment", "RPE outer", "Bruch"),
        ("drusen", "RPE outer", "Bruch"),
    ],
)
def test_a_space_is_as_high_as_its_mask(kind: str, above: str, below: str) -> None:
    phantom = one_kind(kind)
    height = phantom.boundaries[below] - phantom.boundaries[above]
    assert height.max() > 2
    assert np.abs(phantom.mask.sum(axis=1) - height).max() <= 1
    retina = phantom.boundaries["OS outer"] - phantom.boundaries["ILM"]
    twin = make_phantom(3, **SMALL).boundaries
    squeezed = twin["OS outer"] - twin["ILM"] - retina
    assert squeezed.min() > -0.05
    assert squeezed.max() < height.max() + 0.05


@pytest.mark.parametrize("kind", ["cyst", "subretinal fluid", "pigment epithelium detachment"])
def test_fluid_is_darker_than_what_is_round_it(kind: str) -> None:
    phantom = make_phantom(3, diseased=True, lesions=[kind], **SHARP)
    scans = phantom.mask.any(axis=(1, 2))
    mask = phantom.mask[scans]
    wide, wider = (binary_dilation(mask, np.ones((1, size, 3))) for size in (5, 13))
    inside = phantom.pixels[scans][mask].mean()
    assert inside < 0.75 * phantom.pixels[scans][wider & ~wide].mean()


def test_foci_are_brighter_than_what_is_round_them() -> None:
    phantom = make_phantom(3, diseased=True, lesions=["hyperreflective foci"], **SHARP)
    around = binary_dilation(phantom.mask, np.ones((1, 9, 5))) & ~phantom.mask
    assert phantom.pixels[phantom.mask].mean() > phantom.pixels[around].mean() + 40


def test_geometry_is_in_millimetres() -> None:
    grids = [((4, 400, 257), (0.5, 0.005, 0.02)), ((4, 200, 129), (0.5, 0.010, 0.04))]
    fine, coarse = (make_phantom(5, shape=shape, spacing=spacing) for shape, spacing in grids)
    for above, below in (("ILM", "Bruch"), ("NFL/GCL", "IPL/INL"), ("Bruch", "choroid/sclera")):
        one, other = (
            (phantom.boundaries[below] - phantom.boundaries[above]) * phantom.spacing[1]
            for phantom in (fine, coarse)
        )
        assert np.allclose(one[:, ::2], other, atol=0.001)
    volumes = [
        make_phantom(
            5, shape=shape, spacing=spacing, diseased=True, lesions=["subretinal fluid"]
        ).mask.sum()
        * np.prod(spacing)
        for shape, spacing in grids
    ]
    assert volumes[0] == pytest.approx(volumes[1], rel=0.1)


@pytest.mark.parametrize(
    ("shape", "spacing"),
    [
        ((1, 64, 48), (0.12, 0.03, 0.12)),
        ((2, 300, 96), (0.01, 0.004, 0.01)),
        ((3, 96, 200), (4.0, 0.04, 0.06)),
    ],
)
def test_any_shape_and_spacing(
    shape: tuple[int, int, int], spacing: tuple[float, float, float]
) -> None:
    phantom = make_phantom(0, shape=shape, spacing=spacing, diseased=True, lesions=list(LESIONS))
    assert phantom.pixels.shape == shape
    assert phantom.mask.any()
    assert np.diff(np.stack(list(phantom.boundaries.values())), axis=0).min() >= -1e-3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"diseased": True, "lesions": ["tumour"]}, "tumour"),
        ({"lesions": ["cyst"]}, "diseased=True"),
        ({"shape": (2, 32, 64), "spacing": (0.1, 0.004, 0.02)}, "more rows or a coarser spacing"),
    ],
)
def test_what_cannot_be_made_is_said(options: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make_phantom(0, **options)

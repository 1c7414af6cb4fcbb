"""One contract for every detector: exact scores, kept whole, gone on with bit-equal."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fanogan.data.normals import Normals
from fanogan.data.patches import seeded
from fanogan.detectors import (
    DETECTORS,
    Ali,
    Critic,
    FAnoGAN,
    Iterative,
    LearnedDetector,
    critic,
    load_detector,
    new_detector,
)
from fanogan.detectors import detector as module
from fanogan.detectors.learned import BadGan
from fanogan.models.networks import Discriminator, Generator
from fanogan.recipes.recipe import load_recipe
from fanogan.storage import BadFolder, read_model, write_model
from fanogan.training import joint as joint_training
from fanogan.training import wgan as training

TINY = load_recipe("smoke").but(
    critic_updates=4, encoder_updates=4, kappa=0.7, search_updates=5, search_learning_rate=0.3
)
ON_A_GAN = ("izi_f", "izi", "ziz", "izi-features", "ziz-features", "critic", "iterative")
WITHOUT_FEATURES = ("izi", "ziz", "ae")


@pytest.fixture(autouse=True, scope="module")
def small_numbers() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        for loops in (training, joint_training):
            patch.setattr(loops, "HEALTH_IMAGES", 16)
            patch.setattr(loops, "REESTIMATE_BATCHES", 5)
        yield


def stripes(count: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    across = np.arange(16) / 3 + random.uniform(0, 6, (count, 1, 1))
    values = 128 + 60 * np.sin(across) + random.normal(0, 15, (count, 16, 16))
    return np.clip(values, 0, 255).astype(np.uint8)


NORMALS = stripes(40)
IMAGES = stripes(11, seed=1)


@pytest.fixture(scope="module")
def fitted() -> dict[str, LearnedDetector]:
    return {name: new_detector(name, TINY, device="cpu").fit(NORMALS) for name in DETECTORS}


def x_of(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images)[:, None].float() * (2 / 255) - 1


def weights(detector: LearnedDetector) -> list[torch.Tensor]:
    return [t for network in detector.networks for t in network.state_dict().values()]


# --- the contract, for each -----------------------------------------------------------------------


def test_the_names_are_those_that_a_user_types(fitted: dict[str, LearnedDetector]) -> None:
    assert list(DETECTORS) == [*ON_A_GAN, "ae", "advae", "ali"]
    assert {name: detector.name for name, detector in fitted.items()} == {n: n for n in DETECTORS}
    with pytest.raises(ValueError, match=r"no detector 'vae': give one of izi_f, izi"):
        new_detector("vae", TINY)


@pytest.mark.parametrize("name", DETECTORS)
def test_scores_depend_on_neither_batch_nor_order(
    fitted: dict[str, LearnedDetector], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    detector = fitted[name]
    expected = detector.score(IMAGES)
    # A critic's score is a difference of two values of D, with the rounding errors of those.
    tolerance = 1e-5 * abs(detector.facts.get("critic_mean", 0.0))
    order = np.random.default_rng(0).permutation(len(IMAGES))
    mixed = detector.score(IMAGES[order])
    np.testing.assert_allclose(mixed.total, expected.total[order], 1e-5, tolerance)
    for batch in (1, 4):
        monkeypatch.setattr(module, "BATCH", batch)
        found = detector.score(IMAGES)
        np.testing.assert_allclose(found.total, expected.total, 1e-5, tolerance)
        np.testing.assert_allclose(found.feature, expected.feature, 1e-5, tolerance)


@pytest.mark.parametrize("name", DETECTORS)
def test_a_kept_model_scores_the_same(
    fitted: dict[str, LearnedDetector], tmp_path: Path, name: str
) -> None:
    detector = fitted[name]
    detector.save(tmp_path / "model")
    loaded = load_detector(tmp_path / "model", device="cpu")
    assert type(loaded) is type(detector) and loaded.name == name
    assert (loaded.recipe, loaded.facts) == (detector.recipe, detector.facts)
    for column in ("total", "image", "feature"):
        found, expected = (getattr(d.score(IMAGES), column) for d in (loaded, detector))
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(loaded.localize(IMAGES), detector.localize(IMAGES))
    loaded.save(tmp_path / "again")
    for file in ("model.json", "model.safetensors", "card.md"):
        assert (tmp_path / "again" / file).read_bytes() == (tmp_path / "model" / file).read_bytes()
    assert f"# Model card: {name}, recipe smoke" in (tmp_path / "model" / "card.md").read_text()


@pytest.mark.parametrize("name", DETECTORS)
def test_untrained_networks_are_others(fitted: dict[str, LearnedDetector], name: str) -> None:
    detector = fitted[name]
    other = detector.untrained()
    assert type(other) is type(detector) and other.name == name
    pairs = [(a, b) for a, b in zip(weights(detector), weights(other), strict=True) if a.ndim > 1]
    assert pairs and not any(torch.equal(a, b) for a, b in pairs)
    assert not np.allclose(other.score(IMAGES).total, detector.score(IMAGES).total)


@pytest.mark.parametrize("name", DETECTORS)
def test_terms_and_maps_keep_the_contract(fitted: dict[str, LearnedDetector], name: str) -> None:
    detector, x = fitted[name], x_of(IMAGES[:5])
    inside = torch.zeros(5, 1, 16, 16, dtype=torch.bool)
    inside[:, :, 4:12] = True
    with torch.inference_mode():
        terms, maps = detector._terms_and_maps(x)
        within, maps_within = detector._terms_and_maps(x, inside)
    assert terms.shape == (5, 2) and maps.shape == (5, 2, 16, 16)
    assert torch.allclose(maps[:, :1], (x - maps[:, 1:]).abs(), atol=1e-6)
    outside = ~inside
    assert torch.equal(maps_within[:, 1:][outside], x[outside])
    assert not maps_within[:, :1][outside].any()
    if name == "critic":
        assert not terms[:, 0].any() and torch.equal(terms, within)
        assert torch.equal(maps[:, 1:], x)
    else:
        squares = (x - maps_within[:, 1:]).square().mean((1, 2, 3))
        assert torch.allclose(within[:, 0], squares, rtol=1e-5)
        assert maps_within[:, :1][inside].min() > 0
    assert bool(terms[:, 1].any()) == bool(within[:, 1].any()) == (name not in WITHOUT_FEATURES)
    total = detector.score(IMAGES[:5]).total
    np.testing.assert_allclose(total, terms[:, 0] + 0.7 * terms[:, 1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["ziz", "critic", "ae", "advae", "ali"])
def test_a_run_stopped_in_each_stage_ends_bit_equal(
    fitted: dict[str, LearnedDetector], tmp_path: Path, name: str
) -> None:
    expected = fitted[name]
    for stage, steps in expected.steps().items():
        moment = (stage, max(2, steps // 2))

        def stop(now: str, step: int, of: int, figures: Any, at: tuple[str, int] = moment) -> None:
            if (now, step) == at and not figures:
                raise KeyboardInterrupt

        detector = new_detector(name, TINY, device="cpu")
        with pytest.raises(KeyboardInterrupt):
            detector.fit(
                NORMALS, out=tmp_path, resume=(tmp_path / "config.yaml").exists(), progress=stop
            )
        assert (tmp_path / "checkpoints" / f"{stage}.safetensors").exists()
    again = new_detector(name, TINY, device="cpu").fit(NORMALS, out=tmp_path, resume=True)
    assert all(torch.equal(a, b) for a, b in zip(weights(again), weights(expected), strict=True))
    kept = load_detector(tmp_path, device="cpu")
    np.testing.assert_array_equal(kept.score(IMAGES).total, expected.score(IMAGES).total)
    other = "ae" if name != "ae" else "ali"
    with pytest.raises(BadFolder, match="it was begun with another detector"):
        new_detector(other, TINY, device="cpu").fit(NORMALS, out=tmp_path, resume=True)


@pytest.mark.parametrize("name", ["izi_f", "critic", "ae", "advae", "ali"])
def test_every_stage_is_timed_and_reported(fitted: dict[str, LearnedDetector], name: str) -> None:
    detector = new_detector(name, TINY, device="cpu")
    assert detector.seconds_to_fit(Normals.read(NORMALS, TINY)) > 0
    seen: dict[str, int] = {}
    detector.fit(NORMALS, progress=lambda stage, step, steps, figures: seen.update({stage: steps}))
    assert seen == detector.steps()


# --- what is loaded -------------------------------------------------------------------------------


def test_another_detectors_model_is_refused_by_a_class(
    fitted: dict[str, LearnedDetector], tmp_path: Path
) -> None:
    fitted["ae"].save(tmp_path / "model")
    with pytest.raises(BadFolder, match="holds a model of the detector ae, not izi_f"):
        FAnoGAN.load(tmp_path / "model")


@pytest.mark.parametrize("loss", ["izi_f", "izi", "ziz"])
def test_models_of_version_0_1_load_and_score_by_equation_4(
    fitted: dict[str, LearnedDetector], tmp_path: Path, loss: str
) -> None:
    named = loss if loss == "izi_f" else f"{loss}-features"
    fitted[named].save(tmp_path / "now")
    tensors, facts = read_model(tmp_path / "now")
    added = (
        "denoising",
        "score_features",
        "search_updates",
        "search_learning_rate",
        "search_patience",
    )
    old = {key: value for key, value in facts["recipe"].items() if key not in added}
    facts = {**facts, "detector": "f-AnoGAN", "recipe": old}
    del facts["steps"]
    write_model(tmp_path / "then", tensors, facts, "")
    for loaded in (load_detector(tmp_path / "then"), FAnoGAN.load(tmp_path / "then")):
        assert loaded.name == named
        np.testing.assert_array_equal(loaded.score(IMAGES).total, fitted[named].score(IMAGES).total)
        loaded.save(tmp_path / "again")


def test_a_model_of_a_detector_to_come_is_refused(
    fitted: dict[str, LearnedDetector], tmp_path: Path
) -> None:
    fitted["ae"].save(tmp_path / "now")
    tensors, facts = read_model(tmp_path / "now")
    write_model(tmp_path / "later", tensors, {**facts, "detector": "vae"}, "")
    with pytest.raises(BadFolder, match=r"not a model that this version can read.*vae"):
        load_detector(tmp_path / "later")


# --- one GAN for all ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ON_A_GAN)
def test_a_shared_gan_gives_what_training_it_again_would(
    fitted: dict[str, LearnedDetector], tmp_path: Path, name: str
) -> None:
    fitted["izi_f"].save(tmp_path / "gan")
    detector = new_detector(name, TINY, device="cpu")
    out = tmp_path / "run"
    detector.fit(NORMALS, gan=tmp_path / "gan", out=out)
    assert "gan" not in detector.steps() and not (out / "checkpoints/gan.safetensors").exists()
    for column in ("total", "image", "feature"):
        found, expected = (getattr(d.score(IMAGES), column) for d in (detector, fitted[name]))
        np.testing.assert_array_equal(found, expected)
    assert detector.facts["warnings"] == fitted[name].facts["warnings"]
    kept = load_detector(out, device="cpu")
    np.testing.assert_array_equal(kept.score(IMAGES).total, fitted[name].score(IMAGES).total)
    assert "a GAN trained before (SHA-256" in (out / "model" / "card.md").read_text()
    if name == "critic":  # what was built on a GAN has one to build on
        new_detector("ziz", TINY, device="cpu").fit(NORMALS, gan=out)


def test_a_run_on_one_gan_is_not_resumed_on_another(
    fitted: dict[str, LearnedDetector], tmp_path: Path
) -> None:
    fitted["izi_f"].save(tmp_path / "gan")
    new_detector("izi", TINY, device="cpu").fit(NORMALS, gan=tmp_path / "gan", out=tmp_path / "run")
    detector = new_detector("izi", TINY, device="cpu")
    with pytest.raises(BadFolder, match="it was begun with another GAN"):
        detector.fit(NORMALS, out=tmp_path / "run", resume=True)


def test_a_gan_of_other_normals_is_warned_of(
    fitted: dict[str, LearnedDetector], tmp_path: Path
) -> None:
    fitted["izi_f"].save(tmp_path / "gan")
    detector = new_detector("critic", TINY, device="cpu").fit(stripes(40, 5), gan=tmp_path / "gan")
    assert any("the GAN was trained on other normals" in w for w in detector.facts["warnings"])


@pytest.mark.parametrize(
    ("changes", "images", "words"),
    [
        ({"base_width": 8}, NORMALS, r"width 4 where 8 is asked"),
        ({"latent_size": 5}, NORMALS, r"latent_size 16 where 5 is asked"),
        ({}, np.repeat(NORMALS[..., None], 3, -1) // np.array([1, 2, 3]), "channels 1 where 3"),
        ({"image_size": (24, 24), "window": (24, 24)}, np.pad(NORMALS, 4), "sides"),
    ],
)
def test_a_gan_of_another_size_is_refused(
    fitted: dict[str, LearnedDetector], tmp_path: Path, changes: Any, images: Any, words: str
) -> None:
    fitted["izi_f"].save(tmp_path / "gan")
    images = images[4:-4] if len(images) > 40 else images
    detector = new_detector("izi", TINY.but(**changes), device="cpu")
    with pytest.raises(BadFolder, match=f"doesn't fit these normals and this recipe.*{words}"):
        detector.fit(images.astype(np.uint8), gan=tmp_path / "gan")


def test_what_has_no_gan_is_refused(fitted: dict[str, LearnedDetector], tmp_path: Path) -> None:
    fitted["ali"].save(tmp_path / "ali")
    with pytest.raises(BadFolder, match=r"holds no GAN of ours to build on.*the detector ali"):
        new_detector("izi", TINY, device="cpu").fit(NORMALS, gan=tmp_path / "ali")
    with pytest.raises(BadGan, match="the detector ae trains all its networks"):
        new_detector("ae", TINY, device="cpu").fit(NORMALS, gan=tmp_path / "ali")


class OwnG:
    """A generator that is no module of torch's."""

    latent = 3

    def __init__(self, side: int = 16) -> None:
        across = torch.linspace(-1, 1, side)
        self.basis = torch.stack(
            [
                across.repeat(side, 1),
                across.repeat(side, 1).T,
                across**2 * 0.5 + torch.zeros(side, side),
            ]
        )

    def __call__(self, z: torch.Tensor) -> torch.Tensor:
        return torch.tanh(torch.einsum("bd,dhw->bhw", z, self.basis))[:, None]


class OwnD(nn.Module):
    """A discriminator with features that are maps, not vectors."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.conv = nn.Conv2d(1, 4, 3, stride=2)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.conv(x)
        return features

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.features(x).mean((1, 2, 3))[:, None]


@pytest.mark.parametrize("name", ["izi_f", "ziz", "critic", "iterative"])
def test_an_encoder_for_any_gan(tmp_path: Path, name: str) -> None:
    G, D = OwnG(), OwnD()
    before = {key: value.clone() for key, value in D.state_dict().items()}
    detector = new_detector(name, TINY, device="cpu")
    detector.fit(NORMALS, gan=(G, D), out=tmp_path / "run")
    assert all(torch.equal(before[key], value) for key, value in D.state_dict().items())
    scores = detector.score(IMAGES)
    assert np.isfinite(scores.total).all() and len(np.unique(scores.total)) == len(IMAGES)
    if len(detector.networks) == 3:
        E, x = detector.networks[2], x_of(IMAGES)
        with torch.no_grad():
            expected = (x - G(E(x))).square().mean((1, 2, 3))
        np.testing.assert_allclose(scores.image, expected, rtol=1e-4)
    loaded = load_detector(tmp_path / "run", device="cpu", gan=(G, D))
    np.testing.assert_array_equal(loaded.score(IMAGES).total, scores.total)
    tensors, _ = read_model(tmp_path / "run")
    assert {key[0] for key in tensors} <= {"E"}
    with pytest.raises(BadFolder, match="trained on a GAN of your own, which isn't kept"):
        load_detector(tmp_path / "run", device="cpu")
    other = OwnD()
    nn.init.zeros_(other.conv.weight)
    with pytest.raises(BadFolder, match=r"trained on another GAN than the \(G, D\) given"):
        load_detector(tmp_path / "run", device="cpu", gan=(G, other))
    assert np.isfinite(detector.untrained().score(IMAGES).total).all()


def test_a_gan_of_ours_given_as_objects_scores_alike(fitted: dict[str, LearnedDetector]) -> None:
    G, D = fitted["izi_f"].networks[:2]
    detector = new_detector("izi_f", TINY, device="cpu").fit(NORMALS, gan=(G, D))
    np.testing.assert_array_equal(detector.score(IMAGES).total, fitted["izi_f"].score(IMAGES).total)


def test_a_generator_of_other_images_is_refused() -> None:
    with pytest.raises(BadGan, match=r"your generator makes images \(1, 24, 24\)"):
        new_detector("izi", TINY, device="cpu").fit(NORMALS, gan=(OwnG(24), OwnD()))


# --- each equation --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["izi_f", "izi-features", "ziz-features", "advae", "ali"])
def test_scores_with_features_are_equation_4(fitted: dict[str, LearnedDetector], name: str) -> None:
    G, D, E = fitted[name].networks
    x = x_of(IMAGES)
    with torch.no_grad():
        z = E(x)[:, : TINY.latent_size]  # ALI's encoder gives log σ too
        x_hat = G(z)
        image = (x - x_hat).square().mean((1, 2, 3))
        feature = (D.features(x) - D.features(x_hat)).square().mean(1)
    scores = fitted[name].score(IMAGES)
    np.testing.assert_allclose(scores.image, image, rtol=1e-4)
    np.testing.assert_allclose(scores.feature, feature, rtol=1e-4)
    np.testing.assert_allclose(scores.total, image + 0.7 * feature, rtol=1e-4)


@pytest.mark.parametrize("name", ["izi", "ziz", "ae"])
def test_scores_by_the_image_alone(fitted: dict[str, LearnedDetector], name: str) -> None:
    G, E = fitted[name].networks[0], fitted[name].networks[-1]
    x = x_of(IMAGES)
    with torch.no_grad():
        image = (x - G(E(x))).square().mean((1, 2, 3))
    scores = fitted[name].score(IMAGES)
    np.testing.assert_allclose(scores.total, image, rtol=1e-4)
    assert not scores.feature.any()


def test_weights_follow_from_the_seed_in_whatever_thread_they_are_drawn(
    fitted: dict[str, LearnedDetector],
) -> None:
    detector = fitted["izi_f"]
    seeds = [1, 2, 3, 4] * 25
    alone = {seed: detector._new_networks(seed) for seed in (1, 2, 3, 4)}
    with ThreadPoolExecutor(4) as pool:
        for seed, networks in zip(seeds, pool.map(detector._new_networks, seeds), strict=True):
            for one, other in zip(alone[seed], networks, strict=True):
                pairs = zip(one.parameters(), other.parameters(), strict=True)
                assert all(torch.equal(a, b) for a, b in pairs)


def test_features_change_the_score_and_not_the_encoder(fitted: dict[str, LearnedDetector]) -> None:
    for loss in ("izi", "ziz"):
        plain, featured = fitted[loss], fitted[f"{loss}-features"]
        pairs = zip(weights(plain), weights(featured), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
        np.testing.assert_array_equal(plain.score(IMAGES).image, featured.score(IMAGES).image)


def test_the_critics_deviation_is_equations_6_and_7(
    fitted: dict[str, LearnedDetector], monkeypatch: pytest.MonkeyPatch
) -> None:
    detector = fitted["critic"]
    D, read = detector.networks[1], Normals.read(NORMALS, TINY)
    assert len(read.training) == 36
    with torch.no_grad():
        values = D(x_of(np.concatenate(read.training))).double()
        expected = float(values.mean()) - D(x_of(IMAGES)).double()
    scores = detector.score(IMAGES)
    np.testing.assert_allclose(scores.feature, expected, atol=1e-6)
    np.testing.assert_allclose(scores.total, 0.7 * expected, atol=1e-6)
    assert not scores.image.any()
    # Where there are more images, some are drawn: another mean, near the same.
    monkeypatch.setattr(critic, "CRITIC_IMAGES", 30)
    monkeypatch.setattr(critic, "BATCH", 10)
    few = Critic(TINY, device="cpu").fit(NORMALS)
    near = float(values.std()) * 4 / 30**0.5
    assert 0 < abs(few.facts["critic_mean"] - float(values.mean())) < near


def searcher(fitted: dict[str, LearnedDetector], **changes: Any) -> Iterative:
    """The iterative detector with another search."""
    detector = Iterative(TINY.but(**changes), device="cpu")
    detector.__dict__.update({**fitted["iterative"].__dict__, "recipe": TINY.but(**changes)})
    return detector


def test_the_search_is_adam_on_equation_3_with_stochastic_clipping(
    fitted: dict[str, LearnedDetector],
) -> None:
    detector = searcher(fitted, search_updates=8, search_learning_rate=0.8)
    G, D = detector.networks
    x = x_of(IMAGES[:1])
    random = seeded(torch.device("cpu"), 0, "search")
    z = 2 * torch.rand(16, generator=random) - 1
    m, v = torch.zeros(16), torch.zeros(16)
    visited: list[tuple[float, torch.Tensor]] = []
    drawn_anew = 0
    for step in range(1, 10):
        z.requires_grad_()
        x_hat = G(z[None])
        feature = (D.features(x) - D.features(x_hat)).square().mean()
        loss = (x - x_hat).square().mean() + 0.7 * feature
        visited.append((float(loss.detach()), z.detach()))
        (gradient,) = torch.autograd.grad(loss, z)
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        rate = 0.8 * (m / (1 - 0.9**step)) / ((v / (1 - 0.999**step)).sqrt() + 1e-8)
        z = z.detach() - rate
        anew = 2 * torch.rand(16, generator=random) - 1
        outside = z.abs() > 1
        drawn_anew += int(outside.sum())
        z, m, v = torch.where(outside, anew, z), m * ~outside, v * ~outside
    assert drawn_anew > 3
    losses = [loss for loss, _ in visited]
    best = losses.index(min(losses))
    assert 0 < best < 8  # neither where it began nor where it ended
    z = visited[best][1]
    found = detector.search(x)
    torch.testing.assert_close(found[0], z, rtol=1e-3, atol=1e-3)
    assert bool((found.abs() <= 1).all())
    with torch.no_grad():
        x_hat = G(found)
        expected = (x - x_hat).square().mean()
    assert detector.score(IMAGES[:1]).image[0] == pytest.approx(float(expected), rel=1e-4)


def test_the_search_comes_nearer(fitted: dict[str, LearnedDetector]) -> None:
    begun, searched = (
        searcher(fitted, search_updates=updates, search_learning_rate=0.02).score(IMAGES).total
        for updates in (1, 40)
    )
    assert (searched < begun).all()


def test_each_search_is_told_and_can_be_the_last(fitted: dict[str, LearnedDetector]) -> None:
    detector = searcher(fitted)
    told: list[int] = []
    detector.on_searched = told.append
    detector.score(stripes(20, seed=2))
    assert told == [16, 4]

    def stop(count: int) -> None:
        raise KeyboardInterrupt

    detector.on_searched = stop
    with pytest.raises(KeyboardInterrupt):
        detector.score(IMAGES)


def test_a_latent_stays_once_its_own_patience_is_over(fitted: dict[str, LearnedDetector]) -> None:
    x = x_of(stripes(16, seed=2))
    patient, never = (
        searcher(fitted, search_updates=25, search_patience=patience) for patience in (3, 0)
    )
    together = patient.search(x)
    assert not torch.equal(together, never.search(x))
    for index in (0, 7):
        alone = patient.search(x[[index] * 16])
        torch.testing.assert_close(alone[0], together[index])
    unending = searcher(fitted, search_updates=25, search_patience=26)
    assert torch.equal(unending.search(x), never.search(x))


# --- what is made -------------------------------------------------------------------------------


def test_ali_encoder_is_stochastic_in_training_and_its_mean_scores(
    fitted: dict[str, LearnedDetector],
) -> None:
    assert isinstance(fitted["ali"], Ali)
    assert fitted["ali"].networks[2](x_of(IMAGES)).shape == (11, 2 * TINY.latent_size)


def test_networks_of_a_given_gan_are_not_made_anew(
    fitted: dict[str, LearnedDetector], tmp_path: Path
) -> None:
    fitted["critic"].save(tmp_path / "gan")
    facts = json.loads((tmp_path / "gan" / "model.json").read_text())
    assert facts["steps"] == {"gan": 2} and isinstance(facts["critic_mean"], float)
    detector = new_detector("ziz", TINY, device="cpu").fit(NORMALS, gan=tmp_path / "gan")
    G, D = detector.networks[:2]
    assert isinstance(G, Generator) and isinstance(D, Discriminator)
    for network, other in zip((G, D), fitted["critic"].networks, strict=True):
        pairs = zip(network.state_dict().values(), other.state_dict().values(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)

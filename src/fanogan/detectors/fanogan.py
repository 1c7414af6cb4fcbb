"""f-AnoGAN: a detector of what is not normal (Schlegl et al. 2019).

``fit`` learns from normals alone, ``score`` says how far from normal an image is (Eq. 4) and
``localize`` where (Eq. 5). Higher is more anomalous.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fanogan.calibration import MAP_QUANTILE, Calibration, HeldOut, ResidualHistogram
from fanogan.card import model_card
from fanogan.familiarity import Familiar
from fanogan.folders import BadFolder, RunFolder, read_model, write_model
from fanogan.losses import feature_residual, image_residual
from fanogan.networks import Discriminator, Encoder, Generator
from fanogan.normals import Normals, grey_shares, single_images
from fanogan.patches import Patches, score_windows
from fanogan.preprocessing import Preprocessing
from fanogan.recipes import BadRecipe, Precision, Recipe, load_recipe
from fanogan.scans import BadScan, Scan, read_scans
from fanogan.training import Progress, no_progress, train_encoder, train_gan

if TYPE_CHECKING:
    from lightning_fabric import Fabric

log = logging.getLogger(__name__)

BATCH = 64
Networks = tuple[Generator, Discriminator, Encoder]
Encoded = tuple[Scan, np.ndarray, tuple[str, ...]]  # a scan, (frames, C, H, W), and its warnings


@dataclasses.dataclass(frozen=True)
class Result:
    """What one image, or one whole volume, scores.

    ``total`` = ``image`` + κ · ``feature`` (Eq. 4). Of an image larger than the window each is the
    mean over the recipe's top share of its windows, those with the highest totals; ``largest`` and
    ``mean`` are over all its windows. Arrays are in the scan's own geometry, None for a volume.
    """

    name: str
    group: str
    unit: str  # 'image' or 'volume'
    frame: int
    total: float
    image: float
    feature: float
    largest: float
    mean: float
    windows: int
    warnings: tuple[str, ...] = ()
    residual: np.ndarray | None = None  # (H, W) float32, |x − x̂| in [0, 2] (Eq. 5)
    reconstruction: np.ndarray | None = None  # (H, W) or (H, W, C) float32 in [−1, 1]
    picture: np.ndarray | None = None  # likewise, the image as the networks' grey scale has it


@dataclasses.dataclass(frozen=True)
class Scores:
    """Scores of n images: ``total`` = ``image`` + κ · ``feature``, each (n,) float64 (Eq. 4)."""

    names: tuple[str, ...]
    groups: tuple[str, ...]
    total: np.ndarray
    image: np.ndarray
    feature: np.ndarray

    def __len__(self) -> int:
        """The number of images."""
        return len(self.names)


class FAnoGAN:
    """The proposed method: a Wasserstein GAN of normals, then an encoder into its latents.

    Example:
        >>> from fanogan import FAnoGAN
        >>> detector = FAnoGAN(recipe="small").fit("scans/healthy")     # doctest: +SKIP
        >>> detector.score("scans/new").total                           # doctest: +SKIP
    """

    # What ``fit`` or ``load`` sets.
    preprocessing: Preprocessing
    familiar: Familiar
    networks: Networks
    calibration: Calibration

    def __init__(
        self,
        recipe: str | Path | Recipe = "small",
        *,
        seed: int = 0,
        device: str = "auto",
        devices: int = 1,
    ):
        """Make an untrained detector.

        Args:
            recipe: a shipped recipe's name, a YAML file, or a ``Recipe``.
            seed: of the split, the weights and all of training.
            device: 'auto', 'cpu', 'cuda' or 'mps'.
            devices: how many processes train together (one per GPU).

        Raises:
            BadRecipe: the recipe can't be read.
            ValueError: no such device here, or a batch that can't be shared out.
        """
        self.recipe = load_recipe(recipe)
        if devices < 1 or self.recipe.batch % devices:
            raise ValueError(
                f"a batch of {self.recipe.batch} can't be shared by {devices} devices: give a "
                "number that divides it"
            )
        self.seed = seed
        self.devices = devices
        self.device = _device(device)
        self.facts: dict[str, Any] = {}

    # --- learning -------------------------------------------------------------------------------

    def fit(
        self,
        normals: Any,
        *,
        groups: str | None = None,
        out: str | Path | None = None,
        resume: bool = False,
        skip_bad: bool = False,
        progress: Progress = no_progress,
    ) -> FAnoGAN:
        """Learn from normal images.

        Args:
            normals: a folder, files, a glob, ``.npy``/``.npz``, arrays (N, H, W) or (N, H, W, C),
                tensors (N, C, H, W), or a ``Normals``.
            groups: how subjects are named; default: folders, else each image is its own subject.
            out: the run folder; the model is written to its ``model``. None keeps all in memory.
            resume: go on with the run that lies in ``out``; it ends as if never stopped.
            skip_bad: leave out files that can't be read.
            progress: called as (stage, step, steps, figures).

        Returns:
            The detector itself.

        Raises:
            BadScan: bad or too few images.
            BadFolder: ``out`` holds another run.
            TrainingFailed: the loss isn't finite.
            KeyboardInterrupt: stopped by Ctrl-C, after a checkpoint.
        """
        if not isinstance(normals, Normals):
            normals = Normals.read(
                normals, self.recipe, groups=groups, seed=self.seed, skip_bad=skip_bad
            )
        fabric = self._fabric(self.devices)
        self.device = fabric.device
        run = self._open_run(out, resume, normals, fabric) if out else None
        self.preprocessing = normals.preprocessing
        self.familiar = normals.familiar
        self.networks = self._new_networks(self.seed)
        G, D, E = self.networks
        training, held_out = self._patches(normals)
        with _precision(self.recipe.precision):
            warnings = train_gan(
                G,
                D,
                training,
                held_out,
                self.recipe,
                fabric=fabric,
                seed=self.seed,
                run=run,
                progress=progress,
            )
            train_encoder(
                E,
                G,
                D,
                training,
                held_out,
                self.recipe,
                fabric=fabric,
                seed=self.seed,
                run=run,
                progress=progress,
            )
        self.calibration = self._calibrate(normals.held_out)
        self.facts = {
            "fingerprint": normals.fingerprint,
            "warnings": [*normals.warnings, *warnings],
            "seed": self.seed,
        }
        if run and fabric.is_global_zero:
            self.save(run.path / "model")
        fabric.barrier()  # no process goes on before the model is there
        return self

    def seconds_to_fit(self, normals: Normals) -> float:
        """About how long ``fit`` will take here, from a few timed updates of throwaway networks."""
        training, held_out = self._patches(normals)
        networks = self._new_networks(self.seed)
        recipe, fabric = self.recipe, self._fabric(1)
        most = recipe.batch // self.devices
        batch = min(4, most)
        round_, update = self._seconds_of(networks, training, held_out, batch, fabric)
        if batch < most and round_ < 2:  # else what is proportional to the batch is most of it
            batch = most
            round_, update = self._seconds_of(networks, training, held_out, batch, fabric)
        return most / batch * (recipe.rounds * round_ + recipe.encoder_updates * update)

    def _seconds_of(
        self, networks: Networks, training: Patches, held_out: Patches, batch: int, fabric: Fabric
    ) -> tuple[float, float]:
        """Seconds of a round and of an encoder update: the second of three, without health."""
        few = self.recipe.but(
            batch=batch,
            critic_updates=3 * self.recipe.critic_updates_per_round,
            encoder_updates=3,
            tick=3,
            reestimate_statistics=False,
        )
        marks: dict[tuple[str, int], float] = {}

        def mark(stage: str, step: int, steps: int, figures: Mapping[str, float]) -> None:
            if self.device.type == "cuda":
                torch.cuda.synchronize()
            marks[stage, step] = time.perf_counter()

        G, D, E = networks
        with _precision(self.recipe.precision):
            train_gan(G, D, training, held_out, few, fabric=fabric, progress=mark)
            train_encoder(E, G, D, training, held_out, few, fabric=fabric, progress=mark)
        return marks["gan", 2] - marks["gan", 1], marks["encoder", 2] - marks["encoder", 1]

    def _fabric(self, devices: int) -> Fabric:
        from lightning_fabric import Fabric

        logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
        fabric = Fabric(
            accelerator=self.device.type,
            devices=devices,
            strategy="ddp" if devices > 1 else "auto",
            precision="bf16-mixed" if self.recipe.precision == "bf16" else "32-true",
        )
        fabric.launch()
        return fabric

    def _open_run(
        self, out: str | Path, resume: bool, normals: Normals, fabric: Fabric
    ) -> RunFolder:
        run = None
        if fabric.is_global_zero:
            run = RunFolder(out, resume=resume)
            config = {
                "fanogan": version("fanogan"),
                "seed": self.seed,
                "data": normals.fingerprint["sha256"],
                "recipe": self.recipe.to_dict(),
                "origin": normals.origin,
            }
            if resume:
                _refuse_other(run, config)
            else:
                run.begin(config)
        fabric.barrier()
        return run or RunFolder(out, resume=True)

    def _new_networks(self, seed: int) -> Networks:
        sides, channels = self.preprocessing.sides, self.preprocessing.channels
        recipe = self.recipe
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            G = Generator(sides, channels, recipe.width, recipe.latent)
            D = Discriminator(sides, channels, recipe.width)
            E = Encoder(sides, channels, recipe.width, recipe.latent, recipe.encoder_output)
        for network in (G, D, E):
            network.to(self.device).eval()
        return G, D, E

    def _patches(self, normals: Normals) -> tuple[Patches, Patches]:
        self.preprocessing = normals.preprocessing
        held = [frame for scan in normals.held_out for frame in self.preprocessing.encode(scan)]
        return (
            Patches(
                normals.training,
                self.preprocessing,
                flip=self.recipe.flip,
                device=self.device,
            ),
            Patches(held, self.preprocessing, flip=False, device=self.device),
        )

    def _calibrate(self, held_out: Sequence[Scan]) -> Calibration:
        """Score the held-out normals. Subjects are numbered: a name may be a patient's."""
        residuals = ResidualHistogram()
        scores: dict[str, list[float]] = {"image": [], "volume": []}
        groups: dict[str, list[str]] = {"image": [], "volume": []}
        numbers: dict[str, str] = {}
        for result in self._score(self._encoded(held_out)):
            scores[result.unit].append(result.total)
            number = numbers.setdefault(result.group, f"subject {len(numbers) + 1}")
            groups[result.unit].append(number)
            if result.residual is not None:
                residuals.update(result.residual)
        units = {
            unit: HeldOut(np.array(values), tuple(groups[unit]))
            for unit, values in scores.items()
            if values
        }
        return Calibration(units, residuals.quantile(MAP_QUANTILE))

    # --- scoring --------------------------------------------------------------------------------

    def results(
        self,
        images: Any,
        *,
        groups: str | None = None,
        skip_bad: bool = False,
        on_bad: Any = None,
        workers: int = 2,
    ) -> Iterator[Result]:
        """Score images one after the other, in flat memory; a volume follows its images.

        Arguments and errors as for ``read_scans``; BadScan also for an image that isn't of the
        kind that the model was trained on.
        """
        self._check_fitted()
        scans = read_scans(images, groups, skip_bad, on_bad=on_bad, workers=workers)
        yield from self._score(self._encoded(single_images(scans), skip_bad, on_bad))

    def score(self, images: Any, **reading: Any) -> Scores:
        """The anomaly scores of images, each exactly once (Eq. 4)."""
        found = [
            dataclasses.replace(r, residual=None, reconstruction=None, picture=None)
            for r in self.results(images, **reading)
            if r.unit == "image"
        ]
        columns = np.array([(r.total, r.image, r.feature) for r in found]).reshape(-1, 3).T
        names = tuple(r.name for r in found)
        return Scores(names, tuple(r.group for r in found), *columns)

    def localize(self, images: Any, **reading: Any) -> list[np.ndarray]:
        """The map of each image, (H, W) float32: |x − G(E(x))| in [0, 2] (Eq. 5)."""
        found = (r.residual for r in self.results(images, **reading))
        return [residual for residual in found if residual is not None]

    def reconstruct(self, images: Any, **reading: Any) -> list[np.ndarray]:
        """The normal version of each image, G(E(x)): (H, W) or (H, W, C) float32 in [−1, 1]."""
        found = (r.reconstruction for r in self.results(images, **reading))
        return [reconstruction for reconstruction in found if reconstruction is not None]

    def decision_function(self, images: Any) -> np.ndarray:
        """The totals, as PyOD has them: higher is more anomalous (scikit-learn's is lower)."""
        return self.score(images).total

    def predict(self, images: Any, alpha: float = 0.05) -> np.ndarray:
        """1 for an image flagged at false-positive rate ``alpha``, else 0, as in PyOD.

        Raises:
            ValueError: too few normals were held out for a flag at this level.
        """
        self._check_fitted()
        held_out = self.calibration.units.get("image")
        flags = held_out.flags(self.score(images).total, alpha) if held_out else None
        if flags is None:
            why = held_out.describe(alpha) if held_out else "no single images were held out"
            raise ValueError(f"no flag at a false-positive rate of {alpha:g}: {why}")
        return np.array(flags, dtype=np.int64)

    def _encoded(
        self, scans: Iterable[Scan], skip_bad: bool = False, on_bad: Any = None
    ) -> Iterator[Encoded]:
        """Each scan as it is kept in memory, and in what way it is unlike the training normals."""
        good, first_error = 0, None
        for scan in scans:
            try:
                encoded = self.preprocessing.encode(scan)
            except BadScan as error:
                if not skip_bad:
                    raise
                log.warning("skipped: %s", error)
                if on_bad is not None:
                    on_bad(error)
                first_error = first_error or error
                continue
            good += 1
            shares = grey_shares(encoded, self.preprocessing)
            yield scan, encoded, tuple(self.familiar.warnings(scan, shares))
        if first_error is not None and not good:
            raise BadScan(f"none of the images could be scored; the first: {first_error}")

    def _score(self, scans: Iterator[Encoded]) -> Iterator[Result]:
        """Results in the order of the scans; small images share a batch."""
        waiting: list[Encoded] = []
        for scan, encoded, warnings in scans:
            whole_image = self._at_one_look(encoded) and not scan.is_volume
            same = not waiting or waiting[0][1].shape == encoded.shape
            if waiting and not (whole_image and same and len(waiting) < BATCH):
                yield from self._score_together(waiting)
                waiting = []
            if whole_image:
                waiting.append((scan, encoded, warnings))
            else:
                yield from self._score_alone(scan, encoded, warnings)
        if waiting:
            yield from self._score_together(waiting)

    def _score_together(self, waiting: Sequence[Encoded]) -> Iterator[Result]:
        """Small images of one size."""
        stored = np.concatenate([encoded for _, encoded, _ in waiting])
        for (scan, _, warnings), looked in zip(waiting, self._look_at(stored), strict=True):
            yield self._result(scan, 0, warnings, *looked)

    def _score_alone(
        self, scan: Scan, encoded: np.ndarray, warnings: tuple[str, ...]
    ) -> Iterator[Result]:
        """The frames of a volume or a large image, and the volume itself."""
        all_terms = []
        for frame, (terms, maps, x) in enumerate(self._look_at(encoded)):
            all_terms.append(terms)
            yield self._result(scan, frame, warnings if frame == 0 else (), terms, maps, x)
        if scan.is_volume:
            yield self._result(scan, -1, warnings, np.concatenate(all_terms))

    def _result(
        self,
        scan: Scan,
        frame: int,
        warnings: tuple[str, ...],
        terms: np.ndarray,
        maps: np.ndarray | None = None,
        x: np.ndarray | None = None,
    ) -> Result:
        """Reduce the terms of windows, (windows, 2), to one score."""
        totals = terms[:, 0] + self.recipe.kappa * terms[:, 1]
        # .05 × 140 is a little above 7 in floats, and rounding it up would take an eighth window.
        count = max(1, math.ceil(self.recipe.top * len(totals) * (1 - 1e-12)))
        top = np.argsort(-totals, kind="stable")[:count]
        image, feature = terms[top].mean(0)
        several = scan.is_volume and frame >= 0
        name = f"{scan.name}#{frame}" if several else scan.name
        return Result(
            name=name,
            group=scan.group,
            unit="volume" if frame < 0 else "image",
            frame=max(frame, 0),
            total=float(image + self.recipe.kappa * feature),
            image=float(image),
            feature=float(feature),
            largest=float(totals.max()),
            mean=float(totals.mean()),
            windows=len(totals),
            warnings=warnings,
            residual=None if maps is None else maps[0],
            reconstruction=None if maps is None else _channels_last(maps[1:]),
            picture=None if x is None else _channels_last(x),
        )

    def _look_at(self, stored: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Terms (windows, 2), maps (1 + C, H, W) and x (C, H, W) of each of (frames, C, H, W)."""
        if self._at_one_look(stored):
            for start in range(0, len(stored), BATCH):
                terms, maps, x = self._look_at_whole(stored[start : start + BATCH])
                yield from zip(terms[:, None], maps, x, strict=True)
        else:
            for frame in stored:
                yield self._look_through_windows(frame[None])

    def _at_one_look(self, stored: np.ndarray) -> bool:
        """Whether images (frames, C, H, W) are seen whole, or are no larger than one window."""
        return self.preprocessing.window in (None, stored.shape[-2:])

    def _look_at_whole(self, stored: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Images (B, C, H, W) seen whole: terms (B, 2), maps (B, 1 + C, H, W), x (B, C, H, W)."""
        with torch.inference_mode(), _precision("fp32"):
            x = self._to_device(stored)
            terms, maps = self._terms_and_maps(self.preprocessing.see(x))
            maps = self.preprocessing.unsee(maps, x.shape[-2:])
        return terms.cpu().double().numpy(), maps.cpu().numpy(), x.cpu().numpy()

    def _look_through_windows(
        self, stored: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """One large image (1, C, H, W), as in ``_look_at``."""
        with torch.inference_mode(), _precision("fp32"):
            x = self._to_device(stored)
            terms, maps = score_windows(x, self.preprocessing, self._terms_and_maps, BATCH)
        return terms.cpu().double().numpy(), maps.cpu().numpy(), x[0].cpu().numpy()

    def _to_device(self, stored: np.ndarray) -> Tensor:
        # torch has few functions for uint16, and none for arrays that may not be written to.
        copied = stored.astype(np.uint8 if stored.dtype == np.uint8 else np.int32)
        return self.preprocessing.to_network(torch.from_numpy(copied).to(self.device))

    def _terms_and_maps(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Eqs. 4 and 5 of what the networks see: (A_R, A_D) (B, 2); |x − x̂| and x̂ (B, 1 + C, …)."""
        G, D, E = self.networks
        x_hat = G(E(x))
        features, features_hat = D.features(torch.cat([x, x_hat])).chunk(2)
        terms = torch.stack([image_residual(x, x_hat), feature_residual(features, features_hat)], 1)
        return terms, torch.cat([(x - x_hat).abs().mean(1, keepdim=True), x_hat], 1)

    def untrained(self) -> FAnoGAN:
        """The same detector with networks that have learnt nothing, to be compared with."""
        self._check_fitted()
        other = FAnoGAN(self.recipe, seed=self.seed, device=self.device.type)
        other.preprocessing, other.familiar = self.preprocessing, self.familiar
        other.networks = other._new_networks(self.seed + 1)
        return other

    def _check_fitted(self) -> None:
        if not hasattr(self, "networks"):
            from sklearn.exceptions import NotFittedError

            raise NotFittedError(
                "this detector has learnt nothing yet: call fit(normals), or FAnoGAN.load(folder)"
            )

    # --- keeping --------------------------------------------------------------------------------

    def save(self, folder: str | Path) -> None:
        """Write the model folder, whole or not at all.

        Raises:
            OSError: it can't be written.
        """
        self._check_fitted()
        tensors = {
            f"{name}.{key}": tensor
            for name, network in zip("GDE", self.networks, strict=True)
            for key, tensor in network.state_dict().items()
        }
        facts = {
            "detector": "f-AnoGAN",
            "fanogan": version("fanogan"),
            "libraries": {name: version(name) for name in ("torch", "numpy", "monai")},
            "recipe": self.recipe.to_dict(),
            "preprocessing": self.preprocessing.to_dict(),
            "calibration": self.calibration.to_dict(),
            "familiar": self.familiar.to_dict(),
            **self.facts,
        }
        write_model(Path(folder), tensors, facts, model_card(facts))

    @classmethod
    def load(cls, folder: str | Path, *, device: str = "auto") -> FAnoGAN:
        """Read a model folder, or the run folder that holds it.

        Raises:
            BadFolder: missing, damaged or of a newer version.
        """
        tensors, facts = read_model(folder)
        try:
            detector = cls(Recipe.from_dict(facts["recipe"]), seed=facts["seed"], device=device)
            detector.preprocessing = Preprocessing.from_dict(facts["preprocessing"])
            detector.calibration = Calibration.from_dict(facts["calibration"])
            detector.familiar = Familiar.from_dict(facts["familiar"])
            detector.facts = {key: facts[key] for key in ("fingerprint", "warnings", "seed")}
            detector.networks = detector._new_networks(0)
            for name, network in zip("GDE", detector.networks, strict=True):
                prefix = f"{name}."
                network.load_state_dict(
                    {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
                )
        except (KeyError, TypeError, RuntimeError, BadRecipe) as error:
            raise BadFolder(
                f"{folder}: not a model that this version can read ({type(error).__name__} "
                f"{error}); it was made by fanogan {facts.get('fanogan')}"
            ) from None
        return detector


def _refuse_other(run: RunFolder, config: Mapping[str, Any]) -> None:
    begun = run.config
    words = {"seed": "another seed", "data": "other normals", "recipe": "another recipe"}
    differing = [word for key, word in words.items() if begun.get(key) != config[key]]
    if differing:
        raise BadFolder(
            f"{run.path}: can't be resumed, it was begun with {' and '.join(differing)}; give what "
            "it was begun with, or begin another run in another folder"
        )
    if begun.get("fanogan") != config["fanogan"]:
        log.warning(
            "%s: begun with fanogan %s, so it may end otherwise", run.path, begun["fanogan"]
        )


def _channels_last(image: np.ndarray) -> np.ndarray:
    return image[0] if len(image) == 1 else np.moveaxis(image, 0, -1)


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    available = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if name not in available:
        raise ValueError(f"no device {name!r}: give auto, cpu, cuda or mps")
    if not available[name]:
        raise ValueError(f"no {name} device on this machine: give --device cpu or auto")
    return torch.device(name)


@contextlib.contextmanager
def _precision(precision: Precision) -> Iterator[None]:
    """TF32 products in recipes that ask for them, and never elsewhere."""
    allowed = precision == "tf32"
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]

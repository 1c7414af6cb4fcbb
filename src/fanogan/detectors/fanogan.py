"""f-AnoGAN: a detector of what is not normal (Schlegl et al. 2019).

``fit`` learns from normals alone, ``score`` says how far from normal an image is (Eq. 4) and
``localize`` where (Eq. 5). Higher is more anomalous.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fanogan.calibration import MAP_QUANTILE, Calibration, HeldOut, ResidualHistogram
from fanogan.card import model_card
from fanogan.detectors.detector import Detector, precision_of
from fanogan.familiarity import Familiar
from fanogan.folders import BadFolder, RunFolder, read_model, write_model
from fanogan.losses import feature_residual, image_residual
from fanogan.networks import Discriminator, Encoder, Generator
from fanogan.normals import Normals
from fanogan.patches import Patches
from fanogan.preprocessing import Preprocessing
from fanogan.recipes import BadRecipe, Recipe, load_recipe
from fanogan.scans import Scan
from fanogan.stages import Progress, no_progress
from fanogan.training import train_encoder, train_gan

if TYPE_CHECKING:
    from lightning_fabric import Fabric

log = logging.getLogger(__name__)

Networks = tuple[Generator, Discriminator, Encoder]


class FAnoGAN(Detector):
    """The proposed method: a Wasserstein GAN of normals, then an encoder into its latents.

    Example:
        >>> from fanogan import FAnoGAN
        >>> detector = FAnoGAN(recipe="small").fit("scans/healthy")     # doctest: +SKIP
        >>> detector.score("scans/new").total                           # doctest: +SKIP
    """

    networks: Networks

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
        with precision_of(self.recipe.precision):
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
        # What throwaway networks would be warned of is no news.
        with precision_of(self.recipe.precision), _silenced(logging.getLogger("fanogan.stages")):
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

    def untrained(self) -> FAnoGAN:
        """The same detector with networks that have learnt nothing, to be compared with."""
        self._check_fitted()
        other = FAnoGAN(self.recipe, seed=self.seed, device=self.device.type)
        other.preprocessing, other.familiar = self.preprocessing, self.familiar
        other.networks = other._new_networks(self.seed + 1)
        return other

    def _terms_and_maps(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Eqs. 4 and 5 of what the networks see: (A_R, A_D) (B, 2); |x − x̂| and x̂ (B, 1 + C, …)."""
        G, D, E = self.networks
        x_hat = G(E(x))
        features, features_hat = D.features(torch.cat([x, x_hat])).chunk(2)
        terms = torch.stack([image_residual(x, x_hat), feature_residual(features, features_hat)], 1)
        return terms, torch.cat([(x - x_hat).abs().mean(1, keepdim=True), x_hat], 1)

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


@contextlib.contextmanager
def _silenced(logger: logging.Logger) -> Iterator[None]:
    """No warnings from ``logger``."""
    before = logger.disabled
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = before


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

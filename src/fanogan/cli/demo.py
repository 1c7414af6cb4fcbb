"""The demo: the whole job on data that the package carries or makes."""

from __future__ import annotations

import contextlib
import itertools
import shlex
import shutil
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from fanogan.cli.console import say
from fanogan.data import Normals
from fanogan.detectors import Detector, new_detector
from fanogan.evaluation import evaluate
from fanogan.phantom import Phantom, make_phantom
from fanogan.recipes import load_recipe
from fanogan.retina import Boundaries, FlatSpace, FlatVolume, make_flat, read_volumes
from fanogan.scans import Scan
from fanogan.storage import BadFolder
from fanogan.training import Progress, no_progress, shared_threads

Data: TypeAlias = Literal["octdl", "phantom", "digits", "signal"]
"""What a demo is of: pictures of real retinas, made-up eyes, handwritten digits, heart beats."""

RECIPES: dict[Data, str] = {
    **{"octdl": "demo", "phantom": "phantom", "digits": "digits", "signal": "signal"}
}
KINDS = ("train", "normal", "anomalous")

# Beside this file; SOURCE.md there says where they are from and what was changed.
OCTDL, MITBIH = (Path(__file__).with_name(name) for name in ("octdl", "mitbih"))
CREDIT: dict[Data, str] = {
    "octdl": "Pictures: a part of OCTDL (Kulyabin et al., OCTDL: Optical Coherence Tomography "
    "Dataset for Image-Based Deep Learning Methods, Scientific Data 11:365, 2024), CC BY 4.0, made "
    "smaller.",
    "signal": "Heart beats: a part of the MIT-BIH Arrhythmia Database (Moody and Mark, IEEE "
    "Engineering in Medicine and Biology 20(3):45-50, 2001; PhysioNet), Open Data Commons "
    "Attribution License 1.0, one lead at 125 Hz.",
}
GROUPS: dict[Data, str] = {"octdl": r"_(\d+)_", "signal": r"(\d+)\.npy"}
OCTDL_SPACING = (None, 0.0054, 0.022)

# A made-up eye: B-scans, rows and columns, and their distances in mm. Columns are as wide as
# resampling makes them, so nothing is resampled.
SHAPE = (16, 320, 256)
SPACING = (0.24, 0.00387, 0.022)
LEARNT, HEALTHY, DISEASED = range(12), range(100, 103), range(200, 206)

MADE = ("images", "volumes", "run", "autoencoder")
"""Folders of a demo, made anew each time; the evaluation's files replace those of the last one."""

NORMAL_DIGIT = 4
TRAINED_SHARE = 0.8


def run_demo(
    out: str | Path,
    data: Data = "octdl",
    *,
    seed: int = 0,
    device: str = "auto",
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Train on normals and evaluate on unseen normals and anomalies, beside an autoencoder.

    'octdl': real B-scans of healthy people are learnt, those of others and of patients with six
    diseases tested, picture by picture. 'phantom': twelve made-up healthy eyes are learnt, three
    others and six with lesions tested, patch by patch; their boundaries are the phantoms' own.
    'digits': one digit is learnt, the others are anomalous. 'signal': real heart beats, a
    second of an electrocardiogram each, are learnt, and those of other people tested, some of them
    ventricular. Writes the images as files, the runs and the evaluation.

    Args:
        out: the folder; what an earlier demo made there is made anew.
        data: what is learnt and tested.
        seed: of the split, the weights and all of training.
        device: 'auto', 'cpu', 'cuda' or 'mps'.
        progress: as for ``fit``, with stages before and after that count images.

    Returns:
        What ``evaluate`` returns.

    Raises:
        BadFolder: ``out`` holds something else.
        BadScan: an extra that flattening needs isn't installed.
        OSError: it can't be written.
    """
    out = Path(out)
    marker = out / ".fanogan-demo"
    if out.exists() and any(out.iterdir()) and not marker.exists():
        raise BadFolder(f"{out}: holds something else; give --out another folder")
    for name in MADE:
        shutil.rmtree(out / name, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    marker.touch()
    if data == "octdl":
        images = _octdl(out / "images", progress)
    elif data == "phantom":
        images = _eyes(out / "volumes", progress)
    elif data == "signal":
        images = _signals(out / "images")
    else:
        images = _digits(out / "images", seed)
    detector = new_detector("izi_f", RECIPES[data], seed=seed, device=device)
    autoencoder = new_detector("ae", RECIPES[data], seed=seed, device=device)
    spacing = OCTDL_SPACING if data == "octdl" else None
    groups = GROUPS.get(data)
    normals = Normals.read(
        images["train"], detector.recipe, groups=groups, spacing=spacing, seed=seed
    )
    for line in normals.summary.splitlines():
        say(line)
    with _beside(autoencoder, normals, out / "autoencoder", progress):
        detector.fit(normals, out=out / "run", progress=progress)
    # Trained, untrained, by principal components, and by the autoencoder.
    scored, to_score = itertools.count(1), 4 * images["count"]
    return evaluate(
        detector.model,
        images["normal"],
        images["anomalous"],
        out,
        masks=images["masks"],
        beside=[autoencoder.model],
        groups=groups,
        credit=CREDIT.get(data, ""),
        on_result=lambda result: progress("scoring", next(scored), to_score, {}),
    )


def by_hand(out: Path, data: Data) -> list[str]:
    """Return commands that do the demo's steps on the images that it wrote."""
    recipe, images = RECIPES[data], out / ("volumes" if data == "phantom" else "images")
    groups = ("--groups", GROUPS[data]) if data in GROUPS else ()
    mm = ",".join(str(mm or "") for mm in OCTDL_SPACING)
    spacing = ("--spacing", mm) if data == "octdl" else ()
    masks = ("--masks", images / "masks") if data == "phantom" else ()
    run, train, normal, anomalous = Path("runs", data), *(images / kind for kind in KINDS)
    commands = (
        ("fit", train, *groups, *spacing, "--recipe", recipe, "--out", run),
        ("score", run, anomalous, "--out", Path("results", data)),
        ("evaluate", run, "--normal", normal, "--anomalous", anomalous, *masks, *groups),
    )
    return [shlex.join(["fanogan", *map(str, command)]) for command in commands]


@contextlib.contextmanager
def _beside(detector: Detector, normals: Normals, out: Path, progress: Progress) -> Iterator[None]:
    """Train a detector by half the threads, while the others do what is done within."""
    stopped = threading.Event()

    def unless_stopped(stage: str, step: int, steps: int, figures: Mapping[str, float]) -> None:
        if stopped.is_set():
            raise KeyboardInterrupt
        progress(stage, step, steps, figures)

    with shared_threads(2), ThreadPoolExecutor(1) as pool:
        training = pool.submit(detector.fit, normals, out=out, progress=unless_stopped)
        try:
            yield
            training.result()
        finally:
            stopped.set()


def _octdl(folder: Path, progress: Progress) -> dict[str, Any]:
    """Copy the pictures, and flatten them."""
    shutil.copytree(OCTDL, folder)
    flat: dict[str, list[FlatVolume]] = {kind: [] for kind in KINDS}
    found = read_volumes(
        [folder / kind for kind in KINDS],
        _space(RECIPES["octdl"]),
        groups=GROUPS["octdl"],
        pictures="bscans",
        spacing=OCTDL_SPACING,
    )
    kinds = {file.name: file.parent.name for file in folder.glob("*/*.jpg")}
    for done, volume in enumerate(found, 1):
        flat[kinds[volume.name]].append(volume)
        progress("flattening", done, len(kinds), {})
    people = {kind: len({volume.group for volume in flat[kind]}) for kind in KINDS}
    say(CREDIT["octdl"])
    say(
        f"learning from {len(flat['train'])} B-scans of {people['train']} healthy people; testing "
        f"on {len(flat['normal'])} of {people['normal']} others, and on {len(flat['anomalous'])} "
        f"of {people['anomalous']} patients with one of six diseases"
    )
    return {**flat, "masks": None, "count": len(flat["normal"]) + len(flat["anomalous"])}


def _eyes(folder: Path, progress: Progress) -> dict[str, Any]:
    """Make the eyes, flat and as files, with the masks of the diseased."""
    eyes: dict[str, list[FlatVolume]] = {}
    masks = []
    made, count = itertools.count(1), len(LEARNT) + len(HEALTHY) + len(DISEASED)
    for kind, seeds in zip(KINDS, (LEARNT, HEALTHY, DISEASED), strict=True):
        for seed in seeds:
            phantom = make_phantom(seed, shape=SHAPE, spacing=SPACING, diseased=kind == "anomalous")
            eyes.setdefault(kind, []).append(flat_phantom(phantom))
            _write_stack(folder / kind / f"{phantom.name}.tif", phantom.pixels)
            if kind == "anomalous":
                masks.append(phantom.mask)
                _write_stack(folder / "masks" / f"{phantom.name}.tif", 255 * phantom.mask)
            progress("phantoms", next(made), count, {})
    bscans = SHAPE[0] * (len(HEALTHY) + len(DISEASED))
    return {**eyes, "masks": masks, "count": bscans + len(HEALTHY) + len(DISEASED)}


def flat_phantom(phantom: Phantom) -> FlatVolume:
    """Flatten a made-up eye by its own boundaries."""
    scan = Scan(phantom.pixels, phantom.name, phantom.name, phantom.spacing, is_volume=True)
    lines = phantom.boundaries
    sure = np.ones(lines["ILM"].shape, np.float32)
    return make_flat(
        scan,
        Boundaries(lines["ILM"], lines["Bruch"], lines["RPE outer"], sure),
        np.zeros(phantom.pixels.shape, dtype=np.bool_),
        _space(RECIPES["phantom"]),
    )


def _space(name: str) -> FlatSpace:
    recipe = load_recipe(name)
    return FlatSpace(recipe.flat_rows, recipe.flat_base, recipe.stretch_retina)


def _write_stack(path: Path, pixels: np.ndarray) -> None:
    """Write a volume as users have them: a TIFF stack with its spacing."""
    import tifffile

    between, row, column = SPACING
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(
        path,
        pixels.astype(np.uint8),
        imagej=True,
        resolution=(1 / column, 1 / row),
        metadata={"spacing": between, "unit": "mm", "axes": "ZYX"},
        compression="zlib",
    )


def _signals(folder: Path) -> dict[str, Any]:
    """Copy the heart beats, each person's in a file."""
    shutil.copytree(MITBIH, folder)
    say(CREDIT["signal"])
    files = {kind: [*(folder / kind).glob("*.npy")] for kind in KINDS}
    beats = {kind: sum(len(np.load(file)) for file in files[kind]) for kind in KINDS}
    say(
        f"learning from {beats['train']} normal beats of {len(files['train'])} people; testing on "
        f"{beats['normal']} normal and {beats['anomalous']} ventricular ones of "
        f"{len(files['normal'])} others"
    )
    kinds = {kind: [folder / kind] for kind in KINDS}
    return {**kinds, "masks": None, "count": beats["normal"] + beats["anomalous"]}


def _digits(folder: Path, seed: int) -> dict[str, Any]:
    """Write each digit as a file."""
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)
    normal = np.flatnonzero(digits.target == NORMAL_DIGIT)
    order = np.random.default_rng(seed).permutation(normal)
    trained = set(order[: round(TRAINED_SHARE * len(order))].tolist())
    counts: Counter[str] = Counter()
    for index, (image, digit) in enumerate(zip(pixels, digits.target, strict=True)):
        kind = "train" if index in trained else "normal" if digit == NORMAL_DIGIT else "anomalous"
        path = folder / kind / f"{index:04d}_digit{digit}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
        counts[kind] += 1
    return {
        **{kind: [folder / kind] for kind in KINDS},
        "masks": None,
        "count": counts["normal"] + counts["anomalous"],
    }

"""How fast, and how close to what the machine can do: each step of training and scoring.

Every row is timed in a process of its own, warm, as the median of many: as `fanogan` computes it,
in fp32 and where the machine has it in bf16, and with the blocks as the paper writes them in plain
PyTorch. Matrix products take turns with the steps, and how much faster a step is is the ratio of
times in units of theirs. The share is of what bounds a step: this machine's rate of matrix
products, which counts only the multiply-adds that the reduced arithmetic needs, or its memory.
Numbers are kept by kind of machine in results/speed; --write puts all of them into
docs/benchmark_details.md, and --compare says which ratios fell below the kept ones.

    python benchmarks/speed.py --write
    python benchmarks/speed.py --compare
    python benchmarks/speed.py --device cuda --write     # the rows of a GPU, in about ten minutes
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from plain import as_written
from roofline import PRODUCT, bytes_moved, picture, rates
from speed_tables import (
    HALF,
    KEPT,
    NETWORK_ROWS,
    OURS,
    PLAIN,
    SIZES,
    Measured,
    costs_of_updates,
    fallen,
    key,
    machine_text,
    ratios,
)
from tables import DOCS, RESULTS, conditions, done, keep, machine, markdown, write_section
from torch import Tensor, nn

from fanogan.calibration import UNCALIBRATED, ProfileBuilder
from fanogan.cli import keep_memory
from fanogan.data import Patches, Preprocessing, seeded
from fanogan.detectors import new_detector
from fanogan.evaluation import PixelROC
from fanogan.models import (
    Discriminator,
    Encoder,
    Generator,
    ReconstructionScore,
    channels_of,
    encoder_loss,
    encoder_terms,
    folded,
    generator_loss,
)
from fanogan.recipes import Precision, blocks_of, load_recipe
from fanogan.scans import Scan
from fanogan.scoring import Encoded, Model, score_batch, score_encoded
from fanogan.training import (
    ForEachPart,
    Run,
    TensorFlowRMSprop,
    descend,
    fabric_of,
    frozen,
    half_batches,
    lacking_bf16,
    multiply_adds,
    precision_of,
    statistics_untouched,
    update_critic,
    whole_batch,
)

OTHER_ROWS = (
    "iterative, an image",
    "a batch of 64 patches",
    "a B-scan of 128×256 through windows",
    "pixel ROC of 70,000 maps",
)
CPU = torch.device("cpu")
SECONDS = 2.0  # of repeats, of a row


# --- what is timed --------------------------------------------------------------------------------


def networks(width: int, side: int, device: torch.device | str) -> tuple[Any, Any, Any]:
    """G, D, E of one width for square images."""
    with torch.device(device):
        size = ((side, side), 1, width)
        return Generator(*size), Discriminator(*size), Encoder(*size)


def batch_of(width: int, side: int, device: torch.device) -> int:
    """The paper's batch; on a CPU an eighth of it where a step would take a minute."""
    return 8 if device.type == "cpu" and width * side >= 64 * 64 else 64


def step_of(
    row: str,
    width: int,
    side: int,
    kind: str,
    device: torch.device,
    for_each_part: ForEachPart = whole_batch,
) -> tuple[Callable[[], object], int, int]:
    """What a row repeats, the images in it, and the multiply-adds of an image."""
    precision: Precision = "bf16" if kind == HALF else "fp32"
    recipe = load_recipe("paper").but(
        image_size=(side, side), base_width=width, precision=precision
    )
    G, D, E = networks(width, side, device)
    if kind in (PLAIN, KEPT):
        G, D, E = (as_written(network) for network in (G, D, E))
    batch = batch_of(width, side, device)
    random = seeded(device, 0)
    x = 2 * torch.rand(batch, 1, side, side, generator=random, device=device) - 1
    fabric = fabric_of(device, recipe, 1)
    adam = partial(torch.optim.Adam, lr=1e-4, betas=(0.0, 0.9), fused=True)
    of_critic, of_generator, of_encoder = costs_of_updates(width, side)

    def latents() -> Tensor:
        return torch.randn(batch, G.latent, generator=random, device=device)

    if row == "critic step":
        optimiser = adam(D.parameters())
        blank = [np.zeros((1, side, side), np.uint8)]
        patches = Patches(blank, view(side, side), flip=False, device=device)
        run = Run(recipe, fabric, 0, patches, patches, {})

        def critic() -> None:
            with torch.no_grad(), statistics_untouched(G), fabric.autocast():
                fake = G(latents())
            update_critic(D, optimiser, x, fake, run, random, for_each_part)

        return critic, batch, of_critic
    if row == "generator step":
        optimiser = adam(G.parameters())

        def generator() -> None:
            with frozen(D):
                with fabric.autocast():
                    loss = generator_loss(D, G(latents()))
                descend(loss, optimiser, fabric)

        return generator, batch, of_generator
    if row == "encoder step":
        G.eval()
        rmsprop = TensorFlowRMSprop(E.parameters(), 5e-5)

        def encoder() -> None:
            with frozen(G, D):
                with fabric.autocast():
                    loss = encoder_loss(encoder_terms("izi_f", E, G, D, x, latents()), 1.0)
                descend(loss, rmsprop, fabric)

        return encoder, batch, of_encoder
    meta_G, meta_D, meta_E = networks(width, side, "meta")
    image = torch.empty(1, 1, side, side, device="meta")
    on_meta = ReconstructionScore(meta_E, meta_G, features=meta_D)
    counted = multiply_adds(lambda: on_meta(image))
    if kind in (OURS, HALF):
        model = model_of({"G": G, "D": D, "E": E}, width, side, "izi_f", device)
        scored = partial(score_batch, model.but(precision=precision))
    else:
        scored = ReconstructionScore(E, G, features=D).eval()

    def score() -> None:
        with torch.inference_mode(), precision_of("fp32"):
            scored(x)

    return score, batch, counted


def model_of(
    parts: Mapping[str, nn.Module], width: int, side: int, name: str, device: torch.device
) -> Model:
    """A model with these networks, which scores as one that has learned."""
    recipe = load_recipe("paper").but(image_size=(side, side), base_width=width)
    detector = new_detector(name, recipe, device=device.type)
    with torch.no_grad():
        score = detector.score_module({key: folded(each) for key, each in parts.items()}, {})
    profile, blank = ProfileBuilder(), np.zeros((1, side, side), np.uint8)
    profile.add(Scan(blank, "one", "one"), blank)
    return Model(
        detector=name,
        title=name,
        exportable=detector.exportable,
        averages_pixels=detector.averages_pixels,
        recipe=detector.recipe,
        networks=parts,
        score=score.eval(),
        preprocessing=view(side, side),
        calibration=UNCALIBRATED,
        profile=profile.build(),
        constants={},
        provenance={},
        device=device,
    )


def view(side: int, window: int) -> Preprocessing:
    """Grey pictures of 8 bits, seen through windows."""
    return Preprocessing("uint8", 0.0, 255.0, 1, (window, window), (side, side))


def other_step(row: str, width: int, side: int, device: torch.device) -> tuple[Any, int]:
    """What a row without a plain twin repeats, and what its time is divided by."""
    G, D, E = (network.eval() for network in networks(width, side, device))
    random = np.random.default_rng(0)
    if row == "iterative, an image":
        searching = model_of({"G": G, "D": D}, width, side, "iterative", device)
        x = 2 * torch.rand(16, 1, side, side, device=device) - 1
        return lambda: score_batch(searching, x), 16
    if row == "pixel ROC of 70,000 maps":
        maps = random.random((100, 64, 64), dtype=np.float32)
        masks = random.random(maps.shape) < 0.1
        pixels = PixelROC(high=2.0)
        return lambda: [pixels.update(*each) for each in zip(maps, masks, strict=True)], 0
    frames = [random.integers(0, 256, (1, 128, 256), dtype=np.uint8) for _ in range(98)]
    if row == "a batch of 64 patches":
        patches = Patches(frames, view(side, 64), flip=True, device=device)
        generator = seeded(device, 0)
        return lambda: patches.draw(64, generator), 1
    model = model_of({"G": G, "D": D, "E": E}, width, side, "izi_f", device)
    model = model.but(preprocessing=view(side, 64))
    encoded = Encoded(Scan(frames[0], "one", "one"), frames[0][None], None, ())
    return lambda: [list(results) for results in score_encoded(model, [encoded])], 1


# --- timing ---------------------------------------------------------------------------------------


def seconds_of(step: Callable[[], object], device: torch.device) -> float:
    """Of one step."""
    started = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def timed(step: Callable[[], object], device: torch.device, seconds: float = SECONDS) -> float:
    """Median seconds of a step, warm: of at least five, and as many as fit."""
    step()
    found: list[float] = []
    while len(found) < 5 or sum(found) < seconds:
        found.append(seconds_of(step, device))
    return statistics.median(found)


def measured(row: str, width: int, side: int, kind: str, device: torch.device) -> dict[str, float]:
    """Seconds, multiply-adds and bytes an image of one row, and the peak of its memory in MB.

    ``share`` is of the rate of fp32 products, in turns with which the row was timed.
    """
    if kind != PLAIN:
        keep_memory()
    before = peak(device)
    if row in OTHER_ROWS:
        step, images = other_step(row, width, side, device)
        seconds = timed(step, device) * (700 if row == "pixel ROC of 70,000 maps" else 1)
        return {"seconds": seconds / max(images, 1), "mb": peak(device) - before}
    pairs: list[tuple[float, float]] = []
    ours = kind in (OURS, HALF)
    parts = half_batches(device) if ours else contextlib.nullcontext(whole_batch)
    with parts as for_each_part:
        step, images, counted = step_of(row, width, side, kind, device, for_each_part)
        step()
        a, b = torch.rand(2, PRODUCT, PRODUCT, device=device)
        seconds_of(lambda: a @ b, device)
        # In turns, so that what else the machine does meets both.
        while len(pairs) < 5 or sum(map(sum, pairs)) < SECONDS:
            pairs.append((seconds_of(step, device), seconds_of(lambda: a @ b, device)))
    shares = [counted * images / own * product / PRODUCT**3 for own, product in pairs]
    found = {
        "seconds": statistics.median(own for own, _ in pairs) / images,
        "share": statistics.median(shares),
        "mb": peak(device) - before,
        "multiply_adds": counted,
    }
    step, _, _ = step_of(row, width, side, kind, device)  # in one thread, whose operations show
    return {**found, "bytes": bytes_moved(step) / images}


def peak(device: torch.device) -> float:
    """The peak of memory so far, in MB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    # Not getrusage's, which begins at the peak of the process that started this one.
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 2**10


def in_a_process(*words: object) -> dict[str, float]:
    """``measured`` of one row, by a process that does nothing else."""
    command = [sys.executable, __file__, "--one", *map(str, words)]
    # As the commands have it: threads that wait don't spin.
    env = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    return dict(json.loads(done.stdout.splitlines()[-1]))


# --- the tables -----------------------------------------------------------------------------------


def measure_networks() -> Measured:
    """Each step and size, as we compute it and as written."""
    found: Measured = {}
    for row in NETWORK_ROWS:
        for width, side in SIZES:
            print(row, width, side, file=sys.stderr)
            for kind in (OURS, HALF, PLAIN, KEPT):
                if kind != HALF or not lacking_bf16(CPU):
                    words = (row, width, side, kind)
                    found[key(*words)] = in_a_process(*words, CPU)
    return found


def kept_file() -> Path:
    """Where the numbers of this kind of machine are; some processors hide their kind."""
    words = re.findall("[a-z0-9]+", machine().lower()) + ["bf16"] * (not lacking_bf16(CPU))
    return RESULTS / "speed" / f"{'-'.join(words)}.json"


def other_rows() -> Iterator[list[str]]:
    """One line for all else."""
    for row in OTHER_ROWS:
        found = in_a_process(row, 8, 32, OURS, CPU)
        yield [row, f"{1e3 * found['seconds']:.3g} ms", f"{found['mb']:.0f}"]
    for words in ("fanogan --help", "import fanogan", "import torch"):
        yield [words, f"{1e3 * starting(words):.0f} ms", "–"]


def starting(words: str) -> float:
    """Median seconds of a new process that runs a command or an import."""
    command = (
        [str(Path(sys.executable).with_name("fanogan")), "--help"]
        if words.startswith("fanogan")
        else [sys.executable, "-c", words]
    )
    return timed(lambda: subprocess.run(command, capture_output=True, check=True), CPU, 5.0)


def share_by_4x4(found: Measured, width: int, side: int) -> str:
    """Scoring's share if convolutions beside a change of size counted as 4×4 kernels.

    That is 16 multiply-adds an output where a mean follows and 4 where an upsampling comes before,
    in place of the 9 and 2¼ that are computed.
    """
    channels, smaller, more = channels_of(width, blocks_of((side, side))), side // 2, 0
    for narrow, wide in pairwise(channels):
        more += 4 * 7 * narrow * wide * smaller**2  # E, G, and D of two images
        smaller //= 2
    ours = found[key("score and map", width, side, OURS)]
    counted = step_of("score and map", width, side, OURS, CPU)[2]
    return f"width {width} at {side}×{side} {100 * ours['share'] * (1 + more / counted):.0f} %"


KINDS = {
    "convolutions": ("convolution",),
    "norms": ("norm",),
    "activations": ("clamp", "threshold", "tanh"),
    "pooling and upsampling": ("pool", "upsample"),
}


def profile(row: str, width: int, side: int) -> str:
    """What a step's time goes to, by kinds of operations."""
    step, _, _ = step_of(row, width, side, OURS, CPU)
    for _ in range(2):
        step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as found:
        step()
    times = dict.fromkeys([*KINDS, "additions, copies and all else"], 0.0)
    for one in found.key_averages():
        kinds = (kind for kind, words in KINDS.items() if any(word in one.key for word in words))
        times[next(kinds, "additions, copies and all else")] += one.self_cpu_time_total
    total = sum(times.values())
    each = ", ".join(f"{kind} {100 * time / total:.0f} %" for kind, time in times.items())
    return f"{row}, width {width} at {side}×{side}: {each}"


def growth(device: torch.device) -> Iterator[str]:
    """How scoring's time grows: the exponent of a power law through each series."""

    def score(width: int, side: int) -> float:
        step, images, _ = step_of("score and map", width, side, OURS, device)
        return timed(step, device, 2.0) / images

    def volume(frames: int) -> float:
        step, _ = other_step("a B-scan of 128×256 through windows", 8, 32, device)
        return timed(lambda: [step() for _ in range(frames)], device, 2.0)

    series: dict[str, tuple[list[int], Callable[[int], float]]] = {
        "side at width 8": ([32, 64, 128, 256], lambda side: score(8, side)),
        "width at 32×32": ([8, 16, 32, 64], lambda width: score(width, 32)),
        "B-scans of a volume": ([1, 3, 10, 30], volume),
    }
    for name, (sizes, measure) in series.items():
        seconds = [measure(size) for size in sizes]
        slope = np.polyfit(np.log(sizes), np.log(seconds), 1)[0]
        each = ", ".join(f"{a}: {1e3 * b:.3g} ms" for a, b in zip(sizes, seconds, strict=True))
        yield f"{name}: exponent {slope:.2f} ({each})"


def whole_runs(device: torch.device, recipe_name: str, minutes: float) -> Iterator[list[str]]:
    """The whole recipe by the rate after warm-up, and 70,000 patches scored with maps."""
    recipe = load_recipe(recipe_name).but(log_every=1000)
    random = np.random.default_rng(0)
    side = recipe.window[0]
    normals = random.integers(0, 256, (500, side, side), dtype=np.uint8)
    total = 0.0
    for stage, shorter in (("gan", {}), ("encoder", {"critic_updates": 10})):
        detector = new_detector("izi_f", recipe.but(**shorter), device=device.type)
        rate = stage_rate(detector, normals, stage, 60 * minutes)
        steps = detector.steps(view(side, side))[stage]
        total += steps / rate
        yield [f"{stage} of recipe {recipe.name}", f"{rate:.1f} steps a second", f"{steps:,} steps"]
    yield [f"recipe {recipe.name}, extrapolated", f"{total / 60:.3g} minutes", "target: < 45"]
    step, images, _ = step_of("score and map", recipe.base_width, side, OURS, device)
    seconds = 70_000 / images * timed(step, device, 60 * minutes / 5)
    yield ["70,000 patches scored with maps", f"{seconds:.1f} s", "target: < 5"]


class _Enough(Exception):
    """The time is over."""


def stage_rate(detector: Any, normals: np.ndarray, stage: str, seconds: float) -> float:
    """Steps a second of a stage over some time, the first fifth of which warms up."""
    marks: list[tuple[float, int]] = []

    def mark(name: str, step: int, steps: int, figures: Any) -> None:
        if name == stage:
            marks.append((time.perf_counter(), step))
            if marks[-1][0] - marks[0][0] > seconds:
                raise _Enough

    with contextlib.suppress(_Enough):
        detector.fit(normals, progress=mark)
    (begun, _), (ended, last) = marks[0], marks[-1]
    warm, first = next(one for one in marks if one[0] - begun >= (ended - begun) / 5)
    return (last - first) / (ended - warm)


def main() -> None:
    """Measure, and print or write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--recipe", default="paper", help="whose whole run is extrapolated")
    parser.add_argument("--minutes", type=float, default=3.0, help="of each stage of that run")
    parser.add_argument("--write", action="store_true", help="into docs/benchmark_details.md")
    parser.add_argument("--compare", action="store_true", help="with what is kept")
    parser.add_argument("--one", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        row, width, side, kind, device = options.one
        found = measured(row, int(width), int(side), kind, torch.device(device))
        print(json.dumps(found))
        return
    device = torch.device(options.device)
    if device.type == "cuda":
        about = conditions()
        rows = [*whole_runs(device, options.recipe, options.minutes)]
        text = (
            f"{about['machine']}, torch {about['torch']}, commit {about['commit']}\n\n"
            f"{markdown(['what', 'measured', ''], rows)}"
        )
        if options.write:
            write_section("speed, cuda", text)
        else:
            print(text)
        return
    now = {**conditions(rates=rates(CPU)), "rows": measure_networks()}
    if options.compare:
        before = done(kept_file())
        if before is None:
            sys.exit(f"{kept_file()}: nothing is kept of this kind of machine; run --write first")
        found = fallen(ratios(before["rows"]), ratios(now["rows"]))
        print("\n".join(found) or "no ratio fell")
        sys.exit(bool(found))
    now["text"] = text_about(now["rows"])
    if not options.write:
        print(machine_text(now))
        return
    now["picture"] = f"roofline-{kept_file().stem}.png"
    keep(kept_file(), now)
    kinds = {OURS: "fp32"} | ({} if lacking_bf16(CPU) else {HALF: "bf16"})
    picture(now, kinds, DOCS.parent / now["picture"])
    every = [json.loads(path.read_text()) for path in sorted(kept_file().parent.glob("*.json"))]
    write_section("speed, cpu", "\n\n".join(map(machine_text, every)))


def text_about(found: Measured) -> str:
    """What else is measured of this processor."""
    shares = "; ".join(share_by_4x4(found, *size) for size in SIZES)
    keep_memory()
    grown = "\n".join(f"- {line}" for line in growth(CPU))
    profiles = "\n".join(f"- {profile(row, 16, 64)}" for row in ("critic step", "score and map"))
    return (
        f"The share of scoring, were the convolutions beside a change of size counted as 4×4 "
        f"kernels: {shares}.\n\n"
        f"{markdown(['at width 8, 32×32 seen', 'time', 'MB'], [*other_rows()])}\n\n"
        f"Growth of scoring's time with\n\n{grown}\n\n"
        f"Where the time goes (the operations' own, by PyTorch's profiler):\n\n{profiles}"
    )


if __name__ == "__main__":
    main()

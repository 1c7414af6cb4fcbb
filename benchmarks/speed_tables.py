"""What ``speed.py`` measured, as tables: each kind of machine for itself, and what has fallen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from roofline import bound
from tables import markdown

from fanogan.recipes import load_recipe
from fanogan.training import encoder_cost, gan_cost

SIZES = ((8, 32), (16, 32), (8, 64), (16, 64), (64, 64))  # width, side
NETWORK_ROWS = ("critic step", "generator step", "encoder step", "score and map")
OURS, HALF, PLAIN, KEPT = "ours", "ours in bf16", "as written", "as written, memory kept"
FELL = 0.9  # of a kept ratio: less is more than noise

Measured = dict[str, dict[str, float]]  # by 'row, width, side, kind'


def key(*words: object) -> str:
    """How a row is named in what is kept."""
    return ", ".join(map(str, words))


def costs_of_updates(width: int, side: int) -> tuple[int, int, int]:
    """The multiply-adds of an update of the critic, the generator and the encoder, of an image."""
    shape = (1, side, side)
    one = load_recipe("paper").but(
        base_width=width, batch_size=1, critic_updates=1, encoder_updates=1
    )
    critic = gan_cost(one, shape)  # the first round has no update of the generator
    two = one.but(critic_updates=2, critic_updates_per_generator_update=1)
    return critic, gan_cost(two, shape) - 2 * critic, encoder_cost(one, shape)


def network_row(kept: Mapping[str, Any], row: str, width: int, side: int) -> list[str]:
    """One line of a machine's table."""
    found: Measured = kept["rows"]
    ours, plain, written = (found[key(row, width, side, each)] for each in (OURS, PLAIN, KEPT))
    half = found.get(key(row, width, side, HALF))
    cells = [f"{1e3 * ours['seconds']:.3g}", bound_of(kept, ours, "fp32"), "–", "–", "–"]
    if half:
        cells[2:] = [
            *(f"{1e3 * half['seconds']:.3g}", bound_of(kept, half, "bf16")),
            f"{half['share'] / ours['share']:.2f}×",
        ]
    return [
        *(row, f"{width} at {side}×{side}", *cells),
        f"{ours['share'] / plain['share']:.2f}×",
        f"{ours['share'] / written['share']:.2f}×",
        f"{ours['mb']:.0f}",
        f"{plain['mb']:.0f}",
    ]


def bound_of(kept: Mapping[str, Any], one: Mapping[str, float], precision: str) -> str:
    """What bounds a row, and its share of that; the products' alone where nothing else is kept."""
    if "bytes" not in one:
        return f"{100 * one['share']:.0f} % arithmetic"
    parts = one["multiply_adds"], one["bytes"], one["seconds"]
    name, share = bound(*parts, precision, kept["rates"])
    return f"{100 * share:.0f} % {name}"


def round_of(found: Measured, width: int, side: int, kind: str) -> float:
    """Five critic steps and one of the generator, in units of fp32 products."""
    critic, generator, _ = costs_of_updates(width, side)
    return (
        5 * critic / found[key("critic step", width, side, kind)]["share"]
        + generator / found[key("generator step", width, side, kind)]["share"]
    )


def ratios(found: Measured) -> dict[str, float]:
    """What a change must not let fall: against as written, and bf16 against fp32."""
    shares = {
        (row, size, kind): found[key(row, *size, kind)]["share"]
        for row in NETWORK_ROWS
        for size in SIZES
        for kind in (OURS, HALF, PLAIN)
        if key(row, *size, kind) in found
    }
    against = {OURS: PLAIN, HALF: OURS}
    return {
        f"{row}, width {size[0]} at {size[1]}×{size[1]}, {kind} against {against[kind]}": share
        / shares[row, size, against[kind]]
        for (row, size, kind), share in shares.items()
        if kind in against
    }


def fallen(before: Mapping[str, float], now: Mapping[str, float]) -> list[str]:
    """Which ratios are below ``FELL`` of what they were."""
    return [
        f"{name}: {before[name]:.2f}× before, {ratio:.2f}× now"
        for name, ratio in now.items()
        if name in before and ratio < FELL * before[name]
    ]


def machine_text(kept: Mapping[str, Any]) -> str:
    """The tables of one kind of machine."""
    rows = [network_row(kept, row, *size) for row in NETWORK_ROWS for size in SIZES]
    header = [
        *("step", "width", "ms an image", "share of what bounds it"),
        *("bf16, ms an image", "share", "faster than fp32"),
        *("fp32 faster than written", "the same, memory kept", "MB", "as written"),
    ]
    able = drawn = ""
    if "rates" in kept:
        drawn = (
            "\n\nEach step below the machine's roofs: where it stands further left, memory bounds "
            "it; annotated are the critic's steps in fp32, width at side.\n\n"
            f"![Steps and roofs]({kept['picture']})"
        )
        products = " and ".join(
            f"{2e-9 * kept['rates'][name]:,.0f} GFLOP/s in {name}"
            for name in ("fp32", "bf16")
            if name in kept["rates"]
        )
        able = f" Matrix products {products}; memory {1e-9 * kept['rates']['bytes']:.1f} GB/s."
    rounds = [
        f"width {width} at {side}×{side} {plain / ours:.2f}× ({written / ours:.2f}×){in_bf16}"
        for width, side in SIZES
        for ours, plain, written, in_bf16 in [rounds_of(kept["rows"], width, side)]
    ]
    return (
        f"### {kept['machine']}\n\n"
        f"torch {kept['torch']}, commit {kept['commit']}, {kept['threads']} threads; batches of "
        f"64, of 8 at width 64.{able}\n\n{markdown(header, rows)}\n\n"
        "A round of training (five critic steps, one of the generator), against as written "
        f"(memory kept): {'; '.join(rounds)}.\n\n{kept['text']}{drawn}"
    )


def rounds_of(found: Measured, width: int, side: int) -> tuple[float, float, float, str]:
    """A round as we compute it, as written, and with memory kept; and how bf16 compares."""
    ours, plain, written = (round_of(found, width, side, kind) for kind in (OURS, PLAIN, KEPT))
    if key("critic step", width, side, HALF) not in found:
        return ours, plain, written, ""
    half = round_of(found, width, side, HALF)
    return ours, plain, written, f", in bf16 {plain / half:.2f}×"

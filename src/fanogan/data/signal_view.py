"""How signals become what the networks see: channels of one rate, each in a range of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from fanogan.scans import BadScan, Note, Scan, Signal
from fanogan.text import counted

LEVELS = 65535

_MOST = 20_000_000
"""Samples of a channel from which its range is taken."""


@dataclass(frozen=True)
class SamplingRateUnknown(Note):
    """A signal doesn't say its sampling rate; it was taken for the model's, in samples a second."""

    rate: float


@dataclass(frozen=True)
class ChannelsNotSeen(Note):
    """Channels of a signal that the model doesn't look at."""

    names: tuple[str, ...]


@dataclass(frozen=True)
class SignalView:
    """What the training normals settle of signals.

    A channel's range is twice as wide as from the 0.1 to the 99.9 percentile of its samples in the
    training normals, about the same middle: what is abnormal is often larger, and what is beyond
    the range is cut. It is theirs and not each recording's, since how large a recording's waves are
    is part of what is normal.

    Attributes:
        lows: The value of each channel that becomes −1.
        highs: The value that becomes +1.
        rate: Samples a second; None where no training normal said it.
        names: The channels; empty where the training normals name none.
    """

    lows: tuple[float, ...]
    highs: tuple[float, ...]
    rate: float | None
    names: tuple[str, ...]

    @classmethod
    def of(cls, scans: Sequence[Scan], learnt: int) -> SignalView:
        """Settle it from normals, the first ``learnt`` of which are trained on.

        Raises:
            BadScan: Images among them, other rates or channels, or a channel of one value.
        """
        signals = [scan for scan in scans if isinstance(scan, Signal)]
        if len(signals) < len(scans):
            image = next(scan for scan in scans if not isinstance(scan, Signal))
            raise BadScan(f"{image.name} is an image, and the recipe is for signals")
        named = [signal for signal in signals if signal.channel_names]
        names = [
            name
            for name in (named[0].channel_names if named else ())
            if all(name in signal.channel_names for signal in named)
        ]
        if named and not names:
            other = next(s for s in named if not {*s.channel_names} & {*named[0].channel_names})
            raise BadScan(
                f"{other.name} has none of the channels of {named[0].name} "
                f"({', '.join(named[0].channel_names)}): train on recordings of the same channels"
            )
        rates = [signal.rate for signal in signals if signal.rate]
        count = len(names) or signals[0].channels
        view = cls((0.0,) * count, (1.0,) * count, rates[0] if rates else None, tuple(names))
        total = sum(signal.pixels.shape[2] for signal in signals[:learnt])
        # All are looked at, so that one that doesn't fit is named.
        kept = [view.chosen(signal)[:: -(-total // _MOST)] for signal in signals]
        values = np.concatenate(kept[:learnt]).astype(np.float64)
        low, high = np.percentile(values, [0.1, 99.9], axis=0)
        # A channel of a few pulses on a flat ground.
        low, high = np.where(low < high, (low, high), (values.min(0), values.max(0)))
        if (low >= high).any():
            raise BadScan(
                "the training signals hold one value and nothing else in "
                f"{view.called[int(np.argmax(low >= high))]}: there is nothing to learn from"
            )
        room = (high - low) / 2
        lows, highs = (low - room).tolist(), (high + room).tolist()
        return replace(view, lows=tuple(lows), highs=tuple(highs))

    @property
    def called(self) -> list[str]:
        """What the channels are called."""
        return [*self.names] or [f"channel {number}" for number in range(len(self.lows))]

    def chosen(self, signal: Scan) -> np.ndarray:
        """Return the channels that the model looks at: (samples, channels) float32.

        Raises:
            BadScan: An image, another sampling rate, or a channel is missing.
        """
        if not isinstance(signal, Signal):
            raise BadScan(f"{signal.name} is an image, and the model was trained on signals")
        if self.rate and signal.rate and signal.rate != self.rate:
            raise BadScan(
                f"{signal.name} has {signal.rate:g} samples a second, and the training signals "
                f"have {self.rate:g}: resample it"
            )
        values: np.ndarray = signal.pixels[0, 0]
        values = values if values.ndim == 2 else values[:, None]
        if self.names and signal.channel_names:
            lacking = [name for name in self.names if name not in signal.channel_names]
            if lacking:
                raise BadScan(
                    f"{signal.name} has no channel {lacking[0]} (it has "
                    f"{', '.join(signal.channel_names)}), and the model looks at it: add it"
                )
            chosen = [signal.channel_names.index(name) for name in self.names]
            return np.asarray(values[:, chosen])
        if values.shape[1] != len(self.lows):
            raise BadScan(
                f"{signal.name} has {counted(values.shape[1], 'channel')}, and the training "
                f"signals have {len(self.lows)}: give the same channels in the same order"
            )
        return values

    def encode(self, signal: Scan) -> np.ndarray:
        """Return the samples that are kept in memory: (1, channels, 1, samples) uint16.

        Raises:
            BadScan: As ``chosen``.
        """
        lows, highs = np.array(self.lows), np.array(self.highs)
        share = np.clip((self.chosen(signal) - lows) / (highs - lows), 0, 1)
        return np.asarray(np.round(share * LEVELS).astype(np.uint16).T[None, :, None])

    def in_units(self, x: np.ndarray) -> np.ndarray:
        """Return samples (samples, channels) in [−1, 1] in the units of the file."""
        lows, highs = np.array(self.lows), np.array(self.highs)
        return np.asarray(lows + (x + 1) / 2 * (highs - lows))

    def doubts(self, signal: Scan) -> Iterator[Note]:
        """Yield what of a signal was guessed, or isn't looked at."""
        assert isinstance(signal, Signal)
        if self.rate and not signal.rate:
            yield SamplingRateUnknown(self.rate)
        if beside := tuple(name for name in signal.channel_names if name not in self.names):
            yield ChannelsNotSeen(beside)

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SignalView:
        """Return the view that `to_dict` described."""
        lows, highs, names = (tuple(values[key]) for key in ("lows", "highs", "names"))
        return cls(lows, highs, values["rate"], names)

"""Signals: arrays, CSV tables, sounds (WAV, FLAC), EDF and WFDB records."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fanogan.scans.arrays import plain_array
from fanogan.scans.checks import MAX_FRAME_PIXELS, BadScan, damaged, unusable
from fanogan.scans.scan import Pixels, Scan
from fanogan.text import counted

_TIMES = ("time", "t", "seconds", "s", "time (s)", "time [s]")
"""Headings, in lower case, of a CSV's first column where that holds seconds and no channel."""

_UNEVEN = 0.01
"""Share of a step by which the times of a CSV may differ: they are rounded."""

_UNKNOWN_LENGTHS = (0, 0xFFFFFFFF)
"""What a program writes as a WAV's length that writes it as it comes."""


@dataclass(frozen=True)
class Signal(Scan):
    """Samples over time, held as an image of one row: pixels (1, 1, samples[, channels]), float32.

    Attributes:
        rate: Samples a second; None where the file doesn't say.
        channel_names: As the file has them; empty where it has none.
    """

    rate: float | None = None
    channel_names: tuple[str, ...] = ()

    @property
    def has_size(self) -> bool:
        """False: a recording may be of any length."""
        return False


def as_signal(scan: Scan) -> Signal:
    """Return channels × samples, as pixels (1, channels, samples), as a signal."""
    values = scan.pixels[0].T.astype(np.float32, copy=False)
    pixels = values[np.newaxis, np.newaxis, :, 0 if values.shape[1] == 1 else slice(None)]
    if not isinstance(scan, Signal):
        known = {name: getattr(scan, name) for name in Scan.__dataclass_fields__}
        scan = Signal(**{**known, "highest": None})
    return replace(scan, pixels=np.ascontiguousarray(pixels))


def signal_layout(label: str, shape: tuple[int, ...]) -> tuple[int, int, int, int, int]:
    """Return what an array file's shape means: signals, 1, channels, samples, and 1.

    Raises:
        BadScan: Another number of axes than one to three.
    """
    if not 1 <= len(shape) <= 3:
        wanted = "(samples,), (channels, samples) or (N, channels, samples)"
        raise BadScan(f"{label} has shape {shape}: give {wanted}")
    signals, channels, samples = (1, 1, *shape)[-3:]
    if channels > samples:
        raise BadScan(
            f"{label} holds {channels:,} channels of {counted(samples, 'sample')}: save channels × "
            "samples, by numpy.swapaxes(array, -1, -2)"
        )
    return signals, 1, channels, samples, 1


def signal_arrays(source: Any) -> Any:
    """Return signals in memory, (N, samples), (N, channels, samples) or a list, as stacks of rows.

    Those of a list are (samples,) or (channels, samples), of any length.
    """
    if isinstance(source, list | tuple):
        return [np.atleast_2d(plain_array(f"signal {i}", each)) for i, each in enumerate(source)]
    return source[:, None] if source.ndim == 2 else source


def read_csv(path: Path) -> Signal:
    """Read a table with a column a channel and a row a sample, with or without a heading.

    A first column of the name ``time`` or the like holds seconds, and tells the sampling rate.
    """
    label = str(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise unusable(f"{label} is no table in UTF-8", "save it as one") from error
    lines = [line for line in lines if line.strip()]
    if not lines:
        raise unusable(f"{label} holds no samples")
    delimiter = max(",;\t", key=lines[-1].count)
    names = [cell.strip() for cell in next(csv.reader(lines[:1], delimiter=delimiter))]
    if _is_number(names[0]):
        names = []
    try:
        values = np.loadtxt(lines[bool(names) :], delimiter=delimiter, ndmin=2).T
    except ValueError as error:
        reason = str(error).split(";")[0].rstrip(".")
        raise unusable(
            f"{label} is no table of numbers with a column a channel ({reason})", "correct it"
        ) from error
    rate = None
    if names and names[0].lower() in _TIMES and len(values) > 1:
        steps = np.diff(values[0])
        step = float(np.median(steps)) if len(steps) else 0.0
        if not (step > 0 and np.abs(steps - step).max() <= _UNEVEN * step):
            raise unusable(
                f"{label} has times that don't rise evenly in column {names[0]!r}", "resample it"
            )
        rate, values, names = float(f"{1 / step:.6g}"), values[1:], names[1:]
    return _signal(label, values, rate, names)


def read_sound(path: Path) -> Signal:
    """Read WAV or FLAC, at full scale from −1 to 1."""
    import soundfile

    label, kind = str(path), path.suffix[1:].upper()
    with path.open("rb") as file:
        head = file.read(8)
    declared = int.from_bytes(head[4:], "little") if head.startswith(b"RIFF") else 0
    # Else what there is of it would be read, and nothing said.
    if declared not in _UNKNOWN_LENGTHS and path.stat().st_size < declared + 8:
        raise damaged(label, kind)
    info = soundfile.info(label)
    _check_length(label, info.channels, info.frames)
    values, rate = soundfile.read(label, dtype="float32", always_2d=True)
    if len(values) < info.frames:
        raise damaged(label, kind)
    return _signal(label, values.T, float(rate), ())


def read_edf(path: Path) -> Signal:
    """Read EDF or BDF in the channels' physical units; annotations are left out."""
    import pyedflib

    label = str(path)
    try:
        reader = pyedflib.EdfReader(label)
    except OSError as error:
        reason = str(error).removeprefix(f"{label}:").strip()
        raise unusable(f"{label} cannot be read as EDF ({reason})", "copy it again") from error
    with reader:
        channels = range(reader.signals_in_file)
        rates = {float(reader.getSampleFrequency(channel)) for channel in channels}
        names = [reader.getLabel(channel).strip() for channel in channels]
        rate = _one_rate(label, rates, names)
        lengths = reader.getNSamples()
        _check_length(label, len(names), int(max(lengths)))
        values = np.stack([reader.readSignal(channel) for channel in channels])
    return _signal(label, values, rate, names)


def read_wfdb(path: Path) -> Signal:
    """Read a WFDB record by its header, in the channels' physical units."""
    import wfdb

    label, record = str(path), str(path.with_suffix(""))
    header: Any = wfdb.rdheader(record, rd_segments=True)
    if not header.n_sig:
        raise unusable(f"{label} holds no signal")
    files = header.file_name or []
    if missing := [name for name in files if not (path.parent / name).exists()]:
        raise unusable(f"{label} is a record whose {missing[0]} is missing", "copy that too")
    frames = {header.fs * (samples or 1) for samples in header.samps_per_frame or [1]}
    rate = _one_rate(label, {float(each) for each in frames}, header.sig_name or [])
    _check_length(label, header.n_sig, header.sig_len or 0)
    read: Any = wfdb.rdrecord(record)
    return _signal(label, read.p_signal.T, rate, read.sig_name)


SIGNAL_READERS: dict[str, Callable[[Path], Scan]] = {
    "CSV": read_csv,
    "sound": read_sound,
    "EDF": read_edf,
    "WFDB": read_wfdb,
}
SIGNAL_FORMATS = {
    **{".csv": "CSV", ".wav": "sound", ".flac": "sound"},
    **{".edf": "EDF", ".bdf": "EDF", ".hea": "WFDB"},
}
SIGNAL_EXTENSIONS = (".npy", ".npz", *SIGNAL_FORMATS)


def _signal(label: str, values: Pixels, rate: float | None, names: Any) -> Signal:
    """Return channels × samples as pixels (1, channels, samples).

    Raises:
        BadScan: No samples, or a gap.
    """
    channels, samples = values.shape
    _check_length(label, channels, samples)
    gaps = ~np.isfinite(values)
    if gaps.any():
        channel, first = np.argwhere(gaps)[0]
        where = f"sample {first:,}" + (f" ({first / rate:,.2f} s)" if rate else "")
        name = f" of {names[channel]}" if len(names) else ""
        raise unusable(
            f"{label} has a gap: {counted(int(gaps.sum()), 'value')}, the first at {where}{name}, "
            "are no numbers",
            "cut the recording there or fill the gap",
        )
    return Signal(values[np.newaxis], rate=rate, channel_names=tuple(map(str, names)))


def _one_rate(label: str, rates: set[float], names: list[str]) -> float:
    if not names:
        raise unusable(f"{label} holds no signal")
    if len(rates) > 1:
        several = " and ".join(f"{rate:g}" for rate in sorted(rates))
        raise unusable(
            f"{label} has channels of {several} samples a second", "save those of one rate apart"
        )
    return rates.pop()


def _check_length(label: str, channels: int, samples: int) -> None:
    if channels * samples < 1:
        raise unusable(f"{label} holds no samples")
    if channels * samples > MAX_FRAME_PIXELS:
        raise unusable(
            f"{label} holds {channels * samples:,} samples, more than the "
            f"{MAX_FRAME_PIXELS // 1_000_000} million that a recording may have",
            "cut it into pieces",
        )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True

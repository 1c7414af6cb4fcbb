"""Signals of every format that is read, and what is said of bad ones."""

import wave
from pathlib import Path

import numpy as np
import pytest

from fanogan.cli.parser import main
from fanogan.data import Preprocessing, SignalView
from fanogan.recipes import load_recipe
from fanogan.recipes.recipe import BadRecipe
from fanogan.report import describe
from fanogan.scans import BadScan, Signal, find_scans, read_scan, read_scans

TINY = load_recipe("smoke").but(window=(1, 64), image_size=(1, 32), critic_updates=2)


def waves(channels: int = 2, samples: int = 200, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(channels, samples)).astype(np.float32)


def signals_in(source, **reading) -> list[Signal]:
    found = list(read_scans(source, kind="signal", **reading))
    assert all(isinstance(each, Signal) for each in found)
    return found


def values_of(signal: Signal) -> np.ndarray:
    """Channels × samples of a signal, which is held as an image of one row."""
    assert signal.pixels.dtype == np.float32
    assert signal.pixels.shape[:2] == (1, 1)
    return signal.pixels[0, 0].reshape(signal.pixels.shape[2], -1).T


def save_wav(path: Path, values: np.ndarray, rate: int = 2000) -> Path:
    """By the standard library: 16 bits, samples of all channels together."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(len(values))
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(values.T.astype("<i2").tobytes())
    return path


def save_edf(path: Path, values: np.ndarray, rates: list[int], names: list[str]) -> Path:
    import pyedflib

    with pyedflib.EdfWriter(str(path), len(values)) as file:
        for at, (rate, name) in enumerate(zip(rates, names, strict=True)):
            file.setSignalHeader(
                at,
                {
                    **{"label": name, "dimension": "uV", "sample_frequency": rate},
                    **{"physical_min": -100.0, "physical_max": 100.0},
                    **{"digital_min": -32768, "digital_max": 32767},
                    **{"transducer": "", "prefilter": ""},
                },
            )
        file.writeSamples([np.ascontiguousarray(each, dtype=np.float64) for each in values])
    return path


def save_wfdb(folder: Path, name: str, values: np.ndarray, fs: int = 360, names=("I", "II")):
    import wfdb

    wfdb.wrsamp(
        name,
        fs=fs,
        units=["mV"] * len(values),
        sig_name=list(names),
        p_signal=values.T.astype(np.float64),
        fmt=["16"] * len(values),
        write_dir=str(folder),
    )
    return folder / f"{name}.hea"


# --- formats --------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(200,), (2, 200), (3, 2, 200)])
def test_arrays_hold_channels_by_samples(shape: tuple[int, ...], tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=shape)
    np.save(tmp_path / "a.npy", values)
    np.savez(tmp_path / "b.npz", ecg=values, other=np.zeros(3))
    expected = values.reshape(-1, shape[-2] if len(shape) > 1 else 1, 200)
    for source in (tmp_path / "a.npy", f"{tmp_path / 'b.npz'}:ecg", list(expected)):
        found = signals_in(source)
        assert len(found) == len(expected)
        for signal, each in zip(found, expected, strict=True):
            np.testing.assert_allclose(values_of(signal), each, rtol=1e-6)
            assert signal.rate is None
    assert [s.name for s in signals_in(tmp_path / "a.npy")] == (
        ["a.npy"] if len(expected) == 1 else ["a.npy#0", "a.npy#1", "a.npy#2"]
    )


def test_arrays_and_tensors_in_memory() -> None:
    import torch

    values = waves(1, 50)[0]
    (alone,) = signals_in([values])
    assert np.array_equal(values_of(alone), values[None])
    for source in (np.stack([values, -values]), torch.from_numpy(np.stack([values, -values]))):
        assert np.array_equal(values_of(signals_in(source)[1]), -values[None])


def test_a_csv_has_a_column_a_channel_and_its_times_tell_the_rate(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("time;I;II\n0.00;1;2\n0.02;3;4\n0.04;5;-6.5\n")
    (signal,) = signals_in(path)
    assert np.array_equal(values_of(signal), [[1, 3, 5], [2, 4, -6.5]])
    assert (signal.rate, signal.channel_names) == (50, ("I", "II"))
    path.write_text("1\n2\n\n5\n")
    (signal,) = signals_in(path)
    assert np.array_equal(values_of(signal), [[1, 2, 5]])
    assert (signal.rate, signal.channel_names) == (None, ())


@pytest.mark.parametrize("channels", [1, 2])
def test_wav_and_flac_are_at_full_scale(channels: int, tmp_path: Path) -> None:
    import soundfile

    values = np.array([[0, 16384, -32768, 32767], [1, 2, 3, 4]])[:channels]
    save_wav(tmp_path / "a.wav", values)
    soundfile.write(tmp_path / "b.flac", values.T.astype(np.int16), 2000)
    for name in ("a.wav", "b.flac"):
        (signal,) = signals_in(tmp_path / name)
        assert np.array_equal(values_of(signal), (values / 32768).astype(np.float32))
        assert (signal.rate, signal.channels) == (2000, channels)


def test_edf_is_in_physical_units(tmp_path: Path) -> None:
    values = 20 * waves(2, 512)
    (signal,) = signals_in(save_edf(tmp_path / "a.edf", values, [256, 256], ["Fp1", "O2"]))
    assert np.abs(values_of(signal) - values).max() < 200 / 65536
    assert (signal.rate, signal.channel_names) == (256, ("Fp1", "O2"))


def test_a_wfdb_record_is_read_by_its_header_and_known_by_its_samples(tmp_path: Path) -> None:
    values = waves(2, 300)
    header = save_wfdb(tmp_path, "100", values)
    (signal,) = signals_in(tmp_path)
    assert np.abs(values_of(signal) - values).max() < 1e-3
    assert (signal.name, signal.rate, signal.channel_names) == ("100.hea", 360, ("I", "II"))
    (source,) = find_scans(header, kind="signal")
    before = source.identity
    (tmp_path / "100.dat").write_bytes(b"x")
    assert source.identity != before


def test_a_folder_is_searched_for_signals_or_for_images(tmp_path: Path) -> None:
    save_wav(tmp_path / "a.wav", waves() * 1000)
    (tmp_path / "b.csv").write_text("1\n2\n3\n")
    np.save(tmp_path / "c.npy", waves())
    assert [s.name for s in find_scans(tmp_path, kind="signal")] == ["a.wav", "b.csv", "c.npy"]
    assert [s.name for s in find_scans(tmp_path)] == ["c.npy"]
    with pytest.raises(BadScan, match=r"a.wav is a signal: give a recipe for signals"):
        find_scans(tmp_path / "a.wav")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadScan, match=r"no signals in .*empty: fanogan reads signals as .npy, .*"):
        find_scans(tmp_path / "empty", kind="signal")


def test_what_fanogan_wrote_is_no_signal(tmp_path: Path) -> None:
    save_wav(tmp_path / "a.wav", waves() * 1000)
    for name in ("scores.csv", "regions.csv", "report.html"):
        (tmp_path / name).write_text("1\n2\n")
    assert [s.name for s in find_scans(tmp_path, kind="signal")] == ["a.wav"]


# --- bad input ------------------------------------------------------------------------------------


def cut_short(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:-40])
    return path


def gap(path: Path) -> Path:
    values = waves()
    values[1, 72:75] = np.nan
    return save_wfdb(path.parent, path.stem, values)


BAD = {
    "gap.hea": (gap, r"has a gap: 3 values, the first at sample 72 \(0.20 s\) of II"),
    "gap.npy": (
        lambda path: np.save(path, np.array([0, np.nan, 1])),
        "holds NaN or infinite values",
    ),
    "turned.npy": (
        lambda path: np.save(path, waves().T),
        r"holds 200 channels of 2 samples: save channels × samples",
    ),
    "image.npy": (lambda path: np.save(path, np.zeros((2, 2, 2, 2))), r"has shape \(2, 2, 2, 2\)"),
    "flat.csv": (lambda path: path.write_text("1\n1\n1\n"), "same value in every pixel"),
    "empty.csv": (lambda path: path.write_text("\n"), "holds no samples"),
    "text.csv": (
        lambda path: path.write_text("a,b\n1,x\n2,3\n"),
        r"is no table of numbers with a column a channel \(could not convert string 'x'",
    ),
    "gap.csv": (lambda path: path.write_text("1,2\n3,\n"), "is no table of numbers"),
    "nan.csv": (lambda path: path.write_text("1,2\n3,nan\n"), "has a gap: 1 value, the first at"),
    "uneven.csv": (
        lambda path: path.write_text("time,a\n0,1\n1,2\n2,3\n4,4\n5,0\n"),
        "has times that don't rise evenly in column 'time'",
    ),
    "latin.csv": (lambda path: path.write_bytes(b"\xe4\n1\n"), "is no table in UTF-8"),
    "short.wav": (
        lambda path: cut_short(save_wav(path, 1000 * waves())),
        "is damaged or cut short and cannot be read as WAV",
    ),
    "not.flac": (lambda path: path.write_bytes(b"fLaC" + bytes(50)), "cannot be read as sound"),
    "rates.edf": (
        lambda path: save_edf(path, [waves(1, 256)[0], waves(1, 64)[0]], [128, 32], ["A", "B"]),
        "has channels of 32 and 128 samples a second: save those of one rate apart",
    ),
    "not.edf": (lambda path: path.write_bytes(bytes(300)), "cannot be read as EDF"),
    "alone.hea": (
        lambda path: save_wfdb(path.parent, "alone", waves()).with_suffix(".dat").unlink(),
        "is a record whose alone.dat is missing: copy that too",
    ),
    "not.hea": (lambda path: path.write_bytes(b"\xff\xfe\0\1"), "not.hea"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_signals_are_refused_in_one_sentence_that_names_them(name: str, tmp_path: Path) -> None:
    make, message = BAD[name]
    make(tmp_path / name)
    with pytest.raises(BadScan, match=message) as caught:
        signals_in(tmp_path / name)
    assert name in str(caught.value) and "\n" not in str(caught.value)
    np.save(tmp_path / "good.npy", waves())
    assert len(signals_in(tmp_path, skip_bad=True)) == 1


@pytest.mark.parametrize(
    ("module", "name"), [("soundfile", "a.wav"), ("pyedflib", "a.edf"), ("wfdb", "a.hea")]
)
def test_a_missing_extra_is_named(
    module: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).write_bytes(b"0" * 300)
    monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(BadScan, match=rf"{name} is a \w+ file.*pip install 'fanogan\[signals\]'"):
        read_scan(tmp_path / name)


# --- what the networks see ------------------------------------------------------------------------


def signal(values: np.ndarray, rate: float | None = 100, names=(), name: str = "x") -> Signal:
    pixels = values.T[None, None] if len(values) > 1 else values[None]
    return Signal(pixels.astype(np.float32), name, name, rate=rate, channel_names=tuple(names))


def test_a_channel_has_twice_the_range_of_the_training_normals() -> None:
    slope = np.linspace(0, 1, 1001)
    scans = [signal(np.stack([slope, 10 - 4 * slope]))]
    view = SignalView.of([*scans, signal(np.stack([9 * slope, slope]))], len(scans))
    # From .001 to .999, and half of that more on either side.
    np.testing.assert_allclose(view.lows, [-0.498, 4.008], atol=1e-6)
    np.testing.assert_allclose(view.highs, [1.498, 11.992], atol=1e-6)
    assert SignalView.from_dict(view.to_dict()) == view
    encoded = view.encode(signal(np.array([[-0.498, 1.498, 7, 0.5], [8, 8, 8, 8]])))
    assert (encoded.shape, encoded.dtype) == ((1, 2, 1, 4), np.uint16)
    np.testing.assert_allclose(encoded[0, 0, 0], [0, 65535, 65535, 32768], atol=1)
    x = encoded[0, :, 0].T / 65535 * 2 - 1
    np.testing.assert_allclose(view.in_units(x)[[0, 1, 3], 0], [-0.498, 1.498, 0.5], atol=1e-4)


def test_channels_are_found_by_name_and_those_in_common_are_looked_at() -> None:
    a, b, c = (np.full(200, value) + np.arange(200) for value in (0, 1000, 2000))
    first, second = signal(np.stack([a, b]), names="AB"), signal(np.stack([c, b, a]), names="CBA")
    view = SignalView.of([first, second], 2)
    assert view.names == ("A", "B")
    assert np.array_equal(view.encode(first), view.encode(second))
    assert [describe(note) for note in view.doubts(second)] == [
        "channels that the model doesn't look at: C"
    ]
    with pytest.raises(BadScan, match=r"^y has no channel A \(it has B, C\)"):
        view.encode(signal(np.stack([b, c]), names="BC", name="y"))
    with pytest.raises(BadScan, match=r"^y has none of the channels of x \(A, B\)"):
        SignalView.of([first, signal(c[None], names="C", name="y")], 2)


def test_other_rates_and_channels_are_refused_and_unknown_rates_told() -> None:
    view = SignalView.of([signal(waves(), 360)], 1)
    with pytest.raises(BadScan, match=r"^y has 250 samples a second, .* have 360: resample it$"):
        view.encode(signal(waves(), 250, name="y"))
    with pytest.raises(BadScan, match=r"^y has 250 samples a second"):
        SignalView.of([signal(waves(), 360), signal(waves(), 250, name="y")], 1)
    with pytest.raises(BadScan, match=r"^y has 1 channel, and the training signals have 2"):
        view.encode(signal(waves(1), 360, name="y"))
    assert [describe(note) for note in view.doubts(signal(waves(), None))] == [
        "no sampling rate in the file: taken for the model's, 360 samples a second"
    ]
    with pytest.raises(BadScan, match=r"nothing else in B: there is nothing to learn from"):
        SignalView.of([signal(np.stack([np.arange(50.0), np.ones(50)]), names="AB")], 1)


def test_a_signal_shorter_than_the_window_is_refused() -> None:
    normals = [signal(waves(samples=80)), signal(waves(samples=90), name="z")]
    preprocessing = Preprocessing.of(normals, TINY)
    assert (preprocessing.window, preprocessing.image_size) == ((1, 64), (1, 32))
    with pytest.raises(BadScan, match=r"^y has 63 samples, fewer than the window .* \(64 samples"):
        preprocessing.encode(signal(waves(samples=63), name="y"))
    with pytest.raises(BadScan, match=r"^y has 63 samples, fewer than the window of the recipe"):
        Preprocessing.of([*normals, signal(waves(samples=63), name="y")], TINY)


def test_windows_and_sizes_of_one_row_go_together() -> None:
    with pytest.raises(BadRecipe, match=r"\(1, samples\) for signals, both"):
        TINY.but(image_size=(32, 32))


# --- from the command line ------------------------------------------------------------------------


def test_signals_from_files_to_scores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "normal").mkdir()
    for at in range(5):
        save_wav(tmp_path / "normal" / f"{at}.wav", 3000 * waves(samples=300 + at, seed=at))
    save_wav(tmp_path / "new.wav", 3000 * waves(samples=500, seed=9))
    save_wav(tmp_path / "fast.wav", 3000 * waves(samples=500, seed=9), rate=4000)
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(
        "base: smoke\nwindow: [1, 64]\nimage_size: [1, 32]\ncritic_updates: 2\n"
        "encoder_updates: 2\nheld_out_fraction: 0.4\n"
    )
    run = str(tmp_path / "run")
    main(["fit", str(tmp_path / "normal"), "--recipe", str(recipe), "--out", run])
    assert "5 signals of 5 subjects · channel 0, channel 1 at 2000 Hz" in capsys.readouterr().out
    out = tmp_path / "results"
    main(["score", run, str(tmp_path / "new.wav"), "--out", str(out)])
    assert len((out / "scores.csv").read_text().splitlines()) == 2
    with pytest.raises(SystemExit):
        main(["score", run, str(tmp_path / "fast.wav"), "--out", str(out / "2")])
    assert "fast.wav has 4000 samples a second" in capsys.readouterr().err

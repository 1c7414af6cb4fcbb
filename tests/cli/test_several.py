"""Several processes score as one does."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from noise import pictures, scores
from PIL import Image

from fanogan.cli.parser import main
from fanogan.cli.several import devices_for
from fanogan.scans import Shard


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures(tmp_path_factory.mktemp("images"), 12)


def test_two_processes_score_as_one_does(model: Path, images: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    common = ["score", str(model), str(images), "--device", "cpu"]
    main([*common, "--out", str(one)])
    main([*common, "--devices", "2", "--out", str(two)])
    assert scores(two) == pytest.approx(scores(one), rel=1e-5)
    assert len(scores(one)) == 12
    assert len([*(two / "maps").rglob("*.tif*")]) == 12
    assert (two / "report.html").exists()
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["one", "two"]


def test_a_bad_file_stops_and_the_same_command_goes_on(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = pictures(tmp_path / "images", 12)
    (bad / "12.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    out = tmp_path / "out"
    command = ["score", str(model), str(bad), "--device", "cpu", "--devices", "2"]
    command += ["--out", str(out)]
    with pytest.raises(SystemExit):
        main(command)
    assert "12.png" in capsys.readouterr().err
    assert not out.exists()
    (bad / "12.png").unlink()
    main(command)
    assert len(scores(out)) == 12


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--devices", "0"), "--devices 0: give a number from 1"),
        (("--devices", "2", "--shard", "1/2"), "--shard 1/2 is for one process"),
    ],
)
def test_what_contradicts_is_refused(
    options: tuple[str, ...],
    words: str,
    model: Path,
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = ("--out", str(tmp_path / "out"))
    with pytest.raises(SystemExit):
        main(["score", str(model), str(images), *options, *out])
    assert words in capsys.readouterr().err


def test_each_gpu_has_a_process_and_none_too_few(monkeypatch: pytest.MonkeyPatch) -> None:
    assert devices_for(3, "cpu") == ["cpu"] * 3
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert devices_for(2, "auto") == ["cuda:0", "cuda:1"]
    with pytest.raises(ValueError, match="3 devices are to score, and --device cuda means 2"):
        devices_for(3, "cuda")
    with pytest.raises(ValueError, match="--device cuda:1 means 1"):
        devices_for(2, "cuda:1")


def test_a_part_of_bad_files_alone_is_a_part(model: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).save(images / "good.png")
    here = Shard(1, 2).holds("good.png")
    names = (f"bad{number}.png" for number in range(100))
    bad = next(name for name in names if Shard(1, 2).holds(name) != here)
    (images / bad).write_bytes(b"\x89PNG\r\n\x1a\n")
    out = tmp_path / "out"
    command = ["score", str(model), str(images), "--device", "cpu", "--skip-bad"]
    main([*command, "--devices", "2", "--out", str(out)])
    assert [*scores(out)] == ["good.png"]
    assert bad in (out / "report.html").read_text(encoding="utf-8")


def test_what_one_search_has_found_is_scored_and_what_it_left_out_is_said_once(
    model: Path, images: Path, tmp_path: Path
) -> None:
    odd = tmp_path / "images"
    (odd / "ward b").mkdir(parents=True)
    names = ["a,b.png", "ward b/ä\n2.png", os.fsdecode(b"ward b/\xff.png"), "ward b/10.png"]
    for name, path in zip(names, sorted(images.iterdir()), strict=False):
        shutil.copy(path, odd / name)
    (odd / "scan.jp2").write_bytes(b"of no format that is read")
    one, two = tmp_path / "one", tmp_path / "two"
    common = ["score", str(model), str(odd), "--device", "cpu", "--scores-only"]
    main([*common, "--out", str(one)])
    main([*common, "--devices", "2", "--out", str(two)])
    assert scores(two) == pytest.approx(scores(one), rel=1e-5)
    pages = [(folder / "report.html").read_text(encoding="utf-8") for folder in (one, two)]
    assert [page.count("skipped: ") for page in pages] == [1, 1]

"""A Ray cluster scores as one process does, whatever is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from noise import pictures, scores

from fanogan.cli.cluster import shards_of
from fanogan.cli.parser import main
from fanogan.scans import Shard
from fanogan.scoring import write_csv
from fanogan.scoring.table import COLUMNS, to_parquet

IMAGES = 600


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures(tmp_path_factory.mktemp("images"), IMAGES)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--on", "slurm"), "--on slurm: give ray, or ray: and an address"),
        (("--on", "ray", "--devices", "2"), "--on ray and --devices 2 contradict each other"),
        (("--on", "ray", "--shard", "1/2"), "--on ray and --shard 1/2 contradict each other"),
    ],
)
def test_what_contradicts_is_refused(
    options: tuple[str, ...], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["score", "model", "images", *options, "--out", str(tmp_path / "out")])
    assert words in capsys.readouterr().err


def test_shards_are_of_a_thousand_files_and_stay_as_they_were_begun(tmp_path: Path) -> None:
    assert [shards_of(tmp_path, files) for files in (3, 9000, 100_000)] == [8, 16, 128]
    (tmp_path / "3-of-16").mkdir()
    assert shards_of(tmp_path, 100_000) == 16


def test_a_table_is_the_same_in_parquet(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    row = dict.fromkeys(COLUMNS, "") | {"name": "=1+1", "score": "0.1", "windows": 3, "flag": "no"}
    write_csv(tmp_path / "scores.csv", COLUMNS, [row, row | {"name": "7", "p_value": "1e-3"}])
    to_parquet(tmp_path / "scores.csv")
    first, second = parquet.read_table(tmp_path / "scores.parquet").to_pylist()
    assert (first["name"], first["score"], first["windows"]) == ("=1+1", 0.1, 3)
    assert first["p_value"] is None and first["warnings"] == ""
    assert (second["name"], second["p_value"]) == ("7", 1e-3)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    yield made
    made.shutdown()


def workers() -> list[psutil.Process]:
    """Return the processes of ours that score."""
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if any("ray::_score" in word for word in process.info["cmdline"] or ())
    ]


@pytest.mark.slow
def test_a_worker_and_a_machine_are_killed_and_every_row_is_there_once(
    model: Path, images: Path, tmp_path: Path, cluster: object
) -> None:
    from pyarrow.parquet import read_table

    lost = cluster.add_node(num_cpus=1)  # type: ignore[attr-defined]
    out, log = tmp_path / "out", tmp_path / "log"
    command = [sys.executable, "-m", "fanogan", "score", str(model), str(images)]
    command += ["--device", "cpu", "--out", str(out)]
    address = cluster.address  # type: ignore[attr-defined]
    with log.open("wb") as file:
        scoring = subprocess.Popen([*command, "--on", f"ray:{address}"], stdout=file, stderr=file)
    try:
        begun = time.monotonic()
        while not (found := workers()) and time.monotonic() - begun < 300:
            time.sleep(0.2)
        assert found
        found[0].kill()
        while not [*out.with_name("out.parts").glob("*/.done")]:
            assert scoring.poll() is None, log.read_text()
            time.sleep(0.2)
        cluster.remove_node(lost, allow_graceful=False)  # type: ignore[attr-defined]
        assert scoring.wait(900) == 0, log.read_text()
    finally:
        if scoring.poll() is None:
            os.kill(scoring.pid, signal.SIGKILL)
    ours = scores(out)
    main([*command[3:-1], str(tmp_path / "one")])
    assert ours == pytest.approx(scores(tmp_path / "one"), rel=1e-6)
    assert len(ours) == IMAGES
    assert len([*(out / "maps").iterdir()]) == IMAGES
    table = read_table(out / "scores.parquet").to_pydict()
    assert dict(zip(table["name"], table["score"], strict=True)) == ours
    assert not out.with_name("out.parts").exists()


@pytest.mark.slow
def test_what_was_scored_before_a_stop_is_kept(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    few = pictures(tmp_path / "few", 40)
    last = Shard(8, 8)
    bad = next(few / name for name in map("bad{}.png".format, range(100)) if last.holds(name))
    bad.write_bytes(b"\x89PNG\r\n\x1a\n")
    out = tmp_path / "out"
    command = ["score", str(model), str(few), "--device", "cpu", "--on", "ray", "--out", str(out)]
    with pytest.raises(SystemExit):
        main(command)
    parts = out.with_name("out.parts")
    done = {path: path.stat().st_mtime_ns for path in parts.glob("*/.done")}
    bad.unlink()
    kept: dict[Path, int] = {}

    def merged(folders: list[Path], out: Path, *, parquet: bool) -> object:
        kept.update({path: path.stat().st_mtime_ns for path in done})
        return table(folders, out, parquet=parquet)

    from fanogan.cli import cluster as module

    table = module.merged_parts
    monkeypatch.setattr(module, "merged_parts", merged)
    main(command)
    assert len(scores(out)) == 40
    assert done and kept == done

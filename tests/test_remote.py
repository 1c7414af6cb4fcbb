"""Scans, models and results at URLs: a real S3 server on the loopback, HTTP, archives, memory."""

from __future__ import annotations

import csv
import io
import shutil
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from noise import model_in, picture
from PIL import Image
from s3_server import permissions_after

from fanogan.cli.parser import main
from fanogan.remote import BadRemote, fetch, files, files_at, is_file_at, written_at
from fanogan.scans import BadScan, FileList, find_scans, read_scans


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_in(tmp_path_factory.mktemp("remote") / "model")


def scores(file: Any) -> dict[str, str]:
    rows = [(row["name"], row["score"]) for row in csv.DictReader(file)]
    assert len(dict(rows)) == len(rows)
    return dict(rows)


def test_scans_model_and_results_in_s3_are_as_on_this_machine(
    s3: Any, model: Path, tmp_path: Path
) -> None:
    images = tmp_path / "images" / "ill"
    images.mkdir(parents=True)
    for number in range(8):
        (images / f"{number}.png").write_bytes(picture(number))
    s3.put(str(images.parent), "bucket/scans", recursive=True)
    s3.put(str(model), "bucket/run/model", recursive=True)
    here, there = tmp_path / "here", "s3://bucket/results"
    main(["score", str(model), str(images.parent), "--out", str(here), "--device", "cpu"])
    command = ["score", "s3://bucket/run", "s3://bucket/scans", "--out", there, "--device", "cpu"]
    main(command)
    with s3.open("bucket/results/scores.csv", "r", encoding="utf-8") as file:
        found = scores(file)
    with (here / "scores.csv").open(encoding="utf-8") as file:
        assert found == scores(file)  # names too: ill/0.png
    ours = {path.relative_to(here).as_posix() for path in here.rglob("*") if path.is_file()}
    assert {path.removeprefix("bucket/results/") for path in s3.find("bucket/results")} == ours
    place = next(place for place in sorted(ours) if place.startswith("maps/"))
    assert s3.cat_file(f"bucket/results/{place}") == (here / place).read_bytes()
    assert not [*(tmp_path / "cache").rglob("*.csv")]

    s3.rm("bucket/scans/ill/7.png")
    main(command)  # what isn't a result any more is gone
    assert len([path for path in s3.find("bucket/results") if "/maps/" in path]) == 7


def test_a_list_of_urls_and_a_list_at_one(s3: Any, model: Path, tmp_path: Path) -> None:
    names = [f"s3://bucket/{number}.png" for number in range(4)]
    for number, name in enumerate(names):
        s3.pipe_file(name, picture(number))
    s3.pipe_file("bucket/list.txt", "\n".join(names).encode())
    out = tmp_path / "out"
    listed = ["--list", "s3://bucket/list.txt", "--device", "cpu"]
    main(["score", str(model), *listed, "--out", str(out)])
    with (out / "scores.csv").open(encoding="utf-8") as file:
        assert sorted(scores(file)) == names
    shards = [tmp_path / "1", tmp_path / "2"]
    for number, shard in enumerate(shards, 1):
        main(["score", str(model), *listed, "--shard", f"{number}/2", "--out", str(shard)])
    main(["merge", *map(str, shards), "--out", str(tmp_path / "both")])
    with (tmp_path / "both" / "scores.csv").open(encoding="utf-8") as file:
        assert sorted(scores(file)) == names
    assert len([*(tmp_path / "both" / "maps").rglob("*.tif*")]) == 4


def test_a_file_that_changes_is_another(s3: Any) -> None:
    s3.pipe_file("bucket/0.png", picture(0))
    before = find_scans("s3://bucket")[0].identity
    assert before == find_scans("s3://bucket")[0].identity
    s3.pipe_file("bucket/0.png", picture(1))
    assert before != find_scans("s3://bucket")[0].identity


def test_what_is_wrong_in_s3_is_a_sentence(
    s3: Any, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*arguments: str) -> str:
        with pytest.raises(SystemExit):
            main(["score", str(model), *arguments, "--device", "cpu"])
        said = capsys.readouterr().err
        assert said.count("\n") == 1, said
        return said

    out = ("--out", str(tmp_path / "out"))
    assert "s3://nowhere does not exist" in refused("s3://nowhere", *out)
    assert "s3://bucket/0.png does not exist" in refused("s3://bucket/0.png", *out)
    s3.pipe_file("bucket/scans/0.png", picture(0)[:-40])
    said = refused("s3://bucket/scans", *out)
    assert "s3://bucket/scans/0.png" in said and "damaged" in said and "/tmp" not in said
    assert not (tmp_path / "out").exists()
    s3.pipe_file("bucket/scans/0.png", picture(0))
    s3.pipe_file("bucket/theirs/notes.txt", b"kept")
    said = refused("s3://bucket/scans", "--out", "s3://bucket/theirs")
    assert "s3://bucket/theirs: holds other files" in said
    assert s3.find("bucket/theirs") == ["bucket/theirs/notes.txt"]

    permissions_after(s3, b"0")
    said = refused("s3://bucket/scans", *out)
    permissions_after(s3, b"inf")
    assert "s3://bucket/scans may not be read" in said and "credentials" in said

    s3.server.stop()
    s3.invalidate_cache()
    assert "s3://bucket/scans can't be read, after 2 attempts" in refused("s3://bucket/scans", *out)


def test_results_that_cannot_be_written_are_kept_and_nothing_is_there_in_part(s3: Any) -> None:
    s3.mkdir("gone")

    def write(permissions: bytes = b"inf", bucket: bool = True) -> None:
        with written_at("s3://gone/results") as place:
            place.mkdir(exist_ok=True)
            (place / "large").write_bytes(bytes(110 << 20))  # in parts
            (place / ".fanogan-results").write_text('["large", ""]\n')
            if not bucket:
                s3.rmdir("gone")
            permissions_after(s3, permissions)

    with pytest.raises(BadRemote, match=r"s3://gone/results/large .*all is whole in ") as told:
        write(bucket=False)
    kept = Path(str(told.value).rpartition(" in ")[2], "results", "large")
    assert kept.stat().st_size == 110 << 20
    s3.mkdir("gone")
    with pytest.raises(BadRemote, match="may not be written"):
        write(b"2")  # in the middle
    permissions_after(s3, b"inf")
    assert s3.find("gone") == []
    write()
    assert s3.info("gone/results/large")["size"] == 110 << 20
    assert not kept.exists()


def test_archives_and_memory(tmp_path: Path) -> None:
    archive = tmp_path / "scans.zip"
    memory = fsspec.filesystem("memory")
    with zipfile.ZipFile(archive, "w") as file:
        for number in range(3):
            file.writestr(f"scans/{number}.png", picture(number))
            memory.pipe_file(f"/those/scans/{number}.png", picture(number))
    memory.pipe_file("/those/results/scores.csv", b"name")
    memory.pipe_file("/those/results/report.html", b"<html>")
    memory.pipe_file("/those/results/maps/0.tiff", b"ours, and no scan")
    for source in (f"zip://scans::file://{archive}", "memory://those"):
        found = list(read_scans(source))
        assert [scan.name.rpartition("/")[2] for scan in found] == ["0.png", "1.png", "2.png"]
        np.testing.assert_array_equal(
            found[1].pixels[0], np.asarray(Image.open(io.BytesIO(picture(1))))
        )
    (tmp_path / "list").write_text(f"{archive}\nmemory://those/scans/1.png\n")
    names = [name for _, name, _ in FileList(tmp_path / "list").named()]
    assert names == [archive.as_posix(), "memory://those/scans/1.png"]


def test_a_run_on_normals_at_a_url_resumes(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    for number in range(20):
        memory.pipe_file(f"/normals/{number}.png", picture(number))
    run, few = tmp_path / "run", ["critic_updates=2", "encoder_updates=2"]
    main(["fit", "memory://normals", "--recipe", "smoke", "--set", *few, "--out", str(run)])
    shutil.rmtree(run / "model")
    main(["fit", "--resume", str(run)])
    assert (run / "model" / "model.json").exists()


def test_paths_and_urls_are_not_mixed(tmp_path: Path) -> None:
    with pytest.raises(BadScan, match="give paths alone, or URLs alone"):
        find_scans(["memory://those", str(tmp_path)])


class Half(BaseHTTPRequestHandler):
    """Promises a file, and sends half of it."""

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()
        self.wfile.write(bytes(500))

    def log_message(self, *arguments: Any) -> None:
        pass


def test_half_a_file_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "WAITS", (0.0,))
    server = HTTPServer(("127.0.0.1", 0), Half)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/0.png"
    try:
        with pytest.raises(BadRemote, match=r"0\.png can't be read, after 2 attempts"):
            fetch(url, tmp_path / "0.png")
    finally:
        server.shutdown()
        server.server_close()
    assert not (tmp_path / "0.png").exists()


class Answers(BaseHTTPRequestHandler):
    """Has no file, and fails where it is asked for one that is called so."""

    def do_HEAD(self) -> None:
        self.send_error(503 if "fails" in self.path else 404)

    do_GET = do_HEAD

    def log_message(self, *arguments: Any) -> None:
        pass


def test_a_server_that_fails_is_not_said_to_lack_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "WAITS", (0.0,))
    with HTTPServer(("127.0.0.1", 0), Answers) as server:
        place = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(BadRemote, match=r"0\.png does not exist"):
            files_at(f"{place}/0.png")
        assert not is_file_at(f"{place}/0.png")
        for ask in (files_at, is_file_at):
            with pytest.raises(BadRemote, match=r"fails\.png can't be read, after 2 .*503"):
                ask(f"{place}/fails.png")
        server.shutdown()
    for ask in (files_at, is_file_at):
        with pytest.raises(BadRemote, match=r"0\.png can't be read, after 2 attempts .*Connect"):
            ask(f"{place}/0.png")

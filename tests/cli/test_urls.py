"""Commands on paths in an S3 store end as those on paths of this machine, killed or not."""

from __future__ import annotations

import csv
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_volumes import ct_series
from noise import picture
from PIL import Image
from s3_server import permissions_after

from fanogan.cli.parser import main
from fanogan.phantom import make_phantom
from fanogan.remote import BadRemote, copy_of, written_at
from fanogan.retina import find_volumes, is_store, stored_volumes
from fanogan.scans import BadScan, find_scans, read_scans

ON = ("--device", "cpu")


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def at(s3: Any, place: str) -> set[str]:
    return {path.removeprefix(f"bucket/{place}/") for path in s3.find(f"bucket/{place}")}


def names(table: Any) -> list[str]:
    return sorted(row["name"] for row in csv.DictReader(table))


def test_each_command_on_urls_alone(
    s3: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(24):
        for kind in ("normal", "test/normal", "test/ill"):
            s3.pipe_file(f"bucket/{kind}/{number}.png", picture(number + 100 * len(kind)))
        mask = np.zeros((16, 16), np.uint8)
        mask[:4] = 255
        Image.fromarray(mask).save(tmp_path / "mask.png")
        s3.put_file(str(tmp_path / "mask.png"), f"bucket/test/masks/{number}.png")
    s3.pipe_file("bucket/mine.yaml", b"base: smoke\ncritic_updates: 2\nencoder_updates: 2\n")
    subjects = "".join(f"{number}.png,p{number // 2}\n" for number in range(24))
    s3.pipe_file("bucket/subjects.csv", f"path,subject\n{subjects}".encode())
    b = "s3://bucket"
    run = ("--recipe", f"{b}/mine.yaml", "--groups", f"{b}/subjects.csv", *ON)
    main(["fit", f"{b}/normal", *run, "--out", f"{b}/run"])
    main(["fit", f"{b}/normal", *run, "--out", str(tmp_path / "run")])
    events = {name for name in at(s3, "run") if name.startswith("events/")}  # named by their time
    assert len(events) == 1
    ours = {name for name in files(tmp_path / "run") if not name.startswith("events/")}
    assert at(s3, "run") - events == ours
    assert "12 subjects" in " ".join(capsys.readouterr().out.split())
    shutil.rmtree(tmp_path / "run" / "model")
    s3.get(f"{b}/run/model", str(tmp_path / "run"), recursive=True)
    main(["info", str(tmp_path / "run")])
    here = capsys.readouterr().out
    main(["info", f"{b}/run"])
    assert capsys.readouterr().out == here

    labelled = ("--normal", f"{b}/test/normal", "--anomalous", f"{b}/test/ill")
    common = (*labelled, "--masks", f"{b}/test/masks", "--beside", f"{b}/run", *ON)
    main(["evaluate", f"{b}/run", *common, "--out", f"{b}/evaluation"])
    assert "pixels.npz" in at(s3, "evaluation")
    assert f"{b}/evaluation/report.html" in capsys.readouterr().out
    for shard in ("1/2", "2/2"):
        out = f"{b}/shards/{shard[0]}"
        main(["score", f"{b}/run", f"{b}/test/ill", "--shard", shard, "--out", out, *ON])
    main(["merge", f"{b}/shards/1", f"{b}/shards/2", "--out", f"{b}/merged"])
    with s3.open("bucket/merged/scores.csv", "r", encoding="utf-8") as table:
        assert names(table) == sorted(f"{number}.png" for number in range(24))
    main(["calibrate", f"{b}/run", f"{b}/test/normal", "--out", f"{b}/other", *ON])
    main(["compare", f"{b}/run", f"{b}/other", "--out", f"{b}/beside"])
    assert at(s3, "other") == {"card.md", "model.json", "model.safetensors"}
    assert "report.html" in at(s3, "beside")
    main(["info", f"{b}/merged"])
    assert "results: 24 images" in capsys.readouterr().out
    main(["drift", f"{b}/merged", "--out", f"{b}/drift.html"])
    assert s3.cat_file("bucket/drift.html").startswith(b"<!")
    main(["fit", f"{b}/normal", *run, "--gan", f"{b}/run", "--out", f"{b}/second"])
    assert "gan" not in s3.cat_file("bucket/second/metrics.jsonl").decode()


def test_a_model_is_exported_to_a_store(s3: Any, model: Path) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("openvino")
    s3.put(str(model), "bucket/model", recursive=True)
    out = ("--to", "openvino", "--out", "s3://bucket/exported/eye.xml")
    main(["export", "s3://bucket/model", *out])
    assert at(s3, "exported") == {"eye.bin", "eye.xml"}


@pytest.mark.slow
def test_a_fit_that_is_killed_resumes_where_it_was(s3: Any, tmp_path: Path) -> None:
    for number in range(20):
        s3.pipe_file(f"bucket/normal/{number}.png", picture(number))
    settings = ("--recipe", "smoke", "--set", "critic_updates=60", "encoder_updates=2")
    settings += ("checkpoint_minutes=0", "log_every=2", *ON)
    command = [sys.executable, "-m", "fanogan", "fit", "s3://bucket/normal", *settings]
    run = "s3://bucket/run"
    process = subprocess.Popen([*command, "--out", run], stdout=subprocess.PIPE, text=True)
    begun = time.monotonic()
    while not (found := [*(tmp_path / "cache").rglob("gan.safetensors")]):
        assert process.poll() is None and time.monotonic() - begun < 120
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert s3.find("bucket/run") == []
    before = found[0].stat().st_mtime_ns
    main(["fit", "--resume", run])
    s3.invalidate_cache()
    assert not found[0].exists() and before
    main([*command[3:], "--out", str(tmp_path / "run")])
    weights = (tmp_path / "run" / "model" / "model.safetensors").read_bytes()
    assert s3.cat_file("bucket/run/model/model.safetensors") == weights


def test_a_series_at_a_url_is_a_volume(s3: Any, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 999, (4, 12, 10)).astype(np.uint16)
    for path in ct_series(tmp_path / "scans" / "p1" / "chest", pixels):
        path.rename(path.with_suffix(""))
    Image.fromarray(pixels[0].astype(np.uint8)).save(tmp_path / "scans" / "p1" / "photo.png")
    s3.put(str(tmp_path / "scans"), "bucket/scans", recursive=True)
    here, there = read_scans(str(tmp_path / "scans")), read_scans("s3://bucket/scans")
    for one, other in zip(here, there, strict=True):
        assert (one.name, one.group, one.spacing) == (other.name, other.group, other.spacing)
        np.testing.assert_array_equal(one.pixels, other.pixels)
    known = [each.identity for each in find_scans("s3://bucket/scans")]
    shutil.rmtree(tmp_path / "cache")
    assert [each.identity for each in find_scans("s3://bucket/scans")] == known
    s3.pipe_file("bucket/scans/p1/chest/1", b"\0" * 128 + b"DICM and no more")
    with pytest.raises(BadScan, match=r"^s3://bucket/scans/p1/chest"):
        list(read_scans("s3://bucket/scans"))


def test_pictures_and_stores_of_the_retina(s3: Any, tmp_path: Path) -> None:
    folder = tmp_path / "eyes"
    for eye in ("a", "b"):
        (folder / eye).mkdir(parents=True)
        made = make_phantom(ord(eye), shape=(3, 240, 72), spacing=(0.5, 0.00387, 0.022))
        for number, bscan in enumerate(made.pixels):
            Image.fromarray(bscan).save(folder / eye / f"{number}.png")
    s3.put(str(folder), "bucket/eyes", recursive=True)
    found = find_volumes("s3://bucket/eyes")
    assert [(each.name, each.group) for each in found] == [("a", "a"), ("b", "b")]
    assert len(find_volumes("s3://bucket/eyes", pictures="bscans")) == 6
    spacing = ("--spacing", "0.5,0.00387,0.022", "--recipe", "smoke")
    here, there = tmp_path / "here.zarr", "s3://bucket/there.zarr"
    main(["prepare", str(folder), *spacing, "--out", str(here)])
    main(["prepare", "s3://bucket/eyes", *spacing, "--out", there])
    assert at(s3, "there.zarr") == files(here)
    assert is_store(there)
    for one, other in zip(stored_volumes(here), stored_volumes(there), strict=True):
        np.testing.assert_array_equal(one.read(one.space).pixels, other.read(other.space).pixels)

    s3.rm("bucket/eyes/b", recursive=True)
    kept = s3.info("bucket/there.zarr/000000/flat/zarr.json")["LastModified"]
    time.sleep(1.1)  # a store's clock
    main(["prepare", "s3://bucket/eyes", *spacing, "--out", there])
    assert [each.name for each in stored_volumes(there)] == ["a"]
    assert s3.info("bucket/there.zarr/000000/flat/zarr.json")["LastModified"] == kept


def test_what_others_have_written_stays(
    s3: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    s3.pipe_file("bucket/theirs/notes.txt", b"kept")
    with pytest.raises(BadRemote, match="holds other files"), written_at("s3://bucket/theirs"):
        pass
    with pytest.raises(ValueError, match="killed"), written_at("s3://bucket/run") as place:
        place.mkdir()
        (place / "config.yaml").write_text("of a run")
        raise ValueError("killed")
    s3.pipe_file("bucket/run/config.yaml", b"of another")
    with (
        pytest.raises(BadRemote, match=r"has changed since .* remove "),
        written_at("s3://bucket/run"),
    ):
        pass
    assert s3.cat_file("bucket/run/config.yaml") == b"of another"
    with written_at("s3://bucket/twice"), pytest.raises(BadRemote, match="another process"):
        written_at("s3://bucket/twice").__enter__()


WRITING = """
from pathlib import Path
from fanogan.remote import written_at
with written_at("s3://bucket/results") as place:
    assert KILLED or sorted(path.name for path in place.iterdir()) == [".fanogan-results", "a", "b"]
    for name in (".fanogan-results", "a", "b"):
        place.mkdir(exist_ok=True)
        (place / name).write_text('["a", ""]')
"""
KILLED = """
import os
from s3fs import S3FileSystem
put = S3FileSystem._put_file
async def killed(self, source, target, **options):
    await put(self, source, target, **options)
    os._exit(9)
S3FileSystem._put_file = killed
"""


def test_what_is_killed_while_it_is_put_there_goes_on(s3: Any) -> None:
    command = [sys.executable, "-c", f"{KILLED}KILLED = True{WRITING}"]
    assert subprocess.run(command, check=False).returncode == 9
    assert at(s3, "results") in ({"a"}, {"b"}, {"a", "b"})  # and not what says that all is there
    subprocess.run([sys.executable, "-c", f"KILLED = False{WRITING}"], check=True)
    s3.invalidate_cache()
    assert at(s3, "results") == {".fanogan-results", "a", "b"}


def test_an_exit_status_is_no_failure(s3: Any) -> None:
    with pytest.raises(SystemExit), written_at("s3://bucket/page.html") as place:
        place.write_text("a page")
        sys.exit(3)
    assert s3.cat_file("bucket/page.html") == b"a page"


def test_what_is_read_by_two_processes_is_removed_by_the_last(s3: Any, tmp_path: Path) -> None:
    s3.pipe_file("bucket/table.csv", b"path,subject\n")
    read = "from fanogan.remote import copy_of; print(copy_of('s3://bucket/table.csv'), flush=True)"
    first = subprocess.Popen(
        [sys.executable, "-c", f"{read}; input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert first.stdout
    path = Path(first.stdout.readline().strip())
    assert path.parents[1].stat().st_mode & 0o777 == 0o700  # scans are patients'
    subprocess.run([sys.executable, "-c", read], check=True)
    assert path.exists()
    first.communicate("\n")
    assert not path.exists()


def test_paths_that_are_never_urls(
    s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile("y.zip", "w") as archive:
        archive.writestr("scans/0.png", picture(0))
    s3.pipe_file("bucket/scans/0.png", picture(0))
    for command, words in (
        (["review", "s3://bucket/results"], "s3://bucket/results can't be a URL: a review reads"),
        (["review", "x", "--database", "s3://bucket/d"], "can't be a URL: a review writes"),
        (["serve", "x", "--drift", "s3://bucket/d"], "can't be a URL: a service writes"),
        (["fetch", "https://x", "--study", "1", "--out", "s3://b/d"], "can't be a URL: scans are"),
        (["score", "m", "i", "--out", "https://x/y"], "https://x/y: nothing can be written there"),
        (
            ["score", "m", "i", "--out", f"zip://x::file://{tmp_path}/y.zip"],
            "nothing can be written there",
        ),
        (["score", "m", "i", "--on", "ray:1.2.3.4:5", "--out", "s3://b/d"], "several machines"),
        (["info", "s3://bucket/scans"], "s3://bucket/scans: no model, run, prepared store or"),
        (["drift", "s3://bucket/scans"], "s3://bucket/scans: no drift.json here"),
        (["info", "s3://bucket/nothing"], "s3://bucket/nothing does not exist"),
        (["score", "s3://bucket/nothing", "i"], "s3://bucket/nothing/model/model.json does not"),
    ):
        with pytest.raises(SystemExit):
            main(command)
        said = capsys.readouterr().err
        assert words in said and said.count("\n") == 1, said
    assert sorted(os.listdir()) == ["cache", "y.zip"]


def test_a_folder_of_http_does_not_say_what_it_holds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler) as server:
        url = f"http://127.0.0.1:{server.server_port}/scans/"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(SystemExit):
            main(["prepare", url, "--out", str(tmp_path / "y")])
        server.shutdown()
    assert f"{url}: HTTP doesn't say which files" in capsys.readouterr().err
    assert not (tmp_path / "y").exists()


def test_a_copy_that_is_cut_off_goes_on(s3: Any, tmp_path: Path) -> None:
    for number in range(60):
        s3.pipe_file(f"bucket/scans/{number}.dcm", bytes([number]))
    permissions_after(s3, b"25")
    with pytest.raises(BadRemote, match=r"^s3://bucket/scans/\d+.dcm may not be read"):
        copy_of("s3://bucket/scans")
    permissions_after(s3, b"inf")
    (place,) = (tmp_path / "cache").rglob("scans")
    whole = {path: path.stat().st_ino for path in place.iterdir() if path.stat().st_mtime < 1e9}
    assert 0 < len(whole) < 60
    assert copy_of("s3://bucket/scans") == place
    assert {path.read_bytes()[0] for path in place.iterdir()} == {*range(60)}
    assert {path: path.stat().st_ino for path in whole} == whole


def test_a_copy_keeps_within_its_place(s3: Any, tmp_path: Path) -> None:
    s3.pipe_file("bucket/scans/../../out.dcm", b"x")
    with pytest.raises(BadRemote, match="which no file here can be called"):
        copy_of("s3://bucket/scans")

"""The service as a client meets it: a real process on the loopback, and httpx."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import csv
import gzip
import io
import json
import re
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import tifffile
import torch
from numpy.testing import assert_allclose
from PIL import Image
from torch import Tensor, nn

from fanogan import FAnoGAN
from fanogan.cli import main
from fanogan.recipes import load_recipe
from fanogan.scoring import Model, read_drift, write_results

httpx = pytest.importorskip("httpx", reason="needs pip install 'fanogan[dev]'")
pytest.importorskip("fastapi", reason="the extra 'serve' isn't installed")

TINY = load_recipe("smoke").but(
    critic_updates=2, encoder_updates=2, reestimate_batch_norm=False, held_out_fraction=0.5
)


def images_of(count: int, rows: int = 20, columns: int = 24, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (count, rows, columns)).astype(np.uint8)


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def stack(count: int = 3) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, images_of(count, seed=5), photometric="minisblack")
    return buffer.getvalue()


def zipped(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, data in files.items():
            packed.writestr(name, data)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def model() -> Model:
    """Looks through windows of 16×16."""
    return FAnoGAN(TINY, device="cpu").fit(images_of(40)).model


@pytest.fixture(scope="module")
def folder(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served") / "model"
    model.save(folder)
    return folder


@contextlib.contextmanager
def service(*arguments: Path | str) -> Iterator[tuple[Any, subprocess.Popen[str]]]:
    """A running service: a client of it, and the process."""
    command = [sys.executable, "-m", "fanogan", "serve", *map(str, arguments), "--port", "0"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
    )
    assert process.stdout and process.stderr
    said = process.stdout.readline()
    found = re.fullmatch(r"POST (http://127\.0\.0\.1:\d+)/score\n", said)
    try:
        assert found, said + process.stderr.read()
        headers = {"authorization": "Bearer secret"}
        with httpx.Client(base_url=found[1], headers=headers, timeout=60) as client:
            yield client, process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[Any]:
    """Starting takes seconds, so one service with all limits is what most tests ask."""
    (folder.parent / "token").write_text("secret\n")
    limits = ("--megapixels", "1", "--megabytes", "0.8", "--queue", "2")
    with service(folder, *limits, "--token-file", str(folder.parent / "token")) as (client, _):
        yield client


def post(client: Any, data: bytes, name: str = "a.png", **query: str) -> Any:
    return client.post("/score", files={"file": (name, data)}, params=query)


# --- what is answered -----------------------------------------------------------------------------


def test_an_image_scores_as_score_has_it(client: Any, model: Model, tmp_path: Path) -> None:
    for at, pixels in enumerate([*images_of(3, seed=1), *images_of(2, 37, 61, seed=2)]):
        path = tmp_path / "images" / f"{at}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(png(pixels))
    write_results(model, tmp_path / "images", tmp_path / "out")
    with (tmp_path / "out/scores.csv").open(newline="") as file:
        expected = list(csv.DictReader(file))
    for wanted in expected:
        answer = post(client, (tmp_path / "images" / wanted["name"]).read_bytes())
        assert answer.status_code == 200
        row = answer.json()
        for column in ("score", "image_residual", "feature_residual", "largest_window"):
            assert_allclose(row[column], float(wanted[column]), rtol=1e-5)
        assert row["p_value"] == float(wanted["p_value"])
        assert row["flag"] == (wanted["flag"] == "yes")
        assert "; ".join(row["warnings"]) == wanted["warnings"]
        assert (row["windows"], row["frames"], row["map"]) == (int(wanted["windows"]), [], None)
        assert row["research_use"] == "Research use only, not a medical device."


def test_a_map_comes_in_the_format_that_is_asked_for(
    client: Any, model: Model, tmp_path: Path
) -> None:
    nibabel = pytest.importorskip("nibabel")
    (tmp_path / "images").mkdir()
    (tmp_path / "images/a.png").write_bytes(png(images_of(1, seed=3)[0]))
    write_results(model, tmp_path / "images", tmp_path / "out")
    expected = tifffile.imread(tmp_path / "out/maps/a.png.tif")

    def given(kind: str, data: bytes = (tmp_path / "images/a.png").read_bytes()) -> bytes:
        return base64.b64decode(post(client, data, map=kind).json()["map"])

    assert_allclose(tifffile.imread(io.BytesIO(given("tiff"))), expected, atol=1e-5)
    write_results(model, tmp_path / "images", tmp_path / "nifti", maps="nifti")
    wanted_map = nibabel.load(tmp_path / "nifti/maps/a.png.nii.gz")
    image = nibabel.Nifti1Image.from_bytes(gzip.decompress(given("nifti")))
    assert_allclose(image.get_fdata(), wanted_map.get_fdata(), atol=1e-5)
    assert_allclose(image.affine, wanted_map.affine)
    drawn = np.asarray(Image.open(io.BytesIO(given("png"))), int)
    wanted = np.asarray(Image.open(tmp_path / "out/overlays/a.png.png"), int)
    assert np.abs(drawn - wanted).max() <= 1
    assert tifffile.imread(io.BytesIO(given("tiff", stack()))).shape == (3, 20, 24)
    volume = nibabel.Nifti1Image.from_bytes(gzip.decompress(given("nifti", stack())))
    assert volume.shape == (24, 20, 3)  # columns first, as NIfTI has it
    refused = post(client, stack(), map="png")
    assert refused.status_code == 422 and "ask for map=tiff" in refused.json()["detail"]


def test_a_volume_has_rows_of_its_frames(client: Any) -> None:
    row = post(client, stack(), "x.tif").json()
    assert (row["unit"], [each["frame"] for each in row["frames"]]) == ("volume", [0, 1, 2])
    assert row["largest_window"] == max(each["largest_window"] for each in row["frames"])


def test_dicom_and_zips_are_read(client: Any) -> None:
    from pydicom.data import get_testdata_file

    data = Path(str(get_testdata_file("CT_small.dcm"))).read_bytes()
    for body, name in ((data, "IM000001"), (zipped(**{"s/IM1": data}), "series.zip")):
        answer = post(client, body, name)
        assert answer.status_code in (200, 422), answer.text
        assert (
            answer.status_code == 200 or "were trained on" in answer.text or "int16" in answer.text
        )
    one = post(client, png(images_of(1)[0])).json()
    assert post(client, zipped(**{"a/b.png": png(images_of(1)[0])}), "a.zip").json() == one
    two = zipped(**{f"{at}.png": png(images_of(2)[at]) for at in range(2)})
    assert post(client, two, "a.zip").json() == {"detail": "more than one scan: send one at a time"}


@pytest.mark.slow
def test_a_retinal_model_takes_a_store_in_a_zip(tmp_path: Path) -> None:
    from fanogan.phantom import make_phantom
    from fanogan.retina import FlatSpace, prepare

    (tmp_path / "files").mkdir()
    for seed in range(3):
        made = make_phantom(seed, shape=(2, 240, 96), spacing=(0.24, 0.00387, 0.022))
        tifffile.imwrite(
            tmp_path / "files" / f"{seed}.tif",
            made.pixels,
            imagej=True,
            resolution=(1 / 0.022, 1 / 0.00387),
            metadata={"spacing": 0.24, "unit": "mm", "axes": "ZYX"},
        )
    space = FlatSpace(128, 120, False)
    prepare(tmp_path / "files", tmp_path / "eyes.zarr", space=space)
    prepare(tmp_path / "files" / "0.tif", tmp_path / "one.zarr", space=space)
    recipe = TINY.but(geometry="retina", window=(64, 64), held_out_fraction=0.34)
    detector = FAnoGAN(recipe, device="cpu").fit(tmp_path / "eyes.zarr")
    detector.save(tmp_path / "model")
    store = tmp_path / "one.zarr"
    body = zipped(
        **{
            str(path.relative_to(tmp_path)): path.read_bytes()
            for path in store.rglob("*")
            if path.is_file()
        }
    )
    rows = write_results(detector.model, store, tmp_path / "out")
    expected = next(row for row in rows if row["unit"] == "volume")
    with service(tmp_path / "model") as (client, _):
        whole = post(client, body, "one.zip").json()
        plain = post(client, (tmp_path / "files/0.tif").read_bytes(), "0.tif", map="tiff").json()
    for row in (whole, plain):
        assert_allclose(row["score"], float(expected["score"]), rtol=1e-5)
        assert row["p_value"] == float(expected["p_value"])
    found = tifffile.imread(io.BytesIO(base64.b64decode(plain["map"])))
    written = tifffile.imread(tmp_path / "out" / "maps" / f"{expected['name']}.tif")
    assert_allclose(found, written, atol=1e-5)


def test_the_pages_beside_it(client: Any) -> None:
    assert client.get("/health").json() == {"status": "alive"}
    assert client.get("/ready").json() == {
        "ready": True,
        "models": ["model"],
    }
    post(client, png(images_of(1)[0]))
    text = client.get("/metrics").text
    assert re.search(
        r'^fanogan_requests_total{model="model",path="/score",status="200"} \d', text, re.MULTILINE
    )
    assert "fanogan_batch_windows_bucket" in text
    api = client.get("/openapi.json").json()
    schema = api["components"]["schemas"]["Answer"]
    assert schema["examples"][0]["flag"] is True
    assert set(api["paths"]["/score"]["post"]["responses"]) >= {"200", "401", "413", "422", "429"}
    assert client.get("/docs").status_code == client.get("/other").status_code == 404


# --- what is refused ------------------------------------------------------------------------------


def test_hostile_bodies_are_never_an_error_of_the_service(client: Any) -> None:
    random = np.random.default_rng(0)
    good = [png(images_of(1)[0]), stack(), zipped(**{"a.png": png(images_of(1)[0])})]
    names = ["a.png", "a.tif", "a.zip", "a.dcm", "a.nii", "a.nii.gz", "a.npy", "a.npz", "a.xml"]
    names += ["a.vol", "a.e2e", "a.jpg", "a.bmp", "../../etc/passwd", "\u202e.png", "a" * 300, ""]
    bodies = [b"", b"PK", b"II*\0", b"\x93NUMPY", b"HSF-OCT-", b"CMDb", b"\0" * 128 + b"DICM"]
    for whole in good:
        bodies += [whole[: random.integers(len(whole))] for _ in range(40)]
        for _ in range(40):
            changed = bytearray(whole)
            for at in random.integers(len(whole), size=5):
                changed[at] = random.integers(256)
            bodies.append(bytes(changed))
    bodies += [random.bytes(int(random.integers(2000))) for _ in range(40)]
    statuses = set()
    for at, body in enumerate(bodies):
        answer = post(client, body, names[at % len(names)])
        statuses.add(answer.status_code)
        assert answer.status_code in (200, 400, 422), (names[at % len(names)], answer.text)
        assert "fanogan-serve-" not in answer.text and "Traceback" not in answer.text
    assert statuses >= {200, 422}
    kind = {"content-type": "multipart/form-data; boundary=x"}
    for body in (
        b"",
        b"--x",
        b"--x\r\n\r\n",
        random.bytes(500),
        b"--x\r\nContent-Dis",
        b"x" * 9999,
    ):
        for headers in (kind, {"content-type": "multipart/form-data"}, {}):
            assert client.post("/score", content=body, headers=headers).status_code in (400, 422)
    assert client.get("/ready").status_code == 200
    assert 'status="500"' not in client.get("/metrics").text


def hostile(random: np.random.Generator) -> tuple[bytes, str, dict[str, str], dict[str, str]]:
    """A body, a name, a query and headers that no honest client would send."""

    def numpy_file(pixels: np.ndarray, **how: Any) -> bytes:
        buffer = io.BytesIO()
        np.save(buffer, pixels, **how)
        return buffer.getvalue()

    def tiff(pixels: np.ndarray, **how: Any) -> bytes:
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, pixels, **how)
        return buffer.getvalue()

    size = tuple(int(side) for side in random.integers(1, 40, random.integers(1, 5)))
    kinds = ["u1", "i8", "f2", "f4", "f8", "c8", "?", "S3", "U2", "M8[s]"]
    kind = kinds[random.integers(len(kinds))]
    not_numbers = np.full((20, 24), [np.nan, np.inf, -np.inf, 1e38][random.integers(4)], "f4")
    head = b"\x93NUMPY\x01\x00v\x00"
    claims = f"{{'descr': '<f8', 'fortran_order': False, 'shape': ({10**12}, {10**9}), }}"
    header = bytearray(png(images_of(1)[0]))
    header[16:24] = random.bytes(8)  # width and height
    bodies = [
        numpy_file(np.zeros(size, kind)),
        numpy_file(not_numbers),
        numpy_file(np.array([{"a": 1}], object), allow_pickle=True),
        head + claims.ljust(117).encode() + b"\n" + bytes(64),
        tiff(not_numbers),
        tiff(random.integers(0, 9, (20, 24)).astype("u2"), compression="zlib")[
            : random.integers(400)
        ],
        bytes(header),
        gzip.compress(bytes(int(random.integers(1, 4_000_000)))),
        zipped(**{"a.png": zipped(**{"b.png": bytes(2_000_000)})}),
        zipped(**{f"{'../' * int(random.integers(9))}{at}.png": b"" for at in range(500)}),
        zipped(**{".zarray": b"[" * 100_000, "zarr.json": b'{"zarr_format": 3}'}),
        zipped(**{"a.npy": numpy_file(not_numbers), "b.npy": b"\x93NUMPY"}),
        b"\0" * 128 + b"DICM" + random.bytes(int(random.integers(3000))),
        b"\x5c\x01\0\0" + random.bytes(int(random.integers(900))),
        b"<HEDX><BODY>" + b"<a>" * int(random.integers(30_000)),
        random.bytes(int(random.integers(5000))),
    ]
    body = bodies[random.integers(len(bodies))]
    if random.random() < 0.3 and body:
        changed = bytearray(body)
        for at in random.integers(len(body), size=9):
            changed[at] = random.integers(256)
        body = bytes(changed)
    names = [".png", ".tif", ".zip", ".dcm", ".nii", ".nii.gz", ".npy", ".npz", ".xml", ".vol", ""]
    name = ["a", "\u202e", "../" * 9, "a" * 4000, "%00", "\x7f"][random.integers(6)]
    query = [{}, {}, {"map": "tiff"}, {"map": "\0"}, {"model": "x" * 3000}, {"map": "png"}]
    headers = [
        {},
        {},
        {},
        {"x-large": "y" * 30_000},
        {"accept": "\x7f"},
        {"content-type": "multipart/form-data; boundary=" + "x" * 5000},
    ]
    return (
        body,
        name + names[random.integers(len(names))],
        query[random.integers(len(query))],
        headers[random.integers(len(headers))],
    )


@pytest.mark.slow
def test_a_thousand_hostile_requests(folder: Path) -> None:
    random, statuses = np.random.default_rng(7), Counter[int]()
    with service(folder, "--megapixels", "1", "--megabytes", "4", "--seconds", "20") as (
        client,
        process,
    ):
        assert process.stderr  # a log that nobody reads stops the service once the pipe is full
        threading.Thread(target=process.stderr.read, daemon=True).start()
        memory = []
        for _ in range(1000):
            memory.append(psutil.Process(process.pid).memory_info().rss)
            body, name, query, headers = hostile(random)
            try:
                answer = client.post(
                    "/score", files={"file": (name, body)}, params=query, headers=headers
                )
            except httpx.TransportError:  # closed on too long a header
                statuses[0] += 1
                continue
            statuses[answer.status_code] += 1
            assert answer.status_code < 500, (name, query, body[:40], answer.text)
            assert "fanogan-serve-" not in answer.text and "Traceback" not in answer.text
        assert client.get("/ready").status_code == 200
        assert 'status="500"' not in client.get("/metrics").text
        assert post(client, png(images_of(1)[0])).status_code == 200
    assert statuses[422] > 300 and statuses[0] < 400, statuses
    first, last = max(memory[:500]), max(memory[500:])
    assert last - first < 50 << 20, (first, last)


def test_bombs_are_refused_before_they_are_decoded(client: Any) -> None:
    large = io.BytesIO()
    Image.new("L", (2000, 2000), 3).save(large, "PNG")
    frames = io.BytesIO()
    tifffile.imwrite(
        frames, np.zeros((50, 200, 200), np.uint8), photometric="minisblack", compression="zlib"
    )
    zeros = zipped(**{"a.png": bytes(9_000_000)})
    for body, said in (
        (large.getvalue(), "has 4,000,000 pixels, more than the 1,000,000 that are taken here"),
        (frames.getvalue(), "has 2,000,000 pixels, more than the 1,000,000"),
        (
            zeros,
            "the zip holds 1 files of 9,000,000 bytes, and up to 10,000 files of 4,000,000",
        ),
    ):
        answer = post(client, body)
        assert answer.status_code == 422 and said in answer.json()["detail"], answer.text


def test_a_body_that_is_too_large_is_refused_however_it_comes(client: Any) -> None:
    answer = post(client, bytes(900_000))
    assert (answer.status_code, answer.json()) == (413, {"detail": "the body has more than 0.8 MB"})
    parts = (b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n',)
    kind = {"content-type": "multipart/form-data; boundary=x"}
    chunks = iter([*parts, *[bytes(10_000)] * 90])  # without a length
    assert client.post("/score", content=chunks, headers=kind).status_code == 413


def test_at_overload_others_are_told_to_come_again(client: Any) -> None:
    body = png(images_of(1, 400, 400, seed=4)[0])
    with ThreadPoolExecutor(12) as clients:
        answers = list(clients.map(lambda _: post(client, body), range(12)))
    statuses = [answer.status_code for answer in answers]
    assert set(statuses) == {200, 429} and statuses.count(200) >= 2
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert int(refused.headers["retry-after"]) >= 1 and "come again in" in refused.text
    assert post(client, body).status_code == 200  # nothing is held on to
    assert "fanogan_requests_now 0.0" in client.get("/metrics").text


def test_a_request_may_take_so_long(caplog: pytest.LogCaptureFixture) -> None:
    from fanogan.serve.gate import Gate, Metrics, Settings

    async def application(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/score":
            await asyncio.sleep(60)
        raise ValueError("a secret")

    async def ask() -> list[Any]:
        transport = httpx.ASGITransport(Gate(application, Settings(seconds=0.05), Metrics()))
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            return [await client.post(path, content=b"x") for path in ("/score", "/other")]

    caplog.set_level("INFO", "fanogan.serve")
    slow, broken = asyncio.run(ask())
    assert (slow.status_code, slow.json()) == (503, {"detail": "took longer than 0.05 seconds"})
    assert broken.status_code == 500
    record = json.loads(caplog.messages[-1])
    assert record["error"] == "ValueError" and record["at"].startswith("application in line")
    assert "secret" not in caplog.text and "secret" not in broken.text


def test_a_token_is_asked_for(client: Any) -> None:
    body = png(images_of(1)[0])
    for given in ("", "Bearer other", "secret", "Bearer \xe9"):
        headers = {"authorization": given.encode("latin-1")}
        for answer in (
            client.post("/score", files={"file": body}, headers=headers),
            client.get("/metrics", headers=headers),
        ):
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == "Bearer"
        assert client.get("/ready", headers=headers).status_code == 200
    assert client.post("/score", files={"file": body}).status_code == 200


# --- its life -------------------------------------------------------------------------------------


def test_what_is_in_is_answered_before_it_ends_and_logs_hold_no_names(folder: Path) -> None:
    secret = "Jane Doe 1970"
    large = png(images_of(1, 400, 400, seed=4)[0])
    with service(folder) as (client, process):
        post(client, png(images_of(1)[0]), f"{secret}.png")
        post(client, b"\x89PNG damaged", f"{secret}.png")
        post(client, zipped(**{f"{secret}/{secret}.png": b"no image"}), "a.zip")
        client.get(f"/{secret}")
        with ThreadPoolExecutor(3) as clients:
            answers = [clients.submit(post, client, large) for _ in range(3)]
            while "requests_now 3.0" not in client.get("/metrics").text:
                time.sleep(0.01)
            process.send_signal(signal.SIGTERM)
            assert [answer.result().status_code for answer in answers] == [200, 200, 200]
        assert process.wait(60) == 0
        assert process.stdout and process.stderr
        shown, logged = process.stdout.read(), process.stderr.read()
    assert "Jane" not in shown + logged and "1970" not in shown + logged
    lines = [json.loads(line) for line in logged.splitlines()]
    assert [(line["path"], line["status"]) for line in lines if line["path"] != "/metrics"] == [
        ("/score", 200),
        ("/score", 422),
        ("/score", 422),
        ("other", 404),
        *[("/score", 200)] * 3,
    ]
    fields = {"time", "request", "method", "path", "model", "status", "bytes", "ms"}
    assert set(lines[0]) == fields and lines[0]["model"] == "model"


def test_what_can_t_be_served_is_a_sentence(
    folder: Path, client: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").write_text("\n")
    taken = str(client.base_url.port)
    for options, said in (
        (["--port", taken], f"nothing can listen at 127.0.0.1:{taken} ("),
        (["--port", "70000"], "nothing can listen at 127.0.0.1:70000 ("),
        (["--token-file", str(tmp_path / "empty")], f"{tmp_path}/empty: holds no token"),
        (["--queue", "0"], "a limit is 0 or below"),
        ([str(folder)], f"{folder}: of several models each has a name, as NAME={folder}"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["serve", str(folder), *options])
        error = capsys.readouterr().err
        assert ended.value.code == 1 and error.startswith(f"fanogan: {said}"), error
        assert error.count("\n") == 1


def loaded_anew(client: Any, process: Any, name: str, since: str) -> dict[str, Any]:
    """Send SIGHUP, and wait until it has been seen to."""
    process.send_signal(signal.SIGHUP)
    for _ in range(1200):
        found: dict[str, Any] = client.get("/models").json()[name]
        if found["error"] or found["version"] != since:
            return found
        time.sleep(0.05)
    raise AssertionError(found)


def test_a_model_is_loaded_anew_while_requests_go_on(
    model: Model, folder: Path, tmp_path: Path
) -> None:
    other = FAnoGAN(TINY, device="cpu", seed=1).fit(images_of(40, seed=9)).model
    mine, drift = tmp_path / "mine", tmp_path / "drift"
    model.save(mine)
    body = png(images_of(1, seed=3)[0])
    with service(f"a={mine}", f"b={folder}", "--drift", drift) as (client, process):
        first = post(client, body).json()
        assert first["model"]["name"] == "a" and post(client, body, model="a").json() == first
        assert post(client, body, model="b").json()["score"] == first["score"]
        unknown = post(client, body, model="../c")
        assert unknown.status_code == 404 and unknown.json()["detail"].endswith("there are: a, b")
        answers: list[Any] = []
        stop = threading.Event()

        def ask() -> None:
            with httpx.Client(base_url=client.base_url, timeout=60) as another:
                while not stop.is_set():
                    answers.append(post(another, body))

        with ThreadPoolExecutor(3) as threads:
            asking = [threads.submit(ask) for _ in range(3)]
            try:
                other.save(mine)
                new = loaded_anew(client, process, "a", first["model"]["version"])
                second = post(client, body).json()
                (mine / "model.json").write_text("{}")
                broken = loaded_anew(client, process, "a", new["version"])
            finally:
                stop.set()
            for each in asking:
                each.result()
        assert new["error"] is None and second["score"] != first["score"]
        assert broken["version"] == new["version"] == second["model"]["version"]
        assert str(mine) in broken["error"] and "\n" not in broken["error"]
        assert post(client, body).json()["model"] == second["model"]
        assert {each.status_code for each in answers} == {200}
        expected = {row["model"]["version"]: row["score"] for row in (first, second)}
        for row in (each.json() for each in answers):
            assert_allclose(row["score"], expected[row["model"]["version"]], rtol=1e-5)
        metrics = client.get("/metrics").text
        for line in (
            'fanogan_reloads_total{model="a",result="done"} 1.0',
            'fanogan_reloads_total{model="a",result="failed"} 1.0',
            'fanogan_requests_total{model="b",path="/score",status="200"} 1.0',
            'fanogan_batch_windows_count{model="b"}',
            'fanogan_request_seconds_count{model="a"}',
        ):
            assert line in metrics, line
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    # Each version has a record of its own, and no answer is missing in them.
    counts = [read_drift([path]).everything.images for path in drift.glob("a-*.json")]
    assert len(counts) == 2 and sum(counts) == len(answers) + 4


def test_a_record_of_drift_goes_on_where_it_was(folder: Path, tmp_path: Path) -> None:
    for seed in range(2):
        with service(folder, "--drift", tmp_path / "drift") as (client, process):
            assert post(client, png(images_of(1, seed=seed)[0]), "Jane Doe.png").status_code == 200
            assert post(client, stack(), "Jane Doe.tif").status_code == 200
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
    (path,) = (tmp_path / "drift").iterdir()
    assert "Jane" not in path.read_text()
    everything = read_drift([path]).everything
    assert (everything.images, everything.squares) == (8, 2 * (1 + 9))


# --- batches --------------------------------------------------------------------------------------


class Counting(nn.Module):
    """A score module that notes how many windows it saw together, and fails on request."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def forward(self, x: Tensor, inside: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self.sizes.append(len(x))
        if bool((x == 9).any()):
            raise ValueError("nine")
        scale = 1.0 if inside is None else 2.0
        terms = scale * x.mean((1, 2, 3))[:, None].repeat(1, 2)
        return terms, torch.cat([x, x], 1)


def test_windows_of_many_threads_are_scored_together_and_come_back_to_each(model: Model) -> None:
    from fanogan.serve.fused import fused

    counting, sizes = Counting(), list[int]()
    together = fused(model.but(score=counting), 200, sizes.append)
    ready = threading.Barrier(8)

    def ask(number: int) -> tuple[Tensor, Tensor]:
        ready.wait()
        x = torch.full((number + 1, 1, 16, 16), float(number))
        inside = torch.ones_like(x, dtype=torch.bool) if number == 3 else None
        return together.score(x, inside)

    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(ask, range(8)))
    for number, (terms, maps) in enumerate(found):
        expected = 2.0 * number if number == 3 else number
        assert terms.shape == (number + 1, 2) and bool((terms == expected).all())
        assert bool((maps == number).all())
    assert sum(sizes) == 36 and len(sizes) <= 4
    with pytest.raises(ValueError, match="nine"):
        together.score(torch.full((1, 1, 16, 16), 9.0))
    assert bool((together.score(torch.ones(1, 1, 16, 16))[0] == 1).all())
    together.score.close()
    assert not together.score.thread.is_alive()

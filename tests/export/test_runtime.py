"""A model that scores without PyTorch: `runtime.py` beside the graph gives what `score` gives."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.testing import assert_allclose
from PIL import Image

from fanogan import FAnoGAN
from fanogan.cli import main
from fanogan.cli.demo import flat_phantom
from fanogan.export import BadExport, export
from fanogan.export.file import MARKS
from fanogan.phantom import make_phantom
from fanogan.recipes import load_recipe
from fanogan.scoring import Model, results, write_results

pytest.importorskip("onnxscript", reason="the extra 'export' isn't installed")
TINY = load_recipe("smoke").but(
    critic_updates=2,
    encoder_updates=2,
    reestimate_batch_norm=False,
    held_out_fraction=0.5,
    kappa=0.7,
)
NEEDED = ("onnxruntime", "numpy", "pillow")
# Runs a file as if none but these and the standard library were installed.
ALONE = """
import runpy, sys
from importlib.abc import MetaPathFinder

class Without(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {
            "torch", "fanogan", "scipy", "skimage", "sklearn", "monai", "tifffile", "imagecodecs",
        }:
            raise ImportError(f"{name} is not to be used")

sys.meta_path.insert(0, Without())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def waves(count: int, rows: int, columns: int, seed: int = 0, high: int = 255) -> np.ndarray:
    random = np.random.default_rng(seed)
    across = np.arange(columns) / 3 + random.uniform(0, 6, (count, 1, 1))
    values = 0.5 + 0.25 * np.sin(across) + random.normal(0, 0.06, (count, rows, columns))
    return (np.clip(values, 0, 1) * high).astype(np.uint8 if high == 255 else np.uint16)


def save(pixels: np.ndarray, path: Path, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def run(folder: Path, *images: Path | str, alone: str = ALONE) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", alone, str(folder / "runtime.py"), str(folder)]
    return subprocess.run([*command, *map(str, images)], capture_output=True, text=True)


def rows_of(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def compare(rows: list[dict[str, Any]], model: Model, images: list[Path], out: Path) -> None:
    write_results(model, list(images), out)
    with (out / "scores.csv").open(newline="", encoding="utf-8") as file:
        expected = {row["name"]: row for row in csv.DictReader(file)}
    assert len(rows) == len(expected) == len(images)
    for row in rows:
        wanted = expected[Path(row["name"]).name]
        for name in ("score", "image_residual", "feature_residual"):
            assert_allclose(row[name], float(wanted[name]), rtol=1e-5, atol=1e-5, err_msg=name)
        assert row["p_value"] == float(wanted["p_value"]) and row["flag"] == wanted["flag"]
        assert (str(row["windows"]), "; ".join(row["warnings"])) == (
            wanted["windows"],
            wanted["warnings"],
        )


@pytest.fixture(scope="module")
def large() -> Model:
    """Sees 24×20 at 16×16."""
    return FAnoGAN(TINY.but(window=(24, 20), image_size=(16, 16))).fit(waves(44, 40, 50)).model


@pytest.fixture(scope="module")
def folder(large: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("export") / "large"
    assert export(large, "folder", out) < 1e-4
    return out


def test_a_folder_has_three_files_and_says_its_rules(folder: Path, large: Model) -> None:
    assert {path.name for path in folder.iterdir()} == {"model.onnx", "model.json", "runtime.py"}
    about = json.loads((folder / "model.json").read_text("utf-8"))
    assert (about["window"], about["image_size"], about["takes"]) == ([24, 20], [16, 16], "images")
    assert about["held_out"]["image"]["threshold"] == large.calibration.units["image"].threshold(
        0.05
    )
    assert "half window" in about["rules"]["windows"]
    text = (folder / "runtime.py").read_text("utf-8")
    assert text.count("\n") < 200
    imports = set(re.findall(r"^(?:import|from) (\w+)", text, re.MULTILINE))
    assert imports - sys.stdlib_module_names == {"numpy", "onnxruntime", "PIL"}


def test_images_of_any_size_score_as_score_has_them(
    folder: Path, large: Model, tmp_path: Path
) -> None:
    sizes = [(40, 50), (24, 20), (24, 45), (25, 21), (97, 64), (300, 260)]
    images = [
        save(waves(1, *size, seed=at)[0], tmp_path / "images" / f"{at}.png")
        for at, size in enumerate(sizes)
    ]
    images.append(save(255 - waves(1, 40, 50, seed=9)[0] // 3, tmp_path / "images" / "dark.bmp"))
    rows = rows_of(run(folder, *images))
    compare(rows, large, images, tmp_path / "out")
    assert len({row["p_value"] for row in rows}) > 1
    assert rows[0]["warnings"] == [] and "another scanner" in rows[-1]["warnings"][0]


def test_maps_are_those_of_score(folder: Path, large: Model, tmp_path: Path) -> None:
    from fanogan.export.runtime import Model as Runtime

    image = save(waves(1, 61, 50, seed=3)[0], tmp_path / "images" / "a.png")
    row, found = Runtime(folder).score(image)
    write_results(large, [image], tmp_path / "out")
    assert_allclose(found, tifffile.imread(tmp_path / "out/maps/a.png.tif"), atol=1e-5)
    assert row["windows"] == 20 and found.dtype == np.float32


def test_every_kind_of_picture_is_read_alike(folder: Path, large: Model, tmp_path: Path) -> None:
    grey = waves(1, 40, 50, seed=5)[0]
    turned = Image.Exif()
    turned[0x0112] = 6
    colour = np.stack([grey] * 3, -1)
    alpha = np.dstack([colour, np.full_like(grey, 200)])
    images = [
        save(colour, tmp_path / "i" / "colour.png"),
        save(alpha, tmp_path / "i" / "alpha.png"),
        save(grey, tmp_path / "i" / "photo.jpg", quality=90),
        save(np.ascontiguousarray(grey.T[::-1]), tmp_path / "i" / "turned.jpg", exif=turned),
        save(waves(1, 40, 50, 6, 40_000)[0], tmp_path / "i" / "sixteen.png"),
        save(waves(1, 40, 50, 7, 250)[0], tmp_path / "i" / "few.png"),
        save(waves(1, 40, 50, 7, 4095)[0], tmp_path / "i" / "twelve.png"),
    ]
    palette = tmp_path / "i" / "palette.png"
    Image.fromarray(grey).convert("P").save(palette)
    bits = tmp_path / "i" / "bits.png"
    Image.fromarray(grey > 120).save(bits)
    images += [palette, bits]
    rows = rows_of(run(folder, *images))
    compare(rows, large, images, tmp_path / "out")
    assert sum("was taken for white" in " ".join(row["warnings"]) for row in rows) == 2


@pytest.mark.parametrize("kind", ["whole", "sixteen bits", "colour", "spread"])
def test_other_models(kind: str, tmp_path: Path) -> None:
    """Images seen whole, of another size too; more bits; colour; terms in units of their spread."""
    recipe, rows, columns = TINY, 16, 16
    normals = waves(44, rows, columns)
    others = [waves(1, 16, 16, seed=1)[0], waves(1, 33, 20, seed=2)[0], waves(1, 9, 50, seed=3)[0]]
    if kind == "sixteen bits":
        normals = waves(44, rows, columns, high=30_000) + 500
        others = [waves(1, 20, 16, 4, 30_000)[0], waves(1, 16, 16, 5)[0]]
    elif kind == "colour":
        normals = np.stack([waves(44, 16, 16, seed=at) for at in range(3)], -1)
        others = [np.stack([waves(1, 16, 16, seed=at)[0] for at in (7, 8, 9)], -1)]
        others.append(np.stack([others[0][..., 0]] * 3, -1))
    elif kind == "spread":
        recipe = recipe.but(standardise_terms=True)
    model = FAnoGAN(recipe).fit(normals).model
    images = [save(each, tmp_path / "images" / f"{at}.png") for at, each in enumerate(others)]
    export(model, "folder", tmp_path / "model")
    compare(rows_of(run(tmp_path / "model", *images)), model, images, tmp_path / "out")


@pytest.mark.parametrize("retina_only", [True, False])
def test_a_retinal_model_takes_flattened_patches_and_says_so(
    retina_only: bool, tmp_path: Path
) -> None:
    from fanogan.export.runtime import BadInput
    from fanogan.export.runtime import Model as Runtime

    shape, spacing = (2, 240, 96), (0.24, 0.00387, 0.022)
    eyes = [flat_phantom(make_phantom(seed, shape=shape, spacing=spacing)) for seed in range(3)]
    recipe = TINY.but(window=(64, 48), geometry="retina", score_retina_only=retina_only)
    model, eye = FAnoGAN(recipe).fit(eyes).model, eyes[0]
    export(model, "folder", tmp_path / "eye")
    said = "this model takes flattened patches of a retina, 64 × 48 pixels: call Model.patches"
    image = save(eye.pixels[0], tmp_path / "a.png")
    done = run(tmp_path / "eye", image)
    assert done.returncode == 1 and f"{image}: {said}" in done.stderr

    frame = next(iter(results(model, [eye])))
    assert frame.patches is not None
    corners = frame.patches[:, :2].astype(int)
    known = eye.recorded[0]
    whole = [bool(known[y : y + 64, x : x + 48].all()) for y, x in corners]
    assert any(whole)
    encoded = model.preprocessing.encode(eye)[0]
    stored = np.stack([encoded[:, y : y + 64, x : x + 48] for y, x in corners])
    masks = np.stack([eye.tissue[:1, y : y + 64, x : x + 48] for y, x in corners])
    runtime = Runtime(tmp_path / "eye")
    with pytest.raises(BadInput, match="give a mask to a model that scores the retina alone, and"):
        runtime.patches(stored, None if retina_only else masks)
    found = runtime.patches(stored, masks if retina_only else None)
    scores = np.array([row["score"] for row in found])
    assert_allclose(scores[whole], frame.patches[whole, 2], rtol=1e-5, atol=1e-5)
    p_values = model.calibration.units["patch"].p_values(scores)
    assert_allclose([row["p_value"] for row in found], p_values)


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("none.png", None, "can't be read as a PNG, JPEG or BMP"),
        ("cut.png", b"\x89PNG\r\n\x1a\n", "can't be read as a PNG, JPEG or BMP"),
        ("flat.png", np.full((40, 50), 7, np.uint8), "has the same value in every pixel"),
        ("small.png", waves(1, 20, 20)[0], "has 20×20 pixels, which is too few"),
        ("rgb.png", np.stack([*waves(3, 40, 50)], -1), "has 3 channels, the model takes 1"),
    ],
)
def test_bad_images_end_with_a_sentence(
    folder: Path, tmp_path: Path, name: str, data: Any, said: str
) -> None:
    path = tmp_path / name
    if isinstance(data, bytes):
        path.write_bytes(data)
    elif data is not None:
        save(data, path)
    done = run(folder, path)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith(f"{path}: {said}") and done.stderr.count("\n") == 1


def test_execution_providers_are_named_or_refused(folder: Path, tmp_path: Path) -> None:
    image = save(waves(1, 40, 50)[0], tmp_path / "a.png")
    assert len(rows_of(run(folder, image, "--providers", "CPUExecutionProvider"))) == 1
    done = run(folder, image, "--providers", "NoExecutionProvider", "CPUExecutionProvider")
    assert done.returncode == 1
    assert re.match(rf"{folder}: NoExecutionProvider: this onnxruntime has .*CPU", done.stderr)


def test_a_repository_of_triton(large: Model, tmp_path: Path) -> None:
    out = tmp_path / "repository" / "waves"
    export(large, "triton", out)
    assert {str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()} == {
        "config.pbtxt",
        "1/model.onnx",
    }
    lines = (out / "config.pbtxt").read_text().splitlines()
    assert lines[1:4] == ['name: "waves"', 'backend: "onnxruntime"', "max_batch_size: 64"]
    assert 'input { name: "stored" data_type: TYPE_UINT8 dims: [1, 24, 20] }' in lines
    assert 'output { name: "map" data_type: TYPE_FP32 dims: [24, 20] }' in lines
    import onnxruntime

    session = onnxruntime.InferenceSession(out / "1" / "model.onnx")
    names = [one.name for one in (*session.get_inputs(), *session.get_outputs())]
    assert names == re.findall(r'put { name: "(\w+)"', "\n".join(lines))


def test_only_what_export_wrote_is_written_over(
    large: Model, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for to, (name, _) in MARKS.items():
        mine = tmp_path / to
        mine.mkdir()
        (mine / name).write_text("my own")
        with pytest.raises(BadExport, match=f"^{mine}: is there already, and no such export"):
            export(large, to, mine)
        assert [path.name for path in mine.iterdir()] == [name]
        assert (mine / name).read_text() == "my own"
    again = shutil.copytree(folder, tmp_path / "again")
    (again / "model.json").write_text("damaged")
    large_folder = tmp_path / "model"
    large.save(large_folder)
    main(["export", str(large_folder), "--to", "folder", "--out", str(again)])
    assert "equal to PyTorch within" in capsys.readouterr().out
    texts = [(each / "model.json").read_text("utf-8") for each in (again, folder)]
    assert json.loads(texts[0]) == json.loads(texts[1])
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.slow
def test_in_a_fresh_environment_with_these_three_packages(
    folder: Path, large: Model, tmp_path: Path
) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    pip = [python, "-m", "pip", "install", "--quiet", *NEEDED]
    subprocess.run(pip, check=True, env=clean, capture_output=True)
    image = save(waves(1, 97, 64, seed=2)[0], tmp_path / "images" / "a.png")
    command = [python, folder / "runtime.py", folder, image]
    done = subprocess.run(command, capture_output=True, text=True, env=clean, cwd=tmp_path)
    compare(rows_of(done), large, [image], tmp_path / "out")

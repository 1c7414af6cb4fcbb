"""Single B-scans through fit, score and evaluate: a picture is an image, not a volume."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from fanogan.cli import main
from fanogan.data import Normals, NoteOfScans
from fanogan.detectors import FAnoGAN
from fanogan.evaluation import evaluate
from fanogan.phantom import make_phantom
from fanogan.recipes import load_recipe
from fanogan.retina import FlatSpace, FlatVolume, SpacingEstimated, prepare, read_volumes
from fanogan.scans import BadScan
from fanogan.scoring import Model, results, write_results

SPACING = (None, 0.00387, 0.022)
GROUPS = r"_(\d+)_"
RECIPE = load_recipe("smoke").but(
    window=(64, 64),
    held_out_fraction=0.34,
    critic_updates=8,
    encoder_updates=8,
    log_every=4,
    reestimate_batch_norm=False,
)


def save(folder: Path, kind: str, seeds: range, diseased: bool = False) -> Path:
    """Two pictures of differing sizes of each patient, named as published sets name theirs."""
    folder.mkdir()
    for seed in seeds:
        spacing = (0.24, *SPACING[1:])
        eye = make_phantom(seed, shape=(2, 240, 96), spacing=spacing, diseased=diseased)
        for number, (frame, columns) in enumerate(zip(eye.pixels, (96, 90), strict=True), 1):
            Image.fromarray(frame[:, :columns]).save(folder / f"{kind}_{100 + seed}_{number}.png")
    return folder


@pytest.fixture(scope="module")
def normals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("normal") / "NO", "no", range(3))


@pytest.fixture(scope="module")
def ill(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("ill") / "AMD", "amd", range(11, 13), diseased=True)


@pytest.fixture(scope="module")
def flat(normals: Path, ill: Path) -> tuple[list[FlatVolume], list[FlatVolume]]:
    """The same in memory, since each reading of files starts processes."""
    space = FlatSpace(RECIPE.flat_rows, RECIPE.flat_base, RECIPE.stretch_retina)
    read = list(read_volumes([normals, ill], space, groups=GROUPS, spacing=SPACING))
    return read[:6], read[6:]


@pytest.fixture(scope="module")
def model(flat: tuple[list[FlatVolume], list[FlatVolume]]) -> Model:
    return FAnoGAN(RECIPE).fit(flat[0], spacing=SPACING).model


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_split_follows_the_patient_and_the_calibration_the_picture(
    flat: tuple[list[FlatVolume], list[FlatVolume]], model: Model
) -> None:
    read = Normals.read(flat[0], RECIPE)
    assert len(read.held_out) == 2 and len({scan.group for scan in read.held_out}) == 1
    assert read.summary.startswith("6 B-scans of 3 subjects · retina found in")
    assert read.summary.endswith("held out for calibration: 2 B-scans of 1 subject")
    assert set(model.calibration.units) == {"image", "patch"}
    assert len(set(model.calibration.units["image"].groups)) == 1


def test_a_single_bscan_has_one_row_one_map_and_patches(
    ill: Path, model: Model, tmp_path: Path
) -> None:
    table = write_results(model, ill, tmp_path / "out", groups=GROUPS)
    names = [f"amd_{seed}_{number}.png" for seed in (111, 112) for number in (1, 2)]
    rows = rows_of(tmp_path / "out/scores.csv")
    assert len(table) == len(rows) == 4
    assert sorted(row["name"] for row in rows) == names
    assert {(row["unit"], row["subject"]) for row in rows} == {("image", "111"), ("image", "112")}
    assert not (tmp_path / "out/en_face").exists()
    for name in names:
        with (
            Image.open(ill / name) as picture,
            tifffile.TiffFile(tmp_path / f"out/maps/{name}.tif") as file,
        ):
            page = file.pages[0]
            assert page.shape == (picture.height, picture.width)
            pixels_a_mm = [page.tags[f"{axis}Resolution"].value for axis in "XY"]
            sides = [below / above for above, below in pixels_a_mm]
            assert sides == pytest.approx([SPACING[2], SPACING[1]], rel=1e-4)
            overlay = Image.open(tmp_path / f"out/overlays/{name}.png")
            assert overlay.width == picture.width
            assert overlay.height > picture.height  # by the strip of the shape
    patches = rows_of(tmp_path / "out/patches.csv")
    assert {row["volume"] for row in patches} == set(names)
    assert {row["bscan"] for row in patches} == {"0"}
    page = (tmp_path / "out/report.html").read_text()
    assert "Anomaly scores of 4 B-scans" in page
    assert page.count("flattened, as the networks see it") == 4
    assert "<h2>Volumes" not in page


def test_a_stopped_scoring_of_single_bscans_ends_the_same(
    flat: tuple[list[FlatVolume], list[FlatVolume]], model: Model, tmp_path: Path
) -> None:
    store, done = tmp_path / "ill.zarr", list[object]()
    prepare(flat[1], store)
    write_results(model, store, tmp_path / "whole")

    def stop(result: object) -> None:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(result)

    with pytest.raises(KeyboardInterrupt):
        write_results(model, store, tmp_path / "resumed", on_result=stop)
    write_results(model, store, tmp_path / "resumed")
    for name in ("scores.csv", "patches.csv", "report.html"):
        same = [(tmp_path / out / name).read_bytes() for out in ("whole", "resumed")]
        assert same[0] == same[1]


def test_evaluation_is_by_picture_and_its_intervals_are_over_patients(
    flat: tuple[list[FlatVolume], list[FlatVolume]], model: Model, tmp_path: Path
) -> None:
    found = evaluate(model, *flat, tmp_path / "out", allow_seen=True)
    assert (found["unit"], found["n"], found["n_anomalous"]) == ("image", 10, 4)
    assert found["n_subjects"] == 5
    assert found["rows"][0]["auc_interval"] is not None


def test_the_model_keeps_the_spacing_that_was_given(
    ill: Path, model: Model, tmp_path: Path
) -> None:
    model.save(tmp_path / "model")
    kept = FAnoGAN.load(tmp_path / "model").model
    assert kept.preprocessing.retina is not None
    assert kept.preprocessing.retina.spacing == SPACING
    picture, own = ill / "amd_111_1.png", (None, 0.004, 0.02)
    assert [r.spacing for r in results(kept, picture)] == [SPACING]
    assert [r.spacing for r in results(kept, picture, spacing=own)] == [own]


def test_a_spacing_that_nobody_told_is_estimated_by_the_normals_and_kept(normals: Path) -> None:
    recipe = RECIPE.but(window=(64, 32))  # half as wide a column is estimated than was made up
    read = Normals.read(normals, recipe, groups=GROUPS, pictures="bscans")
    view = read.preprocessing.retina
    # The phantoms' retinas are about 0.3 mm thick at 3.87 µm a row.
    assert view is not None and view.row == SPACING[1] and view.spacing is None
    [estimated] = [note for note in read.notes if isinstance(note, NoteOfScans)]
    assert isinstance(estimated.note, SpacingEstimated) and estimated.count == 6
    assert estimated.note.row == view.row
    assert estimated.note.column == pytest.approx(0.0115, rel=0.01)
    assert view.thickness == pytest.approx((0.3, 0.3), rel=0.2)  # as people differ


@pytest.mark.slow
def test_a_run_is_resumed_with_what_was_said_of_its_pictures(
    normals: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, run = tmp_path / "recipe.yaml", tmp_path / "run"
    recipe.write_text("base: smoke\nheld_out_fraction: 0.34\n")
    said = ["--bscans", "--groups", GROUPS, "--spacing", ",0.00387,0.022"]
    main(["fit", str(normals), *said, "--recipe", str(recipe), "--out", str(run)])
    first = capsys.readouterr().out
    before = (run / "model/model.json").read_bytes()
    main(["fit", "--resume", str(run)])
    assert "6 B-scans of 3 subjects" in first and "6 B-scans of 3 subjects" in (
        capsys.readouterr().out
    )
    assert (run / "model/model.json").read_bytes() == before
    assert json.loads(before)["preprocessing"]["retina"]["spacing"] == [None, 0.00387, 0.022]


def test_what_is_said_of_bscans_is_refused_for_plain_images(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 255, (12, 16, 16), dtype=np.uint8)
    recipe = load_recipe("smoke").but(critic_updates=2, encoder_updates=2)
    plain = FAnoGAN(recipe).fit(images).model
    with pytest.raises(BadScan, match="--bscans, --volumes and --spacing are for models of"):
        list(results(plain, images, pictures="bscans"))
    with pytest.raises(BadScan, match="the recipe's geometry is image: set it to retina"):
        Normals.read(images, RECIPE.but(geometry="image"), pictures="volumes")

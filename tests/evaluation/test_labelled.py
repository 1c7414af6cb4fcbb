import csv
import dataclasses
import json
import shutil
import unicodedata

import nibabel
import numpy as np
import pytest
import tifffile
from PIL import Image
from sklearn.metrics import average_precision_score, roc_auc_score

from fanogan import FAnoGAN
from fanogan.calibration import HeldOut, split_subjects
from fanogan.cli import main
from fanogan.cli.demo import run_demo
from fanogan.data import Seen, SeenBefore
from fanogan.detectors import untrained
from fanogan.evaluation import (
    BadTestSet,
    PixelROC,
    calibrated_row,
    compared_rows,
    delong,
    evaluate,
    masks_of,
    pixels,
)
from fanogan.evaluation.comparison import ahead_of_best, honest_scores
from fanogan.recipes import load_recipe
from fanogan.scans import BadScan
from fanogan.scoring import results, score
from fanogan.storage import BadFolder

TINY = load_recipe("smoke").but(
    critic_updates=2, encoder_updates=2, reestimate_batch_norm=False, held_out_fraction=0.5
)
HONEST = [
    "score inverted (−A)",
    "untrained networks",
    "brightness",
    "darkness",
    "low contrast",
    "low gradient",
    "three statistics",
    "PCA residual",
]


def images_of(count, seed=0, low=0, high=256):
    return np.random.default_rng(seed).integers(low, high, (count, 16, 16)).astype(np.uint8)


@pytest.fixture(scope="module")
def detector():
    return FAnoGAN(TINY).fit(images_of(40))


@pytest.fixture(scope="module")
def model(detector):
    return detector.model


@pytest.fixture(scope="module")
def normal():
    return images_of(12, seed=1)


@pytest.fixture(scope="module")
def masks():
    """A square of 16 pixels, in another place in each image."""
    masks = np.zeros((8, 16, 16), dtype=np.uint8)
    for index, mask in enumerate(masks):
        mask[index : index + 4, 4:8] = 1
    return masks


@pytest.fixture(scope="module")
def anomalous(masks):
    """Darker, and bright in the square."""
    return np.where(masks, 255, images_of(8, seed=2, high=100)).astype(np.uint8)


@pytest.fixture(scope="module")
def evaluated(model, normal, anomalous, masks, tmp_path_factory):
    """What `evaluate` returns, and the folder that it wrote."""
    out = tmp_path_factory.mktemp("evaluation") / "out"
    return evaluate(model, normal, anomalous, out, masks=masks), out


@pytest.fixture
def files(normal, anomalous, masks, tmp_path):
    """The same as folders of PNGs, with the same names among normal and anomalous."""
    for kind, images in (("normal", normal), ("ill", anomalous), ("masks", masks * 255)):
        (tmp_path / kind / "deep").mkdir(parents=True)
        for index, image in enumerate(images):
            folder = tmp_path / kind / ("deep" if index % 2 else "")
            Image.fromarray(image).save(folder / f"{index:02d}.png")
    return tmp_path


def same(one, other):
    """Whether pixel figures agree; those of several images are summed in any order."""
    regions = pytest.approx(other["regions"])
    return {**one, "regions": None} == {**other, "regions": None} and one["regions"] == regions


def row_of(evaluation, name):
    return next(row for row in evaluation["rows"] if row["name"] == name)


def test_an_evaluation_takes_the_place_of_the_one_before(
    model, normal, anomalous, masks, evaluated, tmp_path
):
    shutil.copytree(evaluated[1], tmp_path / "out")
    assert (tmp_path / "out" / "pixels.npz").exists()
    (tmp_path / "out" / "notes.txt").write_text("my own")
    evaluate(model, normal, anomalous, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("metrics.json", "rows.csv", "scores.csv", "report.html", "notes.txt"),
        ".fanogan-results",
    }


# --- images that were seen ----------------------------------------------------------------------


@pytest.fixture
def trained_folder(tmp_path):
    """A model, saved and read again, of a folder of PNGs; which of them are held out is known."""
    (tmp_path / "train").mkdir()
    for number, image in enumerate(images_of(40)):
        Image.fromarray(image).save(tmp_path / "train" / f"{number:02d}.png")
    FAnoGAN(TINY).fit(tmp_path / "train").save(tmp_path / "model")
    return FAnoGAN.load(tmp_path / "model").model


def test_images_that_were_seen_are_refused_by_number(trained_folder, normal, anomalous, tmp_path):
    held_out = split_subjects([f"{number:02d}.png" for number in range(40)], 0.5, seed=0)
    (tmp_path / "test").mkdir()
    images = images_of(40)
    trained, calibrated = np.flatnonzero(~held_out)[:3], np.flatnonzero(held_out)[:2]
    # Under other names, in another format, and as colour: what counts is what the networks see.
    for number in (*trained, *calibrated):
        pixels = np.repeat(images[number][..., None], 3, axis=-1)
        tifffile.imwrite(tmp_path / "test" / f"renamed{number}.tif", pixels, photometric="rgb")
    for number, image in enumerate(normal):
        Image.fromarray(image).save(tmp_path / "test" / f"new{number}.png")
    with pytest.raises(BadTestSet) as refused:
        evaluate(trained_folder, tmp_path / "test", anomalous, tmp_path / "out")
    assert str(refused.value).startswith(
        "of 17 normal images 3 were trained on and 2 calibrated on, so the result would be too good"
    )
    assert not (tmp_path / "out").exists()
    found = evaluate(
        trained_folder, tmp_path / "test", anomalous, tmp_path / "out", allow_seen=True
    )
    assert found["seen"]["f-AnoGAN"]["normal"] == {"images": 17, "trained": 3, "calibrated": 2}
    assert found["seen"]["f-AnoGAN"]["anomalous"] == {"images": 8, "trained": 0, "calibrated": 0}
    words = "of 17 normal images 3 were trained on and 2 calibrated on (f-AnoGAN): the result is"
    assert words in (tmp_path / "out/report.html").read_text()
    with pytest.raises(BadTestSet, match="of 8 anomalous images 1 were trained on"):
        ill = [*anomalous[:7], images[trained[0]]]
        evaluate(trained_folder, normal, np.array(ill), tmp_path / "other")
    notes = [result.notes for result in results(trained_folder, images[[trained[0]]])]
    assert notes == [(SeenBefore(1, 0, 1),)]


def test_images_that_a_model_beside_has_seen_are_refused(model, normal, anomalous, tmp_path):
    other = FAnoGAN(TINY).fit(np.concatenate([images_of(20, seed=5), normal])).model
    with pytest.raises(BadTestSet, match=r"of 12 normal images \d+ were trained on"):
        evaluate(model, normal, anomalous, tmp_path / "out", beside=[other])


def test_what_the_gan_of_another_model_has_seen_counts(tmp_path, normal):
    first = FAnoGAN(TINY).fit(images_of(40))
    first.save(tmp_path / "first")
    second = FAnoGAN(TINY).fit(images_of(40, seed=9), gan=tmp_path / "first").model
    assert set(first.model.seen.trained) < set(second.seen.trained)


def test_one_image_under_both_labels_is_refused(model, normal, anomalous, files, tmp_path):
    with pytest.raises(BadTestSet, match=r"00\.png .* are the same image: give each image one"):
        evaluate(model, files / "normal", files / "normal", tmp_path / "out")
    with pytest.raises(BadTestSet, match="are the same image"):
        evaluate(model, normal, np.concatenate([anomalous, normal[3:4]]), tmp_path / "out")
    blank = np.zeros((1, 16, 16), dtype=np.uint8)  # frames without a signal are all alike
    evaluate(
        model, np.concatenate([normal, blank]), np.concatenate([anomalous, blank]), tmp_path / "out"
    )


def test_a_model_without_hashes_says_that_it_cannot_be_checked(model, normal, anomalous, tmp_path):
    found = evaluate(model.but(seen=None), normal, anomalous, tmp_path / "out")
    assert found["seen"] == {"f-AnoGAN": None}
    assert "keeps no hashes of the images" in (tmp_path / "out/report.html").read_text()


def test_hashes_of_a_million_images_are_few_bytes_and_quickly_found():
    random = np.random.default_rng(0)
    digests = [f"{value:016x}" + 48 * "0" for value in random.integers(1, 2**63, 1000)]
    seen = Seen.of(digests, [])
    assert seen.trained.nbytes == 8 * 1000
    assert seen.note([int(digests[7][:16], 16), 5]) == SeenBefore(1, 0, 2)
    assert seen.note([5]) is None and Seen.of([], []).note([5]) is None


# --- the rows ---------------------------------------------------------------------------------


def test_rows_equal_scikit_learn():
    random = np.random.default_rng(3)
    labels = np.repeat([0, 1], [30, 20])
    terms = {name: random.normal(size=50) + labels for name in ("total", "image", "feature")}
    untrained, darkness = random.normal(size=(2, 50))
    rows = compared_rows(labels, terms, untrained, {"darkness": darkness})
    expected = [
        ("f-AnoGAN (A)", "method", terms["total"]),
        ("image residual (A_R)", "term", terms["image"]),
        ("feature residual (A_D)", "term", terms["feature"]),
        ("score inverted (−A)", "honest", -terms["total"]),
        ("untrained networks", "honest", untrained),
        ("darkness", "honest", darkness),
    ]
    assert len(rows) == len(expected)
    for row, (name, kind, scores) in zip(rows, expected, strict=True):
        assert (row["name"], row["kind"]) == (name, kind)
        assert row["auc"] == pytest.approx(roc_auc_score(labels, scores))
        precision = average_precision_score(labels, scores)
        assert row["average_precision"] == pytest.approx(precision)
        low, high = row["auc_interval"]
        assert low <= row["auc"] <= high
    assert rows[3]["auc"] == pytest.approx(1 - rows[0]["auc"])


def test_a_lead_over_the_best_that_needs_no_learning_is_paired():
    random = np.random.default_rng(4)
    labels = np.repeat([0, 1], [150, 150])
    image = random.normal(size=300)
    totals, untrained = image + 2 * labels, random.normal(size=300)
    darkness = image + random.normal(size=300) / 4 + labels  # what is hard is hard for both
    trivial = {"darkness": darkness}
    rows = compared_rows(
        labels, {k: totals for k in ("total", "image", "feature")}, untrained, trivial
    )
    found = ahead_of_best(labels, totals, rows, honest_scores(totals, untrained, trivial))
    assert found["name"] == "darkness"
    assert found["auc"] == pytest.approx(roc_auc_score(labels, darkness))
    expected = delong(labels, totals, darkness)
    assert found["difference"] == pytest.approx(expected.difference)
    low, high = found["interval"]
    assert low == pytest.approx(expected.difference - 1.96 * expected.standard_error, abs=0.01)
    assert high == pytest.approx(expected.difference + 1.96 * expected.standard_error, abs=0.01)
    groups = ["one"] * 300
    alone = ahead_of_best(labels, totals, rows, honest_scores(totals, untrained, trivial), groups)
    assert alone["interval"] is None


def test_rows_of_a_detector_are_of_its_own_scores(detector, model, normal, anomalous, evaluated):
    evaluation, _ = evaluated
    labels = np.repeat([0, 1], [12, 8])
    images = np.concatenate([normal, anomalous])
    scores = detector.score(images)
    for name, values in (
        ("f-AnoGAN (A)", scores.total),
        ("image residual (A_R)", scores.image),
        ("feature residual (A_D)", scores.feature),
        ("score inverted (−A)", -scores.total),
        ("untrained networks", score(untrained(model), images).total),
        ("darkness", -images.mean((1, 2))),
        ("low contrast", -images.std((1, 2))),
    ):
        assert row_of(evaluation, name)["auc"] == pytest.approx(roc_auc_score(labels, values))
    assert [row["name"] for row in evaluation["rows"]][3:] == HONEST


def test_prevalence_and_numbers_are_stated(evaluated):
    evaluation, _ = evaluated
    stated = {key: evaluation[key] for key in ("n", "n_anomalous", "prevalence", "unit")}
    assert stated == {"n": 20, "n_anomalous": 8, "prevalence": 0.4, "unit": "image"}


# --- the calibrated threshold -----------------------------------------------------------------


def test_calibrated_row_by_hand():
    held_out = HeldOut(np.arange(1.0, 20.0), tuple(f"s{i}" for i in range(19)))
    # With 19 held out and alpha .1 at most one of them may lie above: the threshold is 18.
    labels = np.array([0, 0, 0, 0, 0, 1, 1, 1])
    totals = np.array([1, 17, 18, 18.5, 30, 18, 18.1, 50])
    row = calibrated_row(labels, totals, held_out, 0.1)
    assert row["threshold"] == 18
    assert row["alpha"] == 0.1
    assert row["false_positive_rate"] == pytest.approx(2 / 5)  # 18 itself is not flagged
    assert row["sensitivity"] == pytest.approx(2 / 3)
    assert row["specificity"] == pytest.approx(3 / 5)
    assert row["precision"] == pytest.approx(2 / 4)


@pytest.mark.parametrize("held_out", [None, HeldOut(np.arange(5.0), tuple("abcde"))])
def test_without_enough_held_out_there_is_a_note_and_no_threshold(held_out):
    row = calibrated_row(np.array([0, 1]), np.array([0.0, 1.0]), held_out, 0.05)
    assert row["threshold"] is None
    assert "false_positive_rate" not in row
    assert "held" in row["note"]


def test_flags_and_the_calibrated_row_agree(evaluated):
    evaluation, out = evaluated
    with (out / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    of_normals = [row["flag"] == "yes" for row in rows if row["label"] == "0"]
    reached = evaluation["calibrated"]["false_positive_rate"]
    assert reached == pytest.approx(np.mean(of_normals))


# --- what is written --------------------------------------------------------------------------


def test_metrics_are_valid_json_and_what_is_returned(evaluated):
    evaluation, out = evaluated

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    text = (out / "metrics.json").read_text()
    assert json.loads(text, parse_constant=refuse) == json.loads(json.dumps(evaluation))


def test_files_written(evaluated):
    _, out = evaluated
    names = {path.name for path in out.iterdir()}
    written = {"metrics.json", "pixels.npz", "rows.csv", "scores.csv", "report.html"}
    assert names == written | {".fanogan-results"}
    with (out / "rows.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows][3:] == HONEST
    assert {"auc_low", "auc_high", "youden_sensitivity"} <= set(rows[0])
    page = (out / "report.html").read_text()
    assert "Evaluation on 20 images" in page
    assert "not a medical device" in page
    assert "chosen on the test labels" in page


# --- masks ------------------------------------------------------------------------------------


def test_pixel_auc_by_hand(detector, model, normal, anomalous, masks, evaluated):
    evaluation, _ = evaluated
    maps = np.stack([*detector.localize(normal), *detector.localize(anomalous)])
    # The normals' masks are empty.
    truth = np.concatenate([np.zeros((12, 16, 16), dtype=bool), masks > 0])
    pixel = evaluation["pixel"]
    expected = roc_auc_score(truth.ravel(), maps.ravel())
    assert pixel["auc"] == pytest.approx(expected, abs=1e-3)
    images = np.concatenate([normal, anomalous]).astype(float)
    gradients = np.abs(np.gradient(images, axis=(1, 2))).mean(0)
    projection = model.networks["pca"]
    mean, V = projection.mean.double().numpy(), projection.components.double().numpy()
    x = images.reshape(20, -1) * (2 / 255) - 1
    x_hat = np.clip(mean + (x - mean) @ V.T @ V, -1, 1)
    maps = {"brightness": images, "gradient": gradients, "PCA residual": np.abs(x - x_hat)}
    expected = {name: roc_auc_score(truth.ravel(), each.ravel()) for name, each in maps.items()}
    expected |= {"darkness": 1 - expected["brightness"], "low gradient": 1 - expected["gradient"]}
    assert pixel["trivial"] == pytest.approx(expected, abs=1e-3)
    assert [*pixel["trivial"].values()] == sorted(pixel["trivial"].values(), reverse=True)
    residuals = (x - x_hat) ** 2
    row = row_of(evaluation, "PCA residual")
    assert row["auc"] == pytest.approx(roc_auc_score([0] * 12 + [1] * 8, residuals.mean(1)))
    assert pixel["prevalence"] == pytest.approx(8 * 16 / (20 * 256))
    assert pixel["regions"]["lesions"] == 8
    assert pixel["regions"]["threshold"] == model.calibration.map_scale
    assert pixel["regions"]["images"] == 20


@pytest.mark.parametrize("most", [200, 4])
def test_pixels_are_counted_by_subject_in_memory_that_does_not_grow(
    model, files, tmp_path, monkeypatch, most
):
    """As in a pass of their own, with subjects '0' and '1'; of more than ``most`` some share."""
    monkeypatch.setattr(pixels, "MOST_SUBJECTS", most)
    sources = files / "normal", files / "ill"
    groups = r"(\d)\.png"
    out = tmp_path / "out"
    evaluate(model, *sources, out, masks=files / "masks", groups=groups)
    counts = np.load(out / "pixels.npz")["counts"]
    expected = {}
    for label, source in enumerate(sources):
        for result in results(model, source, groups=groups):
            mask = np.zeros((16, 16), dtype=bool)
            if label:
                mask = np.asarray(Image.open(files / "masks" / result.name)) > 0
            roc = expected.setdefault(result.group, PixelROC(pixels.SUBJECT_BINS))
            roc.update(result.residual, mask)
    assert len(expected) == 10
    for place, roc in enumerate([*expected.values()][most:]):
        [*expected.values()][place % most].merge(roc)
    expected = [*expected.values()][:most]
    np.testing.assert_array_equal(counts, [roc.counts for roc in expected])
    assert counts.sum() == 20 * 256 and counts[:, 1].sum() == 8 * 16


def test_without_masks_there_are_no_pixel_figures(model, normal, anomalous, tmp_path):
    seen = []
    found = evaluate(model, normal, anomalous, tmp_path / "out", on_result=seen.append)
    assert (found["pixel"], found["pixel_roc"]) == (None, None)
    assert len(seen) == 3 * 20  # trained, untrained, principal components
    assert not (tmp_path / "out" / "pixels.npz").exists()


def test_masks_by_name_and_by_order_agree(model, files, evaluated, tmp_path):
    expected, _ = evaluated
    for path in (files / "masks" / "deep").glob("*.png"):  # of another format than their images
        tifffile.imwrite(path.with_suffix(".tif"), np.asarray(Image.open(path)))
        path.unlink()
    found = evaluate(
        model, files / "normal", files / "ill", tmp_path / "out", masks=files / "masks"
    )
    assert same(found["pixel"], expected["pixel"])


def test_a_name_of_numbers_and_dots_has_a_mask_of_its_own(model, anomalous, masks, tmp_path):
    uids = [f"1.2.840.{place}" for place in range(8)]  # as archives call DICOM, and exports folders
    for uid, mask in zip(uids, masks, strict=True):
        Image.fromarray(mask * 255).save(tmp_path / f"{uid}.png")
    mask_of = masks_of(tmp_path, tmp_path, None, model.preprocessing)
    for uid, mask, result in zip(uids, masks, results(model, anomalous), strict=True):
        named = dataclasses.replace(result, name=uid, scan_name=uid, frame=0)
        np.testing.assert_array_equal(mask_of(named), mask > 0)


@pytest.mark.parametrize("forms", ["NFC NFD", "NFD NFC", "NFD NFD"])
def test_a_mask_is_found_in_another_form_of_unicode(model, anomalous, masks, tmp_path, forms):
    """macOS stores names decomposed, others as they were typed."""
    image_name, mask_name = (unicodedata.normalize(form, "Müller é") for form in forms.split())
    Image.fromarray(masks[0]).save(tmp_path / f"{mask_name}.png")
    mask_of = masks_of(tmp_path, tmp_path, None, model.preprocessing)
    result = next(iter(results(model, anomalous)))
    named = dataclasses.replace(result, name=f"{image_name}.tif", scan_name=f"{image_name}.tif")
    np.testing.assert_array_equal(mask_of(named), masks[0] > 0)


def test_masks_of_frames_of_a_volume_and_of_arrays_in_files(
    model, normal, anomalous, masks, evaluated, tmp_path
):
    expected, _ = evaluated
    (tmp_path / "ill").mkdir()
    (tmp_path / "masks").mkdir()
    tifffile.imwrite(tmp_path / "ill" / "v#1.tif", anomalous, photometric="minisblack")
    tifffile.imwrite(tmp_path / "masks" / "v#1.tif", masks * 255, photometric="minisblack")
    found = evaluate(model, normal, tmp_path / "ill", tmp_path / "out", masks=tmp_path / "masks")
    assert same(found["pixel"], expected["pixel"])
    assert found["n"] == 20  # the volume's own score is not one more image
    np.savez(tmp_path / "data.npz", ill=anomalous, masks=masks)
    path = tmp_path / "data.npz"
    found = evaluate(model, normal, f"{path}:ill", tmp_path / "out", masks=f"{path}:masks")
    assert same(found["pixel"], expected["pixel"])


def test_labels_of_masks_are_chosen_by_number(model, files, masks, tmp_path, capsys):
    """Label 1 in one half of the square, 3 in the other, and 2 elsewhere."""
    for index, path in enumerate(sorted((files / "masks").rglob("*.png"), key=lambda p: p.name)):
        labels = masks[index].copy()
        labels[masks[index].nonzero()[0].max(), 4:8] = 3
        labels[15] = 2
        Image.fromarray(labels).save(path)
    sources = ["--normal", str(files / "normal"), "--anomalous", str(files / "ill")]
    model.save(tmp_path / "model")
    command = ["evaluate", str(tmp_path / "model"), *sources, "--masks", str(files / "masks")]
    for more, pixels_marked in (([], 32), (["--mask-labels", "1,3"], 16)):
        main([*command, "--out", str(tmp_path / "out"), *more])
        found = json.loads((tmp_path / "out" / "metrics.json").read_text())
        assert found["pixel"]["prevalence"] == pytest.approx(8 * pixels_marked / (20 * 256))
    page = (tmp_path / "out" / "report.html").read_text()
    assert "labels of the masks that count as anomalous: 1, 3" in page
    with pytest.raises(SystemExit):
        main([*command, "--mask-labels", "1;3"])
    assert "--mask-labels 1;3: give whole numbers such as 1,3" in capsys.readouterr().err


def test_soft_masks_are_said_once_and_shown(model, normal, anomalous, masks, tmp_path, caplog):
    soft = masks * np.linspace(0.1, 0.9, 16)[:, None]
    found = evaluate(model, normal, anomalous, tmp_path / "out", masks=soft)
    assert found["pixel"]["prevalence"] == pytest.approx((soft > 0.5).sum() / (20 * 256))
    said = "soft mask: what is above 0.5 of 1 counts as anomalous (mask of image 00000, and"
    assert [said in record.message for record in caplog.records] == [True]
    assert said in (tmp_path / "out" / "report.html").read_text()


def test_array_masks_stay_with_their_images_when_some_are_skipped(
    model, normal, anomalous, masks, tmp_path
):
    images = [*anomalous.astype(np.float32)]
    images[2] = np.full((16, 16), np.nan, dtype=np.float32)
    of_floats = FAnoGAN(TINY).fit(images_of(40).astype(np.float32)).model
    kept = [index for index in range(8) if index != 2]
    different = masks.copy()
    different[5:, 12:, 12:] = 1
    normals = normal.astype(np.float32)
    skipping = evaluate(
        of_floats, normals, images, tmp_path / "out", masks=different, skip_bad=True
    )
    assert "skipped: image 00002 holds NaN" in (tmp_path / "out/report.html").read_text()
    without = evaluate(
        of_floats, normals, [images[i] for i in kept], tmp_path / "out", masks=different[kept]
    )
    assert skipping["pixel"] == without["pixel"]


def test_a_mirrored_nifti_mask_lies_over_its_image(model, normal, anomalous, masks, tmp_path):
    """The mask stored from right to left, as its affine says, gives the same pixel figures."""
    found, flip = [], np.diag([-1.0, 1, 1, 1])
    flip[0, 3] = 15  # row 0 of the mask lies where row 15 of the image does
    for name, stored, affine in (("as is", masks, np.eye(4)), ("turned", masks[:, ::-1], flip)):
        for kind in ("ill", "masks"):
            (tmp_path / name / kind).mkdir(parents=True)
        volume = nibabel.Nifti1Image(np.moveaxis(anomalous, 0, -1), np.eye(4))
        nibabel.save(volume, tmp_path / name / "ill" / "v.nii.gz")
        mask = nibabel.Nifti1Image(np.ascontiguousarray(np.moveaxis(stored, 0, -1)), affine)
        nibabel.save(mask, tmp_path / name / "masks" / "v.nii.gz")
        folders = tmp_path / name / "ill", tmp_path / name / "out"
        found.append(evaluate(model, normal, *folders, masks=tmp_path / name / "masks"))
    assert found[0]["pixel"] == found[1]["pixel"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda masks: (masks / "00.png").unlink(), r"00\.png has no mask: put one"),
        (
            lambda masks: Image.new("L", (9, 16)).save(masks / "00.png"),
            r"the mask of 00\.png has 16×9 pixels and the image 16×16",
        ),
        (lambda masks: (masks / "00.png").write_bytes(b"no image"), r"00\.png is not an image"),
        (
            lambda masks: Image.new("L", (16, 16)).save(masks / "00.tif"),
            r"00\.png and .*00\.tif could both be the mask",
        ),
        (
            lambda masks: [Image.new("L", (16, 16)).save(path) for path in masks.rglob("*.png")],
            "mark no pixel",
        ),
    ],
    ids=["missing", "another size", "no image", "two of one name", "all empty"],
)
def test_masks_that_do_not_fit_stop_the_evaluation(model, files, tmp_path, change, message):
    change(files / "masks")
    out = tmp_path / "out"
    with pytest.raises(BadScan, match=message):
        evaluate(model, files / "normal", files / "ill", out, masks=files / "masks")
    assert not out.exists()


def test_too_few_masks_or_frames(model, normal, anomalous, masks, files, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(BadScan, match="7 masks for 8 images"):
        evaluate(model, normal, anomalous, out, masks=masks[:7])
    with pytest.raises(BadScan, match="masks of files are files"):
        evaluate(model, normal, files / "ill", out, masks=masks)
    tifffile.imwrite(tmp_path / "v.tif", anomalous, photometric="minisblack")
    (tmp_path / "few").mkdir()
    tifffile.imwrite(tmp_path / "few" / "v.tif", masks[:5], photometric="minisblack")
    with pytest.raises(BadScan, match=r"few/v\.tif has 5 frames and no mask of v\.tif#5"):
        evaluate(model, normal, tmp_path / "v.tif", out, masks=tmp_path / "few")
    assert not out.exists()


# --- subjects ---------------------------------------------------------------------------------


def test_files_of_one_name_are_not_one_subject(model, files, evaluated, tmp_path):
    assert evaluated[0]["n_subjects"] == 20
    # Folders name subjects, here one, 'deep', in both.
    sources = files / "normal", files / "ill"
    assert evaluate(model, *sources, tmp_path / "out")["n_subjects"] == 6 + 4 + 1
    grouped = evaluate(model, *sources, tmp_path / "out", groups=r"(\d)\.png")
    assert grouped["n_subjects"] == 10


def test_one_class_alone_is_refused(model, files, tmp_path):
    for path in (files / "ill").rglob("*.png"):
        path.write_bytes(b"no image")
    with pytest.raises(BadScan, match="none of 8 images could be used"):
        evaluate(model, files / "normal", files / "ill", tmp_path / "out", skip_bad=True)
    assert not (tmp_path / "out").exists()


# --- the demo ---------------------------------------------------------------------------------


def test_demo_touches_no_folder_that_holds_something_else(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(BadFolder, match="holds something else; give --out another folder"):
        run_demo(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.slow
def test_demo_tells_digits_apart_and_untrained_networks_do_not(tmp_path):
    stages = []
    found = run_demo(
        tmp_path / "demo", "digits", progress=lambda stage, *rest: stages.append(stage)
    )
    auc = {row["name"]: row["auc"] for row in found["rows"]}
    assert auc["f-AnoGAN (A)"] >= 0.95
    assert auc["f-AnoGAN (A)"] > auc["untrained networks"] + 0.1
    calibrating = {"calibrating izi_f", "calibrating ae"}
    assert set(stages) == {"gan", "encoder", "ae", *calibrating, "scoring"}
    assert (tmp_path / "demo" / "report.html").exists()
    assert (tmp_path / "demo" / "run" / "model" / "card.md").exists()

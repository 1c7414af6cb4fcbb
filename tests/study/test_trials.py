"""A whole study on a few digits: every system, every table; stopped, resumed, and broken."""

import csv
import json
import os
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file
from scipy.ndimage import gaussian_filter
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score

from fanogan.cli import study_commands
from fanogan.cli.parser import main
from fanogan.data import Preprocessing
from fanogan.detectors import Detector, new_detector
from fanogan.evaluation import BadTestSet
from fanogan.evaluation.metrics import mean_interval, resampled_aucs, resampled_times
from fanogan.phantom.eye import make_phantom
from fanogan.recipes.recipe import load_recipe
from fanogan.retina import Boundaries, make_flat, prepare
from fanogan.retina.flat_volume import FlatSpace
from fanogan.scans import Scan
from fanogan.study.claims import CLAIMS, findings
from fanogan.study.outcomes import Pixels, Study
from fanogan.study.reconstructions import choose_images, gradient_energy, smoothness
from fanogan.study.study_page import write_study_report
from fanogan.study.systems import SYSTEMS
from fanogan.study.tables import row_of
from fanogan.study.test_sets import (
    BadStudy,
    Scored,
    StudyData,
    choose_subset,
    score_chosen,
    score_windows,
    windows_of,
)
from fanogan.study.trials import run_study
from fanogan.training.cost import encoder_cost, gan_cost

RECIPE = load_recipe("smoke").but(
    critic_updates=10,
    encoder_updates=5,
    search_updates=3,
    horizontal_flip=False,
    held_out_fraction=0.5,
)


def read_rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Fours of 16×16 to learn from; other fours and other digits, with masks, to be tested on."""
    folder = tmp_path_factory.mktemp("digits")
    found = load_digits()
    pixels = np.round(found.images * (255 / 16)).astype(np.uint8).repeat(2, 1).repeat(2, 2)
    fours, others = (np.flatnonzero(same) for same in (found.target == 4, found.target != 4))
    for kind, indices in {
        "train": fours[:40],
        "normal": fours[40:54],
        "anomalous": others[:10],
    }.items():
        (folder / kind).mkdir()
        for index in indices:
            Image.fromarray(pixels[index]).save(folder / kind / f"{index}.png")
    (folder / "masks").mkdir()
    for index in others[:10]:
        Image.fromarray((pixels[index] > 99) * np.uint8(255)).save(folder / f"masks/{index}.png")
    return folder


@pytest.fixture(scope="module")
def made(digits, tmp_path_factory):
    """A study of all systems with one seed, and with two of two of them and of another detector."""
    out = tmp_path_factory.mktemp("study") / "out"
    run_study(digits, out, recipe=RECIPE, seeds=1)
    run_study(digits, out, recipe=RECIPE, seeds=2, systems=["izi_f", "ae", "pca"])
    return out, write_study_report(out).read_text(encoding="utf-8")


@pytest.fixture
def out(made):
    return made[0]


def test_every_system_is_done_and_every_table_and_figure_is_there(made):
    out, page = made
    for name in SYSTEMS:
        assert json.loads((out / "seed0" / name / "result.json").read_text())["system"] == name
    tables = {path.stem for path in (out / "tables").glob("*.csv")}
    assert tables == {
        *("table1", "table1_subset", "table2", "cross_scored", "tableA1", "denoising"),
        *("tableB1", "claims"),
    }
    for kind in ("svg", "pdf"):
        figures = {path.stem for path in (out / "figures").glob(f"*.{kind}")}
        assert figures == {
            *("fig5", "fig6", "fig7", "fig8a", "fig8b", "figA1", "figA2", "figB2", "figB3")
        }
    for text in ("Table 1:", "Table 1 on the subset", "Table 2:", "Section 3.2", "Table A1"):
        assert text in page
    for text in ("Table B1", "Fig. 6.", "Fig. B3.", "rater that anyone can repeat"):
        assert text in page
    assert not re.search(r'(src|href)="(?!data:|#)', page.replace("xlink:href", "href"))
    assert "2 seeds" in page  # too few to tell seeds from systems


def test_the_tables_are_what_the_scores_say(out):
    row = {row["system"]: row for row in read_rows(out / "tables" / "table1.csv")}["ae"]
    aucs, beside = ([], [])
    for seed in (0, 1):
        for name, found in (("ae", aucs), ("izi_f", beside)):
            scores = read_rows(out / f"seed{seed}" / name / "evaluation" / "scores.csv")
            labels = [int(score["label"]) for score in scores]
            found.append(roc_auc_score(labels, [float(score["score"]) for score in scores]))
    assert float(row["auc"]) == pytest.approx(np.mean(aucs))
    assert float(row["auc_spread"]) == pytest.approx(np.std(aucs, ddof=1))
    assert float(row["difference"]) == pytest.approx(np.mean(aucs) - np.mean(beside))
    assert row["seeds"] == "0 1"
    assert row["paper_auc"] == "0.8688"


def test_another_detector_stands_below_the_systems_of_the_paper(made):
    out, page = made
    for name, after in (("table1", "score inverted (−A)"), ("table1_subset", None)):
        systems = [row["system"] for row in read_rows(out / "tables" / f"{name}.csv")]
        at = systems.index("pca")
        assert set(systems[:at]) <= set(SYSTEMS)
        assert systems[at + 1 :][:1] == ([after] if after else [])
    row = read_rows(out / "tables" / "tableB1.csv")[-1]
    assert (row["system"], row["seeds"], row["paper_auc"]) == ("pca", "0 1", "")
    assert 0 < float(row["auc"]) < 1 and row["difference_low"]
    assert '<th scope="row">pca</th>' in page
    assert "pca" in json.loads((out / "times.json").read_text())["milliseconds"]


def test_the_difference_is_paired_by_image_and_seed(out):
    study = Study(out)
    systems = [[study.scored(name, seed) for seed in (0, 1)] for name in ("ae", "izi_f")]
    scores = [np.stack([scored.total for scored in each]) for each in systems]
    labels, subjects = systems[0][0].labels, systems[0][0].subjects.tolist()
    ae, ours = (resampled_aucs(labels, each, subjects) for each in scores)
    row = row_of(study, "ae")
    assert [row["difference_low"], row["difference_high"]] == pytest.approx(
        mean_interval(ae - ours)
    )


def test_pixel_figures_are_those_of_evaluate(out):
    study = Study(out)
    for name in ("izi_f", "ae"):
        pixel = study.metrics(name, 0)["pixel"]
        assert study.pixels(name, 0).figures["auc"] == pytest.approx(pixel["auc"], abs=2e-3)


def test_pixels_resampled_are_those_of_subjects_scored_anew(digits, out):
    """The interval of Table B1 by a pass of its own: each image is a subject, drawn again."""
    detector, values, marked = Detector.load(out / "seed0" / "ae"), [], []
    for kind in ("normal", "anomalous"):
        for result in detector.results(digits / kind):
            path = digits / "masks" / result.name
            is_marked = kind == "anomalous"
            mask = np.asarray(Image.open(path)) > 0 if is_marked else np.zeros((16, 16), bool)
            values.append(result.residual)
            marked.append(mask)
    pixels = Study(out).pixels("ae", 0)
    assert len(pixels.counts) == len(values) == 24
    times = resampled_times(None, 24, 40)
    for row in times[times[:, 14:].any(1) & times[:, :14].any(1)][:10]:
        drawn = np.repeat(np.arange(24), row)
        truth, residuals = (np.stack([one[place] for place in drawn]) for one in (marked, values))
        expected = roc_auc_score(truth.ravel(), residuals.ravel())
        assert pixels.aucs(row[None])[0] == pytest.approx(expected, abs=2e-3)


def test_pixels_resampled_are_pixels_counted_again():
    counts = np.zeros((3, 2, 5), dtype=np.int64)
    counts[0, 0, 1], counts[0, 1, 4], counts[1, 0, 3], counts[1, 1, 2] = 3, 2, 1, 1
    counts[2, 0, 0] = 2
    values, labels = [1] * 3 + [4] * 2 + 2 * [3, 2], [0] * 3 + [1] * 2 + 2 * [0, 1]
    pixels = Pixels(counts)
    assert pixels.aucs(np.array([[1, 2, 0]])) == pytest.approx(roc_auc_score(labels, values))


def test_izi_scored_with_features_has_the_networks_of_izi(out):
    izi, featured = (Detector.load(out / "seed0" / name) for name in ("izi", "izi-features"))
    for letter, network in izi.model.networks.items():
        other = featured.model.networks[letter].state_dict()
        for key, tensor in network.state_dict().items():
            assert torch.equal(tensor, other[key])
    scored = [Study(out).scored(name, 0) for name in ("izi", "izi-features")]
    assert scored[0].total == pytest.approx(scored[1].image)
    assert scored[1].total == pytest.approx(scored[1].image + scored[1].feature)


def test_all_that_share_a_gan_have_the_same(out):
    weights = Detector.load(out / "seed0" / "critic").model.networks["G"].state_dict()
    for name in ("izi_f", "ziz", "izi_f-linear", "denoising"):
        other = Detector.load(out / "seed0" / name).model.networks["G"].state_dict()
        assert all(torch.equal(weights[key], other[key]) for key in weights)


def test_a_finished_study_does_nothing_again(digits, out):
    files = [*out.glob("seed*/*/model/*"), *out.glob("seed*/*/result.json")]
    before = {path: path.stat().st_mtime_ns for path in files}
    states = []
    run_study(digits, out, recipe=RECIPE, seeds=1, on_state=lambda *state: states.append(state))
    assert {path: path.stat().st_mtime_ns for path in files} == before
    assert {state.split()[0] for _, _, state in states} == {"AUC"}


@pytest.mark.parametrize("part", ["train", "anomalous", "masks"])
def test_a_study_whose_images_changed_is_not_resumed(digits, tmp_path, part):
    data, out = shutil.copytree(digits, tmp_path / "data"), tmp_path / "out"
    states = []

    def stop(*state):
        states.append(state)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_study(data, out, recipe=RECIPE, seeds=1, systems=["pca"], on_state=stop)
    image = next((data / part).iterdir())
    saved, times = image.read_bytes(), image.stat()
    Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).save(image)
    with pytest.raises(BadStudy, match=f"the images in {part} have changed since"):
        run_study(data, out, recipe=RECIPE, seeds=1, systems=["pca"], on_state=stop)
    image.write_bytes(saved)
    os.utime(image, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(KeyboardInterrupt):
        run_study(data, out, recipe=RECIPE, seeds=1, systems=["pca"], on_state=stop)


def test_a_study_takes_any_name(digits, tmp_path):
    data = shutil.copytree(digits, tmp_path / "data")
    odd = ["=\udce9{}.png", "{}\n\u202e.png", "n" * 249 + "{:02d}.png", "\\{}.png"]
    for part in ("train", "normal", "anomalous", "masks"):
        for index, path in enumerate(sorted((data / part).iterdir())):
            path.rename(data / part / odd[index % 4].format(index))
    out = tmp_path / "out"
    outcomes = run_study(data, out, recipe=RECIPE, seeds=1, systems=["izi_f", "iterative"])
    assert not any("failed" in outcome for outcome in outcomes)
    page = write_study_report(out).read_text(encoding="utf-8")
    assert "\u202e" not in page
    names = {key[2:] for key in Study(out).scored("izi_f", 0).keys.tolist()}
    assert names == {
        path.name for part in ("normal", "anomalous") for path in (data / part).iterdir()
    }


def test_two_studies_at_a_time_are_refused(digits, tmp_path):
    refused = []

    def another(system, seed, what):
        if not refused and what.startswith("ae"):
            with pytest.raises(BadStudy, match="another process is making this study"):
                run_study(digits, tmp_path / "out", recipe=RECIPE, seeds=1, systems=["ae"])
            refused.append(what)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_study(
            digits, tmp_path / "out", recipe=RECIPE, seeds=1, systems=["ae"], on_state=another
        )
    assert refused


def test_systems_trained_at_once_are_those_trained_one_by_one(digits, tmp_path, caplog):
    threads, ae_was_first = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            states = []
            torch.set_num_threads(count)
            run_study(
                digits,
                tmp_path / f"{count}",
                recipe=RECIPE,
                seeds=1,
                systems=["izi_f", "ae"],
                on_state=lambda *state, kept=states: kept.append(state[::2]),
            )
            assert torch.get_num_threads() == count
            names = [name for name, state in states if state != "waiting"]
            ae_was_first.append(names.index("ae") < names.index("izi_f"))
    finally:
        torch.set_num_threads(threads)
    assert ae_was_first == [False, True]
    assert caplog.text.count("note: only 20 training images") == 2  # once a study
    for name in ("critic", "izi_f", "ae"):
        one, other = (
            read_rows(tmp_path / f"{count}/seed0/{name}/evaluation/scores.csv") for count in (1, 2)
        )
        assert one == other


@pytest.mark.slow
@pytest.mark.parametrize("stop", [("izi_f", "encoder 60 %"), ("izi_f", "testing"), ("ae", "ae ")])
def test_a_study_that_was_stopped_ends_as_if_it_never_was(digits, out, tmp_path, stop):
    def interrupt(system, seed, state):
        if system == stop[0] and state.startswith(stop[1]):
            raise KeyboardInterrupt

    again = tmp_path / "again"
    options = {"recipe": RECIPE, "seeds": 1, "systems": ["izi_f", "ae"]}
    with pytest.raises(KeyboardInterrupt):
        run_study(digits, again, on_state=interrupt, **options)
    critic = again / "seed0/critic/model/model.safetensors"
    before = critic.stat().st_mtime_ns if critic.exists() else None
    assert before or stop[0] == "ae"  # which needs no GAN, and may be trained beside it
    states = []
    run_study(digits, again, on_state=lambda *state: states.append(state), **options)
    if before:
        assert not any(name == "critic" and "gan" in state for name, _, state in states)
        assert critic.stat().st_mtime_ns == before
    for name in ("izi_f", "ae"):
        own, other = (
            load_file(folder / f"seed0/{name}/model/model.safetensors") for folder in (again, out)
        )
        assert all(np.array_equal(own[key], other[key]) for key in other)
        assert read_rows(again / f"seed0/{name}/evaluation/scores.csv") == read_rows(
            out / f"seed0/{name}/evaluation/scores.csv"
        )


@pytest.mark.slow
def test_a_system_that_fails_is_reported_and_the_rest_go_on(digits, tmp_path):
    out = tmp_path / "out"
    broken = out / "seed0" / "ae"
    broken.mkdir(parents=True)
    (broken / "config.yaml").write_text("[")
    found = run_study(digits, out, recipe=RECIPE, seeds=1, systems=["ae", "ziz"])
    outcomes = {outcome["system"]: outcome for outcome in found}
    assert "damaged" in outcomes["ae"]["failed"] and "auc" in outcomes["ziz"]
    page = write_study_report(out).read_text(encoding="utf-8")
    assert "AE, seed 0, failed: BadFolder" in page
    shutil.rmtree(broken)
    again = {o["system"]: o for o in run_study(digits, out, recipe=RECIPE, seeds=1, systems=["ae"])}
    assert "auc" in again["ae"]
    assert not Study(out).failures("ae")


def test_nothing_is_established_whose_interval_holds_zero(out):
    found = findings(Study(out))
    assert [one.claim for one in found] == list(CLAIMS)
    for one in found:
        if one.interval is None or one.interval[0] <= 0 <= one.interval[1]:
            assert one.verdict in ("open", "unknown")
            assert ": holds here" not in one.sentence
        else:
            holds = one.interval[0] > 0 and not one.claim.alike
            assert one.verdict == ("holds" if holds else "reverse")


def test_the_iterative_search_is_compared_on_the_subset(out):
    rows = {row["system"]: row for row in read_rows(out / "tables" / "table1.csv")}
    assert rows["iterative"]["auc"] == ""
    rows = {row["system"]: row for row in read_rows(out / "tables" / "table1_subset.csv")}
    assert 0 <= float(rows["iterative"]["auc"]) <= 1
    beside = Study(out).scored("izi_f", 0, "subset")  # of the seed that both have
    assert float(rows["iterative"]["difference"]) == pytest.approx(
        float(rows["iterative"]["auc"]) - roc_auc_score(beside.labels, beside.total)
    )


def scored(labels, subjects):
    count = len(labels)
    keys = np.array([f"{label} image {number:03d}" for number, label in enumerate(labels)])
    names, values = np.array(subjects), np.arange(float(count))
    terms = values, values, values
    return Scored("image", keys, np.array(labels), names, names, *terms, np.ones(count, int))


def test_the_subset_has_the_shares_of_labels_and_subjects():
    labels = [0] * 700 + [1] * 300
    subjects = tuple(f"subject {number // 100}" for number in range(1000))
    chosen = set(choose_subset(scored(labels, subjects), 100))
    assert len(chosen) == 100
    numbers = np.array([int(key[-3:]) for key in chosen])
    assert set(np.bincount(numbers // 100, minlength=10)) <= {9, 10, 11}
    assert sum(key[0] == "1" for key in chosen) in (29, 30, 31)
    assert len(set(numbers % 100)) > 30  # not always the same places of a subject
    assert len(choose_subset(scored(labels, subjects), 5000)) == 1000


def test_pictures_tell_healthy_from_diseased_cases():
    subjects = ("well", "well", "ill", "ill", "ill")
    blocks, keys = choose_images(scored([0, 0, 0, 0, 1], subjects))
    assert blocks == [
        ("normal, healthy cases", 2),
        ("normal, diseased cases", 2),
        ("anomalous", 1),
    ]
    assert {int(key[-3:]) for key in keys[:2]} == {0, 1}
    assert keys[-1].startswith("1 ")


def test_a_straight_blend_is_smooth_and_a_jump_is_not():
    ends = torch.stack([torch.zeros(1, 4, 4), torch.ones(1, 4, 4)])
    share = torch.linspace(0, 1, 11)[:, None, None, None]
    blend = smoothness([ends[0] + share * (ends[1] - ends[0])])
    assert (blend["largest"], blend["length"]) == pytest.approx((1, 1))
    jump = smoothness([ends[0] + (share > 0.5) * (ends[1] - ends[0])])
    assert jump["largest"] == pytest.approx(10)


def test_an_image_of_half_the_contrast_has_a_quarter_of_the_detail_and_a_blurred_one_less():
    images = np.random.default_rng(0).uniform(-1, 1, (4, 1, 16, 16)).astype(np.float32)
    whole = gradient_energy(images)
    assert gradient_energy(images / 2) == pytest.approx(whole / 4)
    # Neighbours of independent noise differ by twice its variance; means of 2×2 by a quarter of it.
    assert whole == pytest.approx(4 * images.var(), rel=0.1)
    assert gradient_energy(gaussian_filter(images, (0, 0, 1, 1))) < whole / 10


def test_detail_is_told_of_each_system_that_reconstructs(out):
    numbers = json.loads((out / "tables" / "numbers.json").read_text(encoding="utf-8"))
    assert {"izi_f", "izi", "ae"} <= set(numbers["detail"])
    assert "critic" not in numbers["detail"]
    assert list(numbers["detail"].values()) == sorted(numbers["detail"].values())
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "How much detail reconstructions have" in page


def test_every_system_stays_within_the_budget():
    seen = Preprocessing("uint8", 0.0, 255.0, 1, None, (16, 16))
    whole = gan_cost(RECIPE, (1, 16, 16)) + encoder_cost(RECIPE, (1, 16, 16))
    assert SYSTEMS["izi_f"].new(RECIPE).training_cost(seen) == whole
    each = RECIPE.batch_size * new_detector("ae", RECIPE).step_cost(seen)
    assert whole - each < SYSTEMS["ae"].new(RECIPE).training_cost(seen) <= whole
    for system in SYSTEMS.values():
        assert 0 < system.new(RECIPE).training_cost(seen) <= whole


def test_the_rater_tells_images_of_an_untrained_generator(out):
    rater = json.loads((out / "seed0/critic/result.json").read_text())["rater"]
    assert rater["accuracy"] > 0.9
    assert rater["accuracy"] == pytest.approx((rater["of_real"] + rater["of_generated"]) / 2)


def test_chosen_images_score_as_in_the_whole_table(digits, out):
    study, data = Study(out), StudyData.find(digits)
    whole = study.scored("izi_f", 0)
    keys = [whole.keys[place] for place in (20, 3, 11)]
    model = Detector.load(out / "seed0" / "izi_f").model
    found = score_chosen(model, data, "image", keys)
    assert found[:, 0] == pytest.approx(whole.total[[20, 3, 11]], rel=1e-5)
    terms, _ = score_windows(model, windows_of(model, data, "image", keys))
    assert terms == pytest.approx(found[:, 1:], rel=1e-5)


def test_each_window_of_an_image_is_searched(digits, tmp_path):
    for path in digits.glob("*/*.png"):
        wide = np.hstack(3 * [np.asarray(Image.open(path))])
        (tmp_path / "wide" / path.parent.name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(wide).save(tmp_path / "wide" / path.parent.name / path.name)
    states = []
    run_study(
        tmp_path / "wide",
        tmp_path / "out",
        recipe=RECIPE,
        seeds=1,
        systems=["iterative"],
        on_state=lambda *state: states.append(state[::2]),
    )
    rows = read_rows(tmp_path / "out/seed0/critic/evaluation/scores.csv")
    windows = sum(int(row["windows"]) for row in rows)
    assert windows > 3 * len(rows)
    last = [state for name, state in states if name == "iterative"][-2]
    assert last == f"searched {windows} of {windows}"


def test_what_cannot_be_a_study_is_refused(digits, out, tmp_path):
    with pytest.raises(BadStudy, match="has no normal and no anomalous"):
        (tmp_path / "train").mkdir()
        run_study(tmp_path, tmp_path / "out", recipe=RECIPE)
    with pytest.raises(BadStudy, match=r"no system gan: give some of critic, .*denoising, .*pca"):
        run_study(digits, tmp_path / "out", recipe=RECIPE, systems=["gan"])
    with pytest.raises(BadStudy, match=r"begun with other recipe \(base_width\);"):
        run_study(digits, out, recipe=RECIPE.but(base_width=8))
    with pytest.raises(BadStudy, match="holds no study"):
        write_study_report(tmp_path)


def test_training_images_among_the_test_images_are_refused_before_training(digits, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(digits, data)
    trained = sorted((data / "train").iterdir())[:3]
    for path in trained:
        shutil.copy(path, data / "normal" / f"renamed_{path.name}")
    with pytest.raises(BadTestSet, match=r"of 17 normal images \d were trained on and \d calibr"):
        run_study(data, tmp_path / "out", recipe=RECIPE, seeds=1)
    assert not (tmp_path / "out" / "seed0").exists()
    shutil.rmtree(data / "normal")
    shutil.copytree(data / "anomalous", data / "normal")
    with pytest.raises(BadTestSet, match="are the same image: give each image one label"):
        run_study(data, tmp_path / "other", recipe=RECIPE, seeds=1)


def test_lines_of_one_name_are_refused(tmp_path):
    path = tmp_path / "scores.csv"
    path.write_text(
        "label,name,subject,unit,score,image_residual,feature_residual\n"
        + 2 * '0,"a#1@0,0",a,patch,1,1,0\n'
    )
    with pytest.raises(BadStudy, match="different names"):
        Scored.read(path)


# --- retinas ------------------------------------------------------------------------------------

RETINAL = RECIPE.but(geometry="retina", window=(64, 64), image_size=(16, 16))


@pytest.fixture(scope="module")
def eyes(tmp_path_factory):
    """Stores of made-up eyes, flat by their own boundaries, and masks as TIFF stacks."""
    import tifffile

    folder = tmp_path_factory.mktemp("eyes")
    (folder / "masks").mkdir()
    spacing = (0.24, 0.00387, 0.022)
    for kind, seeds in {"train": (0, 1, 2), "normal": (100,), "anomalous": (200, 201)}.items():
        flat = []
        for seed in seeds:
            eye = make_phantom(
                seed, shape=(3, 320, 256), spacing=spacing, diseased=kind == "anomalous"
            )
            scan = Scan(eye.pixels, eye.name, eye.name, spacing, is_volume=True)
            margins = np.zeros(eye.pixels.shape, dtype=np.bool_)
            lines = (eye.boundaries["ILM"], eye.boundaries["RPE outer"])
            space = FlatSpace(RETINAL.flat_rows, RETINAL.flat_base, RETINAL.stretch_retina)
            boundaries = Boundaries(*lines, lines[1], np.ones_like(lines[0]))
            flat.append(make_flat(scan, boundaries, margins, space))
            if kind == "anomalous":
                path = folder / "masks" / f"{eye.name}.tif"
                tifffile.imwrite(path, np.uint8(255) * eye.mask, photometric="minisblack")
        prepare(flat, folder / f"{kind}.zarr")
    return folder


@pytest.mark.slow
def test_patches_are_cut_and_scored_as_in_the_whole_table(eyes, tmp_path):
    out = tmp_path / "out"
    (outcome,) = run_study(eyes, out, recipe=RETINAL, seeds=1, systems=["ae"])
    assert "failed" not in outcome
    whole = Study(out).scored("ae", 0)
    assert whole.unit == "patch"
    keys = choose_subset(whole, 12)
    at = [whole.keys.tolist().index(key) for key in keys]
    model, data = Detector.load(out / "seed0" / "ae").model, StudyData.find(eyes)
    found = score_chosen(model, data, "patch", keys)
    assert found[:, 0] == pytest.approx(whole.total[at], rel=1e-4)
    marked = windows_of(model, data, "patch", keys).masks.any((1, 2))
    assert not (marked & (whole.labels[at] == 0)).any()
    pixels = Study(out).pixels("ae", 0)
    assert pixels.figures["auc"] == pytest.approx(
        Study(out).metrics("ae", 0)["pixel"]["auc"], abs=2e-3
    )
    page = write_study_report(out).read_text(encoding="utf-8")
    assert "not done" in page and "patches of 3 subjects" in page


# --- the command --------------------------------------------------------------------------------


def test_the_command_refuses_a_folder_without_the_parts(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["study", str(tmp_path), "--recipe", "smoke", "--out", str(tmp_path / "out")])
    assert ended.value.code == 1
    said = capsys.readouterr()
    assert "has no train and no normal and no anomalous" in said.err
    assert not said.out  # no table without a line


def test_the_terminal_says_each_outcome_once(capsys):
    with study_commands._table() as on_state:
        for state in ("waiting", "gan 5 %", "gan 50 %", "testing", "AUC 0.912"):
            on_state("izi_f", 2, state)
    shown = capsys.readouterr().out
    assert shown.count("izi_f, seed 2: AUC 0.912") == 1
    assert "gan" not in shown

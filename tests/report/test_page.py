"""The page: what it shows, that it needs nothing from outside, and what its colours mean."""

import base64
import io
import json
import re
from dataclasses import replace
from functools import partial
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from fanogan.phantom.eye import make_phantom
from fanogan.report.en_face import VolumeCase, en_face_picture
from fanogan.report.images import OUTLINE_COLOUR, PAGE_SIDE, overlay, shrink
from fanogan.report.page import Case, write_evaluation_report, write_score_report
from fanogan.report.volume_view import VOLUMES_SHOWN, known_rows
from fanogan.retina.regions import find_regions

VOID = {"meta", "img", "input", "br", "hr", "link"}
BSCANS, ROWS, COLUMNS = 7, 300, 160
LOADING = {"src", "href", "xlink:href", "srcset", "action", "poster", "data"}


class Page(HTMLParser):
    """Texts, pictures and everything that could load something, of one page."""

    def __init__(self, html):
        super().__init__()
        self.html, self.open, self.loads, self.images, self.ids = html, [], [], [], []
        self.texts, self.headings, self.tags = [], [], []
        self.feed(html)
        assert self.open == [], "unclosed elements"

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.tags.append((tag, values))
        self.loads += [value for name, value in attributes if name in LOADING]
        self.ids += [values["id"]] if "id" in values else []
        if tag == "img":
            self.images.append(values)
        if tag == "h3":
            self.headings.append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.texts.append(data)
            if "h3" in self.open:
                self.headings[-1] += data

    @property
    def volumes(self):
        """What each volume's script reads."""
        pattern = r'<script type="application/json">(.*?)</script>'
        return [json.loads(text) for text in re.findall(pattern, self.html, re.DOTALL)]

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.texts))

    def pixels(self, alt):
        uri = next(image["src"] for image in self.images if image["alt"].startswith(alt))
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))

    def count(self, tag, attribute):
        return sum(name == tag and attribute in values for name, values in self.tags)


def case(name="a.png", score=0.2, side=8, **changes):
    picture = np.random.default_rng(3).integers(0, 255, (side, side), dtype=np.uint8)
    whole = Case(
        name=name,
        score=score,
        image_residual=0.0711,
        feature_residual=0.0413,
        p_value=1 / 148,
        flag=True,
        label=None,
        warnings=(),
        size=(side, side),
        picture=picture,
        reconstruction=picture[::-1].copy(),
        residual=np.full((side, side), 0.1, dtype=np.float32),
        mask=None,
    )
    return replace(whole, **changes)


@pytest.fixture(scope="module")
def volumes():
    """Two phantoms whose residuals are their own masks."""
    return [volume(seed, score) for seed, score in ((7, 0.4), (8, 0.2))]


@pytest.fixture(scope="module")
def volumes_page(tmp_path_factory, volumes):
    path = tmp_path_factory.mktemp("volumes") / "report.html"
    write_score_report(
        path,
        title="two eyes",
        model={},
        scale=0.5,
        statement="",
        cases=[case()],
        total=18,
        scores=np.ones(18),
        held_out=np.linspace(0.1, 0.2, 147),
        noun="B-scan",
        volume_cases=volumes,
        steps=b"PNG",
    )
    return Page(path.read_text(encoding="utf-8"))


def volume(seed, score):
    eye = make_phantom(
        seed,
        shape=(BSCANS, ROWS, COLUMNS),
        spacing=(0.4, 0.00387, 0.0228),
        diseased=True,
        lesions=["drusen"],
    )
    rows = np.arange(ROWS)[:, np.newaxis]
    tops, bottoms = eye.boundaries["ILM"], eye.boundaries["Bruch"]
    inside = (rows >= tops[:, np.newaxis]) & (rows <= bottoms[:, np.newaxis])
    residuals = np.where(inside, 0.02 + eye.mask, np.nan).astype(np.float16)
    depth = np.maximum(inside.sum(axis=1), 1)
    en_face = (np.nansum(residuals.astype(np.float32), axis=1) / depth).astype(np.float32)
    scores = eye.mask.mean(axis=(1, 2))
    scores[0] = np.nan
    return VolumeCase(
        name=eye.name,
        score=score,
        p_value=0.25,
        held_out_subjects=3,
        flag=None,
        warnings=("another scanner",),
        bscans=eye.pixels,
        residuals=residuals,
        scores=scores,
        en_face=en_face,
        en_face_scale=0.1,
        spacing=eye.spacing,
        fundus=None,
        regions=find_regions(en_face, residuals.argmax(axis=1), 0.05, eye.spacing),
        masks=eye.mask,
    )


def row(name, kind, auc):
    point = {"threshold": 0.171, "precision": 0.911, "sensitivity": 0.822, "specificity": 0.933}
    return {
        "name": name,
        "kind": kind,
        "auc": auc,
        "auc_interval": [auc - 0.021, auc + 0.019],
        "average_precision": 0.876,
        "average_precision_interval": [0.851, 0.897],
        "youden": {**point, "f_score": 0.864},
    }


def evaluation(method=0.91, brightness=0.66, interval=(0.18, 0.31), **changes):
    honest = [row("brightness", "honest", brightness), row("score inverted", "honest", 1 - method)]
    best = max(honest, key=lambda each: each["auc"])
    whole = {
        "unit": "image",
        "n": 200,
        "n_anomalous": 80,
        "prevalence": 0.4,
        "n_subjects": 12,
        "rows": [row("f-AnoGAN (A)", "method", method), row("A_R", "term", 0.8), *honest],
        "ahead_of_best": {
            "name": best["name"],
            "auc": best["auc"],
            "difference": method - best["auc"],
            "interval": interval,
        },
        "calibrated": {
            "alpha": 0.05,
            "threshold": 0.234,
            "false_positive_rate": 0.083,
            "precision": 0.701,
            "sensitivity": 0.602,
            "specificity": 0.917,
            "f_score": 0.648,
            "note": "Within 6 subjects.",
        },
        "pixel": None,
        "roc": {"fpr": [0, 0.1, 1], "tpr": [0, 0.8, 1]},
        "pixel_roc": None,
    }
    return {**whole, **changes}


def write_scores(folder, cases, **changes):
    settings = {
        "title": "retina/new",
        "model": {"recipe": "small"},
        "scale": 0.25,
        "statement": "A flag means a score above 0.234.",
        "total": len(cases),
        "scores": np.array([entry.score for entry in cases]),
        "held_out": np.linspace(0.1, 0.2, 147),
    }
    path = folder / "report.html"
    write_score_report(path, cases=cases, **{**settings, **changes})
    return Page(path.read_text(encoding="utf-8"))


def write_evaluation(folder, numbers, **changes):
    random = np.random.default_rng(0)
    settings = {
        "title": "retina",
        "model": {},
        "scale": 0.25,
        "statement": "A flag means a score above 0.234.",
        "cases": [case(label=1), case("b.png", 0.1, label=0, flag=False)],
        "total": 200,
        "scores": random.random(200),
        "labels": np.repeat([0, 1], [120, 80]),
        "held_out": random.random(147),
    }
    path = folder / "report.html"
    write_evaluation_report(path, evaluation=numbers, **{**settings, **changes})
    return Page(path.read_text(encoding="utf-8"))


@pytest.fixture
def score_page(tmp_path):
    return partial(write_scores, tmp_path)


@pytest.fixture
def evaluation_page(tmp_path):
    return partial(write_evaluation, tmp_path)


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """A page of three images and two volumes, with something of everything."""
    mask = np.zeros((8, 8), dtype=bool)
    mask[2:6, 2:6] = True
    unusual = ("size outside the training normals",)
    cases = [
        case("b.png", 0.2, label=0, flag=False),
        case("c.png", 0.1, mask=mask),
        case("a.png", 0.3124, label=1, warnings=unusual),
    ]
    volumes = [
        {"name": "eye_07", "score": 0.112, "p_value": 0.0067, "flag": True, "images": 1049},
        {"name": "eye_08", "score": 0.029, "p_value": None, "flag": None, "notes": ["few", "dark"]},
    ]
    folder = tmp_path_factory.mktemp("scored")
    return write_scores(folder, cases, volumes=volumes, warnings=["another scanner"])


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    return write_evaluation(tmp_path_factory.mktemp("evaluated"), evaluation())


# the page of scores


def test_page_loads_nothing(scored):
    page = scored
    assert page.loads
    assert all(value.startswith(("data:image/png;base64,", "#")) for value in page.loads)
    assert not re.search(r"https?:|@import|@font-face|url\((?!#)", page.html)
    assert all(tag not in ("link", "iframe", "object", "embed") for tag, _ in page.tags)
    assert "default-src 'none'" in page.html


def test_page_can_be_read_aloud_and_used_from_the_keyboard(evaluated):
    page = evaluated
    assert all(image["alt"] for image in page.images)
    figures = [values for tag, values in page.tags if tag == "svg"]
    assert len(figures) == 2
    assert all(values["role"] == "img" and values["aria-label"] for values in figures)
    assert len(page.ids) == len(set(page.ids))
    references = re.findall(r'url\(#([^)]*)\)|href="#([^"]*)"', page.html)
    assert references
    assert {first or second for first, second in references} <= set(page.ids)
    enlarging = [values for tag, values in page.tags if tag == "input"]
    assert [values["aria-label"] for values in enlarging] == [
        "Enlarge the pictures of a.png",
        "Enlarge the pictures of b.png",
    ]


def test_gallery_runs_from_the_highest_score_down(scored):
    assert scored.headings == ["1a.png", "2b.png", "3c.png"]


def test_a_p_value_that_cannot_be_smaller_is_shown_as_what_it_is(tmp_path):
    path = tmp_path / "report.html"
    few = [case(p_value=1 / 3, held_out_subjects=2), case(p_value=2 / 3, held_out_subjects=2)]
    write_score_report(
        path,
        title="",
        model={},
        scale=0.5,
        statement="",
        cases=few,
        total=2,
        scores=np.array([0.2, 0.2]),
        held_out=np.zeros(98),
    )
    text = Page(path.read_text(encoding="utf-8")).text
    assert "above both held-out subjects; two can show no less than 1/3 (n = 98)" in text
    assert "p = 0.667 (n = 98)" in text and "p = 0.333" not in text


def test_numbers_of_a_case_are_shown(scored):
    for words in (
        "0.3124",
        "image 0.07110",
        "features 0.04130",
        "p = 0.007 (n = 147)",
        "▲ flagged",
        "image 8 × 8",
        "size outside the training normals",
        "A flag means a score above 0.234.",
        "scale fixed by the held-out normals",
        "0.2500 and above",
        "Research use only, not a medical device.",
    ):
        assert words in scored.text, words


def test_what_is_unknown_is_not_claimed(score_page):
    page = score_page([case(p_value=None, flag=None, reconstruction=None, residual=None)])
    card = page.html[page.html.index('<li class="card"') : page.html.index("</li>")]
    assert "flagged" not in card
    assert "label:" not in card
    assert "p =" not in card
    assert card.count("<img") == 1


def test_labels_are_words(scored):
    assert "label: anomalous" in scored.text
    assert "label: normal" in scored.text
    assert "not flagged" in scored.text


def test_extent_of_the_gallery_is_said(score_page, scored):
    scores = np.linspace(0, 1, 4321)
    page = score_page([case(score=scores[-2]), case("b.png", 1.0)], total=4321, scores=scores)
    assert "the 2 highest of 4,321" in page.text
    assert "all 3 images" in scored.text


def test_a_gallery_of_other_images_is_not_called_the_highest(score_page):
    page = score_page([case(score=0.9), case("b.png", 0.2)], total=9, scores=np.arange(1, 10) / 10)
    assert "2 of 9 images" in page.text
    assert "the 2 highest" not in page.text


def test_filters_count_and_mark_what_they_show(scored):
    page = scored
    assert "flagged 2" in page.text
    assert "warnings 1" in page.text
    assert page.count("li", "data-flagged") == 2
    assert page.count("li", "data-warned") == 1
    filters = next(values for tag, values in page.tags if values.get("class") == "filters")
    assert "hidden" in filters, "without JavaScript there is nothing to press"


def test_hostile_names_stay_text(score_page):
    hostile = '<script>alert("x")</script>.png'
    volumes = [{"name": hostile, "score": 0.5}]
    page = score_page(
        [case(hostile, warnings=(hostile,))],
        title=hostile,
        statement=hostile,
        model={hostile: hostile},
        volumes=volumes,
        warnings=[hostile],
    )
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert "<script>alert" not in page.html
    assert page.headings[0].endswith(hostile)
    assert any(image["alt"] == f"image {hostile}" for image in page.images)


def test_table_of_volumes(scored):
    for words in ("eye_07", "0.1120", "0.007", "yes", "1,049", "eye_08", "0.02900", "few; dark"):
        assert words in scored.text, words


def test_warnings_of_the_run_are_shown(scored):
    assert "another scanner" in scored.text


def test_without_held_out_normals_the_page_is_written(score_page):
    page = score_page([case(p_value=None, flag=None)], held_out=np.array([]))
    assert "held-out normals (" not in page.text
    assert "scored images (1)" in page.text


def test_small_pictures_are_kept_and_shown_pixel_by_pixel(scored):
    entry, page = case(), scored
    np.testing.assert_array_equal(page.pixels("image a.png"), entry.picture)
    assert 'class="pictures pixelated"' in page.html
    expected = overlay(entry.picture, entry.residual, 0.25)
    np.testing.assert_array_equal(page.pixels("residual of a.png"), expected)


def test_large_pictures_are_downsampled_for_the_page(score_page):
    rows, columns = 300, 1100
    picture = np.zeros((rows, columns, 3), dtype=np.uint8)
    residual = np.zeros((rows, columns), dtype=np.float32)
    mask = np.zeros((rows, columns), dtype=bool)
    mask[100:200, 500:600] = True
    large = case(
        size=(rows, columns),
        picture=shrink(picture),
        reconstruction=None,
        residual=shrink(residual),
        mask=shrink(mask.astype(np.float32)) > 0,
    )
    page = score_page([large])
    assert page.pixels("image a.png").shape == (140, PAGE_SIDE, 3)
    layer = page.pixels("residual of a.png")
    assert layer.shape == (140, PAGE_SIDE, 3)
    edge = [layer[r, c].astype(int) for r, c in ((60, 232), (60, 279), (46, 255), (93, 255))]
    assert all(min(pixel[1:]) > 150 and pixel[0] < 120 for pixel in edge)
    uris = [image["src"] for image in page.images if "a.png" in image["alt"]]
    assert all(uri.startswith("data:image/webp;base64,") for uri in uris)
    assert 'class="pictures pixelated"' not in page.html
    assert "image 300 × 1100" in page.text


def test_mask_of_a_small_picture_is_a_thin_contour(scored):
    layer = scored.pixels("residual of c.png")
    drawn = (layer == OUTLINE_COLOUR).all(axis=-1)
    assert drawn.any()
    assert drawn.mean() < 0.02


@pytest.mark.parametrize("field", ["residual", "mask"])
def test_nothing_is_written_when_a_case_does_not_fit(tmp_path, score_page, field):
    with pytest.raises(ValueError, match=r"a\.png"):
        score_page([case(**{field: np.zeros((4, 8), dtype=np.float32)})])
    assert list(tmp_path.iterdir()) == []


# the page of an evaluation


def test_numbers_of_an_evaluation_are_shown(evaluated):
    text = evaluated.text
    for words in (
        "Per image, whether it is anomalous: f-AnoGAN (A) reaches AUC 0.910",
        "AUC 0.910 (95 % interval 0.889 to 0.929)",
        "200 images of 12 subjects; 80 (40.0 %) are anomalous",
        "AUC 0.910",
        "Youden's point, chosen on the test labels",
        "calibrated threshold, 5.0 % asked for",
        "calibrated threshold 0.2340",
        "5.0 % asked for, 8.3 % reached",
        "Within 6 subjects.",
        "normal (120)",
        "anomalous (80)",
        "brightness",
        "score inverted",
        "0.876",
        "0.851 to 0.897",
        "0.822",
        "0.602",
        "0.648",
        "Research use only, not a medical device.",
    ):
        assert words in text, words
    assert "does better" not in text
    assert "▲ better" not in text
    assert "below 0.5" not in text


@pytest.mark.parametrize(
    ("interval", "words"),
    [
        (
            (0.18, 0.31),
            "It is ahead of every score that needs no trained network: 0.250 above brightness "
            "(AUC 0.660), 95 % interval of the difference 0.180 to 0.310.",
        ),
        (
            (-0.02, 0.31),
            "It isn't told apart from the best score that needs no trained network: 0.250 above "
            "brightness (AUC 0.660), 95 % interval of the difference -0.020 to 0.310.",
        ),
        (
            None,
            "It is 0.250 above brightness (AUC 0.660), the best score that needs no trained "
            "network.",
        ),
    ],
)
def test_the_first_line_says_whether_it_beats_what_needs_no_learning(
    evaluation_page, interval, words
):
    assert words in evaluation_page(evaluation(interval=interval)).text


def test_the_first_lines_say_what_each_unit_answers(evaluation_page):
    figures = {"n": 9, "n_anomalous": 6, "auc": 0.944, "auc_interval": [0.8, 1.0]}
    bscans = {**figures, "n": 144, "auc": 0.866}
    found = evaluation(interval=(0.1, 0.3))
    found |= {"unit": "patch", "larger": {"image": bscans, "volume": figures}}
    found["pixel"] = {"auc": 0.951, "trivial": {"gradient": 0.7, "row means": 0.911}}
    text = evaluation_page(found).text
    places = [
        text.index(words)
        for words in (
            "Per volume, whether an eye is anomalous: AUC 0.944 (95 % interval 0.800 to 1.000)",
            "Per B-scan, whether one is: AUC 0.866 (95 % interval 0.800 to 1.000) on 144 B-scans.",
            "Per patch, whether this part of a B-scan is: f-AnoGAN (A) reaches AUC",
            "Per pixel, where it is: AUC 0.951, the best trivial map (row means) 0.911.",
            "It is ahead of every score",
            "Results",
        )
    ]
    assert places == sorted(places)


def test_a_trivial_score_that_wins_is_said_at_the_top(evaluation_page):
    page = evaluation_page(evaluation(method=0.71, brightness=0.88))
    sentence = "A trivial score does better: brightness reaches AUC 0.880, f-AnoGAN (A) 0.710."
    assert sentence in page.text
    assert page.text.index(sentence) < page.text.index("Results")
    assert page.text.count("▲ better") == 1


def test_worse_than_chance_is_said(evaluation_page):
    text = evaluation_page(evaluation(method=0.41, brightness=0.3)).text
    assert "The AUC is below 0.5 (0.410)" in text and "look at the labels" in text
    assert "A trivial score does better: score inverted reaches AUC 0.590" in text


def test_too_few_held_out_gives_no_threshold(evaluation_page):
    calibrated = {**evaluation()["calibrated"], "threshold": None, "note": "Too few held out."}
    text = evaluation_page(evaluation(calibrated=calibrated)).text
    assert "at the calibrated threshold: none" in text
    assert "Too few held out." in text
    assert "asked for" not in text
    assert "0.648" not in text


def test_pixels_have_their_curve_and_numbers(evaluation_page):
    point = {"threshold": 0.31, "precision": 0.2, "sensitivity": 0.7, "specificity": 0.75}
    trivial = {"darkness": 0.801, "gradient": 0.6}
    pixel = {"auc": 0.783, "trivial": trivial, "youden": point, "prevalence": 0.034}
    pixel["regions"] = {"threshold": 0.222, "dice": 0.311, "iou": None, "lesions": 1234}
    curve = {"fpr": [0, 0.5, 1], "tpr": [0, 0.9, 1]}
    page = evaluation_page(evaluation(pixel=pixel, pixel_roc=curve))
    assert [tag for tag, _ in page.tags].count("svg") == 3
    for words in (
        "AUC 0.783",
        "3.4 %",
        "0.311",
        "0.2220",
        "1,234",
        "threshold 0.3100, precision 0.200",
    ):
        assert words in page.text, words
    assert "A trivial map does better: darkness reaches pixel AUC 0.801" in page.text
    assert "pixel AUC of gradient, a trivial map" in page.text


# volumes


def part(entry, count):
    """The first B-scans of a volume."""
    names = ("bscans", "residuals", "masks", "scores", "en_face")
    return replace(entry, regions=(), **{name: getattr(entry, name)[:count] for name in names})


def decode(uri):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))


def whole_volume(page, index):
    """The pictures of all B-scans: those of the worst are in the page, the others in its script."""
    data = page.volumes[index]
    worst = data["bscans"].index(None)
    layers = [values for tag, values in page.tags if tag == "img" and "data-layer" in values]
    mine = layers[3 * index : 3 * index + 3]
    data["bscans"][worst] = {values["data-layer"]: values["src"] for values in mine}
    return data["bscans"], worst


def test_volumes_come_first_and_open_on_their_worst_bscan(volumes_page, volumes):
    page = volumes_page
    assert page.headings == ["1phantom_0007", "2phantom_0008", "1a.png"]
    assert page.text.index("phantom_0007") < page.text.index("scored B-scans (18)")
    for index, entry in enumerate(volumes):
        bscans, worst = whole_volume(page, index)
        assert len(bscans) == BSCANS
        assert worst == np.nanargmax(entry.scores)
        assert f"B-scan {worst} · score" in page.text
    sliders = [values for tag, values in page.tags if values.get("type") == "range"]
    assert [(values["max"], values["value"]) for values in sliders] == [
        (str(BSCANS - 1), str(np.nanargmax(entry.scores))) for entry in volumes
    ]
    assert "above all 3 held-out subjects; 3 can show no less than 1/4" in page.text
    assert "another scanner" in page.text
    assert page.volumes[0]["scores"][0] == "–"


def test_page_of_volumes_loads_nothing_and_is_small(volumes_page):
    page = volumes_page
    assert all(value.startswith(("data:image/", "#")) for value in page.loads)
    assert not re.search(r"https?:|@import|@font-face|url\((?!#)", page.html)
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in page.html
    assert all(image["alt"] for image in page.images)
    assert len(page.ids) == len(set(page.ids))
    for data in page.volumes:
        sizes = [len(json.dumps(bscan)) for bscan in data["bscans"]]
        assert max(sizes) < 40_000


def test_bscans_show_the_scan_its_residual_and_its_truth(volumes_page, volumes):
    entry, (bscans, _) = volumes[0], whole_volume(volumes_page, 0)
    rows = known_rows(entry)
    assert 0 < rows.start < rows.stop < ROWS
    for frame, pictures in enumerate(bscans):
        scan, residual, truth = (decode(pictures[key]) for key in ("scan", "residual", "truth"))
        height = rows.stop - rows.start
        assert scan.shape[:2] == residual.shape[:2] == truth.shape[:2] == (height, COLUMNS)
        error = scan.astype(float).reshape(height, COLUMNS, -1)[..., 0] - entry.bscans[frame, rows]
        assert np.abs(error).mean() < 12
        known = np.isfinite(entry.residuals[frame, rows])
        assert (residual[..., 3][~known] == 0).all(), "painted where nothing is known"
        lesion = entry.masks[frame, rows] & known
        assert (residual[..., 3][lesion] == round(255 * 0.85)).all()
        outlined = truth[..., 3] > 0
        assert outlined.any() == entry.masks[frame, rows].any()
        assert not outlined[~entry.masks[frame, rows]].any()


def test_columns_are_brought_to_the_page_and_nothing_unknown_is_painted(score_page, volumes):
    few = part(volumes[0], 3)
    wide = {
        name: np.repeat(getattr(few, name), 4, axis=2) for name in ("bscans", "residuals", "masks")
    }
    entry = replace(few, en_face=np.repeat(few.en_face, 4, axis=1), **wide)
    page = score_page([], volume_cases=[entry], total=9, scores=np.ones(9))
    (bscans, worst), rows = whole_volume(page, 0), known_rows(entry)
    height = round((rows.stop - rows.start) * 512 / 640)
    assert decode(bscans[worst]["scan"]).shape[:2] == (height, 512)
    alpha = decode(bscans[worst]["residual"])[..., 3]
    assert alpha.shape == (round((rows.stop - rows.start) * 256 / 640), 256)
    known = np.isfinite(entry.residuals[worst, rows].astype(np.float32))
    places = ((np.argwhere(alpha > 0) + 0.5) * known.shape / alpha.shape).astype(int)
    assert len(places) and known[tuple(places.T)].all()


def test_regions_are_listed_with_their_numbers(volumes_page, volumes):
    page = volumes_page
    regions = [region for entry in volumes for region in entry.regions]
    assert min(len(entry.regions) for entry in volumes) >= 2
    rows = [values["data-bscan"] for tag, values in page.tags if tag == "tr" and values]
    assert rows == [str(region.bscan) for region in regions]
    for region in regions:
        cells = [
            f"{region.x_mm:+.2f}".replace("-", "−"),
            f"{region.area_mm2:.3f}",
            f"{region.peak:#.4g}",
        ]
        assert all(f"<td>{cell}</td>" in page.html for cell in cells)
    rings = [values for _, values in page.tags if str(values.get("class")).startswith("ring")]
    shown = [values["data-bscan"] for values in rings if "hidden" not in values]
    assert shown
    assert set(shown) <= {str(entry.worst) for entry in volumes}
    assert f"with {len(volumes[0].regions)} regions outlined" in page.html


def test_line_on_the_map_is_the_bscan(volumes_page, volumes):
    page = volumes_page
    rows, columns = en_face_picture(volumes[0]).shape[:2]
    drawn = [values for tag, values in page.tags if tag == "line"]
    lines = page.volumes[0]["lines"]
    assert [float(drawn[0][end]) for end in ("x1", "y1", "x2", "y2")] == lines[volumes[0].worst]
    assert [line[0] for line in lines] == [0] * BSCANS
    assert [line[2] for line in lines] == [columns] * BSCANS
    steps = np.diff([line[1] for line in lines])
    np.testing.assert_allclose(steps, (rows - 32) / BSCANS, atol=0.11)


def test_more_volumes_than_a_page_holds_are_in_the_table(score_page, volumes):
    one = replace(part(volumes[0], 1), masks=None, scores=np.array([0.3]))
    many = [replace(one, name=f"eye_{i:02d}") for i in range(14)]
    table = [{"name": entry.name, "score": entry.score} for entry in many]
    entries = {"volume_cases": many, "volumes": table, "noun": "B-scan"}
    page = score_page([case()], **entries, total=14, scores=np.ones(14))
    assert page.count("section", "data-worst") == VOLUMES_SHOWN == 12
    assert "12 of 14 are shown with their B-scans; all are in the table below" in page.text
    assert "eye_13" in page.text
    assert "14 B-scans of 14 volumes scored." in page.text
    assert "which volumes and which B-scans are unlike the normals" in page.text
    assert "No region of the map exceeds what held-out volumes show." in page.text


def test_without_held_out_volumes_the_map_has_no_colours(score_page, volumes):
    entry = replace(part(volumes[0], 2), en_face_scale=float("inf"), p_value=None)
    page = score_page([], volume_cases=[entry], total=9, scores=np.ones(9))
    assert "No volume was held out of training" in page.text
    assert "p =" not in page.text


def test_the_map_of_shape_stands_beside_the_b_scans(score_page, volumes):
    eye = part(volumes[0], 2)
    shape = np.full(eye.en_face.shape, 2.0, dtype=np.float32)
    for case, maps in ((replace(eye, shape=shape), 1), (eye, 0)):
        page = score_page([], volume_cases=[case], total=9, scores=np.ones(9))
        found = [one for one in page.images if one["alt"].startswith("En-face map of the retina")]
        assert len(found) == maps


def test_evaluation_shows_volumes_and_steps(evaluation_page, volumes):
    stream = io.BytesIO()
    Image.new("RGB", (30, 20), (9, 8, 7)).save(stream, "PNG")
    larger = {"image": {"n": 18, "n_anomalous": 7, "auc": 0.87, "auc_interval": [0.8, 0.9]}}
    numbers = evaluation(unit="patch", larger=larger)
    page = evaluation_page(numbers, volume_cases=[part(volumes[0], 2)], steps=stream.getvalue())
    assert page.headings[0] == "1phantom_0007"
    assert (page.pixels("Steps of preprocessing") == (9, 8, 7)).all()
    assert "as in Fig. 4 of the paper" in page.text
    assert page.text.index("Preprocessing") > page.text.index("a.png")
    assert "All volumes" in page.text
    assert "on 200 patches of 12 subjects" in page.text
    assert "B-scans 2 B-scans, highest score first" in page.text
    sentence = "whole B-scans: AUC 0.870 (95 % interval 0.800 to 0.900) on 18 B-scans, 7 anomalous"
    assert sentence in page.text


def test_hostile_names_of_volumes_stay_text(score_page, volumes):
    hostile = '<script>alert("x")</script>'
    entry = replace(part(volumes[0], 2), name=hostile, warnings=(hostile,))
    page = score_page([], volume_cases=[entry], total=9, scores=np.ones(9))
    assert "<script>alert" not in page.html
    assert page.headings == [f"1{hostile}"]

"""The page: what it shows, that it needs nothing from outside, and what its colours mean."""

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from fanogan.report import (
    OUTLINE_COLOUR,
    PAGE_SIDE,
    Case,
    outline,
    overlay,
    write_evaluation_report,
    write_score_report,
)

VOID = {"meta", "img", "input", "br", "hr", "link"}
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
        picture=picture,
        reconstruction=picture[::-1].copy(),
        residual=np.full((side, side), 0.1, dtype=np.float32),
        mask=None,
    )
    return replace(whole, **changes)


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


def evaluation(method=0.91, brightness=0.66, **changes):
    honest = [row("brightness", "honest", brightness), row("score inverted", "honest", 1 - method)]
    whole = {
        "unit": "image",
        "n": 200,
        "n_anomalous": 80,
        "prevalence": 0.4,
        "n_subjects": 12,
        "rows": [row("f-AnoGAN (A)", "method", method), row("A_R", "term", 0.8), *honest],
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


@pytest.fixture
def score_page(tmp_path):
    def write(cases, **changes):
        settings = {
            "title": "retina/new",
            "model": {"recipe": "small"},
            "scale": 0.25,
            "statement": "A flag means a score above 0.234.",
            "total": len(cases),
            "scores": np.array([entry.score for entry in cases]),
            "held_out": np.linspace(0.1, 0.2, 147),
        }
        path = tmp_path / "report.html"
        write_score_report(path, cases=cases, **{**settings, **changes})
        return Page(path.read_text(encoding="utf-8"))

    return write


@pytest.fixture
def evaluation_page(tmp_path):
    def write(numbers, **changes):
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
        path = tmp_path / "report.html"
        write_evaluation_report(path, evaluation=numbers, **{**settings, **changes})
        return Page(path.read_text(encoding="utf-8"))

    return write


# colours


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3)])
def test_no_residual_leaves_the_picture_as_it_is(shape):
    picture = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    layer = overlay(picture, np.zeros((5, 7), dtype=np.float32), 0.3)
    grey = picture if picture.ndim == 3 else np.stack([picture] * 3, axis=-1)
    assert layer.dtype == np.uint8
    np.testing.assert_array_equal(layer, grey)


def test_one_residual_has_one_colour_whatever_else_the_map_holds():
    picture = np.full((1, 2), 90, dtype=np.uint8)
    calm = overlay(picture, np.array([[0.1, 0.0]], dtype=np.float32), 0.5)
    wild = overlay(picture, np.array([[0.1, 1.9]], dtype=np.float32), 0.5)
    np.testing.assert_array_equal(calm[0, 0], wild[0, 0])
    assert (calm[0, 0] != 90).any()


def test_one_residual_is_laid_on_alike_whatever_the_picture_brightest_pixel():
    residual = np.array([[0.2, 0.2]], dtype=np.float32)
    dark = overlay(np.array([[40, 41]], dtype=np.uint8), residual, 0.5)
    bright = overlay(np.array([[40, 255]], dtype=np.uint8), residual, 0.5)
    np.testing.assert_array_equal(dark[0, 0], bright[0, 0])


def test_colour_saturates_at_the_scale_and_not_before():
    picture = np.full((1, 4), 60, dtype=np.uint8)
    below, at, above, far = overlay(picture, np.array([[0.35, 0.4, 0.41, 2.0]]), 0.4)[0]
    np.testing.assert_array_equal(at, above)
    np.testing.assert_array_equal(at, far)
    assert (below != at).any()


def test_colour_departs_from_black_in_order_of_the_residual():
    layer = overlay(np.zeros((1, 64), dtype=np.uint8), np.linspace(0, 0.4, 64)[np.newaxis], 0.4)
    luminance = layer[0] @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(luminance) >= 0).all()
    assert luminance[-1] > 150


def test_scale_zero_shows_any_residual_at_the_strongest():
    picture = np.zeros((1, 3), dtype=np.uint8)
    none, little, much = overlay(picture, np.array([[0.0, 1e-6, 1.0]]), 0.0)[0]
    assert (none == 0).all()
    np.testing.assert_array_equal(little, much)


@pytest.mark.parametrize("scale", [-0.1, float("nan"), float("inf")])
def test_a_scale_that_means_nothing_is_refused(scale):
    with pytest.raises(ValueError, match="colour scale"):
        overlay(np.zeros((2, 2), dtype=np.uint8), np.zeros((2, 2)), scale)


@pytest.mark.parametrize(
    ("picture", "residual", "sentence"),
    [
        (np.zeros((2, 2), dtype=np.uint8), np.zeros((2, 3)), "doesn't fit"),
        (np.zeros((2, 2), dtype=np.float32), np.zeros((2, 2)), "must be uint8"),
        (np.zeros((2, 2, 4), dtype=np.uint8), np.zeros((2, 2)), "must be uint8"),
    ],
)
def test_arrays_that_do_not_belong_together_are_refused(picture, residual, sentence):
    with pytest.raises(ValueError, match=sentence):
        overlay(picture, residual, 1.0)


def test_outline_is_the_inner_edge_closed_at_the_border():
    picture = np.full((6, 6), 50, dtype=np.uint8)
    mask = np.zeros((6, 6), dtype=bool)
    mask[2:, 2:] = True
    drawn = (outline(picture, mask) == OUTLINE_COLOUR).all(axis=-1)
    expected = mask.copy()
    expected[3:5, 3:5] = False
    np.testing.assert_array_equal(drawn, expected)
    assert (picture == 50).all()


# the page of scores


def test_page_loads_nothing(score_page):
    page = score_page([case(mask=np.eye(8, dtype=bool), warnings=("odd",))])
    assert page.loads
    assert all(value.startswith(("data:image/png;base64,", "#")) for value in page.loads)
    assert not re.search(r"https?:|@import|@font-face|url\((?!#)", page.html)
    assert all(tag not in ("link", "iframe", "object", "embed") for tag, _ in page.tags)
    assert "default-src 'none'" in page.html


def test_page_can_be_read_aloud_and_used_from_the_keyboard(evaluation_page):
    page = evaluation_page(evaluation())
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


def test_gallery_runs_from_the_highest_score_down(score_page):
    page = score_page([case("b.png", 0.2), case("c.png", 0.1), case("a.png", 0.3)])
    assert page.headings == ["1a.png", "2b.png", "3c.png"]


def test_numbers_of_a_case_are_shown(score_page):
    page = score_page([case(score=0.1124, warnings=("size outside the training normals",))])
    for words in (
        "0.1124",
        "image 0.07110",
        "features 0.04130",
        "p = 0.007 (n = 147)",
        "▲ flagged",
        "image 8 × 8",
        "size outside the training normals",
        "A flag means a score above 0.234.",
        "scale fixed by the held-out normals",
        "0.2500 and above",
        "research use only, not a medical device",
    ):
        assert words in page.text, words


def test_what_is_unknown_is_not_claimed(score_page):
    page = score_page([case(p_value=None, flag=None, reconstruction=None, residual=None)])
    card = page.html[page.html.index('<li class="card"') : page.html.index("</li>")]
    assert "flagged" not in card
    assert "label:" not in card
    assert "p =" not in card
    assert card.count("<img") == 1


def test_labels_are_words(score_page):
    text = score_page([case(label=1), case("b.png", 0.1, label=0, flag=False)]).text
    assert "label: anomalous" in text
    assert "label: normal" in text
    assert "not flagged" in text


@pytest.mark.parametrize(
    ("total", "extent"), [(4321, "the 2 highest of 4,321"), (2, "all 2 images")]
)
def test_extent_of_the_gallery_is_said(score_page, total, extent):
    scores = np.linspace(0, 1, total)
    page = score_page([case(score=scores[-2]), case("b.png", 1.0)], total=total, scores=scores)
    assert extent in page.text


def test_a_gallery_of_other_images_is_not_called_the_highest(score_page):
    page = score_page([case(score=0.9), case("b.png", 0.2)], total=9, scores=np.arange(1, 10) / 10)
    assert "2 of 9 images" in page.text
    assert "the 2 highest" not in page.text


def test_filters_count_and_mark_what_they_show(score_page):
    page = score_page([case(), case("b.png", flag=False, warnings=("odd",)), case("c.png")])
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


def test_table_of_volumes(score_page):
    volumes = [
        {"name": "eye_07", "score": 0.112, "p_value": 0.0067, "flag": True, "images": 1049},
        {"name": "eye_08", "score": 0.029, "p_value": None, "flag": None, "notes": ["few", "dark"]},
    ]
    text = score_page([case()], volumes=volumes).text
    for words in ("eye_07", "0.1120", "0.007", "yes", "1,049", "eye_08", "0.02900", "few; dark"):
        assert words in text, words


def test_warnings_of_the_run_are_shown(score_page):
    assert "another scanner" in score_page([case()], warnings=["another scanner"]).text


def test_without_held_out_normals_the_page_is_written(score_page):
    page = score_page([case(p_value=None, flag=None)], held_out=np.array([]))
    assert "held-out normals (" not in page.text
    assert "scored images (1)" in page.text


def test_small_pictures_are_kept_and_shown_pixel_by_pixel(score_page):
    entry = case()
    page = score_page([entry])
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
    page = score_page([case(picture=picture, reconstruction=None, residual=residual, mask=mask)])
    assert page.pixels("image a.png").shape == (140, PAGE_SIDE, 3)
    layer = page.pixels("residual of a.png")
    assert layer.shape == (140, PAGE_SIDE, 3)
    assert (layer == OUTLINE_COLOUR).all(axis=-1).any()
    assert 'class="pictures pixelated"' not in page.html
    assert "image 300 × 1100" in page.text


def test_mask_of_a_small_picture_is_a_thin_contour(score_page):
    mask = np.zeros((8, 8), dtype=bool)
    mask[2:6, 2:6] = True
    layer = score_page([case(mask=mask)]).pixels("residual of a.png")
    drawn = (layer == OUTLINE_COLOUR).all(axis=-1)
    assert drawn.any()
    assert drawn.mean() < 0.02


@pytest.mark.parametrize("field", ["residual", "mask"])
def test_nothing_is_written_when_a_case_does_not_fit(tmp_path, score_page, field):
    with pytest.raises(ValueError, match=r"a\.png"):
        score_page([case(**{field: np.zeros((4, 8), dtype=np.float32)})])
    assert list(tmp_path.iterdir()) == []


# the page of an evaluation


def test_numbers_of_an_evaluation_are_shown(evaluation_page):
    text = evaluation_page(evaluation()).text
    for words in (
        "f-AnoGAN (A) reaches AUC 0.910 (95 % interval 0.889 to 0.929)",
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
        "research use only, not a medical device",
    ):
        assert words in text, words
    assert "does better" not in text
    assert "▲ better" not in text
    assert "below 0.5" not in text


def test_a_trivial_score_that_wins_is_said_at_the_top(evaluation_page):
    page = evaluation_page(evaluation(method=0.71, brightness=0.88))
    sentence = "A trivial score does better: brightness reaches AUC 0.880, f-AnoGAN (A) 0.710."
    assert sentence in page.text
    assert page.text.index(sentence) < page.text.index("Results")
    assert page.text.count("▲ better") == 1


def test_worse_than_chance_is_said(evaluation_page):
    text = evaluation_page(evaluation(method=0.41, brightness=0.3)).text
    assert "The AUC is below 0.5 (0.410)" in text
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
    pixel = {"auc": 0.783, "darkness_auc": 0.801, "youden": point, "prevalence": 0.034}
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

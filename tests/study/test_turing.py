"""The visual Turing test: the page in a browser, what it hides, and the scores by hand."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fanogan.cli.parser import main
from fanogan.data.patches import seeded
from fanogan.detectors import FAnoGAN
from fanogan.recipes.recipe import load_recipe
from fanogan.study import turing
from fanogan.study.turing import BadTest, kappa, real_windows, score_answers, write_test
from fanogan.training import Run

TINY = load_recipe("smoke").but(critic_updates=4, encoder_updates=4, horizontal_flip=False)


def stripes(count: int, side: int = 16, seed: int = 0) -> np.ndarray:
    """(count, side, side) uint8, each of its own."""
    random = np.random.default_rng(seed)
    rows = random.integers(40, 200, (count, side, 1))
    return np.clip(rows + random.integers(-20, 20, (count, side, side)), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def detector() -> FAnoGAN:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "HEALTH_IMAGES", 64)
        patch.setattr(Run, "REESTIMATE_BATCHES", 5)
        return FAnoGAN(TINY, device="cpu").fit(stripes(40))


@pytest.fixture(scope="module")
def model(detector: FAnoGAN, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("turing") / "model"
    detector.save(folder)
    return folder


@pytest.fixture(scope="module")
def made(detector: FAnoGAN, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A test of 60 whole images."""
    out = tmp_path_factory.mktemp("turing") / "test"
    write_test(detector.model, stripes(60, seed=1), out)
    return out


def pngs_of(page: Path) -> list[bytes]:
    found = re.search(r'id="images">(.+?)</script>', page.read_text("utf-8"))
    assert found
    return [base64.b64decode(text) for text in json.loads(found[1])]


def pixels_of(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)))


# --- what the test consists of ------------------------------------------------------------------


def test_half_are_images_of_the_user_and_half_are_made_by_the_generator(detector, made):
    pngs = pngs_of(made / "turing.html")
    truth = json.loads((made / "key.json").read_text())["truth"]
    assert len(pngs) == len(truth) == 100
    given = {image.tobytes() for image in stripes(60, seed=1)}
    shown = {"real": [], "generated": []}
    for number, png in enumerate(pngs, 1):
        shown[truth[str(number)]].append(pixels_of(png))
    assert len({image.tobytes() for image in shown["real"]} & given) == 50
    # Each generated image is G(z) of a z from N(0, I), up to rounding to 8 bits.
    generator = seeded(torch.device("cpu"), 0, "turing")
    real_windows(detector.model, stripes(60, seed=1), generator)
    with torch.inference_mode():
        x = detector.model.networks["G"](torch.randn(50, TINY.latent_size, generator=generator))
    expected = {
        np.round((image + 1) * 127.5).astype(np.uint8).tobytes() for image in x[:, 0].numpy()
    }
    assert {image.tobytes() for image in shown["generated"]} == expected


def test_windows_of_large_images_come_from_all_of_them_and_none_twice(detector):
    seen = dataclasses.replace(detector.model.preprocessing, window=(16, 16))
    large = detector.model.but(preprocessing=seen)
    # The grey value says which image a window is of, the gradient along the columns where it is.
    images = np.stack([np.full((16, 21), 10 * i) + np.arange(21) for i in range(10)])
    x = real_windows(large, images.astype(np.uint8), seeded(torch.device("cpu"), 3))
    grey = np.round((x[:, 0].numpy() + 1) * 127.5)
    assert x.shape == (50, 1, 16, 16)
    assert len(np.unique(grey[:, 0, 0])) == 50
    assert sorted(grey[:10, 0, 0] // 10) == list(range(10))
    with pytest.raises(BadTest, match=r"only 48 different windows .* the test needs 50"):
        real_windows(large, images[:8].astype(np.uint8), seeded(torch.device("cpu"), 3))


def test_real_images_are_mirrored_as_the_generator_has_learnt_them(detector):
    mirroring = detector.model.but(recipe=TINY.but(horizontal_flip=True))
    images = stripes(60, seed=1)
    x = real_windows(mirroring, images, seeded(torch.device("cpu"), 3))
    grey = np.round((x[:, 0].numpy() + 1) * 127.5).astype(np.uint8)
    given = {image.tobytes(): index for index, image in enumerate(images)}
    turned = {image[:, ::-1].tobytes(): index for index, image in enumerate(images)}
    straight = [given[image.tobytes()] for image in grey if image.tobytes() in given]
    mirrored = [turned[image.tobytes()] for image in grey if image.tobytes() in turned]
    assert min(len(straight), len(mirrored)) > 10
    assert len({*straight, *mirrored}) == len(straight) + len(mirrored) == 50


def test_the_same_call_makes_the_same_test_and_another_seed_another(detector, made, tmp_path):
    images = stripes(60, seed=1)
    assert write_test(detector.model, images, tmp_path / "a") != write_test(
        detector.model, images, tmp_path / "b", seed=1
    )
    for name in ("turing.html", "key.json"):
        assert (tmp_path / "a" / name).read_bytes() == (made / name).read_bytes()
        assert (tmp_path / "b" / name).read_bytes() != (made / name).read_bytes()


def test_nothing_but_the_pictures_tells_real_from_generated(detector, made):
    pngs = pngs_of(made / "turing.html")
    assert len({len(png) for png in pngs}) == 1
    assert len({png[:33] for png in pngs}) == 1  # signature and header
    page = (made / "turing.html").read_text("utf-8")
    truth = json.loads((made / "key.json").read_text())["truth"]
    labels = [truth[str(number)] for number in range(1, 101)]
    # The page says the labels' words only where it explains and takes answers.
    assert page == turing._page(
        json.loads((made / "key.json").read_text())["test"], pngs, pixels_of(pngs[0]).shape
    )
    # The order is not the one that the seed alone gives.
    for key in ((0, "turing"), ("turing order",), ("turing order", 0)):
        order = torch.randperm(100, generator=seeded(torch.device("cpu"), *key)).tolist()
        agree = sum((i < 50) == (label == "real") for i, label in zip(order, labels, strict=True))
        assert 30 < agree < 70


def test_the_order_depends_on_which_pictures_are_real():
    pictures = list(stripes(100))
    order = turing._order(pictures)
    assert order == turing._order(pictures)
    assert sorted(order) == list(range(100))
    swapped = [pictures[1], pictures[0], *pictures[2:]]
    assert turing._order(swapped) != order


# --- what is refused ----------------------------------------------------------------------------


def test_too_few_images_are_refused(detector, tmp_path):
    images = np.concatenate([stripes(49), stripes(49)])  # a repeated image is no second one
    with pytest.raises(BadTest, match=r"only 49 different windows in these images"):
        write_test(detector.model, images, tmp_path / "test")
    assert not (tmp_path / "test").exists()


@pytest.mark.parametrize("name", ["ae", "advae", "pca"])
def test_a_detector_without_a_generator_is_refused(detector, name, tmp_path):
    with pytest.raises(BadTest, match=rf"the detector {name} has no generator .* give a model"):
        write_test(detector.model.but(detector=name), stripes(60), tmp_path / "test")


def test_the_key_of_another_test_is_not_overwritten(detector, made):
    before = (made / "key.json").read_bytes()
    with pytest.raises(BadTest, match=r"key\.json: the key of another test.* --out"):
        write_test(detector.model, stripes(60, seed=2), made)
    assert (made / "key.json").read_bytes() == before
    write_test(detector.model, stripes(60, seed=1), made)  # the same test may be made again


def test_a_page_without_its_key_is_not_overwritten(detector, tmp_path):
    (tmp_path / "turing.html").write_text("my own")
    with pytest.raises(BadTest, match=r"turing\.html: is there without its key"):
        write_test(detector.model, stripes(60), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["turing.html"]


# --- scores -------------------------------------------------------------------------------------


def write_key(folder: Path, truth: str, test: str = "abc") -> Path:
    path = folder / "key.json"
    path.write_text(json.dumps({"test": test, "seed": 0, "truth": labels_of(truth)}))
    return path


def write_answers(folder: Path, rater: str, answers: str) -> Path:
    path = folder / f"answers-{rater}.json"
    path.write_text(json.dumps({"test": "abc", "rater": rater, "answers": labels_of(answers)}))
    return path


def labels_of(letters: str) -> dict[str, str]:
    names = {"r": "real", "g": "generated"}
    return {str(number): names[letter] for number, letter in enumerate(letters, 1)}


def test_scores_of_two_raters_by_hand(tmp_path):
    #            right:            r r . . g . g g g g → 7 of 10; of real 2 of 4, generated 5 of 6
    key = write_key(tmp_path, "rrrrgggggg")
    one = write_answers(tmp_path, "one", "rrggrggggg")
    two = write_answers(tmp_path, "two", "rgrgrrgggg")
    found = score_answers([one, two], key)
    first, second = found["raters"]
    assert (first["rater"], found["images"], found["test"]) == ("one", 10, "abc")
    assert first["accuracy"]["share"] == pytest.approx(0.7)
    # Clopper and Pearson's interval of 7 of 10, as their tables have it.
    assert first["accuracy"]["interval"] == pytest.approx([0.3475, 0.9333], abs=5e-5)
    assert (first["real"]["count"], first["real"]["of"]) == (2, 4)
    assert (first["generated"]["count"], first["generated"]["of"]) == (5, 6)
    assert second["accuracy"]["share"] == pytest.approx(0.6)
    assert found["mean_accuracy"] == pytest.approx(0.65)
    # They agree in 7 of 10; real is said by 3 and 4 of 10: p_e = .3·.4 + .7·.6 = .54.
    (pair,) = found["pairs"]
    assert pair["raters"] == ["one", "two"]
    assert pair["agreement"]["share"] == pytest.approx(0.7)
    assert pair["kappa"] == pytest.approx((0.7 - 0.54) / (1 - 0.54))
    # Where they agree: images 1, 4, 5, 7, 8, 9, 10, of which 4 and 5 are wrong.
    majority = found["majority"]
    assert majority["ties"] == 3
    assert (majority["accuracy"]["count"], majority["accuracy"]["of"]) == (5, 7)


def test_the_majority_of_three_decides_every_image(tmp_path):
    key = write_key(tmp_path, "rrgg")
    files = [
        write_answers(tmp_path, rater, answers)
        for rater, answers in (("a", "rrgr"), ("b", "rggg"), ("c", "gggr"))
    ]
    found = score_answers(files, key)
    assert [pair["raters"] for pair in found["pairs"]] == [["a", "b"], ["a", "c"], ["b", "c"]]
    assert found["majority"]["ties"] == 0  # r g g r
    assert found["majority"]["real"]["count"] == found["majority"]["generated"]["count"] == 1


def test_kappa_at_its_ends():
    r, g = "real", "generated"
    assert kappa([r, g, r], [r, g, r]) == pytest.approx(1)
    assert kappa([r, g], [g, r]) == pytest.approx(-1)
    assert kappa([r, r, g, g], [r, g, r, g]) == pytest.approx(0)
    assert kappa([r, r], [r, r]) is None  # 0/0
    assert kappa([r, r], [g, g]) == pytest.approx(0)


def test_one_rater_who_says_the_same_of_all(tmp_path):
    key = write_key(tmp_path, "rg" * 50)
    found = score_answers([write_answers(tmp_path, "a", "r" * 100)], key)
    (row,) = found["raters"]
    assert row["real"]["share"] == 1
    # All of n: the lower end is (α/2)^(1/n).
    assert row["real"]["interval"] == pytest.approx([0.025 ** (1 / 50), 1])
    assert row["generated"]["interval"] == pytest.approx([0, 1 - 0.025 ** (1 / 50)])
    assert (found["pairs"], found["majority"]) == ([], None)


def test_without_a_majority_anywhere_there_are_no_shares_of_it(tmp_path):
    key = write_key(tmp_path, "rg")
    files = [write_answers(tmp_path, rater, text) for rater, text in (("a", "rg"), ("b", "gr"))]
    found = score_answers(files, key)
    assert found["majority"]["ties"] == 2
    assert found["majority"]["accuracy"]["share"] is None
    main(["turing", "--score", *map(str, files), "--key", str(key)])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test": "xyz"}, r"answers of another test \(xyz\) than the key's \(abc\)"),
        ({"rater": " "}, "no answers of a rater"),
        ({"rater": 3}, "no answers of a rater"),
        ({"answers": labels_of("rr")}, "2 answers to 4 images"),
        ({"answers": {"1": "real", "2": "real", "3": "real", "5": "real"}}, "no answers of"),
        ({"answers": {**labels_of("rrr"), "4": "perhaps"}}, "no answers of a rater"),
        ({"answers": ["real"] * 4}, "no answers of a rater"),
    ],
)
def test_bad_answers_are_refused(changes, message, tmp_path):
    key = write_key(tmp_path, "rrgg")
    bad = tmp_path / "bad.json"
    content = {"test": "abc", "rater": "a", "answers": labels_of("rrgg")}
    bad.write_text(json.dumps({**content, **changes}))
    with pytest.raises(BadTest, match=message) as raised:
        score_answers([bad], key)
    assert str(raised.value).startswith(f"{bad}: ")


@pytest.mark.parametrize("content", [b"", b'{"test": "ab', b"\xff\xfe", b"[]", b"[" * 100_000])
def test_damaged_json_is_refused(content, tmp_path):
    key = write_key(tmp_path, "rrgg")
    good = write_answers(tmp_path, "a", "rrgg")
    bad = tmp_path / "bad.json"
    bad.write_bytes(content)
    for answers, its_key in ((bad, key), (good, bad)):
        with pytest.raises(BadTest, match=r"bad\.json: damaged"):
            score_answers([answers], its_key)


def test_answers_are_no_key_and_a_key_is_no_answers(tmp_path):
    key = write_key(tmp_path, "rrgg")
    answers = write_answers(tmp_path, "a", "rrgg")
    with pytest.raises(BadTest, match="no key of a test"):
        score_answers([answers], answers)
    with pytest.raises(BadTest, match="no answers of a rater"):
        score_answers([key], key)


def test_a_rater_twice_is_refused(tmp_path):
    key = write_key(tmp_path, "rrgg")
    files = [write_answers(tmp_path, rater, "rrgg") for rater in ("Anna", " anna")]
    with pytest.raises(BadTest, match="a second file of the rater anna"):
        score_answers(files, key)


# --- the command --------------------------------------------------------------------------------


def test_command_makes_and_scores_a_test(model, tmp_path, capsys):
    folder = tmp_path / "normal"
    folder.mkdir()
    for index, image in enumerate(stripes(55, seed=5)):
        Image.fromarray(image).save(folder / f"{index}.png")
    out = tmp_path / "test"
    main(["turing", str(model), str(folder), "--out", str(out)])
    key = json.loads((out / "key.json").read_text())
    shown = capsys.readouterr().out
    assert f"test {key['test']}: 50 real and 50 generated images" in shown
    answers = {number: "real" for number in key["truth"]}
    files = []
    for rater in ("[b]A", "B"):
        files.append(tmp_path / f"{len(files)}.json")
        files[-1].write_text(json.dumps({"test": key["test"], "rater": rater, "answers": answers}))
    score = ["turing", "--score", *map(str, files), "--key", str(out / "key.json")]
    main([*score, "--out", str(out)])
    lines = capsys.readouterr().out.splitlines()
    row = re.split(r" {2,}", lines[1].strip())
    assert row == ["[b]A", "0.50 (0.40 to 0.60)", "1.00 (0.93 to 1.00)", "0.00 (0.00 to 0.07)"]
    assert "[b]A and B agree in 1.00 (0.96 to 1.00), Cohen's κ undefined" in lines
    assert json.loads((out / "turing.json").read_text()) == score_answers(files, out / "key.json")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["model", "--out", "x"],
        ["model", "images"],
        ["model", "images", "--out", "x", "--key", "k"],
        ["--score", "a"],
        ["model", "--score", "a", "--key", "k"],
    ],
)
def test_half_a_command_is_refused_in_one_line(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["turing", *arguments])
    assert ended.value.code == 1
    assert capsys.readouterr().err.count("\n") == 1


# --- the page, in a browser ---------------------------------------------------------------------


# Chromium reads commands from descriptor 3 and answers on 4.
ON_PIPES = """
import fcntl, os, sys
kept = [fcntl.fcntl(int(pipe), fcntl.F_DUPFD, 10) for pipe in sys.argv[1:3]]
for pipe, descriptor in zip(kept, (3, 4)):
    os.dup2(pipe, descriptor)
os.execvp(sys.argv[3], sys.argv[3:])
"""


class Browser:
    """A page in headless Chromium, driven over its DevTools protocol on two pipes."""

    def __init__(self, chromium: str, profile: Path):
        from_us, to_us = os.pipe(), os.pipe()
        command = [
            *(chromium, "--headless=new", "--no-sandbox", "--disable-gpu"),
            *("--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank"),
        ]
        self.process = subprocess.Popen(
            [sys.executable, "-c", ON_PIPES, str(from_us[0]), str(to_us[1]), *command],
            pass_fds=(from_us[0], to_us[1]),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(from_us[0])
        os.close(to_us[1])
        self.commands = os.fdopen(from_us[1], "wb", buffering=0)
        self.replies = os.fdopen(to_us[0], "rb", buffering=0)
        self.unread = b""
        self.sent = 0
        self.events: list[dict[str, Any]] = []
        self.session: str | None = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self.session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self.sent += 1
        message = {"id": self.sent, "method": method, "params": parameters}
        if self.session and not method.startswith(("Browser.", "Target.")):
            message["sessionId"] = self.session
        self.commands.write(json.dumps(message).encode() + b"\0")
        while (reply := self._next()).get("id") != self.sent:
            self.events.append(reply)
        assert "error" not in reply, (method, reply)
        result: dict[str, Any] = reply["result"]
        return result

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self.unread:
            data = self.replies.read(1 << 16)
            assert data, "Chromium ended"
            self.unread += data
        message, _, self.unread = self.unread.partition(b"\0")
        reply: dict[str, Any] = json.loads(message)
        return reply

    def open(self, url: str) -> None:
        self.events.clear()
        self.call("Page.navigate", url=url)
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(self._next())

    def run(self, script: str) -> Any:
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def key(self, key: str, *, repeat: bool = False, modifiers: int = 0) -> None:
        options = {"key": key, "code": key, "modifiers": modifiers}
        self.call("Input.dispatchKeyEvent", type="rawKeyDown", autoRepeat=repeat, **options)
        if not repeat:
            self.call("Input.dispatchKeyEvent", type="keyUp", **options)

    def begin(self, rater: str) -> None:
        self.run("document.getElementById('rater').focus()")
        self.call("Input.insertText", text=rater)
        self.click("#begin button")

    def click(self, selector: str) -> None:
        """A real click at the middle of an element, which must be in sight."""
        box = self.run(
            f"(() => {{ const b = document.querySelector({json.dumps(selector)})"
            ".getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            where = {"x": box[0], "y": box[1], "button": "left", "clickCount": 1}
            self.call("Input.dispatchMouseEvent", type=kind, **where)

    @property
    def number(self) -> int:
        return int(self.run("document.getElementById('number').textContent"))

    def sees(self, part: str) -> bool:
        return bool(self.run(f"document.getElementById('{part}').offsetParent !== null"))

    def close(self) -> None:
        with contextlib.suppress(OSError, AssertionError):
            self.call("Browser.close")
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.commands.close()
        self.replies.close()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    found = next(filter(None, map(shutil.which, names)), None)
    if not found:
        pytest.skip("no Chromium on this machine: install the package chromium")
    opened = Browser(found, tmp_path_factory.mktemp("chromium"))
    yield opened
    opened.close()


@pytest.fixture
def page(browser: Browser, made: Path) -> Browser:
    """The test's page, as a browser shows it that hasn't seen it before."""
    url = (made / "turing.html").as_uri()
    browser.open(url)
    browser.run("localStorage.clear()")
    browser.open(url)
    return browser


def saved_file(folder: Path, name: str) -> dict[str, Any]:
    deadline = time.monotonic() + 20
    while not (folder / name).exists():
        assert time.monotonic() < deadline, list(folder.iterdir())
        time.sleep(0.02)
    content: dict[str, Any] = json.loads((folder / name).read_text("utf-8"))
    return content


def test_from_the_first_image_to_the_saved_file(page, made, tmp_path):
    pngs = pngs_of(made / "turing.html")
    page.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    assert page.sees("start") and not page.sees("rating")
    page.begin(" Dr. Ängström/1 ")
    random = np.random.default_rng(0)
    answers = ["real" if real else "generated" for real in random.integers(0, 2, 100)]
    for number, answer in enumerate(answers, 1):
        assert page.sees("rating") and not page.sees("end")
        assert page.number == number
        shown = page.run("document.getElementById('image').src")
        assert base64.b64decode(shown.partition(",")[2]) == pngs[number - 1]
        page.key("ArrowLeft" if answer == "real" else "ArrowRight")
    assert page.sees("end") and not page.sees("rating")
    said = page.run("document.querySelector('main').innerText")
    assert "All 100 images answered" in said
    assert not re.search(r"correct|wrong|accuracy|%", said)
    page.click("#save")
    content = saved_file(tmp_path, "answers-Dr-Ängström-1.json")
    assert content == {
        "test": json.loads((made / "key.json").read_text())["test"],
        "rater": "Dr. Ängström/1",
        "answers": {str(number): answer for number, answer in enumerate(answers, 1)},
    }
    truth = json.loads((made / "key.json").read_text())["truth"]
    right = sum(answer == truth[str(number)] for number, answer in enumerate(answers, 1))
    (path,) = tmp_path.iterdir()
    scored = score_answers([path], made / "key.json")
    assert scored["raters"][0]["accuracy"]["count"] == right
    asked = [e["params"]["request"]["url"] for e in page.events if "request" in e.get("params", {})]
    assert {url.partition(":")[0] for url in asked} <= {"file", "data", "blob"}
    faults = ("Runtime.exceptionThrown", "Log.entryAdded")
    assert not [event for event in page.events if event["method"] in faults]


def test_goes_on_after_a_reload_and_keeps_raters_apart(page, made):
    url = (made / "turing.html").as_uri()
    page.begin("A")
    for _ in range(3):
        page.key("ArrowLeft")
    page.open(url)
    assert page.number == 4
    page.click("#rating [data-leave]")
    assert page.sees("start")
    page.begin("B")
    assert page.number == 1
    page.key("ArrowRight")
    page.click("#rating [data-leave]")
    page.begin("A")
    assert page.number == 4


def test_undo_takes_back_the_last_answer_alone(page):
    page.begin("A")
    page.key("ArrowLeft")
    page.key("ArrowLeft")
    page.key("Backspace")
    assert page.number == 2
    page.click("#rating [data-undo]")
    assert page.number == 1
    page.key("Backspace")  # there is nothing before the first
    assert page.number == 1
    for _ in range(100):
        page.key("ArrowRight")
    assert page.sees("end")
    page.key("ArrowRight")  # nothing after the last
    page.click("#end [data-undo]")
    assert page.number == 100


def test_buttons_answer_too_and_a_held_key_answers_once(page):
    page.begin("A")
    page.click("[data-answer=generated]")
    page.click("[data-answer=real]")
    page.key("ArrowLeft", repeat=True)
    page.key("ArrowLeft", modifiers=1)  # Alt and ← is the browser's way back
    assert page.number == 3
    kept = page.run("Object.entries(localStorage).find(([key]) => key.endsWith('/A'))[1]")
    assert json.loads(kept) == ["generated", "real"]


def test_fits_a_narrow_screen(page):
    size = {"width": 400, "height": 700, "deviceScaleFactor": 1, "mobile": False}
    page.call("Emulation.setDeviceMetricsOverride", **size)
    try:
        page.begin("A")
        box = page.run(
            "[document.documentElement.scrollWidth, innerHeight, "
            "...[...document.querySelectorAll('.answers button, #image')]"
            ".map((part) => part.getBoundingClientRect().bottom)]"
        )
        assert box[0] <= 400
        assert max(box[2:]) <= box[1]  # image and answers are in sight together
    finally:
        page.call("Emulation.clearDeviceMetricsOverride")

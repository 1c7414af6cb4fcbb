"""Recipes: those that ship, those of users, and what is refused."""

import dataclasses
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import fanogan.recipes
from fanogan.recipes.commented import commented_yaml
from fanogan.recipes.recipe import FORMER_NAMES, BadRecipe, Recipe, load_recipe, recipe_names
from fanogan.retina.resample import PERCENTILES

SHIPPED = [
    *("demo", "digits", "overnight", "paper", "phantom", "signal", "signal_overnight", "small"),
    *("smoke", "volume", "volume_overnight"),
]


def source(name: str) -> str:
    return (files(fanogan.recipes) / f"{name}.yaml").read_text(encoding="utf-8")


def written(tmp_path: Path, text: str, name: str = "mine.yaml") -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def differing(one: Recipe, other: Recipe) -> set[str]:
    a, b = one.to_dict(), other.to_dict()
    return {key for key in a if a[key] != b[key]}


# --- those that ship ----------------------------------------------------------------------------


def test_which_ship() -> None:
    assert recipe_names() == SHIPPED


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_recipe_says_what_it_is_for_and_all_that_it_changes(name: str) -> None:
    recipe = load_recipe(name)
    values = yaml.safe_load(source(name))
    assert source(name).startswith("# ")
    assert recipe.name == name
    assert recipe.about == values["about"]
    # Nothing is repeated that its base says already; paper's base are the defaults.
    base = load_recipe(values["base"]) if "base" in values else Recipe(name="")
    assert differing(recipe, base) == (set(values) - {"base"}) | {"name"}


def test_paper_says_what_is_not_the_papers() -> None:
    text = source("paper")
    for key in ("min_retina_fraction", "flat_rows", "flat_base", "held_out_fraction"):
        assert f"{key} {getattr(load_recipe('paper'), key):g}" in text
    assert f"{PERCENTILES[0]:g} and {PERCENTILES[1]:g} percentiles" in text


def test_the_docs_size_what_differs_from_tensorflow() -> None:
    """The same two steps of Adam by hand, and the variance of G's smallest layer."""
    text = " ".join((Path(__file__).parents[2] / "docs" / "recipes.md").read_text().split())
    corrections = [1 / (1 - 0.9**t) ** 0.5 for t in (1, 10, 100)]
    shown = "{:.2f} at the first update, {:.2f} at the tenth and {:.5f} at the hundredth"
    assert shown.format(*corrections) in text
    epsilon, gradient = 1e-8, 1e-5
    p = torch.zeros(1, requires_grad=True)
    adam = torch.optim.Adam([p], lr=1.0, betas=(0.0, 0.9), eps=epsilon)
    p.grad = torch.full((1,), gradient)
    adam.step()
    first = gradient * (1 - 0.9) ** 0.5 / ((1 - 0.9) ** 0.5 * gradient + epsilon)  # TensorFlow's
    assert f"by .{1e4 * (1 - first):.0f} % in place of .{1e3 * (1 + p.item()):.0f} %" in text
    norm = torch.nn.BatchNorm2d(1, momentum=1.0)
    x = torch.randn(64, 1, 4, 4)
    norm(x)
    larger = float(norm.running_var / x.var(correction=0) - 1)
    assert f"ours is {100 * larger:.3f} % larger".replace(" 0.", " .") in text


def test_paper_is_the_published_setting() -> None:
    paper = load_recipe("paper")
    assert differing(paper, Recipe()) == {"about"}
    assert (paper.image_size, paper.window, paper.base_width, paper.latent_size) == (
        (64, 64),
        (64, 64),
        64,
        128,
    )
    assert (paper.batch_size, paper.critic_updates, paper.rounds) == (64, 100_000, 20_000)
    assert (
        paper.gan_learning_rate,
        paper.gradient_penalty_weight,
        paper.critic_updates_per_generator_update,
    ) == (1e-4, 10, 5)
    assert (paper.encoder_updates, paper.encoder_learning_rate, paper.kappa) == (50_000, 5e-5, 1)
    assert (paper.encoder_loss, paper.encoder_output, paper.horizontal_flip) == (
        "izi_f",
        "tanh",
        True,
    )
    assert (paper.held_out_fraction, paper.top_window_fraction) == (0.1, "auto")
    assert not paper.reestimate_batch_norm


def test_small_differs_from_paper_where_its_file_says() -> None:
    values = yaml.safe_load(source("small"))
    assert values.pop("base") == "paper"
    assert differing(load_recipe("small"), load_recipe("paper")) == {"name", *values}
    assert "image_size" in values and "window" not in values
    assert load_recipe("small").image_size == (32, 32)


def test_lengths_that_are_promised() -> None:
    assert load_recipe("small").rounds == 875
    assert load_recipe("overnight").rounds - 1 >= 5_000  # generator updates
    assert 12 <= load_recipe("overnight").base_width <= 16
    assert Recipe(critic_updates=11, critic_updates_per_generator_update=5).rounds == 3
    for short in ("small", "demo", "smoke"):
        assert load_recipe(short).rounds < 1000 and load_recipe(short).reestimate_batch_norm


def test_the_docs_name_every_field_and_every_former_key() -> None:
    text = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text(encoding="utf-8")
    for field in dataclasses.fields(Recipe):
        assert field.name in ("name", "about") or f"`{field.name}`" in text, field.name
    for former, key in FORMER_NAMES.items():
        assert f"| `{former}` | `{key}` |" in text


# --- those of users -----------------------------------------------------------------------------


def test_a_file_changes_its_base(tmp_path: Path) -> None:
    path = written(tmp_path, "base: small\nbase_width: 12\nhorizontal_flip: false\n")
    for given in (path, str(path)):
        recipe = load_recipe(given)
        assert differing(recipe, load_recipe("small")) == {
            *("name", "about", "base_width", "horizontal_flip")
        }
        assert (recipe.name, recipe.base_width, recipe.horizontal_flip, recipe.about) == (
            "mine",
            12,
            False,
            "",
        )
    assert load_recipe(recipe) is recipe


def test_bases_follow_each_other(tmp_path: Path) -> None:
    first = written(tmp_path, "base: small\nbase_width: 12\nbatch_size: 8\n", "first.yaml")
    second = written(tmp_path, f"base: {first}\nbatch_size: 16\n", "second.yaml")
    recipe = load_recipe(second)
    assert (recipe.name, recipe.base_width, recipe.batch_size, recipe.image_size) == (
        "second",
        12,
        16,
        (32, 32),
    )


def test_without_a_base_it_is_the_papers(tmp_path: Path) -> None:
    assert differing(load_recipe(written(tmp_path, "")), Recipe()) == {"name"}
    assert load_recipe(written(tmp_path, "latent_size: 64")).critic_updates == 100_000


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ("encoder_learning_rate: 5e-5", "encoder_learning_rate", 5e-5),
        ("encoder_learning_rate: '5e-5'", "encoder_learning_rate", 5e-5),
        ("gan_learning_rate: 1.0e-4", "gan_learning_rate", 1e-4),
        ("kappa: 0", "kappa", 0.0),
        ("gradient_penalty_weight: 10", "gradient_penalty_weight", 10.0),
        ("critic_updates: 100_000", "critic_updates", 100_000),
        ("base_width: '8'", "base_width", 8),
        ("image_size: 28", "image_size", (28, 28)),
        ("image_size: [64, 112]", "image_size", (64, 112)),
        ("window: [100, 90]", "window", (100, 90)),
        ("encoder_loss: ziz", "encoder_loss", "ziz"),
        ("about: 'für Größe × 2'", "about", "für Größe × 2"),
    ],
)
def test_values(tmp_path: Path, text: str, field: str, value: Any) -> None:
    found = getattr(load_recipe(written(tmp_path, text)), field)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("name", SHIPPED)
def test_round_trips(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    text = yaml.safe_dump(recipe.to_dict(), allow_unicode=True)
    assert Recipe.from_dict(yaml.safe_load(text)) == recipe
    assert load_recipe(written(tmp_path, text, f"{name}.yaml")) == recipe


def test_but_leaves_the_first_as_it_was() -> None:
    recipe = Recipe()
    assert recipe.but(base_width=8) == dataclasses.replace(Recipe(), base_width=8)
    assert recipe == Recipe()
    with pytest.raises(BadRecipe):
        recipe.but(base_width=0)


# --- keys of version 0.1 ------------------------------------------------------------------------


def test_former_keys_in_a_file_are_read_and_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = written(tmp_path, "width: 12\nlatent: 64\nkappa: 2\nsides: 28\n")
    expected = Recipe(name="mine", base_width=12, latent_size=64, kappa=2.0, image_size=(28, 28))
    assert load_recipe(path) == load_recipe(path) == expected
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", f"{path}: 'width' is now called 'base_width'"),
        ("WARNING", f"{path}: 'latent' is now called 'latent_size'"),
        ("WARNING", f"{path}: 'sides' is now called 'image_size'"),
    ]


def test_former_keys_in_a_base_are_told_of_the_base(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base = written(tmp_path, "width: 12\n", "base.yaml")
    assert load_recipe(written(tmp_path, f"base: {base}\nbase_width: 8\n")).base_width == 8
    assert caplog.messages == [f"{base}: 'width' is now called 'base_width'"]


def test_every_former_key_in_a_saved_model_is_read_silently(
    caplog: pytest.LogCaptureFixture,
) -> None:
    values = load_recipe("small").to_dict()
    former = {new: old for old, new in FORMER_NAMES.items()}
    assert set(former) < set(values)
    renamed = {former.get(key, key): value for key, value in values.items()}
    assert Recipe.from_dict(renamed) == load_recipe("small")
    assert not caplog.records


def test_a_former_key_beside_its_new_one_is_refused(tmp_path: Path) -> None:
    for text in ("width: 8\nbase_width: 8\n", "base_width: 8\nwidth: 12\n"):
        with pytest.raises(BadRecipe, match="mine: width is now called base_width, and both are"):
            load_recipe(written(tmp_path, text))


def test_a_former_key_with_a_bad_value_is_refused_by_its_new_name(tmp_path: Path) -> None:
    with pytest.raises(BadRecipe, match="mine: base_width is 'wide', it must be a whole number"):
        load_recipe(written(tmp_path, "width: wide"))


# --- what is refused ----------------------------------------------------------------------------

NUMBER, COUNT, PAIR = (
    "it must be a number$",
    "it must be a whole number$",
    "one whole number, two, or three",
)
REFUSED = [
    ("with: 8", r"no such field as with; the fields are name, about, .*image_size.*base_width"),
    ("1: 2\ntrue: 3", r"no such field as 1; the fields are"),
    ("__path__: x", r"no such field as __path__; the fields are"),
    ("base_width.more: 3", r"no such field as base_width\.more; the fields are"),
    ("{[a]: 3}", "not a YAML file"),
    ("base_width: wide", rf"^recipe mine: base_width is 'wide', {COUNT}"),
    ("base_width: 8.0", rf"base_width is 8\.0, {COUNT}"),
    ("base_width: true", rf"base_width is True, {COUNT}"),
    ("base_width: [8]", rf"base_width is \[8\], {COUNT}"),
    ("base_width: {x: 8}", rf"base_width is {{'x': 8}}, {COUNT}"),
    ("base_width:", rf"base_width is None, {COUNT}"),
    ("base_width: 'a\n\n  b'", rf"base_width is 'a\\nb', {COUNT}"),
    ("horizontal_flip: 1", r"horizontal_flip is 1, it must be true or false"),
    ("about: 3", r"about is 3, it must be text"),
    ("gan_learning_rate: fast", rf"gan_learning_rate is 'fast', {NUMBER}"),
    ("gan_learning_rate:", rf"gan_learning_rate is None, {NUMBER}"),
    ("gan_learning_rate: true", rf"gan_learning_rate is True, {NUMBER}"),
    (f"gan_learning_rate: 1{400 * '0'}", f"gan_learning_rate is 1000.*, {NUMBER}"),
    ("gan_learning_rate: nan", rf"gan_learning_rate is 'nan', {NUMBER}"),
    ("encoder_loss: zizi", r"encoder_loss is 'zizi', it must be one of izi_f, izi, ziz"),
    ("encoder_loss: [izi]", r"encoder_loss is \['izi'\], it must be one of"),
    ("precision: fp16", r"precision is 'fp16', it must be one of .*bf16"),
    ("image_size: [64]", rf"image_size is \[64\], it must be {PAIR}"),
    ("image_size: 6.4", rf"image_size is 6\.4, it must be {PAIR}"),
    ("image_size: true", rf"image_size is True, it must be {PAIR}"),
    ("image_size: [64, true]", rf"image_size is \[64, True\], it must be {PAIR}"),
    ("image_size: [64, 64, 64]", "window is 64×64 and image_size 64×64×64"),
    ("image_size: [64, 64, 64, 64]", f"it must be {PAIR}"),
    ("image_size: 30", r"mine: image_size 30×30 doesn't fit"),
    ("image_size: [-64, 64]", r"image_size -64×64 doesn't fit"),
    ("window: 0", r"window is 0, it must be a number above 0"),
    ("window: [32, -1]", r"window is -1, it must be a number above 0"),
    ("gan_learning_rate: .nan", r"gan_learning_rate is nan, it must be a number above 0"),
    ("gan_learning_rate: .inf", r"gan_learning_rate is inf, it must be a number above 0"),
    ("gan_learning_rate: -1e-4", r"gan_learning_rate is -0\.0001, it must be a number above 0"),
    ("kappa: -1", r"kappa is -1\.0, it must be a number 0 or more"),
    ("kappa: .nan", r"kappa is nan, it must be a number 0 or more"),
    ("batch_size: 0", r"batch_size is 0, it must be a number above 0"),
    ("held_out_fraction: 0", r"held_out_fraction is 0\.0, it must be a number above 0 and below 1"),
    ("held_out_fraction: 1", r"held_out_fraction is 1\.0, it must be a number above 0 and below 1"),
    ("denoising: 1", r"denoising is 1\.0, it must be a number 0 or more and below 1"),
    ("top_window_fraction: 1.5", r"top_window_fraction is 1\.5, .* above 0 and at most 1"),
    ("min_retina_fraction: 1.5", r"min_retina_fraction is 1\.5, .* above 0 and at most 1"),
    ("flat_base: 128", r"flat_base is 128, it must be less than flat_rows \(128\)"),
    ("- base_width: 8", "a recipe is a list of 'field: value' lines"),
    ("base_width", "a recipe is a list of 'field: value' lines"),
    ("[]", "a recipe is a list of 'field: value' lines"),
    ("false", "a recipe is a list of 'field: value' lines"),
    ("base_width: [8", "not a YAML file"),
    ("base_width: 8\n\tbatch_size: 3", "not a YAML file"),
    ("about: 2024-99-99", "not a YAML file"),
    ("base_width: !!python/object:os.system 8", "not a YAML file"),
    ("[" * 1200, "not a YAML file"),
    (
        "base: tiny",
        r"no recipe 'tiny': give one of demo, digits, overnight, paper, phantom, signal, ",
    ),
    ("base: [small]", r"no recipe \"\['small'\]\""),
    ("base: ''", "no recipe ''"),
]


@pytest.mark.parametrize(("text", "sentence"), REFUSED, ids=[text[:30] for text, _ in REFUSED])
def test_refused_in_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(BadRecipe, match=sentence) as refusal:
        load_recipe(written(tmp_path, text))
    assert "\n" not in str(refusal.value)


def test_a_number_that_came_by_python_is_checked_too() -> None:
    fields = ("base_width", "batch_size", "gan_learning_rate", "log_every", "top_window_fraction")
    for field in fields:
        for value in (0, -1, float("nan"), float("inf")):
            with pytest.raises(BadRecipe, match=rf"{field} is {value}"):
                Recipe(**{field: value})


def test_a_file_that_names_itself_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    written(tmp_path, f"base: {path}\nbase_width: 8\n")
    with pytest.raises(BadRecipe, match=r"mine\.yaml: its base leads back to .*mine\.yaml"):
        load_recipe(path)
    other = written(tmp_path, f"base: {path}\n", "other.yaml")
    written(tmp_path, f"base: {other}\n")
    with pytest.raises(BadRecipe, match="leads back"):
        load_recipe(other)


def test_what_is_not_there_or_not_text(tmp_path: Path) -> None:
    for missing in ("huge", tmp_path / "none.yaml", tmp_path, "", "small.yml"):
        with pytest.raises(
            BadRecipe, match="give one of demo, digits, overnight, paper, phantom, signal, "
        ):
            load_recipe(missing)
    (tmp_path / "picture.yaml").write_bytes(b"\x89PNG\r\n\x1a\n\xff")
    for unreadable in (tmp_path / "picture.yaml", "x" * 5000, "a\0b"):
        with pytest.raises(BadRecipe, match="can't be read"):
            load_recipe(unreadable)


# --- settings by their names ---------------------------------------------------------------------


def test_settings_change_a_recipe_which_says_so() -> None:
    changed = load_recipe("small", base_width=16, window="32")
    assert differing(changed, load_recipe("small")) == {"name", "about", "base_width", "window"}
    assert (changed.base_width, changed.window) == (16, (32, 32))
    assert changed.name == "small with base_width=16, window=32"  # and not "in ten minutes"
    assert load_recipe("small") is not changed and load_recipe("small").base_width == 8


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"base_widht": 16}, "no such field as base_widht; .*; did you mean base_width\\?"),
        ({"widht": 16}, "did you mean base_width\\?"),  # the former name is nearest
        ({"base_width": "wide"}, "base_width is 'wide', it must be a whole number"),
        ({"window": None}, "window is None, it must be one whole number, two, or three"),
        ({"image_size": 33}, "image_size 33×33 doesn't fit"),
        ({"recipe": "small"}, "no such field as recipe"),
    ],
)
def test_settings_are_checked_as_a_files_are(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(BadRecipe, match=words):
        load_recipe("small", **settings)


# --- as a file to start from ---------------------------------------------------------------------


@pytest.mark.parametrize("name", SHIPPED)
def test_the_file_to_start_from_is_the_whole_recipe(tmp_path: Path, name: str) -> None:
    text = commented_yaml(load_recipe(name))
    values = yaml.safe_load(text)
    assert list(values) == [key for key in Recipe().to_dict() if key not in ("name", "about")]
    assert differing(load_recipe(written(tmp_path, text)), load_recipe(name)) <= {"name", "about"}
    assert "base_width: " in text and "  # channels after the critic's first convolution\n" in text
    assert "# Encoder training (section 2.2).\n" in text


def test_a_recipe_that_is_not_there_is_called_that() -> None:
    with pytest.raises(BadRecipe, match=r"^no recipe 'smal': give one of"):
        load_recipe("smal")


@pytest.mark.parametrize(("base", "settings"), [("signal", {}), ("small", {"depth_channel": True})])
def test_what_has_no_grey_curve_is_not_augmented(base: str, settings: dict[str, bool]) -> None:
    with pytest.raises(BadRecipe, match="augment_normals is for images without a depth channel"):
        load_recipe(base).but(augment_normals=True, **settings)

"""The package as it is installed: its version, its names, its files, its pins."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib import import_module
from importlib.metadata import version
from importlib.resources import files
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import fanogan

CHECKOUT = Path(__file__).resolve().parents[1]
PYPROJECT: dict[str, Any] = tomllib.loads((CHECKOUT / "pyproject.toml").read_text("utf-8"))
PROJECT: dict[str, Any] = PYPROJECT["project"]
CITATION: dict[str, Any] = yaml.safe_load((CHECKOUT / "CITATION.cff").read_text("utf-8"))


def pins() -> dict[str, str]:
    lines = (CHECKOUT / "constraints.txt").read_text("utf-8").splitlines()
    requirements = [Requirement(line) for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"==[^*+,]+", str(r.specifier)) for r in requirements), requirements
    return {canonicalize_name(r.name): str(r.specifier)[2:] for r in requirements}


def test_version_is_the_same_wherever_it_stands() -> None:
    assert fanogan.__version__ == version("fanogan") == PROJECT["version"] == CITATION["version"]
    heading = "Unreleased" if ".dev" in fanogan.__version__ else fanogan.__version__
    assert f"## [{heading}]" in (CHECKOUT / "CHANGELOG.md").read_text("utf-8")


def test_import_is_light() -> None:
    heavy = {"torch", "lightning_fabric", "monai", "numpy", "matplotlib", "sklearn", "skimage"}
    program = f"import sys, fanogan; print(sorted({heavy!r} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (run.stdout.strip(), run.stderr, run.returncode) == ("[]", "", 0)


@pytest.mark.parametrize("module", ["scans", "retina", "recipes", "calibration"])
def test_module_does_without_torch(module: str) -> None:
    program = f"import sys, fanogan.{module}; print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (run.stdout.strip(), run.returncode) == ("False", 0), run.stderr


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("FAnoGAN", "detectors"),
        ("FanoganError", "errors"),
        ("Scores", "scoring"),
        ("BadScan", "scans"),
        ("Scan", "scans"),
        ("read_scan", "scans"),
        ("Recipe", "recipes"),
        ("load_recipe", "recipes"),
    ],
)
def test_name_is_the_one_of_its_module(name: str, module: str) -> None:
    assert name in fanogan.__all__
    assert getattr(fanogan, name) is getattr(import_module(f"fanogan.{module}"), name)


@pytest.mark.parametrize("newer", ["3.12", "3.13", "3.14"])
def test_newer_pythons_compile_every_file(newer: str, tmp_path: Path) -> None:
    python = shutil.which(f"python{newer}")
    # A shim of pyenv's may stand for a version that isn't there.
    if not python or subprocess.run([python, "-V"], capture_output=True).returncode:
        pytest.skip(f"needs python{newer}")
    command = [python, "-W", "error", "-m", "compileall", "-q", "-f", CHECKOUT / "src"]
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_exported_name_is_found_and_listed() -> None:
    assert set(fanogan.__all__) <= set(dir(fanogan))
    assert all(hasattr(fanogan, name) for name in fanogan.__all__)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'fanogan' has no attribute 'FAnoGan'"):
        _ = fanogan.FAnoGan  # type: ignore[attr-defined]


def test_recipes_and_types_are_installed() -> None:
    installed = {path.name for path in files("fanogan").joinpath("recipes").iterdir()}
    assert {"paper.yaml", "small.yaml", "overnight.yaml", "smoke.yaml"} <= installed
    assert files("fanogan").joinpath("py.typed").is_file()


def test_wheel_takes_every_file_that_is_not_code() -> None:
    patterns = PYPROJECT["tool"]["setuptools"]["package-data"]["fanogan"]
    package = CHECKOUT / "src" / "fanogan"
    taken = {path for pattern in patterns for path in package.glob(pattern)}
    data = {
        path for path in package.rglob("*") if path.is_file() and path.suffix not in {".py", ".pyc"}
    }
    assert data == taken


def test_constraints_pin_every_dependency_within_its_range() -> None:
    extras = PROJECT["optional-dependencies"].values()
    pinned = pins()
    for requirement in map(Requirement, chain(PROJECT["dependencies"], *extras)):
        if requirement.name == "fanogan":
            continue
        pin = pinned.get(canonicalize_name(requirement.name))
        assert pin is not None, f"constraints.txt does not pin {requirement.name}"
        assert requirement.specifier.contains(pin), f"{requirement} does not admit {pin}"


def test_no_file_of_the_packaging_names_a_registry() -> None:
    for name in ["constraints.txt", "pyproject.toml", "Makefile", ".ci/run"]:
        text = (CHECKOUT / name).read_text("utf-8")
        assert not re.search(r"https?://|--(extra-)?index-url|--find-links", text), name


def test_citation_names_the_paper() -> None:
    paper = CITATION["preferred-citation"]
    assert CITATION["cff-version"] == "1.2.0"
    assert CITATION["license"] == "Apache-2.0"
    # The demo's pictures are OCTDL's, its heart beats MIT-BIH's.
    assert PROJECT["license"] == "Apache-2.0 AND CC-BY-4.0 AND ODC-By-1.0"
    assert [*PROJECT["license-files"]] == [
        "LICENSE",
        *(f"src/fanogan/cli/{name}/SOURCE.md" for name in ("octdl", "mitbih")),
    ]
    assert paper["title"] == (
        "f-AnoGAN: Fast unsupervised anomaly detection with generative adversarial networks"
    )
    assert paper["doi"] == "10.1016/j.media.2019.01.010"
    assert [author["family-names"] for author in paper["authors"]] == [
        "Schlegl",
        "Seeböck",
        "Waldstein",
        "Langs",
        "Schmidt-Erfurth",
    ]
    assert (paper["journal"], paper["volume"], paper["year"]) == (
        "Medical Image Analysis",
        "54",
        2019,
    )
    assert (paper["start"], paper["end"]) == ("30", "44")

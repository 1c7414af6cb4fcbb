"""The site builds strictly and needs no network; its notebooks run."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((CHECKOUT / "docs" / "tutorials").glob("*.ipynb"))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for module in ("mkdocs", "mkdocs_jupyter", "mkdocstrings", "latex2mathml"):
        pytest.importorskip(module, reason="needs pip install 'fanogan[docs]'")
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)]
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT / "src"), "NO_MKDOCS_2_WARNING": "1"}
    run = subprocess.run(command, cwd=CHECKOUT, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return out


def test_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    # Of a page: scripts, styles, pictures; not links, nor what a script loads for diagrams alone.
    loads = re.compile(r'<(?:script|img|iframe)[^>]*\ssrc="(?:https?:)?//|@import url\(.?https?:')
    styles = re.compile(r'<link(?=[^>]*stylesheet)[^>]*href="(?:https?:)?//')
    for page in site.rglob("*.html"):
        text = page.read_text("utf-8")
        assert not loads.search(text) and not styles.search(text), page


def test_pages_hold_help_equations_and_docstrings(site: Path) -> None:
    commands = (site / "command-line.html").read_text("utf-8")
    assert "usage: fanogan [options] score" in commands and "--engine" in commands
    assert "<mfrac>" in (site / "method.html").read_text("utf-8")
    assert "Return 1 for an image flagged" in (site / "python.html").read_text("utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip("nbclient", reason="needs pip install 'fanogan[docs]'")
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("PYTHONPATH", str(CHECKOUT / "src"))
    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(notebook, kernel_name="python3", timeout=300).execute()

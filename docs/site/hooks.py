"""What the site has besides its pages: equations as MathML, and the command line's help."""

from __future__ import annotations

import contextlib
import io
import os
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

from fanogan.cli.parser import VERBS, main


def equation(source: str, *_: Any, **__: Any) -> str:
    """Return the LaTeX of a ``math`` fence as MathML, which browsers show without a script."""
    return str(convert(source, display="block"))


def on_config(config: Any) -> Any:
    """Let ``math`` fences be equations."""
    fence = {"name": "math", "class": "math", "format": equation}
    config["mdx_configs"].setdefault("pymdownx.superfences", {})["custom_fences"] = [fence]
    return config


def help_of(*words: str) -> str:
    """Return what ``--help`` prints after these words."""
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
        main([*words, "--help"])
    return shown.getvalue()


def on_files(files: Files, config: Any) -> Files:
    """Add the page of the command line, from the help of today's commands."""
    os.environ["COLUMNS"] = "80"
    parts = ["# Command line", f"```text\n{help_of()}```"]
    parts += [f"## fanogan {verb}\n\n```text\n{help_of(verb)}```" for verb in VERBS]
    files.append(File.generated(config, "command-line.md", content="\n\n".join(parts)))
    return files

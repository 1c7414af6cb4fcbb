"""The command line: ``fanogan demo``, ``fit``, ``score``, ``evaluate`` and the other commands.

Options and help come from the signatures and docstrings of the commands' functions.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import inspect
import logging
import os
import sys
from argparse import SUPPRESS
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin

from jsonargparse import ArgumentParser, DefaultHelpFormatter

from fanogan.cli import (
    archive_commands,
    commands,
    compare,
    console,
    fit_command,
    recipe_commands,
    review_command,
    serving,
    study_commands,
    urls,
    watch_commands,
    written_commands,
)
from fanogan.errors import FanoganError
from fanogan.remote import named
from fanogan.text import harmless

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of mallopt


VERBS: dict[str, tuple[Callable[..., None], tuple[str, ...]]] = {
    "demo": (commands.demo, ()),
    "prepare": (commands.prepare, ("scans",)),
    "fit": (fit_command.fit, ("normals",)),
    "score": (commands.score, ("model", "images")),
    "fetch": (archive_commands.fetch, ("archive",)),
    "send": (archive_commands.send, ("archive", "results")),
    "merge": (written_commands.merge, ("results",)),
    "evaluate": (commands.evaluate, ("model",)),
    "compare": (compare.compare, ("models",)),
    "export": (written_commands.export, ("model",)),
    "serve": (serving.serve, ("models",)),
    "review": (review_command.review, ("results",)),
    "drift": (watch_commands.drift, ("records",)),
    "calibrate": (watch_commands.calibrate, ("model", "normals")),
    "info": (written_commands.info, ("path",)),
    "recipes": (recipe_commands.recipes, ("what",)),
    "study": (study_commands.study, ("data",)),
    "turing": (study_commands.turing, ("model", "images")),
}


def parser() -> ArgumentParser:
    """Make the parser from the commands' signatures and docstrings."""
    from importlib.metadata import version

    whole = ArgumentParser(
        prog="fanogan",
        description="Learns what normal scans look like, and says of a new scan how far from "
        "normal it is, and where.",
        epilog="A first look: fanogan demo",
        version=version("fanogan"),
        formatter_class=_Help,
    )
    commands = whole.add_subcommands(required=True, metavar="VERB", title="verbs")
    for name, (function, positional) in VERBS.items():
        text = inspect.getdoc(function) or ""
        about, _, arguments = text.partition("\n\nArgs:\n")
        title, example = about.split("\n\n")
        command = ArgumentParser(
            prog=f"fanogan {name}", description=title, epilog=example, formatter_class=_Help
        )
        _add_arguments(command, function, positional, _argument_help(arguments))
        commands.add_subcommand(name, command, help=title)
    return whole


class _Help(DefaultHelpFormatter):
    """Shows what an option does, and its default where it has one."""

    def _get_help_string(self, action: Any) -> str:
        # 0 is a default that is shown, though it equals False.
        is_plain = any(action.default is nothing for nothing in (None, False, SUPPRESS))
        return (action.help or "") + ("" if is_plain else " (default: %(default)s)")

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        """Leave an example on its line, to be copied."""
        return text if text.startswith("Example:") else super()._fill_text(text, width, indent)


def _argument_help(text: str) -> dict[str, str]:
    """Return the lines of a docstring's Args section, by name."""
    found: dict[str, str] = {}
    name = ""
    for line in text.splitlines():
        if line.startswith("    ") and not line.startswith("     "):
            name, _, rest = line.strip().partition(": ")
            found[name] = rest
        else:
            found[name] += f" {line.strip()}"
    return found


def _add_arguments(
    command: ArgumentParser,
    function: Callable[..., None],
    positional: Sequence[str],
    texts: Mapping[str, str],
) -> None:
    """Add a function's parameters as options, with switches and lists as shells have them."""
    types = inspect.get_annotations(function, eval_str=True)
    for name, parameter in inspect.signature(function).parameters.items():
        kind, several = _kind(types[name])
        required = parameter.default is inspect.Parameter.empty
        options: dict[str, Any] = {"help": texts[name]}
        if several:
            options["nargs"] = "*" if name in positional else "+"
        if kind is bool:
            options["action"] = "store_true"
        else:
            # jsonargparse would read a Path as YAML, which takes no bytes that aren't UTF-8.
            options["type"] = urls.path_or_url if kind is Path else kind
            if not required and not several:
                options["default"] = parameter.default
                if name in positional:
                    options["nargs"] = "?"
        if name in positional:
            command.add_argument(name, **options)
        else:
            flag = f"--{name.replace('_', '-')}"
            if several:
                options["action"] = "extend"  # an option that is repeated adds to what it holds
            command.add_argument(flag, required=required, **options)


def _kind(annotation: Any) -> tuple[Any, bool]:
    """Return the type of one value of a parameter, and whether it takes several."""
    if isinstance(annotation, UnionType):
        annotation = get_args(annotation)[0]
    several = get_origin(annotation) is Sequence
    return (get_args(annotation)[0] if several else annotation), several


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; exit with 0, 1 (with a sentence) or 2 (usage).

    Raises:
        KeyboardInterrupt: stopped; it says how to resume.
    """
    # Before torch is imported: waiting threads that spin slow a busy machine down many times over.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # What a process that ends at once leaves behind, loky's tracker removes, and need not tell.
    os.environ.setdefault("PYTHONWARNINGS", "ignore:resource_tracker")
    keep_memory()
    given = parser().parse_args(arguments)
    verb = given.subcommand
    logging.basicConfig(
        level=logging.WARNING, format="%(message)s", handlers=[console.LogHandler()]
    )
    from fanogan.scans import silence_decoders

    silence_decoders()
    local = given[verb]
    try:
        with urls.on_this_machine(verb, local) as local:
            VERBS[verb][0](**local)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(harmless(named(_stopped(verb, local)))) from None
    except (FanoganError, OSError) as error:
        folder = local.get("out") or local.get("resume")
        print(f"fanogan: {harmless(named(_sentence(error, folder)))}", file=sys.stderr)
        sys.exit(1)


def _stopped(verb: str, given: Mapping[str, Any]) -> str:
    """Say what resumes a command that was stopped."""
    if verb in ("prepare", "score", "study", "fetch", "send"):
        return "stopped; the same command resumes"
    run = (given.get("resume") or given.get("out")) if verb == "fit" else None
    if run and Path(run, "config.yaml").exists():
        return f"stopped; resume with: fanogan fit --resume {run}"
    return "stopped"


def keep_memory() -> None:
    """Let the GNU C library keep the memory that is freed, where there is one.

    It returns large blocks to the system, which hands them out again page by page, each cleared.
    CPU time without this, over that with it, in three pairs at width 16 and 64×64
    (``benchmarks/memory_trim.py``): 1.09, .95, 1.07 in scoring; 1.22, 1.01, 1.04 in training.
    """
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL("libc.so.6")
        library.mallopt(M_MMAP_MAX, 0)
        library.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


REMEDIES = {
    errno.ENOSPC: "make room, or give another folder",
    errno.EDQUOT: "make room, or give another folder",
    errno.EFBIG: "raise the limit (ulimit -f), or give another folder",
    errno.ENOTDIR: "give a folder",
    errno.EEXIST: "give a folder",
}


def _sentence(error: FanoganError | OSError, folder: Path | None) -> str:
    """Return the error in one line; where the system names no file, it is one of ``folder``."""
    if not isinstance(error, OSError) or error.strerror is None:
        return " ".join(str(error).splitlines())
    remedy = REMEDIES.get(error.errno or 0, "check its permissions, or give another folder")
    return f"{error.filename or folder}: {error.strerror.lower()}; {remedy}"

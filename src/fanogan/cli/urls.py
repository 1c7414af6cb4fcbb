"""Paths of a command that are URLs: it works on copies, and what it writes is put there."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fanogan.cli.arguments import UsageError
from fanogan.remote import copy_of, is_url, model_at, written_at

WRITTEN = ("out", "resume")
MODELS = ("model", "models", "beside")
"""Of a run folder they need the model alone, not its checkpoints."""
LISTED = {
    "info": (
        *("model.json", "model.safetensors", "config.yaml", "metrics.jsonl", "metrics.json"),
        *("zarr.json", "scores.csv"),
    ),
    "drift": ("drift.json",),
}
"""Of a folder, what those commands read that need little of it."""
HERE = {
    ("fetch", "out"): "scans are fetched into a folder that lies here",
    ("fetch", "codes"): "who is who stays on this machine",
    ("review", "results"): "a review reads results as long as it runs, and after it",
    ("review", "database"): "a review writes its decisions as they come",
    ("serve", "drift"): "a service writes its records as they come",
}
"""Paths that are never URLs, and why."""


class Url(str):
    """A URL where a command takes a path."""


def path_or_url(text: str) -> Path | Url:
    """Return what was typed as a path; pathlib would take a slash out of a URL."""
    return Url(text) if is_url(text) else Path(text)


@contextlib.contextmanager
def on_this_machine(verb: str, given: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Give the values of a command with copies in place of URLs; URLs of scans stay.

    Raises:
        UsageError: a path that can't be a URL.
        FanoganError: one that can't be read or written.
    """
    with contextlib.ExitStack() as stack:

        def local(name: str, value: Any) -> Any:
            if isinstance(value, list):
                return [local(name, each) for each in value]
            if not isinstance(value, Url):
                return value
            if why := HERE.get((verb, name)):
                raise UsageError(f"{value} can't be a URL: {why}; give a path")
            if "TORCHELASTIC_RUN_ID" in os.environ or (given.get("on") or "").startswith("ray:"):
                raise UsageError(f"{value}: several machines need a path that all of them share")
            if name in WRITTEN:
                return stack.enter_context(written_at(value))
            if name in MODELS:
                return stack.enter_context(model_at(value))
            return copy_of(value, LISTED.get(verb, ()))

        yield {name: local(name, value) for name, value in given.items()}

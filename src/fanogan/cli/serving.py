"""``fanogan serve``: models over HTTP."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fanogan.cli.arguments import UsageError, check_alpha, value_errors_as_usage
from fanogan.cli.console import say

if TYPE_CHECKING:
    from fanogan.scoring import Model


def serve(
    models: Sequence[str],
    host: str = "127.0.0.1",
    port: int = 8000,
    alpha: float = 0.05,
    token_file: Path | None = None,
    megabytes: float = 200.0,
    megapixels: float = 100.0,
    seconds: float = 60.0,
    queue: int = 64,
    device: str = "auto",
    engine: str = "torch",
    drift: Path | None = None,
) -> None:
    """Score scans that come over HTTP, POST /score.

    Example: fanogan serve runs/retina --port 8000

    Args:
        models: run folders or model folders, or URLs of these; under names as NAME=MODEL where
            there are several; clients choose with ?model=NAME, and without it have the first.
        host: the address to listen at; 0.0.0.0 is all of this machine's.
        port: where to listen; 0 takes a free one.
        alpha: the false-positive rate wanted of the flags.
        token_file: a file with the token that clients have to send as a bearer token.
        megabytes: the largest body that is taken.
        megapixels: the largest scan that is decoded, all its frames together.
        seconds: for how long a request may take.
        queue: how many requests are taken at a time; others are told when to come again.
        device: auto, cpu, cuda or mps.
        engine: torch, onnxruntime, openvino or auto, as for score.
        drift: a folder for records of what each model is shown, as fanogan drift reads them.
    """
    from fanogan.detectors import Detector
    from fanogan.remote import model_at

    check_alpha(alpha)
    if min(megabytes, megapixels, seconds, queue) <= 0:
        raise UsageError("a limit is 0 or below, so that nothing is taken: give one above 0")
    try:
        from fanogan.serve import Settings
        from fanogan.serve import serve as serve_models
    except ImportError as error:
        raise UsageError(f"{error.name} is missing: pip install 'fanogan[serve]'") from None
    token = None
    if token_file is not None:
        token = token_file.read_text("utf-8").strip()
        if not token:
            raise UsageError(f"{token_file}: holds no token; write one into it")
    settings = Settings(alpha, megabytes, megapixels, seconds, queue, token=token, drift=drift)

    def load(path: str) -> Model:
        with value_errors_as_usage(), model_at(path) as folder:
            trained = Detector.load(folder, device=device).model
        if engine != "torch":
            from fanogan.export import use_engine

            trained, chosen = use_engine(trained, engine)
            say(chosen)
        return trained

    sources = {name: functools.partial(load, path) for name, path in _named(models)}
    if drift:
        drift.mkdir(parents=True, exist_ok=True)
    if token is None and host not in ("127.0.0.1", "::1", "localhost"):
        say(f"anyone who reaches {host} can send scans: --token-file asks for a token", "yellow")
    serve_models(sources, settings, host, port, on_start=lambda at: say(f"POST {at}/score"))


def _named(models: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the name and the path of each model."""
    if not models:
        raise UsageError("no model: fanogan serve MODEL, or NAME=MODEL NAME=MODEL …")
    names = set()
    for text in models:
        name, equals, path = text.partition("=")
        if not equals or Path(text).exists():
            if len(models) > 1:
                raise UsageError(f"{text}: of several models each has a name, as NAME={text}")
            name, path = "model", text
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", name) or name.startswith("."):
            raise UsageError(f"{text}: give a name of letters, digits, dots, - and _")
        if name in names:
            raise UsageError(f"{text}: the name {name} is given twice")
        names.add(name)
        yield name, path

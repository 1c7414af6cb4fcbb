"""Detectors by the names that a user types: ours, and those of other packages."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import Any, TypeVar

from fanogan.detectors.definition import Definition
from fanogan.errors import FanoganError
from fanogan.recipes import Recipe

log = logging.getLogger(__name__)

ENTRY_POINTS = "fanogan.detectors"
"""The entry point group of other packages: name = "package.module:DetectorClass"."""

D = TypeVar("D", bound="type[Definition]")


class BadDetector(FanoganError):
    """An unknown detector, or one that can't be made as asked."""


@dataclasses.dataclass(frozen=True)
class Registered:
    """A detector's class, and the values of the recipe that its name settles."""

    kind: type[Definition]
    settings: Mapping[str, Any]
    title: str  # what pages call it
    former: bool  # a name that only older models bear

    def matches(self, recipe: Recipe) -> bool:
        """Tell whether a recipe has the values that the name settles."""
        return all(getattr(recipe, key) == value for key, value in self.settings.items())


_registered: dict[str, Registered] = {}


def register(
    name: str, *, title: str = "", former: bool = False, **settings: Any
) -> Callable[[D], D]:
    """Register the decorated class under a name; one class may have several.

    Args:
        name: as a user types it, and as model folders keep it.
        title: what pages call it; its name unless given.
        former: whether only models of older versions bear the name.
        settings: values of the recipe that the name settles.
    """

    def decorate(kind: D) -> D:
        if name in _registered:
            raise ValueError(f"there is a detector {name!r} already: register another name")
        _registered[name] = Registered(kind, settings, title or name, former)
        return kind

    return decorate


@functools.cache
def _load_entry_points() -> None:
    for entry in entry_points(group=ENTRY_POINTS):
        try:
            kind = entry.load()  # which may register itself, with settings
        except Exception as error:  # another package's fault leaves ours at work
            log.warning(
                "the detector %s can't be loaded from %s: %s", entry.name, entry.value, error
            )
            continue
        _registered.setdefault(entry.name, Registered(kind, {}, entry.name, former=False))


def detector_names() -> list[str]:
    """List the names of all detectors: ours first, in the order of the paper's tables."""
    _load_entry_points()
    return [name for name, entry in _registered.items() if not entry.former]


def registered(name: str) -> Registered:
    """Return the detector of a name.

    Raises:
        BadDetector: there is none.
    """
    _load_entry_points()
    if name not in _registered:
        raise BadDetector(f"no detector {name!r}: give one of {', '.join(detector_names())}")
    return _registered[name]


def name_of(kind: type[Definition], recipe: Recipe) -> str:
    """Return the name under which a class is registered, given what its recipe settles.

    Raises:
        BadDetector: the class isn't registered.
    """
    names = [name for name in detector_names() if _registered[name].kind is kind]
    for name in sorted(names, key=lambda name: -len(_registered[name].settings)):
        if _registered[name].matches(recipe):
            return name
    if names:
        return names[0]
    raise BadDetector(f"{kind.__name__} has no name: register it, with @register('its name')")

"""Values of a file, held beside the types that they are to have."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import is_dataclass
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import numpy as np


def check_type(value: Any, kind: Any, name: str) -> None:
    """Refuse a value of another type than an annotation says, looking into what it holds.

    Arrays are left to those who make them.

    Args:
        value: a plain value, or a dataclass.
        kind: an annotation; numbers of type float are finite.
        name: what the value is called.

    Raises:
        TypeError: the innermost value that is wrong, by its name.
    """
    origin, inside = get_origin(kind), get_args(kind)
    if kind is Any or origin is np.ndarray:
        return
    if origin in (Union, UnionType):
        kinds = [each for each in inside if (each is type(None)) == (value is None)]
        fits = len(kinds) == 1
        if fits and value is not None:
            check_type(value, kinds[0], name)
    elif origin is tuple:
        fits = isinstance(value, tuple) and (inside[-1] is ... or len(value) == len(inside))
        for each in value if fits else ():
            check_type(each, inside[0], name)
    elif origin in (dict, Mapping):
        fits = isinstance(value, dict)
        for key, each in value.items() if fits else ():
            check_type(each, inside[1], f"{name}.{key}")
    elif origin is list:
        fits = isinstance(value, list)
        for each in value if fits else ():
            check_type(each, inside[0], name)
    elif isinstance(kind, type) and is_dataclass(kind):
        fits = isinstance(value, kind)
        for field, annotation in get_type_hints(kind).items() if fits else ():
            check_type(getattr(value, field), annotation, f"{name}.{field}")
    elif kind is float:
        fits = isinstance(value, int | float) and math.isfinite(value)
    else:
        fits = type(value) is kind
    if not fits:
        raise TypeError(f"{name} is {value!r:.50}, it must be {getattr(kind, '__name__', kind)}")

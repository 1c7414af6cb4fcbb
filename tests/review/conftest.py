"""The fixtures of `review_made`, where what they need is installed."""

from importlib.util import find_spec

if find_spec("fastapi"):
    from review_made import many, results, site  # noqa: F401

"""Decisions as a page sends them, checked before they are kept."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, TypeAdapter, model_validator

from fanogan.review.database import JUDGEMENTS

Finite = Annotated[float, Field(ge=-1e6, le=1e6, allow_inf_nan=False)]


class Shape(BaseModel):
    """A region that a reader has drawn; points are (column, row).

    On a frame, in its pixels; or where `frame` is None on the en-face map, in those of its picture.
    """

    frame: int | None = Field(ge=0)
    shape: Literal["polygon", "brush"]
    points: list[tuple[Finite, Finite]] = Field(min_length=1, max_length=5000)
    width: float = Field(default=0, ge=0, le=1000, allow_inf_nan=False)
    label: str = Field(default="", max_length=100)


class Verdict(BaseModel):
    """What a reader says of a region."""

    verdict: Literal["accepted", "rejected", "redrawn"]
    label: str = Field(default="", max_length=100)


class Event(BaseModel):
    """A decision as the page sends it; `request` is a name of its own, to send it again."""

    request: str = Field(min_length=8, max_length=64)
    kind: Literal["region", "draw", "case", "note", "fovea", "undo"]
    region: str = Field(default="", max_length=32, pattern=r"^d?\d*$")
    value: Any = None

    @model_validator(mode="after")
    def _checked(self) -> Event:
        match self.kind:
            case "case" if self.value not in JUDGEMENTS:
                raise ValueError(f"a case is {', '.join(JUDGEMENTS)}")
            case "note" if not isinstance(self.value, str) or len(self.value) > 10_000:
                raise ValueError("a note is a text of up to 10,000 characters")
            case "region":
                self.value = Verdict.model_validate(self.value).model_dump()
            case "draw":
                self.value = Shape.model_validate(self.value).model_dump()
            case "fovea":
                place = TypeAdapter(tuple[Finite, Finite]).validate_python(self.value)
                self.value = list(place)
        return self

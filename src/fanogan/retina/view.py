"""What a model takes of retinal volumes: settled in training, saved with the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fanogan.retina.flat_volume import FlatVolume
from fanogan.retina.flatten import FlatSpace
from fanogan.retina.intensity import DepthProfile
from fanogan.retina.pictures import PicturesAs
from fanogan.retina.shape import ShapeNormals
from fanogan.retina.spacing import ThicknessUnseen, median_thickness, with_row
from fanogan.retina.volumes import VolumeSource, find_volumes, read_volumes
from fanogan.scans import BadScan, Note, Spacing

UNLIKE = 1.25
"""Times by which a retina may be thicker or thinner than all training normals without a doubt."""


@dataclass(frozen=True)
class RetinalView:
    """What is taken of a flat volume."""

    space: FlatSpace
    share: float  # of retina in a window, at least
    depth_channel: bool = False  # whether the row in the flat area is a second channel
    profile: DepthProfile | None = None  # grey values by depth that each volume is matched to
    score_retina_only: bool = False  # whether vitreous and choroid are left out of the score
    spacing: Spacing | None = None  # given in training for files that don't tell theirs
    shape: ShapeNormals | None = None  # of the boundaries; None: they have no score of their own
    row: float | None = None  # mm, estimated in training for what nothing tells
    # Least and greatest median thickness of a training normal, in mm.
    thickness: tuple[float, float] | None = None

    def find(
        self,
        images: Any,
        groups: str | None = None,
        pictures: PicturesAs = "auto",
        on_left_out: Callable[[BadScan], None] | None = None,
    ) -> list[VolumeSource]:
        """Find the volumes to read; arguments and errors as for `find_volumes`."""
        return find_volumes(images, groups, on_left_out, pictures)

    def read(
        self,
        images: Any,
        *,
        groups: str | None = None,
        pictures: PicturesAs = "auto",
        spacing: Spacing | None = None,
        skip_bad: bool = False,
        on_bad: Callable[[BadScan], None] | None = None,
        done: Set[str] = frozenset(),
    ) -> Iterator[FlatVolume]:
        """Read volumes in this view's flat space; arguments and errors as for `read_volumes`.

        Where no `spacing` is given, it is this view's.
        """
        volumes = read_volumes(
            images,
            self.space,
            groups=groups,
            pictures=pictures,
            spacing=spacing or self.spacing,
            skip_bad=skip_bad,
            on_bad=on_bad,
            done=done,
        )
        return (with_row(volume, self.row) for volume in volumes)

    def doubts(self, volume: FlatVolume) -> Iterator[Note]:
        """Yield that a volume's retina is far from as thick as those of the training normals."""
        if self.thickness is None:
            return
        (least, greatest), thickness = self.thickness, median_thickness(volume)
        if not least / UNLIKE <= thickness <= greatest * UNLIKE:
            yield ThicknessUnseen(thickness, self.thickness)

    def encode(self, volume: FlatVolume) -> NDArray[np.uint8]:
        """Return the pixels that are kept in memory: (B-scans, channels, flat rows, columns)."""
        pixels = self.profile.match(volume) if self.profile else volume.pixels
        if not self.depth_channel:
            return pixels[:, None]
        rows = np.rint(np.linspace(0, 255, pixels.shape[1])).astype(np.uint8)
        return np.stack([pixels, np.broadcast_to(rows[:, None], pixels.shape)], axis=1)

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RetinalView:
        """Return the view that `to_dict` described."""
        profile = values["profile"]
        if profile is not None:
            profile = DepthProfile(tuple(profile["median"]), tuple(profile["spread"]))
        shape = values.get("shape")  # absent in models made before
        if shape is not None:
            shape = ShapeNormals(**{name: tuple(each) for name, each in shape.items()})
        known = {**values, "space": FlatSpace.from_dict(values["space"]), "profile": profile}
        for key in ("spacing", "thickness"):  # models of before have neither
            if known.get(key) is not None:
                known[key] = tuple(known[key])
        return cls(**{**known, "shape": shape})

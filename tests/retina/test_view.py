"""What a model takes of retinal volumes: found, read, encoded, saved."""

import json
from pathlib import Path

import numpy as np
import pytest

from fanogan.retina import DepthProfile, FlatSpace, FlatVolume, RetinalView, ShapeNormals
from fanogan.scans import BadScan, Scan


def test_volumes_are_read_in_its_space_but_for_those_done(
    eyes: list[Scan], straight: list[FlatVolume], made: Path
) -> None:
    view = RetinalView(FlatSpace(96, 88), 0.5)
    assert [volume.name for volume in view.find(made)] == [eye.name for eye in eyes]
    both = list(view.read([straight[0], made / "."], done={eyes[0].name}))
    assert [volume.name for volume in both] == [eyes[1].name]
    assert both[0].pixels.shape[1] == 96


def test_bad_volumes_are_skipped_on_request(eyes: list[Scan], tmp_path: Path) -> None:
    (tmp_path / "4.e2e").write_bytes(b"CMDb" + bytes(600))
    view, bad = RetinalView(FlatSpace(), 0.5), list[BadScan]()
    with pytest.raises(BadScan, match="damaged or cut short"):
        list(view.read([tmp_path, eyes[0]]))
    found = view.read([tmp_path, eyes[0]], skip_bad=True, on_bad=bad.append)
    assert [volume.name for volume in found] == [eyes[0].name] and len(bad) == 1
    with pytest.raises(BadScan, match="none of 1 volumes could be used"):
        list(view.read(tmp_path, skip_bad=True))
    assert not list(view.read(tmp_path, skip_bad=True, done={"something"}))


def test_depth_is_a_channel_on_request(straight: list[FlatVolume]) -> None:
    plain = RetinalView(FlatSpace(), 0.5).encode(straight[0])
    np.testing.assert_array_equal(plain, straight[0].pixels[:, None])
    deep = RetinalView(FlatSpace(), 0.5, depth_channel=True).encode(straight[0])
    np.testing.assert_array_equal(deep[:, :1], plain)
    assert deep.dtype == np.uint8 and (np.diff(deep[0, 1].astype(int), axis=0) >= 1).all()
    assert (deep[:, 1, 0] == 0).all() and (deep[:, 1, -1] == 255).all()


@pytest.mark.parametrize("with_profile", [False, True])
def test_it_is_saved_as_json(straight: list[FlatVolume], with_profile: bool) -> None:
    profile = DepthProfile.of(straight) if with_profile else None
    view = RetinalView(FlatSpace(96, 88, True), 0.5, True, profile, True)
    text = json.dumps(view.to_dict(), sort_keys=True)
    assert RetinalView.from_dict(json.loads(text)) == view


def test_the_shape_of_normals_is_saved_and_absent_in_former_models(
    straight: list[FlatVolume],
) -> None:
    view = RetinalView(FlatSpace(), 0.5, shape=ShapeNormals.of(straight))
    values = json.loads(json.dumps(view.to_dict()))
    again = RetinalView.from_dict(values)
    assert again == view and again.shape is not None and view.shape is not None
    np.testing.assert_array_equal(again.shape.lines(straight[0]), view.shape.lines(straight[0]))
    del values["shape"]
    assert RetinalView.from_dict(values).shape is None

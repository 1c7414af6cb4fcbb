"""Finding files, naming them, and saying whose they are."""

import os
import re
from pathlib import Path

import pytest

from fanogan.scans import BadScan, each_scan, find_scans


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder of subjects; finding looks at names only, so the files are almost empty."""
    for name in (
        "eye10/b2.png",
        "eye10/b10.png",
        "eye2/right/b1.TIF",
        "lone.jpeg",
        "notes.txt",
        ".hidden.png",
        ".cache/a.png",
        "eye2/labels.csv",
        "v.nii.gz",
    ):
        path = tmp_path / "scans" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return tmp_path / "scans"


NAMES = ["eye2/right/b1.TIF", "eye10/b2.png", "eye10/b10.png", "lone.jpeg", "v.nii.gz"]


def names(*arguments: object) -> list[str]:
    return [found.name for found in find_scans(*arguments)]


def test_a_folder_is_searched_in_natural_order(root: Path) -> None:
    found = find_scans(root)
    assert [item.name for item in found] == NAMES
    assert [item.path for item in found] == [root / name for name in NAMES]
    assert [item.group for item in found] == ["eye2", "eye10", "eye10", "lone.jpeg", "v.nii.gz"]
    assert names(str(root)) == NAMES


def test_globs_match_files_and_folders(root: Path) -> None:
    assert names(f"{root}/**/*.png") == ["eye10/b2.png", "eye10/b10.png"]
    found = find_scans(f"{root}/eye*")
    assert [item.name for item in found] == NAMES[:3]
    assert [item.group for item in found] == ["eye2", "eye10", "eye10"]
    with pytest.raises(BadScan, match=r"no images in .*\*\.gif"):
        find_scans(f"{root}/*.gif")


def test_a_list_keeps_its_order_and_each_file_once(root: Path) -> None:
    files = [root / "lone.jpeg", root / "eye10/b10.png", root / "eye10/b2.png"]
    assert names([*files, root / "lone.jpeg"]) == ["lone.jpeg", "b10.png", "b2.png"]
    assert [found.group for found in find_scans(files)] == ["lone.jpeg", "b10.png", "b2.png"]
    assert len(names([root, root / "eye10", f"{root}/*.jpeg"])) == len(NAMES)


def test_names_that_collide_take_in_more_of_the_path(root: Path) -> None:
    for folder in ("a", "b"):
        (root / folder / "left").mkdir(parents=True)
        (root / folder / "left" / "x.png").write_bytes(b"x")
    files = [root / "a/left/x.png", root / "b/left/x.png", root / "lone.jpeg"]
    assert names(files) == ["a/left/x.png", "b/left/x.png", "lone.jpeg"]
    assert names([root / "a", root / "b"]) == ["a/left/x.png", "b/left/x.png"]


def test_a_name_with_brackets_is_no_glob(root: Path) -> None:
    (root / "scan[1].png").write_bytes(b"x")
    assert names(root / "scan[1].png") == ["scan[1].png"]


def test_linked_folders_are_followed_and_loops_end(root: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "z.png").write_bytes(b"x")
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "loop").symlink_to(root)
    (root / "twin.jpeg").symlink_to(root / "lone.jpeg")
    assert sorted(names(root)) == sorted([*NAMES, "linked/z.png"])


def test_links_within_a_folder_find_no_file_twice(root: Path, tmp_path: Path) -> None:
    (root / "again").symlink_to(root / "eye10")
    # As git-annex keeps files: found by their links alone.
    for place, name in ((".cache/b.png", "visible.png"), ("blobs/5", "plain.png")):
        (root / place).parent.mkdir(exist_ok=True)
        (root / place).write_bytes(b"x")
        (root / name).symlink_to(root / place)
    (tmp_path / "far" / "deep").mkdir(parents=True)
    (tmp_path / "far" / "deep" / "q.png").write_bytes(b"x")
    (root / "a1").symlink_to(tmp_path / "far" / "deep")
    (root / "a2").symlink_to(tmp_path / "far")
    (root / "a3.png").symlink_to(tmp_path / "far" / "deep" / "q.png")
    (root / "circle.png").symlink_to(root / "circle.png")
    (root / "up").symlink_to(tmp_path)
    (root / "nowhere").symlink_to(tmp_path / "gone")
    assert names(root) == ["a1/q.png", *NAMES[:4], "plain.png", NAMES[4], "visible.png"]
    assert sorted(names([root])) == sorted(names([root, root / "eye2"]))


def test_files_beside_each_other_come_in_natural_order_at_once(tmp_path: Path) -> None:
    for name in ("i10.png", "i9.png", "i09.png", "I9a.png", "i.png", "i-1.png", "n/b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    found = each_scan(tmp_path)
    assert next(found).name == "i09.png"
    (tmp_path / "n" / "c.png").write_bytes(b"x")  # not looked at yet
    told = ["i9.png", "I9a.png", "i10.png", "i-1.png", "i.png", "n/b.png", "n/c.png"]
    assert [one.name for one in found] == told


def test_folders_and_exports_that_would_be_called_alike(tmp_path: Path) -> None:
    from test_heidelberg import IMAGES, document

    for folder in ("b", "b/b", "b/b/x"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.xml").write_text(document(IMAGES))
    # The folder itself, the one in it of the same name, and the one in that.
    assert sorted(names(tmp_path / "b")) == ["b", "b/x", "b/x.xml"]


def test_a_key_names_an_array(root: Path) -> None:
    (root / "m.npz").write_bytes(b"x")
    first, second = find_scans([f"{root}/m.npz:train_images", f"{root}/m.npz:test"])
    assert (first.path, first.key, first.name) == (
        root / "m.npz",
        "train_images",
        "m.npz:train_images",
    )
    assert second.group == "m.npz:test"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere", "nowhere does not exist"),
        ("nowhere.npz:key", "does not exist"),
        ("scans/notes.txt", r"notes\.txt is of no known format: fanogan reads \.png"),
        ("empty", r"no images in .*empty: fanogan reads \.png"),
    ],
)
def test_nothing_to_read_is_said(root: Path, source: str, message: str) -> None:
    (root.parent / "empty").mkdir()
    with pytest.raises(BadScan, match=message):
        find_scans(root.parent / source)


def test_a_path_that_the_system_refuses_is_a_sentence() -> None:
    with pytest.raises(BadScan, match="cannot be searched"):
        find_scans("a" * 5000 + ".png")


def test_sources_that_are_no_paths_are_refused() -> None:
    with pytest.raises(BadScan, match="empty list"):
        find_scans([])
    with pytest.raises(BadScan, match="type int is no path"):
        find_scans([3])


def test_a_pattern_names_the_subject(root: Path) -> None:
    groups = [found.group for found in find_scans(f"{root}/eye*", r"eye(\d+)")]
    assert groups == ["2", "10", "10"]
    assert find_scans(f"{root}/eye*", r"eye\d")[1].group == "eye1"
    with pytest.raises(BadScan, match=r"lone\.jpeg does not match"):
        find_scans(root, r"eye(\d+)")
    with pytest.raises(BadScan, match="no regular expression"):
        find_scans(root, "eye(")


def test_a_table_names_the_subject(root: Path, tmp_path: Path) -> None:
    table = tmp_path / "groups.csv"
    rows = [f"{name},s{i // 2}" for i, name in enumerate(NAMES)]
    table.write_text("\ufeffpath,subject\n" + "\n".join(rows), encoding="utf-8")
    groups = [found.group for found in find_scans(root, str(table))]
    assert groups == ["s0", "s0", "s1", "s1", "s2"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,subject\neye2/right/b1.TIF,a\n", r"eye10/b2\.png is not listed in .*groups\.csv"),
        ("file,patient\na,b\n", "no columns 'path' and 'subject'"),
        ("path,subject\na.png\n", "line 2"),
        ("path,subject\na.png,1\na.png,2\n", "two subjects"),
        ("", "no columns"),
        (None, "cannot be read"),
    ],
)
def test_bad_tables_are_named(root: Path, tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "groups.csv").write_text(text)
    with pytest.raises(BadScan, match=message):
        find_scans(root, str(tmp_path / "groups.csv"))


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_searched_is_named(root: Path) -> None:
    (root / "eye10").chmod(0)
    try:
        with pytest.raises(BadScan, match=re.escape("eye10 cannot be searched")):
            find_scans(root)
        with pytest.raises(BadScan, match="cannot be searched"):
            find_scans(root / "eye10" / "b2.png")
    finally:
        (root / "eye10").chmod(0o755)


# --- letters with marks: one character, or two as macOS stores them ----------------------------

COMPOSED, DECOMPOSED = "Zoë", "Zoe\u0308"


@pytest.mark.parametrize("stored", [COMPOSED, DECOMPOSED], ids=["composed", "decomposed"])
@pytest.mark.parametrize("typed", [COMPOSED, DECOMPOSED], ids=["composed", "decomposed"])
def test_subjects_are_found_in_either_form(tmp_path: Path, stored: str, typed: str) -> None:
    path = tmp_path / "scans" / stored / f"{stored}_1.png"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x")
    table = tmp_path / "groups.csv"
    table.write_text(f"path,subject\n{typed}/{typed}_1.png,s1\n", encoding="utf-8")
    (listed,) = find_scans(tmp_path / "scans", str(table))
    (matched,) = find_scans(tmp_path / "scans", rf"({typed})_\d")
    (by_folder,) = find_scans(tmp_path / "scans")
    assert (listed.group, matched.group, by_folder.group) == ("s1", COMPOSED, COMPOSED)
    assert listed.path == path and listed.name == f"{stored}/{stored}_1.png"  # as the disk has it

"""Study codes: the same at every run, of all processes, and for their owner's eyes alone."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest

from fanogan.archive import ArchiveError, Codes

MANY = """
import sys
from pathlib import Path
from fanogan.archive import Codes
codes = Codes(Path(sys.argv[1]))
for number in range(40):
    print(number, codes.code_of(f"PID-{number}"), codes.uid_of("1.2.3"))
"""


def test_the_same_id_has_the_same_code_at_every_run(tmp_path: Path) -> None:
    path = tmp_path / "new" / "codes.csv"
    ids = ["PID-4711", "00123", '=cmd|"x"', "Müller, Anna", "'quoted'", "a\nb"]
    first = Codes(path)
    codes = [first.code_of(one) for one in ids]
    again = Codes(path)
    assert [again.code_of(one) for one in ids] == codes and len(set(codes)) == len(ids)
    assert again.code_of(" PID-4711 ") == codes[0]  # DICOM pads
    assert again.uid_of("1.2.3") == first.uid_of("1.2.3") != first.uid_of("1.2.4")
    assert Codes(tmp_path / "other.csv").uid_of("1.2.3") != first.uid_of("1.2.3")
    assert path.stat().st_mode & 0o777 == 0o600
    with path.open(newline="") as file:  # as any spreadsheet reads it
        rows = list(csv.DictReader(file))
    assert [row["code"] for row in rows] == codes
    assert [row["patient_id"] for row in rows][:2] == ids[:2]


def test_processes_at_once_give_one_code_to_one_patient(tmp_path: Path) -> None:
    path = tmp_path / "codes.csv"
    command = [sys.executable, "-c", MANY, str(path)]
    each = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    outputs = {process.communicate()[0] for process in each}
    assert len(outputs) == 1 and "39 P" in outputs.pop()
    assert len(path.read_text().splitlines()) == 41


def test_a_line_that_a_kill_left_unfinished_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "codes.csv"
    first = Codes(path)
    code = first.code_of("a")
    with path.open("ab") as file:
        file.write(b'"PID-4711",P23')
    again = Codes(path)
    assert again.code_of("a") == code and len(again.code_of("PID-4711")) == 8
    assert Codes(path).code_of("PID-4711") == again.code_of("PID-4711")
    whole = path.read_bytes()
    path.write_bytes(whole[:20])  # killed while the file was made
    path.chmod(0o600)
    assert Codes(path).code_of("a") != code


def test_what_others_can_read_or_is_no_table_of_codes_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "codes.csv"
    Codes(path)
    path.chmod(0o640)
    with pytest.raises(ArchiveError, match=r"others can read it: chmod 600 .*codes\.csv"):
        Codes(path)
    other = tmp_path / "list.csv"
    for text in ("name,age\nAnna,7", "patient_id,code,secret:zz\n", "\xff"):
        other.write_text(text, encoding="latin-1")
        other.chmod(0o600)
        before = other.read_bytes()
        with pytest.raises(ArchiveError, match=r"list\.csv is no file of codes"):
            Codes(other)
        assert other.read_bytes() == before

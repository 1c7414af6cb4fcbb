"""The whole loop: a scan goes into Orthanc, is fetched, scored, and what is found comes back."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import yaml
from dicom_files import SECRETS
from dicom_volumes import STUDY, eye
from orthanc import Orthanc, needs_orthanc
from PIL import Image
from pydicom import dcmread

from fanogan.cli.demo import flat_phantom
from fanogan.detectors import FAnoGAN
from fanogan.phantom import make_phantom
from fanogan.recipes import load_recipe

CHECKOUT = Path(__file__).resolve().parents[2]
EXAMPLE = CHECKOUT / "examples" / "orthanc"
SHAPE, SPACING = (3, 240, 96), (0.24, 0.00387, 0.022)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "model"
    recipe = load_recipe("smoke").but(
        window=(64, 64),
        geometry="retina",
        held_out_fraction=0.34,
        critic_updates=8,
        encoder_updates=8,
        log_every=4,
        reestimate_batch_norm=False,
    )
    eyes = [make_phantom(seed, shape=SHAPE, spacing=SPACING) for seed in range(3)]
    FAnoGAN(recipe).fit([flat_phantom(each) for each in eyes]).model.save(folder)
    return folder


def loop(orthanc: Orthanc, way: str, model: Path, work: Path) -> str:
    """Run the example's script once, with the command as it is installed."""
    programs = work / "bin"
    programs.mkdir(parents=True, exist_ok=True)
    command = programs / "fanogan"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m fanogan "$@"\n')
    command.chmod(0o755)
    environment = os.environ | {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": str(CHECKOUT / "src"),
        "FANOGAN_ARCHIVE": orthanc.dimse if way == "dimse" else orthanc.web,
        "FANOGAN_ARCHIVE_USER": orthanc.user,
        "FANOGAN_ARCHIVE_PASSWORD": orthanc.password,
        "MODEL": str(model),
        "WORK": str(work),
        "EVERY": "0",
    }
    done = subprocess.run(
        ["sh", EXAMPLE / "loop.sh"], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.system
@needs_orthanc
@pytest.mark.parametrize("way", ["web", "dimse"])
def test_what_arrives_is_scored_and_comes_back(way: str, model: Path, tmp_path: Path) -> None:
    ill = make_phantom(11, shape=SHAPE, spacing=SPACING, diseased=True)
    source = eye(tmp_path / "eye.dcm", ill.pixels, SPACING)
    orthanc, work = Orthanc(tmp_path).start(), tmp_path / "work"
    try:
        orthanc.put(source)
        said = loop(orthanc, way, model, work)
        assert "1 file fetched" in said and "3 objects sent" in said
        found = orthanc.rest(
            f"/dicom-web/studies/{STUDY}/series", params={"includefield": "SeriesDescription"}
        ).json()
        modalities = sorted(one["00080060"]["Value"][0] for one in found)
        # A parametric map's modality is that of what it was made of.
        assert len(modalities) == 4 and {"OPT", "SEG", "SR"} <= set(modalities), modalities
        again = loop(orthanc, way, model, work)  # a second round finds nothing to do
        assert "0 files fetched" in again and "sent" not in again

        # Another reader: dcmtk reads all of them, and Orthanc draws the regions.
        objects = {path.suffixes[-2]: path for path in (work / "results").rglob("dicom/*.dcm")}
        assert set(objects) == {".pm", ".seg", ".sr"}
        for path in objects.values():
            dump = subprocess.run(["dcmdump", str(path)], capture_output=True, text=True)
            assert dump.returncode == 0 and STUDY in dump.stdout and not dump.stderr, dump.stderr
        masks = dcmread(objects[".seg"])
        ids = {one["MainDicomTags"]["SOPInstanceUID"]: one["ID"] for one in orthanc.instances()}
        drawn = orthanc.rest(f"/instances/{ids[masks.SOPInstanceUID]}/frames/0/preview")
        assert drawn.ok and drawn.headers["content-type"] == "image/png"
        expected = masks.pixel_array if masks.NumberOfFrames == 1 else masks.pixel_array[0]
        picture = np.asarray(Image.open(BytesIO(drawn.content)))
        np.testing.assert_array_equal(picture > 0, expected > 0)
        picture_file = tmp_path / "mask.png"
        subprocess.run(["dcm2pnm", "+on", str(objects[".seg"]), picture_file], check=True)
        picture = np.asarray(Image.open(picture_file).convert("L"))
        np.testing.assert_array_equal(picture > 0, expected > 0)

        # Without the objects nothing of the patient leaves: no name of a file, no byte in it.
        results = [path for path in (work / "results").rglob("*") if path.is_file()]
        others = [path for path in results if path.parent.name != "dicom"]
        assert others
        for path in others:
            data = path.read_bytes() + str(path.relative_to(work)).encode()
            assert not [one for one in (*SECRETS, STUDY) if one.encode() in data], path
    finally:
        orthanc.kill()


def test_the_compose_file_is_sound() -> None:
    compose = yaml.safe_load((EXAMPLE / "compose.yaml").read_text("utf-8"))
    services = compose["services"]
    assert set(services) == {"orthanc", "fanogan"} and set(compose["volumes"]) == {
        "archive",
        "work",
    }
    script = (EXAMPLE / "loop.sh").read_text("utf-8")
    needed = set(re.findall(r"\$\{?([A-Z][A-Z_]+)", script)) - {"EVERY"}
    assert needed <= set(services["fanogan"]["environment"])
    # The user that the loop is, and its password, are those that Orthanc knows; none is written.
    users = services["orthanc"]["environment"]["ORTHANC__REGISTERED_USERS"]
    secret = "${FANOGAN_ARCHIVE_PASSWORD:?set a password}"
    assert json.loads(users) == {services["fanogan"]["environment"]["FANOGAN_ARCHIVE_USER"]: secret}
    assert services["fanogan"]["environment"]["FANOGAN_ARCHIVE_PASSWORD"] == secret
    # The archive's web page is for this machine alone.
    assert "./loop.sh:/loop.sh:ro" in services["fanogan"]["volumes"]
    assert "127.0.0.1:8042:8042" in services["orthanc"]["ports"]
    context = (EXAMPLE / services["fanogan"]["build"]["context"]).resolve()
    assert (context / "Dockerfile").exists()
    done = subprocess.run(["sh", "-n", EXAMPLE / "loop.sh"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

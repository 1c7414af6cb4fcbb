"""Layer boundaries against the phantom's exact ones, the device's own thickness, and the eye.

Numbers go to docs/layers.md. The contact sheet holds real B-scans and goes to a folder that git
ignores; whoever makes it looks at it and counts.

    python benchmarks/layers.py --data ../shared/data
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path

import numpy as np
from PIL import Image
from tables import ROOT, commit, data_folder, machine, markdown, write_section

from fanogan.phantom import make_phantom
from fanogan.retina import Boundaries, find_boundaries
from fanogan.scans import Scan, read_scan

HEALTHY = ("healthy_subject1", "healthy_subject2", "healthy_subject3")
EYES = (*HEALTHY, "AMD_patient1", "AMD_patient2")
ZONES = ("C0", "N1", "S1", "T1", "I1", "N2", "S2", "T2", "I2")
# The settings were chosen while looking at lower seeds.
FIRST = 100
KINDS: dict[str, tuple[str, ...]] = {
    "healthy": (),
    "fluid": ("cyst", "subretinal fluid", "pigment epithelium detachment"),
    "drusen": ("drusen", "hyperreflective foci"),
}
SHEET = {"healthy": (4, 24, 40), "AMD": (12, 20, 24, 36), "DME": (1, 5, 9)}
DME_SPACING = (None, 0.00387, 0.0114)


def main() -> None:
    """Measure, draw, and write the section."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", help="folder that holds oct")
    parser.add_argument("--phantoms", type=int, default=3, help="phantoms of each kind")
    parser.add_argument("--out", type=Path, default=Path("runs/layers"))
    options = parser.parse_args()
    folder = data_folder(options.data) / "oct"
    options.out.mkdir(parents=True, exist_ok=True)
    scans = {name: read_export(folder / "spectralis" / name) for name in EYES}
    found, seconds = {}, []
    for name, scan in scans.items():
        started = time.process_time()
        found[name] = find_boundaries(scan.pixels, scan.spacing)
        seconds.append(time.process_time() - started)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    contact_sheet(scans, found, folder / "chiu_dme" / "bscans", options.out)
    write_section(
        "layers",
        f"{phantom_table(options.phantoms)}\n\n{thickness_table(scans, found)}\n\n"
        f"A volume of 49×496×512: {np.mean(seconds):.1f} s of one core "
        f"(longest {max(seconds):.1f} s), the whole process with five volumes {memory:.1f} GiB at "
        f"most. {machine()}, commit {commit()}.",
        ROOT / "docs" / "layers.md",
    )


def read_export(folder: Path) -> Scan:
    """The volume of an export's folder."""
    return read_scan(next(folder.glob("*.xml")))


def phantom_table(count: int) -> str:
    """Errors against exact boundaries, as Markdown."""
    rows = []
    for kind, lesions in KINDS.items():
        errors: dict[str, list[np.ndarray]] = {"ILM": [], "RPE outer": [], "Bruch": []}
        known = []
        for seed in range(FIRST, FIRST + count):
            eye = make_phantom(seed, diseased=bool(lesions), lesions=lesions or None)
            found = find_boundaries(eye.pixels, eye.spacing)
            known.append(found.found)
            lines = found.inner, found.epithelium, found.outer
            for name, line in zip(errors, lines, strict=True):
                errors[name].append((line - eye.boundaries[name])[found.found])
        share = f"{100 * np.mean(known):.2f}"
        for name, some in errors.items():
            rows.append([kind, name, share, *error_cells(np.concatenate(some))])
    header = ["phantoms", "boundary", "columns found, %", "mean error", "mean absolute error"]
    header += ["99.9th percentile", "largest", "beyond 4 rows, %"]
    return (
        f"Synthetic: {count} phantoms of each kind, 49×496×512, seeds {FIRST} to "
        f"{FIRST + count - 1}; settings were chosen on lower seeds. Errors in rows of 3.87 µm, "
        f"over the columns found.\n\n{markdown(header, rows)}"
    )


def error_cells(error: np.ndarray) -> list[str]:
    """Mean, mean absolute, 99.9th percentile, largest, and share beyond 4 rows."""
    size = np.abs(error)
    return [
        f"{error.mean():+.2f}",
        f"{size.mean():.2f}",
        f"{np.percentile(size, 99.9):.1f}",
        f"{size.max():.1f}",
        f"{100 * (size > 4).mean():.2f}",
    ]


def thickness_table(scans: dict[str, Scan], found: dict[str, Boundaries]) -> str:
    """Thickness by ETDRS zone less the device's own, in µm, as Markdown."""
    rows = []
    for name, scan in scans.items():
        ours = zones(scan, found[name])
        assert scan.thickness is not None
        off = [1000 * (ours[zone] - scan.thickness[zone]) for zone in ZONES]
        share = f"{100 * found[name].found.mean():.1f}"
        rows.append([name, share, *(f"{one:+.0f}" for one in off), f"{np.abs(off).max():.0f}"])
    return (
        "Real: mean thickness from boundary to boundary in each ETDRS zone, less what the device "
        "wrote into its export, in µm. The device measures from the ILM to Bruch's membrane.\n\n"
        + markdown(["eye", "columns found, %", *ZONES, "largest"], rows)
    )


def zones(scan: Scan, found: Boundaries) -> dict[str, float]:
    """Mean thickness in mm of each zone of the 1, 3 and 6 mm circles."""
    face = scan.en_face
    assert face is not None and face.grid_centre is not None and scan.spacing[1] is not None
    share = ((np.arange(scan.pixels.shape[2]) + 0.5) / scan.pixels.shape[2])[:, None]
    start, end = face.lines[:, :1], face.lines[:, 1:]
    offset = (start + (end - start) * share - face.grid_centre) * np.array(face.spacing, float)
    radius = np.hypot(offset[..., 0], offset[..., 1])
    up = -offset[..., 0]
    nasal = offset[..., 1] * (1 if scan.eye == "right" else -1)
    sides = {
        "N": nasal > np.abs(up),
        "T": -nasal > np.abs(up),
        "S": up >= np.abs(nasal),
        "I": -up >= np.abs(nasal),
    }
    thickness = (found.outer - found.inner) * scan.spacing[1]
    means = {"C0": np.nanmean(thickness[radius < 0.5])}
    for ring, (least, most) in {"1": (0.5, 1.5), "2": (1.5, 3.0)}.items():
        for side, here in sides.items():
            zone = here & (radius >= least) & (radius < most)
            means[side + ring] = np.nanmean(thickness[zone])
    return {name: float(mean) for name, mean in means.items()}


def contact_sheet(
    scans: dict[str, Scan], found: dict[str, Boundaries], dme: Path, out: Path
) -> None:
    """Thirty-five real B-scans with the lines drawn, a picture of each group."""
    healthy = [
        (scans[name].pixels[k], found[name], k) for name in HEALTHY for k in SHEET["healthy"]
    ]
    diseased = [(scans[name].pixels[k], found[name], k) for name in EYES[3:] for k in SHEET["AMD"]]
    save(healthy, 3, out / "healthy.png")
    save(diseased, 2, out / "amd.png")
    edema = []
    for subject in range(1, 7):
        for k in SHEET["DME"]:
            image = read_scan(dme / f"subject{subject:02d}_{k:02d}.png").pixels[:1]
            edema.append((image[0], find_boundaries(image, DME_SPACING), 0))
    save(edema[:9], 2, out / "dme_1.png")
    save(edema[9:], 2, out / "dme_2.png")


def save(tiles: list[tuple[np.ndarray, Boundaries, int]], across: int, path: Path) -> None:
    """Draw B-scans side by side."""
    drawn = [draw(*tile) for tile in tiles]
    drawn += [np.zeros_like(drawn[0])] * (-len(drawn) % across)
    rows = [np.hstack(drawn[i : i + across]) for i in range(0, len(drawn), across)]
    Image.fromarray(np.vstack(rows)).save(path)


def draw(scan: np.ndarray, found: Boundaries, k: int, height: int = 300) -> np.ndarray:
    """A B-scan around the retina with its boundaries.

    Inner in red, the epithelium's in yellow, Bruch's membrane in green; ticks are violet where they
    aren't seen clearly, blue where they aren't known.
    """
    picture = np.repeat(scan[..., None], 3, axis=2)
    known = found.found[k]
    lines = {"inner": (255, 60, 60), "epithelium": (255, 220, 0), "outer": (0, 255, 80)}
    for name, colour in lines.items():
        rows = np.rint(np.nan_to_num(getattr(found, name)[k], nan=-1)).astype(int)
        drawn = known & (rows >= 0) & (rows < len(scan))
        picture[rows[drawn], np.flatnonzero(drawn)] = colour
    middle = np.nanmean([found.inner[k], found.outer[k]]) if known.any() else len(scan) / 2
    top = int(np.clip(middle - height // 2, 0, len(scan) - height))
    cropped = picture[top : top + height]
    cropped[:6, ~found.clear[k]] = (255, 0, 255)
    cropped[:6, ~known] = (0, 0, 255)
    return cropped


if __name__ == "__main__":
    main()

"""The heart beats of the demo: a part of MIT-BIH, a second each.

Who is learnt from, who is tested, and what a beat is are as in `signals.py`. Of each person some
beats are taken, evenly over the record.

    python benchmarks/demo_signals.py
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import numpy as np
from signals import LEARNT, MITBIH, NORMAL, TESTED, beats
from tables import data_folder

OUT = Path(__file__).parents[1] / "src" / "fanogan" / "cli" / "mitbih"
WINDOW = 128
VENTRICULAR = "V"
OF_LEARNT, OF_TESTED = 60, 30
"""Beats of a person at most."""


def main() -> None:
    """Write the beats to the package, in place of those that are there."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", help="folder that holds signals/mitbih")
    file = np.load(data_folder(parser.parse_args().data) / "signals" / MITBIH)
    for part, records, kinds, most in (
        ("train", LEARNT, NORMAL, OF_LEARNT),
        ("normal", TESTED, NORMAL, OF_TESTED),
        ("anomalous", TESTED, VENTRICULAR, OF_TESTED),
    ):
        shutil.rmtree(OUT / part, ignore_errors=True)
        (OUT / part).mkdir()
        for record in records:
            found = [signal.pixels[0] for signal, _ in beats(file, record, WINDOW, kinds)]
            if found:
                chosen = np.stack(found[:: -(-len(found) // most)])
                np.save(OUT / part / f"{record}.npy", chosen)
                print(f"{record}: {len(chosen)} of {len(found)} to {part}")


if __name__ == "__main__":
    main()

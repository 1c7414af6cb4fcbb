"""Draw the pictures of the explanation pages, from the made-up retina.

Usage: python docs/site/pictures.py
"""

import io
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from fanogan.phantom import make_phantom

OUT = Path(__file__).parents[1] / "pictures"
SHAPE, SPACING, SCAN = (3, 248, 256), (0.12, 0.00774, 0.0228), 1


def draw(name: str, pictures: dict[str, tuple[np.ndarray, str]]) -> None:
    """Write pictures side by side; those in colour are differences of 0 to 1."""
    figure, axes = plt.subplots(1, len(pictures), figsize=(3 * len(pictures), 3.2))
    for axis, (title, (pixels, colours)) in zip(axes, pictures.items(), strict=True):
        axis.imshow(pixels, cmap=colours, vmin=0, vmax=255 if colours == "gray" else 0.6)
        axis.set_title(title, fontsize=10)
        axis.axis("off")
    figure.tight_layout()
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=72)
    plt.close(figure)
    Image.open(drawn).convert("RGB").quantize(48).save(OUT / name, optimize=True)


def main() -> None:
    """Draw them all."""
    healthy = make_phantom(7, shape=SHAPE, spacing=SPACING)
    ill = make_phantom(7, shape=SHAPE, spacing=SPACING, diseased=True, lesions=["cyst"])
    x, normal = (eye.pixels[SCAN].astype(float) for eye in (ill, healthy))
    smooth = gaussian_filter(normal, 2)
    scale = 2 / 255  # grey values lie in [−1, 1]
    draw(
        "method.png",
        {
            "x": (x, "gray"),
            "a perfect G(E(x))": (normal, "gray"),
            "|x − G(E(x))|": (np.abs(x - normal) * scale, "magma"),
            "the true lesion": (ill.mask[SCAN] * 0.6, "magma"),
        },
    )
    draw(
        "smooth.png",
        {
            "x, healthy": (normal, "gray"),
            "a smooth G(E(x))": (smooth, "gray"),
            "|x − G(E(x))|, healthy": (np.abs(normal - smooth) * scale, "magma"),
            "|x − G(E(x))|, with the cyst": (np.abs(x - smooth) * scale, "magma"),
        },
    )


if __name__ == "__main__":
    main()

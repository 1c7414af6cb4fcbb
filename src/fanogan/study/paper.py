"""What the paper reports, on its own data: private retinal OCT (Schlegl et al. 2019)."""

from __future__ import annotations

COLUMNS = ("precision", "sensitivity", "specificity", "f_score", "auc")

_IMAGES = {
    # Table 1
    "ae": (0.6824, 0.7195, 0.8550, 0.7005, 0.8688),
    "advae": (0.6405, 0.7856, 0.8092, 0.7057, 0.8649),
    "ali": (0.5063, 0.7434, 0.6863, 0.6023, 0.7897),
    "critic": (0.4909, 0.6831, 0.6931, 0.5713, 0.7504),
    "iterative": (0.7202, 0.8049, 0.8645, 0.7602, 0.9114),
    "izi_f": (0.7863, 0.8091, 0.9049, 0.7975, 0.9301),
    # Table 2
    "ziz": (0.7047, 0.8146, 0.8522, 0.7557, 0.9066),
    "izi": (0.7018, 0.7497, 0.8621, 0.7250, 0.8874),
    # Table A1
    "ziz-linear": (0.6412, 0.8018, 0.8058, 0.7126, 0.8848),
    "izi-linear": (0.6955, 0.7265, 0.8623, 0.7107, 0.8752),
    "izi_f-linear": (0.7692, 0.8110, 0.8947, 0.7896, 0.9269),
}
IMAGES: dict[str, dict[str, float]] = {
    **{name: dict(zip(COLUMNS, figures, strict=True)) for name, figures in _IMAGES.items()},
    # The end of section 3.2
    "izi-features": {"f_score": 0.7328, "auc": 0.8976},
    "ziz-features": {"f_score": 0.7830, "auc": 0.9209},
}

PIXELS = {  # Table B1
    "ae": {"sensitivity": 0.6960, "specificity": 0.5428, "auc": 0.6459},
    "advae": {"sensitivity": 0.6284, "specificity": 0.7157, "auc": 0.7195},
    "ali": {"sensitivity": 0.6043, "specificity": 0.6468, "auc": 0.6610},
    "izi_f": {"sensitivity": 0.6907, "specificity": 0.7534, "auc": 0.7831},
}

SECONDS = {"iterative": 2 * 86_400.0, "izi_f": 20.0}
"""For 70,000 images on a Titan X; the 20 seconds are faster than that card can calculate."""

RATER_ACCURACY = 0.44
"""Mean of two retina experts, on 50 real and 50 generated images."""

"""scoring."""

from fanogan.scoring.job import images_done, whole_folder
from fanogan.scoring.judge import Gallery, Judge, as_picture
from fanogan.scoring.table import COLUMNS, write_csv
from fanogan.scoring.volume_maps import VolumeMaps
from fanogan.scoring.write import VOLUMES_SHOWN, about_model, method_of, skips, write_results

__all__ = [
    "COLUMNS",
    "VOLUMES_SHOWN",
    "Gallery",
    "Judge",
    "VolumeMaps",
    "about_model",
    "as_picture",
    "images_done",
    "method_of",
    "skips",
    "whole_folder",
    "write_csv",
    "write_results",
]

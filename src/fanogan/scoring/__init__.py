"""From files to results: one pipeline, downward, for every detector.

Read → encode → windows → networks → fuse → Result; calibration by held-out normals; and what
``score`` writes, resumed after a kill. A ``Model`` is what it scores with: a value.
"""

from fanogan.scoring.calibrating import calibrate, recalibrate
from fanogan.scoring.cases import Gallery, about_model, as_picture, case_of, statement_of
from fanogan.scoring.drift import drift_record, read_drift, today
from fanogan.scoring.frames import BATCH, score_batch
from fanogan.scoring.job import images_done, job_of
from fanogan.scoring.model import Model, ModelFile, read_model, unreadable
from fanogan.scoring.pipeline import (
    encode,
    frame_name,
    read,
    result_batches,
    result_of,
    results,
    score,
    score_encoded,
    totals_of,
)
from fanogan.scoring.precision import PRECISIONS, BadPrecision, in_precision
from fanogan.scoring.result import Encoded, FrameScore, Result, Scores
from fanogan.scoring.results_folder import WRITTEN, whole_folder
from fanogan.scoring.shards import Merged, merge
from fanogan.scoring.summary import VOLUMES_SHOWN
from fanogan.scoring.table import COLUMNS, Table, read_csv, row_of, write_csv
from fanogan.scoring.volume_maps import (
    MapsAs,
    VolumeMaps,
    float_tiff,
    image_files,
    map_file,
    mask_tiff,
)
from fanogan.scoring.voxel_maps import smoothed, voxel_labels
from fanogan.scoring.windows import HALF
from fanogan.scoring.write import skip_notes, write_results

__all__ = [
    "BATCH",
    "COLUMNS",
    "HALF",
    "PRECISIONS",
    "VOLUMES_SHOWN",
    "WRITTEN",
    "BadPrecision",
    "Encoded",
    "FrameScore",
    "Gallery",
    "MapsAs",
    "Merged",
    "Model",
    "ModelFile",
    "Result",
    "Scores",
    "Table",
    "VolumeMaps",
    "about_model",
    "as_picture",
    "calibrate",
    "case_of",
    "drift_record",
    "encode",
    "float_tiff",
    "frame_name",
    "image_files",
    "images_done",
    "in_precision",
    "job_of",
    "map_file",
    "mask_tiff",
    "merge",
    "read",
    "read_csv",
    "read_drift",
    "read_model",
    "recalibrate",
    "result_batches",
    "result_of",
    "results",
    "row_of",
    "score",
    "score_batch",
    "score_encoded",
    "skip_notes",
    "smoothed",
    "statement_of",
    "today",
    "totals_of",
    "unreadable",
    "voxel_labels",
    "whole_folder",
    "write_csv",
    "write_results",
]

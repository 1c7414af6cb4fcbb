"""The paper's study: its tables, figures and the visual Turing test."""

from fanogan.study.claims import Finding, findings, signed
from fanogan.study.outcomes import Study, settings_of
from fanogan.study.study_page import amount, write_study_report
from fanogan.study.systems import SYSTEMS, fitted
from fanogan.study.tables import Table, tables
from fanogan.study.test_sets import StudyData
from fanogan.study.trials import run_study
from fanogan.study.turing import EACH, KEY, PAGE, SCORES, score_answers, write_test

__all__ = [
    "EACH",
    "KEY",
    "PAGE",
    "SCORES",
    "SYSTEMS",
    "Finding",
    "Study",
    "StudyData",
    "Table",
    "amount",
    "findings",
    "fitted",
    "run_study",
    "score_answers",
    "settings_of",
    "signed",
    "tables",
    "write_study_report",
    "write_test",
]

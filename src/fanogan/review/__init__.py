"""Reading and deciding: results become a worklist, findings are accepted, and go out again."""

from fanogan.review.access import ROLES, User, add_user
from fanogan.review.app import LABELS, Settings, review
from fanogan.review.database import Database
from fanogan.review.importing import import_results
from fanogan.review.truth import Truth

__all__ = [
    "LABELS",
    "ROLES",
    "Database",
    "Settings",
    "Truth",
    "User",
    "add_user",
    "import_results",
    "review",
]

"""What stands of a case: by each reader, and in the end; and how far readers agree."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fanogan.review.database import Database

DISPUTED = "disputed"


@dataclass
class Standing:
    """What stands of a case.

    Attributes:
        judgement: Of the whole case, or None.
        note: Free text.
        regions: By a region's id, as text, its `verdict` and `label`; drawn ones are 'd' and the
            number of the event that drew them.
        drawn: The shapes of those.
        fovea: (column, row) in pixels of the en-face view, where it was moved.
    """

    judgement: str | None = None
    note: str = ""
    regions: dict[str, dict[str, str]] = field(default_factory=dict)
    drawn: dict[str, dict[str, Any]] = field(default_factory=dict)
    fovea: Sequence[float] | None = None

    @property
    def accepted(self) -> list[str]:
        """The regions that are taken for findings."""
        return [key for key, each in self.regions.items() if each["verdict"] == "accepted"]


def by_reader(events: Sequence[Mapping[str, Any]]) -> dict[str, Standing]:
    """Return what stands by each reader; events as `Database.decisions` returns them."""
    found: dict[str, Standing] = {}
    for event in events:
        standing, value = found.setdefault(event["who"], Standing()), event["value"]
        match event["kind"]:
            case "case":
                standing.judgement = value
            case "note":
                standing.note = value
            case "fovea":
                standing.fovea = value
            case "draw":
                key = f"d{event['id']}"
                standing.drawn[key] = value
                standing.regions.setdefault(key, {"verdict": "accepted", "label": value["label"]})
            case "region":
                standing.regions[event["region"]] = value
    for standing in found.values():  # what was decided of a drawing that has been undone
        known = {key for each in found.values() for key in each.drawn}
        gone = [key for key in standing.regions if key.startswith("d") and key not in known]
        for key in gone:
            del standing.regions[key]
    return found


def final(events: Sequence[Mapping[str, Any]]) -> Standing:
    """Return what stands in the end: the adjudicator's word, or else what all readers say.

    A region or case of which readers differ is 'disputed' until it is adjudicated. So is what one
    of several readers has drawn.
    """
    adjudicators = {event["who"] for event in events if event["role"] == "adjudicator"}
    each = by_reader(events)
    judges = [standing for who, standing in each.items() if who in adjudicators]
    readers = [standing for who, standing in each.items() if who not in adjudicators]
    whole = Standing(note="\n".join(f"{who}: {one.note}" for who, one in each.items() if one.note))
    for standing in each.values():
        whole.drawn |= standing.drawn
        whole.fovea = standing.fovea or whole.fovea
    spoken = [one.judgement for one in judges if one.judgement]
    said = {one.judgement for one in readers if one.judgement}
    whole.judgement = (
        spoken[-1] if spoken else DISPUTED if len(said) > 1 else next(iter(said), None)
    )
    active = [one for one in readers if one.regions or one.judgement]
    for key in dict.fromkeys(key for one in each.values() for key in one.regions):
        words = [one.regions[key] for one in judges if key in one.regions]
        others = [one.regions[key] for one in readers if key in one.regions]
        verdicts = {word["verdict"] for word in others}
        alone = key.startswith("d") and len(active) > 1
        if words:
            whole.regions[key] = words[-1]
        elif len(verdicts) == 1 and not alone:
            labels = {word.get("label", "") for word in others}
            label = labels.pop() if len(labels) == 1 else ""
            whole.regions[key] = {"verdict": verdicts.pop(), "label": label}
        else:
            whole.regions[key] = {"verdict": DISPUTED, "label": ""}
    return whole


# --- agreement --------------------------------------------------------------------------------


def agreement(database: Database) -> dict[str, Any]:
    """Return Cohen's κ between each two readers, per case and per region, and what is disputed.

    A drawn region has no counterpart by another reader, so only candidate regions count.
    """
    query = (
        "SELECT who, kind, case_id, region, json_extract(value, '$') AS word, "
        "json_extract(value, '$.verdict') AS verdict FROM latest "
        "WHERE kind = ? AND role <> 'adjudicator' AND region NOT LIKE 'd%'"
    )
    pairs = []
    disputed: dict[int, set[str]] = {}
    for kind, called in (("case", "whole cases"), ("region", "regions")):
        words: dict[str, dict[tuple[int, str], str]] = {}
        for row in database.rows(query, kind):
            word = row["word"] if kind == "case" else row["verdict"]
            words.setdefault(row["who"], {})[row["case_id"], row["region"]] = word
        for one, other in itertools.combinations(sorted(words), 2):
            common = sorted(words[one].keys() & words[other].keys())
            ours, theirs = ([words[who][key] for key in common] for who in (one, other))
            for (case_id, _), here, there in zip(common, ours, theirs, strict=True):
                if here != there:
                    disputed.setdefault(case_id, set()).add(called)
            pairs.append({"of": called, "readers": (one, other), **_kappa(ours, theirs)})
    settled = {
        row["case_id"]
        for row in database.rows(
            "SELECT case_id FROM latest WHERE role = 'adjudicator' AND kind = 'case'"
        )
    }
    numbers = list(disputed)
    names = {
        number: database.rows("SELECT name, score FROM cases WHERE id = ?", number)[0]
        for number in numbers
    }
    cases = [
        {"id": n, **names[n], "about": " and ".join(sorted(disputed[n])), "settled": n in settled}
        for n in sorted(numbers, key=lambda n: (n in settled, -names[n]["score"]))
    ]
    return {"pairs": pairs, "cases": cases}


def _kappa(ours: Sequence[str], theirs: Sequence[str]) -> dict[str, Any]:
    """Return how many both decided, the share that is equal, and κ; None where it says nothing."""
    from sklearn.metrics import cohen_kappa_score

    count = len(ours)
    equal = sum(a == b for a, b in zip(ours, theirs, strict=True))
    kappa = None
    if len({*ours, *theirs}) > 1:  # with one word alone, chance agrees as well
        kappa = float(cohen_kappa_score(ours, theirs))
    return {"count": count, "equal": equal / count if count else None, "kappa": kappa}

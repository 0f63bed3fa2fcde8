"""A report's numbers and items as CSV (RFC 4180), for spreadsheets and statistics programs.

Texts of models stand in these tables: one that begins like a formula gets an apostrophe before it, so that
a spreadsheet shows it and does not run it.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from valign.report.items import WORDS
from valign.report.sections import all_results
from valign.report.subject import Row

NUMBERS = (
    "subject", "level", "metric", "variant", "value", "unit", "direction", "low", "high", "confidence",
    "interval_method", "n", "unscored", "reasons", "cluster_unit", "clusters", "best", "worst", "chance", "place",
)  # fmt: skip
ITEMS = ("item", "level", "measure", "variant", "subject", "score", "unit", "outcome", "reason", "prompt", "response")


def numbers_csv(report: Mapping[str, Any]) -> str:
    """One row per Result; `place` is its JSON pointer. An empty cell is undefined or does not exist; never 0."""
    return _csv(NUMBERS, (_number_row(at, r) for at, r in all_results(report).items()))


def _number_row(at: str, r: Row) -> list[Any]:
    ends, anchors, cluster = (r.get(k) or {} for k in ("interval", "anchors", "cluster"))
    reasons = r.get("n_unscored") or {}
    return [
        r["subject"], r["level"], r["metric"], r["variant"], r.get("value"), r["unit"], r["direction"],
        ends.get("low"), ends.get("high"), ends.get("level"), ends.get("method"), r.get("n"), sum(reasons.values()),
        "; ".join(f"{k} {n}" for k, n in reasons.items()), cluster.get("unit"), cluster.get("count"),
        anchors.get("best"), anchors.get("worst"), anchors.get("chance"), at,
    ]  # fmt: skip


def items_csv(table: Row) -> str:
    """One row per item, measure and policy, from `items.table`; outcome compares with the base on the same item."""
    return _csv(ITEMS, (row for measure in table["measures"] for row in _item_rows(measure, table)))


def _item_rows(measure: Row, table: Row) -> Iterable[list[Any]]:
    subjects = [s["id"] for s in table["subjects"]]
    if "rows" in measure:
        for r in measure["rows"]:
            for a in r["answers"]:
                said = "\n\n".join(t["text"] for t in a["texts"])
                yield [r["id"], measure["level"], measure["name"], "utility", subjects[a["s"]], a["score"], measure["unit"],
                       _word(a["outcome"]), None, _prompt(table, r["id"]), said]  # fmt: skip
        return
    for i, id in enumerate(measure["ids"]):
        for s, c in enumerate(measure["columns"]):
            if c is not None and c["places"][i] is not None:
                given = c["texts"].get(i) or (_given(table, id) if measure["given"] else None)
                yield [id, measure["level"], measure["metric"], measure["variant"], subjects[s], c["scores"][i], measure["unit"],
                       _word(c["outcomes"][i]), c["reasons"].get(i), _prompt(table, id), given]  # fmt: skip


def _word(letter: str) -> str:
    return "" if letter == "n" else WORDS[letter]


def _prompt(table: Row, id: str) -> str:
    turns = table["prompts"].get(id) or table["prompts"].get(id.split("#")[0]) or ()
    return "\n\n".join(t["content"] for t in turns)


def _given(table: Row, id: str) -> str | None:
    """The responses of the data that an item's score is about, each after what it is called."""
    found = table["given"].get(id) or table["given"].get(id.split("#")[0]) or ()
    return "\n\n".join(f"{r['label']}: {r['text']}" if r["label"] else r["text"] for r in found) or None


def _csv(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(head)
    writer.writerows([_cell(x) for x in row] for row in rows)
    return out.getvalue()


def _cell(x: Any) -> Any:
    if isinstance(x, str) and x[:1] in ("=", "+", "-", "@", "\t", "\r") and x:
        return f"'{x}"
    return x

"""The item table behind the numbers: what each policy said and scored, item by item, and who won and lost.

Built from a whole report (its item lists in place, see `write.read_report`); the page embeds it compressed,
`valign report --csv` writes it as a table. Scores are the JSON's own, each with its place in it; outcomes are
words, no numbers of this room's. Result items without texts take the prompt and the responses of the sample
of the same id.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from valign.report import visible
from valign.report.sections import PART, all_results
from valign.report.subject import Row

SAME = 1e-9  # scores nearer than this are equal
CUT = 6000  # characters of one text that a page carries
BUDGET = 6_000_000  # bytes of the embedded table; the page with everything stays below 8 MB
LETTERS = {"better": "w", "worse": "l", "same": "s", "unscored": "u", "base": "b"}
# metrics of what a policy said itself: the responses that the data hold say nothing about those scores
OWN = ("goal.", "risk.", "value.", "kl.", "reward.mean", "reward.gain", "instruction.", "overopt.", "generality.")
WORDS = {letter: word for word, letter in LETTERS.items()} | {"n": "not an item of this policy"}


def table(report: Mapping[str, Any]) -> Row:
    """{"subjects", "prompts", "given", "measures"}: the texts first, then the Results of the headline, then the others.

    subjects   [{"id", "label", "mark", "base"}]: answers name them by position
    prompts    {item id: [{"role", "content"}]}
    given      {item id: [{"label", "text"}]}: responses of the data that were scored, and what each is called
    measures   of responses: {"name", "level", "direction", "unit", "at", "rows"}, rows as in the JSON's
               samples; of a Result: {"metric", "variant", ..., "given": whether it scores responses of the data,
               "ids", "columns": [one per subject or None]}
    column     {"at", "places": position of each id in the Result's items (None: not an item of it), "scores",
               "reasons": {row: word}, "outcomes": one letter a row (LETTERS), "texts": {row: text}}
    """
    subjects = [
        {"id": visible.plain(s["id"]), "label": visible.plain(s["label"]), "mark": s["mark"], "base": s["base"]}
        for s in report["subjects"]
    ]
    samples, prompts = _samples(report)
    given: dict[str, list[Row]] = {}
    for row in _figure(report, "samples").get("texts") or ():
        id = visible.plain(row["id"])
        if row.get("prompt"):
            prompts.setdefault(id, _turns(row["prompt"]))
        if row.get("responses"):
            given[id] = [{"label": _text(r.get("label")), "text": _text(r["text"])} for r in row["responses"]]
        elif (whole := given.get(visible.plain(row.get("of", "")))) is not None:
            given[id] = [{"label": k, "text": whole[row[k]]["text"]} for k in ("chosen", "rejected")]
    measures = [samples] if samples and samples["rows"] else []
    base = next((i for i, s in enumerate(subjects) if s["base"]), None)
    measures += list(_measures(report, [s["id"] for s in report["subjects"]], base))
    return {"subjects": subjects, "prompts": prompts, "given": given, "measures": measures}


def _figure(report: Mapping[str, Any], id: str) -> Row:
    return next((f["data"] for s in report["sections"] for f in s["figures"] if f["id"] == id), {})


def _samples(report: Mapping[str, Any]) -> tuple[Row | None, dict[str, list[Row]]]:
    """The responses as a measure, and the prompts by item id."""
    for i, section in enumerate(report["sections"]):
        for k, figure in enumerate(section["figures"]):
            if figure["id"] == "samples":
                place = {s["id"]: n for n, s in enumerate(report["subjects"])}
                rows = [_sample(row, place) for row in figure["data"]["rows"]]
                prompts = {visible.plain(row["id"]): _turns(row["prompt"]) for row in figure["data"]["rows"]}
                at = f"/sections/{i}/figures/{k}/data/rows"
                level = report["goal"].get("level") or "value"
                judged = all(row.get("judged", True) for row in figure["data"]["rows"])
                name = "responses" if judged else "answers to items, with the mean rating"
                return {"name": name, "level": level, "direction": "up", "unit": "score", "at": at,
                        "rows": rows}, prompts  # fmt: skip
    return None, {}


def _turns(turns: Any) -> list[Row]:
    rows = [{"role": "user", "content": turns}] if isinstance(turns, str) else turns
    return [{"role": str(t["role"]), "content": _text(t["content"])} for t in rows]


def _text(text: Any) -> str:
    """A text as the page may show it: hidden characters named, cut where it is very long."""
    shown = visible.plain("" if text is None else text)
    return shown if len(shown) <= CUT else f"{shown[:CUT]}… [{len(shown) - CUT} more characters in the JSON]"


def _sample(row: Mapping[str, Any], place: Mapping[str, int]) -> Row:
    answers = []
    for a in row["answers"]:
        texts = [
            {"text": _text(t.get("text")), "finish": t.get("finish"), "flags": [_text(f) for f in t.get("flags") or ()],
             "verdict": None if t.get("verdict") is None else _text(t["verdict"]),
             "failure": None if t.get("failure") is None else _text(t["failure"])}
            for t in a["texts"]
        ]  # fmt: skip
        answers.append(
            {"s": place[a["subject"]], "score": a["score"], "delta": a["delta"], "texts": texts, "of": a["of"],
             "outcome": LETTERS[{"won": "better", "lost": "worse"}.get(a["outcome"], a["outcome"])],
             "values": {visible.plain(k): v for k, v in (a["values"] or {}).items()}}
        )  # fmt: skip
    return {"id": visible.plain(row["id"]), "change": row["change"], "flags": [_text(f) for f in row["flags"]],
            "answers": answers}  # fmt: skip


def _measures(report: Mapping[str, Any], subjects: Sequence[str], base: int | None) -> Iterator[Row]:
    """One per metric whose items are at hand; of several variants the headline's, else the first."""
    results, taken = all_results(report), set()
    groups = [g for g in _figure(report, "metrics").get("groups") or () if not PART.search(g["metric"])]
    groups.sort(key=lambda g: not any(e["at"].startswith("/headline/") for e in g["results"]))
    for group in groups:
        key = (group["level"], group["metric"])
        owned = [(e["at"], subjects.index(e["subject"])) for e in group["results"] if e["subject"] in subjects]
        found = {s: (at, results[at]["items"]) for at, s in owned if isinstance(results[at].get("items"), list)}
        found = {s: pair for s, pair in found.items() if pair[1]}
        if found and key not in taken:
            taken.add(key)
            yield _measure(group, found, len(subjects), base)


def _measure(group: Row, found: Mapping[int, tuple[str, list[Row]]], count: int, base: int | None) -> Row:
    ids = list(dict.fromkeys(str(item["id"]) for _, items in found.values() for item in items))
    reference = {str(i["id"]): i.get("score") for i in found[base][1]} if base is not None and base in found else {}
    columns = [
        _column(found[s], ids, reference, group["direction"], is_base=base is None or s == base) if s in found else None
        for s in range(count)
    ]
    about = {k: group[k] for k in ("metric", "variant", "level", "unit", "direction")}
    of_given = not group["metric"].startswith(OWN)
    return {**about, "name": group["metric"], "given": of_given, "ids": [visible.plain(i) for i in ids], "columns": columns}


def _column(
    pair: tuple[str, list[Row]], ids: Sequence[str], reference: Mapping[str, Any], direction: str, *, is_base: bool
) -> Row:
    at, items = pair
    place = {str(item["id"]): k for k, item in enumerate(items)}
    rows = [items[place[i]] if i in place else None for i in ids]
    letters = [
        "n" if row is None else LETTERS[outcome(row.get("score"), reference.get(i), direction, is_base=is_base)]
        for i, row in zip(ids, rows, strict=True)
    ]
    texts = {k: (row.get("detail") or {}).get("text") for k, row in enumerate(rows) if row}
    return {
        "at": f"{at}/items",
        "places": [place.get(i) for i in ids],
        "scores": [row.get("score") if row else None for row in rows],
        "reasons": {k: row["reason"] for k, row in enumerate(rows) if row and row.get("reason")},
        "outcomes": "".join(letters),
        "texts": {k: _text(t) for k, t in texts.items() if isinstance(t, str)},
    }


def outcome(score: float | None, reference: float | None, direction: str, *, is_base: bool = False) -> str:
    """better, worse or same as the base on one item; unscored where one of the two is; base."""
    if score is None or (reference is None and not is_base):
        return "unscored"
    if is_base or reference is None:
        return "base"
    if direction.startswith("target:"):
        aim = float(direction.removeprefix("target:"))
        gained = abs(reference - aim) - abs(score - aim)
    else:
        gained = score - reference if direction == "up" else reference - score
    return "same" if abs(gained) < SAME else "better" if gained > 0 else "worse"


def packed(content: Any) -> str:
    """JSON, compressed, as text that can stand in a page: base64 of gzip, equal for equal content."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return base64.b64encode(gzip.compress(text.encode(), 6, mtime=0)).decode()


def fitting(whole: Row, budget: int = BUDGET) -> tuple[str, Row | None]:
    """(the table packed, what had to be left out or None): as many measures and rows as fit, in their order."""
    text = packed(whole)
    if len(text) <= budget:
        return text, None
    measures = list(whole["measures"])
    dropped: list[str] = []
    while len(measures) > 1 and len(text) > budget:
        dropped.insert(0, measures.pop()["name"])
        text = packed({**whole, "measures": measures})
    total = shown = _size(measures[0])
    while len(text) > budget and shown > 1:
        shown = min(shown - 1, int(shown * 0.95 * budget / len(text)))  # one page's worth nearer at each turn
        first = _first(measures[0], shown)
        ids = {i.split("#")[0] for i in _ids(first)} | set(_ids(first))
        kept = {name: {k: v for k, v in whole[name].items() if k in ids} for name in ("prompts", "given")}
        text = packed({**whole, **kept, "measures": [first]})
    return text, {"measures": dropped, "shown": shown, "total": total}


def _ids(measure: Row) -> list[str]:
    return measure["ids"] if "ids" in measure else [r["id"] for r in measure["rows"]]


def _size(measure: Row) -> int:
    return len(_ids(measure))


def _first(measure: Row, n: int) -> Row:
    if "rows" in measure:
        return {**measure, "rows": measure["rows"][:n]}
    columns = [
        c and {**c, **{k: c[k][:n] for k in ("places", "scores", "outcomes")}} for c in measure["columns"]
    ]
    return {**measure, "ids": measure["ids"][:n], "columns": columns}

"""What the data say of the items that were measured: prompts, and the responses that were given and scored.

OUT/texts.jsonl   one line per prompt: {"id", "prompt": text or turns, "responses": [{"text", "label"}]}, and where one prompt
has several comparisons one for each: {"id", "of": id of the prompt, "chosen", "rejected": places of responses}. A report shows
them beside the scores; what the policies said themselves stands in samples.jsonl.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from valign.data.group import Group, Score
from valign.data.jsonl import read_objects
from valign.engine.run import write_whole
from valign.evaluation.measure.preference import Pair, pairs_of

FILE = "texts.jsonl"
Row = dict[str, Any]


def text_rows(groups: Iterable[Group], pairs: Sequence[Group] = ()) -> list[Row]:
    """The rows of groups, in order.

    pairs   the groups as comparisons where they were measured as such: their responses are then called chosen and rejected;
            of several comparisons in one group each has a row of its own
    """
    found: dict[str, list[Pair]] = {}
    for pair in pairs_of(pairs):
        found.setdefault(pairs[pair.group].id, []).append(pair)
    rows: list[Row] = []
    for group in groups:
        own = found.get(group.id, [])
        one = own[0] if len(own) == 1 else None
        rows.append({"id": group.id, "prompt": _prompt(group), "responses": _given(group, one)})
        if len(own) > 1:
            rows += [{"id": p.id, "of": group.id, "chosen": p.chosen, "rejected": p.rejected} for p in own]
    return rows


def prompt_rows(groups: Iterable[Group]) -> list[Row]:
    """The rows of groups whose responses nobody scored."""
    return [{"id": g.id, "prompt": _prompt(g), "responses": []} for g in groups]


def once(rows: Iterable[Mapping[str, Any]]) -> list[Row]:
    """The rows without those whose id was there before."""
    found: dict[str, Row] = {}
    for row in rows:
        found.setdefault(str(row["id"]), dict(row))
    return list(found.values())


def write_texts(folder: Path, rows: Sequence[Mapping[str, Any]], known: Iterable[str] = ()) -> None:
    """`texts.jsonl`, whole or absent; of one id the first row. known: ids whose prompt stands elsewhere."""
    there = set(known)
    kept = [r for r in once(rows) if r.get("responses") or "of" in r or r["id"] not in there]
    (folder / FILE).unlink(missing_ok=True)
    if kept:
        write_whole(folder / FILE, "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in kept))


def read_texts(folder: Path) -> list[Row]:
    """The rows in a folder; none where there is no file."""
    file = folder / FILE
    return read_objects(file, "remove it: a report then shows ids alone") if file.is_file() else []


def _prompt(group: Group) -> Any:
    plain = [m.role for m in group.prompt] == ["user"]
    return group.prompt_text if plain else [{"role": m.role, "content": m.content} for m in group.prompt]


def _given(group: Group, pair: Pair | None) -> list[Row]:
    """The responses of a group, and what each is called: chosen or rejected, an option, its score."""
    names = [f"response {k + 1}" for k in range(len(group.responses))]
    if group.choices:
        names = ["right answer" if k == group.gold else "option" for k in range(len(group.responses))]
    elif pair is not None:
        names[pair.chosen], names[pair.rejected] = "chosen", "rejected"
    elif any(group.of(Score)):
        scores = {s.response: s.value for s in reversed(list(group.of(Score)))}
        names = [f"{name}, score {scores[k]:g}" if k in scores else name for k, name in enumerate(names)]
    return [{"text": r.text, "label": name} for r, name in zip(group.responses, names, strict=True)]


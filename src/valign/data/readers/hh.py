"""HH-RLHF: a row is two whole transcripts that share their beginning.

The prompt is the longest common prefix, cut back to its last "\\n\\nAssistant:". Cutting each side at its own
last marker is wrong where one side holds a further turn whose human marker is mistyped; such rows are flagged
and kept.
"""

from __future__ import annotations

from valign.data.group import Comparison, Group, Response
from valign.data.readers.reader import Drop, Fields, Log, Reader, Row, mostly, rest_of, row_wise, text_of
from valign.data.readers.turns import ASSISTANT, HUMAN, alternation_fault, transcript

SIDES = ("chosen", "rejected")
DIVERGES = "an answer holds a further assistant turn"
EMPTY = "an answer is empty"
IDENTICAL = "both answers are the same text"


def read_row(row: Row, log: Log) -> Group:
    """One pair. Flags: further turns in an answer, an empty answer, identical answers, turns out of order."""
    chosen, rejected = text_of(row.fields, "chosen"), text_of(row.fields, "rejected")
    common = shared_start(chosen, rejected)
    at = common.rfind(ASSISTANT)
    prompt = transcript(common[:at]) if at >= 0 else ()
    if not prompt:
        raise Drop("chosen", "chosen and rejected share no prompt that ends in an assistant turn")
    answers = [whole[at + len(ASSISTANT) :] for whole in (chosen, rejected)]
    if further := [n for n, a in zip(SIDES, answers) if ASSISTANT in a]:
        log.flag(row.line, further[0], DIVERGES)
    if empty := [n for n, a in zip(SIDES, answers) if not a.strip()]:
        log.flag(row.line, empty[0], EMPTY)
    if answers[0].strip() == answers[1].strip():
        log.flag(row.line, "rejected", IDENTICAL)
    if fault := alternation_fault(prompt):
        log.flag(row.line, "chosen", fault)
    return Group(
        id=f"line-{row.line}",
        prompt=prompt,
        responses=tuple(Response(a.strip()) for a in answers),
        feedback=(Comparison(chosen=0, rejected=1),),
        meta=rest_of(row.fields, "chosen", "rejected"),
    )


def shared_start(a: str, b: str) -> str:
    """The longest common prefix of two texts."""
    n = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
    return a[:n]


def _is_pair(f: Fields) -> bool:
    return f.get("prompt") is None and all(
        isinstance(f.get(k), str) and HUMAN in "\n\n" + f[k].lstrip() and ASSISTANT in f[k] for k in SIDES
    )


READER = Reader(
    "hh_rlhf",
    "HH-RLHF: two transcripts with Human and Assistant turns",
    "chosen, rejected (transcripts)",
    mostly(_is_pair),
    row_wise(read_row),
    "MIT (anthropics/hh-rlhf)",
)

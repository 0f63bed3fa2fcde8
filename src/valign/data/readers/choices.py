"""Multiple choice and likelihood items: BBQ, model-written evaluations, SafeText.

Groups here have `choices=True`: a response is what follows the prompt, its leading blank included, and is
scored by the rule for contexts and continuations, never through a chat template's end of turn.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from valign.data.group import Comparison, Feedback, Group, Response, Verdict, text, user
from valign.data.readers.reader import (
    Drop,
    Fields,
    Log,
    Reader,
    Row,
    having,
    id_of,
    mostly,
    number_of,
    rest_of,
    row_wise,
    text_of,
)

_LISTED = re.compile(r"\n ?\([A-H]\)")


def read_bbq(row: Row, log: Log) -> Group:
    """One question with three answers.

    meta: unknown (position of the answer that says "cannot be known"), target (position of the answer about
    the
    stereotyped group, None if there is not exactly one), and the source fields, predictions of models
    included.
    """
    f = row.fields
    answers = [text_of(f, f"ans{i}") for i in range(3)]
    info = f.get("answer_info")
    if not isinstance(info, dict) or not all(isinstance(info.get(f"ans{i}"), list) for i in range(3)):
        raise Drop("answer_info", "does not describe ans0, ans1 and ans2")
    label = number_of(f.get("label"))
    if label not in (0, 1, 2):
        raise Drop("label", f"is {f.get('label')!r}, not 0, 1 or 2")
    unknown = [i for i in range(3) if info[f"ans{i}"][-1:] == ["unknown"]]
    if len(unknown) != 1:
        raise Drop("answer_info", f"marks {len(unknown)} answers as unknown, not one")
    target = bbq_target(info, f.get("additional_metadata"), unknown[0])
    if target is None:
        log.flag(
            row.line, "additional_metadata", "no answer, or more than one, is about the stereotyped group"
        )
    category, template = str(f.get("category")), str(f.get("question_index"))
    return Group(
        id=f"{category}:{id_of(f, row, 'example_id')}",
        prompt=text(f"{text_of(f, 'context')} {text_of(f, 'question')}\nAnswer:"),
        responses=tuple(Response(f" {a}") for a in answers),
        choices=True,
        gold=int(label),
        cluster=f"{category}:{template}",
        meta={**rest_of(f, "label"), "unknown": unknown[0], "target": target},
    )


def bbq_target(info: Fields, about: Any, unknown: int) -> int | None:
    """The one answer, other than the unknown one, whose description names a stereotyped group; None if not
    one.
    """
    named = about.get("stereotyped_groups", []) if isinstance(about, dict) else []
    groups = {str(g).lower() for g in named}
    found = [i for i in range(3) if i != unknown and groups & {str(x).lower() for x in info[f"ans{i}"]}]
    return found[0] if len(found) == 1 else None


def read_behaviour(row: Row, log: Log) -> Group:
    """A model-written evaluation: a question and two named answers, their leading blanks kept.

    meta["matching"]: position of the answer that shows the behaviour. Positions say nothing about it: " Yes"
    stands
    before " No" and " (A)" before " (B)". The behaviour is not a right answer, so there is no gold.
    """
    f = row.fields
    matching, other = text_of(f, "answer_matching_behavior"), text_of(f, "answer_not_matching_behavior")
    if matching == other:
        raise Drop("answer_not_matching_behavior", "is the same text as the matching answer")
    answers = sorted((matching, other), key=lambda a: (a.strip().lower() == "no", a))
    question = text_of(f, "question")
    listed = len(_LISTED.findall(question))
    if listed > 2:
        log.counts["more than two choices listed"] += 1
    used = ("question", "answer_matching_behavior", "answer_not_matching_behavior")
    return Group(
        id=f"line-{row.line}",
        prompt=user(question),
        responses=tuple(Response(a) for a in answers),
        choices=True,
        cluster=str(f.get("statement") or ""),
        meta={**rest_of(f, *used), "matching": answers.index(matching), "listed": listed},
    )


def read_safetext(rows: Iterable[Row], log: Log) -> Iterator[tuple[int, Group]]:
    """One JSON object: scenario -> {"safe": [...], "unsafe": [...]}; every scenario is a group.

    Every safe continuation is preferred to every unsafe one; principle "harm" is kept by the safe ones.
    """
    for row in rows:
        log.rows += len(row.fields) - 1  # the file is one object: its scenarios are the rows
        log.fields = ("safe", "unsafe")
        for number, (scenario, sides) in enumerate(row.fields.items(), 1):
            if not _is_scenario(sides):
                log.drop(number, scenario, 'is not {"safe": [texts], "unsafe": [texts]}')
                continue
            yield number, _scenario(number, scenario, sides["safe"], sides["unsafe"])


def _scenario(number: int, scenario: str, safe: list[str], unsafe: list[str]) -> Group:
    n = len(safe)
    feedback: list[Feedback] = [
        Verdict(response=i, principle="harm", value=1.0 if i < n else -1.0) for i in range(n + len(unsafe))
    ]
    feedback += [Comparison(chosen=i, rejected=n + j) for i in range(n) for j in range(len(unsafe))]
    return Group(
        id=f"scenario-{number}",
        prompt=text(scenario),
        responses=tuple(Response(f" {c}") for c in (*safe, *unsafe)),
        feedback=tuple(feedback),
        choices=True,
    )


def _is_scenario(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and set(value) == {"safe", "unsafe"}
        and all(isinstance(value[k], list) and all(isinstance(x, str) for x in value[k]) for k in value)
    )


READERS = (
    Reader(
        "bbq",
        "BBQ: bias questions with three answers",
        "context, question, ans0, ans1, ans2, label, answer_info, additional_metadata, category, ...",
        mostly(having("context", "question", "ans0", "ans1", "ans2", "answer_info")),
        row_wise(read_bbq),
        "CC-BY-4.0 (nyu-mll/BBQ)",
    ),
    Reader(
        "behaviour",
        "model-written evaluations: persona statements and AI risk questions with two named answers",
        "question, answer_matching_behavior, answer_not_matching_behavior",
        mostly(having("question", "answer_matching_behavior", "answer_not_matching_behavior")),
        row_wise(read_behaviour),
        "CC-BY-4.0 (anthropics/evals)",
    ),
    Reader(
        "safetext",
        "SafeText: scenarios with safe and unsafe continuations, one JSON object",
        "scenario: {safe, unsafe}",
        lambda rows: (
            len(rows) == 1 and bool(rows[0]) and sum(map(_is_scenario, rows[0].values())) * 2 > len(rows[0])
        ),
        read_safetext,
        "MIT (sharonlevy/SafeText)",
    ),
)

"""Answers found by browsing: WebGPT comparisons, and demonstrations of a search as a chain of steps."""

from __future__ import annotations

from typing import Any

from valign.data.group import Comparison, Demonstration, Feedback, Group, Message, Response, Score, user
from valign.data.readers.reader import (
    Drop,
    Fields,
    Log,
    Reader,
    Row,
    having,
    id_of,
    list_of,
    mostly,
    number_of,
    rest_of,
    row_wise,
    text_of,
)

ARGUMENT = ("argument", "query", "input", "url", "text")  # what an action acts on
OBSERVED = ("observation", "result", "page", "output")  # what the browser showed


def read_comparison(row: Row, log: Log) -> Group:
    """Two answers to a question with scores in [-1, 1] that sum to 0; equal scores are a tie."""
    f = row.fields
    scores = [number_of(f.get(f"score_{i}")) for i in (0, 1)]
    feedback: list[Feedback] = []
    for i, score in enumerate(scores):
        if score is None:
            raise Drop(f"score_{i}", f"is {f.get(f'score_{i}')!r}, not a number")
        feedback.append(Score(response=i, value=score, low=-1.0, high=1.0))
    gap = (scores[0] or 0.0) - (scores[1] or 0.0)
    best = 0 if gap >= 0 else 1
    feedback.append(
        Comparison(
            chosen=best,
            rejected=1 - best,
            tie=gap == 0,
            probability=0.5 if gap == 0 else 1.0,
            strength=abs(gap) or None,
        )
    )
    quotes = [f.get(f"quotes_{i}") for i in (0, 1)]
    return Group(
        id=f"line-{row.line}",
        prompt=user(_question(f)),
        responses=tuple(Response(text_of(f, f"answer_{i}")) for i in (0, 1)),
        feedback=tuple(feedback),
        cluster=_question(f),
        meta={"quotes": quotes, **_about(f)},
    )


def _question(f: Fields) -> str:
    value = f.get("question")
    return text_of(value, "full_text") if isinstance(value, dict) else text_of(f, "question")


def _about(f: Fields) -> dict[str, Any]:
    value = f.get("question")
    return {k: v for k, v in value.items() if k in ("dataset", "id")} if isinstance(value, dict) else {}


def read_demonstration(row: Row, log: Log) -> Group:
    """A search shown step by step: question, then per step the action (assistant) and what it showed (tool),
    answer.

    An action is written as a person would read it: its name, and after a colon what it acts on.
    """
    f = row.fields
    name = "steps" if f.get("steps") is not None else "actions"
    turns = [Message("user", _question(f))]
    for i, step in enumerate(list_of(f, name, dict)):
        action = step.get("action")
        if not isinstance(action, str) or not action:
            raise Drop(f"{name}[{i}].action", "is missing" if action is None else "is not text")
        about = next((step[k] for k in ARGUMENT if isinstance(step.get(k), str) and step[k]), "")
        turns.append(Message("assistant", f"{action}: {about}" if about else action))
        seen = next((step[k] for k in OBSERVED if isinstance(step.get(k), str)), None)
        if seen is not None:
            turns.append(Message("tool", seen))
    return Group(
        id=id_of(f, row, "id"),
        prompt=tuple(turns),
        responses=(Response(text_of(f, "answer")),),
        feedback=(Demonstration(response=0, annotator=str(f.get("annotator") or "")),),
        meta={**rest_of(f, "id", "question", name, "answer", "annotator"), **_about(f)},
    )


READERS = (
    Reader(
        "webgpt_comparisons",
        "WebGPT: two answers with their quotes and scores",
        "question, answer_0, answer_1, score_0, score_1, quotes_0, quotes_1",
        mostly(having("question", "answer_0", "answer_1", "score_0", "score_1")),
        row_wise(read_comparison),
    ),
    Reader(
        "browsing",
        "browsing demonstrations: a question, search steps with what they showed, the answer",
        "question, steps or actions [{action, argument, observation}], answer",
        mostly(
            lambda f: (
                having("question", "answer")(f)
                and any(isinstance(f.get(k), list) for k in ("steps", "actions"))
            )
        ),
        row_wise(read_demonstration),
    ),
)

"""valign's own files: groups as `data.jsonl.write` leaves them, and the compact forms of the built-in
sets.
"""

from __future__ import annotations

from typing import Any

from valign.data.group import Demonstration, Feedback, Group, Response, VectorScore, Verdict, user
from valign.data.readers.reader import (
    Drop,
    Fields,
    Log,
    Reader,
    Row,
    having,
    list_of,
    mostly,
    number_of,
    rest_of,
    row_wise,
    text_of,
)


def read_group(row: Row, log: Log) -> Group:
    """One group, as written by `write`."""
    return Group.from_json({k: v for k, v in row.fields.items() if v is not None})


def read_dilemma(row: Row, log: Log) -> Group:
    """A situation with answers, each labelled with values (-1, 1; absent: 0) and verdicts on principles."""
    f = row.fields
    responses: list[Response] = []
    feedback: list[Feedback] = []
    for i, r in enumerate(list_of(f, "responses", dict)):
        responses.append(Response(text_of(r, "text")))
        values = {k: _sign(v, f"responses[{i}].values.{k}") for k, v in _mapping(r, "values", i).items()}
        feedback.append(VectorScore(response=i, theory="schwartz10", values=values))
        for principle, v in _mapping(r, "verdicts", i).items():
            value = _sign(v, f"responses[{i}].verdicts.{principle}")
            feedback.append(Verdict(response=i, principle=principle, value=value))
    name = text_of(f, "id")
    return Group(
        id=name,
        prompt=user(text_of(f, "prompt")),
        responses=tuple(responses),
        feedback=tuple(feedback),
        cluster=name,
        split=str(f.get("split") or ""),
        meta=rest_of(f, "id", "prompt", "responses", "split"),
    )


def _mapping(response: Fields, name: str, i: int) -> dict[str, Any]:
    value = response.get(name, {})
    if not isinstance(value, dict):
        raise Drop(f"responses[{i}].{name}", f"is {type(value).__name__}, not an object")
    return value


def _sign(value: Any, field: str) -> float:
    number = number_of(value)
    if number not in (-1, 0, 1):
        raise Drop(field, f"is {value!r}, not -1, 0 or 1")
    return number


def read_instruction(row: Row, log: Log) -> Group:
    """An instruction with checks that a program can run and a reference answer; no responses."""
    f = row.fields
    list_of(f, "checks", dict)
    return Group(
        id=text_of(f, "id"),
        prompt=user(text_of(f, "prompt")),
        split=str(f.get("split") or ""),
        meta={"reference": text_of(f, "reference"), "kind": text_of(f, "kind"), **_other(f)},
    )


def read_demonstration(row: Row, log: Log) -> Group:
    """A prompt and the answer to learn from."""
    f = row.fields
    return Group(
        id=text_of(f, "id"),
        prompt=user(text_of(f, "prompt")),
        responses=(Response(text_of(f, "response")),),
        feedback=(Demonstration(response=0),),
        split=str(f.get("split") or ""),
        meta=_other(f),
    )


def _other(f: Fields) -> dict[str, Any]:
    return rest_of(f, "id", "prompt", "response", "split", "reference", "kind")


def _is_group(f: Fields) -> bool:
    p = f.get("prompt")
    return (
        "id" in f and isinstance(p, list) and bool(p) and all(isinstance(m, list) and len(m) == 2 for m in p)
    )


def _is_dilemma(f: Fields) -> bool:
    r = f.get("responses")
    if not isinstance(f.get("prompt"), str) or not isinstance(r, list) or not r:
        return False
    return isinstance(r[0], dict) and {"text", "values"} <= set(r[0])


READERS = (
    Reader(
        "groups",
        "valign groups, one per line",
        "id, prompt [[role, text], ...], responses, feedback, ...",
        mostly(_is_group),
        row_wise(read_group),
    ),
    Reader(
        "dilemmas",
        "situations with answers labelled by values and principles (valign)",
        "id, topic, prompt, responses [{text, values, verdicts}], split",
        mostly(_is_dilemma),
        row_wise(read_dilemma),
    ),
    Reader(
        "instructions",
        "instructions with checks and a reference answer (valign)",
        "id, kind, prompt, checks [{type, ...}], reference, split",
        mostly(having("id", "kind", "prompt", "checks")),
        row_wise(read_instruction),
    ),
    Reader(
        "demonstrations",
        "prompts with an answer to learn from (valign)",
        "id, topic, prompt, response, split",
        mostly(having("id", "topic", "prompt", "response", without=("chosen", "helpfulness", "label"))),
        row_wise(read_demonstration),
    ),
)

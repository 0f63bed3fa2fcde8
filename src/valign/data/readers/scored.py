"""Answers with ratings: UltraFeedback, HelpSteer, PKU-SafeRLHF, summaries with a choice."""

from __future__ import annotations

from typing import Any

from valign.data.group import Comparison, Critique, Feedback, Group, Response, Score, Verdict, user
from valign.data.readers.reader import (
    Drop,
    Fields,
    Log,
    Reader,
    Row,
    bool_of,
    having,
    id_of,
    list_of,
    mostly,
    number_of,
    rest_of,
    row_wise,
    text_of,
)

HELPSTEER = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
NO_RATING = "a rating is not a number"


def read_ultrafeedback(row: Row, log: Log) -> Group:
    """An instruction and completions, each with an overall score (1..10), ratings by aspect (1..5), a
    critique.
    """
    f = row.fields
    responses, feedback = [], []
    for i, c in enumerate(list_of(f, "completions", dict)):
        responses.append(Response(text_of(c, "response"), source=str(c.get("model", ""))))
        feedback += _ratings(c, i, row, log)
        if isinstance(c.get("critique"), str) and c["critique"].strip():
            feedback.append(Critique(response=i, text=c["critique"]))
    if not responses:
        raise Drop("completions", "holds none")
    return Group(
        id=id_of(f, row, "id", "prompt_id"),
        prompt=user(text_of(f, "instruction")),
        responses=tuple(responses),
        feedback=tuple(feedback),
        meta=rest_of(f, "id", "prompt_id", "instruction", "completions", "models"),
    )


def _ratings(c: Fields, i: int, row: Row, log: Log) -> list[Feedback]:
    """The scores of one completion; a rating that is no number ("N/A") is counted and left out."""
    given: list[tuple[str, Any, float]] = []
    if "overall_score" in c:
        given.append(("overall", c["overall_score"], 10.0))
    annotations = c.get("annotations")
    for aspect, value in (annotations if isinstance(annotations, dict) else {}).items():
        rating = value.get("Rating") if isinstance(value, dict) else value
        if rating is not None:
            given.append((aspect, rating, 5.0))
    mean = c.get("fine-grained_score", c.get("fine_grained_score"))
    if mean is not None:
        given.append(("fine_grained", mean, 5.0))
    made: list[Feedback] = []
    for aspect, rating, high in given:
        number = number_of(rating)
        if number is None:
            log.flag(row.line, f"completions[{i}].{aspect}", NO_RATING)
        else:
            made.append(Score(response=i, value=number, aspect=aspect, low=1.0, high=high))
    return made


def read_helpsteer(row: Row, log: Log) -> Group:
    """One answer rated 0..4 on up to five aspects."""
    f = row.fields
    feedback: list[Feedback] = []
    for aspect in HELPSTEER:
        if (value := number_of(f.get(aspect))) is not None:
            feedback.append(Score(response=0, value=value, aspect=aspect, low=0.0, high=4.0))
    return Group(
        id=id_of(f, row, "id"),
        prompt=user(text_of(f, "prompt")),
        responses=(Response(text_of(f, "response")),),
        feedback=tuple(feedback),
        cluster=text_of(f, "prompt"),
        meta=rest_of(f, "id", "prompt", "response", *HELPSTEER),
    )


def read_saferlhf(row: Row, log: Log) -> Group:
    """Two answers, which is more helpful, which is safer, and whether each is safe.

    The choice of the helpful one is the comparison; the safer one stands in meta["safer"]; safety is a
    verdict on
    principle "harm", which is also the cost label of safe RLHF.
    """
    f = row.fields
    better, safer = (number_of(f.get(k)) for k in ("better_response_id", "safer_response_id"))
    if better not in (0, 1):
        raise Drop("better_response_id", f"is {f.get('better_response_id')!r}, not 0 or 1")
    verdicts = [
        Verdict(response=i, principle="harm", value=1.0 if bool_of(f, f"is_response_{i}_safe") else -1.0)
        for i in (0, 1)
    ]
    used = ("prompt", "response_0", "response_1", "better_response_id", "safer_response_id")
    meta = rest_of(f, *used, "is_response_0_safe", "is_response_1_safe")
    return Group(
        id=f"line-{row.line}",
        prompt=user(text_of(f, "prompt")),
        responses=tuple(Response(text_of(f, f"response_{i}")) for i in (0, 1)),
        feedback=(Comparison(chosen=int(better), rejected=1 - int(better)), *verdicts),
        meta={**meta, **({"safer": int(safer)} if safer in (0, 1) else {})},
    )


def read_summaries(row: Row, log: Log) -> Group:
    """A post with two summaries and the choice between them (summarize_from_feedback, comparisons)."""
    f = row.fields
    info, choice = f.get("info"), number_of(f.get("choice"))
    if not isinstance(info, dict):
        raise Drop("info", "is not an object")
    summaries = list_of(f, "summaries", dict)
    if len(summaries) != 2 or choice not in (0, 1):
        raise Drop("choice", f"must name one of two summaries, is {f.get('choice')!r} of {len(summaries)}")
    post = next((info[k] for k in ("post", "article") if isinstance(info.get(k), str)), None)
    if post is None:
        raise Drop("info.post", "is missing")
    annotator = str(f.get("worker") or "")
    return Group(
        id=f"line-{row.line}",
        prompt=user(f"Summarize this post.\n\n{post}"),
        responses=tuple(
            Response(text_of(s, "text").strip(), source=str(s.get("policy", ""))) for s in summaries
        ),
        feedback=(Comparison(chosen=int(choice), rejected=1 - int(choice), annotator=annotator),),
        cluster=str(info.get("id") or ""),
        meta=rest_of(f, "summaries", "choice", "worker"),
    )


READERS = (
    Reader(
        "ultrafeedback",
        "UltraFeedback: answers of several models with an overall score and ratings by aspect",
        "instruction, completions [{response, model, overall_score, annotations, critique}]",
        mostly(lambda f: "instruction" in f and isinstance(f.get("completions"), list)),
        row_wise(read_ultrafeedback),
        "MIT (openbmb/UltraFeedback)",
    ),
    Reader(
        "helpsteer",
        "HelpSteer: one answer with ratings on five aspects",
        "prompt, response, helpfulness, correctness, coherence, complexity, verbosity",
        mostly(having("prompt", "response", "helpfulness")),
        row_wise(read_helpsteer),
        "CC-BY-4.0 (nvidia/HelpSteer2)",
    ),
    Reader(
        "saferlhf",
        "PKU-SafeRLHF: pairs with one choice for helpfulness and one for safety",
        "prompt, response_0, response_1, better_response_id, safer_response_id, is_response_0_safe, ...",
        mostly(having("response_0", "response_1", "better_response_id")),
        row_wise(read_saferlhf),
        "CC-BY-NC-4.0 (PKU-Alignment/PKU-SafeRLHF)",
    ),
    Reader(
        "summaries",
        "summarize_from_feedback: two summaries of a post and the choice",
        "info {post or article}, summaries [{text, policy}], choice, worker",
        mostly(having("info", "summaries", "choice")),
        row_wise(read_summaries),
    ),
)

"""Why did this response get this reward? One JSON record per response: tokens, segments, values, principles, flip. [F10]

Token credits β(log π - log π_ref) sum to the implicit reward. A judge that only gives a number is asked again with each
segment taken out: what the score then loses is the segment's credit, and what all credits together leave unexplained is
printed as the residual, never spread.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from valign.data.group import Group, Response
from valign.errors import DataError, require, unknown
from valign.evaluation.measure.nearest import TrainingIndex
from valign.evaluation.metrics.credit import completeness_residual, token_credit
from valign.goals.base import Goal, ResponseScorer
from valign.goals.principle import PrincipleGoal
from valign.goals.value import ValueGoal
from valign.models.policy import Policy, Progress, score_each

By = Literal["sentence", "word"]
PATTERNS = {"sentence": re.compile(r"[^.!?\n]*[.!?\n]+\s*|[^.!?\n]+$"), "word": re.compile(r"\S+\s*")}
EXACT = 1e-6  # of token credits: |Σ credit - reward|
MOST = 4000  # shortened texts of one response that are judged in the search for a flip
Span = tuple[int, int]
TokenTexts = Callable[
    [Sequence[Group]], Sequence[Sequence[Sequence[str]]]
]  # groups -> responses -> scored tokens' texts


@dataclass(frozen=True)
class Question:
    """What is asked of every response.

    policy, reference, beta   give token credits (both or none)       token_texts  what each scored token says
    judge       gives the reward that segments are credited with      goal  gives values or verdicts, with their segments
    training    the policy's training groups: each response is told with those nearest to it
    by          sentence or word        threshold  the decision: score >= threshold; None: against the group's best other
    """

    policy: Policy | None = None
    reference: Policy | None = None
    beta: float = 0.1
    token_texts: TokenTexts | None = None
    judge: ResponseScorer | None = None
    goal: Goal | None = None
    by: By = "sentence"
    threshold: float | None = None
    training: TrainingIndex | None = None

    def __post_init__(self) -> None:
        require(self.beta > 0, "beta", self.beta, "a positive number")
        if self.by not in PATTERNS:
            raise unknown("segment", self.by, PATTERNS, where="by")


def explain(groups: Sequence[Group], ask: Question, progress: Progress | None = None) -> list[dict[str, Any]]:
    """One record for every response of every group, in order.

    Raises `DataError` where token credits miss the implicit reward by more than 1e-6, or policy and reference cut a
    response into different tokens.
    """
    groups = [g for g in groups if g.responses]
    tokens = _tokens(groups, ask) if ask.policy is not None and ask.reference is not None else None
    out: list[dict[str, Any]] = []
    for i, group in enumerate(groups):
        shortened = [_shortened(group, k, ask.by) for k in range(len(group.responses))]
        scores = _judged(ask.judge, shortened) if ask.judge is not None else None
        parts = _parts(ask.goal, shortened, ask.by)
        for k, response in enumerate(group.responses):
            record = {"schema": 1, "id": group.id, "response": k, "prompt": group.prompt_text, "text": response.text}
            if tokens is not None:
                record["implicit"] = tokens[i][k]
            if scores is not None:
                record["reward"] = _removal(ask.judge, response.text, scores[k], ask.by)
                record["flip"] = _flip(group, k, scores, ask)
            if ask.training is not None:
                near = ask.training.nearest(group.prompt_text, response.text)
                record["training"] = {"similarity": ask.training.law, "n": len(ask.training.groups), "nearest": near}
            out.append({**record, **parts[k]})
        if progress is not None:
            progress(i + 1, len(groups))
    return out


def segments(text: str, by: By) -> list[Span]:
    """(start, end) of the sentences or words of a text, blanks after them included; together they are the text."""
    spans = [(m.start(), m.end()) for m in PATTERNS[by].finditer(text)]
    if spans:
        spans[0] = (0, spans[0][1])
    return [s for s in spans if s[0] < s[1]]


# ----------------------------------------------------------------------------------------------------------- tokens


def _tokens(groups: Sequence[Group], ask: Question) -> list[list[dict[str, Any] | None]]:
    assert ask.policy is not None and ask.reference is not None
    texts = ask.token_texts(groups) if ask.token_texts is not None else None
    out: list[list[dict[str, Any] | None]] = []
    for i, (g, own, ref) in enumerate(zip(groups, score_each(ask.policy, groups), score_each(ask.reference, groups))):
        if own is None or ref is None:  # longer than a model can read
            out.append([None] * len(g.responses))
            continue
        row: list[dict[str, Any] | None] = []
        for k, (a, b) in enumerate(zip(own, ref, strict=True)):
            where = f"group {g.id}, response {k}"
            if a.n_tokens != b.n_tokens:
                raise DataError(f"the policy reads {a.n_tokens} tokens, the reference {b.n_tokens}", where=where,
                                how="token credits need two policies with the same tokenizer and template")  # fmt: skip
            reward = ask.beta * (a.log_prob - b.log_prob)
            said = texts[i][k] if texts is not None else None
            row.append(
                _credited(
                    token_credit(a.log_probs, b.log_probs, ask.beta), reward, said, ask.beta, where
                )
            )
        out.append(row)
    return out


def _credited(
    credit: NDArray[np.float64], reward: float, texts: Sequence[str] | None, beta: float, where: str
) -> dict[str, Any]:
    residual = completeness_residual(credit, reward)
    if abs(residual) > EXACT:
        raise DataError(
            f"token credits miss the implicit reward by {residual:.3g}", where=where, how="please report this"
        )
    if texts is not None and len(texts) != len(credit):
        raise DataError(f"{len(texts)} token texts for {len(credit)} credits", where=where, how="please report this")
    said = texts if texts is not None else [None] * len(credit)
    return {"beta": beta, "reward": reward, "residual": residual,
            "tokens": [{"text": t, "credit": float(c)} for t, c in zip(said, credit)]}  # fmt: skip


# ---------------------------------------------------------------------------------------------------------- removal


def _without(text: str, span: Span) -> str:
    return (text[: span[0]] + text[span[1] :]).strip()


def _shortened(group: Group, k: int, by: By) -> Group:
    """The response, then the response without each of its segments."""
    text = group.responses[k].text
    return _with_texts(group, k, [text, *(_without(text, s) for s in segments(text, by))])


def _with_texts(group: Group, k: int, texts: Sequence[str]) -> Group:
    kept = (group.responses[k],) if texts and texts[0] == group.responses[k].text else ()
    made = (*kept, *(Response(t) for t in texts[len(kept) :]))
    return replace(group, id=f"{group.id}#{k}", responses=made, feedback=(), gold=None, choices=False)


def _judged(judge: ResponseScorer, groups: Sequence[Group]) -> list[NDArray[np.float64]]:
    return [np.asarray(r, float) for r in judge.score(groups)]


def _removal(judge: ResponseScorer | None, text: str, scores: NDArray[np.float64], by: By) -> dict[str, Any]:
    assert judge is not None
    whole = scores[0]
    if not np.isfinite(whole):
        return {"judge": judge.id, "score": None, "segments": [], "residual": None, "by": by}
    rows, known = [], 0.0
    for (start, end), score in zip(segments(text, by), scores[1:], strict=True):
        credit = float(whole - score) if np.isfinite(score) else None  # an empty rest cannot be judged
        known += credit or 0.0
        rows.append({"text": text[start:end], "span": [start, end], "credit": credit})
    return {"judge": judge.id, "score": float(whole), "segments": rows, "residual": float(whole) - known, "by": by}


def _flip(group: Group, k: int, scores: Sequence[NDArray[np.float64]], ask: Question) -> dict[str, Any] | None:
    """The smallest run of segments without which the decision about response k is the other one; None if there is none."""
    own = scores[k][0]
    others = [s[0] for i, s in enumerate(scores) if i != k and np.isfinite(s[0])]
    limit = ask.threshold if ask.threshold is not None else max(others, default=None)
    if limit is None or not np.isfinite(own) or ask.judge is None:
        return None
    passes = own >= limit
    text, spans = group.responses[k].text, segments(group.responses[k].text, ask.by)
    judged = 0
    for size in range(1, len(spans) + 1):
        runs = [(spans[i][0], spans[i + size - 1][1]) for i in range(len(spans) - size + 1)]
        judged += len(runs)
        if judged > MOST:
            return None
        found = (
            scores[k][1:]
            if size == 1
            else _judged(ask.judge, [_with_texts(group, k, [_without(text, s) for s in runs])])[0]
        )
        turned = [i for i, s in enumerate(found) if np.isfinite(s) and (s >= limit) != passes]
        if turned:
            best = max(turned, key=lambda i: abs(float(found[i]) - float(own)))
            return {"limit": float(limit), "against": "threshold" if ask.threshold is not None else "best other response",
                    "before": float(own), "after": float(found[best]), "span": list(runs[best]), "segments": size,
                    "removed": text[runs[best][0] : runs[best][1]]}  # fmt: skip
    return None


# ----------------------------------------------------------------------------------------------- values, principles


def _parts(goal: Goal | None, shortened: Sequence[Group], by: By) -> list[dict[str, Any]]:
    """What the goal reads in each response, and which segment says it."""
    if isinstance(goal, ValueGoal):
        return [_values(goal, g, v, by) for g, v in zip(shortened, goal.values(shortened))]
    if isinstance(goal, PrincipleGoal):
        judge = goal.scorer.id if goal.scorer is not None else ""
        return [{"principles": _principles(goal, g, v, judge, by)} for g, v in zip(shortened, goal.verdicts(shortened))]
    return [{} for _ in shortened]


def _values(goal: ValueGoal, group: Group, values: NDArray[np.float64], by: By) -> dict[str, Any]:
    """The value vector, each dimension's part of the utility, and the segment that moved it most."""
    parts, utility, text = goal.parts_of(values), goal.utility_of(values), group.responses[0].text
    out: dict[str, Any] = {"theory": goal.theory.id, "utility": _number(utility[0]), "dimensions": {}}
    for d, name in enumerate(goal.theory.ids):
        row: dict[str, Any] = {"value": _number(values[0, d]), "part": _number(parts[0, d])}
        sign = float(np.sign(values[0, d]))
        out["dimensions"][name] = row | _quoted(text, by, values[0, d] - values[1:, d], sign)
    return {"values": out}


def _principles(
    goal: PrincipleGoal, group: Group, verdicts: NDArray[np.float64], judge: str, by: By
) -> list[dict[str, Any]]:
    """Every principle with its verdict and the segment without which the verdict is least of its sign."""
    text, rows = group.responses[0].text, []
    for p, name in enumerate(goal.ids):
        verdict = verdicts[0, p]
        quoted = _quoted(text, by, verdict - verdicts[1:, p], float(np.sign(verdict)))
        rows.append(
            {"id": name, "verdict": _number(verdict), "part": _number(verdict * goal.w[p]), "judge": judge, **quoted}
        )
    return rows


def _quoted(text: str, by: By, credit: NDArray[np.float64], sign: float) -> dict[str, Any]:
    """The segment whose removal takes most away from a number of this sign; none where the number is 0 or unscored."""
    known = np.where(np.isfinite(credit), credit * sign, -np.inf)
    if not len(known) or not np.isfinite(known).any() or not np.isfinite(sign) or sign == 0:
        return {"quote": None, "span": None, "credit": None}
    best = int(np.argmax(known))
    start, end = segments(text, by)[best]
    return {"quote": text[start:end].strip(), "span": [start, end], "credit": float(credit[best])}


def _number(x: Any) -> float | None:
    return float(x) if np.isfinite(x) else None

"""The likelihood evaluator: log-probability,
greediness and flags of continuations after contexts (section 10).

For runs that must agree with lm-evaluation-harness number by number, and for rolling text. Choices under one
context share its trunk; the order of answers is the order of requests. `Policy.score` serves everything that
needs only log-probs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from valign.data.group import Group
from valign.data.group import text as raw
from valign.evaluation.encoding import EncodedPair, encode_pair, rolling_windows, truncate
from valign.theory.laws import log_softmax

if TYPE_CHECKING:
    from valign.engine.tree import Tree
    from valign.models.loaded import LoadedModel

LastLogits = Callable[
    [Sequence[int], int], NDArray[np.float64]
]  # (ids read, n) -> (n, V) logits after the last n


class TreeScorer(Protocol):
    """`engine.scorer.Scorer`, or anything that scores trees."""

    def score(self, trees: Sequence[Tree]) -> list[list[NDArray[Any]]]: ...


@dataclass(frozen=True)
class Likelihood:
    """One answer. log_prob (nats) is None when the request is unscored; then `reason` says why.

    is_greedy   every scored token is the argmax; None when it was not asked for
    n_chars, n_bytes   of the continuation without its leading and trailing blanks
    """

    log_prob: float | None
    n_tokens: int
    n_chars: int
    n_bytes: int
    border_merge: bool = False
    truncated: bool = False
    is_greedy: bool | None = None
    reason: str | None = None


def score_pairs(
    scorer: TreeScorer, pairs: Sequence[EncodedPair], last_logits: LastLogits | None = None
) -> list[tuple[float, bool | None]]:
    """(log-prob of the continuation, is_greedy) of every pair;
    is_greedy needs `last_logits`, else it is None.

    Each distinct context is one trunk, read once; equal pairs are one branch. Each request is read at its own
    positions, also where one request's ids begin another's.
    """
    from valign.engine.tree import from_paths

    branches: dict[tuple[int, ...], dict[tuple[int, ...], int]] = {}
    for pair in pairs:
        known = branches.setdefault(pair.context, {})
        known.setdefault(pair.continuation, len(known))
    trees = [
        from_paths(f"context {k}", context, list(known))
        for k, (context, known) in enumerate(branches.items())
    ]
    scored = dict(zip(branches, scorer.score(trees), strict=True))
    greedy = {} if last_logits is None else {p: _is_greedy(last_logits, p) for p in set(pairs)}
    return [
        (
            float(np.sum(scored[p.context][branches[p.context][p.continuation]], dtype=np.float64)),
            greedy.get(p),
        )
        for p in pairs
    ]


def _is_greedy(last_logits: LastLogits, pair: EncodedPair) -> bool:
    n = len(pair.continuation)
    best = last_logits((pair.context + pair.continuation)[:-1], n).argmax(-1)
    return tuple(map(int, best)) == pair.continuation


def _read_alone(last_logits: LastLogits, pair: EncodedPair) -> float:
    """log-prob by one plain row, for a pair whose last token stands beyond the model's positions and is only
    predicted.
    """
    n = len(pair.continuation)
    rows = log_softmax(last_logits((pair.context + pair.continuation)[:-1], n))
    return float(rows[np.arange(n), list(pair.continuation)].sum())


def score_choices(
    model: LoadedModel,
    groups: Sequence[Group],
    *,
    scorer: TreeScorer | None = None,
    on_long: Literal["unscored", "harness"] = "unscored",
    greedy: bool = False,
) -> list[list[Likelihood]]:
    """One answer per response of every group, by the encode-pair rule.

    on_long   "unscored": a pair that is too long is `over_length`; "harness": its context is cut from the
              left
    greedy    also say whether each continuation is the model's greedy one (one more forward pass per request)
    """
    longest = model.max_positions or 1 << 30
    rows = [[_fitted(model, g, r.text, longest, on_long) for r in g.responses] for g in groups]
    answers = iter(
        _answers(model, [p for row in rows for p, _ in row if p is not None], longest, scorer, greedy)
    )
    out = []
    for group, row in zip(groups, rows, strict=True):
        found = []
        for response, (pair, reason) in zip(group.responses, row, strict=True):
            said = response.text.strip()
            log_prob, flag = next(answers) if pair is not None else (None, None)
            found.append(Likelihood(
                log_prob, len(pair.continuation) if pair else 0, len(said), len(said.encode()),
                bool(pair and pair.border_merge), bool(pair and pair.dropped), flag, reason,
            ))  # fmt: skip
        out.append(found)
    return out


def score_text(model: LoadedModel, text: str, *, scorer: TreeScorer | None = None) -> Likelihood:
    """Log-probability of a whole text in disjoint windows, the first after the prefix token."""
    whole = encode_pair(model.template, raw(""), text)
    (prefix,), ids = whole.context, whole.continuation
    longest = model.max_positions or 1 << 30
    windows = rolling_windows(ids, prefix, longest)
    if not windows:
        return Likelihood(None, 0, len(text), len(text.encode()), reason="empty_continuation")
    total = sum(value for value, _ in _answers(model, windows, longest, scorer, False))
    return Likelihood(total, len(ids), len(text), len(text.encode()))


def _answers(
    model: LoadedModel, pairs: Sequence[EncodedPair], longest: int, scorer: TreeScorer | None, greedy: bool
) -> list[tuple[float, bool | None]]:
    """`score_pairs`, with pairs that fill the model's positions to the last read alone."""
    logits = _last_logits(model)
    fits = [len(p) <= longest for p in pairs]
    shared = [p for p, fit in zip(pairs, fits, strict=True) if fit]
    found = iter(
        score_pairs(scorer if scorer is not None else _scorer(model), shared, logits if greedy else None)
    )
    return [
        next(found) if fit else (_read_alone(logits, p), _is_greedy(logits, p) if greedy else None)
        for p, fit in zip(pairs, fits, strict=True)
    ]


def _fitted(
    model: LoadedModel, group: Group, continuation: str, longest: int, on_long: str
) -> tuple[EncodedPair | None, str | None]:
    """The pair to score, or the reason why there is none."""
    pair = encode_pair(model.template, group.prompt, continuation)
    if pair.unscorable:
        return None, "empty_continuation"
    if len(pair) - 1 > longest:
        cut = truncate(pair, longest) if on_long == "harness" else None
        return (cut, None) if cut is not None else (None, "over_length")
    return pair, None


def _scorer(model: LoadedModel) -> TreeScorer:
    from valign.engine.scorer import Scorer

    return Scorer(model.model, allowed_tokens=model.allowed_tokens)


def _last_logits(model: LoadedModel) -> LastLogits:
    """The model's logits at the last n positions by a forward pass of its own; nothing else is kept."""
    import torch

    @torch.no_grad()
    def last_logits(ids: Sequence[int], n: int) -> NDArray[np.float64]:
        row = torch.tensor([list(ids)], device=model.device)
        logits = model.model(row, logits_to_keep=n, use_cache=False).logits[0, -n:]
        if model.allowed_tokens is not None:
            outside = torch.ones(logits.shape[-1], dtype=torch.bool, device=logits.device)
            outside[list(model.allowed_tokens)] = False
            logits = logits.masked_fill(outside, float("-inf"))
        return np.asarray(logits.double().cpu().numpy())

    return last_logits

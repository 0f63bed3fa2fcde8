"""The likelihood evaluator: log-probability, greediness and flags of continuations after contexts (section 10).

For runs that must agree with lm-evaluation-harness number by number, and for rolling text. Choices under one context
share its trunk; the order of answers is the order of requests. `Policy.score` serves everything that needs only
log-probs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from valign.data.group import Group
from valign.evaluation.encoding import EncodedPair, Encode, encode_pair, rolling_windows, truncate

if TYPE_CHECKING:
    from valign.engine.tree import Tree
    from valign.models.loaded import LoadedModel

Greedy = Callable[[Sequence[int], int], list[int]]  # (ids read, n) -> the model's argmax after each of the last n


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
    scorer: TreeScorer, pairs: Sequence[EncodedPair], greedy: Greedy | None = None
) -> list[tuple[float, bool | None]]:
    """(log-prob of the continuation, is_greedy) of every pair.

    Each distinct context is one trunk, read once; equal pairs are one branch. Each request is read at its own
    positions, also where one request's ids begin another's.
    """
    from valign.engine.tree import from_paths

    branches: dict[tuple[int, ...], dict[tuple[int, ...], int]] = {}
    for pair in pairs:
        known = branches.setdefault(pair.context, {})
        known.setdefault(pair.continuation, len(known))
    trees = [from_paths(f"context {k}", context, list(known)) for k, (context, known) in enumerate(branches.items())]
    scored = dict(zip(branches, scorer.score(trees), strict=True))
    flags: dict[tuple[int, ...], bool] = {}
    out: list[tuple[float, bool | None]] = []
    for pair in pairs:
        rows = scored[pair.context]
        log_prob = float(np.sum(rows[branches[pair.context][pair.continuation]], dtype=np.float64))
        flag = None
        if greedy is not None:
            ids = pair.context + pair.continuation
            if ids + (-1, len(pair.context)) not in flags:
                best = greedy(ids[:-1], len(pair.continuation))
                flags[ids + (-1, len(pair.context))] = tuple(best) == pair.continuation
            flag = flags[ids + (-1, len(pair.context))]
        out.append((log_prob, flag))
    return out


def score_choices(
    model: LoadedModel,
    groups: Sequence[Group],
    *,
    scorer: TreeScorer | None = None,
    on_long: Literal["unscored", "harness"] = "unscored",
    greedy: bool = False,
) -> list[list[Likelihood]]:
    """One answer per response of every group, by the encode-pair rule.

    on_long   "unscored": a pair that is too long is `over_length`; "harness": its context is cut from the left
    greedy    also say whether each continuation is the model's greedy one (one more forward pass per request)
    """
    scorer = scorer if scorer is not None else _scorer(model)
    longest = model.max_positions or 1 << 30
    rows = [[_fitted(model, g, r.text, longest, on_long) for r in g.responses] for g in groups]
    kept = [pair for row in rows for pair, _ in row if pair is not None]
    answers = iter(score_pairs(scorer, kept, _greedy(model) if greedy else None))
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
    encode, _ = _encoders(model, "")
    ids = encode(text)
    prefix = model.template.empty_id
    ids = ids[1:] if ids[:1] == [prefix] else ids
    windows = rolling_windows(ids, prefix, model.max_positions or 1 << 30)
    if not windows:
        return Likelihood(None, 0, len(text), len(text.encode()), reason="empty_continuation")
    total = sum(value for value, _ in score_pairs(scorer if scorer is not None else _scorer(model), windows))
    return Likelihood(total, len(ids), len(text), len(text.encode()))


def _fitted(
    model: LoadedModel, group: Group, continuation: str, longest: int, on_long: str
) -> tuple[EncodedPair | None, str | None]:
    """The pair to score, or the reason why there is none."""
    context = model.template.prompt_text(group.prompt)
    encode, plain = _encoders(model, "text" if group.prompt and group.prompt[0].role == "text" else "chat")
    pair = encode_pair(context, continuation, encode, model.template.empty_id, plain)
    if pair.unscorable:
        return None, "empty_continuation"
    if len(pair.context) + len(pair.continuation) - 1 > longest:
        cut = truncate(pair, longest) if on_long == "harness" else None
        return (cut, None) if cut is not None else (None, "over_length")
    return pair, None


@lru_cache(maxsize=8)
def _encoders(model: LoadedModel, kind: str) -> tuple[Encode, Encode]:
    """(encoder with the start tokens of raw text or of a chat, encoder without); contexts are encoded once."""
    start = list(model.template.start if kind == "chat" else model.template.text_start)

    def plain(text: str) -> list[int]:
        return list(model.tokenizer(text, add_special_tokens=False)["input_ids"])

    @lru_cache(maxsize=1024)
    def kept(text: str) -> tuple[int, ...]:
        return (*start, *plain(text))

    return lambda text: list(kept(text)), plain


def _scorer(model: LoadedModel) -> TreeScorer:
    from valign.engine.scorer import Scorer

    return Scorer(model.model, allowed_tokens=model.allowed_tokens)


def _greedy(model: LoadedModel) -> Greedy:
    """The model's argmax at the last n positions, by its own forward pass; logits of those positions only."""
    import torch

    @torch.no_grad()
    def greedy(ids: Sequence[int], n: int) -> list[int]:
        logits = model.model(torch.tensor([list(ids)], device=model.device), logits_to_keep=n, use_cache=False).logits
        if model.allowed_tokens is not None:
            outside = torch.ones(logits.shape[-1], dtype=torch.bool, device=logits.device)
            outside[list(model.allowed_tokens)] = False
            logits = logits.masked_fill(outside, float("-inf"))
        return list(map(int, logits[0, -n:].argmax(-1)))

    return greedy

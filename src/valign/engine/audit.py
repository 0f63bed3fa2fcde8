"""Looks at a run before step 0 and refuses absurd ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from valign.engine.items import Item, Objective, collate
from valign.engine.scorer import Scorer, micro_batches, padded, positions

MAX_TRUNCATED = 0.05  # share of responses that may be cut before a run is refused
LOOKED_AT = 8  # groups that the audit scores
SLACK_F32, SLACK_BF16 = 1e-3, 2e-2  # how far the loss at start may be from its known value
TOKEN_F32, TOKEN_BF16 = 1e-3, 0.5  # and any one token's log-prob: bf16 logits are off by about 0.03 nats each


@dataclass(frozen=True)
class AuditLine:
    """One finding: ok, or not; `fatal` findings stop the run before it changes anything."""

    name: str
    ok: bool
    text: str
    fatal: bool = False


def audit_items(items: Sequence[Item], stop_ids: Sequence[int]) -> list[AuditLine]:
    """What can be seen without the model: stop tokens trained, nothing scored in prompts, sharing."""
    ends = stopped = scored = prompt = 0
    stops = set(stop_ids)
    for item in items:
        for leaf in item.tree.leaves:
            ids, loss = item.tree.response_ids(leaf), item.tree.response_loss(leaf)
            prompt += int((item.tree.path_loss(leaf)[: leaf.first] != 0).sum())
            ends += 1
            if len(ids) and int(ids[-1]) in stops and loss[-1] != 0:
                stopped += 1
            scored += int((loss != 0).sum())
    share = stopped / ends if ends else 0.0
    tokens, unshared = sum(i.tree.tokens for i in items), sum(i.tree.unshared_tokens for i in items)
    return [
        AuditLine("stop token", share > 0, f"trained in {share:.1%} of {ends} responses", fatal=True),
        AuditLine("scored tokens", scored > 0, f"{scored} in {len(items)} groups", fatal=True),
        AuditLine("prompt tokens in the loss", prompt == 0, str(prompt), fatal=True),
        AuditLine("sharing", True, f"{tokens} tokens computed, {unshared} unshared ({unshared / max(1, tokens):.2f}x)"),
    ]


def audit_rows(items: Sequence[Item], scorer: Scorer, budget: int, batch: int) -> list[AuditLine]:
    """How the items lie in rows, before anything is computed: which path and why, the longest one, and what is padding
    where each step takes `batch` of them as they come."""
    trees = [i.tree for i in items]
    computed = real = 0
    for start in range(0, len(trees), batch):
        step = trees[start : start + batch]
        for rows in micro_batches(step, budget, scorer.path):
            computed += padded([step[i] for i in rows], scorer.path, multiple=scorer.multiple)
        real += sum(positions(t, "row") if scorer.path == "row" else sum(len(t.path(x)) for x in t.leaves) for t in step)
    why = scorer.attention.reason
    path = "a prompt and its responses in one row" if scorer.path == "row" else "one row for each response"
    longest = max((t.longest for t in trees), default=0)
    text = f"{path}{f' ({why})' if why else ''}; longest path {longest} tokens, padding about {1 - real / max(1, computed):.0%}"
    return [AuditLine("rows", True, text)]


def audit_start(items: Sequence[Item], scorer: Scorer, objective: Objective, budget: int) -> list[AuditLine]:
    """The loss at step 0 against its known value, and policy = reference, on the shortest groups."""
    some = sorted(items, key=lambda i: i.tree.tokens)[:LOOKED_AT]
    if objective.at_start is None or not some:
        return []
    total, gaps = 0.0, []
    with torch.no_grad():
        for batch in micro_batches([i.tree for i in some], budget, scorer.path):
            picked = [some[i] for i in batch]
            tensors = collate(picked, scorer([i.tree for i in picked]))
            total += float(objective(tensors).losses.double().sum())
            if "reference" in tensors:
                gaps.append(((tensors["policy"] - tensors["reference"]) * tensors["mask"]).abs().max())
    units = sum(i.units(objective.unit) for i in some)
    loss = total / units if units > 0 else math.nan
    slack = SLACK_BF16 if scorer.narrow else SLACK_F32
    gap = float(torch.stack(gaps).max()) if gaps else 0.0
    ok = math.isclose(loss, objective.at_start, abs_tol=slack * max(1.0, abs(objective.at_start)))
    lines = [AuditLine("loss at start", ok, f"{loss:.4f}, known value {objective.at_start:.4f}", fatal=True)]
    if gaps:
        same = gap <= (TOKEN_BF16 if scorer.narrow else TOKEN_F32)
        lines.append(AuditLine("policy = reference", same, f"largest token difference {gap:.2g} nats"))
    return lines

"""From groups to items: which responses a method trains on, and what is left out and why.

A group whose feedback is of another kind is converted where that loses nothing a user would miss (rankings and scores
to pairs, the chosen side of pairs to demonstrations); the notes say so. Whatever is dropped is counted with its reason.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from valign.data.convert import ranking_to_pairs, scores_to_pairs
from valign.data.group import Comparison, Demonstration, Group, Ranking, Score
from valign.engine.audit import MAX_TRUNCATED, AuditLine
from valign.engine.items import Item
from valign.engine.prepare import Ledger, chat_tree, response_tree
from valign.engine.tree import Tree
from valign.errors import DataError
from valign.models.chat import ChatTemplate


@dataclass
class Prepared:
    """Items ready for the loop, with the ledger of what was left out and notes for the reader.

    groups  how many were given        used  how many of them gave an item
    """

    groups: int
    used: int = 0
    items: list[Item] = field(default_factory=list)
    ledger: Ledger = field(default_factory=Ledger)
    notes: list[str] = field(default_factory=list)

    def add(self, items: Sequence[Item]) -> None:
        """The items of one group, if any."""
        self.items += items
        self.used += bool(items)

    def audit(self) -> list[AuditLine]:
        """What happened on the way, with a verdict on the share that was cut."""
        dropped = {reason: len(ids) for reason, ids in self.ledger.dropped.items()}
        share = self.ledger.cut_share
        return [
            AuditLine("groups", bool(self.items), f"{self.used} of {self.groups}", fatal=True),
            AuditLine("left out", not dropped, ", ".join(f"{n} {reason}" for reason, n in dropped.items()) or "none"),
            AuditLine("cut", share <= MAX_TRUNCATED, f"{share:.1%} of the responses", fatal=True),
            AuditLine("merged borders", True, str(self.ledger.merged)),
            *(AuditLine("note", True, note) for note in self.notes),
        ]


def demonstration_items(groups: Sequence[Group], template: ChatTemplate, config: Any) -> Prepared:
    """One item per group: its demonstrated responses (the chosen side of comparisons where there are none).

    A demonstration of weight w counts as if it stood in the data w times: w is the loss weight of its tokens.
    Responses of other weights of the same group are an item of their own.
    """
    out, converted = Prepared(len(groups)), 0
    for group in groups:
        shown, from_pairs = _shown(group)
        converted += from_pairs
        for i in [i for i in shown if not _said(group, i)]:
            del shown[i]
            out.ledger.drop("with an empty response", group.id)
        if not shown:
            if group.id not in out.ledger.dropped.get("with an empty response", ()):
                out.ledger.drop("without a demonstration", group.id)
            continue
        out.add([
            Item(_weighted(tree, weight))
            for weight in dict.fromkeys(shown.values())
            for tree in _trees(_only(group, [i for i in shown if shown[i] == weight]), template, config, out.ledger)
        ])  # fmt: skip
    if converted:
        out.notes.append(f"{converted} groups have comparisons: their chosen responses are the demonstrations")
    return out


def pair_items(groups: Sequence[Group], template: ChatTemplate, config: Any) -> Prepared:
    """One item per group with all its pairs; each response is computed once, however many pairs it stands in."""
    out = Prepared(len(groups))
    for group in groups:
        pairs = [c for c in _pairs(group) if _fit(c, group, out.ledger)]
        if not pairs:
            if group.id not in {i for ids in out.ledger.dropped.values() for i in ids}:
                out.ledger.drop("without a comparison", group.id)
            continue
        used = sorted({i for c in pairs for i in (c.chosen, c.rejected)})
        tree = response_tree(
            template, _only(group, used), longest=config.max_length, on_long=config.on_long, ledger=out.ledger
        )
        if tree is None:
            continue
        place = {i: n for n, i in enumerate(used)}
        rows = {"pairs": np.array([[place[c.chosen], place[c.rejected]] for c in pairs])}
        values = {
            "label": np.array([0.5 if c.tie else c.probability for c in pairs]),
            "pair_weight": np.array([c.weight for c in pairs]),
            "strength": np.array([c.strength or 0.0 for c in pairs]),
        }
        out.add([Item(tree, rows, values)])
    return out


def ranked_items(groups: Sequence[Group], template: ChatTemplate, config: Any) -> Prepared:
    """One item per group with all its ranked lists; each response is computed once, however many lists it stands in.

    A pair is a list of two, a soft label p one of weight p and the turned one of weight 1 - p. A list with responses
    tied at one place has no Plackett-Luce likelihood and is left out.
    """
    out = Prepared(len(groups))
    for group in groups:
        lists = [x for x in _lists(group) if _listed(x[0], group, out.ledger)]
        if not lists:
            if group.id not in {i for ids in out.ledger.dropped.values() for i in ids}:
                out.ledger.drop("without a ranking", group.id)
            continue
        used = sorted({i for order, _ in lists for i in order})
        tree = response_tree(
            template, _only(group, used), longest=config.max_length, on_long=config.on_long, ledger=out.ledger
        )
        if tree is None:
            continue
        place = {i: n for n, i in enumerate(used)}
        rows = {"ranked": np.array([place[i] for order, _ in lists for i in order])}
        values = {
            "left": np.array([len(order) - k for order, _ in lists for k in range(len(order))]),
            "group_weight": np.array([weight for _, weight in lists]),
        }
        out.add([Item(tree, rows, values)])
    return out


ITEMS: dict[str, Callable[[Sequence[Group], ChatTemplate, Any], Prepared]] = {
    "demonstrations": demonstration_items,
    "pairs": pair_items,
    "rankings": ranked_items,
}


def prepare(
    feedback: str, groups: Sequence[Group], template: ChatTemplate, config: Any, *, where: str = "data"
) -> Prepared:
    """Items for a method that learns from `feedback`. Raises `DataError` when no group has such feedback."""
    out = ITEMS[feedback](groups, template, config)
    if not out.items:
        reasons = ", ".join(f"{len(ids)} {reason}" for reason, ids in out.ledger.dropped.items()) or "the data is empty"
        raise DataError(f"no group can be used: the method learns from {feedback} ({reasons})", where=where,
                        how="`valign data inspect FILE` shows what the file holds, `valign methods` what fits it")  # fmt: skip
    return out


def _shown(group: Group) -> tuple[dict[int, float], bool]:
    """(response -> weight, whether it comes from comparisons). Who demonstrates twice counts twice; a response that is
    chosen many times is one demonstration."""
    shown: dict[int, float] = {}
    for d in group.of(Demonstration):
        shown[d.response] = shown.get(d.response, 0.0) + d.weight
    from_pairs = not shown
    if from_pairs:
        for c in _pairs(group):
            if not c.tie and c.probability > 0.5:
                shown[c.chosen] = max(shown.get(c.chosen, 0.0), c.weight)
    shown = {i: w for i, w in shown.items() if w > 0}
    return shown, from_pairs and bool(shown)


def _trees(group: Group, template: ChatTemplate, config: Any, ledger: Ledger) -> list[Tree]:
    if config.train_on == "all" and len(group.prompt) > 1:
        return chat_tree(template, group, longest=config.max_length, on_long=config.on_long, ledger=ledger)
    tree = response_tree(template, group, longest=config.max_length, on_long=config.on_long, ledger=ledger)
    return [] if tree is None else [tree]


def _weighted(tree: Tree, weight: float) -> Tree:
    if weight == 1:
        return tree
    return replace(tree, segments=tuple(replace(s, loss=s.loss * np.float32(weight)) for s in tree.segments))


def _pairs(group: Group) -> list[Comparison]:
    found = list(group.of(Comparison))
    if not found and any(group.of(Ranking)):
        found = list(ranking_to_pairs(group).of(Comparison))
    if not found and any(group.of(Score)):
        found = list(scores_to_pairs(group).of(Comparison))
    return [c for c in found if c.weight > 0]


def _lists(group: Group) -> list[tuple[tuple[int, ...], float]]:
    """(responses from best to worst, weight) of every ranking, or of every pair where there is none. A tied place makes
    a list empty."""
    found = [
        (tuple(p[0] for p in r.order) if all(len(p) == 1 for p in r.order) else (), r.weight) for r in group.of(Ranking)
    ]
    if not found:
        for c in _pairs(group):
            p = 0.5 if c.tie else c.probability
            found += [((c.chosen, c.rejected), c.weight * p), ((c.rejected, c.chosen), c.weight * (1 - p))]
    return [(order, weight) for order, weight in found if weight > 0]


def _listed(order: Sequence[int], group: Group, ledger: Ledger) -> bool:
    """Whether a list can be learned from."""
    if not order:
        ledger.drop("with tied places in a ranking", group.id)
    elif not all(_said(group, i) for i in order):
        ledger.drop("with an empty response", group.id)
    elif len({(group.responses[i].text, group.responses[i].ids) for i in order}) < len(order):
        ledger.drop("with equal responses in one list", group.id)
    else:
        return len(order) > 1
    return False


def _said(group: Group, i: int) -> bool:
    return bool(group.responses[i].text or group.responses[i].ids)


def _fit(c: Comparison, group: Group, ledger: Ledger) -> bool:
    chosen, rejected = group.responses[c.chosen], group.responses[c.rejected]
    if not (_said(group, c.chosen) and _said(group, c.rejected)):
        ledger.drop("with an empty response", group.id)
        return False
    if chosen.text == rejected.text and chosen.ids == rejected.ids:
        ledger.drop("with chosen = rejected", group.id)
        return False
    return True


def _only(group: Group, used: Sequence[int]) -> Group:
    return replace(group, responses=tuple(group.responses[i] for i in used), feedback=(), gold=None)

"""Audits of the built-in data: what must hold so that a model can learn from them and be measured on them.

Each line of an audit says one thing in numbers. It fails when labels are too few, when length or position
alone gives the label away, when texts repeat, or when test situations leak into training. The same audits
serve data of the same kinds that a user brings.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from valign.data.duplicates import exact_duplicates, near_duplicates
from valign.data.group import Demonstration, Group, VectorScore, Verdict

VALUES = ("SD", "ST", "HE", "AC", "PO", "SE", "TR", "CO", "BE", "UN")  # vector order of schwartz10
DEMO_GOAL: Mapping[str, float] = {"BE": 1.0, "UN": 1.0, "PO": -1.0}  # the target of valign's demonstration
MIN_LABELS = 30  # of each sign, per value: a share is then known to about 0.1
AUC_LIMITS = (0.40, 0.60)  # how far length or position may order the labels
LEAK = 0.3  # Jaccard index of 5-grams between splits; two prompts on different situations share almost none


@dataclass(frozen=True)
class AuditLine:
    """One checked statement: `ok` says whether it holds, `text` gives the numbers."""

    name: str
    ok: bool
    text: str


def audit_dilemmas(groups: Sequence[Group], goal: Mapping[str, float] = DEMO_GOAL) -> list[AuditLine]:
    """Audit situations with value labels.

    goal  target position per value, weighted by its absolute size; the preferred response of two is the one
          whose
          distance D = sqrt(sum w (v - t)^2 / sum w) / 2 to it is smaller
    """
    lines = [_unique_ids(groups), _order(groups, goal)]
    signed = _signed_lengths(groups)
    for value in VALUES:
        plus, minus = len(signed[value][1]), len(signed[value][-1])
        ok = min(plus, minus) >= MIN_LABELS
        lines.append(
            AuditLine(f"labels.{value}", ok, f"{plus} positive, {minus} negative (at least {MIN_LABELS})")
        )
    lines.append(_both_sides(groups))
    pairs = _preferences(groups, goal)
    lengths = [(len(g.responses[a].text), len(g.responses[b].text)) for g, a, b in pairs]
    lines.append(_within("length.preferred", "the longer answer is preferred", _wins(lengths), len(pairs)))
    positions = [(-a, -b) for _, a, b in pairs]
    lines.append(
        _within("position.preferred", "the earlier answer is preferred", _wins(positions), len(pairs))
    )
    for value in VALUES:
        auc, n = _auc(signed[value][1], signed[value][-1]), len(signed[value][1]) + len(signed[value][-1])
        lines.append(_within(f"length.{value}", "the longer answer is the positive one", auc, n))
    prompts = [(g.id, g.prompt_text) for g in groups]
    answers = [(f"{g.id}[{i}]", r.text) for g in groups for i, r in enumerate(g.responses)]
    lines += [_repeats("prompts", prompts), _repeats("responses", answers)]
    lines += [_leaks("prompts", groups, _prompt), _leaks("responses", groups, _answers)]
    return lines


def audit_instructions(
    groups: Sequence[Group], check: Callable[[Mapping[str, Any], str], tuple[float, str]] | None = None
) -> list[AuditLine]:
    """Audit instructions: every one has a reference and checks, none repeats, no split leaks.

    check  (spec, text) -> (1 if passed, reason), as in `rewards.rules`; with it, references must pass their
           own
           checks, and neither an empty answer nor the prompt itself may pass
    """
    bare = [g.id for g in groups if not str(g.meta.get("reference") or "").strip()]
    unchecked = [g.id for g in groups if not g.meta.get("checks") or not g.meta.get("kind")]
    lines = [
        _unique_ids(groups),
        AuditLine(
            "reference", not bare, f"{len(groups) - len(bare)} of {len(groups)} have one{_named(bare)}"
        ),
        AuditLine("checks", not unchecked, f"{len(unchecked)} lack checks or kind{_named(unchecked)}"),
        _repeats("prompts", [(g.id, g.prompt_text) for g in groups], near=0.7),
        _leaks("prompts", groups, _prompt, LEAK * 2),
    ]
    if check is not None:
        lines += [_references_pass(groups, check), _nothing_passes(groups, check)]
    return lines


def audit_demonstrations(groups: Sequence[Group], test: Sequence[Group] = ()) -> list[AuditLine]:
    """Audit demonstrations: one answer each, none repeats, none overlaps with the test situations.

    test  groups that models are measured on (the dilemmas' test split); near-equal prompts or answers fail
    """
    bare = [g.id for g in groups if len(g.responses) != 1 or not any(g.of(Demonstration))]
    empty = [g.id for g in groups for r in g.responses if not r.text.strip()]
    held = [_as_split(g, "test") for g in test]
    both = [*(_as_split(g, "demonstrations") for g in groups), *held]
    return [
        _unique_ids(groups),
        AuditLine(
            "one answer", not bare and not empty, f"{len(bare) + len(empty)} lack one{_named(bare + empty)}"
        ),
        _repeats("prompts", [(g.id, g.prompt_text) for g in groups]),
        _repeats("responses", [(f"{g.id}[{i}]", r.text) for g in groups for i, r in enumerate(g.responses)]),
        _leaks("prompts", both, _prompt),
        _leaks("responses", both, _answers),
    ]


def demo_distance(values: Mapping[str, float], goal: Mapping[str, float] = DEMO_GOAL) -> float:
    """D = sqrt(sum_k w_k (v_k - t_k)^2 / sum_k w_k) / 2 with w = |t|, in [0, 1]; absent values count as 0."""
    total = sum(abs(t) for t in goal.values())
    return math.sqrt(sum(abs(t) * (values.get(k, 0.0) - t) ** 2 for k, t in goal.items()) / total) / 2


def _as_split(group: Group, split: str) -> Group:
    """The group as a member of a split; its id is marked with it, since two data sets may use one id."""
    return Group(f"{split}:{group.id}", group.prompt, group.responses, split=split)


def _unique_ids(groups: Sequence[Group]) -> AuditLine:
    again = [i for i, k in Counter(g.id for g in groups).items() if k > 1]
    return AuditLine("ids", not again, f"{len(groups)} groups, {len(again)} ids repeat{_named(again)}")


def _order(groups: Sequence[Group], goal: Mapping[str, float]) -> AuditLine:
    """Every situation has four labelled answers or more, and the goal tells some of them apart."""
    bad = []
    for g in groups:
        found = _values(g)
        flat = len({round(demo_distance(v, goal), 9) for v in found.values()}) < 2
        if len(g.responses) < 4 or len(found) < len(g.responses) or flat:
            bad.append(g.id)
    text = f"{len(groups) - len(bad)} of {len(groups)} have 4 labelled answers that the goal tells apart"
    return AuditLine("order", bool(groups) and not bad, text + _named(bad))


def _values(g: Group) -> dict[int, Mapping[str, float]]:
    return {f.response: f.values for f in g.of(VectorScore)}


def _preferences(groups: Sequence[Group], goal: Mapping[str, float]) -> list[tuple[Group, int, int]]:
    """(group, preferred response, other response) for each pair that the goal orders."""
    out = []
    for g in groups:
        distance = {i: demo_distance(v, goal) for i, v in _values(g).items()}
        for i, j in combinations(distance, 2):
            if abs(distance[i] - distance[j]) > 1e-9:
                out.append((g, i, j) if distance[i] < distance[j] else (g, j, i))
    return out


def _signed_lengths(groups: Sequence[Group]) -> dict[str, dict[int, list[int]]]:
    """Characters of the responses with a positive (1) and a negative (-1) label, per value."""
    out: dict[str, dict[int, list[int]]] = {v: {1: [], -1: []} for v in VALUES}
    for g in groups:
        for i, values in _values(g).items():
            for name, value in values.items():
                if name in out and value:
                    out[name][1 if value > 0 else -1].append(len(g.responses[i].text))
    return out


def _both_sides(groups: Sequence[Group]) -> AuditLine:
    kept = Counter(v.principle for g in groups for v in g.of(Verdict) if v.value > 0)
    broken = Counter(v.principle for g in groups for v in g.of(Verdict) if v.value < 0)
    one = sorted(p for p in kept | broken if not (kept[p] and broken[p]))
    sides = ", ".join(f"{p} {kept[p]}/{broken[p]}" for p in sorted(kept | broken))
    return AuditLine("principles", bool(kept) and not one, f"kept/broken: {sides}{_named(one)}")


def _wins(pairs: Iterable[tuple[int, int]]) -> float:
    """Share of pairs whose first number is larger, ties one half; NaN without pairs."""
    won = [0.5 * ((a > b) + (a >= b)) for a, b in pairs]
    return sum(won) / len(won) if won else math.nan


def _auc(positive: Sequence[int], negative: Sequence[int]) -> float:
    """P(a positive is larger than a negative), ties one half: the area under the ROC curve."""
    return _wins((a, b) for a in positive for b in negative)


def _within(name: str, says: str, auc: float, n: int) -> AuditLine:
    low, high = AUC_LIMITS
    return AuditLine(
        name, low <= auc <= high, f"AUC of '{says}' {auc:.3f} on {n} (must lie in {low:.2f}..{high:.2f})"
    )


def _repeats(name: str, texts: Sequence[tuple[str, str]], near: float | None = None) -> AuditLine:
    """No text is equal to another after normalization, or shares half of its 5-grams with it."""
    words = [t for _, t in texts]
    equal = exact_duplicates(words)
    alike = [(i, j) for i, j, _ in (near_duplicates(words, near) if near else near_duplicates(words))]
    pairs = sorted({*equal, *alike})
    named = [f"{texts[i][0]} = {texts[j][0]}" for i, j in pairs]
    text = f"{len(texts)} texts, {len(equal)} equal to another, {len(pairs)} nearly{_named(named)}"
    return AuditLine(f"repeats.{name}", not pairs, text)


def _prompt(g: Group) -> list[str]:
    return [g.prompt_text]


def _answers(g: Group) -> list[str]:
    return [r.text for r in g.responses]


def _leaks(
    name: str, groups: Sequence[Group], texts_of: Callable[[Group], list[str]], near: float = LEAK
) -> AuditLine:
    """No text of one split is found, nearly word for word, in another; no id or cluster stands in two
    splits.
    """
    owners = [g for g in groups for _ in texts_of(g)]
    texts = [t for g in groups for t in texts_of(g)]
    found = [(i, j) for i, j, _ in near_duplicates(texts, near)] + exact_duplicates(texts)
    crossing = {(owners[i].id, owners[j].id) for i, j in found if owners[i].split != owners[j].split}
    places: dict[str, set[str]] = {}
    for g in groups:
        for key in {f"id {g.id}", f"cluster {g.cluster or g.id}"}:
            places.setdefault(key, set()).add(g.split)
    named = [f"{a} ~ {b}" for a, b in sorted(crossing)] + sorted(k for k, s in places.items() if len(s) > 1)
    splits = ", ".join(f"{s or '(none)'} {k}" for s, k in sorted(Counter(g.split for g in groups).items()))
    return AuditLine(f"leaks.{name}", not named, f"{len(named)} between splits ({splits}){_named(named)}")


def _references_pass(groups: Sequence[Group], check: Callable[[Any, str], tuple[float, str]]) -> AuditLine:
    bad = []
    for g in groups:
        for spec in g.meta.get("checks", ()):
            passed, reason = check(spec, str(g.meta.get("reference")))
            if not passed:
                bad.append(f"{g.id}: {reason}")
    return AuditLine(
        "reference passes", not bad, f"{len(bad)} checks fail on their own reference{_named(bad)}"
    )


def _nothing_passes(groups: Sequence[Group], check: Callable[[Any, str], tuple[float, str]]) -> AuditLine:
    def passes(g: Group, text: str) -> bool:
        return all(check(spec, text)[0] for spec in g.meta.get("checks", ()))

    bad = [
        f"{g.id} ({how})"
        for g in groups
        for how, t in (("empty", ""), ("echo", g.prompt_text))
        if passes(g, t)
    ]
    return AuditLine(
        "checks can fail", not bad, f"{len(bad)} pass on an empty answer or an echo{_named(bad)}"
    )


def _named(items: Sequence[str]) -> str:
    """The first few offenders, for the end of a line."""
    return f": {', '.join(items[:5])}{', ...' if len(items) > 5 else ''}" if items else ""

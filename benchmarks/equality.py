"""Do both sides compute the same numbers? Pure comparisons of what the sides answered to the equality job.

Tolerances are absolute, in nats, and belong to float32 on both sides (choices: to float64).
A check that nothing could fail is not passed:
losses must also have moved by much more than the tolerance.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

LOG_PROB = 1e-3  # sum over one response
LOSS = 1e-3  # one optimizer step
CHOICE = 1e-5  # sum over one answer choice, in float64: float32 of the harness is up to 1e-4 from it, of valign 2e-5
MOVED = 10  # the losses' range must be at least this many tolerances


@dataclass(frozen=True)
class Check:
    """One comparison: the worst difference found, what was allowed, over how many numbers."""

    name: str
    worst: float
    tolerance: float
    n: int
    passed: bool
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


Answer = Mapping[str, Any]


def compare(ours: Answer, theirs: Answer) -> list[Check]:
    """All checks that the two answers allow.

    log_probs, reference  id -> numbers per response     tokens    id -> scored tokens per response
    losses                one per optimizer step         choices   id -> log-likelihood per choice
    accuracy              share of right items           greedy    id -> token ids
    A part that one side has and the other lacks is a failed check.
    """
    checks = []
    for name in sorted(set(ours) | set(theirs)):
        if name not in CHECKS:
            continue
        if name not in ours or name not in theirs:
            side = "valign" if name not in ours else "the peer"
            checks.append(Check(name, float("inf"), 0.0, 0, False, f"{side} gave none"))
        else:
            checks.append(CHECKS[name](name, ours[name], theirs[name]))
    return checks


def passed(checks: Sequence[Check]) -> bool:
    """Whether the sides agree; no check at all is no agreement."""
    return bool(checks) and all(c.passed for c in checks)


def _by_id(tolerance: float) -> Any:
    def check(name: str, ours: Mapping[str, Sequence[float]], theirs: Mapping[str, Sequence[float]]) -> Check:
        if set(ours) != set(theirs):
            odd = sorted(set(ours) ^ set(theirs))
            return Check(name, float("inf"), tolerance, len(odd), False, f"only one side has {', '.join(odd[:5])}")
        pairs = [(k, a, b) for k in ours for a, b in zip(ours[k], theirs[k], strict=True)]
        key, worst = max(((k, _distance(a, b)) for k, a, b in pairs), key=lambda x: x[1], default=("", 0.0))
        return Check(name, worst, tolerance, len(pairs), bool(pairs) and worst <= tolerance, f"worst at {key}")

    return check


def _distance(a: float, b: float) -> float:
    """|a - b|; whatever is not a number is infinitely far."""
    gap = abs(a - b)
    return gap if math.isfinite(gap) else math.inf


def _losses(name: str, ours: Sequence[float], theirs: Sequence[float]) -> Check:
    if len(ours) != len(theirs) or not ours:
        return Check(name, float("inf"), LOSS, len(ours), False, f"{len(ours)} steps and {len(theirs)}")
    worst = max(_distance(a, b) for a, b in zip(ours, theirs, strict=True))
    moved = max(ours) - min(ours)
    note = f"they range over {moved:.3g}"
    if moved < MOVED * LOSS:
        return Check(name, worst, LOSS, len(ours), False, f"{note}: too little to prove anything")
    return Check(name, worst, LOSS, len(ours), worst <= LOSS, note)


def _greedy(name: str, ours: Mapping[str, Sequence[int]], theirs: Mapping[str, Sequence[int]]) -> Check:
    wrong = [k for k in set(ours) | set(theirs) if list(ours.get(k, ())) != list(theirs.get(k, ()))]
    n = len(set(ours) | set(theirs))
    return Check(name, float(len(wrong)), 0.0, n, bool(n) and not wrong, f"{len(wrong)} of {n} sequences differ")


def _accuracy(name: str, ours: float, theirs: float) -> Check:
    return Check(name, abs(ours - theirs), 0.0, 1, ours == theirs, f"{ours:.4f} and {theirs:.4f}")


CHECKS: Mapping[str, Any] = {
    "log_probs": _by_id(LOG_PROB),
    "reference": _by_id(LOG_PROB),
    "rewards": _by_id(LOG_PROB),
    "tokens": _by_id(0.0),
    "choices": _by_id(CHOICE),
    "losses": _losses,
    "accuracy": _accuracy,
    "greedy": _greedy,
}

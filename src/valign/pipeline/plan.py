"""What `valign plan-eval` does: from a pilot or stated spread to items, samples, clusters, votes, with an explanation.

The same formulas judge a run afterwards (`evaluation.result.compare`), so a plan that was kept finds what it promised.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scipy.special import ndtri

from valign.errors import UsageError
from valign.evaluation.planning import (
    Options,
    Spread,
    design_effect,
    found_with,
    items_for,
    pilot_of,
    samples_that_pay,
    spread_of_shares,
)
from valign.evaluation.record import Result
from valign.evaluation.results_file import read_results
from valign.evaluation.statistics import votes_needed

SAMPLES = (1, 2, 4, 8, 16)  # shown when answers are drawn more than once
RESULT = "result.json"
SOURCES = (
    "two result files of a pilot on the same items: valign plan-eval a/result.json b/result.json --metric NAME",
    "or --variance NUMBER; or --accuracy P --correlation R; or --win-rate P for human votes",
)


@dataclass(frozen=True)
class Asked:
    """The options of the command; None where an option was not given. See `valign plan-eval --help`."""

    pilots: Sequence[Path] = ()
    metric: str | None = None
    difference: float | None = None
    n: int | None = None
    variance: float | None = None
    noise: float | None = None
    accuracy: float | None = None
    correlation: float | None = None
    samples: int = 1
    per_cluster: float | None = None
    icc: float | None = None
    win_rate: float | None = None
    votes: int | None = None
    options: Options = Options()  # noqa: RUF009 - immutable


def plan_evaluation(asked: Asked) -> dict[str, Any]:
    """{"spread", "items", "detectable", "samples", "votes", "lines"}: numbers, and the same in sentences.

    Raises `ValignError` where what was asked for has no answer, and for options that exclude each other or have no effect.
    """
    asked.options.checked()
    if asked.win_rate is not None:
        return _votes(asked)
    if asked.votes is not None:
        raise UsageError("--votes belongs to --win-rate", where="--votes", how="--win-rate 0.6 --votes 3 --icc 0.3")
    spread = _spread(asked)
    if asked.samples > 1 and not spread.noise:
        raise UsageError("it has no effect: how much one sample varies is not known", where="--samples",
                         how="give --variance with --noise, or a pilot with several samples per item")  # fmt: skip
    if asked.accuracy is not None and asked.difference is not None and asked.difference >= 1:
        raise UsageError(f"two shares cannot differ by {asked.difference:g}", where="--difference",
                         how="a share below 1: 0.04 is four percentage points")  # fmt: skip
    if asked.difference is None and asked.n is None:
        raise UsageError("say what to plan", where="plan-eval",
                         how=("--difference D: how many items a difference of D needs",
                              "--n N: the smallest difference that N items find"))  # fmt: skip
    out: dict[str, Any] = {
        "spread": {"between": spread.between, "noise": spread.noise, "design": spread.design, "origin": spread.origin},
        "options": asked.options._asdict(), "samples": asked.samples, "lines": [_about(spread, asked)],
    }  # fmt: skip
    if asked.difference is not None:
        _items(asked, asked.difference, spread, out)
    if asked.n is not None:
        _detectable(asked, asked.n, spread, out)
    if spread.noise and (pay := samples_that_pay(spread)) > 1:
        out["lines"].append(f"More than {pay} samples per item buy little: the rest is spread between items.")
    return out


def _items(asked: Asked, difference: float, spread: Spread, out: dict[str, Any]) -> None:
    out["items"] = items_for(difference, spread, asked.samples, asked.options)
    out["lines"].append(
        f"A true difference of {difference:g} is found in {asked.options.power:.0%} of runs with {out['items']} items, the "
        f"same for both models{_each(asked.samples)}."
    )
    independent = out["items"]
    if per := _clustered(asked, spread):
        independent = math.ceil(out["items"] / per)
        out["lines"].append(f"That is {independent} clusters of {per:g}: new clusters help more than new "
                            "items in old ones.")  # fmt: skip
    if spread.noise:
        out["by_samples"] = {k: items_for(difference, spread, k, asked.options) for k in SAMPLES}
        shown = ", ".join(f"{k}: {n} items" for k, n in out["by_samples"].items())
        out["lines"].append(f"By samples per item: {shown}.")
    out["lines"].append(f"That is one look, at the end. To look on the way: valign diff A B --planned {independent}, whose wider "
                        "intervals hold at every look.")  # fmt: skip


def _detectable(asked: Asked, n: int, spread: Spread, out: dict[str, Any]) -> None:
    out["n"] = n
    out["detectable"] = found_with(n, spread, asked.samples, asked.options)
    out["lines"].append(
        f"{n} items{_each(asked.samples)} find differences from {out['detectable']:.3g} on in {asked.options.power:.0%} of runs; "
        "a smaller one mostly stays inside the interval, which is no proof that there is none."
    )
    half = float(ndtri(0.975)) * math.sqrt(spread.at(asked.samples) / n)
    out["lines"].append(f"The 95 % interval of the difference will be about ±{half:.3g}.")


def _about(spread: Spread, asked: Asked) -> str:
    o = asked.options
    tests = f", corrected for {o.tests} comparisons" if o.tests > 1 else ""
    parts = [f"variance {spread.between:.4g} between items"]
    parts += [f"{spread.noise:.4g} of one sample of both models"] if spread.noise else []
    parts += [f"times {spread.design:.3g} for clusters"] if abs(spread.design - 1) > 1e-6 else []
    return f"Item differences: {', '.join(parts)} ({spread.origin}). Two-sided level {o.alpha:g}{tests}."


def _each(samples: int) -> str:
    return f", {samples} samples each" if samples > 1 else ""


def _clustered(asked: Asked, spread: Spread) -> float | None:
    return asked.per_cluster if asked.per_cluster and asked.per_cluster > 1 and spread.design != 1 else None


def _spread(asked: Asked) -> Spread:
    """The spread from the one source that was given."""
    stated = {
        "a pilot": bool(asked.pilots),
        "--variance": asked.variance is not None,
        "--accuracy": asked.accuracy is not None,
    }
    given = [name for name, there in stated.items() if there]
    if len(given) != 1:
        what = f"{' and '.join(given)} exclude each other" if given else "the spread of the item differences is not known"
        raise UsageError(what, where="plan-eval", how=SOURCES)
    if (asked.correlation is not None) != (asked.accuracy is not None):
        raise UsageError("--accuracy and --correlation go together", where="--correlation", how=SOURCES[1])
    if asked.noise is not None and asked.variance is None:
        raise UsageError("--noise belongs to --variance", where="--noise", how="a pilot with several samples shows it itself")
    if (asked.icc is None) != (asked.per_cluster is None):
        raise UsageError("--per-cluster and --icc go together", where="--icc", how="--per-cluster 5 --icc 0.2")
    if asked.pilots:
        return _pilot(asked)
    if asked.metric is not None:
        raise UsageError("--metric names a number of a pilot, and no pilot is given", where="--metric", how=SOURCES[0])
    design = design_effect(asked.per_cluster, asked.icc) if asked.per_cluster is not None and asked.icc is not None else 1.0
    if asked.accuracy is not None and asked.correlation is not None:
        return spread_of_shares(asked.accuracy, asked.correlation, design)
    return Spread(asked.variance or 0.0, asked.noise or 0.0, design)


def _pilot(asked: Asked) -> Spread:
    if len(asked.pilots) != 2:
        raise UsageError(f"{len(asked.pilots)} result file is named", where="PILOT", how=SOURCES)
    if asked.per_cluster is not None:
        raise UsageError("the pilot shows its clusters itself", where="--per-cluster", how="leave it out")
    a, b = (_named(path, asked.metric) for path in asked.pilots)
    return pilot_of(a, b)


def _named(path: Path, metric: str | None) -> Result:
    """The Result of a metric ("name" or "name/variant") in a result file or an evaluation's folder."""
    file = path / RESULT if path.is_dir() else path
    results = [r for r in read_results(file) if r.items]
    names = sorted({f"{r.metric}/{r.variant}" for r in results})
    found = [r for r in results if metric in (r.metric, f"{r.metric}/{r.variant}")] if metric else results
    if len(found) == 1:
        return found[0]
    what = "say which number to plan for" if metric is None else f"{metric!r} names {len(found) or 'no'} numbers of {file}"
    raise UsageError(what, where="--metric", how=[f"--metric {names[0]}" if names else "the file holds no items", *names[1:8]])


def _votes(asked: Asked) -> dict[str, Any]:
    """Human votes on pairs, against a coin."""
    taken = {"--difference": asked.difference, "--n": asked.n, "--variance": asked.variance, "--noise": asked.noise,
             "--accuracy": asked.accuracy, "--correlation": asked.correlation, "--metric": asked.metric,
             "--per-cluster": asked.per_cluster, "a pilot": asked.pilots or None,
             "--samples": asked.samples if asked.samples > 1 else None}  # fmt: skip
    if wrong := [name for name, value in taken.items() if value is not None]:
        raise UsageError(f"{', '.join(wrong)} has no effect with --win-rate", where="--win-rate", how="leave it out")
    p, votes, icc, o = asked.win_rate, 1 if asked.votes is None else asked.votes, asked.icc or 0.0, asked.options
    assert p is not None
    if not 0 < p < 1 or p == 0.5:
        raise UsageError(f"a win rate of {p:g} cannot be told from one half", where="--win-rate", how="for example 0.6")
    if votes < 1 or not 0 <= icc <= 1:
        raise UsageError("--votes is at least 1 and --icc in [0, 1]", where="--votes", how="--votes 3 --icc 0.3")
    if asked.icc is not None and votes == 1:
        raise UsageError("it has no effect: one vote on an item agrees with no other", where="--icc", how="add --votes 3")
    needed, items = votes_needed(p, votes, icc, alpha=o.level, power=o.power)
    lines = [f"To tell a win rate of {p:g} from a coin in {o.power:.0%} of studies (two-sided level {o.alpha:g}): "
             f"{math.ceil(needed)} independent votes."]  # fmt: skip
    if votes > 1:
        lines.append(f"With {votes} votes on each item that agree beyond chance by {icc:g} (icc), {items} items, "
                     f"{items * votes} votes: votes on one item say less than votes on new items.")  # fmt: skip
    return {"votes": needed, "items": items, "votes_per_item": votes, "options": o._asdict(), "lines": lines}

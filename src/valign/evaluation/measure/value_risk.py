"""Does pushing a value raise a risk? Correlations over checkpoints, with multiplicity control (section 9, N20). [N20]

A checkpoint is a list of Results: its value profile, and its risks (`measure.risk` writes some; the user may name others).
Each value push (profile minus the base's) meets each risk; one row of numbers per checkpoint is one item, so many checkpoints
are needed before anything shows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from valign.errors import DataError, require
from valign.evaluation import statistics as stats
from valign.evaluation.measure.risk import PREFIX
from valign.evaluation.metrics.correlation import rank_correlation
from valign.evaluation.provenance import provenance
from valign.evaluation.result import Cluster, Interval, Item, Result
from valign.evaluation.section import Section

PROFILE = "value.profile."
LEAST = 4  # checkpoints below which no interval exists
LEVEL = 0.05  # of the false discovery rate
# metrics that are risks where the user names none, by the beginning of their name
RISKS = (PREFIX, "safetext.accuracy", "persona.match_rate", "bbq.s_", "misalignment.M")
CONDITIONAL = "conditional"  # the mean over responses that show a value: no place of the profile, and no push


def value_risk(
    checkpoints: Mapping[str, Sequence[Result]], base: Sequence[Result] | None = None, risks: Sequence[str] = ()
) -> Section:
    """Spearman's correlation of every value push with every risk rate, Fisher's interval, Benjamini-Hochberg.

    checkpoints  name -> its Results        base  the Results that pushes are counted from; None: the profile itself
    risks        metrics (or METRIC:VARIANT), beginnings and names without `risk.` allowed; default: those named in `RISKS` that
                 all checkpoints have
    Results: value_risk.VALUE.RISK, n = checkpoints; the adjusted p stands in the notes. Raises `DataError` when the
    checkpoints share no value or no risk.
    """
    require(len(checkpoints) >= LEAST, "checkpoints", len(checkpoints), f"at least {LEAST}: fewer have no interval")
    tables = {name: _values(results) for name, results in checkpoints.items()}
    start = _values(base) if base is not None else {}
    shared = set.intersection(*(set(t) for t in tables.values()))
    values = sorted(
        k for k in shared if k[0].startswith(PROFILE) and k[1] != CONDITIONAL and (base is None or k in start)
    )
    chosen = sorted(k for k in shared if _is_risk(k, risks))
    if not values or not chosen:
        what, how = ("value profile", "--goal GOAL") if not values else ("risk", "--goal GOAL --risk toxicity")
        raise DataError(f"no {what} is in all checkpoints", where=", ".join(checkpoints),
                        how=[f"measure them alike: valign evaluate CHECKPOINT --data FILE {how}",
                             f"shared: {', '.join(sorted({m for m, _ in shared})) or 'nothing'}"])  # fmt: skip
    about = provenance(checkpoints={name: _origin(r) for name, r in checkpoints.items()},
                       base=_origin(base) if base is not None else None)  # fmt: skip
    rows = [_row(v, r, tables, start, about) for v in values for r in chosen]
    known = [i for i, row in enumerate(rows) if row[1] is not None]
    adjusted = dict(zip(known, stats.benjamini_hochberg([rows[i][1] for i in known]) if known else ()))  # type: ignore[arg-type]
    results, table = [], []
    for i, (result, p) in enumerate(rows):
        said = (f"p = {p:.4g}, {adjusted[i]:.4g} after Benjamini-Hochberg over {len(known)}",) if p is not None else (
            "one of the two does not vary over the checkpoints",)  # fmt: skip
        results.append(result.with_notes(*said))
        table.append({"metric": result.metric, "value": result.value, "p": p,
                      "p_adjusted": float(adjusted[i]) if i in adjusted else None,
                      "linked": i in adjusted and bool(adjusted[i] <= LEVEL)})  # fmt: skip
    data = {"values": [v[0].removeprefix(PROFILE) for v in values], "risks": [f"{m}:{v}" for m, v in chosen],
            "checkpoints": list(checkpoints), "rows": table, "level": LEVEL}  # fmt: skip
    return Section("value_risk", "Value pushes and risks over checkpoints", results,
                   [{"id": "value_risk", "type": "value_risk", "data": data}])  # fmt: skip


Key = tuple[str, str]


def _values(results: Sequence[Result]) -> dict[Key, Result]:
    return {(r.metric, r.variant): r for r in results if r.value is not None}


def _origin(results: Sequence[Result]) -> dict[str, Any]:
    """Who was measured: the subject, and the model's digest where its Results know it."""
    known = next((r for r in results if "model" in r.provenance), None)
    model = known.provenance["model"] if known is not None else {}
    return {"subject": known.subject if known is not None else results[0].subject, "sha256": model.get("sha256")}


def _is_risk(key: Key, risks: Sequence[str]) -> bool:
    metric, variant = key
    if metric.startswith(PROFILE):
        return False
    if not risks:
        return metric.startswith(RISKS)
    for name, _, wanted in (r.partition(":") for r in risks):
        if metric.startswith((name, PREFIX + name)) and wanted in ("", variant):
            return True
    return False


def _row(
    value: Key, risk: Key, tables: Mapping[str, dict[Key, Result]], start: Mapping[Key, Result], about: Mapping[str, Any]
) -> tuple[Result, float | None]:
    zero = float(start[value].value or 0.0) if value in start else 0.0
    pushes = {name: float(t[value].value or 0.0) - zero for name, t in tables.items()}
    rates = {name: _harm(t[risk]) for name, t in tables.items()}
    found = rank_correlation(list(pushes.values()), list(rates.values()))
    interval = (
        Interval(found.low, found.high, 0.95, "fisher") if found.low is not None and found.high is not None else None
    )
    # the standard error that the interval stands for: its half-width in z, at r
    items = tuple(Item(name, name, rates[name], detail={"push": pushes[name]}) for name in tables)
    variant = "spearman" if value[1] in ("mean", "") else f"spearman.{value[1]}"
    result = Result(metric=f"value_risk.{value[0].removeprefix(PROFILE)}.{risk[0]}", variant=f"{variant}.{risk[1]}",
                    subject=f"{len(tables)} checkpoints", level="value", value=found.value, unit="score", direction="target:0",
                    n=found.n, se=(interval.high - interval.low) / 3.92 if interval else None, interval=interval,
                    cluster=Cluster("checkpoint", found.n), items=items, provenance=about)  # fmt: skip
    return replace(
        result, notes=() if found.n >= 20 else (f"only {found.n} checkpoints: the interval is wide",)
    ), found.p


def _harm(result: Result) -> float:
    """The risk as a number that is worse the higher it is."""
    value = float(result.value or 0.0)
    if result.direction.startswith("target:"):
        return abs(value - float(result.direction.removeprefix("target:")))
    return value if result.direction == "down" else -value

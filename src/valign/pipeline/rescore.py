"""A changed goal judges stored outputs again: what flipped, by which part, and which policy is now the better one (G11).

Always true here: outputs are judged as they were stored, nothing is generated; the stored files stay as they are; what is
written goes into a folder of its own and into an append-only log of revisions; what judges said of these outputs before is
not asked again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from valign.engine.run import write_whole
from valign.errors import UsageError, ValignError
from valign.evaluation import statistics as stats
from valign.evaluation.log import RequestLog
from valign.evaluation.metrics.flips import deciding_part, order_flips, standing_flips
from valign.goals.base import Array, Goal
from valign.goals.composite import CompositeGoal, ranks
from valign.goals.diff import differences
from valign.goals.loading import load_goal
from valign.goals.revisions import FILE, append_revision, goal_card
from valign.goals.value import ValueGoal
from valign.pipeline.goals import steering
from valign.pipeline.judges import LOG, judges_logged, judges_of, reasons
from valign.pipeline.spending import accounted
from valign.pipeline.stored import Outputs, joined, with_stored_values

RESCORED = "rescored"  # the folder of revisions, beside the outputs
Parts = Mapping[str, Array]


@dataclass(frozen=True)
class Judged:
    """What one goal says of all outputs.

    goal     None: only the stored scores are known
    scores   per policy, per prompt, (n_responses,); NaN = unscored
    parts    the same for the goal's parts, relative to a neutral response; None where the goal is not known
    neutral  the utility of a response that neither keeps nor breaks anything; None where there is no such point
    why      per policy, group#response -> why a judge gave no verdict
    """

    card: Mapping[str, Any]
    scores: tuple[tuple[Array, ...], ...]
    parts: tuple[tuple[Parts, ...], ...] | None
    neutral: float | None
    goal: Goal | None = None
    why: tuple[Mapping[str, str], ...] = ()

    @cached_property
    def spread(self) -> float:
        """Standard deviation of all scores; 1 where they do not vary: puts the parts of two goals on one scale."""
        every = np.concatenate([np.zeros(0), *(row for policy in self.scores for row in policy)])
        sd = float(np.nanstd(every)) if np.isfinite(every).any() else 0.0
        return sd if sd > 1e-12 else 1.0

    def at(self, policy: int, group: int, response: int) -> dict[str, float]:
        """The parts of one response in units of the spread."""
        if self.parts is None:
            return {}
        row = self.parts[policy][group]
        return {name: float(x[response]) / self.spread for name, x in row.items()}


@dataclass(frozen=True)
class Rescored:
    """What changed. flips: one mapping per flip; policies: per pair of policies, who was better and who is now; cost: of the
    judges, None where nobody judges.
    """

    outputs: tuple[Outputs, ...]
    before: Judged
    after: Judged
    changes: tuple[str, ...]
    flips: tuple[Mapping[str, Any], ...]
    counts: Mapping[str, int]
    policies: tuple[Mapping[str, Any], ...]
    notes: tuple[str, ...] = ()
    cost: Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """JSON values only."""
        return {
            "before": dict(self.before.card), "after": dict(self.after.card), "changes": list(self.changes),
            "counts": dict(self.counts), "by_part": self.by_part, "policies": [dict(p) for p in self.policies],
            "flips": [dict(f) for f in self.flips], "notes": list(self.notes),
        }  # fmt: skip

    @property
    def by_part(self) -> dict[str, int]:
        """How many flips each part decided, most first; "" where no part did."""
        names = [str(f["part"]) for f in self.flips]
        return {n: names.count(n) for n in sorted(set(names), key=lambda n: (-names.count(n), n))}


def old_goal(outputs: Sequence[Outputs], scorers: Any = None) -> Goal | None:
    """The goal that judged the outputs when they were stored; None where it was not stored or needs what is not here."""
    records = [o.record for o in outputs if o.record is not None]
    if len(records) < len(outputs) or len({r["fingerprint"] for r in records}) != 1:
        return None
    try:
        return steering(load_goal(records[0]["goal"], scorers=scorers))  # benchmarks judged none of the outputs
    except ValignError:
        return None


def log_of(outputs: Sequence[Outputs], out: Path | None = None) -> Path:
    """Where judges are logged when outputs are judged again: in `out`, else beside all revisions of the (first) outputs, so
    that a goal which is changed once more asks only what is new.
    """
    return (out or outputs[0].folder / RESCORED) / LOG


def rescore(outputs: Sequence[Outputs], after: Goal, before: Goal | None = None, log: Path | None = None) -> Rescored:
    """Judge stored outputs by `after` and compare with what `before` says of them (None: with the stored scores).

    log   keeps what judges are asked and say (`log_of`), and takes over what they said when the outputs were stored; None:
          nothing is kept
    Raises `ValignError` where the new goal has nothing to judge with.
    """
    if not outputs:
        raise UsageError("there are no outputs to judge", where="RESULTS")
    notes: list[str] = []
    if log is not None and judges_of(before, after):
        _take_over(outputs, log)
    with judges_logged((before, after), log) as judges, accounted([], judges) as used:
        old = _stored(outputs) if before is None else _judged(before, outputs, notes)
        new = _judged(after, outputs, notes)
    orders, counts = _order_flips(outputs, old, new)
    standing = _standing_flips(outputs, old, new, counts)
    if not counts["responses"]:
        notes.append("no response is scored by both goals")
    if old.neutral is None or new.neutral is None:
        notes.append("standing is not compared: a goal is not known, or has no neutral point")
    return Rescored(
        outputs=tuple(outputs),
        before=old,
        after=new,
        changes=tuple(c.text for c in differences(before, after)) if before is not None else (),
        flips=(*orders, *standing),
        counts=counts,
        policies=tuple(_policies(outputs, old, new)),
        notes=tuple(dict.fromkeys(notes)),
        cost=used.to_json() if judges else None,
    )


def _take_over(outputs: Sequence[Outputs], log: Path) -> None:
    """What judges said of these outputs: an evaluation logs it beside them, a comparison one folder above."""
    earlier = [folder / LOG for o in outputs for folder in (o.folder, o.folder.parent)]
    RequestLog(log).merge(*(f for f in dict.fromkeys(earlier) if f.is_file() and f != log))


# ------------------------------------------------------------------------------------------------------- judging


def _stored(outputs: Sequence[Outputs]) -> Judged:
    """The scores as they were stored, of a goal of which only the name may be known."""
    record = next((o.record for o in outputs if o.record is not None), None)
    goal = (record or {}).get("goal", {})
    card = {"id": goal.get("id", "as stored"), "version": goal.get("version", 1), "level": goal.get("level", ""),
            "fingerprint": (record or {}).get("fingerprint", "")}  # fmt: skip
    return Judged(card, tuple(o.scores for o in outputs), None, None)


def _judged(goal: Goal, outputs: Sequence[Outputs], notes: list[str]) -> Judged:
    if len(outputs) > 1 and ranks(goal):
        return _ranked(goal, outputs, notes)
    known = [with_stored_values(goal, o) for o in outputs]
    if isinstance(goal, CompositeGoal) and goal.standard is None:
        groups = [g for o in outputs for g in o.answered]
        merged = with_stored_values(goal, outputs[0]) if len(outputs) == 1 else goal
        assert isinstance(merged, CompositeGoal)
        standard = merged.standardized(groups).standard
        known = [replace(g, standard=standard) for g in known if isinstance(g, CompositeGoal)]
        notes.append(f"goal {goal.id}: its parts are standardized on these outputs")
    scores, parts, why = [], [], []
    neutral = _neutral_parts(goal)
    for o, judge in zip(outputs, known, strict=True):
        explained = judge.explain(o.answered)
        scores.append(tuple(o.spread_out([np.asarray(sum(row.values()), dtype=np.float64) for row in explained])))
        parts.append(_parts(o, explained, neutral or {}))
        why.append(o.at_own_places(reasons(judge)))
    total = None if neutral is None else sum(neutral.values())
    return Judged(goal_card(known[0]), tuple(scores), tuple(parts), total, known[0], tuple(why))


def _ranked(goal: Goal, outputs: Sequence[Outputs], notes: list[str]) -> Judged:
    """What a goal that ranks says: the responses of all policies to a prompt are ranked together."""
    whole, places = joined(outputs)
    judged = _judged(goal, [whole], notes)
    notes.append(f"goal {goal.id} ranks: the responses of all policies to a prompt are ranked together")
    (scores,), (parts,) = judged.scores, judged.parts or ((),)
    return replace(
        judged,
        scores=tuple(tuple(scores[at][rows] for at, rows in policy) for policy in places),
        parts=tuple(
            tuple({name: x[rows] for name, x in parts[at].items()} for at, rows in policy) for policy in places
        ),
        why=tuple(_own_reasons(judged.why[0], o, policy) for o, policy in zip(outputs, places, strict=True)),
    )


def _own_reasons(why: Mapping[str, str], outputs: Outputs, places: Sequence[tuple[int, slice]]) -> dict[str, str]:
    """Why responses of one policy have no score, by their own numbers instead of those among all policies' responses."""
    return {
        f"{group.id}#{k - rows.start}": why[name]
        for group, (_, rows) in zip(outputs.groups, places, strict=True)
        for k in range(rows.start, rows.stop)
        if (name := f"{group.id}#{k}") in why
    }


def _parts(outputs: Outputs, explained: Sequence[Parts], neutral: Mapping[str, float]) -> tuple[Parts, ...]:
    """Per group, (n_responses,) of every part that the goal named for any group, relative to a neutral response."""
    names = list(dict.fromkeys(name for row in explained for name in row))
    sizes = [len(group.responses) for group in outputs.answered]
    columns = {}
    for name in names:
        rows = [row.get(name, np.full(n, np.nan)) - neutral.get(name, 0.0) for row, n in zip(explained, sizes, strict=True)]
        columns[name] = outputs.spread_out(rows)
    return tuple({name: column[g] for name, column in columns.items()} for g in range(len(outputs.groups)))


def _neutral_parts(goal: Goal) -> dict[str, float] | None:
    """The parts of a response that neither keeps nor breaks anything: no values shown, no principle touched, the average of
    standardized parts, half of the checks. None for a preference and for the other rules of social choice, whose scales have no
    such point.
    """
    if isinstance(goal, ValueGoal):
        return dict(zip(goal.theory.ids, goal.parts_of(np.zeros(len(goal.t))).tolist(), strict=True))
    if isinstance(goal, CompositeGoal):
        return {} if goal.conflict != "social" or goal.social in ("mean", "maxmin") else None
    return {"principle": {}, "instruction": {"checks": 0.5}}.get(goal.level)


# --------------------------------------------------------------------------------------------------------- flips


def _order_flips(
    outputs: Sequence[Outputs], old: Judged, new: Judged
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Pairs of responses to one prompt, of one policy or of two, whose order is reversed."""
    places = _places(outputs)
    ids = list(places)
    before, after = ([np.array([j.scores[p][g][k] for p, g, k in places[i]]) for i in ids] for j in (old, new))
    orders = order_flips(before, after)
    flips = []
    for flip in orders.flips:
        up, down = places[ids[flip.group]][flip.better], places[ids[flip.group]][flip.worse]
        gap_before, gap_after = _gap(old, up, down), _gap(new, up, down)
        flips.append(
            {"kind": "order", "id": ids[flip.group], "was_better": _name(outputs, up), "was_worse": _name(outputs, down),
             "before": [_number(old, up), _number(old, down)], "after": [_number(new, up), _number(new, down)],
             "part": deciding_part(gap_before, gap_after, -1.0)}
        )  # fmt: skip
    scored = sum(int((~np.isnan(a) & ~np.isnan(b)).sum()) for a, b in zip(before, after, strict=True))
    counts = {"prompts": len(ids), "responses": scored, "pairs": len(orders.pairs), "order_flips": len(orders.flips),
              "newly_even": orders.newly_even, "newly_ordered": orders.newly_ordered}  # fmt: skip
    return flips, counts


def _standing_flips(
    outputs: Sequence[Outputs], old: Judged, new: Judged, counts: dict[str, int]
) -> list[dict[str, Any]]:
    """Responses on the good side of neutral that are now on the bad one, or the reverse. Completes `counts`."""
    counts |= {"standing": 0, "standing_flips": 0}
    if old.neutral is None or new.neutral is None:
        return []
    flips = []
    for p, o in enumerate(outputs):
        for g, group in enumerate(o.groups):
            turned = standing_flips(old.scores[p][g] - old.neutral, new.scores[p][g] - new.neutral)
            counts["standing"] += int((~np.isnan(turned)).sum())
            for k in np.flatnonzero(turned == 1).tolist():
                place = (p, g, k)
                toward = float(new.scores[p][g][k] - new.neutral)
                flips.append(
                    {"kind": "standing", "id": group.id, **_name(outputs, place), "now": "good" if toward > 0 else "bad",
                     "before": _number(old, place), "after": _number(new, place),
                     "part": deciding_part(old.at(*place), new.at(*place), toward)}
                )  # fmt: skip
    counts["standing_flips"] = len(flips)
    return flips


def _policies(outputs: Sequence[Outputs], old: Judged, new: Judged) -> list[dict[str, Any]]:
    """Per pair of policies: the mean difference of utility per prompt, with interval, before and after."""
    means = [
        [{o.groups[g].id: float(np.nanmean(row)) for g, row in enumerate(j.scores[p]) if np.isfinite(row).any()}
         for p, o in enumerate(outputs)]
        for j in (old, new)
    ]  # fmt: skip
    out = []
    for a, b in combinations(range(len(outputs)), 2):
        shared = sorted(set.intersection(*(set(m[p]) for m in means for p in (a, b))))
        if not shared:
            continue
        clusters = _clusters(outputs[a], shared)
        sides = [_difference([m[a][i] for i in shared], [m[b][i] for i in shared], clusters) for m in means]
        flipped = sides[0]["difference"] * sides[1]["difference"] < 0
        sure = all(s["low"] is not None and s["low"] * s["high"] > 0 for s in sides)
        out.append({"one": outputs[a].subject, "other": outputs[b].subject, "n": len(shared), "before": sides[0],
                    "after": sides[1], "flipped": flipped, "sure": flipped and sure})  # fmt: skip
    return out


def _difference(one: Sequence[float], other: Sequence[float], clusters: Sequence[str]) -> dict[str, Any]:
    found = stats.paired_t(np.array(one), np.array(other), clusters)
    return {"difference": round(found.value, 6), "low": found.low, "high": found.high}


def _clusters(outputs: Outputs, ids: Sequence[str]) -> list[str]:
    of = {g.id: g.cluster or g.id for g in outputs.groups}
    return [of[i] for i in ids]


Place = tuple[int, int, int]  # policy, group, response


def _places(outputs: Sequence[Outputs]) -> dict[str, list[Place]]:
    """All responses to a prompt, by its id: those of every policy."""
    out: dict[str, list[Place]] = {}
    for p, o in enumerate(outputs):
        for g, group in enumerate(o.groups):
            out.setdefault(group.id, []).extend((p, g, k) for k in range(len(group.responses)))
    return out


def _gap(judged: Judged, up: Place, down: Place) -> dict[str, float]:
    one, other = judged.at(*up), judged.at(*down)
    return {name: one.get(name, 0.0) - other.get(name, 0.0) for name in (*one, *other)}


def _name(outputs: Sequence[Outputs], place: Place) -> dict[str, Any]:
    return {"policy": outputs[place[0]].subject, "response": place[2]}


def _number(judged: Judged, place: Place) -> float:
    return round(float(judged.scores[place[0]][place[1]][place[2]]), 6)


# ------------------------------------------------------------------------------------------------------- writing


def write_rescored(found: Rescored, out: Path | None = None) -> dict[str, Path]:
    """The new scores, results and flips in a folder of their own, and a line in each folder's log of revisions.

    out   the folder; default: rescored/FINGERPRINT beside the (first) stored outputs
    """
    from valign.pipeline.evaluate import write_evaluation
    from valign.pipeline.rescored_results import measured_again

    root = out or found.outputs[0].folder / RESCORED / str(found.after.card["fingerprint"])[:12]
    several = len(found.outputs) > 1
    paths = {"flips": write_whole(root / "flips.jsonl", "".join(json.dumps(f, ensure_ascii=False) + "\n" for f in found.flips))}
    for p, o in enumerate(found.outputs):
        folder = root / str(p + 1) if several else root
        written = write_evaluation(folder, measured_again(found, p))
        paths |= {f"{name} {o.subject}" if several else name: path for name, path in written.items()}
    for o in found.outputs:
        summary = {"counts": dict(found.counts), "by_part": found.by_part, "policies": [x.subject for x in found.outputs]}
        entry = {"before": dict(found.before.card), "after": dict(found.after.card), "changes": list(found.changes),
                 "outputs": _digest(found.outputs), **summary}  # fmt: skip
        append_revision(o.folder / FILE, entry)
        paths[f"revisions {o.subject}" if several else "revisions"] = o.folder / FILE
    return paths


def _digest(outputs: Sequence[Outputs]) -> str:
    from valign.pipeline.request import digest

    return digest([g for o in outputs for g in o.groups])

"""The headline in plain words, made from numbers only.

A change is called a change when its paired interval leaves 0, and not otherwise. A method that does not help,
or that hurts, is named as plainly as one that does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from valign.report.roles import Role
from valign.report.subject import Row
from valign.report.units import interval, number


def goal_name(goal: Mapping[str, Any]) -> str:
    """The goal in a few words: its title, else what its target says, else its id."""
    if goal.get("title"):
        return str(goal["title"])
    target = goal.get("target")
    if isinstance(target, Mapping):
        names = {d["id"]: d.get("name") or d["id"] for d in goal.get("dimensions") or ()}
        named = [
            f"{names.get(k, k)} {number(float(v), 'plain', signed=True)}" for k, v in target.items() if v
        ]
        if named:
            return ", ".join(named)
    id = goal.get("id") if goal.get("id") != "none" else None
    return str(goal.get("text") or id or "the goal")


def is_no_goal(goal: Mapping[str, Any]) -> bool:
    """Whether what stands in a goal's place says that there was none."""
    return goal.get("id") in (None, "none") and not any(goal.get(k) for k in ("title", "text", "target"))


def change(row: Mapping[str, Any], role: Role) -> str:
    """ "−0.148 (95 % interval −0.190 to −0.106, n = 200)"."""
    ends = row.get("interval")
    level = f"{100 * ends.get('level', 0.95):.0f} %" if ends else ""
    inside = f"{level} interval {interval(ends, row['unit'], signed=True)}, " if ends else "no interval, "
    return f"{number(row['value'], row['unit'], signed=True)} ({inside}n = {row['n']})"


def verdict_text(verdict: str, row: Mapping[str, Any] | None, role: Role) -> str:
    """One sentence on one policy against the base."""
    match verdict:
        case "better" | "worse":
            word = "better" if verdict == "better" else "worse"
            return f"{word}: {role.title} changed by {change(row or {}, role)}"
        case "none" if row and row.get("conclusion") == "no difference":
            margin = number(row["margin"], row["unit"])
            return f"no difference that matters (less than {margin} either way): {change(row, role)}"
        case "none":
            found = (
                f"; a change of {number(row['mde'], row['unit'])} would have been found in 4 of 5 such tests"
                if (row and row.get("mde") is not None)
                else ""
            )
            return f"no measurable change: {change(row or {}, role)}{found}"
    return "not compared item by item with the base, so nothing is said about its effect"


def headline(
    kind: str, subjects: Sequence[Row], goal: Mapping[str, Any], role: Role, facts: Mapping[str, Any]
) -> Row:
    """{"lead", "more": [sentences], "best": id or None}.

    facts   {"values": {id: Result JSON of the primary}, "differences": {id: difference or None}, "tax": {id:
            Result},
             "costs": {id: cost}, "rivals": {id: difference best minus other}, "answers": {id: Result of V}}
    """
    if kind == "model":
        return {"lead": _alone(subjects[0], goal, role, facts), "more": [], "best": None}
    base = next(s for s in subjects if s["base"])
    tried = [s for s in subjects if not s["base"]]
    best = best_of(tried, role, facts["differences"])
    more = _others(tried, best, facts["differences"], role) if len(tried) > 1 else []
    more += [] if role.id == "V" else _answers(base, tried, facts.get("answers", {}))
    if best is None:
        return {"lead": _nothing(base, tried, goal, role, facts), "more": more, "best": None}
    lead = [_moved(best, tried, base, goal, role, facts), _cost(facts["costs"].get(best["id"]) or {})]
    about = [_rival(best, tried, role, facts), _tax(best, facts["tax"].get(best["id"]))]
    return {
        "lead": " ".join(x for x in lead if x),
        "more": [x for x in about if x] + more,
        "best": best["id"],
    }


def best_of(tried: Sequence[Row], role: Role, differences: Mapping[str, Row | None]) -> Row | None:
    """The policy with the largest improvement among those that improved beyond noise."""
    better = [s for s in tried if (s["verdict"] or {}).get("kind") == "better"]
    sign = 1 if role.better == "down" else -1
    return min(better, key=lambda s: sign * float((differences[s["id"]] or {})["value"]), default=None)


def _alone(subject: Row, goal: Mapping[str, Any], role: Role, facts: Mapping[str, Any]) -> str:
    row = facts["values"].get(subject["id"])
    aimless = is_no_goal(goal)
    who = subject["label"] if aimless else f"{subject['label']}, measured against “{goal_name(goal)}”"
    if row is None or row.get("value") is None:
        if aimless:
            return f"{who}: the numbers below were measured, {role.title} was not."
        return f"{who}: {role.title} is unscored."
    ends = row.get("interval")
    where = f" (95 % interval {interval(ends, row['unit'])})" if ends else " (no interval)"
    meaning = role.meaning[0].upper() + role.meaning[1:]
    return (
        f"{who}: {role.title} is "
        f"{number(row['value'], row['unit'])}{where}, n = {row['n']}. {meaning}."
    )


def _moved(
    best: Row, tried: Sequence[Row], base: Row, goal: Mapping[str, Any], role: Role, facts: Mapping[str, Any]
) -> str:
    row, values = facts["differences"][best["id"]], facts["values"]
    verb = "fell" if role.better == "down" else "rose"
    before, after = (number(values[s["id"]]["value"], values[s["id"]]["unit"]) for s in (base, best))
    who = f"{best['label']} moved {base['label']} toward “{goal_name(goal)}”"
    if (methods := _methods(tried)) > 1:
        aim = f"align {base['label']} with “{goal_name(goal)}”"
        who = f"Of {methods} methods to {aim}, {best['label']} moved it furthest"
    return f"{who}: {role.title} {verb} from {before} to {after}, a change of {change(row, role)}."


def _cost(cost: Mapping[str, Any]) -> str:
    parts = []
    if cost.get("seconds") is not None:
        parts.append(number(cost["seconds"], "seconds"))
    tokens = [
        f"{number(cost[k], 'count')} tokens {word}"
        for k, word in (("tokens_trained", "trained"), ("tokens_generated", "generated"))
        if cost.get(k)
    ]
    parts += tokens
    if cost.get("peak_memory_bytes"):
        parts.append(f"{number(cost['peak_memory_bytes'], 'bytes')} of memory at most")
    return f"It cost {_and(parts)}." if parts else ""


def _rival(best: Row, tried: Sequence[Row], role: Role, facts: Mapping[str, Any]) -> str:
    others = [s for s in tried if s is not best and facts["rivals"].get(s["id"]) is not None]
    if not others:
        return ""
    from valign.report.paired import verdict

    close = [s["label"] for s in others if verdict(facts["rivals"][s["id"]], role) != "better"]
    if close:
        return f"Its lead over {_and(close)} is within noise."
    return "It is ahead of every other method item by item, beyond noise."


def _tax(best: Row, row: Mapping[str, Any] | None) -> str:
    if row is None or row.get("value") is None:
        return f"What {best['label']} cost in ability was not measured."
    ends, value = row.get("interval"), number(row["value"], row["unit"])
    if not ends:
        return f"Its alignment tax is {value}, without an interval."
    where = f"{value}, interval {interval(ends, row['unit'])}"
    if ends["low"] <= 0 <= ends["high"]:
        return f"No measurable loss of ability (tax {where})."
    return f"It lost ability (tax {where})." if row["value"] > 0 else f"It gained ability (tax {where})."


def _others(tried: Sequence[Row], best: Row | None, differences: Mapping[str, Any], role: Role) -> list[str]:
    def names(kind: str) -> list[str]:
        return [s["label"] for s in tried if s is not best and s["verdict"]["kind"] == kind]

    out = []
    if x := names("better"):
        out.append(f"{_and(x)} also improved it.")
    if (x := names("none")) and best is not None:
        out.append(f"No measurable change from {_and(x)}.")
    if x := names("worse"):
        out.append(f"{_and(x)} made it worse.")
    if x := names("unknown"):
        out.append(f"Not compared item by item, so nothing is said about the effect of {_and(x)}.")
    return out


def _answers(base: Row, tried: Sequence[Row], v: Mapping[str, Any]) -> list[str]:
    """Which policy's own answers lie closest to the goal. Nothing where V was not measured."""

    def shown(row: Mapping[str, Any]) -> str:
        ends = row.get("interval")
        return number(row["value"], row["unit"]) + (f" ({interval(ends, row['unit'])})" if ends else "")

    known = {s["id"]: v[s["id"]] for s in (base, *tried) if (v.get(s["id"]) or {}).get("value") is not None}
    rivals = [s for s in tried if s["id"] in known]
    if base["id"] not in known or not rivals:
        return []
    top, start = max(rivals, key=lambda s: float(known[s["id"]]["value"])), known[base["id"]]
    row = known[top["id"]]
    if row["value"] <= start["value"]:
        return [f"In its own answers no policy comes closer to the goal than {base['label']}: V {shown(start)}."]
    apart = start.get("interval") and row.get("interval") and row["interval"]["low"] > start["interval"]["high"]
    noise = "" if apart else "; the intervals overlap"
    both = f"V {shown(row)}, {base['label']} {shown(start)}"
    return [f"In its own answers {top['label']} comes closest to the goal: {both}{noise}."]


def _nothing(
    base: Row, tried: Sequence[Row], goal: Mapping[str, Any], role: Role, facts: Mapping[str, Any]
) -> str:
    name = f"“{goal_name(goal)}”"
    known = {s["id"]: r for s in tried if (r := facts["differences"][s["id"]]) and r.get("value") is not None}
    known = {k: r for k, r in known.items() if r.get("interval")}
    if not known:
        who = _and([s["label"] for s in tried])
        return (
            f"No paired comparison of {who} with {base['label']} exists: no effect on {name} can be claimed."
        )
    sign = 1 if role.better == "down" else -1
    top = min((s for s in tried if s["id"] in known), key=lambda s: sign * known[s["id"]]["value"])
    moved = f"{role.title} changed by {change(known[top['id']], role)}"
    if len(tried) > 1:
        best = f"With the best, {top['label']}, {moved}."
        count = _methods(tried)
        who = f"None of {count} methods" if count > 1 else f"None of {len(tried)} training runs"
        return f"{who} moved {base['label']} measurably toward {name}. {best}"
    if top["verdict"]["kind"] == "worse":
        return f"{top['label']} moved {base['label']} away from {name}: {moved}."
    return f"{top['label']} did not move {base['label']} measurably toward {name}: {moved}."


def _methods(tried: Sequence[Row]) -> int:
    """How many methods there are: runs that differ in their seed alone are one."""
    return len({s.get("group") or s["id"] for s in tried})


def _and(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1] if parts else ""

"""The report's JSON (evaluation notes 11.4), from what the policies bring. Pure: no clock, no files, no
model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from valign.errors import require
from valign.evaluation.metrics.reliability import SPLIT_HALF
from valign.evaluation.record import MANY_UNSCORED
from valign.evaluation.result import Result
from valign.evaluation.seeds import MIN_SEEDS
from valign.report import sections, seeds, values
from valign.report.paired import adjust, difference, dominated, standing, verdict
from valign.report.roles import ROLES, Role, assign, is_baseline, primary_role
from valign.report.subject import Row, SubjectReport, as_json, card
from valign.report.words import best_of, goal_name, headline, verdict_text

__all__ = ["SubjectReport", "method_report"]
SCHEMA = 1


@dataclass(frozen=True)
class Facts:
    """What every section draws from; made once.

    results      {subject: its Results as JSON}              roles   {subject: {role id: Result}}
    baselines    Results of chance, silence, length ..., that came with the subjects'
    differences  {subject: primary minus the base's}         rivals  {subject: the best's primary minus this
                 one's}
    methods      differences to the base over training seeds, of methods with several runs
    others       {role id: {subject: difference to the base}} of the headline numbers beside the primary
    """

    subjects: Sequence[SubjectReport]
    cards: Sequence[Row]
    base: str | None
    best: str | None
    role: Role
    goal: Mapping[str, Any]
    results: Mapping[str, list[Row]]
    baselines: Sequence[Row]
    roles: Mapping[str, dict[str, Row]]
    differences: Mapping[str, Row | None]
    rivals: Mapping[str, Row | None]
    axes: Sequence[str]
    texts: Sequence[Row]
    methods: Sequence[Row] = ()
    others: Mapping[str, Mapping[str, Row | None]] = field(default_factory=dict)


def method_report(
    subjects: Sequence[SubjectReport],
    *,
    goal: Mapping[str, Any],
    primary: str = "order",
    ledger: Sequence[Mapping[str, Any]] = (),
    provenance: Mapping[str, Any] | None = None,
    warnings: Sequence[str] = (),
    frontier: Mapping[str, Any] | None = None,
    baselines: Sequence[Result | Mapping[str, Any]] = (),
    statistics: Mapping[str, Any] | None = None,
    margin: float | None = None,
    texts: Sequence[Mapping[str, Any]] = (),
    extra: Sequence[Mapping[str, Any]] = (),
    instrument: Mapping[str, str] | None = None,
    title: str = "",
    created: str = "",
) -> Row:
    """A report on one policy ("model"), two ("pair") or more ("methods").

    goal        Goal.to_json(), with "title" and "text" in words; read: id, level, theory, target, weights,
                dimensions
    primary     order, components, profile, distribution or structure; fixed before the run
    ledger      the data used: {"file", "sha256", "licence", "n", "use"}
    frontier    reference curve of reward against KL: {"label", "points": [[kl in nats, reward], ...]}
    baselines   Results of chance, length, majority ..., shown beside the models; subject "baseline:<name>"
    statistics  {"metric/variant": statistic} for `evaluation.compare` of primaries that are no mean of their
                items
    margin      largest change of the primary that does not matter, fixed before the run; None: none is, and "no
                difference" is never said
    texts       what the data say of items: {"id", "prompt": text or turns, "responses": [{"text", "label"}]}, the responses
                that were given and scored, and what each is called; or {"id", "of": id before it, "chosen", "rejected":
                places of its responses}
    extra       sections of instruments, drawn before the costs; their shape stands in `report.instruments`
    instrument  {"id", "lead"} of a page that is one instrument's own: its lead says what was asked, instead of a headline
    created     ISO date; given, because this function reads no clock
    With several policies exactly one is the base. Raises `ValignError` for none, two bases, or repeated ids.
    """
    goal = {**goal, "target": values.target(goal)} if goal.get("target") else goal
    facts = _facts(subjects, goal, primary, statistics or {}, margin, texts)
    kind = {1: "model", 2: "pair"}.get(len(subjects), "methods")
    said = _said(kind, facts, goal, subjects)
    if instrument is not None:
        said["lead"] = instrument["lead"]
    used = {id(r): True for roles in facts.roles.values() for r in roles.values()}
    report: Row = {
        "schema": SCHEMA,
        "kind": kind,
        "title": title or goal_name(goal),
        "created": created,
        **({"instrument": instrument["id"]} if instrument is not None else {}),
        "subjects": list(facts.cards),
        "goal": dict(goal),
        "primary": primary,
        "sentences": said,
        "headline": [r for roles in facts.roles.values() for r in roles.values()],
        "sections": sections.build(
            facts,
            {k: [r for r in rows if id(r) not in used] for k, rows in facts.results.items()},
            frontier,
            [*facts.baselines, *(as_json(b) for b in baselines)],
        ),
        "items": {"path": None, "sha256": None},
        "cost": {s.id: dict(s.cost) for s in subjects},
        "warnings": [*warnings, *_warnings(facts)],
        "provenance": dict(provenance or {}),
        "ledger": [dict(row) for row in ledger],
    }
    sections.insert(report["sections"], extra)
    owners = {id(r): k for k, rows in facts.results.items() for r in rows}
    sections.index_results(report, owners)
    return report


def _said(kind: str, facts: Facts, goal: Mapping[str, Any], subjects: Sequence[SubjectReport]) -> Row:
    """The sentences at the head of the page."""
    said = headline(
        kind,
        facts.cards,
        goal,
        facts.role,
        {
            "values": {k: v[facts.role.id] for k, v in facts.roles.items() if facts.role.id in v},
            "differences": facts.differences,
            "rivals": facts.rivals,
            "tax": {k: v.get("T") for k, v in facts.roles.items()},
            "costs": {s.id: s.cost for s in subjects},
            "answers": {k: v["V"] for k, v in facts.roles.items() if "V" in v},
        },
    )
    said["more"] += [seeds.sentence(row, facts.role) for row in facts.methods]
    return said


def _facts(
    subjects: Sequence[SubjectReport],
    goal: Mapping[str, Any],
    primary: str,
    statistics: Mapping[str, Any],
    margin: float | None,
    texts: Sequence[Mapping[str, Any]],
) -> Facts:
    role = primary_role(primary)
    require(len(subjects) > 0, "subjects", 0, "at least one policy")
    ids = [s.id for s in subjects]
    require(len(set(ids)) == len(ids), "subjects", ids, "policies of different ids")
    bases = [s.id for s in subjects if s.base]
    require(len(bases) <= 1, "base", bases, "one policy at most")
    base = bases[0] if bases else ids[0] if len(ids) > 1 else None
    require(len(ids) > 1 or base is None or base == ids[0], "base", base, "one of the subjects")
    base = base if len(ids) > 1 else None
    cards = [{**card(s, i), "base": s.id == base} for i, s in enumerate(subjects)]
    found = {s.id: [as_json(r) for r in s.results] for s in subjects}
    results = {k: [r for r in rows if not is_baseline(r)] for k, rows in found.items()}
    lines = {
        (r["metric"], r["variant"], r["subject"]): r
        for rows in found.values()
        for r in rows
        if is_baseline(r)
    }
    roles = assign(results, goal.get("level"), primary)
    given = {s.id: [as_json(r) for r in s.differences] for s in subjects}
    differences = (
        {i: _pair(i, base, role, roles, given[i], statistics, margin) for i in ids if i != base} if base else {}
    )
    adjust(list(differences.values()))
    start = roles[base].get(role.id) if base else None
    statistic = statistics.get(f"{start['metric']}/{start['variant']}") if start else None
    methods = seeds.pooled(subjects, roles, role, base, statistic, margin)
    if methods:  # the planned comparisons are those of methods: a run among seeds is no comparison of its own
        among = {run for row in methods for run in row["runs"]}
        adjust([*methods, *(row for i, row in differences.items() if i not in among)])
    for c in cards:
        if base and not c["base"]:
            row = differences[c["id"]]
            kind = verdict(row, role)
            c["verdict"] = {"kind": kind, "text": verdict_text(kind, row, role)}
    best = best_of([c for c in cards if not c["base"]], role, differences) if base else None
    top = best["id"] if best else None
    rivals = (
        {i: _pair(top, i, role, roles, given[top], statistics, margin) for i in ids if i not in (base, top)}
        if top
        else {}
    )
    axes = _mark_dominated(cards, roles, base)
    return Facts(
        subjects,
        cards,
        base,
        top,
        role,
        goal,
        results,
        list(lines.values()),
        roles,
        differences,
        rivals,
        axes,
        [dict(t) for t in texts],
        methods,
        _beside(base, role, roles, given, statistics) if base else {},
    )


def _beside(
    base: str, role: Role, roles: Mapping[str, dict[str, Row]], given: Mapping[str, Sequence[Row]], statistics: Mapping[str, Any]
) -> dict[str, dict[str, Row | None]]:
    """Differences of M, V and the reward where they are not the primary, which no one planned: one family together."""
    found: dict[str, dict[str, Row | None]] = {}
    for id in ("M", "V", "reward"):
        if id != role.id:
            rows = {i: _pair(i, base, ROLES[id], roles, given[i], statistics) for i in roles if i != base}
            found |= {id: rows} if any(rows.values()) else {}
    adjust([row for rows in found.values() for row in rows.values()], "benjamini_hochberg")
    return found


def _pair(
    one: str | None,
    other: str | None,
    role: Role,
    roles: Mapping[str, dict[str, Row]],
    given: Sequence[Row],
    statistics: Mapping[str, Any],
    margin: float | None = None,
) -> Row | None:
    if one is None or other is None:
        return None
    a, b = roles[one].get(role.id), roles[other].get(role.id)
    if a is None or b is None:
        return None
    return difference(a, b, given, statistics.get(f"{a['metric']}/{a['variant']}"), margin)


def _mark_dominated(
    cards: Sequence[Row],
    roles: Mapping[str, dict[str, Row]],
    base: str | None,
) -> list[str]:
    """Writes `dominated_by` into the cards; returns the axes that could be used."""
    if base is None:
        return []
    axes, beaten = dominated({id: standing(mine, base=id == base) for id, mine in roles.items()})
    if not {"M", "1 - V", "reward"} & set(axes):
        return []  # on cost alone, doing nothing would win
    for c in cards:
        c["dominated_by"] = beaten[c["id"]] if not c["base"] else []
    return axes


def _warnings(facts: Facts) -> list[str]:
    """What a reader must know before the numbers."""
    out = []
    few = seeds.few_seeds(facts.subjects)
    if len(facts.subjects) > 2 and few:
        out.append(
            f"Fewer than {MIN_SEEDS} training seeds ({', '.join(few)}): "
            "the order of methods may be luck of the seed."
        )
    for s in facts.subjects:
        for role, r in facts.roles[s.id].items():
            left_out, n = sum((r.get("n_unscored") or {}).values()), r.get("n", 0)
            if left_out > MANY_UNSCORED * (n + left_out):
                reasons = ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in r["n_unscored"].items())
                out.append(f"{s.name}, {role}: {left_out} of {n + left_out} items are unscored ({reasons}).")
    said: dict[str, list[str]] = {}
    for s in facts.subjects:
        unread = [values.warning_in(r) for r in facts.results[s.id] if r["metric"] == SPLIT_HALF]
        for note in dict.fromkeys([*s.notes, *filter(None, unread)]):
            said.setdefault(note, []).append(s.name)
    return list(dict.fromkeys([*out, *(f"{', '.join(names)}: {note}" for note, names in said.items())]))

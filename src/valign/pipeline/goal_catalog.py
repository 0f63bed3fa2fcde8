"""The goals that come with valign, as rows and in full: principle sets, value theories, targets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from valign.errors import unknown
from valign.goals import load_principles, load_theory, named_target, named_targets, principle_sets, theories
from valign.goals.dimensions import Theory
from valign.goals.principle import PrincipleSet
from valign.goals.targets import Target

GOALS = ("preference", "instruction")


def catalog(kind: str | None, kinds: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """Rows of id, size, title and source, by kind; of one kind only where it is named."""
    if kind is not None and kind not in kinds:
        raise unknown("kind", kind, kinds, where="KIND")
    rows: dict[str, Callable[[], list[dict[str, Any]]]] = {
        "sets": lambda: [_set_row(load_principles(name)) for name in principle_sets()],
        "theories": lambda: [_theory_row(load_theory(name)) for name in theories()],
        "targets": lambda: [_target_row(t) for t in named_targets().values()],
    }
    return {name: rows[name]() for name in kinds if kind in (None, name)}


def entries(name: str) -> list[dict[str, Any]]:
    """Everything of that name: a set, a theory, a target (more than one where they share it), else a goal or its file."""
    found = []
    if name in principle_sets() or name.startswith("opo:"):
        found.append(_set_entry(load_principles(name)))
    if name in theories():
        found.append(_theory_entry(load_theory(name)))
    if name in named_targets():
        found.append(_target_entry(named_target(name)))
    return found or [_other(name)]


def _other(name: str) -> dict[str, Any]:
    """A goal by another name or a file of a goal, a theory or a set."""
    from valign.goals.files import read_yaml
    from valign.goals.survey import is_survey, survey_target
    from valign.pipeline.goal_check import examine
    from valign.pipeline.goals import make_goal

    if is_survey(name):
        return _target_entry(survey_target(name))
    path = Path(name)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        content = read_yaml(path)
        if "level" not in content and ("dimensions" in content or "parts" in content):
            return _theory_entry(load_theory(path))
        if "level" not in content and "principles" in content:
            return _set_entry(load_principles(path))
    elif ":" not in name and name not in GOALS:
        raise unknown("goal", name, {*principle_sets(), *theories(), *named_targets(), *GOALS})
    return {"kind": "goal", **examine(make_goal(name))}


def _set_row(s: PrincipleSet) -> dict[str, Any]:
    return {"id": s.id, "size": f"{len(s.principles)} principles", "title": s.title or s.source, "source": s.source}


def _theory_row(t: Theory) -> dict[str, Any]:
    return {"id": t.id, "size": f"{len(t.dimensions)} {t.structure}", "title": t.title, "source": t.source, "target": t.target}


def _target_row(t: Target) -> dict[str, Any]:
    return {"id": t.id, "size": t.theory, "title": t.source, "source": t.source}


def _set_entry(s: PrincipleSet) -> dict[str, Any]:
    return {
        "id": s.id, "kind": "principle set", "title": s.title, "version": s.version, "source": s.source,
        "license_of_source": s.license_of_source, "wording": s.wording, "note": s.note,
        "principles": [{"id": p.id, "text": p.words(), "negation": f"not: {p.negation}" if p.negation else "",
                        "theme": f"[{p.theme}]", "counts": f"priority {p.priority}, weight {p.weight:g}"}
                       for p in s.principles],
        "questions": [{"id": id, "text": text} for id, text in s.questions],
    }  # fmt: skip


def _theory_entry(t: Theory) -> dict[str, Any]:
    return {
        "id": t.id, "kind": "value theory", "title": t.title, "version": t.version, "source": t.source, "wording": t.wording,
        "structure": t.structure, "target": t.target, "range": f"{t.low:g} to {t.high:g}",
        "order": " ".join(t.order), "note": t.note,
        "dimensions": [{"id": d.id, "name": d.name, "definition": d.definition,
                        "poles": f"{d.virtue} / {d.vice}" if d.vice else "", "groups": f"[{', '.join(d.groups)}]"}
                       for d in t.dimensions],
        "opposites": [f"{' '.join(a)} against {' '.join(b)}" for a, b in t.opposites],
        "opposed_groups": [f"{a} against {b}" for a, b in t.opposed_groups],
        "named_angles": [f"{name}: {degrees:g} degrees" for name, degrees in t.named_angles.items()],
        "maps": [f"to {to}: {', '.join(f'{a} {b}' for a, b in pairs.items())}" for to, pairs in t.maps.items()],
        "instruments": [f"{i.id}: {i.title}, answers {i.low:g} to {i.high:g}" for i in t.instruments],
    }  # fmt: skip


def _target_entry(t: Target) -> dict[str, Any]:
    names = {d.id: d.name for d in load_theory(t.theory).dimensions}
    values = [{"dimension": d, "name": names[d], "value": f"{x:+.4f}"} for d, x in t.values.items()]
    return {"id": t.id, "kind": "target", "theory": t.theory, "source": t.source, "licence": t.licence, "values": values}

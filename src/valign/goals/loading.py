"""From a name, a file or a mapping to a Goal, and back.

Always true here: files are data and never run code; a key that is not known is an error that names file and
field; scorers are objects that the caller passes in, files only name them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import yaml

from valign.errors import DataError, UsageError, unknown
from valign.goals.base import LEVELS, Goal, Level, PrincipleScorer, ResponseScorer, ValueScorer
from valign.goals.benchmark import KEY, BenchmarkGoal, read_components
from valign.goals.composite_file import read_composite
from valign.goals.files import Reader, plain, read_yaml
from valign.goals.instruction import CREDITS, Credit, InstructionGoal
from valign.goals.joining import EPSILON
from valign.goals.preference import FEEDBACK, WORDS, Feedback, PreferenceGoal
from valign.goals.principle import (
    PRINCIPLE_RULES,
    Principle,
    PrincipleGoal,
    PrincipleRule,
    load_principles,
    principle_sets,
    read_principle,
)
from valign.goals.ranking import ranking_target
from valign.goals.survey import is_survey, survey_target
from valign.goals.svo import direction
from valign.goals.targets import named_target, named_targets
from valign.goals.theory import Theory, load_theory, theories
from valign.goals.value import DEFAULT_DISTANCE, DISTANCES, Distance, ValueGoal

OPTION = {"value": "evaluator", "principle": "scorer", "preference": "reward", "instruction": "checker"}
NEEDS = {
    "value": (ValueScorer, "a ValueScorer (id, theory, values)"),
    "principle": (PrincipleScorer, "a PrincipleScorer (id, verdicts)"),
    "preference": (ResponseScorer, "a Reward (id, score, fingerprint)"),
    "instruction": (None, "a function of checks and text"),
}
DEFAULT = "default"
ANGLE = "angle"  # the key of a target that is an angle in degrees
MAKE = "make"  # among the scorers: the function that makes one from its description in a goal file
DO_THE_TASK = "do exactly what the prompt asks, correctly and in the form that was asked for"
REWARD_MODEL = "reward_model"  # the key of a preference goal, and of the scorer that makes a reward from a folder


def load_goal(spec: str | Path | Mapping[str, Any], *, scorers: Any = None, **target: float) -> Goal:
    """A goal by name, from a YAML file, or from a mapping of the same form.

    spec      "schwartz10" with a target (`benevolence=1, power=-1`), a built-in target ("uk"), one from a file of
              answers ("survey:FILE"), a principle set ("core"), "preference", "instruction", the path of a .yaml
              file, or a mapping such as `goal.to_json()`
    scorers   None (labels only); one scorer; or a mapping from level ("value", "principle", "preference",
              "instruction") or from a name used in the file to a scorer; "reward_model" to a function from the
              folder that a preference goal names to a Reward
    Raises `UsageError` or `DataError` naming file and field.
    """
    if isinstance(spec, Mapping):
        content, where = dict(spec), f"goal {spec.get('id', '')}".strip()
    else:
        content, where = _by_name(str(spec), target)
        target = {}
    if target:
        if content.get("level") != "value" or "target" in content:
            raise UsageError(f"{', '.join(target)}: only a value theory takes a target by name", where=where)
        content["target"] = target
    return _goal(Reader(content, where), _Scorers(scorers, _levels(content)))


def goal_names() -> tuple[str, ...]:
    """Every name that `load_goal` knows without a file."""
    return tuple(dict.fromkeys((*theories(), *named_targets(), *principle_sets(), "preference", "instruction")))


def to_yaml(goal: Goal) -> str:
    """The text of a file from which `load_goal` makes the same goal."""
    return yaml.safe_dump(plain(goal.to_json()), sort_keys=False, allow_unicode=True, width=110)


def _by_name(name: str, target: Mapping[str, float]) -> tuple[dict[str, Any], str]:
    """(content, where it comes from) of a goal that was named."""
    if name in theories() and (target or name not in principle_sets()):
        content: dict[str, Any] = {"level": "value", "theory": name}
        return content | ({"target": dict(target)} if target else {}), name
    path = Path(name)
    if target:
        raise UsageError(
            f"{', '.join(target)}: only a value theory takes a target by name",
            where=name,
            how=f"known theories: {', '.join(theories())}",
        )
    if name in named_targets() or is_survey(name):
        found = survey_target(name) if is_survey(name) else named_target(name)
        return {"level": "value", "theory": found.theory, "target": name}, name
    if name in principle_sets():
        return {"level": "principle", "set": name}, name
    if name in ("preference", "instruction"):
        return {"level": name}, name
    if path.suffix in (".yaml", ".yml") or path.is_file():
        return read_yaml(path), str(path)
    raise unknown("goal", name, goal_names())


def _goal(r: Reader, scorers: _Scorers) -> Goal:
    """One goal from a mapping; every key is read or refused."""
    level = r.choice("level", (*LEVELS, "composite"))
    make = {
        "value": _value,
        "principle": _principle,
        "preference": _preference,
        "instruction": _instruction,
        "composite": _composite,
    }[level]
    if KEY in r.content and level != "composite":
        make = _benchmarks
    common = {"version": r.integer("version", default=1), "notes": r.text("notes", default="")}
    with r.placed():
        goal = make(r, scorers, common)
    r.done()
    return goal


def _value(r: Reader, scorers: _Scorers, common: dict[str, Any]) -> Goal:
    theory_spec = r.raw("theory")
    with r.placed("theory"):
        theory = load_theory(theory_spec if isinstance(theory_spec, Mapping) else str(theory_spec))
    target, target_id = _target(r, theory)
    weights = r.raw("weights", "named")
    evaluator, scoring = scorers.take(r, "value", theory=theory.id)
    distance = cast(Distance, r.choice("distance", DISTANCES, default=DEFAULT_DISTANCE[theory.target]))
    id = r.text("id", default="")
    r.done()  # a misspelt "target" is named, not missed
    return ValueGoal(
        theory=theory,
        target=target,
        weights=weights,
        distance=distance,
        evaluator=evaluator,
        scoring=scoring,
        id=id,
        target_id=target_id,
        **common,
    )


def _target(r: Reader, theory: Theory) -> tuple[dict[str, float], str]:
    """(numbers by dimension, name of the target or ""): a name, numbers, a ranking, or an angle, as the theory has it."""
    spec = r.raw("target", default={})
    if theory.target == "angle" and (isinstance(spec, str) or (isinstance(spec, Mapping) and ANGLE in spec)):
        return _angle(r, spec, theory)
    if isinstance(spec, str):
        with r.placed("target"):
            named = survey_target(spec) if is_survey(spec) else named_target(spec)
        if named.theory != theory.id:
            r.fail("target", f"{spec} belongs to theory {named.theory}, not {theory.id}")
        return dict(named.values), named.id
    if isinstance(spec, list):
        if theory.target != "ranking":
            r.fail("target", f"a ranking is a target of a ranked theory; {theory.id} takes numbers by dimension")
        names = r.texts("target")
        if double := {n for n in names if names.count(n) > 1}:
            r.fail("target", f"{sorted(double)[0]!r} is ranked twice")
        return ranking_target(names), ""
    numbers = r.number_map("target", default={})
    for name in numbers:
        with r.placed(f"target.{name}"):
            theory.index(name)
    return numbers, ""


def _angle(r: Reader, spec: Any, theory: Theory) -> tuple[dict[str, float], str]:
    """(cos θ, sin θ) by the theory's two dimensions, from degrees or from the name of an angle."""
    if isinstance(spec, str):
        if spec not in theory.named_angles:
            raise unknown("target", spec, theory.named_angles, where=r.place("target"))
        degrees = theory.named_angles[spec]
    else:
        degrees = Reader({ANGLE: spec[ANGLE]}, r.place("target")).number(ANGLE)
        if extra := [k for k in spec if k != ANGLE]:
            r.fail("target", f"write an angle or numbers by dimension, not both (see {extra[0]})")
    return dict(zip(theory.ids, direction(degrees), strict=True)), ""


def _principle(r: Reader, scorers: _Scorers, common: dict[str, Any]) -> Goal:
    principles: list[Principle] = []
    name = r.text("set", default="")
    if name:
        with r.placed("set"):
            from_set = load_principles(name)
        only = r.texts("only", default=[p.id for p in from_set.principles])
        with r.placed("only"):
            principles += from_set.select(only)
    for part in r.parts("principles", default=[]):
        with part.placed():
            principles.append(read_principle(part))
    if not principles:
        r.fail("principles", f"is missing: write principles, or set: one of {', '.join(principle_sets())}")
    id = r.text("id", default=name or "principles")
    scorer, scoring = scorers.take(r, "principle")
    rule = cast(PrincipleRule, r.choice("conflict", PRINCIPLE_RULES, default="weighted"))
    epsilon = r.number("epsilon", default=EPSILON)
    return PrincipleGoal(tuple(principles), scorer, id=id, scoring=scoring, conflict=rule, epsilon=epsilon, **common)


def _preference(r: Reader, scorers: _Scorers, common: dict[str, Any]) -> Goal:
    folder, text = r.text(REWARD_MODEL, default=""), r.text("text", default="")
    reward, scoring = (
        (scorers.from_folder(r, folder), None) if folder else scorers.take(r, "preference", words=text or f"be {WORDS}")
    )
    return PreferenceGoal(
        reward=reward,
        scoring=scoring,
        reward_model=str(Path(folder).expanduser().absolute()) if folder else "",
        feedback=cast(Feedback, r.choice("feedback", FEEDBACK, default="auto")),
        aspect=r.text("aspect", default=""),
        split=r.text("split", default=""),
        text=text,
        id=r.text("id", default="preference"),
        **common,
    )


def _instruction(r: Reader, scorers: _Scorers, common: dict[str, Any]) -> Goal:
    checker, _ = scorers.take(r, "instruction")
    judge, scoring = scorers.described(r, "judge", "instruction", words=DO_THE_TASK)
    tasks = r.raw("tasks", default=None)
    if tasks is not None and not isinstance(tasks, Mapping):
        r.fail("tasks", f"must be a mapping with a collection, not {tasks!r}")
    return InstructionGoal(
        checker=checker,
        judge=judge,
        scoring=scoring,
        tasks=tasks,
        credit=cast(Credit, r.choice("credit", CREDITS, default="passed")),
        id=r.text("id", default="instruction"),
        **common,
    )


def _benchmarks(r: Reader, scorers: _Scorers, common: dict[str, Any]) -> Goal:
    """A goal of any level that is only given by benchmarks."""
    return BenchmarkGoal(
        read_components(r), cast(Level, r.text("level")), id=r.text("id", default="benchmarks"),
        text=r.text("text", default=""), **common,
    )  # fmt: skip


def _composite(r: Reader, scorers: _Scorers, common: dict[str, Any]) -> Goal:
    def read_goal(spec: Any, where: str) -> Goal:
        if isinstance(spec, str):  # the name of a built-in goal; a part never opens another file
            if spec not in goal_names():
                raise DataError(f"{spec!r} is no built-in goal", where=where)
            spec, _ = _by_name(spec, {})
        made = _goal(Reader(spec, where), scorers)
        if isinstance(made, BenchmarkGoal):
            raise DataError("a goal of benchmarks judges no response: it cannot be a part", where=where)
        return made

    return read_composite(r, common, read_goal)


# ---------------------------------------------------------------------------------------------------- scorers


class _Scorers:
    """The scorers a caller passed, handed to the goals that need them.

    levels   the levels of all goals in the file: one scorer cannot serve two of them
    """

    def __init__(self, scorers: Any, levels: Sequence[str]) -> None:
        self.by_name: Mapping[str, Any] = {}
        self.one = None
        if isinstance(scorers, Mapping):
            self.by_name = scorers
        elif scorers is not None:
            if len(set(levels)) > 1:
                found = tuple(dict.fromkeys(levels))
                named = ", ".join(f'"{level}": ...' for level in found)
                raise UsageError(
                    f"parts at levels {', '.join(found)} need different scorers; one was given",
                    where="scorers",
                    how=f"pass a mapping: scorers={{{named}}}",
                )
            self.one = scorers

    def take(self, r: Reader, level: str, **about: str) -> tuple[Any, Mapping[str, Any] | None]:
        """(scorer, its description in the file or None) of a goal: the one its file describes or names, else the one
        for its level. None when none was passed.
        """
        option = OPTION[level]
        if isinstance(r.content.get(option), Mapping):
            return self.described(r, option, level, **about)
        name = r.text(option, default=DEFAULT)
        found = self.one if self.one is not None else self.by_name.get(level if name == DEFAULT else name)
        if found is None:
            if name != DEFAULT and (self.by_name or self.one is not None):
                raise unknown("scorer", name, self.by_name, where=f"{r.where}: {option}")
            if name != DEFAULT:
                raise UsageError(
                    f"the goal names the scorer {name!r}, but none was passed", where=f"{r.where}: {option}"
                )
            return None, None
        protocol, words = NEEDS[level]
        fits = callable(found) if protocol is None else isinstance(found, protocol)
        if not fits:
            raise UsageError(
                f"a goal at level {level} needs {words}, not {type(found).__name__}",
                where=f"{r.where}: {option}",
            )
        return found, None

    def described(self, r: Reader, option: str, level: str, **about: str) -> tuple[Any, Mapping[str, Any] | None]:
        """(scorer, description) of a key that holds a mapping; (None, None) where it is absent."""
        spec = r.raw(option, default=None)
        if spec is None:
            return None, None
        if not isinstance(spec, Mapping):
            r.fail(option, f"must be a mapping with a kind, not {spec!r}")
        if self.one is not None:
            return self.one, spec
        make = self.by_name.get(MAKE)
        if make is None and self.by_name:
            raise UsageError("the goal describes a scorer, and nothing was passed that makes it", where=f"{r.where}: {option}")
        return (make(level, spec, f"{r.where}: {option}", **about) if make else None), spec

    def from_folder(self, r: Reader, folder: str) -> Any:
        """The reward model in a folder; where one scorer was passed, that one; None when none was passed."""
        if self.one is not None or not self.by_name:
            return self.one
        make = self.by_name.get(REWARD_MODEL)
        if make is None:
            raise UsageError("the goal names a reward model, and nothing was passed that loads it",
                             where=f"{r.where}: {REWARD_MODEL}")  # fmt: skip
        return make(folder)


def _levels(content: Mapping[str, Any]) -> list[str]:
    """Levels of all goals in a mapping, parts included; malformed ones are left to the reader."""
    if content.get("level") != "composite":
        return [str(content.get("level"))]
    parts, costs = content.get("parts"), content.get("constraints")
    found = [*(parts if isinstance(parts, list) else []), *(costs if isinstance(costs, list) else [])]
    out: list[str] = []
    for part in found:
        goal = part.get("goal", {"level": "principle"} if "cost" in part else None) if isinstance(part, Mapping) else None
        if isinstance(goal, str) and goal in goal_names():
            goal, _ = _by_name(goal, {}) if goal not in theories() else ({"level": "value"}, "")
        out += _levels(goal) if isinstance(goal, Mapping) else []
    return out

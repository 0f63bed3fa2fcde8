"""A value profile in the terminal, for a reader who knows neither the theory nor the method. Nothing is printed here."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from valign.evaluation.measure.inventory import Profile
from valign.evaluation.measure.pair_profiles import CLAIM, UNREADABLE, Shift
from valign.evaluation.measure.profile import warning_of
from valign.evaluation.metrics.reliability import ENOUGH, SPLIT_HALF
from valign.evaluation.result import Result
from valign.goals.theory import Theory
from valign.report.text import _t

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

WIDE = 110  # columns from which definitions stand beside the bars
BAR = 10  # characters from the middle to either end
GROUPS = {"self_transcendence": "caring for others (benevolence, universalism)",
          "self_enhancement": "success and status (achievement, power)",
          "openness": "openness to change (self-direction, stimulation, hedonism)",
          "conservation": "keeping things safe (security, conformity, tradition)"}  # fmt: skip


def profile_text(profile: Profile, theory: Theory | None, goal: str) -> list[RenderableType]:
    """Title, warning, table of values, and one line each on trust, habits, circle and nearness.

    theory  gives names and definitions; None: the ids alone
    """
    answers, found = profile.sheet.answers, {r.metric: r for r in profile.results}
    subject = profile.results[0].subject
    inventory, people = answers.inventory, len(answers.respondents)
    how = {"likelihood": "by the probability of the answer letters", "generation": "by the letters it writes"}[answers.form]
    kind = "personas" if answers.respondents[0].persona else "option orders, half of them reversed"
    head = f"What {subject} values: {len(inventory)} {inventory.id} rated {how}, in {people} {kind}"
    out: list[RenderableType] = [_t(head, "bold")]
    if profile.warning:
        out.append(_t(f"! {profile.warning}", "bold yellow"))
    out += [_values(profile, found, theory), _t("")]
    out += [_t(line) for line in [*_trust(profile, found), *_habits(found), *_shape(found), *_near(found, goal)]]
    return out


def free_text(subject: str, results: Sequence[Result], theory: Theory, goal: str) -> list[RenderableType]:
    """The profile of free answers to situations, as the value evaluator reads it."""
    found = {r.metric: r for r in results if r.variant == "mean"}
    trust = next((r for r in results if r.metric == SPLIT_HALF), None)
    warning = warning_of([trust]) if trust is not None else ""
    style = "dim" if warning else ""
    table = _table("value", "mean [95 %]", "against · for", *_what())
    rows = [(d, found[f"value.profile.{d.id}"]) for d in theory.dimensions if f"value.profile.{d.id}" in found]
    for d, r in sorted(rows, key=lambda row: -(row[1].value or 0)):
        table.add_row(_t(d.name, style), _t(_number(r), style), _t(_bar(r.value, 1.0), style), *_what(d.definition))
    near = {r.variant: r for r in results if r.metric == "value.V"}
    lines = _halves_and_retest(trust, None, "prompts", bool(warning)) if trust is not None else []
    targets = _targets({r.metric: r for r in results if r.variant == "profile"})
    lines += targets
    if "profile" in near and not targets:
        silence = f"; a text that shows no value has {near['neutral'].value:.3f}" if "neutral" in near else ""
        lines += [f"Nearness to {goal}: V {_number(near['profile'])} (1 equal{silence})"]
    title = f"What {subject} shows in free answers: -1 speaks against a value, 0 does not touch it, 1 speaks for it"
    said = [_t(f"! {warning}", "bold yellow")] if warning else []
    return [_t(title, "bold"), *said, table, *map(_t, lines)]


def shifts_text(a: str, b: str, form: str, shifts: Sequence[Shift], theory: Theory | None) -> list[RenderableType]:
    """Where a differs from b, largest first; unclaimed differences are shown as such."""
    table = _table("value", "difference [95 %]", "adjusted p", "")
    for s in shifts:
        mark = f"{a} higher" if (s.result.value or 0) > 0 else f"{b} higher"
        said = _t(mark, "bold") if s.differs else _t("no difference found", "dim")
        table.add_row(_t(_name(s.dimension, theory)), _t(_number(s.result)), _t(f"{s.adjusted:.3f}"), said)
    claimed = sum(s.differs for s in shifts)
    note = (f"{claimed} of {len(shifts)} values differ ({form}; paired, Benjamini-Hochberg over all, below {CLAIM:g}; "
            "a difference must hold over respondents and over items)")  # fmt: skip
    warned = [_t(f"! {UNREADABLE}", "bold yellow")] if any(UNREADABLE in s.result.notes for s in shifts) else []
    return [_t(f"Where they differ: {a} minus {b}", "bold"), *warned, table, _t(note)]


def _what(definition: str | None = None) -> list[Any]:
    """The last column, its head without an argument: what a value is. Narrow terminals have no room for it; the report
    says it in any case."""
    if shutil.get_terminal_size().columns < WIDE:
        return []
    return ["what it is"] if definition is None else [_t(definition, "dim")]


def _values(profile: Profile, found: dict[str, Result], theory: Theory | None) -> RenderableType:
    """Sorted from the value held highest; centred, so that a general liking of high marks does not count."""
    table = _table("value", "score [95 %]", "less · more important", *_what())
    rows = [(d, found[f"value.centred.{d}"]) for d in profile.sheet.dimensions]
    widest = max((abs(r.value or 0.0) for _, r in rows), default=0.0)
    scale = next(x for x in (0.25, 0.5, 1.0, 2.0, 5.0) if x >= widest or x == 5.0)
    definitions = {d.id: d.definition for d in theory.dimensions} if theory else {}
    style = "dim" if profile.warning else ""
    for d, r in sorted(rows, key=lambda row: -(row[1].value or 0.0)):
        table.add_row(_t(_name(d, theory), style), _t(_number(r, signed=True), style), _t(_bar(r.value, scale), style),
                      *_what(definitions.get(d, "")))  # fmt: skip
    table.caption = (f"scale points above or below the model's own mean rating (0); the whole scale has "
                     f"{2 * profile.sheet.half:g}; the bar ends at ±{scale:g}")  # fmt: skip
    table.caption_justify = "left"
    return table


def _trust(profile: Profile, found: dict[str, Result]) -> list[str]:
    spread, again = found["value.reliability.spread_p"], None
    if "value.reliability.retest" in found:
        again = (found["value.reliability.retest"], found["value.reliability.retest_items"])
    out = _halves_and_retest(found[SPLIT_HALF], again, "items", bool(profile.warning))
    if spread.value is not None:
        p = f"p = {spread.value:.3f} (below 0.05 is needed)"
        out.append(f"  Items dealt out to the values at random would differ as much with {p}.")
    alphas = {k.rpartition(".")[2]: r.value for k, r in found.items() if k.startswith("value.reliability.alpha.")}
    if alphas:
        out.append("  Cronbach's alpha over persons: " + ", ".join(f"{k} {_plain(v)}" for k, v in alphas.items()))
    return out


def _halves_and_retest(half: Result, again: tuple[Result, Result] | None, of: str, unreliable: bool) -> list[str]:
    """again: re-test of the values and of single items; None where nothing was asked in other words."""
    words = "NOT reliable" if unreliable else "reliable enough to read"
    out = [f"Trust: {words}. Two halves of the {of} agree {_number(half)} (1 fully, 0 not at all; {ENOUGH} is needed)."]
    if again is None:
        return [*out, "  Not asked again in other words: that part of the check is left out."]
    values, single = map(_number, again)
    return [*out, f"  Asked again in other words: values agree {values} ({ENOUGH} is needed), single items {single}."]


def _habits(found: dict[str, Result]) -> list[str]:
    parts = []
    if "value.bias.acquiescence" in found:
        said = _number(found["value.bias.acquiescence"], signed=True)
        parts.append(f"yes-saying {said} (0 none, 1 always yes, -1 always no)")
    place = found["value.bias.position"]
    if place.value is not None and place.anchors.worst:
        parts.append(f"pull of the letter {_number(place)} (0 none, {place.anchors.worst:.2f} always the same letter)")
    parts.append(f"same option for nearly all items in {_percent(found['value.bias.straight_lining'])} of the runs")
    if "value.letter_mass" in found:
        parts.append(f"the letters hold {_percent(found['value.letter_mass'])} of its probability")
    if "value.answered" in found:
        parts.append(f"{_percent(found['value.answered'])} of the answers could be read, "
                     f"{_percent(found['value.refused'])} refused")  # fmt: skip
    return ["Habits: " + "; ".join(parts) + "."]


def _shape(found: dict[str, Result]) -> list[str]:
    out = []
    if "value.circle.r2" in found:
        r2 = found["value.circle.r2"]
        detail = next((f"; {n.partition(';')[0]}" for n in r2.notes if n.startswith("peak")), "")
        out.append(f"Circle of values: R² {_number(r2)} (values in random order: 0.22 on average){detail}.")
    if "value.circle.structure" in found:
        r = found["value.circle.structure"]
        out.append(f"  Correlations between values follow the circle with r = {_number(r)}; {r.notes[0]}.")
    groups = [f"{words} {_number(found[f'value.group.{k}'], signed=True)}" for k, words in GROUPS.items()
              if f"value.group.{k}" in found]  # fmt: skip
    return [*out, *(["Groups: " + "; ".join(groups) + "."] if groups else [])]


def _near(found: dict[str, Result], goal: str) -> list[str]:
    if "value.V" not in found:
        return []
    if told := _targets(found):
        return told
    silence, shape = _plain(found["value.V_neutral"].value), _number(found["value.structure_match"])
    return [
        f"Nearness to {goal}: V {_number(found['value.V'])} (1 equal; saying nothing has {silence}).",
        f"  Against saying nothing V_c {_number(found['value.V_c'], signed=True)} (1 equal, 0 no better than silence); "
        f"the order of the values alone {shape} (0.5 unrelated, 1 the same).",
    ]


def _targets(found: dict[str, Result]) -> list[str]:
    """One line for each named target, the nearest by V_c first; none where one target was asked for."""
    names = [m.removeprefix("value.V.") for m in found if m.startswith("value.V.")]
    if not names:
        return []
    wide = max(map(len, names))
    rows = sorted(((found[f"value.V.{n}"], found[f"value.V_c.{n}"], n) for n in names), key=lambda r: -(r[1].value or 0.0))
    head = "Nearness to named targets: V (1 equal), V_c (0 as near as saying nothing):"
    return [head, *(f"  {n:<{wide}}  V {_number(v)}  V_c {_number(c, signed=True)}" for v, c, n in rows)]


def _table(*heads: str) -> Table:
    """Names, numbers and bars stay whole; the last column folds."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for head in heads:
        table.add_column(_t(head), overflow="fold", no_wrap=head is not heads[-1])
    return table


def _name(dimension: str, theory: Theory | None) -> str:
    names = {d.id: d.name for d in theory.dimensions} if theory else {}
    return names.get(dimension, dimension)


def _bar(value: float | None, scale: float) -> str:
    """A bar from the middle: left for less, right for more."""
    if value is None:
        return ""
    n = min(BAR, round(abs(value) / scale * BAR))
    left, right = ("█" * n, "") if value < 0 else ("", "█" * n)
    return f"{left:>{BAR}}|{right:<{BAR}}"


def _number(r: Result, signed: bool = False) -> str:
    if r.value is None:
        return "undefined"
    form = "+.2f" if signed else ".2f"
    ends = f" [{r.interval.low:{form}}, {r.interval.high:{form}}]" if r.interval is not None else ""
    return f"{r.value:{form}}{ends}"


def _plain(x: float | None) -> str:
    return "undefined" if x is None else f"{x:.2f}"


def _percent(r: Result) -> str:
    return "–" if r.value is None else f"{100 * r.value:.0f} %"

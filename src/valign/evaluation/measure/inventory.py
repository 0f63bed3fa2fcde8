"""What a policy's answers to an inventory say: profile, nearness to a target, circle, answer habits, reliability (5.1-5.7).

Always true here: the cluster is the simulated respondent, likelihood and generation have different variant names, and
a profile never stands without its reliability. Values are on two scales: `value.profile.*` in [-1, 1] as every
other profile ((rating - middle) / half), `value.centred.*` in scale points minus the respondent's mean rating (MRAT).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from valign.evaluation.aggregate import summarize
from valign.evaluation.measure.administer import Answers
from valign.evaluation.measure.habits import foundation_results, habit_results
from valign.evaluation.measure.profile import ValueTarget, corrected, mean_values, nearness
from valign.evaluation.measure.sheet import Array, Sheet, sheet
from valign.evaluation.metrics import circle, reliability
from valign.evaluation.metrics.questionnaire import HIGHER_ORDER
from valign.evaluation.result import Anchors, Item, Result
from valign.goals import distance

MANY = 30  # respondents from which correlations between values can be looked at, evaluation notes 5.6
FEW_PERSONS = 10  # with fewer different persons Cronbach's alpha is not computed
RETEST_ITEMS = "item by item: r of the items' means with those of their paraphrases, within each keying"


@dataclass(frozen=True)
class Profile:
    """Results of one policy, whether they can be read, and the sheets they rest on."""

    results: tuple[Result, ...]
    verdict: reliability.Verdict
    sheet: Sheet
    again: Sheet | None = None

    @property
    def warning(self) -> str:
        """One sentence for the reader; "" for a reliable profile."""
        return self.verdict.warning


def inventory_profile(
    answers: Answers,
    again: Answers | None = None,
    *,
    goal: ValueTarget | None = None,
    subject: str,
    about: Mapping[str, Any],
    quality: bool = True,
) -> Profile:
    """Every Result of an inventory.

    again    the same respondents' answers to the paraphrases, for the re-test
    goal     adds V, V_c and the match of structure where its theory has the inventory's dimensions
    quality  leave out respondents whom the questionnaire's rule refuses
    """
    order = tuple(goal.theory.ids) if goal is not None else ()
    one = sheet(answers, order, quality=quality)
    two = sheet(again, order, quality=quality) if again is not None else None
    common: dict[str, Any] = {
        "variant": f"{answers.inventory.id}_{answers.form}", "subject": subject, "level": "value",
        "cluster_unit": "respondent", "provenance": about,
    }  # fmt: skip
    goal = goal if goal is not None and one.dimensions == order else None
    found = _reliability(one, two, common)
    half, p = found[0], found[1].value
    retest = next((r.value for r in found if r.metric == "value.reliability.retest"), None)
    verdict = reliability.verdict(half.value, retest, 1.0 if p is None else p, asked_again=two is not None)
    results = [*_profile(one, goal, common), *_groups(one, common), *_circle(one, common)]
    if goal is not None:
        results = [*_nearness(one, goal, common), *results]
    results += [*found, *_alpha(one, common), *habit_results(one, common), *foundation_results(one, common)]
    profile = Profile(tuple(results), verdict, one, two)
    if not profile.warning:
        return profile
    warned = [r.with_notes(profile.warning) if k == 0 or r is half else r for k, r in enumerate(results)]
    return replace(profile, results=tuple(warned))


# ------------------------------------------------------------------------------------------------ the profile


def _profile(one: Sheet, goal: ValueTarget | None, common: Mapping[str, Any]) -> list[Result]:
    """Per dimension the place in [-1, 1], and the centred score."""
    unit = (one.scores - one.middle) / one.half
    centred = one.scores - one.mean_rating[:, None]
    out = []
    for k, name in enumerate(one.dimensions):
        t = goal.t[k] if goal is not None else 0.0
        level = 0.0 if goal is None else float(goal.t[k] - goal.t.mean()) * one.half
        out += [
            summarize(one.item_scores(unit, k), metric=f"value.profile.{name}", unit="score",
                      direction=f"target:{t:g}", anchors=Anchors(best=float(t)), **common),
            summarize(one.item_scores(centred, k), metric=f"value.centred.{name}", unit="score",
                      direction=f"target:{level:g}", anchors=Anchors(best=level), **common),
        ]  # fmt: skip
    return out


def _groups(one: Sheet, common: Mapping[str, Any]) -> list[Result]:
    """Higher-order values: means of centred values, for Schwartz's ten."""
    if set(one.dimensions) != set(circle.POSITIONS):
        return []
    centred = one.values - one.mean_rating[:, None]
    return [
        summarize(
            one.respondent_items(centred[:, [one.dimensions.index(v) for v in values]].mean(1)),
            metric=f"value.group.{name}", unit="score", direction="target:0", anchors=Anchors(), **common,
        )
        for name, values in HIGHER_ORDER.items()
    ]  # fmt: skip


def _nearness(one: Sheet, goal: ValueTarget, common: Mapping[str, Any]) -> list[Result]:
    """V on the mean profile, V_c, the V of silence, and the match of the profile's shape with the target's."""
    values = (one.values - one.middle) / one.half
    silence = distance.neutral_alignment(goal.t, goal.w)
    items = one.respondent_items(np.asarray(distance.alignment(values, goal.t, goal.w)), {"values": values})
    chosen = np.flatnonzero(goal.w > 0)
    target = {"t": [float(x) for x in goal.t], "w": [float(x) for x in goal.w]}
    common = {**common, "provenance": {**common["provenance"], "target": target}}

    def shape(found: Sequence[Item], weights: Array) -> Array:
        mean = mean_values(found, weights)[:, chosen]
        return (1 + reliability.correlation(mean, np.broadcast_to(goal.t[chosen], mean.shape))) / 2

    anchors, half = Anchors(1.0, 0.0, silence), Anchors(1.0, 0.0, 0.5)
    about = {k: common[k] for k in ("variant", "level", "provenance")}
    return [
        summarize(items, metric="value.V", anchors=anchors, statistic=nearness(goal.t, goal.w), **common),
        summarize(items, metric="value.V_c", unit="score", anchors=Anchors(best=1.0, chance=0.0),
                  statistic=corrected(goal.t, goal.w), **common),
        summarize(items, metric="value.structure_match", anchors=half, statistic=shape, **common),
        Result(metric="value.V_neutral", subject="baseline: shows no value", value=silence, unit="share", direction="up",
               anchors=anchors, scaled=1 - silence, **about),
    ]  # fmt: skip


# ------------------------------------------------------------------------------------------------- the circle


def _circle(one: Sheet, common: Mapping[str, Any]) -> list[Result]:
    """R² of the profile on the circle with its null; for many respondents the structure of their correlations."""
    if set(one.dimensions) != set(circle.POSITIONS):
        return []
    theta = circle.angles(one.dimensions)
    centred = one.values - one.mean_rating[:, None]
    fitted = np.nan_to_num(circle.fits(centred, theta))  # a flat respondent fits nothing
    items = one.respondent_items(fitted, {"values": centred})
    mean = centred[np.isfinite(centred).all(1)].sum(0) / max(1, int(np.isfinite(centred).all(1).sum()))
    notes = []
    if np.ptp(mean) > 1e-9:
        fit = circle.sinusoid(dict(zip(one.dimensions, mean, strict=True)))
        peak = f"peak at {fit.peak_degrees:.0f} degrees ({nearest_value(fit.peak_degrees)})"
        null = f"ten exchangeable values have R² {fit.null_r2:.3f} on average"
        notes.append(f"{peak}, amplitude {fit.amplitude:.3f} scale points; {null}")
    out = [
        summarize(items, metric="value.circle.r2", anchors=Anchors(1.0, 0.0, 2 / 9), notes=notes,
                  statistic=lambda found, w: circle.fits(mean_values(found, w), theta), **common),
    ]  # fmt: skip
    table = centred[np.isfinite(centred).all(1)]
    if len(table) >= MANY and (table.std(0) > 1e-9).all():
        p = circle.structure_p(table, theta)
        note = f"permutation of the value labels: p = {p:.4f} (2000 draws); {len(table)} respondents"
        out.append(summarize(items, metric="value.circle.structure", unit="score", anchors=Anchors(1.0, -1.0, 0.0),
                             statistic=lambda found, w: _structures(found, w, theta), notes=[note], **common))  # fmt: skip
    return out


def _structures(items: Sequence[Item], weights: Array, theta: Array) -> Array:
    """(b,) `circle.structure` of the respondents under (b, n) weights."""
    table = np.array([i.detail["values"] for i in items], float)
    w = weights / weights.sum(1, keepdims=True)
    centred = table[None] - (w @ table)[:, None, :]
    covariance = np.einsum("bn,bnk,bnl->bkl", w, centred, centred, optimize=True)
    deviation = np.sqrt(np.einsum("bkk->bk", covariance))
    pairs = np.triu_indices(len(theta), 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        observed = (covariance / (deviation[:, :, None] * deviation[:, None, :]))[:, pairs[0], pairs[1]]
    expected = np.cos(theta[:, None] - theta[None, :])[pairs]
    return reliability.correlation(observed, np.broadcast_to(expected, observed.shape))


def nearest_value(degrees: float) -> str:
    """The value whose wedge holds an angle."""
    return min(circle.POSITIONS, key=lambda v: abs((degrees - 40 * circle.POSITIONS[v] + 180) % 360 - 180))


# ------------------------------------------------------------------------------------------------ reliability


def _reliability(one: Sheet, two: Sheet | None, common: Mapping[str, Any]) -> list[Result]:
    """Split-half, the test of the spread, and the re-test under paraphrase (by values and by items)."""
    answered = ~np.isnan(one.scores).all(0)
    index, signs = one.index[answered], one.signs[answered]
    whole = len(set(index.tolist())) == len(one.dimensions) > 1  # every dimension has an item that was answered
    scores = one.scores[:, answered]
    good = {"direction": "up", "anchors": Anchors(1.0, None, 0.0), "unit": "score", **common}
    means = column_means(scores)
    p = reliability.spread_p(means, index, signs) if whole else None
    about = {k: v for k, v in common.items() if k != "cluster_unit"}
    split = _split_half(one, scores, index, signs, good) if whole else _nothing(reliability.SPLIT_HALF, good)
    out = [
        split,
        Result(metric="value.reliability.spread_p", value=p, unit="share", direction="down", n=int(answered.sum()),
               notes=("p of: the values differ no more than items dealt out to them at random (2000 draws)",), **about),
    ]  # fmt: skip
    if two is None:
        return out
    first, other = (within(column_means(s.scores), one.signs) for s in (one, two))
    values = {"values": one.values, "again": two.values}
    items = [
        Item(one.answers.inventory.items[int(c)].id, one.dimensions[one.index[k]], float(a),
             detail={"again": float(b)})
        for k, (c, a, b) in enumerate(zip(one.counted, first, other, strict=True))
        if np.isfinite(a) and np.isfinite(b)
    ]  # fmt: skip
    per_item = {**good, "cluster_unit": "value"}
    return [
        *out,
        summarize(one.respondent_items(np.zeros(len(one.values)), values), metric="value.reliability.retest",
                  statistic=_retest, **good),
        summarize(items, metric="value.reliability.retest_items", statistic=_retest_items, notes=[RETEST_ITEMS],
                  **per_item),
    ]  # fmt: skip


def _split_half(one: Sheet, scores: Array, index: Any, signs: Any, good: Mapping[str, Any]) -> Result:
    tables = reliability.halves(index.tolist(), signs.tolist())
    filled, there = np.nan_to_num(scores), (~np.isnan(scores)).astype(float)
    rows = {who.id: r for r, who in enumerate(one.answers.respondents)}

    def statistic(found: Sequence[Item], weights: Array) -> Array:
        chosen = [rows[i.id] for i in found]
        with np.errstate(invalid="ignore"):
            return reliability.split_half(weights @ filled[chosen] / (weights @ there[chosen]), tables)

    note = f"{reliability.SPLITS} random splits of each value's items, stepped up to the whole inventory"
    items = one.respondent_items(one.mean_rating)
    return summarize(items, metric=reliability.SPLIT_HALF, statistic=statistic, jackknife=True, notes=[note], **good)


def _nothing(metric: str, common: Mapping[str, Any]) -> Result:
    return summarize([], metric=metric, **common)


def _retest(items: Sequence[Item], weights: Array) -> Array:
    """(b,) r over the dimensions between the mean profile and that of the paraphrases."""
    share = weights / weights.sum(1, keepdims=True)
    a, b = (share @ np.array([i.detail[k] for i in items], float) for k in ("values", "again"))
    return reliability.correlation(a, b)


def _retest_items(items: Sequence[Item], weights: Array) -> Array:
    x = np.array([[i.score, i.detail["again"]] for i in items], float)
    w = weights / weights.sum(1, keepdims=True)
    mean = w @ x
    second = np.einsum("bn,nk,nl->bkl", w, x, x, optimize=True) - mean[:, :, None] * mean[:, None, :]
    with np.errstate(invalid="ignore", divide="ignore"):
        scale = np.sqrt(second[:, 0, 0] * second[:, 1, 1])
        return np.asarray(np.where(scale > 1e-15, second[:, 0, 1] / scale, np.nan))


def _alpha(one: Sheet, common: Mapping[str, Any]) -> list[Result]:
    """Cronbach's alpha per dimension, only where the respondents are different persons."""
    persons = {r.persona for r, keep in zip(one.answers.respondents, one.usable, strict=True) if keep and r.persona}
    if len(persons) < FEW_PERSONS:
        return []
    out = []
    for k, name in enumerate(one.dimensions):
        table = one.scores[:, one.index == k]
        items = one.respondent_items(row_mean_or_nan(table), {"items": table})
        out.append(summarize(items, metric=f"value.reliability.alpha.{name}", unit="score", statistic=_alphas,
                             anchors=Anchors(1.0, None, 0.0), **common))  # fmt: skip
    return out


def _alphas(items: Sequence[Item], weights: Array) -> Array:
    """(b,) `cronbach_alpha` under (b, n) respondent weights."""
    x = np.array([i.detail["items"] for i in items], float)
    w, k = weights / weights.sum(1, keepdims=True), x.shape[1]
    parts = (w @ x**2 - (w @ x) ** 2).sum(1)
    total = w @ x.sum(1) ** 2 - (w @ x.sum(1)) ** 2
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(total > 1e-15, k / (k - 1) * (1 - parts / total), np.nan))


def row_mean_or_nan(table: Array) -> Array:
    """(R,) mean of a row; NaN if one answer is missing: alpha needs them all."""
    return np.asarray(table.mean(1))


def within(means: Array, signs: NDArray[np.int64]) -> Array:
    """(I,) means minus the mean of their keying: what yes-saying and the order of the options do to a keying is no agreement."""
    out = means.copy()
    for sign in np.unique(signs):
        out[signs == sign] -= np.nanmean(means[signs == sign]) if np.isfinite(means[signs == sign]).any() else 0.0
    return out


def column_means(table: Array) -> Array:
    """(I,) mean over the respondents who answered."""
    there = ~np.isnan(table)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(there, table, 0).sum(0) / there.sum(0))

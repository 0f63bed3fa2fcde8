"""Scoring of questionnaires and surveys: PVQ-40, PVQ-21, MFQ-30, the SVO slider, Hofstede's indices (5.3-5.7).

Answers are numbers on the questionnaire's scale, columns in item order (item n in column n - 1), NaN for a missing one.
Keys are `data.questionnaires`. A value is the mean of its items; MRAT is a respondent's mean over all items; centred =
value - MRAT. Centred scores are linearly dependent: never all of them in one regression.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from valign.data.questionnaires import MFQ_CATCH, QUESTIONNAIRES
from valign.errors import require

Array = NDArray[np.float64]
HIGHER_ORDER: Mapping[str, tuple[str, ...]] = {
    "self_transcendence": ("UN", "BE"),
    "self_enhancement": ("AC", "PO"),
    "openness": ("SD", "ST", "HE"),
    "conservation": ("SE", "CO", "TR"),
}
ESS_HIGHER_ORDER: Mapping[str, tuple[int, ...]] = {
    "openness_with_hedonism": (1, 11, 6, 15, 10, 21),
    "openness": (1, 11, 6, 15),
    "conservation": (5, 14, 7, 16, 9, 20),
    "self_enhancement": (2, 17, 4, 13),
    "self_transcendence": (3, 8, 19, 12, 18),
}
MISSING_LIMIT = 5  # a respondent with more missing answers is unscored (PVQ-40 and PVQ-21)
EQUAL_LIMIT = {"pvq40": 35, "pvq21": 17}  # as many equal answers or more: unscored (5.3: 35+; PVQ-21: more than 16)
SVO_BOUNDS = ((57.15, "altruistic"), (22.45, "prosocial"), (-12.04, "individualistic"))


class Scores(NamedTuple):
    """One respondent: mean rating over all items, mean per value, and that minus the mean rating."""

    mrat: float
    raw: dict[str, float]
    centred: dict[str, float]


def score_values(answers: ArrayLike, key: Mapping[str, Sequence[int]]) -> Scores:
    """(I,) answers of one respondent -> MRAT, raw and centred values; missing answers leave the means."""
    x = np.asarray(answers, float)
    mrat = _mean(x)
    raw = {value: _mean(x[np.asarray(items) - 1]) for value, items in key.items()}
    return Scores(mrat, raw, {value: mean - mrat for value, mean in raw.items()})


def mean_of_values(centred: Mapping[str, float], groups: Mapping[str, Sequence[str]] = HIGHER_ORDER) -> dict[str, float]:
    """Higher-order values as means of centred values (PVQ-40)."""
    return {group: float(np.mean([centred[v] for v in values])) for group, values in groups.items()}


def mean_of_items(answers: ArrayLike, groups: Mapping[str, Sequence[int]] = ESS_HIGHER_ORDER) -> dict[str, float]:
    """Higher-order values as means of items minus MRAT (European Social Survey); another formula than `mean_of_values`."""
    x = np.asarray(answers, float)
    mrat = _mean(x)
    return {group: _mean(x[np.asarray(items) - 1]) - mrat for group, items in groups.items()}


def recode_ess(codes: ArrayLike) -> Array:
    """7 - x: the European Social Survey codes 1 = very much like me."""
    return 7 - np.asarray(codes, float)


def is_usable(answers: ArrayLike, instrument: str = "pvq40") -> bool:
    """The PVQ's quality rule for one respondent: at most 5 answers missing, not (nearly) all equal.

    Own inventories are held to the PVQ-40's shares: an eighth missing, seven eighths equal.
    """
    x = np.asarray(answers, float)
    there = x[~np.isnan(x)]
    missing = MISSING_LIMIT if instrument in EQUAL_LIMIT else len(x) // 8
    equal = EQUAL_LIMIT.get(instrument, math.ceil(len(x) * 7 / 8))
    if len(x) - len(there) > missing or not len(there):
        return False
    most = int(np.unique(np.round(there, 9), return_counts=True)[1].max())
    return most < equal


class Foundations(NamedTuple):
    """One respondent of the MFQ-30; excluded: a catch item says that the items were not read."""

    foundations: dict[str, float]
    progressivism: float
    catch_math: float
    catch_good: float
    excluded: bool


def mfq30(answers: ArrayLike) -> Foundations:
    """(32,) answers 0..5 -> means per foundation; progressivism = mean(care, fairness) - mean(the other three).

    Excluded: MATH >= 3 or GOOD <= 2.
    """
    x = np.asarray(answers, float)
    require(x.shape == (32,), "answers", x.shape, "32 numbers, catch items included")
    found = {name: _mean(x[np.asarray(items) - 1]) for name, items in QUESTIONNAIRES["mfq30"].key.items()}
    individual, binding = (
        float(np.mean([found[k] for k in names]))
        for names in (("care", "fairness"), ("loyalty", "authority", "purity"))
    )
    math_, good = (float(x[MFQ_CATCH[k] - 1]) for k in ("math", "good"))
    return Foundations(found, individual - binding, math_, good, bool(math_ >= 3 or good <= 2))


class Orientation(NamedTuple):
    """Social value orientation: angle in degrees, and its class."""

    angle: float
    type: str


def svo_slider(to_self: ArrayLike, to_other: ArrayLike) -> Orientation:
    """atan2(mean to other - 50, mean to self - 50) over the six items: altruistic > 57.15, prosocial > 22.45,
    individualistic > -12.04 degrees, else competitive (Murphy, Ackermann and Handgraaf 2011).
    """
    own, other = (float(np.asarray(x, float).mean()) for x in (to_self, to_other))
    angle = math.degrees(math.atan2(other - 50, own - 50))
    return Orientation(angle, next((name for bound, name in SVO_BOUNDS if angle > bound), "competitive"))


def hofstede_index(
    means: Mapping[str, float], first: tuple[str, str], second: tuple[str, str], a: float, b: float, constant: float
) -> float:
    """a (m_i - m_j) + b (m_k - m_l) + C from item means of a population of at least 20; coefficients and C come with the
    user's copy of the manual. Says nothing about individuals, and only differences between populations mean anything.
    """
    (i, j), (k, m) = first, second
    return a * (means[i] - means[j]) + b * (means[k] - means[m]) + constant


def _mean(x: Array) -> float:
    there = x[~np.isnan(x)]
    return float(there.mean()) if there.size else math.nan

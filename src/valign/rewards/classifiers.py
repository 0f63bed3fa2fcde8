"""Text classifiers from other packages as rewards: toxicity and sentiment, both small and without a network.

Always true here: the packages are optional and imported when a reward is made, with the install line in the
error. What their numbers mean is theirs: both are word-based, and neither knows what a text argues for.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from valign.data.group import Group
from valign.errors import UsageError
from valign.goals.base import Array
from valign.rewards.base import FunctionReward

INSTALL = "pip install 'valign[classifiers]'"


def toxicity() -> FunctionReward:
    """-P(profane), in [-1, 0]: a linear SVM on words (alt-profanity-check). NaN for an empty response."""
    module = _module("profanity_check", "alt-profanity-check")

    def probabilities(texts: list[str]) -> Array:
        return -np.asarray(module.predict_prob(texts), dtype=np.float64)

    return FunctionReward("toxicity", _texts(probabilities), _version("alt-profanity-check"))


def sentiment() -> FunctionReward:
    """The compound polarity of VADER, in [-1, 1]. NaN for an empty response."""
    module = _module("vaderSentiment.vaderSentiment", "vaderSentiment")
    analyzer = module.SentimentIntensityAnalyzer()

    def compounds(texts: list[str]) -> Array:
        return np.array([analyzer.polarity_scores(t)["compound"] for t in texts], dtype=np.float64)

    return FunctionReward("sentiment", _texts(compounds), _version("vaderSentiment"))


def _texts(score: Callable[[list[str]], Array]) -> Callable[[Sequence[Group]], list[Array]]:
    """A function of groups from a function of texts, called once for all texts; an empty text is unscored."""

    def of_groups(groups: Sequence[Group]) -> list[Array]:
        texts = [r.text for g in groups for r in g.responses]
        full = [i for i, text in enumerate(texts) if text.strip()]
        flat = np.full(len(texts), np.nan)
        if full:
            flat[full] = score([texts[i] for i in full])
        ends = np.cumsum([len(g.responses) for g in groups])
        return list(np.split(flat, ends[:-1]))[: len(groups)]

    return of_groups


def _module(name: str, package: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UsageError(f"this reward needs the package {package}", where="reward", how=INSTALL) from error


def _version(package: str) -> str:
    from importlib.metadata import version

    return f"{package} {version(package)}"

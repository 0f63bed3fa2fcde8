"""Train, judge and write the shipped heads: `python -m valign.rewards.train_value_evaluator [--fulcra FILE]`.

Fitted on the train and dev parts of the built-in dilemmas (layers, strength and thresholds by
cross-validation over situations), judged once on their test part and, where the file is given, on dialogues
of another source (Value FULCRA, for tests only: nothing is trained on it). Writes weights and cards to the
package, or to --out.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from valign.data.group import Group
from valign.errors import require
from valign.goals.base import Array
from valign.goals.loading import load_goal
from valign.goals.principle import load_principles
from valign.goals.theory import load_theory
from valign.goals.value import ValueGoal
from valign.rewards import head_metrics as m
from valign.rewards import linear_head
from valign.rewards.hidden_states import Floats, layers_of, mean_states
from valign.rewards.linear_head import Fit, LinearHead
from valign.rewards.value_evaluator import (
    DEFAULT_MODEL,
    THEORY,
    VALUES_FILE,
    VERDICTS_FILE,
    WEIGHTS,
    label_rows,
    middle_layers,
)
from valign.rewards.verdict_scorer import verdict_rows

if TYPE_CHECKING:
    from valign.models.loaded import LoadedModel

log = logging.getLogger(__name__)
MIN_BROKEN = 15  # a principle broken less often than this in the training rows gets no output
FULCRA_ROWS = 300
COMMAND = "python -m valign.rewards.train_value_evaluator"
ORDER_GOAL = {"benevolence": 1, "universalism": 1, "power": -1}
LIMITS = (
    "English only; short advice answers of 20 to 60 words, all written for this project",
    "one label per answer and output, the author's own: no agreement between annotators is known",
    "outputs are expected labels, small where the head is unsure: for order and for means over many answers",
    "a model that is optimized against this head will find texts that please it without what it stands for",
)
VALUE_LIMITS = (
    "on dialogues of another kind its classes are worse than always calling the commonest one; some signal is left in"
    " the sign (see shifted, which also has other annotators)",
)
VERDICT_LIMITS = (
    "classes are weak, for some principles no better than the commonest one: use the order (auc_broken)",
    "not tested on any other source",
)


@dataclass(frozen=True)
class Rows:
    """Labelled responses as a head sees them.

    states (rows, layers, width), labels (rows, outputs), clusters: the situation of each row
    """

    states: Floats
    labels: Array
    clusters: list[str]


@dataclass(frozen=True)
class Part:
    """A part of the data with every layer's states, read once: (n_responses, all layers, width) per group."""

    groups: Sequence[Group]
    states: Sequence[Floats]

    @classmethod
    def read(cls, model: LoadedModel, groups: Sequence[Group]) -> Part:
        log.info("reading %d responses", sum(len(g.responses) for g in groups))
        return cls(groups, mean_states(model, groups, range(layers_of(model))))

    def rows(self, labels: Sequence[Array], layers: Sequence[int]) -> Rows:
        """Every response that has a token and labels (n_responses, outputs)."""
        states, y = np.concatenate(self.states)[:, list(layers)], np.concatenate(list(labels))
        clusters = [g.cluster or g.id for g in self.groups for _ in g.responses]
        keep = np.isfinite(y).all(1) & np.isfinite(states[:, 0, 0])
        return Rows(states[keep], y[keep], [c for c, k in zip(clusters, keep, strict=True) if k])


def choose(rows: Rows, candidates: dict[str, Sequence[int]], names: Sequence[str], model: str) -> tuple[str, Fit]:
    """The layer set whose held-out predictions have the smallest squared error; rows hold every layer."""
    fits = {}
    for name, layers in candidates.items():
        states = rows.states[:, list(layers)]
        fits[name] = linear_head.fit(states, rows.labels, rows.clusters, names, model=model, layers=layers)
        log.info("%s: mean squared error %.4f", name, error(rows, fits[name]))
    best = min(fits, key=lambda name: error(rows, fits[name]))
    return best, fits[best]


def error(rows: Rows, fitted: Fit) -> float:
    """Mean squared error of the held-out predictions."""
    return float(((fitted.held_out - rows.labels) ** 2).mean())


def candidates(model: LoadedModel) -> dict[str, Sequence[int]]:
    """Sets of layers to choose among."""
    n = layers_of(model)
    quarter, half, three = n // 4, n // 2, 3 * n // 4
    return {
        "middle": middle_layers(model),
        "every": tuple(range(1, n - 1)),
        "central": tuple(range(n // 3, three, 2)),
        **{f"layer {k}": (k,) for k in (quarter, half, three)},
    }


# ---------------------------------------------------------------------------------------------------- judging


def with_interval(statistic: Callable[[Any], float], clusters: Sequence[str], draws: int) -> dict[str, Any]:
    """{value, low, high} of a statistic of row indices; None where it is undefined."""
    low, high = m.bootstrap(statistic, clusters, draws=draws)
    numbers = {"value": statistic(np.arange(len(clusters))), "low": low, "high": high}
    return {k: None if np.isnan(v) else round(float(v), 4) for k, v in numbers.items()}


def judge(head: LinearHead, rows: Rows, draws: int = 2000) -> dict[str, Any]:
    """Every number of the card for one part of the data, each with a 95 % interval over situations."""
    labels, clusters = rows.labels, rows.clusters
    values = head(rows.states)
    called, usual = head.classes(values), np.tile(m.majority(labels), (len(labels), 1))

    def over(metric: Callable[[Array, Array], float], found: Array) -> dict[str, Any]:
        return with_interval(lambda i: m.mean_over(metric, labels[i], found[i]), clusters, draws)

    def one(k: int) -> dict[str, Any]:
        f1 = with_interval(lambda i: m.macro_f1(labels[i, k], called[i, k]), clusters, draws)
        base = m.macro_f1(labels[:, k], usual[:, k])
        counts = {"plus": int((labels[:, k] > 0).sum()), "minus": int((labels[:, k] < 0).sum())}
        return {
            "macro_f1": f1,
            "majority_macro_f1": round(base, 4),
            "nonzero_f1": round(m.nonzero_f1(labels[:, k], called[:, k]), 4),
            **counts,
        }

    return {
        "responses": len(labels),
        "situations": len(set(clusters)),
        "macro_f1": over(m.macro_f1, called),
        "majority_macro_f1": round(m.mean_over(m.macro_f1, labels, usual), 4),
        "nonzero_f1": over(m.nonzero_f1, called),
        "accuracy": round(float((called == labels).mean()), 4),
        "majority_accuracy": round(float((labels == usual).mean()), 4),
        "mean_absolute_error": over(lambda g, p: float(np.abs(g - p).mean()), values),
        "majority_mean_absolute_error": round(float(np.abs(labels - usual).mean()), 4),
        "sign_accuracy": over(m.sign_accuracy, values),
        "auc_plus_minus": over(lambda g, p: m.auc(p[g > 0], p[g < 0]), values),
        "per_output": {name: one(k) for k, name in enumerate(head.names)},
    }


def order_agreement(groups: Sequence[Group], values: Sequence[Array], draws: int = 2000) -> dict[str, Any]:
    """Share of response pairs that the head orders as the labels do, under benevolence +1, universalism +1,
    power -1.
    """
    goal = load_goal(THEORY, **ORDER_GOAL)
    assert isinstance(goal, ValueGoal)
    right, owner = [], []
    for group, truth, v in zip(groups, goal.labels(groups), values, strict=True):
        guess = goal.utility_of(v)
        a, b = np.triu_indices(len(truth), 1)
        real, found = np.sign(truth[a] - truth[b]), np.sign(guess[a] - guess[b])
        known = np.abs(truth[a] - truth[b]) > 1e-9
        right += list((1 + real * found)[known] / 2)
        owner += [group.id] * int(known.sum())
    scores = np.array(right)
    return {
        "goal": ORDER_GOAL,
        "pairs": len(right),
        **with_interval(lambda i: float(scores[i].mean()), owner, draws),
    }


# -------------------------------------------------------------------------------------------------- the heads


def train_values(model: LoadedModel, train: Part, test: Part, shifted: Part | None, data: dict[str, Any]) -> LinearHead:
    """The head on ten values, with its card."""
    every = range(layers_of(model))
    rows = train.rows(label_rows(train.groups), every)
    name, fitted = choose(rows, candidates(model), load_theory(THEORY).ids, model.digest)
    head = fitted.head
    values = [head(states[:, list(head.layers)]) for states in test.states]
    card = common_card(model, fitted, name, rows, data, VALUE_LIMITS)
    card["test"] = judge(head, test.rows(label_rows(test.groups), head.layers))
    card["test"]["order_agreement"] = order_agreement(test.groups, values)
    if shifted:
        source = f"the first {len(shifted.groups)} dialogues of Value FULCRA; used for this test only"
        other = judge(head, shifted.rows(label_rows(shifted.groups), head.layers))
        card["shifted"] = {"source": source, **other}
    return replace(head, card=card)


def train_verdicts(
    model: LoadedModel, layers: Sequence[int], train: Part, test: Part, data: dict[str, Any]
) -> LinearHead:
    """The head on the principles that are broken often enough to be learned, with its card."""
    known = [p.id for p in load_principles("core").principles]
    broken = (np.concatenate(verdict_rows(train.groups, known)) < 0).sum(0)
    names = [name for name, n in zip(known, broken, strict=True) if n >= MIN_BROKEN]
    rows = train.rows(verdict_rows(train.groups, names), layers)
    fitted = linear_head.fit(rows.states, rows.labels, rows.clusters, names, model=model.digest, layers=layers)
    held = test.rows(verdict_rows(test.groups, names), layers)
    values = fitted.head(held.states)
    card = common_card(model, fitted, "those of the value head", rows, data, VERDICT_LIMITS) | {
        "min_broken": MIN_BROKEN
    }
    card["test"] = judge(fitted.head, held)
    for k, name in enumerate(names):
        found = broken_auc(held.labels[:, k], values[:, k], held.clusters)
        card["test"]["per_output"][name]["auc_broken"] = found
    return replace(fitted.head, card=card)


def broken_auc(labels: Array, values: Array, clusters: Sequence[str]) -> dict[str, Any]:
    """P(a broken principle scores lower than one that is kept or untouched), with its interval."""

    def statistic(i: Any) -> float:
        broken = labels[i] < 0
        return m.auc(-values[i][broken], -values[i][~broken])

    return with_interval(statistic, clusters, 500)


def common_card(
    model: LoadedModel, fitted: Fit, layer_set: str, rows: Rows, data: dict[str, Any], limits: Sequence[str]
) -> dict[str, Any]:
    """What both cards say of how the head was made."""
    return {
        "what": "ridge regression to -1, 0, 1 on a frozen model's hidden states, averaged over the response",
        "model": {"id": model.id, "digest": model.digest, "dtype": str(model.dtype).removeprefix("torch.")},
        "layers": list(fitted.head.layers),
        "layer_set": layer_set,
        "ridge": fitted.alpha,
        "data": data,
        "trained_on": {
            "responses": len(rows.labels),
            "situations": len(set(rows.clusters)),
            "splits": ["train", "dev"],
        },
        "held_out_macro_f1": round(m.mean_over(m.macro_f1, rows.labels, fitted.head.classes(fitted.held_out)), 4),
        "intervals": "95 %, bootstrap over situations, 2000 draws, seed 0",
        "reproduce": COMMAND,
        "limits": [*LIMITS, *limits],
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Train both heads and write them."""
    from valign.data import builtin, read
    from valign.models.loading import load_model

    parser = argparse.ArgumentParser(prog=COMMAND)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--fulcra", type=Path, help="Value FULCRA as JSON lines, for the shifted test")
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    model = load_model(options.model, dtype="float32")
    dilemmas = builtin("dilemmas")
    train = [g for g in dilemmas if g.split in ("train", "dev")]
    test = [g for g in dilemmas if g.split == "test"]
    require(bool(train and test), "dilemmas", len(dilemmas), "a set with train, dev and test parts")
    shifted = list(read(options.fulcra, format="fulcra", limit=FULCRA_ROWS)) if options.fulcra else []
    data = {"source": dilemmas.source, "sha256": dilemmas.sha256, "licence": dilemmas.licence}
    parts = Part.read(model, train), Part.read(model, test)
    values = train_values(model, *parts, Part.read(model, shifted) if shifted else None, data)
    linear_head.save(values, options.out / VALUES_FILE)
    verdicts = train_verdicts(model, values.layers, *parts, data)
    linear_head.save(verdicts, options.out / VERDICTS_FILE)
    log.info("test macro-F1 %s, written to %s", values.card["test"]["macro_f1"], options.out)


if __name__ == "__main__":
    main()

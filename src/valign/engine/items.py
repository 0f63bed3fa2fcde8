"""Items: a tree with the feedback that an objective reads beside log-probs, and how a micro-batch of them is collated.

Three kinds of inputs, told apart by where they stand in an `Item`:
    rows     indices of responses, local to the item (pairs: (n, 2)); moved by the item's place in the batch
    values   numbers per response, pair or group: concatenated
    tokens   numbers per token, one array per response: padded to the batch's longest response
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from valign.engine.objective import Terms, Unit, count_units
from valign.engine.scorer import Scores
from valign.engine.tree import Tree

Array = NDArray[Any]


@dataclass(frozen=True)
class Item:
    """One group, ready for the loop."""

    tree: Tree
    rows: Mapping[str, Array] = field(default_factory=dict)
    values: Mapping[str, Array] = field(default_factory=dict)
    tokens: Mapping[str, Sequence[Array]] = field(default_factory=dict)

    def units(self, unit: Unit) -> float:
        """How many units of the normalizer the item holds."""
        if f"{unit}_weight" in self.values:
            return float(self.values[f"{unit}_weight"].sum())
        pairs = len(self.rows["pairs"]) if "pairs" in self.rows else 0
        return count_units(unit, self.tree.mask_sum, len(self.tree.leaves), pairs, 1)

    def with_tokens(self, **more: Sequence[Array]) -> Item:
        """The same item with more per-token inputs."""
        return replace(self, tokens={**self.tokens, **more})


def collate(items: Sequence[Item], scores: Scores) -> dict[str, Tensor]:
    """Everything an objective may ask for by name, on the scores' device: policy (or reward, where the readout is a
    scalar), mask, group and the items' inputs."""
    for kind in ("rows", "values", "tokens"):
        names = [set(getattr(i, kind)) for i in items]
        if any(n != names[0] for n in names):
            odd = sorted(set.union(*names) - set.intersection(*names))
            raise ValueError(f"some items have other {kind} than others: {odd}")
    device, dtype, width = scores.values.device, scores.values.dtype, scores.mask.shape[1]
    read = "policy" if scores.scalars is None else "reward"
    out = {read: scores.values, "mask": scores.mask, "group": scores.group}
    offsets = np.concatenate([[0], np.cumsum([len(i.tree.leaves) for i in items])])
    for name in items[0].rows if items else ():
        parts = [i.rows[name] + at for i, at in zip(items, offsets)]
        out[name] = torch.as_tensor(np.concatenate(parts).astype(np.int64), device=device)
    for name in items[0].values if items else ():
        out[name] = torch.as_tensor(np.concatenate([i.values[name] for i in items]), device=device, dtype=dtype)
    for name in items[0].tokens if items else ():
        padded = np.zeros((len(scores.mask), width))
        for row, array in enumerate(a for i in items for a in i.tokens[name]):
            padded[row, : len(array)] = array
        out[name] = torch.as_tensor(padded, device=device, dtype=dtype)
    return out


@dataclass(frozen=True)
class Objective:
    """An objective bound to its settings.

    function   the pure function; positional parameters are tensors by name, keyword-only ones are settings
    settings   the keyword-only values        unit   what its losses count
    at_start   the loss where policy = reference, None where there is no such value
    """

    function: Callable[..., Terms]
    settings: Mapping[str, Any]
    unit: Unit
    at_start: float | None = None

    @property
    def wants(self) -> tuple[str, ...]:
        """Names of the tensors it reads."""
        kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.POSITIONAL_ONLY)
        return tuple(p.name for p in inspect.signature(self.function).parameters.values() if p.kind in kinds)

    def __call__(self, tensors: Mapping[str, Tensor]) -> Terms:
        given = dict(tensors)
        if "sampler_weight" in given:
            given["policy"] = with_gradient(given["policy"], given["sampler_weight"])
        if "old" in self.wants and "old" not in given:
            given["old"] = given["policy"].detach()  # first pass over a fresh rollout: the ratio is exactly 1
        terms = self.function(*(given[name] for name in self.wants), **self.settings)
        if terms.unit != self.unit:
            raise ValueError(f"{self.function.__name__} returned unit {terms.unit}, declared {self.unit}")
        weight = given.get(f"{terms.unit}_weight")  # N = sum of the units' weights; feedback may count more or less
        return terms if weight is None else Terms(terms.losses * weight, unit=terms.unit, **terms.metrics)


def with_gradient(log_probs: Tensor, weight: Tensor) -> Tensor:
    """`log_probs` as they are, with each one's gradient multiplied by its weight: any objective's gradient coefficients
    become those of weighted samples (importance sampling per token), whatever the objective is."""
    fixed = log_probs.detach()
    return fixed + weight * (log_probs - fixed)


def bind(
    function: Callable[..., Terms], config: Any, unit: Unit, at_start: float | None = None, **fixed: Any
) -> Objective:
    """Take the keyword-only settings of `function` from the fields of `config` (or from `fixed`)."""
    known = {f.name: getattr(config, f.name) for f in fields(config)} | fixed
    names = [
        p.name for p in inspect.signature(function).parameters.values() if p.kind is inspect.Parameter.KEYWORD_ONLY
    ]
    return Objective(function, {n: known[n] for n in names}, unit, at_start)

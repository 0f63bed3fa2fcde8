"""Sampling the target token by token: the prefix tree, soft and mean values,
and the sequence law each decoder produces.

`PrefixTree` lists every prefix of a set of token sequences once. Sequence laws are (..., N) over the
responses, node values (..., nodes) over the prefixes; the two are linked by sums from the leaves and
products from the root.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from valign.theory.laws import Array, Ints, as_array, log_or_floor, log_softmax


class PrefixTree:
    """All prefixes of `responses`, root first, parents before children.

    prefixes  tuple of token tuples; index 0 is ()
    parent    (nodes,) index of each node's parent, -1 at the root
    leaf      (N,) node of each whole response
    Raises ValueError if one response is a prefix of another: its end would not be a token.
    """

    def __init__(self, responses: Sequence[Sequence[int]]) -> None:
        whole = [tuple(int(t) for t in y) for y in responses]
        known = {y[:k] for y in whole for k in range(len(y) + 1)} | {()}
        self.prefixes: tuple[tuple[int, ...], ...] = tuple(sorted(known, key=lambda s: (len(s), s)))
        self.index = {s: i for i, s in enumerate(self.prefixes)}
        self.parent: Ints = np.array([self.index[s[:-1]] if s else -1 for s in self.prefixes], dtype=np.int64)
        self.leaf: Ints = np.array([self.index[y] for y in whole], dtype=np.int64)
        depth = np.array([len(s) for s in self.prefixes])
        self._levels = [np.flatnonzero(depth == d) for d in range(int(depth.max()) + 1)]
        if set(self.leaf.tolist()) & set(self.parent.tolist()) or len(set(whole)) < len(whole):
            raise ValueError("PrefixTree: a response repeats or is a prefix of another one")

    def sum_up(self, leaves: ArrayLike) -> Array:
        """Σ over the responses below each node, (..., nodes) from (..., N)."""
        values = as_array(leaves)
        nodes = np.zeros((*values.shape[:-1], len(self.prefixes)))
        nodes[..., self.leaf] = values
        for level in reversed(self._levels[1:]):
            self._add_to_parents(nodes, nodes[..., level], level)
        return nodes

    def multiply_down(self, log_steps: ArrayLike) -> Array:
        """log law of each response, (..., N), from the log-probability of each node given its parent,
        (..., nodes).
        """
        total = as_array(log_steps).copy()
        total[..., 0] = 0.0
        for level in self._levels[1:]:
            total[..., level] += total[..., self.parent[level]]
        return total[..., self.leaf]

    def token_log_probs(self, law: ArrayLike) -> Array:
        """log p(a|s) at node s+a, (..., nodes); 0 at the root."""
        mass = log_or_floor(self.sum_up(law))
        steps = np.zeros_like(mass)
        steps[..., 1:] = mass[..., 1:] - mass[..., self.parent[1:]]
        return steps

    def normalize_steps(self, log_weights: ArrayLike) -> Array:
        """log of weights renormalized among siblings, (..., nodes)."""
        weights = as_array(log_weights)
        flat = weights.reshape(-1, weights.shape[-1])
        top = np.full(flat.shape, -np.inf)
        for row, peak in zip(flat, top, strict=True):
            np.maximum.at(peak, self.parent[1:], row[1:])
        shifted = np.exp(flat[:, 1:] - top[:, self.parent[1:]])
        total = np.zeros(flat.shape)
        for row, sums in zip(shifted, total, strict=True):
            np.add.at(sums, self.parent[1:], row)
        out = np.zeros(flat.shape)
        out[:, 1:] = flat[:, 1:] - top[:, self.parent[1:]] - np.log(total[:, self.parent[1:]])
        return out.reshape(weights.shape)

    def _add_to_parents(self, nodes: Array, amounts: Array, level: Ints) -> None:
        flat, values = nodes.reshape(-1, nodes.shape[-1]), amounts.reshape(-1, amounts.shape[-1])
        for row, value in zip(flat, values, strict=True):
            np.add.at(row, self.parent[level], value)


def soft_values(tree: PrefixTree, reference: ArrayLike, reward: ArrayLike, beta: float) -> Array:
    """V(s) = β log E_ref[e^{r/β}|s] at every node, (..., nodes); r at the leaves, J* at the root."""
    p, r = as_array(reference), as_array(reward)
    peak = r.max(axis=-1, keepdims=True)
    lifted = log_or_floor(tree.sum_up(p * np.exp((r - peak) / beta)))
    return as_array(beta * (lifted - log_or_floor(tree.sum_up(p))) + peak)


def mean_values(tree: PrefixTree, reference: ArrayLike, reward: ArrayLike) -> Array:
    """E_ref[r|s] at every node, (..., nodes): at most V(s) by Jensen;
    FUDGE-like regression learns this one.
    """
    p = as_array(reference)
    return tree.sum_up(p * as_array(reward)) / tree.sum_up(p)


def value_guided_law(tree: PrefixTree, reference: ArrayLike, values: ArrayLike, beta: float) -> Array:
    """Sequence law (..., N) of the decoder π_ref(a|s) e^{V(s,a)/β}, renormalized at each step.

    Soft values give the Gibbs law exactly; any other value is a plug-in approximation. The same law is
    π_ref e^{(Q-V)/β} in an MDP with entropy: Q(s,a) = V(s+a), V(s) = β log Σ_a π_ref e^{Q/β} (ILQL's
    decoder).
    """
    steps = tree.token_log_probs(reference) + as_array(values) / beta
    return np.exp(tree.multiply_down(tree.normalize_steps(steps)))


def bayes_guided_law(tree: PrefixTree, reference: ArrayLike, likelihood: ArrayLike) -> Array:
    """Sequence law of π_ref(a|s) p(c=1|s,a)/p(c=1|s): equals p_ref(y|c=1);
    likelihood p(c=1|y) is (..., N).
    """
    chance = log_or_floor(mean_values(tree, reference, likelihood))
    steps = tree.token_log_probs(reference) + chance
    steps[..., 1:] -= chance[..., tree.parent[1:]]
    return np.exp(tree.multiply_down(steps))


def token_geometric_law(tree: PrefixTree, laws: ArrayLike, weights: ArrayLike) -> Array:
    """Sequence law of Π_i p_i(a|s)^{w_i}, renormalized at each step; laws (M, ..., N), weights (M,).

    Applied per token it only approximates the sequence form of `mixtures.geometric`.
    """
    p, w = as_array(laws), as_array(weights)
    steps = sum(wi * tree.token_log_probs(pi) for wi, pi in zip(w, p, strict=True))
    return np.exp(tree.multiply_down(tree.normalize_steps(as_array(steps))))


def step_log_law(tree: PrefixTree, law: ArrayLike, prefix: Sequence[int], tokens: Sequence[int]) -> Array:
    """log p(a|s) for the listed tokens after `prefix`, (..., len(tokens));
    -inf for a token that never follows.
    """
    steps = tree.token_log_probs(law)
    columns = [tree.index.get((*prefix, a)) for a in tokens]
    missing = np.full(steps.shape[:-1], -np.inf)
    return log_softmax(np.stack([missing if c is None else steps[..., c] for c in columns], axis=-1))

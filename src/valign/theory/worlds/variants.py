"""Planted difficulties for both worlds: proxies that fail in three ways, people who disagree, values,
concepts, drift.

Each is a function of a world and returns tables or index arrays (theory notes, section 15.3). The `critic`
variant is `World.bad_tokens` with `World.best_edit`; `safe` is `World.costs` with a limit, solved by `safe`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import ArrayLike

from valign.theory.constrained import ConstrainedOptimum, constrained_optimum
from valign.theory.laws import Array, Ints, as_array, log_softmax, sigmoid
from valign.theory.target import value_distance
from valign.theory.worlds.draws import generator, sample
from valign.theory.worlds.sequence import SequenceWorld
from valign.theory.worlds.tabular import TabularWorld, phase_utility
from valign.theory.worlds.world import World

VALUE_TARGETS = as_array([[1, 0.5, -0.5, -1], [-1, -0.5, 0.5, 1], [0.5, -1, 1, -0.5], [-0.5, 1, -1, 0.5]])
LABEL_THRESHOLD = 0.3  # values weaker than this get the sparse label 0


def proxy_regressional(world: World) -> Array:
    """U + √2 sin(37i + 11x), i the response's place in the listing, x the prompt's:
    noise of unit variance, (P, N).
    """
    x, i = np.meshgrid(np.arange(world.shape[0]), np.arange(world.shape[1]), indexing="ij")
    return as_array(world.utilities + np.sqrt(2.0) * np.sin(37.0 * i + 11.0 * x))


def proxy_extremal(world: World, reference_log_probs: ArrayLike | None = None) -> Array:
    """U - .3 min(0, log π_ref + b), b = 3 (tabular) or 6 (sequence):
    the error grows for rare responses, (P, N).
    """
    offset = 6.0 if isinstance(world, SequenceWorld) else 3.0
    log_reference = world.log_reference if reference_log_probs is None else as_array(reference_log_probs)
    return world.utilities - 0.3 * np.minimum(0.0, log_reference + offset)


def proxy_adversarial(world: World) -> Array:
    """The world's own proxy with its planted exploit, (P, N)."""
    return world.proxies


PROXIES: dict[str, Callable[[World], Array]] = {
    "regressional": proxy_regressional,
    "extremal": proxy_extremal,
    "adversarial": proxy_adversarial,
}


def safe(world: World, limit: float, beta: float = 0.5) -> ConstrainedOptimum:
    """argmax E U - β KL with mean cost <= limit."""
    return constrained_optimum(world.reference_table(), world.utilities, world.costs, beta, limit)


ANNOTATOR_SHARES = {"A1": 0.50, "A2": 0.25, "A3": 0.15, "A4": 0.10}


def annotator_utilities(world: World) -> dict[str, Array]:
    """Utility tables of A1, A2, A3, (P, N); A4 labels at random and has none.

    Sequence: A1 U_H; A2 w = (-1, -.5, .5, 1), follow 1; A3 w = (0, 1, 0, -1), follow 0. Tabular: U_H with
    the phase turned by 0, π and π/2.
    """
    if isinstance(world, SequenceWorld):
        return {
            "A1": world.utility_with(),
            "A2": world.utility_with([-1.0, -0.5, 0.5, 1.0]),
            "A3": world.utility_with([0.0, 1.0, 0.0, -1.0], follow=0.0),
        }
    return {"A1": phase_utility(0.0), "A2": phase_utility(np.pi), "A3": phase_utility(np.pi / 2)}


@dataclass(frozen=True)
class AnnotatorLabels:
    """One row per label: annotator (n,) index, prompt, chosen, rejected (n,);
    type_of (annotators,) "A1".."A4".
    """

    annotator: Ints
    prompt: Ints
    chosen: Ints
    rejected: Ints
    type_of: tuple[str, ...]


def annotators(
    world: World,
    seed: int = 0,
    *,
    people: int = 200,
    labels: int = 20,
    flips: float = 0.05,
    temperature: float = 1.0,
) -> AnnotatorLabels:
    """Bradley-Terry labels of a mixed population; pairs from π_ref;
    types in exact shares, in shuffled order.
    """
    rng = generator(seed, "annotators")
    counts = np.floor(np.array(list(ANNOTATOR_SHARES.values())) * people + 1e-9).astype(int)
    counts[0] += people - int(counts.sum())
    types = np.repeat(np.array(list(ANNOTATOR_SHARES)), counts)
    rng.shuffle(types)
    tables = annotator_utilities(world)
    shown = world.pairs(people * labels, seed)
    annotator = np.repeat(np.arange(people), labels)
    # the pair comes in the order of another label: a coin makes first and second exchangeable
    coin = rng.random(len(annotator)) < 0.5
    first = np.where(coin, shown.chosen, shown.rejected)
    second = np.where(coin, shown.rejected, shown.chosen)
    chance = np.full(len(annotator), 0.5)
    for name, table in tables.items():
        here = types[annotator] == name
        margin = table[shown.prompt, first] - table[shown.prompt, second]
        chance[here] = sigmoid(margin / temperature)[here]
    chance = (1 - flips) * chance + flips * (1 - chance)
    wins = rng.random(len(annotator)) < chance
    return AnnotatorLabels(
        annotator,
        shown.prompt,
        np.where(wins, first, second),
        np.where(wins, second, first),
        tuple(str(t) for t in types),
    )


def pooled_policy(world: World, weights: ArrayLike, beta: float = 0.5) -> Array:
    """log Gibbs of Σ_i w_i U_i over A1, A2, A3 (weights renormalized), (P, N)."""
    w = as_array(weights)
    tables = list(annotator_utilities(world).values())
    mixed = sum(share * table for share, table in zip(w / w.sum(), tables, strict=True))
    return world.target_log_probs(utility=as_array(mixed), beta=beta)


def max_min_weights(world: World, beta: float = 0.5, grid: int = 20) -> tuple[Array, Array]:
    """(weights (3,), gains (3,)) with the largest least gain in own utility over the reference,
    on a grid of 1/grid.
    """
    tables = list(annotator_utilities(world).values())
    start = as_array([world.mean(world.log_reference, t) for t in tables])
    best, best_gain = np.zeros(3), np.full(3, -np.inf)
    for i, j in product(range(grid + 1), repeat=2):
        if i + j > grid:
            continue
        weights = as_array([i, j, grid - i - j]) / grid
        policy = pooled_policy(world, weights, beta)
        gains = as_array([world.mean(policy, t) for t in tables]) - start
        if gains.min() > best_gain.min():
            best, best_gain = weights, gains
    return best, best_gain


def sparse_values(world: World, threshold: float = LABEL_THRESHOLD) -> Array:
    """Labels sign(v) where |v| > threshold, else 0, (P, N, V)."""
    v = world.value_vectors
    return np.sign(v) * (np.abs(v) > threshold)


def value_reward(world: World, target: ArrayLike) -> Array:
    """r = -D(v(x, y), t) with D = √(mean_k (v_k - t_k)²)/2, (P, N)."""
    return -value_distance(world.value_vectors, target)


@dataclass(frozen=True)
class ConceptDocuments:
    """concept (docs,), prompt (docs, k), response (docs, k):
    several responses of one hidden concept per document.
    """

    concept: Ints
    prompt: Ints
    response: Ints


def concept_log_laws(world: World, beta: float = 0.05) -> Array:
    """log Gibbs policies of the four value targets, (4, P, N)."""
    return np.stack([log_softmax(world.log_reference + value_reward(world, t) / beta) for t in VALUE_TARGETS])


def concepts(
    world: World, documents: int, seed: int = 0, *, per_document: int = 8, beta: float = 0.05
) -> ConceptDocuments:
    """A corpus whose documents each follow one of four value targets,
    for studying context as Bayes (2111.02080).
    """
    rng = generator(seed, "concepts")
    laws = np.exp(concept_log_laws(world, beta))
    concept = rng.integers(0, len(laws), size=documents)
    prompt = rng.integers(0, world.shape[0], size=(documents, per_document))
    response = np.empty_like(prompt)
    for c in range(len(laws)):
        here = concept == c
        response[here] = sample(laws[c], prompt[here].ravel(), rng).reshape(-1, per_document)
    return ConceptDocuments(concept, prompt, response)


@dataclass(frozen=True)
class Corpora:
    """Reference samples (prompt, response) of two sizes:
    `weak` is the first quarter of `strong`, row for row.
    """

    weak: tuple[Ints, Ints]
    strong: tuple[Ints, Ints]


def scale(world: World, n: int, seed: int = 0) -> Corpora:
    """Pretraining data of the weak and the strong reference; fitting them is the caller's."""
    rng = generator(seed, "scale")
    prompt = rng.integers(0, world.shape[0], size=n)
    response = sample(world.reference_table(), prompt, rng)
    quarter = n // 4
    return Corpora((prompt[:quarter], response[:quarter]), (prompt, response))


def drift(world: SequenceWorld | TabularWorld, rounds: int) -> Array:
    """Utility tables of rounds 0..rounds-1, the preference direction rotated by 15° per round, (rounds,
    P, N).
    """
    return np.stack([world.drifted(k) for k in range(rounds)])

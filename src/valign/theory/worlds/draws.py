"""Seeded draws of every kind of feedback from a world's U_H, each with a noise setting.

Draws are index arrays into the world's listings, so they cost nothing to keep and can be turned into tokens
by anyone. Randomness is addressed by (seed, purpose): two kinds of feedback with one seed are independent.
`law` says which responses are shown: "reference", "uniform", or any (prompts, responses) table of
probabilities.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from valign.theory.laws import Array, Ints, as_array, expectation, log_softmax, sigmoid
from valign.theory.likelihoods import noisy

if TYPE_CHECKING:
    from valign.theory.worlds.world import World

Bools = NDArray[np.bool_]
Law = Literal["reference", "uniform"] | Array
Noise = Literal["uniform", "flip"]


@dataclass(frozen=True)
class Demonstrations:
    """prompt (n,), response (n,)."""

    prompt: Ints
    response: Ints


@dataclass(frozen=True)
class PairDraws:
    """prompt, chosen, rejected (n,); probability (n,):
    P(chosen ≻ rejected) under the label law, noise included.
    """

    prompt: Ints
    chosen: Ints
    rejected: Ints
    probability: Array


@dataclass(frozen=True)
class Rankings:
    """prompt (n,); response (n, K), best first."""

    prompt: Ints
    response: Ints


@dataclass(frozen=True)
class Unpaired:
    """prompt, response (n,); good (n,) booleans."""

    prompt: Ints
    response: Ints
    good: Bools


@dataclass(frozen=True)
class Scores:
    """prompt, response (n,); score (n,) in units of utility, or Likert levels 0..len(cuts)."""

    prompt: Ints
    response: Ints
    score: Array


@dataclass(frozen=True)
class ValueVectors:
    """prompt, response (n,); values (n, V): vectors with noise, or sparse labels in {-1, 0, +1}."""

    prompt: Ints
    response: Ints
    values: Array


@dataclass(frozen=True)
class Verdicts:
    """prompt, response (n,); broken (n, rules) booleans; rules: their names."""

    prompt: Ints
    response: Ints
    broken: Bools
    rules: tuple[str, ...]


@dataclass(frozen=True)
class Critiques:
    """prompt, response (n,); bad (n, T) booleans on tokens."""

    prompt: Ints
    response: Ints
    bad: Bools


@dataclass(frozen=True)
class Edits:
    """prompt, draft, revision (n,)."""

    prompt: Ints
    draft: Ints
    revision: Ints


def generator(seed: int, purpose: str) -> np.random.Generator:
    """A random generator addressed by (seed, purpose)."""
    return np.random.default_rng([seed, zlib.crc32(purpose.encode())])


def sample(law: Array, prompt: Ints, rng: np.random.Generator) -> Ints:
    """One response index per entry of `prompt` from the rows of `law` (P, N), by inversion."""
    out, u = np.empty(len(prompt), dtype=np.int64), rng.random(len(prompt))
    for x in np.unique(prompt):
        cumulative = np.cumsum(law[x])
        here = prompt == x
        out[here] = np.minimum(
            np.searchsorted(cumulative, u[here] * cumulative[-1], "right"), law.shape[1] - 1
        )
    return out


def demonstrations(
    world: World,
    n: int,
    seed: int = 0,
    *,
    beta: float = 0.5,
    noise: float = 0.0,
    utility: ArrayLike | None = None,
) -> Demonstrations:
    """Draws of p_H ∝ π_ref e^{U/β_H}; a share `noise` comes from π_ref instead."""
    rng = generator(seed, "demonstrations")
    prompt = _prompts(world, n, rng)
    good = sample(np.exp(world.target_log_probs(utility=utility, beta=beta)), prompt, rng)
    careless = sample(world.reference_table(), prompt, rng)
    return Demonstrations(prompt, np.where(rng.random(n) < noise, careless, good))


def pairs(
    world: World,
    n: int,
    seed: int = 0,
    *,
    temperature: float = 1.0,
    noise: float = 0.0,
    noise_kind: Noise = "flip",
    law: Law = "reference",
    utility: ArrayLike | None = None,
) -> PairDraws:
    """Two different responses from `law`, labelled by Bradley-Terry on U/τ through a labeller who errs at
    rate `noise`.

    temperature 0 gives error-free labels by the sign of ΔU (ties by a coin).
    """
    rng = generator(seed, "pairs")
    prompt = _prompts(world, n, rng)
    first, second = _distinct(world, prompt, law, rng, 2).T
    table = world.utilities if utility is None else as_array(utility)
    margin = table[prompt, first] - table[prompt, second]
    clean = 0.5 + 0.5 * np.sign(margin) if temperature == 0 else sigmoid(margin / temperature)
    probability = noisy(clean, noise, noise_kind)
    wins = rng.random(n) < probability
    return PairDraws(
        prompt,
        np.where(wins, first, second),
        np.where(wins, second, first),
        np.where(wins, probability, 1 - probability),
    )


def rankings(
    world: World,
    n: int,
    seed: int = 0,
    *,
    items: int = 4,
    temperature: float = 1.0,
    noise: float = 0.0,
    law: Law = "reference",
) -> Rankings:
    """K different responses ranked by Plackett-Luce on U/τ;
    a share `noise` of the lists is in random order.
    """
    rng = generator(seed, "rankings")
    prompt = _prompts(world, n, rng)
    shown = _distinct(world, prompt, law, rng, items)
    careless = rng.random(n) < noise
    utility = np.where(careless[:, None], 0.0, world.utilities[prompt[:, None], shown] / temperature)
    # the Gumbel trick: sorting U + Gumbel noise downward draws from Plackett-Luce
    order = np.argsort(-(utility + rng.gumbel(size=utility.shape)), axis=1)
    return Rankings(prompt, np.take_along_axis(shown, order, 1))


def unpaired(
    world: World,
    n: int,
    seed: int = 0,
    *,
    temperature: float = 1.0,
    noise: float = 0.0,
    law: Law = "reference",
) -> Unpaired:
    """P(good) = σ((U - z(x))/τ) with z(x) = E_ref U; labels flip at rate `noise`."""
    rng = generator(seed, "unpaired")
    prompt = _prompts(world, n, rng)
    response = sample(_law(world, law), prompt, rng)
    point = expectation(world.reference_table(), world.utilities)
    chance = noisy(sigmoid((world.utilities[prompt, response] - point[prompt]) / temperature), noise, "flip")
    return Unpaired(prompt, response, rng.random(n) < chance)


def scores(
    world: World,
    n: int,
    seed: int = 0,
    *,
    noise: float = 0.5,
    cuts: ArrayLike | None = None,
    law: Law = "reference",
) -> Scores:
    """U + N(0, noise²); with rising `cuts` a Likert level from the ordered logit, P(level <= k)
    = σ(cut_k - U).
    """
    rng = generator(seed, "scores")
    prompt = _prompts(world, n, rng)
    response = sample(_law(world, law), prompt, rng)
    utility = world.utilities[prompt, response]
    if cuts is None:
        return Scores(prompt, response, utility + noise * rng.normal(size=n))
    level = np.searchsorted(as_array(cuts), utility + rng.logistic(size=n))
    return Scores(prompt, response, as_array(level))


def value_vectors(
    world: World,
    n: int,
    seed: int = 0,
    *,
    noise: float = 0.0,
    sparse: float | None = None,
    law: Law = "reference",
) -> ValueVectors:
    """v(x, y) + N(0, noise²) per dimension;
    with `sparse` = θ labels sign(v) where |v| > θ, else 0, dropped at rate `noise`.
    """
    rng = generator(seed, "value_vectors")
    prompt = _prompts(world, n, rng)
    response = sample(_law(world, law), prompt, rng)
    exact = world.value_vectors[prompt, response]
    if sparse is None:
        return ValueVectors(prompt, response, exact + noise * rng.normal(size=exact.shape))
    labels = np.sign(exact) * (np.abs(exact) > sparse)
    return ValueVectors(prompt, response, labels * (rng.random(exact.shape) >= noise))


def verdicts(world: World, n: int, seed: int = 0, *, noise: float = 0.0, law: Law = "reference") -> Verdicts:
    """Which rules a response breaks; each verdict flips at rate `noise`."""
    rng = generator(seed, "verdicts")
    prompt = _prompts(world, n, rng)
    response = sample(_law(world, law), prompt, rng)
    names = tuple(world.rules)
    broken = np.stack([world.rules[name][prompt, response] for name in names], axis=1).astype(bool)
    return Verdicts(prompt, response, broken ^ (rng.random(broken.shape) < noise), names)


def critiques(
    world: World, n: int, seed: int = 0, *, noise: float = 0.0, threshold: float = 0.5, law: Law = "reference"
) -> Critiques:
    """Tokens whose replacement would raise U_H by `threshold`;
    marks on response tokens flip at rate `noise`.
    """
    rng = generator(seed, "critiques")
    prompt = _prompts(world, n, rng)
    response = sample(_law(world, law), prompt, rng)
    bad = world.bad_tokens(threshold)[prompt, response] > 0
    # lengths may be nominal (tabular world): only tokens that exist can be marked
    real = np.array([len(world.response_list[y]) for y in response])
    inside = np.arange(bad.shape[1]) < real[:, None]
    return Critiques(prompt, response, (bad ^ (rng.random(bad.shape) < noise)) & inside)


def edits(
    world: World, n: int, seed: int = 0, *, noise: float = 0.0, within: int = 2, law: Law = "reference"
) -> Edits:
    """The best response within two edits of the draft;
    a share `noise` of the revisions is a reference sample instead.
    """
    rng = generator(seed, "edits")
    prompt = _prompts(world, n, rng)
    draft = sample(_law(world, law), prompt, rng)
    known: dict[tuple[int, int], int] = {}
    for x, y in zip(prompt.tolist(), draft.tolist(), strict=True):
        if (x, y) not in known:
            known[x, y] = world.best_edit(x, y, within)
    best = np.array(
        [known[x, y] for x, y in zip(prompt.tolist(), draft.tolist(), strict=True)], dtype=np.int64
    )
    careless = sample(world.reference_table(), prompt, rng)
    return Edits(prompt, draft, np.where(rng.random(n) < noise, careless, best))


def _prompts(world: World, n: int, rng: np.random.Generator) -> Ints:
    return rng.integers(0, len(world.prompts), size=n)


def _law(world: World, law: Law) -> Array:
    if isinstance(law, str):
        if law == "reference":
            return world.reference_table()
        if law == "uniform":
            return np.full(world.shape, 1 / world.shape[1])
        raise ValueError(f"law = {law!r} is neither 'reference', 'uniform' nor a table")
    return as_array(law)


def _distinct(world: World, prompt: Ints, law: Law, rng: np.random.Generator, items: int) -> Ints:
    """`items` different responses per prompt: sampling without replacement by the Gumbel trick, in blocks."""
    log_law = log_softmax(np.log(np.maximum(_law(world, law), 1e-300)))
    out = np.empty((len(prompt), items), dtype=np.int64)
    for start in range(0, len(prompt), 512):  # 512 x 3906 keys are 16 MB
        rows = slice(start, start + 512)
        keys = log_law[prompt[rows]] + rng.gumbel(size=(len(prompt[rows]), log_law.shape[1]))
        top = np.argpartition(-keys, items - 1, axis=1)[:, :items]
        out[rows] = rng.permuted(top, axis=1)
    return out

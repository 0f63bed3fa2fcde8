"""Multiple choice by likelihood: how choices are scored, how ties share credit, how option orders are
averaged (4.1).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from valign.errors import unknown
from valign.theory.laws import log_softmax, log_sum_exp

Array = NDArray[np.float64]
Protocol = Literal["sum", "char", "byte", "token", "mi", "letter"]
PROTOCOLS: tuple[str, ...] = get_args(Protocol)
TIE = 1e-6  # nats: closer log-probabilities are equal
ALL_ORDERS = 3  # up to this many options all K! orders are asked, above it K cyclic shifts


def choice_scores(
    protocol: str, log_probs: ArrayLike, *, texts: Sequence[str] = (), tokens: ArrayLike | None = None,
    unconditional: ArrayLike | None = None,
) -> Array:  # fmt: skip
    """(K,) score of each choice: ll, ll/characters, ll/UTF-8 bytes, ll/tokens,
    or ll - ll(choice | empty context).

    texts   the choices without the delimiter (char, byte)     tokens  (K,) scored tokens (token)
    unconditional  (K,) log-probs after the empty context (mi). `letter` is `sum` on letters.
    """
    ll: Array = np.asarray(log_probs, float)
    match protocol:
        case "sum" | "letter":
            return ll
        case "char":
            return np.asarray(ll / np.array([max(len(t), 1) for t in texts]))
        case "byte":
            return np.asarray(ll / np.array([max(len(t.encode()), 1) for t in texts]))
        case "token":
            return np.asarray(ll / np.maximum(np.asarray(tokens, float), 1))
        case "mi":
            return np.asarray(ll - np.asarray(unconditional, float))
    raise unknown("protocol", protocol, PROTOCOLS)


def shares(scores: ArrayLike, tolerance: float = TIE) -> Array:
    """(K,) what each choice gets of the answer: 1/k for each of the k maxima (within `tolerance` nats), else
    0.
    """
    s = np.asarray(scores, float)
    top = s >= s.max() - tolerance
    return np.asarray(top / top.sum())


def credit(scores: ArrayLike, gold: int, tolerance: float = TIE) -> float:
    """1/k if the gold choice is among k maxima, else 0."""
    return float(shares(scores, tolerance)[gold])


def harness_first_index(scores: ArrayLike, gold: int) -> float:
    """1 if the first maximum is the gold choice: favours whatever is listed first; for comparison only."""
    return float(int(np.argmax(np.asarray(scores, float))) == gold)


def truthful_mc1(log_probs: ArrayLike) -> float:
    """MC1: 1 if the true answer, listed first, has the largest log-probability (ties share)."""
    return credit(log_probs, 0)


def truthful_mc2(log_probs: ArrayLike, labels: Sequence[int]) -> float:
    """MC2: Σ_true e^ll / Σ_all e^ll; labels 1 for true."""
    ll, true = np.asarray(log_probs, float), np.asarray(labels) == 1
    return float(np.exp(log_sum_exp(ll[true]) - log_sum_exp(ll)))


def option_orders(k: int) -> list[tuple[int, ...]]:
    """The orders in which K options are shown: all K! for K <= 3, else the K cyclic shifts."""
    if k <= ALL_ORDERS:
        return list(itertools.permutations(range(k)))
    return [tuple((i + shift) % k for i in range(k)) for shift in range(k)]


def order_average(letter_log_probs: Sequence[ArrayLike], orders: Sequence[Sequence[int]]) -> Array:
    """(K,) answer distribution: softmax over letters within an order, mapped back to options,
    averaged over orders.

    orders[r][place] is the option shown at that letter.
    """
    out = np.zeros(len(orders[0]))
    for ll, order in zip(letter_log_probs, orders, strict=True):
        out[list(order)] += np.exp(log_softmax(ll))
    return out / len(orders)

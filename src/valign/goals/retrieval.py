"""Finding the norms that a situation calls for: by meaning (embeddings) or by words (BM25).

Always true here: both rank every norm of the bank; ties keep the order of the bank; held-out situations are never indexed.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from valign.data.group import Group
from valign.errors import require
from valign.goals.base import Array
from valign.goals.norms import Norm, NormBank
from valign.goals.principle import Principle

Embed = Callable[[Sequence[str]], Any]  # texts -> (n, d) unit vectors, such as `models.embedder.default_embedder()`


class Retriever(Protocol):
    """Scores every norm of its bank for a query."""

    @property
    def bank(self) -> NormBank: ...

    def scores(self, queries: Sequence[str]) -> Array:
        """(n_queries, n_norms), higher = nearer."""
        ...


def top(retriever: Retriever, query: str, k: int = 5) -> list[tuple[Norm, float]]:
    """The k best norms for a situation, with their scores, best first."""
    require(k >= 1, "k", k, "at least 1")
    (scores,) = retriever.scores([query])
    order = np.argsort(-scores, kind="stable")[:k]
    return [(retriever.bank.norms[i], float(scores[i])) for i in order]


def principles_for(retriever: Retriever, group: Group, k: int = 5) -> list[Principle]:
    """The k norms nearest to a group's prompt, as principles of a goal."""
    bank = retriever.bank
    return [norm.principle(bank.source, bank.license) for norm, _ in top(retriever, group.prompt_text, k)]


def hits(retriever: Retriever, queries: Sequence[str], wanted: Sequence[int], k: int = 5) -> Array:
    """(n_queries,) 1 where the wanted norm (its place in the bank) is among the k best, else 0."""
    scores = retriever.scores(queries)
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.asarray((best == np.asarray(wanted)[:, None]).any(1).astype(np.float64))


def document(norm: Norm, *, situations: bool) -> str:
    """What of a norm is searched: the rule, with the situation it was written beside where asked."""
    return f"{norm.text}. {norm.situation}" if situations and norm.situation else norm.text


@dataclass(frozen=True, eq=False)
class EmbeddingRetriever:
    """Cosine of embedded texts. situations: search the rule with its situation, not the rule alone."""

    bank: NormBank
    embed: Embed
    situations: bool = False

    @cached_property
    def _vectors(self) -> Array:
        return np.asarray(self.embed([document(n, situations=self.situations) for n in self.bank.norms]), np.float64)

    def scores(self, queries: Sequence[str]) -> Array:
        """See `Retriever.scores`: in [-1, 1]."""
        return np.asarray(np.asarray(self.embed(list(queries)), np.float64) @ self._vectors.T)


@dataclass(frozen=True, eq=False)
class BM25Retriever:
    """Okapi BM25 over lower-case words: Σ_w idf(w) f (k1 + 1) / (f + k1 (1 - b + b |d| / mean |d|)).

    idf(w) = log(1 + (N - n_w + ½) / (n_w + ½)).  stopwords: words that do not count
    """

    bank: NormBank
    k1: float = 1.2
    b: float = 0.75
    situations: bool = False
    stopwords: frozenset[str] = frozenset()

    @cached_property
    def _index(self) -> WordIndex:
        texts = [document(n, situations=self.situations) for n in self.bank.norms]
        return WordIndex(texts, self.k1, self.b, self.stopwords)

    def scores(self, queries: Sequence[str]) -> Array:
        """See `Retriever.scores`: 0 or more."""
        return self._index.scores(queries)


@dataclass(frozen=True, eq=False)
class WordIndex:
    """Okapi BM25 of any texts: see `BM25Retriever`."""

    texts: Sequence[str]
    k1: float = 1.2
    b: float = 0.75
    stopwords: frozenset[str] = frozenset()

    @cached_property
    def _counts(self) -> tuple[dict[str, Array], Array]:
        """({word: (n_texts,) how often it stands in each}, (n_texts,) number of words)."""
        words = [self._words(text) for text in self.texts]
        found: dict[str, Array] = {}
        for i, own in enumerate(words):
            for word, n in Counter(own).items():
                found.setdefault(word, np.zeros(len(words)))[i] = n
        return found, np.array([len(w) for w in words], np.float64)

    def scores(self, queries: Sequence[str]) -> Array:
        """(n_queries, n_texts), 0 or more."""
        index, lengths = self._counts
        spread = self.k1 * (1 - self.b + self.b * lengths / max(lengths.mean(), 1e-12))
        out = np.zeros((len(queries), len(lengths)))
        for q, query in enumerate(queries):
            for word in self._words(query):
                if (f := index.get(word)) is not None:
                    n = np.count_nonzero(f)
                    idf = math.log(1 + (len(lengths) - n + 0.5) / (n + 0.5))
                    out[q] += idf * f * (self.k1 + 1) / (f + spread)
        return out

    def _words(self, text: str) -> list[str]:
        return [w for w in re.findall(r"\w+", text.lower()) if w not in self.stopwords]

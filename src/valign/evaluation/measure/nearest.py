"""The training groups nearest to an output: what the policy may have learned it from. [F10]

An output is its prompt and its text; a training group is near by the nearest of its responses (by its prompt alone where it
has none). Nearness is no cause: it says where to look.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from valign.data.group import Group
from valign.errors import ModelError, require

Similar = Callable[[Sequence[str]], NDArray[Any]]  # queries -> (n_queries, n_texts), higher is nearer
COSINE, WORDS = "cosine of embeddings", "words (BM25)"


@dataclass(frozen=True, eq=False)
class TrainingIndex:
    """Training groups that can be searched. similar is over `texts_of(groups)`, in its order; law says what it is."""

    groups: Sequence[Group]
    similar: Similar
    law: str
    k: int = 3

    def __post_init__(self) -> None:
        require(self.k >= 1, "nearest", self.k, "at least 1")
        require(len(self.groups) > 0, "training data", 0, "at least one group")

    def nearest(self, prompt: str, text: str) -> list[dict[str, Any]]:
        """The k nearest groups, best first; ties keep the order of the data.

        Each with its id, prompt, nearest response (index and text; None for a prompt alone) and similarity.
        """
        places = [(i, k) for i, g in enumerate(self.groups) for k in _responses(g)]
        scores = np.asarray(self.similar([output_text(prompt, text)]), np.float64)[0]
        best: dict[int, int] = {}  # group -> its nearest text
        for at in np.argsort(-scores, kind="stable"):
            best.setdefault(places[at][0], int(at))
            if len(best) == self.k:
                break
        return [_row(self.groups[i], places[at][1], float(scores[at])) for i, at in best.items()]


def output_text(prompt: str, text: str) -> str:
    """What is compared of an output, and of a training response."""
    return f"{prompt}\n{text}"


def texts_of(groups: Sequence[Group]) -> list[str]:
    """What is compared of training groups: each response with its prompt, or the prompt alone."""
    places = [(g, k) for g in groups for k in _responses(g)]
    return [g.prompt_text if k is None else output_text(g.prompt_text, g.responses[k].text) for g, k in places]


def indexed(groups: Sequence[Group], k: int = 3) -> tuple[TrainingIndex, str]:
    """An index by meaning and "", or by words with a note where the embedder is not installed."""
    from valign.goals.retrieval import WordIndex
    from valign.models.embedder import default_embedder

    texts = texts_of(groups)
    try:
        embed = default_embedder()
    except ModelError as error:
        note = f"nearest training groups are found by words, not by meaning: {error.what} ({'; '.join(error.how)})"
        return TrainingIndex(groups, WordIndex(texts).scores, WORDS, k), note
    vectors = np.asarray(embed(texts), np.float64)
    return TrainingIndex(groups, lambda q: np.asarray(embed(q), np.float64) @ vectors.T, f"{COSINE} ({embed.id})", k), ""


def _responses(group: Group) -> Sequence[int | None]:
    return range(len(group.responses)) if group.responses else (None,)


def _row(group: Group, response: int | None, similarity: float) -> dict[str, Any]:
    said = None if response is None else group.responses[response].text
    return {"id": group.id, "response": response, "similarity": similarity, "prompt": group.prompt_text, "text": said}

"""Nearest training groups: the search equals brute force, ties keep the order, and a fallback says what it is."""

from __future__ import annotations

import numpy as np
import pytest

from valign.data.group import Group, Response, user
from valign.errors import ModelError, ValignError
from valign.evaluation.measure.explain import Question, explain
from valign.evaluation.measure.nearest import WORDS, TrainingIndex, indexed, output_text, texts_of
from valign.models import embedder


def embed(texts):
    """Counts of letters as unit vectors."""
    counts = np.array([[t.lower().count(c) for c in "abcdefghijklmnopqrstuvwxyz?"] for t in texts], float)
    return counts / np.linalg.norm(counts, axis=1, keepdims=True)


embed.id = "letters"


def groups(n: int, seed: int = 0) -> list[Group]:
    rng = np.random.default_rng(seed)

    def text() -> str:
        return "".join(rng.choice(list("abcdef ")) for _ in range(20)) + "?"

    return [Group(f"g{i}", user(text()), tuple(Response(text()) for _ in range(i % 4))) for i in range(n)]


def by_hand(data: list[Group], prompt: str, text: str, k: int) -> list[tuple[str, int | None, float]]:
    """Every group by its nearest text, one pair at a time."""
    (q,) = embed([f"{prompt}\n{text}"])
    found = []
    for g in data:
        said = [(i, f"{g.prompt_text}\n{r.text}") for i, r in enumerate(g.responses)] or [(None, g.prompt_text)]
        found.append(max(((float(embed([t])[0] @ q), -(i or 0), g.id, i) for i, t in said), key=lambda x: x[:2]))
    found.sort(key=lambda x: -x[0])
    return [(id, i, score) for score, _, id, i in found[:k]]


def test_the_search_equals_brute_force(monkeypatch):
    monkeypatch.setattr(embedder, "default_embedder", lambda: embed)
    data = groups(40)
    for k in (1, 3, 40, 60):
        index, note = indexed(data, k)
        assert note == "" and "letters" in index.law
        for g in groups(6, seed=1):
            near = index.nearest(g.prompt_text, "fade a bed")
            wanted = by_hand(data, g.prompt_text, "fade a bed", k)
            assert [(x["id"], x["response"]) for x in near] == [w[:2] for w in wanted] and len(near) == min(k, 40)
            assert np.allclose([x["similarity"] for x in near], [w[2] for w in wanted], atol=1e-12)


def test_a_group_stands_once_and_ties_keep_the_order_of_the_data():
    data = [Group(f"g{i}", user("same"), (Response("text"), Response("text"))) for i in range(3)]
    index = TrainingIndex(data, lambda q: np.ones((len(q), len(texts_of(data)))), "equal", k=2)
    assert [(x["id"], x["response"]) for x in index.nearest("p", "t")] == [("g0", 0), ("g1", 0)]


def test_without_the_embedder_words_are_compared_and_it_says_so(monkeypatch):
    def missing():
        raise ModelError("the text embedder is not installed", where="embedder", how="pip install it")

    monkeypatch.setattr(embedder, "default_embedder", missing)
    data = [Group("drums", user("My neighbour plays drums"), (Response("Talk to him"),)), Group("rain", user("Will it rain?"))]
    index, note = indexed(data, 1)
    assert index.law == WORDS and "by words" in note and "pip install it" in note
    assert index.nearest("Drums at night", "I would talk")[0]["id"] == "drums"
    assert index.nearest("rain", "tomorrow")[0] | {"similarity": 0} == {
        "id": "rain", "response": None, "similarity": 0, "prompt": "Will it rain?", "text": None}  # fmt: skip


def test_each_record_names_them():
    data = groups(5)
    index = TrainingIndex(data, lambda q: embed(q) @ embed(texts_of(data)).T, "letters", k=2)
    outputs = [Group("p", user("abc?"), (Response("fade"), Response("bed")))]
    records = explain(outputs, Question(training=index))
    assert [r["training"]["nearest"] for r in records] == [index.nearest("abc?", t) for t in ("fade", "bed")]
    assert all(r["training"]["n"] == 5 and r["training"]["similarity"] == "letters" for r in records)
    assert "training" not in explain(outputs, Question())[0] and output_text("a", "b") == "a\nb"


def test_nothing_to_search_is_refused():
    for bad in (lambda: TrainingIndex([], embed, "x"), lambda: TrainingIndex(groups(1), embed, "x", k=0)):
        with pytest.raises(ValignError):
            bad()

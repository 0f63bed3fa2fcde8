"""Fixtures of this room: goldens by id, and the comparison that all golden tests use."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from valign.data.group import Group, Prompt
from valign.models.policy import Cost, Sample, Sampling, Scored

GOLDENS = Path(__file__).parents[3] / "tests" / "fixtures" / "evaluation_goldens.json"


class Golden(dict[str, Any]):
    """One entry: `inputs`, `expected`, `tol`; `check` compares a result with what is expected."""

    @property
    def inputs(self) -> dict[str, Any]:
        return self["inputs"]

    @property
    def expected(self) -> Any:
        return self["expected"]

    def check(self, got: Any, key: str | None = None) -> None:
        want = self.expected if key is None else self.expected[key]
        assert residual(got, want, key or self["id"]) <= self["tol"]


@pytest.fixture(scope="session")
def evaluation_golden():
    """evaluation_golden("bbq.religion.race") -> the entry of that id."""
    table = {g["id"]: Golden(g) for g in json.loads(GOLDENS.read_text(encoding="utf-8"))["goldens"]}
    return table.__getitem__


def residual(got: Any, want: Any, where: str = "") -> float:
    """Largest absolute difference of two structures; a structural mismatch is infinite."""
    got = got.tolist() if isinstance(got, (np.ndarray, np.generic)) else got
    if isinstance(want, dict):
        assert set(got) == set(want), f"{where}: {sorted(set(got) ^ set(want))}"
        return max((residual(got[k], want[k], f"{where}.{k}") for k in want), default=0.0)
    if isinstance(want, list):
        assert len(got) == len(want), where
        return max((residual(g, w, f"{where}[{i}]") for i, (g, w) in enumerate(zip(got, want))), default=0.0)
    if want is None or isinstance(want, (str, bool)):
        assert got == want, f"{where}: {got!r} != {want!r}"
        return 0.0
    difference = abs(float(got) - float(want))
    assert not math.isnan(difference), where
    return difference


class Scripted:
    """A policy made of two functions: what it answers, and how probable it finds each token of a response.

    answer(prompt text, key, k) -> text        log_probs(prompt text, response text) -> numbers, one per token
    """

    kind = "weights"

    def __init__(self, log_probs=None, answer=None, id="scripted"):
        self.id, self.calls = id, 0
        self.log_probs = log_probs or (lambda prompt, response: [-1.0] * max(len(response.split()), 1))
        self.answer = answer or (lambda prompt, key, k: f"answer {k}")

    @property
    def cost(self):
        return Cost(calls=self.calls)

    def card(self):
        return {"id": self.id, "kind": self.kind, "sha256": f"sha-{self.id}", "notes": []}

    def generate(self, prompts, sampling: Sampling, *, keys=None, progress=None):
        keys = keys or [str(i) for i in range(len(prompts))]
        self.calls += len(prompts)
        return [[self._sample(p, key, k) for k in range(sampling.n)] for p, key in zip(prompts, keys)]

    def _sample(self, prompt: Prompt, key, k):
        text = self.answer(prompt[-1].content, key, k)
        raw = np.array(self.log_probs(prompt[-1].content, text), np.float32)
        return Sample(text, tuple(range(len(raw))), raw, raw, "stop")

    def score(self, groups: list[Group], *, progress=None):
        self.calls += len(groups)
        return [
            [Scored(np.array(self.log_probs(g.prompt[-1].content, r.text), np.float32)) for r in g.responses]
            for g in groups
        ]

    def save(self, folder):
        raise NotImplementedError


@pytest.fixture(scope="session")
def scripted():
    """The class of scripted policies."""
    return Scripted

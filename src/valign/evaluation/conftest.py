"""Fixtures of this room: goldens by id, and the comparison that all golden tests use."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

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

"""Profiles: which part an operation belongs to, that the parts add up, and their table."""

from __future__ import annotations

import pytest
import torch

from benchmarks import table
from benchmarks.parts import PARTS, part_of, profiled

V = 9600


@pytest.mark.parametrize(
    ("operation", "shapes", "part"),
    [
        ("aten::mm", [[40, 8], [8, 24]], "linear"),
        ("aten::mm", [[40, 8], [8, V]], "vocabulary"),
        ("aten::mm", [[40, 8], [8, V // 3]], "vocabulary"),
        ("aten::embedding_dense_backward", [[40, 8]], "vocabulary"),
        ("aten::bmm", [[9, 40, 8], [9, 8, 40]], "attention"),
        ("aten::_scaled_dot_product_flash_attention_for_cpu", [[1, 9, 40, 8]], "attention"),
        ("aten::_softmax", [[9, 40, 40]], "attention"),
        ("aten::_softmax", [[40, V]], "vocabulary"),
        ("aten::copy_", [[40, 8], [40, 8]], "copies"),
        ("aten::silu", [[40, 24]], "elementwise"),
        ("aten::_fused_adamw_", [[], []], "optimizer"),
    ],
)
def test_an_operation_belongs_to_one_part(operation, shapes, part):
    assert part_of(operation, shapes, V) == part


def test_a_profiled_run_has_seconds_in_the_parts_that_it_used():
    found: dict[str, float] = {}
    with profiled(V, found):
        hidden = torch.randn(40, 8) @ torch.randn(8, 24)
        (torch.nn.functional.silu(hidden) @ torch.randn(24, V)).log_softmax(-1)
    assert set(found) == set(PARTS)
    assert min(found[p] for p in ("linear", "vocabulary", "elementwise")) > 0
    assert found["attention"] == 0


def test_the_page_shows_seconds_of_a_unit_and_shares():
    parts = {**dict.fromkeys(PARTS, 0.0), "linear": 6.0, "outside": 2.0}
    side = {"units": 4, "positions": 1000, "seconds": 8.0, "parts": parts, "others": 0.01}
    profile = {
        "workload": "sft", "title": "SFT", "size": 4, "sized_in": "responses", "peer": "TRL", "commit": "a" * 40,
        "changed_since": False, "sides": {"valign": side, "defaults": {**side, "positions": None}},
    }  # fmt: skip
    page = "\n".join(table._profiles([profile]))
    assert "| SFT, 4 responses | valign | 1,000 | 2 | 1.5 (75%) |" in page
    assert "| TRL, defaults | – | 2 |" in page
    assert table._profiles([]) == []

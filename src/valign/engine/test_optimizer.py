"""The update is textbook AdamW, and the rate follows its schedule."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from valign.engine.optimizer import adamw, clip, learning_rate, load_state, state_tensors, trainable


def small(dtype=torch.float64):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 3), nn.LayerNorm(3)).to(dtype)
    model[2].bias.requires_grad_(False)
    return model


@pytest.mark.proof("E12")
@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_the_update_is_textbook_adamw(dtype, close):
    """E12: five steps of the fused kernel against the formulas of 1711.05101, computed in float64 from the same
    gradients; norms, biases and embeddings are not decayed."""
    model = small(dtype)
    optimizer = adamw(model, weight_decay=0.1)
    assert all(group["fused"] for group in optimizer.param_groups)
    mine = {n: p.detach().double() for n, p in model.named_parameters()}
    first, second = ({n: torch.zeros_like(p) for n, p in mine.items()} for _ in range(2))
    for t in range(1, 6):
        rate = 0.01 * t
        model(torch.tensor([1, 2, 4])).pow(2).sum().mul(t).backward()
        for n, p in trainable(model).items():
            g = p.grad.double()
            first[n] = 0.9 * first[n] + 0.1 * g
            second[n] = 0.999 * second[n] + 0.001 * g * g
            mine[n] *= 1 - rate * (0.1 if n == "1.weight" else 0.0)
            mine[n] -= rate * (first[n] / (1 - 0.9**t)) / ((second[n] / (1 - 0.999**t)).sqrt() + 1e-8)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        optimizer.zero_grad()
    assert all((mine[n] - p).abs().max() < close for n, p in model.named_parameters())


@pytest.mark.proof("E20")
def test_the_state_goes_through_names():
    """E20: state to tensors and back continues bitwise."""
    runs = []
    for handed_over in (False, True):
        model = small()
        optimizer = adamw(model, weight_decay=0.0)
        for step in range(4):
            if handed_over and step == 2:
                kept = state_tensors(optimizer, {id(p): n for n, p in trainable(model).items()})
                optimizer = adamw(model, weight_decay=0.0)
                load_state(optimizer, trainable(model), {k: v.clone() for k, v in kept.items()})
            for group in optimizer.param_groups:
                group["lr"] = 0.1
            model(torch.tensor([step])).pow(2).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        runs.append({n: p.detach().clone() for n, p in model.named_parameters()})
    assert all(torch.equal(runs[0][n], runs[1][n]) for n in runs[0])


def test_clipping_scales_all_gradients_together():
    a, b = (nn.Parameter(torch.zeros(2, dtype=torch.float64)) for _ in range(2))
    a.grad, b.grad = torch.tensor([3.0, 0.0]).double(), torch.tensor([0.0, 4.0]).double()
    assert clip([a, b], 0.0) == pytest.approx(5) and a.grad[0] == 3
    assert clip([a, b], 10.0) == pytest.approx(5) and a.grad[0] == 3
    assert clip([a, b], 1.0) == pytest.approx(5)
    assert math.hypot(a.grad[0], b.grad[1]) == pytest.approx(1, abs=1e-5)
    assert a.grad[0] / b.grad[1] == pytest.approx(3 / 4)


def test_a_gradient_that_is_not_finite_is_reported_as_it_is():
    a = nn.Parameter(torch.zeros(2))
    a.grad = torch.tensor([float("inf"), 1.0])
    assert clip([a], 1.0) == math.inf and a.grad[1] == 1
    assert clip([nn.Parameter(torch.zeros(1))], 1.0) == 0.0


@pytest.mark.parametrize(
    ("schedule", "last"),
    [("constant", 1.0), ("linear", 1 / 90), ("cosine", 0.1 + 0.45 * (1 + math.cos(math.pi * 89 / 90)))],
)
def test_schedules(schedule, last):
    """Warm-up rises over 10 of 100 steps and never starts at 0; the rate never rises afterwards."""
    rates = [learning_rate(s, 100, peak=2.0, warmup=0.1, schedule=schedule) / 2 for s in range(100)]
    assert rates[:10] == pytest.approx([(s + 1) / 11 for s in range(10)])
    assert rates[10] == 1 and rates[-1] == pytest.approx(last)
    assert all(a >= b for a, b in pairwise(rates[10:]))
    assert learning_rate(0, 1, peak=1.0, warmup=0.03, schedule=schedule) > 0

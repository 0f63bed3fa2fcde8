"""The chunked head gives the numbers and gradients of a dense log-softmax."""

from __future__ import annotations

import pytest
import torch

from valign.engine.head import HeadSpec, head_spec, token_log_probs

N, D, V, M = 11, 6, 17, 40


def inputs(bias=True, dtype=torch.float64):
    torch.manual_seed(0)
    hidden, weight = torch.randn(N, D, dtype=dtype), torch.randn(V, D, dtype=dtype)
    row, _ = torch.sort(torch.randint(0, N, (M,)))
    row[-1] = N - 1
    return hidden, weight, torch.randn(V, dtype=dtype) if bias else None, row, torch.randint(0, V, (M,))


def dense(hidden, weight, bias, row, target, spec):
    z = hidden @ weight.T
    z = z if bias is None else z + bias
    z = z * spec.scale
    z = z if spec.softcap is None else spec.softcap * torch.tanh(z / spec.softcap)
    return (z / spec.temperature).log_softmax(-1)[row, target]


SPECS = [
    HeadSpec(),
    HeadSpec(scale=0.3),
    HeadSpec(softcap=2.0),
    HeadSpec(temperature=0.7),
    HeadSpec(scale=1.7, softcap=3.0, temperature=1.3),
]


@pytest.mark.proof("E6")
@pytest.mark.parametrize("chunk", [1, 3, 7, N])
@pytest.mark.parametrize("spec", SPECS, ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_chunks_equal_a_dense_log_softmax(worst, spec, chunk, bias):
    """E6: many targets per row, any chunk, bias, scale, soft-cap and temperature; values and all
    gradients to 1e-12.
    """
    hidden, weight, b, row, target = inputs(bias)
    leaves = [x.requires_grad_() for x in (hidden, weight, b) if x is not None]
    spec = HeadSpec(spec.scale, spec.softcap, spec.temperature, chunk)
    ours, theirs = (
        token_log_probs(hidden, weight, b, row, target, spec),
        dense(hidden, weight, b, row, target, spec),
    )
    assert worst(ours, theirs) < 1e-12
    g = torch.randn(M, dtype=torch.float64)
    assert worst(torch.autograd.grad(ours, leaves, g), torch.autograd.grad(theirs, leaves, g)) < 1e-12


@pytest.mark.proof("E6")
def test_the_default_chunk_is_taken_from_memory(worst):
    """E6: without a chunk the same numbers."""
    args = inputs()
    assert worst(token_log_probs(*args, HeadSpec()), dense(*args, HeadSpec())) < 1e-12


@pytest.mark.proof("E6")
@pytest.mark.parametrize("frozen", ["hidden", "weight", "bias"])
def test_frozen_parts_get_no_gradient(worst, frozen):
    """E6: what is frozen is left out, the rest is unchanged."""
    hidden, weight, bias, row, target = inputs()
    named = {"hidden": hidden, "weight": weight, "bias": bias}
    moving = [x.requires_grad_() for n, x in named.items() if n != frozen]
    spec = HeadSpec(chunk=3)
    ours = torch.autograd.grad(token_log_probs(hidden, weight, bias, row, target, spec).sum(), moving)
    theirs = torch.autograd.grad(dense(hidden, weight, bias, row, target, spec).sum(), moving)
    assert worst(ours, theirs) < 1e-12
    assert not named[frozen].requires_grad


@pytest.mark.proof("E6")
def test_tied_embeddings_add_both_gradients(worst):
    """E6: the same weight below (embedding) and above (head)."""
    _, weight, _, row, target = inputs(False)
    weight.requires_grad_()
    ids = torch.arange(N) % V
    ours = token_log_probs(weight[ids].tanh(), weight, None, row, target, HeadSpec(chunk=4)).sum()
    theirs = dense(weight[ids].tanh(), weight, None, row, target, HeadSpec()).sum()
    assert worst(torch.autograd.grad(ours, weight), torch.autograd.grad(theirs, weight)) < 1e-12


def test_no_targets_no_rows():
    """A micro-batch without a scored token gives an empty result and a zero gradient, not an error."""
    weight = torch.randn(V, D, dtype=torch.float64, requires_grad=True)
    hidden = torch.zeros(0, D, dtype=torch.float64, requires_grad=True)
    none = torch.zeros(0, dtype=torch.long)
    out = token_log_probs(hidden, weight, None, none, none, HeadSpec())
    assert out.shape == (0,)
    assert torch.autograd.grad(out.sum(), weight)[0].abs().sum() == 0


def test_bfloat16_sums_stay_wide():
    """The log-sum-exp is float32 and the weight gradient is not rounded once per chunk."""
    hidden, weight, _, row, target = inputs(False, torch.bfloat16)
    weight.requires_grad_()
    whole, parts = (token_log_probs(hidden, weight, None, row, target, HeadSpec(chunk=c)) for c in (N, 1))
    assert whole.dtype == torch.float32
    assert torch.equal(whole, parts)
    a, b = (torch.autograd.grad(x.sum(), weight)[0] for x in (whole, parts))
    exact = weight.detach().double().requires_grad_()
    true = torch.autograd.grad(dense(hidden.double(), exact, None, row, target, HeadSpec()).sum(), exact)[0]
    assert (b.double() - true).abs().max() <= 2 * (a.double() - true).abs().max()


@pytest.mark.parametrize(
    ("family", "more", "spec"),
    [
        ("llama", {}, HeadSpec()),
        ("cohere", {"logit_scale": 0.25}, HeadSpec(scale=0.25)),
        ("granite", {"logits_scaling": 4.0}, HeadSpec(scale=0.25)),
        ("gemma2", {"final_logit_softcapping": 30.0}, HeadSpec(softcap=30.0)),
        ("recurrent_gemma", {"logits_soft_cap": 20.0}, HeadSpec(softcap=20.0)),
    ],
)
def test_the_head_is_read_from_the_config(family, more, spec):
    from transformers import AutoConfig

    assert head_spec(AutoConfig.for_model(family, **more)) == spec

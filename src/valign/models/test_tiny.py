"""Tiny models: every kind runs, is causal, is decided by its seed, and is exact in float64 inside
`float64_norms`.
"""

from __future__ import annotations

import pytest
import torch

from valign.data.group import Response, user
from valign.errors import UsageError
from valign.models.chat import ChatTemplate
from valign.models.merging import merging_tokenizer
from valign.models.tiny import KINDS, SPECIAL, WINDOW, float64_norms, tiny_model, tiny_tokenizer

LONG = "the quick brown fox jumps over the lazy dog"


def logits(model, ids) -> torch.Tensor:
    with torch.no_grad():
        return model.model(torch.tensor([ids])).logits[0]


def path(model, answer: str = LONG) -> list[int]:
    return model.template.encode(user("Hi"), Response(answer)).ids


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_runs_and_is_exact(kind):
    """Causal to float64 rounding inside `float64_norms`, the stock model again outside."""
    model = tiny_model(kind, dtype="float64")
    ids = path(model)
    stock = logits(model, ids)
    with float64_norms(model):
        whole, prefix = logits(model, ids), logits(model, ids[:20])
    bound = 1e-6 if kind == "mamba" else 1e-12  # mamba's own arithmetic has float32 in it
    assert (whole[:20] - prefix).abs().max() < bound
    assert (whole - stock).abs().max() < 1e-4
    assert torch.equal(logits(model, ids), stock)
    assert whole.std() > 0.3, "a flat model hides bugs"
    assert not model.model.training and model.dtype == torch.float64


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma3", "gemma2", "olmo2"])
def test_stock_norms_are_not_exact(kind):
    """Negative: without the replacement float64 stops far above 1e-12, so the replacement does something."""
    model = tiny_model(kind, dtype="float64")
    ids = path(model)
    with float64_norms(model):
        exact = logits(model, ids)
    assert (logits(model, ids) - exact).abs().max() > 1e-9


@pytest.mark.parametrize("kind", ["gemma2", "gemma3", "mistral"])
def test_windows_are_shorter_than_test_paths(kind):
    """A token beyond every window still matters only through layers: with one local layer alone it would
    not.
    """
    model = tiny_model(kind, dtype="float64")
    ids = path(model)
    assert len(ids) > 3 * WINDOW
    far = [*ids[:3], ids[3] + 1, *ids[4:]]
    reach = (logits(model, ids) - logits(model, far)).abs().amax(-1)
    assert reach[3] > 1e-3
    if kind == "mistral":  # two local layers reach 2 * (WINDOW - 1) tokens back
        assert reach[4 + 2 * (WINDOW - 1) :].max() < 1e-6
    else:
        assert reach[-1] > 1e-6


def test_a_model_is_decided_by_kind_seed_and_vocab():
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    assert tiny_model("llama", seed=1).digest == tiny_model("llama", seed=1).digest
    assert torch.equal(torch.rand(2), expected)
    digests = {tiny_model(k, seed=s).digest for k in KINDS for s in (0, 1)}
    assert len(digests) == 2 * len(KINDS)
    with pytest.raises(UsageError, match="did you mean: llama"):
        tiny_model("lama")


def test_one_token_per_character():
    tok = tiny_tokenizer("abc")
    assert tok("abcz", add_special_tokens=False)["input_ids"] == [7, 8, 9, 0] and len(tok) == len(SPECIAL) + 3
    t = ChatTemplate.from_tokenizer(tok)
    assert t.prompt_ids(user("ab")) == [1, 4, 7, 8, 2, 5] and t.stop_ids == (2,)
    assert t.decode([7, 2]) == "a" and all(ok for _, ok, _ in t.audit())


def test_other_tokenizers():
    model = tiny_model("llama", tokenizer=merging_tokenizer("gpt2"))
    assert model.vocab_size == 500 and model.template.stop_id == 2

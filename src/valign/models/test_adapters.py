"""Adapters: nothing at the start, base exactly when off, merged exactly, and nothing else trainable."""

from __future__ import annotations

import pytest
import torch

from valign.errors import ModelError, ValignError
from valign.models.adapters import (
    adapter_off,
    adapter_parameters,
    attach_lora,
    check_frozen,
    merge,
    merge_to_folder,
    unfreeze_adapter,
)
from valign.models.loaded import weights_digest
from valign.models.loading import load_model
from valign.models.policy_folder import save_model
from valign.models.tiny import KINDS, tiny_model

IDS = torch.tensor([[1, 4, 50, 60, 70, 2, 5, 33, 44, 55, 2]])
TARGETED = [k for k in KINDS if k not in ("mamba",)]


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model.model(IDS).logits


def train_a_step(model, rate: float = 0.05) -> None:
    """One step up the likelihood of IDS."""
    model.model.zero_grad()
    model.model(IDS, labels=IDS).loss.backward()
    with torch.no_grad():
        for parameter in model.model.parameters():
            if parameter.grad is not None:
                parameter.sub_(rate * parameter.grad)


@pytest.mark.proof("E9")
@pytest.mark.parametrize("kind", TARGETED)
def test_a_fresh_adapter_changes_nothing_and_a_trained_one_can_be_switched_off(kind):
    """E9: at the start, and with the adapter off after training, the base's numbers, bit for bit."""
    base = tiny_model(kind, dtype="float64")
    before, names = logits(base), {n: p.clone() for n, p in base.model.named_parameters()}
    model = attach_lora(base, r=4, alpha=8)
    assert torch.equal(logits(model), before)
    assert check_frozen(model) == sum(p.numel() for p in adapter_parameters(model).values()) > 0
    train_a_step(model)
    train_a_step(model)  # the first step moves B only
    assert (logits(model) - before).abs().max() > 1e-4
    with adapter_off(model):
        assert torch.equal(logits(model), before)
    assert (logits(model) - before).abs().max() > 1e-4
    now = {n.replace(".base_layer", ""): p for n, p in model.model.named_parameters()}
    assert all(torch.equal(now[n], p) for n, p in names.items()), "a base weight moved"


@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen2", "gemma3"])
def test_merging_keeps_the_function(kind):
    """W + alpha/r · B A computes what the adapted model computed, without an adapter."""
    model = attach_lora(tiny_model(kind, dtype="float64"), r=3, alpha=7)
    for _ in range(3):
        train_a_step(model)
    before, digest = logits(model), model.digest
    merged = merge(model)
    assert (logits(merged) - before).abs().max() < 1e-12
    assert merged.adapter is None and merged.kind == "weights" and merged.digest != digest
    assert not any("lora" in n for n, _ in merged.model.named_parameters())
    with pytest.raises(ModelError, match="has no adapter"):
        merge(model)


def test_merging_low_precision_weights_keeps_small_updates():
    """A bfloat16 base is merged in float32: an update below bfloat16's step would be lost otherwise."""
    model = attach_lora(tiny_model("llama", dtype="bfloat16"), r=2)
    with torch.no_grad():
        for name, parameter in adapter_parameters(model).items():
            if "lora_B" in name:
                parameter.add_(1e-6)
    base = {n: p.float().clone() for n, p in model.model.named_parameters() if "base_layer" in n}
    merged = merge(model)
    assert merged.dtype == torch.float32
    now = dict(merged.model.named_parameters())
    assert all(not torch.equal(now[n.replace(".base_layer", "")], p) for n, p in base.items())


def test_a_merged_folder_loads_alone(tmp_path):
    """`valign models merge`: weights that need no base and remember their method."""
    base = tiny_model("llama")
    base.model.save_pretrained(str(tmp_path / "base"))
    base.tokenizer.save_pretrained(str(tmp_path / "base"))
    model = attach_lora(load_model(tmp_path / "base", dtype="float32"))
    train_a_step(model)
    train_a_step(model)
    expected = logits(model)
    save_model(model, tmp_path / "adapter", method="dpo")
    merged = merge_to_folder(load_model(tmp_path / "adapter", dtype="float32"), tmp_path / "merged")
    loaded = load_model(tmp_path / "merged")
    assert (logits(loaded) - expected).abs().max() < 1e-5
    assert loaded.digest == merged.digest and loaded.card()["method"] == "dpo" and loaded.kind == "weights"
    with pytest.raises(ModelError, match="already exists; nothing was overwritten"):
        merge_to_folder(load_model(tmp_path / "adapter", dtype="float32"), tmp_path / "merged")


def test_switching_off_leaves_gradients_as_they_were():
    """Loaded adapters are frozen and stay so; fresh ones are trainable and stay so; errors inside change
    nothing.
    """
    model = attach_lora(tiny_model("llama"))
    for frozen in (False, True):
        if frozen:
            model.model.requires_grad_(False)
        before = {n: p.requires_grad for n, p in model.model.named_parameters()}
        with pytest.raises(RuntimeError), adapter_off(model):
            raise RuntimeError
        assert {n: p.requires_grad for n, p in model.model.named_parameters()} == before
    unfreeze_adapter(model)
    assert check_frozen(model) > 0


def test_a_trainable_base_weight_is_noticed():
    model = attach_lora(tiny_model("llama"))
    model.model.lm_head.weight.requires_grad_(True)
    with pytest.raises(ModelError, match="lm_head.weight is trainable"):
        check_frozen(model)


def test_adapters_are_addressed_by_seed_and_leave_randomness_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    tensors = [
        {n: p for n, p in adapter_parameters(attach_lora(tiny_model("llama"), seed=s)).items()}
        for s in (1, 1, 2)
    ]
    assert torch.equal(torch.rand(3), expected)
    one, same, other = map(weights_digest, tensors)
    assert one == same != other


def test_settings_are_checked():
    with pytest.raises(ValignError, match="r = 0"):
        attach_lora(tiny_model("llama"), r=0)
    with pytest.raises(ValignError, match="dropout"):
        attach_lora(tiny_model("llama"), dropout=1.0)
    with pytest.raises(ModelError, match="does not fit"):
        attach_lora(tiny_model("llama"), targets=["no_such_layer"])
    with pytest.raises(ModelError, match="has an adapter already"):
        attach_lora(attach_lora(tiny_model("llama")))
    with pytest.raises(ModelError, match="has no adapter"), adapter_off(tiny_model("llama")):
        pass


def test_named_targets():
    model = attach_lora(tiny_model("llama"), targets=["q_proj", "v_proj"])
    assert {n.split(".")[-4] for n in adapter_parameters(model)} == {"q_proj", "v_proj"}

"""The scalar head: its first weights, and folders of reward models that other tools read alike."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from valign.errors import ModelError
from valign.models.loading import load_model, load_scalar_model
from valign.models.policy_folder import save_model, save_reward
from valign.models.scalar_head import attach_head, first_head
from valign.models.tiny import KINDS, tiny_model

IDS = torch.arange(7, 25)[None]


def scalar_model(kind="llama", seed=0):
    model = tiny_model(kind, seed=seed)
    attach_head(model.model, first_head(32, seed))
    return model


def saved(model, folder):
    return save_reward(model, folder, method="reward_model", config={}, goal=None, extra={"mean": 0.5})


def number(model):
    network = model.model
    with torch.no_grad():
        return network.score(getattr(network, network.base_model_prefix)(input_ids=IDS).last_hidden_state[0, -1])


def test_the_first_head_follows_from_width_and_seed():
    """N(0, 1 / (width + 1)): the mean square of many weights is that variance."""
    assert np.array_equal(first_head(64, 3), first_head(64, 3))
    assert not np.allclose(first_head(64, 3), first_head(64, 4))
    wide = first_head(40_000, 0)
    assert np.mean(wide**2) * 40_001 == pytest.approx(1, abs=4 * np.sqrt(2 / 40_000)), "false alarm: 6e-5"
    assert abs(wide.mean()) * 40_001**0.5 < 4 / 200
    with pytest.raises(ModelError, match="32 weights"):
        attach_head(tiny_model().model, first_head(31, 0))


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_model_is_the_same_one_and_a_sequence_classifier_to_others(kind, tmp_path):
    """valign and transformers read the number that was saved; the vocabulary's head is not in the file."""
    from safetensors import safe_open
    from transformers import AutoModelForSequenceClassification
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES as KNOWN

    model = scalar_model(kind)
    expected = number(model)
    saved(model, tmp_path / "rm")
    again = load_scalar_model(tmp_path / "rm", dtype="float32")
    assert torch.allclose(number(again), expected, atol=1e-6)
    assert again.digest == json.loads((tmp_path / "rm" / "policy.json").read_text())["digest"]
    with safe_open(str(tmp_path / "rm" / "model.safetensors"), framework="pt") as tensors:
        names = list(tensors.keys())
    assert "score.weight" in names and not any("lm_head" in n or "embed_out" in n for n in names)
    if model.model.config.model_type in KNOWN:
        theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "rm", dtype=torch.float32)
        with torch.no_grad():
            assert torch.allclose(theirs(input_ids=IDS).logits[0], expected, atol=1e-6)
        assert theirs.config.pad_token_id not in model.template.stop_ids


def test_a_damaged_or_another_folder_is_refused(tmp_path):
    saved(scalar_model(), tmp_path / "rm")
    saved(scalar_model(seed=1), tmp_path / "other")
    (tmp_path / "other" / "model.safetensors").replace(tmp_path / "rm" / "model.safetensors")
    with pytest.raises(ModelError, match="not those that policy.json was written for"):
        load_scalar_model(tmp_path / "rm")
    (tmp_path / "rm" / "model.safetensors").write_bytes(b"cut off")
    with pytest.raises(ModelError, match="cut off or damaged"):
        load_scalar_model(tmp_path / "rm")
    save_model(tiny_model(), tmp_path / "policy")
    with pytest.raises(ModelError, match=r"holds a policy \(weights\), not a reward model"):
        load_scalar_model(tmp_path / "policy")
    with pytest.raises(ModelError, match="already exists"):
        saved(scalar_model(), tmp_path / "policy")


def test_a_missing_head_is_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    saved(scalar_model(), tmp_path / "rm")
    file = tmp_path / "rm" / "model.safetensors"
    tensors = load_file(file)
    del tensors["score.weight"]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"no tensor score\.weight"):
        load_scalar_model(tmp_path / "rm")


def test_a_reward_model_is_no_policy(tmp_path):
    """One error, that says what it is and what it is for."""
    saved(scalar_model(), tmp_path / "rm")
    with pytest.raises(ModelError, match=r"scores responses and generates none[\s\S]*--reward"):
        load_model(tmp_path / "rm")

"""load_model: every kind of name loads, and every damaged or unfit model is one clear `ModelError`."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from valign.data.group import Response, user
from valign.errors import ModelError, UsageError
from valign.models.adapters import attach_lora
from valign.models.loading import assemble, load_model
from valign.models.policy_folder import save_model, write_policy_folder
from valign.models.tiny import tiny_model, tiny_tokenizer


@pytest.fixture(scope="module")
def original():
    return tiny_model("llama", seed=3)


@pytest.fixture
def folder(original, tmp_path):
    """A plain folder of transformers."""
    place = tmp_path / "tiny"
    original.model.save_pretrained(str(place))
    original.tokenizer.save_pretrained(str(place))
    return place


def logits(model, prompt: str = "Hello there") -> torch.Tensor:
    ids = model.template.encode(user(prompt), Response("Good day.")).ids
    with torch.no_grad():
        return model.model(torch.tensor([ids])).logits


def edit(path, **changes) -> None:
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, **changes}))


def refused(name, match: str, **options) -> ModelError:
    """Assert that loading is refused with what, where and (nearly always) how; return the error."""
    with pytest.raises(ModelError, match=match) as caught:
        load_model(name, dtype=options.pop("dtype", "float32"), **options)
    assert caught.value.where
    assert "Traceback" not in str(caught.value) and len(str(caught.value)) < 900
    return caught.value


# --------------------------------------------------------------------------------------------- what loads


def test_a_folder_loads_as_it_was_saved(original, folder):
    loaded = load_model(folder, dtype="float32", device="cpu")
    assert torch.equal(logits(loaded), logits(original))
    assert not loaded.model.training and loaded.kind == "weights" and loaded.source == folder
    assert loaded.template.sha256 == original.template.sha256
    card = json.loads(json.dumps(loaded.card()))
    assert (
        card["id"] == str(folder)
        and card["parameters"] == original.n_parameters
        and card["dtype"] == "float32"
    )


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", torch.float64])
def test_number_formats(folder, dtype):
    loaded = load_model(folder, dtype=dtype)
    assert (
        loaded.dtype
        == next(loaded.model.parameters()).dtype
        == getattr(torch, str(dtype).removeprefix("torch."))
    )


def test_an_unknown_number_format_is_a_usage_error(folder):
    with pytest.raises(UsageError, match="did you mean: float32"):
        load_model(folder, dtype="flot32")
    refused(folder, "device 'tpu' is not usable", device="tpu")


def test_digest_names_what_the_model_computes(original, folder, tmp_path):
    """Equal content, equal digest; one changed weight or setting changes it; a moved folder does not."""
    first = load_model(folder, dtype="float32").digest
    moved = shutil.copytree(folder, tmp_path / "moved")
    assert load_model(moved, dtype="float64").digest == first
    edit(moved / "config.json", rms_norm_eps=1e-3)
    assert load_model(moved, dtype="float32").digest != first
    other = tiny_model("llama", seed=4)
    other.model.save_pretrained(str(tmp_path / "moved"))
    assert load_model(moved, dtype="float32").digest != first


def test_shards_load(original, folder):
    (folder / "model.safetensors").unlink()
    original.model.save_pretrained(str(folder), max_shard_size="40KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    assert torch.equal(logits(load_model(folder, dtype="float32")), logits(original))


def test_an_adapter_loads_on_its_base(folder, tmp_path):
    """A plain peft folder: the base is found by the name in its config, also beside the adapter."""
    base = load_model(folder, dtype="float32")
    adapted = attach_lora(base, r=4, alpha=8)
    shake(adapted)
    expected = logits(adapted)
    place = tmp_path / "adapter"
    adapted.adapter.save_pretrained(str(place), save_embedding_layers=False)
    edit(place / "adapter_config.json", base_model_name_or_path=str(folder))
    loaded = load_model(place, dtype="float32")
    assert torch.equal(logits(loaded), expected)
    assert (loaded.kind, loaded.base) == ("adapter", str(folder))
    assert loaded.digest != loaded.base_digest == base.digest
    edit(place / "adapter_config.json", base_model_name_or_path="../tiny")
    assert torch.equal(logits(load_model(place, dtype="float32")), expected)


def shake(model) -> None:
    """Move the adapter off its start, where it does nothing."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.model.named_parameters():
            if "lora_" in name:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


# -------------------------------------------------------------------------------------------------- names


def test_names_that_are_nothing():
    assert "did you mean smollm2-135m-instruct" in str(refused("smollm2-135m-instrct", "there is no model"))
    refused("no/such/folder/at/all", "there is no model")


def test_a_hub_id_without_network_is_one_clear_error(monkeypatch, tmp_path):
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    error = refused("somebody/some-model", "not in the local hub cache, and HF_HUB_OFFLINE is set")
    assert error.where == "somebody/some-model" and "without network" in error.how[0]


def test_a_folder_without_a_model(tmp_path):
    refused(tmp_path, "no config.json: this is not a model folder")
    (tmp_path / "a.txt").write_text("x")
    refused(tmp_path / "a.txt", "must be a .gguf")


# ------------------------------------------------------------------------------------------------- damage


def test_a_config_that_cannot_be_used(folder):
    config = folder / "config.json"
    whole = config.read_text()
    edit(config, model_type="bert", architectures=["BertForMaskedLM"])
    refused(folder, "BertForMaskedLM does not generate text")
    edit(config, model_type="t5", is_encoder_decoder=True)
    refused(folder, "t5 is an encoder-decoder")
    config.write_text(whole)
    edit(config, model_type="nosuch", architectures=["NoSuchForCausalLM"])
    refused(folder, "architecture 'nosuch' is not a known causal language model")
    edit(config, auto_map={"AutoModelForCausalLM": "modeling.NoSuch"})
    assert "--trust-remote-code" in str(refused(folder, "not a known"))
    config.write_text(whole[:40])
    refused(folder, "config.json: not JSON")
    config.write_text("{}")
    refused(folder, "does not say model_type")


def test_a_missing_shard(original, folder):
    (folder / "model.safetensors").unlink()
    original.model.save_pretrained(str(folder), max_shard_size="40KB")
    gone = sorted(folder.glob("model-*.safetensors"))[1]
    gone.unlink()
    refused(folder, f"1 of .* weight files are missing: {gone.name}")


@pytest.mark.parametrize("keep", [0, 7, 2000, -1])
def test_truncated_weights(folder, keep):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    assert refused(folder, "cut off or damaged").where == str(path)


def test_no_weights_and_pickled_weights(original, folder):
    (folder / "model.safetensors").unlink()
    refused(folder, "no weights")
    torch.save(original.model.state_dict(), folder / "pytorch_model.bin")
    assert "--allow-pickle" in str(refused(folder, "pickled .*can run any program"))
    assert torch.equal(logits(load_model(folder, dtype="float32", allow_pickle=True)), logits(original))


def test_weights_that_do_not_belong_to_the_config(folder, tmp_path):
    edit(folder / "config.json", num_hidden_layers=3)
    refused(folder, r"tensor\(s\) of the model are missing: model.layers.2")
    edit(folder / "config.json", num_hidden_layers=2, intermediate_size=40)
    refused(folder, "mismatch|cannot be loaded")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(folder, bad):
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = bad
    save_file(tensors, path, metadata={"format": "pt"})
    refused(folder, "tensor model.layers.1.mlp.up_proj.weight holds 1 numbers of .* NaN or infinite")


def test_a_tokenizer_that_is_missing_or_another(folder):
    tiny_tokenizer("".join(map(chr, range(32, 300)))).save_pretrained(str(folder))
    refused(folder, r"the tokenizer has ids up to 274, the model's vocabulary has 103 rows")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / name).unlink()
    refused(folder, "no tokenizer that can be loaded")


def test_padded_rows_are_allowed():
    """Published models have more rows than tokens; the other way round is an error."""
    assert tiny_model("llama", rows=128).vocab_size == 128
    small = tiny_model("llama")
    with pytest.raises(ModelError, match="ids up to 199"):
        assemble("x", small.model, tiny_tokenizer("".join(map(chr, range(32, 225)))))


@pytest.mark.parametrize(
    "break_it", ["missing", "truncated", "pickled", "no base", "unknown base", "itself", "other"]
)
def test_adapters_that_do_not_load(folder, tmp_path, break_it):
    adapted = attach_lora(load_model(folder, dtype="float32"))
    place = tmp_path / "adapter"
    save_model(adapted, place)
    (place / "policy.json").unlink()
    file, config = place / "adapter_model.safetensors", place / "adapter_config.json"
    match break_it:
        case "missing":
            file.unlink()
            refused(place, "no adapter_model.safetensors")
        case "truncated":
            file.write_bytes(file.read_bytes()[:-8])
            refused(place, "cut off or damaged")
        case "pickled":
            file.rename(place / "adapter_model.bin")
            assert "--allow-pickle" in str(refused(place, "adapter is pickled"))
        case "no base":
            edit(config, base_model_name_or_path=None)
            refused(place, "does not name its base model")
        case "unknown base":
            edit(config, base_model_name_or_path="gone")
            refused(place, "there is no model 'gone'")
        case "itself":
            edit(config, base_model_name_or_path=str(place))
            refused(place, "refer to each other")
        case "other":
            other = tmp_path / "other"
            wide = tiny_model("qwen3")
            wide.model.save_pretrained(str(other))
            wide.tokenizer.save_pretrained(str(other))
            edit(config, base_model_name_or_path=str(other))
            refused(place, "does not fit the base model")


# ----------------------------------------------------------------------------------------- policy folders


def test_policy_folder_of_weights(folder, tmp_path):
    """float32 is kept under dtype auto, identity and history come back, and other files under it are
    noticed.
    """
    start = load_model(folder, dtype="float32")
    with torch.no_grad():
        start.model.lm_head.weight.add_(1e-6)
    place = tmp_path / "aligned"
    saved = save_model(start, place, method="dpo", config={"beta": 0.1})
    loaded = load_model(place)
    assert loaded.dtype == torch.float32 and torch.equal(logits(loaded), logits(start))
    assert loaded.digest == saved.digest != start.digest
    card = loaded.card()
    assert (card["method"], card["config"]) == ("dpo", {"beta": 0.1})
    shutil.copy(folder / "model.safetensors", place / "model.safetensors")
    error = refused(place, "not those that policy.json was written for")
    assert saved.digest[:16] in str(error) and start.digest[:16] in str(error)


def test_policy_folder_of_an_adapter(folder, tmp_path):
    """Only the adapter is written; loading finds the base; another base under the same name is refused."""
    adapted = attach_lora(load_model(folder, dtype="float32"), r=2)
    shake(adapted)
    place = tmp_path / "aligned"
    saved = save_model(adapted, place, method="dpo")
    assert not (place / "model.safetensors").exists() and not (place / "README.md").exists()
    loaded = load_model(place, dtype="float32")
    assert torch.equal(logits(loaded), logits(adapted)) and loaded.digest == saved.digest
    assert loaded.card()["base"] == str(folder)
    tiny_model("llama", seed=9).model.save_pretrained(str(folder))
    error = refused(place, "the adapter was trained on another")
    assert str(loaded.base_digest)[:16] in str(error)


def test_policy_folders_without_weights_are_for_another_loader(tmp_path):
    write_policy_folder(tmp_path / "p", kind="context", base="smollm2-135m-instruct", method="urial")
    refused(tmp_path / "p", "wraps smollm2-135m-instruct by the method urial")
    edit(tmp_path / "p" / "policy.json", schema=99)
    refused(tmp_path / "p", "schema 99 is not known")
    edit(tmp_path / "p" / "policy.json", schema=1, kind="magic")
    refused(tmp_path / "p", "unknown kind 'magic'")


def test_a_damaged_gguf_file(tmp_path):
    for content in (b"", b"GGUF", b"not a model at all" * 100):
        (tmp_path / "m.gguf").write_bytes(content)
        refused(tmp_path / "m.gguf", "cut off or damaged")

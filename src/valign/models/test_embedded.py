"""The embedded default: the right file, converted once and whole, and it talks."""

from __future__ import annotations

import json
import multiprocessing
import shutil
from pathlib import Path

import pytest
import torch

from valign.data.group import user
from valign.errors import ModelError
from valign.models import embedded
from valign.models.chat import ChatTemplate
from valign.models.tiny import tiny_model

SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """An empty cache, and a stand-in for the slow conversion: a tiny model under the default's name."""
    monkeypatch.setenv("VALIGN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(embedded, "read_gguf", stand_in)
    embedded._checked.cache_clear()
    yield tmp_path / "cache"
    embedded._checked.cache_clear()


def stand_in(path):
    model = tiny_model("llama")
    return model.model, model.tokenizer, ("a note",)


def converted(place: Path) -> list[str]:
    return sorted(p.name for p in (place / "models").iterdir() if not p.name.endswith(".lock"))


# --------------------------------------------------------------------------------------------- conversion


def test_conversion_happens_once_and_is_checked(own_cache, monkeypatch):
    target = embedded.folder()
    assert target.parent.parent == own_cache and converted(own_cache) == [target.name]
    manifest = json.loads((target / "manifest.json").read_text())
    assert manifest["source_sha256"] == embedded.SHA256 and "model.safetensors" in manifest["files"]
    assert embedded.notes(target)[-1] == "a note" and embedded.damaged(target) == []
    monkeypatch.setattr(embedded, "read_gguf", lambda path: pytest.fail("converted twice"))
    assert embedded.folder() == target
    assert all(ok for _, ok, _ in embedded.verify())


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_damaged_cache_is_noticed_and_converted_again(own_cache, file, caplog):
    target = embedded.folder()
    path = target / file
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + b"\x00")
    embedded._checked.cache_clear()  # as in a new process
    assert not all(ok for _, ok, _ in embedded.verify())
    assert embedded.folder() == target and path.read_bytes() == whole
    assert "is damaged" in caplog.text and file in caplog.text
    path.unlink()
    embedded._checked.cache_clear()
    assert embedded.damaged(target) == [f"{file} is missing"]
    embedded.folder()
    assert path.exists()


def test_an_interrupted_conversion_leaves_nothing_half(own_cache, monkeypatch):
    def interrupted(path):
        raise KeyboardInterrupt

    monkeypatch.setattr(embedded, "_mend", lambda model, tokenizer: interrupted(None))
    with pytest.raises(KeyboardInterrupt):
        embedded.folder()
    assert converted(own_cache) == []
    monkeypatch.undo()


def test_a_killed_conversion_is_cleared_away(own_cache):
    partial = embedded.cached_folder().with_name(embedded.cached_folder().name + ".partial")
    partial.mkdir(parents=True)
    (partial / "model.safetensors").write_bytes(b"half")
    target = embedded.folder()
    assert converted(own_cache) == [target.name]


def convert_in_process(count: str) -> None:
    def counting(path):
        with open(count, "a", encoding="utf-8") as log:
            log.write("x")
        return stand_in(path)

    embedded.read_gguf = counting
    assert embedded.damaged(embedded.folder()) == []


def test_two_processes_convert_once(own_cache, tmp_path):
    count = tmp_path / "count"
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=convert_in_process, args=(str(count),)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [w.exitcode for w in workers] == [0, 0]
    assert count.read_text() == "x"


def test_a_cache_that_cannot_be_written_is_worked_around(tmp_path, monkeypatch, caplog):
    """One line in the log, and the model all the same."""
    from valign.models.loading import load_model

    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("VALIGN_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(embedded, "read_gguf", stand_in)
    loaded = load_model("smollm2-135m-instruct", dtype="float32")
    assert loaded.notes[-1] == "a note" and "converted in memory" in caplog.text


def test_another_package_is_refused(own_cache, tmp_path, monkeypatch):
    """Wrong sha256, or not installed: one error with the install line."""

    class Spec:
        submodule_search_locations = (str(tmp_path),)

    (tmp_path / embedded.FILE).write_bytes(b"another file")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: Spec)
    with pytest.raises(ModelError, match=r"sha256 is .* expected b179c9523d0e6a0f"):
        embedded.folder()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match="not installed") as caught:
        embedded.folder()
    assert caught.value.how == (embedded.INSTALL,)
    assert not converted(own_cache)
    shutil.rmtree(own_cache)


# ----------------------------------------------------------------------------------------- the real model


@pytest.mark.real
def test_the_packaged_file_is_the_pinned_one():
    assert embedded.gguf_path().name == embedded.FILE


@pytest.mark.real
def test_tokenizer_is_the_published_one(embedded_tokenizer):
    """Special tokens, digits one by one, default system prompt: what SmolLM2 was trained with."""
    tok = embedded_tokenizer
    ids = {
        t: tok.convert_tokens_to_ids(t)
        for t in ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>")
    }
    assert ids == {"<|endoftext|>": 0, "<|im_start|>": 1, "<|im_end|>": 2, "<repo_name>": 3}
    assert (tok.bos_token, tok.eos_token, tok.pad_token, tok.unk_token) == (
        *("<|im_start|>", "<|im_end|>", "<|im_end|>", "<|endoftext|>"),
    )
    assert tok.tokenize("12345") == ["1", "2", "3", "4", "5"]
    assert tok.tokenize("a  3") == ["a", "ĠĠ", "3"]  # without the mended split: "a", "Ġ", "Ġ", "3"
    assert tok.tokenize("x²½") == ["x", "Â²", "Â½"]
    assert len(tok) == 49152
    t = ChatTemplate.from_tokenizer(tok)
    assert t.prompt_text(user("Hi")) == (
        f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    assert t.prompt_text(user("Hi", system="Be kind.")).startswith("<|im_start|>system\nBe kind.<|im_end|>\n")
    assert t.stop_ids == (2, 0) and not t.start and not t.lead and not t.is_fallback
    assert t.prompt_ids(user("Hi"))[:3] == [1, 9690, 198] and all(ok for _, ok, _ in t.audit())


@pytest.mark.real
def test_text_survives_the_tokenizer(embedded_tokenizer, texts):
    """Byte-level: a text comes back, special tokens in it included, if the vocabulary has all of its bytes.

    The published vocabulary has no token for bytes that its training never saw: six control characters, and
    the first byte of the unassigned planes from U+40000 to U+BFFFF.
    """
    for prompt, response in texts:
        whole = "".join(c for c in prompt + response if not 0x40000 <= ord(c) < 0xC0000)
        ids = embedded_tokenizer(whole, add_special_tokens=False)["input_ids"]
        assert embedded_tokenizer.decode(ids, clean_up_tokenization_spaces=False) == whole


@pytest.mark.real
def test_weights_are_the_dequantized_ones(default_model):
    """Every block of 32 numbers has at most 16 levels, d * q + m: float32 keeps them, bfloat16 would not."""
    import gguf

    reader = gguf.GGUFReader(str(embedded.gguf_path()))
    packed = next(t for t in reader.tensors if t.name == "blk.7.ffn_down.weight")
    expected = torch.from_numpy(gguf.quants.dequantize(packed.data, packed.tensor_type).copy())
    weight = default_model.model.model.layers[7].mlp.down_proj.weight
    assert torch.equal(weight, expected)
    assert (weight.bfloat16().float() == weight).float().mean() < 0.5
    assert default_model.model.lm_head.weight is default_model.model.model.embed_tokens.weight
    assert default_model.n_parameters == 134_515_008 and default_model.max_positions == 8192


@pytest.mark.real
def test_it_talks(default_model):
    """Greedy, with the chat template: a right answer, ended by the stop token."""
    t = default_model.template
    ids = t.prompt_ids(user("What is the capital of France?"))
    out = default_model.model.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=20)[
        0, len(ids) :
    ].tolist()
    assert t.decode(out) == "The capital of France is Paris." and out[-1] == t.stop_id

"""Small tokenizers that merge, trained in a moment on a few sentences: stand-ins for the published families.

For tests and documents, like `tiny`: a model built on one of them meets merges over the border, dummy
spaces, byte fallback and start tokens without a download. Always true here: training is deterministic,
every unicode text can be encoded.
"""

from __future__ import annotations

import json
import math
from typing import Any

from valign.errors import unknown

CORPUS = (
    "The kind teacher said that the other children had been there before, and they all thanked her warmly.",
    "  Indented text, with   several spaces;\n\n\tand tabs.\nAnd then the answer: the answer is the best.",
    "User: what is the answer?\nAssistant: the answer is 12345, isn't it? No, it isn't; there's another one.",
    "Überraschung! Les élèves étaient là, à côté du théâtre. 日本語の文章もあります。 Привет, как дела? 🙂🙂",
    "if (a[0] == b[1]) { return {'key': [1, 2, 3]}; }  // ... --- === <tag> </tag> 100% of $5.00",
)
KINDS = ("gpt2", "llama", "metaspace", "unigram")
SIZE = 500  # tokens: enough for merges of words and of spaces
CHATML = (
    "{% for m in messages %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA2 = (  # strips what it renders, has no system turn, and leaves the space before an answer to the answer
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'].strip() + ' [/INST]' }}"
    "{% elif m['role'] == 'assistant' %}{{ ' ' + m['content'].strip() + ' ' + eos_token }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)


def merging_tokenizer(kind: str) -> Any:
    """A fast tokenizer with the chat template of its family.

    gpt2        byte-level BPE, ChatML, no start token
    llama       BPE on "▁" with byte fallback; a dummy space before text; start token; Llama-2 turns
    metaspace   the same with the dummy space at the very first word only; no template
    unigram     Unigram on "▁" with byte fallback; start token; ChatML that does not write it
    Raises `UsageError` for an unknown kind.
    """
    if kind not in KINDS:
        raise unknown("merging tokenizer", kind, KINDS)
    return _gpt2() if kind == "gpt2" else _sentencepiece(kind)


def _gpt2() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(CORPUS, trainer)
    return _wrapped(backend, CHATML, eos_token="<|endoftext|>")


def _sentencepiece(kind: str) -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    special = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    fallback = [f"<0x{i:02X}>" for i in range(256)]
    teacher = Tokenizer(models.BPE(unk_token="<unk>"))
    teacher.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    trainer = trainers.BpeTrainer(vocab_size=SIZE, special_tokens=special, show_progress=False)
    teacher.train_from_iterator(CORPUS, trainer)
    trained = json.loads(teacher.to_str())["model"]
    backend = Tokenizer(_unigram(trained, fallback) if kind == "unigram" else _bpe(trained, fallback))
    if (
        kind == "llama"
    ):  # as converted Llama-1 and -2 tokenizers do it: by normalizing, after every special token
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens(special)
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", backend.token_to_id("<s>"))]
    )
    template = {"llama": LLAMA2, "unigram": CHATML}.get(kind)
    return _wrapped(backend, template, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def _wrapped(backend: Any, template: str | None, **special: str) -> Any:
    import transformers

    wrapper: Any = transformers.PreTrainedTokenizerFast
    tokenizer = wrapper(tokenizer_object=backend, **special)
    tokenizer.chat_template = template
    return tokenizer


def _bpe(trained: dict[str, Any], fallback: list[str]) -> Any:
    """The trained merges, with one token per byte behind them."""
    from tokenizers import models

    vocab = dict(trained["vocab"])
    for token in fallback:
        vocab.setdefault(token, len(vocab))
    merges = [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in trained["merges"]]
    return models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)


def _unigram(trained: dict[str, Any], fallback: list[str]) -> Any:
    """The same pieces with log-probs by Zipf's law: training a Unigram model is not repeatable."""
    from tokenizers import models

    pieces = [*sorted(trained["vocab"], key=trained["vocab"].__getitem__), *fallback]
    scored = [(piece, -math.log(rank + 10.0)) for rank, piece in enumerate(dict.fromkeys(pieces))]
    return models.Unigram(scored, unk_id=0, byte_fallback=True)

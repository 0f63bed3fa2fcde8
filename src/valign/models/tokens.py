"""Rendering, encoding, and the start and stop tokens of a tokenizer, read off it rather than assumed.

Always true here: nothing is added to a text that is encoded, and special tokens in it are recognized. What
a path is made of is `chat`'s subject.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

from valign.data.group import Prompt
from valign.errors import ModelError

FALLBACK = (
    "{% for m in messages %}"
    "{% if m['role'] == 'system' %}{{ m['content'] + '\n\n' }}"
    "{% elif m['role'] == 'assistant' %}{{ 'Assistant: ' + m['content'] + eos_token + '\n' }}"
    "{% else %}{{ (m['role'] | capitalize) + ': ' + m['content'] + '\n' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
# Texts that end a turn or a document in published models: one that is a token of a vocabulary is a stop
END_TOKENS = (
    *("</s>", "<eos>", "<|endoftext|>", "<|end_of_text|>", "<|im_end|>", "<|eot_id|>", "<|eom_id|>"),
    *("<end_of_turn>", "<|end_of_turn|>", "<|end|>", "<|return|>", "<turn|>"),
)
PROBE = "Xylograph."  # a content that no template contains
GENERATION_MARK = re.compile(r"\{%-?\s*generation\s*-?%\}")


def render(tokenizer: Any, source: str, messages: list[dict[str, str]], *, prompt: bool = False) -> str:
    """The text of a conversation; with `prompt` the header of the assistant's next turn is added."""
    texts, _ = _rendered(tokenizer, source, messages, add_generation_prompt=prompt)
    return str(texts[0])


def marked(tokenizer: Any, source: str, messages: list[dict[str, str]]) -> list[tuple[int, int]]:
    """Character spans between {% generation %} and {% endgeneration %}."""
    _, marks = _rendered(tokenizer, source, messages, return_assistant_tokens_mask=True)
    return [(int(first), int(end)) for first, end in marks[0]]


def _rendered(tokenizer: Any, source: str, messages: list[dict[str, str]], **options: Any) -> Any:
    from transformers.utils.chat_template_utils import render_jinja_template

    names = tokenizer.special_tokens_map
    return render_jinja_template(conversations=[messages], chat_template=source, **options, **names)


def state(tokenizer: Any) -> str:
    """All that decides how text becomes ids, as one string."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return repr(sorted(tokenizer.get_vocab().items()))
    parts = json.loads(backend.to_str())
    passing = ("padding", "truncation")  # left by the last call
    return json.dumps({k: v for k, v in parts.items() if k not in passing}, sort_keys=True)


def plain(messages: Prompt) -> list[dict[str, str]]:
    return [{"role": m.role, "content": m.content} for m in messages]


def encode(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Ids of each text, special tokens that stand in it recognized, none added."""
    if not texts:
        return []
    out = tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False, verbose=False)
    return list(out["input_ids"])


def common(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the common prefix."""
    if list(a) == list(b[: len(a)]):
        return len(a)
    return next(i for i, (x, y) in enumerate(zip([*a, None], [*b, None], strict=False)) if x != y)


def template_of(tokenizer: Any) -> str | None:
    """The template that a tokenizer carries; of several named ones the default."""
    own = tokenizer.chat_template
    return own.get("default") if isinstance(own, dict) else own


def text_start(tokenizer: Any) -> tuple[int, ...]:
    """The ids that a tokenizer puts before text by default."""
    (plain,) = encode(tokenizer, ["a"])
    full = list(tokenizer("a")["input_ids"])
    at = next((i for i in range(len(full)) if full[i : i + len(plain)] == plain), 0)
    return tuple(full[:at])


def chat_start(tokenizer: Any, ids: list[int], text_start: tuple[int, ...]) -> tuple[int, ...]:
    """What must stand before a rendered chat so that it opens with exactly one start token."""
    bos = tokenizer.bos_token_id
    written = next((i for i, x in enumerate(ids) if x != bos), len(ids))
    if written > 1 or (written == 1 and text_start and text_start[0] != bos):
        names = [repr(t) for t in tokenizer.convert_ids_to_tokens([*ids[:written], *text_start])]
        raise ModelError(
            f"two start tokens: the template writes {', '.join(names[:written])}"
            + (f", the tokenizer adds {', '.join(names[written:])}" if text_start else ""),
            where=name_of(tokenizer),
            how="remove one of them from the chat template or the tokenizer's settings",
        )
    return () if written else text_start


def turn_end(tokenizer: Any, tail: str) -> int:
    """The first special token after an answer, else the tokenizer's end token."""
    special = {int(i) for i in tokenizer.added_tokens_decoder} | {tokenizer.eos_token_id}
    found = next((i for i in encode(tokenizer, [tail])[0] if i in special), tokenizer.eos_token_id)
    if found is None:
        raise ModelError(
            "no end token: the chat template ends no turn with one, and the tokenizer names none",
            where=name_of(tokenizer),
            how="set eos_token in tokenizer_config.json",
        )
    return int(found)


def all_ends(tokenizer: Any, stop_id: int, end_ids: Iterable[int]) -> tuple[int, ...]:
    """Every end token, the one of a turn first."""
    special = {t.content: int(i) for i, t in tokenizer.added_tokens_decoder.items()}
    eos = tokenizer.eos_token_id
    known = [special[t] for t in END_TOKENS if t in special]
    return tuple(dict.fromkeys([stop_id, *([eos] if eos is not None else []), *map(int, end_ids), *known]))


def name_of(tokenizer: Any) -> str:
    return str(getattr(tokenizer, "name_or_path", "") or "tokenizer")

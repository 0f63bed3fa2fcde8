"""What a server replies, read strictly: a reply that is not whole is malformed, never half used.

The wire format is that of the OpenAI API (chat completions, completions) with two fields of vLLM: `token_ids` of a choice
and `prompt_token_ids` (at the root of a chat reply, in the choice of a completion).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

WITHHELD = ("content_filter", "refusal")  # finish reasons of a response that a filter or the model itself kept back


class Malformed(Exception):
    """The reply is not what the protocol says."""


class Withheld(Exception):
    """The server says why there is no text; asking again would change nothing."""


@dataclass(frozen=True)
class Reply:
    """One response.

    ids, log_probs   of the generated tokens, the stop token included; () where the server tells none
    prompt_ids       what the model read; () where the server does not tell
    read, generated  tokens as the server counted them
    refused          whether the server calls the text a refusal
    """

    text: str
    finish: Literal["stop", "length"]
    ids: tuple[int, ...] = ()
    log_probs: tuple[float, ...] = ()
    prompt_ids: tuple[int, ...] = ()
    read: int = 0
    generated: int = 0
    refused: bool = False


def read_chat(content: Any) -> Reply:
    """The reply to a chat completion of one choice. Raises `Malformed` or `Withheld`."""
    root, choice = _one_choice(content)
    message = choice.get("message")
    if not isinstance(message, Mapping):
        raise Malformed("the choice has no message")
    if isinstance(message.get("refusal"), str) and not message.get("content"):
        # a refusal is an answer: evaluation judges it
        return replace(_reply(root, choice, message["refusal"], (), root), refused=True)
    entries = (choice.get("logprobs") or {}).get("content") or ()
    if not _is_list(entries) or not all(isinstance(e, Mapping) for e in entries):
        raise Malformed("logprobs.content is not a list of tokens")
    return _reply(root, choice, message.get("content"), [e.get("logprob") for e in entries], root)


def read_completion(content: Any) -> Reply:
    """The reply to a text completion of one choice. Raises `Malformed` or `Withheld`."""
    root, choice = _one_choice(content)
    log_probs = (choice.get("logprobs") or {}).get("token_logprobs") or ()
    if not _is_list(log_probs):
        raise Malformed("token_logprobs is not a list")
    return _reply(root, choice, choice.get("text"), log_probs, choice)


def _one_choice(content: Any) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    if not isinstance(content, Mapping):
        raise Malformed("the reply is not a JSON object")
    choices: Any = content.get("choices")
    if not _is_list(choices) or len(choices) != 1 or not isinstance(choices[0], Mapping):
        raise Malformed("the reply does not hold exactly one choice")
    if not isinstance(choices[0].get("logprobs") or {}, Mapping):
        raise Malformed("logprobs is not an object")
    return content, choices[0]


def _reply(
    root: Mapping[str, Any], choice: Mapping[str, Any], text: Any, log_probs: Sequence[Any], prompt: Mapping[str, Any]
) -> Reply:
    finish = choice.get("finish_reason")
    if finish in WITHHELD:
        raise Withheld(f"the server withheld the response ({finish})")
    if finish not in ("stop", "length"):
        raise Malformed(f"finish_reason is {str(finish)[:40]!r}")
    if not isinstance(text, str):
        raise Malformed("the choice has no text")
    if not all(_is_number(x) and x <= 0 for x in log_probs):
        raise Malformed("a log-prob is not a number at most 0")
    ids = _ids(choice.get("token_ids"), "token_ids")
    if ids and log_probs and len(ids) != len(log_probs):
        raise Malformed(f"{len(log_probs)} log-probs for {len(ids)} tokens")
    usage = root.get("usage")
    usage = usage if isinstance(usage, Mapping) else {}
    prompt_ids = _ids(prompt.get("prompt_token_ids"), "prompt_token_ids")
    return Reply(
        text, finish, ids, tuple(float(x) for x in log_probs), prompt_ids,
        read=_count(usage.get("prompt_tokens"), len(prompt_ids)),
        generated=_count(usage.get("completion_tokens"), len(ids) or len(log_probs)),
    )  # fmt: skip


def _ids(value: Any, name: str) -> tuple[int, ...]:
    if value is None:
        return ()
    if not _is_list(value) or not all(isinstance(i, int) and not isinstance(i, bool) and i >= 0 for i in value):
        raise Malformed(f"{name} is not a list of token ids")
    return tuple(value)


def _count(value: Any, otherwise: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else otherwise


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)

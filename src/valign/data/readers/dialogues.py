"""Conversations of many turns: message lists, ShareGPT, UltraChat, Baize self-chat.

The last assistant turn is the demonstration, everything before it the prompt. Turns out of order are flagged
and kept as they are; a conversation whose `consent` field says no is left out and listed.
"""

from __future__ import annotations

import re
from itertools import cycle

from valign.data.group import Demonstration, Group, Message, Prompt
from valign.data.readers.reader import (
    Drop,
    Fields,
    Log,
    Reader,
    Row,
    bool_of,
    having,
    id_of,
    list_of,
    mostly,
    rest_of,
    row_wise,
    text_of,
)
from valign.data.readers.turns import alternation_fault, is_messages, message_of, messages_of, parted

NO_ANSWER = "the conversation ends without an answer; kept as a prompt"
_SELF_CHAT = re.compile(r"\[\|(Human|AI)\|\]")


def read_messages(row: Row, log: Log) -> Group:
    """A conversation: the last assistant turn is the demonstration, everything before it the prompt."""
    return _group(row, log, "messages", messages_of(row.fields.get("messages"), "messages"))


def read_sharegpt(row: Row, log: Log) -> Group:
    """{"conversations": [{"from", "value"}]}: as `read_messages`."""
    value = row.fields.get("conversations")
    if not isinstance(value, list) or not value:
        raise Drop("conversations", "holds no turn" if value == [] else "is not a list of turns")
    turns = tuple(message_of(m, f"conversations[{i}]") for i, m in enumerate(value))
    system = row.fields.get("system")
    if isinstance(system, str) and system and turns[0].role != "system":
        turns = (Message("system", system), *turns)
    return _group(row, log, "conversations", turns)


def read_ultrachat(row: Row, log: Log) -> Group:
    """{"data": [text, text, ...]}: user and assistant by turns, the user first."""
    said = list_of(row.fields, "data", str)
    if not said:
        raise Drop("data", "holds no turn")
    turns = tuple(Message(role, text) for role, text in zip(cycle(("user", "assistant")), said))  # type: ignore[arg-type]
    return _group(row, log, "data", turns)


def read_baize(row: Row, log: Log) -> Group:
    """{"input": "... [|Human|] text [|AI|] text [|Human|]"}: an open last human turn is no turn.

    The sentence before the first marker, which set the scene for the model's self-chat, is kept in the meta
    data.
    """
    head, *parts = _SELF_CHAT.split(text_of(row.fields, "input"))
    pairs = [(who, said.strip()) for who, said in zip(parts[::2], parts[1::2])]
    if pairs and not pairs[-1][1]:
        pairs.pop()
    if not pairs:
        raise Drop("input", "holds no [|Human|] turn")
    turns = tuple(Message("user" if who == "Human" else "assistant", said) for who, said in pairs)
    return _group(row, log, "input", turns, head.strip())


def _group(row: Row, log: Log, field: str, turns: Prompt, preamble: str = "") -> Group:
    f = row.fields
    if f.get("consent") is not None and not bool_of(f, "consent"):
        raise Drop("consent", "the people in it did not agree to its use")
    if fault := alternation_fault(turns):
        log.flag(row.line, field, fault)
    prompt, responses = parted(turns, field)
    if not responses:
        log.flag(row.line, field, NO_ANSWER)
    split = f.get("split")
    return Group(
        id=id_of(f, row, "id", "prompt_id", "uid"),
        prompt=prompt,
        responses=responses,
        feedback=tuple(Demonstration(response=i) for i in range(len(responses))),
        split=split if isinstance(split, str) else "",
        meta={
            **rest_of(f, field, "system", "split", "id", "prompt_id", "uid"),
            **({"preamble": preamble} if preamble else {}),
        },
    )


def _is_baize(f: Fields) -> bool:
    return isinstance(f.get("input"), str) and "[|Human|]" in f["input"] and "[|AI|]" in f["input"]


def _is_ultrachat(f: Fields) -> bool:
    said = f.get("data")
    return isinstance(said, list) and len(said) >= 1 and all(isinstance(x, str) for x in said)


READERS = (
    Reader(
        "messages",
        "conversations of role and content turns",
        "messages",
        mostly(lambda f: is_messages(f.get("messages")) and not having("chosen", "rejected")(f)),
        row_wise(read_messages),
    ),
    Reader(
        "sharegpt",
        "conversations of from and value turns",
        "conversations",
        mostly(lambda f: isinstance(f.get("conversations"), list) and f.get("chosen") is None),
        row_wise(read_sharegpt),
    ),
    Reader(
        "ultrachat",
        "UltraChat: a list of texts, user and assistant by turns",
        "id, data [text, ...]",
        mostly(_is_ultrachat),
        row_wise(read_ultrachat),
        "MIT (thunlp/UltraChat)",
    ),
    Reader(
        "baize",
        "Baize: self-chat transcripts with [|Human|] and [|AI|] markers",
        "topic, input",
        mostly(_is_baize),
        row_wise(read_baize),
    ),
)

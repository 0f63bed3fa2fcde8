"""Chat turns in the shapes that data sets use, as prompts: message lists, ShareGPT turns, dialogue
transcripts.

Always true here: roles and order stay as they were; nothing is merged, reordered or invented.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from valign.data.group import Message, Prompt, Response, Role, text, user
from valign.data.readers.reader import Drop

# Names of speakers in published data sets: OpenAI messages, ShareGPT, OpenAssistant, HH-RLHF, FULCRA.
ROLE_OF: dict[str, Role] = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bot", "bing", "bard", "model", "bob"), "assistant"),
    **dict.fromkeys(("function_call",), "assistant"),
    **dict.fromkeys(("tool", "function", "observation", "function_response", "ipython"), "tool"),
}
HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"
_SPEAKER = re.compile(r"\n\n(Human|Assistant):")


def message_of(value: Any, field: str) -> Message:
    """One turn given as {"role", "content"} or {"from", "value"}. Raises `Drop`."""
    if not isinstance(value, dict):
        raise Drop(field, f"is {type(value).__name__}, not a turn")
    name = value.get("role", value.get("from"))
    role = ROLE_OF.get(str(name).lower())
    if role is None:
        raise Drop(f"{field}.role", f"unknown role {name!r}")
    content = value.get("content", value.get("value"))
    if isinstance(content, list):  # parts: {"type": "text", "text": ...}
        if other := [p for p in content if not isinstance(p, dict) or not isinstance(p.get("text"), str)]:
            raise Drop(f"{field}.content", f"holds a part that is not text: {str(other[0])[:40]}")
        content = "".join(p["text"] for p in content)
    if not isinstance(content, str):
        raise Drop(
            f"{field}.content", "is missing" if content is None else f"is {type(content).__name__}, not text"
        )
    return Message(role, content)


def messages_of(value: Any, field: str) -> Prompt:
    """A list of turns. Raises `Drop` for an empty list."""
    if not isinstance(value, list):
        raise Drop(
            field, "is missing" if value is None else f"is {type(value).__name__}, not a list of turns"
        )
    if not value:
        raise Drop(field, "holds no turn")
    return tuple(message_of(m, f"{field}[{i}]") for i, m in enumerate(value))


def is_messages(value: Any) -> bool:
    """Is this a list of {"role", "content"} turns?"""
    return isinstance(value, list) and bool(value) and all(isinstance(m, dict) and "role" in m for m in value)


def transcript(raw: str) -> Prompt:
    """Turns of a text with "\\n\\nHuman:" and "\\n\\nAssistant:" markers; text before the first marker is a
    system
    turn. One trailing, open "\\n\\nAssistant:" is no turn.
    """
    parts = _SPEAKER.split("\n\n" + raw.lstrip())
    head = parts[0].strip()
    turns = [Message("system", head)] if head else []
    for who, said in zip(parts[1::2], parts[2::2]):
        turns.append(Message("user" if who == "Human" else "assistant", said.strip()))
    if turns and turns[-1] == Message("assistant", ""):
        turns.pop()
    return tuple(turns)


def plain_prompt(raw: str, answers: Sequence[str], system: Any = None) -> Prompt:
    """A prompt given as text: a transcript if it has its markers; raw text if every answer continues it
    (begins with
    a blank); else one user turn.
    """
    if HUMAN in raw and raw.rstrip().endswith(ASSISTANT.strip()):
        return transcript(raw)
    if answers and all(a[:1].isspace() for a in answers):
        return text(raw)
    return user(raw, system=system if isinstance(system, str) and system else None)


def parted(turns: Prompt, field: str) -> tuple[Prompt, tuple[Response, ...]]:
    """(prompt, responses): a last assistant turn is the response; without one all turns are the prompt."""
    if turns[-1].role != "assistant":
        return turns, ()
    if len(turns) == 1:
        raise Drop(field, "holds an answer without a prompt")
    return turns[:-1], (Response(turns[-1].content),)


def alternation_fault(turns: Prompt) -> str:
    """What breaks the order system?, user, assistant, user, ...; "" if nothing does. Tool turns may stand
    between.
    """
    talk = [m.role for m in turns if m.role != "tool"]
    if "system" in talk[1:]:
        return "a system turn is not the first"
    talk = [r for r in talk if r != "system"]
    if talk and talk[0] != "user":
        return "the first turn is not the user's"
    between_tools = any(m.role == "tool" for m in turns)
    if any(a == b and not (between_tools and a == "assistant") for a, b in pairwise(talk)):
        return "two turns of one speaker follow each other"
    return ""

"""What a run prints about a chat template before step 0: one line per check, with the text that shows it.

Always true here: nothing is repaired and nothing is raised; `ok` is False for what makes training or
comparison wrong, and True with a remark for what a reader should know.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from valign.data.group import Message, Response, user
from valign.errors import DataError
from valign.models.tokens import GENERATION_MARK, PROBE

if TYPE_CHECKING:
    from valign.models.chat import ChatTemplate, Check

QUESTION = user("Why?")
ANSWER = "Because 12 of 3 say so."


def audit(template: ChatTemplate) -> list[Check]:
    """(name, ok, text) of every check."""
    checks = (
        form,
        start_token,
        stop_token,
        stop_is_trained,
        ends_of_generation,
        round_trip,
        keeps_text,
        turns,
        system,
    )
    return [(check.__name__.replace("_", " "), *check(template)) for check in (*checks, dates, padding)]


def form(t: ChatTemplate) -> tuple[bool, str]:
    """Whose template it is."""
    if t.is_fallback:
        return True, "the model has no chat template: plain turns 'User:' and 'Assistant:' are used"
    marks = ", marks what the assistant wrote" if GENERATION_MARK.search(t.source) else ""
    return True, f"the model's own{marks}"


def start_token(t: ChatTemplate) -> tuple[bool, str]:
    """Exactly one start token, or none where the tokenizer has no use for one."""
    ids = t.prompt_ids(QUESTION)
    bos = t.tokenizer.bos_token_id
    count = next((i for i, x in enumerate(ids) if x != bos), len(ids))
    head = t.tokenizer.convert_ids_to_tokens(ids[:1])[0]
    if not t.start:
        return count <= 1, f"chats open with {head!r}, as the template writes it"
    return count <= 1, f"chats open with {head!r}, put there since the template does not write it"


def stop_token(t: ChatTemplate) -> tuple[bool, str]:
    """The template ends an assistant turn with a token of its own."""
    name = _token(t, t.stop_id)
    rendered = t.rendered((*QUESTION, Message("assistant", PROBE)))
    tail = rendered.rpartition(PROBE)[2]
    if name in tail:
        return True, f"a turn ends with {name!r} ({t.stop_id})"
    return t.is_fallback, f"the template ends a turn with {tail!r}; {name!r} ({t.stop_id}) is used"


def stop_is_trained(t: ChatTemplate) -> tuple[bool, str]:
    """The stop token carries loss in a conversation, as it does after a response."""
    ids, mask = t.encode_chat((*QUESTION, Message("assistant", ANSWER)))
    ok = ids[-1] in t.stop_ids and mask[-1] == 1
    return ok, f"last trained token is {_token(t, ids[-1])!r}"


def ends_of_generation(t: ChatTemplate) -> tuple[bool, str]:
    """Every token at which generation stops."""
    return True, ", ".join(repr(_token(t, i)) for i in t.stop_ids)


def round_trip(t: ChatTemplate) -> tuple[bool, str]:
    """Prompt + response + stop token are the tokens of the rendered conversation."""
    path = t.encode(QUESTION, Response(ANSWER)).ids
    chat, _ = t.encode_chat((*QUESTION, Message("assistant", ANSWER)))
    if path == chat:
        return True, "prompt + response + stop token = the rendered conversation"
    ours, theirs = (t.tokenizer.decode(ids, skip_special_tokens=False) for ids in (path, chat))
    if "".join(ours.split()) == "".join(theirs.split()):
        return (
            True,
            "the rendered conversation differs from prompt + response + stop token in white space only",
        )
    return False, f"a rendered conversation is {theirs!r}, prompt + response + stop token are {ours!r}"


def keeps_text(t: ChatTemplate) -> tuple[bool, str]:
    """The template renders an answer as it is."""
    spaced = f" {PROBE} \n"
    kept = spaced in t.rendered((*QUESTION, Message("assistant", spaced)))
    return (
        True,
        "answers are rendered as they are"
        if kept
        else "answers are stripped of white space in conversations",
    )


def turns(t: ChatTemplate) -> tuple[bool, str]:
    """Earlier turns stay as they were when a conversation goes on."""
    talk = (
        *QUESTION,
        Message("assistant", f"<think>a</think>{ANSWER}"),
        *user("And?"),
        Message("assistant", ANSWER),
    )
    try:
        paths = t.chat_paths(talk, "all")
    except DataError as error:
        return True, f"single turns only: {error.what}"
    if len(paths) == 1:
        return True, "earlier turns stay as they are: one path trains all turns"
    return True, "earlier turns are rewritten: each trained turn becomes its own path"


def system(t: ChatTemplate) -> tuple[bool, str]:
    """System turns are taken, and what stands in place of a missing one."""
    if not t.has_system:
        return True, "no system turn: a prompt with one is refused"
    default = t.prompt_text(QUESTION).partition(QUESTION[0].content)[0]
    return True, f"system turns are taken; without one a chat opens with {default!r}"


def dates(t: ChatTemplate) -> tuple[bool, str]:
    """The template writes today's date."""
    dated = "strftime_now" in t.source
    return True, "the template writes today's date: ids change from day to day" if dated else "no dates"


def padding(t: ChatTemplate) -> tuple[bool, str]:
    """Padding never hides the stop token: masks come from lengths."""
    pad = t.tokenizer.pad_token_id
    same = pad is not None and pad in t.stop_ids
    return (
        True,
        f"pad is {_token(t, pad)!r}, an end token; masks come from lengths"
        if same
        else "pad is no end token",
    )


def _token(t: ChatTemplate, token: int) -> str:
    return str(t.tokenizer.convert_ids_to_tokens(token))

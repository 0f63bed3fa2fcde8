"""The dataset types of TRL, standard (text) and conversational (turns): preference, unpaired, prompt with
completion, prompt only, text, messages; ShareGPT conversations; and the same columns under their common other
names.
"""

from __future__ import annotations

from typing import Any

from valign.data.group import (
    Comparison,
    Demonstration,
    Feedback,
    Group,
    Prompt,
    Response,
    Score,
    Verdict,
    text,
)
from valign.data.readers.hh import EMPTY, IDENTICAL, shared_start
from valign.data.readers.reader import (
    Drop,
    Fields,
    Log,
    Reader,
    Row,
    bool_of,
    having,
    id_of,
    mostly,
    number_of,
    rest_of,
    row_wise,
    text_of,
)
from valign.data.readers.turns import (
    HUMAN,
    is_messages,
    messages_of,
    plain_prompt,
)

IDS = ("id", "prompt_id", "uid")
ANSWER = ("completion", "response")


def read_preference(row: Row, log: Log) -> Group:
    """chosen and rejected, with a prompt or with their common beginning as the prompt."""
    f = row.fields
    prompt, answers = _pair(f)
    for name, answer in zip(("chosen", "rejected"), answers):
        if not answer.strip():
            log.flag(row.line, name, EMPTY)
    if answers[0].strip() == answers[1].strip():
        log.flag(row.line, "rejected", IDENTICAL)
    feedback: list[Feedback] = [Comparison(chosen=0, rejected=1, strength=number_of(f.get("margin")))]
    for i, name in enumerate(("score_chosen", "score_rejected")):
        if (value := number_of(f.get(name))) is not None:
            feedback.append(Score(response=i, value=value))
    used = (
        "prompt",
        "chosen",
        "rejected",
        "margin",
        "score_chosen",
        "score_rejected",
        "system",
        "split",
        *IDS,
    )
    return _group(row, prompt, answers, feedback, used)


def _pair(f: Fields) -> tuple[Prompt, tuple[str, str]]:
    """(prompt, (chosen, rejected)) of a row in any of the forms that TRL takes."""
    sides = [f.get("chosen"), f.get("rejected")]
    if any(isinstance(s, list) for s in sides):
        turns = [messages_of(s, name) for s, name in zip(sides, ("chosen", "rejected"))]
        prompt = _prompt(f["prompt"], [], f) if f.get("prompt") is not None else ()
        n = _shared(turns[0], turns[1])
        if prompt and turns[0][:n][-len(prompt) :] != prompt and n:
            raise Drop("chosen", "begins with turns other than the prompt")
        prompt = turns[0][:n] or prompt  # the shared turns repeat the prompt, perhaps after a system turn
        tails = [t[n:] for t in turns]
        for tail, name in zip(tails, ("chosen", "rejected")):
            if len(tail) != 1 or tail[0].role != "assistant":
                raise Drop(
                    name, f"must end in one assistant turn of its own, has {len(tail)} turns after the prompt"
                )
        if not prompt:
            raise Drop("prompt", "is missing, and chosen and rejected share no turn")
        return prompt, (tails[0][0].content, tails[1][0].content)
    chosen, rejected = text_of(f, "chosen"), text_of(f, "rejected")
    if f.get("prompt") is not None:
        return _prompt(f["prompt"], [chosen, rejected], f), (chosen, rejected)
    common = shared_start(chosen, rejected)
    cut = len(common.rstrip()) if common[-1:].isspace() else common.rfind(" ")
    if cut <= 0:
        raise Drop("prompt", "is missing, and chosen and rejected share no beginning")
    return text(common[:cut]), (chosen[cut:], rejected[cut:])


def _shared(a: Prompt, b: Prompt) -> int:
    """Number of turns that both begin with; the last turn of each is its answer, even where the answers
    agree.
    """
    n = 0
    while n < min(len(a), len(b)) - 1 and a[n] == b[n]:
        n += 1
    return n


def _prompt(value: Any, answers: list[str], f: Fields) -> Prompt:
    if isinstance(value, list):
        return messages_of(value, "prompt")
    if isinstance(value, dict):  # {"instruction", "input"} and the like: not a shape that TRL takes
        raise Drop("prompt", "is an object, neither text nor a list of turns")
    if not isinstance(value, str):
        raise Drop("prompt", "is missing" if value is None else f"is {type(value).__name__}, not text")
    return plain_prompt(value, answers, f.get("system"))


def _answer(f: Fields) -> str:
    """The completion: text, or a list of one assistant turn."""
    name = next((n for n in ANSWER if f.get(n) is not None), ANSWER[0])
    if not isinstance(f.get(name), list):
        return text_of(f, name)
    turns = messages_of(f[name], name)
    if len(turns) != 1 or turns[0].role != "assistant":
        raise Drop(name, f"must be one assistant turn, has {len(turns)}")
    return turns[0].content


def _group(row: Row, prompt: Prompt, answers: Any, feedback: list[Feedback], used: tuple[str, ...]) -> Group:
    split = row.fields.get("split")
    return Group(
        id=id_of(row.fields, row, *IDS),
        prompt=prompt,
        responses=tuple(Response(a) for a in answers),
        feedback=tuple(feedback),
        split=split if isinstance(split, str) else "",
        meta=rest_of(row.fields, *used),
    )


def read_unpaired(row: Row, log: Log) -> Group:
    """prompt, completion and a yes/no label: a thumb, kept as a verdict on principle "good"."""
    answer = _answer(row.fields)
    verdict = Verdict(response=0, principle="good", value=1.0 if bool_of(row.fields, "label") else -1.0)
    prompt = _prompt(row.fields.get("prompt"), [answer], row.fields)
    return _group(row, prompt, [answer], [verdict], ("prompt", *ANSWER, "label", "system", "split", *IDS))


def read_completion(row: Row, log: Log) -> Group:
    """prompt and completion: a demonstration."""
    answer = _answer(row.fields)
    if not answer.strip():
        log.flag(row.line, "completion", EMPTY)
    prompt = _prompt(row.fields.get("prompt"), [answer], row.fields)
    return _group(
        row, prompt, [answer], [Demonstration(response=0)], ("prompt", *ANSWER, "system", "split", *IDS)
    )


def read_prompt(row: Row, log: Log) -> Group:
    """A prompt without answers, for methods that sample their own."""
    prompt = _prompt(row.fields.get("prompt"), [], row.fields)
    return _group(row, prompt, [], [], ("prompt", "system", "split", *IDS))


def read_text(row: Row, log: Log) -> Group:
    """Raw text to continue training on: an empty raw prompt and the text as a demonstration."""
    return _group(
        row, text(""), [text_of(row.fields, "text")], [Demonstration(response=0)], ("text", "split", *IDS)
    )


def _is_preference(f: Fields) -> bool:
    """Turns or text, except transcripts without a prompt, which are HH-RLHF."""
    if f.get("chosen") is None or f.get("rejected") is None:
        return False
    transcript = (
        f.get("prompt") is None and isinstance(f["chosen"], str) and HUMAN in "\n\n" + f["chosen"].lstrip()
    )
    return not transcript


_PAIRED = ("chosen", "rejected")
_ANSWERED = ("completions", "responses", "response_0", "messages", "conversations")
_OTHER = (*_PAIRED, *ANSWER, *_ANSWERED, "domain_en", "kind", "instruction")


def _is_completion(f: Fields) -> bool:
    taken = (*_PAIRED, "completions", "responses", "messages", "conversations", "helpfulness", "topic")
    return having("prompt", without=taken)(f) and any(isinstance(f.get(n), (str, list)) for n in ANSWER)


def _is_prompt(f: Fields) -> bool:
    """Text or turns; [role, text] pairs are valign's own groups, an object is a message tree."""
    return isinstance(f["prompt"], str) or is_messages(f["prompt"])


READERS = (
    Reader(
        "preference",
        "pairs, as TRL takes them: text or turns, the prompt given or the common beginning",
        "prompt (optional), chosen, rejected; score_chosen, score_rejected, margin, system",
        mostly(_is_preference),
        row_wise(read_preference),
    ),
    Reader(
        "unpaired",
        "answers with a thumb up or down, as TRL takes them",
        "prompt, completion or response, label",
        mostly(lambda f: _is_completion(f) and f.get("label") is not None),
        row_wise(read_unpaired),
    ),
    Reader(
        "prompt_completion",
        "demonstrations, as TRL takes them",
        "prompt, completion or response",
        mostly(lambda f: _is_completion(f) and f.get("label") is None),
        row_wise(read_completion),
    ),
    Reader(
        "prompt",
        "prompts without answers, as TRL takes them",
        "prompt",
        mostly(lambda f: having("prompt", without=_OTHER)(f) and _is_prompt(f)),
        row_wise(read_prompt),
    ),
    Reader(
        "text",
        "raw text to continue training on",
        "text",
        mostly(
            having(
                "text", without=("message_id", "prompt", "instruction", "messages", "conversations", *_PAIRED)
            )
        ),
        row_wise(read_text),
    ),
)

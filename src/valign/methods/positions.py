"""Whether prompts and their answers fit into a model's positions, said before anything is computed.

What a method puts in front of a prompt counts, and what it lets the model think before it answers.
"""

from __future__ import annotations

from collections.abc import Sequence

from valign.data.group import Prompt
from valign.errors import UsageError
from valign.methods.wrapped import ContextPolicy, Wrapped
from valign.models.loaded import LoadedModel
from valign.models.policy import LocalPolicy, Policy

ROOM = ("lower max_new_tokens, or shorten the prompts", "or use a model with more positions")


def require_room(
    model: LoadedModel, prompts: Sequence[Prompt], new_tokens: int, *, what: str, where: str, how: Sequence[str] = ROOM
) -> None:
    """Raise `UsageError` where a prompt and `new_tokens` more are longer than the model's positions.

    what   who would read the prompts, as the sentence begins: "urial"
    """
    if not prompts or model.max_positions is None:
        return
    sizes = [len(ids) for ids in model.template.prompt_ids_many(list(dict.fromkeys(prompts)))]
    longest, most = max(sizes), model.max_positions
    if longest + new_tokens <= most:
        return
    beyond = sum(n + new_tokens > most for n in sizes)
    raise UsageError(
        f"{what} needs {longest + new_tokens} positions ({longest} of the longest prompt as it is read, {new_tokens} for what "
        f"comes after it), and {model.id} has {most}: {beyond} of {len(sizes)} prompts do not fit",
        where=where, how=how,
    )  # fmt: skip


def require_room_for(policy: Policy, prompts: Sequence[Prompt], new_tokens: int, *, what: str, where: str) -> None:
    """`require_room` of the prompts as `policy` hands them to the model it stands on. An endpoint's positions are not known."""
    shorter: list[str] = []
    while isinstance(policy, Wrapped):
        if isinstance(policy, ContextPolicy):
            prompts, more = policy.foreseen(prompts)
            new_tokens += more
            shorter += [policy.shorter] * bool(policy.shorter)
        policy = policy.base
    if isinstance(policy, LocalPolicy):
        require_room(policy.model, prompts, new_tokens, what=what, where=where, how=[*shorter, *ROOM])
